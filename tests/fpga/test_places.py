"""Sites of block RAMs and multipliers: one each, the chip's neighbours side by side."""

import json
from pathlib import Path

import pytest

from waterclock.fpga.devices import SITES, Site
from waterclock.fpga.places import BEL, places, put_places
from waterclock.isa.config import load_config

DEVICE, NANO = "lfe5u-85f", load_config("nano")


def _cells() -> dict[str, dict[str, object]]:
    """Return the block RAMs and multipliers of nano, named as synthesis names them."""
    names = {
        "DP16KD": [
            *(
                f"chip.mem_{side}0_0.slice_{number}.banks.memory.parts.{part}.words.0.{i}"
                for side in "ew"
                for number in range(4)
                for part, count in (("low", 16), ("rest", 4))
                for i in range(count)
            ),
            *(f"chip.vxm_alu{alu}.memory.memory.words.0.{i}" for alu in range(2) for i in range(6)),
            *(
                f"chip.mem_{side}0_read.memory.memory.words.0.{i}"
                for side in "ew"
                for i in range(4)
            ),
            *(f"chip.vxm_0.alu1_ms_rom.memory.{i}.{j}" for i in range(4) for j in range(3)),
            "link.words.0.0",
        ],
        "MULT18X18D": [
            *(f"chip.mxm_{side}0.core.tile_0_0.$x_{i}" for side in "ew" for i in range(64)),
            *(f"chip.vxm_0.alu1_ms_{i}.$x" for i in range(4)),
        ],
    }
    return {
        name: {"type": kind, "connections": {"DIA0": [len(name)]}, "attributes": {}}
        for kind, found in names.items()
        for name in found
    }


@pytest.fixture(scope="module")
def found() -> dict[str, Site]:
    return places(_cells(), DEVICE, NANO)


def _sites(found: dict[str, Site], part: str) -> list[Site]:
    return [site for name, site in found.items() if part in name]


def test_every_cell_has_a_site_of_its_own_kind(found: dict[str, Site]):
    cells = _cells()
    assert found.keys() == cells.keys()
    assert len(set(found.values())) == len(found)
    for name, site in found.items():
        assert any(site in row for row in SITES[DEVICE][str(cells[name]["type"])])


def test_what_belongs_together_is_in_one_row(found: dict[str, Site]):
    for part in ("vxm_alu0.", "mem_w0_read."):
        assert len({site.y for site in _sites(found, part)}) == 1
    for column in range(NANO.vector):
        first = column * NANO.vector
        products = range(first, first + NANO.vector)
        rows = {found[f"chip.mxm_e0.core.tile_0_0.$x_{i}"].y for i in products}
        assert len(rows) == 1


def test_a_lane_is_in_one_row_from_side_to_side(found: dict[str, Site]):
    heights = []
    for unit in range(4):  # lanes 2 unit and 2 unit + 1, whose 4 bits are a block RAM
        parts = [
            f"low.words.0.{2 * lane + half}" for lane in (2 * unit, 2 * unit + 1) for half in (0, 1)
        ]
        parts.append(f"rest.words.0.{unit}")
        rows = {
            found[f"chip.mem_{side}0_0.slice_{number}.banks.memory.parts.{part}"].y
            for side in "ew"
            for number in range(4)
            for part in parts
        }
        assert len(rows) == 1
        heights.append(rows.pop())
    assert heights == sorted(set(heights))


def test_west_is_on_the_left_and_the_vxm_in_the_middle(found: dict[str, Site]):
    for left, right in (("mem_w0_0", "vxm_alu"), ("vxm_alu", "mem_e0_0")):
        assert max(s.x for s in _sites(found, left)) < min(s.x for s in _sites(found, right))
    west, vxm, east = (
        sum(site.x for site in _sites(found, part)) / len(_sites(found, part))
        for part in ("mxm_w", "alu1_ms_", "mxm_e")
    )
    assert west < vxm < east


def test_groups_that_no_row_has_room_for_are_placed_all_the_same():
    cells = {
        f"chip.mem_w0_0.slice_0.banks.memory.words.0.{i}": {
            "type": "DP16KD",
            "connections": {},
            "attributes": {},
        }
        for i in range(60)
    }
    assert len(set(places(cells, DEVICE, NANO).values())) == 60
    assert places(cells, "another", NANO) == {}


def test_sites_are_written_into_the_netlist(tmp_path: Path):
    path = tmp_path / "netlist.json"
    path.write_text(json.dumps({"modules": {"top": {"cells": _cells()}}}))
    put_places(path, DEVICE, NANO)
    cells = json.loads(path.read_text())["modules"]["top"]["cells"]
    bels = [cell["attributes"][BEL] for cell in cells.values()]
    assert len(set(bels)) == len(bels)
    assert "X4/Y22/EBR0" in bels

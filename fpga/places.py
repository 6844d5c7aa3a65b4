"""Where block RAMs and multipliers go: on the device as on the chip's floor plan.

There are few sites for them, in rows far apart. A placer that starts from wire lengths pulls a
chip into the middle, and these cells then land anywhere: the nets of nano's multipliers were 49
tiles long on average. So they get their sites here, the west of the chip on the left, the VXM in
the middle, and each lane from one side to the other in one row: its bytes of all MEM slices, the
multipliers of its MXM column, its unit of the VXM. All else finds its place between them.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from waterclock.fpga.devices import SITES, Site
from waterclock.fpga.top import CHIP
from waterclock.isa.config import Config

BEL = "BEL"  #: attribute by which nextpnr knows a cell's site
MIDDLE = 0.5  #: of the device's width
#: Where what has a hemisphere goes in the west, as a share of the width; the east is its mirror.
WEST = (
    (r"mem_[ew]\d+_\d+\.slice_", 0.0),
    (r"mxm_[ew]\d+\.", 0.0),
    (r"mxm_[ew]\d+_", 0.4),  # queues
    (r"mem_[ew]\d+_", 0.45),
)
#: What belongs together, besides being of one lane.
UNITS = r"mem_\w+(?=\.slice_)|mxm_\w+\.core\.tile_\w+|\w+\.memory\.memory|vxm_\d+\.\w+_(?:rom|\d+)"
ROW = 400.0  #: tiles of way to the side that are as bad as the next row


@dataclasses.dataclass(frozen=True)
class _Group:
    """Cells that want neighbouring sites."""

    cells: tuple[str, ...]
    share: float  #: of the width, where its middle goes
    height: float = MIDDLE  #: the same of the height


def _share(cell: str) -> float:
    """Return where a cell goes, as a share of the device's width."""
    name = cell.removeprefix(f"{CHIP}.")
    for pattern, share in WEST:
        if re.match(pattern, name):
            return share if re.match(r"[a-z]+_w", name) else 1 - share
    return MIDDLE


def _natural(name: str) -> list[tuple[int, str]]:
    """Return what sorts numbers in names by value."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _groups(cells: Mapping[str, Any], kind: str, rows: int, config: Config) -> Iterator[_Group]:
    """Go through the groups of a kind of cell, which has so many rows, the largest first.

    The block RAMs of lanes whose bytes fill a row are one, slice by slice; so are the multipliers
    whose products are added up.
    """
    names = sorted((n for n, cell in cells.items() if cell["type"] == kind), key=_natural)
    parts = Counter(name.rpartition(".")[0] for name in names)
    lanes, share = config.lanes, config.lanes // rows or 1
    found: dict[tuple[str, int], list[str]] = {}
    heights: dict[tuple[str, int], float] = {}
    seen: Counter[str] = Counter()
    for name in names:
        match = re.match(rf"{CHIP}\.({UNITS})\.", name)
        what = match[1] if match else name
        number, height = 0, MIDDLE
        if ".tile_" in what:
            number = seen[what] // config.vector
            height = (number % lanes + 0.5) / lanes
            seen[what] += 1
        elif what.startswith("mem") and not what.endswith(".memory"):
            memory, _, part = name.rpartition(".")
            number = int(part) * lanes // parts[memory] // share
            height = (number + 0.5) * share / lanes
        elif unit := re.fullmatch(r"vxm_\d+\.\w+_(\d+)", what):
            height = (int(unit[1]) + 0.5) * config.turns / lanes
        found.setdefault((what, number), []).append(name)
        heights[what, number] = height
    for group, members in sorted(found.items(), key=lambda item: -len(item[1])):
        yield _Group(tuple(members), _share(members[0]), heights[group])


_Run = tuple[int, int, int]  #: row, first site and one behind the last


def _run(free: list[list[Site]], group: _Group, right: int) -> _Run | None:
    """Return the run of free sites that suits a group best, None if there is none."""
    size = len(group.cells)

    def cost(run: _Run) -> float:
        sites = free[run[0]][run[1] : run[2]]
        away = abs(sum(site.x for site in sites) / size - group.share * right)
        away += ROW * abs(run[0] + 0.5 - group.height * len(free))
        # A run with others between its sites is none.
        return away + sites[-1].x - sites[0].x

    runs = [
        (number, start, start + size)
        for number, row in enumerate(free)
        for start in range(len(row) - size + 1)
    ]
    return min(runs, key=cost, default=None)


def places(cells: Mapping[str, Any], device: str, config: Config) -> dict[str, Site]:
    """Return sites for block RAMs and multipliers, by name of the cell.

    Cells for which a row has no run of free sites left find one each.

    Parameters
    ----------
    cells : mapping
        Of a flat netlist, as yosys writes them.
    device : str
        Of one that is not in ``SITES`` nothing is placed.
    """
    found: dict[str, Site] = {}
    for kind, rows in SITES.get(device, {}).items():
        free = [list(row) for row in rows]
        right = max(site.x for row in rows for site in row)
        for group in _groups(cells, kind, len(rows), config):
            whole = _run(free, group, right) is not None
            alone = (dataclasses.replace(group, cells=(cell,)) for cell in group.cells)
            for part in [group] if whole else alone:
                run = _run(free, part, right)
                assert run is not None, "more cells than sites"
                number, start, end = run
                found |= zip(part.cells, free[number][start:end], strict=True)
                del free[number][start:end]
    return found


def put_places(netlist: Path, device: str, config: Config) -> None:
    """Write the sites of block RAMs and multipliers into a netlist."""
    design = json.loads(netlist.read_text())
    for module in design["modules"].values():
        for cell, site in places(module["cells"], device, config).items():
            module["cells"][cell]["attributes"][BEL] = site.bel
    netlist.write_text(json.dumps(design))

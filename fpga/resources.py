"""What a chip takes of an FPGA, by unit."""

from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path

from waterclock.fpga.devices import Resources
from waterclock.fpga.yosys import synthesise
from waterclock.isa.config import Config
from waterclock.rtl.emit import TOP, chip_verilog

#: Logic cells (four-input LUTs) that one cell of the netlist takes. A carry cell is two adders;
#: 16 words of 4 bits in LUTs take four for the bits and two for the write port [ECP5].
LUTS = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 6}

#: Modules that are counted on their own, by unit of the table.
UNITS = {
    "ICU": "icu_*",
    "MEM": "mem_group*",
    "VXM": "vxm_*",
    "MXM": "mxm_core mxm_feed",
    "SXM": "sxm_*",
    "host port": "host_port signature",
}
REST = "streams, wiring"  #: what is in the top module itself


def resources(
    config: Config, progress: Callable[[str], None] | None = None
) -> dict[str, Resources]:
    """Synthesise a chip for ECP5; return what each unit takes, and ``REST``.

    Raises
    ------
    UserError
        When yosys is not installed.
    """
    files = chip_verilog(config)
    return by_unit(synthesise(files, TOP, kept_parts(files), progress), TOP)


def kept_parts(files: Iterable[str]) -> list[str]:
    """Return the parts, of a chip's files, that stay modules when it is synthesised."""
    return [part for part in (Path(file).stem for file in files) if unit_of(part)]


def unit_of(part: str) -> str | None:
    """Return the unit that a part is counted for; None if it belongs to a larger part."""
    for unit, patterns in UNITS.items():
        if any(fnmatch(part, pattern) for pattern in patterns.split()):
            return unit
    return None


def by_unit(modules: Mapping[str, Mapping[str, int]], top: str) -> dict[str, Resources]:
    """Return what each unit takes, from the cells of every module by type."""
    found = dict.fromkeys([*UNITS, REST], Resources())
    for module, count in modules[top].items():
        if (unit := unit_of(module)) and module in modules:
            found[unit] += _whole(modules, module, count)
    found[REST] += count_cells(modules[top])
    return found


def _whole(modules: Mapping[str, Mapping[str, int]], name: str, times: int) -> Resources:
    """Return what a module takes so many times, with the modules in it."""
    parts = [
        _whole(modules, part, count * times)
        for part, count in modules[name].items()
        if part in modules
    ]
    return sum(parts, count_cells(modules[name], times))


def count_cells(cells: Mapping[str, int], times: int = 1) -> Resources:
    """Return what the cells of a netlist take, by type, so many times."""
    return Resources(
        lut=times * sum(luts * cells.get(cell, 0) for cell, luts in LUTS.items()),
        ff=times * cells.get("TRELLIS_FF", 0),
        dsp=times * cells.get("MULT18X18D", 0),
        bram=times * cells.get("DP16KD", 0),
    )

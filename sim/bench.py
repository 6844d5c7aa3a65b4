"""The cocotb test that runs programs on the whole chip; ``sim/rtl_engine.py`` starts it.

The job comes from a JSON file. Each line of a pipe launches a run, each finished run adds a line to
another file, and the end of the pipe ends the test. The bus model is cocotbext-axi's, and wakes
only between runs: its clock stands still during one.
"""

import json
import os
from pathlib import Path

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, FallingEdge, First, RisingEdge, Timer
from cocotb.utils import get_sim_time
from cocotbext.axi import AxiLiteBus, AxiLiteMaster

from waterclock.isa import host as registers
from waterclock.isa.config import config_from_dict
from waterclock.sim.host import Host

RESET_CYCLES = 8
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
    """Run whatever is launched; the chip must identify itself and end each run in time."""
    folder = Path(os.environ["WATERCLOCK_JOB"])
    job = json.loads((folder / "job.json").read_text())
    config = config_from_dict(job["config"], "job")
    units = job["clock_units"]
    clock = Clock(dut.host_clk, units, "ns")
    clock.start()
    await ClockCycles(dut.host_clk, RESET_CYCLES)
    dut.rst.value = 0
    await ClockCycles(dut.host_clk, RESET_CYCLES)
    bus = _AXI(dut)
    host = Host(config, bus)
    assert await bus.read(registers.MAGIC.offset) == registers.MAGIC.value(config)

    async def ended(cycles: int) -> None:
        """Let the chip clock itself until the run has ended."""
        if not dut.running.value:
            await RisingEdge(dut.running)
        await FallingEdge(dut.host_clk)
        clock.stop()
        end = FallingEdge(dut.running)
        limit = Timer((cycles + SPARE_CYCLES) * units, "ns")
        dut.fast.value = 1
        assert await First(end, limit) is end, f"the run did not end within {cycles} cycles"
        dut.fast.value = 0
        await Timer(units, "ns")
        clock.start()

    with (folder / "launches").open() as launches, (folder / "steps.jsonl").open("w") as steps:
        for step in map(json.loads, launches):
            for unit, row, data in step["rows"]:
                await host.write_row(unit, row, bytes.fromhex(data))
            cycles = await host.run(step["start"], lambda step=step: ended(step["cycles"]))
            # Writes of this run, and none of the next, are in the trace up to here.
            end = int(get_sim_time("ns")) // units
            token = b"".join([await host.read_row(*place, size=1) for place in job["token"]])
            line = {
                "cycles": cycles,
                "signature": await bus.read(registers.SIGNATURE.offset),
                "end": end,
                "token": int.from_bytes(token, "little"),
            }
            steps.write(json.dumps(line) + "\n")
            steps.flush()

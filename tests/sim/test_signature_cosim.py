"""The signature in hardware: MEM tiles of a small chip and what adds up their writes.

Clock cycles and times are as in ``test_mem_cosim``: an instruction set in cycle n is issued in
n + 1, in superlane k in n + 1 + k.
"""

import dataclasses
import os

import cocotb
import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from numpy.typing import NDArray

from waterclock.isa import Config, load_config, mem, signature
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.mem import Scatter
from waterclock.isa.mem import Write as WriteOp
from waterclock.isa.spec import Instruction, word_bits
from waterclock.isa.streams import ID_BITS, stream
from waterclock.rtl.emit import convert
from waterclock.rtl.mem import MEMTile, tile_id
from waterclock.rtl.mem_group import MEMGroup
from waterclock.rtl.part import Nets, instance
from waterclock.rtl.signature import RunSignature
from waterclock.rtl.sram import sram_verilog
from waterclock.sim import verilator
from waterclock.sim.mem import MEMSlice, Paths
from waterclock.sim.signature import Write, signature_of

CASE, SEED = "WATERCLOCK_TEST_CASE", "COCOTB_RANDOM_SEED"
RUNS, LIMIT = 12, 20_000  # limit of cycles for all of them
PERIOD = 10
NANO = dataclasses.replace(load_config("nano"), slices=8, rows=256, wide=False)
CASES = {
    "nano": NANO,
    "superlanes": dataclasses.replace(
        NANO, superlanes=3, lanes=5, load_streams=1, group=2, paths=16, two_port=False, turns=1
    ),
}
WORD = word_bits("mem_write")


class Slices(wiring.Component):
    """All MEM groups of a chip, their write words rippling, and the signature."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.groups = 2 * config.groups
        self.column = 2 * config.streams * config.lanes * 8
        super().__init__(
            {
                "words": In(2 * config.slices * WORD),
                "arriving": In(config.superlanes * self.groups * self.column),
                "host_en": In(2 * config.slices),
                "host_wdata": In(config.lanes * 8),
                "launch": In(1),
                "running": In(1),
                "value": Out(signature.BITS),
                "settling": Out(1),
            }
        )

    def elaborate(self, platform):
        m, config = Module(), self.config
        total = instance(m, "run_signature", RunSignature(config), "total")
        group = MEMGroup(config)
        m.d.comb += [
            total["launch"].eq(self.launch),
            total["running"].eq(self.running),
            self.value.eq(total["value"]),
            self.settling.eq(total["settling"]),
        ]
        for c in range(self.groups):
            nets: Nets = {}
            for k in range(config.superlanes):
                before = nets
                arriving = self.arriving.word_select(k * self.groups + c, self.column)
                side, first = divmod(c * config.group, config.slices)
                nets = instance(
                    m,
                    "mem_group",
                    group,
                    f"group_{k}_{c}",
                    {
                        "east_in": arriving[: self.column // 2],
                        "west_in": arriving[self.column // 2 :],
                        "host_en": self.host_en.word_select(c, config.group),
                        "host_we": self.host_en.any(),
                        "host_wdata": self.host_wdata,
                        "outward": int(Hemisphere(side).outward),
                        "id": tile_id(config, k, side, first),
                    },
                )
                for i in range(config.group):
                    word = self.words.word_select(c * config.group + i, WORD)
                    m.d.comb += nets[f"write{i}_in"].eq(before.get(f"write{i}_out", word))
                m.d.comb += total[f"sum_{k}_{c}"].eq(nets["sum"])
        return m


class Column:
    """What the streams of one group hold in superlane 0's time: a golden ``Port``."""

    def __init__(self, held: NDArray[np.uint8]) -> None:
        self.held = held  # (2, streams, vector)

    def read(self, code: int, span: int) -> NDArray[np.uint8]:
        number = code & (1 << ID_BITS) - 1
        return self.held[code >> ID_BITS, number : number + span]

    def drive(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        raise AssertionError


class Bench:
    """Drives the slices in the skew of the superlanes, and knows the golden ones."""

    def __init__(self, dut, config: Config, rng: np.random.Generator) -> None:
        self.dut, self.config, self.rng = dut, config, rng
        self.held = [self._streams() for _ in range(config.superlanes)]  # newest first
        self.cycles = 0
        self.slices: dict[tuple[Hemisphere, int], MEMSlice] = {}
        for side in Hemisphere:
            for index in range(config.slices):
                if index % config.group == 0:
                    paths = Paths(config, side.outward)
                name = f"{side.name}{index}"
                self.slices[side, index] = MEMSlice(config, name, paths)

    def _streams(self) -> NDArray[np.uint8]:
        """Return what all groups' columns hold: (groups, 2, streams, vector); often small maps."""
        config, rng = self.config, self.rng
        shape = 2 * config.groups, 2, config.streams, config.vector
        found = rng.integers(0, 256, shape, np.uint8)
        found[..., config.streams - 1, :] = 0
        found[..., config.streams - 2, :] = rng.integers(0, 100, config.vector)
        return found

    def _operation(self, side: Hemisphere) -> Instruction:
        """Return a write from an outward stream."""
        config, rng = self.config, self.rng
        if rng.random() < 0.5:
            source = stream(side.outward, int(rng.integers(config.streams)))
            return WriteOp(addr=int(rng.integers(config.depth)), src=source)
        maps = stream(side.outward, config.streams - 2)
        lane = int(rng.integers(mem.map_lanes(config)))
        addr = int(rng.integers(2)) * config.rows + int(rng.integers(config.rows - 100))
        return Scatter(addr=addr, src=maps, map=maps, lane=lane)

    async def step(self, operations: dict[tuple[Hemisphere, int], Instruction]) -> None:
        """Set words and what arrives; go on to the next cycle."""
        dut, config = self.dut, self.config
        self.cycles += 1
        assert self.cycles < LIMIT
        parts = [
            self.held[k][..., k * config.lanes : (k + 1) * config.lanes].tobytes()
            for k in range(config.superlanes)
        ]
        dut.arriving.value = int.from_bytes(b"".join(parts), "little")
        words = 0
        for (side, index), op in operations.items():
            words |= op.encode() << (side * config.slices + index) * WORD
        dut.words.value = words
        await FallingEdge(dut.clk)
        self.held = [self._streams(), *self.held[:-1]]

    async def idle(self, cycles: int) -> None:
        for _ in range(cycles):
            await self.step({})

    async def host_writes(self) -> None:
        """Write some rows as the host does, then wait as a launch would."""
        for _ in range(3):
            self.dut.host_en.value = 1 << int(self.rng.integers(2 * self.config.slices))
            self.dut.host_wdata.value = int(self.rng.integers(1 << 40))
            await self.step({})
            self.dut.host_en.value = 0
        await self.idle(6)

    async def run(self, cycles: int) -> int:
        """Run random writes; return the golden signature."""
        dut, config, rng = self.dut, self.config, self.rng
        for found in self.slices.values():
            found.start()
            found.paths.start()
        for cycle in range(cycles):
            operations: dict[tuple[Hemisphere, int], Instruction] = {}
            shared: dict[int, Instruction] = {}  # by group
            for side, index in self.slices:
                # One slice of a group, so that paths are no matter; or all, of one stream.
                c = side * config.groups + index // config.group
                chosen = cycle % (config.group + 1) in (index % config.group, config.group)
                if chosen and rng.random() < 0.5 and cycle % 7:
                    op = shared.setdefault(c, self._operation(side))
                    self.slices[side, index].execute(cycle, op, Column(self.held[0][c]))
                    operations[side, index] = op
            await self.step(operations)
            dut.running.value = 1
        await self.step({})
        dut.running.value = 0
        writes: list[Write] = [
            (cycle, side, index, row, data)
            for (side, index), found in self.slices.items()
            for cycle, row, data in found.writes
        ]
        assert len(writes) > cycles // 4
        return signature_of(config, cycles, writes)


@cocotb.test()
async def signatures_agree(dut) -> None:
    """Runs of random length; host writes between them must not count."""
    config, seed = CASES[os.environ[CASE]], int(os.environ[SEED])
    rng = np.random.default_rng(seed)
    dut._log.info("seed %d", seed)
    for port in (dut.words, dut.arriving, dut.host_en, dut.host_wdata, dut.launch, dut.running):
        port.value = 0
    dut.rst.value = 1
    cocotb.start_soon(Clock(dut.clk, PERIOD, "ns").start(start_high=False))
    await FallingEdge(dut.clk)
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    bench, seen = Bench(dut, config, rng), set()
    for _ in range(RUNS):
        await bench.host_writes()
        dut.launch.value = 1
        await bench.step({})
        dut.launch.value = 0
        await bench.idle(1)
        assert dut.value.value == 0
        expected = await bench.run(int(rng.integers(20, 120)))
        waited = 0
        while dut.settling.value:
            await bench.step({})
            waited += 1
        assert waited <= config.superlanes + 2
        found = int(dut.value.value)
        assert found == expected
        await bench.host_writes()
        assert int(dut.value.value) == found
        seen.add(found)
    assert len(seen) == RUNS


@pytest.mark.parametrize("case", CASES)
def test_the_register_holds_what_the_writes_say(case: str) -> None:
    config = CASES[case]
    parts = {
        "mem_tile": MEMTile(config),
        "mem_group": MEMGroup(config),
        "run_signature": RunSignature(config),
        "slices": Slices(config),
    }
    files = {"sram.sv": sram_verilog()}
    files |= {f"{name}.v": convert(part, name) for name, part in parts.items()}
    seed = int(os.environ.get(SEED, "1"))
    simulator = verilator.build(files, "slices", extra_args=("-Wno-lint",))
    print(verilator.run(simulator, "test_signature_cosim", seed=seed, extra_env={CASE: case}))

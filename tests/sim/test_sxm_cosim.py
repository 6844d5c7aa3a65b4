"""SXM and its stream column in Verilator against the golden SXM, every stream in every cycle."""

import dataclasses
import os
import random

import cocotb
import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from waterclock.isa import ISA, Config, Hemisphere, Instruction, Role, load_config
from waterclock.isa.streams import direction_of, number_of, stream
from waterclock.isa.sxm import Distribute, Permute, Rotate, Select, Shift
from waterclock.rtl.column import StreamColumn
from waterclock.rtl.emit import convert
from waterclock.rtl.sxm import SXM, sxm_parts
from waterclock.rtl.sxm_tile import QUEUES
from waterclock.sim import verilator
from waterclock.sim.sxm import SXM as GoldenSXM

INSTRUCTIONS = 10_000
CASE = "WATERCLOCK_TEST_CASE"
SEED = "COCOTB_RANDOM_SEED"

#: (superlanes, lanes, streams) by what is special about them.
CASES = {
    "plain": (2, 4, 8),
    "rotations_by_3_over_odd_lanes": (3, 5, 12),
    "fewer_streams_than_lanes": (1, 8, 4),
    "rotations_by_4_beyond_a_superlane": (2, 2, 20),
}


def configuration(case: str) -> Config:
    """Return the configuration of a case."""
    superlanes, lanes, streams = CASES[case]
    nano = load_config("nano")
    return dataclasses.replace(
        nano,
        name=case,
        superlanes=superlanes,
        lanes=lanes,
        streams=streams,
        load_streams=1,
        wide=False,
        sxm=True,
        turns=1,
    )


class Bench(wiring.Component):
    """An SXM at its column; ports as of the two of them."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sxm = SXM(config)
        width = config.streams * config.lanes * 8
        ports = {queue: In(len(getattr(self.sxm, queue))) for queue in QUEUES}
        for k in range(config.superlanes):
            for way in ("east", "west"):
                ports |= {f"{way}_in_{k}": In(width), f"{way}_{k}": Out(width)}
        super().__init__(ports | {"error": Out(1)})

    def elaborate(self, platform: object) -> Module:
        m = Module()
        m.submodules.sxm = self.sxm
        for queue in QUEUES:
            m.d.comb += getattr(self.sxm, queue).eq(getattr(self, queue))
        for k in range(self.config.superlanes):
            ports = {"i_clk": ClockSignal(), "i_rst": ResetSignal()}
            for way in ("east", "west"):
                ports[f"i_{way}_in"] = getattr(self, f"{way}_in_{k}")
                ports[f"o_{way}"] = getattr(self, f"{way}_{k}")
                for bus in ("valid", "data"):
                    ports[f"i_{way}_{bus}"] = getattr(self.sxm, f"{way}_{bus}_{k}")
                m.d.comb += getattr(self.sxm, f"{way}_{k}").eq(getattr(self, f"{way}_{k}"))
            m.submodules[f"column_{k}"] = Instance("stream_column", **ports)
        m.d.comb += self.error.eq(self.sxm.error)
        return m


class Script:
    """A random program, the streams that flow in, and what the golden SXM makes of them.

    ``columns`` (cycles, 2, streams, vector) uint8 is what stands in the stream registers, in
    superlane-0 time; ``inputs`` is what stands upstream. It is the golden SXM's ``Port``.
    """

    def __init__(self, config: Config, rng: random.Random) -> None:
        self.config, self.rng = config, rng
        self.cycle, self.issued = 0, 0
        self.golden = GoldenSXM(config, Hemisphere.EAST)
        latency = Shift.latency(config)
        bubbles = 2 * latency  # the first and the last cycles issue nothing
        cycles = INSTRUCTIONS + 2 * bubbles
        shape = (cycles, 2, config.streams, config.vector)
        self.inputs = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, shape, np.uint8)
        self.inputs[-1] = 0
        self.columns = np.zeros(shape, np.uint8)
        self.driven = np.zeros(shape[:3], bool)
        self.words: list[dict[str, int]] = []
        for self.cycle in range(cycles):
            ops = self._draw() if bubbles <= self.cycle < cycles - bubbles else {}
            self._shape_maps(ops.values())
            free = ~self.driven[self.cycle]
            self.columns[self.cycle][free] = self.inputs[self.cycle - 1][free]
            for op in ops.values():
                self.golden.execute(self.cycle, op, self)
            self.words.append({queue: op.encode() for queue, op in ops.items()})
            self.issued += len(ops)

    def read(self, code: int, span: int) -> np.ndarray:
        number = number_of(code)
        return self.columns[self.cycle, direction_of(code), number : number + span].copy()

    def drive(self, code: int, data: np.ndarray, latency: int) -> None:
        number, place = number_of(code), (self.cycle + latency, direction_of(code))
        self.columns[place][number : number + len(data)] = data
        self.driven[place][number : number + len(data)] = True

    def _draw(self) -> dict[str, Instruction]:
        """Return instructions of some queues that drive different streams."""
        ops: dict[str, Instruction] = {}
        taken: set[int] = set()
        for queue, kind in self.rng.sample(list(QUEUES.items()), len(QUEUES)):
            classes = [cls for (unit, _), cls in ISA.items() if unit == kind]
            op = self._random(self.rng.choice(classes))
            (dst,) = (spec for spec in op.operands if spec.role is Role.WRITES)
            codes = {op.dst + i for i in range(dst.span(op, self.config))}
            if self.rng.random() < 0.8 and not codes & taken:
                taken |= codes
                ops[queue] = op
        return ops

    def _random(self, cls: type[Instruction]) -> Instruction:
        """Return a legal instruction."""
        rng, values = self.rng, {spec.name: 0 for spec in cls.operands}
        if cls is Rotate:
            values["count"] = rng.choice([n for n in (2, 3, 4) if n * n <= self.config.streams])
        elif "count" in values:
            near = [rng.randrange(4), rng.randrange(self.config.vector + 2)]
            negative = cls is Shift and rng.random() < 0.5
            values["count"] = -rng.choice([*near, 512]) if negative else rng.choice([*near, 511])
        for spec in cls.operands:
            if spec.kind == "stream":
                last = self.config.streams - spec.span(cls(**values), self.config)
                even = 2 if cls is Permute and spec.name == "map" else 1
                values[spec.name] = stream(rng.randrange(2), rng.randrange(0, last + 1, even))
        return cls(**values)

    def _shape_maps(self, ops) -> None:
        """Let most maps hold mostly numbers that mean something."""
        upstream = self.inputs[self.cycle - 1]
        for op in ops:
            limit = {Select: 4, Permute: self.config.vector + 1, Distribute: self.config.lanes + 1}
            if type(op) in limit and self.rng.random() < 0.9:
                ways = upstream[direction_of(op.map)]
                ways[number_of(op.map)] %= limit[type(op)]
                if isinstance(op, Permute):
                    ways[number_of(op.map) + 1] *= ways[number_of(op.map) + 1] > 250


def part(data: np.ndarray, cycle: int, superlane: int, lanes: int) -> np.ndarray:
    """Return (2, streams, lanes): what a superlane has of ``data`` in a cycle of the chip."""
    return data[max(cycle - superlane, 0), :, :, superlane * lanes : (superlane + 1) * lanes]


@cocotb.test()
async def sxm_agrees_with_golden(dut) -> None:
    config = configuration(os.environ[CASE])
    script = Script(config, random.Random(cocotb.RANDOM_SEED))
    dut._log.info("%d instructions, seed %d", script.issued, cocotb.RANDOM_SEED)
    assert script.issued >= INSTRUCTIONS
    ports = [getattr(dut, queue) for queue in QUEUES]
    superlanes = range(config.superlanes)
    ins = [[getattr(dut, f"{way}_in_{k}") for way in ("east", "west")] for k in superlanes]
    outs = [[getattr(dut, f"{way}_{k}") for way in ("east", "west")] for k in superlanes]
    for port in [*ports, *(port for pair in ins for port in pair)]:
        port.value = 0
    dut.rst.value = 1
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    for _ in range(3):
        await FallingEdge(dut.clk)
    dut.rst.value = 0
    script.columns[0] = 0
    for cycle in range(len(script.words) - config.superlanes):
        # Registers hold cycle ``cycle`` now; inputs are for the edge that ends it.
        assert not dut.error.value, f"cycle {cycle}: error"
        for k in superlanes:
            expected = part(script.columns, cycle, k, config.lanes)
            for direction, port in enumerate(outs[k]):
                found = port.value.to_bytes(byteorder="little")
                if found != expected[direction].tobytes():
                    pytest.fail(difference(cycle, k, direction, expected[direction], found))
            for direction, port in enumerate(ins[k]):
                data = part(script.inputs, cycle, k, config.lanes)[direction]
                port.value = int.from_bytes(data.tobytes(), "little") if cycle >= k else 0
        for queue, port in zip(QUEUES, ports, strict=True):
            port.value = script.words[cycle + 1].get(queue, 0)
        await FallingEdge(dut.clk)


def difference(cycle: int, superlane: int, direction: int, expected: np.ndarray, found: bytes):
    """Name the first byte that differs."""
    actual = np.frombuffer(found, np.uint8).reshape(expected.shape)
    number, lane = np.argwhere(actual != expected)[0]
    place = f"cycle {cycle}, superlane {superlane}, stream {'EW'[direction]}{number}, lane {lane}"
    return f"{place}: {actual[number, lane]}, expected {expected[number, lane]}"


@pytest.mark.parametrize("case", CASES)
def test_every_stream_agrees_with_the_golden_sxm_in_every_cycle(case: str) -> None:
    config = configuration(case)
    parts = {**sxm_parts(config), "stream_column": StreamColumn(config), "bench": Bench(config)}
    sources = {f"{name}.v": convert(p, name) for name, p in parts.items()}
    simulator = verilator.build(sources, "bench")
    seed = int(os.environ.get(SEED, "1"))
    print(verilator.run(simulator, "test_sxm_cosim", seed=seed, extra_env={CASE: case}))

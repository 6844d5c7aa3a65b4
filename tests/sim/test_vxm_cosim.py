"""The VXM slice in RTL against the golden VXM: streams in both directions, every cycle."""

import contextlib
import dataclasses
import itertools
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import cocotb
import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from numpy.typing import NDArray

from waterclock.isa.config import LIMITS, Config, load_config
from waterclock.isa.spec import Instruction, word_bits
from waterclock.isa.streams import ID_BITS, SOURCE_ALU, SOURCE_IMM, TARGET_STREAM
from waterclock.isa.vxm import (
    ARITY,
    FEATURE,
    LOWEST,
    OPS,
    REDUCTIONS,
    takes_stream,
    takes_turns,
)
from waterclock.rtl.emit import convert
from waterclock.rtl.vxm import vxm_parts
from waterclock.rtl.vxm_alu import clock_gate_verilog
from waterclock.sim import verilator
from waterclock.sim.port import Hazard
from waterclock.sim.vxm import VXM

CYCLES = 2400  # of each run
RUNS = 3  # a reset in full flight stands between them; as many again until there are enough
LEAST = 10_000  # instructions

NANO = load_config("nano")
BASE = Config(
    name="test",
    superlanes=2,
    lanes=4,
    streams=8,
    slices=8,
    group=4,
    rows=16,
    planes=1,
    load_streams=1,
    act_entries=1,
    acc_entries=1,
    digits=1,
    integers=True,
    sxm=True,
    alus=("amncsibh", "ami", "c", "bh"),
    simple_cycles=1,
    alu_cycles=4,
    b_streams=True,
    reduce_streams=True,
    turns=1,
    imem_words=64,
    imem_words_of=(),
    paths=4,
    loops=2,
    two_port=False,
    wide=False,
)
CONFIGS = {
    "two superlanes": BASE,
    # Nine lanes: two levels of the trees have a lane without a neighbour.
    "three superlanes": dataclasses.replace(
        BASE,
        superlanes=3,
        lanes=3,
        streams=4,
        alus=("amcsibh", "ab", ""),
        simple_cycles=2,
        alu_cycles=5,
    ),
    # The pipelines, the features and the streams of the preset for an FPGA.
    "nano": dataclasses.replace(
        BASE,
        superlanes=1,
        lanes=8,
        load_streams=4,
        wide=True,
        b_streams=False,
        reduce_streams=False,
        alus=NANO.alus,
        simple_cycles=NANO.simple_cycles,
        alu_cycles=NANO.alu_cycles,
        turns=NANO.turns,
    ),
    # Deeper than any unit: results wait. A unit for each lane, and one for two.
    **{
        f"deepest, turns {turns}": dataclasses.replace(
            BASE,
            superlanes=1,
            lanes=2,
            alus=("amncsi", "acmsbr"),
            simple_cycles=LIMITS["simple_cycles"][1],
            alu_cycles=LIMITS["alu_cycles"][1],
            turns=turns,
        )
        for turns in (1, LIMITS["turns"][1])
    },
}


class Slice(wiring.Component):
    """The whole VXM: a tile for each superlane, and the reducer, as a chip wires them."""

    def __init__(self, config: Config, parts: dict[str, wiring.Component]):
        self.config = config
        self.parts = parts
        width = config.streams * config.lanes * 8
        ports = {f"alu{index}": In(word_bits("alu")) for index in range(len(config.alus))}
        ports |= {"reduce": In(word_bits("reduce")), "error": Out(1)}
        for k in range(config.superlanes):
            ports |= {f"{way}_in_{k}": In(width) for way in ("east", "west")}
            ports |= {f"{way}_{k}": Out(width) for way in ("east", "west")}
        super().__init__(ports)

    def elaborate(self, platform):
        m = Module()
        tile, reducer = (self.parts[x].signature.members for x in ("vxm_tile", "vxm_reducer"))
        nets = [
            {name: Signal(port.shape, name=f"{name}_{k}") for name, port in tile.items()}
            for k in range(self.config.superlanes)
        ]
        crossing = {"error": Signal(name="reducer_error")}
        for k, net in enumerate(nets):
            for name in tile:
                if name.endswith("_out"):
                    queue = name.removesuffix("_out")
                    before = nets[k - 1][name] if k else getattr(self, queue)
                    m.d.comb += net[f"{queue}_in"].eq(before)
            for way in ("east", "west"):
                m.d.comb += net[f"{way}_in"].eq(getattr(self, f"{way}_in_{k}"))
                m.d.comb += getattr(self, f"{way}_{k}").eq(net[way])
            crossing |= {f"word_{k}": net["reduce_out"], f"operand_{k}": net["reduce_operand"]}
            crossing |= {f"{x}_{k}": net[f"reduce_{x}"] for x in ("valid", "target", "result")}
            m.submodules[f"tile_{k}"] = _instance("vxm_tile", tile, net)
        m.submodules.reducer = _instance("vxm_reducer", reducer, crossing)
        errors = [net["error"] for net in nets]
        m.d.comb += self.error.eq(Cat(*errors, crossing["error"]).any())
        return m


def _instance(name: str, members: wiring.SignatureMembers, nets: dict[str, Signal]) -> Instance:
    ports = {
        f"{'i' if port.flow is In else 'o'}_{name}": nets[name] for name, port in members.items()
    }
    return Instance(name, i_clk=ClockSignal(), i_rst=ResetSignal(), **ports)


def simulator(config: Config) -> Path:
    """Return the simulator of a configuration's VXM."""
    parts = vxm_parts(config)
    texts = {
        f"{name}.v": convert(part, name)
        for name, part in {"slice": Slice(config, parts), **parts}.items()
    }
    return verilator.build({"clock_gate.v": clock_gate_verilog()} | texts, "slice")


class Streams:
    """The streams of the VXM's column in superlane-0 time; a ``Port`` of the golden VXM.

    ``values[cycle, code]`` is a vector: what comes from upstream, or what the VXM drives.
    """

    def __init__(self, config: Config, rng: np.random.Generator):
        self.config, self.cycle = config, 0
        shape = (CYCLES, 2 << ID_BITS, config.vector)
        self.upstream = rng.integers(0, 256, shape, dtype=np.uint8)
        # Numbers that fit together, among random patterns.
        floats = rng.normal(size=(CYCLES, (2 << ID_BITS) // 4, config.vector)) * 4
        planes = floats.astype("<f4").view(np.uint8).reshape(*floats.shape, 4)
        chosen = rng.random(floats.shape[:2]) < 0.7
        groups = self.upstream.reshape(CYCLES, -1, 4, config.vector)
        groups[chosen] = planes.transpose(0, 1, 3, 2)[chosen]
        self.values = self.upstream.copy()
        self.driven: dict[tuple[int, int], str] = {}  # by which instruction
        self.source = ""

    def read(self, code: int, span: int) -> NDArray[np.uint8]:
        return self.values[self.cycle, code : code + span]

    def drive(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        for offset, vector in enumerate(data):
            assert (self.cycle + latency, code + offset) not in self.driven
            self.driven[self.cycle + latency, code + offset] = self.source
            self.values[self.cycle + latency, code + offset] = vector


class Schedule:
    """Random legal instructions for all queues, each executed by the golden VXM."""

    def __init__(self, config: Config, rng: random.Random):
        self.config, self.rng = config, rng
        self.streams = Streams(config, np.random.default_rng(rng.getrandbits(32)))
        self.golden = VXM(config)
        self.words: list[list[int]] = []  # by cycle and queue
        self.count = {op.mnemonic: 0 for op in (*OPS.values(), *REDUCTIONS.values())}
        self.chained = 0
        # Nothing is issued when its result would come after the last cycle.
        margin = max(op.latency(config) for op in (*OPS.values(), *REDUCTIONS.values())) + 2
        for cycle in range(CYCLES):
            self.streams.cycle = cycle
            queues = range(len(config.alus) + 1)
            busy = rng.random() < 0.85 and 0 < cycle < CYCLES - margin
            self.words.append([self._issue(cycle, queue) if busy else 0 for queue in queues])

    def _stream(self, unit: int) -> int:
        number = self.rng.randrange(0, self.config.streams, unit)
        return self.rng.randrange(2) << ID_BITS | number

    def _source(self, cycle: int, unit: int, *, immediate: bool, streams: bool = True) -> int:
        buses = list(self.golden.buses.get(cycle, ()))
        draw = self.rng.random()
        if buses and (draw < 0.5 or not streams):
            self.chained += 1
            return SOURCE_ALU + self.rng.choice(buses)
        if immediate and draw < 0.65:
            return SOURCE_IMM
        return self._stream(unit)

    def _imm(self) -> int:
        draw = self.rng.random()
        if draw < 0.3:
            return self.rng.getrandbits(32)
        if draw < 0.6:
            return self.rng.getrandbits(5)
        return int(np.float32(self.rng.gauss(0, 3)).view(np.uint32))

    def _issue(self, cycle: int, queue: int) -> int:
        """Return the word of an instruction that the golden VXM takes, 0 if there is no place."""
        reducing = queue == len(self.config.alus)
        if self.rng.random() < (0.4 if reducing else 0.1):
            return 0
        if reducing:
            kinds = list(REDUCTIONS.values())
        else:
            kinds = [op for op in OPS.values() if FEATURE[op] in self.config.alus[queue]]
        op = self.rng.choice(kinds)
        if takes_turns(op) and cycle < self.golden.free.get(queue, 0):
            return 0
        streams = self.config.reduce_streams or not reducing
        if not streams and not self.golden.buses.get(cycle):
            return 0
        spans = {spec.name: spec.streams for spec in op.operands}
        units = {spec.name: spec.unit(op, self.config) for spec in op.operands}
        end = cycle + op.latency(self.config)
        if queue in self.golden.buses.get(end, ()):
            return 0
        target = self._stream(units["dst"])
        codes = range(target, target + spans["dst"])
        free = not any((end, code) in self.streams.driven for code in codes)
        drives = free and streams and self.rng.random() < 0.7
        values = {"dst": target | TARGET_STREAM if drives else 0}
        values["a"] = self._source(cycle, units["a"], immediate=not reducing, streams=streams)
        if not reducing:
            binary = ARITY[op] == 2
            values["b"] = self._source(cycle, 4, immediate=True) if binary else 0
            if not takes_stream(self.config, "b", values["b"]):
                values["b"] &= ~(self.config.streams - 1) | LOWEST - 1
            values["imm"] = self._imm()
        instruction: Instruction = op(**values)
        self.streams.source = f"queue {queue} in cycle {cycle}: {instruction}"
        self.golden.execute(cycle, instruction, self.streams, queue)
        self.count[op.mnemonic] += 1
        return instruction.encode()


def config_of_run() -> Config:
    return CONFIGS[os.environ["VXM_CONFIG"]]


def inputs(dut: object) -> Iterator[tuple[int, str]]:
    for k in range(config_of_run().superlanes):
        for way in ("east", "west"):
            yield k, way


def write(dut: object, schedule: Schedule | None, cycle: int) -> None:
    """Give the slice what its registers take next, in ``cycle``."""
    config = config_of_run()
    legal = schedule is not None and 0 <= cycle < CYCLES
    for queue in range(len(config.alus)):
        getattr(dut, f"alu{queue}").value = schedule.words[cycle][queue] if legal else 0
    dut.reduce.value = schedule.words[cycle][-1] if legal else 0
    for k, way in inputs(dut):
        inside = schedule is not None and 0 <= cycle - k < CYCLES
        getattr(dut, f"{way}_in_{k}").value = (
            packed(schedule.streams.upstream, cycle, k, way) if inside else 0
        )


def packed(values: NDArray[np.uint8], cycle: int, superlane: int, way: str) -> int:
    """Return one superlane's part of the streams in a cycle as a register holds it."""
    config = config_of_run()
    first = 0 if way == "east" else 1 << ID_BITS
    lanes = slice(superlane * config.lanes, (superlane + 1) * config.lanes)
    part = values[cycle - superlane, first : first + config.streams, lanes]
    return int.from_bytes(part.tobytes(), "little")


@cocotb.test()
async def slice_agrees(dut) -> None:
    """Run random schedules, with a reset between them; prints how many instructions there were."""
    config, total = config_of_run(), 0
    rng = random.Random(random.getrandbits(32))
    write(dut, None, 0)
    dut.rst.value = 0
    Clock(dut.clk, 10, unit="ns").start(start_high=False)
    await FallingEdge(dut.clk)
    for run in itertools.count(1):
        assert run <= 5 * RUNS
        schedule = Schedule(config, rng)
        having = [op for op in OPS.values() if any(FEATURE[op] in x for x in config.alus)]
        feasible = [op.mnemonic for op in (*having, *REDUCTIONS.values())]
        assert all(schedule.count[mnemonic] for mnemonic in feasible), schedule.count
        assert schedule.chained > 500
        whole = run % RUNS == 0
        cut = CYCLES + config.superlanes if whole else CYCLES // 2
        total += sum(word != 0 for words in schedule.words[:cut] for word in words)
        for cycle in range(cut):
            write(dut, schedule, cycle)
            await FallingEdge(dut.clk)
            assert not dut.error.value, cycle
            for k, way in inputs(dut):
                if 0 <= cycle - k < CYCLES:
                    compare(dut, schedule, cycle, k, way)
        dut.rst.value = 1
        write(dut, None, 0)
        await FallingEdge(dut.clk)
        dut.rst.value = 0
        if whole and total >= LEAST:
            break
    print(f"instructions {total}")


def compare(dut: object, schedule: Schedule, cycle: int, superlane: int, way: str) -> None:
    found = getattr(dut, f"{way}_{superlane}").value.to_unsigned()
    expected = packed(schedule.streams.values, cycle, superlane, way)
    if found != expected:
        lanes = config_of_run().lanes
        place = ((found ^ expected) & -(found ^ expected)).bit_length() - 1 >> 3
        got, wanted = (x >> place * 8 & 0xFF for x in (found, expected))
        code = place // lanes + (1 << ID_BITS if way == "west" else 0)
        raise AssertionError(
            f"cycle {cycle}, superlane {superlane}, stream {way} {place // lanes}, "
            f"lane {place % lanes}: {got:#04x}, expected {wanted:#04x}; driven by "
            f"{schedule.streams.driven.get((cycle - superlane, code), 'nothing')}"
        )


@pytest.mark.parametrize("name", CONFIGS)
def test_every_stream_agrees_with_the_golden_vxm_in_every_cycle(name: str) -> None:
    log = verilator.run(
        simulator(CONFIGS[name]),
        "test_vxm_cosim",
        testcase="slice_agrees",
        seed=int(os.environ.get("COCOTB_RANDOM_SEED", "5")),
        extra_env={"VXM_CONFIG": name},
    )
    (line,) = (line for line in log.splitlines() if line.startswith("instructions "))
    assert int(line.split()[1]) >= LEAST


def alu(mnemonic: str, a: int = 0, *, b: int = 0, dst: int = 0) -> Instruction:
    """Return an ALU instruction; ``dst`` is a stream code plus ``TARGET_STREAM``, 0 for none."""
    return OPS[mnemonic](a=a, b=b, dst=dst, imm=0)


E0 = TARGET_STREAM
#: Schedules for BASE that break a promise, (cycle, queue, instruction), and what is said of them.
BROKEN: dict[str, tuple[str, list[tuple[int, int, Instruction]]]] = {
    "empty bus": ("empty bus", [(3, 0, alu("mov", SOURCE_ALU + 1))]),
    "bus of no ALU": ("empty bus", [(3, 0, alu("mov", SOURCE_ALU + 7))]),
    "a result is gone a cycle later": (
        "empty bus",
        [(2, 0, alu("mov")), (4, 1, alu("iadd", b=SOURCE_ALU))],
    ),
    "two results of an ALU": ("two results in one", [(2, 0, alu("fadd")), (5, 0, alu("mov"))]),
    "two results of the reducer": (
        "two results in one",
        [(2, 4, REDUCTIONS["rsum"](a=0, dst=0)), (11, 4, REDUCTIONS["rmax"](a=0, dst=0))],
    ),
    "feature that the ALU lacks": ("illegal", [(2, 3, alu("fadd"))]),
    "misaligned source": ("illegal", [(2, 0, alu("mov", 2))]),
    "misaligned second source": ("illegal", [(2, 0, alu("iadd", b=5))]),
    "misaligned f16": ("illegal", [(2, 0, alu("f16_to_f32", 1))]),
    "misaligned target": ("illegal", [(2, 0, alu("mov", dst=E0 + 2))]),
    "missing stream": ("illegal", [(2, 0, alu("mov", 8))]),
    "missing target": ("illegal", [(2, 0, alu("i32_to_i8", dst=E0 + 9))]),
    "two drivers of a stream": (
        "driven onto one stream",
        [(2, 0, alu("fadd", dst=E0)), (5, 3, alu("i32_to_i8", dst=E0 + 3))],
    ),
    "reduction of an immediate": (
        "illegal",
        [(2, 4, REDUCTIONS["rsum"](a=SOURCE_IMM, dst=0))],
    ),
}


class Silence:
    """A port whose streams are zero; it checks what the golden machine's column checks."""

    def __init__(self):
        self.cycle, self.driven = 0, set()

    def read(self, code: int, span: int) -> NDArray[np.uint8]:
        if code % (1 << ID_BITS) + span > BASE.streams:
            raise Hazard("no such stream")
        return np.zeros((span, BASE.vector), np.uint8)

    def drive(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        self.read(code, len(data))
        places = {(self.cycle + latency, code + offset) for offset in range(len(data))}
        if places & self.driven:
            raise Hazard("two drivers")
        self.driven |= places


@pytest.mark.parametrize("case", BROKEN)
def test_the_golden_vxm_raises_when_a_promise_is_broken(case: str) -> None:
    golden, port = VXM(BASE), Silence()
    *before, last = BROKEN[case][1]
    for cycle, queue, op in before:
        port.cycle = cycle
        golden.execute(cycle, op, port, queue)
    port.cycle, queue, op = last
    with pytest.raises(Hazard):
        golden.execute(port.cycle, op, port, queue)


#: For a configuration with turns: whether operations that follow each other so are too fast.
FOLLOWING: list[tuple[str, int, bool]] = [
    ("fadd", 1, True),
    ("fadd", 2, False),
    ("and", 1, True),
    ("mov", 1, False),
]


@pytest.mark.parametrize(("mnemonic", "later", "hasty"), FOLLOWING)
def test_the_golden_vxm_takes_an_operation_a_turn(mnemonic: str, later: int, hasty: bool) -> None:
    golden, port = VXM(dataclasses.replace(CONFIGS["nano"], streams=BASE.streams)), Silence()
    golden.execute(0, alu("fadd"), port, 0)
    port.cycle = later
    with pytest.raises(Hazard, match=r"under way$") if hasty else contextlib.nullcontext():
        golden.execute(later, alu(mnemonic), port, 0)


#: Schedules for "nano" whose last instruction names a stream that its unit does not know.
MISSING: list[list[tuple[int, int, Instruction]]] = [
    [(2, 0, alu("f16_to_f32", 2))],
    [(2, 0, alu("f32_to_f16", dst=E0 + 2))],
    [(2, 1, alu("fmul", b=4))],
    [(2, 2, REDUCTIONS["rmax"](a=0, dst=0))],
    [(2, 0, alu("mov")), (3, 2, REDUCTIONS["rmax"](a=SOURCE_ALU, dst=E0))],
]


@pytest.mark.parametrize("issues", MISSING)
def test_the_golden_vxm_has_the_streams_of_its_configuration(
    issues: list[tuple[int, int, Instruction]],
) -> None:
    golden, port = VXM(CONFIGS["nano"]), Silence()
    *before, (end, queue, last) = issues
    for cycle, number, op in before:
        golden.execute(cycle, op, port, number)
    with pytest.raises(Hazard, match=r"no multiple of 4|the reducer has no streams|lowest streams"):
        golden.execute(end, last, port, queue)


async def play(dut: object, issues: Sequence[tuple[int, int, Instruction | int]]) -> bool:
    """Reset, issue, and return whether ``error`` was high in any cycle."""
    write(dut, None, 0)
    dut.rst.value = 1
    await FallingEdge(dut.clk)
    dut.rst.value = 0
    await FallingEdge(dut.clk)
    assert not dut.error.value
    seen = False
    for cycle in range(20):
        write(dut, None, 0)
        for when, queue, op in issues:
            if when == cycle:
                name = "reduce" if queue == len(config_of_run().alus) else f"alu{queue}"
                getattr(dut, name).value = op if isinstance(op, int) else op.encode()
        await FallingEdge(dut.clk)
        seen |= bool(dut.error.value)
    return seen


@cocotb.test()
async def broken_promises(dut) -> None:
    """Play the schedule that is named, or all of them, each of which must raise ``error``."""
    Clock(dut.clk, 10, unit="ns").start(start_high=False)
    for case in os.environ.get("VXM_CASE", ",".join(BROKEN)).split(","):
        assert await play(dut, BROKEN[case][1]), case
        assert not await play(dut, BROKEN[case][1][:-1]), case
    assert await play(dut, [(2, 0, 63)])  # an opcode of no instruction


@cocotb.test()
async def operations_take_turns(dut) -> None:
    """Play what ``FOLLOWING`` lists."""
    Clock(dut.clk, 10, unit="ns").start(start_high=False)
    for mnemonic, later, hasty in FOLLOWING:
        issues = [(2, 0, alu("fadd")), (2 + later, 0, alu(mnemonic))]
        assert await play(dut, issues) is hasty, (mnemonic, later)


@cocotb.test()
async def streams_are_missing(dut) -> None:
    """Play what ``MISSING`` lists, and the same without its last instruction."""
    Clock(dut.clk, 10, unit="ns").start(start_high=False)
    for issues in MISSING:
        assert await play(dut, issues), issues
        assert not await play(dut, issues[:-1]), issues
    top = REDUCTIONS["rmax"](a=SOURCE_ALU, dst=0)
    assert not await play(dut, [(2, 0, alu("mov")), (3, 2, top)])


def test_the_tile_of_nano_raises_its_error_when_a_promise_is_broken() -> None:
    verilator.run(
        simulator(CONFIGS["nano"]),
        "test_vxm_cosim",
        testcase="operations_take_turns,streams_are_missing",
        plusargs=["+verilator+noassert"],
        extra_env={"VXM_CONFIG": "nano"},
    )


def test_the_tile_raises_its_error_when_a_promise_is_broken() -> None:
    verilator.run(
        simulator(BASE),
        "test_vxm_cosim",
        testcase="broken_promises",
        plusargs=["+verilator+noassert"],
        extra_env={"VXM_CONFIG": "two superlanes"},
    )


@pytest.mark.parametrize(
    "case", ["empty bus", "two results of an ALU", "two drivers of a stream", "misaligned source"]
)
def test_an_assertion_names_the_promise_that_is_broken(case: str) -> None:
    with pytest.raises(verilator.SimulationError, match=f"VXM.*{BROKEN[case][0]}"):
        verilator.run(
            simulator(BASE),
            "test_vxm_cosim",
            testcase="broken_promises",
            extra_env={"VXM_CONFIG": "two superlanes", "VXM_CASE": case},
        )

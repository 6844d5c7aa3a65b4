"""ICU: queues of several kinds against ``isa.sequence``, every word in value and cycle."""

import os
import random
from functools import lru_cache
from pathlib import Path

import cocotb
import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge

from waterclock.isa import icu
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere, queue_numbers, queues
from waterclock.isa.mem import Read
from waterclock.isa.sequence import expand
from waterclock.isa.spec import WORD_BITS, Instruction, instructions, word_bits
from waterclock.rtl.emit import convert
from waterclock.rtl.icu import ICUQueue, imem_image, launch_latency, stored_bits, unit_bits
from waterclock.rtl.sram import IMEM_ID, sram_verilog
from waterclock.sim import verilator

CONFIG = Config(
    name="test",
    superlanes=2,
    lanes=4,
    streams=8,
    slices=8,
    group=4,
    rows=16,
    planes=1,
    load_streams=4,
    act_entries=4,
    acc_entries=4,
    digits=1,
    integers=True,
    sxm=True,
    alus=("amcsib", "a"),
    simple_cycles=1,
    alu_cycles=4,
    b_streams=True,
    reduce_streams=True,
    turns=1,
    imem_words=200,
    imem_words_of=(),
    paths=16,
    loops=2,
    two_port=False,
    wide=False,
)
NUMBERS = [
    queue_numbers(CONFIG)[key]
    for key in (
        ("mem_read", Hemisphere.WEST, 0),
        ("mem_write", Hemisphere.EAST, 3),
        ("mem_read", Hemisphere.EAST, 7),
        ("alu", None, 1),
        ("reduce", None, 2),
        ("mxm_lw", Hemisphere.WEST, 0),
        ("mxm_abc", Hemisphere.EAST, 0),
        ("sxm_permute", Hemisphere.WEST, 0),
    )
]
KINDS = {number: queues(CONFIG)[number].kind for number in NUMBERS}
RUNS, ISSUES = 12, 10_000
PERIOD = 10

Programs = dict[int, list[int]]


class Queues(wiring.Component):
    """The queues of ``NUMBERS``, their outputs side by side, launched and notified together."""

    def __init__(self) -> None:
        super().__init__(
            {
                "launch": In(1),
                "start": In(16),
                "words": Out(sum(word_bits(kind) for kind in KINDS.values())),
                "halted": Out(len(NUMBERS)),
                "error": Out(len(NUMBERS)),
                "host_en": In(len(NUMBERS)),
                "host_we": In(1),
                "host_addr": In(16),
                "host_wdata": In(WORD_BITS),
                "host_rdata": Out(len(NUMBERS) * WORD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        notify = Signal()
        notifies = Signal(len(NUMBERS))
        m.d.comb += notify.eq(notifies.any())
        low = 0
        for index, (number, kind) in enumerate(KINDS.items()):
            bits = word_bits(kind)
            m.submodules[f"queue_{index}"] = Instance(
                f"icu_{kind}",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                i_launch=self.launch,
                i_start=self.start,
                i_notify=notify,
                o_notify_out=notifies[index],
                o_word=self.words[low : low + bits],
                o_halted=self.halted[index],
                o_error=self.error[index],
                i_host_en=self.host_en[index],
                i_host_we=self.host_we,
                i_host_addr=self.host_addr,
                i_host_wdata=self.host_wdata,
                o_host_rdata=self.host_rdata.word_select(index, WORD_BITS),
                i_id=IMEM_ID + number,
            )
            low += bits
        return m


@lru_cache(maxsize=1)
def simulator() -> Path:
    parts = {f"icu_{kind}": ICUQueue(kind, CONFIG) for kind in sorted(set(KINDS.values()))}
    text = {
        f"{name}.v": convert(part, name) for name, part in {**parts, "queues": Queues()}.items()
    }
    return verilator.build({"sram.sv": sram_verilog(), **text}, "queues")


def random_unit(rng: random.Random, kind: str) -> int:
    """Return a word of the unit with any operands that the configuration may have."""
    op = rng.choice([op for op in instructions(kind) if op.kind == kind])
    return op.opcode | (rng.getrandbits(op.bits) >> 6 << 6) & unit_bits(kind, CONFIG)


def random_nop(rng: random.Random) -> int:
    return icu.NOP(count=rng.choice([0, 1, 2, 3, rng.randrange(4, 40)])).encode()


def random_repeat(rng: random.Random) -> int:
    return icu.Repeat(
        count=rng.choice([1, 1, 2, 3, rng.randrange(4, 20)]),
        distance=rng.choice([1, 1, 2, 3, rng.randrange(4, 12)]),
        stride=rng.randrange(-2048, 2048),
    ).encode()


def random_block(rng: random.Random, kind: str, words: int) -> list[int]:
    """Return about ``words`` words without a Loop."""
    block: list[int] = []
    while len(block) < words:
        block += [random_unit(rng, kind) for _ in range(rng.randrange(3))]
        if rng.random() < 0.3:
            block.append(random_nop(rng))
        if rng.random() < 0.5:
            block += [random_unit(rng, kind), random_repeat(rng)]
    return block


def random_segment(rng: random.Random, kind: str) -> list[int]:
    """Return words with Loops, without Sync and Notify."""
    words: list[int] = []
    for _ in range(rng.randrange(1, 3)):
        words += random_block(rng, kind, rng.randrange(1, 8))
        block = random_block(rng, kind, rng.randrange(1, 9))
        loop = icu.Loop(
            count=rng.choice([1, 2, rng.randrange(3, 6)]),
            length=len(block),
            stride=rng.randrange(-2048, 2048),
        )
        words += [*block, loop.encode()]
    if rng.random() < 0.7:
        # Around all of it or the last part of it, where no block is cut.
        first = len(words) - len(block) - 1 if rng.random() < 0.3 else 0
        outer = icu.Loop(
            count=rng.choice([1, 2]),
            length=len(words) - first,
            level=1,
            stride=rng.randrange(-2048, 2048),
        )
        words.append(outer.encode())
    return words


def duration(number: int, words: list[int]) -> int:
    return expand(CONFIG, {number: np.array([*words, 0], np.uint64)})[number].halt


def random_programs(rng: random.Random, start: int) -> Programs:
    """Return programs at word ``start`` that meet at two Syncs; one queue notifies the others."""
    notifier = rng.choice(NUMBERS)
    programs: Programs = {number: [random_nop(rng)] * start for number in NUMBERS}
    segments: Programs = {}
    for _ in range(2):
        for number, kind in KINDS.items():
            segments[number] = random_segment(rng, kind)
        times = {number: duration(number, words) for number, words in segments.items()}
        slowest = max(times.values()) + icu.notify_latency(CONFIG)
        for number, words in segments.items():
            programs[number] += words
            if number != notifier:
                programs[number].append(icu.Sync().encode())
            else:
                wait = slowest - times[number] + rng.randrange(3)
                programs[number] += [icu.NOP(count=wait).encode(), icu.Notify().encode()]
    for number, kind in KINDS.items():
        programs[number] += [*random_segment(rng, kind), icu.Halt().encode()]
    assert max(len(words) for words in programs.values()) <= CONFIG.imem_words
    return programs


async def reset(dut) -> None:
    for name in ("launch", "start", "host_en", "host_we", "host_addr", "host_wdata"):
        getattr(dut, name).value = 0
    dut.rst.value = 1
    Clock(dut.clk, PERIOD, unit="ns").start(start_high=False)
    for _ in range(2):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


async def load(dut, programs: Programs) -> None:
    """Write the programs through the host port, and read them back."""
    for index, number in enumerate(NUMBERS):
        dut.host_en.value, dut.host_we.value = 1 << index, 1
        for address, word in enumerate(programs[number]):
            dut.host_addr.value, dut.host_wdata.value = address, word
            await FallingEdge(dut.clk)
        dut.host_we.value = 0
        for address, word in enumerate(programs[number]):
            dut.host_addr.value = address
            await FallingEdge(dut.clk)
            found = dut.host_rdata.value.to_unsigned() >> index * WORD_BITS
            assert found & (1 << WORD_BITS) - 1 == word & stored_bits(KINDS[number], CONFIG)
    dut.host_en.value = 0


async def run(dut, programs: Programs, start: int) -> int:
    """Launch, and compare all queues in each cycle; return how many instructions they issued."""
    arrays = {number: np.array(words, np.uint64) for number, words in programs.items()}
    expected = expand(CONFIG, arrays, start)
    words: dict[int, int] = {}
    halts, low = [], 0
    for number, kind in KINDS.items():
        found = expected[number]
        for cycle, word in zip(found.cycles.tolist(), found.words.tolist(), strict=True):
            # Strides that leave the slice are added modulo its size, see ``address_field``.
            words[cycle] = words.get(cycle, 0) | (word & unit_bits(kind, CONFIG)) << low
        halts.append(found.halt)
        low += word_bits(kind)
    dut.launch.value, dut.start.value = 1, start
    await FallingEdge(dut.clk)
    dut.launch.value = 0
    # The bus carries an instruction one cycle before the unit's register holds it.
    for cycle in range(1 - launch_latency(CONFIG), max(halts) + 4):
        assert dut.words.value.to_unsigned() == words.get(cycle + 1, 0), f"cycle {cycle + 1}"
        halted = sum((cycle >= halt) << index for index, halt in enumerate(halts))
        assert dut.halted.value.to_unsigned() == halted, f"cycle {cycle}"
        assert not dut.error.value.to_unsigned(), f"cycle {cycle}"
        await FallingEdge(dut.clk)
    return sum(len(issues.cycles) for issues in expected.values())


def preloaded_programs(seed: int) -> Programs:
    return random_programs(random.Random(seed), 0)


@cocotb.test()
async def words_agree(dut) -> None:
    rng = random.Random(random.getrandbits(32))
    await reset(dut)
    issues = await run(dut, preloaded_programs(int(os.environ["PRELOADED"])), 0)
    for _ in range(RUNS):
        start = rng.choice([0, 1, rng.randrange(40)])
        programs = random_programs(rng, start)
        await load(dut, programs)
        issues += await run(dut, programs, start)
        # Launched again at once, nothing of the first run is left.
        issues += await run(dut, programs, start)
    print(f"{issues} issues")
    assert issues >= ISSUES


READ = Read(addr=1, dst=2)
SYNC, NOTIFY = icu.Sync(), icu.Notify()
LOOP = icu.Loop(count=2, length=2, stride=0)
BROKEN: dict[str, tuple[list[Instruction | int], list[Instruction]]] = {
    "illegal": ([7], []),
    "repeat_after_nop": ([icu.NOP(count=1), icu.Repeat(count=1, distance=1, stride=0)], []),
    "repeat_first": ([icu.Repeat(count=1, distance=1, stride=0)], []),
    "notify_in_a_loop": ([READ, NOTIFY, LOOP], []),
    "late_by_1": ([icu.NOP(count=2), SYNC], [READ, NOTIFY]),
    "late_by_2": ([icu.NOP(count=3), SYNC], [READ, NOTIFY]),
    "late_by_3": ([icu.NOP(count=4), SYNC], [READ, NOTIFY]),
}


@cocotb.test()
async def a_broken_rule_is_an_error(dut) -> None:
    """One of ``BROKEN``, named by the environment; the second program is of another queue."""
    first, second = BROKEN[os.environ["BROKEN"]]
    await reset(dut)
    programs: Programs = {number: [0] for number in NUMBERS}
    for number, ops in zip(NUMBERS, (first, second), strict=False):
        programs[number] = [op if isinstance(op, int) else op.encode() for op in ops] + [0]
    await load(dut, programs)
    dut.launch.value = 1
    errors = 0
    for _ in range(20):
        await FallingEdge(dut.clk)
        dut.launch.value = 0
        errors |= dut.error.value.to_unsigned()
    assert errors == 1


@cocotb.test()
async def a_second_launch_is_an_error(dut) -> None:
    await reset(dut)
    await load(dut, {number: [icu.NOP(count=9).encode(), 0] for number in NUMBERS})
    for launch in (1, 0, 0, 1):
        assert dut.error.value.to_unsigned() == 0
        dut.launch.value = launch
        await FallingEdge(dut.clk)
    assert dut.error.value.to_unsigned() == (1 << len(NUMBERS)) - 1


def test_every_word_agrees_with_the_sequence(tmp_path: Path) -> None:
    seed = int(os.environ.get("COCOTB_RANDOM_SEED", "1"))
    print(f"seed {seed}")
    for number, words in preloaded_programs(seed).items():
        image = imem_image(KINDS[number], CONFIG, np.array(words, np.uint64))
        (tmp_path / f"{IMEM_ID + number}.bin").write_bytes(image)
    verilator.run(
        simulator(),
        "test_icu_cosim",
        directory=tmp_path,
        testcase="words_agree",
        seed=seed,
        plusargs=[f"+waterclock={tmp_path}"],
        extra_env={"PRELOADED": str(seed)},
    )


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rule_raises_error(name: str) -> None:
    verilator.run(
        simulator(),
        "test_icu_cosim",
        testcase="a_broken_rule_is_an_error",
        plusargs=["+verilator+noassert"],
        extra_env={"BROKEN": name},
    )


def test_a_second_launch_raises_error() -> None:
    verilator.run(
        simulator(),
        "test_icu_cosim",
        testcase="a_second_launch_is_an_error",
        plusargs=["+verilator+noassert"],
    )

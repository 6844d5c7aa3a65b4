"""The cycles in which queues issue: every rule of the ICU, and every way to break one."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterclock.isa import Instruction, decode, icu, load_config, mem, sequence
from waterclock.isa.floorplan import queues
from waterclock.isa.sequence import Issues, SequenceError, expand, opcode_of
from waterclock.isa.text import assemble

CONFIG = load_config("small")
NAMES = {queue.name: queue for queue in queues(CONFIG)}
FIRST, SECOND, ALU = (NAMES[name] for name in ("MEM_W0.read", "MEM_W1.read", "VXM.alu0"))
READ = "read addr=10, dst=E0"
RESUME = icu.notify_latency(CONFIG)


def run(start: int = 0, **programs: str) -> dict[str, Issues]:
    """Expand programs by queue: ``first``, ``second`` or ``alu``; lines end with a semicolon."""
    by_name = {"first": FIRST, "second": SECOND, "alu": ALU}
    words = {
        by_name[name].index: assemble(by_name[name].kind, text.split(";"))
        for name, text in programs.items()
    }
    found = expand(CONFIG, words, start)
    return {name: found[by_name[name].index] for name in programs}


def issued(text: str, start: int = 0) -> list[tuple[int, int]]:
    """Return (cycle, address) of each issue of one queue."""
    found = run(start, first=text)["first"]
    ops = [decode("mem_read", int(word)) for word in found.words]
    return [(int(c), op.addr) for c, op in zip(found.cycles, ops, strict=True)]  # type: ignore[attr-defined]


def halt(text: str) -> int:
    return run(first=text)["first"].halt


def broken(message: str, **programs: str) -> None:
    with pytest.raises(SequenceError, match=message):
        run(**programs)


# NOP, units' instructions, Halt.


def test_instruction_is_issued_in_its_cycle_and_takes_one():
    assert issued(f"{READ}; {READ}; nop count=5; {READ}; halt") == [(0, 10), (1, 10), (7, 10)]
    assert halt(f"{READ}; {READ}; nop count=5; {READ}; halt") == 8


def test_nop_of_zero_counts_one():
    assert issued(f"nop count=0; {READ}; nop count=1; {READ}") == [(1, 10), (3, 10)]


def test_memory_that_was_never_loaded_halts():
    assert issued(READ) == [(0, 10)]
    assert halt(READ) == 1
    assert run(first="")["first"].halt == 0
    assert issued(f"{READ}; halt; {READ}") == [(0, 10)]


def test_queue_without_words_is_left_out():
    assert set(expand(CONFIG, {})) == set()
    assert set(expand(CONFIG, {FIRST.index: np.zeros(0, np.uint64)})) == {FIRST.index}


@pytest.mark.parametrize("index", [-1, len(NAMES)])
def test_queue_that_the_chip_does_not_have_is_a_mistake(index):
    with pytest.raises(SequenceError, match=rf"^queue {index}: the chip has {len(NAMES)} queues$"):
        expand(CONFIG, {index: np.zeros(1, np.uint64)})


def test_launch_begins_at_the_given_word():
    text = f"{READ}; halt; nop count=3; read addr=20, dst=E0"
    assert issued(text, start=2) == [(3, 20)]
    found = run(2, first=text)["first"]
    assert found.pcs.tolist() == [3]
    assert run(9, first=text)["first"].cycles.tolist() == []


# Repeat.


def test_repeat_issues_again_at_a_distance_and_adds_its_stride():
    text = f"nop count=2; {READ}; repeat count=3, distance=4, stride=-2; {READ}"
    assert issued(text) == [(2, 10), (6, 8), (10, 6), (14, 4), (15, 10)]
    found = run(first=text)["first"]
    assert found.pcs.tolist() == [1, 2, 2, 2, 3]
    assert found.halt == 16


def test_stride_goes_round_at_the_end_of_the_slice():
    last = CONFIG.depth - 1
    text = f"read addr={last}, dst=E0; repeat count=2, distance=1, stride=1"
    assert issued(text) == [(0, last), (1, 0), (2, 1)]


def test_rows_of_lw_go_round_at_the_end_of_a_tile():
    config = load_config("medium")
    queue = next(queue for queue in queues(config) if queue.kind == "mxm_lw")
    text = ["lw row=0, src=E0, order=ROWS", "repeat count=3, distance=1, stride=16"]
    found = expand(config, {queue.index: np.array(assemble("mxm_lw", text), np.uint64)})
    rows = [decode("mxm_lw", int(word)).row for word in found[queue.index].words]  # type: ignore[attr-defined]
    assert rows == [0, 16, 0, 16]


def test_repeat_of_an_instruction_without_an_address_ignores_the_stride():
    text = "mov a=imm, b=imm, dst=none, imm=0x7; repeat count=2, distance=1, stride=5"
    found = run(alu=text)["alu"]
    assert found.cycles.tolist() == [0, 1, 2]
    assert len(set(found.words.tolist())) == 1


# Loop.


def test_loop_goes_through_its_block_again_and_takes_one_cycle_each_time():
    text = f"{READ}; nop count=2; loop count=2, length=2, stride=100; {READ}"
    # The block takes three cycles and Loop one, three times.
    assert issued(text) == [(0, 10), (4, 110), (8, 210), (12, 10)]
    assert halt(text) == 13


def test_loop_adds_its_stride_on_top_of_a_repeat():
    text = (
        f"nop count=1; {READ}; repeat count=2, distance=3, stride=1; read addr=50, dst=E1;"
        "loop count=1, length=3, stride=-5"
    )
    once = [(1, 10), (4, 11), (7, 12), (8, 50)]
    again = [(cycle + 9, address - 5) for cycle, address in once]
    assert issued(text) == once + again
    assert run(first=text)["first"].pcs.tolist() == 2 * [1, 2, 2, 3]


def test_loops_may_follow_each_other():
    text = (
        f"{READ}; loop count=1, length=1, stride=1;"
        "read addr=20, dst=E0; loop count=2, length=1, stride=2"
    )
    assert issued(text) == [(0, 10), (2, 11), (4, 20), (6, 22), (8, 24)]


def test_loops_nest_two_deep_and_their_strides_add_up():
    inner = f"{READ}; loop count=1, length=1, stride=1"
    text = f"{inner}; read addr=50, dst=E0; loop count=1, length=3, level=1, stride=100; {READ}"
    once = [(0, 10), (2, 11), (4, 50)]
    again = [(cycle + 6, address + 100) for cycle, address in once]
    assert issued(text) == [*once, *again, (12, 10)]


def test_addresses_that_are_still_leave_out_a_level():
    block = "; ".join(f"read addr={10 * still}, still={still}, dst=E0" for still in range(4))
    text = (
        f"{block}; loop count=1, length=4, stride=1; loop count=1, length=5, level=1, stride=100; "
        "read addr=99, dst=E0"
    )
    found = [address for _, address in issued(text)]
    assert found[:8] == [0, 10, 20, 30, 1, 10, 21, 30]
    assert found[8:] == [100, 110, 20, 30, 101, 110, 21, 30, 99]


def test_repeat_moves_addresses_that_are_still():
    text = (
        "read addr=10, still=1, dst=E0; repeat count=1, distance=1, stride=3; "
        "loop count=1, length=2, stride=7"
    )
    assert [address for _, address in issued(text)] == [10, 13, 10, 13]


# Sync and Notify.


def test_sync_resumes_after_a_notify_and_the_notifier_goes_on():
    alu = "nop count=7; notify; mov a=imm, b=imm, dst=none, imm=0x0"
    found = run(first=f"{READ}; sync; {READ}", second=f"sync; {READ}", alu=alu)
    assert found["first"].cycles.tolist() == [0, 7 + RESUME]
    assert found["second"].cycles.tolist() == [7 + RESUME]
    assert found["alu"].cycles.tolist() == [8]
    assert found["first"].halt == 7 + RESUME + 1


def test_sync_may_be_reached_in_the_cycle_of_the_notify():
    found = run(first=f"nop count=7; sync; {READ}", alu="nop count=7; notify")
    assert found["first"].cycles.tolist() == [7 + RESUME]


def test_each_sync_waits_for_a_notify_of_its_own():
    found = run(
        first=f"sync; {READ}; sync; {READ}",
        second=f"sync; {READ}; nop count=2; notify; {READ}",
        alu="nop count=3; notify",
    )
    assert found["first"].cycles.tolist() == [3 + RESUME, 6 + RESUME + RESUME]
    assert found["second"].cycles.tolist() == [3 + RESUME, 7 + RESUME]


def test_notifies_in_one_cycle_release_once():
    found = run(
        first=f"sync; {READ}; sync; {READ}",
        second="nop count=3; notify",
        alu="nop count=3; notify; nop count=20; notify",
    )
    assert found["first"].cycles.tolist() == [3 + RESUME, 24 + RESUME]


def test_notify_that_nobody_waits_for_does_nothing():
    assert run(first=f"notify; {READ}")["first"].cycles.tolist() == [1]


# Rules broken.


REPEAT = "repeat count=1, distance=1, stride=0"
LOOP = "loop count=1, length=1, stride=0"
OUTER = "loop count=1, length=2, level=1, stride=0"


@pytest.mark.parametrize("before", ["", "nop count=1;", f"{READ}; {REPEAT};", f"{READ}; {LOOP};"])
def test_repeat_must_follow_an_instruction_of_a_unit(before):
    message = r"^MEM_W0\.read word [0-2]: Repeat does not follow a unit's instruction$"
    broken(message, first=f"{before} {REPEAT}")


def test_repeat_must_not_follow_a_sync():
    message = r"^MEM_W0\.read word 1: Repeat does not follow a unit's instruction$"
    broken(message, first=f"sync; {REPEAT}", alu="notify")


def test_block_must_not_begin_with_a_repeat():
    text = f"{READ}; {REPEAT}; loop count=1, length=1, stride=0"
    broken(r"^MEM_W0\.read word 1: Repeat does not follow a unit's instruction$", first=text)


@pytest.mark.parametrize("fields", ["count=0, distance=1", "count=1, distance=0"])
def test_repeat_must_have_a_count_and_a_distance(fields):
    message = r"^MEM_W0\.read word 1: Repeat with a count or distance of zero$"
    broken(message, first=f"{READ}; repeat {fields}, stride=0")


@pytest.mark.parametrize("fields", ["count=0, length=1", "count=1, length=0", "count=1, length=2"])
def test_loop_must_have_a_count_and_a_block_that_exists(fields):
    message = r"^MEM_W0\.read word 1: Loop with a count or length that cannot be$"
    broken(message, first=f"{READ}; loop {fields}, stride=0")


def test_blocks_must_not_nest():
    text = f"{READ}; {LOOP}; loop count=1, length=2, stride=0"
    broken(r"^MEM_W0\.read word 1: Loop inside the block of another$", first=text)


def test_block_of_a_higher_level_must_not_be_within_one_of_a_lower():
    text = f"{READ}; loop count=1, length=1, level=1, stride=0; loop count=1, length=2, stride=0"
    broken(r"^MEM_W0\.read word 1: Loop inside the block of another$", first=text)


def test_inner_block_must_not_begin_before_the_outer():
    text = f"{READ}; {READ}; loop count=1, length=2, stride=0; {OUTER}"
    assert len(issued(text.replace("length=2,", "length=1,", 1))) == 5
    broken(r"^MEM_W0\.read word 2: Loop inside the block of another$", first=text)


def test_levels_must_be_those_of_the_chip():
    config = dataclasses.replace(CONFIG, loops=1)
    words = np.array(assemble("mem_read", [READ, OUTER]), np.uint64)
    message = r"^MEM_W0\.read word 1: Loop of a level that the chip does not have$"
    with pytest.raises(SequenceError, match=message):
        expand(config, {FIRST.index: words})


@pytest.mark.parametrize("word", ["sync", "notify"])
def test_block_must_hold_no_sync_or_notify(word):
    text = f"{READ}; {word}; loop count=1, length=2, stride=0"
    message = rf"^MEM_W0\.read word 1: {word} inside the block of a Loop$"
    broken(message, first=text, alu="nop count=3; notify; nop count=20; notify")


def test_sync_must_get_a_notify():
    broken(r"^MEM_W0\.read: Sync waits for a Notify that never comes$", first="sync")
    broken("never comes", first="sync; sync", alu="notify")


def test_sync_must_be_reached_before_its_notify():
    message = r"^MEM_W0\.read: Sync is reached in cycle 5, after the Notify in cycle 4$"
    broken(message, first="nop count=5; sync", alu="nop count=4; notify")


def test_words_must_be_instructions_of_the_queue():
    message = r"^MEM_W0\.read word 1: mem_read: opcode 10 is no instruction of this queue$"
    with pytest.raises(SequenceError, match=message):
        expand(CONFIG, {FIRST.index: np.array([icu.NOP(count=1).encode(), 10], np.uint64)})


def test_queue_must_not_issue_without_end(monkeypatch):
    monkeypatch.setattr(sequence, "MAX_ISSUES", 100)
    text = f"{READ}; loop count=98, length=1, stride=0"
    assert len(issued(text)) == 99
    message = r"^MEM_W0\.read word 2: more than 100 issues$"
    broken(message, first=f"{text.replace('98', '99')}; {READ}")


# Against a machine that reads one word after the other.


def stepped(program: list[Instruction]) -> tuple[list[tuple[int, int]], int]:
    """Return (cycle, address) of each issue, and the cycle of the halt: rules word by word."""
    found: list[tuple[int, int]] = []
    cycle = pc = 0
    rounds = [0, 0]

    def address_of(op: mem.Read, pc: int) -> int:
        moved = op.addr
        for level in (0, 1):  # the block that a word is in, if any, ends with the next such Loop
            loops = [i for i, op in enumerate(program) if isinstance(op, icu.Loop)]
            own = [
                i for i in loops if program[i].level == level and i > pc >= i - program[i].length
            ]  # type: ignore[attr-defined]
            if own and not op.still >> level & 1:
                moved += program[own[0]].stride * rounds[level]  # type: ignore[attr-defined]
        return moved % CONFIG.depth

    while pc < len(program):
        op = program[pc]
        if isinstance(op, icu.NOP):
            cycle += op.count or 1
        elif isinstance(op, icu.Repeat):
            issue, address = cycle - 1, found[-1][1]
            for k in range(1, op.count + 1):
                found.append((issue + k * op.distance, (address + k * op.stride) % CONFIG.depth))
            cycle = found[-1][0] + 1
        elif isinstance(op, icu.Loop):
            cycle += 1
            rounds[op.level] += 1
            if rounds[op.level] <= op.count:
                pc -= op.length
                continue
            rounds[op.level] = 0
        else:
            assert isinstance(op, mem.Read)
            found.append((cycle, address_of(op, pc)))
            cycle += 1
        pc += 1
    return found, cycle


@st.composite
def legal_programs(draw: st.DrawFn) -> list[Instruction]:
    """Draw blocks, each of Reads with or without a Repeat and of NOPs, looped or not.

    Some blocks with their Loops are a block of level 1.
    """
    program: list[Instruction] = []
    signed = st.integers(-2048, 2047)
    begin = 0
    for _ in range(draw(st.integers(1, 5))):
        block: list[Instruction] = []
        for _ in range(draw(st.integers(1, 5))):
            if draw(st.booleans()):
                block.append(icu.NOP(count=draw(st.integers(0, 9))))
                continue
            address, still = draw(st.integers(0, CONFIG.depth - 1)), draw(st.integers(0, 3))
            block.append(mem.Read(addr=address, still=still, dst=0))
            if draw(st.booleans()):
                count, distance = draw(st.integers(1, 5)), draw(st.integers(1, 5))
                block.append(icu.Repeat(count=count, distance=distance, stride=draw(signed)))
        program += block
        if draw(st.booleans()):
            count = draw(st.integers(1, 4))
            program.append(icu.Loop(count=count, length=len(block), stride=draw(signed)))
        if draw(st.booleans()):
            count, length = draw(st.integers(1, 3)), len(program) - begin
            program.append(icu.Loop(count=count, length=length, level=1, stride=draw(signed)))
            begin = len(program)
    return program


@settings(max_examples=300, deadline=None, derandomize=True)
@given(program=legal_programs())
def test_issues_are_those_of_a_machine_that_reads_word_by_word(program):
    words = np.array([op.encode() for op in program], np.uint64)
    found = expand(CONFIG, {FIRST.index: words})[FIRST.index]
    ops = [decode("mem_read", int(word)) for word in found.words]
    expected, end = stepped(program)
    mine = [(int(c), op.addr) for c, op in zip(found.cycles, ops, strict=True)]  # type: ignore[attr-defined]
    assert mine == expected
    assert found.halt == end
    assert all(isinstance(program[pc], (mem.Read, icu.Repeat)) for pc in found.pcs)
    assert (opcode_of(found.words) == mem.Read.opcode).all()

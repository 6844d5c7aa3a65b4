"""Reads that the golden machine executes as one event give what they give one by one."""

import random

import numpy as np
import pytest
from numpy.typing import NDArray

from waterclock.isa import icu, mem
from waterclock.isa.config import load_config
from waterclock.isa.floorplan import Hemisphere, mem_column, queue_numbers
from waterclock.isa.program import Schedule
from waterclock.isa.streams import Direction, stream
from waterclock.sim import plan
from waterclock.sim.golden import Golden
from waterclock.sim.port import Hazard

CONFIG = load_config("small")
WEST = Hemisphere.WEST
CYCLES, ROWS, SLICES = 150, 40, 6


def words(issues: dict[int, mem.Read] | dict[int, mem.Write]) -> NDArray[np.uint64]:
    """Return queue words for an instruction in each of some cycles."""
    nothing = icu.NOP(count=1)
    last = max(issues, default=0)
    return np.array([issues.get(i, nothing).encode() for i in range(last + 1)], np.uint64)


def schedule(rng: random.Random) -> Schedule:
    """Return reads of some slices in most cycles, and writes of what they put on streams.

    A slice is written in the bank that it reads in the cycles between, and seldom in others.
    """
    reads: list[dict[int, mem.Read]] = []
    for index in range(SLICES):
        row, first = rng.randrange(ROWS), CONFIG.rows * (index % 2)
        dst = stream(Direction.EAST, index)
        found: dict[int, mem.Read] = {}
        for cycle in range(CYCLES):
            row = rng.randrange(ROWS) if rng.random() < 0.05 else (row + 1) % ROWS
            if rng.random() < 0.9:
                found[cycle] = mem.Read(addr=first + row, dst=dst)
        reads.append(found)
    writes: list[dict[int, mem.Write]] = [{} for _ in range(SLICES)]
    for index, found in enumerate(reads):
        for cycle in found:
            target = rng.randrange(index + 1)  # nearer to the VXM, or the same
            hops = mem_column(CONFIG, WEST, target) - mem_column(CONFIG, WEST, index)
            at = cycle + mem.read_latency(CONFIG) + hops
            same = at not in reads[target] or rng.random() < 0.003
            first = CONFIG.rows * ((target + (not same)) % 2)
            if rng.random() < 0.3:
                address = first + rng.randrange(ROWS)
                writes[target][at] = mem.Write(addr=address, src=stream(Direction.EAST, index))
    numbers = queue_numbers(CONFIG)
    programs = {numbers["mem_read", WEST, i]: words(found) for i, found in enumerate(reads)}
    programs |= {numbers["mem_write", WEST, i]: words(found) for i, found in enumerate(writes)}
    return scheduled(programs)


def scheduled(programs: dict[int, NDArray[np.uint64]]) -> Schedule:
    """Return a schedule with these words and nothing else."""
    none = np.zeros((0, 1), np.int64)
    return Schedule(
        context=1, start=0, cycles=0, words=programs, operations=(), served={}, intents={},
        regions=none, results=none,
    )  # fmt: skip


def outcome(program: Schedule, seed: int) -> tuple[object, ...]:
    """Return all writes of a run, or in which cycle of which slice it broke off."""
    rng = np.random.default_rng(seed)
    memory = {
        (0, i, bank * CONFIG.rows): rng.integers(0, 256, (ROWS, CONFIG.vector), dtype=np.uint8)
        for i in range(SLICES)
        for bank in range(2)
    }
    try:
        run = Golden(CONFIG, memory).run(program)
    except Hazard as hazard:
        return ("hazard", str(hazard).split(":")[2:])
    return (run.cycles, *((*where, data.tolist()) for *where, data in run.writes))


def test_runs_of_reads_are_as_good_as_single_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    programs = [schedule(rng) for _ in range(20)]
    together = [outcome(program, seed) for program in programs]
    monkeypatch.setattr(
        plan, "_runs", lambda issues, written: ([], np.ones(len(issues.cycles), bool))
    )
    assert [outcome(program, seed) for program in programs] == together
    complete = sum(found[0] != "hazard" for found in together)
    assert 0 < complete < len(programs)  # both occur


def test_the_read_of_a_run_that_was_never_written_is_named() -> None:
    number = queue_numbers(CONFIG)["mem_read", WEST, 0]
    op = mem.Read(addr=ROWS - 2, dst=0)
    issues = [op.encode(), icu.Repeat(distance=1, count=5, stride=1).encode()]
    program = scheduled({number: np.array(issues, np.uint64)})
    golden = Golden(CONFIG, {(0, 0, 0): np.zeros((ROWS, CONFIG.vector), np.uint8)})
    with pytest.raises(Hazard, match=f"cycle 2: MEM_W0: read: address {ROWS} was never written"):
        golden.run(program)

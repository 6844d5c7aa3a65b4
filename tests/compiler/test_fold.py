"""Folding: the words issue what they were made from, and even patterns take few of them."""

import dataclasses

import numpy as np
import pytest

from waterclock.compiler.fold import Fields, fold
from waterclock.isa import icu, load_config, mem
from waterclock.isa.floorplan import queues
from waterclock.isa.sequence import expand

CONFIG = load_config("nano")
QUEUE = next(queue for queue in queues(CONFIG) if queue.kind == "mem_read")
FAR = 1 << 40
FIELDS = Fields.of("mem_read", CONFIG)

Issues = tuple[np.ndarray, np.ndarray]


def issues(found: list[tuple[int, int]]) -> Issues:
    """Return (cycle, address) of Reads as columns."""
    cycles = np.array([cycle for cycle, _ in found], np.int64)
    words = [mem.Read(addr=address, dst=0).encode() for _, address in found]
    return cycles, np.array(words, np.int64)


def played(words: list[int]) -> tuple[list[tuple[int, int]], int]:
    """Return (cycle, address) of what words issue, and the cycle after them."""
    code = np.array([*words, icu.Halt().encode()], np.uint64)
    found = expand(CONFIG, {QUEUE.index: code})[QUEUE.index]
    addresses = found.words >> np.uint64(FIELDS.low) & np.uint64(FIELDS.mask)
    return list(zip(found.cycles.tolist(), addresses.tolist(), strict=True)), found.halt


def pattern(rng: np.random.Generator, start: int) -> list[tuple[int, int]]:
    """Return a block that comes back, some of its addresses moving by one stride."""
    gaps = rng.integers(1, 5, rng.integers(1, 6))
    offsets = np.cumsum(gaps) - gaps[0]
    base = rng.integers(0, 4000, len(gaps))
    moves = rng.random(len(gaps)) < 0.6
    stride, rounds = int(rng.integers(-9, 10)), int(rng.integers(1, 80))
    period = int(offsets[-1]) + int(rng.integers(1, 5))
    return [
        (start + k * period + int(at), int(address + k * stride * move) & FIELDS.mask)
        for k in range(rounds)
        for at, address, move in zip(offsets, base, moves, strict=True)
    ]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("loops", [False, True])
def test_words_issue_what_they_were_made_from(seed, loops):
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    found: list[tuple[int, int]] = []
    while len(found) < 150:
        found += pattern(rng, found[-1][0] + int(rng.integers(1, 8)) if found else 3)
    end = found[-1][0] + int(rng.integers(2, 9))
    words = fold(FIELDS, *issues(found), 0, end, loops=loops)
    assert played(words) == (found, end)


def test_a_block_with_addresses_that_stand_still_takes_a_loop():
    found = [
        (10 * k + at, address) for k in range(20) for at, address in ((0, 7), (3, 100 + 2 * k))
    ]
    assert len(fold(FIELDS, *issues(found), 0, FAR, loops=True, wait=False)) == 5
    without = dataclasses.replace(FIELDS, still=None)
    assert len(fold(without, *issues(found), 0, FAR, loops=True, wait=False)) > 5


def test_a_block_of_repeats_takes_a_loop():
    found = [(20 * k + at, 100 * k + 3 * at) for k in range(30) for at in range(16)]
    assert len(fold(FIELDS, *issues(found), 0, FAR, loops=True, wait=False)) == 4


def test_no_loop_goes_on_beyond_the_end():
    found = [(6 * k + at, k) for k in range(5) for at in (0, 2)]
    for end in range(27, 33):
        assert played(fold(FIELDS, *issues(found), 0, end, loops=True)) == (found, end)


def test_nothing_is_waited_for():
    none = np.zeros(0, np.int64)
    assert fold(FIELDS, none, none, 3, 10, loops=True) == [icu.NOP(count=7).encode()]
    assert fold(FIELDS, none, none, 3, FAR, loops=True, wait=False) == []

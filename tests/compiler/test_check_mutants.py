"""What the checker accepts is right: mutants of programs, run on the golden machine.

Every instruction is moved by a cycle and every stream and address is changed by one. A mutant may
be harmless; one that is not must be rejected.
"""

import copy
import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
from check_bench import TOKEN, Bench, adder, embedder, multiplier

from waterclock.compiler.check import ScheduleError
from waterclock.isa.floorplan import Hemisphere, queues
from waterclock.isa.spec import Role
from waterclock.isa.text import parse, to_text
from waterclock.sim.golden import Golden

SEED = 1107


def load(bench: Bench) -> None:
    """Fill the memory image with random data wherever an extent says that there is some."""
    random = np.random.default_rng(SEED)
    for side, index, first, step, count, value, _, byte in bench.extents:
        for i in range(count):
            data = random.integers(0, 128, (1, bench.config.vector), np.uint8)
            if value == TOKEN:
                data[:] = 1 - byte  # the number 1
            bench.memory[side, index, first + i * step] = data
    for (side, index, first), data in list(bench.memory.items()):
        if len(data) > 1:
            bench.memory[side, index, first] = random.integers(0, 128, data.shape, np.uint8)


def mutants(bench: Bench) -> Iterator[tuple[str, Bench]]:
    """Go through all programs that differ from ``bench`` in one number of one instruction."""
    kinds = {queue.name: queue.kind for queue in queues(bench.config)}
    for number, placed in enumerate(bench.placed):
        busy = [p.cycle + k for p in bench.placed if p.queue == placed.queue for k in (0, 1)]
        for cycle in (placed.cycle - 1, placed.cycle + 1):
            if cycle >= 0 and (cycle not in busy or len(busy) == 2):
                mutant = copy.deepcopy(bench)
                mutant.placed[number].cycle = cycle
                yield f"{placed.queue}: {placed.text} in cycle {cycle}", mutant
        op = parse(kinds[placed.queue], placed.text)
        for spec in op.operands:
            for value in (getattr(op, spec.name) + step for step in (-1, 1, 32)):
                if spec.role is not Role.CONST and spec.holds(value):
                    mutant = copy.deepcopy(bench)
                    text = to_text(dataclasses.replace(op, **{spec.name: value}))
                    mutant.placed[number].text = text
                    yield f"{placed.queue}: {text} for {placed.text}", mutant
        for field in (0, 1):
            if len(placed.intents) > 1:
                mutant = copy.deepcopy(bench)
                repeat = list(placed.repeat)
                repeat[field] += 1
                mutant.placed[number].repeat = (repeat[0], repeat[1])
                yield f"{placed.queue}: {placed.text} repeat {repeat}", mutant


def outcome(bench: Bench) -> list[np.ndarray]:
    """Return what the golden machine leaves in the rows of the results."""
    golden = Golden(bench.config, bench.memory)
    golden.run(bench.schedule())
    rows = [(Hemisphere(side), index, row) for side, index, row, _, _ in bench.results]
    return [golden.slices[side, index].peek(row) for side, index, row in rows]


@pytest.mark.parametrize("make", [adder, multiplier, embedder])
def test_accepted_mutants_are_harmless(make):
    bench = make()
    load(bench)
    bench.check()
    right = outcome(bench)
    accepted, rejected = [], 0
    for name, mutant in mutants(bench):
        try:
            mutant.check()
        except ScheduleError:
            rejected += 1
            continue
        accepted.append(name)
        for found, expected in zip(outcome(mutant), right, strict=True):
            np.testing.assert_array_equal(found, expected, err_msg=f"seed {SEED}: {name}")
    assert rejected > 10 * len(accepted), accepted

"""Mutants of a real program: the checker rejects them, or they do no harm."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from waterclock import Program, story
from waterclock.compiler.check import ScheduleError, check_schedule
from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.compiler.compile import compile_model
from waterclock.compiler.source import find_model, load_source
from waterclock.isa import icu
from waterclock.isa.config import load_config
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import queues
from waterclock.isa.program import Schedule
from waterclock.isa.spec import Role, decode
from waterclock.sim.golden import machine

MUTANTS = 320
SEED = 20261121
TOKENS = 2
SLICE_LAYERS, SLICE_VOCAB = 2, 1024


def mutate(program: Program, schedule: Schedule, rng: np.random.Generator) -> Schedule:
    """Return a schedule with one change: an instruction moved, an operand, a repeat count."""
    kinds = {queue.index: queue.kind for queue in queues(program.config)}
    while True:
        index = int(rng.choice(list(schedule.words)))
        words = schedule.words[index].copy()
        place = int(rng.integers(len(words)))
        op = decode(kinds[index], int(words[place]))
        if isinstance(op, icu.NOP):
            # The next instruction moves by a cycle; a NOP after it keeps the others in place.
            later = [
                i for i in range(place + 1, len(words))
                if isinstance(decode(kinds[index], int(words[i])), icu.NOP)
            ]  # fmt: skip
            step = int(rng.choice([-1, 1]))
            if not later or op.count + step < 1:
                continue
            other = decode(kinds[index], int(words[later[0]]))
            assert isinstance(other, icu.NOP)
            if other.count - step < 1:
                continue
            words[place] = icu.NOP(count=op.count + step).encode()
            words[later[0]] = icu.NOP(count=other.count - step).encode()
        elif isinstance(op, icu.Repeat):
            count = op.count + int(rng.choice([-1, 1]))
            if count < 1:
                continue
            words[place] = dataclasses.replace(op, count=count).encode()
        else:
            roles = (Role.ADDRESS, Role.READS, Role.WRITES)
            specs = [spec for spec in op.operands if spec.role in roles]
            if not specs:
                continue
            spec = specs[int(rng.integers(len(specs)))]
            value = getattr(op, spec.name) ^ 1 << int(rng.integers(spec.bits))
            words[place] = dataclasses.replace(op, **{spec.name: value}).encode()
        return dataclasses.replace(schedule, words={**schedule.words, index: words})


def results(program: Program, schedule: Schedule) -> list[bytes]:
    """Return what a few runs of a schedule leave for the host."""
    golden = machine(program)
    token = np.full(program.config.vector, 1, np.int32)
    golden.write(program.ports["token"], token)
    found = []
    for _ in range(TOKENS):
        golden.run(schedule)
        found += [golden.read(port).tobytes() for port in program.ports.values()]
    return found


def slice_of_smollm2() -> Program:
    """Return a program of the first layers of SmolLM2, with the first words of its vocabulary."""
    try:
        checkpoint = load_source(find_model("smollm2")).checkpoint
    except UserError as error:
        pytest.skip(str(error))
    tensors = {
        name: value for name, value in checkpoint.tensors.items()
        if not name.startswith("layers.") or int(name.split(".")[1]) < SLICE_LAYERS
    }  # fmt: skip
    tensors["embed"] = tensors["embed"][:SLICE_VOCAB]
    part = dataclasses.replace(
        checkpoint, layers=SLICE_LAYERS, vocab=SLICE_VOCAB, tensors=tensors
    )  # fmt: skip
    return compile_model(part, load_config("medium"), 64)


def embedded() -> Program:
    """Return the program of the embedded model."""
    return compile_model(load_checkpoint(story()), load_config("small"), 64)


@pytest.mark.parametrize(
    ("made", "mutants"),
    [
        pytest.param(embedded, MUTANTS, id="story"),
        pytest.param(slice_of_smollm2, MUTANTS // 2, id="smollm2", marks=pytest.mark.long),
    ],
)
def test_every_mutant_is_rejected_or_harmless(made: Callable[[], Program], mutants: int) -> None:
    program = made()
    schedule = program.schedules[0]
    check_schedule(program, schedule)
    expected = results(program, schedule)
    rng = np.random.default_rng(SEED)
    rejected = harmless = 0
    for _ in range(mutants):
        mutant = mutate(program, schedule, rng)
        try:
            check_schedule(program, mutant)
        except ScheduleError:
            rejected += 1
            continue
        assert results(program, mutant) == expected
        harmless += 1
    print(f"seed {SEED}: {rejected} mutants rejected, {harmless} accepted and harmless")
    assert rejected + harmless == mutants
    assert rejected > 0

"""Engines: three ways to run a program, one token after the other."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.program import Program, Schedule
from waterclock.sim.golden import machine
from waterclock.sim.tensor import TensorModel


@dataclasses.dataclass(frozen=True)
class Step:
    """What one token gave: the next token by the machine's own choice, logits, cycles."""

    next: int
    logits: NDArray[np.float32]  #: (vocab,)
    cycles: int


class Engine(Protocol):
    """Runs a program from its first position on."""

    def run(self, prompt: Sequence[int], steps: int) -> Iterator[Step]:
        """Feed the prompt, then each step's choice, ``steps`` tokens in all; yield every step."""
        ...


def schedule_at(program: Program, position: int) -> Schedule:
    """Return the schedule of the smallest bucket that holds ``position``."""
    return next(schedule for schedule in program.schedules if position < schedule.context)


class TensorEngine:
    """The tensor model; its cycles are those that the schedules predict."""

    def __init__(self, program: Program):
        self.program = program
        self.model = TensorModel(program.model, program.tensors, program.config.vector)

    def run(self, prompt: Sequence[int], steps: int) -> Iterator[Step]:
        """See ``Engine``."""
        self.model.reset()
        token = prompt[0]
        for position in range(steps):
            token = prompt[position] if position < len(prompt) else token
            logits = self.model.step(token)
            token = int(logits.argmax())
            yield Step(token, logits, schedule_at(self.program, position).cycles)


class GoldenEngine:
    """The golden machine, executing the program's words."""

    def __init__(self, program: Program):
        self.program = program

    def run(self, prompt: Sequence[int], steps: int) -> Iterator[Step]:
        """See ``Engine``."""
        program = self.program
        golden = machine(program)
        ports, lanes = program.ports, program.config.vector
        for position in range(steps):
            if position < len(prompt):
                golden.write(ports["token"], np.full(lanes, prompt[position], np.int32))
            done = golden.run(schedule_at(program, position))
            logits = golden.read(ports["logits"]).astype(np.float32)
            token = int(golden.read(ports["token"])[0])
            yield Step(token, logits, done.cycles)

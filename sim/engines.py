"""Engines: three ways to run a model, one token after the other."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.program import Program, QuantisedModel, Schedule
from waterclock.sim.golden import machine
from waterclock.sim.signature import signature_of
from waterclock.sim.tensor import POSITIONS, TensorModel

#: Returns the next token from logits (vocab,): how a host chooses instead of the chip.
Choose = Callable[[NDArray[np.float32]], int]


@dataclasses.dataclass(frozen=True)
class Step:
    """What one token gave: the next token, logits, cycles.

    ``next`` is the machine's own choice, or the host's where it was asked. ``cycles`` is None
    where nothing is scheduled, ``signature`` where no memory is written (``isa/signature.py``).
    """

    next: int
    logits: NDArray[np.float32]  #: (vocab,)
    cycles: int | None
    signature: int | None = None


class Engine(Protocol):
    """Runs a model from any position on."""

    def run(
        self, tokens: Sequence[int], steps: int, position: int = 0, choose: Choose | None = None
    ) -> Iterator[Step]:
        """Feed ``tokens``, then each step's choice, ``steps`` tokens in all; yield every step.

        Parameters
        ----------
        position : int
            Where the first token goes; the cache of the positions before it is as earlier runs
            left it.
        choose : callable, optional
            Called with the logits of the last of ``tokens`` and of every later step; by default
            the machine chooses the largest.
        """
        ...

    def close(self) -> None:
        """End what the engine started; it is not used any more."""
        ...


def schedule_at(program: Program, position: int) -> Schedule:
    """Return the schedule of the smallest bucket that holds ``position``."""
    return next(schedule for schedule in program.schedules if position < schedule.context)


class TensorEngine:
    """The tensor model; its cycles are those that the schedules predict, if there are some."""

    def __init__(self, model: QuantisedModel):
        self.program = model if isinstance(model, Program) else None
        self.model = TensorModel(model.model, model.tensors, model.config.vector)

    def run(
        self, tokens: Sequence[int], steps: int, position: int = 0, choose: Choose | None = None
    ) -> Iterator[Step]:
        """See ``Engine``."""
        done, block = 0, list(tokens[: min(steps, POSITIONS)])
        while done < steps:
            self.model.reset(position + done)
            token = 0
            for logits in self.model.feed(block):
                token = int(logits.argmax())
                if choose is not None and done >= len(tokens) - 1:
                    token = choose(logits)
                yield Step(token, logits, self._cycles(position + done))
                done += 1
            block = list(tokens[done : min(steps, done + POSITIONS)]) or [token]

    def close(self) -> None:
        """See ``Engine``."""

    def _cycles(self, position: int) -> int | None:
        return schedule_at(self.program, position).cycles if self.program else None


class HostedEngine(ABC):
    """An engine whose host writes mailboxes, launches, and waits, one token after the other.

    Parameters
    ----------
    program : Program
        Loaded, so that position 0 is the next.
    """

    def __init__(self, program: Program):
        self.program = program
        self.position = 0  # in the mailbox

    @abstractmethod
    def put(self, port: str, values: NDArray[np.int32]) -> None:
        """Write a mailbox (vector,)."""

    @abstractmethod
    def launch(self, schedule: Schedule) -> Step:
        """Run a schedule, and return what the chip left."""

    def run(
        self, tokens: Sequence[int], steps: int, position: int = 0, choose: Choose | None = None
    ) -> Iterator[Step]:
        """See ``Engine``."""
        lanes = self.program.config.vector
        given = dict(enumerate(tokens))
        for index in range(steps):
            at = position + index
            if at != self.position:
                self.put("position", np.full(lanes, at, np.int32))
            if index in given:
                self.put("token", np.full(lanes, given[index], np.int32))
            step = self.launch(schedule_at(self.program, at))
            self.position = at + 1
            if choose is not None and index >= len(tokens) - 1:
                given[index + 1] = choose(step.logits)
                step = dataclasses.replace(step, next=given[index + 1])
            yield step


class GoldenEngine(HostedEngine):
    """The golden machine, executing the program's words."""

    def __init__(self, program: Program):
        super().__init__(program)
        self.golden = machine(program)

    def put(self, port: str, values: NDArray[np.int32]) -> None:
        """See ``HostedEngine``."""
        self.golden.write(self.program.ports[port], values)

    def launch(self, schedule: Schedule) -> Step:
        """See ``HostedEngine``."""
        golden, ports = self.golden, self.program.ports
        done = golden.run(schedule)
        logits = golden.read(ports["logits"]).astype(np.float32)
        signature = signature_of(self.program.config, done.cycles, done.writes)
        return Step(int(golden.read(ports["token"])[0]), logits, done.cycles, signature)

    def close(self) -> None:
        """See ``Engine``."""

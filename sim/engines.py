"""Engines: three ways to run a model, one token after the other."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.mxm import fraction_bits
from waterclock.isa.program import Program, QuantisedModel, Schedule
from waterclock.isa.vxm import partial_sums
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
    What belongs to a block of positions is told with its first one.
    """

    next: int
    logits: NDArray[np.float32]  #: (vocab,); (0,) where a block fed the position
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
    """Return the schedule of a token in the smallest bucket that holds ``position``."""
    return next(s for s in program.schedules if s.block == 1 and position < s.context)


@dataclasses.dataclass(frozen=True)
class Feed:
    """One run of the chip: ``count`` positions from ``position`` on; with one, it makes logits."""

    position: int
    count: int
    schedule: Schedule


def feeds(program: Program, tokens: int, steps: int, position: int = 0) -> Iterator[Feed]:
    """Yield the runs that feed ``tokens`` known tokens and then choices, ``steps`` in all.

    All known tokens but the last may go in blocks, as nobody wants their logits: wherever a
    block may begin and takes fewer cycles than the tokens that it feeds would alone.
    """
    at, end = position, position + steps
    while at < end:
        known = position + min(tokens, steps) - 1 - at
        feed = Feed(at, 1, schedule_at(program, at))
        for block in program.schedules:
            count = min(block.block, known)
            if count > 1 and at % block.block == 0 and at + block.block <= block.context:
                alone = sum(schedule_at(program, at + i).cycles for i in range(count))
                if block.cycles < alone:
                    feed = Feed(at, count, block)
                    break
        yield feed
        at += feed.count


def fed(feed: Feed, tokens: Sequence[int], step: Step) -> Iterator[Step]:
    """Yield the steps of a block, given ``tokens`` from the next on and what the chip left."""
    none = np.zeros(0, np.float32)
    yield Step(tokens[0], none, step.cycles, step.signature)
    for token in tokens[1 : feed.count]:
        yield Step(token, none, 0)


def block_of(program: Program, tokens: Sequence[int]) -> NDArray[np.uint16]:
    """Return what the port ``tokens`` takes: a token in all lanes of its row."""
    found = np.zeros(program.ports["tokens"].shape, np.uint16)
    found[: len(tokens)] = np.array(tokens, np.uint16)[:, None]
    return found


class TensorEngine:
    """The tensor model; its cycles are those that the schedules predict, if there are some."""

    def __init__(self, model: QuantisedModel):
        self.program = model if isinstance(model, Program) else None
        config = model.config
        self.model = TensorModel(
            model.model, model.tensors, config.vector, partial_sums(config), fraction_bits(config)
        )

    def run(
        self, tokens: Sequence[int], steps: int, position: int = 0, choose: Choose | None = None
    ) -> Iterator[Step]:
        """See ``Engine``."""
        done, block = 0, list(tokens[: min(steps, POSITIONS)])
        cycles = self._cycles(len(tokens), steps, position)
        while done < steps:
            self.model.reset(position + done)
            token = 0
            for logits in self.model.feed(block):
                token = int(logits.argmax())
                if choose is not None and done >= len(tokens) - 1:
                    token = choose(logits)
                yield Step(token, logits, next(cycles))
                done += 1
            block = list(tokens[done : min(steps, done + POSITIONS)]) or [token]

    def close(self) -> None:
        """See ``Engine``."""

    def _cycles(self, tokens: int, steps: int, position: int) -> Iterator[int | None]:
        if self.program is None:
            yield from [None] * steps
        else:
            for feed in feeds(self.program, tokens, steps, position):
                yield from [feed.schedule.cycles, *[0] * (feed.count - 1)]


class HostedEngine(ABC):
    """An engine whose host writes mailboxes, launches, and waits, one token after the other.

    Parameters
    ----------
    program : Program
        Loaded, so that position 0 is the next.
    """

    def __init__(self, program: Program):
        self.program = program
        self.position: int | None = 0  # in the mailbox, if it is known

    @abstractmethod
    def put(self, port: str, values: NDArray[np.generic]) -> None:
        """Write a mailbox."""

    @abstractmethod
    def launch(self, schedule: Schedule) -> Step:
        """Run a schedule, and return what the chip left; of a block only the cycles count."""

    def run(
        self, tokens: Sequence[int], steps: int, position: int = 0, choose: Choose | None = None
    ) -> Iterator[Step]:
        """See ``Engine``."""
        lanes = self.program.config.vector
        given = dict(enumerate(tokens))
        for feed in feeds(self.program, len(tokens), steps, position):
            at, index = feed.position, feed.position - position
            if at != self.position:
                self.put("position", np.full(lanes, at, np.int32))
                self.position = at
            if feed.schedule.block > 1:
                self.put("tokens", block_of(self.program, tokens[index : index + feed.count]))
                yield from fed(feed, tokens[index + 1 :], self.launch(feed.schedule))
                continue
            if index in given:
                self.put("token", np.full(lanes, given[index], np.int32))
            step = self.launch(feed.schedule)
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

    def put(self, port: str, values: NDArray[np.generic]) -> None:
        """See ``HostedEngine``."""
        self.golden.write(self.program.ports[port], values)

    def launch(self, schedule: Schedule) -> Step:
        """See ``HostedEngine``."""
        golden, ports = self.golden, self.program.ports
        done = golden.run(schedule)
        signature = signature_of(self.program.config, done.cycles, done.writes)
        if schedule.block > 1:
            return Step(0, np.zeros(0, np.float32), done.cycles, signature)
        logits = golden.read(ports["logits"]).astype(np.float32)
        return Step(int(golden.read(ports["token"])[0]), logits, done.cycles, signature)

    def close(self) -> None:
        """See ``Engine``."""

"""The plan of one schedule: reservations, issues, and the state of the MXM planes' entries."""

import dataclasses

from waterclock.compiler.fabric import Fabric, Trial
from waterclock.compiler.memory import Memory
from waterclock.isa import icu
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere, queue_numbers
from waterclock.isa.program import INTENTS
from waterclock.isa.spec import Instruction


def first_cycle(config: Config) -> int:
    """Return the cycle in which the queues resume after the Notify of cycle 0."""
    return icu.notify_latency(config)


class NoFitError(RuntimeError):
    """Something does not fit anywhere: the machine lacks a resource that it needs."""


@dataclasses.dataclass(frozen=True)
class Issue:
    """One instruction in one cycle, what its operands mean, and whom it serves."""

    cycle: int
    op: Instruction
    intents: tuple[int, ...]
    operation: int


@dataclasses.dataclass(frozen=True)
class Acc:
    """An accumulator that holds a finished vector: ACC may be issued from ``ready`` on."""

    side: Hemisphere
    plane: int
    entry: int
    value: int
    ready: int


@dataclasses.dataclass(frozen=True)
class Act:
    """An activation vector in a plane's buffer: ABC may be issued from ``ready`` on."""

    entry: int
    value: int
    ready: int


class Ring:
    """Entries handed out in turn; each is free again from a cycle that is set when it is known."""

    def __init__(self, count: int):
        self.count = count
        self.next = 0
        self.free_from = [0] * count

    def take(self, count: int) -> list[int]:
        """Return ``count`` entries."""
        if count > self.count:
            raise NoFitError(f"{count} MXM entries wanted at once, there are {self.count}")
        entries = [(self.next + i) % self.count for i in range(count)]
        self.next = (self.next + count) % self.count
        return entries


class Plan:
    """What has been scheduled so far for one context bucket."""

    def __init__(self, config: Config, memory: Memory, context: int):
        self.config, self.memory, self.context = config, memory, context
        self.fabric = Fabric(config)
        self.issues: dict[int, list[Issue]] = {}
        self.operations: list[str] = []
        self.operation = -1
        self.numbers = queue_numbers(config)
        self.regions: list[tuple[int, ...]] = []
        self.results: list[tuple[int, ...]] = []
        planes = [(side, plane) for plane in range(config.planes) for side in Hemisphere]
        self.planes = planes
        self.acts = {key: Ring(config.act_entries) for key in planes}
        self.accs = {key: Ring(config.acc_entries) for key in planes}
        self.installed = dict.fromkeys(planes, 0)  # cycle of the last IW
        self.last_abc = dict.fromkeys(planes, -1)
        self.end = 0

    def trial(self) -> Trial:
        """Return an empty trial on top of everything reserved."""
        return Trial(self.fabric)

    def serve(self, operation: str) -> None:
        """Name the model operation that the following issues serve."""
        if not self.operations or self.operations[-1] != operation:
            self.operations.append(operation)
        self.operation = len(self.operations) - 1

    def issue(
        self,
        kind: str,
        side: Hemisphere | None,
        unit: int,
        cycle: int,
        op: Instruction,
        intents: tuple[int, ...] = (),
    ) -> None:
        """Add one issue; ``intents`` are the columns of ``program.INTENTS`` for the queue."""
        assert len(intents) == len(INTENTS[kind]), (kind, intents)
        queue = self.numbers[kind, side, unit]
        self.issues.setdefault(queue, []).append(Issue(cycle, op, intents, self.operation))
        done = cycle + type(op).latency(self.config) + self.config.superlanes - 1
        self.end = max(self.end, done)

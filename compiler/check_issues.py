"""What the checker looks at: every issue of a schedule, as arrays, and what is wrong with it.

Part of ``check.py``. An issue has a number, its place in ``Issued.cycle``; all arrays that speak
of issues hold these numbers.
"""

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.floorplan import Queue, queues
from waterclock.isa.program import INTENTS, Schedule
from waterclock.isa.sequence import SequenceError, expand, opcode_of
from waterclock.isa.spec import ISA, Instruction

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class ScheduleError(ValueError):
    """A schedule that is not free of conflicts, or does not do what its intents say."""


@dataclasses.dataclass(frozen=True)
class Group:
    """All issues of one instruction in all queues. Every array is (issues,) int64."""

    op: type[Instruction]
    issue: Ints
    cycle: Ints
    column: Ints
    side: Ints  #: -1 for the VXM
    unit: Ints
    fields: dict[str, Ints]  #: operands by name
    intents: dict[str, Ints]  #: columns of ``INTENTS`` by name
    latency: int


class Issued:
    """All issues of a schedule.

    Members
    -------
    cycle, queue, pc : (issues,) int64
    groups : Group of every instruction of every unit, without issues too
    halt : cycle in which the last queue halts
    """

    def __init__(self, config: Config, schedule: Schedule):
        self.config, self.schedule = config, schedule
        self.queues: tuple[Queue, ...] = queues(config)
        for index, words in schedule.words.items():
            if not 0 <= index < len(self.queues):
                raise ScheduleError(f"queue {index}: the chip has {len(self.queues)} queues")
            room = config.words_of(self.queues[index].kind)
            if schedule.start < 0 or schedule.start + len(words) > room:
                raise ScheduleError(
                    f"{self.queues[index].name}: expected words 0 to {room - 1}, "
                    f"found {len(words)} from word {schedule.start} on"
                )
        try:
            issues = expand(config, schedule.words)
        except SequenceError as error:
            raise ScheduleError(str(error)) from None
        self.halt = max((found.halt for found in issues.values()), default=0)
        order = sorted(issues)
        counts = [len(issues[index].cycles) for index in order]
        self._check_tables(dict(zip(order, counts, strict=True)))
        self.first = dict(zip(order, np.cumsum([0, *counts])[:-1].tolist(), strict=True))
        self.queue: Ints = np.repeat(np.array(order, np.int64), counts)
        self.cycle: Ints = _joined([issues[index].cycles for index in order])
        self.pc: Ints = schedule.start + _joined([issues[index].pcs for index in order])
        words = np.concatenate([np.zeros(0, np.uint64), *(issues[i].words for i in order)])
        self.groups = {op: self._group(op, words) for (kind, _), op in ISA.items() if kind != "icu"}

    def _check_tables(self, counts: dict[int, int]) -> None:
        """Raise unless every queue has as many intents and served operations as issues."""
        schedule = self.schedule
        for index in counts.keys() | schedule.intents.keys() | schedule.served.keys():
            if not 0 <= index < len(self.queues):
                raise ScheduleError(f"queue {index}: the chip has {len(self.queues)} queues")
            queue, count = self.queues[index], counts.get(index, 0)
            shape = schedule.intents.get(index, np.zeros((0, len(INTENTS[queue.kind])))).shape
            if shape != (count, len(INTENTS[queue.kind])):
                raise ScheduleError(
                    f"{queue.name}: intents: expected {count} issues x {INTENTS[queue.kind]}, "
                    f"found {shape}"
                )
            served = schedule.served.get(index, np.zeros((0, 2), np.int32))
            if served[:, 0].sum() != count or (served[:, 0] < 0).any():
                raise ScheduleError(
                    f"{queue.name}: served: expected {count} issues, found {served[:, 0].sum()}"
                )
            if ((served[:, 1] < 0) | (served[:, 1] >= len(schedule.operations))).any():
                raise ScheduleError(f"{queue.name}: served: an operation that is not listed")

    def _group(self, op: type[Instruction], words: NDArray[np.uint64]) -> Group:
        """Collect the issues of one instruction and take their words apart."""
        of_kind = np.array([queue.kind == op.kind for queue in self.queues])
        issue = np.flatnonzero(of_kind[self.queue] & (opcode_of(words) == op.opcode))
        queue = self.queue[issue]
        fields: dict[str, Ints] = {}
        for spec in op.operands:
            mask = np.uint64((1 << spec.bits) - 1)
            value = (words[issue] >> np.uint64(spec.low) & mask).astype(np.int64)
            fields[spec.name] = value - ((value >> spec.bits - 1) << spec.bits) * spec.signed
        none = np.zeros((0, len(INTENTS[op.kind])), np.int64)
        rows = [none]
        for index in np.unique(queue).tolist():
            mine = issue[queue == index] - self.first[index]
            rows.append(self.schedule.intents[index][mine].astype(np.int64))
        intents = np.concatenate(rows)
        return Group(
            op,
            issue,
            self.cycle[issue],
            np.array([queue.column for queue in self.queues])[queue],
            np.array([_side(queue) for queue in self.queues])[queue],
            np.array([queue.unit for queue in self.queues])[queue],
            fields,
            {name: intents[:, i] for i, name in enumerate(INTENTS[op.kind])},
            op.latency(self.config),
        )

    def of_kind(self, *kinds: str) -> list[Group]:
        """Return the groups of the instructions of some kinds of queues."""
        return [group for group in self.groups.values() if group.op.kind in kinds]

    def at(self, issue: int) -> str:
        """Say where an issue comes from: queue, cycle, word and operation."""
        index = int(self.queue[issue])
        served = self.schedule.served[index]
        ends: Ints = np.cumsum(served[:, 0], dtype=np.int64)
        run = int((ends <= issue - self.first[index]).sum())
        operation = self.schedule.operations[int(served[run, 1])]
        return (
            f"{self.queues[index].name} cycle {self.cycle[issue]} word {self.pc[issue]} "
            f"({operation})"
        )


def _side(queue: Queue) -> int:
    return -1 if queue.hemisphere is None else int(queue.hemisphere)


def _joined(parts: list[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])


class Violations:
    """Collects what is wrong; the earliest in time is what a person wants to see first."""

    def __init__(self, issued: Issued):
        self.issued = issued
        self.first: tuple[int, str] | None = None

    def expect(self, ok: Bools, issue: Ints, explain: Callable[[int], str]) -> None:
        """Enter the earliest of ``issue`` for which ``ok`` is False.

        ``explain`` gets its place in ``ok`` and says what was expected and what was found.
        """
        bad = np.flatnonzero(~ok)
        if not len(bad):
            return
        worst = int(bad[np.argmin(self.issued.cycle[issue[bad]])])
        cycle = int(self.issued.cycle[issue[worst]])
        if self.first is None or cycle < self.first[0]:
            self.first = cycle, f"{self.issued.at(int(issue[worst]))}: {explain(worst)}"

    def raise_first(self) -> None:
        """Raise ``ScheduleError`` if anything is wrong."""
        if self.first is not None:
            raise ScheduleError(self.first[1])

"""Where the cycles of a schedule go, and how far it is from the limit of its streams.

Everything is read off the program: what its queues issue, and which operation of the model each
issue serves. The critical path is found by ``report_path.py``, which states its approximations.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.table import Table

from waterclock.compiler.check_issues import Ints, Issued
from waterclock.compiler.report_path import CLASSES, Path, critical_path, kind_of
from waterclock.isa import mxm
from waterclock.isa.config import Config
from waterclock.isa.program import Program, Schedule
from waterclock.isa.spec import word_bits

__all__ = [
    "LINEAR",
    "Kind",
    "Operation",
    "Report",
    "Totals",
    "Unit",
    "operations_of",
    "report",
    "tables",
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Unit:
    """All queues of one kind."""

    queues: int
    issues: int
    utilisation: float  #: issues over queues x cycles


@dataclasses.dataclass(frozen=True, kw_only=True)
class Totals:
    """The schedule as a whole."""

    cycles: int  #: from launch to done
    limit_cycles: int  #: weight bytes over the bandwidth of the streams
    ratio: float  #: cycles over the limit
    issues: int
    words: int  #: of all queues
    longest_queue: int  #: words of the queue that has the most
    rom_bytes: int  #: of all words, each as wide as the instruction memory of its queue
    mxm: float  #: share of the planes' cycles in which they multiply: ABCs x digits
    weights: float  #: share of the streams' bandwidth towards the MXMs that LWs take
    units: dict[str, Unit]  #: by kind of queue


@dataclasses.dataclass(frozen=True, kw_only=True)
class Operation:
    """One operation of the model."""

    name: str
    first: int  #: cycle of its first issue; 0 without issues
    last: int  #: cycle of its last effect, in the last superlane
    cycles: int  #: by which it moves the last effect of all operations so far
    passes: int  #: cycles from its first ABC to its last
    issues: dict[str, int]  #: by kind of queue


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kind:
    """The same operation in all layers."""

    name: str
    operations: int
    cycles: int
    passes: int  #: the sum of theirs
    multiplying: float  #: ABCs over what all planes could do in ``passes``
    limit: int  #: cycles of all LWs, were they dealt evenly to the planes
    issues: dict[str, int]  #: by kind of queue


#: Operations that multiply with weights, in every layer.
LINEAR = ("qkv", "o", "gate_up", "down")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What is to be known of one schedule.

    The cycles of ``operations``, those of ``kinds`` and those of ``path`` each add up to
    ``totals.cycles``. Cycles before the first issue count for the first operation, and cycles
    after the last effect, which compiled programs do not have, for the last one.
    """

    program: str
    preset: str
    context: int
    block: int  #: positions that a run feeds
    totals: Totals
    operations: tuple[Operation, ...]  #: in program order
    kinds: tuple[Kind, ...]  #: in order of first appearance
    path: Path

    @property
    def linear(self) -> float:
        """Share of their passes in which the linear layers of the whole model multiply."""
        mine = [kind for kind in self.kinds if kind.name in LINEAR]
        passes = sum(kind.passes for kind in mine)
        return sum(kind.multiplying * kind.passes for kind in mine) / max(1, passes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        found = dataclasses.asdict(self)
        found["linear"] = self.linear
        found["path"]["spent"] = self.path.spent()
        return found


def report(program: Program, schedule: Schedule) -> Report:
    """Account for the cycles of one schedule of a program.

    Raises
    ------
    ScheduleError
        When the schedule breaks the rules of the ICU or its tables do not fit its issues.
    """
    issued = Issued(program.config, schedule)
    operation = operations_of(schedule)
    operations = _operations(issued, operation)
    return Report(
        program=program.name,
        preset=program.config.name,
        context=schedule.context,
        block=schedule.block,
        totals=_totals(program, issued),
        operations=operations,
        kinds=_kinds(operations, program.config),
        path=critical_path(issued, operation),
    )


def operations_of(schedule: Schedule) -> Ints:
    """Return the number of the operation that each issue serves, in the order of ``Issued``."""
    runs = [served.astype(np.int64) for _, served in sorted(schedule.served.items())]
    return np.concatenate(
        [np.zeros(0, np.int64), *(np.repeat(run[:, 1], run[:, 0]) for run in runs)]
    )


def _totals(program: Program, issued: Issued) -> Totals:
    config, schedule = program.config, issued.schedule
    lengths = {index: len(words) for index, words in schedule.words.items()}
    rom_bits = sum(n * word_bits(issued.queues[index].kind) for index, n in lengths.items())
    cycles = schedule.cycles
    per_queue = np.bincount(issued.queue, minlength=len(issued.queues))
    units: dict[str, Unit] = {}
    for kind in dict.fromkeys(queue.kind for queue in issued.queues):
        mine = [queue.index for queue in issued.queues if queue.kind == kind]
        issues = int(per_queue[mine].sum())
        units[kind] = Unit(
            queues=len(mine), issues=issues, utilisation=issues / (len(mine) * cycles)
        )
    products = len(issued.groups[mxm.ABC].issue) * config.digits
    weight_bytes = len(issued.groups[mxm.LW].issue) * config.load_streams * config.vector
    return Totals(
        cycles=cycles,
        limit_cycles=program.limit_cycles,
        ratio=cycles / max(1, program.limit_cycles),
        issues=len(issued.cycle),
        words=sum(lengths.values()),
        longest_queue=max(lengths.values(), default=0),
        rom_bytes=-(-rom_bits // 8),
        mxm=products / (2 * config.planes * cycles),
        weights=weight_bytes / (config.stream_bytes * cycles),
        units=units,
    )


def _operations(issued: Issued, operation: Ints) -> tuple[Operation, ...]:
    """Account for each operation; the last one also gets what follows the last effect."""
    names = issued.schedule.operations
    first = np.full(len(names), issued.schedule.cycles, np.int64)
    last = np.zeros(len(names), np.int64)
    ripple = issued.config.superlanes - 1
    abc = issued.groups[mxm.ABC]
    begin, end = first.copy(), last.copy()
    np.minimum.at(first, operation, issued.cycle)
    np.minimum.at(begin, operation[abc.issue], abc.cycle)
    np.maximum.at(end, operation[abc.issue], abc.cycle + issued.config.digits)
    for group in issued.groups.values():
        effect = group.cycle + group.latency + ripple
        np.maximum.at(last, operation[group.issue], effect)
    kinds = list(dict.fromkeys(queue.kind for queue in issued.queues))
    kind = np.array([kinds.index(queue.kind) for queue in issued.queues])[issued.queue]
    counts = np.zeros((len(names), len(kinds)), np.int64)
    np.add.at(counts, (operation, kind), 1)
    found: list[Operation] = []
    frontier = 0
    for i, name in enumerate(names):
        reached = max(frontier, int(last[i]))
        if i == len(names) - 1:
            reached = max(reached, issued.schedule.cycles)
        issues = {kinds[k]: int(counts[i, k]) for k in np.flatnonzero(counts[i])}
        found.append(
            Operation(
                name=name,
                first=int(first[i]) if issues else 0,
                last=int(last[i]),
                cycles=reached - frontier,
                passes=max(0, int(end[i] - begin[i])),
                issues=issues,
            )
        )
        frontier = reached
    return tuple(found)


def _kinds(operations: tuple[Operation, ...], config: Config) -> tuple[Kind, ...]:
    found: list[Kind] = []
    for name in dict.fromkeys(kind_of(operation.name) for operation in operations):
        mine = [operation for operation in operations if kind_of(operation.name) == name]
        issues: dict[str, int] = {}
        for operation in mine:
            for kind, count in operation.issues.items():
                issues[kind] = issues.get(kind, 0) + count
        cycles = sum(operation.cycles for operation in mine)
        passes = sum(operation.passes for operation in mine)
        products = issues.get("mxm_abc", 0) * config.digits / (2 * config.planes)
        found.append(
            Kind(
                name=name,
                operations=len(mine),
                cycles=cycles,
                passes=passes,
                multiplying=products / max(1, passes),
                limit=-(-sum(o.issues.get("mxm_lw", 0) for o in mine) // (2 * config.planes)),
                issues=issues,
            )
        )
    return tuple(found)


def tables(found: Report, *, details: bool = False) -> list[Table]:
    """Render a report; with ``details`` also every operation and every step of the path."""
    drawn = [_totals_table(found), _units_table(found), _kinds_table(found), _path_table(found)]
    return [*drawn, _operations_table(found), _steps_table(found)] if details else drawn


def _table(title: str, texts: tuple[str, ...], numbers: tuple[str, ...]) -> Table:
    table = Table(title=title, title_justify="left")
    for name in texts:
        table.add_column(name)
    for name in numbers:
        table.add_column(name, justify="right")
    return table


def _share(part: float) -> str:
    return f"{100 * part:.1f}%"


def _counts(counts: Mapping[str, int], names: tuple[str, ...]) -> list[str]:
    return [f"{counts[name]:,}" if counts.get(name) else "" for name in names]


def _totals_table(found: Report) -> Table:
    totals = found.totals
    table = Table(
        title=f"{found.program} on {found.preset}, context {found.context}"
        + (f", {found.block} tokens at once" if found.block > 1 else ""),
        title_justify="left",
        show_header=False,
    )
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("cycles a token", f"{totals.cycles:,}"),
        ("limit: weights over streams", f"{totals.limit_cycles:,}"),
        ("times the limit", f"{totals.ratio:.2f}"),
        ("MXM multiplies", _share(totals.mxm)),
        ("weights on streams", _share(totals.weights)),
        ("issues", f"{totals.issues:,}"),
        ("instruction words", f"{totals.words:,}"),
        ("of the longest queue", f"{totals.longest_queue:,}"),
        ("instruction bytes", f"{totals.rom_bytes:,}"),
    ):
        table.add_row(name, value)
    return table


def _units_table(found: Report) -> Table:
    table = _table("units", ("kind",), ("queues", "issues", "utilisation"))
    for kind, unit in found.totals.units.items():
        table.add_row(kind, str(unit.queues), f"{unit.issues:,}", _share(unit.utilisation))
    return table


def _kinds_table(found: Report) -> Table:
    numbers = ("times", "cycles", "limit", "share", "multiplying", "issues")
    table = _table("operations", ("operation",), numbers)
    for kind in found.kinds:
        table.add_row(
            kind.name,
            str(kind.operations),
            f"{kind.cycles:,}",
            f"{kind.limit:,}",
            _share(kind.cycles / found.totals.cycles),
            _share(kind.multiplying),
            f"{sum(kind.issues.values()):,}",
        )
    if found.linear:
        table.add_section()
        table.add_row("linear layers", "", "", "", "", _share(found.linear), "")
    return table


def _path_table(found: Report) -> Table:
    spent = found.path.spent()
    classes = tuple(name for name in CLASSES if spent[name])
    table = _table("critical path, cycles", ("operation",), (*classes, "all"))
    for name, mine in found.path.by_operation.items():
        table.add_row(name, *_counts(mine, classes), f"{sum(mine.values()):,}")
    table.add_section()
    table.add_row("all", *_counts(spent, classes), f"{sum(spent.values()):,}")
    return table


def _operations_table(found: Report) -> Table:
    kinds = tuple(kind for kind, unit in found.totals.units.items() if unit.issues)
    table = _table("every operation", ("operation",), ("first", "last", "cycles", *kinds))
    for operation in found.operations:
        times = (operation.first, operation.last, operation.cycles)
        issues = _counts(operation.issues, kinds)
        table.add_row(operation.name, *(f"{time:,}" for time in times), *issues)
    return table


def _steps_table(found: Report) -> Table:
    numbers = ("cycle", "waiting", "occupied", "latency", "travel")
    table = _table("every step of the critical path", ("queue", "issues", "operation"), numbers)
    for step in found.path.steps:
        cycles = _counts(dataclasses.asdict(step), numbers)
        table.add_row(step.queue, step.text, step.operation, *cycles)
    return table

"""The critical path of a schedule: part of ``report.py``.

The walk begins at the last effect and goes back from each issue to the one that made the input
that was ready last. Who made an input is read off the schedule as the machine would meet it: the
last producer upstream on a stream, the unit on a result bus, the last Write or Scatter of a row,
the last ABL of an activation entry, the last ABC of an accumulator, the LWs of a tile.

What a stream, a bus, LW or ACC brings is fetched just in time, so by itself it is never early.
An input therefore counts as ready since the last issue behind it that left something lasting:
Write, Scatter, ABL or ABC; without one, since the launch. Its *slack* is what it could have come
earlier with all since then moved forward; the smallest slack is the input that was ready last.

Approximations
--------------
- Only values count. That an entry, a row or a stream must first be free again is waiting.
- A Gather depends on its map alone; its table is taken for loaded before the launch.
- A Scatter changes every row of its region; a Read of any of them depends on it.
- The first ABC after an IW depends on the LWs of the tile, in the same cycle at the earliest: IW
  and the first stages of the array run beside them and are no steps of their own.
"""

import dataclasses

import numpy as np

from waterclock.compiler.check_history import History, spread
from waterclock.compiler.check_issues import Group, Ints, Issued, Violations
from waterclock.compiler.check_operands import takes
from waterclock.compiler.check_regions import read_table
from waterclock.compiler.check_streams import Fabric
from waterclock.isa import icu, mem, mxm
from waterclock.isa.program import REGION_COLUMNS
from waterclock.isa.streams import SOURCE_ALU, SOURCE_IMM
from waterclock.isa.text import to_text

#: What a cycle of the path is spent on: at work in a unit, under way on streams, in a gap while
#: the unit had other issues, in a gap that nothing explains, before the first issue.
CLASSES = ("vxm", "mxm", "sxm", "mem", "streams", "occupied", "waiting", "launch")

#: Issues that leave something lasting behind.
LASTING = (mem.Write, mem.Scatter, mxm.ABL, mxm.ABC)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One issue of the critical path, and the cycles from the step before it to the next one."""

    cycle: int  #: of the issue
    queue: str
    text: str  #: the instruction
    operation: str  #: of the model
    unit: str  #: class that its latency counts for
    waiting: int  #: cycles before the issue in which its input was ready and its unit idle
    occupied: int  #: the same, but its unit issued something else
    latency: int  #: cycles from the issue until its result is there
    travel: int  #: cycles on streams to the next step; after the last, through the superlanes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Path:
    """The critical path of a schedule, in order of time.

    ``launch`` cycles, all cycles of ``steps`` and ``tail`` cycles add up to the schedule's.
    """

    launch: int  #: until the queues may issue
    steps: tuple[Step, ...]
    tail: int  #: from the last effect to the halt
    #: Cycles by kind of operation and class. The launch counts for the first step's operation,
    #: the tail is waiting and counts for the last one's.
    by_operation: dict[str, dict[str, int]]

    def spent(self) -> dict[str, int]:
        """Return the cycles by class."""
        return {name: sum(mine[name] for mine in self.by_operation.values()) for name in CLASSES}


@dataclasses.dataclass(frozen=True)
class _Edges:
    """Who takes a value from whom, (edges,) int64 each."""

    taker: Ints
    maker: Ints
    latency: Ints  #: from the maker's issue until its result is there
    travel: Ints  #: from there to the taker, on streams


def kind_of(operation: str) -> str:
    """Return the kind of a named operation: ``qkv`` for ``layers.0.qkv``."""
    return operation.rpartition(".")[2]


def critical_path(issued: Issued, operation: Ints) -> Path:
    """Walk back from the last effect.

    Parameters
    ----------
    issued : Issued
    operation : (issues,) int64
        Index into the schedule's operations.
    """
    total = issued.schedule.cycles
    launch = int(min(icu.notify_latency(issued.config), issued.cycle.min(initial=total)))
    walk = _Walk(issued, launch)
    steps = tuple(walk.step(operation, *found) for found in reversed(walk.back()))
    tail = total - launch
    by_operation: dict[str, dict[str, int]] = {}
    for step in steps:
        mine = by_operation.setdefault(kind_of(step.operation), dict.fromkeys(CLASSES, 0))
        mine[step.unit] += step.latency
        mine["streams"] += step.travel
        mine["occupied"] += step.occupied
        mine["waiting"] += step.waiting
        tail -= step.waiting + step.occupied + step.latency + step.travel
    if steps:
        by_operation[kind_of(steps[0].operation)]["launch"] += launch
        by_operation[kind_of(steps[-1].operation)]["waiting"] += tail
    return Path(launch=launch, steps=steps, tail=tail, by_operation=by_operation)


class _Walk:
    """All dependencies of a schedule, and the way back through them."""

    def __init__(self, issued: Issued, launch: int):
        self.issued, self.launch = issued, launch
        count = len(issued.cycle)
        self.latency = np.zeros(count, np.int64)
        self.lasting = np.zeros(count, np.bool_)
        for group in issued.groups.values():
            self.latency[group.issue] = group.latency
            self.lasting[group.issue] = group.op in LASTING
        parts = [
            _streams(issued, self.latency),
            *_buses(issued, self.latency),
            _memory(issued),
            *_planes(issued),
        ]
        order = np.argsort(np.concatenate([part.taker for part in parts]), kind="stable")
        taker, self.maker, self.took, self.travel = (
            np.concatenate([getattr(part, field.name) for part in parts])[order]
            for field in dataclasses.fields(_Edges)
        )
        gap = issued.cycle[taker] - issued.cycle[self.maker] - self.took - self.travel
        self.gap: Ints = gap
        self.first: Ints = np.searchsorted(taker, np.arange(count + 1))
        self.known: dict[int, int] = {}

    def back(self) -> list[tuple[int, int, int, int]]:
        """Return (issue, gap before it, latency, travel) of each step, the last one first."""
        issued = self.issued
        ripple = issued.config.superlanes - 1
        if not len(issued.cycle):
            return []
        effect = issued.cycle + self.latency
        ends = np.flatnonzero(effect == effect.max()).tolist()
        issue = min(ends, key=self.slack)
        latency, travel = int(self.latency[issue]), ripple
        found: list[tuple[int, int, int, int]] = []
        while True:
            edges = range(self.first[issue], self.first[issue + 1])
            if not edges:
                found.append((issue, int(issued.cycle[issue]) - self.launch, latency, travel))
                return found
            edge = min(edges, key=lambda e: (self._early(e), -issued.cycle[self.maker[e]]))
            found.append((issue, int(self.gap[edge]), latency, travel))
            issue = int(self.maker[edge])
            latency, travel = int(self.took[edge]), int(self.travel[edge])

    def slack(self, issue: int) -> int:
        """Return how much earlier the inputs of an issue could have come."""
        stack = [issue]
        while stack:
            at = stack[-1]
            edges = range(self.first[at], self.first[at + 1])
            makers = [int(self.maker[e]) for e in edges if not self.lasting[self.maker[e]]]
            missing = [maker for maker in makers if maker not in self.known]
            if missing and at not in self.known:
                stack += missing
                continue
            stack.pop()
            self.known[at] = min(
                (self._early(e) for e in edges), default=int(self.issued.cycle[at]) - self.launch
            )
        return self.known[issue]

    def _early(self, edge: int) -> int:
        """Return how much earlier the value of an edge could have come."""
        maker, gap = int(self.maker[edge]), int(self.gap[edge])
        if self.lasting[maker]:
            return gap
        return gap + (self.known[maker] if maker in self.known else self.slack(maker))

    def step(self, operation: Ints, issue: int, gap: int, latency: int, travel: int) -> Step:
        """Describe one step of ``back``."""
        issued = self.issued
        queue = issued.queues[int(issued.queue[issue])]
        group, place = next(
            (group, place)
            for group in issued.of_kind(queue.kind)
            if (place := int(np.searchsorted(group.issue, issue))) < len(group.issue)
            and group.issue[place] == issue
        )
        fields = {name: int(values[place]) for name, values in group.fields.items()}
        occupied = self.occupied(issue, gap)
        return Step(
            cycle=int(issued.cycle[issue]),
            queue=queue.name,
            text=to_text(group.op(**fields)),
            operation=issued.schedule.operations[int(operation[issue])],
            unit=queue.name[:3].lower(),
            waiting=gap - occupied,
            occupied=occupied,
            latency=latency,
            travel=travel,
        )

    def occupied(self, issue: int, gap: int) -> int:
        """Return in how many of the ``gap`` cycles before an issue its unit was busy.

        A plane multiplies or loads weights: an ABC counts the LWs of its plane too.
        """
        if not gap:
            return 0
        issued, index = self.issued, int(self.issued.queue[issue])
        queue = issued.queues[index]
        spans = {index: 1}
        if queue.kind == "mxm_abc":
            spans[index] = issued.config.digits
            for other in issued.queues:
                same = (other.hemisphere, other.unit) == (queue.hemisphere, queue.unit)
                if other.kind == "mxm_lw" and same:
                    spans[other.index] = 1
        start = int(issued.cycle[issue]) - gap
        busy = np.zeros(gap, np.bool_)
        for other, span in spans.items():
            mine = issued.cycle[slice(*np.searchsorted(issued.queue, [other, other + 1]))]
            near = mine[slice(*np.searchsorted(mine, [start - span + 1, start + gap]))] - start
            for later in range(span):
                at = near + later
                busy[at[(at >= 0) & (at < gap)]] = True
        return int(busy.sum())


def _stored(
    taker: Group, at: tuple[Ints, Ints], marks: tuple[Ints, Ints, Ints], latency: int, end: int
) -> _Edges:
    """Return the edges from the last mark at each place before each time.

    ``at`` is (place, time) of the takers, ``marks`` (place, time, issue).
    """
    history = History(marks[0], marks[1], end)
    mark = history.before(*at)
    found = np.flatnonzero(mark >= 0)
    fixed = np.full(len(found), latency, np.int64)
    return _Edges(taker.issue[found], marks[2][mark[found]], fixed, np.zeros_like(fixed))


def _streams(issued: Issued, latency: Ints) -> _Edges:
    """Return the edges along streams."""
    fabric = Fabric(issued, Violations(issued))
    met = np.flatnonzero(fabric.source != fabric.nowhere)
    source = fabric.source[met]
    maker = fabric.drives.issue[source]
    travel = fabric.reads.cycle[met] - fabric.drives.cycle[source]
    return _Edges(fabric.reads.issue[met], maker, latency[maker], travel)


def _buses(issued: Issued, latency: Ints) -> list[_Edges]:
    """Return the edges over the result buses of ALUs and lane reduction."""
    groups = issued.of_kind("alu", "reduce")
    issue = np.concatenate([group.issue for group in groups])
    unit = np.concatenate([group.unit for group in groups])
    stands = issued.cycle[issue] + latency[issue]
    history = History(unit, stands, int(stands.max(initial=0)) + 2)
    parts: list[_Edges] = []
    for group in groups:
        for name in ("a", "b"):
            if name not in group.fields or not takes(group, name):
                continue
            code = group.fields[name]
            used = np.flatnonzero((code >= SOURCE_ALU) & (code < SOURCE_IMM))
            mark = history.before(code[used] - SOURCE_ALU, group.cycle[used] + 1)
            found = np.flatnonzero((mark >= 0) & (stands[mark] == group.cycle[used]))
            maker = issue[mark[found]]
            travel = np.zeros(len(found), np.int64)
            parts.append(_Edges(group.issue[used[found]], maker, latency[maker], travel))
    return parts


def _memory(issued: Issued) -> _Edges:
    """Return the edges from Write and Scatter to Read."""
    config, end = issued.config, int(issued.cycle.max(initial=0)) + 1
    read, write, scatter = (issued.groups[op] for op in (mem.Read, mem.Write, mem.Scatter))
    regions = read_table(issued.schedule.regions, REGION_COLUMNS, "regions")
    names = ("scatter", "side", "slice", "base", "count")
    sizes: dict[tuple[int, ...], int] = {}
    for *key, count in zip(*(regions[name].tolist() for name in names), strict=True):
        sizes[tuple(key)] = max(count, sizes.get(tuple(key), 0))
    keys = zip(scatter.side, scatter.unit, scatter.fields["addr"], strict=True)
    which, offset = spread(np.array([sizes.get((1, *map(int, key)), 1) for key in keys], np.int64))

    def row(group: Group) -> Ints:
        return (group.side * config.slices + group.unit) * config.depth + group.fields["addr"]

    marks = (
        np.concatenate([row(write), row(scatter)[which] + offset]),
        np.concatenate([write.cycle, scatter.cycle[which]]),
        np.concatenate([write.issue, scatter.issue[which]]),
    )
    return _stored(read, (row(read), read.cycle), marks, write.latency, end)


def _planes(issued: Issued) -> list[_Edges]:
    """Return the edges within the MXM planes."""
    config = issued.config
    delay = mxm.acc_delay(config)
    end = int(issued.cycle.max(initial=0)) + delay
    abl, abc, acc = (issued.groups[op] for op in (mxm.ABL, mxm.ABC, mxm.ACC))

    def place(group: Group, name: str) -> Ints:
        plane = group.side * config.planes + group.unit
        size = config.act_entries if name == "entry" else config.acc_entries
        return plane * size + group.fields[name]

    activations = (place(abl, "entry"), abl.cycle, abl.issue)
    sums = (place(abc, "acc"), abc.cycle, abc.issue)
    before = _stored(abc, (place(abc, "acc"), abc.cycle), sums, config.digits, end)
    keeps = np.isin(before.taker, abc.issue[abc.intents["before"] >= 0])
    return [
        _stored(abc, (place(abc, "entry"), abc.cycle), activations, abl.latency, end),
        _Edges(*(getattr(before, f.name)[keeps] for f in dataclasses.fields(_Edges))),
        _stored(acc, (place(acc, "acc"), acc.cycle - delay + 1), sums, delay, end),
        *_weights(issued),
    ]


def _weights(issued: Issued) -> list[_Edges]:
    """Return the edges from the LWs of each tile to the ABCs that it serves."""
    config = issued.config
    load, install, abc = (issued.groups[op] for op in (mxm.LW, mxm.IW, mxm.ABC))
    loads = config.vector // config.load_streams
    parts: list[_Edges] = []
    for side in (0, 1):
        for unit in range(config.planes):
            lw, iw, use = (
                np.flatnonzero((group.side == side) & (group.unit == unit))
                for group in (load, install, abc)
            )
            last = np.searchsorted(install.cycle[iw], abc.cycle[use] + mxm.weights_at(config)) - 1
            use, last = use[last >= 0], last[last >= 0]
            filled = np.searchsorted(load.cycle[lw], install.cycle[iw][last])
            for back in range(1, loads + 1):
                has = filled >= back
                maker = load.issue[lw][filled[has] - back]
                none = np.zeros(int(has.sum()), np.int64)
                parts.append(_Edges(abc.issue[use[has]], maker, none, none))
    return parts

"""From issues to queue words: repetitions of a block share code, the rest is folded."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.fold import LONGEST_LOOP, MOST_ROUNDS, WIDEST_LOOP, Fields, fold
from waterclock.compiler.plan import Issue, Plan, first_cycle
from waterclock.isa import icu, mem
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Queue, queues
from waterclock.isa.program import INTENTS, REGION_COLUMNS, Schedule
from waterclock.isa.sequence import add_offsets
from waterclock.isa.spec import decode

Ints = NDArray[np.int64]

NOTIFIER = ("alu", None, 0)  #: the queue that releases the others and that halts last


TURNS = 8  #: places where the code of a loop may begin that are tried


@dataclasses.dataclass
class _Queue:
    """Issues of one queue as columns: cycles, words, intents, operations, words a repetition."""

    cycles: Ints
    words: Ints
    intents: Ints
    operations: Ints
    steps: Ints

    @classmethod
    def of(cls, issues: Sequence[Issue], config: Config, columns: int) -> "_Queue":
        """Return the columns of issues, runs written out."""
        count = np.array([issue.count for issue in issues], np.int64)
        which = np.repeat(np.arange(len(issues)), count)
        times = np.arange(len(which)) - np.repeat(np.cumsum(count) - count, count)
        words = [issue.op.encode() for issue in issues]
        moved = [
            add_offsets(word, type(issue.op), np.arange(issue.count) * issue.step, config)
            for word, issue in zip(words, issues, strict=True)
            if issue.step
        ]
        found = np.array(words, np.int64)[which]
        if moved:
            stepped = np.array([issue.step != 0 for issue in issues])[which]
            found[stepped] = np.concatenate(moved).astype(np.int64)
        spec = [type(issue.op).address() if issue.stride else None for issue in issues]
        steps = [i.stride << at.low if at else 0 for i, at in zip(issues, spec, strict=True)]
        rows: list[Any] = []
        for issue in issues:
            single = not issue.intents or isinstance(issue.intents[0], int)
            rows += [issue.intents] * issue.count if single else issue.intents
        return cls(
            np.array([issue.cycle for issue in issues], np.int64)[which] + times,
            found,
            np.array(rows, np.int64).reshape(len(which), columns),
            np.array([issue.operation for issue in issues], np.int64)[which],
            np.array(steps, np.int64)[which],
        )

    def between(self, begin: int, end: int) -> "_Queue":
        """Return the issues from cycle ``begin`` on and before ``end``."""
        first, last = np.searchsorted(self.cycles, [begin, end])
        return _Queue(*(column[first:last] for column in vars(self).values()))


class Repeater:
    """Unrolls a plan's block: what every number of its first time is in the others."""

    def __init__(self, plan: Plan):
        self.block, self.plan = plan.block, plan
        if self.block is None:
            return
        block = self.block
        count = plan.memory.next_value
        self.base, self.step = np.arange(count, dtype=np.int64), np.zeros(count, np.int64)
        steps = [(block.start, block.start + block.values, block.values), *plan.memory.steps]
        for first, end, step in steps:
            self.step[first:end] = step
        for old, new in block.renamed.items():
            self.base[old], self.step[old] = new - block.values, block.values

    def values(self, found: Ints, number: int) -> Ints:
        """Return value numbers of repetition ``number``; -1 stays."""
        if not number:
            return found
        moved = self.base[found] + number * self.step[found]
        return np.where(found < 0, found, moved)

    def operation_of(self, found: Ints, number: int) -> Ints:
        """Return indices of operations of repetition ``number``."""
        assert self.block is not None
        return found + number * (self.block.last_operation - self.block.operations)

    def parts(self, number: int, issues: Sequence[Issue], columns: int) -> list[_Queue]:
        """Return a queue's issues before the block, of each repetition, and behind it."""
        config, block = self.plan.config, self.block
        if block is None:
            return [_Queue.of(issues, config, columns)]
        begin, end = block.begin.get(number, 0), block.end.get(number, 0)
        before, once, behind = (
            _sorted([_Queue.of(part, config, columns)])
            for part in (issues[:begin], issues[begin:end], issues[end:])
        )
        behind.operations = self.operation_of(behind.operations, block.count - 1)
        again = [
            _Queue(
                once.cycles + k * block.period,
                once.words + k * once.steps,
                self.values(once.intents, k),
                self.operation_of(once.operations, k),
                once.steps,
            )
            for k in range(block.count)
        ]
        return [before, *again, behind]

    def names(self) -> tuple[str, ...]:
        """Return the names of all operations."""
        block, names = self.block, self.plan.operations
        if block is None:
            return tuple(names)
        once = names[block.operations : block.last_operation]
        again = [
            name.replace("layers.0", f"layers.{k}") for k in range(block.count) for name in once
        ]
        return (*names[: block.operations], *again, *names[block.last_operation :])

    def regions(self) -> Ints:
        """Return the table of regions."""
        table = np.array([region for region, _ in self.plan.regions], np.int64)
        table = table.reshape(-1, len(REGION_COLUMNS))
        block = self.block
        if block is None:
            return table
        strides = np.array([stride for _, stride in self.plan.regions], np.int64)
        once = table[block.regions : block.last_region]
        parts = [table[: block.regions]]
        for k in range(block.count):
            again = once.copy()
            again[:, REGION_COLUMNS.index("base")] += k * strides[block.regions : block.last_region]
            for name in ("map", "value", "source"):
                column = REGION_COLUMNS.index(name)
                again[:, column] = self.values(once[:, column], k)
            parts.append(again)
        return np.concatenate([*parts, table[block.last_region :]])


def _sorted(parts: Sequence[_Queue]) -> _Queue:
    columns = [
        np.concatenate(found) for found in zip(*(vars(p).values() for p in parts), strict=True)
    ]
    order = np.argsort(columns[0], kind="stable")
    return _Queue(*(column[order] for column in columns))


def _looped(
    queue: Queue, parts: list[_Queue], period: int, config: Config, start: int, end: int,
    *, wait: bool,
) -> list[int] | None:  # fmt: skip
    """Return the words of a queue whose repetitions share code, or None where they cannot.

    ``parts`` are what comes before, the repetitions, and what comes behind. The code that is
    shared is a whole repetition or, where others overlap it, begins where the queue rests longest:
    then it is the end of one repetition and the begin of the next. It needs one stride for all
    addresses that move, a cycle for the Loop, and nothing else in between.
    """
    once, count = parts[1], len(parts) - 2
    level = config.loops - 1  # below it there may be others in the block
    if level < 0 or count < 3 or not len(once.cycles):
        return None
    first, last = int(once.cycles[0]), int(once.cycles[-1])
    places = np.unique((once.cycles - first) % period)
    gaps = np.diff(places, prepend=places[-1] - period)
    outside = np.concatenate([parts[0].cycles, parts[-1].cycles])
    turns = [(0, count), *((i, count - 1) for i in np.argsort(-gaps, kind="stable")[:TURNS])]
    for index, rounds in turns:
        place, gap = first + int(places[index]), int(gaps[index])
        # As early as it may be: behind what came before, with a cycle for the Loop of a round.
        begin = max(start, place - gap + 2, int(outside[outside < place].max(initial=0)) + 1)
        over = begin + rounds * period
        if (
            begin <= place
            and over <= end
            and last < begin + period
            and not ((outside >= begin) & (outside < over)).any()
        ):
            break
    else:
        return None
    fields = Fields.of(queue.kind, config)
    strides = np.unique(once.steps[once.steps != 0])
    stride = int(strides[0]) >> fields.low if len(strides) else 0
    mixed = stride and not once.steps.all()
    if len(strides) > 1 or stride > WIDEST_LOOP or (mixed and not fields.spare(level)):
        return None
    whole = _sorted(parts)
    shared = whole.between(begin, begin + period)
    words = shared.words | np.where(shared.steps == 0, fields.spare(level) if mixed else 0, 0)
    inner = level > 0
    block = fold(fields, shared.cycles, words, begin, begin + period - 1, loops=inner)
    if len(block) > LONGEST_LOOP or rounds - 1 > MOST_ROUNDS:
        return None
    loop = icu.Loop(length=len(block), count=rounds - 1, level=level, stride=stride).encode()
    before, behind = whole.between(0, begin), whole.between(over, int(whole.cycles[-1]) + 1)
    return [
        *fold(fields, before.cycles, before.words, start, begin, loops=True),
        *block,
        loop,
        *fold(fields, behind.cycles, behind.words, over, end, loops=True, wait=wait),
    ]


def emit(plan: Plan, start: int) -> Schedule:
    """Return the schedule of a finished plan, placed at word ``start`` of every queue.

    Words begin with a Sync, or the Notify that ends it; the notifying queue waits until every
    effect of the program has happened, so the run takes ``plan.end`` cycles.
    """
    config = plan.config
    begin = first_cycle(config)
    words: dict[int, NDArray[np.uint64]] = {}
    served: dict[int, NDArray[np.int32]] = {}
    intents: dict[int, NDArray[np.int32]] = {}
    notifier = plan.numbers[NOTIFIER]
    repeater = Repeater(plan)
    leaders: dict[int, _Queue] = {}
    for queue in queues(config):
        found = plan.issues.get(queue.index, [])
        if not found and queue.index != notifier:
            continue
        parts = repeater.parts(queue.index, found, len(INTENTS[queue.kind]))
        whole = _sorted(parts)
        assert (np.diff(whole.cycles) > 0).all(), queue.name
        opens, at = icu.Sync(), begin
        wait = queue.index == notifier  # for the end
        if wait:
            opens, at = icu.Notify(), 1
        code: list[int] = []
        if queue.leader is None:
            period = plan.block.period if plan.block else 0
            found = None
            if period:
                found = _looped(queue, parts, period, config, at, plan.end, wait=wait)
            if found is None:
                found = fold(
                    Fields.of(queue.kind, config), whole.cycles, whole.words, at, plan.end,
                    loops=config.loops > 0, wait=wait,
                )  # fmt: skip
            code = [opens.encode(), *found, icu.Halt().encode()]
        else:
            _check_follows(queue, whole, leaders[queue.leader], config)
        leaders[queue.index] = whole
        words[queue.index] = np.array(code, np.uint64)
        starts = np.flatnonzero(np.diff(whole.operations, prepend=-1))
        runs = np.diff(np.append(starts, len(whole.operations)))
        served[queue.index] = np.stack([runs, whole.operations[starts]], axis=1).astype(np.int32)
        intents[queue.index] = whole.intents.astype(np.int32)
    return Schedule(
        context=plan.context,
        block=plan.positions,
        start=start,
        cycles=plan.end,
        words=words,
        operations=repeater.names(),
        served=served,
        intents=intents,
        regions=repeater.regions(),
        results=np.array(plan.results, np.int64).reshape(-1, 5),
    )


def _check_follows(queue: Queue, mine: _Queue, leader: _Queue, config: Config) -> None:
    """Make sure that a queue does what the one that it follows makes it do."""
    words, places = np.unique(leader.words, return_inverse=True)
    ops = [decode(queue.kind, word) for word in words.tolist()]
    wanted = [mem.followed(op, queue.unit % config.group).encode() for op in ops]
    assert (leader.cycles == mine.cycles).all(), queue.name
    assert (np.array(wanted, np.int64)[places] == mine.words).all(), queue.name

"""From issues to queue words: sort, fill with NOP, fold runs into Repeat."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.plan import Issue, Plan, first_cycle
from waterclock.isa import icu
from waterclock.isa.floorplan import queues
from waterclock.isa.program import INTENTS, Schedule

NOTIFIER = ("alu", None, 0)  #: the queue that releases the others and that halts last


def _limits() -> tuple[int, int, int, int]:
    """Return the largest NOP, Repeat count, Repeat distance and stride."""
    fields = {spec.name: spec for spec in icu.Repeat.operands}
    nop = (1 << icu.NOP.operands[0].bits) - 1
    count, distance = ((1 << fields[n].bits) - 1 for n in ("count", "distance"))
    return nop, count, distance, (1 << fields["stride"].bits - 1) - 1


LONGEST_NOP, MOST_REPEATS, LONGEST_DISTANCE, LONGEST_STRIDE = _limits()


def _words(issues: Sequence[Issue], start: int, end: int) -> list[int]:
    """Return the words that issue ``issues`` from cycle ``start`` on and last until ``end``."""
    words: list[int] = []
    now = start

    def wait(until: int) -> None:
        nonlocal now
        while now < until:
            step = min(until - now, LONGEST_NOP)
            words.append(icu.NOP(count=step).encode())
            now += step

    index = 0
    while index < len(issues):
        issue = issues[index]
        wait(issue.cycle)
        words.append(issue.op.encode())
        now = issue.cycle + 1
        run = _run(issues, index)
        if run:
            count, distance, stride = run
            words.append(icu.Repeat(count=count, distance=distance, stride=stride).encode())
            now = issue.cycle + count * distance + 1
            index += count
        index += 1
    wait(end)
    return words


def _run(issues: Sequence[Issue], index: int) -> tuple[int, int, int] | None:
    """Return (count, distance, stride) of the Repeat that may follow issue ``index``."""
    if index + 1 >= len(issues):
        return None
    first, second = issues[index], issues[index + 1]
    distance = second.cycle - first.cycle
    spec = type(first.op).address()
    stride = 0
    if type(second.op) is not type(first.op) or distance > LONGEST_DISTANCE:
        return None
    if spec is not None:
        mask = (1 << spec.bits) - 1
        stride = (second.op.encode() >> spec.low & mask) - (first.op.encode() >> spec.low & mask)
        if abs(stride) > LONGEST_STRIDE:
            return None
    count = 0
    for issue in issues[index + 1 : index + 1 + MOST_REPEATS]:
        k = count + 1
        if issue.cycle != first.cycle + k * distance or issue.op != first.op.strided(k * stride):
            break
        count = k
    # One repetition at a distance costs as many words as writing it out: keep it readable.
    return (count, distance, stride) if count > 1 or (count and distance == 1) else None


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
    for queue in queues(config):
        issues = sorted(plan.issues.get(queue.index, []), key=lambda issue: issue.cycle)
        if not issues and queue.index != notifier:
            continue
        assert all(a.cycle < b.cycle for a, b in itertools.pairwise(issues)), queue.name
        if queue.index == notifier:
            code = [icu.Notify().encode(), *_words(issues, 1, plan.end)]
        else:
            code = [icu.Sync().encode(), *_words(issues, begin, 0)]
        code.append(icu.Halt().encode())
        words[queue.index] = np.array(code, np.uint64)
        runs: list[list[int]] = []
        for issue in issues:
            if runs and runs[-1][1] == issue.operation:
                runs[-1][0] += 1
            else:
                runs.append([1, issue.operation])
        served[queue.index] = np.array(runs, np.int32).reshape(-1, 2)
        columns = len(INTENTS[queue.kind])
        intents[queue.index] = np.array([issue.intents for issue in issues], np.int32).reshape(
            len(issues), columns
        )
    return Schedule(
        context=plan.context,
        start=start,
        cycles=plan.end,
        words=words,
        operations=tuple(plan.operations),
        served=served,
        intents=intents,
        regions=np.array(plan.regions, np.int64).reshape(len(plan.regions), -1),
        results=np.array(plan.results, np.int64).reshape(-1, 5),
    )

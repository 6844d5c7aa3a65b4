"""A schedule as a trace that Perfetto and Chrome's tracing page open: one track a queue.

The format counts microseconds; here one of them is one cycle. A block of a track is a run of
issues in consecutive cycles that serve one operation of the model by one instruction, so the
blocks of a unit add up to the issues that the report counts for it.

Source: Trace Event Format, JSON object form, complete ("X") and metadata ("M") events.
"""

from typing import Any

import numpy as np

from waterclock.compiler.check_issues import Issued
from waterclock.compiler.report import operations_of
from waterclock.isa.program import Program, Schedule

CYCLES = "1 us = 1 cycle"


def trace(program: Program, schedule: Schedule) -> dict[str, Any]:
    """Return the trace of one schedule as plain data for JSON.

    Raises
    ------
    ScheduleError
        When the schedule breaks the rules of the ICU or its tables do not fit its issues.
    """
    issued = Issued(program.config, schedule)
    kinds = list(dict.fromkeys(queue.kind for queue in issued.queues))
    events: list[dict[str, Any]] = []
    for number, kind in enumerate(kinds):
        events.append(_name("process_name", number, 0, f"{kind}, {CYCLES}"))
        events.append(_sort("process_sort_index", number, 0, number))
    for queue in issued.queues:
        number = kinds.index(queue.kind)
        events.append(_name("thread_name", number, queue.index, queue.name))
        events.append(_sort("thread_sort_index", number, queue.index, queue.index))
    events += _blocks(issued, kinds)
    return {
        "traceEvents": events,
        "displayTimeUnit": "ns",
        "otherData": {
            "program": program.name,
            "preset": program.config.name,
            "context": schedule.context,
            "cycles": schedule.cycles,
            "unit": CYCLES,
        },
    }


def _name(what: str, process: int, thread: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": {"name": name}}


def _sort(what: str, process: int, thread: int, index: int) -> dict[str, Any]:
    args = {"sort_index": index}
    return {"ph": "M", "name": what, "pid": process, "tid": thread, "args": args}


def _blocks(issued: Issued, kinds: list[str]) -> list[dict[str, Any]]:
    """Return the blocks of all tracks."""
    mnemonics = sorted({op.mnemonic for op in issued.groups})
    instruction = np.zeros(len(issued.cycle), np.int64)
    for op, group in issued.groups.items():
        instruction[group.issue] = mnemonics.index(op.mnemonic)
    operation = operations_of(issued.schedule)
    # Issues of one block have consecutive cycles, as they have consecutive numbers.
    gap = issued.cycle - np.arange(len(issued.cycle))
    rows = np.stack([issued.queue, operation, instruction, gap])
    changes = np.any(rows[:, 1:] != rows[:, :-1], axis=0)
    starts = np.flatnonzero(np.concatenate([np.ones(min(1, len(gap)), np.bool_), changes]))
    ends = np.append(starts[1:], len(issued.cycle))
    return [
        {
            "ph": "X",
            "name": issued.schedule.operations[operation[start]],
            "cat": mnemonics[instruction[start]],
            "pid": kinds.index(issued.queues[issued.queue[start]].kind),
            "tid": int(issued.queue[start]),
            "ts": int(issued.cycle[start]),
            "dur": int(end - start),
            "args": {"instruction": mnemonics[instruction[start]], "issues": int(end - start)},
        }
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
    ]

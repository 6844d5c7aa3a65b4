"""The issues of a schedule in the order in which the golden machine executes them."""

from itertools import pairwise
from typing import cast

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import mem
from waterclock.isa.config import Config
from waterclock.isa.floorplan import queue_numbers, queues
from waterclock.isa.program import Schedule
from waterclock.isa.sequence import Issues, expand, opcode_of
from waterclock.isa.spec import Instruction, decode
from waterclock.sim.mem import Reads

Event = tuple[int, int, Instruction | Reads]

LONGEST = 64  #: cycles of one ``Reads``: a vector is put on its stream that long before its time


def plan(config: Config, schedule: Schedule) -> tuple[list[Event], int]:
    """Return what is issued as (cycle, queue, operation), and the cycle in which all have halted.

    Weights are most of what a program reads. Reads of a slice in one cycle after the other come
    as one event, in the cycle of the first, if they go onto one stream and nothing is written in
    their cycles to that slice.
    """
    issues = expand(config, schedule.words)
    numbers = queue_numbers(config)
    events: list[Event] = []
    for index, found in issues.items():
        queue = queues(config)[index]
        single = np.ones(len(found.cycles), bool)
        if queue.kind == "mem_read" and config.paths == 2 * config.streams:
            written = issues.get(numbers["mem_write", queue.hemisphere, queue.unit])
            runs, single = _runs(found, written.cycles if written else np.zeros(0, np.int64))
            events += [(cycle, index, reads) for cycle, reads in runs]
        ops: dict[int, Instruction] = {}
        cycles, words = found.cycles[single].tolist(), found.words[single].tolist()
        for cycle, word in zip(cycles, words, strict=True):
            op = ops.get(word)
            if op is None:
                op = ops[word] = decode(queue.kind, word)
            events.append((cycle, index, op))
    events.sort(key=lambda event: event[:2])
    return events, max((found.halt for found in issues.values()), default=0)


def _field(words: NDArray[np.uint64], name: str) -> NDArray[np.int64]:
    """Return an operand of words that are Reads."""
    spec = next(spec for spec in mem.Read.operands if spec.name == name)
    found = words >> np.uint64(spec.low) & np.uint64((1 << spec.bits) - 1)
    return found.astype(np.int64)


def _runs(
    issues: Issues, written: NDArray[np.int64]
) -> tuple[list[tuple[int, Reads]], NDArray[np.bool_]]:
    """Return the Reads of a queue, with their first cycles, and which issues are not in them.

    ``written`` holds the cycles, in order, in which the slice is written.
    """
    cycles, words = issues.cycles, issues.words
    before = np.searchsorted(written, cycles)
    alone = before < np.searchsorted(written, cycles, "right")
    alone |= (opcode_of(words) != mem.Read.opcode) | (words >> np.uint64(mem.Read.bits) != 0)
    places = np.flatnonzero(~alone)
    if not len(places):
        return [], alone
    addresses, codes = _field(words[places], "addr"), _field(words[places], "dst")
    parts = np.stack([cycles[places] - np.arange(len(places)), before[places], codes])
    begins = np.flatnonzero(np.any(parts[:, 1:] != parts[:, :-1], axis=0)) + 1
    runs: list[tuple[int, Reads]] = []
    edges = [0, *begins.tolist(), len(places)]
    for first, end in pairwise(edges):
        for at in range(first, end, LONGEST):
            found = addresses[at : min(at + LONGEST, end)]
            cycle = cast(int, cycles[places[at]].item())
            runs.append((cycle, Reads(found, int(codes[at]))))
    return runs, alone

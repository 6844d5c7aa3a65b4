"""Folds what a queue issues into Repeat and Loop, in as few words as it finds.

Items of a stencil and tiles of a matrix make a queue do the same again and again, with addresses
that grow evenly. A block that comes back after ``length`` issues is a candidate for a Loop
if one of its cycles is left for the Loop itself; the fewest words from each issue to the end
are found from the end on.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import icu
from waterclock.isa.spec import instructions

Ints = NDArray[np.int64]

LONGEST_BLOCK = 64  #: issues of a block that are tried


def _largest(op: type[icu.Repeat] | type[icu.Loop] | type[icu.NOP], name: str) -> int:
    """Return the largest value of a field; of a signed one, the largest that is not negative."""
    spec = next(spec for spec in op.operands if spec.name == name)
    return (1 << spec.bits - spec.signed) - 1


LONGEST_NOP = _largest(icu.NOP, "count")
MOST_REPEATS = _largest(icu.Repeat, "count")
LONGEST_DISTANCE = _largest(icu.Repeat, "distance")
LONGEST_STRIDE = _largest(icu.Repeat, "stride")
WIDEST_LOOP = _largest(icu.Loop, "stride")
MOST_ROUNDS = _largest(icu.Loop, "count")
LONGEST_LOOP = _largest(icu.Loop, "length")


@dataclasses.dataclass(frozen=True)
class _Block:
    """``length`` issues from ``first`` on, ``rounds`` more times, each ``period`` cycles later."""

    first: int
    length: int
    rounds: int
    period: int
    stride: int


class _Folder:
    """One queue's issues as arrays, and what may be folded."""

    def __init__(self, kind: str, cycles: Ints, words: Ints):
        self.count, self.cycles, self.words = len(cycles), cycles, words.tolist()
        own = [op for op in instructions(kind) if op.kind == kind]
        spec = next((spec for op in own if (spec := op.address())), None)
        low, mask = (spec.low, (1 << spec.bits) - 1) if spec else (0, 0)
        self.addresses: Ints = words >> low & mask
        self.rests: Ints = words & ~(mask << low)
        self.repeats = self._repeats()
        self.blocks: dict[int, list[_Block]] = {}
        for length in range(2, min(LONGEST_BLOCK, self.count // 2) + 1):
            self._find_blocks(length)

    def _runs(self, length: int) -> tuple[Ints, Ints, Ints]:
        """Return how many issues from each on come back evenly; period; stride."""
        periods = self.cycles[length:] - self.cycles[:-length]
        strides = self.addresses[length:] - self.addresses[:-length]
        equal = self.rests[length:] == self.rests[:-length]
        equal &= np.abs(strides) <= (LONGEST_STRIDE if length == 1 else WIDEST_LOOP)
        last = np.ones(len(equal), bool)
        last[:-1] = (
            ~(equal[:-1] & equal[1:])
            | (periods[:-1] != periods[1:])
            | (strides[:-1] != strides[1:])
        )
        index = np.arange(len(equal))
        ends = np.minimum.accumulate(np.where(last, index, len(equal))[::-1])[::-1]
        return np.where(equal, ends - index + 1, 0), periods, strides

    def _repeats(self) -> list[tuple[int, int, int]]:
        """Return (count, distance, stride) of the longest Repeat after each issue."""
        if self.count < 2:
            return [(0, 0, 0)] * self.count
        runs, periods, strides = self._runs(1)
        runs = np.where(periods <= LONGEST_DISTANCE, np.minimum(runs, MOST_REPEATS), 0)
        found = list(zip(runs.tolist(), periods.tolist(), strides.tolist(), strict=True))
        return [*found, (0, 0, 0)]

    def _find_blocks(self, length: int) -> None:
        """Note the blocks of a length that begin in the first round of an even run."""
        runs, periods, strides = self._runs(length)
        begins = np.ones(len(runs), bool)
        begins[1:] = runs[1:] != runs[:-1] - 1
        index = np.arange(len(runs))
        first = np.maximum.accumulate(np.where(begins, index, 0))
        for i in np.flatnonzero((runs >= length) & (index - first < length)).tolist():
            rounds = min(int(runs[i]) // length, MOST_ROUNDS)
            period = int(periods[i])
            if self.cycles[i + length - 1] > self.cycles[i] + period - 2:
                continue  # no cycle is left for the Loop
            following = i + (rounds + 1) * length
            end = self.cycles[i] + (rounds + 1) * period
            if following < self.count and self.cycles[following] < end:
                rounds -= 1
            if rounds:
                block = _Block(i, length, rounds, period, int(strides[i]))
                self.blocks.setdefault(i, []).append(block)

    def repeat_at(self, index: int, end: int) -> int:
        """Return how often Repeat issues again what is issued at ``index``, before ``end``."""
        count, distance, _ = self.repeats[index]
        count = min(count, end - index - 1)
        # One repetition at a distance costs as many words as writing it out: keep it readable.
        return count if count > 1 or (count == 1 and distance == 1) else 0

    def straight(self, index: int, end: int) -> list[int]:
        """Return the words of the issues ``index`` to ``end`` without loops."""
        words: list[int] = []
        now = int(self.cycles[index])
        while index < end:
            words += nops(int(self.cycles[index]) - now)
            words.append(self.words[index])
            count = self.repeat_at(index, end)
            if count:
                _, distance, stride = self.repeats[index]
                words.append(icu.Repeat(count=count, distance=distance, stride=stride).encode())
            index += count + 1
            now = int(self.cycles[index - 1]) + 1
        return words

    def body(self, block: _Block) -> list[int]:
        """Return the words of a block and its Loop."""
        end = block.first + block.length
        words = self.straight(block.first, end)
        last = int(self.cycles[block.first]) + block.period - 1  # the cycle of the Loop
        words += nops(last - int(self.cycles[end - 1]) - 1)
        loop = icu.Loop(length=len(words), count=block.rounds, stride=block.stride)
        return [*words, loop.encode()] if len(words) <= LONGEST_LOOP else []

    def fold(self) -> list[tuple[int, list[int], int]]:
        """Return the pieces of the shortest way: (first cycle, words, cycle after them)."""
        best = [0] * (self.count + 1)
        chosen: list[tuple[int, list[int], int]] = [(0, [], 0)] * self.count  # next, words, end
        for index in range(self.count - 1, -1, -1):
            cycle = int(self.cycles[index])
            pieces = [(index + 1, [self.words[index]], cycle + 1)]
            count = self.repeat_at(index, self.count)
            if count:
                following = index + count + 1
                end = int(self.cycles[following - 1]) + 1
                pieces.append((following, self.straight(index, following), end))
            for block in self.blocks.get(index, []):
                words = self.body(block)
                if words:
                    rounds = block.rounds + 1
                    end = cycle + rounds * block.period
                    pieces.append((index + rounds * block.length, words, end))
            costs = [
                len(words)
                + best[following]
                + (following < self.count and self.cycles[following] > end)
                for following, words, end in pieces
            ]
            least = int(np.argmin(costs))
            best[index], chosen[index] = int(costs[least]), pieces[least]
        found = []
        index = 0
        while index < self.count:
            following, words, end = chosen[index]
            found.append((int(self.cycles[index]), words, end))
            index = following
        return found


def nops(cycles: int) -> list[int]:
    """Return words that wait."""
    counts = [LONGEST_NOP] * (cycles // LONGEST_NOP) + [cycles % LONGEST_NOP]
    return [icu.NOP(count=count).encode() for count in counts if count]


def fold(kind: str, cycles: Ints, issued: Ints, start: int, end: int) -> list[int]:
    """Return the words that issue ``issued`` in ``cycles``, from ``start`` on and until ``end``."""
    words: list[int] = []
    now = start
    for cycle, piece, after in _Folder(kind, cycles, issued).fold():
        words += nops(cycle - now) + piece
        now = after
    return words + nops(max(0, end - now))

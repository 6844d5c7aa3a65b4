"""Folds what a queue issues into Repeat and Loop, in as few words as it finds.

Items of a stencil and tiles of a matrix make a queue do the same again and again, with addresses
that grow evenly or stand still. A block that comes back after some items is a candidate for a Loop
if one of its cycles is left for the Loop itself; the fewest words from each item to the end are
found from the end on. An item is an issue, or an issue with its Repeat: both ways are tried, but
only the second where there are so many issues that the first would take long.
"""

import dataclasses
from functools import cache

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import icu
from waterclock.isa.config import Config
from waterclock.isa.spec import Instruction, Operand, instructions

Ints = NDArray[np.int64]

LONGEST_BLOCK = 64  #: items of a block that are tried
MOST_ISSUES = 4096  #: of a queue whose issues are looked at one by one


def largest(op: type[Instruction], name: str) -> int:
    """Return the largest value of a field; of a signed one, the largest that is not negative."""
    spec = next(spec for spec in op.operands if spec.name == name)
    return (1 << spec.bits - spec.signed) - 1


LONGEST_NOP = largest(icu.NOP, "count")
MOST_REPEATS = largest(icu.Repeat, "count")
LONGEST_DISTANCE = largest(icu.Repeat, "distance")
LONGEST_STRIDE = largest(icu.Repeat, "stride")
WIDEST_LOOP = largest(icu.Loop, "stride")
MOST_ROUNDS = largest(icu.Loop, "count")
LONGEST_LOOP = largest(icu.Loop, "length")


@dataclasses.dataclass(frozen=True)
class Fields:
    """Where words of a kind of queue hold an address, and the levels of Loop that spare it."""

    low: int
    mask: int
    still: Operand | None

    @classmethod
    def of(cls, kind: str, config: Config) -> "Fields":
        """Return the fields of a kind's words."""
        own = [op for op in instructions(kind) if op.kind == kind]
        spec = next((spec for op in own if (spec := op.address())), None)
        still = (spec for op in own for spec in op.operands if spec.name == "still")
        mask = (1 << spec.used(config).bit_length()) - 1 if spec else 0
        return cls(spec.low if spec else 0, mask, next(still, None))

    def spare(self, level: int) -> int:
        """Return the bit of a word whose address the Loops of a level leave alone; 0 for none."""
        return 1 << self.still.low + level if self.still else 0

    def distance(self, addresses: Ints, by: int) -> Ints:
        """Return the strides from each address to the one ``by`` further, the shorter way round."""
        half = self.mask + 1 >> 1
        return (addresses[by:] - addresses[:-by] + half & self.mask) - half


@dataclasses.dataclass(frozen=True)
class _Block:
    """``length`` items from ``first`` on, ``rounds`` more times, each ``period`` cycles later.

    Addresses move by ``stride`` or, where ``still`` says so, not at all.
    """

    first: int
    length: int
    rounds: int
    period: int
    stride: int
    still: NDArray[np.bool_]


@dataclasses.dataclass
class _Items:
    """Issues with a Repeat or without: first and last cycle, word, and the word of the Repeat."""

    cycles: Ints
    last: Ints
    words: Ints
    repeats: Ints  #: 0 for none

    @classmethod
    def single(cls, cycles: Ints, words: Ints) -> "_Items":
        """Return issues as they are."""
        return cls(cycles, cycles, words, np.zeros(len(words), np.int64))

    def repeated(self, fields: Fields) -> "_Items":
        """Return items whose issues are each followed by the longest Repeat."""
        found = Repeats(self, fields)
        firsts, repeats, index = [], [], 0
        while index < len(self.cycles):
            count = found.at(index, len(self.cycles))
            firsts.append(index)
            repeats.append(found.word(index, count) if count else 0)
            index += count + 1
        ends = np.append(firsts[1:], len(self.cycles)).astype(np.int64) - 1
        return _Items(
            self.cycles[firsts], self.cycles[ends], self.words[firsts], np.array(repeats, np.int64)
        )


class Repeats:
    """How often what is issued may be issued again by a Repeat."""

    def __init__(self, items: _Items, fields: Fields):
        addresses = items.words >> fields.low & fields.mask
        rests = items.words & ~(fields.mask << fields.low)
        distance, stride = np.diff(items.cycles), fields.distance(addresses, 1)
        fits = (np.diff(rests) == 0) & (distance <= LONGEST_DISTANCE)
        fits &= (abs(stride) <= LONGEST_STRIDE) & (items.repeats[1:] == 0)
        fits &= items.repeats[:-1] == 0
        same = (np.diff(distance) == 0) & (np.diff(stride) == 0) & fits[:-1] & fits[1:]
        changes = np.append(np.flatnonzero(~same) + 1, len(distance))
        index = np.arange(len(distance))
        ends = changes[np.searchsorted(changes, index, side="right")] if len(index) else index
        self.counts = np.where(fits, np.minimum(ends - index, MOST_REPEATS), 0).tolist()
        self.distance, self.stride = distance.tolist(), stride.tolist()

    def at(self, index: int, end: int) -> int:
        """Return how often Repeat issues again what is issued at ``index``, before ``end``."""
        if index >= len(self.counts):
            return 0
        count = min(self.counts[index], end - index - 1)
        # One repetition at a distance costs as many words as writing it out: keep it readable.
        return count if count > 1 or (count == 1 and self.distance[index] == 1) else 0

    def word(self, index: int, count: int) -> int:
        """Return the word of the Repeat."""
        return _repeat(count, self.distance[index], self.stride[index])


def _next(places: Ints, index: Ints, end: int) -> Ints:
    """Return, for each index, the first of ``places`` at it or behind it, or ``end``."""
    return np.append(places, end)[np.searchsorted(places, index)]


def _last(places: Ints, index: Ints, begin: int) -> Ints:
    """Return, for each index, the last of ``places`` at it or before it, or ``begin``."""
    return np.append(begin, places)[np.searchsorted(places, index, side="right")]


class _Folder:
    """One queue's items, and what may be folded."""

    def __init__(self, items: _Items, fields: Fields, end: int, *, loops: bool):
        self.end = end  #: cycle by which all must be over
        self.items, self.fields, self.count = items, fields, len(items.cycles)
        self.cycles, self.last = items.cycles.tolist(), items.last.tolist()
        self.words, self.repeat_words = items.words.tolist(), items.repeats.tolist()
        self.addresses = items.words >> fields.low & fields.mask
        self.rests = items.words & ~(fields.mask << fields.low)
        self.repeats = Repeats(items, fields)
        self.blocks: dict[int, list[_Block]] = {}
        for length in range(1, min(LONGEST_BLOCK, self.count // 2) + 1 if loops else 0):
            self._find_blocks(length)

    def _find_blocks(self, length: int) -> None:
        """Note the blocks of a length that begin in the first round of an even run."""
        items, count = self.items, self.count - length
        periods = items.cycles[length:] - items.cycles[:-length]
        strides = self.fields.distance(self.addresses, length)
        equal = (self.rests[length:] == self.rests[:-length]) & (abs(strides) <= WIDEST_LOOP)
        equal &= items.repeats[length:] == items.repeats[:-length]
        index = np.arange(count)
        # A run ends where items differ or come in another rhythm, or move otherwise than before.
        ends = np.flatnonzero(np.append(False, (np.diff(periods) != 0) | ~equal[1:]))
        turns = np.flatnonzero(strides[length:] != strides[:-length]) + length
        if not self.fields.spare(0):
            ends = np.union1d(ends, np.flatnonzero(np.diff(strides) != 0) + 1)
        run = np.minimum(_next(ends, index + 1, count), _next(turns, index + length, count)) - index
        turn = _last(turns, index + length - 1, 0)
        begin = np.maximum(_last(ends, index, 0), turn - length + 1)
        place = (index - begin) % (length * (MOST_ROUNDS + 1))
        # Within a block those that move have one stride: no two neighbours of these differ.
        moving = np.flatnonzero(strides)
        other = np.full(count, -1)
        changed = np.flatnonzero(np.diff(strides[moving]) != 0)
        other[moving[changed + 1]] = moving[changed]
        other = np.maximum.accumulate(other)
        tail = np.minimum(index + length - 1, count - 1)
        good = equal & (run >= length) & (place < length) & (other[tail] < index)
        good &= items.last[tail] <= items.cycles[:count] + periods - 2  # a cycle for the Loop
        for i in np.flatnonzero(good).tolist():
            rounds, period = min(int(run[i]) // length, MOST_ROUNDS), int(periods[i])
            following = i + (rounds + 1) * length
            end = self.cycles[i] + (rounds + 1) * period
            if end > (self.cycles[following] if following < self.count else self.end):
                rounds -= 1
            if rounds:
                mine = strides[i : i + length]
                stride = int(mine[np.argmax(mine != 0)])
                still = (mine == 0) & (stride != 0)
                block = _Block(i, length, rounds, period, stride, still)
                self.blocks.setdefault(i, []).append(block)

    def straight(self, index: int, end: int, still: NDArray[np.bool_] | None = None) -> list[int]:
        """Return the words of the items ``index`` to ``end`` without loops.

        ``still`` tells which of them Loops of level 0 leave alone.
        """
        words: list[int] = []
        first, now = index, self.cycles[index]
        spare = self.fields.spare(0)
        while index < end:
            words += nops(self.cycles[index] - now)
            count, here = self.repeats.at(index, end), index - first
            if still is None:
                words.append(self.words[index])
            else:
                words.append(self.words[index] | spare * int(still[here]))
                if count:
                    others = np.flatnonzero(still[here : here + count + 1] != still[here])
                    count = int(others[0]) - 1 if len(others) else count
            if count:
                words.append(self.repeats.word(index, count))
            elif self.repeat_words[index]:
                words.append(self.repeat_words[index])
            index += count + 1
            now = self.last[index - 1] + 1
        return words

    def body(self, block: _Block) -> list[int]:
        """Return the words of a block and its Loop."""
        end = block.first + block.length
        words = self.straight(block.first, end, block.still if block.still.any() else None)
        last = self.cycles[block.first] + block.period - 1  # the cycle of the Loop
        words += nops(last - self.last[end - 1] - 1)
        loop = icu.Loop(length=len(words), count=block.rounds, stride=block.stride)
        return [*words, loop.encode()] if len(words) <= LONGEST_LOOP else []

    def fold(self) -> list[tuple[int, list[int], int]]:
        """Return the pieces of the shortest way: (first cycle, words, cycle after them)."""
        best = [0] * (self.count + 1)
        chosen: list[tuple[int, list[int], int]] = [(0, [], 0)] * self.count  # next, words, end
        for index in range(self.count - 1, -1, -1):
            following = index + 1 + self.repeats.at(index, self.count)
            pieces = [(following, self.straight(index, following), self.last[following - 1] + 1)]
            if following > index + 1:
                pieces.append((index + 1, [self.words[index]], self.last[index] + 1))
            for block in self.blocks.get(index, []):
                words = self.body(block)
                if words:
                    rounds = block.rounds + 1
                    end = self.cycles[index] + rounds * block.period
                    pieces.append((index + rounds * block.length, words, end))
            costs = [
                len(words)
                + best[following]
                + (following < self.count and self.cycles[following] > end)
                for following, words, end in pieces
            ]
            least = costs.index(min(costs))
            best[index], chosen[index] = costs[least], pieces[least]
        found = []
        index = 0
        while index < self.count:
            following, words, end = chosen[index]
            found.append((self.cycles[index], words, end))
            index = following
        return found


def nops(cycles: int) -> list[int]:
    """Return words that wait."""
    if cycles <= LONGEST_NOP:
        return [_nop(cycles)] if cycles else []
    return [_nop(LONGEST_NOP), *nops(cycles - LONGEST_NOP)]


@cache
def _nop(cycles: int) -> int:
    return icu.NOP(count=cycles).encode()


@cache
def _repeat(count: int, distance: int, stride: int) -> int:
    return icu.Repeat(count=count, distance=distance, stride=stride).encode()


def fold(
    fields: Fields,
    cycles: Ints,
    issued: Ints,
    start: int,
    end: int,
    *,
    loops: bool,
    wait: bool = True,
) -> list[int]:
    """Return the words that issue ``issued`` in ``cycles``, from ``start`` on.

    They are over in cycle ``end``, not before if they shall ``wait`` for it. With ``loops`` there
    may be Loops of level 0 among them.
    """
    if not len(cycles):
        return nops(max(0, end - start)) if wait else []
    single = _Items.single(cycles, issued)
    ways = [single.repeated(fields)]
    if loops and len(cycles) <= MOST_ISSUES:
        ways.append(single)
    found = []
    for items in ways:
        words: list[int] = []
        now = start
        for cycle, piece, after in _Folder(items, fields, end, loops=loops).fold():
            words += nops(cycle - now) + piece
            now = after
        found.append(words + nops(end - now) if wait else words)
    return min(found, key=len)

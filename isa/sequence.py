"""From queue words to issues: in which cycle each queue issues which instruction.

Pure bookkeeping on ``isa/icu.py``: nothing here depends on data, which is why the cycles of a
program are known before it runs.
"""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import icu, mem
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Queue, queues
from waterclock.isa.spec import OPCODE_BITS, Instruction, decode

MAX_ISSUES = 1 << 26  #: a queue that issues more is taken for a damaged program


class SequenceError(ValueError):
    """A queue's words break the rules of the ICU. The message names queue and word."""


@dataclasses.dataclass(frozen=True)
class Issues:
    """What one queue issues, in order of cycles.

    ``cycles`` (n,) int64; ``words`` (n,) uint64, strides already added; ``pcs`` (n,) int64, the
    word that the issue comes from; ``halt`` the cycle in which the queue halts.
    """

    cycles: NDArray[np.int64]
    words: NDArray[np.uint64]
    pcs: NDArray[np.int64]
    halt: int


def add_offsets(
    word: int, op: type[Instruction], offsets: NDArray[np.int64], config: Config
) -> NDArray[np.uint64]:
    """Return ``word`` with each of ``offsets`` added to its address.

    Addresses go round at the power of two that holds all those of the configuration: so LW, whose
    rows are half a tile or a quarter apart, begins the next tile by itself.
    """
    spec = op.address()
    if spec is None:
        return np.full(len(offsets), word, np.uint64)
    mask = (1 << spec.used(config).bit_length()) - 1
    address = ((word >> spec.low) + offsets) & mask
    return np.uint64(word & ~(mask << spec.low)) | (
        address.astype(np.uint64) << np.uint64(spec.low)
    )


def _moved(op: Instruction, offsets: list[int]) -> int:
    """Return what Loops add to the address of an instruction, of ``offsets`` by level."""
    still: int = getattr(op, "still", 0)
    return sum(offset for level, offset in enumerate(offsets) if not still >> level & 1)


class _Walker:
    """Walks one queue's words; stops at each Sync until told when it resumes."""

    def __init__(self, name: str, kind: str, words: NDArray[np.uint64], start: int, config: Config):
        self.name, self.kind, self.config = name, kind, config
        self.words = [int(word) for word in words]
        self.pc, self.time = start, 0
        self.parked = self.halted = False
        self.notifies: list[int] = []
        self.segments: list[tuple[NDArray[np.int64], NDArray[np.uint64], int]] = []
        self.total = 0
        self.cache: dict[int, Instruction] = {}

    def fail(self, message: str) -> SequenceError:
        return SequenceError(f"{self.name} word {self.pc}: {message}")

    def fetch(self) -> Instruction:
        if self.pc >= len(self.words):
            return icu.Halt()  # memory that was never loaded
        word = self.words[self.pc]
        op = self.cache.get(word)
        if op is None:
            try:
                op = self.cache[word] = decode(self.kind, word)
            except ValueError as error:
                raise self.fail(str(error)) from None
        return op

    def length_at(self, pc: int) -> int:
        """Return the length of the block of the Loop at a word."""
        loop = self.cache[self.words[pc]]
        assert isinstance(loop, icu.Loop)
        return loop.length

    def emit(self, cycles: NDArray[np.int64], word: int, offsets: NDArray[np.int64]) -> None:
        self.total += len(cycles)
        if self.total > MAX_ISSUES:
            raise self.fail(f"more than {MAX_ISSUES} issues")
        op = type(self.cache.get(word) or decode(self.kind, word))
        self.segments.append((cycles, add_offsets(word, op, offsets, self.config), self.pc))

    def run(self) -> None:
        """Walk until the queue parks or halts."""
        loops: dict[int, tuple[int, int]] = {}  # level: pc of the Loop, repetition under way
        offsets = [0] * self.config.loops  # what each level adds to addresses
        previous: tuple[int, int] | None = None  # word and pc of the instruction before
        self.parked = False
        while True:
            op = self.fetch()
            if isinstance(op, icu.Halt):
                self.halted = True
                return
            if isinstance(op, icu.NOP):
                self.time += max(1, op.count)
                previous = None
            elif isinstance(op, icu.Repeat):
                if previous is None:
                    raise self.fail("Repeat does not follow a unit's instruction")
                if not op.count or not op.distance:
                    raise self.fail("Repeat with a count or distance of zero")
                steps = np.arange(1, op.count + 1, dtype=np.int64)
                cycles = self.time - 1 + steps * op.distance
                offset = _moved(self.cache[previous[0]], offsets)
                self.emit(cycles, previous[0], offset + steps * op.stride)
                self.time += op.count * op.distance
                previous = None
            elif isinstance(op, icu.Loop):
                if op.level >= self.config.loops:
                    raise self.fail("Loop of a level that the chip does not have")
                self.time += 1
                done = loops.pop(op.level)[1] if loops.get(op.level, (-1,))[0] == self.pc else 0
                if not op.count or not op.length or op.length > self.pc:
                    raise self.fail("Loop with a count or length that cannot be")
                around = [
                    place - length
                    for level, (place, _) in loops.items()
                    if level > op.level and (length := self.length_at(place))
                ]
                if len(around) < len(loops) or any(self.pc - op.length < it for it in around):
                    raise self.fail("Loop inside the block of another")
                previous = None
                if done < op.count:
                    loops[op.level] = self.pc, done + 1
                    offsets[op.level] = (done + 1) * op.stride
                    self.pc -= op.length
                    continue
                offsets[op.level] = 0
            elif isinstance(op, (icu.Sync, icu.Notify)):
                if loops:
                    raise self.fail(f"{op.mnemonic} inside the block of a Loop")
                previous = None
                if isinstance(op, icu.Notify):
                    self.notifies.append(self.time)
                    self.time += 1
                else:
                    self.pc += 1
                    self.parked = True
                    return
            else:
                cycles = np.array([self.time], dtype=np.int64)
                offset = np.array([_moved(op, offsets)], dtype=np.int64)
                self.emit(cycles, self.words[self.pc], offset)
                self.time += 1
                previous = (self.words[self.pc], self.pc)
            self.pc += 1

    def issues(self) -> Issues:
        """Return everything that was issued."""
        none = np.zeros(0, np.int64)
        return Issues(
            np.concatenate([s[0] for s in self.segments]) if self.segments else none,
            np.concatenate([s[1] for s in self.segments])
            if self.segments
            else none.astype(np.uint64),
            np.concatenate([np.full(len(s[0]), s[2]) for s in self.segments])
            if self.segments
            else none,
            self.time,
        )


def expand(
    config: Config, programs: Mapping[int, NDArray[np.uint64]], start: int = 0
) -> dict[int, Issues]:
    """Return what every queue issues, by queue index.

    Parameters
    ----------
    programs : queue index -> (words,) uint64
        Instruction memory of each queue; a queue that is missing holds nothing and halts at once.
    start : int
        Word at which all queues are launched.

    Raises
    ------
    SequenceError
        For words of queues that the chip does not have, for words that no queue of that kind
        knows, and for every rule of ``isa/icu.py`` broken.
    """
    numbers = range(len(queues(config)))
    for index, words in programs.items():
        if index not in numbers:
            raise SequenceError(f"queue {index}: the chip has {len(numbers)} queues")
        if queues(config)[index].leader is not None and len(words):
            raise SequenceError(f"queue {index}: it follows another and has no words")
    walkers = {
        queue.index: _Walker(queue.name, queue.kind, programs[queue.index], start, config)
        for queue in queues(config)
        if queue.index in programs and queue.leader is None
    }
    for walker in walkers.values():
        walker.run()
    barrier = 0
    while parked := [walker for walker in walkers.values() if walker.parked]:
        # Notifies of several queues in one cycle release the parked queues once.
        notifies = sorted({cycle for w in walkers.values() for cycle in w.notifies})
        if len(notifies) <= barrier:
            raise SequenceError(f"{parked[0].name}: Sync waits for a Notify that never comes")
        notify = notifies[barrier]
        barrier += 1
        for walker in parked:
            if walker.time > notify:
                raise SequenceError(
                    f"{walker.name}: Sync is reached in cycle {walker.time}, "
                    f"after the Notify in cycle {notify}"
                )
            walker.time = notify + icu.notify_latency(config)
            walker.run()
    found = {index: walker.issues() for index, walker in walkers.items()}
    for queue in queues(config):
        if queue.leader in found:
            found[queue.index] = _followed(found[queue.leader], queue, config)
    return found


def _followed(issues: Issues, queue: Queue, config: Config) -> Issues:
    """Return what a queue issues that follows another."""
    words, places = np.unique(issues.words, return_inverse=True)
    own = [
        mem.followed(decode(queue.kind, word), queue.unit % config.group).encode()
        for word in words.tolist()
    ]
    return dataclasses.replace(issues, words=np.array(own, np.uint64)[places])


def opcode_of(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the opcodes of instruction words."""
    return words & np.uint64((1 << OPCODE_BITS) - 1)

"""The plan of one schedule: reservations, issues, and the state of the MXM planes' entries."""

import dataclasses
from collections.abc import Sequence

from waterclock.compiler.fabric import Fabric, Key, Trial
from waterclock.compiler.memory import Memory, Place
from waterclock.isa import icu
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere, queue_numbers
from waterclock.isa.spec import Instruction


def first_cycle(config: Config) -> int:
    """Return the cycle in which the queues resume after the Notify of cycle 0."""
    return icu.notify_latency(config)


class NoFitError(RuntimeError):
    """Something does not fit anywhere: the machine lacks a resource that it needs."""


@dataclasses.dataclass(frozen=True)
class Issue:
    """One instruction, what its operands mean, and whom it serves.

    It is issued ``count`` times, a cycle apart, ``step`` being added to its address each time.
    ``intents`` is a row then, or one for each time.
    """

    cycle: int
    op: Instruction
    intents: tuple[int, ...] | Sequence[tuple[int, ...]]
    operation: int
    stride: int = 0  #: added to the address with each repetition of a block
    count: int = 1
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Acc:
    """An accumulator that holds a finished vector: ACC may be issued from ``ready`` on."""

    side: Hemisphere
    plane: int
    entry: int
    value: int
    ready: int


@dataclasses.dataclass(frozen=True)
class Act:
    """An activation vector in a plane's buffer: ABC may be issued from ``ready`` on."""

    entry: int
    value: int
    ready: int


@dataclasses.dataclass
class Block:
    """Issues that happen ``count`` times, ``period`` cycles apart: the layers of a model.

    Queues' issues from ``begin`` to ``end`` are those of the first time. ``period`` is 0 until
    the block is closed.
    """

    count: int
    start: int  #: value number from which the block makes its own
    taken: dict[Key, int]  #: what was reserved before
    begin: dict[int, int]
    operations: int  #: how many there were before
    regions: int  #: the same
    end: dict[int, int] = dataclasses.field(default_factory=dict)
    period: int = 0
    last_operation: int = 0
    last_region: int = 0
    values: int = 0  #: numbers that a repetition makes
    #: Value numbers of the inputs, and of the outputs that take their place the next time.
    renamed: dict[int, int] = dataclasses.field(default_factory=dict)
    #: What is kept free: at first for the end of the time before, then for the next time.
    kept: dict[Key, int] = dataclasses.field(default_factory=dict)
    end_begin: int = 0  #: cycle in which all that its end needs is there
    taken_before_end: dict[Key, int] = dataclasses.field(default_factory=dict)
    earliest: int = 0  #: the period that values alone would allow


@dataclasses.dataclass(frozen=True)
class Renamed:
    """An input of a block and the output that takes its place in the next repetition."""

    old: int  #: value number
    new: int
    ready: int  #: first cycle in which the output may be used
    place: Place | None = None  #: where it lies, unless in activation buffers


class Ring:
    """Entries handed out in turn; each is free again from a cycle that is set when it is known."""

    def __init__(self, count: int):
        self.count = count
        self.next = 0
        self.free_from = [0] * count

    def take(self, count: int) -> list[int]:
        """Return ``count`` entries."""
        if count > self.count:
            raise NoFitError(f"{count} MXM entries wanted at once, there are {self.count}")
        entries = [(self.next + i) % self.count for i in range(count)]
        self.next = (self.next + count) % self.count
        return entries


@dataclasses.dataclass(frozen=True)
class End:
    """How a block ended: what its end took from when on, and when each output was ready."""

    begin: int
    taken: dict[Key, int]
    ready: list[int]


@dataclasses.dataclass
class Learned:
    """What scheduling a model once tells the next try.

    ``spacings`` has for the shape of a stencil how far its items are apart, the number of the
    attempt that found how, and whether as if items never ended. ``periods`` has for a context how
    far repetitions of a block may be apart: what the first one begins with is kept free for the
    second from then on, and before that what its end took, as ``ends`` tells, for the end of the
    one before.
    """

    spacings: dict[object, tuple[int, int, bool]] = dataclasses.field(default_factory=dict)
    periods: dict[int, int] = dataclasses.field(default_factory=dict)
    ends: dict[int, End] = dataclasses.field(default_factory=dict)


class Plan:
    """What has been scheduled so far for one context bucket, one token or a block of them."""

    def __init__(
        self,
        config: Config,
        memory: Memory,
        context: int,
        positions: int = 1,
        learned: Learned | None = None,
    ):
        self.config, self.memory = config, memory
        self.learned = learned or Learned()
        self.context, self.positions = context, positions
        self.fabric = Fabric(config)
        self.issues: dict[int, list[Issue]] = {}
        self.operations: list[str] = []
        self.operation = -1
        self.numbers = queue_numbers(config)
        #: Rows of the table of regions, and how far a repetition moves each.
        self.regions: list[tuple[tuple[int, ...], int]] = []
        self.results: list[tuple[int, ...]] = []
        planes = [(side, plane) for plane in range(config.planes) for side in Hemisphere]
        self.planes = planes
        self.acts = {key: Ring(config.act_entries) for key in planes}
        self.accs = {key: Ring(config.acc_entries) for key in planes}
        self.installed = dict.fromkeys(planes, 0)  # cycle of the last IW
        self.last_abc = dict.fromkeys(planes, -1)
        self.loads: dict[int, int] = {}  #: issues of each ALU
        self.end = 0
        self.block: Block | None = None

    @property
    def repetitions(self) -> int:
        """How often what is being scheduled will happen."""
        return self.block.count if self.block and not self.block.period else 1

    def trial(self) -> Trial:
        """Return an empty trial on top of everything reserved."""
        return Trial(self.fabric)

    def serve(self, operation: str) -> None:
        """Name the model operation that the following issues serve."""
        if operation not in self.operations:
            self.operations.append(operation)
        self.operation = self.operations.index(operation)

    def issue(
        self,
        kind: str,
        side: Hemisphere | None,
        unit: int,
        cycle: int,
        op: Instruction,
        intents: tuple[int, ...] | Sequence[tuple[int, ...]] = (),
        stride: int = 0,
        count: int = 1,
        step: int = 0,
    ) -> None:
        """Add an issue, or ``count`` of them.

        ``intents`` are the columns of ``program.INTENTS`` for the queue; ``stride`` is added to
        the address with each repetition of the block.
        """
        if kind == "alu":
            self.loads[unit] = self.loads.get(unit, 0) + count
        queue = self.numbers[kind, side, unit]
        issue = Issue(cycle, op, intents, self.operation, stride, count, step)
        self.issues.setdefault(queue, []).append(issue)
        done = cycle + count - 1 + type(op).latency(self.config) + self.config.superlanes - 1
        self.end = max(self.end, done)

    def open_block(self, count: int) -> None:
        """Begin what happens ``count`` times: the next issues are those of the first time."""
        self.block = Block(
            count=count,
            start=self.memory.next_value,
            taken=dict(self.fabric.taken),
            begin={queue: len(found) for queue, found in self.issues.items()},
            operations=len(self.operations),
            regions=len(self.regions),
        )

    def block_cycles(self) -> int:
        """Return the cycles of the open block from its first issue to its last, both included."""
        assert self.block is not None
        issues = [
            issue
            for queue, found in self.issues.items()
            for issue in found[self.block.begin.get(queue, 0) :]
        ]
        first = min(issue.cycle for issue in issues)
        return max(issue.cycle + issue.count for issue in issues) - first

    def expected(self) -> list[int]:
        """Return when the outputs of the block before the open one would be ready, if learned.

        What the end of that block would take is kept free until ``end_block``.
        """
        period, end = self.learned.periods.get(self.context), self.learned.ends.get(self.context)
        if not period or not end:
            return []
        self._keep({key: mask >> period for key, mask in end.taken.items()})
        return [ready - period for ready in end.ready]

    def end_block(self, begin: int) -> None:
        """Begin the end of the open block, which happens while the next one begins.

        All that it needs is there in cycle ``begin``. What the block took so far is kept free a
        period later, if one was learned, and as much more as this end comes later than the last.
        """
        block = self.block
        assert block is not None
        self._free()
        block.end_begin = begin
        block.taken_before_end = dict(self.fabric.taken)
        period, learned = (
            self.learned.periods.get(self.context),
            self.learned.ends.get(self.context),
        )
        if period and learned:
            period += begin - learned.begin
            taken = self.fabric.taken.items()
            self._keep({k: (mask & ~block.taken.get(k, 0)) << period for k, mask in taken})

    def _keep(self, masks: dict[Key, int]) -> None:
        """Keep free what is not taken yet."""
        assert self.block is not None
        for key, mask in masks.items():
            free = mask & ~self.fabric.taken.get(key, 0)
            if free:
                self.block.kept[key] = free
                self.fabric.taken[key] = self.fabric.taken.get(key, 0) | free

    def _free(self) -> None:
        """Let go of what is kept free."""
        assert self.block is not None
        for key, mask in self.block.kept.items():
            self.fabric.taken[key] &= ~mask
        self.block.kept.clear()

    def close_block(self, outputs: Sequence[Renamed], earliest: int = 0) -> tuple[int, int]:
        """End the block, whose repetitions are ``earliest`` cycles apart or more.

        Returns how many cycles and value numbers its last repetition is later.
        """
        block = self.block
        assert block is not None
        self._free()
        before = block.taken_before_end
        end = {key: mask & ~before.get(key, 0) for key, mask in self.fabric.taken.items()}
        ready = [output.ready for output in outputs]
        self.learned.ends = {**self.learned.ends, self.context: End(block.end_begin, end, ready)}
        block.end = {queue: len(found) for queue, found in self.issues.items()}
        block.last_operation, block.last_region = len(self.operations), len(self.regions)
        block.renamed = {output.old: output.new for output in outputs}
        block.values = self.memory.next_value - block.start
        self.memory.numbers(block.values * (block.count - 1))
        uses = self._first_uses(block, outputs)
        waits = (output.ready - use for output, use in zip(outputs, uses, strict=True))
        earliest = block.earliest = max(earliest, *waits)
        mine = {key: mask & ~block.taken.get(key, 0) for key, mask in self.fabric.taken.items()}
        mine = {key: mask for key, mask in mine.items() if mask}
        period = earliest
        while block.count > 1 and not all(
            _clear(mask, block.taken.get(key, 0), period) for key, mask in mine.items()
        ):
            period += 1
        block.period = period
        last = period * (block.count - 1)
        for key, mask in mine.items():
            # Nothing goes between repetitions, and what follows comes after the last.
            whole = (mask << last) | mask
            for number in range(1, block.count - 1):
                whole |= mask << period * number
            self.fabric.taken[key] = block.taken.get(key, 0) | whole
        for ring in (*self.acts.values(), *self.accs.values()):
            ring.free_from = [cycle + last if cycle else 0 for cycle in ring.free_from]
        for table in (self.installed, self.last_abc):
            for plane in table:
                table[plane] += last
        self.end += last
        return last, block.values * (block.count - 1)

    def _first_uses(self, block: Block, outputs: Sequence[Renamed]) -> list[int]:
        """Return the first cycle in which the block uses each of its inputs."""
        entries: dict[int, int] = {}
        for (kind, _, _), queue in self.numbers.items():
            if kind == "mxm_abc":
                for issue in self.issues.get(queue, [])[block.begin.get(queue, 0) :]:
                    value = issue.intents[0]
                    if isinstance(value, int):  # runs take activations that are nobody's inputs
                        entries[value] = min(entries.get(value, issue.cycle), issue.cycle)
        found = []
        reads: dict[int, dict[int, int]] = {}
        for output in outputs:
            if output.place is None:
                found.append(entries[output.old])
                continue
            queue = self.numbers["mem_read", output.place.side, output.place.slices[0]]
            if queue not in reads:
                reads[queue] = first = {}
                for issue in self.issues[queue][block.begin.get(queue, 0) :]:
                    for i in range(issue.count):
                        row, cycle = getattr(issue.op, "addr", -1) + i * issue.step, issue.cycle + i
                        first[row] = min(first.get(row, cycle), cycle)
            found.append(reads[queue][output.place.row])
        return found


def _clear(mask: int, before: int, period: int) -> bool:
    """Tell whether a resource's use can be repeated: by itself, and after what was there before."""
    width = mask.bit_length()
    shift = period
    while shift < width:
        if mask & mask << shift:
            return False
        shift += period
    return not mask << period & before

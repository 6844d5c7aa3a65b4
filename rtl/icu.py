"""ICU: one instruction queue, which walks its words and issues to one unit."""

import numpy as np
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from numpy.typing import NDArray

from waterclock.isa import icu
from waterclock.isa.config import Config
from waterclock.isa.spec import OPCODE_BITS, WORD_BITS, Instruction, instructions, word_bits
from waterclock.rtl.part import UNIT_BIT, field, is_unit
from waterclock.rtl.sram import ID_BITS, SRAM, sram_image

ADDRESS_BITS = 16


def launch_latency(_: Config) -> int:
    """Return the cycles from ``launch`` to cycle 0, in which units hold the first instruction."""
    return 2


def address_field(kind: str, config: Config) -> tuple[int, int] | None:
    """Return the position and width of the address in a kind's words, if it has any bits.

    The width is that of the addresses of the configuration, modulo which strides are added.
    """
    own = [op for op in instructions(kind) if op.kind == kind]
    places = {(spec.low, spec.used(config).bit_length()) for op in own if (spec := op.address())}
    if len(places) > 1 or (places and not all(op.address() for op in own)):
        raise ValueError(f"{kind}: addresses of the instructions are not in one place")
    place = next(iter(places), None)
    return place if place and place[1] else None  # a single address takes no bits


def unit_bits(kind: str, config: Config) -> int:
    """Return the bits that legal instructions of a kind's unit ever set, as a mask."""
    used = 0
    for op in instructions(kind):
        if op.kind == kind:
            used |= op.opcode
            address = op.address()  # of two operands, with what a carry passes between them
            for spec in (*op.operands, *([address] if address else [])):
                used |= spec.used(config) << spec.low
    return used


def stored_bits(kind: str, config: Config) -> int:
    """Return the bits that legal words of a kind ever set, as a mask.

    Only they are stored: so a word of MEM takes one block RAM of an FPGA.
    """
    _, bits = address_field(kind, config) or (0, 0)
    used = unit_bits(kind, config)
    for op in instructions(kind):
        if op.kind == kind or (op is icu.Loop and not config.loops):
            continue
        used |= op.opcode
        for spec in op.operands:
            mask = (1 << bits) - 1 if spec.name == "stride" else spec.used(config)
            used |= (mask & (1 << spec.bits) - 1) << spec.low
    return used


def _runs(used: int) -> list[slice]:
    """Return a mask as runs of bits, low to high."""
    bits = [used >> bit & 1 for bit in range(used.bit_length() + 1)]
    starts = [bit for bit, it in enumerate(bits) if it and not (bit and bits[bit - 1])]
    return [slice(low, bits.index(0, low)) for low in starts]


def imem_image(kind: str, config: Config, words: NDArray[np.uint64]) -> bytes:
    """Return the preload file of a queue's instruction memory, see ``rtl/sram.py``.

    Parameters
    ----------
    words : (n,) uint64
        From word 0 on.
    """
    stored, place = np.zeros(len(words), "<u8"), 0
    for run in _runs(stored_bits(kind, config)):
        size = run.stop - run.start
        part = words.astype(np.uint64) >> np.uint64(run.start) & np.uint64((1 << size) - 1)
        stored |= part << np.uint64(place)
        place += size
    return sram_image(stored.view(np.uint8).reshape(-1, 8)[:, : -(-place // 8)])


class ICUQueue(wiring.Component):
    """One instruction queue with its memory.

    Parameters
    ----------
    kind : str
        Kind of queue, see ``isa/floorplan.py``.
    config : Config
        Uses ``words_of``, ``loops``, and what says which bits of words are used.

    Members
    -------
    launch : In(1)
        Start at word ``start`` : In(16); only while halted.
    notify : In(1)
        The or of ``notify_out`` of all queues, without a register.
    notify_out : Out(1)
        The queue executes a Notify.
    word : Out(word_bits(kind))
        What is issued, strides added; 0 for nothing. The unit registers it.
    halted : Out(1)
        The queue is not at work.
    error : Out(1)
        A rule of ``isa/icu.py`` was broken in the cycle before. Loops in blocks of others and
        counts of zero are not checked (the latter are in simulation).
    host_en, host_we, host_addr, host_wdata, host_rdata
        Access to the memory while halted, 16 bits of address, 64 of data, of which those of
        ``stored_bits`` are kept. What is read in cycle t is there from t + 1 until the next access.
    id : In(16)
        A constant that names the memory in simulation: ``IMEM_ID`` + number of the queue.

    Timing
    ------
    ``word`` carries what word ``start`` issues one cycle after ``launch``; the unit's register
    holds it in the cycle after that, which is cycle 0 of the program. ``halted`` rises in the
    cycle, counted so, in which the Halt stands.
    """

    def __init__(self, kind: str, config: Config):
        self.kind, self.config = kind, config
        own = [op for op in instructions(kind) if op.kind == kind]
        if any(op.opcode < 1 << UNIT_BIT for op in own):
            raise ValueError(f"{kind}: opcodes below {1 << UNIT_BIT} belong to the ICU")
        #: Position and width of the field to which strides are added, if there is one.
        self.address = address_field(kind, config)
        super().__init__(
            {
                "launch": In(1),
                "start": In(ADDRESS_BITS),
                "notify": In(1),
                "notify_out": Out(1),
                "word": Out(word_bits(kind)),
                "halted": Out(1),
                "error": Out(1),
                "host_en": In(1),
                "host_we": In(1),
                "host_addr": In(ADDRESS_BITS),
                "host_wdata": In(WORD_BITS),
                "host_rdata": Out(WORD_BITS),
                "id": In(ID_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        used = stored_bits(self.kind, self.config)
        runs = _runs(used)
        m.submodules.memory = memory = SRAM(used.bit_count(), self.config.words_of(self.kind))
        fetched, opcode = Signal(len(self.word)), Signal(OPCODE_BITS)
        stored = Cat(fetched[run] for run in runs)
        m.d.comb += [stored.eq(memory.rdata), opcode.eq(fetched)]
        running, seen = Signal(), Signal()  # seen: the word was there in the cycle before, too
        unit, stay, jump, issue = Signal(), Signal(), Signal(), Signal()
        known = [op for op in instructions(self.kind) if op.kind == "icu"]
        own = [op for op in known if op is not icu.Loop or self.config.loops]
        execute = {op: Signal(name=op.mnemonic) for op in own}
        with m.If(running):
            m.d.comb += unit.eq(is_unit(opcode))
            m.d.comb += [signal.eq(opcode == op.opcode) for op, signal in execute.items()]
        m.d.sync += [running.eq(Mux(running, ~execute[icu.Halt], self.launch)), seen.eq(stay)]
        m.d.comb += self.halted.eq(~running)

        pc = Signal(len(memory.addr))  # of the word in ``fetched``
        # Memory, whether it jumps, memory is the longest path: where to waits for neither.
        following, target = Signal(len(pc)), Signal(len(pc))
        m.d.comb += following.eq(pc + 1)
        m.d.comb += target.eq(pc - field(fetched, icu.Loop, "length"))
        after = Mux(jump, target, following)
        m.d.comb += [
            memory.id.eq(self.id),
            memory.en.eq(Mux(running, ~stay, self.launch | self.host_en)),
            memory.we.eq(~running & ~self.launch & self.host_we),
            memory.addr.eq(Mux(running, after, Mux(self.launch, self.start, self.host_addr))),
            memory.wdata.eq(Cat(self.host_wdata[run] for run in runs)),
            self.host_rdata.eq(fetched),
        ]
        with m.If(memory.en):
            m.d.sync += pc.eq(memory.addr)

        offset, looping = C(0), C(0)  # of all levels of Loop
        if icu.Loop in own:
            offset, looping = self._loop(m, fetched, execute[icu.Loop], jump)
        due = self._wait(m, fetched, seen, execute, stay)
        late = self._sync(m, execute, seen, stay)
        m.d.comb += issue.eq(unit | due)
        self._issue(m, fetched, execute[icu.Repeat], issue, offset)

        after_unit = Signal()
        m.d.sync += after_unit.eq(unit)
        repeat, new = execute[icu.Repeat], ~seen
        count, distance = (field(fetched, icu.Repeat, name) for name in ("count", "distance"))
        faults = [
            (running & ~(unit | Cat(execute.values()).any()), "illegal instruction"),
            (repeat & new & ~after_unit, "Repeat does not follow a unit's instruction"),
            ((execute[icu.Sync] | execute[icu.Notify]) & looping, "Sync or Notify in a Loop"),
            (late, "Sync is reached after the Notify"),
            (running & self.launch, "launched while running"),
        ]
        zero = (repeat | execute.get(icu.Loop, C(0))) & ((count == 0) | (distance == 0))
        m.d.sync += self.error.eq(Cat(fault for fault, _ in faults).any())
        faults.append((zero, "a count of zero"))
        broken = Signal(len(faults))
        m.d.comb += broken.eq(Cat(fault for fault, _ in faults))
        # The condition saves a simulator the assertions in all cycles in which nothing is wrong.
        with m.If(broken.any()):
            for index, (_, what) in enumerate(faults):
                text = Format("queue {} word {}: " + what, self.id, pc)
                m.d.sync += Assert(~broken[index], text)
        return m

    def _loop(
        self, m: Module, fetched: Signal, execute: Signal, jump: Signal
    ) -> tuple[Value, Value]:
        """Decide whether a Loop jumps; return what all add to addresses and whether one runs."""
        count, stride = field(fetched, icu.Loop, "count"), field(fetched, icu.Loop, "stride")
        levels = range(self.config.loops)
        level = field(fetched, icu.Loop, "level") if len(levels) > 1 else C(0, 1)
        mine = [execute & (level == number) for number in levels]
        looping, left = Signal(len(levels)), Signal(len(count))
        rounds = [Signal(len(count), name=f"rounds_{number}") for number in levels]
        chosen = Mux(level, rounds[-1], rounds[0])
        m.d.comb += left.eq(Mux(looping.bit_select(level, 1), chosen, count))
        with m.If(execute):
            m.d.comb += jump.eq(left.any())
        for number in levels:
            with m.If(mine[number]):
                m.d.sync += [looping[number].eq(jump), rounds[number].eq(left - 1)]
        with m.If(self.launch):
            m.d.sync += looping.eq(0)
        if not self.address:
            return C(0), looping.any()
        offsets = [Signal(self.address[1], name=f"offset_{number}") for number in levels]
        moved = Signal(self.address[1])
        m.d.comb += moved.eq(Mux(level, offsets[-1], offsets[0]) + stride)
        for offset, execute_it in zip(offsets, mine, strict=True):
            with m.If(execute_it):
                m.d.sync += offset.eq(Mux(jump, moved, 0))
            with m.If(self.launch):
                m.d.sync += offset.eq(0)
        still = self._still(fetched)
        added = [Mux(still[number], 0, offset) for number, offset in enumerate(offsets)]
        return sum(added, C(0)), looping.any()

    def _still(self, fetched: Signal) -> Value:
        """Return, of the fetched word, the levels of Loop that do not move its address."""
        own = [op for op in instructions(self.kind) if op.kind == self.kind]
        if not any(spec.name == "still" for op in own for spec in op.operands):
            return C(0, icu.MOST_LEVELS)
        return field(fetched, own[0], "still")

    def _wait(
        self,
        m: Module,
        fetched: Signal,
        seen: Signal,
        execute: dict[type[Instruction], Signal],
        stay: Signal,
    ) -> Signal:
        """Count the cycles of NOP and Repeat; return whether a Repeat issues."""
        distance, count = (field(fetched, icu.Repeat, name) for name in ("distance", "count"))
        target = field(fetched, icu.NOP, "count")  # its low bits are the distance of Repeat
        cycle = Signal(len(target), init=1)  # of the word or distance, from 1
        times = Signal(len(count), init=1)  # of the Repeat, from 1
        due, over, last = Signal(), Signal(), Signal()
        low, repeat = len(distance), execute[icu.Repeat]
        # Counters are cheap to compare with what was fetched. A Repeat ends before the high bits
        # count, and what is zero ends with the first cycle: odd counts end on even numbers, too.
        m.d.comb += over.eq(
            (cycle[1:low] == target[1:low])
            & (repeat | (cycle[low:] == target[low:]))
            & (cycle[0] | ~target[0])
        )
        m.d.comb += last.eq(times == count)
        m.d.sync += [cycle.eq(1), times.eq(1)]
        with m.If(execute[icu.NOP]):
            m.d.comb += stay.eq(~over)
        with m.If(repeat):
            m.d.comb += [due.eq(over), stay.eq(~(over & last))]
            with m.If(stay):
                m.d.sync += times.eq(times + over)
        with m.If((repeat | execute[icu.NOP]) & ~over):
            m.d.sync += cycle.eq(cycle + 1)
        return due

    def _sync(
        self, m: Module, execute: dict[type[Instruction], Signal], seen: Signal, stay: Signal
    ) -> Value:
        """Park a Sync until the Notify arrives; return whether it is too late for one."""
        # Of the notify latency, one cycle is the register here and one that of the memory.
        flight = Signal(icu.notify_latency(self.config) - 2)
        m.d.sync += self.notify_out.eq(execute[icu.Notify])
        m.d.sync += flight.eq(Cat(self.notify, flight))
        with m.If(execute[icu.Sync]):
            m.d.comb += stay.eq(~flight[-1])
        return execute[icu.Sync] & ~seen & (self.notify | flight.any())

    def _issue(
        self, m: Module, fetched: Signal, repeat: Signal, issue: Signal, offset: Value
    ) -> None:
        """Issue the fetched word or, for a Repeat, the last one, with strides added."""
        last = Signal(len(self.word), reset_less=True)
        with m.If(issue):
            used = unit_bits(self.kind, self.config)
            m.d.comb += self.word.eq(Mux(repeat, last, fetched) & used)
            m.d.sync += last.eq(self.word)
            if self.address:
                low, bits = self.address
                place = slice(low, low + bits)
                stride = field(fetched, icu.Repeat, "stride")
                # Added before the choice: so the fetched address does not wait for a sum.
                moved, begun = (last[place] + stride)[:bits], (fetched[place] + offset)[:bits]
                m.d.comb += self.word[place].eq(Mux(repeat, moved, begun))

"""The VXM: one superlane of ALUs with its stream column.

A tile has a result bus for each ALU and one for the reducer: the register that holds a result
for one cycle. An operation takes its values from the column's registers or from buses in the
cycle of issue; what is about to enter a bus may enter the column in the same cycle.

    column, buses, immediate -> operands -> simple operation, or pipelined units
                                         -> result -> bus and column

The tile has instances of smaller parts (``alu_parts``), which are converted once each.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.config import Config
from waterclock.isa.spec import OPCODE_BITS, Instruction, Operand, word_bits
from waterclock.isa.streams import (
    ID_BITS,
    SOURCE_ALU,
    SOURCE_BITS,
    SOURCE_IMM,
    STREAM_BITS,
    TARGET_BITS,
    Direction,
)
from waterclock.isa.vxm import (
    ARITY,
    FEATURE,
    LOWEST,
    OPS,
    REDUCTIONS,
    SIMPLE,
    move_latency,
    pipelined_latency,
    registers_operands,
    simple_latency,
)
from waterclock.rtl.part import field, is_unit, needed
from waterclock.rtl.vxm_alu import (
    ADD,
    Operands,
    add_simple,
    add_unit,
    alu_parts,
    joined,
    later,
    registered,
    units,
)
from waterclock.rtl.vxm_reduce import VXMReducer
from waterclock.rtl.vxm_simple import one_of

BYTE = 8
GROUP = 4  # streams that hold one 32-bit value a lane
VALUE_BITS = 32


def vxm_parts(config: Config) -> dict[str, wiring.Component]:
    """Return the components of a VXM by the name that each has to be converted with.

    The Verilog of ``clock_gate_verilog`` belongs to them. A chip has instances of ``vxm_tile``
    (one a superlane) and ``vxm_reducer``; these have instances of the others.
    """
    tile: dict[str, wiring.Component] = {
        "vxm_tile": VXMTile(config),
        "vxm_reducer": VXMReducer(config),
    }
    parts = tile | alu_parts(config)
    if ADD.part not in parts:  # the reducer has them as well
        parts[ADD.part] = ADD.make(config)
    return parts


def _span(op: type[Instruction], name: str) -> int:
    """Return how many streams an operand of the VXM spans."""
    spec: Operand = next(spec for spec in op.operands if spec.name == name)
    assert isinstance(spec.streams, int)
    return spec.streams


def _choose(
    m: Module, index: Value, choices: Sequence[Value], target: Value, domain: str = "comb"
) -> None:
    """Assign ``choices[index]`` to ``target`` by a tree of Ifs."""
    if len(choices) == 1:
        m.d[domain] += target.eq(choices[0])
        return
    top = (len(choices) - 1).bit_length() - 1
    with m.If(index[top]):
        _choose(m, index, choices[1 << top :], target, domain)
    with m.Else():
        _choose(m, index, choices[: 1 << top], target, domain)


def _by_lane(group: Value, lanes: range, first: int = 0) -> Value:
    """Return the bytes of a group of streams lane by lane; those below ``first`` are zero."""
    width = len(lanes) * BYTE
    planes = [C(0, width)] * first + [group.word_select(k, width) for k in range(first, GROUP)]
    return Cat(plane.word_select(lane, BYTE) for lane in lanes for plane in planes)


def _decoded(m: Module, name: str, **values: Value) -> list[Signal]:
    """Return registers with ``values`` of the cycle before: what a coming instruction means."""
    found = [Signal(len(value), name=f"{name}_{what}") for what, value in values.items()]
    m.d.sync += [register.eq(value) for register, value in zip(found, values.values(), strict=True)]
    return found


def _promise(m: Module, broken: Value, message: str | Format) -> None:
    """Stop a simulation when a promise is broken; cheap for a simulator while it is not."""
    with m.If(broken):
        m.d.sync += Assert(0, message)


@dataclasses.dataclass(frozen=True)
class _Source:
    """An operand of the instruction that comes next: what chooses its value is registered."""

    word: Value
    op: type[Instruction]  #: one that has the operand
    operand: str
    active: Value  #: whether there is an instruction
    narrow: set[int]  #: which spans below a whole group occur
    streams: int  #: how many of each direction it can be, from 0 on


@dataclasses.dataclass
class _Result:
    """What an ALU, or the reducer, is about to put on its bus."""

    valid: Signal
    value: Signal  #: lanes * 32
    target: Signal  #: the ISA's target
    span: Signal  #: streams of the target, one bit each for 1, 2 and 4
    error: Signal


class VXMTile(wiring.Component):
    """One superlane of the VXM: stream column, ALUs of all lanes, result buses.

    Parameters
    ----------
    config : Config
        Uses ``lanes``, ``streams`` and ``alus``.

    Members
    -------
    alu{i}_in, alu{i}_out : In, Out(word bits)
        Instruction of ALU i, and the one issued in this cycle for the next superlane.
    reduce_in, reduce_out : In, Out(word bits)
        Instruction of the reducer, likewise.
    east_in, west_in : In(streams * lanes * 8)
        Stream registers of the neighbours to the west and to the east.
    east, west : Out(streams * lanes * 8)
        The column's registers.
    reduce_operand : Out(lanes * 32)
        Source of the reduction that is issued in this cycle (``reduce_out``).
    reduce_valid, reduce_target, reduce_result : In(1), In(TARGET_BITS), In(32)
        Result that enters the reducer's bus, in every lane, at the end of this cycle.
    error : Out(1)
        A promise was broken in the cycle before.

    Timing
    ------
    Instructions are registered, and with them what they mean: sources are combinational from
    registers that choose them. A result enters the bus, and the column, ``latency`` cycles after
    issue.
    """

    def __init__(self, config: Config):
        self.config = config
        width, alu, reduce = config.streams * config.lanes * BYTE, word_bits("alu"), "reduce"
        words = {f"alu{index}": alu for index in range(len(config.alus))}
        words[reduce] = word_bits(reduce)
        super().__init__(
            {f"{name}_in": In(bits) for name, bits in words.items()}
            | {f"{name}_out": Out(bits) for name, bits in words.items()}
            | {name: In(width) for name in ("east_in", "west_in")}
            | {name: Out(width) for name in ("east", "west")}
            | {"reduce_operand": Out(config.lanes * VALUE_BITS)}
            | {"reduce_valid": In(1), "reduce_target": In(TARGET_BITS)}
            | {"reduce_result": In(VALUE_BITS), "error": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        wide, alus = self.config.lanes * VALUE_BITS, self.config.alus
        self.column = [
            Signal(self.config.streams * self.config.lanes * BYTE, name=name, reset_less=True)
            for name in ("east_register", "west_register")
        ]
        self.buses = [Signal(wide, name=f"bus_{i}", reset_less=True) for i in range(len(alus))]
        self.held = Signal(len(alus) + 1)  # which buses hold a result
        reduced = Signal(VALUE_BITS, reset_less=True)
        self.buses.append(Cat(reduced for _ in range(self.config.lanes)))

        results = [self._alu(m, index, features) for index, features in enumerate(alus)]
        for index, result in enumerate(results):
            m.d.sync += self.held[index].eq(result.valid)
            with m.If(result.valid):
                m.d.sync += self.buses[index].eq(result.value)
        results.append(self._reduce(m))
        m.d.sync += self.held[-1].eq(self.reduce_valid)
        with m.If(self.reduce_valid):
            m.d.sync += reduced.eq(self.reduce_result)

        driving = results if self.config.reduce_streams else results[:-1]
        double = self._drive(m, driving)
        _promise(m, double, "VXM: two results are driven onto one stream")
        m.d.sync += self.error.eq(double | Cat(result.error for result in results).any())
        return m

    def _alu(self, m: Module, index: int, features: str) -> _Result:
        """Add an ALU; return its result."""
        name = f"alu{index}"
        word = Signal(word_bits("alu"), name=name)
        m.d.sync += word.eq(getattr(self, f"{name}_in"))
        m.d.comb += getattr(self, f"{name}_out").eq(word)
        a_code, b_code, target, imm = (
            field(word, OPS["mov"], name) for name in ("a", "b", "dst", "imm")
        )
        coming = getattr(self, f"{name}_in")
        opcode = coming[:OPCODE_BITS]
        known = [op for op in OPS.values() if FEATURE[op] in features]

        def spans(operand: str) -> Value:
            return Cat(
                one_of(opcode, [op for op in known if _span(op, operand) == x]) for x in (1, 2, 4)
            )

        # Of operands that are registered, all of this happens a cycle later, but moves.
        late, turns = registers_operands(self.config), self.config.turns
        quick = [op for op in known if FEATURE[op] in ("" if late else SIMPLE)]
        active, legal, binary, quickly, a_span, span = _decoded(
            m,
            name,
            active=opcode.any(),
            legal=one_of(opcode, known),
            binary=one_of(opcode, (op for op in known if ARITY[op] == 2)),
            quick=one_of(opcode, quick),
            a_span=spans("a"),
            span=spans("dst"),
        )
        # Where slices are wide, narrow values too stand in the first streams of a group.
        narrow = set() if self.config.wide else {_span(op, "a") for op in known} - {GROUP}
        some, any_op = OPS["mov"], is_unit(opcode)
        every = self.config.streams
        source = _Source(coming, some, "a", any_op, narrow, every)
        a, a_wrong = self._source(m, f"{name}_a", source, a_code, a_span, imm)
        # Also of an operation of one value: whether it is one is known late.
        few = every if self.config.b_streams else LOWEST
        source = _Source(coming, some, "b", any_op, set(), few)
        b, b_wrong = self._source(m, f"{name}_b", source, b_code, C(GROUP, 3), imm)

        # When an operation ends, what, and after how many cycles.
        ends: list[tuple[Value, Value, int]] = []
        simple = quickly
        if late:
            ends.append((quickly, a, move_latency(self.config)))
            opcode = word[:OPCODE_BITS]
            operands = registered(m, name, turns, active & ~quickly, opcode, a, b, imm)
            slower = [op for op in known if FEATURE[op] and FEATURE[op] in SIMPLE]
            simple = one_of(operands.opcode, slower)
            simple, last = _decoded(m, name, simple=simple, last=simple & operands.last)
        else:
            operands, last = Operands(opcode, C(1, 1), a, b, imm), simple
        if not late or set(features) & set(SIMPLE):
            found = add_simple(m, name, features, simple, operands)
            control: Value = Cat(simple, last)
            for step in range(2, self.config.simple_cycles):
                control, found = later(m, f"{name}_simple_{step}", control, found)
            found = joined(m, f"{name}_simple", turns, control[0], found)
            ends.append((control[1], found, simple_latency(self.config)))
        # Of all results of an ALU in one cycle the schedule allows one.
        pipelined = units(features)
        for unit in pipelined:
            its = [op for op in known if FEATURE[op] and FEATURE[op] in unit.features]
            coming, unit_name = one_of(operands.opcode, its), f"{name}_{unit.features}"
            valid, value = add_unit(m, self.config, unit, unit_name, coming, operands)
            ends.append((valid, value, pipelined_latency(self.config)))
        result = self._result(name)
        issued: list[Value] = [Cat(span, target)]  # so many cycles ago
        for step in range(max(cycles for _, _, cycles in ends) - 1):
            delayed = Signal(len(issued[0]), name=f"{name}_target_{step}", reset_less=True)
            m.d.sync += delayed.eq(issued[-1])
            issued.append(delayed)
        m.d.comb += Cat(result.span, result.target).eq(issued[-1])
        for valid, _, cycles in ends:
            if cycles < len(issued):
                with m.If(valid):
                    m.d.comb += Cat(result.span, result.target).eq(issued[cycles - 1])
        m.d.comb += result.valid.eq(Cat(valid for valid, _, _ in ends).any())
        *before, (valid, value, _) = ends
        with m.If(needed(m, f"{name}_value", valid)):
            m.d.comb += result.value.eq(value)
        for valid, value, _ in before:
            with m.If(valid):
                m.d.comb += result.value.eq(value)

        collision, illegal = Signal(name=f"{name}_collision"), Signal(name=f"{name}_illegal")
        different = {cycles: Signal(name=f"{name}_ends_{cycles}") for _, _, cycles in ends}
        for length, signal in different.items():
            m.d.comb += signal.eq(Cat(valid for valid, _, cycles in ends if cycles == length).any())
        pairs = itertools.combinations(different.values(), 2)
        m.d.comb += collision.eq(Cat(x & y for x, y in pairs).any())
        m.d.comb += illegal.eq(
            active & (~legal | a_wrong | binary & b_wrong | self._misplaced(target, span))
        )
        text = Format(f"VXM alu{index}: illegal instruction or empty bus: {{:x}}", word)
        _promise(m, illegal, text)
        _promise(m, collision, f"VXM alu{index}: two results in one cycle")
        hasty = active & ~quickly & operands.last if turns > 1 else C(0)
        _promise(m, hasty, f"VXM alu{index}: lanes of another operation take their turn")
        m.d.comb += result.error.eq(illegal | collision | hasty)
        return result

    def _reduce(self, m: Module) -> _Result:
        """Take the reducer's source; return its result."""
        word = Signal(word_bits("reduce"), name="reduce")
        m.d.sync += word.eq(self.reduce_in)
        m.d.comb += self.reduce_out.eq(word)
        opcode = self.reduce_in[:OPCODE_BITS]
        some = REDUCTIONS["rsum"]
        code, target = (field(word, some, name) for name in ("a", "dst"))
        active, legal = _decoded(
            m, "reduce", active=opcode.any(), legal=one_of(opcode, REDUCTIONS.values())
        )
        streams = self.config.streams if self.config.reduce_streams else 0
        source = _Source(self.reduce_in, some, "a", is_unit(opcode), set(), streams)
        value, wrong = self._source(m, "reduce_a", source, code, C(GROUP, 3), None)
        m.d.comb += self.reduce_operand.eq(value)
        result = self._result("reduce")
        m.d.comb += [
            result.valid.eq(self.reduce_valid),
            result.value.eq(Cat(self.reduce_result for _ in range(self.config.lanes))),
            result.target.eq(self.reduce_target),
            result.span.eq(4),
            result.error.eq(
                active
                & (
                    ~legal
                    | wrong
                    | self._misplaced(target, C(4, 3))
                    | (target[STREAM_BITS] & (streams == 0))
                )
            ),
        ]
        text = Format("VXM reduce: illegal instruction or empty bus: {:x}", word)
        _promise(m, result.error, text)
        return result

    def _result(self, name: str) -> _Result:
        return _Result(
            Signal(name=f"{name}_result_valid"),
            Signal(self.config.lanes * VALUE_BITS, name=f"{name}_result"),
            Signal(TARGET_BITS, name=f"{name}_result_target"),
            Signal(3, name=f"{name}_result_span"),
            Signal(name=f"{name}_error"),
        )

    def _source(
        self,
        m: Module,
        name: str,
        source: _Source,
        code: Value,
        span: Value,
        imm: Value | None,
    ) -> tuple[Signal, Value]:
        """Fetch a source; return its value and whether it breaks a promise.

        A narrow value comes to the low bytes; the others then mean nothing.

        What is wide comes from one Switch, for a simulator and for a table of LUTs the
        cheapest form. What is the same for all lanes joins it afterwards.
        """
        wide, lanes = self.config.lanes * VALUE_BITS, range(self.config.lanes)
        value, wide_value = Signal(wide, name=name), Signal(wide, name=f"{name}_wide")
        streams = Signal(wide, name=f"{name}_streams")
        common = Signal(VALUE_BITS, name=f"{name}_common")
        number, kind = code[:ID_BITS], code[ID_BITS:]
        alus = len(self.config.alus)
        # Direction, and number in it, of the groups of streams that the operand can be.
        groups = list(itertools.product(Direction, range(source.streams // GROUP)))
        # Number of the wide value, 0 for none; then whether it is the reducer's or the immediate.
        choice = Signal(range(len(groups) + alus + 1), name=f"{name}_choice")
        reduced, immediate, stream = (
            Signal(name=f"{name}_from_{what}") for what in ("reducer", "imm", "stream")
        )
        m.d.sync += [signal.eq(0) for signal in (choice, reduced, immediate, stream)]
        coming = field(source.word, source.op, source.operand)
        with m.Switch(Cat(coming, source.active)):
            for index, (direction, group) in enumerate(groups):
                at = f"{direction << ID_BITS - 2 | group:0{SOURCE_BITS - 2}b}"
                with m.Case(f"1{at}--"):
                    m.d.sync += [choice.eq(1 + index), stream.eq(1)]
            for index in range(alus):
                with m.Case(1 << SOURCE_BITS | SOURCE_ALU + index):
                    m.d.sync += choice.eq(1 + len(groups) + index)
            with m.Case(1 << SOURCE_BITS | SOURCE_ALU + alus):
                m.d.sync += reduced.eq(1)
            if imm is not None:
                with m.Case(f"1{SOURCE_IMM >> ID_BITS:b}" + "-" * ID_BITS):
                    m.d.sync += immediate.eq(1)
        narrow = source.narrow
        with m.Switch(choice):
            for index, (direction, number_of_group) in enumerate(groups):
                group = self.column[direction].word_select(number_of_group, wide)
                with m.Case(1 + index):
                    m.d.comb += streams.eq(group)
                    m.d.comb += wide_value.eq(_by_lane(group, lanes, max(narrow, default=0)))
            for index in range(alus):
                with m.Case(1 + len(groups) + index):
                    m.d.comb += wide_value.eq(self.buses[index])
        with m.If(reduced):
            m.d.comb += common.eq(self.buses[alus][:VALUE_BITS])
        if imm is not None:
            with m.If(immediate):
                m.d.comb += common.eq(imm)
        joined = wide_value | Cat(common for _ in lanes)
        if narrow:
            joined = joined | self._narrow(m, name, stream, streams, number, narrow)
        m.d.comb += value.eq(joined)

        wrong, held = Signal(name=f"{name}_wrong"), Signal(1 << ID_BITS, name=f"{name}_held")
        with m.If(~kind[1]):
            missing = number >= source.streams
            m.d.comb += wrong.eq(self._misplaced(code, span, stream=C(1)) | missing)
        with m.Elif(kind == SOURCE_ALU >> ID_BITS):
            m.d.comb += held.eq(self.held)
            m.d.comb += wrong.eq(~held.bit_select(number, 1))
        with m.Else():
            m.d.comb += wrong.eq(imm is None)
        return value, wrong

    def _narrow(
        self, m: Module, name: str, active: Value, streams: Value, number: Value, narrow: set[int]
    ) -> Signal:
        """Return the low bytes of a source from the streams of a group.

        Of spans 1 and 2, the first byte may come from any stream, the second from two.
        """
        width = self.config.lanes * BYTE
        planes = [streams.word_select(k, width) for k in range(GROUP)]
        low = [Signal(width, name=f"{name}_low_{k}") for k in range(max(narrow))]
        found = Signal(len(streams), name=f"{name}_narrow")
        with m.If(active):
            if 1 in narrow:
                _choose(m, number[:2], planes, low[0])
            else:
                m.d.comb += low[0].eq(Mux(number[1], planes[2], planes[0]))
            if 2 in narrow:
                m.d.comb += low[1].eq(Mux(number[1], planes[3], planes[1]))
            padded = [*low, *(C(0, width) for _ in range(GROUP - len(low)))]
            m.d.comb += found.eq(_by_lane(Cat(padded), range(self.config.lanes)))
        return found

    def _misplaced(self, code: Value, span: Value, stream: Value | None = None) -> Value:
        """Tell whether a stream is misaligned or missing; ``code`` may be a target."""
        number = code[:ID_BITS]
        odd = number[:2].any() & (span[2] | self.config.wide) | span[1] & number[0]
        used = code[STREAM_BITS] if stream is None else stream
        return used & (odd | (number >= self.config.streams))

    def _drive(self, m: Module, results: Sequence[_Result]) -> Signal:
        """Add the column's registers; return whether two results meet on one stream."""
        width, streams = self.config.lanes * BYTE, self.config.streams
        double = Signal()
        # Which streams of either direction are driven, and by which result: its number in bits.
        driven = Signal(2 * streams)
        drivers = [
            Signal(2 * streams, name=f"driver_{i}") for i in range(len(results).bit_length())
        ]
        places = [self._place(m, index, result) for index, result in enumerate(results)]
        before: Value = C(0, 2 * streams)
        for place, _ in places:
            with m.If((place & before).any()):
                m.d.comb += double.eq(1)
            before = before | place
        m.d.comb += driven.eq(before)
        for bit, driver in enumerate(drivers):
            chosen = [place for index, (place, _) in enumerate(places) if index >> bit & 1]
            m.d.comb += driver.eq(reduce(or_, chosen, C(0, 2 * streams)))
        for direction, way in zip(Direction, ("east", "west"), strict=True):
            register = self.column[direction]
            m.d.sync += register.eq(getattr(self, f"{way}_in"))
            m.d.comb += getattr(self, way).eq(register)
            for number in range(streams):
                at = direction * streams + number
                planes = [data.word_select(number % GROUP, width) for _, data in places]
                with m.If(driven[at]):
                    index = Cat(driver[at] for driver in drivers)
                    _choose(m, index, planes, register.word_select(number, width), "sync")
        return double

    def _place(self, m: Module, index: int, result: _Result) -> tuple[Signal, Signal]:
        """Return the streams that a result drives, and its bytes for each stream of a group."""
        width, streams = self.config.lanes * BYTE, self.config.streams
        place = Signal(2 * streams, name=f"place_{index}")
        planes = Signal(GROUP * width, name=f"planes_{index}")
        data = Signal(GROUP * width, name=f"data_{index}")
        lanes = range(self.config.lanes)
        ones, number = Signal(GROUP, name=f"ones_{index}"), result.target[:ID_BITS]
        one, two, _ = result.span
        if self.config.wide:
            number = Cat(C(0, 2), number[2:])
        driving = Signal(name=f"driving_{index}")
        m.d.comb += driving.eq(result.valid & result.target[STREAM_BITS])
        with m.If(needed(m, f"planes_{index}", driving)):
            m.d.comb += planes.eq(
                Cat(result.value.word_select(4 * x + k, BYTE) for k in range(GROUP) for x in lanes)
            )
            m.d.comb += data.eq(planes)
            if not self.config.wide:
                with m.If(one):
                    m.d.comb += data.eq(planes[:width].replicate(GROUP))
                with m.Elif(two):
                    m.d.comb += data.eq(planes[: 2 * width].replicate(GROUP // 2))
        with m.If(driving):
            m.d.comb += ones.eq(Mux(one, 0b0001, Mux(two, 0b0011, 0b1111)))
            with m.If(result.target[ID_BITS] == Direction.EAST):
                m.d.comb += place[:streams].eq(ones << number)
            with m.Else():
                m.d.comb += place[streams:].eq(ones << number)
        return place, data

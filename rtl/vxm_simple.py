"""The VXM operations that take one cycle, and the comparators that the reducer shares.

A simulator evaluates what stands inside an If only when its condition holds, but only if the
signal that is assigned has more than 64 bits: hence signals of 32 bits a lane where a few would
do, and one signal for all lanes.
"""

from collections.abc import Callable, Iterable

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.numerics import NAN
from waterclock.isa.spec import OPCODE_BITS, Instruction
from waterclock.isa.vxm import IMM_BITS, OPS
from waterclock.rtl.part import needed


def one_of(opcode: Value, ops: Iterable[type[Instruction]]) -> Value:
    """Tell whether an opcode is that of one of these instructions: a table, looked up."""
    table = sum(1 << op.opcode for op in ops)
    return (C(table, 1 << OPCODE_BITS) >> opcode)[0]


def is_op(opcode: Value, *mnemonics: str) -> Value:
    """Tell whether an opcode is that of one of these ALU operations."""
    return one_of(opcode, (OPS[mnemonic] for mnemonic in mnemonics))


def each(function: Callable[..., Value], *values: Value) -> Value:
    """Return the 32 bits that ``function`` makes of the lanes of ``values``, side by side."""
    lanes = range(len(values[0]) // 32)
    results = (function(*(v.word_select(lane, 32) for v in values)) for lane in lanes)
    return Cat(Cat(result, C(0, 32))[:32] for result in results)


class Comparison:
    """One subtractor a lane: compares integers and fp32, and adds and subtracts integers.

    Parameters
    ----------
    active, floating : Value
        Whether it is used in this cycle, and for fp32; else nothing is computed.
    a, b : Value
        Patterns, 32 bits a lane.
    adds : Value
        Whether a + b is wanted instead of a - b; nothing is compared then.

    Attributes
    ----------
    sums : Signal(lanes * 32)
        a - b or a + b modulo 2^32, of integers.
    order : Signal(lanes * 32)
        In each lane bit 0: a > b, bit 1: a = b; both low for NaN.
    facts : Signal(lanes * 32)
        Of fp32, in each lane bits 0 and 1: a, b is zero or subnormal; bit 2: either is NaN.
    """

    def __init__(
        self,
        m: Module,
        active: Value,
        floating: Value,
        a: Value,
        b: Value,
        name: str,
        adds: Value | None = None,
    ):
        self._a, self._b = a, b
        self.sums, self.order, self.facts = (
            Signal(len(a), name=f"{name}_{what}") for what in ("sums", "order", "facts")
        )

        def nan(x: Value) -> Value:
            return x[23:31].all() & x[:23].any()

        def add(x: Value, y: Value) -> Value:
            minus = C(1) if adds is None else ~adds
            return (Cat(C(1, 1), x) + Cat(minus, y ^ minus.replicate(32)))[1:33]

        def compare(x: Value, y: Value, difference: Value, facts: Value) -> Value:
            # As integers, negative numbers of fp32 are in reverse order.
            below = Mux(x[31] ^ y[31], x[31], difference[31] ^ (x[31] & floating))
            equal = (x == y) | facts[0] & facts[1]  # sooner there than the difference
            return Cat(~(below | equal | facts[2]), equal & ~facts[2])

        with m.If(active & floating):
            m.d.comb += self.facts.eq(
                each(lambda x, y: Cat(~x[23:31].any(), ~y[23:31].any(), nan(x) | nan(y)), a, b)
            )
        with m.If(needed(m, name, active)):
            m.d.comb += self.sums.eq(each(add, a, b))
            m.d.comb += self.order.eq(each(compare, a, b, self.sums, self.facts))

    def extreme(self, *, smaller: Value) -> Value:
        """Return the larger or smaller operand of each lane; a if they are equal; NaN for NaN.

        Subnormals of fp32 come out as zero of their sign.
        """

        def choose(a: Value, b: Value, order: Value, facts: Value) -> Value:
            first = self.is_first(order, smaller)
            return one_or_nan(first, a, b, facts)

        return each(choose, self._a, self._b, self.order, self.facts)

    @staticmethod
    def is_first(order: Value, smaller: Value) -> Value:
        """Tell by a lane's order whether a is the larger, or the smaller, or b's equal."""
        return Mux(smaller, ~order[0], order[0] | order[1])


def one_or_nan(first: Value, a: Value, b: Value, facts: Value) -> Value:
    """Return a pattern of fp32, a or b, zero of its sign if it is tiny; or NaN.

    ``facts`` are those of ``Comparison``. What becomes of a and b is found while ``first`` is not
    yet known.
    """
    nan = facts[2]

    def kept(x: Value, tiny: Value) -> Value:
        return Cat(x[:31] & ~(tiny | nan).replicate(31), x[31] & ~nan)

    return Mux(first, kept(a, facts[0]), kept(b, facts[1])) | nan.replicate(32) & C(NAN, 32)


class SimpleALU(wiring.Component):
    """The operations of features, and ``mov``, for all lanes of a superlane.

    Parameters
    ----------
    lanes : int
    features : str
        Those of ``isa.vxm.SIMPLE`` that the ALU has.
    moves : bool
        Whether ``mov`` is among the operations.

    Members
    -------
    opcode : In(OPCODE_BITS)
        Operation of the next cycle; the result is zero for any other.
    a, b : In(lanes * 32)
        Operands.
    imm : In(32)
        The instruction's immediate, for ``select``.
    result : Out(lanes * 32)
        Combinational from the operands.
    """

    def __init__(self, lanes: int, features: str, moves: bool = True):
        self.lanes, self.features, self.moves = lanes, features, moves
        wide = 32 * lanes
        super().__init__(
            {
                "opcode": In(OPCODE_BITS),
                "a": In(wide),
                "b": In(wide),
                "imm": In(IMM_BITS),
                "result": Out(wide),
            }
        )

    def elaborate(self, platform):
        m = Module()

        def flag(name: str, *mnemonics: str) -> Signal:
            found = Signal(name=name)
            m.d.sync += found.eq(is_op(self.opcode, *mnemonics))
            return found

        results: list[tuple[Value, Value]] = []
        moves = ("mov",) * self.moves
        if moves or "b" in self.features:
            logic = flag("logic", *moves, "and", "or", "xor")
            results.append((logic, self._logic(flag)))
        if "i" in self.features:
            results += self._integers(m, flag)
        if "h" in self.features:
            results += [
                (flag("shift", "shl", "shr", "sar"), self._shift(m, flag)),
                (flag("narrow", "i8_to_i32", "i32_to_i8"), self._narrow(flag)),
            ]
        # The flags exclude each other; Elif would make a chain of them.
        with m.Switch(Cat(used for used, _ in results)):
            for position, (_, value) in enumerate(results):
                with m.Case(1 << position):
                    m.d.comb += self.result.eq(value)
        return m

    def _integers(self, m: Module, flag: Callable[..., Signal]) -> list[tuple[Value, Value]]:
        """Add what feature i has; return its results, and when they are wanted."""
        floating = flag("floating", "fmax", "fmin", "fgt", "fge", "feq")
        adds, subtracts = flag("adds", "iadd"), flag("subtracts", "isub")
        comparing = flag("comparing", "imax", "imin", "igt", "ieq")
        active = floating | comparing | adds | subtracts
        comparison = Comparison(m, active, floating, self.a, self.b, "compare", adds)
        choosing = flag("choosing", "imax", "imin", "fmax", "fmin", "select")
        truth = flag("truth", "igt", "ieq", "fgt", "fge", "feq")
        return [
            (adds | subtracts, comparison.sums),
            (truth, self._truth(comparison, flag)),
            (choosing, self._choose(comparison, flag)),
        ]

    def _logic(self, flag: Callable[..., Signal]) -> Value:
        if "b" not in self.features:
            return self.a
        # Two bits choose one of four functions of two bits: one LUT a bit.
        high, low = flag("logic_high", "or", "xor"), flag("logic_low", "and", "xor")
        either = Mux(low.replicate(len(self.a)), self.a ^ self.b, self.a | self.b)
        both = Mux(low.replicate(len(self.a)), self.a & self.b, self.a)
        return Mux(high, either, both)

    def _truth(self, comparison: Comparison, flag: Callable[..., Signal]) -> Value:
        above, equal = flag("if_above", "igt", "fgt", "fge"), flag("if_equal", "ieq", "feq", "fge")
        return each(lambda order: order[0] & above | order[1] & equal, comparison.order)

    def _choose(self, comparison: Comparison, flag: Callable[..., Signal]) -> Value:
        """Return a, b, NaN or the immediate."""
        smaller, select = flag("smaller", "imin", "fmin"), flag("select", "select")

        def choose(a: Value, b: Value, order: Value, facts: Value) -> Value:
            # Of an integer that is selected there are no facts.
            first = Mux(select, ~a.any(), comparison.is_first(order, smaller))
            return one_or_nan(first, Mux(select, self.imm, a), b, facts)

        return each(choose, self.a, self.b, comparison.order, comparison.facts)

    def _narrow(self, flag: Callable[..., Signal]) -> Value:
        """Return the low byte with its sign extended, or the integer saturated to a byte."""
        extend = flag("extend", "i8_to_i32")

        def narrow(a: Value) -> Value:
            sign = Mux(extend, a[7], a[31])
            fits = extend | a[7:].all() | ~a[7:].any()
            return Cat(Mux(fits, a[:7], ~sign.replicate(7)), sign.replicate(25))

        return each(narrow, self.a)

    def _shift(self, m: Module, flag: Callable[..., Signal]) -> Value:
        """Return a shifted by b: by one shifter to the right, both ends reversed for the left."""
        left, right, signed = flag("left", "shl"), flag("right", "shr", "sar"), flag("sar", "sar")
        source, shifted = (Signal(len(self.a), name=f"shift_{x}") for x in ("source", "result"))

        def shift(x: Value, b: Value) -> Value:
            return (Cat(x, signed & x[31]).as_signed() >> b[:5])[:32]

        with m.If(left):
            m.d.comb += source.eq(each(lambda x: x[::-1], self.a))
        with m.Elif(right):
            m.d.comb += source.eq(self.a)
        with m.If(left | right):
            m.d.comb += shifted.eq(each(shift, source, self.b))
        return each(lambda x: Mux(left, x[::-1], x), shifted)

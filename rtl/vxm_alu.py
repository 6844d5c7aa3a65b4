"""What a VXM ALU computes: the simple operations of all lanes, and lanes of pipelined units."""

import dataclasses
from collections.abc import Callable, Iterable
from importlib import resources

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.numerics import INF, NAN
from waterclock.isa.spec import OPCODE_BITS, Instruction
from waterclock.isa.special import WORD_BITS
from waterclock.isa.vxm import IMM_BITS, OPS
from waterclock.rtl.fp import STAGES, Adder, Converter, Multiplier
from waterclock.rtl.special import ADDRESS_BITS, SpecialFunctions, SpecialROM


def clock_gate_verilog() -> str:
    """Return the Verilog that every emission which contains a VXM needs."""
    return resources.files("waterclock.rtl").joinpath("clock_gate.v").read_text()


def one_of(opcode: Value, ops: Iterable[type[Instruction]]) -> Value:
    """Tell whether an opcode is that of one of these instructions: a table, looked up."""
    table = sum(1 << op.opcode for op in ops)
    return (C(table, 1 << OPCODE_BITS) >> opcode)[0]


def _is(opcode: Value, *mnemonics: str) -> Value:
    return one_of(opcode, (OPS[mnemonic] for mnemonic in mnemonics))


class Comparison:
    """Comparators of all lanes, for integers and fp32.

    Parameters
    ----------
    active, floating : Value
        Whether they are used in this cycle, and for fp32; else nothing is computed.
    a, b : Value
        Patterns, 32 bits a lane.

    Attributes
    ----------
    above, equal : list of Value
        a > b and a = b in each lane; false for NaN.
    """

    # Simulators evaluate what stands inside an If only when its condition holds, but only for
    # signals of more than 64 bits: hence one signal of 32 bits a lane for a few bits a lane.

    def __init__(self, m: Module, active: Value, floating: Value, a: Value, b: Value, name: str):
        self._lanes = range(len(a) // 32)
        self._a, self._b = a, b
        facts, order, key_a, key_b = (
            Signal(len(a), name=f"{name}_{what}") for what in ("facts", "order", "key_a", "key_b")
        )
        # Zero or subnormal a, b; NaN.
        self._facts = [facts.word_select(lane, 32)[:3] for lane in self._lanes]
        with m.If(active & floating):
            m.d.comb += facts.eq(
                self._each(
                    lambda x, y: Cat(
                        ~x[23:31].any(),
                        ~y[23:31].any(),
                        (x[:31] > INF) | (y[:31] > INF),
                        C(0, 29),
                    )
                )
            )
            for position, (value, key) in enumerate(((a, key_a), (b, key_b))):
                words = (value.word_select(lane, 32) for lane in self._lanes)
                # As integers, negative numbers of fp32 are in reverse order.
                m.d.comb += key.eq(
                    Cat(
                        Mux(facts[position], 0, word ^ Cat(word[31].replicate(31), C(0, 1)))
                        for facts, word in zip(self._facts, words, strict=True)
                    )
                )
        with m.Elif(active):
            m.d.comb += [key_a.eq(a), key_b.eq(b)]
        with m.If(active):
            m.d.comb += order.eq(
                Cat(
                    Cat(~nan & (x.as_signed() > y.as_signed()), ~nan & (x == y), C(0, 30))
                    for lane, (_, _, nan) in enumerate(self._facts)
                    for x, y in [(key_a.word_select(lane, 32), key_b.word_select(lane, 32))]
                )
            )
        self.above, self.equal = (
            [order[32 * lane + bit] for lane in self._lanes] for bit in range(2)
        )

    def _each(self, function: Callable[[Value, Value], Value]) -> Value:
        pairs = ((x.word_select(i, 32) for x in (self._a, self._b)) for i in self._lanes)
        return Cat(function(a, b) for a, b in pairs)

    def extreme(self, *, smaller: Value) -> Value:
        """Return the larger or smaller operand of each lane; a if they are equal; NaN for NaN.

        Subnormals of fp32 come out as zero of their sign.
        """
        lanes = []
        for lane in self._lanes:
            (tiny_a, tiny_b, nan), above = self._facts[lane], self.above[lane]
            a, b = (
                Cat(Mux(tiny, 0, x.word_select(lane, 32)[:31]), x.word_select(lane, 32)[31])
                for tiny, x in ((tiny_a, self._a), (tiny_b, self._b))
            )
            first = Mux(smaller, ~above, above | self.equal[lane])
            lanes.append(Mux(nan, C(NAN, 32), Mux(first, a, b)))
        return Cat(lanes)


class SimpleALU(wiring.Component):
    """The operations that take one cycle, for all lanes of a superlane; combinational.

    Parameters
    ----------
    lanes : int

    Members
    -------
    opcode : In(OPCODE_BITS)
        Operation; the result is zero for any other.
    a, b : In(lanes * 32)
        Operands.
    imm : In(32)
        The instruction's immediate, for ``select``.
    result : Out(lanes * 32)
    """

    def __init__(self, lanes: int):
        self.lanes = lanes
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
        opcode = self.opcode

        def each(function: Callable[[Value, Value], Value]) -> Value:
            pairs = ((v.word_select(i, 32) for v in (self.a, self.b)) for i in range(self.lanes))
            return Cat(Value.cast(function(a, b))[:32] for a, b in pairs)

        floating = Signal()
        m.d.comb += floating.eq(_is(opcode, "fmax", "fmin", "fgt", "fge", "feq"))
        comparing = Signal()
        m.d.comb += comparing.eq(floating | _is(opcode, "imax", "imin", "igt", "ieq"))
        comparison = Comparison(m, comparing, floating, self.a, self.b, "compare")
        shifted = self._shift(m)

        def truth(bits: Iterable[Value]) -> Value:
            return Cat(Cat(bit, C(0, 31)) for bit in bits)

        above, equal = comparison.above, comparison.equal
        either = (a | b for a, b in zip(above, equal, strict=True))
        results = {
            ("mov",): self.a,
            ("iadd",): each(lambda a, b: a + b),
            ("isub",): each(lambda a, b: a - b),
            ("and",): self.a & self.b,
            ("or",): self.a | self.b,
            ("xor",): self.a ^ self.b,
            ("shl",): Cat(shifted.word_select(lane, 32)[::-1] for lane in range(self.lanes)),
            ("shr", "sar"): shifted,
            ("igt", "fgt"): truth(above),
            ("ieq", "feq"): truth(equal),
            ("fge",): truth(either),
            ("imax", "fmax"): comparison.extreme(smaller=C(0)),
            ("imin", "fmin"): comparison.extreme(smaller=C(1)),
            ("select",): each(lambda a, b: Mux(a.any(), b, self.imm)),
            ("i8_to_i32",): each(lambda a, _: Cat(a[:8], a[7].replicate(24))),
            ("i32_to_i8",): each(_saturate),
        }
        with m.Switch(opcode):
            for mnemonics, value in results.items():
                with m.Case(*(OPS[mnemonic].opcode for mnemonic in mnemonics)):
                    m.d.comb += self.result.eq(value)
        return m

    def _shift(self, m: Module) -> Signal:
        """Return a shifted right by b; for a shift left, a reversed, and so the result."""
        left, right, signed = Signal(), Signal(), Signal()
        m.d.comb += left.eq(_is(self.opcode, "shl"))
        m.d.comb += right.eq(_is(self.opcode, "shr", "sar"))
        m.d.comb += signed.eq(_is(self.opcode, "sar"))
        source, shifted = (Signal(32 * self.lanes, name=f"shift_{x}") for x in ("source", "result"))
        lanes = [slice(lane * 32, lane * 32 + 32) for lane in range(self.lanes)]
        with m.If(left):
            m.d.comb += source.eq(Cat(self.a[lane][::-1] for lane in lanes))
        with m.Elif(right):
            m.d.comb += source.eq(self.a)
        with m.If(left | right):
            words = (Cat(source[lane], signed & source[lane][31]).as_signed() for lane in lanes)
            amounts = (self.b[lane][:5] for lane in lanes)
            m.d.comb += shifted.eq(
                Cat((word >> amount)[:32] for word, amount in zip(words, amounts, strict=True))
            )
        return shifted


def _saturate(a: Value, _: Value) -> Value:
    """Return a saturated to 8 bits, sign extended."""
    fits = a[7:].all() | ~a[7:].any()
    return Mux(fits, a, C(0x7F, 32) ^ a[31].replicate(32))


@dataclasses.dataclass(frozen=True)
class Unit:
    """A pipelined unit: the part that does one lane, and the inputs that choose the operation."""

    part: str
    component: type[wiring.Component]
    flags: dict[str, tuple[str, ...]]  #: mnemonics for which the input is high, by input


#: The units by feature of an ALU.
UNITS = {
    "a": Unit("vxm_add", Adder, {"subtract": ("fsub",)}),
    "m": Unit("vxm_multiply", Multiplier, {"integer": ("imul",)}),
    "c": Unit(
        "vxm_convert",
        Converter,
        {
            "to_float": ("f16_to_f32", "i32_to_f32"),
            "half": ("f16_to_f32", "f32_to_f16"),
            "byte": ("f32_to_i8",),
        },
    ),
    "s": Unit("vxm_special", SpecialFunctions, {"exp2": ("exp2",), "rsqrt": ("rsqrt",)}),
}


def alu_parts(lanes: int) -> dict[str, wiring.Component]:
    """Return the components that an ALU has instances of, by name of the Verilog module."""
    parts = {unit.part: unit.component() for unit in UNITS.values()}
    return parts | {"vxm_simple": SimpleALU(lanes), "vxm_rom": SpecialROM(lanes)}


def gated_clock(m: Module, name: str, active: Value) -> Signal:
    """Return the clock that ticks at the end of the cycles in which ``active`` is high."""
    clock = Signal(name=f"{name}_clock")
    m.submodules[f"{name}_gate"] = Instance(
        "waterclock_clock_gate", i_clk=ClockSignal(), i_en=active, o_gated=clock
    )
    return clock


def add_unit(
    m: Module, feature: str, name: str, issue: Value, opcode: Value, a: Value, b: Value
) -> tuple[Signal, Signal]:
    """Add all lanes of a pipelined unit.

    Parameters
    ----------
    issue : 1 bit
        Whether an operation of this unit is issued in this cycle.
    a, b : lanes * 32 bits
        Its operands.

    Returns
    -------
    done : Signal()
        High three cycles after ``issue``.
    result : Signal(lanes * 32)
        The result in that cycle.
    """
    unit, lanes = UNITS[feature], len(a) // 32
    valid, result = Signal(STAGES, name=f"{name}_valid"), Signal(len(a), name=f"{name}_result")
    enable, started = Signal(STAGES, name=f"{name}_enable"), Signal(name=f"{name}_issue")
    m.d.comb += started.eq(issue)
    m.d.comb += enable.eq(Cat(started, valid))
    m.d.sync += valid.eq(enable)
    clock = gated_clock(m, name, enable.any())
    flags: dict[str, Value] = {}
    for flag, mnemonics in unit.flags.items():
        flags[f"i_{flag}"] = Signal(name=f"{name}_{flag}")
        m.d.comb += flags[f"i_{flag}"].eq(_is(opcode, *mnemonics))
    common = {"i_clk": clock, "i_rst": C(0, 1), "i_enable": enable} | flags
    if feature == "s":
        address = Signal(lanes * ADDRESS_BITS, name=f"{name}_address")
        words = Signal(lanes * WORD_BITS, name=f"{name}_words")
        m.submodules[f"{name}_rom"] = Instance(
            "vxm_rom",
            i_clk=clock,
            i_rst=C(0, 1),
            i_enable=enable[1],
            i_address=address,
            o_word=words,
        )
    for lane in range(lanes):
        ports = {"i_a": a.word_select(lane, 32), "o_result": result.word_select(lane, 32)}
        if feature in "am":
            ports["i_b"] = b.word_select(lane, 32)
        if feature == "s":
            ports["o_rom_address"] = address.word_select(lane, ADDRESS_BITS)
            ports["i_rom_word"] = words.word_select(lane, WORD_BITS)
        m.submodules[f"{name}_{lane}"] = Instance(unit.part, **common, **ports)
    return valid[-1], result

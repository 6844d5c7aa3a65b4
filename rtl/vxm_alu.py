"""What a VXM ALU computes: the simple operations of all lanes, and lanes of pipelined units."""

import dataclasses
from collections.abc import Callable
from importlib import resources

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.numerics import NAN
from waterclock.isa.spec import OPCODE_BITS
from waterclock.isa.special import WORD_BITS
from waterclock.isa.vxm import IMM_BITS, OPS
from waterclock.rtl.fp import STAGES, Adder, Converter, Multiplier
from waterclock.rtl.special import ADDRESS_BITS, SpecialFunctions, SpecialROM


def clock_gate_verilog() -> str:
    """Return the Verilog that every emission which contains a VXM needs."""
    return resources.files("waterclock.rtl").joinpath("clock_gate.v").read_text()


def matches(opcode: Value, *mnemonics: str) -> Value:
    """Tell whether an opcode is that of one of these ALU operations."""
    return opcode.matches(*(OPS[mnemonic].opcode for mnemonic in mnemonics))


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
    above, equal, nan : Signal(lanes)
        a > b; a = b; either is NaN (fp32 only, and the others then mean nothing).
    a, b : Signal(lanes * 32)
        Operands; fp32 with subnormals flushed.
    """

    def __init__(self, m: Module, active: Value, floating: Value, a: Value, b: Value, name: str):
        lanes = len(a) // 32
        self.above, self.equal, self.nan = (
            Signal(lanes, name=f"{name}_{what}") for what in ("above", "equal", "nan")
        )
        self.a, self.b = Signal(len(a), name=f"{name}_a"), Signal(len(b), name=f"{name}_b")
        keys = Signal(len(a), name=f"{name}_key_a"), Signal(len(b), name=f"{name}_key_b")
        tiny = Signal(lanes, name=f"{name}_tiny_a"), Signal(lanes, name=f"{name}_tiny_b")

        def each(function: Callable[..., Value], *values: Value) -> Value:
            return Cat(function(*(v.word_select(i, 32) for v in values)) for i in range(lanes))

        # Simulators evaluate what stands inside an If only when its condition holds.
        with m.If(active & floating):
            for operand, flushed, key, small in zip(
                (a, b), (self.a, self.b), keys, tiny, strict=True
            ):
                m.d.comb += small.eq(each(lambda x: ~x[23:31].any(), operand))
                for lane in range(lanes):
                    field = slice(lane * 32, lane * 32 + 32)
                    x, zero = operand[field], small[lane]
                    # As integers, negative numbers of fp32 are in reverse order.
                    ordered = x ^ Cat(x[31].replicate(31), C(0, 1))
                    m.d.comb += flushed[field].eq(Mux(zero, Cat(C(0, 31), x[31]), x))
                    m.d.comb += key[field].eq(Mux(zero, 0, ordered))
            m.d.comb += self.nan.eq(
                each(lambda x, y: (x[:31] > 0x7F800000) | (y[:31] > 0x7F800000), a, b)
            )
        with m.Elif(active):
            for operand, flushed, key in zip((a, b), (self.a, self.b), keys, strict=True):
                m.d.comb += flushed.eq(operand)
                m.d.comb += key.eq(operand)
        with m.If(active):
            m.d.comb += self.above.eq(each(lambda x, y: x.as_signed() > y.as_signed(), *keys))
            m.d.comb += self.equal.eq(each(lambda x, y: x == y, *keys))

    def extreme(self, *, smaller: Value) -> Value:
        """Return the larger or smaller operand of each lane; a if they are equal; NaN for NaN."""
        lanes = []
        for lane in range(len(self.above)):
            a, b = self.a.word_select(lane, 32), self.b.word_select(lane, 32)
            first = Mux(smaller, ~self.above[lane], self.above[lane] | self.equal[lane])
            lanes.append(Mux(self.nan[lane], C(NAN, 32), Mux(first, a, b)))
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

        floating = matches(opcode, "fmax", "fmin", "fgt", "fge", "feq")
        comparing = floating | matches(opcode, "imax", "imin", "igt", "ieq")
        comparison = Comparison(m, comparing, floating, self.a, self.b, "compare")
        shifted = self._shift(m)

        def truth(bits: Value) -> Value:
            return Cat(Cat(bit, C(0, 31)) for bit in bits)

        above = comparison.above & ~comparison.nan
        equal = comparison.equal & ~comparison.nan
        results = {
            ("mov",): self.a,
            ("iadd",): each(lambda a, b: a + b),
            ("isub",): each(lambda a, b: a - b),
            ("and",): self.a & self.b,
            ("or",): self.a | self.b,
            ("xor",): self.a ^ self.b,
            ("shl", "shr", "sar"): shifted,
            ("igt", "fgt"): truth(above),
            ("ieq", "feq"): truth(equal),
            ("fge",): truth(above | equal),
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
        """Return a shifted by b: one shifter to the right, with reversed lanes for the left."""
        left, right = matches(self.opcode, "shl"), matches(self.opcode, "shr", "sar")
        source, moved, result = (
            Signal(32 * self.lanes, name=f"shift_{name}") for name in ("source", "moved", "result")
        )
        for lane in range(self.lanes):
            field = slice(lane * 32, lane * 32 + 32)
            with m.If(left):
                m.d.comb += source[field].eq(self.a[field][::-1])
                m.d.comb += result[field].eq(moved[field][::-1])
            with m.Elif(right):
                m.d.comb += source[field].eq(self.a[field])
                m.d.comb += result[field].eq(moved[field])
            with m.If(left | right):
                fill = matches(self.opcode, "sar") & source[field][31]
                m.d.comb += moved[field].eq(
                    Cat(source[field], fill).as_signed() >> self.b[field][:5]
                )
        return result


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
        m.d.comb += flags[f"i_{flag}"].eq(matches(opcode, *mnemonics))
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

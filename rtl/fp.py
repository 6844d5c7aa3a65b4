"""Arithmetic of one VXM lane: fp32 addition, multiplication (fp32 and integer), conversions.

Every unit is a pipeline of three register stages: operands given in cycle t are registered in
t + 1, t + 2 and t + 3, and the result is combinational in t + 3. ``enable`` has one bit for each
stage, high in the cycle at whose end the stage takes its value: the operands' cycle, the next
and the one after. Registers that are not enabled keep their value. Where the ISA says that
operations take more than four cycles, some units have more stages (``Pipeline``), and the
results of the others wait (``rtl/vxm_alu.py``).

The rules of the numbers are those of isa/numerics.py, formulated here on their own.
"""

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.numerics import F16_NAN, INF, NAN
from waterclock.rtl.part import needed

STAGES = 3
BIAS = 127
F16_BIAS = 15


class Unpacked:
    """The fields of an fp32 pattern and what it is, as signals; subnormals are zero.

    ``significand`` has 24 bits with the hidden one, all zero for zero.
    """

    def __init__(self, m: Module, pattern: Value, name: str):
        self.fraction, self.exponent, self.sign = pattern[:23], pattern[23:31], pattern[31]
        self.zero, self.inf, self.nan, top, some = (
            Signal(name=f"{name}_{what}") for what in ("zero", "inf", "nan", "top", "some")
        )
        self.significand = Signal(24, name=f"{name}_significand")
        m.d.comb += [
            top.eq(self.exponent.all()),
            some.eq(self.fraction.any()),
            self.zero.eq(~self.exponent.any()),
            self.inf.eq(top & ~some),
            self.nan.eq(top & some),
            self.significand.eq(Mux(self.zero, 0, Cat(self.fraction, C(1, 1)))),
        ]


def stage(m: Module, enable: Value, values: dict[str, Value], prefix: str) -> dict[str, Signal]:
    """Return a register stage: a register for each value, which takes it when enabled."""
    found: dict[str, Signal] = {}
    for name, value in values.items():
        found[name] = Signal(Value.cast(value).shape(), name=f"{prefix}_{name}", reset_less=True)
    with m.If(enable):
        m.d.sync += [found[name].eq(value) for name, value in values.items()]
    return found


class Pipeline:
    """The register stages of a unit that may be deeper than three.

    Parameters
    ----------
    enable : Value
        A bit for each stage.
    optional : sequence of str
        Names of stages that only a deeper pipeline has, the first ones that it gets first.
    given : sequence of str
        Names of stages that somebody else has before the unit.
    """

    def __init__(
        self, m: Module, enable: Value, optional: Sequence[str], given: Sequence[str] = ()
    ):
        self._m, self._enable = m, enable
        self._absent = {*optional[len(enable) + len(given) - STAGES :], *given}
        self._count = 0

    def stage(self, name: str, values: dict[str, Value]) -> dict[str, Signal]:
        """Return the registers of the next stage; the values themselves if it is absent."""
        if name not in self._absent:
            self._count += 1
            return stage(self._m, self._enable[self._count - 1], values, name)
        found = {
            key: Signal(Value.cast(value).shape(), name=f"{name}_{key}")
            for key, value in values.items()
        }
        self._m.d.comb += [found[key].eq(value) for key, value in values.items()]
        return found


def shift_right(m: Module, value: Value, amount: Value, name: str) -> Value:
    """Return ``value`` shifted right; its lowest bit is set if any lost bit was (sticky).

    Shifts by 32 and more leave the sticky bit alone: a value has at most 33 bits.
    """
    lost, kept, near = (Signal(len(value), name=f"{name}_{x}") for x in ("lost", "kept", "near"))
    m.d.comb += [
        lost.eq(value & ~(C(-1, signed(len(value))) << amount[:5])),
        kept.eq(value >> amount[:5]),
        near.eq(Cat(kept[0] | lost.any(), kept[1:])),
    ]
    return Mux(amount[5:].any(), value.any(), near)


def normalise(
    m: Module, value: Value, name: str, enable: Value | None = None, powers: range | None = None
) -> tuple[Value, Value]:
    """Return ``value`` shifted left until its highest bit is set, and the number of places.

    A value of zero stays zero; the number then means nothing. Without ``enable``, if there is
    one, the value stays as it is. Of ``powers`` of two, if they are given, only these are counted
    and shifted by: higher ones must come first.
    """
    places: list[Signal] = []
    for power in reversed(powers or range((len(value) - 1).bit_length())):
        size = 1 << power
        empty = Signal(name=f"{name}_empty_{power}")
        step = Signal(len(value), name=f"{name}_{power}")
        is_empty = ~value[len(value) - size :].any()
        m.d.comb += empty.eq(is_empty if enable is None else is_empty & enable)
        m.d.comb += step.eq(Mux(empty, Cat(C(0, size), value[: len(value) - size]), value))
        places.insert(0, empty)
        value = step
    return value, Cat(places)


def round_up(kept: Value, lost: Value) -> Value:
    """Tell whether ``kept`` has to be incremented for the bits ``lost`` below it: nearest even."""
    return lost[-1] & (kept[0] | lost[:-1].any())


def pack(
    m: Module, sign: Value, exponent: Value, significand: Value, lost: Value, s: dict[str, Signal]
) -> Value:
    """Return the fp32 pattern of a finite number, rounded and flushed.

    Parameters
    ----------
    exponent : signed(10)
        Biased exponent of the number before rounding; below 1 the result is zero.
    significand : 24 bits, the highest of which is set
    lost : bits below the significand
    s : ``nan`` and ``inf``, which overrule the number, and ``zero``, which has ``zero_sign``
    """
    rounded, tiny = Signal(32), Signal()
    m.d.comb += rounded.eq(Cat(significand[:23], exponent[:9]) + round_up(significand, lost))
    m.d.comb += tiny.eq(exponent <= 0)
    result = Signal(32)
    with m.If(s["nan"]):
        m.d.comb += result.eq(NAN)
    with m.Elif(s["inf"]):
        m.d.comb += result.eq(Cat(C(INF, 31), sign))
    with m.Elif(s["zero"]):
        m.d.comb += result[31].eq(s["zero_sign"])
    with m.Elif(tiny):
        m.d.comb += result[31].eq(sign)
    with m.Elif(rounded[23:] >= 255):
        m.d.comb += result.eq(Cat(C(INF, 31), sign))
    with m.Else():
        m.d.comb += result.eq(Cat(rounded[:31], sign))
    return result


def to_f16(m: Module, pattern: Value, name: str) -> Value:
    """Return the f16 of an fp32 pattern, in the low half: rounded and saturated."""
    a, one, normal = Unpacked(m, pattern, name), BIAS - F16_BIAS, Signal(name=f"{name}_normal")
    # Bits 13 to 23 of the significand are the f16; below its smallest exponent they come down.
    down = Mux(normal, 0, one + 1 - a.exponent)[:8]
    shifted = shift_right(m, a.significand, down, f"{name}_shift")
    total, result = Signal(15, name=f"{name}_total"), Signal(32, name=f"{name}_f16")
    kept = Cat(shifted[13:23], Mux(normal, a.exponent - one, 0)[:5])
    m.d.comb += normal.eq(a.exponent > one)
    m.d.comb += total.eq(kept + round_up(shifted[13:], shifted[:13]))
    # What would be rounded to 2^16 or is more is told by its fp32: while the sum is on its way.
    top = one + 30
    nearly = (a.exponent == top) & a.significand[12:23].all()
    with m.If(a.nan):
        m.d.comb += result.eq(F16_NAN)
    with m.Elif((a.exponent > top) | nearly):
        m.d.comb += result.eq(Cat(C(0x7BFF, 15), a.sign))
    with m.Else():
        m.d.comb += result.eq(Cat(total, a.sign))
    return result


class Adder(wiring.Component):
    """fp32 a + b, or a - b.

    Members
    -------
    enable : In(3)
        Which stages take a value in this cycle.
    subtract : In(1)
        Whether b is negated; belongs to the operands.
    a, b : In(32)
        Operands.
    result : Out(32)
        Combinational from the third stage.
    """

    enable: In(STAGES)
    subtract: In(1)
    a: In(32)
    b: In(32)
    result: Out(32)

    def elaborate(self, platform):
        m = Module()
        enable = needed(m, "stages", self.enable)
        s1 = {"a": self.a, "b": Cat(self.b[:31], self.b[31] ^ self.subtract)}
        s1["swap"] = self.b[:31] > self.a[:31]
        s1 = stage(m, enable[0], s1, "s1")

        # Bring the smaller operand to the exponent of the larger, with guard, round and sticky.
        a, b = Unpacked(m, s1["a"], "a"), Unpacked(m, s1["b"], "b")
        swap, sign, exponent, other = s1["swap"], Signal(), Signal(8), Signal(8)
        large, small, difference = Signal(24), Signal(24), Signal(8)
        m.d.comb += [
            sign.eq(Mux(swap, b.sign, a.sign)),
            exponent.eq(Mux(swap, b.exponent, a.exponent)),
            other.eq(Mux(swap, a.exponent, b.exponent)),
            large.eq(Mux(swap, b.significand, a.significand)),
            small.eq(Mux(swap, a.significand, b.significand)),
            difference.eq(exponent - other),
        ]
        aligned = shift_right(m, Cat(C(0, 3), small), difference, "shift")
        opposite = a.sign ^ b.sign
        s2 = {"sign": sign, "exponent": exponent, "opposite": opposite}
        s2 |= {"large": large, "aligned": aligned ^ opposite.replicate(len(aligned))}
        s2 |= {"nan": a.nan | b.nan | a.inf & b.inf & opposite, "inf": a.inf | b.inf}
        s2 = stage(m, enable[1], s2, "s2")

        # Inverted, with a carry in, it is subtracted; what remains is positive. All but the last
        # place of the normalisation is in the same stage: an addition is short on an FPGA.
        total, minus = Signal(28), s2["opposite"]
        large, aligned = Cat(C(1, 1), C(0, 3), s2["large"]), Cat(minus, s2["aligned"], minus)
        m.d.comb += total.eq((large + aligned)[1:])
        coarse, high = normalise(m, total, "coarse", powers=range(1, 5))
        s3 = {name: s2[name] for name in ("sign", "exponent", "nan", "inf")}
        s3 |= {"coarse": coarse, "high": high}
        s3 |= {"zero_sign": s2["sign"] & ~s2["opposite"]}
        s3 = stage(m, enable[2], s3, "s3")

        normal, last = normalise(m, s3["coarse"], "normal", powers=range(1))
        exponent = Signal(signed(10), name="exponent_normal")
        m.d.comb += exponent.eq(s3["exponent"] + 1 - Cat(last, s3["high"]))
        s3["zero"] = ~normal[-1]
        m.d.comb += self.result.eq(pack(m, s3["sign"], exponent, normal[4:], normal[:4], s3))
        return m


class Multiplier(wiring.Component):
    """fp32 a * b, or integer a * b modulo 2^32; both by one multiplier of 32 x 32 bits.

    Members
    -------
    enable : In(3)
        Which stages take a value in this cycle.
    integer : In(1)
        Whether the operands are integers; belongs to them.
    a, b : In(32)
        Operands.
    result : Out(32)
        Combinational from the third stage.
    """

    enable: In(STAGES)
    integer: In(1)
    a: In(32)
    b: In(32)
    result: Out(32)

    def elaborate(self, platform):
        m = Module()
        s1 = {"a": self.a, "b": self.b, "integer": self.integer}
        s1 = stage(m, self.enable[0], s1, "s1")

        a, b = Unpacked(m, s1["a"], "a"), Unpacked(m, s1["b"], "b")
        factors, product = (Signal(32, name="factor_a"), Signal(32, name="factor_b")), Signal(64)
        for factor, pattern, unpacked in zip(factors, (s1["a"], s1["b"]), (a, b), strict=True):
            m.d.comb += factor.eq(Mux(s1["integer"], pattern, unpacked.significand))
        m.d.comb += product.eq(factors[0] * factors[1])
        exponent, sign = Signal(signed(10)), a.sign ^ b.sign
        m.d.comb += exponent.eq(a.exponent + b.exponent - BIAS)
        s2 = {"product": product[:48], "exponent": exponent, "integer": s1["integer"]}
        s2 |= {"sign": sign, "zero_sign": sign, "zero": a.zero | b.zero}
        s2 |= {"nan": a.nan | b.nan | a.inf & b.zero | a.zero & b.inf, "inf": a.inf | b.inf}
        s2 = stage(m, self.enable[1], s2, "s2")

        # Normalise by at most one place; keep 24 bits, guard and sticky.
        product, kept, exponent = s2["product"], Signal(32), Signal(signed(10), name="exponent_s2")
        m.d.comb += exponent.eq(s2["exponent"] + product[47])
        with m.If(s2["integer"]):
            m.d.comb += kept.eq(product[:32])
        with m.Elif(product[47]):
            m.d.comb += kept.eq(Cat(product[:23].any(), product[23:48]))
        with m.Else():
            m.d.comb += kept.eq(Cat(product[:22].any(), product[22:47]))
        names = ("sign", "zero_sign", "zero", "nan", "inf", "integer")
        s3 = {"kept": kept, "exponent": exponent} | {name: s2[name] for name in names}
        s3 = stage(m, self.enable[2], s3, "s3")

        kept = s3["kept"]
        number = pack(m, s3["sign"], s3["exponent"], kept[2:26], kept[:2], s3)
        m.d.comb += self.result.eq(Mux(s3["integer"], kept, number))
        return m


#: What the converter's first stage finds, in bits. ``field`` is the exponent field of the result
#: (of fp32: if the highest bit of the value is set), ``amount`` the places to shift down.
_CONVERSION = {"sign": 1, "value": 32, "field": 8, "amount": 8, "big": 1, "nan": 1, "zero": 1}


class Converter(wiring.Component):
    """Conversions between fp32, f16, i32 and i8; see the flags.

    Members
    -------
    enable : In(3)
        Which stages take a value in this cycle.
    to_float : In(1)
        Whether the result is fp32, of an integer or f16; else fp32 is the source.
    half : In(1)
        Whether the other format is f16, not an integer.
    byte : In(1)
        Whether the integer result is saturated to 8 bits.
    a : In(32)
        Operand; the flags belong to it.
    result : Out(32)
        Combinational from the third stage. An f16 is in the low half, the high half zero; an i8
        is sign extended.
    """

    enable: In(STAGES)
    to_float: In(1)
    half: In(1)
    byte: In(1)
    a: In(32)
    result: Out(32)

    def elaborate(self, platform):
        m = Module()
        flags = ("to_float", "half", "byte")
        s1 = {"a": self.a} | {name: getattr(self, name) for name in flags}
        s1 = stage(m, self.enable[0], s1, "s1")

        found = {name: Signal(shape, name=name) for name, shape in _CONVERSION.items()}
        with m.If(s1["to_float"]):
            self._unpack_other(m, s1["a"], s1["half"], found)
        with m.Else():
            self._unpack_float(m, s1["a"], s1["half"], found)
        s2 = stage(m, self.enable[1], found | {name: s1[name] for name in flags}, "s2")

        # Up to the highest bit for fp32; down to units of the result for the others.
        value = Signal(33)
        normal, places = normalise(m, s2["value"], "normal")
        shifted = shift_right(m, Cat(C(0, 1), s2["value"]), s2["amount"], "shift")
        m.d.comb += value.eq(Mux(s2["to_float"], Cat(C(0, 1), normal), shifted))
        field = Signal(8)
        m.d.comb += field.eq(Mux(s2["to_float"], s2["field"] - places, s2["field"]))
        names = ("sign", "big", "nan", "zero", *flags)
        s3 = {"value": value, "field": field} | {name: s2[name] for name in names}
        self._finish(m, stage(m, self.enable[2], s3, "s3"))
        return m

    def _unpack_float(
        self, m: Module, pattern: Value, half: Value, found: dict[str, Signal]
    ) -> None:
        """Take fp32: the hidden bit becomes the highest of the value, and counts 2^30."""
        a, one, normal = Unpacked(m, pattern, "a"), BIAS - F16_BIAS, Signal()
        # In an f16 the hidden bit comes down by 20 places to bit 10 (above guard and sticky), and
        # by one more for each exponent below the smallest of f16.
        down = Mux(half, Mux(normal, 20, one + 21 - a.exponent), BIAS + 30 - a.exponent)
        m.d.comb += [
            normal.eq(a.exponent > one),
            found["sign"].eq(a.sign),
            found["value"].eq(Cat(C(0, 8), a.significand)),
            found["nan"].eq(a.nan),
            found["big"].eq(a.exponent >= Mux(half, BIAS + 16, BIAS + 31)),
            found["amount"].eq(down),
            found["field"].eq(Mux(normal, a.exponent - one, 0)),
        ]

    def _unpack_other(
        self, m: Module, pattern: Value, half: Value, found: dict[str, Signal]
    ) -> None:
        """Take an integer, or an f16 as an integer of 11 bits times a power of two."""
        exponent, fraction = pattern[10:15], pattern[:10]
        ordinary = exponent.any()
        with m.If(half):
            m.d.comb += [
                found["sign"].eq(pattern[15]),
                found["value"].eq(Cat(fraction, ordinary)),
                found["field"].eq(BIAS + 31 - 25 + Mux(ordinary, exponent, 1)),
                found["big"].eq(exponent.all()),
                found["nan"].eq(exponent.all() & fraction.any()),
                found["zero"].eq(~pattern[:15].any()),
            ]
        with m.Else():
            m.d.comb += [
                found["sign"].eq(pattern[31]),
                found["value"].eq(Mux(pattern[31], -pattern, pattern)),
                found["field"].eq(BIAS + 31),
                found["zero"].eq(~pattern.any()),
            ]

    def _finish(self, m: Module, s: dict[str, Signal]) -> None:
        """Round, saturate and pack."""
        value, sign = s["value"], s["sign"]
        kept, add = Signal(32), Signal()
        rounded = Signal(32)
        m.d.comb += rounded.eq(kept + add)
        with m.If(s["to_float"]):
            m.d.comb += kept.eq(Cat(value[9:32], s["field"]))
            m.d.comb += add.eq(round_up(value[9:], value[:9]))
            with m.If(s["nan"]):
                m.d.comb += self.result.eq(NAN)
            with m.Elif(s["big"]):
                m.d.comb += self.result.eq(Cat(C(INF, 31), sign))
            with m.Else():
                m.d.comb += self.result.eq(Cat(Mux(s["zero"], 0, rounded[:31]), sign))
        with m.Elif(s["half"]):
            m.d.comb += kept.eq(Cat(value[2:12], s["field"]))
            m.d.comb += add.eq(round_up(value[2:], value[:2]))
            with m.If(s["nan"]):
                m.d.comb += self.result.eq(F16_NAN)
            with m.Elif(s["big"] | (rounded[10:] >= 31)):
                m.d.comb += self.result.eq(Cat(C(0x7BFF, 15), sign))
            with m.Else():
                m.d.comb += self.result.eq(Cat(rounded[:15], sign))
        with m.Else():
            # -(v + up) = ~v + (1 - up): one adder negates and rounds.
            m.d.comb += kept.eq(Cat(value[2:], C(0, 1)) ^ sign.replicate(32))
            m.d.comb += add.eq(round_up(value[2:], value[:2]) ^ sign)
            fits = ~s["byte"] | rounded[7:].all() | ~rounded[7:].any()
            limit = Mux(s["byte"], 0x7F, 0x7FFFFFFF)
            with m.If(s["nan"]):
                m.d.comb += self.result.eq(0)
            with m.Elif(s["big"] | ~fits):
                m.d.comb += self.result.eq(limit ^ sign.replicate(32))
            with m.Else():
                m.d.comb += self.result.eq(rounded)

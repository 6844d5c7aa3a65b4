"""fp32 product and special functions of one VXM lane by few multipliers of 18 x 18 bits.

A multiplier of an FPGA is 18 bits wide. A product of 24 x 24 bits is one of 18 x 18, two of 6 by
18 and one of 6 by 6, the last a sum of a few rows. With all but the first the special functions
have c2 * u, a stage before they need the 18 x 18 bits for the slope times u:

    operands
    factors
    parts      (optional) low * first by its lower 18 and its upper bits, and high * second
    short      (optional) t = low * first + (high * second << 6), 6 bits times 24 and 18
    long       x and y, and what is to be added to their product
    product    (optional) t + (x * y << 12), or the value of a segment +- x * y
    rounded    (optional, of ``MultiplySpecialRounded``) the result in fp32, to be rounded to f16

For that everything is brought to products of numbers without a sign. With u = r + 2^17, and
``rising`` only in the segment of exp2, the slope of isa/special.py is +-p with

    p = (e +- (c2 * u >> 17)) >> 1,    e = 2 * c1 - c2 + 1 rising, c2 - 2 * c1 falling
"""

from functools import lru_cache

import numpy as np
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.numerics import INF, NAN
from waterclock.isa.special import (
    C0_BITS,
    C1_BITS,
    C2_BITS,
    INDEX_BITS,
    R_BITS,
    WORD_BITS,
    Segment,
    coefficients,
)
from waterclock.rtl.fp import BIAS, Pipeline, Unpacked, round_up, to_f16
from waterclock.rtl.part import needed
from waterclock.rtl.special import ADDRESS_BITS, fixed_size, to_segment

LOW = 6  #: bits of a significand beyond the 18 of the multiplier
WIDE = 18
PRODUCT_LOW = 2 * LOW  #: place of the product of the upper bits
C0_PLACE = 15  #: of c0 in the value of a segment, see isa/special.py
N_PLACE = 20  #: of n
SLIDE_PLACE = C0_PLACE + 2  #: of p, a quarter of whose units c0 has


@lru_cache(maxsize=1)
def shared_rom() -> tuple[int, ...]:
    """Return the words of isa/special.py with e for c1, as many bits: c0 lowest, c2 highest."""
    c0, c1, c2 = coefficients()
    rising = np.arange(len(c0)) >> INDEX_BITS == Segment.EXP2
    e = np.where(rising, 2 * c1 - c2 + 1, c2 - 2 * c1)
    assert e.min() >= 0
    assert e.max() < 1 << C1_BITS
    words = zip(c0, e, c2, strict=True)
    return tuple(int(x) | int(y) << C0_BITS | int(z) << C0_BITS + C1_BITS for x, y, z in words)


def _rows_product(m: Module, short: Value, wide: Value, name: str) -> Value:
    """Return a product as a sum of rows; no multiplier."""
    rows = [Mux(bit, wide, 0) for bit in short]
    places = 1
    while len(rows) > 1:
        sums = [low + (high << places) for low, high in zip(rows[::2], rows[1::2], strict=False)]
        rows, places = sums + rows[len(sums) * 2 :], 2 * places
    product = Signal(len(short) + len(wide), name=name)
    m.d.comb += product.eq(rows[0])
    return product


def _plus_minus(x: Value, y: Value, minus: Value) -> Value:
    """Return x + y or x - y, y being as wide or having a sign, by one adder."""
    return (Cat(C(1, 1), x) + Cat(minus, y.as_unsigned() ^ minus.replicate(len(y))).as_signed())[1:]


class MultiplySpecial(wiring.Component):
    """fp32 a * b, or 2^a, 1 / a, 1 / sqrt(a); a pipeline like those of ``rtl/fp.py``.

    Parameters
    ----------
    stages : int
        Of the pipeline; three, and as many of ``OPTIONAL``.

    Members
    -------
    enable : In(stages)
        Which stages take a value in this cycle.
    special, exp2, rsqrt : In(1)
        Whether it is not the product but a special function, and which: reciprocal if neither;
        they belong to the operands.
    a, b : In(32)
        Operands.
    rom_address : Out(ADDRESS_BITS)
        Address for a ``SpecialROM`` of ``shared_rom``, to be taken together with the factors.
    rom_word : In(WORD_BITS)
        What is there.
    result : Out(32)
        Combinational from the last stage.
    """

    OPTIONAL = ("product", "short", "parts")
    FLAGS = ("special", "exp2", "rsqrt")

    def __init__(self, stages: int):
        super().__init__(
            {"enable": In(stages)}
            | {name: In(1) for name in self.FLAGS}
            | {"a": In(32), "b": In(32), "result": Out(32)}
            | {"rom_address": Out(ADDRESS_BITS), "rom_word": In(WORD_BITS)}
        )

    def elaborate(self, platform):
        m = Module()
        pipeline = Pipeline(m, needed(m, "stages", self.enable), self.OPTIONAL)
        names = (*self.FLAGS, "a", "b")
        s1: dict[str, Value] = {name: getattr(self, name) for name in names}
        s1 = pipeline.stage("operands", s1 | {"size": fixed_size(m, self.a)})
        s2 = pipeline.stage("factors", self._unpack(m, s1))
        ends = ("special", "exponent", "sign", "nan", "inf", "zero", *self.FLAGS[3:])
        names = (*ends, "falling", "second")
        parts = pipeline.stage("parts", self._parts(m, s2) | {name: s2[name] for name in names})
        short = {"t": self._short(m, parts), "c0": parts["c0"], "e": parts["e"]}
        names = ("upper", *names)
        short = pipeline.stage("short", short | {name: parts[name] for name in names})
        names = names[1:]
        long = pipeline.stage("long", self._slope(m, short) | {name: short[name] for name in names})
        product = self._multiply(m, long) | {name: long[name] for name in ends}
        product = pipeline.stage("product", product)
        m.d.comb += self.result.eq(self._result(m, pipeline, product, self._finish(m, product)))
        return m

    def _result(self, m: Module, pipeline: Pipeline, s: dict[str, Signal], number: Value) -> Value:
        """Return the result, made of the fp32 number."""
        return number

    def _unpack(self, m: Module, s: dict[str, Signal]) -> dict[str, Value]:
        """Return the factors of the products, and what overrules the result."""
        a, b = Unpacked(m, s["a"], "a"), Unpacked(m, s["b"], "b")
        segment, argument, exponent, found = to_segment(m, s["a"], s["size"], s["exp2"], s["rsqrt"])
        m.d.comb += self.rom_address.eq(Cat(argument[R_BITS:], segment))
        sign, u, special = a.sign ^ b.sign, argument[:R_BITS], s["special"]
        product = {
            "sign": sign,
            "nan": a.nan | b.nan | a.inf & b.zero | a.zero & b.inf,
            "inf": a.inf | b.inf,
            "zero": a.zero | b.zero,
            "exponent": (a.exponent + b.exponent - BIAS).as_signed(),
            "first": b.significand,
            "second": a.significand[LOW:],
        }
        function = found | {"exponent": exponent, "first": u, "second": u}
        shapes = {"exponent": signed(10), "first": 24, "second": WIDE}
        chosen: dict[str, Value] = {"special": special, "low": a.significand[:LOW]}
        for name, value in product.items():
            chosen[name] = Signal(shapes.get(name, 1), name=f"chosen_{name}")
            m.d.comb += chosen[name].eq(Mux(special, function[name], value))
        chosen |= {name: s[name] for name in self.FLAGS[3:]}
        return chosen | {"falling": special & (segment != Segment.EXP2)}

    def _parts(self, m: Module, s: dict[str, Signal]) -> dict[str, Value]:
        """Multiply by short factors; return the parts of t and what else the slope is made of."""
        c0, e = self.rom_word[:C0_BITS], self.rom_word[C0_BITS : C0_BITS + C1_BITS]
        c2, special = self.rom_word[-C2_BITS:], s["special"]
        low, high = Signal(LOW), Signal(LOW)
        m.d.comb += low.eq(Mux(special, c2[:LOW], s["low"]))
        m.d.comb += high.eq(Mux(special, c2[LOW:], s["first"][:LOW]))
        return {
            "low_lower": low * s["first"][:WIDE],
            "low_upper": _rows_product(m, low, s["first"][WIDE:], "low_rows"),
            "high": high * s["second"],
            "c0": c0,
            "e": e,
            "upper": s["first"][LOW:],
        }

    def _short(self, m: Module, s: dict[str, Signal]) -> Value:
        """Return t, the sum of its parts."""
        t = Signal(24 + LOW + 1)
        upper = s["high"] + (s["low_upper"] << WIDE - LOW)
        m.d.comb += t.eq(s["low_lower"] + (upper << LOW))
        return t

    def _slope(self, m: Module, s: dict[str, Signal]) -> dict[str, Value]:
        """Return what is to be added to the long product, and x."""
        t, c0, e, special, falling = (s[name] for name in ("t", "c0", "e", "special", "falling"))
        # p, and what makes of c0 the value of the segment at u = 0: -+ p * 2^17, +- the highest
        # bit of p times u.
        p, bend = (
            Signal(C1_BITS - 1),
            Cat(t[R_BITS - 1 : R_BITS + C2_BITS], C(0, C1_BITS))[:C1_BITS],
        )
        m.d.comb += p.eq(_plus_minus(e, bend, falling)[1:])
        slide = Signal(signed(C1_BITS))
        m.d.comb += slide.eq(p - (Mux(p[WIDE], s["second"], 0) << 1))
        return {
            "low": t[:PRODUCT_LOW],
            "x": Mux(special, p[:WIDE], s["upper"]),
            "sum": Mux(special, c0 << C0_PLACE, t[PRODUCT_LOW:]),
            "slide": Mux(special, slide, 0),
        }

    def _multiply(self, m: Module, s: dict[str, Signal]) -> dict[str, Value]:
        """Multiply by the long factors, and add what is to be added."""
        product, total = Signal(2 * WIDE), Signal(C0_BITS + C0_PLACE + 1)
        falling = s["falling"]
        m.d.comb += product.eq(s["x"] * s["second"])
        # The slide is added while the multiplier is at work.
        start, base = Signal(len(total)), Cat(s["sum"], C(0, len(total)))[: len(total)]
        slid = _plus_minus(base[SLIDE_PLACE:], s["slide"], ~falling)
        m.d.comb += start.eq(Cat(base[:SLIDE_PLACE], slid))
        m.d.comb += total.eq(_plus_minus(start, Cat(product, C(0, 1)), falling))
        return {"low": s["low"], "total": total}

    def _finish(self, m: Module, s: dict[str, Signal]) -> Value:
        """Normalise, round and pack."""
        total, special = s["total"], s["special"]
        whole = Cat(s["low"], total[: 2 * WIDE])
        top, kept, lost = whole[47], Signal(25), Signal(2)
        with m.If(special):
            m.d.comb += kept.eq(total[N_PLACE:])
        with m.Elif(top):
            m.d.comb += kept.eq(whole[24:47])
            m.d.comb += lost.eq(Cat(whole[:23].any(), whole[23]))
        with m.Else():
            m.d.comb += kept.eq(whole[23:46])
            m.d.comb += lost.eq(Cat(whole[:22].any(), whole[22]))
        # The hidden bit of n, or its carry, is added to the exponent field.
        exponent, rounded = Signal(signed(10)), Signal(signed(33))
        up = round_up(kept, lost)
        m.d.comb += exponent.eq(s["exponent"] + (top & ~special))
        m.d.comb += rounded.eq(
            (Cat(C(1, 1), C(0, 23), exponent).as_signed() + Cat(up, kept))[1:].as_signed()
        )
        field, result = rounded[23:].as_signed(), Signal(32, name="number")
        with m.If(s["nan"]):
            m.d.comb += result.eq(NAN)
        with m.Elif(s["inf"]):
            m.d.comb += result.eq(Cat(C(INF, 31), s["sign"]))
        with m.Elif(s["zero"] | (Mux(special, field, exponent) <= 0)):
            m.d.comb += result.eq(Cat(C(0, 31), s["sign"]))
        with m.Elif(field >= 255):
            m.d.comb += result.eq(Cat(C(INF, 31), s["sign"]))
        with m.Else():
            m.d.comb += result.eq(Cat(rounded[:31], s["sign"]))
        return result


class MultiplySpecialRounded(MultiplySpecial):
    """The same, and with ``half``, which belongs to the operands, its result rounded to f16."""

    OPTIONAL = (*MultiplySpecial.OPTIONAL, "rounded")
    FLAGS = (*MultiplySpecial.FLAGS, "half")

    def _result(self, m: Module, pipeline: Pipeline, s: dict[str, Signal], number: Value) -> Value:
        """Return the result, made of the fp32 number."""
        last = pipeline.stage("rounded", {"number": number, "half": s["half"]})
        return Mux(last["half"], to_f16(m, last["number"], "rounded"), last["number"])

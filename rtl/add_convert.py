"""fp32 addition and the conversions of one VXM lane by one pipeline.

Both bring a number to a unit (of the larger operand, of the result), add, and bring the sum to
fp32; so they share what is large, the shifter down and the one up:

    operands   (unless the ALU registers them)
    ordered    (optional) the larger and the smaller one, and how far the smaller goes down
    aligned    a shifted down, to be added to the other number, to nothing, or to the exponent
    added      (optional) the sum
    coarse     (optional) the sum, shifted up by a multiple of eight places
    normal     the sum, normalised, to be rounded, or the result of a conversion
"""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.numerics import F16_NAN
from waterclock.rtl.fp import (
    BIAS,
    F16_BIAS,
    Pipeline,
    Unpacked,
    normalise,
    pack,
    round_up,
    shift_right,
)
from waterclock.rtl.part import needed

#: What the first stage finds; ``large`` and ``addend`` are added, with ``carry``. ``inf`` tells
#: that the result is beyond its format.
_FOUND = {"sign": 1, "exponent": 8, "large": 32, "addend": 32, "carry": 1, "nan": 1, "inf": 1}
FINE = 3  #: powers of two by which the second half of the normalisation shifts
_ONE = BIAS - F16_BIAS  #: the exponent of fp32 that is none in an f16


class AddConvert(wiring.Component):
    """fp32 a + b or a - b, or a conversion of a between fp32, f16, i32 and i8; see the flags.

    Parameters
    ----------
    stages : int
        Of the pipeline: three, less one for ``registered``, and as many of ``OPTIONAL``.
    registered : bool
        Whether operands and flags come from registers.

    Members
    -------
    enable : In(stages)
        Which stages take a value in this cycle.
    subtract : In(1)
        Whether b is negated; belongs, as all flags, to the operands.
    convert : In(1)
        Whether it is not a sum.
    to_float, half, byte : In(1)
        As of ``Converter``.
    a, b : In(32)
        Operands.
    result : Out(32)
        Combinational from the last stage.
    """

    OPTIONAL = ("ordered", "added", "coarse")

    def __init__(self, stages: int, registered: bool = False):
        self._given = ("operands",) if registered else ()
        flags = ("subtract", "convert", "to_float", "half", "byte")
        super().__init__(
            {"enable": In(stages)}
            | {name: In(1) for name in flags}
            | {"a": In(32), "b": In(32), "result": Out(32)}
        )

    def elaborate(self, platform):
        m = Module()
        pipeline = Pipeline(m, needed(m, "stages", self.enable), self.OPTIONAL, self._given)
        flags = ("convert", "to_float", "half", "byte")
        s1 = {"a": self.a, "b": Cat(self.b[:31], self.b[31] ^ self.subtract)}
        s1 = pipeline.stage("operands", s1 | {name: getattr(self, name) for name in flags})
        ordered = pipeline.stage("ordered", self._order(m, s1))
        found = {name: Signal(bits, name=name) for name, bits in _FOUND.items()}
        self._align(m, ordered, found)
        s2 = {"narrow": ordered["convert"] & ~ordered["to_float"]}
        s2 |= {name: ordered[name] for name in ("half", "byte")}
        s2 |= {"zero_sign": found["sign"] & ~found["carry"]}
        s2 = pipeline.stage("aligned", found | s2)

        total = Signal(32)
        m.d.comb += total.eq((Cat(C(1, 1), s2["large"]) + Cat(s2["carry"], s2["addend"]))[1:])
        names = ("sign", "exponent", "nan", "inf", "zero_sign", "narrow", "half", "byte")
        kept = {name: s2[name] for name in names}
        added = pipeline.stage("added", kept | {"total": total})
        shifts = ~added["narrow"]
        coarse, high = normalise(m, added["total"], "coarse_sum", shifts, range(FINE, 5))
        kept = {name: added[name] for name in names} | {"coarse": coarse, "high": high}
        kept = pipeline.stage("coarse", kept)
        shifts, high = ~kept["narrow"], kept["high"]
        normal, low = normalise(m, kept["coarse"], "normal_sum", shifts, range(FINE))
        kept = {name: kept[name] for name in names} | {"normal": normal}
        kept |= {"places": Cat(low, high)}
        s3 = pipeline.stage("normal", kept)

        normal = s3["normal"]
        exponent = Signal(signed(10), name="exponent_normal")
        m.d.comb += exponent.eq(s3["exponent"] + 1 - s3["places"])
        s3["zero"] = ~normal[-1]
        number = pack(m, s3["sign"], exponent, normal[8:], normal[:8], s3)
        with m.If(s3["narrow"]):
            self._saturate(m, s3)
        with m.Else():
            m.d.comb += self.result.eq(number)
        return m

    def _order(self, m: Module, s: dict[str, Signal]) -> dict[str, Value]:
        """Return the larger and the smaller operand, and how far the smaller goes down."""
        a, b = Unpacked(m, s["a"], "a"), Unpacked(m, s["b"], "b")
        # The smaller operand comes to the exponent of the larger, a to the unit of its result.
        swap, opposite, normal = Signal(), a.sign ^ b.sign, Signal()
        large, small, down, exponent, other, sign = (
            Signal(bits, name=name)
            for name, bits in (
                ("larger", 24),
                ("small", 24),
                ("down", 8),
                ("upper", 8),
                ("other", 8),
                ("sign_of_larger", 1),
            )
        )
        m.d.comb += [
            swap.eq(s["convert"] | (s["b"][:31] > s["a"][:31])),
            exponent.eq(Mux(swap, b.exponent, a.exponent)),
            other.eq(Mux(swap, a.exponent, b.exponent)),
            large.eq(Mux(swap, b.significand, a.significand)),
            small.eq(Mux(swap, a.significand, b.significand)),
            sign.eq(Mux(swap, b.sign, a.sign)),
            normal.eq(a.exponent > _ONE),
        ]
        # The hidden bit of fp32 counts 2^30. In an f16 it comes down by 20 places to bit 10 (above
        # guard and sticky), and by one more for each exponent below the smallest of f16.
        unit = Mux(s["half"], _ONE + 21, BIAS + 30)
        with m.If(~s["convert"]):
            m.d.comb += down.eq(exponent - other)
        with m.Elif(s["half"] & normal):
            m.d.comb += down.eq(20)
        with m.Else():
            m.d.comb += down.eq(unit - other)
        # What becomes of NaN and infinity, and the exponent field of an f16.
        nan, inf, field = Signal(), Signal(), Signal(8)
        with m.If(s["convert"]):
            beyond = a.exponent >= Mux(s["half"], BIAS + 16, BIAS + 31)
            m.d.comb += nan.eq(a.nan & ~s["to_float"])
            m.d.comb += inf.eq(beyond & ~s["to_float"])
        with m.Else():
            m.d.comb += nan.eq(a.nan | b.nan | a.inf & b.inf & opposite)
            m.d.comb += inf.eq(a.inf | b.inf)
        m.d.comb += field.eq(Mux(normal, a.exponent - _ONE, 0))
        ordered: dict[str, Value] = {name: s[name] for name in ("convert", "to_float", "half")}
        ordered |= {"byte": s["byte"], "pattern": s["a"], "sign": sign, "opposite": opposite}
        ordered |= {"exponent": exponent, "large": large, "small": small, "down": down}
        return ordered | {"nan": nan, "inf": inf, "field": field}

    def _align(self, m: Module, s: dict[str, Signal], found: dict[str, Signal]) -> None:
        """Shift the smaller operand down, and round an f16 or an integer."""
        shifted, opposite = Signal(33), s["opposite"]
        m.d.comb += shifted.eq(shift_right(m, Cat(C(0, 9), s["small"]), s["down"], "shift"))

        up, sign = round_up(shifted[2:], shifted[:2]), s["pattern"][31]
        m.d.comb += [found[name].eq(s[name]) for name in ("nan", "inf")]
        with m.If(~s["convert"]):
            aligned = Cat(C(0, 4), shifted[:7].any(), shifted[7:], C(0, 1))
            m.d.comb += [
                found["sign"].eq(s["sign"]),
                found["exponent"].eq(s["exponent"]),
                found["large"].eq(Cat(C(0, 7), s["large"])),
                found["addend"].eq(aligned ^ opposite.replicate(32)),
                found["carry"].eq(opposite),
            ]
        with m.Elif(s["to_float"]):
            self._other(m, s["pattern"], s["half"], found)
        with m.Else():
            m.d.comb += found["sign"].eq(sign)
            with m.If(s["half"]):
                m.d.comb += found["large"].eq(Cat(C(0, 10), s["field"]))
                m.d.comb += found["addend"].eq(shifted[2:12])
                m.d.comb += found["carry"].eq(up)
            with m.Else():
                # -(v + up) = ~v + (1 - up): one adder negates and rounds.
                whole = Cat(shifted[2:], C(0, 1))
                m.d.comb += found["addend"].eq(whole ^ sign.replicate(32))
                m.d.comb += found["carry"].eq(up ^ sign)

    def _other(self, m: Module, pattern: Value, half: Value, found: dict[str, Signal]) -> None:
        """Take an integer, or an f16 as an integer of 11 bits times a power of two."""
        exponent, fraction, sign = pattern[10:15], pattern[:10], pattern[31]
        ordinary, unit = exponent.any(), BIAS + 30
        with m.If(half):
            m.d.comb += [
                found["sign"].eq(pattern[15]),
                found["addend"].eq(Cat(fraction, ordinary)),
                found["exponent"].eq(unit - 25 + Mux(ordinary, exponent, 1)),
                found["inf"].eq(exponent.all()),
                found["nan"].eq(exponent.all() & fraction.any()),
            ]
        with m.Else():
            m.d.comb += [
                found["sign"].eq(sign),
                found["addend"].eq(pattern ^ sign.replicate(32)),
                found["carry"].eq(sign),
                found["exponent"].eq(unit),
            ]

    def _saturate(self, m: Module, s: dict[str, Signal]) -> None:
        """Give the sum as an f16, or as an integer."""
        rounded, sign = s["normal"], s["sign"]
        with m.If(s["half"]):
            with m.If(s["nan"]):
                m.d.comb += self.result.eq(F16_NAN)
            with m.Elif(s["inf"] | (rounded[10:18] >= 31)):
                m.d.comb += self.result.eq(Cat(C(0x7BFF, 15), sign))
            with m.Else():
                m.d.comb += self.result.eq(Cat(rounded[:15], sign))
        with m.Else():
            fits = ~s["byte"] | rounded[7:].all() | ~rounded[7:].any()
            limit = Mux(s["byte"], 0x7F, 0x7FFFFFFF)
            with m.If(s["nan"]):
                m.d.comb += self.result.eq(0)
            with m.Elif(s["inf"] | ~fits):
                m.d.comb += self.result.eq(limit ^ sign.replicate(32))
            with m.Else():
                m.d.comb += self.result.eq(rounded)

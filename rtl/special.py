"""exp2, recip and rsqrt of one VXM lane; the algorithms are stated in isa/numerics.py."""

from collections.abc import Sequence
from itertools import pairwise

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from waterclock.isa.numerics import INF, NAN
from waterclock.isa.special import (
    C0_BITS,
    C1_BITS,
    INDEX_BITS,
    N_BITS,
    R_BITS,
    U_BITS,
    WORD_BITS,
    Segment,
)
from waterclock.rtl.fp import BIAS, STAGES, Unpacked, stage

ADDRESS_BITS = INDEX_BITS + 2
#: Width of a block RAM that two lanes share. What a word has above a multiple of it would take
#: an FPGA another one for every two lanes; the bits that seldom change cost less as logic.
BLOCK_BITS = 18


class SpecialROM(wiring.Component):
    """The coefficients: a memory with a read port for each lane, some bits of it as logic.

    Parameters
    ----------
    lanes : int
    words : sequence of int
        What the addresses hold, ``WORD_BITS`` each.

    Members
    -------
    enable : In(1)
        Whether the addresses are taken.
    address : In(lanes * ADDRESS_BITS)
        Addresses of the lanes.
    word : Out(lanes * WORD_BITS)
        Their words, in the next cycle.
    """

    def __init__(self, lanes: int, words: Sequence[int]):
        self.lanes, self.words = lanes, words
        super().__init__(
            {
                "enable": In(1),
                "address": In(lanes * ADDRESS_BITS),
                "word": Out(lanes * WORD_BITS),
            }
        )

    def elaborate(self, platform):
        m = Module()
        logic = _fewest_changes(self.words, WORD_BITS % BLOCK_BITS)
        columns = [[word >> bit & 1 for word in self.words] for bit in logic]
        stored = [bit for bit in range(WORD_BITS) if bit not in logic]
        init = [sum((word >> bit & 1) << n for n, bit in enumerate(stored)) for word in self.words]
        # Left to itself, synthesis makes it of LUTs, thousands a lane.
        m.submodules.memory = memory = Memory(
            shape=len(stored), depth=len(init), init=init, attrs={"rom_style": "block"}
        )
        for lane in range(self.lanes):
            port, address = memory.read_port(), self.address.word_select(lane, ADDRESS_BITS)
            found = {bit: port.data[n] for n, bit in enumerate(stored)}
            m.d.comb += [port.en.eq(self.enable), port.addr.eq(address)]
            computed = Signal(len(logic), name=f"computed_{lane}")
            with m.If(self.enable):
                m.d.sync += computed.eq(Cat(_looked_up(bits, address) for bits in columns))
            found |= {bit: computed[n] for n, bit in enumerate(logic)}
            word = Cat(found[bit] for bit in range(WORD_BITS))
            m.d.comb += self.word.word_select(lane, WORD_BITS).eq(word)
        return m


def _fewest_changes(words: Sequence[int], count: int) -> list[int]:
    """Return the bits of the words that change least often from address to address."""

    def changes(bit: int) -> int:
        return sum((one ^ other) >> bit & 1 for one, other in pairwise(words))

    return sorted(range(WORD_BITS), key=changes)[:count]


def _looked_up(bits: Sequence[int], address: Value) -> Value:
    """Return ``bits[address]``, by a tree that ends where all bits are alike."""
    if len(set(bits)) == 1:
        return C(bits[0], 1)
    half = len(bits) // 2
    low, high = (_looked_up(part, address) for part in (bits[:half], bits[half:]))
    return Mux(address[half.bit_length() - 1], high, low)


def fixed_size(m: Module, pattern: Value) -> Signal:
    """Return the size of an fp32 pattern in units of 2^-26, cut off; means nothing from 2^7 on."""
    down, amount = (BIAS + 6 - pattern[23:31])[:8], Signal(6, name="fixed_down")
    m.d.comb += amount.eq(Mux(down[6:].any(), 63, down[:6]))
    size = Signal(33, name="fixed_size")
    # What is zero need not be told apart: it goes down by 63 places.
    m.d.comb += size.eq(Cat(C(0, 9), pattern[:23], C(1, 1)) >> amount)
    return size


def to_segment(
    m: Module, pattern: Value, size: Value, exp2: Value, rsqrt: Value
) -> tuple[Signal, Signal, Signal, dict[str, Signal]]:
    """Bring an operand to a segment of the tables; ``size`` is its ``fixed_size``.

    Returns
    -------
    segment : Signal(Segment)
    argument : Signal(U_BITS)
        Of the segment.
    exponent : Signal(signed(10))
        Exponent field of the result, less one.
    found : dict
        ``sign`` of the result; ``nan``, ``inf`` and ``zero``, the first of which overrules it.
    """
    a = Unpacked(m, pattern, "special_a")
    segment, argument, exponent = Signal(Segment), Signal(U_BITS), Signal(signed(10), name="field")
    found = {"sign": Signal(name="is_negative")} | {
        name: Signal(name=f"is_{name}") for name in ("nan", "inf", "zero")
    }
    m.d.comb += found["nan"].eq(a.nan)
    with m.If(exp2):
        fixed = _fixed(m, a, size)
        m.d.comb += [
            segment.eq(Segment.EXP2),
            argument.eq(fixed[:U_BITS]),
            exponent.eq(fixed[U_BITS:].as_signed() + BIAS - 1),
            found["inf"].eq((a.exponent >= BIAS + 7) & ~a.sign),
            found["zero"].eq((a.exponent >= BIAS + 7) & a.sign | (exponent < 0)),
        ]
    with m.Elif(rsqrt):
        half = (a.exponent + 1) >> 1
        m.d.comb += [
            segment.eq(Mux(a.exponent[0], Segment.RSQRT, Segment.RSQRT2)),
            argument.eq(a.fraction << 2),
            exponent.eq(BIAS + 62 - half),
            found["nan"].eq(a.nan | a.sign & ~a.zero),
            found["inf"].eq(a.zero),
            found["zero"].eq(a.inf),
        ]
    with m.Else():
        m.d.comb += [
            segment.eq(Segment.RECIP),
            argument.eq(a.fraction << 2),
            exponent.eq(2 * BIAS - 2 - a.exponent),
            found["sign"].eq(a.sign),
            found["inf"].eq(a.zero),
            found["zero"].eq(a.inf),
        ]
    return segment, argument, exponent, found


def _fixed(m: Module, a: Unpacked, size: Value) -> Value:
    """Return a in units of 2^-25, rounded: 9 bits of integer, signed, above 25 of fraction."""
    fixed = Signal(34)
    m.d.comb += fixed.eq(Cat(size, C(0, 1)) ^ a.sign.replicate(34))
    total = Signal(35)
    m.d.comb += total.eq(fixed.as_signed() + Mux(a.sign, 2, 1))
    return total[1:]


class SpecialFunctions(wiring.Component):
    """2^a, 1 / a or 1 / sqrt(a); a pipeline like those of ``rtl/fp.py``.

    Members
    -------
    enable : In(3)
        Which stages take a value in this cycle.
    exp2, rsqrt : In(1)
        The function, reciprocal if neither; belongs to the operand.
    a : In(32)
        Operand.
    rom_address : Out(ADDRESS_BITS)
        Address for ``SpecialROM``, to be taken together with stage 2.
    rom_word : In(WORD_BITS)
        What is there.
    result : Out(32)
        Combinational from the third stage.
    """

    enable: In(STAGES)
    exp2: In(1)
    rsqrt: In(1)
    a: In(32)
    rom_address: Out(ADDRESS_BITS)
    rom_word: In(WORD_BITS)
    result: Out(32)

    def elaborate(self, platform):
        m = Module()
        s1 = {"a": self.a, "size": fixed_size(m, self.a), "exp2": self.exp2, "rsqrt": self.rsqrt}
        s1 = stage(m, self.enable[0], s1, "s1")

        segment, argument, exponent, found = to_segment(
            m, s1["a"], s1["size"], s1["exp2"], s1["rsqrt"]
        )
        m.d.comb += self.rom_address.eq(Cat(argument[R_BITS:], segment))
        # Inverting the highest bit subtracts half an interval.
        r = Cat(argument[: R_BITS - 1], ~argument[R_BITS - 1]).as_signed()
        s2 = stage(m, self.enable[1], found | {"r": r, "exponent": exponent}, "s2")

        c0, c1 = self.rom_word[:C0_BITS], self.rom_word[C0_BITS : C0_BITS + C1_BITS].as_signed()
        c2, slope = self.rom_word[C0_BITS + C1_BITS :], Signal(signed(C1_BITS + R_BITS + 1))
        m.d.comb += slope.eq(Cat(C(0, R_BITS - 1), C(1, 1), c1).as_signed() + c2 * s2["r"])
        s3 = {name: s2[name] for name in (*found, "r", "exponent")}
        s3 |= {"c0": c0, "p": slope[R_BITS:]}
        s3 = stage(m, self.enable[2], s3, "s3")

        total, field = Signal(signed(46)), Signal(signed(11))
        m.d.comb += total.eq(Cat(C(0, 15), s3["c0"]) + s3["p"].as_signed() * s3["r"])
        n = total[20 : 20 + N_BITS]
        # The hidden bit of n, or its carry, is added to the exponent field.
        m.d.comb += field.eq(s3["exponent"] + n[23:])
        with m.If(s3["nan"]):
            m.d.comb += self.result.eq(NAN)
        with m.Elif(s3["inf"]):
            m.d.comb += self.result.eq(Cat(C(INF, 31), s3["sign"]))
        with m.Elif(s3["zero"] | (field <= 0)):
            m.d.comb += self.result.eq(Cat(C(0, 31), s3["sign"]))
        with m.Else():
            m.d.comb += self.result.eq(Cat(n[:23], field[:8], s3["sign"]))
        return m

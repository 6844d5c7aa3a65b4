"""Rounding of an accumulator to fp32, in two steps with room for a register between them."""

from collections.abc import Sequence

from amaranth import *

RESULT_BITS = 32
FRACTION_BITS = 23
SIGNIFICAND_BITS = FRACTION_BITS + 1
BIAS = 127


def repeated(bit: Value, count: int) -> Value:
    """Return ``count`` copies of a bit; a simulator would take a ``Cat`` bit by bit."""
    return Mux(bit, (1 << count) - 1, C(0, count))


def _normalised(
    m: Module, value: Value, sign: Value, steps: Sequence[int], name: str
) -> tuple[Signal, Value]:
    """Shift left by the sum of those ``steps`` (descending) that lose only zeros.

    Copies of ``sign`` enter. Returns the highest bits, as many as a float can need after steps
    below the last, above one that stands for all others: it is ``sign`` if they all are; and one
    bit for each step, the first step's highest.
    """
    taken: list[Value] = []
    for step in steps:
        zeros = Signal(name=f"{name}_zeros_{step}")
        m.d.comb += zeros.eq(~value[-step:].any())
        shifted = Mux(zeros, Cat(repeated(sign, step), value[:-step]), value)
        rest = len(value) - (SIGNIFICAND_BITS + 1 + step - 1)
        value = Signal(len(value) - rest + 1, name=f"{name}_{step}")
        lowest = Mux(sign, shifted[:rest].all(), shifted[:rest].any())
        m.d.comb += value.eq(Cat(lowest, shifted[rest:]))
        taken.insert(0, zeros)
    return value, Cat(taken)


def coarse(m: Module, value: Value, name: str) -> tuple[Signal, Value]:
    """Return the highest bits of a 64-bit accumulator but for a shift below 8, and the shift.

    A negative value is normalised as its ones' complement, magnitude - 1, with ones below;
    rounding adds the one that is missing, so that no 64-bit negation is needed.
    """
    sign = value[-1]
    size = value ^ repeated(sign, len(value))
    return _normalised(m, size, sign, (32, 16, 8), f"coarse_{name}")


def fine(
    m: Module, held: Value, held_shifts: Value, sign: Value, fraction: int, name: str
) -> Value:
    """Return the fp32 pattern of what ``coarse`` returned; ``sign`` is that of its ``value``.

    The accumulator is in units of 2^-``fraction``.
    """
    shifted, shifts = _normalised(m, held, sign, (4, 2, 1), f"fine_{name}")
    lowest, half, significand = shifted[0], shifted[1], shifted[2:]
    odd = significand[0]
    up = Mux(sign, half | (lowest & odd), half & (lowest | odd))
    # No bit is set in the size of 0 and of -1. The ones below -1 round up to the lowest exponent.
    normal = significand[-1]
    lowest_exponent = BIAS - fraction
    low = Mux(normal, lowest_exponent, Mux(sign, lowest_exponent - 1, 0))
    # One adder for three numbers: what rounds up is carried out of an extra place.
    number = Cat(C(1, 1), significand[:-1], ~shifts, ~held_shifts)
    packed = Signal(RESULT_BITS, name=f"packed_{name}")
    m.d.comb += packed.eq(number + Cat(up, C(0, FRACTION_BITS), low))
    return Cat(packed[1:], sign)

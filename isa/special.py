"""Tables of the special functions: exp2, recip and rsqrt as piecewise quadratics in integers.

Each function is brought to one of four segments (see ``Segment``), whose argument is a fraction
u in [0, 1) of 25 bits. The segment is cut into 128 intervals: the upper seven bits of u are the
``index``, the lower 18 bits minus 2^17 are ``r``, the distance from the middle of the interval in
units of 2^-25. The value of a segment lies in [1/2, 1] and comes out as 24 bits:

    p = (c1 * 2^18 + c2 * r + 2^17) >> 18          20 bits, signed, units of 2^-19
    n = (c0 * 2^15 + p * r) >> 20                  units of 2^-24; 2^23 <= n <= 2^24

All shifts are arithmetic. ``c0`` contains 2^-25, so that the truncation in n rounds to nearest:
it is the only rounding of the result. ``n`` is then added to an exponent field that is one too
low, because the hidden bit of n is 2^23; n = 2^24 carries into the exponent by itself.

The coefficients interpolate the function at the three Chebyshev nodes of each interval. They are
computed in decimal arithmetic of 50 digits (exp and sqrt of the decimal standard are correctly
rounded), hence alike on every machine; libm is not used.
"""

import enum
from collections.abc import Callable
from decimal import Context, Decimal, localcontext
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

INDEX_BITS = 7
R_BITS = 18  #: of r, signed
U_BITS = INDEX_BITS + R_BITS  #: of the argument of a segment
C0_BITS = 29  #: unsigned, units of 2^-29
C1_BITS = 20  #: signed, units of 2^-19
C2_BITS = 12  #: unsigned, units of 2^-12
WORD_BITS = C0_BITS + C1_BITS + C2_BITS  #: of a ROM word: c0 lowest, c2 highest
N_BITS = 25  #: of the value n, which may be 2^24


class Segment(enum.IntEnum):
    """The function of u that a quarter of the ROM holds; its number is the upper address bits."""

    EXP2 = 0  #: 2^u / 2
    RECIP = 1  #: 1 / (1 + u)
    RSQRT = 2  #: 1 / sqrt(1 + u), for even exponents
    RSQRT2 = 3  #: 1 / sqrt(2 + 2u), for odd exponents


def _functions() -> dict[Segment, Callable[[Decimal], Decimal]]:
    one, two = Decimal(1), Decimal(2)
    log2 = two.ln()
    return {
        Segment.EXP2: lambda u: (u * log2).exp() / two,
        Segment.RECIP: lambda u: one / (one + u),
        Segment.RSQRT: lambda u: one / (one + u).sqrt(),
        Segment.RSQRT2: lambda u: one / (two + two * u).sqrt(),
    }


@lru_cache(maxsize=1)
def coefficients() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return c0, c1, c2: (4 * 128,) int64 each, by segment and index."""
    c0: list[int] = []
    c1: list[int] = []
    c2: list[int] = []
    with localcontext(Context(prec=50)):
        width = Decimal(1) / (1 << INDEX_BITS)
        node = width * Decimal(3).sqrt() / 4  # Chebyshev: width / 2 * cos(pi / 6)
        for function in _functions().values():
            for index in range(1 << INDEX_BITS):
                middle = (index + Decimal("0.5")) * width
                low, mid, high = (function(middle + x) for x in (-node, Decimal(0), node))
                slope = (high - low) / (2 * node)
                curve = (high + low - 2 * mid) / (2 * node * node)
                half = Decimal(1) / (1 << N_BITS)
                c0.append(round((mid + half) * (1 << C0_BITS)))
                c1.append(round(slope * (1 << C1_BITS - 1)))
                c2.append(round(curve * (1 << C2_BITS)))
    return np.array(c0, np.int64), np.array(c1, np.int64), np.array(c2, np.int64)


@lru_cache(maxsize=1)
def rom() -> tuple[int, ...]:
    """Return the ROM's 512 words of ``WORD_BITS`` bits; the address is segment * 128 + index."""
    mask = (1 << C1_BITS) - 1
    return tuple(
        int(c0) | (int(c1) & mask) << C0_BITS | int(c2) << C0_BITS + C1_BITS
        for c0, c1, c2 in zip(*coefficients(), strict=True)
    )


def evaluate(segment: NDArray[np.int64], u: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return n, the value of the segments at u, in units of 2^-24, rounded once.

    Parameters
    ----------
    segment : int64, members of ``Segment``; broadcast against u
    u : int64, 0 <= u < 2^25
    """
    c0, c1, c2 = coefficients()
    address = (segment << INDEX_BITS) + (u >> R_BITS)
    r = (u & (1 << R_BITS) - 1) - (1 << R_BITS - 1)
    p = ((c1[address] << 18) + c2[address] * r + (1 << 17)) >> 18
    return ((c0[address] << 15) + p * r) >> 20

"""The signature of a run: one number that every memory write changes. Ours.

It is a polynomial over GF(2), kept modulo x^32 + x^22 + x^2 + x + 1. A launch clears it. In every
cycle of the run it is multiplied by x, and what was written in that cycle is added:

    signature = sum of  hash(write) * x^(place(tile) + cycles - 1 - cycle of issue)

over all Writes and Scatters, a summand for each superlane. Cycles are those of superlane 0,
``cycles`` is the length of the run. What the host writes does not count.

The hash of a write is a polynomial below x^29 that is never zero: a mark, the row, and the sum of
all 16-bit words of the tile's lanes, each rotated by another amount. As x has the order 2^32 - 1,
a write that moves to another cycle or tile changes the signature for certain, and so does every
single bit of data or address. What else goes wrong escapes once in 2^32 runs.
"""

from functools import lru_cache

from waterclock.isa.config import Config

BITS = 32
TAPS = (0, 1, 2, 22)  #: exponents of the polynomial but the highest; it is primitive
POLYNOMIAL = 1 << BITS | sum(1 << tap for tap in TAPS)
WORD_BITS = 16  #: lanes are taken two at a time, the first lower; the last may lack its neighbour
TURN = 5  #: word n of the lanes is rotated to the left by n * TURN
ROW_PLACE = 16  #: where the row begins in the hash
ROW_BITS = 12  #: row bits from there on; the others are added from bit 0 on
MARK_PLACE = 28  #: a one in every hash
HASH_BITS = 29


@lru_cache(maxsize=1024)
def power(exponent: int) -> int:
    """Return a power of x, modulo the polynomial."""
    found = 1
    for _ in range(exponent):
        found <<= 1
        if found >> BITS:
            found ^= POLYNOMIAL
    return found


def place(config: Config, superlane: int, hemisphere: int, slice_index: int) -> int:
    """Return the exponent that tells a tile from all others.

    Sums ripple up: the last superlane comes first.
    """
    above = config.superlanes - 1 - superlane
    return (2 * above + hemisphere) * config.slices + slice_index

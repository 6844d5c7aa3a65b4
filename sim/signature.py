"""The signature of a run, worked out from a list of its memory writes."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import signature
from waterclock.isa.config import Config

Write = tuple[int, int, int, int | tuple[int, ...], NDArray[np.uint8]]


def hashes(data: NDArray[np.uint8], rows: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return the hash of each write.

    Parameters
    ----------
    data : (..., lanes) uint8
        What a tile writes.
    rows : (...) uint32
    """
    whole = np.zeros((*data.shape[:-1], data.shape[-1] + data.shape[-1] % 2), np.uint8)
    whole[..., : data.shape[-1]] = data
    words = whole.view("<u2").astype(np.uint32)
    turns = np.arange(words.shape[-1], dtype=np.uint32) * signature.TURN % signature.WORD_BITS
    turned = words << turns | words >> (signature.WORD_BITS - turns)
    folded = np.bitwise_xor.reduce(turned, -1) & (1 << signature.WORD_BITS) - 1
    low, high = rows & (1 << signature.ROW_BITS) - 1, rows >> signature.ROW_BITS
    return folded ^ low << signature.ROW_PLACE ^ high | 1 << signature.MARK_PLACE


def signature_of(config: Config, cycles: int, writes: Sequence[Write]) -> int:
    """Return the signature of a run of so many cycles with these writes, see ``golden.Run``."""
    if not writes:
        return 0
    superlanes = config.superlanes
    data = np.array([vector for *_, vector in writes]).reshape(len(writes), superlanes, -1)
    rows = np.array(
        [row if isinstance(row, tuple) else (row,) * superlanes for *_, row, _ in writes], np.uint32
    )
    exponents = np.array(
        [
            [
                signature.place(config, k, side, index) + cycles - 1 - cycle
                for k in range(superlanes)
            ]
            for cycle, side, index, _, _ in writes
        ]
    )
    terms = np.zeros(int(exponents.max()) + 1, np.uint32)
    np.bitwise_xor.at(terms, exponents, hashes(data, rows))
    step = 1
    while len(terms) > 1:  # pairs of terms become one
        terms = np.append(terms, np.zeros(len(terms) % 2, np.uint32))
        terms = terms[::2] ^ _times(terms[1::2], step)
        step *= 2
    return int(terms[0])


def _times(values: NDArray[np.uint32], exponent: int) -> NDArray[np.uint32]:
    """Return polynomials times a power of x."""
    parts = [table[values >> 8 * at & 0xFF] for at, table in enumerate(_tables(exponent))]
    return np.bitwise_xor.reduce(parts, 0)


@lru_cache(maxsize=64)
def _tables(exponent: int) -> NDArray[np.uint32]:
    """Return what each value of each byte of a polynomial becomes: (4, 256) uint32."""
    bits = np.array([signature.power(exponent + bit) for bit in range(signature.BITS)], np.uint32)
    values = np.arange(256, dtype=np.uint32)[:, None] >> np.arange(8, dtype=np.uint32) & 1
    return np.bitwise_xor.reduce(values * bits.reshape(-1, 1, 8), -1)

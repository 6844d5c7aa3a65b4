"""The polynomial of the signature is primitive, and no two tiles share a place."""

import dataclasses

import pytest

from waterclock.isa import PRESETS, load_config, signature
from waterclock.isa.floorplan import Hemisphere

ORDER = (1 << signature.BITS) - 1
FACTORS = (3, 5, 17, 257, 65537)  #: of the order


def times(a: int, b: int) -> int:
    """Return a product modulo the polynomial."""
    found = 0
    while b:
        found ^= a if b & 1 else 0
        a, b = a << 1, b >> 1
        a ^= signature.POLYNOMIAL if a >> signature.BITS else 0
    return found


def power(exponent: int) -> int:
    found, square = 1, 2
    while exponent:
        found = times(found, square) if exponent & 1 else found
        square, exponent = times(square, square), exponent >> 1
    return found


def test_x_has_every_power_before_it_comes_round() -> None:
    assert power(ORDER) == 1
    assert all(ORDER % factor == 0 and power(ORDER // factor) != 1 for factor in FACTORS)
    assert all(signature.power(n) == power(n) for n in range(100))


@pytest.mark.parametrize("preset", PRESETS)
def test_every_tile_has_a_place_of_its_own(preset: str) -> None:
    config = load_config(preset)
    places = [
        signature.place(config, k, side, index)
        for k in range(config.superlanes)
        for side in Hemisphere
        for index in range(config.slices)
    ]
    assert len(set(places)) == len(places)


def test_mark_and_row_are_apart_and_the_row_fits() -> None:
    assert signature.ROW_PLACE + signature.ROW_BITS <= signature.MARK_PLACE < signature.HASH_BITS
    config = dataclasses.replace(load_config("medium"))
    assert (config.depth - 1).bit_length() - signature.ROW_BITS <= signature.WORD_BITS

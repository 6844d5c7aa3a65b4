"""The arithmetic of isa/numerics against numpy, exact fractions and its own specification.

``python tests/isa/test_numerics.py`` measures the errors of the special functions over every
input and prints the table of docs/numerics.md (minutes).
"""

import hashlib
import math
from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from waterclock.isa import numerics, special
from waterclock.isa.numerics import F16_NAN, INF, NAN, OPS_NUMERICS, REDUCE_OPS
from waterclock.isa.vxm import ARITY, OPS, REDUCTIONS

SEED = 11
SIGN = 1 << 31
SMALLEST = 2.0**-126

Bits = NDArray[np.uint32]
Doubles = NDArray[np.float64]


def bits(*values: float) -> Bits:
    return np.array(values, np.float32).view(np.uint32)


def edges() -> Bits:
    """Return every exponent and sign with fractions near which something changes."""
    fractions = [0, 1, 2, 0xFFF, 0x1000, 0x1001, 0x3FFFFF, 0x400000, 0x7FFFFE, 0x7FFFFF]
    exponents = np.arange(256, dtype=np.uint32) << 23
    one = (exponents[:, None] | np.array(fractions, np.uint32)).reshape(-1)
    return np.concatenate([one, one | np.uint32(SIGN)])


@pytest.fixture
def pairs() -> tuple[Bits, Bits]:
    """Pairs of patterns: edges with edges, and random ones of which many are close together."""
    rng = np.random.default_rng(SEED)
    some = rng.choice(edges(), (2, 400_000))
    every = rng.integers(0, 1 << 32, (2, 400_000), dtype=np.uint32)
    near = every[0] + rng.integers(-(1 << 25), 1 << 25, every[0].shape).astype(np.uint32)
    a = np.concatenate([some[0], every[0], every[0], every[0]])
    b = np.concatenate([some[1], every[1], near, near ^ np.uint32(SIGN)])
    return a, b


def flushed(a: Bits) -> Doubles:
    """Return patterns as float64, subnormals as zero of their sign."""
    values = a.view(np.float32).astype(np.float64)
    return np.where(np.abs(values) < SMALLEST, np.copysign(0.0, values), values)


def rounded(exact: Doubles) -> Bits:
    """Return float64 values, each exact, as fp32 patterns by the rules of the machine."""
    values = np.where(np.abs(exact) < SMALLEST, np.copysign(0.0, exact), exact).astype(np.float32)
    return np.where(np.isnan(values), NAN, values.view(np.uint32)).astype(np.uint32)


@pytest.fixture(autouse=True)
def _without_warnings():
    with np.errstate(all="ignore"):
        yield


def test_every_operation_of_the_isa_has_a_function() -> None:
    assert set(OPS_NUMERICS) == set(OPS)
    assert set(REDUCE_OPS) == set(REDUCTIONS)


@pytest.mark.parametrize("mnemonic", OPS)
def test_functions_give_uint32_of_the_shape_that_they_get(mnemonic: str) -> None:
    a = np.random.default_rng(SEED).integers(0, 1 << 32, (3, 5), dtype=np.uint32)
    arguments = [a, a[::-1]][: ARITY[OPS[mnemonic]]] + ([7] if mnemonic == "select" else [])
    result = OPS_NUMERICS[mnemonic](*arguments)
    assert result.dtype == np.uint32
    assert result.shape == a.shape
    single = [x[1, 2] if isinstance(x, np.ndarray) else x for x in arguments]
    assert int(OPS_NUMERICS[mnemonic](*single)) == int(result[1, 2])


def test_products_are_rounded_once(pairs: tuple[Bits, Bits]) -> None:
    a, b = pairs
    expected = rounded(flushed(a) * flushed(b))  # 48 bits: exact in float64
    np.testing.assert_array_equal(numerics.fmul(a, b), expected)


def exact_sum(a: Bits, b: Bits) -> Doubles:
    """Return sums in float64, exact or rounded to odd: rounding them again is harmless."""
    x, y = flushed(a), flushed(b)
    total = x + y
    # What float64 lost (Knuth); where it is not zero the last bit has to be one.
    virtual = total - x
    lost = (x - (total - virtual)) + (y - virtual)
    pattern = total.view(np.int64)
    toward = np.where((lost != 0) & np.isfinite(lost) & (pattern & 1 == 0), 1, 0)
    step = np.where((lost > 0) == (total > 0), toward, -toward)
    return (pattern + step).view(np.float64)


def test_sums_and_differences_are_rounded_once(pairs: tuple[Bits, Bits]) -> None:
    a, b = pairs
    np.testing.assert_array_equal(numerics.fadd(a, b), rounded(exact_sum(a, b)))
    np.testing.assert_array_equal(numerics.fsub(a, b), rounded(exact_sum(a, b ^ np.uint32(SIGN))))


@pytest.mark.parametrize(
    ("function", "a", "b", "expected"),
    [
        ("fadd", 1.5, -1.5, 0.0),
        ("fadd", -0.0, -0.0, -0.0),
        ("fadd", 0.0, -0.0, 0.0),
        ("fsub", -0.0, 0.0, -0.0),
        ("fsub", 3.0, 3.0, 0.0),
        ("fadd", 1e-40, 1e-40, 0.0),  # subnormal operands
        ("fadd", -1e-40, -0.0, -0.0),
        ("fsub", 1.5 * SMALLEST, SMALLEST, 0.0),  # subnormal result
        ("fsub", SMALLEST, 1.5 * SMALLEST, -0.0),
        ("fadd", 3.4e38, 3.4e38, math.inf),
        ("fadd", math.inf, -math.inf, math.nan),
        ("fsub", -math.inf, -math.inf, math.nan),
        ("fmul", math.inf, 0.0, math.nan),
        ("fmul", math.inf, 1e-40, math.nan),
        ("fmul", -math.inf, 2.0, -math.inf),
        ("fmul", -1e30, 1e30, -math.inf),
        ("fmul", -1e-30, 1e-30, -0.0),
        ("fmul", 1 + 2.0**-23, (1 - 2.0**-23) * SMALLEST, 0.0),  # tiny before rounding
        ("fmul", 1 - 2.0**-24, SMALLEST, 0.0),
        ("fmul", 1 + 2.0**-23, SMALLEST, SMALLEST * (1 + 2.0**-23)),
    ],
)
def test_sums_and_products_at_the_edges(function: str, a: float, b: float, expected: float) -> None:
    (found,) = OPS_NUMERICS[function](bits(a), bits(b))
    assert int(found) == int(bits(expected)[0])


def test_any_nan_that_comes_out_is_the_canonical_one() -> None:
    rng = np.random.default_rng(SEED)
    nans = rng.integers(INF + 1, 1 << 31, 2000, dtype=np.uint32)
    nans |= rng.integers(0, 2, nans.shape, dtype=np.uint32) << np.uint32(31)
    other = rng.integers(0, 1 << 32, nans.shape, dtype=np.uint32)
    for mnemonic in ("fadd", "fsub", "fmul", "fmax", "fmin"):
        assert (OPS_NUMERICS[mnemonic](nans, other) == NAN).all(), mnemonic
        assert (OPS_NUMERICS[mnemonic](other, nans) == NAN).all(), mnemonic
    for mnemonic in ("exp2", "recip", "rsqrt"):
        assert (OPS_NUMERICS[mnemonic](nans) == NAN).all(), mnemonic
    for mnemonic in ("fgt", "fge", "feq"):
        assert not OPS_NUMERICS[mnemonic](nans, other).any(), mnemonic
        assert not OPS_NUMERICS[mnemonic](nans, nans).any(), mnemonic


def test_comparisons_flush_and_take_zeros_as_equal(pairs: tuple[Bits, Bits]) -> None:
    a, b = pairs
    x, y = flushed(a), flushed(b)
    np.testing.assert_array_equal(numerics.fgt(a, b), x > y)
    np.testing.assert_array_equal(numerics.fge(a, b), x >= y)
    np.testing.assert_array_equal(numerics.feq(a, b), x == y)
    nan = np.isnan(x) | np.isnan(y)
    for function, first in ((numerics.fmax, x >= y), (numerics.fmin, x <= y)):
        expected = np.where(nan, NAN, rounded(np.where(first, x, y)))
        np.testing.assert_array_equal(function(a, b), expected)
    assert int(numerics.fmax(*map(bits, (-0.0, 0.0)))[0]) == SIGN
    assert int(numerics.fmin(*map(bits, (0.0, -0.0)))[0]) == 0
    assert int(numerics.fmax(*map(bits, (-1e-40, 0.0)))[0]) == SIGN


def test_integer_operations_wrap_and_compare_signed() -> None:
    rng = np.random.default_rng(SEED)
    corners = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFFFFFF, SIGN, SIGN + 1, 0xFFFFFFFF, 0xFFFFFF80]
    a, b = rng.choice(np.array(corners, np.uint32), (2, 5000))
    a[::2], b[::2] = rng.integers(0, 1 << 32, (2, 2500), dtype=np.uint32)
    unsigned = list(zip(a.tolist(), b.tolist(), strict=True))

    def signed(x: int) -> int:
        return x - (1 << 32) if x & SIGN else x

    rules = {
        "iadd": lambda x, y: x + y,
        "isub": lambda x, y: x - y,
        "imul": lambda x, y: x * y,
        "and": lambda x, y: x & y,
        "or": lambda x, y: x | y,
        "xor": lambda x, y: x ^ y,
        "shl": lambda x, y: x << (y & 31),
        "shr": lambda x, y: x >> (y & 31),
        "sar": lambda x, y: signed(x) >> (y & 31),
        "igt": lambda x, y: signed(x) > signed(y),
        "ieq": lambda x, y: x == y,
        "imax": lambda x, y: max(signed(x), signed(y)),
        "imin": lambda x, y: min(signed(x), signed(y)),
    }
    for mnemonic, rule in rules.items():
        expected = [int(rule(x, y)) & 0xFFFFFFFF for x, y in unsigned]
        assert OPS_NUMERICS[mnemonic](a, b).tolist() == expected, mnemonic
    assert numerics.select(a, b, 9).tolist() == [y if x else 9 for x, y in unsigned]
    assert numerics.mov(a).tolist() == a.tolist()
    widened = [((x & 0xFF) ^ 0x80) - 0x80 & 0xFFFFFFFF for x in a.tolist()]
    assert numerics.i8_to_i32(a).tolist() == widened
    narrowed = [min(max(signed(x), -128), 127) & 0xFFFFFFFF for x in a.tolist()]
    assert numerics.i32_to_i8(a).tolist() == narrowed


def f16_value(pattern: int) -> Fraction:
    """Return the value of an f16 pattern, exponent field 31 taken as one more binade."""
    e, fraction = pattern >> 10 & 31, pattern & 0x3FF
    size = Fraction(fraction | (0x400 if e else 0)) * Fraction(2) ** (max(e, 1) - 25)
    return -size if pattern >> 15 else size


def test_every_f16_becomes_the_same_number_in_fp32_and_comes_back() -> None:
    every = np.arange(1 << 16, dtype=np.uint32)
    wide = numerics.f16_to_f32(every | np.uint32(0xABCD0000))
    kind, fraction = every >> 10 & 31, every & 0x3FF
    finite = kind != 31
    values = wide.view(np.float32)
    assert all(Fraction(float(v)) == f16_value(p) for p, v in enumerate(values) if finite[p])
    assert wide[0x8000] == SIGN
    assert (wide[~finite & (fraction != 0)] == NAN).all()
    assert wide[[0x7C00, 0xFC00]].tolist() == [INF, INF | SIGN]
    back = numerics.f32_to_f16(wide)
    np.testing.assert_array_equal(back[finite], every[finite])
    assert back[[0x7C00, 0xFC00, 0x7C01, 0xFE00]].tolist() == [0x7BFF, 0xFBFF, F16_NAN, F16_NAN]


def test_fp32_becomes_the_nearest_even_f16() -> None:
    every = np.arange(0x7C00, dtype=np.uint16)
    exact = every.view(np.float16).astype(np.float64)
    middle = (exact[:-1] + exact[1:]) / 2  # fp32 holds all of them
    even = np.where(every[:-1] & 1, every[1:], every[:-1])
    for nudge, expected in ((-1, every[:-1]), (0, even), (1, every[1:])):
        patterns = (middle.astype(np.float32).view(np.int32) + nudge).astype(np.uint32)
        np.testing.assert_array_equal(numerics.f32_to_f16(patterns), expected)
        np.testing.assert_array_equal(
            numerics.f32_to_f16(patterns | np.uint32(SIGN)), expected | np.uint16(0x8000)
        )
    big = bits(65504, 65519.99, 65520, 1e10, math.inf, -65520, -math.inf, 1e-40, -1e-40, math.nan)
    expected_big = [0x7BFF] * 5 + [0xFBFF] * 2 + [0, 0x8000, F16_NAN]
    assert numerics.f32_to_f16(big).tolist() == expected_big


def test_fp32_becomes_the_nearest_even_integer_saturated() -> None:
    halves = np.arange(-600, 601, dtype=np.float64) / 2
    edge = [2.0**31 - 128, 2.0**31, 3e9, math.inf, -(2.0**31), -(2.0**31) - 256, -math.inf]
    values = np.concatenate([halves, edge, [0.49999997, 8388607.5, 8388609, -0.0, 1e-40]])
    for function, low, high in (
        (numerics.f32_to_i32, -(2**31), 2**31 - 1),
        (numerics.f32_to_i8, -128, 127),
    ):
        found = function(bits(*values)).view(np.int32)
        wanted = [
            max(min(round(float(np.float32(v))), high), low)
            if math.isfinite(v)
            else (high if v > 0 else low)
            for v in values
        ]
        assert found.tolist() == wanted
        assert function(np.array([NAN, NAN | SIGN, INF + 1], np.uint32)).tolist() == [0, 0, 0]


def test_integers_become_the_nearest_even_fp32() -> None:
    rng = np.random.default_rng(SEED)
    shifts = rng.integers(0, 32, 100_000)
    a = rng.integers(0, 1 << 32, shifts.shape, dtype=np.uint32) >> shifts.astype(np.uint32)
    ties = (rng.integers(1 << 24, 1 << 25, 1000) << rng.integers(0, 6, 1000)) & 0x7FFFFFFF
    a = np.concatenate([a, -a, ties.astype(np.uint32), np.array([0, SIGN, SIGN - 1], np.uint32)])
    exact = a.view(np.int32).astype(np.float64)
    np.testing.assert_array_equal(numerics.i32_to_f32(a), rounded(exact))


def test_f16_to_fixed_counts_every_pattern_in_units_of_two_to_the_minus_24() -> None:
    fixed = numerics.f16_to_fixed(np.arange(1 << 16, dtype=np.uint16))
    assert fixed.dtype == np.int64
    assert all(int(v) == f16_value(p) * 2**24 for p, v in enumerate(fixed))
    assert int(np.abs(fixed).max()) < 1 << 42


def nearest_even_f32(value: Fraction) -> float:
    """Round a number whose exponent fits, in integers."""
    if not value:
        return 0.0
    size = abs(value)
    scale = Fraction(2) ** (23 - _floor_log2(size))
    scaled = size * scale
    whole = scaled.numerator // scaled.denominator
    rest = scaled - whole
    whole += rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole & 1)
    return math.copysign(float(Fraction(whole) / scale), value)


def _floor_log2(size: Fraction) -> int:
    guess = size.numerator.bit_length() - size.denominator.bit_length()
    return guess if Fraction(2) ** guess <= size else guess - 1


def test_fixed_to_f32_rounds_once() -> None:
    rng = np.random.default_rng(SEED)
    values = rng.integers(-(1 << 62), 1 << 62, 20_000) >> rng.integers(0, 62, 20_000)
    # Numbers that rounding to 53 bits first would round up to a tie of fp32, and ties.
    twice = (rng.integers(1 << 23, 1 << 24, 2000) << 39) + (1 << 38)
    values = np.concatenate(
        [values, twice, twice - 1, twice + 1, -twice - 1, [0, 1, -1, 2**63 - 1, -(2**63)]]
    )
    found = numerics.fixed_to_f32(values)
    expected = [nearest_even_f32(Fraction(int(v), 1 << 24)) for v in values]
    assert found.tolist() == expected
    assert not np.signbit(numerics.fixed_to_f32(np.zeros(1, np.int64)))[0]


def test_typed_functions_are_the_functions_on_patterns() -> None:
    rng = np.random.default_rng(SEED)
    a, b = rng.choice(edges(), (2, 20_000))
    x, y = a.view(np.float32), b.view(np.float32)
    same = {
        "fadd": numerics.add(x, y),
        "fsub": numerics.sub(x, y),
        "fmul": numerics.mul(x, y),
        "fmax": numerics.maximum(x, y),
        "fmin": numerics.minimum(x, y),
    }
    for mnemonic, result in same.items():
        assert result.dtype == np.float32
        np.testing.assert_array_equal(result.view(np.uint32), OPS_NUMERICS[mnemonic](a, b))
    for function in (numerics.exp2, numerics.recip, numerics.rsqrt):
        assert function(x).dtype == np.float32
        np.testing.assert_array_equal(function(x).view(np.uint32), function(a))
    np.testing.assert_array_equal(numerics.to_f16(x).view(np.uint16), numerics.f32_to_f16(a))
    np.testing.assert_array_equal(numerics.to_i32(x), numerics.f32_to_i32(a).view(np.int32))
    np.testing.assert_array_equal(numerics.to_i8(x), numerics.f32_to_i8(a).view(np.int32))
    assert numerics.to_i8(x).dtype == np.int8


# Special functions.


def ulps(found: NDArray[np.float32], exact: NDArray[np.longdouble]) -> NDArray[np.float64]:
    """Return errors in units of the last place of the exact result."""
    _, exponent = np.frexp(exact)
    return np.abs(np.ldexp(found.astype(np.longdouble) - exact, 24 - exponent)).astype(np.float64)


def mantissas(step: int) -> NDArray[np.float32]:
    return np.arange(1 << 23, 1 << 24, step, dtype=np.uint32).astype(np.float32) * np.float32(
        2.0**-23
    )


def worst(step: int) -> dict[str, float]:
    """Return the largest error of each function, every ``step``-th mantissa looked at.

    The error of recip and rsqrt depends on the mantissa (and the parity of the exponent) only;
    exp2 is looked at for every exponent for which the result is neither trivial nor out of range.
    """
    x = mantissas(step)
    wide = x.astype(np.longdouble)
    found = {"recip": float(ulps(numerics.recip(x), 1 / wide).max())}
    found["rsqrt"] = max(
        float(ulps(numerics.rsqrt(x * np.float32(s)), 1 / np.sqrt(wide * s)).max()) for s in (1, 2)
    )
    found["exp2"] = 0.0
    for exponent in range(-30, 7):
        for sign in (1, -1):
            a = x * np.float32(sign * 2.0**exponent)
            a = a[a >= -126]
            error = float(ulps(numerics.exp2(a), np.exp2(a.astype(np.longdouble))).max())
            found["exp2"] = max(found["exp2"], error)
    return found


def test_special_functions_are_within_one_unit_of_the_last_place() -> None:
    found = worst(8)  # 2^20 mantissas of each exponent
    assert max(found.values()) < 1, found


def test_special_functions_are_exact_where_the_result_is_a_power_of_two() -> None:
    k = np.arange(-126, 128)
    powers = np.ldexp(np.float32(1), k)
    np.testing.assert_array_equal(numerics.exp2(k.astype(np.float32)), powers)
    finite = k < 127
    np.testing.assert_array_equal(
        numerics.recip(powers[finite]), np.ldexp(np.float32(1), -k[finite])
    )
    np.testing.assert_array_equal(
        numerics.recip(-powers[finite]), -np.ldexp(np.float32(1), -k[finite])
    )
    even = k % 2 == 0
    np.testing.assert_array_equal(
        numerics.rsqrt(powers[even]), np.ldexp(np.float32(1), -k[even] // 2)
    )


@pytest.mark.parametrize(
    ("function", "a", "expected"),
    [
        ("exp2", 0.0, 1.0),
        ("exp2", -0.0, 1.0),
        ("exp2", 1e-40, 1.0),
        ("exp2", -(2.0**-60), 1.0),
        ("exp2", 128.0, math.inf),
        ("exp2", math.inf, math.inf),
        ("exp2", 3e38, math.inf),
        ("exp2", -126.0, SMALLEST),
        ("exp2", -126.00001, 0.0),
        ("exp2", -1e5, 0.0),
        ("exp2", -math.inf, 0.0),
        ("recip", 0.0, math.inf),
        ("recip", -0.0, -math.inf),
        ("recip", -1e-40, -math.inf),
        ("recip", math.inf, 0.0),
        ("recip", -math.inf, -0.0),
        ("recip", 2.0**126, SMALLEST),
        ("recip", 2.0**126 * (1 + 2.0**-23), 0.0),  # tiny before rounding
        ("recip", -3e38, -0.0),
        ("rsqrt", 0.0, math.inf),
        ("rsqrt", -0.0, math.inf),
        ("rsqrt", -1e-40, math.inf),
        ("rsqrt", -SMALLEST, math.nan),
        ("rsqrt", -math.inf, math.nan),
        ("rsqrt", math.inf, 0.0),
        ("rsqrt", SMALLEST, 2.0**63),
    ],
)
def test_special_functions_at_the_edges(function: str, a: float, expected: float) -> None:
    (found,) = OPS_NUMERICS[function](bits(a))
    assert int(found) == int(bits(expected)[0])


def test_recip_is_zero_exactly_where_the_quotient_is_below_the_smallest_number() -> None:
    x = mantissas(1)[1:] * np.float32(2.0**126)
    assert not numerics.recip(x).any()


def test_coefficients_fit_the_rom_word_and_segments_stay_in_range() -> None:
    c0, c1, c2 = special.coefficients()
    assert 0 <= c0.min() <= c0.max() < 1 << special.C0_BITS
    assert -(1 << special.C1_BITS - 1) <= c1.min() <= c1.max() < 1 << special.C1_BITS - 1
    assert 0 <= c2.min() <= c2.max() < 1 << special.C2_BITS
    assert all(0 <= word < 1 << special.WORD_BITS for word in special.rom())
    u = np.arange(0, 1 << special.U_BITS, 5, dtype=np.int64)
    for segment in special.Segment:
        n = special.evaluate(np.int64(segment), u)
        assert 1 << 23 <= n.min() <= n.max() <= 1 << 24


def test_tables_are_those_that_the_documentation_was_measured_with() -> None:
    text = " ".join(f"{word:x}" for word in special.rom())
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "f0ee337364865912"


# Reductions.


@pytest.mark.parametrize("lanes", [1, 2, 5, 8, 9, 320])
@pytest.mark.parametrize("mnemonic", REDUCTIONS)
def test_reductions_pair_neighbours_level_by_level(mnemonic: str, lanes: int) -> None:
    rng = np.random.default_rng(SEED)
    values = rng.normal(size=(lanes, 3)).astype(np.float32).view(np.uint32)
    function = OPS_NUMERICS[REDUCE_OPS[mnemonic]]
    for column in range(3):
        level = list(values[:, column])
        while len(level) > 1:
            paired = [function(*level[i : i + 2]) for i in range(0, len(level) - 1, 2)]
            level = paired + level[len(paired) * 2 :]
        assert numerics.reduce(mnemonic, values)[column] == level[0]
    assert (
        numerics.reduce(REDUCE_OPS[mnemonic], values) == numerics.reduce(mnemonic, values)
    ).all()


if __name__ == "__main__":
    for name, error in worst(1).items():
        print(f"{name:6} {error:.3f}")

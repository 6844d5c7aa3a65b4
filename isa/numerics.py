"""The arithmetic of the VXM and the number formats of the MXM, to the bit.

One function for each mnemonic of ``vxm.OPS`` takes and gives patterns: uint32 arrays of any
shape; ``OPS_NUMERICS`` finds them by mnemonic. The functions ``add``, ``sub``, ``mul``, ... do
the same on float32 arrays; where both would have one name (``exp2``, ``recip``, ``rsqrt``) the
function gives the type that it gets.

fp32 is IEEE-754 binary32, round to nearest even, with these rules everywhere: a subnormal input
counts as zero of its sign; a result whose exact value is smaller than 2^-126 becomes zero of its
sign (tininess is seen before rounding); every NaN that comes out is 0x7FC00000.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from waterclock.isa.special import U_BITS, Segment, evaluate

Bits = NDArray[np.uint32]
Float = NDArray[np.float32]
Number = Float | np.float32  #: an operand: an array, or one number for all

NAN = 0x7FC00000  #: the one NaN of fp32
F16_NAN = 0x7E00  #: the one NaN of f16
F16_FRACTION = 24  #: the smallest subnormal of f16 is 2^-24
F16_MAX = 65504.0  #: conversions to f16 saturate here
INF = 0x7F800000

_SIGN = np.uint32(0x80000000)
_EXPONENT = np.uint32(0x7F800000)
_NAN = np.uint32(NAN)
_SMALLEST = np.float32(2.0**-126)

_quiet = np.errstate(all="ignore")  # infinities and NaNs are results like others


def _bits(x: Number) -> Bits:
    return np.asarray(x, np.float32).view(np.uint32)


def _float(bits: Bits) -> Float:
    return np.asarray(bits, np.uint32).view(np.float32)


def flush(x: Number) -> Float:
    """Return x with subnormals replaced by zero of their sign; x itself when it has none."""
    bits = _bits(x)
    tiny = (bits & _EXPONENT) == 0
    if tiny.any():
        return np.where(tiny, bits & _SIGN, bits).view(np.float32)
    return _float(bits)


@_quiet
def _canonical(x: Float) -> Float:
    """Return x with every NaN replaced by the canonical one."""
    nan = x != x
    if nan.any():
        return np.where(nan, _NAN, _bits(x)).view(np.float32)
    return x


# Whole tensors: float32 in, float32 out.


@_quiet
def add(a: Float, b: Number) -> Float:
    """Return a + b. Sums below 2^-126 are exact, so flushing afterwards sees their true size."""
    return _canonical(flush(flush(a) + flush(b)))


@_quiet
def sub(a: Float, b: Number) -> Float:
    """Return a - b, that is a + (-b); x - x is +0."""
    return _canonical(flush(flush(a) - flush(b)))


@_quiet
def mul(a: Float, b: Number) -> Float:
    """Return a * b. A product just below 2^-126 is zero although it would round up to it."""
    a, b = flush(a), flush(b)
    product = a * b
    small = np.abs(product) <= _SMALLEST
    if small.any():
        exact = a.astype(np.float64) * b  # 48 bits of product fit the 53 of a double
        tiny = np.abs(exact) < float(_SMALLEST)
        product = np.where(tiny, np.copysign(np.float32(0), product), product)
    return _canonical(product)


@_quiet
def maximum(a: Float, b: Number) -> Float:
    """Return a where a >= b, else b; NaN when either is. -0 equals +0, so a wins."""
    a, b = flush(a), flush(b)
    return _choose(a >= b, a, b)


@_quiet
def minimum(a: Float, b: Number) -> Float:
    """Return a where a <= b, else b; NaN when either is. -0 equals +0, so a wins."""
    a, b = flush(a), flush(b)
    return _choose(a <= b, a, b)


def _choose(first: NDArray[np.bool_], a: Float, b: Float) -> Float:
    nan = (a != a) | (b != b)
    result = np.where(first, a, b)
    return np.where(nan, _NAN, result.view(np.uint32)).view(np.float32) if nan.any() else result


@_quiet
def to_f16(x: Float) -> NDArray[np.float16]:
    """Return x rounded to the nearest even f16; beyond +-65504, infinities too, saturated.

    Results smaller than 2^-14 keep f16's subnormals. NaN becomes 0x7E00.
    """
    x = np.asarray(x, np.float32)
    half = np.clip(x, -F16_MAX, F16_MAX).astype(np.float16)
    nan = x != x
    if nan.any():
        return np.where(nan, np.uint16(F16_NAN), half.view(np.uint16)).view(np.float16)
    return half


@_quiet
def from_f16(x: NDArray[np.float16]) -> Float:
    """Return the f16 values as fp32: exact, subnormals included; NaN becomes canonical."""
    return _canonical(np.asarray(x, np.float16).astype(np.float32))


def to_i32(x: Float) -> NDArray[np.int32]:
    """Return x rounded to the nearest even integer, saturated to 32 bits signed; NaN gives 0."""
    return _saturated(x, -(2.0**31), 2.0**31 - 1).astype(np.int32)


def to_i8(x: Float) -> NDArray[np.int8]:
    """Return x rounded to the nearest even integer, saturated to 8 bits signed; NaN gives 0."""
    return _saturated(x, -128.0, 127.0).astype(np.int8)


@_quiet
def _saturated(x: Float, low: float, high: float) -> NDArray[np.float64]:
    whole = np.clip(np.rint(np.asarray(x, np.float32)).astype(np.float64), low, high)
    return np.where(whole == whole, whole, 0.0)


# Special functions: the algorithms; the tables are in isa/special.py.


def _typed(result: NDArray[np.int64], a: Any) -> Any:
    """Return the patterns in the type that the caller gave: float32 or uint32."""
    bits = result.astype(np.uint32)
    return bits.view(np.float32) if np.asarray(a).dtype.kind == "f" else bits


def _fields(a: Any) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return sign, exponent field and fraction of float32 values or patterns."""
    a = np.asarray(a)
    bits = (_bits(a) if a.dtype.kind == "f" else a).astype(np.int64)
    return bits >> 31, bits >> 23 & 0xFF, bits & 0x7FFFFF


def exp2(a: Any) -> Any:
    """Return 2 to the power a, of patterns (uint32) or values (float32).

    With e the exponent field and M the 24-bit significand (hidden bit included, e > 0):

    1. m = (M << 9) >> (133 - e): |a| in units of 2^-26, truncated; 0 for e < 101 (and e = 0).
    2. q = (m + 1) >> 1, or (-m + 1) >> 1 for negative a: a in units of 2^-25, rounded.
    3. i = q >> 25 and u = q mod 2^25; n = ``Segment.EXP2`` at u.
    4. The result is ((i + 126) << 23) + n.

    NaN gives NaN; a >= 128 gives +inf; a < -126 gives +0 (the value would be below 2^-126).
    """
    sign, e, fraction = _fields(a)
    m = (fraction | 0x800000) << 9 >> np.clip(133 - e, 0, 63)
    m = np.where(e == 0, 0, m)
    q = (np.where(sign == 1, -m, m) + 1) >> 1
    i = q >> U_BITS
    n = evaluate(np.array(Segment.EXP2, np.int64), q & (1 << U_BITS) - 1)
    large = e >= 134
    result = np.where(large, INF, (i + 126 << 23) + n)
    result = np.where((sign == 1) & (large | (i < -126)), 0, result)
    return _typed(np.where((e == 255) & (fraction != 0), NAN, result), a)


def recip(a: Any) -> Any:
    """Return 1 / a, of patterns (uint32) or values (float32).

    With e the exponent field and f the 23-bit fraction: n = ``Segment.RECIP`` at u = f << 2; the
    magnitude is ((252 - e) << 23) + n, or 0 if that is below 2^23 (a result below 2^-126).

    NaN gives NaN, zero (or subnormal) infinity, infinity zero, all of the sign of a.
    """
    sign, e, fraction = _fields(a)
    n = evaluate(np.array(Segment.RECIP, np.int64), fraction << 2)
    result = (252 - e << 23) + n
    result = np.where(result < 1 << 23, 0, result)
    result = np.where(e == 0, INF, np.where(e == 255, 0, result)) | sign << 31
    return _typed(np.where((e == 255) & (fraction != 0), NAN, result), a)


def rsqrt(a: Any) -> Any:
    """Return 1 / sqrt(a), of patterns (uint32) or values (float32).

    With e the exponent field and f the 23-bit fraction: n = ``Segment.RSQRT`` (e odd, that is an
    even exponent) or ``Segment.RSQRT2`` (e even) at u = f << 2; the result is
    ((189 - ((e + 1) >> 1)) << 23) + n.

    NaN and negative values give NaN; zeros (and subnormals) of both signs +inf; +inf gives +0.
    """
    sign, e, fraction = _fields(a)
    segment = np.where(e & 1, np.int64(Segment.RSQRT), np.int64(Segment.RSQRT2))
    n = evaluate(segment, fraction << 2)
    result = np.where(e == 255, 0, (189 - (e + 1 >> 1) << 23) + n)
    nan = (sign == 1) | ((e == 255) & (fraction != 0))
    return _typed(np.where(e == 0, INF, np.where(nan, NAN, result)), a)


# Patterns: one function for each mnemonic.


def _signed(a: Bits) -> NDArray[np.int32]:
    return np.asarray(a, np.uint32).view(np.int32)


def _unsigned(a: NDArray[np.int32]) -> Bits:
    return np.asarray(a, np.int32).view(np.uint32)


def mov(a: Bits) -> Bits:
    """Return a."""
    return np.asarray(a, np.uint32)


def iadd(a: Bits, b: Bits) -> Bits:
    """Return a + b modulo 2^32."""
    return np.add(a, b, dtype=np.uint32)


def isub(a: Bits, b: Bits) -> Bits:
    """Return a - b modulo 2^32."""
    return np.subtract(a, b, dtype=np.uint32)


def imul(a: Bits, b: Bits) -> Bits:
    """Return a * b modulo 2^32."""
    return np.multiply(a, b, dtype=np.uint32)


def imax(a: Bits, b: Bits) -> Bits:
    """Return the larger signed integer."""
    return _unsigned(np.maximum(_signed(a), _signed(b)))


def imin(a: Bits, b: Bits) -> Bits:
    """Return the smaller signed integer."""
    return _unsigned(np.minimum(_signed(a), _signed(b)))


def and_(a: Bits, b: Bits) -> Bits:
    """Return the bitwise and."""
    return np.bitwise_and(a, b, dtype=np.uint32)


def or_(a: Bits, b: Bits) -> Bits:
    """Return the bitwise or."""
    return np.bitwise_or(a, b, dtype=np.uint32)


def xor(a: Bits, b: Bits) -> Bits:
    """Return the bitwise exclusive or."""
    return np.bitwise_xor(a, b, dtype=np.uint32)


def shl(a: Bits, b: Bits) -> Bits:
    """Return a shifted left by the low five bits of b."""
    return np.left_shift(a, np.bitwise_and(b, 31), dtype=np.uint32)


def shr(a: Bits, b: Bits) -> Bits:
    """Return a shifted right by the low five bits of b, zeros entering."""
    return np.right_shift(a, np.bitwise_and(b, 31), dtype=np.uint32)


def sar(a: Bits, b: Bits) -> Bits:
    """Return a shifted right by the low five bits of b, the sign entering."""
    return _unsigned(np.right_shift(_signed(a), _signed(np.bitwise_and(b, 31))))


def igt(a: Bits, b: Bits) -> Bits:
    """Return 1 where a > b as signed integers, else 0."""
    return (_signed(a) > _signed(b)).astype(np.uint32)


def ieq(a: Bits, b: Bits) -> Bits:
    """Return 1 where the patterns are equal, else 0."""
    return np.equal(a, b).astype(np.uint32)


def fmax(a: Bits, b: Bits) -> Bits:
    """Return ``maximum`` of patterns."""
    return _bits(maximum(_float(a), _float(b)))


def fmin(a: Bits, b: Bits) -> Bits:
    """Return ``minimum`` of patterns."""
    return _bits(minimum(_float(a), _float(b)))


@_quiet
def fgt(a: Bits, b: Bits) -> Bits:
    """Return 1 where a > b, else 0, as when either is NaN."""
    return (flush(_float(a)) > flush(_float(b))).astype(np.uint32)


@_quiet
def fge(a: Bits, b: Bits) -> Bits:
    """Return 1 where a >= b, else 0, as when either is NaN."""
    return (flush(_float(a)) >= flush(_float(b))).astype(np.uint32)


@_quiet
def feq(a: Bits, b: Bits) -> Bits:
    """Return 1 where a = b, else 0, as when either is NaN. -0 equals +0."""
    return (flush(_float(a)) == flush(_float(b))).astype(np.uint32)


def select(a: Bits, b: Bits, imm: ArrayLike) -> Bits:
    """Return b where any bit of a is set, else the immediate."""
    return np.where(np.not_equal(a, 0), mov(b), np.asarray(imm, np.uint32))


def i8_to_i32(a: Bits) -> Bits:
    """Return the low byte of a, its sign extended."""
    return _unsigned(np.asarray(a, np.uint32).astype(np.int8).astype(np.int32))


def i32_to_i8(a: Bits) -> Bits:
    """Return a saturated to -128 .. 127, sign extended; a stream takes the low byte."""
    return _unsigned(np.clip(_signed(a), -128, 127))


def fadd(a: Bits, b: Bits) -> Bits:
    """Return ``add`` of patterns."""
    return _bits(add(_float(a), _float(b)))


def fsub(a: Bits, b: Bits) -> Bits:
    """Return ``sub`` of patterns."""
    return _bits(sub(_float(a), _float(b)))


def fmul(a: Bits, b: Bits) -> Bits:
    """Return ``mul`` of patterns."""
    return _bits(mul(_float(a), _float(b)))


def f32_to_f16(a: Bits) -> Bits:
    """Return ``to_f16`` of patterns, in the low half; the high half is zero."""
    return to_f16(_float(a)).view(np.uint16).astype(np.uint32)


def fmul_f16(a: Bits, b: Bits) -> Bits:
    """Return ``fmul`` of patterns as ``f32_to_f16`` rounds it."""
    return f32_to_f16(fmul(a, b))


def exp2_f16(a: Bits) -> Bits:
    """Return ``exp2`` of patterns as ``f32_to_f16`` rounds it."""
    return f32_to_f16(exp2(a))


def f16_to_f32(a: Bits) -> Bits:
    """Return ``from_f16`` of the low halves of patterns."""
    return _bits(from_f16(np.asarray(a, np.uint32).astype(np.uint16).view(np.float16)))


def f32_to_i32(a: Bits) -> Bits:
    """Return ``to_i32`` of patterns."""
    return _unsigned(to_i32(_float(a)))


def i32_to_f32(a: Bits) -> Bits:
    """Return the signed integers rounded to the nearest even fp32."""
    return _bits(_signed(a).astype(np.float32))


def f32_to_i8(a: Bits) -> Bits:
    """Return ``to_i8`` of patterns, sign extended; a stream takes the low byte."""
    return _unsigned(to_i8(_float(a)).astype(np.int32))


#: The functions on patterns by mnemonic of ``vxm.OPS``; ``select`` takes the immediate too.
OPS_NUMERICS: dict[str, Callable[..., Any]] = {
    function.__name__.rstrip("_"): function
    for function in (
        *(mov, iadd, isub, imax, imin, and_, or_, xor, shl, shr, sar, igt, ieq),
        *(fmax, fmin, fgt, fge, feq, select, i8_to_i32, i32_to_i8),
        *(fadd, fsub, fmul, imul, f32_to_f16, f16_to_f32, f32_to_i32, i32_to_f32, f32_to_i8),
        *(exp2, recip, rsqrt, fmul_f16, exp2_f16),
    )
}

#: The operation of each lane reduction, by mnemonic of ``vxm.REDUCTIONS``.
REDUCE_OPS: dict[str, str] = {
    "rsum": "fadd",
    "rmax": "fmax",
    "rmin": "fmin",
    "rimax": "imax",
    "rimin": "imin",
}


def reduce(mnemonic: str, values: Bits) -> Bits:
    """Reduce the lanes by a pairwise tree over neighbours.

    Level by level, lane i becomes op(lane 2i, lane 2i + 1); an odd last lane passes unchanged,
    not even flushed.

    Parameters
    ----------
    mnemonic : str
        Of a reduction (``rsum``) or of its operation (``fadd``).
    values : (vector, ...) uint32

    Returns
    -------
    (...) uint32
    """
    function = OPS_NUMERICS[REDUCE_OPS.get(mnemonic, mnemonic)]
    values = np.asarray(values, np.uint32)
    while len(values) > 1:
        paired = function(values[0 : len(values) - 1 : 2], values[1::2])
        values = np.concatenate([paired, values[-1:]]) if len(values) % 2 else paired
    return values[0]


# Formats of the MXM.


@lru_cache(maxsize=1)
def _f16_table() -> NDArray[np.int64]:
    pattern = np.arange(1 << 16, dtype=np.int64)
    e, fraction = pattern >> 10 & 31, pattern & 0x3FF
    magnitude = np.where(e == 0, fraction, (fraction | 0x400) << np.maximum(e - 1, 0))
    return np.where(pattern >> 15, -magnitude, magnitude)


def f16_to_fixed(a: NDArray[np.uint16], fraction: int = F16_FRACTION) -> NDArray[np.int64]:
    """Return the f16 patterns (uint16) as integers, value times 2^``fraction``, rounded down.

    With 24 bits of fraction that is exact. Exponent field 31 is one more binade, not infinity or
    NaN, so that |result| <= 2^(17 + fraction), and less if positive.
    """
    return _f16_table()[np.asarray(a, np.uint16)] >> F16_FRACTION - fraction


def fixed_to_f32(a: NDArray[np.int64], fraction: int = F16_FRACTION) -> Float:
    """Return the integers times 2^-``fraction``, rounded once to nearest even; 0 gives +0."""
    return np.asarray(a, np.int64).astype(np.float32) * np.float32(2.0**-fraction)

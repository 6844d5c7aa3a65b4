"""The tensor model: the machine's arithmetic on whole tensors, blocks of positions at once.

It knows formats and the order of roundings, and nothing of tiles, slices or cycles. What the
MXM computes is exact, so no order of summation appears there and a float64 matrix product may
stand for it (see ``exact``); the one sum of the VXM, in the norm, has the order that
``docs/numerics.md`` defines, which depends on the lanes.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import numerics as fp
from waterclock.isa.numerics import F16_FRACTION

Array = NDArray[Any]
Float = NDArray[np.float32]
Fixed = NDArray[np.int64]  #: activations as the MXM sees them, in its units
Double = NDArray[np.float64]

ZERO, ONE = np.float32(0), np.float32(1)
DOUBLE_BITS = 53  #: every integer up to 2^53 is a float64
DIGIT_BITS = 20  #: the low digit of an activation whose sums do not fit
I8_MOST = 1 << 7  #: largest magnitude of a weight
BLOCK = 1 << 16  #: int8 weights widened at a time: half a megabyte, which caches hold
POSITIONS = 128  #: positions of a block in ``logits``


def exact(
    multiply: Callable[[Double], Double],
    activations: Fixed,
    most: int,
    fraction: int = F16_FRACTION,
) -> Float:
    """Return an exact matrix product, rounded once.

    Parameters
    ----------
    multiply : callable
        Returns the product of float64 activations (..., in) with weights that are integers.
    activations : (..., in) int64
    most : int
        Bound of the weights' magnitudes.
    fraction : int
        Activations are in units of 2^-``fraction``.

    While the sum of magnitudes stays below 2^53, so does every partial sum, in whatever order a
    library adds: all of them are integers, and float64 holds them. Otherwise activations go in
    two digits, whose bound holds for whatever the MXM can be given.
    """
    terms = activations.shape[-1]
    bound = int(np.abs(activations).sum(axis=-1).max()) * most
    if bound < 1 << DOUBLE_BITS:
        product = multiply(activations.astype(np.float64)) + 0.0  # no -0
        return product.astype(np.float32) * np.float32(2.0**-fraction)
    high = activations >> DIGIT_BITS
    low = activations & (1 << DIGIT_BITS) - 1
    largest = max(int(np.abs(high).max()), int(low.max()))
    assert largest * terms * most < 1 << DOUBLE_BITS, f"{terms} terms exceed a float64"
    whole, rest = (multiply(d.astype(np.float64)).astype(np.int64) for d in (high, low))
    return fp.fixed_to_f32((whole << DIGIT_BITS) + rest, fraction)


def widened(weights: NDArray[np.int8], activations: Double) -> Double:
    """Return the product of weights (out, in) with activations (..., in)."""
    out, terms = weights.shape
    rows = max(1, BLOCK // terms)
    block = np.empty((min(rows, out), terms), np.float64)
    product = np.empty((*activations.shape[:-1], out), np.float64)
    for first in range(0, out, rows):
        part = weights[first : first + rows]
        wide = block[: len(part)]
        np.copyto(wide, part)
        np.matmul(activations, wide.T, out=product[..., first : first + rows])
    return product


def fixed(values: Float, fraction: int = F16_FRACTION) -> Fixed:
    """Return values as the MXM sees them: rounded to f16, then down to units of 2^-fraction."""
    return fp.f16_to_fixed(fp.to_f16(values).view(np.uint16), fraction)


def sum_of_squares(x: Float, vector: int, sums: int) -> Float:
    """Return the sums (...) of the squares of ``x`` (..., channels) in the order of the VXM.

    Vectors go in turn to ``sums`` partial sums, whose tree is added up.

    Squares are flushed and not negative, so no sum of them is subnormal or -0, and float32 adds
    them as the VXM does, but for the pattern of a NaN.
    """
    *shape, channels = x.shape
    count = -(-channels // vector)
    n = min(sums, count)
    rows = -(-count // n)
    items = np.zeros((rows * n, vector, *shape), np.float32)
    # Missing items of a partial sum come first, as zeros, where they change nothing.
    present = items[rows * n - count :].reshape(count * vector, *shape)
    present[:channels] = np.moveaxis(fp.mul(x, x), -1, 0)
    with np.errstate(over="ignore"):
        parts = items.reshape(rows, n, vector, *shape)
        total = parts[0]
        for row in parts[1:]:
            total = row + total
        for _ in range(2):  # partial sums, then lanes: neighbours, an odd last one passes
            while len(total) > 1:
                even = len(total) // 2 * 2
                total = np.concatenate([total[:even:2] + total[1:even:2], total[even:]])
            total = total[0]
    return fp.add(total, ZERO)


def rotations(context: int, tensors: Mapping[str, Array]) -> tuple[Float, Float]:
    """Return cosines and sines (context, head_dim / 2), where they are kept or of two factors."""
    cos, sin = tensors["rope.cos"], tensors["rope.sin"]
    if "rope.fine_cos" not in tensors:
        return cos, sin
    fine_cos, fine_sin = tensors["rope.fine_cos"], tensors["rope.fine_sin"]
    coarse, fine = np.divmod(np.arange(context), len(fine_cos))
    a, b, c, d = cos[coarse], sin[coarse], fine_cos[fine], fine_sin[fine]
    return fp.sub(fp.mul(a, c), fp.mul(b, d)), fp.add(fp.mul(b, c), fp.mul(a, d))


class TensorModel:
    """Runs a quantised model; positions are fed one after the other, or in blocks.

    Parameters
    ----------
    model, tensors
        As the compiler's ``Quantised`` describes them (and program files hold them).
    vector : int
        Lanes of a vector of the machine.
    sums : int
        Partial sums to which vectors are added in turn (``isa.vxm.partial_sums``).
    fraction : int
        Bits of an activation's fraction (``isa.mxm.fraction_bits``).
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        tensors: Mapping[str, Array],
        vector: int,
        sums: int,
        fraction: int = F16_FRACTION,
    ):
        self.model, self.tensors, self.vector, self.sums = model, tensors, vector, sums
        self.fraction = fraction
        self.cos, self.sin = rotations(model["context"], tensors)
        # Memory of positions that are never fed is never touched, so the system need not have it.
        shape = (model["layers"], model["kv_heads"], model["context"], model["head_dim"])
        self.keys, self.values = np.zeros(shape, np.float64), np.zeros(shape, np.float64)
        self.reset()

    def reset(self, position: int = 0) -> None:
        """Forget all positions from ``position`` on."""
        self.position = position

    def embed(self, tokens: NDArray[np.int64]) -> Float:
        """Return the embedding (positions, hidden) of tokens: their own, or the head's rows."""
        if "embed" in self.tensors:
            return fp.from_f16(self.tensors["embed"][tokens])
        rows = self.tensors["head.weight"][tokens].astype(np.float32)
        scaled = fp.mul(rows, self.tensors["head.scale"][tokens][:, None])
        return fp.mul(scaled, self.tensors["embed.gain"])

    def entering(self, norm: str, x: Float) -> Fixed:
        """Return ``x`` as it enters the matrices behind a norm, 1 / rms apart: times its gain."""
        gain = self.tensors.get(f"{norm}.gain")  # None where the weights hold it
        return fixed(x if gain is None else fp.mul(x, gain), self.fraction)

    def linear(self, name: str, activations: Fixed) -> Float:
        """Return the scaled product (..., out) of a weight tensor with activations (..., in)."""
        weights = self.tensors[f"{name}.weight"]
        product = exact(
            lambda values: widened(weights, values), activations, I8_MOST, self.fraction
        )
        scale = self.tensors.get(f"{name}.scale")  # None where what follows holds it
        return product if scale is None else fp.mul(product, scale)

    def norm(self, x: Float, factor: float = 1.0) -> Float:
        """Return ``factor`` / rms (positions, 1) of ``x`` (positions, hidden)."""
        inverse = 1.0 / factor**2
        total = sum_of_squares(x, self.vector, self.sums)
        mean = fp.mul(total, np.float32(inverse / self.model["hidden"]))
        return fp.rsqrt(fp.add(mean, np.float32(inverse * self.model["norm_eps"])))[:, None]

    def rotate(self, x: Float) -> Float:
        """Apply rotary embedding to (positions, channels) from the current position on.

        Returns
        -------
        (positions, heads, head_dim) float32
        """
        n, half = len(x), self.model["head_dim"] // 2
        now = slice(self.position, self.position + n)
        cos, sin = self.cos[now, None], self.sin[now, None]
        pairs = x.reshape(n, -1, 2, half)
        a, b = pairs[:, :, 0], pairs[:, :, 1]
        first = fp.sub(fp.mul(a, cos), fp.mul(b, sin))
        second = fp.add(fp.mul(b, cos), fp.mul(a, sin))
        return np.concatenate([first, second], axis=2)

    def rotated(self, name: str, h: Fixed, r: Float) -> Float:
        """Return queries or keys (positions, heads, head_dim): a linear map of ``h`` times ``r``.

        1 / rms comes last, as it is known last; a bias needs it before.
        """
        scaled = self.linear(name, h)
        if self.model["biased"]:
            return self.rotate(fp.add(fp.mul(scaled, r), self.tensors[f"{name}.bias"]))
        return fp.mul(self.rotate(scaled), r[..., None])

    def attention(self, layer: int, x: Float) -> Float:
        """Return what attention adds to ``x`` (positions, hidden), before the residual."""
        model, prefix, n = self.model, f"layers.{layer}", len(x)
        heads, kv_heads, size = model["heads"], model["kv_heads"], model["head_dim"]
        r, h = self.norm(x), self.entering(f"{prefix}.attn", x)
        queries = self.rotated(f"{prefix}.q", h, r)
        keys = self.rotated(f"{prefix}.k", h, r)
        values = fp.mul(self.linear(f"{prefix}.v", h), r)
        if model["biased"]:
            values = fp.add(values, self.tensors[f"{prefix}.v.bias"])
        values = values.reshape(n, kv_heads, size)
        end = self.position + n
        whole = fp.to_i8 if model["cache_bits"] == 8 else fp.to_i32
        self.keys[layer, :, self.position : end] = whole(keys).swapaxes(0, 1)
        self.values[layer, :, self.position : end] = whole(values).swapaxes(0, 1)
        k, v = self.keys[layer, :, :end], self.values[layer, :, :end]

        most = 1 << model["cache_bits"] - 1  # largest magnitude of a cache entry

        # One matrix a key-value head: its queries at all positions are the rows.
        group = heads // kv_heads
        q = fixed(queries, self.fraction).reshape(n, kv_heads, group, size).swapaxes(0, 1)
        q = q.reshape(kv_heads, n * group, size)
        scores = exact(lambda a: a @ k.swapaxes(1, 2), q, most, self.fraction)
        if n > 1:  # a position sees none that comes after it
            row = np.repeat(np.arange(self.position, end), group)
            scores[:, np.arange(end) > row[:, None]] = -np.inf
        top = scores.max(axis=2, keepdims=True)
        p = fixed(fp.exp2(fp.sub(scores, top)), self.fraction)
        mixed = exact(lambda a: a @ v, p, most, self.fraction)
        total = fp.fixed_to_f32(p.sum(axis=2, keepdims=True), self.fraction)
        out = fp.mul(mixed, fp.recip(total))
        if f"{prefix}.v_step" in self.tensors:  # else the columns of o hold it
            step = self.tensors[f"{prefix}.v_step"].reshape(kv_heads, 1, size)
            out = fp.mul(out, step)
        out = out.reshape(kv_heads, n, group * size).swapaxes(0, 1).reshape(n, -1)
        return self.linear(f"{prefix}.o", fixed(out, self.fraction))

    def feed_forward(self, layer: int, x: Float) -> Float:
        """Return what the feed-forward block adds to ``x`` (positions, hidden)."""
        prefix = f"layers.{layer}"
        r = self.norm(x, self.model.get("up_scale", 1.0))
        h = self.entering(f"{prefix}.ffn", x)
        gate = fp.mul(self.linear(f"{prefix}.gate", h), r)
        up = fp.mul(self.linear(f"{prefix}.up", h), r)
        sigmoid = fp.recip(fp.add(fp.exp2(gate), ONE))  # the scales of both are made for that
        product = fp.mul(fp.mul(gate, up), sigmoid)
        return self.linear(f"{prefix}.down", fixed(product, self.fraction))

    def feed(self, tokens: Sequence[int]) -> Float:
        """Feed tokens (n,) at the next positions; return the logits (n, vocab) float32.

        The bits do not depend on how a sequence is cut into calls.

        Raises
        ------
        ValueError
            When a token is not in the vocabulary or the context is full.
        """
        for token in tokens:
            if not 0 <= token < self.model["vocab"]:
                raise ValueError(f"token {token} is not in the vocabulary of {self.model['vocab']}")
        if self.position + len(tokens) > self.model["context"]:
            raise ValueError(f"the context of {self.model['context']} positions is full")
        x = self.embed(np.asarray(tokens, np.int64))
        for layer in range(self.model["layers"]):
            x = fp.add(self.attention(layer, x), x)
            x = fp.add(self.feed_forward(layer, x), x)
        self.position += len(tokens)
        return fp.mul(self.linear("head", self.entering("final", x)), self.norm(x))

    def step(self, token: int) -> Float:
        """Feed one token; return the logits (vocab,), as ``feed`` does."""
        return self.feed([token])[0]

    def logits(self, ids: Sequence[int]) -> Float:
        """Return the logits (positions, vocab) of a whole sequence, teacher-forced."""
        self.reset()
        found = np.empty((len(ids), self.model["vocab"]), np.float32)
        for first in range(0, len(ids), POSITIONS):
            found[first : first + POSITIONS] = self.feed(ids[first : first + POSITIONS])
        return found

"""The tensor model: the machine's arithmetic on whole tensors, token by token.

It knows formats and the order of roundings, and nothing of tiles, slices or cycles. What the
MXM computes is exact, so no order of summation appears there; the one sum of the VXM, in the
norm, has the order that ``docs/numerics.md`` defines, which depends on the lanes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import numerics as fp

Array = NDArray[Any]
ZERO, ONE = np.float32(0), np.float32(1)
MINUS_LOG2E = np.float32(-np.log2(np.e))


def exact(weights: Array, activations: Array) -> NDArray[np.float32]:
    """Return weights (out, in) times activations (in,) int64, rounded once."""
    return fp.fixed_to_f32(weights @ activations)


def fixed(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return values as the MXM sees them: rounded to f16, in units of 2^-24."""
    return fp.f16_to_fixed(fp.to_f16(values).view(np.uint16))


def lane_sum(values: NDArray[np.float32], vector: int) -> NDArray[np.float32]:
    """Return the sum of ``values`` (channels,) in the order of the VXM: a 0-d fp32 array."""
    count = -(-len(values) // vector)
    items = np.zeros((count, vector), np.float32)
    items.reshape(-1)[: len(values)] = values
    n = min(4, count)
    parts = []
    for k in range(n):
        chosen = items[(count + k) % n :: n]
        part = chosen[0] if count <= 4 else fp.add(chosen[0], ZERO)
        for item in chosen[1:]:
            part = fp.add(item, part)
        parts.append(part)
    while len(parts) > 1:
        pairs = [fp.add(parts[i], parts[i + 1]) for i in range(0, len(parts) - 1, 2)]
        parts = [*pairs, *parts[len(parts) // 2 * 2 :]]
    return fp.reduce("rsum", parts[0].view(np.uint32)).view(np.float32)


class TensorModel:
    """Runs a quantised model; positions are fed one after the other.

    Parameters
    ----------
    model, tensors
        As the compiler's ``Quantised`` describes them (and program files hold them).
    vector : int
        Lanes of a vector of the machine.
    """

    def __init__(self, model: Mapping[str, Any], tensors: Mapping[str, Array], vector: int):
        self.model, self.vector = model, vector
        self.tensors: dict[str, Array] = {
            name: array.astype(np.int64) if name.endswith(".weight") else array
            for name, array in tensors.items()
        }
        self.reset()

    def reset(self) -> None:
        """Forget all positions."""
        model = self.model
        shape = (model["layers"], model["context"], model["kv_heads"], model["head_dim"])
        self.position = 0
        self.keys = np.zeros(shape, np.int64)
        self.values = np.zeros(shape, np.int64)

    def linear(self, name: str, activations: Array) -> NDArray[np.float32]:
        """Return the scaled product of a weight tensor with fixed-point activations."""
        product = exact(self.tensors[f"{name}.weight"], activations)
        return fp.mul(product, self.tensors[f"{name}.scale"])

    def norm(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return 1 / rms of ``x``."""
        total = lane_sum(fp.mul(x, x), self.vector)
        mean = fp.mul(total, np.float32(1.0 / self.model["hidden"]))
        return fp.rsqrt(fp.add(mean, np.float32(self.model["norm_eps"])))

    def rotate(self, x: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
        """Apply rotary embedding to (heads * head_dim,) at the current position."""
        half = self.model["head_dim"] // 2
        a, b = x.reshape(heads, 2, half).transpose(1, 0, 2)
        cos = self.tensors["rope.cos"][self.position]
        sin = self.tensors["rope.sin"][self.position]
        first = fp.sub(fp.mul(a, cos), fp.mul(b, sin))
        second = fp.add(fp.mul(b, cos), fp.mul(a, sin))
        return np.concatenate([first, second], axis=1)

    def attention(self, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what attention adds to ``x`` (hidden,), before the residual."""
        model, prefix, at = self.model, f"layers.{layer}", self.position
        heads, kv_heads, size = model["heads"], model["kv_heads"], model["head_dim"]
        r, h = self.norm(x), fixed(x)
        queries = fp.mul(self.rotate(self.linear(f"{prefix}.q", h), heads), r)
        keys = fp.mul(self.rotate(self.linear(f"{prefix}.k", h), kv_heads), r)
        values = fp.mul(self.linear(f"{prefix}.v", h), r)
        self.keys[layer, at] = fp.to_i32(keys)
        self.values[layer, at] = fp.to_i32(values).reshape(kv_heads, size)

        group = heads // kv_heads
        past = slice(0, at + 1)
        q = fixed(queries).reshape(kv_heads, group, size)
        k = self.keys[layer, past].transpose(1, 2, 0)
        scores = fp.fixed_to_f32(q @ k)  # (kv_heads, group, positions)
        top = scores.max(axis=2)
        p = fixed(fp.exp2(fp.sub(scores, top[..., None])))
        v = self.values[layer, past].transpose(1, 0, 2)
        mixed = fp.fixed_to_f32(p @ v)
        total = fp.fixed_to_f32(p.sum(axis=2))
        step = self.tensors[f"{prefix}.v_step"].reshape(kv_heads, 1, size)
        out = fp.mul(fp.mul(mixed, fp.recip(total)[..., None]), step)
        return self.linear(f"{prefix}.o", fixed(out.reshape(-1)))

    def feed_forward(self, layer: int, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the feed-forward block adds to ``x`` (hidden,), before the residual."""
        prefix = f"layers.{layer}"
        r, h = self.norm(x), fixed(x)
        gate = fp.mul(self.linear(f"{prefix}.gate", h), r)
        up = fp.mul(self.linear(f"{prefix}.up", h), r)
        sigmoid = fp.recip(fp.add(fp.exp2(fp.mul(gate, MINUS_LOG2E)), ONE))
        return self.linear(f"{prefix}.down", fixed(fp.mul(fp.mul(gate, up), sigmoid)))

    def step(self, token: int) -> NDArray[np.float32]:
        """Feed one token at the next position; return the logits (vocab,) float32.

        Raises
        ------
        ValueError
            When the token is not in the vocabulary or the context is full.
        """
        if not 0 <= token < self.model["vocab"]:
            raise ValueError(f"token {token} is not in the vocabulary of {self.model['vocab']}")
        if self.position >= self.model["context"]:
            raise ValueError(f"the context of {self.model['context']} positions is full")
        x = fp.from_f16(self.tensors["embed"][token])
        for layer in range(self.model["layers"]):
            x = fp.add(self.attention(layer, x), x)
            x = fp.add(self.feed_forward(layer, x), x)
        self.position += 1
        return fp.mul(self.linear("head", fixed(x)), self.norm(x))

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Return the logits (positions, vocab) of a whole sequence, teacher-forced."""
        self.reset()
        return np.array([self.step(token) for token in ids])

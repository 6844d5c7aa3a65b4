"""Precision, chosen per tensor: a checkpoint becomes the numbers that the machine computes with.

Weights are int8 with one fp32 scale for each output channel. Norm gains multiply activations, or
are folded into the weights that follow them: that saves a multiplication a norm, but large inputs
of a language model have small gains, and where weights hold these, all weights are rounded to
coarser steps. The key and value cache holds 16 bit integers with a fixed step for each channel:
a bound of the channel that no input exceeds, over 32,700 (rotary pairs share one). One of 8 bits
takes half of the memory; its steps follow from what the channel is on a text, and what is more
than four times as large is saturated. The steps of keys are folded into the scales of queries, as
is the factor of the softmax, so that they cost nothing. The embedding is f16. Everything else is
fp32.

Where memory is short embedding and head share their weights, and some scales are not there: the
steps of values are in the columns of the matrix that follows, before it is rounded, and so are the
scales of the up projection but for one number, which 1 / rms is multiplied by.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.checkpoint import Checkpoint
from waterclock.compiler.rounding import Inputs, quantise_rows

#: Largest cache integer that the range of a channel may reach, by the bits of the cache.
CACHE_RANGE = {16: 32700, 8: 127}
SIGMAS = 4.0  #: range of a channel of an 8-bit cache, in units of its root mean square
FINE = 16  #: positions of the fine rotations
LOG2E = float(np.log2(np.e))
MARGIN = 1.01  #: activations are rounded to f16 before they are bounded


@dataclasses.dataclass(frozen=True)
class Quantised:
    """What the machine computes with.

    ``model``: hyperparameters (plain numbers). ``tensors``: for every linear map "NAME.weight"
    (out, in) int8 and "NAME.scale" (out,) float32; with biases "layers.I.q.bias", "k" and "v"
    alike, (out,) float32, added to the scaled and normalised product before any rotation;
    unless the weights hold them, "layers.I.attn.gain", "layers.I.ffn.gain" and "final.gain"
    (hidden,) float32, gains of norms;
    "layers.I.v_step" (kv channels,) float32; the scales of gate are times -log2(e), those of up
    times the inverse, so that SiLU(gate) * up is gate * up / (1 + 2^gate);
    where memory is short there is no "layers.I.v_step", as the columns of o hold it, and no
    "layers.I.up.scale", as those of down hold it: ``model`` has an "up_scale", which the 1 / rms of
    gate and up is multiplied by;
    "embed" (vocab, hidden) float16, or, where head and embedding share their weights, "embed.gain"
    (hidden,) float32: a token's embedding is its row of "head.weight", times the row's scale,
    times the gain; "rope.cos", "rope.sin" (context, head_dim / 2) float32, or, where memory is
    short, those of every ``FINE``th position, and those of the positions between 0 and it as
    "rope.fine_cos" and "rope.fine_sin": a rotation is the product of two.
    """

    name: str
    model: dict[str, Any]
    tensors: dict[str, NDArray[Any]]


def quantise(
    checkpoint: Checkpoint,
    moments: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    *,
    fold: bool = False,
    share: bool = False,
    cache_bits: int = 16,
) -> Quantised:
    """Return the machine's numbers for a checkpoint.

    Parameters
    ----------
    moments : mapping, optional
        Mean outer products of what enters the matrices, as the reference finds them on texts:
        "layers.{i}." followed by "attn", "v", "o", "ffn" and "down", and "final"; those of "v"
        by key-value head. Without them each weight is rounded on its own.
    fold : bool
        Whether weights hold the gains of norms.
    share : bool
        Whether memory is short: embedding and head share their weights, which needs a tied head
        and folded gains, and rotations are products of a coarse one and a fine one.
    cache_bits : int
        Bits of the integers of the cache, 16 or 8.
    """
    tensors: dict[str, NDArray[Any]] = {}
    known: tuple[str, list[Inputs | None]] = "", [None]
    entering: dict[str, NDArray[np.float64]] = {}  # gains that inputs were multiplied by
    up_scales: list[np.float64] = []

    def source(name: str) -> NDArray[np.float64]:
        return checkpoint.tensors[name].astype(np.float64)

    def linear(name: str, inputs: str, weights: NDArray[np.float64], factor: Any = 1.0) -> None:
        """Quantise; multiply the scales by ``factor`` (out,)."""
        nonlocal known
        if moments and known[0] != inputs:
            gains = entering.get(inputs, np.ones(1))
            found = moments[inputs] * gains[:, None] * gains
            known = inputs, [Inputs(each) for each in found.reshape(-1, *found.shape[-2:])]
        parts = np.split(weights, len(known[1]))
        rounded = [quantise_rows(part, each) for part, each in zip(parts, known[1], strict=True)]
        integers, scales = (np.concatenate(found) for found in zip(*rounded, strict=True))
        tensors[f"{name}.weight"] = integers
        tensors[f"{name}.scale"] = (scales * factor).astype(np.float32)

    def columns(name: str, steps: NDArray[np.float64]) -> None:
        """Quantise a map whose inputs come in units of ``steps`` (in,)."""
        entering[name] = 1.0 / steps
        linear(name, name, source(name) * steps)

    def rescale(name: str, factor: Any) -> None:
        tensors[f"{name}.scale"] = (tensors[f"{name}.scale"] * factor).astype(np.float32)

    def gain(norm: str, *inputs: str) -> NDArray[np.float64]:
        """Return the gain that weights hold; note one that they do not, and whom it concerns."""
        found = source(f"{norm}_norm")
        if fold:
            return found
        tensors[f"{norm}.gain"] = found.astype(np.float32)
        entering.update(dict.fromkeys(inputs, found))
        return np.ones_like(found)

    def bounds(name: str, weights: NDArray[np.float64], bias: Any) -> NDArray[np.float64]:
        """Return what the results of a linear map never exceed, before and after rounding."""
        gains = entering.get(name, 1.0)
        rounded, scale = tensors[f"{name}.weight"] * gains, tensors[f"{name}.scale"]
        norms = np.linalg.norm(rounded, axis=1) * scale
        return np.maximum(np.linalg.norm(weights * gains, axis=1), norms) * reach + np.abs(bias)

    def ranges(name: str, inputs: str, weights: NDArray[np.float64], bias: Any) -> Any:
        """Return the range of results that the cache holds; what exceeds it is saturated."""
        found = bounds(name, weights, bias)
        if cache_bits == 16 or not moments:
            return found
        scaled = weights * entering.get(name, 1.0)
        squares = np.einsum("oi,ij,oj->o", scaled, moments[inputs], scaled) + np.square(bias)
        return np.minimum(found, SIGMAS * np.sqrt(squares))

    half = checkpoint.head_dim // 2
    groups, integers = checkpoint.heads // checkpoint.kv_heads, CACHE_RANGE[cache_bits]
    reach = MARGIN * np.sqrt(checkpoint.hidden)  # norm of a normalised activation, at most
    for index in range(checkpoint.layers):
        prefix = f"layers.{index}"
        norm = gain(f"{prefix}.attn", f"{prefix}.attn", f"{prefix}.k", f"{prefix}.v")
        keys = source(f"{prefix}.k") * norm
        values = source(f"{prefix}.v") * norm
        # Biases are added to scaled results, so they have the units of these.
        biases = {n: source(f"{prefix}.{n}_bias") if checkpoint.biased else 0.0 for n in "qkv"}

        linear(f"{prefix}.k", f"{prefix}.attn", keys)
        reached = ranges(f"{prefix}.k", f"{prefix}.attn", keys, biases["k"]).reshape(-1, 2, half)
        pair = np.sqrt((reached**2).sum(axis=1, keepdims=True))
        step = np.maximum(np.broadcast_to(pair, reached.shape).reshape(-1), 1e-20) / integers
        rescale(f"{prefix}.k", 1.0 / step)
        queries = source(f"{prefix}.q") * norm
        softmax = LOG2E / np.sqrt(checkpoint.head_dim)
        by_query = np.repeat(step.reshape(-1, checkpoint.head_dim), groups, axis=0).reshape(-1)
        linear(f"{prefix}.q", f"{prefix}.attn", queries, by_query * softmax)

        linear(f"{prefix}.v", f"{prefix}.v", values)
        reached = ranges(f"{prefix}.v", f"{prefix}.attn", values, biases["v"])
        v_step = np.maximum(reached, 1e-20) / integers
        rescale(f"{prefix}.v", 1.0 / v_step)
        if checkpoint.biased:
            factors = {"q": by_query * softmax, "k": 1.0 / step, "v": 1.0 / v_step}
            for name, factor in factors.items():
                tensors[f"{prefix}.{name}.bias"] = (biases[name] * factor).astype(np.float32)
        if share:
            steps = np.repeat(v_step.reshape(-1, checkpoint.head_dim), groups, axis=0)
            columns(f"{prefix}.o", steps.reshape(-1))
        else:
            tensors[f"{prefix}.v_step"] = v_step.astype(np.float32)
            linear(f"{prefix}.o", f"{prefix}.o", source(f"{prefix}.o"))
        norm = gain(f"{prefix}.ffn", f"{prefix}.ffn")
        # SiLU(g) * u is h * v / (1 + 2^h) with these h and v.
        linear(f"{prefix}.gate", f"{prefix}.ffn", source(f"{prefix}.gate") * norm, -LOG2E)
        linear(f"{prefix}.up", f"{prefix}.ffn", source(f"{prefix}.up") * norm, -1.0 / LOG2E)
        if share:
            scales = tensors.pop(f"{prefix}.up.scale").astype(np.float64)
            up_scales.append(np.abs(scales).mean())
            columns(f"{prefix}.down", scales)
        else:
            linear(f"{prefix}.down", f"{prefix}.down", source(f"{prefix}.down"))
    shared: dict[str, Any] = {}
    if share:
        shared["up_scale"] = up_scale = float(np.float32(np.mean(up_scales)))
        for index in range(checkpoint.layers):
            for name in ("gate", "down"):
                rescale(f"layers.{index}.{name}", 1.0 / up_scale)
    norm = gain("final", "final")
    linear("head", "final", source("embed" if checkpoint.tied else "head") * norm)
    if share:
        tensors["embed.gain"] = (1.0 / source("final_norm")).astype(np.float32)
    else:
        tensors["embed"] = np.clip(checkpoint.tensors["embed"], -65504, 65504).astype(np.float16)
    frequency = checkpoint.rope_theta ** (-np.arange(half) / half)
    frequency /= checkpoint.tensors.get("rope_factors", 1.0)
    step = FINE if share else 1
    rotations = {"": np.arange(0, checkpoint.context, step)}
    if share:
        rotations["fine_"] = np.arange(step)
    for name, positions in rotations.items():
        angles = positions[:, None] * frequency
        tensors[f"rope.{name}cos"] = np.cos(angles).astype(np.float32)
        tensors[f"rope.{name}sin"] = np.sin(angles).astype(np.float32)
    names = ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context")
    model: dict[str, Any] = {name: getattr(checkpoint, name) for name in names}
    model |= shared | {
        "norm_eps": checkpoint.norm_eps,
        "cache_bits": cache_bits,
        "biased": checkpoint.biased,
        "bos": checkpoint.bos,
        "eos": list(checkpoint.eos),
    }
    return Quantised(checkpoint.name, model, tensors)

"""GGUF checkpoints: one file with dimensions, quantised weights and tokenizer.

Weights are read as float32, exactly what the quantisation says; the compiler rounds them anew. The
package ``gguf`` knows the container and the quantisations.
"""

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.checkpoint import Checkpoint, layout, source_name
from waterclock.isa.errors import UserError

CURE = "pip install gguf"
SUFFIX = ".gguf"
#: Architectures (Mistral's is llama), and whether queries, keys and values have biases.
ARCHITECTURES = {"llama": False, "qwen2": True}
QUANTISATIONS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1")

#: Names in the file by canonical name; those of a layer stand behind ``blk.{i}.``.
_SOURCES = {
    "embed": "token_embd.weight",
    "attn_norm": "attn_norm.weight",
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "ffn_norm": "ffn_norm.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "final_norm": "output_norm.weight",
    "head": "output.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
}
_ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class GGUF:
    """An opened file: fields by name, tensors by name (n-dimensional, rows first)."""

    path: Path
    fields: dict[str, Any]
    tensors: dict[str, Any]

    def error(self, found: str, wanted: str) -> UserError:
        """Return the error that names this file."""
        return UserError(f"{self.path}: {found}; it must be {wanted}")

    def get(self, name: str, kind: type, default: Any = None) -> Any:
        """Return a field. Raises ``UserError`` when it is missing or not of its kind."""
        value = self.fields.get(name, default)
        if kind is float and isinstance(value, int):
            value = float(value)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            raise self.error(f"{name} is {_shown(value)}", f"a {kind.__name__}")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """Return a field that is a positive integer."""
        value: int = self.get(name, int, default)
        if value < 1:
            raise self.error(f"{name} is {value}", "a positive integer")
        return value


def _shown(value: object) -> str:
    return "missing" if value is None else repr(value)[:40]


def open_gguf(path: str | Path) -> GGUF:
    """Open a GGUF file.

    Raises
    ------
    UserError
        When it cannot be read, is damaged, or the package is missing.
    """
    try:
        from gguf import GGUFReader
    except ImportError:
        raise UserError(f"gguf: found none: {CURE}") from None
    file = Path(path)
    try:
        reader = GGUFReader(file)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
    except Exception as error:  # the package checks little: damage shows as any exception
        fault = " ".join(str(error).split())[:100]
        raise UserError(
            f"{file}: is damaged or no GGUF file ({fault}); it must be a GGUF file of version 2 or "
            f"3, whole ({os.path.getsize(file)} bytes found)"
        ) from None
    return GGUF(file, fields, {tensor.name: tensor for tensor in reader.tensors})


def load_gguf(file: GGUF) -> Checkpoint:
    """Return the weights of a GGUF file of the Llama family.

    Raises
    ------
    UserError
        If the file is damaged, its architecture or a quantisation unknown, or a tensor missing, of
        another shape or not finite.
    """
    dimensions = _dimensions(file)
    sources = {name: source_name(name, _SOURCES, "blk") for name, _ in layout(dimensions)}
    tensors = {name: _tensor(file, sources[name], shape) for name, shape in layout(dimensions)}
    if file.get("general.architecture", str) == "llama":
        for layer in range(dimensions.layers):
            for name, heads in (("q", dimensions.heads), ("k", dimensions.kv_heads)):
                key = f"layers.{layer}.{name}"
                tensors[key] = _half_split(tensors[key], heads)
    for name in file.tensors:
        if name not in sources.values() and name != _ROPE_FACTORS:
            raise file.error(f"tensor {name!r} is unknown", f"one of {dimensions.layers} layers")
    return replace(dimensions, tensors=tensors | dimensions.tensors)


def _dimensions(file: GGUF) -> Checkpoint:
    """Return the checkpoint without the tensors of its layers."""
    architecture = file.get("general.architecture", str)
    if architecture not in ARCHITECTURES:
        raise file.error(
            f"general.architecture is {architecture!r}", f"one of {', '.join(ARCHITECTURES)}"
        )

    def count(name: str, default: int | None = None) -> int:
        return file.count(f"{architecture}.{name}", default)

    hidden, heads = count("embedding_length"), count("attention.head_count")
    kv_heads = count("attention.head_count_kv", heads)
    if heads % kv_heads or hidden % (2 * heads):
        raise file.error(
            f"{heads} heads, {kv_heads} of keys, hidden {hidden}", "multiples of one another"
        )
    head_dim = count("attention.key_length", hidden // heads)
    for name in ("attention.value_length", "rope.dimension_count"):
        if count(name, head_dim) != head_dim:
            found = file.fields[f"{architecture}.{name}"]
            raise file.error(f"{architecture}.{name} is {found}", f"{head_dim}, the key's")
    factors = _rope_factors(file, architecture, head_dim)
    vocab = len(file.get("tokenizer.ggml.tokens", list))
    eos = {file.fields.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot")}
    return Checkpoint(
        name=file.path.stem,
        layers=count("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=count("feed_forward_length"),
        vocab=vocab,
        context=min(count("context_length"), count("attention.sliding_window", sys.maxsize)),
        rope_theta=file.get(f"{architecture}.rope.freq_base", float, 10000.0),
        norm_eps=file.get(f"{architecture}.attention.layer_norm_rms_epsilon", float),
        tied="output.weight" not in file.tensors,
        biased=ARCHITECTURES[architecture],
        tensors={} if factors is None else {"rope_factors": factors},
        bos=file.fields.get("tokenizer.ggml.bos_token_id"),
        eos=tuple(sorted(token for token in eos if token is not None)),
    )


def _rope_factors(file: GGUF, architecture: str, head_dim: int) -> NDArray[np.float32] | None:
    """Return what divides the frequencies of RoPE, None if it is not scaled."""
    prefix = f"{architecture}.rope.scaling"
    kind = file.fields.get(f"{prefix}.type", "none")
    if kind not in ("none", "linear"):
        raise file.error(f"{prefix}.type is {_shown(kind)}", "'none' or 'linear'")
    found = None
    if _ROPE_FACTORS in file.tensors:
        found = _tensor(file, _ROPE_FACTORS, (head_dim // 2,))
    if kind == "linear":
        factor = np.float32(file.get(f"{prefix}.factor", float))
        found = factor * (np.ones(head_dim // 2, np.float32) if found is None else found)
    if found is not None and not (found > 0).all():
        raise file.error("a factor of RoPE is zero or less", "positive")
    return found


def _tensor(file: GGUF, name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return a tensor as float32, after its shape, quantisation and values have been checked."""
    from gguf import dequantize

    tensor = file.tensors.get(name)
    if tensor is None:
        raise file.error(f"tensor {name!r} is missing", f"there with shape {shape}")
    found = tuple(int(size) for size in reversed(tensor.shape))
    if found != shape:
        raise file.error(f"tensor {name!r} has shape {found}", f"{shape}")
    kind = tensor.tensor_type.name
    if kind not in QUANTISATIONS:
        raise file.error(
            f"tensor {name!r} has quantisation {kind}", f"one of {', '.join(QUANTISATIONS)}"
        )
    with np.errstate(invalid="ignore", over="ignore"):
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        raise file.error(f"tensor {name!r} has NaN or infinite values", "finite")
    return np.array(values.reshape(shape))


def _half_split(weights: NDArray[np.float32], heads: int) -> NDArray[np.float32]:
    """Return the rows of q or k in half-split order.

    GGUF keeps them interleaved: RoPE rotates rows 2 j and 2 j + 1 of a head there.
    """
    rows, columns = weights.shape
    pairs = weights.reshape(heads, rows // heads // 2, 2, columns)
    return np.ascontiguousarray(pairs.swapaxes(1, 2).reshape(rows, columns))

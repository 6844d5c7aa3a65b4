"""Hugging Face checkpoints: config.json and safetensors, checked and widened to float32."""

import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from reprlib import repr as shorten
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, deserialize  # pyright: ignore[reportUnknownVariableType]

from waterclock.isa.errors import UserError

#: Architectures of the Llama family, and whether queries, keys and values have biases.
_ARCHITECTURES = {"LlamaForCausalLM": False, "MistralForCausalLM": False, "Qwen2ForCausalLM": True}
_EMBED = "model.embed_tokens.weight"
_HEAD = "lm_head.weight"
#: Names in the files by canonical name; those of a layer stand behind ``model.layers.{i}.``.
_SOURCES = {
    "embed": _EMBED,
    "attn_norm": "input_layernorm.weight",
    "q": "self_attn.q_proj.weight",
    "k": "self_attn.k_proj.weight",
    "v": "self_attn.v_proj.weight",
    "o": "self_attn.o_proj.weight",
    "ffn_norm": "post_attention_layernorm.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
    "final_norm": "model.norm.weight",
    "head": _HEAD,
    "q_bias": "self_attn.q_proj.bias",
    "k_bias": "self_attn.k_proj.bias",
    "v_bias": "self_attn.v_proj.bias",
}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A Llama-family decoder: its dimensions and its float32 weights under canonical names.

    ``tensors`` holds "embed" (vocab, hidden), "final_norm" (hidden,), "head" (vocab, hidden) only
    if not ``tied``, and for each layer i "layers.{i}." followed by "attn_norm", "ffn_norm"
    (hidden,), "q" (heads * head_dim, hidden), "k", "v" (kv_heads * head_dim, hidden), "o"
    (hidden, heads * head_dim), "gate", "up" (ffn, hidden), "down" (hidden, ffn), and if ``biased``
    "q_bias", "k_bias", "v_bias", a number for each output. If RoPE is scaled, "rope_factors"
    (head_dim / 2,) divide its frequencies. All are finite.
    """

    #: Name of the model directory.
    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    #: Even: RoPE rotates lane j with lane j + head_dim / 2 (half-split order).
    head_dim: int
    ffn: int
    vocab: int
    #: Largest number of positions.
    context: int
    rope_theta: float
    norm_eps: float
    tied: bool
    #: Whether queries, keys and values have biases.
    biased: bool
    tensors: dict[str, NDArray[np.float32]]
    bos: int | None
    eos: tuple[int, ...]


@dataclass(frozen=True)
class _Stored:
    """A tensor as it lies in its file."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray

    def error(self, found: str, wanted: str) -> UserError:
        return _error(self.file, f"tensor {self.name!r} {found}", wanted)


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read a Hugging Face model directory.

    Parameters
    ----------
    path : str or Path
        Directory with config.json and model.safetensors, or model.safetensors.index.json and the
        shards that it names. Weights are float32, float16 or bfloat16.

    Raises
    ------
    UserError
        If anything in the directory is missing, damaged, inconsistent or unsupported.
    """
    directory = Path(path)
    # os.path rather than Path: it answers no, instead of raising, for a path no system accepts.
    if not os.path.isdir(directory):
        raise _error(directory, "is not a directory", "a model directory with config.json")
    dimensions = _read_config(directory / "config.json")
    weights, stored = _read_weights(directory)
    tensors: dict[str, NDArray[np.float32]] = {}
    for name, shape in layout(dimensions):
        source = source_name(name, _SOURCES, "model.layers")
        if source not in stored:
            raise _error(weights, f"tensor {source!r} is missing", f"there with shape {shape}")
        tensors[name] = _widen(stored.pop(source), shape)
    _check_rest(stored, dimensions.layers, tensors["embed"])
    return replace(dimensions, tensors=tensors | dimensions.tensors)


def _error(file: Path, found: str, wanted: str) -> UserError:
    return UserError(f"{file}: {found}; it must be {wanted}")


@dataclass(frozen=True)
class _Config:
    """The fields of a JSON file; null counts as missing, as it does in Hugging Face."""

    file: Path
    fields: dict[str, Any]
    prefix: str = ""

    def error(self, field: str, wanted: str) -> UserError:
        value = self.fields.get(field)
        found = "missing" if value is None else shorten(value)
        return _error(self.file, f"{self.prefix}{field} is {found}", wanted)

    def count(self, field: str, default: int | None = None) -> int:
        return self._positive(field, (int,), default, "a positive integer")

    def positive(self, field: str, default: float | None = None) -> float:
        return float(self._positive(field, (int, float), default, "a positive number"))

    def _positive(self, field: str, types: tuple[type, ...], default: Any, wanted: str) -> Any:
        value = default if self.fields.get(field) is None else self.fields[field]
        # type() because a bool is an int; the bound because float() raises for larger integers.
        if type(value) not in types or not 0 < value <= sys.float_info.max:
            raise self.error(field, wanted)
        return value

    def flag(self, field: str) -> bool:
        value = self.fields.get(field)
        if not isinstance(value, bool | None):
            raise self.error(field, "true or false")
        return bool(value)

    def tokens(self, field: str, vocab: int) -> tuple[int, ...]:
        value = self.fields.get(field)
        if value is None:
            return ()
        tokens = cast("list[Any]", value if isinstance(value, list) else [value])
        if not all(type(token) is int and 0 <= token < vocab for token in tokens):
            raise self.error(field, f"null, a token below vocab_size {vocab} or a list of them")
        return tuple(tokens)


def _read_json(file: Path) -> _Config:
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _error(file, f"cannot be read ({error.strerror})", "a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise _error(file, f"is not JSON ({error})", "a JSON object") from error
    if not isinstance(fields, dict):
        raise _error(file, f"top level is {shorten(fields)}", "a JSON object")
    return _Config(file, cast("dict[str, Any]", fields))


def _read_config(file: Path) -> Checkpoint:
    """Return the checkpoint without the tensors that stand in files."""
    config = _read_json(file)
    architecture = next(
        (name for name in _ARCHITECTURES if config.fields.get("architectures") == [name]), None
    )
    if architecture is None:
        raise config.error("architectures", f"a list with one of {', '.join(_ARCHITECTURES)}")
    if config.fields.get("hidden_act") not in (None, "silu"):
        raise config.error("hidden_act", "'silu'")
    for field in ("attention_bias", "mlp_bias"):
        if config.flag(field):
            raise config.error(field, "false: projections with a bias are not supported")
    hidden, heads = config.count("hidden_size"), config.count("num_attention_heads")
    kv_heads = config.count("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise config.error("num_attention_heads", f"a multiple of num_key_value_heads {kv_heads}")
    if config.fields.get("head_dim") is None and hidden % (2 * heads):
        raise config.error("hidden_size", f"a multiple of 2 * {heads} heads, or head_dim given")
    head_dim = config.count("head_dim", default=hidden // heads)
    if head_dim % 2:
        raise config.error("head_dim", "even, for RoPE rotates pairs of lanes")
    vocab = config.count("vocab_size")
    bos = config.tokens("bos_token_id", vocab)
    if len(bos) > 1:
        raise config.error("bos_token_id", "a single token")
    theta, factors = _rope(config, head_dim)
    return Checkpoint(
        name=Path(os.path.abspath(file)).parent.name,
        layers=config.count("num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=config.count("intermediate_size"),
        vocab=vocab,
        context=_context(config),
        rope_theta=theta,
        norm_eps=config.positive("rms_norm_eps"),
        tied=config.flag("tie_word_embeddings"),
        biased=_ARCHITECTURES[architecture],
        tensors={} if factors is None else {"rope_factors": factors},
        bos=bos[0] if bos else None,
        eos=config.tokens("eos_token_id", vocab),
    )


def _context(config: _Config) -> int:
    """Return the largest number of positions: a window that slides must not begin to."""
    context = config.count("max_position_embeddings")
    if config.fields.get("use_sliding_window") is False:
        return context
    return min(context, config.count("sliding_window", default=context))


def _rope(config: _Config, head_dim: int) -> tuple[float, NDArray[np.float32] | None]:
    """Return the base of the RoPE wavelengths, and what divides their frequencies if scaled.

    A section of its own overrides the top level.
    """
    theta = config.positive("rope_theta", default=10000.0)  # Hugging Face's default
    scaling: _Config | None = None
    for name in ("rope_parameters", "rope_scaling"):
        if not isinstance(config.fields.get(name), dict | None):
            raise config.error(name, "an object")
        section = _Config(config.file, config.fields.get(name) or {}, f"{name}.")
        for field in ("rope_type", "type"):
            if section.fields.get(field) not in (None, "default", "linear", "llama3"):
                raise section.error(field, "'default', 'linear' or 'llama3'")
            if section.fields.get(field) not in (None, "default"):
                scaling = section
        theta = section.positive("rope_theta", default=theta)
    return theta, None if scaling is None else _factors(scaling, theta, head_dim)


def _factors(scaling: _Config, theta: float, head_dim: int) -> NDArray[np.float32]:
    """Return what divides each RoPE frequency, as Hugging Face defines it.

    "linear" stretches all wavelengths alike; "llama3" the long ones, none of the short ones, and
    those in between in part.
    """
    half, factor = head_dim // 2, scaling.positive("factor")
    if "linear" in (scaling.fields.get("rope_type"), scaling.fields.get("type")):
        return np.full(half, factor, np.float32)
    low, high = scaling.positive("low_freq_factor"), scaling.positive("high_freq_factor")
    if low >= high:
        raise scaling.error("high_freq_factor", f"above low_freq_factor {low:g}")
    wavelengths = 2 * np.pi * theta ** (np.arange(half) / half)
    turns = scaling.positive("original_max_position_embeddings") / wavelengths
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _read_weights(directory: Path) -> tuple[Path, dict[str, _Stored]]:
    """Return the file that lists the tensors, and the tensors by their names in it."""
    file = directory / "model.safetensors"
    index = directory / "model.safetensors.index.json"
    if os.path.exists(file) or not os.path.exists(index):
        return file, _read_safetensors(file)
    listing = _read_json(index)
    if not isinstance(listing.fields.get("weight_map"), dict):
        raise listing.error("weight_map", "an object from tensor names to file names")
    shards: dict[str, Any] = listing.fields["weight_map"]
    for name, shard in shards.items():
        # A shard lies beside its index: a name with a folder in it could point anywhere.
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]+\.safetensors", shard, re.A):
            found = f"weight_map[{name!r}] is {shorten(shard)}"
            raise _error(index, found, "a safetensors file beside it")
    stored: dict[str, _Stored] = {}
    for shard in sorted(set(shards.values())):
        stored |= _read_safetensors(directory / shard)
    return index, stored


def _read_safetensors(file: Path) -> dict[str, _Stored]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _error(file, f"cannot be read ({error.strerror})", "a safetensors file") from error
    try:
        entries = cast("list[tuple[str, dict[str, Any]]]", deserialize(content))
    except SafetensorError as error:
        # The library quotes tensor names, which may hold line breaks.
        fault = " ".join(str(error).removeprefix("Error while deserializing: ").split())
        raise _error(file, f"{fault} in {len(content)} bytes", "a safetensors file") from error
    return {n: _Stored(file, n, e["dtype"], tuple(e["shape"]), e["data"]) for n, e in entries}


def layout(dimensions: Checkpoint) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield canonical name and shape of each tensor."""
    hidden, ffn = dimensions.hidden, dimensions.ffn
    queries = dimensions.heads * dimensions.head_dim
    keys = dimensions.kv_heads * dimensions.head_dim
    biases = ("q_bias", (queries,)), ("k_bias", (keys,)), ("v_bias", (keys,))
    yield "embed", (dimensions.vocab, hidden)
    for layer in range(dimensions.layers):
        for name, shape in (
            ("attn_norm", (hidden,)),
            ("q", (queries, hidden)),
            ("k", (keys, hidden)),
            ("v", (keys, hidden)),
            ("o", (hidden, queries)),
            ("ffn_norm", (hidden,)),
            ("gate", (ffn, hidden)),
            ("up", (ffn, hidden)),
            ("down", (hidden, ffn)),
            *(biases if dimensions.biased else ()),
        ):
            yield f"layers.{layer}.{name}", shape
    yield "final_norm", (hidden,)
    if not dimensions.tied:
        yield "head", (dimensions.vocab, hidden)


def source_name(name: str, sources: Mapping[str, str], layer_prefix: str) -> str:
    """Return a tensor's name in a file: its canonical name, without a layer, looked up."""
    if not name.startswith("layers."):
        return sources[name]
    _, layer, part = name.split(".")
    return f"{layer_prefix}.{layer}.{sources[part]}"


def _widen(stored: _Stored, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the tensor as float32, after its shape, dtype and values have been checked."""
    if stored.shape != shape:
        raise stored.error(f"has shape {stored.shape}", f"{shape} by config.json")
    # Widening a signalling NaN is an invalid operation to numpy; it is reported further down.
    with np.errstate(invalid="ignore"):
        if stored.dtype == "F32":
            values = np.frombuffer(stored.data, "<f4").astype(np.float32, copy=False)
        elif stored.dtype == "F16":
            values = np.frombuffer(stored.data, "<f2").astype(np.float32)
        elif stored.dtype == "BF16":
            # bfloat16 is the upper half of a float32; numpy has no such type.
            values = (np.frombuffer(stored.data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            raise stored.error(f"has dtype {stored.dtype}", "F32, F16 or BF16")
    if not np.isfinite(values).all():
        faults = f"{np.isnan(values).sum()} NaN and {np.isinf(values).sum()} infinite"
        raise stored.error(f"has {faults} of {values.size} values", "finite")
    return values.reshape(shape)


def _check_rest(rest: dict[str, _Stored], layers: int, embed: NDArray[np.float32]) -> None:
    """Refuse tensors that the model would silently run without."""
    for name, stored in rest.items():
        if name == _HEAD:
            if not np.array_equal(_widen(stored, embed.shape), embed):
                raise stored.error(f"differs from {_EMBED!r}", "equal or absent, if tied")
        # Early Llama files store the RoPE wavelengths, which follow from rope_theta.
        elif not name.endswith(".rotary_emb.inv_freq"):
            raise stored.error("is unknown", f"one of a model of {layers} layers")

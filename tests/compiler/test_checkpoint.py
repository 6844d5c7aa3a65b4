"""Hugging Face directories: what is read, and the one line that each bad one is refused with."""

import contextlib
import dataclasses
import json
import random
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models import write_random_llama
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import load_file, save_file

from waterclock.compiler.checkpoint import Checkpoint, load_checkpoint
from waterclock.isa.errors import UserError

STORIES = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K"
SEED = 20240616
Tensors = dict[str, np.ndarray]
Q = "model.layers.1.self_attn.q_proj.weight"
NORM = "model.norm.weight"
EMBED = "model.embed_tokens.weight"
HEAD = "lm_head.weight"


@pytest.fixture
def model(tmp_path) -> Path:
    """A directory of a model with a tied head, 2 layers, and queries wider than hidden."""
    return write_random_llama(
        tmp_path / "tiny",
        hidden=8,
        heads=6,
        kv_heads=2,
        head_dim=4,
        ffn=12,
        vocab=10,
        layers=2,
        tied=True,
        seed=SEED,
    )


def change_config(model: Path, **changes: Any) -> None:
    """Set fields of config.json; Ellipsis removes one."""
    file = model / "config.json"
    fields = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in fields.items() if v is not ...}))


def change_tensors(model: Path, change: Callable[[Tensors], object]) -> None:
    file = model / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}, file)


def write_bfloat16(file: Path, tensors: Tensors) -> Tensors:
    """Write the upper halves of float32 tensors; return the values that they stand for."""
    halves = {name: (t.view(np.uint32) >> 16).astype(np.uint16) for name, t in tensors.items()}
    specs = {
        name: TensorSpec(dtype="bfloat16", shape=t.shape, data_ptr=t.ctypes.data, data_len=t.nbytes)
        for name, t in halves.items()
    }
    serialize_file(specs, file)
    return {name: (t.astype(np.uint32) << 16).view(np.float32) for name, t in halves.items()}


def split_into_shards(model: Path) -> Path:
    """Replace model.safetensors by two shards; return their index."""
    tensors = load_file(model / "model.safetensors")
    (model / "model.safetensors").unlink()
    weight_map = {}
    for shard in range(2):
        name = f"model-0000{shard + 1}-of-00002.safetensors"
        part = dict(sorted(tensors.items())[shard::2])
        save_file(part, model / name)
        weight_map |= dict.fromkeys(part, name)
    index = model / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


def refusal(model: Path) -> str:
    """Return the message of the UserError, without the directory that it begins with."""
    with pytest.raises(UserError) as caught:
        load_checkpoint(model)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(model))
    return message.removeprefix(str(model)).removeprefix("/")


def assert_same_tensors(found: Checkpoint, expected: Checkpoint) -> None:
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in expected.tensors.items():
        assert np.array_equal(found.tensors[name], tensor), name


def test_dimensions_are_read(model):
    assert dataclasses.replace(load_checkpoint(model), tensors={}) == Checkpoint(
        name="tiny",
        layers=2,
        hidden=8,
        heads=6,
        kv_heads=2,
        head_dim=4,
        ffn=12,
        vocab=10,
        context=256,
        rope_theta=10000.0,
        norm_eps=1e-5,
        tied=True,
        biased=False,
        tensors={},
        bos=1,
        eos=(2,),
    )


SOURCES = {
    "attn_norm": ("input_layernorm", (8,)),
    "q": ("self_attn.q_proj", (24, 8)),
    "k": ("self_attn.k_proj", (8, 8)),
    "v": ("self_attn.v_proj", (8, 8)),
    "o": ("self_attn.o_proj", (8, 24)),
    "ffn_norm": ("post_attention_layernorm", (8,)),
    "gate": ("mlp.gate_proj", (12, 8)),
    "up": ("mlp.up_proj", (12, 8)),
    "down": ("mlp.down_proj", (8, 12)),
}


def test_tensors_are_read_under_canonical_names(model):
    stored = load_file(model / "model.safetensors")
    expected = {"embed": (EMBED, (10, 8)), "final_norm": (NORM, (8,))}
    for i in range(2):
        for name, (source, shape) in SOURCES.items():
            expected[f"layers.{i}.{name}"] = (f"model.layers.{i}.{source}.weight", shape)
    tensors = load_checkpoint(model).tensors
    assert tensors.keys() == expected.keys()
    for name, (source, shape) in expected.items():
        assert tensors[name].dtype == np.float32, name
        assert tensors[name].shape == shape, name
        assert np.array_equal(tensors[name], stored[source]), name


def test_free_head_is_read_beside_the_embedding(model):
    change_config(model, tie_word_embeddings=False)
    head = np.arange(80, dtype=np.float32).reshape(10, 8)
    change_tensors(model, lambda tensors: tensors.update({HEAD: head}))
    checkpoint = load_checkpoint(str(model))
    assert not checkpoint.tied
    assert np.array_equal(checkpoint.tensors["head"], head)


def test_tied_head_may_be_stored_if_it_equals_the_embedding(model):
    expected = load_checkpoint(model)
    change_tensors(model, lambda tensors: tensors.update({HEAD: tensors[EMBED].copy()}))
    assert_same_tensors(load_checkpoint(model), expected)


def test_stored_rope_wavelengths_of_early_files_are_ignored(model):
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change_tensors(model, lambda tensors: tensors.update({name: np.ones(2, np.float32)}))
    assert "layers.0.q" in load_checkpoint(model).tensors


def test_float16_is_widened_to_float32(model):
    file = model / "model.safetensors"
    halves = {name: tensor.astype(np.float16) for name, tensor in load_file(file).items()}
    save_file(halves, file)
    found = load_checkpoint(model).tensors["layers.1.q"]
    assert found.dtype == np.float32
    assert np.array_equal(found, halves[Q].astype(np.float32))


def test_bfloat16_is_widened_to_float32(model):
    file = model / "model.safetensors"
    expected = write_bfloat16(file, load_file(file))
    found = load_checkpoint(model).tensors
    assert found["layers.1.q"].dtype == np.float32
    assert np.array_equal(found["layers.1.q"], expected[Q])
    assert np.array_equal(found["final_norm"], expected[NORM])


def test_shards_are_joined_by_their_index(model):
    expected = load_checkpoint(model)
    split_into_shards(model)
    assert_same_tensors(load_checkpoint(model), expected)


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"rope_theta": ...}, "rope_theta", 10000.0),
        ({"rope_theta": 500000}, "rope_theta", 500000.0),
        ({"rope_theta": ..., "rope_parameters": {"rope_theta": 5e5}}, "rope_theta", 5e5),
        ({"rope_parameters": {"rope_type": "default"}}, "rope_theta", 10000.0),
        ({"rope_scaling": {"type": "default"}}, "rope_theta", 10000.0),
        ({"rope_scaling": None}, "rope_theta", 10000.0),
        ({"eos_token_id": [2, 3]}, "eos", (2, 3)),
        ({"eos_token_id": None}, "eos", ()),
        ({"bos_token_id": ...}, "bos", None),
        ({"hidden_act": ..., "attention_bias": ..., "mlp_bias": ...}, "layers", 2),
    ],
)
def test_optional_fields_take_their_spellings_and_defaults(model, changes, field, expected):
    change_config(model, **changes)
    assert getattr(load_checkpoint(model), field) == expected


def test_head_dim_and_kv_heads_default_to_those_of_plain_attention(model):
    change_config(model, num_attention_heads=2, head_dim=None, num_key_value_heads=...)
    change_tensors(model, lambda t: t.update({k: v[:8] for k, v in t.items() if "q_proj" in k}))
    change_tensors(model, lambda t: t.update({k: v[:, :8] for k, v in t.items() if "o_proj" in k}))
    checkpoint = load_checkpoint(model)
    assert (checkpoint.heads, checkpoint.kv_heads, checkpoint.head_dim) == (2, 2, 4)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("section", ["rope_scaling", "rope_parameters"])
def test_long_wavelengths_of_llama_3_are_stretched(model, section):
    change_config(model, head_dim=32, rope_theta=500000.0, **{section: LLAMA3})
    change_tensors(model, lambda t: t.update({k: np.ones((192, 8), np.float32) for k in t
                                              if "q_proj" in k}))  # fmt: skip
    change_tensors(model, lambda t: t.update({k: np.ones((64, 8), np.float32) for k in t
                                              if "k_proj" in k or "v_proj" in k}))  # fmt: skip
    change_tensors(model, lambda t: t.update({k: np.ones((8, 192), np.float32) for k in t
                                              if "o_proj" in k}))  # fmt: skip
    factors = load_checkpoint(model).tensors["rope_factors"]
    wavelengths = 2 * np.pi * 500000.0 ** (np.arange(16) / 16)
    assert (factors[wavelengths < 2048] == 1).all()
    assert (factors[wavelengths > 8192] == 8).all()
    between = (wavelengths > 2048) & (wavelengths < 8192)
    smooth = (8192 / wavelengths[between] - 1) / 3
    np.testing.assert_allclose(factors[between], 1 / ((1 - smooth) / 8 + smooth), rtol=1e-6)
    assert between.any()


def test_all_wavelengths_are_stretched_alike(model):
    change_config(model, rope_scaling={"type": "linear", "factor": 4})
    assert load_checkpoint(model).tensors["rope_factors"].tolist() == [4, 4]


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("factor", ..., "a positive number"),
        ("low_freq_factor", 0, "a positive number"),
        ("high_freq_factor", 0.5, "above low_freq_factor 1"),
        ("original_max_position_embeddings", None, "a positive number"),
    ],
)
def test_unusable_scaling_is_refused(model, field, value, wanted):
    section = {k: v for k, v in (LLAMA3 | {field: value}).items() if v is not ...}
    change_config(model, rope_scaling=section)
    found = "missing" if value in (..., None) else repr(value)
    assert refusal(model) == f"config.json: rope_scaling.{field} is {found}; it must be {wanted}"


def test_biases_of_qwen2_are_read(model):
    change_config(model, architectures=["Qwen2ForCausalLM"], use_sliding_window=False,
                  sliding_window=4)  # fmt: skip
    name = "model.layers.1.self_attn.k_proj.bias"
    assert refusal(model).startswith("model.safetensors: tensor 'model.layers.0.self_attn.q_proj")
    sizes = {"q": 24, "k": 8, "v": 8}
    biases = {
        f"model.layers.{layer}.self_attn.{part}_proj.bias": np.arange(size, dtype=np.float32)
        for layer in range(2)
        for part, size in sizes.items()
    }
    change_tensors(model, lambda tensors: tensors.update(biases))
    checkpoint = load_checkpoint(model)
    assert checkpoint.biased
    assert checkpoint.context == 256
    assert np.array_equal(checkpoint.tensors["layers.1.k_bias"], biases[name])


@pytest.mark.parametrize(("window", "context"), [(None, 256), (100, 100), (1000, 256)])
def test_mistral_has_the_positions_of_its_window(model, window, context):
    change_config(model, architectures=["MistralForCausalLM"], sliding_window=window)
    assert load_checkpoint(model).context == context


COUNTS = [
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "vocab_size",
    "max_position_embeddings",
]


@pytest.mark.parametrize("field", COUNTS)
@pytest.mark.parametrize("value", [..., None, 8.0, "8", True, 0, -3, [8]])
def test_counts_that_are_not_positive_integers_are_refused(model, field, value):
    change_config(model, **{field: value})
    found = "missing" if value in (..., None) else repr(value)
    assert refusal(model) == f"config.json: {field} is {found}; it must be a positive integer"


ARCHITECTURES = "a list with one of LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM"
SCALINGS = "'default', 'linear' or 'llama3'"
UNBIASED = "false: projections with a bias are not supported"
TOKENS = "null, a token below vocab_size 10 or a list of them"


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("architectures", ["MixtralForCausalLM"], ARCHITECTURES),
        ("architectures", ["LlamaForCausalLM", "Qwen2ForCausalLM"], ARCHITECTURES),
        ("architectures", "LlamaForCausalLM", ARCHITECTURES),
        ("architectures", ..., ARCHITECTURES),
        ("hidden_act", "gelu", "'silu'"),
        ("attention_bias", True, UNBIASED),
        ("mlp_bias", True, UNBIASED),
        ("mlp_bias", "no", "true or false"),
        ("tie_word_embeddings", 1, "true or false"),
        ("num_attention_heads", 7, "a multiple of num_key_value_heads 2"),
        ("num_key_value_heads", 0, "a positive integer"),
        ("head_dim", "4", "a positive integer"),
        ("head_dim", 5, "even, for RoPE rotates pairs of lanes"),
        ("rms_norm_eps", ..., "a positive number"),
        ("rms_norm_eps", 0, "a positive number"),
        ("rms_norm_eps", float("nan"), "a positive number"),
        ("rope_theta", float("inf"), "a positive number"),
        ("rope_theta", False, "a positive number"),
        ("rope_parameters", 7, "an object"),
        ("rope_parameters.rope_theta", "x", "a positive number"),
        ("rope_parameters.rope_type", "yarn", SCALINGS),
        ("rope_scaling.type", "dynamic", SCALINGS),
        ("sliding_window", 0, "a positive integer"),
        ("bos_token_id", 10, TOKENS),
        ("bos_token_id", [1, 2], "a single token"),
        ("eos_token_id", [2, -1], TOKENS),
    ],
)
def test_unusable_fields_are_refused(model, field, value, wanted):
    section, _, inner = field.partition(".")
    change_config(model, **{section: {inner: value} if inner else value})
    found = "missing" if value is ... else repr(value)
    assert refusal(model) == f"config.json: {field} is {found}; it must be {wanted}"


def test_hidden_size_that_gives_no_even_head_dim_is_refused(model):
    change_config(model, head_dim=None)
    assert refusal(model) == (
        "config.json: hidden_size is 8; it must be a multiple of 2 * 6 heads, or head_dim given"
    )


def test_integers_beyond_every_float_are_refused(model):
    change_config(model, rope_theta=10**400)
    assert re.fullmatch(
        r"config\.json: rope_theta is 10+\.\.\.0+; it must be a positive number", refusal(model)
    )


@pytest.mark.parametrize(
    "content",
    [b"", b"{,}", b"\xff{}", b"[" * 100_000, b'{"a": 1' + b"0" * 5000],
    ids=["empty", "comma", "bytes", "deep", "digits"],
)
def test_config_that_is_not_json_is_refused(model, content):
    (model / "config.json").write_bytes(content)
    pattern = r"config\.json: is not JSON \(.+\); it must be a JSON object"
    assert re.fullmatch(pattern, refusal(model))


def test_config_that_is_not_an_object_is_refused(model):
    (model / "config.json").write_text("[1, 2]")
    assert refusal(model) == "config.json: top level is [1, 2]; it must be a JSON object"


@pytest.mark.parametrize("name", ["absent", "file", "x" * 5000, "nul\0"])
def test_path_that_is_not_a_directory_is_refused(tmp_path, name):
    (tmp_path / "file").touch()
    assert refusal(tmp_path / name) == (
        ": is not a directory; it must be a model directory with config.json"
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("config.json", "JSON"), ("model.safetensors", "safetensors")]
)
def test_files_that_cannot_be_read_are_refused(model, name, kind):
    (model / name).unlink()
    assert refusal(model) == (
        f"{name}: cannot be read (No such file or directory); it must be a {kind} file"
    )
    (model / name).mkdir()
    assert refusal(model) == f"{name}: cannot be read (Is a directory); it must be a {kind} file"


def rewrite_header(content: bytes, old: bytes, new: bytes) -> bytes:
    length = struct.unpack("<Q", content[:8])[0]
    header = content[8 : 8 + length].replace(old, new, 1)
    assert header != content[8 : 8 + length]
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda c: b"", "header too small"),
        (lambda c: c[:7], "header too small"),
        (lambda c: c[:100], "invalid header length"),
        (lambda c: b"\xff" * 8 + c[8:], "header too large"),
        (lambda c: c[:-1], "incomplete metadata, file not fully covered"),
        (lambda c: c + b"0", "incomplete metadata, file not fully covered"),
        (lambda c: rewrite_header(c, b'{"', b"{{"), "invalid JSON in header"),
        (lambda c: rewrite_header(c, b"m", b"\xff"), "invalid UTF-8 in header"),
        (lambda c: rewrite_header(c, b'"F32"', b'"F33"'), "invalid JSON in header"),
        (lambda c: rewrite_header(c, b"[8]", b"[9]"), "invalid shape, data type, or offset"),
        (lambda c: rewrite_header(c, b"[0,", b"[4,"), "invalid offset for tensor"),
    ],
)
def test_damaged_safetensors_are_refused(model, damage, fault):
    file = model / "model.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    message = refusal(model)
    assert message.startswith(f"model.safetensors: {fault}")
    assert message.endswith(f" in {file.stat().st_size} bytes; it must be a safetensors file")


def put(name: str, alter: Callable[[np.ndarray], np.ndarray]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.update({name: alter(tensors[name])})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop(Q), f"'{Q}' is missing; it must be there with shape (24, 8)"),
        (put(Q, np.transpose), f"'{Q}' has shape (8, 24); it must be (24, 8) by config.json"),
        (put(NORM, np.float64), f"'{NORM}' has dtype F64; it must be F32, F16 or BF16"),
        (
            put(NORM, lambda t: t * np.float32([np.nan, np.nan, np.inf, 1, 1, 1, 1, 1])),
            f"'{NORM}' has 2 NaN and 1 infinite of 8 values; it must be finite",
        ),
        (
            lambda t: t.update({"q.bias\n": t[NORM]}),
            r"'q.bias\n' is unknown; it must be one of a model of 2 layers",
        ),
        (
            lambda t: t.update({HEAD: t[EMBED] + 1}),
            f"'{HEAD}' differs from '{EMBED}'; it must be equal or absent, if tied",
        ),
    ],
    ids=["missing", "shape", "dtype", "finite", "unknown", "head"],
)
def test_unusable_tensors_are_refused(model, change, message):
    change_tensors(model, change)
    assert refusal(model) == f"model.safetensors: tensor {message}"


def test_missing_free_head_is_refused(model):
    change_config(model, tie_word_embeddings=False)
    assert refusal(model) == (
        f"model.safetensors: tensor '{HEAD}' is missing; it must be there with shape (10, 8)"
    )


def test_layers_that_no_memory_could_hold_are_refused_at_once(model):
    change_config(model, num_hidden_layers=10**18)
    assert "tensor 'model.layers.2.input_layernorm.weight' is missing" in refusal(model)


def test_bfloat16_that_is_not_finite_is_refused(model):
    file = model / "model.safetensors"
    tensors = load_file(file)
    tensors[NORM].view(np.uint32)[:3] = [0x7F810000, 0x7F800000, 0xFF800000]
    write_bfloat16(file, tensors)
    assert "has 1 NaN and 2 infinite of 8 values" in refusal(model)


@pytest.mark.filterwarnings("error")
def test_signalling_nan_in_float16_is_refused_without_a_warning(model):
    change_tensors(model, put(NORM, lambda t: np.full(8, 0x7C01, np.uint16).view(np.float16)))
    assert "has 8 NaN and 0 infinite of 8 values" in refusal(model)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map is missing; it must be an object from tensor names to file names"),
        (
            {"weight_map": {Q: 3}},
            f"weight_map['{Q}'] is 3; it must be a safetensors file beside it",
        ),
        (
            {"weight_map": {Q: "../a.safetensors"}},
            f"weight_map['{Q}'] is '../a.safetensors'; it must be a safetensors file beside it",
        ),
        ({"weight_map": {}}, f"tensor '{EMBED}' is missing; it must be there with shape (10, 8)"),
    ],
    ids=["no-map", "number", "folder", "empty"],
)
def test_unusable_indices_of_shards_are_refused(model, index, message):
    file = split_into_shards(model)
    file.write_text(json.dumps(index))
    assert refusal(model) == f"{file.name}: {message}"


def test_missing_shard_is_refused(model):
    split_into_shards(model)
    (model / "model-00002-of-00002.safetensors").unlink()
    assert refusal(model) == (
        "model-00002-of-00002.safetensors: cannot be read (No such file or directory); it must be "
        "a safetensors file"
    )


def loads(model: Path) -> bool:
    """Return whether the model loads; any error but a UserError of one line passes through."""
    with contextlib.suppress(UserError):
        load_checkpoint(model)
        return True
    refusal(model)
    return False


def test_every_truncation_of_safetensors_is_refused(model):
    file = model / "model.safetensors"
    content = file.read_bytes()
    header = 8 + struct.unpack("<Q", content[:8])[0]
    for length in [*range(0, header, 7), *range(header, len(content), 97), len(content) - 1]:
        file.write_bytes(content[:length])
        assert not loads(model), length


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "index"])
def test_damage_to_any_file_ends_in_a_user_error_or_a_checkpoint(model, name):
    rng = random.Random(SEED)
    file = split_into_shards(model) if name == "index" else model / name
    content = file.read_bytes()
    # The bytes of tensors may hold anything finite; only the header is damaged.
    reach = 8 + struct.unpack("<Q", content[:8])[0] if name.endswith("tensors") else len(content)
    for case in range(1000):
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 3)):
            place = rng.randrange(reach)
            # A flipped bit, or a character that JSON gives a meaning to.
            flipped = damaged[place] ^ 1 << rng.randrange(8)
            damaged[place] = rng.choice([flipped, *rng.choices(b'0123456789-.e"{}[],: ')])
        file.write_bytes(damaged)
        try:
            loads(model)
        except BaseException as error:
            error.add_note(f"seed {SEED}, case {case}: {bytes(damaged)!r}")
            raise


@pytest.mark.skipif(not STORIES.is_dir(), reason="shared/models/stories260K is not beside the repo")
def test_real_checkpoint_loads():
    checkpoint = load_checkpoint(STORIES)
    assert (checkpoint.layers, checkpoint.kv_heads, checkpoint.ffn) == (5, 4, 172)
    assert sum(tensor.size for tensor in checkpoint.tensors.values()) == 260_032

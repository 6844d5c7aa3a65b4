"""GGUF files: the same weights as in the Hugging Face directory, and one line for each bad one."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from models import write_random_llama

from waterclock.compiler.checkpoint import Checkpoint, load_checkpoint
from waterclock.compiler.gguf import load_gguf, open_gguf
from waterclock.compiler.gguf_tokenizer import gguf_chat_template, gguf_tokenizer
from waterclock.isa.errors import UserError

NAMES = {
    "attn_norm": "attn_norm", "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
    "ffn_norm": "ffn_norm", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down",
    "q_bias": "attn_q.bias", "k_bias": "attn_k.bias", "v_bias": "attn_v.bias",
}  # fmt: skip
TEXT = "Once upon a time, in 2024, a café ..."


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    sizes = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96, "vocab": 300}
    directory = write_random_llama(tmp_path / "tiny", **sizes, layers=2, tied=False, seed=3)
    return load_checkpoint(directory)


def _interleaved(weights: np.ndarray, heads: int) -> np.ndarray:
    """Return rows of q or k as llama.cpp's converter orders them."""
    rows, columns = weights.shape
    halves = weights.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)


def _byte_tokens() -> list[str]:
    """Return the characters for the 256 bytes that byte-level BPE has."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in shown]
    character = {byte: chr(byte) for byte in shown}
    character |= {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [character[byte] for byte in range(256)]


def write(
    file: Path,
    checkpoint: Checkpoint,
    kind: Kind = Kind.F32,
    change: Callable[[dict[str, np.ndarray]], object] = lambda tensors: None,
    architecture: str = "llama",
    model: str = "gpt2",
    extra: Callable[[gguf.GGUFWriter], object] = lambda writer: None,
) -> Path:
    """Write a checkpoint as GGUF, matrices in the quantisation ``kind``."""
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(checkpoint.layers)
    writer.add_embedding_length(checkpoint.hidden)
    writer.add_head_count(checkpoint.heads)
    writer.add_head_count_kv(checkpoint.kv_heads)
    writer.add_feed_forward_length(checkpoint.ffn)
    writer.add_context_length(checkpoint.context)
    writer.add_rope_freq_base(checkpoint.rope_theta)
    writer.add_layer_norm_rms_eps(checkpoint.norm_eps)
    writer.add_tokenizer_model(model)
    special = ["<unk>", "<s>", "</s>"]
    tokens = [*special, *_byte_tokens(), "Ġt", "on"]
    if model == "llama":
        pieces = ["▁", "o", "n", "on", "▁on", "c", "e", "ce"]
        tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
        writer.add_token_scores([0.0] * 259 + [-float(rank) for rank in range(len(pieces))])
    tokens += [f"<{number}>" for number in range(checkpoint.vocab - len(tokens))]
    writer.add_token_list(tokens)
    types = [3] * 3 + [6 if token.startswith("<0x") else 1 for token in tokens[3:]]
    writer.add_token_types(types)
    writer.add_token_merges(["Ġ t", "o n"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    tensors = {"token_embd": checkpoint.tensors["embed"], "output": checkpoint.tensors["head"]}
    tensors["output_norm"] = checkpoint.tensors["final_norm"]
    for layer in range(checkpoint.layers):
        for ours, theirs in NAMES.items():
            if f"layers.{layer}.{ours}" not in checkpoint.tensors:
                continue
            values = checkpoint.tensors[f"layers.{layer}.{ours}"]
            if ours in "qk" and architecture == "llama":
                heads = checkpoint.heads if ours == "q" else checkpoint.kv_heads
                values = _interleaved(values, heads)
            tensors[f"blk.{layer}.{theirs}"] = values
    change(tensors)
    extra(writer)
    for name, values in tensors.items():
        whole = name if name.endswith(".bias") else f"{name}.weight"
        if values.ndim == 1 or kind == Kind.F32:
            writer.add_tensor(whole, np.ascontiguousarray(values))
        else:
            data = gguf.quantize(np.ascontiguousarray(values), kind)
            writer.add_tensor(whole, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_float_file_has_the_weights_of_the_directory(tmp_path: Path, checkpoint: Checkpoint):
    found = load_gguf(open_gguf(write(tmp_path / "tiny.gguf", checkpoint)))
    assert found.tensors.keys() == checkpoint.tensors.keys()
    for name, values in checkpoint.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], values, name)
    for field in ("layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab", "context"):
        assert getattr(found, field) == getattr(checkpoint, field)
    assert found.norm_eps == pytest.approx(checkpoint.norm_eps)
    assert (found.bos, found.eos, found.tied, found.name) == (1, (2,), False, "tiny")


@pytest.mark.parametrize(
    ("kind", "steps"), [(Kind.F16, 2048), (Kind.BF16, 256), (Kind.Q8_0, 250), (Kind.Q4_1, 14)]
)
def test_quantised_file_has_the_weights_within_its_steps(
    tmp_path: Path, checkpoint: Checkpoint, kind: Kind, steps: int
):
    found = load_gguf(open_gguf(write(tmp_path / "tiny.gguf", checkpoint, kind)))
    for name, values in checkpoint.tensors.items():
        error = np.abs(found.tensors[name] - values).max()
        assert error <= np.abs(values).max() * 2 / steps, name
        assert (error > 0) == (values.ndim > 1), name


def test_byte_level_tokenizer_goes_there_and_back(tmp_path: Path, checkpoint: Checkpoint):
    file = write(tmp_path / "tiny.gguf", checkpoint)
    tokenizer = gguf_tokenizer(open_gguf(file))
    ids = tokenizer.encode(TEXT).ids
    assert tokenizer.decode(ids) == TEXT
    assert tokenizer.token_to_id("Ġt") in ids  # a merge was used
    assert tokenizer.encode("<s>" + TEXT).ids == [1, *ids]


def test_sentence_piece_tokenizer_merges_by_score(tmp_path: Path, checkpoint: Checkpoint):
    file = open_gguf(write(tmp_path / "tiny.gguf", checkpoint, model="llama"))
    tokenizer = gguf_tokenizer(file)
    assert tokenizer.encode("once").tokens == ["<s>", "▁on", "ce"]
    assert tokenizer.encode("é", add_special_tokens=False).tokens == ["▁", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(tokenizer.encode("once é").ids) == "once é"


@pytest.mark.parametrize(
    ("pre", "words"),
    [
        ("default", ["a", "Ġ123", "+", "b", "ĠĠ", "Ġc", "'ll"]),
        ("smollm", ["a", "Ġ", "1", "2", "3", "+", "b", "ĠĠ", "Ġc", "'ll"]),
        ("llama-bpe", ["a", "Ġ", "123", "+b", "ĠĠ", "Ġc", "'ll"]),
        ("qwen2", ["a", "Ġ", "1", "2", "3", "+b", "ĠĠ", "Ġc", "'ll"]),
    ],
)
def test_byte_level_tokenizer_splits_as_the_file_says(
    tmp_path: Path, checkpoint: Checkpoint, pre: str, words: list[str]
):
    def extra(writer: gguf.GGUFWriter) -> None:
        writer.add_tokenizer_pre(pre)
        writer.add_add_bos_token(True)
        writer.add_chat_template("{{ messages }}")

    file = open_gguf(write(tmp_path / "tiny.gguf", checkpoint, extra=extra))
    tokenizer = gguf_tokenizer(file)
    assert tokenizer.pre_tokenizer is not None
    found = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("a 123+b   c'll")]
    assert found == words
    assert tokenizer.encode("a").ids[0] == 1
    assert gguf_chat_template(file) == "{{ messages }}"


def test_biases_of_qwen2_are_read_and_its_rows_left_alone(tmp_path: Path, checkpoint: Checkpoint):
    rng = np.random.default_rng(7)
    biases = {
        f"layers.{layer}.{name}_bias": rng.normal(0, 1, size).astype(np.float32)
        for layer in range(2)
        for name, size in {"q": 64, "k": 32, "v": 32}.items()
    }
    wanted = replace(checkpoint, biased=True, tensors=checkpoint.tensors | biases)
    found = load_gguf(open_gguf(write(tmp_path / "tiny.gguf", wanted, architecture="qwen2")))
    assert found.biased
    assert found.tensors.keys() == wanted.tensors.keys()
    for name, values in wanted.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], values, name)


def test_scaled_rope_is_read(tmp_path: Path, checkpoint: Checkpoint):
    factors = np.linspace(1, 8, 8, dtype=np.float32)
    file = write(
        tmp_path / "tiny.gguf", checkpoint, change=lambda t: t.update({"rope_freqs": factors})
    )
    np.testing.assert_array_equal(load_gguf(open_gguf(file)).tensors["rope_factors"], factors)

    def linear(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)

    file = write(tmp_path / "tiny.gguf", checkpoint, extra=linear)
    assert load_gguf(open_gguf(file)).tensors["rope_factors"].tolist() == [4.0] * 8

    def yarn(writer: gguf.GGUFWriter) -> None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)

    file = write(tmp_path / "tiny.gguf", checkpoint, extra=yarn)
    with pytest.raises(UserError, match=r"rope.scaling.type is 'yarn'; it must be 'none' or"):
        load_gguf(open_gguf(file))


def test_foreign_split_is_refused(tmp_path: Path, checkpoint: Checkpoint):
    file = write(tmp_path / "bad.gguf", checkpoint, extra=lambda w: w.add_tokenizer_pre("tekken"))
    with pytest.raises(UserError, match=r"tokenizer.ggml.pre is 'tekken'; it must be one of def"):
        gguf_tokenizer(open_gguf(file))


def _damaged(tmp_path: Path, checkpoint: Checkpoint, damage: str) -> Path:
    """Return a file with a fault."""
    file = tmp_path / "bad.gguf"
    norm = "blk.1.attn_norm"
    match damage:
        case "missing":
            pass
        case "foreign":
            file.write_bytes(b"PK\3\4" + bytes(100))
        case "truncated":
            whole = write(file, checkpoint).read_bytes()
            file.write_bytes(whole[: len(whole) * 2 // 3])
        case "architecture":
            write(file, checkpoint, architecture="mamba")
        case "quantisation":
            write(file, checkpoint, Kind.Q5_0)
        case "lacking":
            write(file, checkpoint, change=lambda tensors: tensors.pop(norm))
        case "shape":
            write(file, checkpoint, change=lambda t: t.update({norm: np.ones(3, np.float32)}))
        case "infinite":
            write(file, checkpoint, change=lambda t: t.update({norm: t[norm] + np.inf}))
        case "unknown":
            write(file, checkpoint, change=lambda t: t.update({"blk.0.attn_q_bias": t[norm]}))
    return file


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("missing", r"cannot be read \(No such file"),
        ("foreign", r"is damaged or no GGUF file"),
        ("truncated", r"is damaged or no GGUF file"),
        ("architecture", r"general.architecture is 'mamba'; it must be one of llama, qwen2"),
        (
            "quantisation",
            r"tensor 'token_embd.weight' has quantisation Q5_0; it must be one of F32",
        ),
        ("lacking", r"tensor 'blk.1.attn_norm.weight' is missing"),
        ("shape", r"tensor 'blk.1.attn_norm.weight' has shape \(3,\); it must be \(64,\)"),
        ("infinite", r"tensor 'blk.1.attn_norm.weight' has NaN or infinite"),
        ("unknown", r"tensor 'blk.0.attn_q_bias.weight' is unknown"),
    ],
)
def test_bad_file_is_one_clear_line(
    tmp_path: Path, checkpoint: Checkpoint, damage: str, message: str
):
    file = _damaged(tmp_path, checkpoint, damage)
    with pytest.raises(UserError, match=rf"^\S+bad.gguf: {message}") as found:
        load_gguf(open_gguf(file))
    assert "\n" not in str(found.value)


def test_tokenizer_of_another_kind_is_refused(tmp_path: Path, checkpoint: Checkpoint):
    file = write(tmp_path / "bad.gguf", checkpoint, model="bert")
    with pytest.raises(UserError, match=r"tokenizer.ggml.model is 'bert'; it must be 'gpt2' or"):
        gguf_tokenizer(open_gguf(file))

"""Quality of real checkpoints by the tensor model, and cycles of the smaller one."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from models import write_random_llama
from shared import smollm2, stories260k
from tokenizers import Tokenizer

from waterclock.api import loaded, tokenizer_of
from waterclock.compiler.checkpoint import Checkpoint, load_checkpoint
from waterclock.compiler.compile import compile_model
from waterclock.compiler.quantise import quantise
from waterclock.compiler.rounding import Inputs, quantise_rows
from waterclock.compiler.source import load_source
from waterclock.conversation import question
from waterclock.isa.config import load_config
from waterclock.isa.program import QuantisedModel
from waterclock.sim.engines import TensorEngine
from waterclock.sim.reference import Reference, nll
from waterclock.sim.tensor import TensorModel

STORY_FOLDER = Path(__file__).resolve().parents[2] / "compiler" / "story"


def test_int8_weights_follow_the_float_reference() -> None:
    folder, runs = stories260k()
    reference = Reference(load_checkpoint(folder))
    model = TensorEngine(loaded(folder)).model
    agreed = total = 0
    losses, wanted = [], []
    for known in runs:
        ids = known["prompt_ids"] + known["greedy_ids"]
        logits = model.logits(ids)
        chosen = logits[len(known["prompt_ids"]) - 1 : -1].argmax(axis=1)
        same = chosen == known["greedy_ids"]
        agreed, total = agreed + int(same.sum()), total + len(same)
        losses.append(nll(logits, ids))
        wanted.append(nll(reference.logits(ids), ids))
        if not same.all():
            assert known["top2_gap"][int(same.argmin())] < 0.05
    assert total == 800
    assert agreed >= 0.98 * total, agreed
    ratio = np.exp(np.concatenate(losses).mean() - np.concatenate(wanted).mean())
    assert abs(ratio - 1) <= 0.005, ratio


def test_a_token_of_stories260k_takes_at_most_3000_cycles() -> None:
    folder, _ = stories260k()
    program = compile_model(load_checkpoint(folder), load_config("small"), 64)
    assert program.schedules[0].cycles <= 3000
    assert program.limit_cycles <= program.schedules[0].cycles


def _english(count: int) -> Sequence[str]:
    """Return stories of the generator that trained the embedded model: text of our own."""
    sys.path.insert(0, str(STORY_FOLDER))
    try:
        from text import stories  # pyright: ignore[reportMissingImports]
    finally:
        sys.path.remove(str(STORY_FOLDER))
    return stories(count, 7)


def test_activations_in_digits_follow_the_float_reference() -> None:
    # Units of 2^-17 instead of 2^-24, see ``isa.mxm.fraction_bits``.
    models = {preset: loaded(preset=preset, context=256) for preset in ("small", "nano")}
    tokenizer = tokenizer_of(models["small"])
    assert tokenizer is not None
    reference = Reference(load_checkpoint(STORY_FOLDER))
    texts = [tokenizer.encode(text).ids[:256] for text in _english(8)]
    losses = {
        preset: np.concatenate([nll(TensorEngine(model).model.logits(ids), ids) for ids in texts])
        for preset, model in models.items()
    }
    wanted = np.concatenate([nll(reference.logits(ids), ids) for ids in texts])
    ratios = {preset: np.exp(loss.mean() - wanted.mean()) for preset, loss in losses.items()}
    print(len(wanted), "tokens", ratios)
    assert abs(ratios["nano"] - 1) <= 0.01, ratios
    assert abs(ratios["nano"] - ratios["small"]) <= 0.002, ratios


def test_a_cache_of_8_bits_follows_the_float_reference() -> None:
    folder, runs = stories260k()
    reference = Reference(load_checkpoint(folder))
    model = TensorEngine(loaded(folder, cache_bits=8)).model
    texts = [known["prompt_ids"] + known["greedy_ids"] for known in runs]
    loss = np.concatenate([nll(model.logits(ids), ids) for ids in texts])
    wanted = np.concatenate([nll(reference.logits(ids), ids) for ids in texts])
    ratio = np.exp(loss.mean() - wanted.mean())
    print(len(wanted), "tokens", ratio)
    assert abs(ratio - 1) <= 0.02, ratio


@dataclass(frozen=True)
class SmolLM2:
    """The model as the machine has it, its tokenizer, and the float model of the same file."""

    model: QuantisedModel
    tokenizer: Tokenizer
    reference: Reference

    def both(self, prompt: list[int], count: int) -> tuple[list[int], list[int], list[float]]:
        """Return what machine and float model say to a prompt, and the float model's gaps."""
        steps = list(TensorEngine(self.model).run(prompt, len(prompt) + count - 1))
        wanted, gaps = self.reference.generate(prompt, count)
        return [step.next for step in steps][len(prompt) - 1 :], wanted, gaps


@pytest.fixture(scope="module")
def smol() -> SmolLM2:
    path = smollm2()
    model = loaded(path, "medium")
    tokenizer = tokenizer_of(model)
    assert tokenizer is not None
    return SmolLM2(model, tokenizer, Reference(load_source(path).checkpoint))


@pytest.mark.long
def test_smollm2_tells_what_the_float_model_tells(smol: SmolLM2) -> None:
    found, wanted, gaps = smol.both(smol.tokenizer.encode("Once upon a time").ids, 40)
    parted = [i for i, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b]
    print(f"parts at {parted[:1]} of 40 tokens")
    if parted:
        assert gaps[parted[0]] < 0.1, (parted[0], gaps[parted[0]])


@pytest.mark.long
def test_smollm2_knows_the_capital_of_france(smol: SmolLM2) -> None:
    found, wanted, _ = smol.both(question(smol.model, "What is the capital of France?"), 8)
    assert found == wanted
    assert "Paris" in smol.tokenizer.decode(found)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["stories", "manual"])
def test_smollm2_is_as_perplexed_as_the_float_model(smol: SmolLM2, kind: str) -> None:
    docs = Path(__file__).resolve().parents[2] / "docs"
    pages = [(docs / name).read_text() for name in ("architecture.md", "compiler.md")]
    text = "\n\n".join(_english(12) if kind == "stories" else pages)
    ids = smol.tokenizer.encode(text).ids[:1024]
    assert len(ids) == 1024
    model = TensorEngine(smol.model).model
    ratio = np.exp(nll(model.logits(ids), ids).mean() - nll(smol.reference.logits(ids), ids).mean())
    print(f"{kind}: perplexity {ratio:.4f} of the float model's")
    assert abs(ratio - 1) <= 0.01, ratio


def test_weights_make_up_for_the_rounding_of_those_of_larger_inputs() -> None:
    rng = np.random.default_rng(3)
    inputs = rng.normal(0, 1, (400, 96)) @ rng.normal(0, 1, (96, 96))
    inputs[:, ::12] *= 30
    weights = rng.normal(0, 1, (50, 96))
    moments = inputs.T @ inputs / len(inputs)
    errors = []
    for known in (None, Inputs(moments)):
        integers, scales = quantise_rows(weights, known)
        assert np.abs(integers).max() == 127
        errors.append(np.std(inputs @ (integers * scales[:, None] - weights).T))
    assert errors[1] < 0.7 * errors[0], errors


def _biased(folder: Path) -> Checkpoint:
    """Return a random model with biases and stretched wavelengths."""
    sizes = {"hidden": 64, "heads": 4, "kv_heads": 2, "head_dim": 16, "ffn": 96, "vocab": 80}
    checkpoint = load_checkpoint(write_random_llama(folder, **sizes, layers=2, tied=False, seed=5))
    rng = np.random.default_rng(6)
    tensors = dict(checkpoint.tensors)
    for layer in range(2):
        for name in ("q", "k", "v"):
            size = len(tensors[f"layers.{layer}.{name}"])
            bias = rng.normal(0, 3 if name == "k" else 1, size)
            tensors[f"layers.{layer}.{name}_bias"] = bias.astype(np.float32)
    tensors["rope_factors"] = np.linspace(1, 8, 8, dtype=np.float32)
    return Checkpoint(**{**vars(checkpoint), "biased": True, "tensors": tensors})


def test_biases_and_scaled_rope_follow_the_float_reference(tmp_path: Path) -> None:
    checkpoint = _biased(tmp_path)
    quantised = quantise(checkpoint)
    ids = np.random.default_rng(7).integers(0, 80, 60).tolist()
    found = TensorModel(quantised.model, quantised.tensors, 16, 4).logits(ids)
    wanted = Reference(checkpoint).logits(ids)
    assert np.abs(found - wanted).max() / wanted.std() < 0.1
    # They matter, in both.
    plain = {k: v for k, v in checkpoint.tensors.items() if "bias" not in k and "rope" not in k}
    without = Checkpoint(**{**vars(checkpoint), "biased": False, "tensors": plain})
    assert np.abs(Reference(without).logits(ids) - wanted).max() / wanted.std() > 0.5

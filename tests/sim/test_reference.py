"""The reference against Hugging Face, against recorded continuations and against itself."""

import json
from pathlib import Path

import numpy as np
import pytest
from models import write_random_llama

from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.sim.reference import Reference, nll, perplexity

STORIES = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260K"
SEED = 20240615


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "free"])
def reference(request, tmp_path_factory) -> Reference:
    """A random model whose queries are wider than its hidden size and whose groups are of 3."""
    directory = write_random_llama(
        tmp_path_factory.mktemp("model"),
        hidden=40,
        heads=6,
        kv_heads=2,
        head_dim=8,
        ffn=56,
        vocab=97,
        layers=2,
        tied=request.param,
        seed=SEED,
        context=48,
    )
    return Reference(load_checkpoint(directory))


def random_ids(reference: Reference, n: int) -> list[int]:
    return np.random.default_rng(SEED).integers(0, reference.model.vocab, n).tolist()


def test_step_by_step_equals_the_whole_sequence(reference):
    ids = random_ids(reference, 48)
    whole = reference.logits(ids)
    reference.reset()
    steps = np.stack([reference.step(token) for token in ids])
    assert whole.shape == (48, 97)
    assert whole.dtype == steps.dtype == np.float32
    np.testing.assert_allclose(steps, whole, atol=2e-5, err_msg=f"seed {SEED}")


def test_logits_never_depend_on_later_tokens(reference):
    ids = random_ids(reference, 20)
    changed = [*ids[:12], *(96 - token for token in ids[12:])]
    np.testing.assert_allclose(
        reference.logits(changed)[:12], reference.logits(ids)[:12], atol=2e-5
    )


def test_whole_sequence_leaves_the_cache_of_steps_alone(reference):
    ids = random_ids(reference, 10)
    reference.reset()
    for token in ids[:-1]:
        reference.step(token)
    whole = reference.logits(ids)
    np.testing.assert_allclose(reference.step(ids[-1]), whole[-1], atol=2e-5)


def test_reset_starts_again_from_position_zero(reference):
    reference.reset()
    first = reference.step(5)
    second = reference.step(5)
    reference.reset()
    assert np.array_equal(reference.step(5), first)
    # A lone token attends only to itself; the second sees two equal keys and the same value.
    np.testing.assert_allclose(second, first, atol=2e-5)


def test_moments_are_those_of_what_enters_the_matrices(reference):
    model = reference.model
    texts = [random_ids(reference, 9), random_ids(reference, 5)]
    moments = reference.moments(texts)
    size, group = model.head_dim, model.heads // model.kv_heads
    for layer in range(model.layers):
        name = f"layers.{layer}."
        # What enters o is what values make of the mixed inputs.
        values = model.tensors[name + "v"] * model.tensors[name + "attn_norm"].astype(np.float64)
        blocks = moments[name + "o"].reshape(model.kv_heads, group, size, -1, group, size)
        for head, rows in enumerate(np.split(values, model.kv_heads)):
            mixed = sum(blocks[head, member, :, head, member] for member in range(group))
            np.testing.assert_allclose(rows @ moments[name + "v"][head] @ rows.T, mixed, atol=1e-9)
    # The head's inputs are normalised.
    np.testing.assert_allclose(np.trace(moments["final"]), len(moments["final"]), rtol=1e-4)
    # Twice the same texts are the same text.
    for name, found in reference.moments(texts * 2).items():
        np.testing.assert_allclose(found, moments[name], rtol=1e-9)


def test_generate_takes_the_best_token_and_reports_its_lead(reference):
    prompt = random_ids(reference, 5)
    ids, gaps = reference.generate(prompt, 12)
    logits = reference.logits([*prompt, *ids])[4:-1]
    ranked = np.sort(logits, axis=-1)
    assert ids == np.argmax(logits, axis=-1).tolist()
    np.testing.assert_allclose(gaps, ranked[:, -1] - ranked[:, -2], atol=4e-5)
    assert reference.generate(prompt, 0) == ([], [])


def test_generate_takes_the_lowest_id_when_logits_are_equal(tmp_path):
    directory = write_random_llama(
        tmp_path,
        hidden=8,
        heads=2,
        kv_heads=1,
        head_dim=4,
        ffn=8,
        vocab=6,
        layers=1,
        tied=False,
        seed=SEED,
    )
    checkpoint = load_checkpoint(directory)
    checkpoint.tensors["head"][:] = 0
    assert Reference(checkpoint).generate([3], 4) == ([0, 0, 0, 0], [0.0, 0.0, 0.0, 0.0])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([], "must be a non-empty row of integers"),
        ([1.5], "must be a non-empty row of integers"),
        ([[1, 2]], "must be a non-empty row of integers"),
        ([0, 97], "token ids from 0 to 97 must be below the vocabulary of 97"),
        ([-1, 3], "token ids from -1 to 3 must be below the vocabulary of 97"),
        ([1] * 49, "position 48 is beyond the context of 48"),
    ],
)
def test_bad_token_ids_are_refused(reference, ids, message):
    with pytest.raises(ValueError, match=message):
        reference.logits(ids)


def test_steps_and_continuations_beyond_the_context_are_refused(reference):
    reference.reset()
    for _ in range(48):
        reference.step(1)
    with pytest.raises(ValueError, match="position 48 is beyond the context of 48"):
        reference.step(1)
    with pytest.raises(ValueError, match="a prompt of 40 tokens and 9 more exceed the context"):
        reference.generate([1] * 40, 9)


def test_extreme_activations_stay_finite_and_raise_no_warning(tmp_path):
    directory = write_random_llama(
        tmp_path,
        hidden=8,
        heads=2,
        kv_heads=1,
        head_dim=4,
        ffn=8,
        vocab=6,
        layers=1,
        tied=True,
        seed=SEED,
    )
    checkpoint = load_checkpoint(directory)
    for name in ("q", "k", "gate"):
        checkpoint.tensors[f"layers.0.{name}"][:] *= 1e4
    with np.errstate(over="raise", invalid="raise", divide="raise"):
        assert np.isfinite(Reference(checkpoint).logits([0, 1, 2, 3])).all()


def test_nll_of_equal_logits_is_the_logarithm_of_the_vocabulary():
    logits = np.full((3, 10), 800.0, np.float32)
    np.testing.assert_allclose(nll(logits, [1, 2, 3]), np.log([10, 10]))
    assert perplexity(logits, [1, 2, 3]) == pytest.approx(10)


def test_nll_scores_each_token_by_the_row_before_it():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8], [1.0, 1.0, 1.0]])
    np.testing.assert_allclose(nll(logits, [0, 1, 2]), -np.log([0.25, 0.8]))
    assert perplexity(logits, [0, 1, 2]) == pytest.approx((0.25 * 0.8) ** -0.5)


@pytest.mark.parametrize("ids", [[1], [1, 2], [1, 2, 3, 4]])
def test_nll_refuses_rows_that_do_not_match_the_tokens(ids):
    with pytest.raises(ValueError, match="must have a row for each"):
        nll(np.zeros((3 if len(ids) > 1 else 1, 5)), ids)


@pytest.mark.skipif(not STORIES.is_dir(), reason="shared/models/stories260K is not beside the repo")
@pytest.mark.parametrize("run", range(4))
def test_continuations_equal_those_recorded_from_hugging_face(run):
    recorded = json.loads((STORIES / "reference.json").read_text(encoding="utf-8"))["runs"][run]
    reference = Reference(load_checkpoint(STORIES))
    ids, gaps = reference.generate(recorded["prompt_ids"], len(recorded["greedy_ids"]))
    assert ids == recorded["greedy_ids"]
    # The record is rounded to 4 decimals.
    np.testing.assert_allclose(gaps, recorded["top2_gap"], atol=2e-4)
    tokens = [*recorded["prompt_ids"], *ids]
    mean_nll = nll(reference.logits(tokens), tokens).mean()
    assert mean_nll == pytest.approx(recorded["mean_nll"], abs=1e-4)


def test_logits_equal_those_of_hugging_face(tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    torch = pytest.importorskip("torch", reason="torch is not installed")
    directory = write_random_llama(
        tmp_path,
        hidden=72,
        heads=6,
        kv_heads=2,
        head_dim=12,
        ffn=200,
        vocab=331,
        layers=3,
        tied=False,
        seed=SEED,
    )
    model = transformers.LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    reference = Reference(load_checkpoint(directory))
    ids = random_ids(reference, 256)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    np.testing.assert_allclose(reference.logits(ids), expected, atol=2e-5, err_msg=f"seed {SEED}")

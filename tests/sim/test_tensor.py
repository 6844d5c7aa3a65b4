"""The tensor model's shortcuts: float64 products are exact, blocks change no bit."""

from pathlib import Path

import numpy as np
import pytest
from models import write_random_llama

from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.compiler.quantise import quantise
from waterclock.isa import numerics as fp
from waterclock.sim.tensor import (
    I8_MOST,
    POSITIONS,
    TensorModel,
    exact,
    rotations,
    sum_of_squares,
    widened,
)

F16_MOST = 65504 << 24  #: in units of 2^-24


@pytest.mark.parametrize("reach", [1 << 10, 1 << 30, F16_MOST])
@pytest.mark.parametrize("rows", [(), (3,), (2, 3)])
def test_products_are_those_of_64_bit_integers(reach: int, rows: tuple[int, ...]) -> None:
    seed = reach + len(rows)
    rng = np.random.default_rng(seed)
    for terms, outs in ((1, 5), (576, 700), (4096, 40)):
        weights = rng.integers(-128, 128, (outs, terms)).astype(np.int8)
        activations = rng.integers(-reach, reach + 1, (*rows, terms))
        found = exact(lambda a, w=weights: widened(w, a), activations, I8_MOST)
        wanted = fp.fixed_to_f32(activations @ weights.T.astype(np.int64))
        np.testing.assert_array_equal(found.view(np.uint32), wanted.view(np.uint32), str(seed))


def test_a_rotation_of_two_factors_is_that_of_their_sum(tmp_path: Path) -> None:
    sizes = {"hidden": 16, "heads": 2, "kv_heads": 2, "head_dim": 8, "ffn": 24, "vocab": 40}
    write_random_llama(tmp_path, **sizes, layers=1, tied=True, seed=1)
    checkpoint = load_checkpoint(tmp_path)
    whole = quantise(checkpoint).tensors
    short = quantise(checkpoint, fold=True, share=True).tensors
    assert len(short["rope.cos"]) < checkpoint.context
    found = rotations(checkpoint.context, short)
    for angles, name in zip(found, ("cos", "sin"), strict=True):
        np.testing.assert_allclose(angles, whole[f"rope.{name}"], atol=3e-7)


def test_the_worst_activations_are_exact() -> None:
    worst = np.full((1, 8192), F16_MOST)
    worst[0, ::2] -= 1  # odd, so that the lowest bit counts
    for most, terms in ((I8_MOST, 8192), (1 << 15, 256)):
        weights = np.full((terms, 1), -most, np.float64)
        found = exact(lambda a, w=weights: a @ w, worst[:, :terms], most)
        assert found[0, 0] == np.float32(float(int(worst[0, :terms].sum()) * -most) * 2.0**-24)


def test_a_sum_of_nothing_is_positive_zero() -> None:
    weights = np.full((4, 8), -5, np.int8)
    found = exact(lambda a: widened(weights, a), np.zeros(8, np.int64), I8_MOST)
    assert found.view(np.uint32).tolist() == [0] * 4


@pytest.mark.parametrize("channels", [1, 16, 40, 64, 72, 576])
@pytest.mark.parametrize("vector", [8, 16, 32, 320])
@pytest.mark.parametrize("sums", [4, 6])
def test_the_sum_of_squares_has_the_order_of_the_vxm(channels: int, vector: int, sums: int) -> None:
    rng = np.random.default_rng(channels)
    x = (rng.normal(0, 1, channels) * 2.0 ** rng.integers(-70, 60, channels)).astype(np.float32)
    items = np.zeros(-(-channels // vector) * vector, np.float32)
    items[:channels] = fp.mul(x, x)
    rows = list(items.reshape(-1, vector))
    n = min(sums, len(rows))
    partial = [rows[(len(rows) + k) % n :: n] for k in range(n)]
    parts = []
    for part in partial:
        total = fp.add(part[0], np.float32(0)) if len(rows) > sums else part[0]
        for item in part[1:]:
            total = fp.add(item, total)
        parts.append(total)
    while len(parts) > 1:
        pairs = [fp.add(parts[i], parts[i + 1]) for i in range(0, len(parts) - 1, 2)]
        parts = [*pairs, *parts[len(parts) // 2 * 2 :]]
    wanted = fp.reduce("rsum", parts[0].view(np.uint32))
    assert sum_of_squares(x, vector, sums).view(np.uint32) == wanted
    assert sum_of_squares(np.stack([x, -x]), vector, sums).view(np.uint32).tolist() == [wanted] * 2
    x[channels // 2] = np.nan
    assert sum_of_squares(x, vector, sums).view(np.uint32) == fp.NAN


def test_blocks_of_positions_give_the_bits_of_single_steps(tmp_path: Path) -> None:
    sizes = {"hidden": 72, "heads": 6, "kv_heads": 2, "head_dim": 12, "ffn": 200, "vocab": 331}
    write_random_llama(tmp_path, **sizes, layers=2, tied=False, seed=5)
    quantised = quantise(load_checkpoint(tmp_path))
    model = TensorModel(quantised.model, quantised.tensors, 16, 4)
    ids = np.random.default_rng(1).integers(0, 331, POSITIONS + 30).tolist()
    whole = model.logits(ids)
    model.reset()
    single = np.array([model.step(token) for token in ids])
    np.testing.assert_array_equal(whole.view(np.uint32), single.view(np.uint32))
    model.reset(40)  # what came later is forgotten
    np.testing.assert_array_equal(model.feed(ids[40:60]), whole[40:60])


def test_what_cannot_be_fed_is_refused(tmp_path: Path) -> None:
    sizes = {"hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 48, "vocab": 40}
    write_random_llama(tmp_path, **sizes, layers=1, tied=True, seed=3, context=4)
    quantised = quantise(load_checkpoint(tmp_path))
    model = TensorModel(quantised.model, quantised.tensors, 16, 4)
    with pytest.raises(ValueError, match="token 40 is not in the vocabulary of 40"):
        model.step(40)
    with pytest.raises(ValueError, match="the context of 4 positions is full"):
        model.feed([1] * 5)

"""Engines: the host may choose tokens, and a run may begin at any position."""

from pathlib import Path

import numpy as np
import pytest
from models import write_random_llama
from numpy.typing import NDArray

from waterclock import Program, UserError, run
from waterclock.api import engine_of
from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.compiler.compile import compile_model, quantised_model
from waterclock.isa.config import load_config
from waterclock.sim.engines import Engine, GoldenEngine, TensorEngine
from waterclock.sim.tensor import POSITIONS

SIZES = {"hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 48, "vocab": 40}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model."""
    path = tmp_path_factory.mktemp("tiny")
    return write_random_llama(path, **SIZES, layers=1, tied=True, seed=3, context=200)


@pytest.fixture(scope="module")
def program(folder: Path) -> Program:
    return compile_model(load_checkpoint(folder), load_config("small"), 64)


class Least:
    """Chooses the smallest logit, and counts."""

    count = 0

    def __call__(self, logits: NDArray[np.float32]) -> int:
        self.count += 1
        return int(logits.argmin())


def bits(engine: Engine, *args: object, **options: object) -> list[bytes]:
    return [step.logits.tobytes() for step in engine.run(*args, **options)]


@pytest.mark.parametrize("engine", [TensorEngine, GoldenEngine])
def test_a_host_chooses_tokens_after_the_prompt(program: Program, engine: type) -> None:
    least = Least()
    steps = list(engine(program).run([1, 7, 30], 6, choose=least))
    assert least.count == 4
    for step in steps[2:]:
        assert step.next == step.logits.argmin()
    fed = [1, 7, 30, *(step.next for step in steps[2:-1])]
    expected = TensorEngine(program).model.logits(fed)
    np.testing.assert_array_equal([step.logits for step in steps], expected)


@pytest.mark.parametrize("engine", [TensorEngine, GoldenEngine])
def test_a_run_goes_on_where_the_cache_ends_or_earlier(program: Program, engine: type) -> None:
    chip, ids = engine(program), [1, 7, 30, 4, 9, 2]
    whole = bits(engine(program), ids, 6)
    assert bits(chip, ids[:2], 2) == whole[:2]
    assert bits(chip, ids[2:], 4, 2) == whole[2:]
    assert bits(chip, ids[4:], 2, 4) == whole[4:]  # back
    assert bits(chip, ids, 6) == whole  # and from the beginning


def test_a_run_that_was_left_early_does_no_harm(program: Program) -> None:
    chip, ids = TensorEngine(program), [1, 7, 30, 4, 9, 2]
    whole = bits(TensorEngine(program), ids, 6)
    next(chip.run([3, 3, 3, 3], 10))
    assert bits(chip, ids, 6) == whole


def test_the_tensor_engine_needs_no_schedule(folder: Path) -> None:
    model = quantised_model(load_checkpoint(folder), load_config("small"))
    ids = np.random.default_rng(5).integers(0, SIZES["vocab"], POSITIONS + 9).tolist()
    result = run(model, ids, 5, "tensor")
    assert result.cycles_measured is result.cycles_predicted is result.limit_cycles is None
    expected = TensorEngine(model).model.logits([*ids, *result.ids[:-1]])
    np.testing.assert_array_equal(result.logits, expected)
    with pytest.raises(UserError, match=r"engine: golden runs programs, and tiny\d* is not"):
        engine_of("golden", model)


def test_a_chosen_run_is_judged(program: Program) -> None:
    result = run(program, [1, 7], 5, "golden", choose=Least())
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted
    assert result.ids == [row.argmin() for row in result.logits[1:]]

"""Whole models from checkpoint to golden machine: exact, in any shape that fits."""

from pathlib import Path

import numpy as np
import pytest
from models import write_random_llama

from waterclock import Program, run, story
from waterclock.compiler.check import check_program
from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.compiler.compile import compile_model
from waterclock.isa.config import load_config
from waterclock.sim.reference import Reference

SHAPES = {
    "odd": {"hidden": 72, "heads": 6, "kv_heads": 2, "head_dim": 12, "ffn": 200, "vocab": 331},
    "one head a vector": {
        "hidden": 64, "heads": 2, "kv_heads": 1, "head_dim": 32, "ffn": 96, "vocab": 64,
    },
    "long heads": {
        "hidden": 48, "heads": 2, "kv_heads": 2, "head_dim": 40, "ffn": 64, "vocab": 50,
    },
    "biases": {
        "hidden": 48, "heads": 4, "kv_heads": 2, "head_dim": 12, "ffn": 64, "vocab": 50,
        "biased": True,
    },
    "gains apart from weights": {
        "hidden": 136, "heads": 4, "kv_heads": 2, "head_dim": 12, "ffn": 64, "vocab": 50,
    },
}  # fmt: skip


@pytest.fixture(params=SHAPES, ids=list(SHAPES))
def shape(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Program]:
    """Return a random model's folder and program."""
    layers = {"odd": 3, "gains apart from weights": 2}.get(request.param, 1)
    sizes = SHAPES[request.param]
    write_random_llama(tmp_path, **sizes, layers=layers, tied=False, seed=5)
    return tmp_path, compile_model(load_checkpoint(tmp_path), load_config("small"), 64)


def test_a_model_in_another_shape_is_exact_and_follows_the_float_reference(
    shape: tuple[Path, Program],
) -> None:
    folder, program = shape
    check_program(program)
    result = run(program, [1, 7, 30], 8, "golden")
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted
    fed = [*result.prompt_ids, *result.ids[:-1]]
    reference = Reference(load_checkpoint(folder)).logits(fed)
    # int8 weights: 127 steps to the largest weight of a row, about 0.4 % noise a weight.
    error = np.abs(result.logits - reference).max() / reference.std()
    assert error < 0.1, error


def test_the_embedded_model_crosses_a_bucket_and_stays_exact() -> None:
    program = compile_model(load_checkpoint(story()), load_config("small"), 128)
    check_program(program)
    result = run(program, [1], 70, "golden")
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted
    small, large = (schedule.cycles for schedule in program.schedules)
    # Zero jitter: the cycles depend on the bucket and on nothing else.
    assert result.cycles_measured == [small] * 64 + [large] * 6


def test_the_embedded_model_is_exact_on_few_alus_and_wide_slices() -> None:
    program = compile_model(load_checkpoint(story()), load_config("nano"), 64)
    check_program(program)
    assert program.schedules[0].cycles <= 7500
    result = run(program, [1, 300], 4, "golden")
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted

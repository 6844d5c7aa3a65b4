"""The cache of 8 bits: exact in any machine, at half of the memory, and near the float model."""

from pathlib import Path

import numpy as np
import pytest
from models import write_random_llama
from shared import stories260k

from waterclock import compiled, run
from waterclock.api import loaded
from waterclock.compiler.check import check_program
from waterclock.isa.errors import UserError

SIZES = {"hidden": 16, "heads": 4, "kv_heads": 2, "head_dim": 8, "ffn": 24, "vocab": 40}


@pytest.mark.parametrize(("preset", "bits"), [("small", 8), ("nano", 8), ("nano", 16)])
def test_a_cache_is_exact_over_several_tiles_of_positions(
    tmp_path: Path, preset: str, bits: int
) -> None:
    write_random_llama(tmp_path, **SIZES, layers=2, tied=True, seed=3)
    # More softmax weights than nano has entries for at once: 9 tiles of 4 heads.
    program = compiled(tmp_path, preset, 72, 72, cache_bits=bits)
    check_program(program)
    assert program.model["cache_bits"] == bits
    result = run(program, [1, 7, 30], 67, "golden")
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted


def test_steps_follow_from_a_text_and_never_exceed_the_bound() -> None:
    wide, narrow = (loaded(context=64, cache_bits=bits).tensors for bits in (16, 8))
    for layer in range(4):
        # The bound over 127 would be 32,700 / 127 times as coarse.
        ratio = narrow[f"layers.{layer}.v_step"] / wide[f"layers.{layer}.v_step"]
        assert np.all(ratio <= 32700 / 127 * 1.001)
        assert ratio.mean() < 0.7 * 32700 / 127


@pytest.mark.long
def test_stories260k_fits_nano_with_128_positions() -> None:
    folder, runs = stories260k()
    program = compiled(folder, "nano", 128, cache_bits=8)
    check_program(program)
    assert [schedule.context for schedule in program.schedules] == [128]
    assert program.schedules[0].cycles * 4000 <= 42e6  # 4,000 tokens/s at 42 MHz
    result = run(program, runs[0]["prompt_ids"], 8, "golden")
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cache_bits": 12}, "cache-bits: found 12, expected 8 or 16"),
        ({"cache_bits": 8, "prefill": True}, "prefill: the cache of story has 8 bits, expected 16"),
    ],
)
def test_what_cannot_be_is_one_clear_line(arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compiled(context=64, **arguments)


@pytest.mark.long
def test_the_embedded_model_has_128_positions_on_nano() -> None:
    program = compiled(preset="nano", context=128, cache_bits=8)
    assert [schedule.context for schedule in program.schedules] == [128]  # no room for 64, too
    check_program(program)
    result = run(program, [1, 300], 4, "golden")
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted

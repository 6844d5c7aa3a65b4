"""A block of positions leaves the cache as token after token would, to the bit."""

from pathlib import Path

import numpy as np
import pytest
from models import write_random_llama

from waterclock import api
from waterclock.compiler.check import check_program
from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.compiler.compile import compile_model
from waterclock.compiler.report import report
from waterclock.isa import UserError, load_config
from waterclock.isa.program import Program, load_program, save_program
from waterclock.sim.engines import feeds

SEED = 5


def _program(folder: Path, hidden: int) -> Program:
    print(f"seed {SEED}")
    write_random_llama(
        folder, hidden=hidden, heads=4, kv_heads=2, head_dim=8, ffn=40, vocab=50, layers=2,
        tied=False, seed=SEED, context=96,
    )  # fmt: skip
    return compile_model(load_checkpoint(folder), load_config("small"), prefill=True)


@pytest.fixture(scope="module")
def program(tmp_path_factory) -> Program:
    """Heads that share vectors, a hidden size of three vectors, padding in the feed-forward."""
    return _program(tmp_path_factory.mktemp("model"), 48)


@pytest.mark.parametrize("hidden", [48, 136], ids=["gains in weights", "gains apart"])
def test_logits_after_blocks_are_those_of_the_tensor_model(tmp_path, hidden):
    program = _program(tmp_path, hidden)
    assert ("final.gain" in program.tensors) == (hidden == 136)
    prompt = np.random.default_rng(SEED).integers(0, 50, 59).tolist()  # the last block is not full
    result = api.run(program, prompt, 3, "golden")
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted
    assert (result.in_blocks, len(result.logits)) == (58, 3)
    again = api.run(program, prompt, 3, "tensor")
    assert (again.ids, again.cycles_measured) == (result.ids, result.cycles_measured)


def test_blocks_are_free_of_conflicts(program):
    proofs = check_program(program)
    assert [proof.context for proof in proofs] == [64, 96, 64, 96]


def test_blocks_begin_where_they_may_and_only_if_they_pay(program):
    token = [s.cycles for s in program.schedules if s.block == 1]
    block = next(s for s in program.schedules if s.block > 1)
    few = block.cycles // token[0]
    runs = [(f.position, f.count, f.schedule.block) for f in feeds(program, 70, 72)]
    expected = [(0, 32, 32), (32, 32, 32)]  # five tokens more are faster one by one
    assert 5 <= few < 32
    assert runs == expected + [(at, 1, 1) for at in range(64, 72)]
    later = [(f.position, f.count) for f in feeds(program, few + 4, few + 4, position=29)]
    assert later[:4] == [(29, 1), (30, 1), (31, 1), (32, 1)]


def test_programs_keep_their_blocks(program, tmp_path):
    save_program(program, tmp_path / "model.wclk")
    found = load_program(tmp_path / "model.wclk")
    assert [s.block for s in found.schedules] == [1, 1, 32, 32]


def test_report_tells_how_much_of_the_time_planes_multiply(program):
    block = next(s for s in program.schedules if s.block > 1)
    found = report(program, block)
    shares = {kind.name: kind.multiplying for kind in found.kinds}
    assert found.block == 32
    assert shares["embed"] == 0
    assert 0.5 < shares["gate_up"] <= 1
    assert min(shares.values()) <= found.linear <= 1


def test_a_chip_without_room_for_blocks_is_refused(tmp_path):
    folder = write_random_llama(
        tmp_path / "model", hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=32, vocab=32,
        layers=1, tied=True, seed=SEED, context=16,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"^prefill: preset small and a context of 16 positions"):
        compile_model(load_checkpoint(folder), load_config("small"), prefill=True)


def test_biases_are_refused(tmp_path):
    folder = write_random_llama(
        tmp_path / "model", hidden=32, heads=2, kv_heads=1, head_dim=16, ffn=32, vocab=32,
        layers=1, tied=True, seed=SEED, context=64, biased=True,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"^prefill: model has biases"):
        compile_model(load_checkpoint(folder), load_config("small"), prefill=True)

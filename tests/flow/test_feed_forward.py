"""The feed-forward block of SmolLM2's shape on medium: from MEM to MEM, near its limit."""

import numpy as np
import pytest
from models import write_random_llama

from waterclock.compiler.check import check_program
from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.compiler.compile import quantised_model
from waterclock.compiler.feed_forward import feed_forward_program
from waterclock.isa.config import load_config
from waterclock.isa.program import Program
from waterclock.isa.vxm import partial_sums
from waterclock.sim.golden import machine
from waterclock.sim.tensor import Fixed, TensorModel, fixed

MOST_CYCLES = 1500
SEED = 4


class Bare(TensorModel):
    """Its feed-forward block takes activations that are normalised already."""

    def norm(self, x: np.ndarray, factor: float = 1.0) -> np.ndarray:
        return np.ones(x.shape[:-1], np.float32)

    def entering(self, norm: str, x: np.ndarray) -> Fixed:
        return fixed(x)


@pytest.fixture(scope="module")
def block(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, np.ndarray]:
    """Return the program and what it must leave."""
    directory = write_random_llama(
        tmp_path_factory.mktemp("model"),
        hidden=576, heads=9, kv_heads=3, head_dim=64, ffn=1536, vocab=64, layers=1, tied=True,
        seed=SEED,
    )  # fmt: skip
    model = quantised_model(load_checkpoint(directory), load_config("medium"), 64)
    x = np.random.default_rng(SEED).normal(size=576).astype(np.float32)
    print("seed", SEED)
    expected = Bare(
        model.model, model.tensors, model.config.vector, partial_sums(model.config)
    ).feed_forward(0, x)
    return feed_forward_program(model, x), np.asarray(expected).reshape(-1)


def test_it_is_proven_and_near_its_limit(block):
    program, _ = block
    check_program(program)
    assert program.limit_cycles == 1296
    assert program.schedules[0].cycles <= MOST_CYCLES


def test_the_golden_machine_computes_it_to_the_bit(block):
    program, expected = block
    golden = machine(program)
    golden.run(program.schedules[0])
    found = golden.read(program.ports["logits"])
    assert np.array_equal(found.view(np.uint32), expected.view(np.uint32))


@pytest.mark.long
def test_the_chip_computes_it_to_the_bit_in_as_many_cycles(block):
    from waterclock.sim.rtl_engine import RTLEngine

    program, expected = block
    engine = RTLEngine(program)
    step = next(iter(engine.run([0], 1)))
    engine.close()
    assert np.array_equal(step.logits.view(np.uint32), expected.view(np.uint32))
    assert step.cycles == program.schedules[0].cycles

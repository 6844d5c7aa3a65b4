"""Greedy choice where logits are compared in groups: the lowest of the largest."""

from pathlib import Path

import pytest
from models import write_random_llama
from safetensors.numpy import load_file, save_file

from waterclock import run
from waterclock.compiler.check import check_program
from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.compiler.compile import compile_model
from waterclock.isa.config import load_config


@pytest.mark.parametrize(
    ("vocab", "different"),
    [
        (40, 13),  # less than a group of vectors
        (64, 64),  # a group
        (100, 31),  # the last vector is not full, the last group neither; each token four times
        (203, 90),  # an odd number of vectors in the last stencil
    ],
)
def test_the_lowest_of_equal_tokens_is_chosen(tmp_path: Path, vocab: int, different: int) -> None:
    sizes = {"hidden": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 24}
    write_random_llama(tmp_path, **sizes, vocab=vocab, layers=2, tied=True, seed=vocab)
    tensors = load_file(tmp_path / "model.safetensors")
    embed = tensors["model.embed_tokens.weight"]
    for token in range(vocab):
        embed[token] = embed[token % different]
    save_file(tensors, tmp_path / "model.safetensors")
    program = compile_model(load_checkpoint(tmp_path), load_config("nano"), 8)
    check_program(program)
    result = run(program, [1, vocab - 1, 5, 11, 7, 30, 17], 2, "golden")
    assert result.exact  # the next token after each of the prompt's, too
    assert result.cycles_measured == result.cycles_predicted
    assert max(result.ids) < different
    assert len(set(result.logits.argmax(axis=1).tolist())) > 2

"""Quality and cycles on the real checkpoint, by the tensor model."""

import numpy as np
from shared import stories260k

from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.compiler.compile import compile_model
from waterclock.compiler.quantise import quantise
from waterclock.isa.config import load_config
from waterclock.sim.reference import Reference, nll
from waterclock.sim.tensor import TensorModel


def test_int8_weights_follow_the_float_reference() -> None:
    folder, runs = stories260k()
    checkpoint = load_checkpoint(folder)
    quantised = quantise(checkpoint)
    reference = Reference(checkpoint)
    model = TensorModel(quantised.model, quantised.tensors, load_config("small").vector)
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


def test_a_token_of_stories260k_takes_at_most_4500_cycles() -> None:
    folder, _ = stories260k()
    program = compile_model(load_checkpoint(folder), load_config("small"), 64)
    assert program.schedules[0].cycles <= 4500
    assert program.limit_cycles <= program.schedules[0].cycles

"""How much of a block's time the MXMs multiply: a layer of SmolLM2-135M's shape on ``medium``.

Run by ``make bench-prefill``. All layers are equal, and weights change no cycle: they are random.
"""

import numpy as np
from rich.console import Console
from rich.table import Table

from waterclock.compiler.checkpoint import Checkpoint
from waterclock.compiler.compile import compile_model
from waterclock.compiler.report import LINEAR, report
from waterclock.isa.config import load_config

HIDDEN, KV, FFN, VOCAB, TOKENS = 576, 192, 1536, 64, 128
SHAPES = {
    "q": (HIDDEN, HIDDEN), "k": (KV, HIDDEN), "v": (KV, HIDDEN), "o": (HIDDEN, HIDDEN),
    "gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN),
}  # fmt: skip


def layer() -> Checkpoint:
    """Return a model of one layer."""
    rng = np.random.default_rng(0)
    ones = np.ones(HIDDEN, np.float32)
    tensors = {"embed": rng.normal(0, 1, (VOCAB, HIDDEN)), "final_norm": ones}
    tensors |= {"layers.0.attn_norm": ones, "layers.0.ffn_norm": ones}
    for name, shape in SHAPES.items():
        tensors[f"layers.0.{name}"] = rng.normal(0, shape[1] ** -0.5, shape)
    return Checkpoint(
        name="a layer of SmolLM2-135M", layers=1, hidden=HIDDEN, heads=9, kv_heads=3, head_dim=64,
        ffn=FFN, vocab=VOCAB, context=TOKENS, rope_theta=100_000.0, norm_eps=1e-5, tied=True,
        biased=False, tensors={name: a.astype(np.float32) for name, a in tensors.items()},
        bos=1, eos=(2,),
    )  # fmt: skip


def main() -> None:
    """Print cycles and limits of the operations, those of all blocks together."""
    program = compile_model(layer(), load_config("medium"), TOKENS, prefill=True)
    planes = 2 * program.config.planes
    cycles: dict[str, int] = {}
    products: dict[str, float] = {}
    for schedule in program.schedules:
        for operation in report(program, schedule).operations if schedule.block > 1 else ():
            name = operation.name.removeprefix("layers.0.")
            passes = operation.issues.get("mxm_abc", 0) / planes
            cycles[name] = cycles.get(name, 0) + operation.passes
            products[name] = products.get(name, 0.0) + passes
    table = Table("operation", "cycles", "all planes multiplying", "share",
                  title=f"{TOKENS} tokens through {program.name}, medium")  # fmt: skip
    linear = sum(cycles[name] for name in LINEAR), sum(products[name] for name in LINEAR)
    rows = [(name, cycles[name], products[name]) for name in cycles if products[name]]
    for name, spent, least in (*rows, ("linear layers", *linear)):
        table.add_row(name, f"{spent:,}", f"{least:,.0f}", f"{100 * least / spent:.1f} %")
    Console().print(table)


if __name__ == "__main__":
    main()

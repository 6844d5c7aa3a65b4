"""Cycles of schedules, and speed of the three engines on the embedded model.

Run by ``make bench``. Rates depend on the machine; the last column compares engines of one run.
"""

import time

import numpy as np
from rich.console import Console
from rich.table import Table

from waterclock import compiled, run
from waterclock.compiler.checkpoint import Checkpoint
from waterclock.compiler.compile import quantised_model
from waterclock.compiler.feed_forward import feed_forward_program
from waterclock.isa.config import load_config
from waterclock.isa.errors import UserError
from waterclock.isa.program import Program

TOKENS = {"tensor": 250, "golden": 20, "rtl": 250}


HIDDEN, KV, FFN = 576, 192, 1536  #: of SmolLM2-135M
SHAPES = {
    "q": (HIDDEN, HIDDEN), "k": (KV, HIDDEN), "v": (KV, HIDDEN), "o": (HIDDEN, HIDDEN),
    "gate": (FFN, HIDDEN), "up": (FFN, HIDDEN), "down": (HIDDEN, FFN),
}  # fmt: skip


def block() -> Program:
    """Return the feed-forward block of a layer of SmolLM2-135M's shape, with random weights."""
    rng = np.random.default_rng(0)
    ones = np.ones(HIDDEN, np.float32)
    tensors = {"embed": rng.normal(0, 1, (64, HIDDEN)), "final_norm": ones}
    tensors |= {"layers.0.attn_norm": ones, "layers.0.ffn_norm": ones}
    for name, shape in SHAPES.items():
        tensors[f"layers.0.{name}"] = rng.normal(0, shape[1] ** -0.5, shape)
    layer = Checkpoint(
        name="FFN of SmolLM2-135M", layers=1, hidden=HIDDEN, heads=9, kv_heads=3, head_dim=64,
        ffn=FFN, vocab=64, context=64, rope_theta=100_000.0, norm_eps=1e-5, tied=True,
        biased=False, tensors={name: a.astype(np.float32) for name, a in tensors.items()},
        bos=1, eos=(2,),
    )  # fmt: skip
    x = rng.normal(size=HIDDEN).astype(np.float32)
    return feed_forward_program(quantised_model(layer, load_config("medium")), x)


def schedules(table: Table, program: Program, seconds: float) -> None:
    """Add a row for each schedule of a program."""
    for schedule in program.schedules:
        words = sum(len(found) for found in schedule.words.values())
        table.add_row(
            program.name,
            program.config.name,
            str(schedule.context),
            f"{schedule.cycles:,}",
            f"{program.limit_cycles:,}",
            f"{schedule.cycles / program.limit_cycles:.2f}",
            f"{8 * words / 1024:,.0f} KiB",
            f"{seconds:.1f} s",
        )


def main() -> None:
    """Print the tables."""
    console = Console()
    table = Table("model", "preset", "context", "cycles", "limit", "ratio", "code", "compiled in")
    made = {}
    for model, preset, context in (
        ("story", "small", None), ("story", "medium", None), ("smollm2", "medium", 256),
    ):  # fmt: skip
        begin = time.perf_counter()
        try:
            made[model, preset] = compiled(model, preset, context)
        except UserError as error:
            console.print(f"{model}: left out: {error}")
            continue
        schedules(table, made[model, preset], time.perf_counter() - begin)
    begin = time.perf_counter()
    schedules(table, block(), time.perf_counter() - begin)
    console.print(table)
    program = made["story", "small"]
    table = Table("engine", "tokens", "cycles/s", "tokens/s", "exact", "of rtl")
    results = {name: run(program, [1], count, name) for name, count in TOKENS.items()}
    for name, result in results.items():
        table.add_row(
            name,
            str(len(result.ids)),
            f"{result.cycles_per_second:,.0f}",
            f"{len(result.ids) / result.wall_seconds:.1f}",
            "yes" if result.exact else "NO",
            f"{result.cycles_per_second / results['rtl'].cycles_per_second:.2f}",
        )
    console.print(table)


if __name__ == "__main__":
    main()

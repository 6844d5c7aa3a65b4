"""The compiler's entry: a checkpoint and a configuration become a program."""

import contextlib
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.checkpoint import Checkpoint
from waterclock.compiler.decode import Decode
from waterclock.compiler.emit import emit
from waterclock.compiler.image import Image
from waterclock.compiler.memory import Place, SetKey
from waterclock.compiler.plan import Block, Learned, NoFitError, Plan
from waterclock.compiler.prefill import Prefill
from waterclock.compiler.prefill_rows import SETS, Rows, block_size
from waterclock.compiler.quantise import quantise
from waterclock.isa.config import PRESETS, Config, load_config
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import Queue, queues
from waterclock.isa.program import Port, Program, QuantisedModel, Schedule

PERIODS = 4  #: distances of layers that are tried
CLOSER = 8  #: cycles by which each is less than the one before
ROOMS = (0, 8)  #: rows beside those that constants took at first that are tried
FIRST_BUCKET = 64  #: positions of the smallest context bucket
#: Channels of a model up to which weights hold the gains of norms: all of its time is latency.
FOLDED = 128
Progress = Callable[[str, int, int], None]


def buckets(context: int) -> list[int]:
    """Return the context buckets up to ``context``: 64, 128, ... and ``context`` itself."""
    found = []
    size = FIRST_BUCKET
    while size < context:
        found.append(size)
        size *= 2
    return [*found, context]


def quantised_model(
    checkpoint: Checkpoint,
    config: Config,
    context: int | None = None,
    tokenizer: str | None = None,
    chat_template: str | None = None,
    moments: Mapping[str, NDArray[np.floating[Any]]] | None = None,
    cache_bits: int = 16,
) -> QuantisedModel:
    """Return the machine's numbers for a model: all that its results depend on.

    Parameters
    ----------
    context : int, optional
        Positions to provide for; by default what the model was made for.
    tokenizer : str, optional
        JSON of the tokenizers library.
    chat_template : str, optional
        Jinja template of conversations.
    moments : mapping, optional
        See ``quantise``.
    cache_bits : int
        Bits of the integers of the cache, 16 or 8.

    Raises
    ------
    UserError
        When the context exceeds the model's, or the embedding cannot share the head's weights
        on a chip that has no room for both.
    """
    if config.wide and not checkpoint.tied:
        raise UserError(
            f"{checkpoint.name}: head: has weights of its own, preset {config.name} has no room "
            "for an embedding beside them: use a model with tied embeddings"
        )
    fold = config.wide or checkpoint.hidden <= FOLDED
    quantised = quantise(checkpoint, moments, fold=fold, share=config.wide, cache_bits=cache_bits)
    model = QuantisedModel(
        name=checkpoint.name,
        config=config,
        model=quantised.model,
        tensors=quantised.tensors,
        tokenizer=tokenizer,
        chat_template=chat_template,
    )
    return model if context is None else with_context(model, context)


def with_context(model: QuantisedModel, context: int) -> QuantisedModel:
    """Return a model for so many positions.

    Raises
    ------
    UserError
        When it was made for fewer.
    """
    most = model.model["context"]
    if not 1 <= context <= most:
        raise UserError(
            f"{model.name}: context: found {context}, expected 1 to {most}, the positions that "
            "the model was made for"
        )
    rows = -(-context // len(model.tensors.get("rope.fine_cos", [0])))
    cut = {name: model.tensors[name][:rows] for name in ("rope.cos", "rope.sin")}
    return dataclasses.replace(
        model, model={**model.model, "context": context}, tensors={**model.tensors, **cut}
    )


def compile_model(
    checkpoint: Checkpoint,
    config: Config,
    context: int | None = None,
    tokenizer: str | None = None,
    progress: Progress | None = None,
    *,
    prefill: bool = False,
) -> Program:
    """Compile a checkpoint for a chip, see ``quantised_model`` and ``schedule_model``."""
    model = quantised_model(checkpoint, config, context, tokenizer)
    return schedule_model(model, progress, prefill=prefill)


def schedule_model(
    model: QuantisedModel, progress: Progress | None = None, *, prefill: bool = False
) -> Program:
    """Compile a model for the chip of its configuration.

    Parameters
    ----------
    progress : callable, optional
        Called with (what, done, total).
    prefill : bool
        Whether to schedule blocks of positions too.

    Raises
    ------
    UserError
        When the model does not fit the chip, or is wanted in blocks that cannot be.
    """
    found = _fitting(model, progress, prefill=prefill)
    image, rows = found.image, found.rows
    return Program(
        **vars(model),
        schedules=tuple(found.schedules),
        memory=image.memory.image,
        extents=np.array(image.memory.extents, np.int64),
        ports={
            **mailbox_ports(image),
            "logits": port_of(image.logits, image.shape.vocab),
            **({"tokens": rows.port()} if rows else {}),
        },
        limit_cycles=-(-image.weight_bytes // model.config.stream_bytes),
    )


@dataclasses.dataclass(frozen=True)
class _Scheduled:
    """One try: memory image, places of blocks, plans and their schedules."""

    image: Image
    rows: Rows | None
    plans: list[Plan]
    schedules: list[Schedule]

    @property
    def cycles(self) -> int:
        """Cycles of all schedules together."""
        return sum(schedule.cycles for schedule in self.schedules)

    def layers(self) -> dict[int, Block]:
        """Return by context the block of the layers."""
        return {plan.context: plan.block for plan in self.plans if plan.block}


def _fitting(model: QuantisedModel, progress: Progress | None, *, prefill: bool) -> _Scheduled:
    """Schedule all buckets, or the largest alone where a small chip has no room for them all."""
    config, sizes = model.config, buckets(model.model["context"])
    if config.wide and len(sizes) > 1:
        with contextlib.suppress(UserError):
            return _bucketed(model, sizes, progress, prefill=prefill)
        sizes = sizes[-1:]
    return _bucketed(model, sizes, progress, prefill=prefill)


def _bucketed(
    model: QuantisedModel, sizes: Sequence[int], progress: Progress | None, *, prefill: bool
) -> _Scheduled:
    """Schedule some buckets.

    Raises
    ------
    UserError
        When anything does not fit: memory, units, instructions.
    """
    config, learned = model.config, Learned()
    reserve: Mapping[SetKey, int] | None = {}
    try:
        found = _scheduled(model, sizes, progress, learned, prefill=prefill)
    except UserError:
        reserve = _wanted(model, sizes, progress, learned, prefill=prefill) if config.wide else None
        if reserve is None:
            raise
        found = _scheduled(model, sizes, progress, learned, reserve, prefill=prefill)
    if config.wide:
        found = _improved(model, sizes, progress, learned, found, reserve, prefill=prefill)
    over, queue, words = _longest(found.schedules, config)
    if over > 1:
        less = "leave out --prefill" if found.rows else "use a smaller --context"
        raise UserError(
            f"{model.name}: the instructions of {queue.name} need {words} words, preset "
            f"{config.name} has {config.words_of(queue.kind)}: {less}"
        )
    return found


def _wanted(
    model: QuantisedModel,
    sizes: Sequence[int],
    progress: Progress | None,
    learned: Learned,
    *,
    prefill: bool,
) -> Mapping[SetKey, int] | None:
    """Return how many rows the constants of a layer take, None if a taller memory cannot tell.

    Without that number they lie in pages, of which some rows stay free.
    """
    config = model.config
    tall = dataclasses.replace(config, rows=config.rows * 3 // 2)
    with contextlib.suppress(UserError):
        roomy = dataclasses.replace(model, config=tall)
        found = _scheduled(roomy, sizes, progress, learned, prefill=prefill)
        return found.image.memory.used
    return None


def _improved(
    model: QuantisedModel,
    sizes: Sequence[int],
    progress: Progress | None,
    learned: Learned,
    found: _Scheduled,
    reserve: Mapping[SetKey, int],
    *,
    prefill: bool,
) -> _Scheduled:
    """Schedule again where slices that hold weights and data make queues long and layers wait."""
    tries = ROOMS if model.config.loops else ()
    for more in tries:
        if _longest(found.schedules, model.config)[0] <= 1:
            break
        # Constants among the weights of their layers move as these do: queues of MEM can loop.
        reserve = {key: count + more for key, count in found.image.memory.used.items()}
        with contextlib.suppress(UserError):
            found = _scheduled(model, sizes, progress, learned, reserve, prefill=prefill)
    # Layers as close as their values alone would allow, and closer: they may move in a layer, too.
    least = {context: block.earliest for context, block in found.layers().items()}
    for number in range(PERIODS):
        learned.periods = {context: cycles - number * CLOSER for context, cycles in least.items()}
        ends = learned.ends
        with contextlib.suppress(UserError):
            tried = _scheduled(model, sizes, progress, learned, reserve, prefill=prefill)
            if tried.cycles < found.cycles and _longest(tried.schedules, model.config)[0] <= 1:
                found, ends = tried, learned.ends
        learned.ends = ends
    return found


def _scheduled(
    model: QuantisedModel,
    contexts: Sequence[int],
    progress: Progress | None,
    learned: Learned,
    reserve: Mapping[SetKey, int] | None = None,
    *,
    prefill: bool,
) -> _Scheduled:
    """Schedule a model; ``reserve`` is that of ``Memory``."""
    config, context = model.config, model.model["context"]
    image = Image(model, config, context, reserve)
    _must_fit(image, model.name)
    rows = _rows(image, context, model.name) if prefill else None
    _must_fit(image, model.name, prefill=prefill)
    plans = []
    sizes = [(size, 1) for size in contexts]
    if rows:
        sizes += [(size, rows.size) for size, _ in sizes if size >= rows.size]
    for done, (size, positions) in enumerate(sizes):
        if progress:
            progress("scheduling", done, len(sizes))
        plan = Plan(config, image.memory, size, positions, learned)
        try:
            (Prefill(plan, image, rows) if rows and positions > 1 else Decode(plan, image)).run()
        except NoFitError as error:
            raise UserError(
                f"{model.name}: cannot be scheduled on preset {config.name}: {error}; "
                "a preset with more ALUs, rows, sets of data slices or MXM entries would do"
            ) from None
        _must_fit(image, model.name)
        plans.append(plan)
    if progress:
        progress("scheduling", len(sizes), len(sizes))
    return _Scheduled(image, rows, plans, _emitted(plans))


def _rows(image: Image, context: int, name: str) -> Rows:
    """Return where blocks lie."""
    config = image.config
    if image.quantised.model["biased"]:
        raise UserError(
            f"prefill: {name} has biases of queries, keys and values, which blocks do not know"
        )
    if image.quantised.model["cache_bits"] != 16:
        raise UserError(
            f"prefill: the cache of {name} has 8 bits, expected 16, the only ones that blocks know"
        )
    size = block_size(config, context)
    if not size:
        raise UserError(
            f"prefill: preset {config.name} and a context of {context} positions cannot hold "
            f"blocks: expected {4 * SETS} data slices a hemisphere that are not wide, digits of 1, "
            "and as many MXM entries as a block of whole tiles has positions"
        )
    return Rows(image, size)


def _emitted(plans: list[Plan]) -> list[Schedule]:
    """Return the schedules, one behind the other."""
    schedules: list[Schedule] = []
    start = 0
    for plan in plans:
        schedules.append(emit(plan, start))
        start += max(len(words) for words in schedules[-1].words.values())
    return schedules


def _longest(schedules: list[Schedule], config: Config) -> tuple[float, Queue, int]:
    """Return the queue whose memory is filled most: (share of it, queue, words)."""
    found = []
    for schedule in schedules:
        for queue in queues(config):
            words = schedule.start + len(schedule.words.get(queue.index, ()))
            found.append((words / config.words_of(queue.kind), queue, words))
    return max(found, key=lambda item: item[0])


def _must_fit(image: Image, name: str, *, prefill: bool = False) -> None:
    """Raise ``UserError`` where rows are missing; with ``prefill`` blocks are the reason."""
    missing = image.memory.missing
    if not missing:
        return
    config = image.config
    larger = [
        preset
        for preset in PRESETS
        if load_config(preset).sram_bytes >= config.sram_bytes + missing
    ]
    hint = f"preset {larger[0]} would do" if larger else "no preset is large enough"
    hint = "leave out --prefill or use a smaller --context" if prefill else hint
    raise UserError(
        f"{name}: does not fit preset {config.name} ({config.sram_bytes} bytes of "
        f"SRAM): {missing} bytes are missing; {hint}"
    )


def mailbox_ports(image: Image) -> dict[str, Port]:
    """Return the ports of what the host writes, with all copies."""
    ports = {}
    for name, vec in image.mailbox.items():
        copies = [[[[int(p.side), index, p.row] for index in p.slices]] for p in vec.places]
        shape = (image.config.vector,)
        ports[name] = Port(places=np.array(copies, np.int64), dtype="int32", shape=shape)
    return ports


def port_of(places: Sequence[Place], size: int) -> Port:
    """Return the port of (size,) float32 that lies in ``places``, a vector each."""
    rows = [[[int(p.side), index, p.row] for index in p.slices] for p in places]
    return Port(places=np.array([rows], np.int64), dtype="float32", shape=(size,))

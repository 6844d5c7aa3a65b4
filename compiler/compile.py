"""The compiler's entry: a checkpoint and a configuration become a program."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.checkpoint import Checkpoint
from waterclock.compiler.decode import Decode
from waterclock.compiler.emit import emit
from waterclock.compiler.image import Image
from waterclock.compiler.plan import NoFitError, Plan
from waterclock.compiler.quantise import quantise
from waterclock.isa.config import PRESETS, Config, load_config
from waterclock.isa.errors import UserError
from waterclock.isa.program import Port, Program, QuantisedModel

FIRST_BUCKET = 64  #: positions of the smallest context bucket
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

    Raises
    ------
    UserError
        When the context exceeds the model's.
    """
    context = checkpoint.context if context is None else context
    if not 1 <= context <= checkpoint.context:
        raise UserError(
            f"{checkpoint.name}: context: found {context}, expected 1 to {checkpoint.context}, "
            "the positions that the model was made for"
        )
    quantised = quantise(checkpoint)
    return QuantisedModel(
        name=checkpoint.name,
        config=config,
        model={**quantised.model, "context": context},
        tensors={
            name: tensor[:context] if name.startswith("rope.") else tensor
            for name, tensor in quantised.tensors.items()
        },
        tokenizer=tokenizer,
        chat_template=chat_template,
    )


def compile_model(
    checkpoint: Checkpoint,
    config: Config,
    context: int | None = None,
    tokenizer: str | None = None,
    progress: Progress | None = None,
    chat_template: str | None = None,
) -> Program:
    """Compile a model for a chip.

    Parameters
    ----------
    checkpoint, config, context, tokenizer, chat_template
        See ``quantised_model``.
    progress : callable, optional
        Called with (what, done, total).

    Raises
    ------
    UserError
        When the context exceeds the model's, or the model does not fit the chip.
    """
    model = quantised_model(checkpoint, config, context, tokenizer, chat_template)
    positions: int = model.model["context"]
    image = Image(model, config, positions)
    _must_fit(image, checkpoint)
    schedules = []
    sizes = buckets(positions)
    start = 0
    for done, size in enumerate(sizes):
        if progress:
            progress("scheduling", done, len(sizes))
        plan = Plan(config, image.memory, size)
        try:
            Decode(plan, image).run()
        except NoFitError as error:
            raise UserError(
                f"{checkpoint.name}: cannot be scheduled on preset {config.name}: {error}; "
                "a preset with more ALUs, sets of data slices or MXM entries would do"
            ) from None
        _must_fit(image, checkpoint)
        schedules.append(emit(plan, start))
        start += max(len(words) for words in schedules[-1].words.values())
    if start > config.imem_words:
        raise UserError(
            f"{checkpoint.name}: the instructions need {start} words a queue, preset "
            f"{config.name} has {config.imem_words}: use a smaller --context"
        )
    if progress:
        progress("scheduling", len(sizes), len(sizes))
    return Program(
        **vars(model),
        schedules=tuple(schedules),
        memory=image.memory.image,
        extents=np.array(image.memory.extents, np.int64),
        ports=_ports(image),
        limit_cycles=-(-image.weight_bytes // config.stream_bytes),
    )


def _must_fit(image: Image, checkpoint: Checkpoint) -> None:
    missing = image.memory.missing
    if not missing:
        return
    config = image.config
    larger = [
        name for name in PRESETS if load_config(name).sram_bytes >= config.sram_bytes + missing
    ]
    hint = f"preset {larger[0]} would do" if larger else "no preset is large enough"
    raise UserError(
        f"{checkpoint.name}: does not fit preset {config.name} ({config.sram_bytes} bytes of "
        f"SRAM): {missing} bytes are missing; {hint}"
    )


def _ports(image: Image) -> dict[str, Port]:
    def places(vecs: object) -> NDArray[np.int64]:
        return np.array(vecs, np.int64)

    ports = {}
    for name, vec in image.mailbox.items():
        copies = [[[[int(p.side), index, p.row] for index in p.slices]] for p in vec.places]
        shape = (image.config.vector,)
        ports[name] = Port(places=places(copies), dtype="int32", shape=shape)
    rows = [[[int(p.side), index, p.row] for index in p.slices] for p in image.logits]
    ports["logits"] = Port(places=places([rows]), dtype="float32", shape=(image.shape.vocab,))
    return ports

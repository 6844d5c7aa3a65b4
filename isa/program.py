"""The program file: everything that any machine, checker or host needs, and nothing else.

One file in safetensors form: arrays by name, and a JSON description with a version and a
checksum. It holds the configuration, the memory image, one schedule for each context bucket
(instruction memories, predicted cycles, names of the operations served, and what each operand
is meant to be), the places where the host finds inputs and results, the tensors of the tensor
model, and the tokenizer.
"""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from waterclock.isa.config import Config, config_from_dict
from waterclock.isa.errors import UserError

MAGIC = "waterclock program"
VERSION = 6

#: What the program says it means, for each issue of a queue of a kind: one value number a column.
#: A value number names one vector; -1 where there is none. Streams and memory rows hold pairs
#: (value, byte): the byte-th stream of the value. Weight vectors are (tile, row or column).
INTENTS: dict[str, tuple[str, ...]] = {
    "mem_read": ("map",),
    "mem_write": ("src", "map"),
    "alu": ("a", "b", "out"),
    "reduce": ("a", "out"),
    "mxm_lw": ("tile",),
    "mxm_iw": (),
    "mxm_abl": ("src",),
    "mxm_abc": ("entry", "weights", "before", "after"),
    "mxm_acc": ("acc",),
    "sxm_shift": ("src", "map", "out"),
    "sxm_permute": ("src", "map", "out"),
    "sxm_transpose": ("src", "out"),
}

#: Columns of ``Program.extents``: rows of a slice that are loaded before the run. Row
#: ``row + i * row_step`` holds (value + i * value_step, byte), for i below ``count``.
EXTENT_COLUMNS = (
    "side", "slice", "row", "row_step", "count", "value", "value_step", "byte",
)  # fmt: skip

#: Columns of ``Schedule.regions``: what a Gather or Scatter at ``base`` of a slice may touch:
#: rows base .. base + count - 1, addressed by the map ``map`` in ``lane``. A Gather yields
#: (value, byte). A Scatter expects (source, source_byte); afterwards row base + i holds
#: (value + i // rows_a_value, byte + (i % rows_a_value) * byte_step), but the last row is spare.
REGION_COLUMNS = (
    "scatter", "side", "slice", "base", "count", "map", "lane", "value", "byte", "source",
    "source_byte", "rows_a_value", "byte_step",
)  # fmt: skip

#: Columns of ``Schedule.results``: (value, byte) that a row must hold when the run ends.
RESULT_COLUMNS = ("side", "slice", "row", "value", "byte")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """The program of one context bucket: of one token, or of a block of positions (prefill).

    A block takes its tokens from the port ``tokens`` and fills the cache, without logits.

    ``words``: queue index -> (n,) uint64, to be loaded from word ``start`` on.
    ``intents``: queue index -> (issues, columns) int32, the columns of ``INTENTS``.
    ``served``: queue index -> (runs, 2) int32, (number of issues, index into ``operations``).
    """

    context: int  #: positions that the bucket covers
    block: int = 1  #: positions that a run feeds; the first is a multiple of it
    start: int  #: word of every instruction memory at which it begins
    cycles: int  #: from launch to done
    words: dict[int, NDArray[np.uint64]]
    operations: tuple[str, ...]
    served: dict[int, NDArray[np.int32]]
    intents: dict[int, NDArray[np.int32]]
    regions: NDArray[np.int64]
    results: NDArray[np.int64]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Port:
    """Where the host finds a tensor: vectors, byte planes in slices.

    ``places`` (copies, vectors, bytes, 3) int64: side, slice and row of each byte plane of each
    vector, for every copy; ``dtype`` of one lane; ``shape`` of the tensor, vectors x lanes cut to
    it.
    """

    places: NDArray[np.int64]
    dtype: str
    shape: tuple[int, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantisedModel:
    """All that the results of a model depend on, however it is scheduled."""

    name: str
    config: Config
    model: dict[str, Any]  #: hyperparameters that the tensor model needs
    tensors: dict[str, NDArray[Any]]  #: quantised tensors of the tensor model
    tokenizer: str | None  #: JSON of the tokenizers library
    chat_template: str | None  #: Jinja template of conversations, as Hugging Face has it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program(QuantisedModel):
    """A compiled model.

    ``memory``: (side, slice, first row) -> (rows, vector) uint8. ``limit_cycles``: the weight
    bytes over the bandwidth of the streams.
    """

    schedules: tuple[Schedule, ...]
    memory: dict[tuple[int, int, int], NDArray[np.uint8]]
    extents: NDArray[np.int64]
    ports: dict[str, Port]
    limit_cycles: int

    def queue_words(self, index: int) -> NDArray[np.uint64]:
        """Return the instruction memory of a queue, all schedules at their places."""
        found = [(s.start, s.words[index]) for s in self.schedules if index in s.words]
        whole = np.zeros(max((start + len(words) for start, words in found), default=0), np.uint64)
        for start, words in found:
            whole[start : start + len(words)] = words
        return whole


def _digest(arrays: dict[str, NDArray[Any]], description: str) -> str:
    digest = hashlib.sha256(description.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def save_program(program: Program, path: Path) -> None:
    """Write a program file, whole or not at all.

    Raises
    ------
    UserError
        When the file cannot be written.
    """
    arrays: dict[str, NDArray[Any]] = {"extents": program.extents}
    for number, ((side, index, row), data) in enumerate(program.memory.items()):
        arrays[f"memory.{number}"] = data
        arrays[f"memory.{number}.at"] = np.array([side, index, row], np.int64)
    for name, port in program.ports.items():
        arrays[f"port.{name}"] = port.places
    for name, tensor in program.tensors.items():
        arrays[f"tensor.{name}"] = tensor
    for number, schedule in enumerate(program.schedules):
        prefix = f"schedule.{number}"
        arrays[f"{prefix}.regions"] = schedule.regions
        arrays[f"{prefix}.results"] = schedule.results
        for queue, words in schedule.words.items():
            arrays[f"{prefix}.words.{queue}"] = words
            arrays[f"{prefix}.served.{queue}"] = schedule.served[queue]
            arrays[f"{prefix}.intents.{queue}"] = schedule.intents[queue]
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    description = json.dumps(
        {
            "name": program.name,
            "config": dataclasses.asdict(program.config),
            "schedules": [
                {
                    "context": schedule.context,
                    "block": schedule.block,
                    "start": schedule.start,
                    "cycles": schedule.cycles,
                    "operations": schedule.operations,
                }
                for schedule in program.schedules
            ],
            "ports": {n: {"dtype": p.dtype, "shape": p.shape} for n, p in program.ports.items()},
            "limit_cycles": program.limit_cycles,
            "model": program.model,
            "tokenizer": program.tokenizer,
            "chat_template": program.chat_template,
        }
    )
    metadata = {
        "format": MAGIC,
        "version": str(VERSION),
        "program": description,
        "sha256": _digest(arrays, description),
    }
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(safetensors.numpy.save(arrays, metadata))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def load_program(path: Path) -> Program:
    """Read a program file and verify its checksum.

    Raises
    ------
    UserError
        For a file that is missing, foreign, damaged, or of a newer version.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != MAGIC:
                raise UserError(f"{path}: format: not a Waterclock program file")
            if metadata.get("version") != str(VERSION):
                raise UserError(
                    f"{path}: version: found {metadata.get('version')}, this Waterclock reads "
                    f"version {VERSION}: compile the model again"
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"{path}: not a readable program file: {error}") from None
    description = metadata.get("program", "")
    if _digest(arrays, description) != metadata.get("sha256"):
        raise UserError(f"{path}: sha256: the file is damaged: compile the model again")
    return _assemble(arrays, json.loads(description), str(path))


def _assemble(arrays: dict[str, NDArray[Any]], about: dict[str, Any], source: str) -> Program:
    def by_queue(prefix: str) -> dict[int, NDArray[Any]]:
        return {
            int(name[len(prefix) :]): array
            for name, array in arrays.items()
            if name.startswith(prefix)
        }

    schedules = tuple(
        Schedule(
            context=entry["context"],
            block=entry["block"],
            start=entry["start"],
            cycles=entry["cycles"],
            operations=tuple(entry["operations"]),
            words=by_queue(f"schedule.{number}.words."),
            served=by_queue(f"schedule.{number}.served."),
            intents=by_queue(f"schedule.{number}.intents."),
            regions=arrays[f"schedule.{number}.regions"],
            results=arrays[f"schedule.{number}.results"],
        )
        for number, entry in enumerate(about["schedules"])
    )
    memory = {}
    number = 0
    while f"memory.{number}" in arrays:
        side, index, row = (int(x) for x in arrays[f"memory.{number}.at"])
        memory[side, index, row] = arrays[f"memory.{number}"]
        number += 1
    return Program(
        name=about["name"],
        config=config_from_dict(about["config"], source),
        schedules=schedules,
        memory=memory,
        extents=arrays["extents"],
        ports={
            name: Port(
                places=arrays[f"port.{name}"], dtype=entry["dtype"], shape=tuple(entry["shape"])
            )
            for name, entry in about["ports"].items()
        },
        limit_cycles=about["limit_cycles"],
        model=about["model"],
        tensors={
            name.removeprefix("tensor."): array
            for name, array in arrays.items()
            if name.startswith("tensor.")
        },
        tokenizer=about["tokenizer"],
        chat_template=about["chat_template"],
    )

"""The program file: what is saved is loaded, and no damaged file is."""

import dataclasses
import errno
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from numpy.typing import NDArray

from waterclock.isa import UserError, load_config
from waterclock.isa import program as program_module
from waterclock.isa.program import (
    EXTENT_COLUMNS,
    REGION_COLUMNS,
    RESULT_COLUMNS,
    Port,
    Program,
    Schedule,
    load_program,
    save_program,
)
from waterclock.isa.text import assemble

SEED = 5


def table(rows: int, columns: tuple[str, ...], rng: np.random.Generator) -> NDArray[np.int64]:
    return rng.integers(0, 100, (rows, len(columns)))


def schedule(context: int, rng: np.random.Generator) -> Schedule:
    words = assemble("mem_read", ["read addr=1, dst=E0", "repeat count=2, distance=1, stride=1"])
    return Schedule(
        context=context,
        start=context // 8,
        cycles=1000 + context,
        words={0: words, 4: words[:1]},
        operations=("embed", "layers.0.qkv"),
        served={0: np.array([[1, 0], [2, 1]], np.int32), 4: np.array([[1, 1]], np.int32)},
        intents={0: np.full((3, 1), -1, np.int32), 4: np.full((1, 1), 7, np.int32)},
        regions=table(0 if context == 64 else 3, REGION_COLUMNS, rng),
        results=table(2, RESULT_COLUMNS, rng),
    )


@pytest.fixture
def program() -> Program:
    rng = np.random.default_rng(SEED)
    return Program(
        name="a model",
        config=load_config("small"),
        schedules=(schedule(64, rng), schedule(128, rng)),
        memory={
            (0, 3, 5): rng.integers(0, 256, (4, 16), np.uint8),
            (1, 27, 0): rng.integers(0, 256, (1, 16), np.uint8),
        },
        extents=table(5, EXTENT_COLUMNS, rng),
        ports={"token": Port(places=table(6, ("a", "b", "c"), rng).reshape(2, 1, 3, 3),
                             dtype="int32", shape=(16,))},
        limit_cycles=507,
        model={"layers": 1, "norm_eps": 1e-5, "eos": [2, 3]},
        tensors={
            "embed": rng.normal(size=(3, 4)).astype(np.float16),
            "head": rng.integers(-128, 128, (4, 3), np.int8),
        },
        tokenizer='{"model": "\u2581\u00fcber"}',
        chat_template="{{ messages }}",
    )  # fmt: skip


@pytest.fixture
def saved(program: Program, tmp_path: Path) -> Path:
    path = tmp_path / "a.program"
    save_program(program, path)
    return path


def same(a: Any, b: Any) -> bool:
    """Compare plain data, dataclasses and arrays, types included."""
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if dataclasses.is_dataclass(a):
        return all(same(getattr(a, f.name), getattr(b, f.name)) for f in dataclasses.fields(a))
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def mistake(path: Path) -> str:
    """Return the message of the UserError that loading raises: one line that names the file."""
    with pytest.raises(UserError) as caught:
        load_program(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# What is saved is loaded.


def test_loaded_program_equals_the_saved_one(program, saved):
    assert same(load_program(saved), program)


def test_program_without_a_tokenizer_ports_or_tensors_is_loaded(program, saved):
    bare = dataclasses.replace(
        program, tokenizer=None, chat_template=None, ports={}, tensors={}, memory={}
    )
    save_program(bare, saved)
    assert same(load_program(saved), bare)


def test_arrays_that_are_not_contiguous_are_saved_as_they_are(program, saved):
    turned = {"embed": program.tensors["embed"].T, "head": program.tensors["head"][:, ::2]}
    save_program(dataclasses.replace(program, tensors=turned), saved)
    loaded = load_program(saved).tensors
    assert all(np.array_equal(loaded[name], turned[name]) for name in turned)


def test_saving_again_replaces_the_file_and_leaves_nothing_else(program, saved):
    other = dataclasses.replace(program, name="another")
    save_program(other, saved)
    assert same(load_program(saved), other)
    assert list(saved.parent.iterdir()) == [saved]


# Damaged and foreign files.


def test_missing_file_and_folder_are_mistakes(saved):
    assert mistake(saved.with_name("none")).startswith("not a readable program file: ")
    assert mistake(saved.parent).startswith("not a readable program file: ")


@pytest.mark.parametrize("content", [b"", b"{}", b"a text\nof two lines\n", bytes(1000)])
def test_foreign_file_is_a_mistake(content, tmp_path):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    assert mistake(path).startswith("not a readable program file: ")


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_checkpoint_is_no_program(metadata, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(3, np.float32)}, metadata))
    assert mistake(path) == "format: not a Waterclock program file"


def test_program_of_another_version_is_a_mistake(program, saved, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(program_module, "VERSION", 0)
        save_program(program, saved)
    expected = "version: found 0, this Waterclock reads version 6: compile the model again"
    assert mistake(saved) == expected


def test_truncated_file_is_a_mistake(saved):
    whole = saved.read_bytes()
    lengths = {0, 1, 7, 8, 9, len(whole) - 1, *range(10, len(whole), 97)}
    for length in lengths:
        saved.write_bytes(whole[:length])
        assert mistake(saved).startswith("not a readable program file: "), length


def test_longer_file_is_a_mistake(saved):
    saved.write_bytes(saved.read_bytes() + b"x")
    assert mistake(saved).startswith("not a readable program file: ")


def test_no_flipped_bit_passes(saved):
    whole = saved.read_bytes()
    rng = np.random.default_rng(SEED)
    header = 8 + int.from_bytes(whole[:8], "little")
    length = itertools.product(range(8), range(8))
    head = zip(rng.integers(8, header, 400), rng.integers(0, 8, 400), strict=True)
    data = itertools.product(range(header, len(whole), 5), [int(rng.integers(0, 8))])
    for at, bit in itertools.chain(length, head, data):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << bit
        saved.write_bytes(damaged)
        assert mistake(saved), f"seed {SEED}: byte {at} bit {bit}"


def test_flipped_bit_of_the_data_is_found_by_the_checksum(saved):
    whole = bytearray(saved.read_bytes())
    whole[-1] ^= 1
    saved.write_bytes(whole)
    assert mistake(saved) == "sha256: the file is damaged: compile the model again"


# Nothing half-written.


def test_folder_that_does_not_exist_is_a_mistake(program, tmp_path):
    path = tmp_path / "none" / "a.program"
    with pytest.raises(UserError, match=r"cannot be written: No such file or directory$"):
        save_program(program, path)
    assert list(tmp_path.iterdir()) == []


def test_folder_in_the_place_of_the_file_is_a_mistake_and_left_alone(program, tmp_path):
    path = tmp_path / "a.program"
    path.mkdir()
    with pytest.raises(UserError, match="cannot be written: "):
        save_program(program, path)
    assert list(tmp_path.iterdir()) == [path]


def test_full_disk_leaves_the_old_program(program, saved, monkeypatch):
    def write_half(path: Path, data: bytes) -> int:
        with path.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", write_half)
    other = dataclasses.replace(program, name="another")
    with pytest.raises(UserError) as caught:
        save_program(other, saved)
    assert str(caught.value) == f"{saved}: cannot be written: No space left on device"
    assert list(saved.parent.iterdir()) == [saved]
    assert load_program(saved).name == "a model"

"""Serial ports that lead nowhere: one clear line and exit status 2, never a hang."""

import os
import random
import re
import sys
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest
from board_model import Board, Terminal
from models import write_random_llama

from waterclock import Program, compiled
from waterclock.cli import main
from waterclock.fpga import serial_line
from waterclock.isa.program import save_program

TINY = {"hidden": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 16, "vocab": 32}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Program]:
    """Return a program file, and what is in it."""
    folder = tmp_path_factory.mktemp("tiny")
    write_random_llama(folder, **TINY, layers=1, tied=False, seed=5, context=16)
    program = compiled(folder, "small")
    save_program(program, folder / "tiny.wclk")
    return folder / "tiny.wclk", program


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """Return our end of a pseudo-terminal, and the name of the other."""
    ours, theirs = os.openpty()
    tty.setraw(theirs)
    yield ours, os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


def run(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: Path,
    *args: object,
    timeout: float = 20,
) -> tuple[int, str]:
    """Run the command line; return its exit status and what it says of errors."""
    words = ["waterclock", "run", file, "--engine", "uart", "--timeout", timeout, "--tokens", 2]
    monkeypatch.setattr(sys, "argv", [*map(str, words), *map(str, args)])
    code: object = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code
    lines = capsys.readouterr().err.splitlines()
    errors = [line for line in lines if line and not line.endswith(" ...")]  # no progress
    assert len(errors) <= 1, lines
    assert isinstance(code, int)
    return code, "".join(errors)


@pytest.mark.parametrize(
    ("port", "message"),
    [
        ("/dev/nothing", "cannot be opened as a serial port: No such file or directory"),
        ("/dev", "cannot be opened as a serial port: "),
        ("/dev/null", "cannot be opened as a serial port: "),
    ],
)
def test_a_port_that_is_none(
    program: tuple[Path, Program], monkeypatch, capsys, port: str, message: str
) -> None:
    code, error = run(monkeypatch, capsys, program[0], "--port", port)
    assert (code, error[: len(port) + 14]) == (2, f"waterclock: {port}: ")
    assert message in error


def test_a_port_must_be_named_and_wait_for_some_time(
    program: tuple[Path, Program], monkeypatch, capsys
) -> None:
    assert run(monkeypatch, capsys, program[0]) == (
        2, "waterclock: engine: uart needs a serial port: give one with --port",
    )  # fmt: skip
    code, error = run(monkeypatch, capsys, program[0], "--port", "/dev/null", timeout=0)
    assert (code, error) == (2, "waterclock: timeout: found 0.0, expected seconds above 0")


def test_a_port_that_is_silent(
    program: tuple[Path, Program], terminal: tuple[int, str], monkeypatch, capsys
) -> None:
    code, error = run(monkeypatch, capsys, program[0], "--port", terminal[1], timeout=0.02)
    assert code == 2
    assert error.startswith(f"waterclock: {terminal[1]}: no answer to 8 requests")


def test_a_port_where_something_else_talks_without_end(
    program: tuple[Path, Program], terminal: tuple[int, str], monkeypatch, capsys
) -> None:
    ours, port = terminal
    over, rng = threading.Event(), random.Random(1)

    def talk() -> None:
        os.set_blocking(ours, False)
        while not over.wait(0.001):
            try:
                os.write(ours, rng.randbytes(256))
            except BlockingIOError:
                continue

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        code, error = run(monkeypatch, capsys, program[0], "--port", port, timeout=0.02)
    finally:
        over.set()
        thread.join()
    assert code == 2
    assert error.startswith(f"waterclock: {port}: no answer to 8 requests")


def test_a_board_behind_a_port_runs_the_program(
    program: tuple[Path, Program], monkeypatch, capsys
) -> None:
    with Terminal(Board(program[1])) as terminal:
        assert run(monkeypatch, capsys, program[0], "--port", terminal.port) == (0, "")


@pytest.mark.parametrize("requests", [1, 30, 90])
def test_a_cable_that_is_pulled(
    program: tuple[Path, Program], monkeypatch, capsys, requests: int
) -> None:
    with Terminal(Board(program[1]), requests) as terminal:
        code, error = run(monkeypatch, capsys, program[0], "--port", terminal.port)
    assert code == 2
    assert error.startswith(f"waterclock: {terminal.port}: the port is gone")


@pytest.mark.parametrize("requests", [60, 90])
def test_a_board_that_hangs(
    program: tuple[Path, Program], monkeypatch, capsys, requests: int
) -> None:
    monkeypatch.setattr(serial_line, "WRITE_SECONDS", 0.2)
    with Terminal(Board(program[1]), requests, hangs=True) as terminal:
        code, error = run(monkeypatch, capsys, program[0], "--port", terminal.port, timeout=0.3)
    assert code == 2
    assert re.match(rf"waterclock: {terminal.port}: (no answer to 8|the port is gone)", error)


@pytest.mark.parametrize("ended", ["silent", "talking", "pulled"])
def test_the_port_is_given_back(
    program: tuple[Path, Program], terminal: tuple[int, str], monkeypatch, capsys, ended: str
) -> None:
    """What the command opened is closed, whatever went wrong."""
    before = len(os.listdir("/proc/self/fd")) if Path("/proc/self/fd").exists() else None
    if before is None:
        pytest.skip("needs /proc to count open files")
    if ended == "silent":
        run(monkeypatch, capsys, program[0], "--port", terminal[1], timeout=0.02)
    else:
        with Terminal(Board(program[1]), 40 if ended == "pulled" else None) as other:
            run(monkeypatch, capsys, program[0], "--port", other.port)
    assert len(os.listdir("/proc/self/fd")) == before

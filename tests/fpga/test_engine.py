"""The uart engine: the real client and a board in Python whose chip is the golden machine."""

import os

import numpy as np
import pytest
from board_model import Board

from waterclock import compiled, run
from waterclock.fpga.client import LinkClient
from waterclock.fpga.engine import UARTEngine
from waterclock.fpga.serial_line import SerialLine
from waterclock.isa import host
from waterclock.isa.errors import UserError
from waterclock.isa.program import Program
from waterclock.sim.engines import GoldenEngine

VERSION = host.VERSION.reset
assert isinstance(VERSION, int)
MAP = rf"{VERSION >> 16}\.{VERSION & 0xFFFF}"  #: version of the register map, as a pattern


@pytest.fixture(scope="module")
def program() -> Program:
    return compiled(preset="small", context=64)


def test_board_gives_the_tokens_logits_and_cycles_of_the_golden_machine(program: Program):
    client = LinkClient(Board(program), program.config)
    client.connect()
    steps = list(UARTEngine(program, client).run([1], 3))
    for step, expected in zip(steps, GoldenEngine(program).run([1], 3), strict=True):
        assert step.next == expected.next
        assert step.cycles == expected.cycles
        assert step.signature == expected.signature
        np.testing.assert_array_equal(step.logits, expected.logits)
    assert client.repeats == 0


def test_a_board_that_holds_the_program_is_not_loaded_again(program: Program):
    board = Board(program)
    client = LinkClient(board, program.config)
    first = list(UARTEngine(program, client).run([1], 2))
    board.words_loaded = 0
    again = list(UARTEngine(program, client, preloaded=True).run([1], 2))
    assert board.words_loaded == 0
    assert [(s.next, s.signature) for s in first] == [(s.next, s.signature) for s in again]


def test_error_of_the_chip_is_reported(program: Program):
    client = LinkClient(Board(program, error=host.Error.MXM), program.config)
    with pytest.raises(UserError, match="board: the chip reports <Error\\.MXM"):
        next(UARTEngine(program, client).run([1], 1))


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (host.MAGIC, "found 0x00000005 as MAGIC, no Waterclock"),
        (host.VERSION, rf"found register map 0\.5, expected {MAP} or newer: load a bitstream"),
        (next(r for r in host.REGISTERS if r.name == "LANES"), "the board has LANES 5"),
    ],
)
def test_foreign_bitstream_is_refused(program: Program, register: host.Register, message: str):
    board = Board(program)
    board.registers[register.offset] = 5
    with pytest.raises(UserError, match=f"^board: {message}"):
        LinkClient(board, program.config).connect()


def test_port_that_does_not_exist_is_one_clear_line(program: Program):
    with pytest.raises(UserError, match=r"^/dev/nothing: cannot be opened as a serial port"):
        run(program, [1], 1, "uart", port="/dev/nothing")
    with pytest.raises(UserError, match="engine: uart needs a serial port"):
        run(program, [1], 1, "uart")


def test_port_without_a_waterclock_is_one_clear_line(program: Program):
    ours, theirs = os.openpty()
    line = SerialLine(os.ttyname(theirs))
    with pytest.raises(UserError, match=r"no answer to 8 requests"):
        LinkClient(line, program.config, timeout=0.01).connect()
    os.close(ours)
    with pytest.raises(UserError, match=r"the port is gone"):
        line.read(0.01)
    line.close()
    os.close(theirs)

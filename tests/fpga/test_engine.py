"""The uart engine: the real client and a board in Python whose chip is the golden machine."""

import os
import struct

import numpy as np
import pytest

from waterclock import compiled, run
from waterclock.fpga.client import LinkClient
from waterclock.fpga.engine import UARTEngine
from waterclock.fpga.frames import HEADER, SYNC, Op, Status, crc
from waterclock.fpga.serial_line import SerialLine
from waterclock.isa import host
from waterclock.isa.errors import UserError
from waterclock.isa.program import Program
from waterclock.sim.engines import GoldenEngine
from waterclock.sim.golden import Golden


class Board:
    """A line with a board at its end: registers, and a golden machine as the chip."""

    name = "board"

    def __init__(self, program: Program, error: int = 0):
        self.program, self.error = program, error
        config = program.config
        self.golden = Golden(config, {})
        self.slices = list(self.golden.slices.values())  # in the order of their units
        self.words: dict[int, dict[int, int]] = {}
        self.registers = {
            register.offset: register.value(config) for register in host.REGISTERS
        }  # staging lies behind them
        self.row = host.staging_words(config)
        self.answer = b""

    def write(self, data: bytes) -> None:
        """Obey a request."""
        assert data[0] == SYNC
        assert crc(data[1:]) == 0
        sequence, op, address, count = HEADER.unpack_from(data, 1)
        words = struct.unpack(f"<{(len(data) - 8) // 4}I", data[6:-2])
        found: list[int] = []
        if op == Op.WRITE:
            for index, word in enumerate(words):
                self.store(address + 4 * index, word)
        elif op == Op.READ:
            found = [self.registers.get(address + 4 * index, 0) for index in range(count)]
        else:
            for first in range(0, count, self.row):
                found += self.window(words[first : first + self.row])
        content = bytes([sequence, Status.OKAY, len(found)]) + struct.pack(
            f"<{len(found)}I", *found
        )
        self.answer = bytes([SYNC]) + content + crc(content).to_bytes(2, "big")

    def read(self, timeout: float) -> bytes:
        """Return the response."""
        answer, self.answer = self.answer, b""
        return answer

    def close(self) -> None:
        """Give nothing back."""

    def store(self, offset: int, value: int) -> None:
        """Write a register."""
        self.registers[offset] = value
        if offset == host.CONTROL.offset:
            self.launch()

    def window(self, words: tuple[int, ...]) -> list[int]:
        """Move a row: store the words if there are some, else return those of the memory."""
        select, address = self.registers[host.SELECT.offset], self.registers[host.ADDRESS.offset]
        unit, space = select & 0xFFFF, select >> host.SELECT.field("space").low
        self.registers[host.ADDRESS.offset] += 1
        if space == host.Space.IMEM:
            self.words.setdefault(unit, {})[address] = words[0] | words[1] << 32
            return []
        size = self.program.config.vector
        if words:
            data = struct.pack(f"<{self.row}I", *words)[:size]
            self.slices[unit].load(address, np.frombuffer(data, np.uint8)[None])
            return []
        data = self.slices[unit].peek(address).tobytes().ljust(4 * self.row, b"\0")
        return list(struct.unpack(f"<{self.row}I", data))

    def launch(self) -> None:
        """Run the schedule that begins at START."""
        start = self.registers[host.START.offset]
        (schedule,) = (s for s in self.program.schedules if s.start == start)
        for index, words in schedule.words.items():
            loaded = self.words[index]
            assert [loaded[start + i] for i in range(len(words))] == words.tolist()
        cycles = self.golden.run(schedule).cycles
        done, error = (1 << host.STATUS.field(name).low for name in ("done", "error"))
        self.registers[host.STATUS.offset] = done | (error if self.error else 0)
        self.registers[host.ERROR.offset] = self.error
        self.registers[host.CYCLES_LOW.offset] = cycles
        self.registers[host.CYCLES_HIGH.offset] = 0


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
        np.testing.assert_array_equal(step.logits, expected.logits)
    assert client.repeats == 0


def test_error_of_the_chip_is_reported(program: Program):
    client = LinkClient(Board(program, error=host.Error.MXM), program.config)
    with pytest.raises(UserError, match="board: the chip reports <Error\\.MXM"):
        next(UARTEngine(program, client).run([1], 1))


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (host.MAGIC, "found 0x00000005 as MAGIC, no Waterclock"),
        (host.VERSION, "found register map 0, expected 2: load a bitstream of this version"),
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

"""A board in Python whose chip is the golden machine, and a terminal to reach it by."""

import os
import select
import struct
import threading
import tty

import numpy as np

from waterclock.fpga.frames import CRC_BYTES, HEADER, SYNC, Op, Status, crc
from waterclock.isa import host
from waterclock.isa.program import Program
from waterclock.sim.golden import Golden
from waterclock.sim.signature import signature_of


class Board:
    """A line with a board at its end: registers, and a golden machine as the chip."""

    name = "board"

    def __init__(self, program: Program, error: int = 0):
        self.program, self.error = program, error
        config = program.config
        self.golden = Golden(config, {})
        self.slices = list(self.golden.slices.values())  # in the order of their units
        self.words: dict[int, dict[int, int]] = {}
        self.words_loaded = 0  # of instructions
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
            self.words_loaded += 1
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
        found = self.golden.run(schedule)
        signature = signature_of(self.program.config, found.cycles, found.writes)
        done, error = (1 << host.STATUS.field(name).low for name in ("done", "error"))
        self.registers[host.STATUS.offset] = done | (error if self.error else 0)
        self.registers[host.ERROR.offset] = self.error
        self.registers[host.SIGNATURE.offset] = signature
        self.registers[host.CYCLES_LOW.offset] = found.cycles
        self.registers[host.CYCLES_HIGH.offset] = 0


class Terminal:
    """A pseudo-terminal with a board at its other end, as a context.

    Parameters
    ----------
    board : Board
    requests : int, optional
        After so many the cable is pulled, or the board hangs.
    """

    def __init__(self, board: Board, requests: int | None = None, *, hangs: bool = False):
        self.board, self.left, self.hangs = board, requests, hangs
        self._over = threading.Event()

    def __enter__(self) -> "Terminal":
        self._ours, self._theirs = os.openpty()
        tty.setraw(self._theirs)
        self.port = os.ttyname(self._theirs)
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        os.close(self._theirs)

    def _serve(self) -> None:
        """Obey requests until the host is gone or the cable is."""
        heard, header = b"", 1 + HEADER.size
        while self.left is None or self.left > 0:
            while len(heard) < header or len(heard) < (size := self._size(heard)):
                if self._over.is_set():
                    os.close(self._ours)
                    return
                if select.select([self._ours], [], [], 0.05)[0]:
                    heard += os.read(self._ours, 4096)
            self.board.write(heard[:size])
            heard = heard[size:]
            os.write(self._ours, self.board.read(0))
            self.left = None if self.left is None else self.left - 1
        if self.hangs:
            self._over.wait()
        os.close(self._ours)

    def _size(self, heard: bytes) -> int:
        """Return the length of a request."""
        _, op, _, count = HEADER.unpack_from(heard, 1)
        words = count if op in (Op.WRITE, Op.LOAD) else 0
        return 1 + HEADER.size + 4 * words + CRC_BYTES

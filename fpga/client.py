"""The computer's end of the host link: requests, time-outs, repeats, and what a board is."""

from collections.abc import Sequence
from typing import Protocol

from waterclock.fpga.frames import MOST_WORDS, Op, Response, Responses, Status, request
from waterclock.isa import host
from waterclock.isa.config import Config
from waterclock.isa.errors import UserError

TRIES = 8
TIMEOUT = 0.5  #: seconds, where nothing is said
MOST_NOISE = 4096  #: bytes that may arrive instead of a response
HELLO = 0  #: sequence number of the first request, whose response never changes
SEQUENCES = 256


class Line(Protocol):
    """A serial line."""

    name: str

    def write(self, data: bytes) -> None:
        """Send bytes."""
        ...

    def read(self, timeout: float) -> bytes:
        """Return what arrived; wait at most ``timeout`` seconds for a first byte."""
        ...

    def close(self) -> None:
        """Give the line back."""
        ...


class LinkClient:
    """Accesses the host port of a board.

    Parameters
    ----------
    line : Line
    config : Config
        Of the chip that is expected there.
    timeout : float
        Seconds of silence after which a request is sent again.

    Raises
    ------
    UserError
        By every method, when the board does not answer.
    """

    def __init__(self, line: Line, config: Config, timeout: float = TIMEOUT):
        self.line, self.config, self.timeout = line, config, timeout
        self._row = host.staging_words(config)
        self._sequence = HELLO
        self.repeats = 0  #: requests that had to be sent again

    def connect(self) -> None:
        """Check that there is a chip of this configuration.

        Raises
        ------
        UserError
            When there is no answer, or another design or configuration.
        """
        config, self._sequence = self.config, HELLO
        (magic,) = self.read(host.MAGIC.offset)
        if magic != host.MAGIC.value(config):
            raise UserError(f"{self.line.name}: found {magic:#010x} as MAGIC, no Waterclock")
        (version,) = self.read(host.VERSION.offset)
        major = host.VERSION.field("major").low
        found, wanted = ((v >> major, v & 0xFFFF) for v in (version, host.VERSION.value(config)))
        if found[0] != wanted[0] or found < wanted:
            raise UserError(
                f"{self.line.name}: found register map {found[0]}.{found[1]}, expected "
                f"{wanted[0]}.{wanted[1]} or newer: load a bitstream of this version"
            )
        for register in host.REGISTERS:
            if not callable(register.reset):
                continue  # tells nothing of the configuration
            (found,) = self.read(register.offset)
            if found != register.value(config):
                raise UserError(
                    f"{self.line.name}: the board has {register.name} {found}, the program was "
                    f"compiled for {register.value(config)}"
                )

    def read(self, offset: int, count: int = 1) -> tuple[int, ...]:
        """Return registers from a byte offset on."""
        return self._exchange(Op.READ, offset, count).words

    def write(self, offset: int, *words: int) -> None:
        """Write registers from a byte offset on."""
        self._exchange(Op.WRITE, offset, len(words), words)

    def load(self, space: host.Space, unit: int, address: int, words: Sequence[int]) -> None:
        """Store words in a memory, from row ``address`` on; whole rows of staging registers."""
        row = self._row
        step = MOST_WORDS // row * row
        for first in range(0, len(words), step):
            part = tuple(words[first : first + step])
            self._select(space, unit, address + first // row)
            self._exchange(Op.LOAD, 0, len(part), part)

    def dump(self, space: host.Space, unit: int, address: int, rows: int) -> list[int]:
        """Return the words of ``rows`` rows of a memory."""
        row = self._row
        step = MOST_WORDS // row
        found: list[int] = []
        for first in range(0, rows, step):
            self._select(space, unit, address + first)
            found += self._exchange(Op.DUMP, 0, row * min(step, rows - first)).words
        return found

    def _select(self, space: host.Space, unit: int, address: int) -> None:
        """Point the memory window at a row; the two registers are neighbours."""
        fields = {"unit": unit, "space": space}
        select = sum(value << host.SELECT.field(name).low for name, value in fields.items())
        self.write(host.SELECT.offset, select, address)

    def _exchange(self, op: Op, address: int, count: int, words: tuple[int, ...] = ()) -> Response:
        """Send a request until it is answered; return the response."""
        sequence = self._sequence
        self._sequence = sequence % (SEQUENCES - 1) + 1  # never HELLO again
        frame = request(sequence, op, address, count, words)
        expected = 0 if words else count
        for _ in range(TRIES):
            self.line.write(frame)
            response = self._await(sequence, expected)
            if response is not None:
                if response.status is not Status.OKAY:
                    raise UserError(
                        f"{self.line.name}: the board refused {op.name} at {address:#05x}"
                    )
                return response
            self.repeats += 1
        raise UserError(
            f"{self.line.name}: no answer to {TRIES} requests: is the board on, is a Waterclock on "
            "it, is the baud rate right?"
        )

    def _await(self, sequence: int, count: int) -> Response | None:
        """Return the response to a request, or None after a time of silence or much noise."""
        responses, heard = Responses(), 0
        while heard < MOST_NOISE and (data := self.line.read(self.timeout)):
            heard += len(data)
            for response in responses.feed(data):
                if response.sequence == sequence and len(response.words) == count:
                    return response
        return None

"""The host link: frames that carry accesses of the host port over a serial line, said once.

    request:  SYNC  sequence  op      address (2)  count  words (4 each)  CRC (2)
    response: SYNC  sequence  status  count        words (4 each)         CRC (2)

Words and addresses begin with their low byte, the CRC with its high byte. It covers everything
between SYNC and itself. A request has words for ``Op.WRITE`` and ``Op.LOAD``, a response for
``Op.READ`` and ``Op.DUMP``.

The host waits for the response, and repeats a request that gets none. A board that gets the same
sequence number twice gives the same response again without acting twice. A damaged frame gets no
response; a frame that stops is forgotten after a time, so that the line recovers from anything.
"""

import binascii
import dataclasses
import enum
import struct

SYNC = 0x57  #: the letter W
MOST_WORDS = 128  #: words that a frame carries at most
HEADER = struct.Struct("<BBHB")  #: sequence, op, address, count
ANSWER = struct.Struct("<BBB")  #: sequence, status, count
CRC_BYTES = 2
#: Silence within a frame after which a board forgets it, in times of a byte.
SILENCE_BYTES = 16


class Op(enum.IntEnum):
    """What a request asks for; the address is a byte offset in the host port's register map."""

    READ = 1  #: read ``count`` registers from the address on
    WRITE = 2  #: write the words to the registers from the address on
    LOAD = 3  #: store the words with the memory window, a row (all staging registers) at a time
    DUMP = 4  #: read ``count`` words with the memory window, a row at a time


class Status(enum.IntEnum):
    """How a request ended."""

    OKAY = 0
    REFUSED = 1  #: the host port answered an access with an error


@dataclasses.dataclass(frozen=True)
class Response:
    """An intact response."""

    sequence: int
    status: Status
    words: tuple[int, ...]


def crc(data: bytes) -> int:
    """Return the CRC-16/IBM-3740 of some bytes."""
    return binascii.crc_hqx(data, 0xFFFF)


def _framed(content: bytes) -> bytes:
    return bytes([SYNC]) + content + crc(content).to_bytes(CRC_BYTES, "big")


def request(sequence: int, op: Op, address: int, count: int, words: tuple[int, ...] = ()) -> bytes:
    """Return the bytes of a request."""
    return _framed(
        HEADER.pack(sequence, op, address, count) + struct.pack(f"<{len(words)}I", *words)
    )


class Responses:
    """Finds intact responses in the bytes that arrive, whatever else is between them."""

    def __init__(self) -> None:
        self._bytes = b""

    def feed(self, data: bytes) -> list[Response]:
        """Take bytes that arrived; return the responses that are complete now."""
        self._bytes += data
        found = []
        while (at := self._bytes.find(SYNC)) >= 0:
            self._bytes = self._bytes[at:]
            content = self._bytes[1:]
            if len(content) < ANSWER.size:
                return found
            sequence, status, count = ANSWER.unpack_from(content)
            size = ANSWER.size + 4 * count
            if count <= MOST_WORDS and status in list(Status):
                if len(content) < size + CRC_BYTES:
                    return found
                if crc(content[: size + CRC_BYTES]) == 0:
                    words = struct.unpack_from(f"<{count}I", content, ANSWER.size)
                    found.append(Response(sequence, Status(status), words))
                    self._bytes = content[size + CRC_BYTES :]
                    continue
            self._bytes = content  # not the beginning of a frame after all
        self._bytes = b""
        return found

"""Instructions of a MEM slice [I20d, Table I]: a read port and a write port, a queue each.

A slice has two single-port banks: address ``a`` lies in bank ``a // rows``. A read and a write
may share a cycle when their banks differ. Two queues a slice are our choice: a Repeat in one is
not cut short by an instruction of the other.

Between a column and the slices of its group there are ``Config.paths`` paths (ours). Where they
are fewer than streams, slices sample only streams that flow outward, and streams of equal number
modulo ``paths`` share one: in one cycle the slices of a group can sample only one of them, any
number of times, and drive only one of them, of either direction. Maps then come by the last two
paths.

Slices of a group that are ``Config.wide`` (ours) hold a 32-bit vector in a row and do the same in
every cycle: the queues of the first are those of all, see ``followed``. Few paths lead to each, see
``wide_paths``.
"""

import dataclasses
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import WIDTH, Config
from waterclock.isa.icu import still_operand
from waterclock.isa.spec import Instruction, Role, instruction, operand
from waterclock.isa.streams import ID_BITS, STREAM_BITS

Code = TypeVar("Code", int, NDArray[np.int64])

ADDRESS_BITS = 16
LANE_BITS = 4


def read_latency(_: Config) -> int:
    """Return the cycles from issue to the vector in the slice's stream register."""
    return 2


def _depth(config: Config) -> int:
    return config.depth


def path(config: Config, code: Code) -> Code:
    """Return the path between a column and its slices that a stream takes."""
    number = (code >> ID_BITS) * config.streams + (code & (1 << ID_BITS) - 1)
    return number % config.paths


def map_lanes(config: Config) -> int:
    """Return how many lanes of a superlane may hold maps: at most one a slice that LW reads."""
    return min(config.lanes, config.load_streams)


def map_path(config: Config) -> int | None:
    """Return the path by which the low bytes of maps come; None where every pair of paths may."""
    return config.paths - 2 if config.paths < 2 * config.streams else None


def followed(op: Instruction, index: int) -> Instruction:
    """Return what slice ``index`` of a wide group does when the first one does ``op``.

    Its stream is ``index`` further among the four aligned ones, cyclically; with Scatter all
    sample one stream, and the lane of the map is ``index`` further.
    """
    name = "src" if isinstance(op, Write) else "lane" if isinstance(op, Scatter) else "dst"
    value = getattr(op, name)
    if name == "lane":
        moved = value + index & (1 << LANE_BITS) - 1
    else:
        moved = value & ~(WIDTH - 1) | value + index & WIDTH - 1
    return dataclasses.replace(op, **{name: moved})  # type: ignore[type-var]


def wide_paths(op: type[Instruction], index: int) -> tuple[int, ...]:
    """Return the paths by which slice ``index`` of a wide group has its ``dst`` or ``src``.

    A slice has a path of its own. What is read may go by the one two further as well, as the low
    half of a vector does when it becomes a map. What is scattered, a byte of the low half, comes
    by the first two.
    """
    if op is Scatter:
        return 0, 1
    return (index,) if op is Write else (index, (index + 2) % WIDTH)


@instruction("mem_read", 8, latency=read_latency)
class Read(Instruction):
    """Put the vector at ``addr`` onto stream ``dst``."""

    addr: int = operand(ADDRESS_BITS, Role.ADDRESS, below=_depth, doc="vector address in the slice")
    still: int = still_operand()
    dst: int = operand(STREAM_BITS, Role.WRITES, kind="stream", doc="stream driven")


@instruction("mem_read", 9, latency=read_latency)
class Gather(Instruction):
    """Put the vector at ``addr`` + map onto stream ``dst``, the map being data.

    Each superlane takes its own 16-bit map value from lane ``lane`` of the streams ``map`` (low
    byte) and ``map`` + 1 (high byte), sampled at issue; ``map`` is even. The bank of every address
    that can occur is taken. Byte-planar maps and the choice of the lane are ours.
    """

    addr: int = operand(ADDRESS_BITS, Role.ADDRESS, below=_depth, doc="base address")
    still: int = still_operand()
    dst: int = operand(STREAM_BITS, Role.WRITES, kind="stream", doc="stream driven")
    map: int = operand(STREAM_BITS, Role.READS, kind="stream", streams=2, doc="map streams")
    lane: int = operand(
        LANE_BITS, below=map_lanes, doc="lane of each superlane that holds the map value"
    )


@instruction("mem_write", 10)
class Write(Instruction):
    """Store stream ``src`` at ``addr``; a Read issued in the next cycle sees it."""

    addr: int = operand(ADDRESS_BITS, Role.ADDRESS, below=_depth, doc="vector address in the slice")
    still: int = still_operand()
    src: int = operand(STREAM_BITS, Role.READS, kind="stream", doc="stream sampled at issue")


@instruction("mem_write", 11)
class Scatter(Instruction):
    """Store stream ``src`` at ``addr`` + map; the map is taken as in Gather."""

    addr: int = operand(ADDRESS_BITS, Role.ADDRESS, below=_depth, doc="base address")
    still: int = still_operand()
    src: int = operand(STREAM_BITS, Role.READS, kind="stream", doc="stream sampled at issue")
    map: int = operand(STREAM_BITS, Role.READS, kind="stream", streams=2, doc="map streams")
    lane: int = operand(
        LANE_BITS, below=map_lanes, doc="lane of each superlane that holds the map value"
    )

"""Instructions of an SXM [I20d, Table I]: the slice that moves bytes between lanes.

Every instruction samples its streams at issue and drives its results ``sxm_latency`` cycles
later; the latency carries the crossing of the superlanes. Lane numbers count through all
superlanes. Streams may come from and go to either direction.
"""

from waterclock.isa.config import Config
from waterclock.isa.spec import Instruction, Role, instruction, operand
from waterclock.isa.streams import STREAM_BITS

LANE_BITS = 9


def sxm_latency(config: Config) -> int:
    """Return the cycles from issue to the result in the SXM's stream register."""
    return config.superlanes + 1


def transpose_streams(config: Config) -> int:
    """Return the streams that Transpose takes and drives: one per lane of a superlane."""
    return min(config.lanes, config.streams)


def _block_streams(_: Instruction, config: Config) -> int:
    return transpose_streams(config)


@instruction("sxm_shift", 8, latency=sxm_latency)
class Shift(Instruction):
    """Move every byte ``count`` lanes: result lane l is lane l - count, or zero."""

    src: int = operand(STREAM_BITS, Role.READS, kind="stream", doc="stream")
    dst: int = operand(STREAM_BITS, Role.WRITES, kind="stream", doc="stream")
    count: int = operand(LANE_BITS + 1, signed=True, doc="lanes; negative shifts to lower lanes")


@instruction("sxm_shift", 9, latency=sxm_latency)
class Select(Instruction):
    """Choose per lane among unshifted, up-shifted and down-shifted bytes of one stream.

    Where the byte of stream ``map`` is 0 the result is lane l, where it is 1 lane l - count,
    where it is 2 lane l + count, else zero; zero too where there is no such lane.
    """

    src: int = operand(STREAM_BITS, Role.READS, kind="stream", doc="stream")
    dst: int = operand(STREAM_BITS, Role.WRITES, kind="stream", doc="stream")
    map: int = operand(STREAM_BITS, Role.READS, kind="stream", doc="stream with the choice")
    count: int = operand(LANE_BITS, doc="lanes")


@instruction("sxm_shift", 10, latency=sxm_latency)
class Rotate(Instruction):
    """Turn ``count`` streams into count x count: stream i * count + j is stream i rotated by j.

    Rotation by j: result lane l is lane (l - j) modulo the vector. ``count`` is 2, 3 or 4, and
    its square must not exceed the streams of a direction.
    """

    src: int = operand(
        STREAM_BITS,
        Role.READS,
        kind="stream",
        streams=lambda op, _: op.count,
        doc="first of count streams",
    )
    dst: int = operand(
        STREAM_BITS,
        Role.WRITES,
        kind="stream",
        streams=lambda op, _: op.count**2,
        doc="first of count^2 streams",
    )
    count: int = operand(3, doc="2, 3 or 4")


@instruction("sxm_permute", 11, latency=sxm_latency)
class Permute(Instruction):
    """Permute all lanes: result lane l is lane map[l], zero where map[l] is beyond the vector.

    The map is 16 bits a lane, on the streams ``map`` (low byte) and ``map`` + 1 (high byte).
    """

    src: int = operand(STREAM_BITS, Role.READS, kind="stream", doc="stream")
    dst: int = operand(STREAM_BITS, Role.WRITES, kind="stream", doc="stream")
    map: int = operand(STREAM_BITS, Role.READS, kind="stream", streams=2, doc="first of two")


@instruction("sxm_permute", 12, latency=sxm_latency)
class Distribute(Instruction):
    """Remap or replicate lanes within superlanes: result lane l is lane map[l] of its own.

    The map is one byte a lane; a value beyond the superlane gives zero.
    """

    src: int = operand(STREAM_BITS, Role.READS, kind="stream", doc="stream")
    dst: int = operand(STREAM_BITS, Role.WRITES, kind="stream", doc="stream")
    map: int = operand(STREAM_BITS, Role.READS, kind="stream", doc="stream with the map")


@instruction("sxm_transpose", 13, latency=sxm_latency)
class Transpose(Instruction):
    """Transpose within each superlane: lane j of result stream i is lane i of stream j.

    Takes and drives ``transpose_streams(config)`` streams, starting at ``src`` and ``dst``, and
    works on as many lanes; lanes beyond them become zero.
    """

    src: int = operand(
        STREAM_BITS, Role.READS, kind="stream", streams=_block_streams, doc="first stream"
    )
    dst: int = operand(
        STREAM_BITS, Role.WRITES, kind="stream", streams=_block_streams, doc="first stream"
    )

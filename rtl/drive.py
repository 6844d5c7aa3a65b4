"""From the results of several drivers to the drive buses of one stream column."""

import dataclasses
from collections.abc import Sequence

from amaranth import *

from waterclock.isa.config import Config
from waterclock.isa.streams import ID_BITS


@dataclasses.dataclass(frozen=True)
class Drive:
    """What one driver puts onto neighbouring streams of one superlane in this cycle."""

    count: Value  #: streams driven; 0 for none
    dst: Value  #: stream code of the first
    data: Value  #: the streams side by side; the width says how many there are at most
    fewest: int = 1  #: the smallest count besides 0 that ever occurs


@dataclasses.dataclass(frozen=True)
class DriveBus:
    """The inputs of a ``StreamColumn``, and what is wrong with them."""

    east_valid: Signal
    east_data: Signal
    west_valid: Signal
    west_data: Signal
    double: Signal  #: two drivers drive one stream
    beyond: Signal  #: a stream that the configuration does not have is driven


def drive_streams(m: Module, config: Config, drives: Sequence[Drive]) -> DriveBus:
    """Add the logic that brings every driven stream to its place; combinational.

    Where two drivers meet, which is an error, the last one wins.

    Parameters
    ----------
    m : Module
        Module that gets the logic.
    config : Config
        Uses ``streams`` and ``lanes``.
    drives : sequence of Drive
        All drivers of the column.
    """
    streams, width = config.streams, config.lanes * 8
    valid = [Signal(streams, name=f"{way}_valid") for way in ("east", "west")]
    data = [Signal(streams * width, name=f"{way}_data") for way in ("east", "west")]
    double, beyond = Signal(), Signal()
    masks: list[tuple[Signal, Signal]] = []
    for index, drive in enumerate(drives):
        most = len(drive.data) // width
        number, ones = drive.dst[:ID_BITS], Cat(drive.count > i for i in range(most))
        mask = Signal(most + (1 << ID_BITS), name=f"mask_{index}")
        placed = Signal(streams * width, name=f"placed_{index}")
        ways = (Signal(streams, name=f"east_{index}"), Signal(streams, name=f"west_{index}"))
        active = drive.count.any()
        with m.If(active):
            m.d.comb += mask.eq(ones << number)
            _place(m, drive, streams, width, placed)
            for direction, way in enumerate(ways):
                with m.If(drive.dst[ID_BITS] == direction):
                    m.d.comb += way.eq(mask)
                for number in range(streams):
                    field = slice(number * width, (number + 1) * width)
                    with m.If(way[number]):
                        m.d.comb += data[direction][field].eq(placed[field])
        with m.If(mask[streams:].any()):
            m.d.comb += beyond.eq(1)
        for other in masks:
            with m.If((other[0] & ways[0]).any() | (other[1] & ways[1]).any()):
                m.d.comb += double.eq(1)
        masks.append(ways)
    for direction in range(2):
        either = Const(0, streams)
        for ways in masks:
            either = either | ways[direction]
        m.d.comb += valid[direction].eq(either)
    return DriveBus(valid[0], data[0], valid[1], data[1], double, beyond)


def _place(m: Module, drive: Drive, streams: int, width: int, placed: Signal) -> None:
    """Bring the data of ``drive`` to every stream that could take it.

    Stream s takes data (s - first stream) modulo a power of two: the masks say where that is
    meant, and few bits of the code have to be looked at.
    """
    most = len(drive.data) // width
    bits = (most - 1).bit_length()

    def at(first: int) -> Value:
        sources = [(number - first) % (1 << bits) for number in range(streams)]
        return Cat(
            drive.data[source * width : (source + 1) * width] if source < most else C(0, width)
            for source in sources
        )

    # A driver of all streams has only one place, and needs no multiplexer.
    places = min(1 << bits, streams - drive.fewest + 1)
    if places == 1:
        m.d.comb += placed.eq(at(0))
        return
    with m.Switch(drive.dst[:bits]):
        for first in range(places):
            with m.Case(first):
                m.d.comb += placed.eq(at(first))

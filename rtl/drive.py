"""From the results of several drivers to the drive buses of one stream column."""

import dataclasses
from collections.abc import Sequence

from amaranth import *

from waterclock.isa.config import Config
from waterclock.isa.streams import ID_BITS
from waterclock.rtl.part import needed


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


def drive_streams(
    m: Module, config: Config, drives: Sequence[Drive], name: str = "drive"
) -> DriveBus:
    """Add the logic that brings every driven stream to its place; combinational.

    Where two drivers meet, which is an error, the last one wins. What is not driven is zero; on an
    FPGA it may be anything where there is one driver only.

    Parameters
    ----------
    m : Module
        Module that gets the logic.
    config : Config
        Uses ``streams`` and ``lanes``.
    drives : sequence of Drive
        All drivers of the column.
    name : str
        Of the column, where a module has several.
    """
    streams, width = config.streams, config.lanes * 8
    alone = len(drives) == 1
    valid = [Signal(streams, name=f"{way}_valid_bus") for way in ("east", "west")]
    data = [Signal(streams * width, name=f"{way}_data_bus") for way in ("east", "west")]
    double, beyond = Signal(), Signal()
    masks: list[Sequence[Signal]] = []
    for index, drive in enumerate(drives):
        most = len(drive.data) // width
        mask = Signal(most + (1 << ID_BITS), name=f"mask_{index}")
        driven = [Signal(streams, name=f"{way}_mask_{index}") for way in ("east", "west")]
        active = drive.count.any()
        with m.If(active):
            ones = Cat(drive.count > position for position in range(most))
            m.d.comb += mask.eq(ones << drive.dst[:ID_BITS])
        for direction, way in enumerate(driven):
            with m.If(drive.dst[ID_BITS] == direction):
                m.d.comb += way.eq(mask)
        # Inside one condition, so that an idle driver costs a simulator one test.
        with m.If(needed(m, f"{name}_turned", active) if alone else active):
            turned = _turned(m, drive, streams, width, f"turned_{index}")
            for direction, way in enumerate(driven):
                meant = needed(m, f"{name}_{direction}", way) if alone else way
                for number in range(streams):
                    with m.If(meant[number]):
                        m.d.comb += (
                            data[direction]
                            .word_select(number, width)
                            .eq(turned[number % len(turned)])
                        )
        with m.If(mask[streams:].any()):
            m.d.comb += beyond.eq(1)
        for other in masks:
            with m.If((Cat(other) & Cat(driven)).any()):
                m.d.comb += double.eq(1)
        masks.append(driven)
    for direction, bus in enumerate(valid):
        either: Value = C(0, streams)
        for driven in masks:
            either = either | driven[direction]
        m.d.comb += bus.eq(either)
    return DriveBus(valid[0], data[0], valid[1], data[1], double, beyond)


def _turned(m: Module, drive: Drive, streams: int, width: int, name: str) -> list[Value]:
    """Return the driver's streams in the order of their numbers modulo a power of two.

    The masks say which of them are meant, so few bits of the code have to be looked at.
    """
    most = len(drive.data) // width
    bits = (most - 1).bit_length()
    size = 1 << bits
    value = Cat(drive.data, C(0, size * width - len(drive.data)))
    # A driver of all streams has only one place, and nothing to turn.
    for bit in range(bits if streams > drive.fewest else 0):
        by = len(value) - (width << bit)
        stage = Signal(len(value), name=f"{name}_{bit}")
        m.d.comb += stage.eq(Mux(drive.dst[bit], Cat(value[by:], value[:by]), value))
        value = stage
    return [value.word_select(position, width) for position in range(size)]

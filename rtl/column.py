"""The stream registers of a column whose unit lives outside the tile: those of SXM and MXM."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.config import Config


class StreamColumn(wiring.Component):
    """One superlane of a column: an eastward and a westward register of all streams.

    Parameters
    ----------
    config : Config
        Uses ``streams`` and ``lanes``. Stream s is bits ``s * lanes * 8`` and following.

    Members
    -------
    east_in, west_in : In(streams * lanes * 8)
        Registers of the upstream neighbours: the column to the west, the column to the east.
    east_valid, west_valid : In(streams)
        Streams that the column's unit drives in this cycle.
    east_data, west_data : In(streams * lanes * 8)
        What it drives; ignored where not valid.
    east, west : Out(streams * lanes * 8)
        The registers.

    Timing
    ------
    What is driven, or met upstream, in one cycle is in the register in the next.
    """

    def __init__(self, config: Config):
        self.config = config
        width = config.streams * config.lanes * 8
        super().__init__(
            {
                name: member
                for way in ("east", "west")
                for name, member in (
                    (f"{way}_in", In(width)),
                    (f"{way}_valid", In(config.streams)),
                    (f"{way}_data", In(width)),
                    (way, Out(width)),
                )
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.config.lanes * 8
        for way in ("east", "west"):
            valid, data = getattr(self, f"{way}_valid"), getattr(self, f"{way}_data")
            register = Signal(len(data), name=f"{way}_register", reset_less=True)
            m.d.sync += register.eq(getattr(self, f"{way}_in"))
            # The outer condition spares a simulator the others in nearly every cycle.
            with m.If(valid.any()):
                for number in range(self.config.streams):
                    field = slice(number * width, (number + 1) * width)
                    with m.If(valid[number]):
                        m.d.sync += register[field].eq(data[field])
            m.d.comb += getattr(self, way).eq(register)
        return m

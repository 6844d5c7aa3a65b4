"""What one superlane of an MXM plane takes off the streams."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa.config import Config
from waterclock.isa.mxm import ABL, LW
from waterclock.isa.spec import Instruction, word_bits
from waterclock.isa.streams import ID_BITS
from waterclock.rtl.mxm_tile import BYTE


def field(word: Value, op: type[Instruction], name: str) -> Value:
    """Return an operand's field of an instruction word."""
    spec = next(spec for spec in op.operands if spec.name == name)
    return word[spec.low : spec.low + spec.bits]


class MXMFeed(wiring.Component):
    """The streams of one superlane that LW and ABL take, and their words on their way.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    lw_in, abl_in : In(word bits)
        Words from the superlane before, or from the queues.
    lw_out, abl_out : Out(word bits)
        The words issued in this cycle, for the next superlane.
    streams : In(streams * lanes * 8)
        Register of the column, outward direction.
    weights : Out(load_streams * lanes * 8)
        The vectors of the LW, so turned that place i is for rows i modulo ``load_streams``.
    activations : Out(2 * lanes * 8)
        The two streams of the ABL.

    Timing
    ------
    The outputs belong to the words issued in this cycle.
    """

    def __init__(self, config: Config):
        self.config = config
        width = config.lanes * BYTE
        super().__init__(
            {
                "lw_in": In(word_bits("mxm_lw")),
                "lw_out": Out(word_bits("mxm_lw")),
                "abl_in": In(word_bits("mxm_abl")),
                "abl_out": Out(word_bits("mxm_abl")),
                "streams": In(config.streams * width),
                "weights": Out(config.load_streams * width),
                "activations": Out(2 * width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.lw_out.eq(self.lw_in), self.abl_out.eq(self.abl_in)]
        vectors, width = self.config.load_streams, self.config.lanes * BYTE
        last = self.config.streams - vectors
        taken = self.streams
        if last:
            taken = Signal(vectors * width)
            number = field(self.lw_out, LW, "src")[:ID_BITS]
            with m.If(self.lw_out.any()), m.Switch(number):
                for first in range(last + 1):
                    with m.Case(first):
                        m.d.comb += taken.eq(self.streams[first * width :])
        rows = range(self.config.vector - vectors + 1)
        if len(rows) == 1:
            m.d.comb += self.weights.eq(taken)
        else:
            with m.If(self.lw_out.any()), m.Switch(field(self.lw_out, LW, "row")):
                for turn in range(min(vectors, len(rows))):
                    with m.Case(*rows[turn::vectors]):
                        places = [(place - turn) % vectors for place in range(vectors)]
                        m.d.comb += self.weights.eq(
                            Cat(taken.word_select(place, width) for place in places)
                        )
        with m.If(self.abl_out.any()), m.Switch(field(self.abl_out, ABL, "src")[1:ID_BITS]):
            for pair in range(self.config.streams // 2):
                with m.Case(pair):
                    m.d.comb += self.activations.eq(self.streams.word_select(pair, 2 * width))
        return m

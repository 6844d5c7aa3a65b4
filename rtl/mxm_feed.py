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
        width = self.config.lanes * BYTE
        with m.If(self.lw_out.any()):
            m.d.comb += self.weights.eq(Cat(self._turned(m, self._taken(m))))
        with m.If(self.abl_out.any()), m.Switch(field(self.abl_out, ABL, "src")[1:ID_BITS]):
            for pair in range(self.config.streams // 2):
                with m.Case(pair):
                    m.d.comb += self.activations.eq(self.streams.word_select(pair, 2 * width))
        return m

    def _taken(self, m: Module) -> list[Value]:
        """Return the streams of the LW; the number of place i is i modulo ``load_streams``."""
        vectors, width = self.config.load_streams, self.config.lanes * BYTE
        streams = [self.streams.word_select(i, width) for i in range(self.config.streams)]
        if len(streams) == vectors:
            return streams
        taken = [Signal(width, name=f"taken_{place}") for place in range(vectors)]
        number = field(self.lw_out, LW, "src")[:ID_BITS]
        for place, value in enumerate(taken):
            candidates = streams[place::vectors]
            m.d.comb += value.eq(candidates[-1])
            for index, candidate in reversed(list(enumerate(candidates[:-1]))):
                with m.If(number <= place + index * vectors):
                    m.d.comb += value.eq(candidate)
        return taken

    def _turned(self, m: Module, taken: list[Value]) -> list[Value]:
        """Return the streams of the LW in the order of the rows that they are for."""
        vectors = self.config.load_streams
        rows = self.config.vector - vectors + 1
        sources = self.config.streams - vectors + 1
        if rows == sources == 1:
            return taken
        row = _modulo(m, field(self.lw_out, LW, "row"), rows, vectors, "row")
        source = _modulo(m, field(self.lw_out, LW, "src")[:ID_BITS], sources, vectors, "source")
        turn = Signal(range(vectors))
        m.d.comb += turn.eq(Mux(source >= row, source - row, source + vectors - row))
        values = taken
        for bit, at in enumerate(turn):
            turned = [values[(place + (1 << bit)) % vectors] for place in range(vectors)]
            stage = [
                Signal.like(value, name=f"turned_{place}_{bit}")
                for place, value in enumerate(taken)
            ]
            m.d.comb += Cat(stage).eq(Mux(at, Cat(turned), Cat(values)))
            values = stage
        return values


def _modulo(m: Module, value: Value, limit: int, modulus: int, name: str) -> Signal:
    """Return a number below ``limit`` modulo ``modulus``."""
    rest = Signal(range(modulus), name=f"{name}_rest")
    if modulus & (modulus - 1):
        with m.Switch(value):
            for number in range(limit):
                with m.Case(number):
                    m.d.comb += rest.eq(number % modulus)
    else:
        m.d.comb += rest.eq(value)
    return rest

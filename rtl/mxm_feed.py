"""What one superlane of an MXM plane takes off the streams.

With activations in digits an ABC is slower, so what it needs may come a cycle later.
"""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from waterclock.isa.config import Config
from waterclock.isa.mxm import ABL, LW, row_step, stream_unit
from waterclock.isa.spec import OPCODE_BITS, word_bits
from waterclock.isa.streams import ID_BITS
from waterclock.rtl.mxm_tile import BYTE
from waterclock.rtl.part import field


def present(word: Value) -> Value:
    """Tell whether a word is an instruction; zero is none."""
    return word[:OPCODE_BITS].any()


def feed_delay(config: Config) -> int:
    """Return the cycles from the issue of LW or ABL to its operands; IW and ABC wait as long."""
    return 0 if config.digits == 1 else 1


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
    lw_late, abl_late : Out(word bits)
        The words that the operands are those of.
    streams : In(streams * lanes * 8)
        Register of the column, outward direction.
    weights : Out(load_streams * lanes * 8)
        The vectors of the LW, so turned that place i is for rows i modulo ``load_streams``.
    activations : Out(2 * lanes * 8)
        The two streams of the ABL.

    Timing
    ------
    The operands are there ``feed_delay`` cycles after the issue.
    """

    def __init__(self, config: Config):
        self.config = config
        width = config.lanes * BYTE
        super().__init__(
            {
                "lw_in": In(word_bits("mxm_lw")),
                "lw_out": Out(word_bits("mxm_lw")),
                "lw_late": Out(word_bits("mxm_lw")),
                "abl_in": In(word_bits("mxm_abl")),
                "abl_out": Out(word_bits("mxm_abl")),
                "abl_late": Out(word_bits("mxm_abl")),
                "streams": In(config.streams * width),
                "weights": Out(config.load_streams * width),
                "activations": Out(2 * width),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.lw_out.eq(self.lw_in), self.abl_out.eq(self.abl_in)]
        domain = m.d.sync if feed_delay(self.config) else m.d.comb
        domain += [self.lw_late.eq(self.lw_out), self.abl_late.eq(self.abl_out)]
        with m.If(present(self.lw_out)):
            domain += self.weights.eq(Cat(self._turned(m, self._taken(m))))
        with m.If(present(self.abl_out)):
            domain += self.activations.eq(self._pair(m))
        return m

    def _streams(self, streams: int) -> list[Value]:
        """Return the register of the column, so many streams at once."""
        width = streams * self.config.lanes * BYTE
        return [self.streams.word_select(i, width) for i in range(len(self.streams) // width)]

    def _pair(self, m: Module) -> Signal:
        """Return the streams of the ABL."""
        unit = stream_unit(ABL, self.config)
        pair = Signal(len(self.activations), name="abl_pair")
        if unit == self.config.streams:
            m.d.comb += pair.eq(self.streams[: len(pair)])
            return pair
        with m.Switch(field(self.abl_out, ABL, "src")[exact_log2(unit) : ID_BITS]):
            for number, streams in enumerate(self._streams(unit)):
                with m.Case(number):
                    m.d.comb += pair.eq(streams)
        return pair

    def _turn(self, m: Module) -> Signal:
        """Return how many places further down the vector for place 0 came."""
        vectors = self.config.load_streams
        rows = self.config.vector - vectors + 1
        sources = self.config.streams - vectors + 1
        row = _modulo(m, field(self.lw_out, LW, "row"), rows, vectors, "row")
        source = _modulo(m, field(self.lw_out, LW, "src")[:ID_BITS], sources, vectors, "source")
        turn = Signal(range(vectors))
        wrapped = vectors & (vectors - 1) == 0 or source >= row
        m.d.comb += turn.eq(Mux(wrapped, source - row, source + vectors - row))
        return turn

    def _taken(self, m: Module) -> list[Value]:
        """Return the streams of the LW; the number of place i is i modulo ``load_streams``."""
        vectors, width = self.config.load_streams, self.config.lanes * BYTE
        streams = self._streams(1)
        if len(streams) in (vectors, stream_unit(LW, self.config)):
            return streams[:vectors]
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
        if (
            row_step(self.config) == vectors
            or vectors == len(self._streams(1)) == self.config.vector
        ):
            return taken
        turn = self._turn(m)
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

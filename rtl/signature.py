"""The signature of a run (``isa/signature.py``): hashes of writes, and their sum over time."""

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.isa import signature
from waterclock.isa.config import Config
from waterclock.isa.signature import BITS
from waterclock.rtl.part import xor_of


def hash_of(m: Module, writing: Value, data: Value, row: Value) -> Value:
    """Return the hash of what a tile writes in a cycle, in the next one; zero for nothing.

    What the host writes may be among it: no cycle of a run is near.
    """
    # The register stands before the sums: a memory's data arrive late in a cycle. It moves only
    # when it must, for a simulator's sake.
    seen = Signal(len(data) + len(row) + 1, reset_less=True)
    data_bits, mark = len(data), seen[-1]
    with m.If(writing):
        m.d.sync += seen.eq(Cat(data, row, C(1, 1)))
    with m.Elif(mark):
        m.d.sync += seen.eq(0)
    data, row = seen[:data_bits], seen[data_bits:-1]
    words = [data[at : at + signature.WORD_BITS] for at in range(0, len(data), signature.WORD_BITS)]
    words[-1] = Cat(words[-1], C(0, signature.WORD_BITS - len(words[-1])))
    folded = xor_of(word.rotate_left(n * signature.TURN) for n, word in enumerate(words))
    low, high = row[: signature.ROW_BITS], row[signature.ROW_BITS :]
    gap = signature.MARK_PLACE - signature.ROW_PLACE - len(low)
    return Cat(folded ^ high if len(high) else folded, low, C(0, gap), mark)


def sum_of(m: Module, hashes: Sequence[Value]) -> Value:
    """Return the sum of the hashes of neighbouring tiles, a cycle later."""
    found, marked = Signal(BITS, reset_less=True), Signal()
    whole = [Cat(value, C(0, BITS - len(value))) for value in hashes]
    any_marks = Cat(value[signature.MARK_PLACE] for value in whole).any()
    m.d.sync += marked.eq(any_marks)
    with m.If(any_marks):
        m.d.sync += found.eq(xor_of(times(m, value, place) for place, value in enumerate(whole)))
    with m.Elif(marked):
        m.d.sync += found.eq(0)
    return found


def times(m: Module, value: Value, exponent: int) -> Value:
    """Return a polynomial times a power of x."""
    while exponent:
        step = min(exponent, BITS - max(signature.TAPS))
        over = value[BITS - step :]
        following = Signal(BITS)
        m.d.comb += following.eq(
            xor_of([value[: BITS - step].shift_left(step), *map(over.shift_left, signature.TAPS)])
        )
        value, exponent = following, exponent - step
    return value


class RunSignature(wiring.Component):
    """Adds up what is written, superlane after superlane and cycle after cycle.

    Parameters
    ----------
    config : Config
        Uses ``superlanes``, ``slices`` and ``group``.

    Members
    -------
    sum_{k}_{c} : In(32)
        Sum of the hashes of one superlane of a group of slices, times x for each slice before; the
        groups of the west come before those of the east. Two cycles after the write.
    launch : In(1)
        Clears the signature.
    running : In(1)
        High in the cycles of superlane 0 that count.
    value : Out(32)
        The signature.
    settling : Out(1)
        The run has ended, or will, and sums are on their way still.

    Timing
    ------
    ``settling`` lasts ``superlanes`` + 2 cycles longer than ``running``.
    """

    def __init__(self, config: Config):
        self.config = config
        sums = {
            f"sum_{k}_{c}": In(BITS)
            for k in range(config.superlanes)
            for c in range(2 * config.groups)
        }
        super().__init__(
            sums | {"launch": In(1), "running": In(1), "value": Out(BITS), "settling": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        below: Signal | None = None
        for k in range(config.superlanes):
            row: Signal | None = None
            for c in reversed(range(2 * config.groups)):
                column = getattr(self, f"sum_{k}_{c}")
                added = Signal(BITS, name=f"sum_{k}_from_{c}")
                m.d.comb += added.eq(
                    column if row is None else times(m, row, config.group) ^ column
                )
                row = added
            assert row is not None
            above = Signal(BITS, name=f"sum_{k}", reset_less=True)
            m.d.sync += above.eq(row if below is None else times(m, below, 2 * config.slices) ^ row)
            below = above
        assert below is not None
        counts = Signal(config.superlanes + 2)
        m.d.sync += counts.eq(Cat(self.running, counts))
        m.d.comb += self.settling.eq(counts.any())
        with m.If(self.launch):
            m.d.sync += self.value.eq(0)
        with m.Elif(counts[-1]):
            m.d.sync += self.value.eq(times(m, self.value, 1) ^ below)
        return m

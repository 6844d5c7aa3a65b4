"""A block of an MXM plane's array: weights, multipliers, and the exact sum of its rows."""

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from waterclock.isa.config import Config
from waterclock.isa.mxm import DIGIT_BITS, INTEGER_BITS, fraction_bits

BYTE = 8
LARGEST_TILE = 64  #: rows of a block: a product modulo 2^sum_bits then takes 64 bits


def tile_size(config: Config) -> int:
    """Return the rows and columns of a block: the largest divisor of the vector up to 64."""
    sizes = range(1, min(config.vector, LARGEST_TILE) + 1)
    return max(size for size in sizes if config.vector % size == 0)


def fixed_bits(config: Config) -> int:
    """Return the width of an activation in two's complement, see ``numerics.f16_to_fixed``."""
    return 1 + INTEGER_BITS + fraction_bits(config)


def sum_bits(config: Config, rows: int) -> int:
    """Return the width, in two's complement, of the sum of ``rows`` products."""
    return fixed_bits(config) + BYTE + ceil_log2(rows)


def activation_bits(config: Config, rows: int) -> int:
    """Return the bits of an activation at the input of a block.

    A whole activation comes with its sign extended to the width of the sum: arithmetic is modulo
    a power of two then and needs no signs, which a simulator computes four times as fast. A
    digit has a sign bit, which only the highest one uses.
    """
    return sum_bits(config, rows) if config.digits == 1 else DIGIT_BITS + 1


def _cut(value: Value, width: int) -> Value:
    """Return a value modulo 2^width; one that is narrower keeps its sign."""
    return value[:width] if len(value) > width else value


def total_of(terms: Sequence[Value], width: int) -> Value:
    """Return the sum of terms modulo 2^width, as a balanced tree."""
    while len(terms) > 1:
        pairs = zip(terms[::2], terms[1::2], strict=False)
        odd = terms[len(terms) & ~1 :]
        terms = [*(_cut(a + b, width) for a, b in pairs), *odd]
    return terms[0]


def carried_total(m: Module, terms: Sequence[Value], width: int, name: str) -> Value:
    """Return the same sum from adders that Yosys leaves alone.

    It would make them compressors, which take twice the LUTs of carry chains.
    """
    while len(terms) > 1:
        sums: list[Value] = []
        for a, b in zip(terms[::2], terms[1::2], strict=False):
            added = _cut(a + b, width)
            index = f"{name}_{len(terms)}_{len(sums)}"
            sums.append(Signal(added.shape(), name=index, attrs={"keep": 1}))
            m.d.comb += sums[-1].eq(added)
        terms = [*sums, *terms[len(terms) & ~1 :]]
    return terms[0]


class MACTile(wiring.Component):
    """A block of the array: double-buffered weights and a multiplier for each.

    The multipliers of whole activations take the weights as unsigned bytes. A signed weight w
    enters as w + 128, and 128 times the sum of the activations is taken off again, once for all
    columns. Those of digits are signed.

    Parameters
    ----------
    config : Config
        Uses ``load_streams`` and ``digits``.
    rows, columns : int
        Size of the block.

    Members
    -------
    load : In(1)
        Write ``weights`` into the buffer.
    by_column : In(1)
        The vectors are columns, not rows.
    enables : In(max(rows, columns))
        Rows (columns) that are written; row r takes vector r modulo ``load_streams``.
    weights : In(load_streams * max(rows, columns) * 8)
        The vectors' bytes for this block.
    install : In(1)
        Copy the buffer to the array.
    multiply : In(1)
        ``activations`` are valid.
    more : In(1)
        They are a digit, and the next higher one follows in the next cycle.
    unsigned_weights : In(1)
        Weights count as 0 to 255. For digits it is told a cycle ahead, and signs are found then.
    activations : In(rows * activation_bits)
        Whole activations or digits.
    sums : Out(columns * sum_bits)
        One sum for each column, two's complement.

    Timing
    ------
    ``load`` and ``install`` take effect in the next cycle; one that installs while it loads takes
    the buffer as it was. ``sums`` change in the cycle after ``multiply``.
    """

    def __init__(self, config: Config, rows: int, columns: int):
        self.config, self.rows, self.columns = config, rows, columns
        longest = max(rows, columns)
        super().__init__(
            {
                "load": In(1),
                "by_column": In(1),
                "enables": In(longest),
                "weights": In(config.load_streams * longest * BYTE),
                "install": In(1),
                "multiply": In(1),
                "more": In(1),
                "unsigned_weights": In(1),
                "activations": In(rows * activation_bits(config, rows)),
                "sums": Out(columns * sum_bits(config, rows)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        width = self.columns * BYTE
        buffer = [Signal(width, name=f"buffer_{k}", reset_less=True) for k in range(self.rows)]
        array = [Signal(width, name=f"array_{k}", reset_less=True) for k in range(self.rows)]
        self._load(m, buffer)
        with m.If(self.install):
            m.d.sync += [row.eq(new) for row, new in zip(array, buffer, strict=True)]
        if self.config.digits == 1:
            self._multiply_whole(m, array)
        else:
            self._multiply_digits(m, array, self._signs(m, buffer, array))
        return m

    def _load(self, m: Module, buffer: Sequence[Signal]) -> None:
        vectors, longest = self.config.load_streams, max(self.rows, self.columns)
        arriving = [self.weights.word_select(i, longest * BYTE) for i in range(vectors)]
        for k, row in enumerate(buffer):
            # One value for both orders: synthesis then finds one enable for each byte.
            new = Signal(len(row), name=f"new_{k}")
            parts = (arriving[n % vectors] for n in range(self.columns))
            column = Cat(part.word_select(k, BYTE) for part in parts)
            # For an FPGA no condition, for a simulator of many lanes it saves most of the work.
            with m.If(self.load | (self.config.digits > 1)):
                m.d.comb += new.eq(Mux(self.by_column, column, arriving[k % vectors]))
            with m.If(self.load & self.by_column):
                for n in range(self.columns):
                    with m.If(self.enables[n]):
                        m.d.sync += row.word_select(n, BYTE).eq(new.word_select(n, BYTE))
            with m.Elif(self.load & self.enables[k]):
                m.d.sync += row.eq(new)

    def _signs(self, m: Module, buffer: Sequence[Signal], array: Sequence[Signal]) -> list[Signal]:
        """Return the signs of the weights in the array: where each multiplier has its own."""
        signs: list[Signal] = []
        for k, (new, row) in enumerate(zip(buffer, array, strict=True)):
            found = Signal(self.columns, name=f"signs_{k}", reset_less=True)
            coming = Mux(self.install, new, row)
            tops = Cat(coming.word_select(n, BYTE)[-1] for n in range(self.columns))
            m.d.sync += found.eq(Mux(self.unsigned_weights, 0, tops))
            signs.append(found)
        return signs

    def _activations(self) -> list[Value]:
        bits = activation_bits(self.config, self.rows)
        return [self.activations.word_select(k, bits) for k in range(self.rows)]

    def _multiply_whole(self, m: Module, array: Sequence[Signal]) -> None:
        activations, width = self._activations(), sum_bits(self.config, self.rows)
        flip, excess = Signal(BYTE), Signal(width)
        offset = total_of(activations, width) << BYTE - 1
        m.d.comb += [
            flip.eq(Mux(self.unsigned_weights, 0, 1 << BYTE - 1)),
            # Not an If: a simulator evaluates what stands in a Mux only when it is chosen.
            excess.eq(Mux(self.multiply & ~self.unsigned_weights, -_cut(offset, width), 0)),
        ]
        for n in range(self.columns):
            products = [
                _cut(activation * (row.word_select(n, BYTE) ^ flip), width)
                for activation, row in zip(activations, array, strict=True)
            ]
            register = Signal(width, name=f"sum_{n}", reset_less=True)
            new = total_of([*products, excess], width)
            m.d.sync += register.eq(Mux(self.multiply, new, register))
            m.d.comb += self.sums[n * width : (n + 1) * width].eq(register)

    def _multiply_digits(self, m: Module, array: Sequence[Signal], signs: Sequence[Signal]) -> None:
        """Multiply with one digit after the other, the lowest first, like long multiplication.

        The low digits of a sum are final after their pass; what is above them is carried.
        """
        activations, width = self._activations(), sum_bits(self.config, self.rows)
        partial = DIGIT_BITS + 1 + BYTE + ceil_log2(self.rows)
        for n in range(self.columns):
            products: list[Value] = []
            for activation, row, sign in zip(activations, array, signs, strict=True):
                weight = Cat(row.word_select(n, BYTE), sign[n]).as_signed()
                product = activation.as_signed() * weight
                # The size of a digit is below 2^DIGIT_BITS, that of a weight below 2^BYTE.
                products.append(product[: DIGIT_BITS + BYTE + 1].as_signed())
            carry = Signal(signed(partial - DIGIT_BITS), name=f"carry_{n}")
            new = carried_total(m, [*products, carry], partial, f"total_{n}")
            m.d.sync += carry.eq(Mux(self.multiply & self.more, new[DIGIT_BITS:], 0))
            digits = [
                Signal(size, name=f"sum_{n}_{i}", reset_less=True)
                for i, size in enumerate([DIGIT_BITS] * (self.config.digits - 1) + [partial])
            ]
            with m.If(self.multiply):
                m.d.sync += Cat(digits).eq(Cat(digits[1:-1], digits[-1][:DIGIT_BITS], new))
            m.d.comb += self.sums[n * width : (n + 1) * width].eq(Cat(digits))

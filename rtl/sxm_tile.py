"""One superlane of the SXM: operands off the streams, results onto them, and Transpose."""

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Member, Out

from waterclock.isa.config import Config
from waterclock.isa.floorplan import SXM_KINDS
from waterclock.isa.spec import OPCODE_BITS, Instruction, word_bits
from waterclock.isa.streams import ID_BITS, STREAM_BITS
from waterclock.isa.sxm import (
    Distribute,
    Permute,
    Rotate,
    Select,
    Shift,
    Transpose,
    transpose_streams,
)
from waterclock.rtl.drive import Drive, drive_streams

QUEUES = {kind.removeprefix("sxm_"): kind for kind in SXM_KINDS}
SHIFTS, PERMUTES = (Shift, Select, Rotate), (Permute, Distribute)
PERMUTE_OPERANDS = 3  # source, low and high byte of the map
COUNT_BITS = 3


def rotations(config: Config) -> int:
    """Return the largest count that Rotate may have: 2, 3 or 4."""
    return max(count for count in (2, 3, 4) if count**2 <= config.streams)


def window_lanes(config: Config) -> int:
    """Return the lanes of a stream from which a superlane cuts all rotations of it."""
    return config.lanes + rotations(config) - 1


def field(word: Value, name: str, *ops: type[Instruction]) -> Value:
    """Return a field that lies in the same place in all of ``ops``."""
    places = {(spec.low, spec.bits) for op in ops for spec in op.operands if spec.name == name}
    ((low, bits),) = places
    return word[low : low + bits]


def matches(word: Value, *ops: type[Instruction]) -> Value:
    """Tell whether a word is one of these instructions."""
    return word[:OPCODE_BITS].matches(*(op.opcode for op in ops))


def _tree(code: Value, values: Sequence[Value]) -> Value:
    """Return ``values[code]`` by two-way multiplexers; an FPGA needs fewest LUTs for these."""
    if len(values) == 1:
        return values[0]
    bit = (len(values) - 1).bit_length() - 1
    return Mux(code[bit], _tree(code, values[1 << bit :]), _tree(code, values[: 1 << bit]))


class SXMTile(wiring.Component):
    """One superlane of an SXM: operands off the streams, results onto them, and Transpose.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    {shift,permute,transpose}_in, _out : In, Out(word bits)
        Instruction words of the three queues, and those words for the next superlane.
    east, west : In(streams * lanes * 8)
        Stream registers of this superlane of the SXM's column.
    shift_operands : Out(rotations * lanes * 8)
        The streams from ``src`` on, for ``SXMShift``; a Select's map in place of the second.
    permute_operands : Out(3 * lanes * 8)
        Source, low byte and high byte of the map, for ``SXMPermute``.
    shift_count, shift_dst, shift_windows : In
        Result of ``SXMShift``: 0 for none, 1 for one stream, n for a rotation by n; code of the
        first stream; for each source its lanes with the few before them.
    permute_valid, permute_dst, permute_result : In
        Result of ``SXMPermute``.
    east_valid, east_data, west_valid, west_data : Out
        Drive buses of the ``StreamColumn``.
    error : Out(1)
        An instruction is illegal, or two results meet on one stream.

    Timing
    ------
    Words are registered; operands are combinational from the registered word and the streams,
    the buses combinational from the results. A Transpose is driven ``sxm_latency`` after its
    issue.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__(self.ports(config))

    @staticmethod
    def ports(config: Config) -> dict[str, Member]:
        """Return the members by name."""
        width = config.lanes * 8
        words = {queue: word_bits(kind) for queue, kind in QUEUES.items()}
        streams = dict.fromkeys(("east", "west"), config.streams * width)
        return (
            {f"{queue}_in": In(bits) for queue, bits in words.items()}
            | {f"{queue}_out": Out(bits) for queue, bits in words.items()}
            | {way: In(bits) for way, bits in streams.items()}
            | {
                "shift_operands": Out(rotations(config) * width),
                "permute_operands": Out(PERMUTE_OPERANDS * width),
                "shift_count": In(COUNT_BITS),
                "shift_dst": In(STREAM_BITS),
                "shift_windows": In(rotations(config) * window_lanes(config) * 8),
                "permute_valid": In(1),
                "permute_dst": In(STREAM_BITS),
                "permute_result": In(width),
            }
            | {f"{way}_valid": Out(config.streams) for way in streams}
            | {f"{way}_data": Out(bits) for way, bits in streams.items()}
            | {"error": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        words = {queue: Signal(word_bits(kind), name=queue) for queue, kind in QUEUES.items()}
        for queue, word in words.items():
            m.d.sync += word.eq(getattr(self, f"{queue}_in"))
            m.d.comb += getattr(self, f"{queue}_out").eq(word)
        drives = [self._rotated(m), self._permuted(), self._transposed(m, words["transpose"])]
        bus = drive_streams(m, self.config, drives)
        for name in ("east_valid", "east_data", "west_valid", "west_data"):
            m.d.comb += getattr(self, name).eq(getattr(bus, name))
        legal = {
            "shift": self._shift(m, words["shift"]),
            "permute": self._permute(m, words["permute"]),
            "transpose": matches(words["transpose"], Transpose)
            & self._holds(
                field(words["transpose"], "src", Transpose), transpose_streams(self.config)
            ),
        }
        illegal = {queue: word.any() & ~legal[queue] for queue, word in words.items()}
        wrong = Cat(illegal.values(), bus.double, bus.beyond)
        text = "SXM: illegal shift {}, permute {}, transpose {}; two results meet {}; no stream {}"
        m.d.comb += self.error.eq(wrong.any())
        with m.If(self.error):
            m.d.sync += Assert(0, Format(text, *wrong))
        return m

    def _streams(self, code: Value, span: int = 1) -> Value:
        """Return ``span`` streams from ``code`` on; undefined where there are not as many."""
        width, places = self.config.lanes * 8, self.config.streams - span + 1
        east, west = (
            _tree(code, [bus[first * width : (first + span) * width] for first in range(places)])
            for bus in (self.east, self.west)
        )
        return Mux(code[ID_BITS], west, east)

    def _holds(self, code: Value, span: Value | int = 1) -> Value:
        """Tell whether the chip has ``span`` streams from ``code`` on."""
        return code[:ID_BITS] + span <= self.config.streams

    def _shift(self, m: Module, word: Value) -> Value:
        """Take the operands of the shift queue; return whether the word is legal."""
        most, select = rotations(self.config), matches(word, Select)
        src, chosen = field(word, "src", *SHIFTS), field(word, "map", Select)
        count = field(word, "count", Rotate)
        codes = [Signal(STREAM_BITS, name=f"source_{index}") for index in range(most)]
        m.d.comb += [code.eq(src + index) for index, code in enumerate(codes)]
        with m.If(select):
            m.d.comb += codes[1].eq(chosen)
        with m.If(word.any()):
            m.d.comb += self.shift_operands.eq(Cat(self._streams(code) for code in codes))
        turnable = count.matches(*range(2, most + 1)) & self._holds(src, count)
        one = self._holds(src) & (matches(word, Shift) | select & self._holds(chosen))
        return Mux(matches(word, Rotate), turnable, one)

    def _permute(self, m: Module, word: Value) -> Value:
        """Take the operands of the permute queue; return whether the word is legal."""
        src, chosen = (field(word, name, *PERMUTES) for name in ("src", "map"))
        # A map of 16 bits starts at an even stream, so its high byte is on an odd one.
        codes = (src, chosen, Cat(C(1, 1), chosen[1:]))
        with m.If(word.any()):
            m.d.comb += self.permute_operands.eq(Cat(self._streams(code) for code in codes))
        aligned = matches(word, Distribute) | matches(word, Permute) & ~chosen[0]
        return aligned & self._holds(src) & self._holds(chosen)

    def _transposed(self, m: Module, word: Value) -> Drive:
        """Take, turn and delay a block of streams."""
        lanes, size = self.config.lanes, transpose_streams(self.config)
        block = Signal(data.ArrayLayout(data.ArrayLayout(8, lanes), size))
        with m.If(word.any()):
            m.d.comb += block.as_value().eq(self._streams(field(word, "src", Transpose), size))
        value: Value = Cat(
            block[lane][out] if lane < size else C(0, 8)
            for out in range(size)
            for lane in range(lanes)
        )
        stages, step = Transpose.latency(self.config) - 1, 1 + STREAM_BITS
        control = Signal(stages * step)
        m.d.sync += control.eq(Cat(word.any(), field(word, "dst", Transpose), control))
        valid: Value = word.any()
        for index in range(stages):
            stage = Signal(len(value), name=f"transposed_{index}", reset_less=True)
            with m.If(valid):
                m.d.sync += stage.eq(value)
            valid, value = control[index * step], stage
        last = control[(stages - 1) * step :]
        return Drive(Mux(last[0], C(size), 0), last[1:], value, fewest=size)

    def _rotated(self, m: Module) -> Drive:
        """Cut the rotations out of the windows of the shift queue's result."""
        lanes, most = self.config.lanes, rotations(self.config)
        layout = data.ArrayLayout(data.ArrayLayout(8, window_lanes(self.config)), most)
        windows = data.View(layout, self.shift_windows)

        def rotated(index: int, by: int) -> Value:
            first = most - 1 - by
            return windows[index].as_value()[first * 8 : (first + lanes) * 8]

        count, results = Signal(range(most**2 + 1)), Signal(most**2 * lanes * 8)
        with m.Switch(self.shift_count):
            for by in range(1, most + 1):
                with m.Case(by):
                    m.d.comb += count.eq(by**2)
                    cut = [rotated(index, turn) for index in range(by) for turn in range(by)]
                    m.d.comb += results.eq(Cat(cut))
        return Drive(count, self.shift_dst, results)

    def _permuted(self) -> Drive:
        return Drive(self.permute_valid, self.permute_dst, self.permute_result)

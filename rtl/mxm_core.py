# amaranth: UnusedElaboratable=no
"""What all superlanes of an MXM plane share: checks, deskew, control, and the grid of tiles."""

from collections.abc import Mapping, Sequence
from math import gcd

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from waterclock.isa.config import Config
from waterclock.isa.floorplan import MXM_KINDS
from waterclock.isa.mxm import (
    ABC,
    ABL,
    ACC,
    IW,
    LW,
    Activation,
    Order,
    Result,
    Weight,
    Window,
    acc_latency,
    row_step,
    stream_unit,
    weights_at,
)
from waterclock.isa.spec import OPCODE_BITS, Instruction, word_bits
from waterclock.isa.streams import ID_BITS, STREAM_BITS
from waterclock.rtl.mxm_feed import feed_delay, present
from waterclock.rtl.mxm_lanes import RESULT_STREAMS, MXMLanes
from waterclock.rtl.mxm_tile import BYTE, MACTile, activation_bits, sum_bits, tile_size
from waterclock.rtl.mxm_turns import MXMTurnLanes
from waterclock.rtl.part import Nets, field, instance

RESULT_BITS = RESULT_STREAMS.bit_length() - 1  #: of a stream number, zero in that of a result
QUEUES = {kind.removeprefix("mxm_"): kind for kind in MXM_KINDS}
OPS = {"lw": LW, "iw": IW, "abl": ABL, "abc": ABC, "acc": ACC}
FEED_QUEUES = ("lw", "abl")  # their words ripple through the feeds


def core_parts(config: Config) -> dict[str, wiring.Component]:
    """Return what ``MXMCore`` wires instances of, by the name that it has to be converted with."""
    size = tile_size(config)
    lanes = MXMLanes(config) if config.digits == 1 else MXMTurnLanes(config)
    return {"mxm_lanes": lanes, "mxm_mac_tile": MACTile(config, size, size)}


def result_ports(config: Config) -> dict[str, Out]:
    """Return the outputs that lead to the columns of all superlanes."""
    ports = {}
    for k in range(config.superlanes):
        ports[f"result_valid_{k}"] = Out(1)
        ports[f"result_dst_{k}"] = Out(STREAM_BITS)
        ports[f"result_{k}"] = Out(RESULT_STREAMS * config.lanes * BYTE)
    return ports


class MXMCore(wiring.Component):
    """A plane without its feeds: works on whole vectors.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    lw_in, abl_in : In(word bits)
        Words issued in this cycle at superlane 0.
    lw_{k}, abl_{k}, weights_{k}, activations_{k} : In
        ``lw_late``, ``abl_late`` and the operands of superlane k's feed.
    iw_in, abc_in, acc_in, outward, error, result_valid_{k}, result_dst_{k}, result_{k}
        As in ``MXMPlane``.

    Timing
    ------
    A word of superlane 0 acts S - 1 cycles after its issue, when superlane S - 1 has its own; IW
    and ABC act as much later as the feeds' operands come.
    """

    def __init__(self, config: Config):
        self.config = config
        width = config.lanes * BYTE
        ports: dict[str, In | Out] = {
            f"{queue}_in": In(word_bits(kind)) for queue, kind in QUEUES.items()
        }
        for k in range(config.superlanes):
            ports |= {f"{queue}_{k}": In(word_bits(QUEUES[queue])) for queue in FEED_QUEUES}
            ports[f"weights_{k}"] = In(config.load_streams * width)
            ports[f"activations_{k}"] = In(2 * width)
        super().__init__(ports | result_ports(config) | {"outward": In(1), "error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        parts, size = core_parts(self.config), tile_size(self.config)
        blocks = range(self.config.vector // size)
        lanes = [
            instance(m, "mxm_lanes", parts["mxm_lanes"], f"lanes_{k}") for k in self._superlanes()
        ]
        tiles = {
            (i, j): instance(m, "mxm_mac_tile", parts["mxm_mac_tile"], f"tile_{i}_{j}")
            for i in blocks
            for j in blocks
        }
        issued: dict[str, Value] = {queue: getattr(self, f"{queue}_in") for queue in FEED_QUEUES}
        later: dict[str, Value] = {queue: self._fed(queue)[-1] for queue in FEED_QUEUES}
        delay = feed_delay(self.config)
        waits = {"iw": delay, "abc": delay, "acc": 0}
        for queue, wait in waits.items():
            word = getattr(self, f"{queue}_in")
            for k in range(self.config.superlanes + wait):
                before, word = word, Signal(word_bits(QUEUES[queue]), name=f"{queue}_{k}")
                m.d.sync += word.eq(before)
                issued.setdefault(queue, word)
            later[queue] = word
        self._check(m, issued)
        self._load(m, later["lw"], later["iw"], tiles)
        self._arrive(m, later["abl"], lanes)
        self._multiply(m, later["abc"], lanes, tiles)
        self._emit(m, later["acc"], lanes)
        return m

    def _superlanes(self) -> range:
        return range(self.config.superlanes)

    def _fed(self, name: str) -> list[Value]:
        """Return the input ``name`` of each superlane."""
        return [getattr(self, f"{name}_{k}") for k in self._superlanes()]

    def _check(self, m: Module, issued: Mapping[str, Value]) -> None:
        """Check what the words that are issued show of the schedule's promises."""
        config = self.config
        lw, abl, abc, acc = (issued[queue] for queue in ("lw", "abl", "abc", "acc"))
        lw_src, abl_src, dst = field(lw, LW, "src"), field(abl, ABL, "src"), field(acc, ACC, "dst")
        window = field(abc, ABC, "window")
        first, last = field(abc, ABC, "first"), field(abc, ABC, "last")
        outside = (first > last) | (last >= config.vector)
        # Bit n: an ABC was issued n + 1 cycles ago.
        first_pass = weights_at(config)
        recent = Signal(first_pass + config.digits - 2)
        m.d.sync += recent.eq(Cat(present(abc), recent)[: len(recent)])
        faults: list[tuple[str, Value]] = [
            (
                "lw: ends beyond the vector",
                field(lw, LW, "row") > config.vector - config.load_streams,
            ),
            ("lw: no such streams", self._misplaced(LW, lw_src, config.load_streams, self.outward)),
            ("abl: no such streams", self._misplaced(ABL, abl_src, 2, self.outward)),
            ("acc: no such streams", self._misplaced(ACC, dst, RESULT_STREAMS, ~self.outward)),
            (
                "lw: no such row",
                field(lw, LW, "row")[: exact_log2(row_step(config))].any(),
            ),
            ("abl: no such entry", field(abl, ABL, "entry") >= config.act_entries),
            ("abc: no such entry", field(abc, ABC, "entry") >= config.act_entries),
            ("abc: no such accumulator", field(abc, ABC, "acc") >= config.acc_entries),
            ("acc: no such accumulator", field(acc, ACC, "acc") >= config.acc_entries),
            ("abc: no such weight", field(abc, ABC, "weight") > max(Weight)),
            ("abc: no such window", (window > max(Window)) | ((window != Window.ALL) & outside)),
            ("abc: too close to the one before", recent[: config.digits - 1].any()),
            ("iw: changes the array under an abc", recent[first_pass - 1 :].any()),
        ]
        faults += [
            (f"{queue}: illegal instruction", issued[queue][:OPCODE_BITS] != op.opcode)
            for queue, op in OPS.items()
        ]
        if not config.integers:
            faults += [
                ("abc: no integers", field(abc, ABC, "activation") != Activation.F16),
                ("acc: no integers", field(acc, ACC, "result") != Result.F32),
            ]
        broken, wrong = Signal(len(faults)), Signal()
        m.d.comb += wrong.eq(broken.any())
        m.d.sync += self.error.eq(wrong)
        for index, (what, fault) in enumerate(faults):
            m.d.comb += broken[index].eq(issued[what[: what.index(":")]].any() & fault)
            with m.If(wrong & broken[index]):
                m.d.sync += Print(f"MXM plane: {what}")
        # Only one: an assertion that holds costs a simulator more than all conditions.
        m.d.sync += Assert(~wrong, "MXM plane: the schedule broke a promise")

    def _misplaced(self, op: type[Instruction], code: Value, span: int, direction: Value) -> Value:
        """Tell whether streams flow the wrong way, are misaligned, or do not exist."""
        unit, streams = stream_unit(op, self.config), self.config.streams
        odd = code[: ID_BITS if unit == streams else exact_log2(unit)].any()
        return (code[ID_BITS] != direction) | (code[:ID_BITS] > streams - span) | odd

    def _load(
        self,
        m: Module,
        lw: Value,
        iw: Value,
        tiles: Mapping[tuple[int, int], Nets],
    ) -> None:
        """Collect the vectors of LW and lead each tile to those of its bytes."""
        config, size = self.config, tile_size(self.config)
        lanes, count = config.lanes, config.load_streams
        held, newest = _collected(m, self._fed("lw"), self._fed("weights"), "held_weights")
        step = gcd(size, lanes)  # lanes of one block and one superlane

        def taken(vector: int, lane: int) -> Value:
            """Return ``step`` lanes of a vector."""
            k, lane = divmod(lane, lanes)
            part = (vector * lanes + lane) // step
            return (
                newest.word_select(part, step * BYTE)
                if k == config.superlanes - 1
                else held.word_select(k * count * lanes // step + part, step * BYTE)
            )

        row, by_column = field(lw, LW, "row"), Signal()
        enables = Signal(config.vector)
        m.d.comb += by_column.eq(field(lw, LW, "order") == Order.COLUMNS)
        for place in range(config.vector):
            # The rows of an LW that reach this place, of all that are legal.
            legal = range(0, config.vector - count + 1, row_step(config))
            reach = [first for first in legal if first <= place < first + count]
            within = (row >= reach[0]) & (row <= reach[-1])
            m.d.comb += enables[place].eq(1 if len(reach) == len(legal) else within)

        def bytes_for(lane_block: int, place_block: int) -> Value:
            return Cat(
                taken(place % count, lane)
                for place in range(place_block * size, place_block * size + count)
                for lane in range(lane_block * size, (lane_block + 1) * size, step)
            )

        for (i, j), tile in tiles.items():
            rows, columns = bytes_for(j, i), bytes_for(i, j)
            places = [enables.word_select(block, size) for block in (i, j)]
            m.d.comb += [
                tile["load"].eq(present(lw)),
                tile["by_column"].eq(by_column),
                tile["enables"].eq(places[0] if i == j else Mux(by_column, places[1], places[0])),
                tile["weights"].eq(rows if i == j else Mux(by_column, columns, rows)),
                tile["install"].eq(present(iw)),
            ]

    def _arrive(self, m: Module, abl: Value, lanes: Sequence[Nets]) -> None:
        """Collect the vector of ABL and store it."""
        held, newest = _collected(m, self._fed("abl"), self._fed("activations"), "held_vectors")
        width = 2 * self.config.lanes * BYTE
        for k, superlane in enumerate(lanes):
            own = newest if k == len(lanes) - 1 else held.word_select(k, width)
            m.d.comb += [
                superlane["store"].eq(present(abl)),
                superlane["store_entry"].eq(field(abl, ABL, "entry")),
                superlane["store_data"].eq(own),
            ]

    def _multiply(
        self,
        m: Module,
        abc: Value,
        lanes: Sequence[Nets],
        tiles: Mapping[tuple[int, int], Nets],
    ) -> None:
        """Lead an ABC through its stages: fetch, decode, one pass or two, accumulate."""
        config, size = self.config, tile_size(self.config)
        multiplying, accumulating = (
            Signal.like(abc, name=f"abc_{stage}") for stage in ("multiply", "accumulate")
        )
        decoding = abc
        for cycle in range(1, weights_at(config)):
            before, decoding = decoding, Signal.like(abc, name=f"abc_decode_{cycle}")
            m.d.sync += decoding.eq(before)
        decode, passes, accumulate = Signal(), Signal(config.digits), Signal()
        m.d.comb += decode.eq(present(decoding))
        m.d.sync += [
            passes.eq(Cat(decode, passes)[: config.digits]),
            accumulate.eq(passes[-1]),
        ]
        unsigned, coming = Signal(name="unsigned_weights"), Signal(name="coming_unsigned")
        m.d.comb += coming.eq(unsigned)
        m.d.sync += unsigned.eq(coming)
        with m.If(decode):
            m.d.sync += multiplying.eq(decoding)
            m.d.comb += coming.eq(field(decoding, ABC, "weight") == Weight.LOW)
        with m.If(passes[-1]):
            m.d.sync += accumulating.eq(multiplying)
        inside = self._window(m, abc, Window.INPUT)
        written = self._window(m, accumulating, Window.OUTPUT)
        for k, superlane in enumerate(lanes):
            columns = [divmod(n, size) for n in range(k * config.lanes, (k + 1) * config.lanes)]
            m.d.comb += [
                superlane["fetch"].eq(present(abc)),
                superlane["fetch_entry"].eq(field(abc, ABC, "entry")),
                superlane["fetch_i8"].eq(field(abc, ABC, "activation") == Activation.I8),
                superlane["inside"].eq(inside.word_select(k, config.lanes)),
                superlane["decode"].eq(decode),
                superlane["accumulate"].eq(accumulate),
                superlane["acc_entry"].eq(field(accumulating, ABC, "acc")),
                superlane["add"].eq(field(accumulating, ABC, "add")),
                superlane["high"].eq(field(accumulating, ABC, "weight") == Weight.HIGH),
                superlane["written"].eq(written.word_select(k, config.lanes)),
                superlane["sums"].eq(
                    Cat(
                        tiles[i, j]["sums"].word_select(column, sum_bits(config, size))
                        for i in range(config.vector // size)
                        for j, column in columns
                    )
                ),
            ]
        activations = [
            superlane["activations"].word_select(lane, activation_bits(config, size))
            for superlane in lanes
            for lane in range(config.lanes)
        ]
        for (i, _), tile in tiles.items():
            m.d.comb += [
                tile["multiply"].eq(passes.any()),
                tile["more"].eq(passes[:-1].any()),
                tile["unsigned_weights"].eq(unsigned if config.digits == 1 else coming),
                tile["activations"].eq(Cat(activations[i * size : (i + 1) * size])),
            ]

    def _window(self, m: Module, abc: Value, window: Window) -> Signal:
        """Return a bit for each lane: not outside the window, if it is a ``window`` one."""
        lanes = Signal(self.config.vector, name=f"window_{window.name.lower()}")
        free = field(abc, ABC, "window") != window
        # Legal lanes need no more bits.
        first, last = (field(abc, ABC, end)[: self.config.levels] for end in ("first", "last"))
        for lane in range(self.config.vector):
            m.d.comb += lanes[lane].eq(free | ((first <= lane) & (last >= lane)))
        return lanes

    def _emit(self, m: Module, acc: Value, lanes: Sequence[Nets]) -> None:
        """Take an accumulator out, and hand its superlanes out one cycle after the other."""
        for superlane in lanes:
            m.d.comb += [
                superlane["emit"].eq(present(acc)),
                superlane["emit_entry"].eq(field(acc, ACC, "acc")),
                superlane["emit_i32"].eq(field(acc, ACC, "result") == Result.I32),
            ]
        # What is certain of a legal code is constant: drivers need no logic for the rest.
        number = field(acc, ACC, "dst")[:ID_BITS]
        control = Cat(present(acc), number[RESULT_BITS:])
        results: Value = Cat(superlane["result"] for superlane in lanes)
        width = len(results) // len(lanes)
        first = acc_latency(self.config) - len(lanes) - 1
        for cycle in range(first + len(lanes)):
            held = Signal(len(control), name=f"emit_{cycle}")
            m.d.sync += held.eq(control)
            k = cycle - first
            if k > 0:
                rest = Signal(len(results) - width, name=f"results_{k}", reset_less=True)
                with m.If(control[0]):
                    m.d.sync += rest.eq(results[width:])
                results = rest
            if k >= 0:
                m.d.comb += [
                    getattr(self, f"result_valid_{k}").eq(held[0]),
                    getattr(self, f"result_dst_{k}").eq(
                        Cat(C(0, RESULT_BITS), held[1:], ~self.outward)
                    ),
                    getattr(self, f"result_{k}").eq(results[:width]),
                ]
            control = held


def _collected(
    m: Module, words: Sequence[Value], operands: Sequence[Value], name: str
) -> tuple[Value, Value]:
    """Wait until the last superlane has its operand; return those of the others, and its own."""
    held: Value = C(0, 0)
    for k, (word, operand) in enumerate(zip(words[:-1], operands[:-1], strict=True)):
        stage = Signal(len(held) + len(operand), name=f"{name}_{k}", reset_less=True)
        with m.If(present(word)):
            m.d.sync += stage.eq(Cat(held, operand))
        held = stage
    return held, operands[-1]

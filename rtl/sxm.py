"""The SXM: what moves bytes across superlanes, and the slice as a whole.

A vector is skewed: superlane k is k cycles behind superlane 0. What crosses superlanes is
therefore collected (superlane k waits S - 1 - k cycles), computed on whole vectors, and handed
out again (superlane k waits k cycles). Transpose crosses nothing and stays in the tile.

    streams -> SXMTile -> SXMShift, SXMPermute -> SXMTile -> drive buses of the StreamColumn

The slice has more ports than Amaranth converts at once, so the parts are converted one by one,
and ``SXM`` wires instances of them.
"""

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Member, Out

from waterclock.isa.config import Config
from waterclock.isa.spec import OPCODE_BITS, word_bits
from waterclock.isa.streams import STREAM_BITS
from waterclock.isa.sxm import Distribute, Rotate, Select, Shift
from waterclock.rtl.sxm_tile import (
    COUNT_BITS,
    PERMUTE_OPERANDS,
    PERMUTES,
    QUEUES,
    SHIFTS,
    SXMTile,
    field,
    matches,
    rotations,
    window_lanes,
)


def _mirrored(vector: Value) -> Value:
    """Return a vector with its lanes in reverse order."""
    return Cat(vector[first : first + 8] for first in reversed(range(0, len(vector), 8)))


def _collect(m: Module, words: Sequence[Value], operands: Sequence[Value]) -> Value:
    """Return the operands of all superlanes, superlane 0 first, when the last one has its own."""
    held: Value = C(0, 0)
    for index, (word, operand) in enumerate(zip(words[:-1], operands[:-1], strict=True)):
        stage = Signal(len(held) + len(operand), name=f"collect_{index}", reset_less=True)
        with m.If(word.any()):
            m.d.sync += stage.eq(Cat(held, operand))
        held = stage
    return Cat(held, operands[-1])


def _hand_out(m: Module, control: Value, results: Sequence[Value]) -> list[tuple[Signal, Value]]:
    """Return (control, result) for each superlane, superlane k delayed by 1 + k cycles.

    ``control`` is zero when there is nothing to hand out; a result then keeps its value.
    """
    found: list[tuple[Signal, Value]] = []
    value: Value = Cat(results)
    width = len(results[0])
    for index in range(len(results)):
        held = Signal(len(control), name=f"control_{index}")
        stage = Signal(len(value), name=f"hand_out_{index}", reset_less=True)
        m.d.sync += held.eq(control)
        with m.If(control.any()):
            m.d.sync += stage.eq(value)
        found.append((held, stage[:width]))
        control, value = held, stage[width:]
    return found


class SXMShift(wiring.Component):
    """Shift, Select and Rotate on whole vectors.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    word_{k} : In(word bits)
        Registered word of superlane k's tile.
    operands_{k} : In(rotations * lanes * 8)
        Its operands in the same cycle.
    count_{k}, dst_{k}, windows_{k} : Out
        The result for superlane k, see ``SXMTile``.

    Timing
    ------
    Superlane 0's result is there ``superlanes`` cycles after its word, and in the stream
    registers one later; superlane k is k cycles behind, like its word.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__(self.ports(config))

    @staticmethod
    def ports(config: Config) -> dict[str, Member]:
        """Return the members by name."""
        ports: dict[str, Member] = {}
        for k in range(config.superlanes):
            ports[f"word_{k}"] = In(word_bits(QUEUES["shift"]))
            ports[f"operands_{k}"] = In(rotations(config) * config.lanes * 8)
            ports[f"count_{k}"] = Out(COUNT_BITS)
            ports[f"dst_{k}"] = Out(STREAM_BITS)
            ports[f"windows_{k}"] = Out(rotations(config) * window_lanes(config) * 8)
        return ports

    def elaborate(self, platform):
        m = Module()
        config, most = self.config, rotations(self.config)
        superlanes = range(config.superlanes)
        words = [getattr(self, f"word_{k}") for k in superlanes]
        whole = _collect(m, words, [getattr(self, f"operands_{k}") for k in superlanes])
        width, word = config.lanes * 8, words[-1]
        vectors = [Signal(config.vector * 8, name=f"vector_{index}") for index in range(most)]
        for index, vector in enumerate(vectors):
            firsts = [(k * most + index) * width for k in superlanes]
            m.d.comb += vector.eq(Cat(whole[first : first + width] for first in firsts))
        sources = [self._moved(m, word, vectors[0], vectors[1]), *vectors[1:]]

        def window(k: int, source: Signal) -> Value:
            lanes = range(k * config.lanes - (most - 1), (k + 1) * config.lanes)
            return Cat(source.word_select(lane % config.vector, 8) for lane in lanes)

        control = Signal(COUNT_BITS + STREAM_BITS)
        with m.If(word.any()):
            count = Mux(matches(word, Rotate), field(word, "count", Rotate), 1)
            m.d.comb += control.eq(Cat(count[:COUNT_BITS], field(word, "dst", *SHIFTS)))
        results = [Cat(window(k, source) for source in sources) for k in superlanes]
        for k, (held, result) in enumerate(_hand_out(m, control, results)):
            m.d.comb += Cat(getattr(self, f"count_{k}"), getattr(self, f"dst_{k}")).eq(held)
            m.d.comb += getattr(self, f"windows_{k}").eq(result)
        return m

    def _moved(self, m: Module, word: Value, source: Signal, choice: Signal) -> Signal:
        """Return the result of Shift or Select; the source itself for Rotate."""
        by = field(word, "count", Shift).as_signed()
        size = Signal(len(by))
        names = ("down", "raised", "moved")
        down, raised, moved = (Signal.like(source, name=name) for name in names)
        distance = Cat(C(0, 3), size)  # in bits
        # Amaranth widens what is shifted left, so both go right and one is mirrored.
        m.d.comb += down.eq(source >> distance)
        m.d.comb += raised.eq(_mirrored(source) >> distance)
        up = _mirrored(raised)

        def chosen(lane: int) -> Value:
            number, *values = (vector.word_select(lane, 8) for vector in (choice, source, up, down))
            return Mux(
                number == 0, values[0], Mux(number == 1, values[1], Mux(number == 2, values[2], 0))
            )

        with m.Switch(word[:OPCODE_BITS]):
            with m.Case(Shift.opcode):
                m.d.comb += size.eq(Mux(by < 0, -by, by))
                m.d.comb += moved.eq(Mux(by < 0, down, up))
            with m.Case(Select.opcode):
                m.d.comb += size.eq(field(word, "count", Select))
                m.d.comb += moved.eq(Cat(chosen(lane) for lane in range(self.config.vector)))
            with m.Case(Rotate.opcode):
                m.d.comb += moved.eq(source)
        return moved


class SXMPermute(wiring.Component):
    """Permute and Distribute on whole vectors.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    word_{k} : In(word bits)
        Registered word of superlane k's tile.
    operands_{k} : In(3 * lanes * 8)
        Source, low byte and high byte of the map in the same cycle.
    valid_{k}, dst_{k}, result_{k} : Out
        The result for superlane k, see ``SXMTile``.

    Timing
    ------
    As in ``SXMShift``.
    """

    def __init__(self, config: Config):
        self.config = config
        super().__init__(self.ports(config))

    @staticmethod
    def ports(config: Config) -> dict[str, Member]:
        """Return the members by name."""
        ports: dict[str, Member] = {}
        for k in range(config.superlanes):
            ports[f"word_{k}"] = In(word_bits(QUEUES["permute"]))
            ports[f"operands_{k}"] = In(PERMUTE_OPERANDS * config.lanes * 8)
            ports[f"valid_{k}"] = Out(1)
            ports[f"dst_{k}"] = Out(STREAM_BITS)
            ports[f"result_{k}"] = Out(config.lanes * 8)
        return ports

    def elaborate(self, platform):
        m = Module()
        lanes, superlanes = self.config.lanes, range(self.config.superlanes)
        words = [getattr(self, f"word_{k}") for k in superlanes]
        whole = _collect(m, words, [getattr(self, f"operands_{k}") for k in superlanes])
        operand = data.ArrayLayout(data.ArrayLayout(8, lanes), PERMUTE_OPERANDS)
        parts = Signal(data.ArrayLayout(operand, len(superlanes)))
        source = Signal(data.ArrayLayout(8, self.config.vector))
        m.d.comb += parts.as_value().eq(whole)
        m.d.comb += source.as_value().eq(Cat(parts[k][0].as_value() for k in superlanes))
        word = words[-1]
        distribute = Signal()
        m.d.comb += distribute.eq(matches(word, Distribute))

        def moved(k: int, lane: int) -> Value:
            low, high = parts[k][1][lane], parts[k][2][lane]
            index = Mux(distribute, k * lanes + low, Cat(low, high))
            legal = Mux(distribute, low < lanes, Cat(low, high) < self.config.vector)
            return Mux(legal, source[index[: self.config.levels]], 0)

        results = [Cat(moved(k, lane) for lane in range(lanes)) for k in superlanes]
        control = Cat(word.any(), Mux(word.any(), field(word, "dst", *PERMUTES), 0))
        for k, (held, result) in enumerate(_hand_out(m, control, results)):
            m.d.comb += Cat(getattr(self, f"valid_{k}"), getattr(self, f"dst_{k}")).eq(held)
            m.d.comb += getattr(self, f"result_{k}").eq(result)
        return m


def sxm_parts(config: Config) -> dict[str, wiring.Component]:
    """Return what ``SXM`` wires instances of, by the name that it has to be converted with."""
    return {
        "sxm_tile": SXMTile(config),
        "sxm_shift": SXMShift(config),
        "sxm_permute": SXMPermute(config),
    }


class SXM(wiring.Component):
    """One hemisphere's SXM: instances of ``sxm_parts``, wired.

    Parameters
    ----------
    config : Config
        Geometry.

    Members
    -------
    shift, permute, transpose : In(word bits)
        What the three queues issue next; zero for nothing.
    east_{k}, west_{k} : In(streams * lanes * 8)
        Stream registers of superlane k of the SXM's column.
    {east,west}_valid_{k}, {east,west}_data_{k} : Out
        Drive buses of that ``StreamColumn``.
    error : Out(1)
        A tile found a broken promise.

    Timing
    ------
    A word given in one cycle is issued in the next; results are in the stream registers
    ``sxm_latency`` cycles after issue.
    """

    def __init__(self, config: Config):
        self.config = config
        width = config.streams * config.lanes * 8
        ports = {queue: In(word_bits(kind)) for queue, kind in QUEUES.items()}
        for k in range(config.superlanes):
            for way in ("east", "west"):
                ports[f"{way}_{k}"] = In(width)
                ports[f"{way}_valid_{k}"] = Out(config.streams)
                ports[f"{way}_data_{k}"] = Out(width)
        super().__init__(ports | {"error": Out(1)})

    def elaborate(self, platform):
        m = Module()
        tile = SXMTile.ports(self.config)
        shift, permute = {}, {}
        before = {f"{queue}_out": getattr(self, queue) for queue in QUEUES}
        errors = []
        for k in range(self.config.superlanes):
            net = {name: Signal(port.shape, name=f"{name}_{k}") for name, port in tile.items()}
            for queue in QUEUES:
                m.d.comb += net[f"{queue}_in"].eq(before[f"{queue}_out"])
            for way in ("east", "west"):
                m.d.comb += net[way].eq(getattr(self, f"{way}_{k}"))
                for bus in (f"{way}_valid", f"{way}_data"):
                    m.d.comb += getattr(self, f"{bus}_{k}").eq(net[bus])
            for name in ("count", "dst", "windows"):
                shift[f"{name}_{k}"] = net[f"shift_{name}"]
            for name in ("valid", "dst", "result"):
                permute[f"{name}_{k}"] = net[f"permute_{name}"]
            for queue, nets in (("shift", shift), ("permute", permute)):
                nets[f"word_{k}"] = net[f"{queue}_out"]
                nets[f"operands_{k}"] = net[f"{queue}_operands"]
            m.submodules[f"tile_{k}"] = _instance("sxm_tile", tile, net)
            errors.append(net["error"])
            before = net
        m.submodules.shift = _instance("sxm_shift", SXMShift.ports(self.config), shift)
        m.submodules.permute = _instance("sxm_permute", SXMPermute.ports(self.config), permute)
        m.d.comb += self.error.eq(Cat(errors).any())
        return m


def _instance(name: str, ports: dict[str, Member], nets: dict[str, Signal]) -> Instance:
    """Return an instance of a converted part, its ports connected by name."""
    connections = {
        f"{'i' if port.flow is In else 'o'}_{port_name}": nets[port_name]
        for port_name, port in ports.items()
    }
    return Instance(name, i_clk=ClockSignal(), i_rst=ResetSignal(), **connections)

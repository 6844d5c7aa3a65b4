"""MEM: the tile of one slice in one superlane, and a group of slices with its stream column."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from waterclock.isa import mem
from waterclock.isa.config import Config
from waterclock.isa.spec import OPCODE_BITS, Instruction, instructions, word_bits
from waterclock.isa.streams import ID_BITS, STREAM_BITS
from waterclock.rtl.sram import ID_BITS as SRAM_ID_BITS
from waterclock.rtl.sram import SRAM

BYTE = 8


def tile_id(config: Config, superlane: int, hemisphere: int, slice_index: int) -> int:
    """Return the number of a tile; its banks are the memories 2 * number and 2 * number + 1."""
    return (superlane * 2 + hemisphere) * config.slices + slice_index


def _field(word: Value, op: type[Instruction], name: str) -> Value:
    spec = next(spec for spec in op.operands if spec.name == name)
    return word[spec.low : spec.low + spec.bits]


def _choose(m: Module, index: Value, choices: dict[int, Value], target: Signal) -> None:
    """Assign ``choices[index]`` to ``target``; a flat Switch takes the fewest LUTs."""
    with m.Switch(index):
        for number, choice in choices.items():
            with m.Case(number):
                m.d.comb += target.eq(choice)


class MEMTile(wiring.Component):
    """One slice of one superlane: two single-port banks, a read port and a write port.

    Parameters
    ----------
    config : Config
        Uses ``lanes``, ``streams`` and ``rows``.

    Members
    -------
    read_in, write_in : In(word_bits)
        Instruction words from the superlane before, or from the queues.
    read_out, write_out : Out(word_bits)
        The words issued in this cycle, for the next superlane.
    east, west : In(streams * lanes * 8)
        Registers of the column.
    read_valid, read_dst, read_data : Out(1), Out(6), Out(lanes * 8)
        What the tile drives: the stream's code and the bytes.
    host_en, host_we : In(1)
        Access by the host, only while nothing is issued; ``read_data`` keeps what is read.
    host_addr, host_wdata : In(16), In(lanes * 8)
    id : In(16)
        The constant ``tile_id``.
    error : Out(1)
        A promise was broken in the cycle before. The address of a Gather or Scatter is checked
        in simulation only: its high map byte would cost an FPGA thousands of LUTs.

    Timing
    ------
    An instruction issued in cycle t (the cycle of ``read_out``) samples the column in t. Its
    bank is accessed at the end of t, the vector is in ``read_data`` in t + 1 and in the column
    in t + 2. ``read_data`` of a host access in t is there from t + 1 on.
    """

    def __init__(self, config: Config):
        self.config = config
        width, streams = config.lanes * BYTE, config.streams * config.lanes * BYTE
        super().__init__(
            {
                "read_in": In(word_bits("mem_read")),
                "read_out": Out(word_bits("mem_read")),
                "write_in": In(word_bits("mem_write")),
                "write_out": Out(word_bits("mem_write")),
                "east": In(streams),
                "west": In(streams),
                "read_valid": Out(1),
                "read_dst": Out(STREAM_BITS),
                "read_data": Out(width),
                "host_en": In(1),
                "host_we": In(1),
                "host_addr": In(mem.ADDRESS_BITS),
                "host_wdata": In(width),
                "id": In(SRAM_ID_BITS),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.sync += [self.read_out.eq(self.read_in), self.write_out.eq(self.write_in)]
        faults: list[tuple[Value, str]] = []
        reading, read_addr = self._decode(m, self.read_out, mem.Gather, "dst", faults)
        writing, write_addr = self._decode(m, self.write_out, mem.Scatter, "src", faults)
        self._banks(m, reading, read_addr, writing, write_addr, faults)
        m.d.sync += self.read_valid.eq(reading)
        with m.If(reading):
            m.d.sync += self.read_dst.eq(_field(self.read_out, mem.Read, "dst"))
        broken = Signal(len(faults))
        m.d.sync += self.error.eq(broken.any())
        m.d.comb += broken.eq(Cat(fault for fault, _ in faults))
        # The condition saves a simulator the assertions in all cycles in which nothing is wrong.
        with m.If(broken.any()):
            for index, (_, what) in enumerate(faults):
                m.d.sync += Assert(~broken[index], Format("MEM tile {}: " + what, self.id))
        return m

    def _stream(self, m: Module, code: Value, span: int, target: Signal) -> None:
        """Sample ``span`` neighbouring streams; the first number is a multiple of ``span``."""
        each, width = self.config.streams // span, len(target)
        bits = ceil_log2(each)
        choices = {
            direction << bits | number: way.word_select(number, width)
            for direction, way in enumerate((self.east, self.west))
            for number in range(each)
        }
        # Only the bits of streams that there are, or the decoder grows.
        index = Cat(code[exact_log2(span) :][:bits], code[ID_BITS])
        _choose(m, index, choices, target)

    def _decode(
        self,
        m: Module,
        word: Signal,
        mapped: type[Instruction],
        stream: str,
        faults: list[tuple[Value, str]],
    ) -> tuple[Signal, Signal]:
        """Return whether a port is at work and with which address.

        ``mapped`` is the port's instruction with a map, ``stream`` its other stream operand.
        """
        config, kind, name = self.config, mapped.kind, mapped.mnemonic
        active, by_map = Signal(name=f"{kind}_active"), Signal(name=name)
        addr = Signal(mem.ADDRESS_BITS, name=f"{kind}_addr")
        opcode, base = word[:OPCODE_BITS], _field(word, mapped, "addr")
        code, lane = _field(word, mapped, "map"), _field(word, mapped, "lane")
        m.d.comb += [active.eq(opcode.any()), addr.eq(base)]
        with m.If(active):
            m.d.comb += by_map.eq(opcode == mapped.opcode)
        with m.If(by_map):
            pair = Signal(2 * BYTE * config.lanes, name=f"{name}_pair")
            self._stream(m, code, 2, pair)
            halves = [Signal(BYTE, name=f"{name}_{half}") for half in ("low", "high")]
            for index, half in enumerate(halves):
                lanes = pair.word_select(index, BYTE * config.lanes)
                choices = {i: lanes.word_select(i, BYTE) for i in range(config.lanes)}
                _choose(m, lane[: ceil_log2(config.lanes)], choices, half)
            m.d.comb += addr.eq(base + Cat(halves))
        other = _field(word, mapped, stream)
        known = [op.opcode for op in instructions(kind) if op.kind == kind]
        faults += [
            (active & ~opcode.matches(*known), f"{kind}: illegal instruction"),
            (active & (other[:ID_BITS] >= config.streams), f"{kind}: no such stream"),
            (by_map & (code[0] | (code[:ID_BITS] >= config.streams)), f"{name}: no such map"),
            (by_map & (lane >= config.lanes), f"{name}: no such lane"),
            (active & ~by_map & (base >= config.depth), f"{kind}: address beyond the slice"),
        ]
        with m.If(by_map & (addr >= config.depth)):
            m.d.sync += Assert(0, Format("MEM tile {}: address {} beyond", self.id, addr))
        return active, addr

    def _banks(
        self,
        m: Module,
        reading: Signal,
        read_addr: Signal,
        writing: Signal,
        write_addr: Signal,
        faults: list[tuple[Value, str]],
    ) -> None:
        """Lead the two ports and the host to the two banks."""
        config = self.config
        row_bits = exact_log2(config.rows)
        # The host takes the way of the read port, which is idle then.
        looking, host_writing, bank_read = Signal(), Signal(), Signal()
        look_addr, wdata = Signal(row_bits + 1), Signal(config.lanes * BYTE)
        m.d.comb += [
            looking.eq(reading | self.host_en),
            host_writing.eq(self.host_en & self.host_we),
            look_addr.eq(Mux(self.host_en, self.host_addr, read_addr)),
            wdata.eq(self.host_wdata),
        ]
        with m.If(writing):
            self._stream(m, _field(self.write_out, mem.Write, "src"), 1, wdata)
        with m.If(looking):
            m.d.sync += bank_read.eq(look_addr[row_bits])
        banks = [SRAM(config.lanes * BYTE, config.rows) for _ in range(2)]
        for index, bank in enumerate(banks):
            m.submodules[f"bank_{index}"] = bank
            looked, written = (Signal(name=f"bank_{index}_{way}") for way in ("looked", "written"))
            m.d.comb += [
                looked.eq(looking & (look_addr[row_bits] == index)),
                written.eq(writing & (write_addr[row_bits] == index)),
                bank.id.eq(Cat(C(index, 1), self.id)),
                bank.en.eq(looked | written),
                bank.we.eq(written | host_writing),
                bank.addr.eq(Mux(written, write_addr, look_addr)),
                bank.wdata.eq(wdata),
            ]
            faults.append((looked & written, f"two accesses of bank {index}"))
        m.d.comb += self.read_data.eq(Mux(bank_read, banks[1].rdata, banks[0].rdata))


class MEMGroup(wiring.Component):
    """One superlane of the slices that share a stream register column, and that column.

    Instances the module ``mem_tile``, an emitted ``MEMTile``.

    Parameters
    ----------
    config : Config
        Uses ``group``, ``lanes``, ``streams`` and ``rows``.

    Members
    -------
    read{i}_in, read{i}_out, write{i}_in, write{i}_out
        Instruction words of slice i, as in ``MEMTile``.
    east_in, west_in : In(streams * lanes * 8)
        Registers of the neighbours: the column to the west, the column to the east.
    east, west : Out(streams * lanes * 8)
        Registers of this column.
    host_en : In(group)
        One bit a slice; at most one is set.
    host_we, host_addr, host_wdata : In(1), In(16), In(lanes * 8)
    host_rdata : Out(lanes * 8)
        What the host read last.
    id : In(16)
        ``tile_id`` of the first slice; the others follow.
    error : Out(1)
        A promise was broken one or two cycles ago.

    Timing
    ------
    As ``MEMTile``; a host access in cycle t is in ``host_rdata`` from t + 2 on.
    """

    def __init__(self, config: Config):
        self.config = config
        width, streams = config.lanes * BYTE, config.streams * config.lanes * BYTE
        words = {
            f"{port}{index}_{way}": flow(word_bits(f"mem_{port}"))
            for index in range(config.group)
            for port in ("read", "write")
            for way, flow in (("in", In), ("out", Out))
        }
        super().__init__(
            words
            | {
                "east_in": In(streams),
                "west_in": In(streams),
                "east": Out(streams),
                "west": Out(streams),
                "host_en": In(config.group),
                "host_we": In(1),
                "host_addr": In(mem.ADDRESS_BITS),
                "host_wdata": In(width),
                "host_rdata": Out(width),
                "id": In(SRAM_ID_BITS),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        tiles = [self._tile(m, index) for index in range(config.group)]
        self._column(m, tiles)
        double, errors = Signal(), Cat(error for _, _, _, error in tiles)
        for index, (valid, dst, _, _) in enumerate(tiles):
            for other_valid, other_dst, _, _ in tiles[:index]:
                with m.If(valid & other_valid & (dst == other_dst)):
                    m.d.comb += double.eq(1)
        m.d.sync += self.error.eq(errors.any() | double)
        with m.If(double):
            m.d.sync += Assert(0, Format("MEM tiles from {}: two drive one stream", self.id))
        host_read = Signal(config.group)
        m.d.sync += host_read.eq(self.host_en)
        for index, (_, _, data, _) in enumerate(tiles):
            with m.If(host_read[index]):
                m.d.sync += self.host_rdata.eq(data)
        return m

    def _tile(self, m: Module, index: int) -> tuple[Signal, Signal, Signal, Signal]:
        """Instance one slice; return its read_valid, read_dst, read_data and error."""
        outputs = {
            "read_valid": Signal(name=f"valid_{index}"),
            "read_dst": Signal(STREAM_BITS, name=f"dst_{index}"),
            "read_data": Signal(self.config.lanes * BYTE, name=f"data_{index}"),
            "error": Signal(name=f"error_{index}"),
        }
        words = {
            f"{direction}_{port}_{way}": getattr(self, f"{port}{index}_{way}")
            for port in ("read", "write")
            for direction, way in (("i", "in"), ("o", "out"))
        }
        tile = Signal(SRAM_ID_BITS, name=f"id_{index}")
        m.d.comb += tile.eq(self.id + index)
        m.submodules[f"slice_{index}"] = Instance(
            "mem_tile",
            i_clk=ClockSignal(),
            i_rst=ResetSignal(),
            i_east=self.east,
            i_west=self.west,
            i_host_en=self.host_en[index],
            i_host_we=self.host_we,
            i_host_addr=self.host_addr,
            i_host_wdata=self.host_wdata,
            i_id=tile,
            **words,
            **{f"o_{name}": signal for name, signal in outputs.items()},
        )
        return tuple(outputs.values())

    def _column(self, m: Module, tiles: list[tuple[Signal, Signal, Signal, Signal]]) -> None:
        """Step the stream registers; what a slice drives takes the place of what arrives."""
        width = self.config.lanes * BYTE
        number_bits = ceil_log2(self.config.streams)
        drives = [
            (valid, Cat(dst[:number_bits], dst[ID_BITS]), data) for valid, dst, data, _ in tiles
        ]
        for direction, way in enumerate(("east", "west")):
            column = Signal(self.config.streams * width, name=f"{way}_column", reset_less=True)
            m.d.comb += getattr(self, way).eq(column)
            m.d.sync += column.eq(getattr(self, f"{way}_in"))
            # The outer condition spares a simulator the others in most cycles.
            with m.If(Cat(valid for valid, _, _ in drives).any()):
                for number in range(self.config.streams):
                    code = direction << number_bits | number
                    hits = Cat(valid & (dst == code) for valid, dst, _ in drives)
                    # Two hits are an error; the Switch takes fewer LUTs than an order of Ifs.
                    with m.Switch(hits):
                        for index, (_, _, data) in enumerate(drives):
                            with m.Case(1 << index):
                                m.d.sync += column.word_select(number, width).eq(data)

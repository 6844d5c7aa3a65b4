"""MEM: the tile of one slice in one superlane, and a group of slices with its stream column."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from waterclock.isa import mem, signature
from waterclock.isa.config import Config
from waterclock.isa.spec import OPCODE_BITS, Instruction, instructions, word_bits
from waterclock.isa.streams import ID_BITS, STREAM_BITS, Direction
from waterclock.rtl.part import any_of, field
from waterclock.rtl.signature import hash_of, sum_of
from waterclock.rtl.sram import ID_BITS as SRAM_ID_BITS
from waterclock.rtl.sram import SRAM, TwoPortSRAM

BYTE = 8


def tile_id(config: Config, superlane: int, hemisphere: int, slice_index: int) -> int:
    """Return the number of a tile; its banks are the memories 2 * number and 2 * number + 1."""
    return (superlane * 2 + hemisphere) * config.slices + slice_index


def _index(config: Config, code: Value) -> Value:
    """Return the bits of a stream code that differ between the streams that there are."""
    return Cat(code[: ceil_log2(config.streams)], code[ID_BITS])


def _paths(config: Config) -> dict[int, list[tuple[int, int]]]:
    """Return the streams of each path: the rest of their ``_index``, and direction and number.

    The low bits of the index choose the path.
    """
    low, number_bits = ceil_log2(config.paths), ceil_log2(config.streams)
    found: dict[int, list[tuple[int, int]]] = {}
    for way in Direction:
        for number in range(config.streams):
            index = way << number_bits | number
            place = way * config.streams + number
            found.setdefault(index & (1 << low) - 1, []).append((index >> low, place))
    return found


def _choose(m: Module, index: Value, choices: dict[int, Value], target: Signal) -> None:
    """Assign ``choices[index]`` to ``target``; a flat Switch takes the fewest LUTs."""
    with m.Switch(index):
        for number, choice in choices.items():
            with m.Case(number):
                m.d.comb += target.eq(choice)


class MEMTile(wiring.Component):
    """One slice of one superlane: two banks, a read port and a write port.

    Parameters
    ----------
    config : Config
        Uses ``lanes``, ``streams``, ``paths``, ``rows`` and ``two_port``.

    Members
    -------
    read_in, write_in : In(word_bits)
        Instruction words from the superlane before, or from the queues.
    read_out, write_out : Out(word_bits)
        The words issued in this cycle, for the next superlane.
    paths : In(paths * lanes * 8)
        What the streams that are sampled hold; path 0 carries what the host writes.
    read_valid, read_dst, read_data : Out(1), Out(6), Out(lanes * 8)
        What the tile drives: the stream's code and the bytes.
    host_en, host_we : In(1)
        Access by the host, only while nothing is issued; ``read_data`` keeps what is read.
    host_addr : In(16)
    id : In(16)
        The constant ``tile_id``.
    hash : Out(29)
        Of the write of the cycle before, see ``isa/signature.py``; zero if there was none.
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
        width = config.lanes * BYTE
        super().__init__(
            {
                "read_in": In(word_bits("mem_read")),
                "read_out": Out(word_bits("mem_read")),
                "write_in": In(word_bits("mem_write")),
                "write_out": Out(word_bits("mem_write")),
                "paths": In(config.paths * width),
                "read_valid": Out(1),
                "read_dst": Out(STREAM_BITS),
                "read_data": Out(width),
                "host_en": In(1),
                "host_we": In(1),
                "host_addr": In(mem.ADDRESS_BITS),
                "id": In(SRAM_ID_BITS),
                "hash": Out(signature.HASH_BITS),
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
            m.d.sync += self.read_dst.eq(field(self.read_out, mem.Read, "dst"))
        broken = Signal(len(faults))
        m.d.sync += self.error.eq(broken.any())
        m.d.comb += broken.eq(Cat(fault for fault, _ in faults))
        # The condition saves a simulator the assertions in all cycles in which nothing is wrong.
        with m.If(broken.any()):
            for index, (_, what) in enumerate(faults):
                m.d.sync += Assert(~broken[index], Format("MEM tile {}: " + what, self.id))
        return m

    def _sample(self, m: Module, code: Value, span: int, target: Signal) -> None:
        """Take ``span`` neighbouring streams; the first number is a multiple of ``span``."""
        config, skip = self.config, exact_log2(span)
        choices = {
            path >> skip: self.paths.word_select(number // span, len(target))
            for number, path in enumerate(_paths(config))
        }
        index = _index(config, code)[: ceil_log2(config.paths)]
        _choose(m, index[skip:], choices, target)

    def _map(self, m: Module, code: Value, pair: Signal) -> None:
        """Take a map: its low bytes in all lanes below its high bytes."""
        first = mem.map_path(self.config)
        if first is None:
            self._sample(m, code, 2, pair)
        else:
            m.d.comb += pair.eq(self.paths[first * len(pair) // 2 :])

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
        map_lanes = mem.map_lanes(config)
        active, by_map = Signal(name=f"{kind}_active"), Signal(name=name)
        addr = Signal(mem.ADDRESS_BITS, name=f"{kind}_addr")
        opcode, base = word[:OPCODE_BITS], field(word, mapped, "addr")
        code, lane = field(word, mapped, "map"), field(word, mapped, "lane")
        # Without a map, zeros are added: their choice costs less than one of sums.
        halves = [Signal(BYTE, name=f"{name}_{half}") for half in ("low", "high")]
        m.d.comb += [active.eq(opcode.any()), addr.eq(base + Cat(halves))]
        with m.If(active):
            m.d.comb += by_map.eq(opcode == mapped.opcode)
        with m.If(by_map):
            pair = Signal(2 * BYTE * config.lanes, name=f"{name}_pair")
            self._map(m, code, pair)
            for index, half in enumerate(halves):
                lanes = pair.word_select(index, BYTE * config.lanes)
                choices = {i: lanes.word_select(i, BYTE) for i in range(map_lanes)}
                _choose(m, lane[: ceil_log2(map_lanes)], choices, half)
        other = field(word, mapped, stream)
        known = [op.opcode for op in instructions(kind) if op.kind == kind]
        faults += [
            (active & ~opcode.matches(*known), f"{kind}: illegal instruction"),
            (active & (other[:ID_BITS] >= config.streams), f"{kind}: no such stream"),
            (by_map & self._no_map(code), f"{name}: no such map"),
            (by_map & (lane >= map_lanes), f"{name}: no such lane"),
            (active & ~by_map & (base >= config.depth), f"{kind}: address beyond the slice"),
        ]
        with m.If(by_map & (addr >= config.depth)):
            m.d.sync += Assert(0, Format("MEM tile {}: address {} beyond", self.id, addr))
        return active, addr

    def _no_map(self, code: Value) -> Value:
        """Tell whether a map cannot be taken from these streams."""
        config = self.config
        odd, first = code[0], mem.map_path(config)
        if first is not None:
            odd = code[: exact_log2(config.paths)] != first
        return odd | (code[:ID_BITS] >= config.streams)

    def _banks(
        self,
        m: Module,
        reading: Signal,
        read_addr: Signal,
        writing: Signal,
        write_addr: Signal,
        faults: list[tuple[Value, str]],
    ) -> None:
        """Lead the two ports and the host, which takes the way of an idle port, to the banks."""
        config = self.config
        width, row_bits = config.lanes * BYTE, exact_log2(config.rows)
        host_writing, wdata = Signal(), Signal(width)
        m.d.comb += host_writing.eq(self.host_en & self.host_we)
        sampling = writing | host_writing
        # While the host writes, no instruction is there, and the field of zeros means path 0.
        with m.If(sampling):
            self._sample(m, field(self.write_out, mem.Write, "src"), 1, wdata)
        m.d.comb += self.hash.eq(hash_of(m, sampling, wdata, write_addr[: ceil_log2(config.depth)]))
        looked, written = (Signal(2, name=name) for name in ("looked", "written"))
        for index in range(2):
            m.d.comb += [
                looked[index].eq(reading & (read_addr[row_bits] == index)),
                written[index].eq(writing & (write_addr[row_bits] == index)),
            ]
            both = looked[index] & written[index]
            faults.append((both, f"two accesses of bank {index}"))
        host = self.host_en, host_writing, self.host_addr[: row_bits + 1]
        if config.two_port:
            self._two_port(m, reading, read_addr, writing, write_addr, wdata, host)
        else:
            self._single_ports(m, looked, read_addr, written, write_addr, wdata, host)

    def _two_port(
        self,
        m: Module,
        reading: Signal,
        read_addr: Signal,
        writing: Signal,
        write_addr: Signal,
        wdata: Signal,
        host: tuple[Value, Value, Value],
    ) -> None:
        """Place both banks in one memory with a read port and a write port."""
        host_en, host_writing, host_addr = host
        memory = TwoPortSRAM(len(wdata), self.config.depth)
        m.submodules.banks = memory
        m.d.comb += [
            memory.id.eq(Cat(C(0, 1), self.id)),
            memory.read.eq(reading | (host_en & ~host_writing)),
            memory.read_addr.eq(Mux(host_en, host_addr, read_addr)),
            memory.write.eq(writing | host_writing),
            memory.write_addr.eq(Mux(host_en, host_addr, write_addr)),
            memory.wdata.eq(wdata),
            self.read_data.eq(memory.rdata),
        ]

    def _single_ports(
        self,
        m: Module,
        looked: Signal,
        read_addr: Signal,
        written: Signal,
        write_addr: Signal,
        wdata: Signal,
        host: tuple[Value, Value, Value],
    ) -> None:
        """Place two memories with one port each."""
        host_en, host_writing, host_addr = host
        row_bits = exact_log2(self.config.rows)
        bank_read, look_addr = Signal(), Signal(row_bits + 1)
        m.d.comb += look_addr.eq(Mux(host_en, host_addr, read_addr))
        with m.If(looked.any() | host_en):
            m.d.sync += bank_read.eq(look_addr[row_bits])
        banks = [SRAM(len(wdata), self.config.rows) for _ in range(2)]
        for index, bank in enumerate(banks):
            m.submodules[f"bank_{index}"] = bank
            met = looked[index] | (host_en & (host_addr[row_bits] == index))
            m.d.comb += [
                bank.id.eq(Cat(C(index, 1), self.id)),
                bank.en.eq(met | written[index]),
                bank.we.eq(written[index] | host_writing),
                bank.addr.eq(Mux(written[index], write_addr, look_addr)),
                bank.wdata.eq(wdata),
            ]
        m.d.comb += self.read_data.eq(Mux(bank_read, banks[1].rdata, banks[0].rdata))


class MEMGroup(wiring.Component):
    """One superlane of the slices that share a stream register column, and that column.

    Instances the module ``mem_tile``, an emitted ``MEMTile``.

    Parameters
    ----------
    config : Config
        Uses ``group``, ``lanes``, ``streams``, ``paths`` and ``rows``.

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
        What the host read last, until something is issued.
    outward : In(1)
        The direction, a constant, in which streams leave the VXM here. Used where streams share
        paths.
    id : In(16)
        ``tile_id`` of the first slice; the others follow.
    sum : Out(32)
        Of the tiles' hashes, a cycle later; see ``rtl/signature.py``.
    error : Out(1)
        A promise was broken one or two cycles ago. What may not be sampled where streams share
        paths is found in simulation only.

    Timing
    ------
    As ``MEMTile``; what the host reads in cycle t is in ``host_rdata`` from t + 1 on.
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
                "outward": In(1),
                "id": In(SRAM_ID_BITS),
                "sum": Out(signature.BITS),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        self._width = config.lanes * BYTE
        #: Eastward registers below westward ones.
        self._columns = Signal(2 * config.streams * self._width, reset_less=True)
        m.d.comb += [
            self.east.eq(self._columns[: len(self.east)]),
            self.west.eq(self._columns[len(self.east) :]),
        ]
        paths = self._sampled(m)
        tiles = [self._tile(m, index, paths) for index in range(config.group)]
        errors = Cat(tile["error"] for tile in tiles)
        double = self._driven(m, tiles)
        m.d.sync += self.error.eq(errors.any() | double)
        m.d.comb += self.sum.eq(sum_of(m, [tile["hash"] for tile in tiles]))
        with m.If(double):
            m.d.sync += Assert(0, Format("MEM tiles from {}: two drive one path", self.id))
        return m

    def _tile(self, m: Module, index: int, paths: Signal) -> dict[str, Signal]:
        """Instance one slice; return its outputs but the words."""
        outputs = {
            "read_valid": Signal(name=f"valid_{index}"),
            "read_dst": Signal(STREAM_BITS, name=f"dst_{index}"),
            "read_data": Signal(self._width, name=f"data_{index}"),
            "hash": Signal(signature.HASH_BITS, name=f"hash_{index}"),
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
            i_paths=paths,
            i_host_en=self.host_en[index],
            i_host_we=self.host_we,
            i_host_addr=self.host_addr,
            i_id=tile,
            **words,
            **{f"o_{name}": signal for name, signal in outputs.items()},
        )
        return outputs

    def _sampled(self, m: Module) -> Signal:
        """Bring the streams that instructions sample onto the paths."""
        config, width = self.config, self._width
        paths = Signal(config.paths * width)
        if config.paths == 2 * config.streams:
            m.d.comb += paths.eq(self._columns)
        else:
            outward = Signal(config.streams * width)
            m.d.comb += outward.eq(Mux(self.outward, self.west, self.east))
            low = exact_log2(config.paths)
            for place, wanted in enumerate(self._wanted(m)):
                numbers = range(place, config.streams, config.paths)
                choices = {n >> low: outward.word_select(n, width) for n in numbers}
                _choose(m, wanted, choices, paths.word_select(place, width))
        with m.If(self.host_we & self.host_en.any()):
            m.d.comb += paths[:width].eq(self.host_wdata)
        return paths

    def _wanted(self, m: Module) -> list[Signal]:
        """Return which of its streams each path carries for the words that tiles hold now.

        Worked out while the words are on their way to the tiles' registers. Bits of all that
        sample a path are simply put together: they must be the same.
        """
        config = self.config
        low, first = exact_log2(config.paths), mem.map_path(config)
        high = slice(low, ceil_log2(config.streams))
        users: list[list[tuple[Value, Value]]] = [[] for _ in range(config.paths)]
        broken: list[Value] = []
        for index in range(config.group):
            for port, mapped in (("read", mem.Gather), ("write", mem.Scatter)):
                word = getattr(self, f"{port}{index}_in")
                by_map, code = word[:OPCODE_BITS] == mapped.opcode, field(word, mapped, "map")
                broken.append(by_map & (code[ID_BITS] != self.outward))
                for mine in users[first:]:
                    mine.append((by_map, code[high]))
                if mapped is mem.Scatter:
                    active, code = word[:OPCODE_BITS].any(), field(word, mapped, "src")
                    broken.append(active & (code[ID_BITS] != self.outward))
                    for path, mine in enumerate(users):
                        mine.append((active & (code[:low] == path), code[high]))
        chosen: list[Signal] = []
        for path, mine in enumerate(users):
            found, other = (
                any_of([Mux(at_work, bits ^ turn, 0) for at_work, bits in mine])
                for turn in (0, (1 << high.stop - low) - 1)
            )
            wanted = Signal(high.stop - low, name=f"wanted_{path}")
            m.d.sync += wanted.eq(found)
            broken.append((found & other).any())
            chosen.append(wanted)
        with m.If(Cat(broken).any()):
            text = "MEM tiles from {}: an inward stream, or two of one path, are sampled"
            m.d.sync += Assert(0, Format(text, self.id))
        return chosen

    def _driven(self, m: Module, tiles: list[dict[str, Signal]]) -> Signal:
        """Step the stream registers, let slices drive them; return whether two drive one path."""
        config, width = self.config, self._width
        low = ceil_log2(config.paths)
        valid = Cat(tile["read_valid"] for tile in tiles)
        codes = [_index(config, tile["read_dst"]) for tile in tiles]
        double = Signal()
        for index, code in enumerate(codes):
            for other in range(index):
                with m.If(valid[index] & valid[other] & (code[:low] == codes[other][:low])):
                    m.d.comb += double.eq(1)
        # The host reads by way of path 0, until something is issued.
        host_read = Signal(config.group)
        with m.If(self.host_en.any()):
            m.d.sync += host_read.eq(self.host_en)
        with m.Elif(valid.any()):
            m.d.sync += host_read.eq(0)
        m.d.sync += self._columns.eq(Cat(self.east_in, self.west_in))
        # The outer condition spares a simulator the others in most cycles.
        with m.If(valid.any() | host_read.any()):
            for place, (path, streams) in enumerate(_paths(config).items()):
                hits = Signal(config.group, name=f"hits_{place}")
                driven = Cat(valid[i] & (code[:low] == path) for i, code in enumerate(codes))
                m.d.comb += hits.eq(driven)
                if not place:
                    with m.If(~valid.any()):
                        m.d.comb += hits.eq(host_read)
                data = Signal(width, name=f"driven_{place}")
                # Two hits are an error; the Switch takes fewer LUTs than an order of Ifs.
                with m.Switch(hits):
                    for index, tile in enumerate(tiles):
                        with m.Case(1 << index):
                            m.d.comb += data.eq(tile["read_data"])
                if not place:
                    m.d.comb += self.host_rdata.eq(data)
                for high, at in streams:
                    meant = [hits[i] & (code[low:] == high) for i, code in enumerate(codes)]
                    with m.If(valid.any() & Cat(meant).any()):
                        m.d.sync += self._columns.word_select(at, width).eq(data)
        return double

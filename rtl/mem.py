"""MEM: the tile of one slice in one superlane."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from waterclock.isa import mem, signature
from waterclock.isa.config import WIDTH, Config
from waterclock.isa.spec import OPCODE_BITS, Instruction, instructions, word_bits
from waterclock.isa.streams import ID_BITS, STREAM_BITS, Direction
from waterclock.rtl.part import choose, field, is_unit
from waterclock.rtl.signature import hash_of
from waterclock.rtl.sram import ID_BITS as SRAM_ID_BITS
from waterclock.rtl.sram import SRAM, TwoPortSRAM

BYTE = 8


def tile_id(config: Config, superlane: int, hemisphere: int, slice_index: int) -> int:
    """Return the number of a tile; its banks are the memories 2 * number and 2 * number + 1."""
    return (superlane * 2 + hemisphere) * config.slices + slice_index


def followed(m: Module, word: Value, kind: str, index: int) -> Value:
    """Return the word of slice ``index`` of a wide group, as ``isa.mem.followed`` says."""
    found = Signal(len(word), name=f"followed_{kind}_{index}")
    m.d.comb += found.eq(word)
    opcode = word[:OPCODE_BITS]
    stream = mem.Read, "dst"
    if kind == "mem_write":
        stream = mem.Write, "src"
        with m.If(opcode == mem.Scatter.opcode):
            m.d.comb += field(found, mem.Scatter, "lane").eq(
                field(word, mem.Scatter, "lane") + index
            )
    # An idle port keeps its zeros: they choose the path by which the host writes. Scatter is told
    # by the bit in which it is not Write: the word comes late in its cycle.
    scattered = has_map(opcode, mem.Scatter, mem.Write) & (kind == "mem_write")
    with m.If(is_unit(opcode) & ~scattered):
        m.d.comb += field(found, *stream)[:2].eq(field(word, *stream)[:2] + index)
    return found


def has_map(opcode: Value, mapped: type[Instruction], plain: type[Instruction]) -> Value:
    """Tell an instruction with a map from the one without by the bit in which they differ."""
    return (opcode & (mapped.opcode ^ plain.opcode)).any()


def path_index(config: Config, code: Value) -> Value:
    """Return the bits of a stream code that differ between the streams that there are."""
    return Cat(code[: ceil_log2(config.streams)], code[ID_BITS])


def streams_of_paths(config: Config) -> dict[int, list[tuple[int, int]]]:
    """Return the streams of each path: the rest of their ``path_index``, and direction and number.

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
    number : In(2)
        That of the slice in its group, a constant; only where slices are wide.
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
            | ({"number": In(ceil_log2(WIDTH))} if config.wide else {})
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
            for number, path in enumerate(streams_of_paths(config))
        }
        index = path_index(config, code)[: ceil_log2(config.paths)]
        choose(m, index[skip:], choices, target)

    def _sample_own(self, m: Module, target: Signal) -> None:
        """Take what a wide slice writes: its own path, or what is scattered, or the host's."""
        opcode, code = self.write_out[:OPCODE_BITS], field(self.write_out, mem.Write, "src")
        plain = is_unit(opcode) & ~has_map(opcode, mem.Scatter, mem.Write)
        paths = [self.paths.word_select(i, len(target)) for i in range(self.config.paths)]
        with m.If(plain):
            choose(m, self.number, {i: paths[i] for i in range(WIDTH)}, target)
        with m.Else():
            few = {path: paths[path] for path in mem.wide_paths(mem.Scatter, 0)}
            choose(m, code[: exact_log2(len(few))], few, target)

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
                choose(m, lane[: ceil_log2(map_lanes)], choices, half)
        other = field(word, mapped, stream)
        known = [op.opcode for op in instructions(kind) if op.kind == kind]
        rules = [
            (~opcode.matches(*known), f"{kind}: illegal instruction"),
            (other[:ID_BITS] >= config.streams, f"{kind}: no such stream"),
            (by_map & self._no_map(code), f"{name}: no such map"),
            (by_map & (lane >= map_lanes), f"{name}: no such lane"),
            (~by_map & (base >= config.depth), f"{kind}: address beyond the slice"),
        ]
        if config.wide:
            plain = mem.Read if mapped is mem.Gather else mem.Write
            rules += [
                (by_map & ~self._leads(mapped, other), f"{name}: no path to the slice"),
                (~by_map & ~self._leads(plain, other), f"{kind}: no path to the slice"),
            ]
        wrong = Signal(len(rules), name=f"{kind}_wrong")
        with m.If(active):  # an idle port costs a simulator one test
            m.d.comb += wrong.eq(Cat(rule for rule, _ in rules))
        faults += [(wrong[index], text) for index, (_, text) in enumerate(rules)]
        with m.If(by_map), m.If(addr >= config.depth):
            m.d.sync += Assert(0, Format("MEM tile {}: address {} beyond", self.id, addr))
        return active, addr

    def _leads(self, op: type[Instruction], code: Value) -> Value:
        """Tell whether the path of a stream leads to this wide slice."""
        path = code[: exact_log2(self.config.paths)]
        found = [
            (self.number == index) & path.matches(*mem.wide_paths(op, index))
            for index in range(WIDTH)
        ]
        return Cat(found).any()

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
        width = config.lanes * BYTE
        host_writing, wdata = Signal(), Signal(width)
        m.d.comb += host_writing.eq(self.host_en & self.host_we)
        sampling = writing | host_writing
        # While the host writes, no instruction is there, and the field of zeros means path 0.
        if config.wide:
            self._sample_own(m, wdata)
        else:
            with m.If(sampling):
                self._sample(m, field(self.write_out, mem.Write, "src"), 1, wdata)
        m.d.comb += self.hash.eq(hash_of(m, sampling, wdata, write_addr[: ceil_log2(config.depth)]))
        looked, written = (Signal(2, name=name) for name in ("looked", "written"))
        for index in range(2):
            with m.If(reading):
                m.d.comb += looked[index].eq(self._bank(read_addr) == index)
            with m.If(writing):
                m.d.comb += written[index].eq(self._bank(write_addr) == index)
            both = looked[index] & written[index]
            faults.append((both, f"two accesses of bank {index}"))
        host = self.host_en, host_writing, self.host_addr[: ceil_log2(config.depth)]
        if config.two_port:
            self._two_port(m, reading, read_addr, writing, write_addr, wdata, host)
        else:
            self._single_ports(m, looked, read_addr, written, write_addr, wdata, host)

    def _bank(self, addr: Value) -> Value:
        """Return the bank of an address."""
        rows = self.config.rows
        return addr[exact_log2(rows)] if rows & (rows - 1) == 0 else addr >= rows

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

"""MEM: a group of slices in one superlane, with its stream column."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2, exact_log2

from waterclock.isa import mem, signature
from waterclock.isa.config import Config
from waterclock.isa.spec import OPCODE_BITS, word_bits
from waterclock.isa.streams import ID_BITS, STREAM_BITS, Direction
from waterclock.rtl.mem import BYTE, has_map, path_index, streams_of_paths
from waterclock.rtl.part import any_of, choose, field, is_unit
from waterclock.rtl.signature import sum_of
from waterclock.rtl.sram import ID_BITS as SRAM_ID_BITS


class MEMGroup(wiring.Component):
    """One superlane of the slices that share a stream register column, and that column.

    Instances the module ``mem_tile``, an emitted ``MEMTile``.

    Parameters
    ----------
    config : Config
        Uses ``group``, ``lanes``, ``streams``, ``paths`` and ``rows``.
    outward : Direction, optional
        In which streams leave the VXM here; a port if it is not given. Synthesis makes less of
        what it knows.

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
        The direction, a constant, in which streams leave the VXM here, unless it is given. Used
        where streams share paths.
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

    def __init__(self, config: Config, outward: Direction | None = None):
        self.config = config
        if outward is not None:
            self.outward = C(int(outward), 1)
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
                **({"outward": In(1)} if outward is None else {}),
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
            **({"i_number": C(index, ceil_log2(self.config.group))} if self.config.wide else {}),
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
                choose(m, wanted, choices, paths.word_select(place, width))
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
                plain = mem.Read if mapped is mem.Gather else mem.Write
                opcode, code = word[:OPCODE_BITS], field(word, mapped, "map")
                # The word comes late in its cycle.
                by_map = is_unit(opcode) & has_map(opcode, mapped, plain)
                broken.append(by_map & (code[ID_BITS] != self.outward))
                for mine in users[first:]:
                    mine.append((by_map, code[high]))
                if mapped is mem.Scatter:
                    active, code = is_unit(opcode), field(word, mapped, "src")
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
        codes = [path_index(config, tile["read_dst"]) for tile in tiles]
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
        if config.paths == 2 * config.streams:
            self._placed(m, tiles, valid, codes, host_read)
            return double
        # The outer condition spares a simulator the others in most cycles.
        with m.If(valid.any() | host_read.any()):
            for place, (path, streams) in enumerate(streams_of_paths(config).items()):
                hits = Signal(config.group, name=f"hits_{place}")
                # Where slices are wide few lead to a path.
                driven = Cat(
                    valid[i] & (code[:low] == path) & self._leads(i, path)
                    for i, code in enumerate(codes)
                )
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

    def _leads(self, index: int, path: int) -> bool:
        """Tell whether what a slice reads may go by a path."""
        return not self.config.wide or path in mem.wide_paths(mem.Read, index)

    def _placed(
        self,
        m: Module,
        tiles: list[dict[str, Signal]],
        valid: Value,
        codes: list[Value],
        host_read: Signal,
    ) -> None:
        """Bring what slices drive to its stream where each has a path of its own.

        A simulator then has to look at those that drive only, not at every path.
        """
        streams, width = self.config.streams, self._width
        with m.If(valid.any()):
            for index, (tile, code) in enumerate(zip(tiles, codes, strict=True)):
                with m.If(valid[index]), m.Switch(code):
                    for place in range(2 * streams):
                        way, number = divmod(place, streams)
                        with m.Case(way << ceil_log2(streams) | number):
                            target = self._columns.word_select(place, width)
                            m.d.sync += target.eq(tile["read_data"])
        with m.Switch(host_read):
            for index, tile in enumerate(tiles):
                with m.Case(1 << index):
                    m.d.comb += self.host_rdata.eq(tile["read_data"])

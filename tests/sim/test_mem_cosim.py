"""MEM: two superlanes of a group of slices against the golden slices, every stream every cycle.

In clock cycle n the bench sees what the registers hold and sets what they take at its end. An
instruction set in n is issued in n + 1, in superlane k in n + 1 + k; ``t`` is always the cycle
of superlane 0.
"""

import dataclasses
import os
import random
from functools import lru_cache
from pathlib import Path

import cocotb
import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.mem import Gather, Read, Scatter, Write, followed, map_path, path, wide_paths
from waterclock.isa.spec import Instruction, word_bits
from waterclock.isa.streams import ID_BITS, Direction, stream
from waterclock.rtl.emit import convert
from waterclock.rtl.mem import MEMTile, tile_id
from waterclock.rtl.mem_group import MEMGroup
from waterclock.rtl.sram import sram_image, sram_verilog
from waterclock.sim import verilator
from waterclock.sim.mem import MEMSlice, Paths
from waterclock.sim.port import Hazard

CONFIG = Config(
    name="test",
    superlanes=2,
    lanes=4,
    streams=8,
    slices=8,
    group=4,
    rows=16,
    planes=1,
    load_streams=4,
    act_entries=4,
    acc_entries=4,
    digits=1,
    integers=True,
    sxm=True,
    alus=("amcsib",),
    simple_cycles=1,
    alu_cycles=4,
    b_streams=True,
    reduce_streams=True,
    turns=1,
    imem_words=64,
    imem_words_of=(),
    paths=int(os.environ.get("PATHS", "16")),
    loops=2,
    two_port=False,
    wide=bool(os.environ.get("WIDE")),
)
#: Paths as many as streams, and few; few with wide slices.
SHAPES = ((16, False), (4, False), (4, True))
SUPERLANES, LANES, STREAMS, GROUP = 2, CONFIG.lanes, CONFIG.streams, CONFIG.group
CYCLES, INSTRUCTIONS = 6000, 10_000
PERIOD, RESET = 10, 2
PORTS = ("read", "write")
#: Pairs of streams on which most values are small enough to be maps.
MAP_STREAMS = (2, 6)
#: Directions that may be sampled, in a group of the east.
SAMPLED = (Direction.EAST, Direction.WEST) if map_path(CONFIG) is None else (Direction.EAST,)


class Chain(wiring.Component):
    """Superlanes of one group, the words rippling; all ports of a kind side by side."""

    def __init__(self) -> None:
        column = STREAMS * LANES * 8
        super().__init__(
            {
                **{port: In(GROUP * word_bits(f"mem_{port}")) for port in PORTS},
                "columns_in": In(SUPERLANES * 2 * column),
                "columns": Out(SUPERLANES * 2 * column),
                "host_en": In(SUPERLANES * GROUP),
                "host_we": In(1),
                "host_addr": In(16),
                "host_wdata": In(LANES * 8),
                "host_rdata": Out(SUPERLANES * LANES * 8),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        words = {
            f"{port}{i}": getattr(self, port).word_select(i, word_bits(f"mem_{port}"))
            for port in PORTS
            for i in range(GROUP)
        }
        errors = Signal(SUPERLANES)
        for superlane in range(SUPERLANES):
            following = {name: Signal.like(word, name=name) for name, word in words.items()}
            columns = self.columns.word_select(superlane, len(self.columns) // SUPERLANES)
            arriving = self.columns_in.word_select(superlane, len(columns))
            m.submodules[f"superlane_{superlane}"] = Instance(
                "mem_group",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                **{f"i_{name}_in": word for name, word in words.items()},
                **{f"o_{name}_out": word for name, word in following.items()},
                i_east_in=arriving[: len(columns) // 2],
                i_west_in=arriving[len(columns) // 2 :],
                o_east=columns[: len(columns) // 2],
                o_west=columns[len(columns) // 2 :],
                i_host_en=self.host_en.word_select(superlane, GROUP),
                i_host_we=self.host_we,
                i_host_addr=self.host_addr,
                i_host_wdata=self.host_wdata,
                o_host_rdata=self.host_rdata.word_select(superlane, LANES * 8),
                i_outward=int(Direction.EAST),
                i_id=tile_id(CONFIG, superlane, 0, 0),
                o_error=errors[superlane],
            )
            words = following
        m.d.comb += self.error.eq(errors.any())
        return m


@lru_cache(maxsize=3)
def simulator(paths: int, wide: bool) -> Path:
    # Few paths and memories with two ports occur together, on FPGAs.
    config = dataclasses.replace(CONFIG, paths=paths, two_port=paths == 4, wide=wide)
    parts = {"mem_tile": MEMTile(config), "mem_group": MEMGroup(config), "chain": Chain()}
    text = {f"{name}.v": convert(part, name) for name, part in parts.items()}
    return verilator.build({"sram.sv": sram_verilog(), **text}, "chain")


class Column:
    """The streams of the group, golden: a ``Port`` in the cycle that was stepped to."""

    def __init__(self) -> None:
        self.cycle = 0
        self.now = np.zeros((2, STREAMS, CONFIG.vector), np.uint8)
        self.driven: dict[int, list[tuple[int, NDArray[np.uint8]]]] = {}

    def step(self, cycle: int, arriving: NDArray[np.uint8]) -> None:
        self.cycle, self.now = cycle, arriving.copy()
        for code, data in self.driven.pop(cycle, []):
            self.now[code >> ID_BITS, code & (1 << ID_BITS) - 1] = data

    def read(self, code: int, span: int) -> NDArray[np.uint8]:
        number = code & (1 << ID_BITS) - 1
        return self.now[code >> ID_BITS, number : number + span].copy()

    def drive(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        self.driven.setdefault(self.cycle + latency, []).append((code, data[0]))


def random_streams(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Return what arrives: anything, but often maps whose superlanes are near each other."""
    arriving = rng.integers(0, 256, (2, STREAMS, CONFIG.vector), np.uint8)
    for number in MAP_STREAMS:
        if rng.random() < 0.8:
            arriving[:, number] = rng.integers(0, 248) + rng.integers(0, 8, CONFIG.vector)
            arriving[:, number + 1] = rng.integers(0, 256)
    return arriving


class Shared:
    """Which streams have the paths in this cycle."""

    def __init__(self) -> None:
        self.sampled: dict[int, int] = {}
        self.driven: set[int] = set()

    def sample(self, *codes: int) -> bool:
        """Take streams, if their paths are free or theirs."""
        wanted = {path(CONFIG, code): code for code in codes}
        if len(wanted) < len(codes) or any(
            self.sampled.get(place, code) != code for place, code in wanted.items()
        ):
            return False
        self.sampled |= wanted
        return True

    def take(self, op: Instruction) -> bool:
        """Take the paths of an instruction, if they are free."""
        match op:
            case Read() | Gather():
                if path(CONFIG, op.dst) in self.driven:
                    return False
                if isinstance(op, Gather) and not self.sample(op.map, op.map + 1):
                    return False
                self.driven.add(path(CONFIG, op.dst))
                return True
            case Scatter():
                return self.sample(op.src, op.map, op.map + 1)
            case Write():
                return self.sample(op.src)
        return False


def random_access(
    rng: np.random.Generator, column: Column, bank: int, port: str, code: int
) -> Instruction:
    """Return a legal instruction for a bank, with a map where the streams allow one."""
    any_map = range(0, STREAMS, 2) if map_path(CONFIG) is None else ()
    number = int(rng.choice([*MAP_STREAMS, *any_map]))
    pair, lane = stream(rng.choice(SAMPLED), number), int(rng.integers(LANES))
    low, high = column.read(pair, 2)[:, lane::LANES].astype(int)
    maps = low + 256 * high
    room = CONFIG.rows - (maps.max() - maps.min())
    if rng.random() < 0.5 and room > 0:
        addr = int(bank * CONFIG.rows + rng.integers(room) - maps.min()) % (1 << 16)
        if port == "read":
            return Gather(addr=addr, dst=code, map=pair, lane=lane)
        return Scatter(addr=addr, src=code, map=pair, lane=lane)
    addr = int(bank * CONFIG.rows + rng.integers(CONFIG.rows))
    return Read(addr=addr, dst=code) if port == "read" else Write(addr=addr, src=code)


def random_accesses(rng: np.random.Generator, column: Column) -> list[tuple[int, str, Instruction]]:
    """Return legal instructions for one cycle: (slice, port, instruction)."""
    found: list[tuple[int, str, Instruction]] = []
    codes = [stream(way, number) for way in (0, 1) for number in range(STREAMS)]
    targets, shared = rng.permutation(codes), Shared()
    for index in range(GROUP):
        bank = int(rng.integers(2))
        if rng.random() < 0.6:
            op = random_access(rng, column, bank, "read", int(targets[index]))
            if shared.take(op):
                found.append((index, "read", op))
        if rng.random() < 0.6:
            source = stream(rng.choice(SAMPLED), int(rng.integers(STREAMS)))
            op = random_access(rng, column, 1 - bank, "write", source)
            if shared.take(op):
                found.append((index, "write", op))
    return found


def fits(column: Column, bank: int, op: Instruction) -> bool:
    """Tell whether all superlanes of an access stay in a bank."""
    assert isinstance(op, (Read, Gather, Write, Scatter))
    addresses = np.array([op.addr])
    if isinstance(op, (Gather, Scatter)):
        if op.lane >= LANES:
            return False
        low, high = column.read(op.map, 2)[:, op.lane :: LANES].astype(int)
        addresses = (op.addr + low + 256 * high) % (1 << 16)
    return bool((addresses // CONFIG.rows == bank).all())


def random_wide(rng: np.random.Generator, column: Column) -> list[tuple[int, str, Instruction]]:
    """Return legal instructions of wide slices for one cycle: (slice, port, instruction)."""
    found: list[tuple[int, str, Instruction]] = []
    bank, shared = int(rng.integers(2)), Shared()
    for port, own in zip(PORTS, (bank, 1 - bank), strict=True):
        way = rng.choice((0, 1) if port == "read" else SAMPLED)
        first = stream(way, GROUP * int(rng.integers(STREAMS // GROUP)))
        places = wide_paths(Gather if port == "read" else Scatter, 0)
        leader = random_access(rng, column, own, port, first + int(rng.choice(places)))
        if isinstance(leader, Write):
            leader = dataclasses.replace(leader, src=first)
        ops = [followed(leader, index) for index in range(GROUP)]
        if all(fits(column, own, op) and shared.take(op) for op in ops):
            found += [(index, port, op) for index, op in enumerate(ops)]
    return found


def as_int(data: NDArray[np.uint8]) -> int:
    return int.from_bytes(data.tobytes(), "little")


def superlane_parts(streams: NDArray[np.uint8], superlane: int) -> NDArray[np.uint8]:
    return streams[..., superlane * LANES : (superlane + 1) * LANES]


async def reset(dut) -> None:
    """Start the clock; returns in clock cycle ``RESET``."""
    for port in (*PORTS, "columns_in", "host_en", "host_we", "host_addr", "host_wdata"):
        getattr(dut, port).value = 0
    dut.rst.value = 1
    Clock(dut.clk, PERIOD, unit="ns").start(start_high=False)
    for _ in range(RESET):
        await FallingEdge(dut.clk)
    dut.rst.value = 0


def set_words(dut, accesses: list[tuple[int, str, Instruction]]) -> None:
    words = dict.fromkeys(PORTS, 0)
    for index, port, op in accesses:
        words[port] |= op.encode() << index * word_bits(f"mem_{port}")
    for port in PORTS:
        getattr(dut, port).value = words[port]


def trace_lines(slices: list[MEMSlice]) -> list[str]:
    """Return what the memories' trace must hold, from the writes of the golden slices."""
    lines: list[str] = []
    for index, found in enumerate(slices):
        for t, place, vector in found.writes:
            places = place if isinstance(place, tuple) else (place,) * SUPERLANES
            for superlane, address in enumerate(places):
                bank, row = divmod(address, CONFIG.rows)
                memory = 2 * tile_id(CONFIG, superlane, 0, index) + bank
                data = superlane_parts(vector, superlane)[::-1].tobytes().hex()
                lines.append(f"{t + superlane} {memory} {row} {data}")
    return sorted(lines)


@cocotb.test()
async def streams_agree(dut) -> None:
    """Random instructions; the golden writes are left in a file for the comparison of traces."""
    rng = np.random.default_rng(random.getrandbits(32))
    paths = Paths(CONFIG, Direction.EAST)
    slices = [MEMSlice(CONFIG, f"MEM_W{index}", paths, index) for index in range(GROUP)]
    for index, content in enumerate(np.load("memory.npy")):
        slices[index].load(0, content)
    column, issued = Column(), 0
    arrived = {RESET - 1: random_streams(rng)}
    columns: dict[int, NDArray[np.uint8]] = {}
    await reset(dut)
    for n in range(RESET, RESET + CYCLES + SUPERLANES):
        expected = [columns.get(n - superlane) for superlane in range(SUPERLANES)]
        if expected[-1] is not None:
            parts = [superlane_parts(e, k) for k, e in enumerate(expected) if e is not None]
            size = SUPERLANES * 2 * STREAMS * LANES
            found = dut.columns.value.to_unsigned().to_bytes(size, "little")
            assert found == b"".join(part.tobytes() for part in parts), f"cycle {n}"
        assert not dut.error.value, f"cycle {n}"
        arrived[n] = random_streams(rng)
        column.step(n + 1, arrived[n])
        columns[n + 1] = column.now
        # Nothing is issued at the end, where the words of superlane 0 ripple out.
        some = random_wide if CONFIG.wide else random_accesses
        accesses = some(rng, column) if n < RESET + CYCLES else []
        for index, _, op in accesses:
            slices[index].execute(n + 1, op, column)
        issued += len(accesses)
        parts = [superlane_parts(arrived[max(n - k, RESET - 1)], k) for k in range(SUPERLANES)]
        dut.columns_in.value = int.from_bytes(b"".join(p.tobytes() for p in parts), "little")
        set_words(dut, accesses)
        await FallingEdge(dut.clk)
    assert issued >= INSTRUCTIONS
    Path("expected.txt").write_text("\n".join(trace_lines(slices)))


@cocotb.test()
async def the_host_reads_what_it_wrote(dut) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    memory: dict[tuple[int, int], int] = {}
    await reset(dut)
    for _ in range(500):
        place, address = int(rng.integers(SUPERLANES * GROUP)), int(rng.integers(CONFIG.depth))
        we = (place, address) not in memory or rng.random() < 0.5
        dut.host_en.value, dut.host_we.value, dut.host_addr.value = 1 << place, we, address
        if we:
            memory[place, address] = as_int(rng.integers(0, 256, LANES, np.uint8))
            dut.host_wdata.value = memory[place, address]
        await FallingEdge(dut.clk)
        if not we:
            dut.host_en.value = 0
            await FallingEdge(dut.clk)
            found = dut.host_rdata.value.to_unsigned() >> place // GROUP * LANES * 8
            assert found & (1 << LANES * 8) - 1 == memory[place, address]
    assert not dut.error.value


BROKEN: dict[str, list[tuple[int, str, Instruction | int]]] = {
    "illegal_read": [(0, "read", 12)],
    "illegal_write": [(1, "write", 9)],
    "read_beyond_the_slice": [(2, "read", Read(addr=CONFIG.depth, dst=0))],
    "write_beyond_the_slice": [(3, "write", Write(addr=CONFIG.depth, src=0))],
    "read_to_no_stream": [(0, "read", Read(addr=0, dst=STREAMS))],
    "odd_map": [(0, "read", Gather(addr=0, dst=0, map=3, lane=0))],
    "odd_scatter_map": [(0, "write", Scatter(addr=0, src=0, map=33, lane=0))],
    "no_such_lane": [(0, "read", Gather(addr=0, dst=0, map=2, lane=LANES))],
    "bank_conflict": [(0, "read", Read(addr=3, dst=0)), (0, "write", Write(addr=4, src=0))],
    "two_drivers": [(0, "read", Read(addr=3, dst=5)), (2, "read", Read(addr=9, dst=5))],
}


@cocotb.test()
async def a_broken_promise_is_an_error(dut) -> None:
    """One of ``BROKEN`` or ``BROKEN_WIDE``, named by the environment."""
    accesses = (BROKEN | BROKEN_WIDE)[os.environ["BROKEN"]]
    await reset(dut)
    words = dict.fromkeys(PORTS, 0)
    for index, port, op in accesses:
        word = op if isinstance(op, int) else op.encode()
        words[port] |= word << index * word_bits(f"mem_{port}")
    for port in PORTS:
        getattr(dut, port).value = words[port]
    await FallingEdge(dut.clk)
    set_words(dut, [])
    errors = 0
    for _ in range(6):
        errors += int(dut.error.value)
        await FallingEdge(dut.clk)
    assert errors == SUPERLANES  # one cycle in each


@pytest.mark.parametrize(("paths", "wide"), SHAPES)
def test_streams_and_traced_writes_agree_with_the_golden_slices(
    tmp_path: Path, paths: int, wide: bool
) -> None:
    seed = int(os.environ.get("COCOTB_RANDOM_SEED", "1"))
    print(f"seed {seed}")
    rng = np.random.default_rng(seed)
    memory = rng.integers(0, 256, (GROUP, CONFIG.depth, CONFIG.vector), np.uint8)
    np.save(tmp_path / "memory.npy", memory)
    for index, content in enumerate(memory):
        for superlane in range(SUPERLANES):
            for bank, rows in enumerate(np.split(superlane_parts(content, superlane), 2)):
                name = 2 * tile_id(CONFIG, superlane, 0, index) + bank
                (tmp_path / f"{name}.bin").write_bytes(sram_image(rows))
    plusargs = [f"+waterclock={tmp_path}", "+waterclock_trace", f"+waterclock_period={PERIOD}"]
    verilator.run(
        simulator(paths, wide),
        "test_mem_cosim",
        directory=tmp_path,
        testcase="streams_agree",
        seed=seed,
        plusargs=plusargs,
        extra_env={"PATHS": str(paths), "WIDE": "1" if wide else ""},
    )
    written = sorted((tmp_path / "writes.txt").read_text().splitlines())
    assert written == (tmp_path / "expected.txt").read_text().splitlines()
    assert len(written) > INSTRUCTIONS / 2


@pytest.mark.parametrize(("paths", "wide"), SHAPES)
def test_the_host_reads_what_it_wrote(paths: int, wide: bool) -> None:
    verilator.run(simulator(paths, wide), "test_mem_cosim", testcase="the_host_reads_what_it_wrote")


#: What only wide slices refuse: paths that do not lead to them.
BROKEN_WIDE: dict[str, list[tuple[int, str, Instruction | int]]] = {
    "read_to_the_neighbours_path": [(0, "read", Read(addr=3, dst=1))],
    "gather_to_the_neighbours_path": [(1, "read", Gather(addr=3, dst=2, map=2, lane=0))],
    "write_from_another_path": [(2, "write", Write(addr=3, src=0))],
    "scatter_from_the_upper_half": [(3, "write", Scatter(addr=3, src=3, map=2, lane=0))],
}


@pytest.mark.parametrize("name", BROKEN | BROKEN_WIDE)
def test_a_broken_promise_raises_error(name: str) -> None:
    verilator.run(
        simulator(4, True) if name in BROKEN_WIDE else simulator(16, False),
        "test_mem_cosim",
        testcase="a_broken_promise_is_an_error",
        plusargs=["+verilator+noassert"],
        extra_env={"BROKEN": name},
    )


def test_a_broken_promise_stops_the_simulation() -> None:
    with pytest.raises(verilator.SimulationError, match="MEM tile 0: two accesses of bank 0"):
        verilator.run(
            simulator(16, False),
            "test_mem_cosim",
            testcase="a_broken_promise_is_an_error",
            extra_env={"BROKEN": "bank_conflict"},
        )


class TestGoldenHazards:
    """The golden slice refuses what the RTL flags."""

    @pytest.mark.parametrize(
        ("accesses", "message"),
        [
            ([Read(addr=CONFIG.depth, dst=0)], "address 32 of 32"),
            ([Read(addr=5, dst=0)], "address 5 was never written"),
            ([Gather(addr=0, dst=0, map=3, lane=0)], "map stream 3 is odd"),
            ([Gather(addr=0, dst=0, map=2, lane=4)], "lane 4 of 4"),
            ([Write(addr=3, src=0), Read(addr=3, dst=0)], "bank 0 is taken by the other port"),
            ([Read(addr=2, dst=0), Write(addr=3, src=0)], "bank 0 is taken by the other port"),
            (
                [Read(addr=2, dst=0), Scatter(addr=15, src=0, map=0, lane=0)],
                "bank 0 is taken by the other port",
            ),
            ([Scatter(addr=40, src=0, map=0, lane=0)], "address 41 of 32"),
        ],
    )
    def test_it_names_cycle_slice_and_fault(
        self, accesses: list[Instruction], message: str
    ) -> None:
        slice_ = MEMSlice(CONFIG, "MEM_E3", Paths(CONFIG, Direction.EAST))
        slice_.load(0, np.zeros((3, CONFIG.vector), np.uint8))
        column = Column()
        column.step(7, np.zeros_like(column.now))
        column.now[0, 0, LANES:] = 1  # the map of the second superlane
        for op in accesses[:-1]:
            slice_.execute(7, op, column)
        with pytest.raises(Hazard, match=f"^cycle 7: MEM_E3: [a-z]+: {message}$"):
            slice_.execute(7, accesses[-1], column)

    def test_a_write_is_read_in_the_next_cycle(self) -> None:
        slice_, column = MEMSlice(CONFIG, "MEM_E3", Paths(CONFIG, Direction.EAST)), Column()
        vector = np.arange(CONFIG.vector, dtype=np.uint8)
        column.now[0, 4] = vector
        slice_.execute(0, Write(addr=3, src=4), column)
        slice_.execute(1, Read(addr=3, dst=1), column)
        assert slice_.writes[0][:2] == (0, 3)
        ((code, data),) = column.driven[2]
        assert code == 1
        assert (data == vector).all()

    @pytest.mark.parametrize(
        ("accesses", "message"),
        [
            ([Write(addr=3, src=1), Write(addr=4, src=5)], "stream E5: its path is taken by E1"),
            ([Write(addr=3, src=33)], "stream W1 does not flow outward"),
            ([Scatter(addr=0, src=2, map=6, lane=0)], "stream E2: its path is taken by E6"),
            ([Read(addr=3, dst=0), Read(addr=3, dst=4)], "stream E4: its path is taken by E0"),
            ([Gather(addr=0, dst=0, map=4, lane=0)], "map stream 4 does not come by path 2"),
        ],
    )
    def test_it_names_a_path_that_is_taken(self, accesses: list[Instruction], message: str) -> None:
        config = dataclasses.replace(CONFIG, paths=4)
        paths = Paths(config, Direction.EAST)
        slices = [MEMSlice(config, f"MEM_E{index}", paths) for index in range(len(accesses))]
        column = Column()
        for slice_, op in zip(slices[:-1], accesses[:-1], strict=True):
            slice_.load(0, np.zeros((8, CONFIG.vector), np.uint8))
            slice_.execute(7, op, column)
        slices[-1].load(0, np.zeros((8, CONFIG.vector), np.uint8))
        with pytest.raises(Hazard, match=f"{message}$"):
            slices[-1].execute(7, accesses[-1], column)

    @pytest.mark.parametrize(
        ("number", "op", "stream"),
        [
            (0, Read(addr=3, dst=1), "E1"),
            (1, Gather(addr=0, dst=2, map=2, lane=0), "E2"),
            (2, Write(addr=3, src=4), "E4"),
            (3, Scatter(addr=0, src=3, map=2, lane=0), "E3"),
        ],
    )
    def test_it_names_a_path_that_does_not_lead_here(
        self, number: int, op: Instruction, stream: str
    ) -> None:
        config = dataclasses.replace(CONFIG, paths=4, wide=True)
        slice_ = MEMSlice(config, "MEM_E0", Paths(config, Direction.EAST), number)
        slice_.load(0, np.zeros((8, CONFIG.vector), np.uint8))
        with pytest.raises(Hazard, match=f"stream {stream}: its path does not lead here$"):
            slice_.execute(7, op, Column())

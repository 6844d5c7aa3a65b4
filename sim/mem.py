"""Golden MEM slice: two banks, a read port and a write port."""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import mem
from waterclock.isa.config import Config
from waterclock.isa.spec import Instruction
from waterclock.isa.streams import Direction, direction_of, stream_text
from waterclock.sim.port import Hazard, Port

NEVER = -1


@dataclasses.dataclass(frozen=True)
class Reads:
    """A Read of one slice in each of some cycles, one after the other, onto one stream."""

    addresses: NDArray[np.int64]
    dst: int


class Paths:
    """The ways between a column and its slices in the cycles under way, see ``isa/mem.py``.

    Parameters
    ----------
    config : Config
        Uses ``streams`` and ``paths``.
    outward : Direction
        The way from the VXM.
    """

    def __init__(self, config: Config, outward: Direction):
        self.config, self.outward = config, outward
        self.shared = config.paths < 2 * config.streams
        self.start()

    def start(self) -> None:
        """Begin a run at cycle 0."""
        self._sampled: dict[int, tuple[int, int]] = {}  # path -> cycle and stream code
        self._driven: dict[tuple[int, int], int] = {}  # path and cycle -> stream code

    def sample(self, cycle: int, code: int) -> int | None:
        """Take a stream; return the code of another that has the path in this cycle."""
        path = mem.path(self.config, code)
        last, other = self._sampled.get(path, (NEVER, code))
        self._sampled[path] = cycle, code
        return other if last == cycle and other != code else None

    def drive(self, cycle: int, code: int) -> int | None:
        """Drive a stream in ``cycle``; return the code of another that has the path then."""
        key = mem.path(self.config, code), cycle
        other = self._driven.setdefault(key, code)
        return other if other != code else None


class MEMSlice:
    """All superlanes of one slice.

    Parameters
    ----------
    config : Config
        Uses ``superlanes``, ``lanes``, ``paths`` and ``rows``.
    name : str
        Name of the slice in hazards.
    paths : Paths
        What the slices of a group share.
    number : int
        Of the slice in its group; it matters where slices are wide.

    Attributes
    ----------
    writes : list of (cycle, address, vector)
        Every Write and Scatter since ``start``, in order of execution. The address is a number,
        or for a Scatter whose superlanes differ one number a superlane. ``vector`` is (vector,)
        uint8.
    """

    def __init__(self, config: Config, name: str, paths: Paths, number: int = 0):
        self.config, self.name, self.paths, self.number = config, name, paths, number
        # Rows are kept by superlane, because Gather and Scatter address each on its own.
        self._rows = np.zeros((config.depth, config.superlanes, config.lanes), np.uint8)
        self._written = np.zeros((config.depth, config.superlanes), bool)
        self._superlanes = np.arange(config.superlanes)
        self.start()

    def start(self) -> None:
        """Begin a run at cycle 0: forget the trace of writes, keep the memory."""
        self.writes: list[tuple[int, int | tuple[int, ...], NDArray[np.uint8]]] = []
        #: Cycle, first and last bank of the last access of each port.
        self._last = {"mem_read": (NEVER, 0, 0), "mem_write": (NEVER, 0, 0)}

    def load(self, row: int, data: NDArray[np.uint8]) -> None:
        """Store (rows, vector) uint8 from address ``row`` on, outside any schedule."""
        self._rows[row : row + len(data)] = data.reshape(-1, *self._rows.shape[1:])
        self._written[row : row + len(data)] = True

    def peek(self, row: int) -> NDArray[np.uint8]:
        """Return the (vector,) uint8 at an address, outside any schedule."""
        return self._rows[row].reshape(-1).copy()

    def execute(self, cycle: int, op: Instruction | Reads, port: Port) -> None:
        """Execute the instruction of one port issued in ``cycle``, or all from ``cycle`` on.

        Raises
        ------
        Hazard
            For an address beyond the slice, a read of what was never written, two accesses of
            one bank in one cycle, two streams on one path, a path that does not lead here, and
            an impossible map.
        """
        match op:
            case Reads():
                self._read(cycle, op, port)
            case mem.Read():
                address = op.addr
                self._claim(cycle, op, address, address)
                if not self._written[address].all():
                    raise self._hazard(cycle, op, f"address {address} was never written")
                data = self._rows[address].reshape(1, -1).copy()
                self._drive(cycle, op, data, port)
            case mem.Gather():
                addresses = self._addresses(cycle, op, port)
                written = self._written[addresses, self._superlanes]
                if not written.all():
                    found = int(addresses[~written][0])
                    raise self._hazard(cycle, op, f"address {found} was never written")
                data = self._rows[addresses, self._superlanes].reshape(1, -1)
                self._drive(cycle, op, data, port)
            case mem.Write():
                self._claim(cycle, op, op.addr, op.addr)
                self._expect_path(cycle, op, op.src)
                data = self._sample(cycle, op, op.src, 1, port)[0]
                self._rows[op.addr] = data.reshape(self._rows.shape[1:])
                self._written[op.addr] = True
                self.writes.append((cycle, op.addr, data))
            case mem.Scatter():
                addresses = self._addresses(cycle, op, port)
                self._expect_path(cycle, op, op.src)
                data = self._sample(cycle, op, op.src, 1, port)[0]
                self._rows[addresses, self._superlanes] = data.reshape(self._rows.shape[1:])
                self._written[addresses, self._superlanes] = True
                places = tuple(addresses.tolist())
                same = len(set(places)) == 1
                self.writes.append((cycle, places[0] if same else places, data))
            case _:
                raise self._hazard(cycle, op, "is no instruction of a MEM slice")

    def _read(self, cycle: int, reads: Reads, port: Port) -> None:
        """Execute Reads; nothing else of the slice is executed in their cycles."""
        addresses = reads.addresses
        self._expect_path(cycle, mem.Read(addr=int(addresses[0]), dst=reads.dst), reads.dst)
        if addresses.max() >= self.config.depth or not self._written[addresses].all():
            for offset, address in enumerate(addresses.tolist()):
                op = mem.Read(addr=address, dst=reads.dst)
                self._claim(cycle + offset, op, address, address)
                if not self._written[address].all():
                    raise self._hazard(cycle + offset, op, f"address {address} was never written")
        data = self._rows[addresses].reshape(len(addresses), -1)
        port.drive_each(reads.dst, data, mem.read_latency(self.config))

    def _addresses(self, cycle: int, op: mem.Gather | mem.Scatter, port: Port) -> NDArray[np.int64]:
        """Return the address in each superlane and claim their banks."""
        if op.map % 2:
            raise self._hazard(cycle, op, f"map stream {op.map} is odd")
        path = mem.map_path(self.config)
        if path is not None and mem.path(self.config, op.map) != path:
            raise self._hazard(cycle, op, f"map stream {op.map} does not come by path {path}")
        lanes = mem.map_lanes(self.config)
        if op.lane >= lanes:
            raise self._hazard(cycle, op, f"lane {op.lane} of {lanes}")
        streams = self._sample(cycle, op, op.map, 2, port)
        low, high = streams[:, op.lane :: self.config.lanes].astype(np.int64)
        addresses = (op.addr + low + 256 * high) % (1 << mem.ADDRESS_BITS)
        self._claim(cycle, op, int(addresses.min()), int(addresses.max()))
        return addresses

    def _sample(
        self, cycle: int, op: Instruction, code: int, span: int, port: Port
    ) -> NDArray[np.uint8]:
        """Take streams off the column."""
        for stream in range(code, code + span) if self.paths.shared else ():
            if direction_of(stream) is not self.paths.outward:
                raise self._hazard(cycle, op, f"stream {stream_text(stream)} does not flow outward")
            self._expect_free(cycle, op, stream, self.paths.sample(cycle, stream))
        return port.read(code, span)

    def _drive(
        self, cycle: int, op: mem.Read | mem.Gather, data: NDArray[np.uint8], port: Port
    ) -> None:
        """Put a vector onto its stream of the column."""
        latency = op.latency(self.config)
        self._expect_path(cycle, op, op.dst)
        if self.paths.shared:
            self._expect_free(cycle, op, op.dst, self.paths.drive(cycle + latency, op.dst))
        port.drive(op.dst, data, latency)

    def _expect_path(self, cycle: int, op: Instruction, code: int) -> None:
        wide = self.config.wide
        if wide and mem.path(self.config, code) not in mem.wide_paths(type(op), self.number):
            what = f"stream {stream_text(code)}: its path does not lead here"
            raise self._hazard(cycle, op, what)

    def _expect_free(self, cycle: int, op: Instruction, code: int, other: int | None) -> None:
        if other is not None:
            what = f"stream {stream_text(code)}: its path is taken by {stream_text(other)}"
            raise self._hazard(cycle, op, what)

    def _claim(self, cycle: int, op: Instruction, lowest: int, highest: int) -> None:
        """Take the banks of a range of addresses for this cycle."""
        if highest >= self.config.depth:
            raise self._hazard(cycle, op, f"address {highest} of {self.config.depth}")
        first, end = lowest // self.config.rows, highest // self.config.rows
        for kind, (last, low, high) in self._last.items():
            if kind != op.kind and last == cycle and first <= high and low <= end:
                raise self._hazard(cycle, op, f"bank {max(first, low)} is taken by the other port")
        self._last[op.kind] = cycle, first, end

    def _hazard(self, cycle: int, op: Instruction, what: str) -> Hazard:
        return Hazard(f"cycle {cycle}: {self.name}: {op.mnemonic}: {what}")

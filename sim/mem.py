"""The golden MEM slice: two single-port banks behind a read port and a write port."""

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.mem import Gather, Read, Scatter, Write, read_latency
from waterclock.isa.spec import Instruction
from waterclock.sim.port import Hazard, Port

Vector = NDArray[np.uint8]


class MEMSlice:
    """One slice over all superlanes.

    Members
    -------
    writes : list of (cycle, address, vector)
        Every write since ``start``; a Scatter whose superlanes address different rows gives one
        entry a row, lanes of other superlanes being those already there.
    """

    def __init__(self, config: Config, name: str):
        self.config, self.name = config, name
        self.data = np.zeros((config.depth, config.vector), np.uint8)
        self.written = np.zeros(config.depth, bool)
        self.latency = read_latency(config)
        self.start()

    def start(self) -> None:
        """Forget the issues of an earlier run; the contents stay."""
        self.writes: list[tuple[int, int, Vector]] = []
        self._pending: list[tuple[int, NDArray[np.int64], Vector]] = []
        self._port_cycle = {"read": -1, "write": -1}
        self._banks: tuple[int, set[int], set[int]] = (-1, set(), set())

    def load(self, row: int, data: Vector) -> None:
        """Put (rows, vector) uint8 at ``row``, outside any run."""
        self._settle(None)
        self.data[row : row + len(data)] = data
        self.written[row : row + len(data)] = True

    def peek(self, row: int) -> Vector:
        """Return a row after the run. Raises ``Hazard`` when it was never written."""
        self._settle(None)
        if not self.written[row]:
            raise Hazard(f"{self.name}: row {row} was never written")
        return self.data[row]

    def execute(self, cycle: int, op: Instruction, port: Port) -> None:
        """Execute one issue; calls come in order of cycles.

        Raises
        ------
        Hazard
            For a bank used twice in a cycle, an address beyond the slice, a read of a row that
            was never written, or a map that does not start at an even stream.
        """
        if self._pending and self._pending[0][0] < cycle:
            self._settle(cycle)
        if isinstance(op, Read):
            self._claim(cycle, "read", (op.addr,))
            if not self.written[op.addr]:
                raise self._hazard(cycle, f"row {op.addr} was never written")
            port.drive(op.dst, self.data[op.addr][None].copy(), self.latency)
        elif isinstance(op, Gather):
            rows = self._rows(cycle, op, port)
            self._claim(cycle, "read", rows)
            if not self.written[rows].all():
                raise self._hazard(cycle, f"rows {rows.tolist()}: not all were ever written")
            lanes = self.data[rows].reshape(len(rows), len(rows), -1)
            vector = lanes[np.arange(len(rows)), np.arange(len(rows))].reshape(1, -1)
            port.drive(op.dst, vector, self.latency)
        elif isinstance(op, Write):
            self._claim(cycle, "write", (op.addr,))
            rows = np.full(self.config.superlanes, op.addr, np.int64)
            self._pending.append((cycle, rows, port.read(op.src, 1)[0]))
        elif isinstance(op, Scatter):
            rows = self._rows(cycle, op, port)
            self._claim(cycle, "write", rows)
            self._pending.append((cycle, rows, port.read(op.src, 1)[0]))
        else:
            raise self._hazard(cycle, f"{op.mnemonic} is no MEM instruction")

    def _rows(self, cycle: int, op: Gather | Scatter, port: Port) -> NDArray[np.int64]:
        """Return the row that each superlane addresses."""
        if op.map % 2:
            raise self._hazard(cycle, f"map stream {op.map & 31} is odd")
        if op.lane >= self.config.lanes:
            raise self._hazard(cycle, f"lane {op.lane} is beyond the superlane")
        low, high = port.read(op.map, 2).astype(np.int64)[:, op.lane :: self.config.lanes]
        return op.addr + low + (high << 8) & 0xFFFF

    def _claim(self, cycle: int, name: str, rows: tuple[int, ...] | NDArray[np.int64]) -> None:
        """Check addresses, and that no bank is used by both ports in this cycle."""
        if max(rows) >= self.config.depth:
            raise self._hazard(cycle, f"row {max(rows)} is beyond the slice")
        if self._port_cycle[name] == cycle:
            raise self._hazard(cycle, f"two issues of the {name} port")
        self._port_cycle[name] = cycle
        if self._banks[0] != cycle:
            self._banks = (cycle, set(), set())
        mine, other = self._banks[1:] if name == "read" else self._banks[:0:-1]
        mine.update(int(row) // self.config.rows for row in rows)
        if mine & other:
            raise self._hazard(cycle, f"bank {min(mine & other)} is read and written")

    def _settle(self, cycle: int | None) -> None:
        """Let writes of earlier cycles take effect; all of them when ``cycle`` is None."""
        lanes = self.config.lanes
        kept = []
        for issued, rows, vector in self._pending:
            if cycle is not None and issued >= cycle:
                kept.append((issued, rows, vector))
                continue
            for superlane, row in enumerate(rows.tolist()):
                part = slice(superlane * lanes, (superlane + 1) * lanes)
                self.data[row, part] = vector[part]
                self.written[row] = True
            for row in dict.fromkeys(rows.tolist()):
                self.writes.append((issued, row, self.data[row].copy()))
        self._pending = kept

    def finish(self) -> None:
        """Let every write take effect, at the end of a run."""
        self._settle(None)

    def _hazard(self, cycle: int, what: str) -> Hazard:
        return Hazard(f"cycle {cycle}: {self.name}: {what}")

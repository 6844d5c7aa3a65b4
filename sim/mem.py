"""Golden MEM slice: two banks, a read port and a write port."""

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import mem
from waterclock.isa.config import Config
from waterclock.isa.spec import Instruction
from waterclock.sim.port import Hazard, Port

NEVER = -1


class MEMSlice:
    """All superlanes of one slice.

    Parameters
    ----------
    config : Config
        Uses ``superlanes``, ``lanes`` and ``rows``.
    name : str
        Name of the slice in hazards.

    Attributes
    ----------
    writes : list of (cycle, address, vector)
        Every Write and Scatter since ``start``, in order of execution. The address is a number,
        or for a Scatter whose superlanes differ one number a superlane. ``vector`` is (vector,)
        uint8.
    """

    def __init__(self, config: Config, name: str):
        self.config, self.name = config, name
        # Rows are kept by superlane, because Gather and Scatter address each on its own.
        self._rows = np.zeros((config.depth, config.superlanes, config.lanes), np.uint8)
        self._written = np.zeros((config.depth, config.superlanes), bool)
        self._superlanes = np.arange(config.superlanes)
        self.start()

    def start(self) -> None:
        """Begin a run at cycle 0: forget the trace of writes, keep the memory."""
        self.writes: list[tuple[int, int | tuple[int, ...], NDArray[np.uint8]]] = []
        self._last = {"mem_read": (NEVER, 0), "mem_write": (NEVER, 0)}  # cycle and bank

    def load(self, row: int, data: NDArray[np.uint8]) -> None:
        """Store (rows, vector) uint8 from address ``row`` on, outside any schedule."""
        self._rows[row : row + len(data)] = data.reshape(-1, *self._rows.shape[1:])
        self._written[row : row + len(data)] = True

    def peek(self, row: int) -> NDArray[np.uint8]:
        """Return the (vector,) uint8 at an address, outside any schedule."""
        return self._rows[row].reshape(-1).copy()

    def execute(self, cycle: int, op: Instruction, port: Port) -> None:
        """Execute the instruction of one port issued in ``cycle``.

        Raises
        ------
        Hazard
            For an address beyond the slice, a read of what was never written, superlanes in
            different banks, two accesses of one bank in one cycle, and an impossible map.
        """
        match op:
            case mem.Read():
                address = op.addr
                self._claim(cycle, op, address, address)
                if not self._written[address].all():
                    raise self._hazard(cycle, op, f"address {address} was never written")
                data = self._rows[address].reshape(1, -1).copy()
                port.drive(op.dst, data, op.latency(self.config))
            case mem.Gather():
                addresses = self._addresses(cycle, op, port)
                written = self._written[addresses, self._superlanes]
                if not written.all():
                    found = int(addresses[~written][0])
                    raise self._hazard(cycle, op, f"address {found} was never written")
                data = self._rows[addresses, self._superlanes].reshape(1, -1)
                port.drive(op.dst, data, op.latency(self.config))
            case mem.Write():
                self._claim(cycle, op, op.addr, op.addr)
                data = port.read(op.src, 1)[0]
                self._rows[op.addr] = data.reshape(self._rows.shape[1:])
                self._written[op.addr] = True
                self.writes.append((cycle, op.addr, data))
            case mem.Scatter():
                addresses = self._addresses(cycle, op, port)
                data = port.read(op.src, 1)[0]
                self._rows[addresses, self._superlanes] = data.reshape(self._rows.shape[1:])
                self._written[addresses, self._superlanes] = True
                places = tuple(addresses.tolist())
                same = len(set(places)) == 1
                self.writes.append((cycle, places[0] if same else places, data))
            case _:
                raise self._hazard(cycle, op, "is no instruction of a MEM slice")

    def _addresses(self, cycle: int, op: mem.Gather | mem.Scatter, port: Port) -> NDArray[np.int64]:
        """Return the address in each superlane and claim their bank."""
        if op.map % 2:
            raise self._hazard(cycle, op, f"map stream {op.map} is odd")
        if op.lane >= self.config.lanes:
            raise self._hazard(cycle, op, f"lane {op.lane} of {self.config.lanes}")
        low, high = port.read(op.map, 2)[:, op.lane :: self.config.lanes].astype(np.int64)
        addresses = (op.addr + low + 256 * high) % (1 << mem.ADDRESS_BITS)
        self._claim(cycle, op, int(addresses.min()), int(addresses.max()))
        return addresses

    def _claim(self, cycle: int, op: Instruction, lowest: int, highest: int) -> None:
        """Take the bank of a range of addresses for this cycle."""
        if highest >= self.config.depth:
            raise self._hazard(cycle, op, f"address {highest} of {self.config.depth}")
        bank = lowest // self.config.rows
        if highest // self.config.rows != bank:
            raise self._hazard(cycle, op, f"addresses {lowest} and {highest} in two banks")
        for kind, (last, taken) in self._last.items():
            if kind != op.kind and last == cycle and taken == bank:
                raise self._hazard(cycle, op, f"bank {bank} is taken by the other port")
        self._last[op.kind] = cycle, bank

    def _hazard(self, cycle: int, op: Instruction, what: str) -> Hazard:
        return Hazard(f"cycle {cycle}: {self.name}: {op.mnemonic}: {what}")

"""The golden machine: executes the queues' words, in value and in cycle.

It knows the machine (``isa``) and nothing of the compiler. All times are superlane-0 times: the
ripple of the superlanes cancels between units and shows only in latencies.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere, columns, queues
from waterclock.isa.program import Port as TensorPort
from waterclock.isa.program import Program, Schedule
from waterclock.isa.streams import ID_BITS
from waterclock.sim.mem import MEMSlice, Paths
from waterclock.sim.mxm import Plane
from waterclock.sim.plan import LONGEST, Event, plan
from waterclock.sim.port import Hazard
from waterclock.sim.signature import Write
from waterclock.sim.sxm import SXM
from waterclock.sim.vxm import VXM

Execute = Callable[[int, Any, "Column"], None]
Slot = tuple[int, list[tuple[int, NDArray[np.uint8]]]]

NOTHING = -1 << 62  #: no diagonal
LATEST = 64  #: cycles beyond the latency of every instruction


class Streams:
    """All stream registers of the chip, as diagonals.

    A slot of ``held[code]`` serves one diagonal after the other: it names the one that it has
    now and lists (column, vector) of every producer on it.
    """

    def __init__(self, config: Config):
        # Diagonals that are about at one time: what flows, and what was driven ahead.
        self.slots = 1 << (2 * columns(config) + LONGEST + LATEST).bit_length()
        self.clear()

    def clear(self) -> None:
        """Forget everything that flows."""
        self.held: list[list[Slot]] = [
            [(NOTHING, []) for _ in range(self.slots)] for _ in range(2 << ID_BITS)
        ]

    def put(self, code: int, diagonal: int, column: int, vector: NDArray[np.uint8]) -> bool:
        """Add a producer; return whether there is one in that column already."""
        slots, place = self.held[code], diagonal & self.slots - 1
        found, entries = slots[place]
        if found != diagonal:
            slots[place] = diagonal, [(column, vector)]
            return False
        double = any(entry[0] == column for entry in entries)
        entries.append((column, vector))
        return double

    def on(self, code: int, diagonal: int) -> list[tuple[int, NDArray[np.uint8]]]:
        """Return the producers on a diagonal."""
        found, entries = self.held[code][diagonal & self.slots - 1]
        return entries if found == diagonal else []


class Column:
    """One column of stream registers as a unit sees it in the cycle that is set."""

    def __init__(self, streams: Streams, config: Config, column: int, name: str):
        self.streams, self.column, self.name = streams, column, name
        self.number, self.vector = config.streams, config.vector
        self.cycle = 0

    def _check(self, code: int, span: int) -> None:
        number = code & (1 << ID_BITS) - 1
        if number + span > self.number:
            raise Hazard(
                f"cycle {self.cycle}: {self.name}: streams {number} to {number + span - 1}: "
                f"the chip has {self.number} a direction"
            )

    def read(self, code: int, span: int) -> NDArray[np.uint8]:
        """Sample ``span`` streams in this cycle: (span, vector) uint8."""
        self._check(code, span)
        east = code < 1 << ID_BITS
        diagonal = self.cycle - self.column if east else self.cycle + self.column
        found = []
        for stream in range(code, code + span):
            best: tuple[int, NDArray[np.uint8]] | None = None
            for entry in self.streams.on(stream, diagonal):
                if east:
                    if entry[0] <= self.column and (best is None or entry[0] > best[0]):
                        best = entry
                elif entry[0] >= self.column and (best is None or entry[0] < best[0]):
                    best = entry
            if best is None:
                raise Hazard(
                    f"cycle {self.cycle}: {self.name}: stream {'E' if east else 'W'}"
                    f"{stream & (1 << ID_BITS) - 1} holds nothing"
                )
            found.append(best[1])
        return np.array(found) if span > 1 else found[0][None]

    def drive(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        """Put ``data`` (span, vector) uint8 on the streams ``latency`` cycles from now."""
        self._check(code, len(data))
        for offset, vector in enumerate(data):
            self._put(code + offset, self.cycle + latency, vector)

    def drive_each(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        """Put ``data`` (cycles, vector) uint8 on a stream, from ``latency`` cycles hence on."""
        self._check(code, 1)
        for time, vector in enumerate(data, self.cycle + latency):
            self._put(code, time, vector)

    def _put(self, code: int, time: int, vector: NDArray[np.uint8]) -> None:
        diagonal = time - self.column if code < 1 << ID_BITS else time + self.column
        if self.streams.put(code, diagonal, self.column, vector):
            raise Hazard(f"cycle {time}: {self.name}: two producers of one stream")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a schedule: its cycles and every memory write, in order of cycles.

    ``writes``: (cycle, side, slice, address, vector); the cycle is that of the issue, the address
    one number, or one a superlane where they differ.
    """

    cycles: int
    writes: list[Write]


class Golden:
    """The machine with its memory loaded; state stays from run to run, as on the chip.

    Parameters
    ----------
    config : Config
    memory : (side, slice, first row) -> (rows, vector) uint8
        What is loaded before the first run. Rows that are not are never to be read.
    """

    def __init__(
        self, config: Config, memory: Mapping[tuple[int, int, int], NDArray[np.uint8]]
    ) -> None:
        self.config = config
        self.streams = Streams(config)
        self.paths = {
            (side, group): Paths(config, side.outward)
            for side in Hemisphere
            for group in range(config.groups)
        }
        self.slices = {
            (side, index): MEMSlice(
                config,
                f"MEM_{side.name[0]}{index}",
                self.paths[side, index // config.group],
                index % config.group,
            )
            for side in Hemisphere
            for index in range(config.slices)
        }
        for (side, index, row), data in memory.items():
            self.slices[Hemisphere(side), index].load(row, data)
        self.vxm = VXM(config)
        self.planes = {
            (side, plane): Plane(config, side)
            for side in Hemisphere
            for plane in range(config.planes)
        }
        self.sxm = {side: SXM(config, side) for side in Hemisphere if config.sxm}
        self._plans: dict[int, tuple[list[Event], int]] = {}
        self._ports = [
            Column(self.streams, config, queue.column, queue.name) for queue in queues(config)
        ]
        self._execute = [self._executor(index) for index in range(len(self._ports))]

    def _executor(self, index: int) -> Execute:
        queue = queues(self.config)[index]
        if queue.hemisphere is None:
            return lambda cycle, op, port: self.vxm.execute(cycle, op, port, queue.unit)
        if queue.kind.startswith("mem"):
            return self.slices[queue.hemisphere, queue.unit].execute
        if queue.kind.startswith("mxm"):
            return self.planes[queue.hemisphere, queue.unit].execute
        return self.sxm[queue.hemisphere].execute

    def _plan(self, schedule: Schedule) -> tuple[list[Event], int]:
        """Return the schedule's plan, made once."""
        known = self._plans.get(id(schedule))
        if known is None:
            known = self._plans[id(schedule)] = plan(self.config, schedule)
        return known

    def run(self, schedule: Schedule) -> Run:
        """Execute a schedule from launch to done.

        Raises
        ------
        Hazard
            At the first broken promise.
        """
        events, halt = self._plan(schedule)
        self.streams.clear()
        for found in (*self.slices.values(), *self.paths.values()):
            found.start()
        for unit in (self.vxm, *self.planes.values()):
            unit.start()
        ports, execute = self._ports, self._execute
        for cycle, index, op in events:
            port = ports[index]
            port.cycle = cycle
            execute[index](cycle, op, port)
        writes = [
            (cycle, int(side), index, address, data)
            for (side, index), found in self.slices.items()
            for cycle, address, data in found.writes
        ]
        writes.sort(key=lambda write: write[:3])
        return Run(halt, writes)

    def read(self, port: TensorPort) -> NDArray[np.generic]:
        """Return a tensor of the program's I/O map."""
        places = port.places[0]
        planes = np.array(
            [
                [self.slices[Hemisphere(s), i].peek(row) for s, i, row in vector]
                for vector in places.tolist()
            ]
        )
        return unpack(planes, port.dtype, port.shape)

    def write(self, port: TensorPort, values: NDArray[np.generic]) -> None:
        """Store a tensor of the program's I/O map, in all its copies."""
        planes = pack(values, port, self.config.vector)
        for copy in port.places.tolist():
            for vector, found in zip(copy, planes, strict=True):
                for (side, index, row), data in zip(vector, found, strict=True):
                    self.slices[Hemisphere(side), index].load(row, data[None])


def unpack(planes: NDArray[np.uint8], dtype: str, shape: tuple[int, ...]) -> NDArray[np.generic]:
    """Return (vectors, bytes, vector) byte planes as a tensor of ``shape``, cut from the lanes."""
    values = np.ascontiguousarray(planes.transpose(0, 2, 1)).view(dtype)[..., 0]
    return values.reshape(-1)[: int(np.prod(shape))].reshape(shape)


def pack(values: NDArray[np.generic], port: TensorPort, vector: int) -> NDArray[np.uint8]:
    """Return a tensor as (vectors, bytes, vector) byte planes; lanes beyond it are zero."""
    flat = np.zeros(port.places.shape[1] * vector, port.dtype)
    flat[: values.size] = values.reshape(-1)
    return flat.view(np.uint8).reshape(port.places.shape[1], vector, -1).transpose(0, 2, 1)


def machine(program: Program) -> Golden:
    """Return a golden machine with a program's memory image loaded."""
    return Golden(program.config, program.memory)

"""The uart engine: a program on a board, over the host link."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from waterclock.fpga.client import LinkClient
from waterclock.isa import host
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import queues
from waterclock.isa.program import Port, Program, Schedule
from waterclock.sim.engines import Choose, HostedEngine, Step
from waterclock.sim.golden import pack, unpack

POLLS = 1_000  #: of STATUS before a run is given up


class UARTEngine(HostedEngine):
    """Runs a program on a board.

    Parameters
    ----------
    program : Program
    client : LinkClient
        Connected to a board.
    progress : callable, optional
        Called with (what is being done, words loaded, words in all).
    preloaded : bool
        Whether the board holds the program already, by its bitstream or an earlier run.
    """

    def __init__(
        self,
        program: Program,
        client: LinkClient,
        progress: Callable[[str, int, int], None] | None = None,
        *,
        preloaded: bool = False,
    ):
        super().__init__(program)
        self.client = client
        self.progress = progress or (lambda *_: None)
        self._row = host.staging_words(program.config)
        self._loaded = preloaded
        self.position = None if preloaded else 0  # who knows what the last run left

    def load(self) -> None:
        """Load the program's memory image and its instruction words."""
        program, config = self.program, self.program.config
        parts: list[tuple[host.Space, int, int, list[int]]] = []
        for (side, index, row), data in program.memory.items():
            unit = side * config.slices + index
            parts.append((host.Space.MEM, unit, row, self._words(data)))
        for queue in queues(config):
            if queue.leader is not None:
                continue
            words = program.queue_words(queue.index)
            data = words.view(np.uint8).reshape(-1, words.itemsize)
            parts.append((host.Space.IMEM, queue.index, 0, self._words(data)))
        done, total = 0, sum(len(words) for *_, words in parts)
        for space, unit, row, words in parts:
            self.progress("loading the program", done, total)
            self.client.load(space, unit, row, words)
            done += len(words)
        self.progress("loaded", total, total)
        self._loaded = True

    def put(self, port: str, values: NDArray[np.generic]) -> None:
        """See ``HostedEngine``."""
        self._put(self.program.ports[port], values)

    def launch(self, schedule: Schedule) -> Step:
        """See ``HostedEngine``."""
        ports = self.program.ports
        cycles, signature = self._launch(schedule.start)
        if schedule.block > 1:
            return Step(0, np.zeros(0, np.float32), cycles, signature)
        logits = self._get(ports["logits"]).astype(np.float32)
        return Step(int(self._get(ports["token"])[0]), logits, cycles, signature)

    def run(
        self, tokens: Sequence[int], steps: int, position: int = 0, choose: Choose | None = None
    ) -> Iterator[Step]:
        """See ``Engine``; the program is loaded before the first run."""
        if not self._loaded:
            self.load()
        return super().run(tokens, steps, position, choose)

    def close(self) -> None:
        """See ``Engine``."""
        self.client.line.close()

    def _words(self, rows: NDArray[np.uint8]) -> list[int]:
        """Return rows of bytes as words of the staging registers."""
        whole = np.zeros((len(rows), self._row * 4), np.uint8)
        whole[:, : rows.shape[1]] = rows
        return whole.view("<u4").reshape(-1).tolist()

    def _put(self, port: Port, values: NDArray[np.generic]) -> None:
        """Write a tensor to all places where the chip looks for it."""
        planes = pack(values, port, self.program.config.vector)
        for copy in port.places:
            for vector, places in zip(planes, copy, strict=True):
                for (side, index, row), data in zip(places.tolist(), vector, strict=True):
                    unit = side * self.program.config.slices + index
                    self.client.load(host.Space.MEM, unit, row, self._words(data[None]))

    def _get(self, port: Port) -> NDArray[np.generic]:
        """Read a tensor."""
        config = self.program.config
        places = port.places[0].reshape(-1, 3)
        order = np.lexsort(places.T[::-1])  # by slice and row: neighbours are read at once
        places = places[order]
        apart = (np.diff(places, axis=0) != (0, 0, 1)).any(1)
        planes = np.zeros((len(places), config.vector), np.uint8)
        for first, end in pairwise([0, *(np.flatnonzero(apart) + 1).tolist(), len(places)]):
            side, index, row = places[first].tolist()
            unit = side * config.slices + index
            words = np.array(self.client.dump(host.Space.MEM, unit, row, end - first), "<u4")
            rows = words.reshape(end - first, -1).view(np.uint8)
            planes[order[first:end]] = rows[:, : config.vector]
        shape = *port.places.shape[1:3], config.vector
        return unpack(planes.reshape(shape), port.dtype, port.shape)

    def _launch(self, start: int) -> tuple[int, int]:
        """Run the chip from a word on; return the cycles that it took, and the signature."""
        client, first = self.client, host.STATUS.offset
        count = (host.SIGNATURE.offset - first) // 4 + 1
        client.write(host.START.offset, start)
        client.write(host.CONTROL.offset, 1 << host.CONTROL.field("launch").low)
        status = {field.name: 1 << field.low for field in host.STATUS.fields}
        for _ in range(POLLS):
            # All that may be asked after a run at once: a request takes a millisecond or more.
            words = client.read(first, count)
            found, error, low, high, signature = (
                words[(register.offset - first) // 4]
                for register in (
                    host.STATUS, host.ERROR, host.CYCLES_LOW, host.CYCLES_HIGH, host.SIGNATURE,
                )
            )  # fmt: skip
            if found & status["error"]:
                client.write(host.ERROR.offset, error)
                raise UserError(f"{client.line.name}: the chip reports {host.Error(error)!r}")
            if found & status["done"]:
                return low | high << host.DATA_BITS, signature
        raise UserError(f"{client.line.name}: the run does not end")

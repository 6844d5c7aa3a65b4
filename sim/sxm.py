"""Golden SXM: the slice that moves bytes between lanes, one instruction at a time, in numpy."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.spec import Instruction, Role
from waterclock.isa.streams import number_of, stream_text
from waterclock.isa.sxm import (
    Distribute,
    Permute,
    Rotate,
    Select,
    Shift,
    Transpose,
    transpose_streams,
)
from waterclock.sim.port import Hazard, Port

Bytes = NDArray[np.uint8]


def shifted(vector: Bytes, count: int) -> Bytes:
    """Return (vector,) uint8 moved ``count`` lanes up, zeros entering; negative moves down."""
    lanes = np.arange(len(vector)) - count
    return _taken(vector, lanes, (lanes >= 0) & (lanes < len(vector)))


def _taken(vector: Bytes, lanes: NDArray[np.int64], legal: NDArray[np.bool_]) -> Bytes:
    """Return the bytes of ``lanes``, zero where the lane is not legal."""
    return np.where(legal, vector[np.where(legal, lanes, 0)], 0).astype(np.uint8)


class SXM:
    """The SXM of one hemisphere. It has no state; every result is driven after its latency.

    Parameters
    ----------
    config : Config
        Geometry.
    hemisphere : Hemisphere
        Names the unit in hazards; the function does not depend on it.
    """

    def __init__(self, config: Config, hemisphere: Hemisphere) -> None:
        self.config = config
        self.name = f"SXM_{hemisphere.name[0]}"
        self._methods: dict[type[Instruction], Callable[[Any, Port], Bytes]] = {
            Shift: self._shift,
            Select: self._select,
            Rotate: self._rotate,
            Permute: self._permute,
            Distribute: self._distribute,
            Transpose: self._transpose,
        }

    def execute(self, cycle: int, op: Instruction, port: Port) -> None:
        """Execute an instruction of one of the three queues, issued in ``cycle``.

        Raises
        ------
        Hazard
            For an instruction of another unit, a Rotate by a count that is not 2, 3 or 4 or too
            large for the streams, streams beyond the configuration, and a 16-bit map that does
            not start at an even stream.
        """
        method = self._methods.get(type(op))
        try:
            if method is None:
                raise Hazard("no instruction of an SXM")
            self._check(op)
            (dst,) = (spec.name for spec in op.operands if spec.role is Role.WRITES)
            port.drive(getattr(op, dst), method(op, port), type(op).latency(self.config))
        except Hazard as hazard:
            raise Hazard(f"cycle {cycle}: {self.name}: {op.mnemonic}: {hazard}") from None

    def _check(self, op: Instruction) -> None:
        streams = self.config.streams
        if isinstance(op, Rotate) and not (2 <= op.count <= 4 and op.count**2 <= streams):
            raise Hazard(f"count {op.count}, expected 2, 3 or 4 and its square within {streams}")
        for spec in op.operands:
            if spec.role in (Role.READS, Role.WRITES):
                code, span = getattr(op, spec.name), spec.span(op, self.config)
                if number_of(code) + span > streams:
                    text = f"{spec.name} {stream_text(code)} and {span} streams"
                    raise Hazard(f"{text}, of which there are only {streams}")
        if isinstance(op, Permute) and op.map % 2:
            raise Hazard(f"map {stream_text(op.map)}, expected an even stream")

    def _shift(self, op: Shift, port: Port) -> Bytes:
        return shifted(port.read(op.src, 1)[0], op.count)[None]

    def _select(self, op: Select, port: Port) -> Bytes:
        source, choice = port.read(op.src, 1)[0], port.read(op.map, 1)[0]
        moved = [source, shifted(source, op.count), shifted(source, -op.count)]
        return np.select([choice == i for i in range(3)], moved, np.uint8(0))[None]

    def _rotate(self, op: Rotate, port: Port) -> Bytes:
        sources = port.read(op.src, op.count)
        return np.stack([np.roll(source, j) for source in sources for j in range(op.count)])

    def _permute(self, op: Permute, port: Port) -> Bytes:
        low, high = port.read(op.map, 2).astype(np.int64)
        lanes = high << 8 | low
        return _taken(port.read(op.src, 1)[0], lanes, lanes < self.config.vector)[None]

    def _distribute(self, op: Distribute, port: Port) -> Bytes:
        within = port.read(op.map, 1)[0].astype(np.int64)
        first = np.arange(self.config.vector) // self.config.lanes * self.config.lanes
        return _taken(port.read(op.src, 1)[0], first + within, within < self.config.lanes)[None]

    def _transpose(self, op: Transpose, port: Port) -> Bytes:
        size = transpose_streams(self.config)
        shape = (size, self.config.superlanes, self.config.lanes)
        sources = port.read(op.src, size).reshape(shape)
        results = np.zeros(shape, np.uint8)
        results[:, :, :size] = sources[:, :, :size].transpose(2, 1, 0)
        return results.reshape(size, self.config.vector)

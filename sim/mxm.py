"""Golden MXM plane: what LW, IW, ABL, ABC and ACC do, to the bit and to the cycle.

Effects wait in lists until the clock has passed them, so that the order in which the queues of
one cycle are executed does not matter.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.mxm import (
    ABC,
    ABL,
    ACC,
    IW,
    LW,
    Activation,
    Order,
    Result,
    Weight,
    Window,
    acc_delay,
    acc_latency,
    fraction_bits,
    row_step,
    stream_unit,
    weights_at,
)
from waterclock.isa.numerics import f16_to_fixed, fixed_to_f32
from waterclock.isa.spec import Instruction
from waterclock.isa.streams import Direction, direction_of, number_of, stream_text
from waterclock.sim.port import Hazard, Port

Fixed = NDArray[np.int64]


class Array:
    """An installed array: raw bytes (vector, vector), rows k and columns n."""

    def __init__(self, raw: NDArray[np.uint8]) -> None:
        self.raw = raw
        self._decoded: dict[int, Fixed] = {}

    def weights(self, weight: int) -> Fixed:
        """Return the weights as integers, (vector, vector) int64."""
        found = self._decoded.get(weight)
        if found is None:
            signed = self.raw if weight == Weight.LOW else self.raw.view(np.int8)
            found = signed.astype(np.int64) << (8 if weight == Weight.HIGH else 0)
            self._decoded[weight] = found
        return found


@dataclasses.dataclass
class _Product:
    """An ABC between its issue and the cycle in which ACC sees its sum."""

    cycle: int
    op: ABC
    activations: Fixed
    sums: Fixed | None = None  #: (vector,) int64 once the array was sampled


class Plane:
    """One MXM plane.

    Parameters
    ----------
    config : Config
        Uses the geometry and ``digits``.
    hemisphere : Hemisphere
        Says which way its streams flow.
    plane : int
        Number of the plane in its hemisphere, for messages.
    """

    def __init__(self, config: Config, hemisphere: Hemisphere, plane: int = 0) -> None:
        self.config = config
        self.hemisphere = hemisphere
        self.name = f"MXM_{hemisphere.name[0]}{plane}"
        self.start()

    def start(self) -> None:
        """Forget everything, for a new run."""
        config = self.config
        self._cycle = -1
        self._buffer = np.zeros((config.vector, config.vector), np.uint8)
        self._array: Array | None = None
        self._activations: list[NDArray[np.uint16] | None] = [None] * config.act_entries
        shape = (config.acc_entries, config.vector)
        self._accumulators = np.zeros(shape, np.int64)
        self._set = np.zeros(shape, np.bool_)  # by ABCs up to now, visible or not
        self._visible = np.zeros(config.acc_entries, np.bool_)  # something in it was set
        # Issued in cycle ``_cycle``; take effect when it ends.
        self._loads: list[tuple[LW, NDArray[np.uint8]]] = []
        self._arrivals: list[tuple[int, NDArray[np.uint16]]] = []
        self._install = False
        self._products: list[_Product] = []

    def execute(self, cycle: int, op: Instruction, port: Port) -> None:
        """Execute an instruction issued in ``cycle``, at superlane 0.

        Calls come in order of cycles; instructions of one cycle may come in any order.

        Raises
        ------
        Hazard
            When a promise of the schedule is broken.
        """
        self._advance(cycle)
        if isinstance(op, ABC):
            self._multiply(cycle, op)
        elif isinstance(op, ACC):
            self._emit(op, port)
        elif isinstance(op, LW):
            self._load(op, port)
        elif isinstance(op, ABL):
            self._arrive(op, port)
        elif isinstance(op, IW):
            self._sampled(cycle)
            self._install = True
        else:
            raise self._hazard(f"{op.mnemonic} is no instruction of an MXM plane")

    def _hazard(self, what: str) -> Hazard:
        return Hazard(f"cycle {self._cycle}: {self.name}: {what}")

    def _advance(self, cycle: int) -> None:
        """Let everything take effect that a unit sees in ``cycle``."""
        if cycle == self._cycle:
            return
        # What the last cycle issued ends with it. Its IW takes the buffer before its LW, and
        # serves all products without sums: they sample the array later than in that cycle.
        if self._install:
            self._array = Array(self._buffer.copy())
            self._install = False
        for load, vectors in self._loads:
            rows = slice(load.row, load.row + len(vectors))
            if load.order == Order.ROWS:
                self._buffer[rows] = vectors
            else:
                self._buffer[:, rows] = vectors.T
        self._loads.clear()
        for entry, vector in self._arrivals:
            self._activations[entry] = vector
        self._arrivals.clear()
        for product in self._products:
            if product.sums is None and product.cycle + weights_at(self.config) <= cycle:
                if self._array is None:
                    raise self._hazard(f"the abc of cycle {product.cycle} found no array installed")
                product.sums = product.activations @ self._array.weights(product.op.weight)
        self._cycle = cycle
        while self._products and self._products[0].cycle + acc_delay(self.config) <= cycle:
            self._accumulate(self._products.pop(0))

    def _accumulate(self, product: _Product) -> None:
        op, sums = product.op, product.sums
        assert sums is not None
        lanes = _window(op, Window.OUTPUT)
        if op.add:
            self._accumulators[op.acc, lanes] += sums[lanes]
        else:
            self._accumulators[op.acc, lanes] = sums[lanes]
        self._visible[op.acc] = True

    def _check_streams(self, op: LW | ABL | ACC, code: int, span: int, way: Direction) -> None:
        """Check the stream operand: its direction, its alignment, and that its streams exist."""
        wrong, unit = "", stream_unit(type(op), self.config)
        if direction_of(code) != way:
            wrong = f"must flow {way.name.lower()}"
        elif number_of(code) % unit:
            wrong = f"must be a multiple of {unit}"
        elif number_of(code) + span > self.config.streams:
            wrong = f"{span} of {self.config.streams} streams end beyond them"
        if wrong:
            raise self._hazard(f"{op.mnemonic}: stream {stream_text(code)}: {wrong}")

    def _check_entry(self, op: ABL | ABC | ACC, what: str, entry: int, entries: int) -> None:
        if entry >= entries:
            raise self._hazard(f"{op.mnemonic}: {what} {entry}: there are {entries}")

    def _check_format(self, op: ABC | ACC, integer: bool) -> None:
        if integer and not self.config.integers:
            raise self._hazard(f"{op.mnemonic}: the plane has no integers")

    def _load(self, op: LW, port: Port) -> None:
        config = self.config
        self._check_streams(op, op.src, config.load_streams, self.hemisphere.outward)
        if op.row + config.load_streams > config.vector:
            lines = Order(op.order).name.lower()
            raise self._hazard(f"lw: {lines} from {op.row} on end beyond {config.vector}")
        if op.row % row_step(config):
            raise self._hazard(f"lw: row {op.row} must be a multiple of {row_step(config)}")
        self._loads.append((op, port.read(op.src, config.load_streams).copy()))

    def _arrive(self, op: ABL, port: Port) -> None:
        self._check_streams(op, op.src, 2, self.hemisphere.outward)
        self._check_entry(op, "entry", op.entry, self.config.act_entries)
        low, high = port.read(op.src, 2).astype(np.uint16)
        self._arrivals.append((op.entry, low | high << np.uint16(8)))

    def _sampled(self, cycle: int) -> None:
        """Check that no ABC is in its passes when the array changes at the end of ``cycle``."""
        first = weights_at(self.config)
        for product in self._products:
            if first <= cycle - product.cycle <= first + self.config.digits - 2:
                raise self._hazard(f"iw changes the array under the abc of cycle {product.cycle}")

    def _multiply(self, cycle: int, op: ABC) -> None:
        config = self.config
        self._check_entry(op, "entry", op.entry, config.act_entries)
        self._check_entry(op, "accumulator", op.acc, config.acc_entries)
        if op.weight not in list(Weight) or op.window not in list(Window):
            raise self._hazard(f"abc: weight {op.weight}, window {op.window}: no such format")
        if op.window != Window.ALL and not op.first <= op.last < config.vector:
            raise self._hazard(f"abc: window {op.first} to {op.last} of {config.vector} lanes")
        if self._products and cycle < self._products[-1].cycle + config.digits:
            raise self._hazard(
                f"abc follows that of cycle {self._products[-1].cycle} too closely: "
                f"each takes {config.digits} cycles"
            )
        self._check_format(op, op.activation == Activation.I8)
        raw = self._activations[op.entry]
        if raw is None:
            raise self._hazard(f"abc: entry {op.entry} was never loaded")
        if op.activation == Activation.F16:
            activations = f16_to_fixed(raw, fraction_bits(config))
        else:
            activations = raw.astype(np.int8).astype(np.int64)
        if op.window == Window.INPUT:
            inside = _window(op, Window.INPUT)
            kept, activations = activations[inside], np.zeros_like(activations)
            activations[inside] = kept
        lanes = _window(op, Window.OUTPUT)
        if not op.add:
            self._set[op.acc, lanes] = True
        elif not self._set[op.acc, lanes].all():
            raise self._hazard(f"abc adds to accumulator {op.acc}, which was never set")
        self._products.append(_Product(cycle, op, activations))

    def _emit(self, op: ACC, port: Port) -> None:
        self._check_streams(op, op.dst, 4, self.hemisphere.inward)
        self._check_entry(op, "accumulator", op.acc, self.config.acc_entries)
        if not self._visible[op.acc]:
            raise self._hazard(f"acc: accumulator {op.acc} was never set")
        self._check_format(op, op.result == Result.I32)
        accumulator = self._accumulators[op.acc]
        if op.result == Result.F32:
            values = fixed_to_f32(accumulator, fraction_bits(self.config)).view(np.uint32)
        else:
            values = accumulator.astype(np.uint32)
        planes = values.astype("<u4").view(np.uint8).reshape(-1, 4).T
        port.drive(op.dst, planes, acc_latency(self.config))


def _window(op: ABC, window: Window) -> slice:
    """Return the lanes to which the window of ``op`` restricts, all if it is not ``window``."""
    return slice(op.first, op.last + 1) if op.window == window else slice(None)

"""The golden VXM: what the ALUs and the lane reduction compute, and when their buses hold it."""

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.numerics import OPS_NUMERICS, reduce
from waterclock.isa.spec import Instruction, Operand
from waterclock.isa.streams import (
    SOURCE_ALU,
    SOURCE_IMM,
    STREAM_BITS,
    TARGET_STREAM,
    number_of,
    source_text,
    stream_text,
)
from waterclock.isa.vxm import ARITY, FEATURE, OPS, busy_cycles, takes_stream, takes_turns
from waterclock.sim.port import Hazard, Port

Bits = NDArray[np.uint32]


class VXM:
    """All ALUs and the reducer, in superlane-0 time.

    Parameters
    ----------
    config : Config
        Uses ``alus`` and ``vector``.
    """

    def __init__(self, config: Config):
        self.config = config
        self.start()

    def start(self) -> None:
        """Forget every result."""
        # By cycle, then by ALU: what the result buses hold. The reducer's bus is the last.
        self.buses: dict[int, dict[int, Bits]] = {}
        #: By ALU, and of the reducer, the first cycle for another operation that takes turns.
        self.free: dict[int, int] = {}

    def execute(self, cycle: int, op: Instruction, port: Port, alu_index: int) -> None:
        """Execute ``op`` as issued by an ALU, or by the reducer if ``alu_index`` is len(alus).

        Calls come in order of cycles.

        Raises
        ------
        Hazard
            When the ALU lacks the operation's feature or its lanes take turns at another, a bus
            holds nothing, two results of one ALU fall into one cycle, or a stream is misaligned;
            and what ``port`` raises.
        """
        alus = self.config.alus
        name = f"cycle {cycle}: VXM {f'alu{alu_index}' if alu_index < len(alus) else 'reduce'}"
        if op.kind != ("alu" if alu_index < len(alus) else "reduce"):
            raise Hazard(f"{name}: {op.mnemonic} is no instruction of this queue")
        values = {spec.name: spec for spec in op.operands}
        if takes_turns(type(op)):
            if cycle < self.free.get(alu_index, 0):
                raise Hazard(f"{name}: {op.mnemonic}: another operation is under way")
            self.free[alu_index] = cycle + busy_cycles(self.config, type(op))
        if op.kind == "reduce" and not self.config.reduce_streams:
            self._check_buses(op, name)
        a = self._source(cycle, op, values["a"], port, name)
        if op.kind == "reduce":
            result = np.full(self.config.vector, reduce(op.mnemonic, a), np.uint32)
        else:
            feature = FEATURE[type(op)]
            if feature not in alus[alu_index]:
                raise Hazard(f"{name}: {op.mnemonic} needs feature {feature!r}")
            result = self._compute(cycle, op, a, values["b"], port, name)
        latency = op.latency(self.config)
        for past in [at for at in self.buses if at < cycle]:
            del self.buses[past]
        bus = self.buses.setdefault(cycle + latency, {})
        if alu_index in bus:
            raise Hazard(f"{name}: {op.mnemonic}: second result for cycle {cycle + latency}")
        bus[alu_index] = result
        self._drive(op, values["dst"], result, latency, port, name)

    def _compute(
        self, cycle: int, op: Instruction, a: Bits, b: Operand, port: Port, name: str
    ) -> Bits:
        function = OPS_NUMERICS[op.mnemonic]
        if ARITY[type(op)] == 1:
            return function(a)
        second = self._source(cycle, op, b, port, name)
        if type(op) is OPS["select"]:
            return function(a, second, getattr(op, "imm"))  # noqa: B009 (made by a table)
        return function(a, second)

    def _source(self, cycle: int, op: Instruction, spec: Operand, port: Port, name: str) -> Bits:
        """Return the (vector,) uint32 that a source names; a narrow stream is zero above."""
        code: int = getattr(op, spec.name)
        if code < SOURCE_ALU:
            span = spec.span(op, self.config)
            self._check_aligned(op, spec, code, name)
            if not takes_stream(self.config, spec.name, code):
                raise Hazard(f"{name}: {op.mnemonic}: b takes the lowest streams only")
            planes = np.zeros((self.config.vector, 4), np.uint8)
            planes[:, :span] = port.read(code, span).T
            return planes.view("<u4")[:, 0]
        if code < SOURCE_IMM:
            held = self.buses.get(cycle, {}).get(code - SOURCE_ALU)
            if held is None:
                raise Hazard(f"{name}: {op.mnemonic}: bus {source_text(code)} holds nothing")
            return held
        if op.kind == "reduce":
            raise Hazard(f"{name}: {op.mnemonic}: the reducer has no immediate")
        return np.full(self.config.vector, getattr(op, "imm"), np.uint32)  # noqa: B009

    def _check_buses(self, op: Instruction, name: str) -> None:
        source, target = (getattr(op, field) for field in ("a", "dst"))
        if source < SOURCE_ALU or target & TARGET_STREAM:
            raise Hazard(f"{name}: {op.mnemonic}: the reducer has no streams")

    def _check_aligned(self, op: Instruction, spec: Operand, code: int, name: str) -> None:
        unit = spec.unit(type(op), self.config)
        if number_of(code) % unit:
            raise Hazard(f"{name}: {op.mnemonic}: {stream_text(code)} is no multiple of {unit}")

    def _drive(
        self, op: Instruction, spec: Operand, result: Bits, latency: int, port: Port, name: str
    ) -> None:
        """Put the low bytes of the result onto the target's streams, if there is a target."""
        target: int = getattr(op, spec.name)
        if not target & TARGET_STREAM:
            return
        code, span = target & (1 << STREAM_BITS) - 1, spec.span(op, self.config)
        self._check_aligned(op, spec, code, name)
        planes = result.astype("<u4").view(np.uint8).reshape(self.config.vector, 4)
        port.drive(code, np.ascontiguousarray(planes.T[:span]), latency)

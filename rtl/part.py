"""Parts of the chip that are converted once and instanced: the tile style of this generator."""

import operator
from collections.abc import Iterable, Mapping
from functools import reduce

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from waterclock.isa.spec import Instruction

Nets = dict[str, Signal]

UNIT_BIT = 3  #: opcodes below 1 << UNIT_BIT belong to the ICU, those above to a unit


def field(word: Value, op: type[Instruction], name: str) -> Value:
    """Return an operand's field of an instruction word, with its sign if it has one."""
    spec = next(spec for spec in op.operands if spec.name == name)
    found = word[spec.low : spec.low + spec.bits]
    return found.as_signed() if spec.signed else found


def is_unit(opcode: Value) -> Value:
    """Tell whether an opcode is that of a unit's instruction: sooner known than which one."""
    return opcode[UNIT_BIT:].any()


def any_of(values: Iterable[Value]) -> Value:
    """Return the bitwise or of ``values``."""
    return reduce(operator.or_, values)


def xor_of(values: Iterable[Value]) -> Value:
    """Return the bitwise exclusive or of ``values``."""
    return reduce(operator.xor, values)


def choose(m: Module, index: Value, choices: dict[int, Value], target: Signal) -> None:
    """Assign ``choices[index]`` to ``target``; a flat Switch takes the fewest LUTs."""
    with m.Switch(index):
        for number, choice in choices.items():
            with m.Case(number):
                m.d.comb += target.eq(choice)


def gated(m: Module, condition: Value, value: Value, name: str) -> Signal:
    """Return a register with ``value`` of the cycle before, or zero without the ``condition``.

    Flip-flops have a reset, so an FPGA needs one lookup table for several of these and their or.
    """
    register = Signal(len(value), name=name, reset_less=True)
    m.d.sync += register.eq(Mux(condition, value, 0))
    return register


def needed(m: Module, name: str, condition: Value) -> Signal:
    """Return a condition without which nobody looks at what depends on it; always true on an FPGA.

    The Verilog of ``clock_gate.v`` belongs to it.
    """
    found = Signal(len(condition), name=f"{name}_needed")
    m.submodules[f"{name}_needed"] = Instance(
        "waterclock_needed", p_WIDTH=len(condition), i_d=condition, o_q=found
    )
    return found


def instance(
    m: Module,
    module: str,
    part: wiring.Component,
    name: str,
    nets: Mapping[str, Value] | None = None,
) -> Nets:
    """Add an instance of an emitted part; return its ports as signals.

    Parameters
    ----------
    module : str
        Name under which ``part`` is converted.
    part : Component
        Says what ports there are; it is not elaborated here.
    name : str
        Name of the instance, and prefix of its nets.
    nets : mapping, optional
        Values for some of the inputs; the others are left to be assigned.
    """
    found: Nets = {}
    connections: dict[str, Value] = {}
    for port, member in part.signature.members.items():
        found[port] = Signal(member.shape, name=f"{name}_{port}")
        way = "i" if member.flow is In else "o"
        connections[f"{way}_{port}"] = found[port]
    for port, value in (nets or {}).items():
        m.d.comb += found[port].eq(value)
    m.submodules[name] = Instance(module, i_clk=ClockSignal(), i_rst=ResetSignal(), **connections)
    return found

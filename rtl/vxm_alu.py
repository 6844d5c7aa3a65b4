"""The pipelined units of a VXM ALU, a lane of each being a part of its own."""

import dataclasses
from collections.abc import Callable, Sequence
from importlib import resources

from amaranth import *
from amaranth.lib import wiring

from waterclock.isa.config import Config
from waterclock.isa.special import WORD_BITS
from waterclock.isa.special import rom as special_rom
from waterclock.isa.vxm import (
    ARITY,
    FEATURE,
    OPS,
    SIMPLE,
    registers_operands,
)
from waterclock.rtl.add_convert import AddConvert
from waterclock.rtl.fp import STAGES, Adder, Converter, Multiplier
from waterclock.rtl.multiply_special import MultiplySpecial, MultiplySpecialRounded, shared_rom
from waterclock.rtl.part import needed
from waterclock.rtl.special import ADDRESS_BITS, SpecialFunctions, SpecialROM
from waterclock.rtl.vxm_simple import SimpleALU, is_op


def clock_gate_verilog() -> str:
    """Return the Verilog that every emission which contains a VXM needs."""
    return resources.files("waterclock.rtl").joinpath("clock_gate.v").read_text()


@dataclasses.dataclass(frozen=True)
class Unit:
    """A pipelined unit: the part that does one lane, and the inputs that choose the operation."""

    features: str  #: whose operations it does
    part: str
    component: Callable[..., wiring.Component]
    flags: dict[str, tuple[str, ...]]  #: mnemonics for which the input is high, by input
    rom: Callable[[], Sequence[int]] | None = None  #: words of its table
    optional: Sequence[str] | None = None  #: stages beyond three, of those that take a number
    gives: bool = False  #: whether its first stage is given up where the ALU registers operands

    @property
    def rom_part(self) -> str:
        """Name of the part that holds its table for all lanes."""
        return f"{self.part}_rom"

    @property
    def binary(self) -> bool:
        """Whether there is an operation of two values."""
        mine = (op for op in OPS.values() if FEATURE[op] and FEATURE[op] in self.features)
        return any(ARITY[op] == 2 for op in mine)

    def stages(self, config: Config) -> int:
        """Return the number of its register stages; the register of the result is another one."""
        own = STAGES + len(self.optional or ()) - (self.gives and registers_operands(config))
        return min(unit_depth(config), own)

    def make(self, config: Config) -> wiring.Component:
        """Return the component of one lane."""
        if self.optional is None:
            return self.component()
        given = {"registered": True} if self.gives and registers_operands(config) else {}
        return self.component(self.stages(config), **given)


def unit_depth(config: Config) -> int:
    """Return the registers of a pipelined operation between those of operands and of result."""
    return config.alu_cycles - 1 - registers_operands(config)


ADD = Unit("a", "vxm_add", Adder, {"subtract": ("fsub",)})
MULTIPLY = Unit("mn", "vxm_multiply", Multiplier, {"integer": ("imul",)})
_FORMATS = {
    "to_float": ("f16_to_f32", "i32_to_f32"),
    "half": ("f16_to_f32", "f32_to_f16"),
    "byte": ("f32_to_i8",),
}
CONVERT = Unit("c", "vxm_convert", Converter, _FORMATS)
ADD_CONVERT = Unit(
    "ac",
    "vxm_add_convert",
    AddConvert,
    {
        "subtract": ("fsub",),
        "convert": ("f32_to_f16", "f16_to_f32", "f32_to_i32", "i32_to_f32", "f32_to_i8"),
        **_FORMATS,
    },
    optional=AddConvert.OPTIONAL,
    gives=True,
)
SPECIAL = Unit(
    "s", "vxm_special", SpecialFunctions, {"exp2": ("exp2",), "rsqrt": ("rsqrt",)}, special_rom
)
MULTIPLY_SPECIAL = Unit(
    "ms",
    "vxm_multiply_special",
    MultiplySpecial,
    {"special": ("exp2", "recip", "rsqrt"), "exp2": ("exp2",), "rsqrt": ("rsqrt",)},
    shared_rom,
    MultiplySpecial.OPTIONAL,
)
MULTIPLY_SPECIAL_ROUNDED = Unit(
    "msr",
    "vxm_multiply_special_rounded",
    MultiplySpecialRounded,
    {
        "special": ("exp2", "recip", "rsqrt", "exp2_f16"),
        "exp2": ("exp2", "exp2_f16"),
        "rsqrt": ("rsqrt",),
        "half": ("fmul_f16", "exp2_f16"),
    },
    shared_rom,
    MultiplySpecialRounded.OPTIONAL,
)


def units(features: str) -> list[Unit]:
    """Return the pipelined units of an ALU.

    What an ALU does beside each other shares hardware; integers need a multiplier of 32 x 32 bits,
    which leaves nothing to share.
    """
    has = set(features)
    found = [ADD_CONVERT] if {"a", "c"} <= has else [ADD, CONVERT]
    if "r" in has:
        found.append(MULTIPLY_SPECIAL_ROUNDED)
    else:
        found += [MULTIPLY_SPECIAL] if {"m", "s"} <= has and "n" not in has else [MULTIPLY, SPECIAL]
    return [unit for unit in found if set(unit.features) & has]


def simple_part(features: str) -> str:
    """Return the name of the part that does what an ALU does in ``simple_cycles``, and moves."""
    return "_".join(["vxm_simple", *(letter for letter in SIMPLE if letter in features)])


def alu_parts(config: Config) -> dict[str, wiring.Component]:
    """Return the components that ALUs have instances of, by name of the Verilog module."""
    parts: dict[str, wiring.Component] = {}
    for features in config.alus:
        moves = not registers_operands(config)
        if (moves or set(features) & set(SIMPLE)) and simple_part(features) not in parts:
            parts[simple_part(features)] = SimpleALU(turn_lanes(config), features, moves)
    for unit in {unit.part: unit for features in config.alus for unit in units(features)}.values():
        parts[unit.part] = unit.make(config)
        if unit.rom:
            parts[unit.rom_part] = SpecialROM(turn_lanes(config), unit.rom())
    return parts


def turn_lanes(config: Config) -> int:
    """Return the lanes that a unit serves in one cycle."""
    return config.lanes // config.turns


def gated_clock(m: Module, name: str, active: Value) -> Signal:
    """Return the clock that ticks at the end of the cycles in which ``active`` is high."""
    clock = Signal(name=f"{name}_clock")
    m.submodules[f"{name}_gate"] = Instance(
        "waterclock_clock_gate", i_clk=ClockSignal(), i_en=active, o_gated=clock
    )
    return clock


def held_operands(m: Module, name: str, busy: Value, operands: Value) -> Signal:
    """Return the operands of combinational logic, which a simulator sees only when they matter.

    They follow in the cycles in which ``busy`` is high and in the one after those.
    """
    was_busy, held = Signal(name=f"{name}_was_busy"), Signal(len(operands), name=f"{name}_held")
    m.d.sync += was_busy.eq(busy)
    m.submodules[f"{name}_operand_gate"] = Instance(
        "waterclock_operand_gate",
        p_WIDTH=len(operands),
        i_clk=ClockSignal(),
        i_en=busy | was_busy,
        i_d=operands,
        o_q=held,
    )
    return held


def later(m: Module, name: str, control: Value, value: Value) -> tuple[Signal, Signal]:
    """Return registers of ``control``, whose lowest bit tells of a value, and of that value."""
    stands = Signal(len(control), name=f"{name}_control")
    held = Signal(len(value), name=f"{name}_value", reset_less=True)
    m.d.sync += stands.eq(control)
    with m.If(needed(m, name, control[0])):
        m.d.sync += held.eq(value)
    return stands, held


@dataclasses.dataclass(frozen=True)
class Operands:
    """What the units of an ALU work with, one turn after the other; the opcode comes before."""

    opcode: Value
    last: Value  #: whether it is for the last turn; comes with the opcode
    a: Value
    b: Value
    imm: Value


def registered(
    m: Module, name: str, turns: int, active: Value, opcode: Value, a: Value, b: Value, imm: Value
) -> Operands:
    """Return registers of an ALU's operands: with two turns the even lanes', then the odd ones'.

    ``active`` tells that ``a``, ``b`` and ``imm`` are there.
    """
    # Neighbours share a unit: on an FPGA it stands where both are.
    order = [lane for turn in range(turns) for lane in range(turn, len(a) // 32, turns)]
    a, b = (Cat(value.word_select(lane, 32) for lane in order) for value in (a, b))
    found = [
        Signal(len(value), name=f"{name}_operand_{what}", reset_less=True)
        for what, value in (("a", a), ("b", b), ("imm", imm))
    ]
    wanted = needed(m, name, active)
    if turns == 1:
        with m.If(wanted):
            m.d.sync += [x.eq(value) for x, value in zip(found, (a, b, imm), strict=True)]
        return Operands(opcode, C(1, 1), *found)
    second, before = Signal(name=f"{name}_second"), Signal(len(opcode), name=f"{name}_before")
    m.d.sync += [second.eq(active), before.eq(opcode)]
    half = len(a) // turns
    with m.If(second):
        m.d.sync += [x[:half].eq(x[half:]) for x in found[:2]]
    with m.Elif(wanted):
        m.d.sync += [x.eq(value) for x, value in zip(found, (a, b, imm), strict=True)]
    return Operands(Mux(second, before, opcode), second, found[0][:half], found[1][:half], found[2])


def joined(m: Module, name: str, turns: int, takes: Value, value: Value) -> Value:
    """Return results of all lanes when those of the last turn are there."""
    if turns == 1:
        return value
    first = Signal(len(value), name=f"{name}_first", reset_less=True)
    with m.If(needed(m, f"{name}_first", takes)):
        m.d.sync += first.eq(value)
    words = ([x.word_select(i, 32) for i in range(len(x) // 32)] for x in (first, value))
    return Cat(*zip(*words, strict=True))


def add_simple(
    m: Module,
    name: str,
    features: str,
    busy: Value,
    operands: Operands,
) -> Signal:
    """Add what does the simple operations; return its result. ``busy`` comes with the operands."""
    a, b, imm = operands.a, operands.b, operands.imm
    wide = len(a)
    found = Signal(wide, name=f"{name}_simple_result")
    held = held_operands(m, name, busy, Cat(a, b, imm))
    m.submodules[f"{name}_simple"] = Instance(
        simple_part(features),
        i_clk=ClockSignal(),
        i_rst=ResetSignal(),
        i_opcode=operands.opcode,
        i_a=held[:wide],
        i_b=held[wide : 2 * wide],
        i_imm=held[2 * wide :],
        o_result=found,
    )
    return found


def add_unit(
    m: Module,
    config: Config,
    unit: Unit,
    name: str,
    coming: Value,
    operands: Operands,
) -> tuple[Value, Value]:
    """Add the lanes of a pipelined unit.

    Parameters
    ----------
    coming : 1 bit
        Whether the operands of the next cycle are for this unit.
    operands : Operands
        Of ``turn_lanes`` lanes.

    Returns
    -------
    done : 1 bit
        High in the cycle before that of the ALU's result bus.
    result : lanes * 32 bits
        The result in that cycle.
    """
    a, b, opcode = operands.a, operands.b, operands.opcode
    lanes, stages, depth = len(a) // 32, unit.stages(config), unit_depth(config)
    valid, result = Signal(depth, name=f"{name}_valid"), Signal(len(a), name=f"{name}_result")
    enable, started = Signal(stages, name=f"{name}_enable"), Signal(name=f"{name}_issue")
    m.d.sync += started.eq(coming)
    m.d.comb += enable.eq(Cat(started, valid))
    m.d.sync += valid.eq(Cat(started, valid))
    clock = gated_clock(m, name, enable.any())
    flags: dict[str, Value] = {}
    for flag, mnemonics in unit.flags.items():
        flags[f"i_{flag}"] = Signal(name=f"{name}_{flag}")
        m.d.sync += flags[f"i_{flag}"].eq(is_op(opcode, *mnemonics))
    common = {"i_clk": clock, "i_rst": C(0, 1), "i_enable": enable} | flags
    if unit.rom:
        address = Signal(lanes * ADDRESS_BITS, name=f"{name}_address")
        words = Signal(lanes * WORD_BITS, name=f"{name}_words")
        m.submodules[f"{name}_rom"] = Instance(
            unit.rom_part,
            i_clk=clock,
            i_rst=C(0, 1),
            i_enable=needed(m, f"{name}_rom", enable[1]),
            i_address=address,
            o_word=words,
        )
    for lane in range(lanes):
        ports = {"i_a": a.word_select(lane, 32), "o_result": result.word_select(lane, 32)}
        if unit.binary:
            ports["i_b"] = b.word_select(lane, 32)
        if unit.rom:
            ports["o_rom_address"] = address.word_select(lane, ADDRESS_BITS)
            ports["i_rom_word"] = words.word_select(lane, WORD_BITS)
        m.submodules[f"{name}_{lane}"] = Instance(unit.part, **common, **ports)
    waiting: Value = result
    for step in range(stages, depth):
        later = Signal(len(result), name=f"{name}_waiting_{step}", reset_less=True)
        with m.If(needed(m, f"{name}_waiting_{step}", valid[step - 1])):
            m.d.sync += later.eq(waiting)
        waiting = later
    if config.turns == 1:
        return valid[-1], waiting
    last = Signal(depth + 1, name=f"{name}_last")
    m.d.sync += last.eq(Cat(coming & operands.last, last))
    return last[-1], joined(m, name, config.turns, valid[-1], waiting)

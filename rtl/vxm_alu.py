"""The pipelined units of a VXM ALU, a lane of each being a part of its own."""

import dataclasses
from importlib import resources

from amaranth import *
from amaranth.lib import wiring

from waterclock.isa.config import Config
from waterclock.isa.special import WORD_BITS
from waterclock.isa.vxm import SIMPLE
from waterclock.rtl.fp import STAGES, Adder, Converter, Multiplier
from waterclock.rtl.special import ADDRESS_BITS, SpecialFunctions, SpecialROM
from waterclock.rtl.vxm_simple import SimpleALU, is_op


def clock_gate_verilog() -> str:
    """Return the Verilog that every emission which contains a VXM needs."""
    return resources.files("waterclock.rtl").joinpath("clock_gate.v").read_text()


@dataclasses.dataclass(frozen=True)
class Unit:
    """A pipelined unit: the part that does one lane, and the inputs that choose the operation."""

    part: str
    component: type[wiring.Component]
    flags: dict[str, tuple[str, ...]]  #: mnemonics for which the input is high, by input


#: The units by feature of an ALU.
UNITS = {
    "a": Unit("vxm_add", Adder, {"subtract": ("fsub",)}),
    "m": Unit("vxm_multiply", Multiplier, {"integer": ("imul",)}),
    "c": Unit(
        "vxm_convert",
        Converter,
        {
            "to_float": ("f16_to_f32", "i32_to_f32"),
            "half": ("f16_to_f32", "f32_to_f16"),
            "byte": ("f32_to_i8",),
        },
    ),
    "s": Unit("vxm_special", SpecialFunctions, {"exp2": ("exp2",), "rsqrt": ("rsqrt",)}),
}


def simple_part(features: str) -> str:
    """Return the name of the part that does the simple operations of an ALU."""
    return "_".join(["vxm_simple", *(letter for letter in SIMPLE if letter in features)])


def alu_parts(config: Config) -> dict[str, wiring.Component]:
    """Return the components that an ALU has instances of, by name of the Verilog module."""
    parts: dict[str, wiring.Component] = {u.part: u.component() for u in UNITS.values()}
    for features in config.alus:
        parts[simple_part(features)] = SimpleALU(config.lanes, features)
    return parts | {"vxm_rom": SpecialROM(config.lanes)}


def gated_clock(m: Module, name: str, active: Value) -> Signal:
    """Return the clock that ticks at the end of the cycles in which ``active`` is high."""
    clock = Signal(name=f"{name}_clock")
    m.submodules[f"{name}_gate"] = Instance(
        "waterclock_clock_gate", i_clk=ClockSignal(), i_en=active, o_gated=clock
    )
    return clock


def add_unit(
    m: Module, feature: str, name: str, issue: Value, opcode: Value, a: Value, b: Value
) -> tuple[Signal, Signal]:
    """Add all lanes of a pipelined unit.

    Parameters
    ----------
    issue : 1 bit
        Whether an operation of this unit is issued in this cycle.
    a, b : lanes * 32 bits
        Its operands.

    Returns
    -------
    done : Signal()
        High three cycles after ``issue``.
    result : Signal(lanes * 32)
        The result in that cycle.
    """
    unit, lanes = UNITS[feature], len(a) // 32
    valid, result = Signal(STAGES, name=f"{name}_valid"), Signal(len(a), name=f"{name}_result")
    enable, started = Signal(STAGES, name=f"{name}_enable"), Signal(name=f"{name}_issue")
    m.d.comb += started.eq(issue)
    m.d.comb += enable.eq(Cat(started, valid))
    m.d.sync += valid.eq(enable)
    clock = gated_clock(m, name, enable.any())
    flags: dict[str, Value] = {}
    for flag, mnemonics in unit.flags.items():
        flags[f"i_{flag}"] = Signal(name=f"{name}_{flag}")
        m.d.comb += flags[f"i_{flag}"].eq(is_op(opcode, *mnemonics))
    common = {"i_clk": clock, "i_rst": C(0, 1), "i_enable": enable} | flags
    if feature == "s":
        address = Signal(lanes * ADDRESS_BITS, name=f"{name}_address")
        words = Signal(lanes * WORD_BITS, name=f"{name}_words")
        m.submodules[f"{name}_rom"] = Instance(
            "vxm_rom",
            i_clk=clock,
            i_rst=C(0, 1),
            i_enable=enable[1],
            i_address=address,
            o_word=words,
        )
    for lane in range(lanes):
        ports = {"i_a": a.word_select(lane, 32), "o_result": result.word_select(lane, 32)}
        if feature in "am":
            ports["i_b"] = b.word_select(lane, 32)
        if feature == "s":
            ports["o_rom_address"] = address.word_select(lane, ADDRESS_BITS)
            ports["i_rom_word"] = words.word_select(lane, WORD_BITS)
        m.submodules[f"{name}_{lane}"] = Instance(unit.part, **common, **ports)
    return valid[-1], result

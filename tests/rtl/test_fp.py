"""The VXM's arithmetic units in RTL against isa/numerics, bit for bit, under Verilator.

Many lanes in parallel make one long operand a cycle; operations follow each other every cycle
(the pipeline is full) with random gaps (a gap must not disturb the stages).
"""

import random
from pathlib import Path

import cocotb
import numpy as np
import pytest
from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge
from numpy.typing import NDArray

from waterclock.isa import special
from waterclock.isa.numerics import OPS_NUMERICS
from waterclock.isa.vxm import ARITY, OPS
from waterclock.rtl.add_convert import AddConvert
from waterclock.rtl.emit import convert
from waterclock.rtl.fp import STAGES, Adder, Converter, Multiplier
from waterclock.rtl.multiply_special import MultiplySpecial, MultiplySpecialRounded, shared_rom
from waterclock.rtl.special import ADDRESS_BITS, SpecialFunctions, SpecialROM
from waterclock.rtl.vxm_alu import clock_gate_verilog
from waterclock.sim import verilator

LANES, VECTORS = 16, 4200  # of each operation

#: Unit, and the flags of each operation.
UNITS = {
    "adder": (Adder, {"fadd": (), "fsub": ("subtract",)}),
    "multiplier": (Multiplier, {"fmul": (), "imul": ("integer",)}),
    "converter": (
        Converter,
        {
            "f32_to_f16": ("half",),
            "f16_to_f32": ("half", "to_float"),
            "f32_to_i32": (),
            "i32_to_f32": ("to_float",),
            "f32_to_i8": ("byte",),
        },
    ),
    "special": (SpecialFunctions, {"exp2": ("exp2",), "recip": (), "rsqrt": ("rsqrt",)}),
    "add_convert": (
        AddConvert,
        {
            "fadd": (),
            "fsub": ("subtract",),
            "f32_to_f16": ("convert", "half"),
            "f16_to_f32": ("convert", "half", "to_float"),
            "f32_to_i32": ("convert",),
            "i32_to_f32": ("convert", "to_float"),
            "f32_to_i8": ("convert", "byte"),
        },
    ),
    "multiply_special": (
        MultiplySpecial,
        {
            "fmul": (),
            "exp2": ("special", "exp2"),
            "recip": ("special",),
            "rsqrt": ("special", "rsqrt"),
        },
    ),
    "multiply_special_rounded": (
        MultiplySpecialRounded,
        {
            "fmul": (),
            "exp2": ("special", "exp2"),
            "recip": ("special",),
            "rsqrt": ("special", "rsqrt"),
            "fmul_f16": ("half",),
            "exp2_f16": ("special", "exp2", "half"),
        },
    ),
}


ROMS = {
    SpecialFunctions: special.rom,
    MultiplySpecial: shared_rom,
    MultiplySpecialRounded: shared_rom,
}


class Bench(wiring.Component):
    """All lanes of a unit, and the register that takes the result."""

    def __init__(self, unit: type[wiring.Component], flags: tuple[str, ...], stages: int):
        self.unit, self.flags, self.stages = unit, flags, stages
        flag_ports = {name: In(1) for name in flags}
        wide = {"a": In(32 * LANES), "b": In(32 * LANES), "result": Out(32 * LANES)}
        super().__init__({"issue": In(1)} | flag_ports | wide)

    def elaborate(self, platform):
        m = Module()
        valid = Signal(self.stages)
        m.d.sync += valid.eq(Cat(self.issue, valid))
        deep = hasattr(self.unit, "OPTIONAL")
        words = ROMS.get(self.unit)
        if words:
            m.submodules.rom = rom = SpecialROM(LANES, words())
            m.d.comb += rom.enable.eq(valid[0])
        for lane in range(LANES):
            m.submodules[f"lane_{lane}"] = unit = self.unit(self.stages) if deep else self.unit()
            m.d.comb += unit.enable.eq(Cat(self.issue, valid[:-1]))
            m.d.comb += [getattr(unit, name).eq(getattr(self, name)) for name in self.flags]
            m.d.comb += unit.a.eq(self.a.word_select(lane, 32))
            if hasattr(unit, "b"):
                m.d.comb += unit.b.eq(self.b.word_select(lane, 32))
            if words:
                m.d.comb += rom.address.word_select(lane, ADDRESS_BITS).eq(unit.rom_address)
                m.d.comb += unit.rom_word.eq(rom.word.word_select(lane, len(unit.rom_word)))
            with m.If(valid[-1]):
                m.d.sync += self.result.word_select(lane, 32).eq(unit.result)
        return m


def edges() -> NDArray[np.uint32]:
    """Return patterns near which something changes: exponents, roundings, ends of ranges."""
    exponents = np.arange(256, dtype=np.uint32) << 23
    fractions = np.array(
        [
            0,
            1,
            2,
            3,
            0xFFF,
            0x1000,
            0x1001,
            0x1FFF,
            0x2000,
            0x2FFF,
            0x3000,
            0x3001,
            0x3FFFFF,
            0x400000,
            0x400001,
            0x7FEFFF,
            0x7FF000,
            0x7FFFFE,
            0x7FFFFF,
        ],
        np.uint32,
    )
    floats = (exponents[:, None] | fractions).reshape(-1)
    integers = np.uint32(1) << np.arange(32, dtype=np.uint32)
    small = np.arange(-300, 300).astype(np.uint32)
    both = np.concatenate([floats, floats | np.uint32(1 << 31), integers - 1, integers + 1, small])
    return np.unique(both)


def operands(rng: np.random.Generator, mnemonic: str) -> tuple[NDArray[np.uint32], ...]:
    """Return (VECTORS, LANES) patterns a and b: edges, random bits, and related pairs."""
    shape, special = (VECTORS, LANES), edges()
    a, b = (rng.integers(0, 1 << 32, shape, dtype=np.uint32) for _ in range(2))
    for values in (a, b):
        chosen = rng.random(shape) < 0.5
        values[chosen] = rng.choice(special, chosen.sum())
    # Every edge occurs once at least.
    a.reshape(-1)[: len(special)] = special
    # Exponents close together for sums, complementary ones for products; equal numbers.
    near = rng.random(shape) < 0.4
    ea, e = a >> 23 & 0xFF, rng.integers(-3, 4, shape)
    apart = {"fmul": 43, "fmul_f16": 5}.get(mnemonic)
    partner = (127 - ea.astype(int) + e * apart if apart else ea.astype(int) + e) & 0xFF
    b = np.where(near, b & 0x807FFFFF | partner.astype(np.uint32) << 23, b)
    b = np.where(rng.random(shape) < 0.05, a ^ rng.choice([0, 1, 1 << 31], shape), b)
    if mnemonic in ("exp2", "exp2_f16", "f32_to_i8", "f32_to_i32", "f32_to_f16"):
        # Mostly exponents that give something between nothing and saturation.
        inside = rng.random(shape) < 0.5
        a = np.where(inside, a & 0x807FFFFF | rng.integers(95, 160, shape) << 23, a)
        a.reshape(-1)[: len(special)] = special
    if mnemonic == "f16_to_f32":
        a.reshape(-1)[: 1 << 16] = np.arange(1 << 16)
    return a.astype(np.uint32), b.astype(np.uint32)


def to_int(vector: NDArray[np.uint32]) -> int:
    return int.from_bytes(vector.astype("<u4").tobytes(), "little")


@cocotb.test()
async def unit_agrees(dut) -> None:
    """Run every operation of the unit, in random order, comparing every result in its cycle."""
    flags = UNITS[cocotb.plusargs["unit"]][1]
    rng = np.random.default_rng(random.getrandbits(32))
    data = {}
    for mnemonic in flags:
        a, b = operands(rng, mnemonic)
        arguments = (a, b)[: ARITY[OPS[mnemonic]]]
        data[mnemonic] = a, b, OPS_NUMERICS[mnemonic](*arguments)
    issues = [(mnemonic, index) for mnemonic in flags for index in range(VECTORS)]
    random.shuffle(issues)
    names = {name for found in flags.values() for name in found}
    for name in ("issue", "a", "b", "rst", *names):
        getattr(dut, name).value = 0
    Clock(dut.clk, 10, unit="ns").start(start_high=False)
    await FallingEdge(dut.clk)
    stages = int(cocotb.plusargs["stages"])
    pipeline: list[tuple[str, int] | None] = [None] * (stages + 1)
    while issues or any(pipeline):
        op = issues.pop() if issues and rng.random() < 0.9 else None
        dut.issue.value = op is not None
        if op:
            mnemonic, index = op
            dut.a.value, dut.b.value = (to_int(x[index]) for x in data[mnemonic][:2])
            for name in names:
                getattr(dut, name).value = name in flags[mnemonic]
        pipeline = [op, *pipeline[:stages]]
        await FallingEdge(dut.clk)
        if pipeline[stages]:
            mnemonic, index = pipeline[stages]
            a, b, expected = (x[index] for x in data[mnemonic])
            found = dut.result.value.to_unsigned()
            if found != to_int(expected):
                got = np.frombuffer(found.to_bytes(4 * LANES, "little"), "<u4")
                lane = int(np.flatnonzero(got != expected)[0])
                raise AssertionError(
                    f"{mnemonic}({a[lane]:#010x}, {b[lane]:#010x}) in lane {lane}: "
                    f"{got[lane]:#010x}, expected {expected[lane]:#010x}"
                )


def simulator(unit: str, stages: int) -> Path:
    component, flags = UNITS[unit]
    names = tuple(sorted({name for found in flags.values() for name in found}))
    text = convert(Bench(component, names, stages), "bench")
    return verilator.build({"clock_gate.v": clock_gate_verilog(), "bench.v": text}, "bench")


DEPTHS = [
    (unit, STAGES + more)
    for unit, (component, _) in UNITS.items()
    for more in range(1 + len(getattr(component, "OPTIONAL", ())))
]


@pytest.mark.parametrize(("unit", "stages"), DEPTHS)
def test_a_unit_agrees_with_numerics_in_every_bit(unit: str, stages: int) -> None:
    assert LANES * VECTORS >= 50_000
    plusargs = [f"+unit={unit}", f"+stages={stages}"]
    verilator.run(simulator(unit, stages), "test_fp", plusargs=plusargs, seed=4)

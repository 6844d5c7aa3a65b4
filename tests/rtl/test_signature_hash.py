"""The hash of a write in hardware, for all widths of lanes and rows."""

import numpy as np
import pytest
from amaranth import *
from amaranth.sim import Simulator

from waterclock.isa import signature
from waterclock.rtl.signature import hash_of, sum_of, times
from waterclock.sim.signature import hashes

SEED = 20261128
WRITES = 100


@pytest.mark.parametrize(("lanes", "row_bits"), [(2, 5), (5, 11), (8, 12), (16, 13), (16, 16)])
def test_hash_and_sum_are_those_of_the_golden_machine(lanes: int, row_bits: int) -> None:
    print(f"seed {SEED}")
    rng = np.random.default_rng(SEED)
    m, writing = Module(), Signal()
    data, row, total = Signal(8 * lanes), Signal(row_bits), Signal(signature.BITS)
    found = hash_of(m, writing, data, row)
    m.d.comb += total.eq(sum_of(m, [C(0, 1), C(0, 1), found]))

    async def bench(ctx) -> None:
        for _ in range(WRITES):
            vector = rng.integers(0, 256, lanes, np.uint8)
            ctx.set(data, int.from_bytes(vector.tobytes(), "little"))
            ctx.set(row, int(rng.integers(1 << row_bits)))
            ctx.set(writing, int(rng.random() < 0.8))
            (expected,) = hashes(vector[None], np.array([ctx.get(row)], np.uint32))
            expected = int(expected) if ctx.get(writing) else 0
            await ctx.tick()
            await ctx.tick()
            for _ in range(2):
                expected <<= 1
                expected ^= signature.POLYNOMIAL if expected >> signature.BITS else 0
            assert ctx.get(total) == expected

    simulator = Simulator(m)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


@pytest.mark.parametrize("exponent", [0, 1, 10, 11, 88])
def test_a_power_of_x_wraps_round(exponent: int) -> None:
    m, value, found = Module(), Signal(signature.BITS), Signal(signature.BITS)
    m.d.comb += found.eq(times(m, value, exponent))

    async def bench(ctx) -> None:
        for bit in range(signature.BITS):
            ctx.set(value, 1 << bit)
            assert ctx.get(found) == signature.power(bit + exponent)

    simulator = Simulator(m)
    simulator.add_testbench(bench)
    simulator.run()

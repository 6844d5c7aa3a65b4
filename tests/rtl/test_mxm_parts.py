"""The parts of the MXM plane in Amaranth's simulator, and what they cost to convert."""

import dataclasses
import random
import re

import numpy as np
import pytest
from amaranth import Elaboratable, Module, Signal
from amaranth.back import rtlil
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator
from numpy.typing import NDArray

from waterclock.isa.config import PRESETS, Config, load_config
from waterclock.isa.mxm import (
    DIGIT_BITS,
    LW,
    Order,
    acc_delay,
    acc_latency,
    fraction_bits,
    row_step,
    stream_unit,
    weights_at,
)
from waterclock.isa.numerics import f16_to_fixed, fixed_to_f32
from waterclock.isa.streams import Direction, stream
from waterclock.rtl.mxm import MXMPlane, mxm_parts
from waterclock.rtl.mxm_core import core_parts
from waterclock.rtl.mxm_feed import MXMFeed, feed_delay
from waterclock.rtl.mxm_tile import (
    BYTE,
    LARGEST_TILE,
    MACTile,
    activation_bits,
    fixed_bits,
    sum_bits,
    tile_size,
)

LIMIT = 1 << 16  # bits of one register, of a module's inputs, of an instance's outputs
NANO = dataclasses.replace(load_config("nano"), turns=1, integers=True)


def packed(values: NDArray[np.int64], bits: int) -> int:
    """Return values side by side, each modulo 2^bits."""
    word = 0
    for value in reversed(values.tolist()):
        word = word << bits | value & (1 << bits) - 1
    return word


def unpacked(word: int, bits: int, count: int) -> NDArray[np.int64]:
    """Return signed values that lie side by side."""
    fields = (word >> bits * i & (1 << bits) - 1 for i in range(count))
    return np.array([value - (value >> bits - 1 << bits) for value in fields], np.int64)


def simulate(dut: Elaboratable, bench) -> None:
    simulator = Simulator(dut)
    simulator.add_clock(1e-6)
    simulator.add_testbench(bench)
    simulator.run()


async def wait(ctx, cycles: int) -> None:
    for _ in range(cycles):
        await ctx.tick()


def lanes_config(digits: int) -> Config:
    return dataclasses.replace(NANO, superlanes=1, lanes=4, load_streams=4, digits=digits)


@pytest.mark.parametrize("digits", [1, 2])
def test_every_f16_is_brought_to_fixed_point(digits: int) -> None:
    config = lanes_config(digits)
    dut, size = core_parts(config)["mxm_lanes"], tile_size(config)
    bits = activation_bits(config, size)
    # Cycles from taking out to what the array multiplies, but for the last one.
    decoding = weights_at(config) - 1
    patterns = np.random.default_rng(5).permutation(1 << 16).astype(np.uint16)

    async def bench(ctx) -> None:
        ctx.set(dut.inside, -1)
        for first in range(0, len(patterns), config.lanes):
            raw = patterns[first : first + config.lanes]
            ctx.set(
                dut.store_data,
                int.from_bytes(raw.view(np.uint8).reshape(-1, 2).T.tobytes(), "little"),
            )
            for port, later in ((dut.store, 0), (dut.fetch, decoding - 1), (dut.decode, 0)):
                ctx.set(port, 1)
                await ctx.tick()
                ctx.set(port, 0)
                await wait(ctx, later)
            total = np.zeros(config.lanes, np.int64)
            for digit in range(digits):
                found = unpacked(ctx.get(dut.activations), bits, config.lanes)
                total += found << DIGIT_BITS * digit
                if digits > 1:
                    await ctx.tick()
            np.testing.assert_array_equal(total, f16_to_fixed(raw, fraction_bits(config)))

    simulate(dut, bench)


def edges() -> list[int]:
    """Return accumulators at which rounding may go wrong, and random ones of all sizes."""
    rng = random.Random(11)
    found = {0, 1, 2, 3, (1 << 63) - 1, -(1 << 63)}
    for size in range(1, 63):
        for low in range(max(size - 26, 0), size):
            for nudge in (-1, 0, 1):
                for odd in (0, 1 << max(size - 23, 0)):
                    found.add((1 << size) + odd + (1 << low) + nudge)
                    found.add((1 << size) - (1 << low) + nudge)
        found.update(rng.getrandbits(size) for _ in range(20))
    both = {signed for value in found for signed in (value, -value)}
    return sorted(value for value in both if -(1 << 63) <= value < 1 << 63)


@pytest.mark.parametrize("digits", [1, 2])
def test_accumulators_are_rounded_to_nearest_even(digits: int) -> None:
    # Of so many rows, two sums can make every value of an accumulator; of digits, most of them.
    config = dataclasses.replace(lanes_config(digits), superlanes=LARGEST_TILE // 4)
    dut, size = core_parts(config)["mxm_lanes"], tile_size(config)
    latency = acc_latency(config) - config.superlanes
    bits = sum_bits(config, size)
    reach = min(1 << bits + BYTE - 1, 1 << 63)
    values = np.array([value for value in edges() if -reach <= value < reach], np.int64)
    values = np.resize(values, -(-len(values) // config.lanes) * config.lanes)

    async def bench(ctx) -> None:
        ctx.set(dut.written, -1)
        results = []
        for group in values.reshape(-1, config.lanes):
            low = group & (1 << 40) - 1
            for part, high, add in ((group >> 40 << 32, 1, 0), (low, 0, 1)):
                ctx.set(dut.sums, packed(part, bits))
                ctx.set(dut.high, high)
                ctx.set(dut.add, add)
                ctx.set(dut.accumulate, 1)
                await ctx.tick()
                ctx.set(dut.accumulate, 0)
                await wait(ctx, digits - 1)
            await wait(ctx, acc_delay(config))
            for i32, dtype in enumerate((np.float32, np.uint32)):
                ctx.set(dut.emit, 1)
                ctx.set(dut.emit_i32, i32)
                await ctx.tick()
                ctx.set(dut.emit, 0)
                await wait(ctx, latency - 1)
                planes = ctx.get(dut.result).to_bytes(4 * config.lanes, "little")
                results.append(
                    np.frombuffer(planes, np.uint8).reshape(4, -1).T.copy().view(dtype).ravel()
                )
        np.testing.assert_array_equal(
            np.concatenate(results[::2]).view(np.uint32),
            fixed_to_f32(values, fraction_bits(config)).view(np.uint32),
        )
        np.testing.assert_array_equal(np.concatenate(results[1::2]), values.astype(np.uint32))

    simulate(dut, bench)


@pytest.mark.parametrize(
    ("rows", "columns", "digits"), [(8, 8, 1), (5, 3, 1), (8, 8, 2), (3, 6, 2)]
)
def test_a_tile_sums_exactly(rows: int, columns: int, digits: int) -> None:
    config = dataclasses.replace(NANO, wide=False, load_streams=2, digits=digits)
    dut = MACTile(config, rows, columns)
    longest, bits = max(rows, columns), activation_bits(config, rows)
    rng = np.random.default_rng(3)

    async def load(ctx) -> NDArray[np.int64]:
        """Load and install random bytes, row by row or column by column."""
        array = rng.choice([0, 1, 127, 128, 255, *rng.integers(0, 256, 5)], (rows, columns))
        by_column = int(rng.integers(2))
        ctx.set(dut.by_column, by_column)
        ctx.set(dut.load, 1)
        lines = array.T if by_column else array
        for index, line in enumerate(lines):
            vectors = np.zeros((config.load_streams, longest), np.int64)
            vectors[index % config.load_streams, : len(line)] = line
            ctx.set(dut.weights, packed(vectors.ravel(), 8))
            ctx.set(dut.enables, 1 << index)
            await ctx.tick()
        ctx.set(dut.load, 0)
        ctx.set(dut.install, 1)
        await ctx.tick()
        ctx.set(dut.install, 0)
        return array

    async def bench(ctx) -> None:
        for _ in range(20):
            array = await load(ctx)
            for unsigned in (0, 1):
                size = fixed_bits(config)
                extreme = rng.choice([-1, 1], rows) * (
                    (1 << size - 1) - 1 >> int(rng.integers(size))
                )
                weights = array if unsigned else (array ^ 128) - 128
                ctx.set(dut.unsigned_weights, unsigned)
                if digits > 1:
                    await ctx.tick()
                ctx.set(dut.multiply, 1)
                for i in range(digits):
                    digit = extreme >> DIGIT_BITS * i
                    more = int(i < digits - 1)
                    ctx.set(dut.more, more)
                    if more:
                        digit &= (1 << DIGIT_BITS) - 1
                    ctx.set(dut.activations, packed(digit, bits))
                    await ctx.tick()
                ctx.set(dut.multiply, 0)
                await ctx.tick()
                found = unpacked(ctx.get(dut.sums), sum_bits(config, rows), columns)
                np.testing.assert_array_equal(found, extreme @ weights)

    simulate(dut, bench)


@pytest.mark.parametrize("digits", [1, 2])
@pytest.mark.parametrize(("vectors", "wide"), [(1, False), (4, False), (6, False), (4, True)])
def test_a_feed_turns_the_vectors_to_their_places(vectors: int, wide: bool, digits: int) -> None:
    config = dataclasses.replace(
        NANO,
        superlanes=6,
        lanes=2,
        streams=12,
        slices=8,
        load_streams=vectors,
        digits=digits,
        wide=wide,
    )
    dut = MXMFeed(config)
    shape = (vectors, config.lanes)
    rng = np.random.default_rng(4)

    async def bench(ctx) -> None:
        rows = range(0, config.vector - config.load_streams + 1, row_step(config))
        for row in rows:
            unit = stream_unit(LW, config)
            for src in range(0, config.streams - config.load_streams + 1, unit):
                data = rng.integers(0, 256, (config.streams, config.lanes), np.uint8)
                order = int(rng.integers(len(Order)))
                op = LW(row=row, src=stream(Direction.WEST, src), order=order)
                ctx.set(dut.lw_in, op.encode())
                await ctx.tick()
                ctx.set(dut.lw_in, 0)
                ctx.set(dut.streams, int.from_bytes(data.tobytes(), "little"))
                await wait(ctx, feed_delay(config))
                assert ctx.get(dut.lw_late) == op.encode()
                found = np.frombuffer(
                    ctx.get(dut.weights).to_bytes(int(np.prod(shape)), "little"), np.uint8
                ).reshape(shape)
                expected = np.zeros(shape, np.uint8)
                for i in range(vectors):
                    expected[(row + i) % vectors] = data[src + i]
                np.testing.assert_array_equal(found, expected)

    simulate(dut, bench)


def registers(text: str) -> list[int]:
    """Return the widths of all wires in RTLIL."""
    return [int(width) for width in re.findall(r"^\s*wire width (\d+) ", text, re.MULTILINE)]


@pytest.mark.parametrize("preset", PRESETS)
def test_parts_keep_to_the_limits_of_amaranth(preset: str) -> None:
    config = load_config(preset)
    for name, part in mxm_parts(config).items():
        for flow in (In, Out):
            members = part.signature.members.values()
            assert sum(member.shape for member in members if member.flow is flow) < LIMIT, name
    assert config.vector % tile_size(config) == 0


@pytest.mark.parametrize("preset", ["nano", "small", "medium"])
def test_a_plane_and_its_parts_convert(preset: str) -> None:
    config = load_config(preset)
    for name, part in (mxm_parts(config) | {"plane": MXMPlane(config)}).items():
        text = rtlil.convert(part, name=name, emit_src=False)
        assert max(registers(text)) < LIMIT


def test_the_parts_of_the_full_size_plane_convert() -> None:
    config = load_config("tsp1")
    for name, part in mxm_parts(config).items():
        text = rtlil.convert(part, name=name, emit_src=False)
        assert max(registers(text)) < LIMIT
        if name == "mxm_core":
            tiles = (config.vector // tile_size(config)) ** 2
            assert text.count("cell \\mxm_mac_tile ") == tiles
            assert text.count("cell \\mxm_lanes ") == config.superlanes


def test_the_full_size_plane_goes_into_a_chip() -> None:
    config = load_config("tsp1")
    m = Module()
    m.submodules.plane = plane = MXMPlane(config)
    streams = Signal(config.streams * config.lanes * 8)
    for k in range(config.superlanes):
        m.d.comb += getattr(plane, f"stream_{k}").eq(streams)
    text = rtlil.convert(m, name="chip", ports=[streams, plane.error], emit_src=False)
    assert text.count("cell \\mxm_feed ") == config.superlanes
    assert text.count("cell \\mxm_core ") == 1

"""The MXM plane under Verilator against the golden plane, every result in value and cycle."""

import dataclasses
import os
import random
from collections.abc import Iterator

import cocotb
import numpy as np
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, RisingEdge
from numpy.typing import NDArray

from waterclock.isa.config import Config, load_config
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.mxm import (
    ABC,
    ABL,
    ACC,
    IW,
    LW,
    Weight,
    Window,
    acc_delay,
    acc_latency,
    row_step,
    stream_unit,
    weights_at,
)
from waterclock.isa.spec import Instruction
from waterclock.isa.streams import Direction, stream
from waterclock.rtl import mxm_tile
from waterclock.rtl.emit import convert
from waterclock.rtl.mxm import MXMPlane, mxm_parts
from waterclock.sim import verilator
from waterclock.sim.mxm import Plane

INSTRUCTIONS = 10_000
KIND = "WATERCLOCK_MXM_TEST"

NANO = dataclasses.replace(load_config("nano"), turns=1, wide=False, integers=True)
CONFIGS = {
    # Nine tiles, whose rows are no multiple of the vectors that LW loads and turns.
    "whole": dataclasses.replace(
        NANO, superlanes=3, lanes=4, streams=12, slices=8, load_streams=6, digits=1, act_entries=5
    ),
    # Activations in digits, a vector that is no power of two.
    "digits": dataclasses.replace(
        NANO, superlanes=3, lanes=2, load_streams=2, act_entries=4, acc_entries=3, digits=2
    ),
    # One superlane, as many vectors as lanes.
    "single": dataclasses.replace(NANO, slices=8, load_streams=8, digits=1),
    # In digits, more lanes than turns, of which the last are not all taken.
    "lanes": NANO,
    # Streams by fours, and no integers.
    "nano": load_config("nano"),
}
EAST = ("whole", "lanes")
SIDES = {name: Hemisphere.EAST if name in EAST else Hemisphere.WEST for name in CONFIGS}
LARGEST_TILES = {name: 4 if name == "whole" else 64 for name in CONFIGS}


class Stimulus:
    """Random streams, and a golden port that reads them.

    ``data``: (cycles, superlanes, streams, lanes) uint8, what the column's registers hold.
    """

    def __init__(self, config: Config, cycles: int, rng: np.random.Generator) -> None:
        shape = (cycles + config.superlanes, config.superlanes, config.streams, config.lanes)
        self.data = rng.integers(0, 256, shape, dtype=np.uint8)
        # Some bytes are zero: small and equal values occur too.
        self.data[rng.random(shape) < 0.2] = 0
        self.superlanes = np.arange(config.superlanes)
        self.cycle = 0
        #: (cycle, superlane) of the column's register -> first stream code, bytes (4, lanes)
        self.driven: dict[tuple[int, int], tuple[int, NDArray[np.uint8]]] = {}

    def read(self, code: int, span: int) -> NDArray[np.uint8]:
        """Return the vectors of streams, skewed in the registers: (span, vector) uint8."""
        first = stream(Direction.EAST, code) % 32
        skewed = self.data[self.cycle + self.superlanes, self.superlanes, first : first + span]
        return skewed.transpose(1, 0, 2).reshape(span, -1)

    def drive(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        """Enter what the registers of each superlane have to hold and when."""
        parts = data.reshape(len(data), len(self.superlanes), -1)
        for k in self.superlanes:
            self.driven[self.cycle + latency + int(k), int(k)] = (code, parts[:, k])


def program(config: Config, side: Hemisphere, rng: random.Random) -> Iterator[list[Instruction]]:
    """Yield the instructions of each cycle: first all state is set, then anything legal goes."""

    formats = 2 if config.integers else 1

    def outward(span: int, step: int) -> int:
        return stream(side.outward, rng.randrange(0, config.streams - span + 1, step))

    def load(row: int) -> LW:
        src = outward(config.load_streams, stream_unit(LW, config))
        return LW(row=row, src=src, order=rng.randrange(2))

    def arrive(entry: int) -> ABL:
        return ABL(entry=entry, src=outward(2, stream_unit(ABL, config)))

    def multiply(acc: int, **fixed: int) -> ABC:
        first = rng.randrange(config.vector)
        fields = {
            "entry": rng.randrange(config.act_entries),
            "add": rng.randrange(2),
            "activation": rng.randrange(formats),
            "weight": rng.randrange(len(Weight)),
            "window": rng.randrange(len(Window)),
            "first": first,
            "last": rng.randrange(first, config.vector),
        }
        return ABC(acc=acc, **(fields | fixed))

    for row in range(0, config.vector, config.load_streams):
        yield [load(row)]
    yield [IW()]
    for entry in range(config.act_entries):
        yield [arrive(entry)]
    for acc in range(config.acc_entries):
        yield [multiply(acc, add=0, window=Window.ALL)]
        yield from ([] for _ in range(config.digits - 1))
    yield from ([] for _ in range(acc_delay(config)))
    recent: list[bool] = []  # whether an ABC was issued, last cycle first
    density = 0.5
    cycle, issued = 0, 0
    while issued < INSTRUCTIONS:
        if cycle % 100 == 0:
            density = rng.choice((0.1, 0.5, 0.9, 1.0))
        ops: list[Instruction] = []
        if rng.random() < density:
            last = config.vector - config.load_streams
            ops.append(load(rng.randrange(0, last + 1, row_step(config))))
        passes = slice(weights_at(config) - 1, weights_at(config) + config.digits - 2)
        if rng.random() < density and not any(recent[passes]):
            ops.append(IW())
        if rng.random() < density:
            ops.append(arrive(rng.randrange(config.act_entries)))
        again = not any(recent[: config.digits - 1]) and rng.random() < density
        if again:
            ops.append(multiply(rng.randrange(config.acc_entries)))
        if rng.random() < density:
            dst = stream(side.inward, rng.randrange(0, config.streams, stream_unit(ACC, config)))
            acc = rng.randrange(config.acc_entries)
            ops.append(ACC(acc=acc, dst=dst, result=rng.randrange(2 if config.integers else 1)))
        recent = [again, *recent][: acc_delay(config)]
        rng.shuffle(ops)
        yield ops
        cycle, issued = cycle + 1, issued + len(ops)
    yield from ([] for _ in range(acc_latency(config) + config.superlanes))


async def start(dut, config: Config, side: Hemisphere) -> None:
    """Start the clock and reset the plane."""
    for queue in ("lw", "iw", "abl", "abc", "acc"):
        getattr(dut, f"{queue}_in").value = 0
    for k in range(config.superlanes):
        getattr(dut, f"stream_{k}").value = 0
    dut.outward.value = int(side.outward)
    dut.rst.value = 1
    Clock(dut.clk, 10, unit="ns").start()
    for _ in range(2):
        await RisingEdge(dut.clk)
    dut.rst.value = 0


def issue(dut, ops: list[Instruction]) -> None:
    """Put the words that are issued in the next cycle at the inputs."""
    words = {op.kind.removeprefix("mxm_"): op.encode() for op in ops}
    for queue in ("lw", "iw", "abl", "abc", "acc"):
        getattr(dut, f"{queue}_in").value = words.get(queue, 0)


@cocotb.test()
async def plane_agrees(dut) -> None:
    """All queues at once; every output in every cycle."""
    name = os.environ[KIND]
    config, side = CONFIGS[name], SIDES[name]
    seed = random.getrandbits(32)
    dut._log.info(f"program seed {seed}")
    ops = list(program(config, side, random.Random(seed)))
    stimulus, golden = (
        Stimulus(config, len(ops), np.random.default_rng(seed)),
        Plane(config, side),
    )
    for cycle, issued in enumerate(ops):
        stimulus.cycle = cycle
        for op in issued:
            golden.execute(cycle, op, stimulus)
    await start(dut, config, side)
    superlanes = range(config.superlanes)
    streams = [getattr(dut, f"stream_{k}") for k in superlanes]
    valids = [getattr(dut, f"result_valid_{k}") for k in superlanes]
    for cycle, issued in enumerate(ops):
        issue(dut, issued)
        await RisingEdge(dut.clk)
        for k, port in enumerate(streams):
            port.value = int.from_bytes(stimulus.data[cycle, k].tobytes(), "little")
        await FallingEdge(dut.clk)
        assert not int(dut.error.value), cycle
        for k, valid in enumerate(valids):
            expected = stimulus.driven.pop((cycle + 1, k), None)
            assert int(valid.value) == (expected is not None), (cycle, k)
            if expected is not None:
                code, planes = expected
                assert int(getattr(dut, f"result_dst_{k}").value) == code, (cycle, k)
                found = int(getattr(dut, f"result_{k}").value)
                assert found == int.from_bytes(planes.tobytes(), "little"), (cycle, k)
    assert not stimulus.driven
    print(f"executed {sum(map(len, ops))} instructions")


@cocotb.test()
async def promises_are_checked(dut) -> None:
    """Each broken promise raises ``error`` in the cycle after its issue, and only then."""
    kind = os.environ[KIND]
    config, side = CONFIGS[kind], SIDES[kind]
    east, west = (
        (lambda number: stream(Direction.EAST, number)),
        (lambda number: stream(Direction.WEST, number)),
    )
    multiply = {"entry": 0, "acc": 0, "add": 0, "activation": 0, "weight": 0, "window": 0}
    multiply |= {"first": 0, "last": 0}
    window = {"window": Window.INPUT}
    good: list[Instruction] = [
        LW(
            row=config.vector - config.load_streams,
            src=west(0 if config.wide else config.streams - config.load_streams),
            order=0,
        ),
        IW(),
        ABL(
            entry=config.act_entries - 1,
            src=west(config.streams - stream_unit(ABL, config)),
        ),
        ABC(**multiply | window | {"first": 2, "last": config.vector - 1}),
        ACC(
            acc=config.acc_entries - 1, dst=east(0 if config.wide else config.streams - 4), result=0
        ),
    ]
    bad: list[Instruction] = [
        LW(row=config.vector - config.load_streams + 1, src=west(0), order=0),
        LW(row=0, src=west(config.streams - 1), order=0),
        LW(row=0, src=east(0), order=0),
        ABL(entry=config.act_entries, src=west(0)),
        ABL(entry=0, src=west(1)),
        ABL(entry=0, src=west(config.streams)),
        ABL(entry=0, src=east(0)),
        ABC(**multiply | {"entry": config.act_entries}),
        ABC(**multiply | {"acc": config.acc_entries}),
        ABC(**multiply | {"weight": len(Weight)}),
        ABC(**multiply | {"window": len(Window)}),
        ABC(**multiply | window | {"last": config.vector}),
        ABC(**multiply | window | {"first": 2, "last": 1}),
        ACC(acc=config.acc_entries, dst=east(0), result=0),
        ACC(acc=0, dst=east(2), result=0),
        ACC(acc=0, dst=east(config.streams), result=0),
        ACC(acc=0, dst=west(0), result=0),
    ]
    if config.wide:
        bad += [
            LW(row=2, src=west(0), order=0),
            LW(row=0, src=west(4), order=0),
            ABL(entry=0, src=west(2)),
        ]
    if not config.integers:
        bad += [ABC(**multiply | {"activation": 1}), ACC(acc=0, dst=east(0), result=1)]
    await start(dut, config, side)

    async def errors(cycles: list[list[Instruction]]) -> list[int]:
        """Issue in successive cycles; return the cycles in which ``error`` was seen."""
        seen = []
        for cycle, issued in enumerate([*cycles, *[[]] * 8]):
            issue(dut, issued)
            await RisingEdge(dut.clk)
            await FallingEdge(dut.clk)
            if int(dut.error.value):
                seen.append(cycle)
        return seen

    for op in good:
        assert await errors([[op]]) == [], op
    for op in bad:
        assert await errors([[op]]) == [1], op
    abc, iw = good[3], good[1]
    assert await errors([[abc], [], [abc]]) == []
    assert await errors([[abc], [abc]]) == [2]
    # The array must not change after the first pass: see ``weights_at``.
    found = [await errors([[abc], *[[]] * n, [iw]]) for n in range(6)]
    assert found == [[], [], [], [5], [], []]
    for queue in ("lw", "iw", "abl", "abc", "acc"):
        for word in (1, ABC(**multiply).opcode + 2):
            issue(dut, [])
            getattr(dut, f"{queue}_in").value = word
            await RisingEdge(dut.clk)
            assert await errors([]) == [0], (queue, word)


def emit(name: str) -> dict[str, str]:
    """Return the Verilog of a plane and its parts."""
    config = CONFIGS[name]
    parts = {**mxm_parts(config), "mxm_plane": MXMPlane(config)}
    return {f"{module}.v": convert(part, module) for module, part in parts.items()}


@pytest.mark.parametrize("name", CONFIGS)
def test_every_result_of_the_plane_is_the_golden_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mxm_tile, "LARGEST_TILE", LARGEST_TILES[name])
    simulator = verilator.build(emit(name), "mxm_plane")
    seed = int(os.environ.get("COCOTB_RANDOM_SEED", 20))
    print(f"seed {seed}")
    log = verilator.run(
        simulator, "test_mxm_cosim", testcase="plane_agrees", seed=seed, extra_env={KIND: name}
    )
    (executed,) = (
        int(line.split()[1]) for line in log.splitlines() if line.startswith("executed ")
    )
    print(f"{executed} instructions")
    assert executed >= INSTRUCTIONS


@pytest.mark.parametrize("name", ["digits", "nano"])
def test_broken_promises_raise_error(name: str) -> None:
    simulator = verilator.build(emit(name), "mxm_plane", extra_args=["--no-assert"])
    verilator.run(
        simulator,
        "test_mxm_cosim",
        testcase="promises_are_checked",
        seed=20,
        extra_env={KIND: name},
    )

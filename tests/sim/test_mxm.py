"""The golden MXM plane against plain Python integers, and each promise that it checks."""

import dataclasses
import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from waterclock.isa.config import Config, load_config
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.mem import Read
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
    weights_at,
)
from waterclock.isa.numerics import fixed_to_f32
from waterclock.isa.spec import Instruction
from waterclock.isa.streams import Direction, stream
from waterclock.sim.mxm import Plane
from waterclock.sim.port import Hazard

NANO = dataclasses.replace(  # activations in two digits
    load_config("nano"), turns=1, wide=False, integers=True
)
SMALL = load_config("small")  # whole activations
EAST, WEST = Direction.EAST, Direction.WEST


class Streams:
    """A port whose streams hold what a test puts there; keeps what is driven."""

    def __init__(self, config: Config) -> None:
        self.held = np.zeros((config.streams, config.vector), np.uint8)
        self.driven: list[tuple[int, NDArray[np.uint8], int]] = []

    def read(self, code: int, span: int) -> NDArray[np.uint8]:
        return self.held[code & 31 : (code & 31) + span]

    def drive(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        self.driven.append((code, data.copy(), latency))


class Bench:
    """A plane of the east hemisphere and its streams, driven cycle by cycle."""

    def __init__(self, config: Config = SMALL) -> None:
        self.config = config
        self.plane, self.port = Plane(config, Hemisphere.EAST, 1), Streams(config)
        self.cycle = 0

    def issue(self, *ops: Instruction, after: int = 1) -> None:
        """Issue in one cycle, and go on ``after`` cycles."""
        for op in ops:
            self.plane.execute(self.cycle, op, self.port)
        self.cycle += after

    def load(self, array: NDArray[np.uint8], order: Order = Order.ROWS) -> None:
        """Load the buffer."""
        count = self.config.load_streams
        lines = array if order == Order.ROWS else array.T
        for row in range(0, self.config.vector, count):
            self.port.held[:count] = lines[row : row + count]
            self.issue(LW(row=row, src=stream(EAST, 0), order=order))

    def arrive(self, entry: int, values: NDArray[np.uint16]) -> None:
        """Load an entry of the activation buffer."""
        self.port.held[:2] = values.astype("<u2").view(np.uint8).reshape(-1, 2).T
        self.issue(ABL(entry=entry, src=stream(EAST, 0)))

    def result(self, acc: int = 0, result: Result = Result.F32) -> NDArray[np.uint32]:
        """Take an accumulator out at once."""
        self.issue(ACC(acc=acc, dst=stream(WEST, 0), result=result))
        code, planes, latency = self.port.driven.pop()
        assert (code, latency) == (stream(WEST, 0), acc_latency(self.config))
        return planes.T.copy().view("<u4").ravel()


def abc(**fields: int) -> ABC:
    """Return an ABC; what is not given is zero."""
    names = ("entry", "acc", "add", "activation", "weight", "window", "first", "last")
    return ABC(**(dict.fromkeys(names, 0) | fields))


def array_of(config: Config, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (config.vector,) * 2, np.uint8)


def f16_of(config: Config, seed: int = 0) -> NDArray[np.uint16]:
    return np.random.default_rng(seed).integers(0, 1 << 16, config.vector).astype(np.uint16)


def ready(config: Config = SMALL) -> Bench:
    """Return a bench with an array, an activation entry 0, and accumulator 0 set and visible."""
    bench = Bench(config)
    bench.load(array_of(config))
    bench.issue(IW())
    bench.arrive(0, f16_of(config))
    bench.issue(abc(), after=acc_delay(config))
    return bench


def activation(config: Config, pattern: int, kind: int) -> int:
    """Return an activation as an integer, in Python alone."""
    if kind == Activation.I8:
        low = pattern & 255
        return low - 256 if low > 127 else low
    exponent, fraction = pattern >> 10 & 31, pattern & 1023
    size = fraction if exponent == 0 else (fraction + 1024) * 2 ** (exponent - 1)
    return (-size if pattern >> 15 else size) // 2 ** (24 - fraction_bits(config))


def weight(byte: int, kind: int) -> int:
    """Return a weight as an integer, in Python alone."""
    if kind == Weight.LOW:
        return byte
    signed = byte - 256 if byte > 127 else byte
    return signed * 256 if kind == Weight.HIGH else signed


def wrapped(value: int) -> int:
    """Return an integer modulo 2^64, signed."""
    return (value + (1 << 63)) % (1 << 64) - (1 << 63)


@pytest.mark.parametrize(
    ("config", "order"), [(SMALL, Order.ROWS), (SMALL, Order.COLUMNS), (NANO, Order.ROWS)]
)
def test_random_products_equal_those_of_plain_integers(config: Config, order: Order) -> None:
    rng, n = random.Random(9), config.vector
    bench = Bench(config)
    accumulators = [[0] * n for _ in range(3)]
    for step in range(60):
        array, raw = array_of(config, step), f16_of(config, step)
        bench.load(array, order)
        bench.arrive(step % config.act_entries, raw)
        bench.issue(IW())
        first = rng.randrange(n)
        op = abc(
            entry=step % config.act_entries,
            acc=step % 3,
            add=int(step > 2 and rng.random() < 0.7),
            activation=rng.randrange(2),
            weight=rng.randrange(3),
            window=rng.randrange(3) if step > 2 else Window.ALL,
            first=first,
            last=rng.randrange(first, n),
        )
        bench.issue(op, after=acc_delay(config))
        expected = accumulators[op.acc]
        for lane in range(n):
            inside = op.first <= lane <= op.last
            if op.window == Window.OUTPUT and not inside:
                continue
            total = sum(
                activation(config, int(raw[k]), op.activation)
                * weight(int(array[k, lane]), op.weight)
                for k in range(n)
                if op.window != Window.INPUT or op.first <= k <= op.last
            )
            expected[lane] = wrapped(total + (expected[lane] if op.add else 0))
        values = np.array(expected, np.int64)
        np.testing.assert_array_equal(bench.result(op.acc, Result.I32), values.astype(np.uint32))
        np.testing.assert_array_equal(
            bench.result(op.acc).view(np.float32), fixed_to_f32(values, fraction_bits(config))
        )


def test_two_byte_planes_make_a_16_bit_weight() -> None:
    weights = np.random.default_rng(1).integers(-(1 << 15), 1 << 15, (SMALL.vector,) * 2)
    bench = Bench()
    raw = np.arange(SMALL.vector).astype(np.uint16)
    bench.arrive(0, raw)
    for add, (kind, byte) in enumerate(((Weight.LOW, weights & 255), (Weight.HIGH, weights >> 8))):
        bench.load(byte.astype(np.uint8))
        bench.issue(IW())
        op = abc(activation=Activation.I8, weight=kind, add=add)
        bench.issue(op, after=acc_delay(SMALL))
    expected = (raw.astype(np.int64) @ weights).astype(np.uint32)
    np.testing.assert_array_equal(bench.result(result=Result.I32), expected)


def test_sums_wrap_modulo_two_to_the_64() -> None:
    bench = Bench(SMALL)
    bench.load(np.full((SMALL.vector,) * 2, 127, np.uint8))
    bench.issue(IW())
    bench.arrive(0, np.full(SMALL.vector, 0x7BFF, np.uint16))
    total = 0
    for add in [0] + [1] * 99:
        bench.issue(abc(add=add, weight=Weight.HIGH), after=acc_delay(SMALL))
        total += SMALL.vector * activation(SMALL, 0x7BFF, Activation.F16) * 127 * 256
    assert wrapped(total) != total
    expected = fixed_to_f32(np.full(SMALL.vector, wrapped(total)))
    np.testing.assert_array_equal(bench.result().view(np.float32), expected)


@pytest.mark.parametrize("config", [SMALL, NANO])
def test_an_iw_serves_an_abc_of_the_cycle_before_and_not_an_earlier_one(config: Config) -> None:
    old, new = array_of(config, 1), array_of(config, 2)
    outcomes = []
    # An IW after the first pass is too late, and not allowed before the last one.
    first = weights_at(config)
    for delay in (-1, 0, first - 1, first - 1 + config.digits):
        bench = Bench(config)
        bench.load(old)
        bench.issue(IW())
        bench.load(new)
        bench.arrive(0, f16_of(config))
        start = bench.cycle + 1
        for cycle, op in sorted(((start, abc()), (start + delay, IW())), key=lambda item: item[0]):
            bench.cycle = cycle
            bench.issue(op)
        bench.cycle = start + acc_delay(config)
        outcomes.append(bench.result(result=Result.I32).tolist())
    assert outcomes[0] == outcomes[1] == outcomes[2] != outcomes[3]


@pytest.mark.parametrize("config", [SMALL, NANO])
def test_an_acc_sees_the_sum_after_the_delay_and_not_before(config: Config) -> None:
    early, late = ready(config), ready(config)
    before = early.result().tolist()
    for bench, wait in ((early, acc_delay(config) - 1), (late, acc_delay(config))):
        bench.arrive(1, f16_of(config, 5))
        bench.issue(abc(entry=1), after=wait)
    assert early.result().tolist() == before != late.result().tolist()
    assert early.result().tolist() == late.result().tolist()


def test_the_queues_of_one_cycle_may_be_executed_in_any_order() -> None:
    outcomes = set()
    for order in itertools.permutations(range(5)):
        bench = ready()
        bench.load(array_of(SMALL, 3))
        bench.port.held[:] = np.random.default_rng(7).integers(0, 256, bench.port.held.shape)
        ops = [
            LW(row=0, src=stream(EAST, 0), order=Order.COLUMNS),
            IW(),
            ABL(entry=0, src=stream(EAST, 2)),
            abc(add=1),
            ACC(acc=0, dst=stream(WEST, 0), result=Result.F32),
        ]
        bench.issue(*(ops[i] for i in order), after=acc_delay(SMALL))
        found = [bench.port.driven.pop()[1].tobytes(), bench.result().tobytes()]
        bench.issue(IW(), abc(), after=acc_delay(SMALL))
        outcomes.add((*found, bench.result().tobytes()))
    assert len(outcomes) == 1


def test_an_iw_takes_the_buffer_without_the_lw_of_its_cycle() -> None:
    bench = ready()
    bench.port.held[:] = 1
    before = bench.result().tolist()
    bench.issue(IW(), LW(row=0, src=stream(EAST, 0), order=Order.ROWS))
    bench.issue(abc(), after=acc_delay(SMALL))
    assert bench.result().tolist() == before
    bench.issue(IW(), abc(), after=acc_delay(SMALL))
    assert bench.result().tolist() != before


def acc(**fields: int) -> ACC:
    return ACC(**({"acc": 0, "dst": stream(WEST, 0), "result": 0} | fields))


def never_installed(bench: Bench) -> None:
    fresh = Bench()
    fresh.arrive(0, f16_of(SMALL))
    fresh.issue(abc(), after=2)
    fresh.issue(IW())


BROKEN: dict[str, tuple[str, Callable[[Bench], None]]] = {
    "another unit's": ("read is no instruction", lambda b: b.issue(Read(addr=0, dst=0))),
    "lw inward": (
        "lw: stream W0: must flow east",
        lambda b: b.issue(LW(row=0, src=stream(WEST, 0), order=0)),
    ),
    "lw streams": (
        "lw: stream E1: 16 of 16 streams",
        lambda b: b.issue(LW(row=0, src=stream(EAST, 1), order=0)),
    ),
    "lw rows": (
        "lw: rows from 1 on end beyond 16",
        lambda b: b.issue(LW(row=1, src=stream(EAST, 0), order=Order.ROWS)),
    ),
    "lw columns": (
        "lw: columns from 2 on end beyond 16",
        lambda b: b.issue(LW(row=2, src=stream(EAST, 0), order=Order.COLUMNS)),
    ),
    "abl inward": (
        "abl: stream W2: must flow east",
        lambda b: b.issue(ABL(entry=0, src=stream(WEST, 2))),
    ),
    "abl odd": (
        "abl: stream E3: must be a multiple of 2",
        lambda b: b.issue(ABL(entry=0, src=stream(EAST, 3))),
    ),
    "abl streams": (
        "abl: stream E16: 2 of 16 streams",
        lambda b: b.issue(ABL(entry=0, src=stream(EAST, 16))),
    ),
    "abl entry": (
        "abl: entry 32: there are 32",
        lambda b: b.issue(ABL(entry=32, src=stream(EAST, 0))),
    ),
    "abc entry": ("abc: entry 33: there are 32", lambda b: b.issue(abc(entry=33))),
    "abc accumulator": ("abc: accumulator 40: there are 32", lambda b: b.issue(abc(acc=40))),
    "abc weight": ("abc: weight 3, window 0: no such format", lambda b: b.issue(abc(weight=3))),
    "abc window": ("abc: weight 0, window 3: no such format", lambda b: b.issue(abc(window=3))),
    "abc lanes": (
        "abc: window 3 to 16 of 16 lanes",
        lambda b: b.issue(abc(window=Window.INPUT, first=3, last=16)),
    ),
    "abc backward": (
        "abc: window 3 to 2 of 16 lanes",
        lambda b: b.issue(abc(window=Window.OUTPUT, first=3, last=2)),
    ),
    "abc never loaded": ("abc: entry 1 was never loaded", lambda b: b.issue(abc(entry=1))),
    "abc never set": (
        "abc adds to accumulator 1, which was never set",
        lambda b: b.issue(abc(acc=1, add=1)),
    ),
    "abc partly set": (
        "abc adds to accumulator 1, which was never set",
        lambda b: (
            b.issue(abc(acc=1, window=Window.OUTPUT, first=0, last=14))
            or b.issue(abc(acc=1, add=1))
        ),
    ),
    "never installed": ("the abc of cycle 1 found no array installed", never_installed),
    "acc outward": (
        "acc: stream E0: must flow west",
        lambda b: b.issue(acc(dst=stream(EAST, 0))),
    ),
    "acc alignment": (
        "acc: stream W2: must be a multiple of 4",
        lambda b: b.issue(acc(dst=stream(WEST, 2))),
    ),
    "acc streams": (
        "acc: stream W16: 4 of 16 streams",
        lambda b: b.issue(acc(dst=stream(WEST, 16))),
    ),
    "acc accumulator": ("acc: accumulator 32: there are 32", lambda b: b.issue(acc(acc=32))),
    "acc never set": ("acc: accumulator 1 was never set", lambda b: b.issue(acc(acc=1))),
    "acc too early": (
        "acc: accumulator 1 was never set",
        lambda b: b.issue(abc(acc=1), after=acc_delay(SMALL) - 1) or b.issue(acc(acc=1)),
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_a_hazard(name: str) -> None:
    message, provoke = BROKEN[name]
    with pytest.raises(Hazard, match=rf"^cycle \d+: MXM_E1: {message}"):
        provoke(ready())


def test_an_abc_within_the_passes_of_another_is_a_hazard() -> None:
    bench = ready(NANO)
    bench.issue(abc(), after=1)
    with pytest.raises(Hazard, match="too closely: each takes 2 cycles"):
        bench.issue(abc())


def test_an_iw_during_the_passes_of_an_abc_is_a_hazard() -> None:
    bench = ready(NANO)
    bench.issue(abc(), after=weights_at(NANO))
    with pytest.raises(Hazard, match="iw changes the array under the abc of cycle"):
        bench.issue(IW())


#: What a plane of the preset for an FPGA has not.
MISSING: dict[str, Instruction] = {
    "lw: row 2 must be a multiple of 4": LW(row=2, src=stream(EAST, 0), order=0),
    "lw: stream E4: must be a multiple of 8": LW(row=0, src=stream(EAST, 4), order=0),
    "abl: stream E4: must be a multiple of 8": ABL(entry=0, src=stream(EAST, 4)),
    "acc: stream W4: must be a multiple of 8": acc(dst=stream(WEST, 4)),
    "abc: the plane has no integers": abc(activation=Activation.I8),
    "acc: the plane has no integers": acc(result=Result.I32),
}


@pytest.mark.parametrize("message", MISSING)
def test_a_small_plane_has_fewer_streams_and_formats(message: str) -> None:
    bench = ready(load_config("nano"))
    with pytest.raises(Hazard, match=message):
        bench.issue(MISSING[message])

"""Golden SXM: every instruction against plain Python, and every hazard."""

import dataclasses
import random

import numpy as np
import pytest
from numpy.typing import NDArray

from waterclock.isa import Config, Direction, Hemisphere, Instruction, load_config
from waterclock.isa.mem import Read
from waterclock.isa.streams import direction_of, number_of, stream
from waterclock.isa.sxm import Distribute, Permute, Rotate, Select, Shift, Transpose, sxm_latency
from waterclock.sim.port import Hazard
from waterclock.sim.sxm import SXM

SEED = 20
EAST, WEST = Direction.EAST, Direction.WEST


class FakePort:
    """Streams of one cycle, and a note of what was driven."""

    def __init__(self, config: Config, rng: random.Random) -> None:
        shape = (2, config.streams, config.vector)
        self.streams = np.random.default_rng(rng.getrandbits(32)).integers(0, 256, shape, np.uint8)
        self.driven: list[tuple[int, list[list[int]], int]] = []

    def put(self, code: int, values: list[int]) -> None:
        self.streams[direction_of(code), number_of(code)] = values

    def get(self, code: int) -> list[int]:
        return self.streams[direction_of(code), number_of(code)].tolist()

    def read(self, code: int, span: int) -> NDArray[np.uint8]:
        return self.streams[direction_of(code), number_of(code) : number_of(code) + span]

    def drive(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        assert data.dtype == np.uint8
        self.driven.append((code, data.tolist(), latency))


@pytest.fixture
def rng() -> random.Random:
    print("seed", SEED)
    return random.Random(SEED)


@pytest.fixture
def config() -> Config:
    changes = {"superlanes": 3, "lanes": 4, "streams": 16, "load_streams": 1}
    changes |= {"sxm": True, "wide": False}
    return dataclasses.replace(load_config("nano"), name="test", turns=1, **changes)


@pytest.fixture
def port(config: Config, rng: random.Random) -> FakePort:
    return FakePort(config, rng)


def execute(config: Config, port: FakePort, op: Instruction) -> list[list[int]]:
    """Return the streams that ``op`` drives; check where and when it drives them."""
    SXM(config, Hemisphere.WEST).execute(7, op, port)
    ((code, data, latency),) = port.driven
    assert code == op.dst  # type: ignore[attr-defined]
    assert latency == sxm_latency(config) == config.superlanes + 1
    return data


@pytest.mark.parametrize("count", [0, 1, 5, 11, 12, 300, 511, -1, -4, -11, -12, -512])
def test_shift_takes_lane_l_minus_count_and_zero_beyond(config, port, count: int) -> None:
    source, lanes = port.get(stream(WEST, 3)), range(config.vector)
    expected = [source[lane - count] if lane - count in lanes else 0 for lane in lanes]
    op = Shift(src=stream(WEST, 3), dst=stream(EAST, 15), count=count)
    assert execute(config, port, op) == [expected]


@pytest.mark.parametrize("count", [0, 1, 7, 12, 511])
def test_select_takes_the_lane_the_one_below_or_the_one_above(config, port, rng, count) -> None:
    choices = [rng.choice([0, 1, 2, 3, 255]) for _ in range(config.vector)]
    port.put(stream(EAST, 9), choices)
    source, lanes = port.get(stream(EAST, 4)), range(config.vector)
    moves = {0: 0, 1: -count, 2: count}
    expected = [
        source[lane + moves[choice]] if choice in moves and lane + moves[choice] in lanes else 0
        for lane, choice in enumerate(choices)
    ]
    op = Select(src=stream(EAST, 4), dst=stream(WEST, 0), map=stream(EAST, 9), count=count)
    assert execute(config, port, op) == [expected]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_rotate_gives_every_source_rotated_by_0_to_count_minus_1(config, port, count) -> None:
    size = config.vector
    sources = [port.get(stream(WEST, 5 + i)) for i in range(count)]
    expected = [
        [source[(lane - j) % size] for lane in range(size)]
        for source in sources
        for j in range(count)
    ]
    op = Rotate(src=stream(WEST, 5), dst=stream(EAST, 0), count=count)
    assert execute(config, port, op) == expected


def test_permute_takes_lane_map_and_zero_beyond_the_vector(config, port, rng) -> None:
    size = config.vector
    lanes = [rng.choice([rng.randrange(size), rng.randrange(65536), size]) for _ in range(size)]
    port.put(stream(WEST, 6), [lane & 0xFF for lane in lanes])
    port.put(stream(WEST, 7), [lane >> 8 for lane in lanes])
    source = port.get(stream(EAST, 1))
    expected = [source[lane] if lane < size else 0 for lane in lanes]
    op = Permute(src=stream(EAST, 1), dst=stream(EAST, 1), map=stream(WEST, 6))
    assert execute(config, port, op) == [expected]


def test_distribute_takes_lane_map_of_the_superlane_and_zero_beyond_it(config, port, rng) -> None:
    size = config.lanes
    within = [rng.choice([rng.randrange(size), size, 255]) for _ in range(config.vector)]
    port.put(stream(WEST, 7), within)
    source = port.get(stream(EAST, 1))
    expected = [
        source[lane // size * size + inner] if inner < size else 0
        for lane, inner in enumerate(within)
    ]
    op = Distribute(src=stream(EAST, 1), dst=stream(WEST, 2), map=stream(WEST, 7))
    assert execute(config, port, op) == [expected]


@pytest.mark.parametrize(("lanes", "streams"), [(4, 16), (8, 4)])
def test_transpose_swaps_streams_and_lanes_within_each_superlane(config, rng, lanes, streams):
    config = dataclasses.replace(config, lanes=lanes, streams=streams)
    port, size = FakePort(config, rng), min(lanes, streams)
    sources = [port.get(stream(EAST, i)) for i in range(size)]
    expected = [
        [
            sources[lane % lanes][lane // lanes * lanes + i] if lane % lanes < size else 0
            for lane in range(config.vector)
        ]
        for i in range(size)
    ]
    op = Transpose(src=stream(EAST, 0), dst=stream(WEST, 0))
    assert execute(config, port, op) == expected


@pytest.mark.parametrize(
    ("op", "text"),
    [
        (Permute(src=0, dst=0, map=stream(WEST, 3)), "map W3, expected an even stream"),
        (Rotate(src=0, dst=0, count=1), "count 1, expected 2, 3 or 4"),
        (Rotate(src=0, dst=0, count=5), "count 5, expected 2, 3 or 4"),
        (Shift(src=stream(EAST, 16), dst=0, count=1), "src E16 and 1 streams"),
        (Shift(src=0, dst=stream(WEST, 31), count=1), "dst W31 and 1 streams"),
        (Select(src=0, dst=0, map=stream(WEST, 16), count=0), "map W16 and 1 streams"),
        (Distribute(src=0, dst=0, map=stream(WEST, 16)), "map W16 and 1 streams"),
        (Rotate(src=13, dst=0, count=4), "src E13 and 4 streams"),
        (Rotate(src=0, dst=8, count=3), "dst E8 and 9 streams"),
        (Transpose(src=13, dst=0), "src E13 and 4 streams"),
        (Transpose(src=0, dst=13), "dst E13 and 4 streams"),
        (Read(addr=0, dst=0), "no instruction of an SXM"),
    ],
    ids=str,
)
def test_broken_promise_raises_a_hazard_that_names_cycle_and_unit(config, port, op, text) -> None:
    with pytest.raises(Hazard) as hazard:
        SXM(config, Hemisphere.EAST).execute(41, op, port)
    assert str(hazard.value).startswith(f"cycle 41: SXM_E: {op.mnemonic}: {text}")
    assert not port.driven


def test_rotate_by_a_count_whose_square_exceeds_the_streams_is_a_hazard(config, rng) -> None:
    config = dataclasses.replace(config, streams=8)
    port = FakePort(config, rng)
    with pytest.raises(Hazard, match="its square within 8"):
        SXM(config, Hemisphere.EAST).execute(0, Rotate(src=0, dst=0, count=3), port)

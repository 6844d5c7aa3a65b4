"""The signature as worked out from a list of writes: as the register would, bit by bit."""

import dataclasses

import numpy as np
import pytest

from waterclock.isa import Config, load_config, signature
from waterclock.sim.signature import Write, signature_of

SEED = 20261128
RUNS, FLIPS = 30, 40  # runs of each configuration, changes of each

NANO = load_config("nano")
CONFIGS = {
    "nano": NANO,
    "small": load_config("small"),
    "medium": load_config("medium"),
    "odd lanes": dataclasses.replace(
        NANO, superlanes=3, lanes=5, load_streams=1, wide=False, turns=1
    ),
}


def by_register(config: Config, cycles: int, writes: list[Write]) -> int:
    """Return the signature, cycle after cycle and tile after tile."""

    def double(value: int) -> int:
        value <<= 1
        return value ^ (signature.POLYNOMIAL if value >> signature.BITS else 0)

    found = 0
    for cycle in range(cycles):
        found = double(found)
        for at, side, index, rows, vector in writes:
            for k, lanes in enumerate(vector.reshape(config.superlanes, -1)):
                row = rows[k] if isinstance(rows, tuple) else rows
                value = 1 << 28 ^ (row & 0xFFF) << 16 ^ row >> 12
                for lane, byte in enumerate(lanes.tolist()):
                    for bit in range(8):
                        place = 8 * (lane % 2) + bit + 5 * (lane // 2)
                        value ^= (byte >> bit & 1) << place % 16
                place = (config.superlanes - 1 - k) * 2 * config.slices
                for _ in range(place + side * config.slices + index):
                    value = double(value)
                found ^= value if at == cycle else 0
    return found


def random_writes(rng: np.random.Generator, config: Config, cycles: int) -> list[Write]:
    writes: list[Write] = []
    for _ in range(int(rng.integers(1, 30))):
        rows = rng.integers(0, config.depth, config.superlanes).tolist()
        row = tuple(rows) if config.superlanes > 1 and rng.random() < 0.5 else rows[0]
        data = rng.integers(0, 256, config.vector, np.uint8)
        data = data * np.uint8(rng.random() < 0.8)  # zeros count, too
        place = int(rng.integers(2)), int(rng.integers(config.slices))
        writes.append((int(rng.integers(cycles)), *place, row, data))
    return writes


@pytest.mark.parametrize("case", CONFIGS)
def test_it_is_what_the_register_would_hold(case: str) -> None:
    config = CONFIGS[case]
    rng = np.random.default_rng(SEED)
    print(f"seed {SEED}")
    for _ in range(5):
        cycles = int(rng.integers(1, 30))
        writes = random_writes(rng, config, cycles)
        assert signature_of(config, cycles, writes) == by_register(config, cycles, writes)


def changed(rng: np.random.Generator, config: Config, cycles: int, write: Write) -> Write:
    """Return a write with one bit of its data, row, cycle or slice flipped."""
    cycle, side, index, row, data = write
    while True:
        match rng.choice(["data", "row", "cycle", "side", "slice"]):
            case "data":
                data = data.copy()
                data[rng.integers(config.vector)] ^= 1 << rng.integers(8)
                return cycle, side, index, row, data
            case "row":
                flip = 1 << int(rng.integers((config.depth - 1).bit_length()))
                if isinstance(row, tuple):
                    k = int(rng.integers(len(row)))
                    return cycle, side, index, (*row[:k], row[k] ^ flip, *row[k + 1 :]), data
                return cycle, side, index, row ^ flip, data
            case "cycle":
                other = cycle ^ 1 << int(rng.integers(cycles.bit_length()))
                if other < cycles:
                    return other, side, index, row, data
            case "side":
                return cycle, 1 - side, index, row, data
            case _:
                other = index ^ 1 << int(rng.integers(config.slices.bit_length()))
                if other < config.slices:
                    return cycle, side, other, row, data


@pytest.mark.parametrize("case", CONFIGS)
def test_a_single_flipped_bit_of_any_write_changes_it(case: str) -> None:
    config = CONFIGS[case]
    rng = np.random.default_rng(SEED)
    print(f"seed {SEED}")
    for _ in range(RUNS):
        cycles = int(rng.integers(2, 5000))
        writes = random_writes(rng, config, cycles)
        expected = signature_of(config, cycles, writes)
        for _ in range(FLIPS):
            at = int(rng.integers(len(writes)))
            other = [*writes[:at], changed(rng, config, cycles, writes[at]), *writes[at + 1 :]]
            assert signature_of(config, cycles, other) != expected, (writes[at], other[at])
        lost = [*writes[:-1]]
        assert signature_of(config, cycles, lost) != expected
        order = [writes[i] for i in rng.permutation(len(writes))]
        assert signature_of(config, cycles, order) == expected


def test_a_run_without_writes_has_the_signature_zero() -> None:
    assert signature_of(NANO, 100, []) == 0

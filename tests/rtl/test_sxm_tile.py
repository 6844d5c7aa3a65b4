"""The SXM's tile reports broken promises of the schedule."""

import dataclasses

import pytest
from amaranth.sim import Simulator

from waterclock.isa import Instruction, load_config
from waterclock.isa.streams import Direction, stream
from waterclock.isa.sxm import Distribute, Permute, Rotate, Select, Shift, Transpose, sxm_latency
from waterclock.rtl.sxm_tile import QUEUES, SXMTile

CONFIG = dataclasses.replace(
    load_config("nano"),
    name="test",
    lanes=4,
    streams=12,
    load_streams=1,
    wide=False,
    sxm=True,
)
W12 = stream(Direction.WEST, 12)


def simulate(testbench) -> None:
    """Run a testbench on a tile; an assertion of the tile raises ``AssertionError``."""
    tile = SXMTile(CONFIG)

    async def run(ctx) -> None:
        await testbench(ctx, tile)

    simulator = Simulator(tile)
    simulator.add_clock(1e-6)
    simulator.add_testbench(run)
    simulator.run()


def issue(word: int, queue: str) -> list[int]:
    """Issue a word; return ``error`` of that cycle and of those until its result is driven."""
    errors: list[int] = []

    async def testbench(ctx, tile) -> None:
        ctx.set(getattr(tile, f"{queue}_in"), word)
        for _ in range(sxm_latency(CONFIG) + 1):
            await ctx.tick()
            errors.append(ctx.get(tile.error))
            ctx.set(getattr(tile, f"{queue}_in"), 0)

    simulate(testbench)
    return errors


LEGAL = [
    Shift(src=11, dst=11, count=-512),
    Select(src=11, dst=0, map=11, count=511),
    Rotate(src=10, dst=0, count=2),
    Rotate(src=9, dst=3, count=3),
    Permute(src=11, dst=11, map=10),
    Distribute(src=11, dst=11, map=11),
    Transpose(src=8, dst=8),
]
ILLEGAL = [
    Shift(src=12, dst=0, count=0),
    Shift(src=W12, dst=0, count=0),
    Select(src=0, dst=0, map=12, count=0),
    Rotate(src=11, dst=0, count=2),
    Rotate(src=0, dst=0, count=1),
    Rotate(src=0, dst=0, count=4),
    Permute(src=0, dst=0, map=11),
    Permute(src=12, dst=0, map=10),
    Permute(src=0, dst=0, map=W12),
    Distribute(src=0, dst=0, map=W12),
    Transpose(src=9, dst=0),
    Transpose(src=0, dst=W12 - 3),
]


@pytest.mark.parametrize("op", LEGAL, ids=str)
def test_legal_instruction_is_no_error(op: Instruction) -> None:
    assert not any(issue(op.encode(), op.kind.removeprefix("sxm_")))


@pytest.mark.parametrize("op", ILLEGAL, ids=str)
def test_illegal_instruction_is_an_error(op: Instruction) -> None:
    with pytest.raises(AssertionError, match="SXM: "):
        issue(op.encode(), op.kind.removeprefix("sxm_"))


@pytest.mark.parametrize("queue", QUEUES)
def test_foreign_opcode_is_an_error(queue: str) -> None:
    with pytest.raises(AssertionError, match=f"{queue} 1"):
        issue(63, queue)


@pytest.mark.parametrize(
    ("count", "dst", "other", "error"),
    [
        (1, 4, 5, 0),
        (1, 4, 4, 1),
        (1, 4, stream(Direction.WEST, 4), 0),
        (2, 4, 7, 1),
        (2, 4, 8, 0),
        (3, 3, 11, 1),
        (3, 4, 0, 1),
        (1, 0, 12, 1),
        (0, 12, 0, 0),
    ],
)
def test_results_that_meet_or_leave_the_streams_are_an_error(count, dst, other, error) -> None:
    found: list[int] = []

    async def testbench(ctx, tile) -> None:
        ctx.set(tile.shift_count, count)
        ctx.set(tile.shift_dst, dst)
        ctx.set(tile.permute_valid, 1)
        ctx.set(tile.permute_dst, other)
        found.append(ctx.get(tile.error))

    simulate(testbench)
    assert found == [error]

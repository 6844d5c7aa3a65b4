"""Schedules the MXM planes: tiles of weights flow in, are installed and meet activations.

A step is one tile: LW brings it from the plane's weight slices, IW installs it, and one ABC for
each use multiplies. The next tile is loaded while this one is used, so a plane whose tiles are
used once takes a new tile every ``vector / load_streams`` cycles: the rate of the streams.
"""

import dataclasses
from collections.abc import Sequence

from waterclock.compiler.fabric import mask_of
from waterclock.compiler.plan import Act, NoFitError, Plan, first_cycle
from waterclock.isa import mem, mxm
from waterclock.isa.floorplan import Hemisphere, mem_column, mxm_column
from waterclock.isa.streams import stream

TRIES = 20000


@dataclasses.dataclass(frozen=True)
class Tile:
    """A tile in a plane's weight slices: row ``row + j`` of slice i is vector j * streams + i."""

    value: int
    row: int
    order: mxm.Order = mxm.Order.ROWS
    ready: int = 0  #: first cycle in which a Read may be issued


@dataclasses.dataclass(frozen=True)
class Use:
    """One activation vector against the tile, into an accumulator."""

    act: Act
    acc: int  #: entry
    add: bool
    weight: mxm.Weight = mxm.Weight.I8
    window: mxm.Window = mxm.Window.ALL
    first: int = 0
    last: int = 0


@dataclasses.dataclass(frozen=True)
class Step:
    """One tile and its uses, in order."""

    tile: Tile
    uses: Sequence[Use]


class Sums:
    """Value numbers of a plane's accumulators while steps add to them, and when they are done."""

    def __init__(self) -> None:
        self.value: dict[int, int] = {}
        self.ready: dict[int, int] = {}


def run_steps(
    plan: Plan,
    side: Hemisphere,
    plane: int,
    steps: Sequence[Step],
    sums: Sums,
    earliest: int = 0,
) -> None:
    """Schedule steps on a plane, one after the other, each as early as it can be.

    ``sums`` carries the accumulators from call to call and in the end tells each one's value
    number and the first cycle in which ACC may be issued.
    """
    for step in steps:
        _run_step(plan, side, plane, step, sums, earliest)


def _run_step(
    plan: Plan, side: Hemisphere, plane: int, step: Step, sums: Sums, earliest: int
) -> None:
    config = plan.config
    key = (side, plane)
    loads = config.vector // config.load_streams
    delay = mxm.acc_delay(config)
    column = mxm_column(config, side)
    slices = plan.memory.plane_slices(plane)
    read = mem.read_latency(config)
    hops = [abs(column - mem_column(config, side, index)) for index in slices]
    # IW comes as late after the first ABC as it may, and the last LW one cycle before IW.
    late = mxm.weights_at(config) - 1
    # The cycle of the first ABC.
    bound = max(
        earliest,
        first_cycle(config) + read + max(hops) + loads + 1 - late,
        step.tile.ready + read + max(hops) + loads - late,
        plan.last_abc[key] + config.digits,
        plan.installed[key] + loads - late,
        _uses_bound(plan, key, step, config.digits, delay),
    )
    number = plane * config.load_streams
    for start in range(bound, bound + TRIES):
        trial = plan.trial()
        times = [start + late - loads + j for j in range(loads)]
        mask = mask_of(times)
        starts = [(offset, mem_column(config, side, index)) for offset, index in enumerate(slices)]
        rows = [step.tile.row + j for j in range(loads)]
        fits = all(
            trial.claim_rows("read", (side, index), rows, [t - hop - read for t in times])
            for index, hop in zip(slices, hops, strict=True)
        )
        if fits and trial.stream_free(side.outward, number, starts, column, mask):
            break
    else:
        raise NoFitError(f"{plan.operations[plan.operation]}: no room for a tile of weights")
    trial.claim_streams(side.outward, number, starts, column, mask)
    trial.commit()
    code = stream(side.outward, number)
    for row, time in zip(rows, times, strict=True):
        for offset, (index, hop) in enumerate(zip(slices, hops, strict=True)):
            op = mem.Read(addr=row, dst=code + offset)
            plan.issue("mem_read", side, index, time - hop - read, op, (-1,))
        part = (row - step.tile.row) * config.load_streams
        op = mxm.LW(row=part, src=code, order=step.tile.order)
        plan.issue("mxm_lw", side, plane, time, op, (step.tile.value,))
    plan.issue("mxm_iw", side, plane, start + late, mxm.IW())
    plan.installed[key] = start + late
    cycle = start
    for use in step.uses:
        cycle = max(cycle, use.act.ready, _acc_bound(plan, key, use, delay))
        before = sums.value.get(use.acc, -1)
        if not use.add and use.window is not mxm.Window.OUTPUT:
            before = -1
        after = sums.value[use.acc] = plan.memory.value()
        op = mxm.ABC(
            entry=use.act.entry,
            acc=use.acc,
            add=int(use.add),
            activation=mxm.Activation.F16,
            weight=use.weight,
            window=use.window,
            first=use.first,
            last=use.last,
        )
        intents = (use.act.value, step.tile.value, before, after)
        plan.issue("mxm_abc", side, plane, cycle, op, intents)
        sums.ready[use.acc] = cycle + delay
        acts = plan.acts[key].free_from
        acts[use.act.entry] = max(acts[use.act.entry], cycle)
        plan.last_abc[key] = cycle
        cycle += config.digits


def _acc_bound(plan: Plan, key: tuple[Hemisphere, int], use: Use, delay: int) -> int:
    """Return the first cycle in which the use may write its accumulator: after it was emitted."""
    return plan.accs[key].free_from[use.acc] - delay + 1


def _uses_bound(
    plan: Plan, key: tuple[Hemisphere, int], step: Step, digits: int, delay: int
) -> int:
    """Return a first cycle from which all uses run without a gap."""
    return max(
        max(use.act.ready, _acc_bound(plan, key, use, delay)) - i * digits
        for i, use in enumerate(step.uses)
    )

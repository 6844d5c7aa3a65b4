"""Schedules the MXM planes: tiles of weights flow in, are installed and meet activations.

A step is one tile: LW brings it from the plane's weight slices, IW installs it, and one ABC for
each use multiplies. The next tile is loaded while this one is used, so a plane whose tiles are
used once takes a new tile every ``vector / load_streams`` cycles: the rate of the streams.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from waterclock.compiler.fabric import Trial, mask_of
from waterclock.compiler.fit_sources import emit_reads, read_streams
from waterclock.compiler.memory import Vec
from waterclock.compiler.plan import Act, NoFitError, Plan, first_cycle
from waterclock.isa import mem, mxm
from waterclock.isa.floorplan import Hemisphere, mem_column, mxm_column
from waterclock.isa.streams import stream

TRIES = 20000
MOST = 1024  #: steps that are tried at once
GAPS = (0, 1, 2)  #: cycles that the vectors of a tile make way for other reads
APART = (1, 0, 2)  #: the same of a tile with several uses, which leave the time for it

PlaneKey = tuple[Hemisphere, int]


@dataclasses.dataclass(frozen=True)
class Tile:
    """A tile in a plane's weight slices: row ``row + j`` of slice i is vector j * streams + i."""

    value: int
    row: int
    order: mxm.Order = mxm.Order.ROWS
    ready: int = 0  #: first cycle in which a Read may be issued
    slices: tuple[int, ...] = ()  #: where it lies, if not in the plane's own weight slices
    stride: int = 0  #: rows to the next layer's
    map: Vec | None = None  #: what is added to the rows, in lane 0; None for nothing
    count: int = 0  #: rows from ``row`` on that a map may choose


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
    done = 0
    while done < len(steps):
        done += _run_burst(plan, (side, plane), steps[done:], sums, earliest)


def _run_burst(plan: Plan, key: PlaneKey, steps: Sequence[Step], sums: Sums, earliest: int) -> int:
    """Schedule as many steps as go one after the other at full rate; return how many."""
    config = plan.config
    pace = max(config.vector // config.load_streams, config.digits)
    first = _bound(plan, key, steps[0], earliest)
    count, most = 1, min(len(steps), MOST)
    while count < most and _follows(plan, key, steps, count, first + count * pace, pace):
        count += 1
    while count > 1:
        trial = plan.trial()
        maps = _claim(plan, key, steps[:count], first, pace, trial)
        if maps is not None:
            _issue(plan, key, steps[:count], first, pace, trial, sums, maps)
            return count
        count //= 2
    gaps = (0,)
    if config.wide and not steps[0].tile.map:
        gaps = GAPS if len(steps[0].uses) == 1 else APART
    for start, gap in itertools.product(range(first, first + TRIES), gaps):
        if gap and start - gap < _room(plan, key):
            continue
        trial = plan.trial()
        maps = _claim(plan, key, steps[:1], start, pace, trial, gap)
        if maps is not None:
            _issue(plan, key, steps[:1], start, pace, trial, sums, maps, gap)
            return 1
    raise NoFitError(f"{plan.operations[plan.operation]}: no room for a tile of weights")


def _follows(
    plan: Plan, key: PlaneKey, steps: Sequence[Step], index: int, cycle: int, pace: int
) -> bool:
    """Tell whether a step is ready in ``cycle`` and its tile stands behind the one before."""
    before, step, loads = (
        steps[index - 1],
        steps[index],
        plan.config.vector // plan.config.load_streams,
    )
    tile, last = step.tile, before.tile
    return (
        tile.map is last.map is None
        and tile.row == last.row + loads
        and tile.value == last.value + 1
        and (tile.slices, tile.stride, tile.order) == (last.slices, last.stride, last.order)
        and len(before.uses) * plan.config.digits <= pace
        and _ready(plan, key, step) <= cycle
    )


def _bound(plan: Plan, key: PlaneKey, step: Step, earliest: int) -> int:
    """Return the first cycle in which the first ABC of a step may be issued."""
    return max(
        earliest,
        _ready(plan, key, step),
        plan.last_abc[key] + plan.config.digits,
        _room(plan, key),
    )


def _room(plan: Plan, key: PlaneKey) -> int:
    """Return the first cycle of an ABC whose tile finds the buffer empty."""
    config = plan.config
    # IW comes as late after the first ABC as it may, and the last LW one cycle before IW.
    late = mxm.weights_at(config) - 1
    return plan.installed[key] + config.vector // config.load_streams - late


def _ready(plan: Plan, key: PlaneKey, step: Step) -> int:
    """Return when the operands of a step are ready: its tile, activations and accumulators."""
    config, (side, plane) = plan.config, key
    slices = step.tile.slices or plan.memory.plane_slices(plane)
    column = mxm_column(config, side)
    farthest = max(abs(column - mem_column(config, side, index)) for index in slices)
    loads, late = config.vector // config.load_streams, mxm.weights_at(config) - 1
    return max(
        max(step.tile.ready, first_cycle(config) + 1)
        + mem.read_latency(config) + farthest + loads - late,
        _uses_bound(plan, key, step, config.digits, mxm.acc_delay(config)),
    )  # fmt: skip


def _claim(
    plan: Plan,
    key: PlaneKey,
    steps: Sequence[Step],
    start: int,
    pace: int,
    trial: Trial,
    gap: int = 0,
) -> dict[int, int] | None:
    """Claim the reads and streams of steps whose first ABC is issued in ``start``.

    The first vectors of a tile come ``gap`` cycles before they would have to.
    Returns the streams of a tile's maps by the cycle, None if something is taken.
    """
    config, (side, plane) = plan.config, key
    loads, late = config.vector // config.load_streams, mxm.weights_at(config) - 1
    tile = steps[0].tile
    slices = tile.slices or plan.memory.plane_slices(plane)
    column = mxm_column(config, side)
    begin = start + late - loads
    times = [begin + i * pace + j for i in range(len(steps)) for j in range(loads)]
    times[0] -= gap
    rows = [step.tile.row + j for step in steps for j in range(loads)]
    again = max((plan.repetitions - 1) * tile.stride, tile.count)
    mask = mask_of(times)
    starts = [(offset, mem_column(config, side, index)) for offset, index in enumerate(slices)]
    number = plane * config.load_streams
    if not trial.stream_free(side.outward, number, starts, column, mask):
        return None
    for index in slices:
        early = abs(column - mem_column(config, side, index)) + mem.read_latency(config)
        if not trial.claim_run("read", (side, index), rows, mask >> early, again):
            return None
    trial.claim_streams(side.outward, number, starts, column, mask)
    return _maps(plan, side, tile, times, trial)


def _maps(
    plan: Plan, side: Hemisphere, tile: Tile, times: list[int], trial: Trial
) -> dict[int, int] | None:
    """Claim the maps of a tile's Gathers; return their streams by the cycle of the Gather.

    The slices are those of one column. None when a map does not fit.
    """
    found: dict[int, int] = {}
    if tile.map is None:
        return found
    column = mem_column(plan.config, side, plan.memory.first_weight)
    early = abs(mxm_column(plan.config, side) - column) + mem.read_latency(plan.config)
    for issue in (time - early for time in times):
        place = tile.map.on(side)
        code = read_streams(trial, plan, [place], column, [issue], 2, is_map=True)
        if code is None or not all(trial.sample(column, code + n, 1 << issue) for n in (0, 1)):
            return None
        found[issue] = code
    return found


def _gather(plan: Plan, side: Hemisphere, tile: Tile, code: int, maps: dict[int, int]) -> None:
    """Add the Gathers of a tile and the reads of its maps."""
    assert tile.map is not None
    column = mem_column(plan.config, side, plan.memory.first_weight)
    value = tile.map.value
    for part, (issue, found) in enumerate(sorted(maps.items())):
        emit_reads(plan, [tile.map.on(side)], column, [issue], found, 2)
        for offset, index in enumerate(plan.memory.plane_slices(0)):
            op = mem.Gather(addr=tile.row + part, dst=code + offset, map=found, lane=0)
            plan.issue("mem_read", side, index, issue, op, (value,))
            byte = part * plan.config.load_streams + offset
            region = (
                0, int(side), index, tile.row + part, tile.count - part, value, 0,
                tile.value, byte, -1, -1, 1, 0,
            )  # fmt: skip
            plan.regions.append((region, 0))


def _issue(
    plan: Plan,
    key: PlaneKey,
    steps: Sequence[Step],
    start: int,
    pace: int,
    trial: Trial,
    sums: Sums,
    maps: dict[int, int],
    gap: int = 0,
) -> None:
    """Issue steps that were claimed, see ``_claim``."""
    config, (side, plane) = plan.config, key
    trial.commit()
    loads, late = config.vector // config.load_streams, mxm.weights_at(config) - 1
    delay = mxm.acc_delay(config)
    first = steps[0].tile
    slices = first.slices or plan.memory.plane_slices(plane)
    column = mxm_column(config, side)
    code = stream(side.outward, plane * config.load_streams)
    begin = start + late - loads
    if gap:
        runs = [(begin - gap, 1, 0), (begin + 1, loads - 1, 1)]
    elif pace == loads:
        runs = [(begin, len(steps) * loads, 0)]
    else:
        runs = [(begin + i * pace, loads, i * loads) for i in range(len(steps))]
    tiles = [(step.tile.value,) for step in steps for _ in range(loads)]
    if first.map is not None:
        _gather(plan, side, first, code, maps)
    for cycle, count, skip in runs:
        for offset, index in enumerate(slices if first.map is None else ()):
            early = abs(column - mem_column(config, side, index)) + mem.read_latency(config)
            read = mem.Read(addr=first.row + skip, dst=code + offset)
            plan.issue("mem_read", side, index, cycle - early, read, (-1,), first.stride, count, 1)
        lw = mxm.LW(row=skip % loads * config.load_streams, src=code, order=first.order)
        some = tiles[skip : skip + count]
        plan.issue("mxm_lw", side, plane, cycle, lw, some, 0, count, config.load_streams)
    for number, step in enumerate(steps):
        cycle = start + number * pace
        plan.issue("mxm_iw", side, plane, cycle + late, mxm.IW())
        plan.installed[key] = cycle + late
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

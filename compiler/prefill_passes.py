"""Passes: activations of a block stream past a tile that stays, one position a cycle.

All planes of a hemisphere take the same stream: ABL takes a vector, an ABC follows a cycle later,
into the accumulator of that position. While a pass runs, LW brings the next tile, and
the activations of the next pass follow at once, so a plane multiplies in every cycle.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from waterclock.compiler.array import Tile
from waterclock.compiler.fabric import Trial, mask_of
from waterclock.compiler.image import PlaneKey
from waterclock.compiler.plan import Acc, NoFitError, Plan, first_cycle
from waterclock.compiler.prefill_rows import Bundle, half
from waterclock.isa import mem, mxm
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere, mem_column, mxm_column
from waterclock.isa.streams import stream

TRIES = 20000


@dataclasses.dataclass(frozen=True)
class Tap:
    """What a plane does with the activations that stream past."""

    tile: Tile
    add: bool
    weight: mxm.Weight = mxm.Weight.I8
    window: mxm.Window = mxm.Window.ALL
    first: int = 0
    last: int = 0


class Round:
    """Accumulators of planes while passes add to them: value numbers and when they are done."""

    def __init__(self) -> None:
        self.values: dict[PlaneKey, list[int]] = {}
        self.ready: dict[PlaneKey, int] = {}

    def accs(self, key: PlaneKey) -> list[Acc]:
        """Return a plane's accumulators, one a position."""
        ready = self.ready[key]
        return [Acc(*key, t, value, ready + t) for t, value in enumerate(self.values[key])]


def load_stream(config: Config) -> int:
    """Return the first stream that brings weights to any plane: the last ones."""
    return config.streams - config.load_streams


def act_stream(config: Config) -> int:
    """Return the first of the two streams that bring activations: beside the weights'."""
    return (load_stream(config) or config.streams) - 2


def run_pass(
    plan: Plan, side: Hemisphere, acts: Bundle, taps: Mapping[int, Tap], round: Round
) -> None:
    """Schedule one pass over the planes of a hemisphere: plane -> tap."""
    config = plan.config
    places, n = half(acts, side), len(acts.vecs)
    column, read = mxm_column(config, side), mem.read_latency(config)
    late, delay = mxm.weights_at(config) - 1, mxm.acc_delay(config)
    keys = {plane: (side, plane) for plane in taps}
    slices = places[0].slices
    starts = [(i, mem_column(config, places[0].side, index)) for i, index in enumerate(slices)]
    hops = [abs(column - at) for _, at in starts]
    lead = read + max(hops) + 1  # from the first Read to the first ABC
    bound = max(
        first_cycle(config) + lead + n,
        max(place.ready - t for t, place in enumerate(places)) + lead,
        *(plan.last_abc[key] + 1 for key in keys.values()),
        *(
            plan.accs[key].free_from[t] - delay + 1 - t
            for plane, key in keys.items()
            if not (taps[plane].add and key in round.values)
            for t in range(n)
        ),
    )
    code, rows = stream(side.outward, act_stream(config)), [place.row for place in places]
    for start in range(bound, bound + TRIES):
        trial = plan.trial()
        arrive = mask_of(range(start - 1, start - 1 + n))
        issues = [[start - 1 + t - hop - read for t in range(n)] for hop in hops]
        if not all(
            trial.claim_rows("read", (places[0].side, index), rows, times)
            for index, times in zip(slices, issues, strict=True)
        ):
            continue
        if not trial.stream_free(side.outward, act_stream(config), starts, column, arrive):
            continue
        trial.claim_streams(side.outward, act_stream(config), starts, column, arrive)
        loads = {p: _load(plan, trial, keys[p], tap, start + late) for p, tap in taps.items()}
        if all(loads.values()):
            break
    else:
        raise NoFitError(f"{plan.operations[plan.operation]}: no room for a pass")
    trial.commit()
    for offset, (index, times) in enumerate(zip(slices, issues, strict=True)):
        op = mem.Read(addr=rows[0], dst=code + offset)
        plan.issue("mem_read", places[0].side, index, times[0], op, (-1,), 0, n, 1)
    acts.room.free_from = max(acts.room.free_from, start + n)
    for plane, tap in taps.items():
        key = keys[plane]
        _emit_load(plan, key, tap, loads[plane] or [])
        plan.issue("mxm_iw", side, plane, start + late, mxm.IW())
        plan.installed[key] = start + late
        plan.last_abc[key] = start + n - 1
        before = round.values.get(key) if tap.add or tap.window is mxm.Window.OUTPUT else None
        first = plan.memory.numbers(n)
        after = list(range(first, first + n))
        # An entry is used in the cycle after it is loaded, so one is enough.
        taken = [(vec.value,) for vec in acts.vecs]
        plan.issue("mxm_abl", side, plane, start - 1, mxm.ABL(entry=0, src=code), taken, 0, n)
        op = mxm.ABC(
            entry=0, acc=0, add=int(tap.add), activation=mxm.Activation.F16, weight=tap.weight,
            window=tap.window, first=tap.first, last=tap.last,
        )  # fmt: skip
        summed = [
            (vec.value, tap.tile.value, before[t] if before else -1, after[t])
            for t, vec in enumerate(acts.vecs)
        ]
        plan.issue("mxm_abc", side, plane, start, op, summed, 0, n, 1 << mxm.ENTRY_BITS)
        round.values[key] = after
        round.ready[key] = start + delay


def _load(plan: Plan, trial: Trial, key: PlaneKey, tap: Tap, install: int) -> list[int] | None:
    """Claim the LWs of a tile, the last as late before IW as it fits; return their cycles.

    Where they can be, they are as far apart as those of the passes, so that all Reads of a row
    of tiles have one distance.
    """
    config = plan.config
    side, plane = key
    count = config.vector // config.load_streams
    n = config.act_entries
    column, read = mxm_column(config, side), mem.read_latency(config)
    slices = tap.tile.slices or plan.memory.plane_slices(plane)
    hops = [abs(column - mem_column(config, side, index)) for index in slices]
    starts = [(i, mem_column(config, side, index)) for i, index in enumerate(slices)]
    rows = [tap.tile.row + j for j in range(count)]
    again = (plan.repetitions - 1) * tap.tile.stride
    earliest = max(plan.installed[key], max(tap.tile.ready, first_cycle(config)) + read + max(hops))
    number = load_stream(config)
    for spacing in dict.fromkeys((n // count, 1)):
        for last in range(install - 1, earliest + (count - 1) * spacing - 1, -1):
            times = [last - (count - 1 - j) * spacing for j in range(count)]
            claims = dict(trial.claims)
            mask = mask_of(times)
            if trial.stream_free(side.outward, number, starts, column, mask) and all(
                trial.claim_rows(
                    "read", (side, index), rows, [t - hop - read for t in times], again
                )
                for index, hop in zip(slices, hops, strict=True)
            ):
                trial.claim_streams(side.outward, number, starts, column, mask)
                return times
            trial.claims = claims
    return None


def _emit_load(plan: Plan, key: PlaneKey, tap: Tap, times: Sequence[int]) -> None:
    """Add the Reads and LWs of a tile."""
    config = plan.config
    side, plane = key
    column, read = mxm_column(config, side), mem.read_latency(config)
    code = stream(side.outward, load_stream(config))
    for j, time in enumerate(times):
        row = tap.tile.row + j
        slices = tap.tile.slices or plan.memory.plane_slices(plane)
        for offset, index in enumerate(slices):
            hop = abs(column - mem_column(config, side, index))
            op = mem.Read(addr=row, dst=code + offset)
            issue = time - hop - read
            plan.issue("mem_read", side, index, issue, op, (-1,), tap.tile.stride)
        lw = mxm.LW(row=j * config.load_streams, src=code, order=tap.tile.order)
        plan.issue("mxm_lw", side, plane, time, lw, (tap.tile.value,))

"""Results of a stencil: on streams to memory, to activation buffers, into the cache."""

from collections.abc import Sequence

from waterclock.compiler.attempt import Attempt, Emit
from waterclock.compiler.fabric import mask_of
from waterclock.compiler.fit_sources import emit_reads, read_streams
from waterclock.compiler.memory import Place, Vec
from waterclock.compiler.stencil import Activate, Deal, Node, Region, Sink, Spread, Store
from waterclock.isa import mem, mxm
from waterclock.isa.config import WIDTH
from waterclock.isa.floorplan import Hemisphere, mem_column, mxm_column, vxm_column
from waterclock.isa.streams import stream


def route_sinks(attempt: Attempt, node: Node, cycles: list[int], span: int) -> int | None:
    """Route a node's results to all of its sinks on one group of streams."""
    config = attempt.plan.config
    centre = vxm_column(config)
    side = _side(node.sinks)
    to_planes = any(isinstance(sink, Activate) for sink in node.sinks)
    most = WIDTH if config.wide and to_planes else config.streams
    numbers = list(range(0, most - span + 1, WIDTH if config.wide else span))
    if config.wide:
        numbers.reverse()  # the lowest are those of the weights
    for number in numbers:
        snapshot, emits, rows = dict(attempt.trial.claims), len(attempt.emits), dict(attempt.rows)
        ends = [centre]
        code = stream(side.outward, number)
        for sink in node.sinks:
            if isinstance(sink, Store):
                end = _store(attempt, node, sink, cycles, code, span)
            elif isinstance(sink, Activate):
                end = _activate(attempt, node, sink, cycles, code)
            elif isinstance(sink, Deal):
                end = _deal(attempt, node, sink, cycles, code)
            else:
                end = _spread(attempt, node, sink, cycles, code)
            if end is None:
                break
            ends.append(end)
        else:
            end = max(ends, key=lambda column: abs(column - centre))
            starts = [(offset, centre) for offset in range(span)]
            mask = mask_of([cycle + abs(end - centre) for cycle in cycles])
            if attempt.trial.stream_free(side.outward, number, starts, end, mask):
                attempt.trial.claim_streams(side.outward, number, starts, end, mask)
                return code
        attempt.trial.claims, attempt.rows = snapshot, rows
        del attempt.emits[emits:]
    return None


def _side(sinks: Sequence[Sink]) -> Hemisphere:
    sides = {sink.regions[0][0].side if isinstance(sink, Spread) else sink.side for sink in sinks}
    assert len(sides) == 1, "one result flows one way"
    return sides.pop()


def _store(
    attempt: Attempt, node: Node, sink: Store, cycles: list[int], code: int, span: int
) -> int | None:
    """Write the results into a set of the sink's hemisphere, one row an item."""
    count = len(attempt.plan.memory.sets) // 2
    order = [(sink.prefer + i) % count for i in range(1 if sink.only else count)]
    for number in order[:1] if sink.at else order:
        claims = dict(attempt.trial.claims)
        end = _store_in(attempt, node, sink, number, cycles, code, span)
        if end is not None:
            return end
        attempt.trial.claims = claims
    return None


def _store_in(
    attempt: Attempt, node: Node, sink: Store, number: int, cycles: list[int], code: int, span: int
) -> int | None:
    """Write the results into one set."""
    plan, config, memory = attempt.plan, attempt.plan.config, attempt.plan.memory
    centre, side = vxm_column(config), sink.side
    slices = (sink.at[0].slices if sink.at else memory.slices_of(number))[:span]
    first = attempt.next_row(side, number)
    rows = [p.row for p in sink.at] if sink.at else [first + i for i in range(len(cycles))]
    if not sink.at and not memory.has_room(
        side, memory.slices_of(number), rows[-1] + 1, attempt.top_row(side, number)
    ):
        return None
    issues: dict[int, list[int]] = {}
    for offset, index in enumerate(slices):
        column = mem_column(config, side, index)
        issues[index] = [cycle + abs(column - centre) for cycle in cycles]
        if not attempt.trial.sample(column, code + offset, mask_of(issues[index])):
            return None
        if not attempt.trial.claim_rows("write", (side, index), rows, issues[index]):
            return None

    def emit() -> None:
        if not sink.at:
            taken = memory.rows(side, memory.slices_of(number), len(cycles))
            assert taken == first
        for item, row in enumerate(rows):
            for offset, index in enumerate(slices):
                op = mem.Write(addr=row, src=code + offset)
                intents = (node.values[item], -1)
                plan.issue("mem_write", side, index, issues[index][item], op, intents)
            ready = max(issues[index][item] for index in slices) + 1
            sink.vecs.append(Vec(node.values[item], [Place(side, slices, row, ready)]))

    attempt.emits.append(emit)
    if not sink.at:
        attempt.rows[side, number] = attempt.rows.get((side, number), 0) + len(cycles)
    return max(
        (mem_column(config, side, index) for index in slices),
        key=lambda column: abs(column - centre),
    )


def _activate(
    attempt: Attempt, node: Node, sink: Activate, cycles: list[int], code: int
) -> int | None:
    """Load the results into activation entries as they arrive at the plane."""
    plan, config = attempt.plan, attempt.plan.config
    column = mxm_column(config, sink.side)
    hops = abs(column - vxm_column(config))
    ring = plan.acts[sink.side, sink.plane]
    used = [(i, cycle + hops) for i, cycle in enumerate(cycles) if sink.entries[i] >= 0]
    if any(cycle < ring.free_from[sink.entries[item]] for item, cycle in used):
        return None
    if not attempt.trial.claim(("abl", sink.side, sink.plane), mask_of([c for _, c in used])):
        return None

    def emit() -> None:
        sink.ready = [cycle + hops + 1 for cycle in cycles]
        sink.values = list(node.values)
        for item, cycle in used:
            op = mxm.ABL(entry=sink.entries[item], src=code)
            plan.issue("mxm_abl", sink.side, sink.plane, cycle, op, (node.values[item],))

    attempt.emits.append(emit)
    return column


def _spread(attempt: Attempt, node: Node, sink: Spread, cycles: list[int], code: int) -> int | None:
    """Scatter the results into cache regions, each slice with its own lane of the maps."""
    plan, config = attempt.plan, attempt.plan.config
    centre, lanes = vxm_column(config), config.lanes
    side = sink.regions[0][0].side
    farthest = centre
    todo: list[tuple[int, int, Region, int, int]] = []  # cycle, slice, region, item, slice number
    for item, cycle in enumerate(cycles):
        for region in sink.regions[item]:
            again = (plan.repetitions - 1) * region.stride
            for number, index in enumerate(region.slices):
                column = mem_column(config, side, index)
                issue = cycle + abs(column - centre)
                farthest = max(farthest, column, key=lambda c: abs(c - centre))
                todo.append((issue, index, region, item, number))
                if not attempt.trial.claim(("write", side, index), 1 << issue):
                    return None
                if not attempt.trial.sample(column, code + region.byte, 1 << issue):
                    return None
                for bank in {
                    region.base // config.rows,
                    (region.base + region.count - 1) // config.rows,
                    (region.base + region.count - 1 + again) // config.rows,
                }:
                    if not attempt.trial.claim(("bank", side, index, bank), 1 << issue):
                        return None
    codes: dict[tuple[int, int], int] = {}
    reads: list[Emit] = []
    for number, vec in enumerate(sink.maps):
        place = next(p for p in vec.places if p.side is side)
        indices = {i for _, i, r, _, n in todo if n // lanes == number}
        end = max((mem_column(config, side, i) for i in indices), key=lambda c: abs(c - centre))
        for item, cycle in enumerate(cycles):
            at = cycle + abs(end - centre)
            found = read_streams(attempt, plan, [place], end, [at], 2, is_map=True)
            if found is None:
                return None
            for issue, i, _, which, n in todo:
                column = mem_column(config, side, i)
                mine = n // lanes == number and which == item
                if mine and not all(
                    attempt.trial.sample(column, found + half, 1 << issue) for half in (0, 1)
                ):
                    return None
            codes[number, item] = found
            reads.append(lambda p=place, e=end, a=at, c=found: emit_reads(plan, [p], e, [a], c, 2))

    def emit() -> None:
        for run in reads:
            run()
        for issue, index, region, item, number in todo:
            vec = sink.maps[number // lanes]
            op = mem.Scatter(
                addr=region.base,
                src=code + region.byte,
                map=codes[number // lanes, item],
                lane=number % lanes,
            )
            intents = (node.values[item], vec.value)
            plan.issue("mem_write", side, index, issue, op, intents, region.stride)
            row = (1, int(side), index, region.base, region.count, vec.value, number % lanes,
                   region.first, number, node.values[item], region.byte, region.rows_a_tile,
                   len(region.slices))  # fmt: skip
            plan.regions.append((row, region.stride))
            sink.ready = max(sink.ready, issue + 1)

    attempt.emits.append(emit)
    return farthest


def _deal(attempt: Attempt, node: Node, sink: Deal, cycles: list[int], code: int) -> int | None:
    """Scatter each result into one slice of its regions."""
    plan, config = attempt.plan, attempt.plan.config
    centre, rows = vxm_column(config), config.rows
    farthest = centre
    for item, cycle in enumerate(cycles):
        for region, vec in sink.targets[item]:
            number = sink.numbers[item]
            index = region.slices[number]
            column = mem_column(config, sink.side, index)
            issue = cycle + abs(column - centre)
            farthest = max(farthest, column, key=lambda c: abs(c - centre))
            again = (plan.repetitions - 1) * region.stride
            banks = range(region.base // rows, (region.base + region.count - 1 + again) // rows + 1)
            place, map_code = vec.places[0], None
            if (
                attempt.trial.claim(("write", sink.side, index), 1 << issue)
                and attempt.trial.sample(column, code + region.byte, 1 << issue)
                and all(
                    attempt.trial.claim(("bank", sink.side, index, bank), 1 << issue)
                    for bank in banks
                )
            ):
                map_code = read_streams(attempt, plan, [place], column, [issue], 2, is_map=True)
            if map_code is None or not all(
                attempt.trial.sample(column, map_code + byte, 1 << issue) for byte in (0, 1)
            ):
                return None

            def emit(
                issue: int = issue, index: int = index, region: Region = region, vec: Vec = vec,
                place: Place = place, column: int = column, map_code: int = map_code,
                source: int = node.values[item], number: int = number,
            ) -> None:  # fmt: skip
                emit_reads(plan, [place], column, [issue], map_code, 2)
                op = mem.Scatter(addr=region.base, src=code + region.byte, map=map_code, lane=0)
                intents = (source, vec.value)
                plan.issue("mem_write", sink.side, index, issue, op, intents, region.stride)
                row = (1, int(sink.side), index, region.base, region.count, vec.value, 0,
                       region.first, number, source, region.byte, region.rows_a_tile,
                       len(region.slices))  # fmt: skip
                plan.regions.append((row, region.stride))
                sink.ready = max(sink.ready, issue + 1)

            attempt.emits.append(emit)
    return farthest

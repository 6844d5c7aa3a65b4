"""Fits a stencil into a plan: the first cycle in which every ALU, stream and slice is free."""

import dataclasses
from collections.abc import Callable


from waterclock.compiler.fabric import Trial, mask_of
from waterclock.compiler.memory import Place, Vec
from waterclock.compiler.plan import Plan, first_cycle
from waterclock.compiler.stencil import (
    Activate,
    Constant,
    Emitted,
    Gathered,
    Imm,
    Node,
    Pick,
    Region,
    Spread,
    Stencil,
    Store,
    Stored,
    Table,
)
from waterclock.isa import mem, mxm, vxm
from waterclock.isa.floorplan import Hemisphere, mem_column, mxm_column, vxm_column
from waterclock.isa.streams import (
    SOURCE_ALU,
    SOURCE_IMM,
    TARGET_NONE,
    TARGET_STREAM,
)

TRIES = 3000  #: cycles that a stencil is moved before the compiler gives up
Emit = Callable[[], None]
_Found = tuple[list[int], list[int]]  # of each item: source code, value number


class NoFitError(RuntimeError):
    """A stencil does not fit anywhere: the machine lacks a resource that it needs."""


@dataclasses.dataclass
class _Fit:
    """One attempt: claims so far, and what to do when all of them succeeded."""

    plan: Plan
    trial: Trial
    start: int
    emits: list[Emit]
    units: dict[int, int]  # id(node) -> ALU number
    rows: dict[tuple[Hemisphere, int], int]  # rows of each set that this attempt takes
    tops: dict[tuple[Hemisphere, int], int]  # the same at the top, for constants

    def cycles(self, node: Node) -> list[int]:
        return [self.start + node.time + offset for offset in node.offsets]

    def next_row(self, side: Hemisphere, number: int) -> int:
        """Return the row of a set that comes next, after those that this attempt takes."""
        memory = self.plan.memory
        row = max(memory.next_row[side, index] for index in memory.slices_of(number))
        return row + self.rows.get((side, number), 0)

    def top_row(self, side: Hemisphere, number: int) -> int:
        """Return the lowest row that constants of a set take, this attempt's included."""
        memory = self.plan.memory
        row = min(memory.top_row[side, index] for index in memory.slices_of(number))
        return row - self.tops.get((side, number), 0)


def fit(plan: Plan, stencil: Stencil, earliest: int = 0) -> int:
    """Place a stencil in the first cycle that holds it; return that cycle.

    Fills in what the stencil's sinks promise: places, ready cycles, value numbers.

    Raises
    ------
    NoFitError
        When no start is possible.
    """
    stencil.solve()
    for node in stencil.nodes:
        node.values = [plan.memory.value() for _ in node.offsets]
    start = max(earliest, _bound(plan, stencil))
    for start in range(start, start + TRIES):
        attempt = _Fit(plan, plan.trial(), start, [], {}, {}, {})
        if _place(attempt, stencil):
            attempt.trial.commit()
            for emit in attempt.emits:
                emit()
            return start
    names = ", ".join(node.op.mnemonic for node in stencil.nodes)
    raise NoFitError(f"{plan.operations[plan.operation]}: no room for {names}")


def _bound(plan: Plan, stencil: Stencil) -> int:
    """Return a lower bound of the start, from what the operands wait for."""
    config, centre = plan.config, vxm_column(plan.config)
    bound = first_cycle(config)
    read = mem.read_latency(config)
    for node in stencil.nodes:
        for source in node.inputs:
            for item, offset in enumerate(node.offsets):
                arrival = 0
                if isinstance(source, Stored):
                    arrival = min(
                        place.ready + read + _farthest(plan, place.side, place.slices)
                        for place in source.vecs[item].places
                    )
                elif isinstance(source, Constant):
                    arrival = first_cycle(config) + read + config.groups
                elif isinstance(source, Emitted):
                    acc = source.accs[item]
                    hops = abs(mxm_column(config, acc.side) - centre)
                    arrival = acc.ready + mxm.acc_latency(config) + hops
                elif isinstance(source, Gathered):
                    ready = min(place.ready for place in source.map.places)
                    arrival = ready + 2 * read + 3 * config.groups
                bound = max(bound, arrival - node.time - offset)
    return bound


def _farthest(plan: Plan, side: Hemisphere, slices: tuple[int, ...]) -> int:
    return max(
        abs(mem_column(plan.config, side, index) - vxm_column(plan.config)) for index in slices
    )


def _place(fit: _Fit, stencil: Stencil) -> bool:
    """Claim everything; what can go to one place only comes before what has a choice."""
    if not all(_place_unit(fit, node) for node in stencil.nodes):
        return False
    sources = [(node, i) for node in stencil.nodes for i in range(len(node.inputs))]
    found: dict[tuple[int, int], _Found] = {}
    shared: dict[tuple[object, ...], _Found] = {}  # one read may serve several ALUs at once
    for constants in (False, True):
        for node, position in sources:
            if isinstance(node.inputs[position], Constant) is constants:
                source = node.inputs[position]
                what = tuple(map(id, source.vecs)) if isinstance(source, Stored) else id(source)
                key = (what, node.time, tuple(node.offsets))
                routed = shared.get(key) or _source(fit, node, position)
                if routed is None:
                    return False
                found[id(node), position] = routed
                if isinstance(source, (Stored, Constant, Emitted)):
                    shared[key] = routed
    for node in stencil.nodes:
        target = TARGET_NONE
        cycles = fit.cycles(node)
        if node.sinks:
            spec = next(spec for spec in node.op.operands if spec.name == "dst")
            code = _sinks(fit, node, [c + node.latency for c in cycles], int(spec.streams))  # type: ignore[arg-type]
            if code is None:
                return False
            target = TARGET_STREAM | code
        operands = [found[id(node), i] for i in range(len(node.inputs))]
        fit.emits.append(
            lambda n=node, c=cycles, o=operands, t=target: _emit(fit, n, c, o, t)
        )
    return True


def _place_unit(fit: _Fit, node: Node) -> bool:
    """Choose an ALU that has the feature and is free at every issue and every result."""
    config = fit.plan.config
    cycles = fit.cycles(node)
    issue = mask_of(cycles)
    if node.hold:
        issue = mask_of(list(range(cycles[0], cycles[-1] + 1)))
    result = issue << node.latency
    if node.op.kind == "reduce":
        candidates = [len(config.alus)]
    else:
        feature = vxm.FEATURE[node.op]
        candidates = sorted(
            (i for i, features in enumerate(config.alus) if feature in features),
            key=lambda i: (len(config.alus[i]), i),
        )
    for unit in candidates:
        keys = (("alu", unit), ("bus", unit))
        if fit.trial.free(keys[0], issue) and fit.trial.free(keys[1], result):
            fit.trial.claim(keys[0], issue)
            fit.trial.claim(keys[1], result)
            fit.units[id(node)] = unit
            return True
    return False


def _emit(
    fit: _Fit,
    node: Node,
    cycles: list[int],
    operands: list[_Found],
    target: int,
) -> None:
    """Add the issues of one node."""
    plan, unit = fit.plan, fit.units[id(node)]
    kind = node.op.kind
    own = SOURCE_ALU + unit
    for item, cycle in enumerate(cycles):
        op, found, meant = node.op, [o[0][item] for o in operands], [o[1][item] for o in operands]
        if node.ring and item >= node.ring:  # a running sum takes its own earlier result
            found[1], meant[1] = own, node.values[item - node.ring]
        if node.hold:
            if item == 0:
                op = vxm.OPS["mov"]
            else:
                found, meant = [own, found[0]], [node.values[item - 1], meant[0]]
        out = node.values[item]
        if kind == "reduce":
            fields = {"a": found[0], "dst": target}
            plan.issue(kind, None, unit, cycle, op(**fields), (meant[0], out))
        else:
            two = vxm.ARITY[op] == 2
            fields = {
                "a": found[0],
                "b": found[1] if two else SOURCE_IMM,
                "dst": target,
                "imm": node.imm,
            }
            intents = (meant[0], meant[1] if two else -1, out)
            plan.issue(kind, None, unit, cycle, op(**fields), intents)
        if node.hold and item + 1 < len(cycles):
            for gap in range(cycle + 1, cycles[item + 1]):
                keep = vxm.OPS["mov"](a=own, b=SOURCE_IMM, dst=TARGET_NONE, imm=0)
                plan.issue(kind, None, unit, gap, keep, (out, -1, out))


def _source(fit: _Fit, node: Node, position: int) -> _Found | None:
    """Return the source code and the value number of each item, or None if it does not fit."""
    source, cycles = node.inputs[position], fit.cycles(node)
    spec = next(spec for spec in node.op.operands if spec.name == "ab"[position])
    span = int(spec.streams)  # type: ignore[arg-type]
    n = len(cycles)
    if isinstance(source, Imm):
        return [SOURCE_IMM] * n, [-1] * n
    if isinstance(source, Node):
        return [SOURCE_ALU + fit.units[id(source)]] * n, list(source.values)
    if isinstance(source, Pick):
        code = SOURCE_ALU + fit.units[id(source.node)]
        return [code], [source.node.values[source.item]]
    if isinstance(source, Constant):
        if not source.vecs:
            return _constant(fit, source, cycles, span)
        return _stored(fit, list(source.vecs), cycles, span)
    if isinstance(source, Stored):
        return _stored(fit, list(source.vecs), cycles, span)
    if isinstance(source, Emitted):
        return _emitted(fit, source, cycles)
    assert isinstance(source, Gathered)
    return _gathered(fit, source, cycles, span)


def read_streams(
    fit: "_Fit | Trial", plan: Plan, places: list[Place], column: int, cycles: list[int], span: int
) -> int | None:
    """Claim Reads of one vector an item so that they arrive at ``column`` in ``cycles``.

    All places must name the same slices. Returns the stream code, or None.
    """
    trial = fit.trial if isinstance(fit, _Fit) else fit
    config = plan.config
    side, slices = places[0].side, places[0].slices[:span]
    read = mem.read_latency(config)
    starts = []
    for offset, index in enumerate(slices):
        at = mem_column(config, side, index)
        starts.append((offset, at))
        issues = [cycle - abs(at - column) - read for cycle in cycles]
        for place, issue in zip(places, issues, strict=True):
            if issue < max(place.ready, first_cycle(config)):
                return None
        if not trial.claim(("read", side, index), mask_of(issues)):
            return None
        for bank in {place.row // config.rows for place in places}:
            hits = [t for t, p in zip(issues, places, strict=True) if p.row // config.rows == bank]
            if not trial.claim(("bank", side, index, bank), mask_of(hits)):
                return None
    near = mem_column(config, side, slices[0])
    inward = side.inward if abs(column - vxm_column(config)) < abs(
        near - vxm_column(config)
    ) or (column - vxm_column(config)) * (near - vxm_column(config)) <= 0 else side.outward
    return trial.route(inward, starts, column, mask_of(cycles), span)


def emit_reads(
    plan: Plan, places: list[Place], column: int, cycles: list[int], code: int, span: int
) -> None:
    """Add the Read issues that ``read_streams`` claimed."""
    read = mem.read_latency(plan.config)
    for offset, index in enumerate(places[0].slices[:span]):
        at = mem_column(plan.config, places[0].side, index)
        for place, cycle in zip(places, cycles, strict=True):
            op = mem.Read(addr=place.row, dst=code + offset)
            issue = cycle - abs(at - column) - read
            plan.issue("mem_read", place.side, index, issue, op, (-1,))


def _stored(
    fit: _Fit, vecs: list[Vec], cycles: list[int], span: int
) -> _Found | None:
    """Read one vector an item; items are grouped by the slices that hold them."""
    plan = fit.plan
    column = vxm_column(plan.config)
    codes = [0] * len(cycles)
    groups: dict[tuple[Hemisphere, tuple[int, ...]], list[tuple[int, Place]]] = {}
    for item, vec in enumerate(vecs):
        ready = [p for p in vec.places if p.ready <= cycles[item]] or vec.places
        groups.setdefault((ready[0].side, ready[0].slices), []).append((item, ready[0]))
    for members in groups.values():
        places = [place for _, place in members]
        times = [cycles[item] for item, _ in members]
        code = read_streams(fit, plan, places, column, times, span)
        if code is None:
            return None
        for item, _ in members:
            codes[item] = code
        fit.emits.append(
            lambda p=places, t=times, c=code: emit_reads(plan, p, column, t, c, span)
        )
    return codes, [vec.value for vec in vecs]


def _constant(
    fit: _Fit, source: Constant, cycles: list[int], span: int
) -> _Found | None:
    """Find a set of slices from which the constant can be read; it is loaded there."""
    plan = fit.plan
    memory = plan.memory
    count = len(source.data)
    for side, number in memory.sets:
        slices = memory.slices_of(number)
        row = fit.top_row(side, number) - count
        claims = dict(fit.trial.claims)
        places = [Place(side, slices, row + i, 0) for i in range(count)]
        code = read_streams(fit, plan, places, vxm_column(plan.config), cycles, span)
        if code is None:
            fit.trial.claims = claims
            continue
        values = [memory.value() for _ in cycles]

        def load(
            side: Hemisphere = side, number: int = number, code: int = code
        ) -> None:
            source.vecs = memory.constant(side, number, source.data)
            values[:] = [vec.value for vec in source.vecs]
            found = [vec.places[0] for vec in source.vecs]
            emit_reads(plan, found, vxm_column(plan.config), cycles, code, span)

        fit.emits.append(load)
        fit.tops[side, number] = fit.tops.get((side, number), 0) + count
        return [code] * count, values
    return None


def _emitted(fit: _Fit, source: Emitted, cycles: list[int]) -> _Found | None:
    """Let ACC emit accumulators so that they arrive in the cycles of use."""
    plan, config = fit.plan, fit.plan.config
    codes = [0] * len(cycles)
    by_plane: dict[tuple[Hemisphere, int], list[int]] = {}
    for item, acc in enumerate(source.accs):
        by_plane.setdefault((acc.side, acc.plane), []).append(item)
    for (side, plane), items in by_plane.items():
        column = mxm_column(config, side)
        hops = abs(column - vxm_column(config))
        times = [cycles[item] for item in items]
        issues = [time - hops - mxm.acc_latency(config) for time in times]
        if any(t < source.accs[i].ready for t, i in zip(issues, items, strict=True)):
            return None
        if not fit.trial.claim(("acc", side, plane), mask_of(issues)):
            return None
        starts = [(offset, column) for offset in range(4)]
        code = fit.trial.route(side.inward, starts, vxm_column(config), mask_of(times), 4)
        if code is None:
            return None
        for item, issue in zip(items, issues, strict=True):
            codes[item] = code
            acc = source.accs[item]

            def emit(acc=acc, issue=issue, code=code, side=side, plane=plane) -> None:  # noqa: ANN001
                op = mxm.ACC(acc=acc.entry, dst=code, result=mxm.Result.F32)
                plan.issue("mxm_acc", side, plane, issue, op, (acc.value,))
                free = plan.accs[side, plane].free_from
                free[acc.entry] = max(free[acc.entry], issue)

            fit.emits.append(emit)
    return codes, [acc.value for acc in source.accs]


def _gathered(
    fit: _Fit, source: Gathered, cycles: list[int], span: int
) -> _Found | None:
    """Send the map outward past the tables and the rows that it names inward to the VXM."""
    codes, values = [], []
    for item, table in enumerate(source.tables):
        found = gather(
            fit.trial, fit.plan, table, source, vxm_column(fit.plan.config), cycles[item], span
        )
        if found is None:
            return None
        code, value, emit = found
        codes.append(code)
        values.append(value)
        fit.emits.append(emit)
    return codes, values


def gather(
    trial: Trial, plan: Plan, table: Table, source: Gathered, column: int, cycle: int, span: int
) -> tuple[int, int, Emit] | None:
    """Claim one gathered vector of ``span`` bytes that arrives at ``column`` in ``cycle``."""
    config, side = plan.config, table.side
    read = mem.read_latency(config)
    starts, issues = [], []
    for offset, index in enumerate(table.slices[:span]):
        at = mem_column(config, side, index)
        starts.append((offset, at))
        issues.append(cycle - abs(at - column) - read)
        if not trial.claim(("read", side, index), 1 << issues[-1]):
            return None
        first, last = table.row // config.rows, (table.row + table.count - 1) // config.rows
        for bank in range(first, last + 1):
            if not trial.claim(("bank", side, index, bank), 1 << issues[-1]):
                return None
    code = trial.route(side.inward, starts, column, 1 << cycle, span)
    if code is None:
        return None
    place = next((p for p in source.map.places if p.side is side), None)
    if place is None:
        return None
    emits: list[Emit] = []
    maps: dict[tuple[int, int], int] = {}
    for offset, index in enumerate(table.slices[:span]):
        key = (starts[offset][1], issues[offset])
        if key not in maps:
            map_code = read_streams(trial, plan, [place], key[0], [key[1]], 2)
            if map_code is None:
                return None
            maps[key] = map_code
            emits.append(
                lambda k=key, c=map_code: emit_reads(plan, [place], k[0], [k[1]], c, 2)
            )
    value = plan.memory.value()

    def emit() -> None:
        for run in emits:
            run()
        for offset, index in enumerate(table.slices[:span]):
            op = mem.Gather(
                addr=table.row,
                dst=code + offset,
                map=maps[starts[offset][1], issues[offset]],
                lane=source.lane,
            )
            intents = (source.map.value,)
            plan.issue("mem_read", side, index, issues[offset], op, intents)
            plan.regions.append(
                (0, int(side), index, table.row, table.count, source.map.value, source.lane,
                 value, offset, -1, -1, 1, 0)
            )  # fmt: skip

    return code, value, emit


def _sinks(fit: _Fit, node: Node, cycles: list[int], span: int) -> int | None:
    """Route a node's results to all of its sinks on one group of streams."""
    plan, config = fit.plan, fit.plan.config
    centre = vxm_column(config)
    side = _side(node.sinks)
    for number in range(0, config.streams - span + 1, span):
        snapshot, emits, rows = dict(fit.trial.claims), len(fit.emits), dict(fit.rows)
        ends = [centre]
        code = int(side.outward) << 5 | number
        for sink in node.sinks:
            if isinstance(sink, Store):
                end = _store(fit, node, sink, cycles, code, span)
            elif isinstance(sink, Activate):
                end = _activate(fit, node, sink, cycles, code)
            else:
                end = _spread(fit, node, sink, cycles, code)
            if end is None:
                break
            ends.append(end)
        else:
            end = max(ends, key=lambda column: abs(column - centre))
            starts = [(offset, centre) for offset in range(span)]
            mask = mask_of([cycle + abs(end - centre) for cycle in cycles])
            if fit.trial.stream_free(side.outward, number, starts, end, mask):
                step = 1 if end > centre else -1
                for offset in range(span):
                    for column in range(centre, end + step, step):
                        key = ("stream", side.outward, number + offset, column)
                        fit.trial.claim(key, mask >> abs(end - column))
                return code
        fit.trial.claims, fit.rows = snapshot, rows
        del fit.emits[emits:]
    return None


def _side(sinks: list) -> Hemisphere:  # type: ignore[type-arg]
    sides = {sink.side if not isinstance(sink, Spread) else sink.regions[0][0].side for sink in sinks}
    assert len(sides) == 1, "one result flows one way"
    return sides.pop()


def _store(
    fit: _Fit, node: Node, sink: Store, cycles: list[int], code: int, span: int
) -> int | None:
    """Write the results into a set of the sink's hemisphere, one row an item."""
    plan, config, memory = fit.plan, fit.plan.config, fit.plan.memory
    centre = vxm_column(config)
    for side, number in memory.sets:
        if side is not sink.side or (sink.at and sink.at[0].slices[0] // 4 != number):
            continue
        slices = memory.slices_of(number)[:span]
        row = fit.next_row(side, number)
        rows = [p.row for p in sink.at] if sink.at else [row + i for i in range(len(cycles))]
        claims = dict(fit.trial.claims)
        issues: dict[int, list[int]] = {}
        for index in slices:
            hops = abs(mem_column(config, side, index) - centre)
            issues[index] = [cycle + hops for cycle in cycles]
            if not fit.trial.claim(("write", side, index), mask_of(issues[index])):
                break
            banks = {r // config.rows for r in rows}
            if not all(
                fit.trial.claim(
                    ("bank", side, index, bank),
                    mask_of(
                        [t for r, t in zip(rows, issues[index], strict=True)
                         if r // config.rows == bank]
                    ),
                )
                for bank in banks
            ):
                break
        else:

            def emit(side: Hemisphere = side, number: int = number) -> None:
                if not sink.at:
                    taken = memory.rows(side, memory.slices_of(number), len(cycles))
                    assert taken == row
                for item in range(len(cycles)):
                    for offset, index in enumerate(slices):
                        op = mem.Write(addr=rows[item], src=code + offset)
                        intents = (node.values[item], -1)
                        plan.issue("mem_write", side, index, issues[index][item], op, intents)
                    ready = max(issues[index][item] for index in slices) + 1
                    place = Place(side, slices, rows[item], ready)
                    sink.vecs.append(Vec(node.values[item], [place]))

            fit.emits.append(emit)
            if not sink.at:
                fit.rows[side, number] = fit.rows.get((side, number), 0) + len(cycles)
            return max(
                (mem_column(config, side, index) for index in slices),
                key=lambda column: abs(column - centre),
            )
        fit.trial.claims = claims
    return None


def _activate(
    fit: _Fit, node: Node, sink: Activate, cycles: list[int], code: int
) -> int | None:
    """Load the results into activation entries as they arrive at the plane."""
    plan, config = fit.plan, fit.plan.config
    column = mxm_column(config, sink.side)
    hops = abs(column - vxm_column(config))
    ring = plan.acts[sink.side, sink.plane]
    used = [(i, cycle + hops) for i, cycle in enumerate(cycles) if sink.entries[i] >= 0]
    if any(cycle < ring.free_from[sink.entries[item]] for item, cycle in used):
        return None
    if not fit.trial.claim(("abl", sink.side, sink.plane), mask_of([c for _, c in used])):
        return None

    def emit() -> None:
        sink.ready = [cycle + hops + 1 for cycle in cycles]
        sink.values = list(node.values)
        for item, cycle in used:
            op = mxm.ABL(entry=sink.entries[item], src=code)
            plan.issue("mxm_abl", sink.side, sink.plane, cycle, op, (node.values[item],))

    fit.emits.append(emit)
    return column


def _spread(fit: _Fit, node: Node, sink: Spread, cycles: list[int], code: int) -> int | None:
    """Scatter the results into cache regions, each slice with its own lane of the maps."""
    plan, config = fit.plan, fit.plan.config
    centre, lanes = vxm_column(config), config.lanes
    side = sink.regions[0][0].side
    farthest = centre
    todo: list[tuple[int, int, Region, int, int]] = []  # cycle, slice, region, item, slice number
    for item, cycle in enumerate(cycles):
        for region in sink.regions[item]:
            for number, index in enumerate(region.slices):
                column = mem_column(config, side, index)
                issue = cycle + abs(column - centre)
                farthest = max(farthest, column, key=lambda c: abs(c - centre))
                todo.append((issue, index, region, item, number))
                if not fit.trial.claim(("write", side, index), 1 << issue):
                    return None
                for bank in {region.base // config.rows, (region.base + region.count - 1) // config.rows}:
                    if not fit.trial.claim(("bank", side, index, bank), 1 << issue):
                        return None
    codes: dict[tuple[int, int], int] = {}
    reads: list[Emit] = []
    for number, vec in enumerate(sink.maps):
        place = next(p for p in vec.places if p.side is side)
        indices = {i for _, i, r, _, n in todo if n // lanes == number}
        end = max((mem_column(config, side, i) for i in indices), key=lambda c: abs(c - centre))
        for item, cycle in enumerate(cycles):
            at = cycle + abs(end - centre)
            found = read_streams(fit, plan, [place], end, [at], 2)
            if found is None:
                return None
            codes[number, item] = found
            reads.append(
                lambda p=place, e=end, a=at, c=found: emit_reads(plan, [p], e, [a], c, 2)
            )

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
            plan.issue("mem_write", side, index, issue, op, intents)
            plan.regions.append(
                (1, int(side), index, region.base, region.count, vec.value, number % lanes,
                 region.first, number, node.values[item], region.byte, region.rows_a_tile,
                 len(region.slices))
            )  # fmt: skip
            sink.ready = max(sink.ready, issue + 1)

    fit.emits.append(emit)
    return farthest



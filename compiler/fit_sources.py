"""Operands of a stencil: reads from memory, accumulators and tables that arrive when used."""

from waterclock.compiler.attempt import Attempt, Found
from waterclock.compiler.fabric import Trial, mask_of
from waterclock.compiler.memory import Place, Vec
from waterclock.compiler.plan import Plan, first_cycle
from waterclock.compiler.stencil import (
    Constant,
    Emitted,
    Gathered,
    Imm,
    Node,
    Pick,
    Stored,
    Table,
)
from waterclock.isa import mem, mxm
from waterclock.isa.config import WIDTH
from waterclock.isa.floorplan import Hemisphere, mem_column, mxm_column, vxm_column
from waterclock.isa.streams import SOURCE_ALU, SOURCE_IMM, number_of


def route_source(attempt: Attempt, node: Node, position: int) -> Found | None:
    """Return the source code and the value number of each item, or None if it does not fit."""
    source, cycles = node.inputs[position], attempt.cycles(node)
    spec = next(spec for spec in node.op.operands if spec.name == "ab"[position])
    span = int(spec.streams)  # type: ignore[arg-type]
    n = len(cycles)
    # Of wide slices, a first operand leaves the lowest streams to second ones and to results.
    highest = attempt.plan.config.wide and position == 0 and not node.hold
    if isinstance(source, Imm):
        return [SOURCE_IMM] * n, [-1] * n
    if isinstance(source, Node):
        return [SOURCE_ALU + attempt.units[id(source)]] * n, list(source.values)
    if isinstance(source, Pick):
        code = SOURCE_ALU + attempt.units[id(source.node)]
        return [code], [source.node.values[source.item]]
    if isinstance(source, Constant):
        if not source.vecs:
            return _constant(attempt, source, cycles, span)
        return _stored(attempt, list(source.vecs), cycles, span, highest=highest)
    if isinstance(source, Stored):
        return _stored(attempt, list(source.vecs), cycles, span, highest=highest)
    if isinstance(source, Emitted):
        return _emitted(attempt, source, cycles)
    assert isinstance(source, Gathered)
    return _gathered(attempt, source, cycles, span)


def read_streams(
    attempt: "Attempt | Trial",
    plan: Plan,
    places: list[Place],
    column: int,
    cycles: list[int],
    span: int,
    *,
    is_map: bool = False,
    highest: bool = False,
) -> int | None:
    """Claim Reads of one vector an item so that they arrive at ``column`` in ``cycles``.

    All places must name the same slices. Wide slices read all that they hold, and the
    low bytes of a map are those of the path for maps. Returns the stream code, or None.
    """
    trial = attempt.trial if isinstance(attempt, Attempt) else attempt
    config = plan.config
    span = WIDTH if config.wide else span
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
        again = (plan.repetitions - 1) * max(place.stride for place in places)
        rows = [place.row for place in places]
        if not trial.claim_rows("read", (side, index), rows, issues, again):
            return None
    near = mem_column(config, side, slices[0])
    inward = (
        side.inward
        if abs(column - vxm_column(config)) < abs(near - vxm_column(config))
        or (column - vxm_column(config)) * (near - vxm_column(config)) <= 0
        else side.outward
    )
    mask = mask_of(cycles)
    code = trial.route(inward, starts, column, mask, span, is_map=is_map, highest=highest)
    if code is None or not is_map:
        return code
    return code + (mem.map_path(config) or 0) % span


def emit_reads(
    plan: Plan, places: list[Place], column: int, cycles: list[int], code: int, span: int
) -> None:
    """Add the Read issues that ``read_streams`` claimed."""
    read = mem.read_latency(plan.config)
    span = WIDTH if plan.config.wide else span
    for offset, index in enumerate(places[0].slices[:span]):
        at = mem_column(plan.config, places[0].side, index)
        for place, cycle in zip(places, cycles, strict=True):
            op = mem.Read(addr=place.row, dst=code - code % span + (code + offset) % span)
            issue = cycle - abs(at - column) - read
            plan.issue("mem_read", place.side, index, issue, op, (-1,), place.stride)


def _stored(
    attempt: Attempt, vecs: list[Vec], cycles: list[int], span: int, *, highest: bool
) -> Found | None:
    """Read one vector an item; items are grouped by the slices that hold them."""
    plan = attempt.plan
    column = vxm_column(plan.config)
    codes = [0] * len(cycles)
    groups: dict[tuple[Hemisphere, tuple[int, ...]], list[tuple[int, Place]]] = {}
    for item, vec in enumerate(vecs):
        ready = [p for p in vec.places if p.ready <= cycles[item]] or vec.places
        groups.setdefault((ready[0].side, ready[0].slices), []).append((item, ready[0]))
    for members in groups.values():
        places = [place for _, place in members]
        times = [cycles[item] for item, _ in members]
        code = read_streams(attempt, plan, places, column, times, span, highest=highest)
        if code is None:
            return None
        for item, _ in members:
            codes[item] = code
        attempt.emits.append(
            lambda p=places, t=times, c=code: emit_reads(plan, p, column, t, c, span)
        )
    return codes, [vec.value for vec in vecs]


def _constant(attempt: Attempt, source: Constant, cycles: list[int], span: int) -> Found | None:
    """Find a set of slices from which the constant can be read; it is loaded there."""
    plan = attempt.plan
    memory = plan.memory
    layers, count = source.data.shape[:2]
    for side, number in memory.sets:
        if source.side not in (None, side):
            continue
        slices = memory.slices_of(number)
        found = memory.known(side, number, source.key)
        places = [vec.places[0] for vec in found]
        top = attempt.top(side, number)
        if not found:
            taken = top.take(layers, count)
            if not taken:
                continue
            top, rows = taken
            if not memory.has_room(side, slices, attempt.next_row(side, number), top.row):
                continue
            stride = top.stride if layers > 1 else 0
            places = [Place(side, slices, row, 0, stride) for row in rows]
        claims = dict(attempt.trial.claims)
        code = read_streams(attempt, plan, places, vxm_column(plan.config), cycles, span)
        if code is not None:
            attempt.tops[side, number] = top
            values = [0] * count
            where = side, number
            attempt.emits.append(
                lambda w=where, c=code, v=values: _load_constant(
                    attempt, source, w, cycles, c, span, v
                )
            )
            return [code] * count, values
        attempt.trial.claims = claims
    return None


def _load_constant(
    attempt: Attempt,
    source: Constant,
    where: tuple[Hemisphere, int],
    cycles: list[int],
    code: int,
    span: int,
    values: list[int],
) -> None:
    """Load a constant where it was found to fit, and fill in its value numbers."""
    plan = attempt.plan
    source.vecs = plan.memory.constant(*where, source.data)
    values[:] = [vec.value for vec in source.vecs]
    places = [vec.places[0] for vec in source.vecs]
    emit_reads(plan, places, vxm_column(plan.config), cycles, code, span)


def _emitted(attempt: Attempt, source: Emitted, cycles: list[int]) -> Found | None:
    """Let ACC emit accumulators so that they arrive in the cycles of use."""
    plan, config = attempt.plan, attempt.plan.config
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
        if not attempt.trial.claim(("acc", side, plane), mask_of(issues)):
            return None
        starts = [(offset, column) for offset in range(4)]
        code = attempt.trial.route(side.inward, starts, vxm_column(config), mask_of(times), 4)
        if code is None:
            return None
        for item, issue in zip(items, issues, strict=True):
            codes[item] = code
            acc = source.accs[item]

            def emit(acc=acc, issue=issue, code=code, side=side, plane=plane) -> None:
                op = mxm.ACC(acc=acc.entry, dst=code, result=mxm.Result.F32)
                plan.issue("mxm_acc", side, plane, issue, op, (acc.value,))
                free = plan.accs[side, plane].free_from
                free[acc.entry] = max(free[acc.entry], issue)

            attempt.emits.append(emit)
    return codes, [acc.value for acc in source.accs]


def _gathered(attempt: Attempt, source: Gathered, cycles: list[int], span: int) -> Found | None:
    """Send the map outward past the tables and the rows that it names inward to the VXM."""
    codes, values = [], []
    for table, cycle in zip(source.tables, cycles, strict=True):
        found = _gather(attempt, table, source, cycle, span)
        if found is None:
            return None
        codes.append(found[0])
        values.append(found[1])
    return codes, values


def _gather(
    attempt: Attempt, table: Table, source: Gathered, cycle: int, span: int
) -> tuple[int, int] | None:
    """Claim one gathered vector of ``span`` bytes; return its stream code and value number."""
    plan, trial = attempt.plan, attempt.trial
    config, side = plan.config, table.side
    centre = vxm_column(config)
    span = WIDTH if config.wide else span
    starts, issues = [], []
    for offset, index in enumerate(table.slices[:span]):
        at = mem_column(config, side, index)
        starts.append((offset, at))
        issues.append(cycle - abs(at - centre) - mem.read_latency(config))
        if not trial.claim(("read", side, index), 1 << issues[-1]):
            return None
        first, last = table.row // config.rows, (table.row + table.count - 1) // config.rows
        for bank in range(first, last + 1):
            if not trial.claim(("bank", side, index, bank), 1 << issues[-1]):
                return None
    code = trial.route(side.inward, starts, centre, 1 << cycle, span)
    place = source.map.on(side)
    value = plan.memory.value()
    if code is None:
        return None
    for offset, index in enumerate(table.slices[:span]):
        issue = issues[offset]
        at = starts[offset][1]
        map_code = _map_read(attempt, place, at, issue)
        if map_code is None or not all(
            trial.sample(at, map_code + half, 1 << issue) for half in (0, 1)
        ):
            return None

        def emit(
            offset: int = offset, index: int = index, issue: int = issue, map_code: int = map_code
        ) -> None:
            op = mem.Gather(addr=table.row, dst=code + offset, map=map_code, lane=source.lane)
            plan.issue("mem_read", side, index, issue, op, (source.map.value,))
            region = (0, int(side), index, table.row, table.count, source.map.value, source.lane,
                      value, offset, -1, -1, 1, 0)  # fmt: skip
            plan.regions.append((region, 0))

        attempt.emits.append(emit)
    return code, value


def _map_read(attempt: Attempt, place: Place, column: int, cycle: int) -> int | None:
    """Claim a map that flows outward past ``column`` in ``cycle``; one read serves a diagonal."""
    plan, centre = attempt.plan, vxm_column(attempt.plan.config)
    key = (id(place), cycle - abs(column - centre))
    known = attempt.maps.get(key)
    if known is None:
        code = read_streams(attempt, plan, [place], column, [cycle], 2, is_map=True)
        if code is not None:
            attempt.maps[key] = code, column
            attempt.emits.append(lambda: emit_reads(plan, [place], column, [cycle], code, 2))
        return code
    code, end = known
    step = 1 if column > centre else -1
    for at in (
        range(end + step, column + step, step) if abs(column - centre) > abs(end - centre) else ()
    ):
        for offset in range(2):
            name = ("stream", place.side.outward, number_of(code) + offset, at)
            if not attempt.trial.claim(name, 1 << cycle - abs(column - at)):
                return None
    attempt.maps[key] = code, max(end, column, key=lambda c: abs(c - centre))
    return code

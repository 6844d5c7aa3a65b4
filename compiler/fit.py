"""Fits a stencil into a plan: the first cycle in which every ALU, stream and slice is free."""

import itertools

from waterclock.compiler.attempt import Attempt, Found
from waterclock.compiler.fabric import Fabric, Trial, mask_of, repeated
from waterclock.compiler.fit_sinks import route_sinks
from waterclock.compiler.fit_sources import route_source
from waterclock.compiler.plan import NoFitError, Plan, first_cycle
from waterclock.compiler.spaced import MANY, cut, least_spacing, solve_spaced
from waterclock.compiler.stencil import (
    Activate,
    Constant,
    Emitted,
    Gathered,
    Node,
    Spread,
    Stencil,
    Store,
    Stored,
)
from waterclock.isa import mem, mxm, vxm
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere, mem_column, mxm_column, vxm_column
from waterclock.isa.spec import Instruction
from waterclock.isa.streams import SOURCE_ALU, SOURCE_IMM, TARGET_NONE, TARGET_STREAM

TRIES = 3000  #: cycles that a stencil is moved before the compiler gives up
LATE = 64  #: cycles after which nothing has to wait for the first one
ATTEMPTS = 100  #: ways to place the nodes of a spaced stencil that are tried, at each spacing
ALIKE = 4  #: stencils of one shape that are expected to follow each other where items are many
WIDEST = 64  #: spacings of items that are tried


def fit(plan: Plan, stencil: Stencil, earliest: int = 0) -> int:
    """Place a stencil in the first cycle that holds it; return that cycle.

    Items that do not fit one a cycle are spaced. Fills in what the stencil's sinks promise:
    places, ready cycles, value numbers.

    Raises
    ------
    NoFitError
        When no start is possible.
    """
    _expect_rows(plan, stencil)
    stencil.solve()
    if not _fits_alone(plan, stencil):
        rest = cut(stencil)
        if rest:
            fit(plan, stencil, earliest)
            return fit(plan, rest(), earliest)
        _space(plan, stencil)
    for node in stencil.nodes:
        node.values = [plan.memory.value() for _ in node.offsets]
    first = max(earliest, _bound(plan, stencil))
    for start in range(first, first + TRIES):
        attempt = Attempt(plan, plan.trial(), start, [], {}, {}, {}, {})
        if _place(attempt, stencil):
            attempt.trial.commit()
            for emit in attempt.emits:
                emit()
            return start
    raise _no_fit(plan, stencil)


def _space(plan: Plan, stencil: Stencil) -> None:
    """Space the items of a stencil so that all of them take as few cycles as was found."""

    def depth(spacing: int, attempt: int, endless: bool) -> int | None:
        """Return the cycles that an item takes, None if an attempt does not fit."""
        solved = solve_spaced(plan, stencil, spacing, least, attempt, endless=endless)
        if not solved or not _fits_alone(plan, stencil):
            return None
        return max(node.time + node.latency for node in stencil.nodes)

    known, least = plan.learned.spacings, least_spacing(plan.config, stencil)
    shape = stencil.shape()
    if shape in known and depth(*known[shape]) is not None:
        return
    endless = len(stencil.offsets) >= MANY
    items = len(stencil.offsets) * (ALIKE if endless else 1)
    stencil.solve_times()
    shortest = max(node.time + node.latency for node in stencil.nodes)
    best: tuple[int, int, int, bool] | None = None
    for spacing in range(least, WIDEST):
        for attempt in range(ATTEMPTS):
            if best and spacing * items + shortest >= best[0]:
                break
            cycles = depth(spacing, attempt, endless)
            if cycles is not None:
                found = spacing * items + cycles, spacing, attempt, endless
                best = min(best or found, found)
    if not best:
        raise _no_fit(plan, stencil)
    known[shape] = best[1:]
    depth(*known[shape])


def _expect_rows(plan: Plan, stencil: Stencil) -> None:
    """Raise ``NoFitError`` where no start and no order of nodes would help: MEM is full."""
    memory = plan.memory

    def has_room(side: Hemisphere | None, rows: int, layers: int) -> bool:
        for where, number in memory.sets:
            slices, top = memory.slices_of(number), memory.top(where, number)
            low = max(memory.next_row[where, index] for index in slices)
            taken = top.take(layers, rows) if layers else (top, [])
            high = taken[0].row if taken else -1
            if side in (None, where) and memory.has_room(
                where, slices, low if layers else low + rows, high
            ):
                return True
        return False

    for node in stencil.nodes:
        stores = [sink for sink in node.sinks if isinstance(sink, Store) and not sink.at]
        new = [x for x in node.inputs if isinstance(x, Constant) and not x.vecs]
        new = [x for x in new if not any(memory.known(*place, x.key) for place in memory.sets)]
        if all(has_room(sink.side, len(node.offsets), 0) for sink in stores) and all(
            has_room(x.side, x.data.shape[1], x.data.shape[0]) for x in new
        ):
            continue
        name = plan.operations[plan.operation]
        raise NoFitError(f"{name}: no rows of MEM are left for {node.op.mnemonic}")


def _no_fit(plan: Plan, stencil: Stencil) -> NoFitError:
    names = ", ".join(node.op.mnemonic for node in stencil.nodes)
    return NoFitError(f"{plan.operations[plan.operation]}: no room for {names}")


def _fits_alone(plan: Plan, stencil: Stencil) -> bool:
    """Tell whether a stencil would fit if it were the only one."""
    for node in stencil.nodes:
        node.values = [0] * len(node.offsets)
    trial = Trial(Fabric(plan.config))
    attempt = Attempt(plan, trial, _bound(plan, stencil) + LATE, [], {}, {}, {}, {})
    return _place(attempt, stencil)


def _bound(plan: Plan, stencil: Stencil) -> int:
    """Return a lower bound of the start, from what operands and activation buffers wait for."""
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
        for sink in node.sinks:
            for vec in sink.maps if isinstance(sink, Spread) else ():
                ready = max(place.ready for place in vec.places)
                bound = max(bound, ready + read - node.time - node.latency)
            if isinstance(sink, Activate):
                hops = abs(mxm_column(config, sink.side) - centre)
                free = plan.acts[sink.side, sink.plane].free_from
                for entry, offset in zip(sink.entries, node.offsets, strict=True):
                    if entry >= 0:
                        late = free[entry] - hops - node.latency
                        bound = max(bound, late - node.time - offset)
    return bound


def _farthest(plan: Plan, side: Hemisphere, slices: tuple[int, ...]) -> int:
    return max(
        abs(mem_column(plan.config, side, index) - vxm_column(plan.config)) for index in slices
    )


def _place(attempt: Attempt, stencil: Stencil) -> bool:
    """Claim everything; what can go to one place only comes before what has a choice."""
    # Where that fails, operations that few ALUs have come first: others take what is left.
    rare = sorted(stencil.nodes, key=lambda node: len(_units(attempt, node)))
    for nodes in (stencil.nodes, rare):
        if all(_place_unit(attempt, node) for node in nodes):
            break
        attempt.trial.claims.clear()
    else:
        return False
    # What has fewer streams to choose from comes first.
    sources = [(node, i) for node in stencil.nodes for i in range(len(node.inputs))]
    if not attempt.plan.config.b_streams:
        sources.sort(key=lambda source: -source[1])
    found: dict[tuple[int, int], Found] = {}
    shared: dict[tuple[object, ...], Found] = {}  # one read may serve several ALUs at once
    for constants in (False, True):
        for node, position in sources:
            if isinstance(node.inputs[position], Constant) is constants:
                source = node.inputs[position]
                what = tuple(map(id, source.vecs)) if isinstance(source, Stored) else id(source)
                key = (what, node.time, tuple(node.offsets))
                routed = shared.get(key) or route_source(attempt, node, position)
                if routed is None:
                    return False
                found[id(node), position] = routed
                if isinstance(source, (Stored, Constant, Emitted)):
                    shared[key] = routed
    for node in stencil.nodes:
        if not _placed_operands(attempt.plan.config, node, found):
            return False
        target = TARGET_NONE
        cycles = attempt.cycles(node)
        if node.sinks:
            spec = next(spec for spec in node.op.operands if spec.name == "dst")
            code = route_sinks(attempt, node, [c + node.latency for c in cycles], int(spec.streams))  # type: ignore[arg-type]
            if code is None:
                return False
            target = TARGET_STREAM | code
        operands = [found[id(node), i] for i in range(len(node.inputs))]
        attempt.emits.append(
            lambda n=node, c=cycles, o=operands, t=target: _emit(attempt, n, c, o, t)
        )
    return True


def _placed_operands(config: Config, node: Node, found: dict[tuple[int, int], Found]) -> bool:
    """Let operands change places if that makes them legal; tell whether they are."""
    a, b = (found.get((id(node), position)) for position in (0, 1))

    def legal(operand: Found) -> bool:
        return all(vxm.takes_stream(config, "b", code) for code in operand[0])

    if node.hold:  # what arrives is compared with what was kept
        return a is None or legal(a)
    if node.op.kind == "reduce" or not a or not b or legal(b):
        return True
    found[id(node), 0], found[id(node), 1] = b, a
    return node.op in vxm.COMMUTES and not node.ring and legal(a)


def _place_unit(attempt: Attempt, node: Node) -> bool:
    """Choose an ALU that has the feature and is free at every issue and every result."""
    cycles = attempt.cycles(node)
    issue, moves = mask_of(cycles), mask_of(_moves(node, cycles))
    result = issue << node.latency | moves << vxm.move_latency(attempt.plan.config)
    turns = vxm.busy_cycles(attempt.plan.config, node.op)
    if any(other - one < turns for one, other in itertools.pairwise(cycles)):
        return False
    for unit in _units(attempt, node):
        wanted = {("alu", unit): issue | moves, ("bus", unit): result}
        if turns > 1:
            wanted["turns", unit] = repeated(issue, turns)
        if all(attempt.trial.free(key, mask) for key, mask in wanted.items()):
            for key, mask in wanted.items():
                attempt.trial.claim(key, mask)
            attempt.units[id(node)] = unit
            return True
    return False


def _units(attempt: Attempt, node: Node) -> list[int]:
    """Return the units that have the feature of a node, those with few features first."""
    config = attempt.plan.config
    if node.unit is not None:
        return [node.unit]
    if node.op.kind == "reduce":
        return [len(config.alus)]
    feature = vxm.FEATURE[node.op]
    return sorted(
        (i for i, features in enumerate(config.alus) if feature in features),
        key=lambda i: (len(config.alus[i]), attempt.load(i), i),
    )


def _moves(node: Node, cycles: list[int]) -> list[int]:
    """Return the cycles in which ``mov`` keeps what waits for the next item."""
    if not node.hold:
        return []
    pairs = itertools.pairwise(cycles)
    return [cycle for one, other in pairs for cycle in range(one + node.latency, other)]


def _make(op: type[Instruction], **operands: int) -> Instruction:
    """Return an instruction of a class that only its declaration knows."""
    return op(**operands)


def _emit(
    attempt: Attempt,
    node: Node,
    cycles: list[int],
    operands: list[Found],
    target: int,
) -> None:
    """Add the issues of one node."""
    plan, unit = attempt.plan, attempt.units[id(node)]
    kind = node.op.kind
    own = SOURCE_ALU + unit
    for item, cycle in enumerate(cycles):
        op, found, meant = node.op, [o[0][item] for o in operands], [o[1][item] for o in operands]
        if node.ring and item >= node.ring:  # a running sum takes its own earlier result
            found[1], meant[1] = own, node.values[item - node.ring]
        if node.hold:  # the first item meets itself, so that all take as long
            other = (own, node.values[item - 1]) if item else (found[0], meant[0])
            found, meant = [other[0], found[0]], [other[1], meant[0]]
        out = node.values[item]
        if kind == "reduce":
            plan.issue(kind, None, unit, cycle, _make(op, a=found[0], dst=target), (meant[0], out))
        else:
            two = vxm.ARITY[op] == 2
            second = found[1] if two else SOURCE_IMM
            made = _make(op, a=found[0], b=second, dst=target, imm=node.imm)
            plan.issue(kind, None, unit, cycle, made, (meant[0], meant[1] if two else -1, out))
        for gap in _moves(node, cycles[item : item + 2]):
            keep = _make(vxm.OPS["mov"], a=own, b=SOURCE_IMM, dst=TARGET_NONE, imm=0)
            plan.issue(kind, None, unit, gap, keep, (out, -1, out))

"""Spaced stencils: items follow each other so far apart that an ALU serves several nodes in turn.

A chip with few ALUs cannot give one to every node. With items ``spacing`` cycles apart, a unit
has that many slots an item; this file chooses unit and cycle of every node so that no two meet,
and where there are many items so that none would meet if they never ended: what follows them
often has the same shape. Operands that are early are brought to their consumer by delays: a
product with one or a sum with zero takes one slot for the cycles of its operation, ``mov`` one
for one. What two nodes would read from or write to one side of the chip in the same cycle is
kept apart too.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

from waterclock.compiler.fabric import mask_of, repeated
from waterclock.compiler.plan import Plan
from waterclock.compiler.stencil import (
    ONE,
    Constant,
    Emitted,
    Gathered,
    Imm,
    Node,
    Pick,
    Stencil,
    Store,
    Stored,
    spaced,
)
from waterclock.isa import mem, vxm
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere, mem_column, vxm_column
from waterclock.isa.streams import Direction

MINUS_ZERO = 0x80000000  #: x + -0 is x
LATEST = 24  #: cycles that a node may be moved behind what it waits for
AHEAD = 3  #: spacings by which what waits for nothing may be late where turns are aligned
LATER = 0.3  #: share of nodes that a random attempt moves behind what they wait for
MANY = 4  #: items from which on more of them are expected to follow, in the next stencil
KEPT = 3  #: cycles that an operand is kept for another node rather than read again
END = 600  #: cycles that are looked at where items never end
EARLY = 64  #: more than a read comes before its use
DEPTH = 4000  #: steps of the search for one delay
WALK = 500  #: steps of all of them in one attempt
TRIES = 200  #: cycles and units that an attempt tries for its nodes
#: Operations whose results are fp32, so that arithmetic may delay them.
FLOATS = ("fadd", "fsub", "fmul", "exp2", "recip", "rsqrt", "f16_to_f32", "i32_to_f32", "rsum")

Value = Node | Pick
Slots = dict[tuple[object, ...], int]


class _Solver:
    """Times and units so far, and the slots that they take."""

    def __init__(self, plan: Plan, spacing: int, *, endless: bool, tight: bool, aligned: bool):
        self.plan, self.config = plan, plan.config
        #: Where all operations that take turns begin at multiples of a turn, none leaves gaps that
        #: are too short for another.
        self.step = plan.config.turns if aligned else 1
        self.spacing, self.endless, self.tight = spacing, endless, tight
        self.slots: Slots = {}
        self.added: list[Node] = []
        #: What stands for a value, itself and its delays: (cycle in which it is ready, node).
        self.known: dict[tuple[int, int], list[tuple[int, Value]]] = {}
        #: Memory operands that arrive already: operand, cycle, offsets of the items.
        self.reads: list[tuple[object, int, list[int]]] = []
        self.steps = self.walked = self.tries = 0
        column = mem_column(self.config, Hemisphere.EAST, 0)
        self.hops = column - vxm_column(self.config)
        self.latency = mem.read_latency(self.config)

    def claim(self, slots: Slots, key: tuple[object, ...], mask: int) -> bool:
        """Take a slot in all cycles of ``mask`` if it is free."""
        taken = slots.get(key, 0)
        if taken & mask:
            return False
        slots[key] = taken | mask
        return True

    def units(self, node: Node) -> list[int]:
        """Return the units that can do a node's operation, those with little else to do first."""
        alus = self.config.alus
        if node.op.kind == "reduce":
            return [len(alus)]
        feature = vxm.FEATURE[node.op]
        found = [i for i, features in enumerate(alus) if feature in features]
        return sorted(found, key=lambda i: (self.slots.get(("alu", i), 0).bit_count(), i))

    def _mask(self, cycles: list[int]) -> int:
        """Return the mask of the cycles of all items; of many, as if they never ended."""
        if self.endless and len(cycles) > 1:
            return mask_of(range(cycles[0] % self.spacing, END, self.spacing))
        return mask_of(cycles)

    def issue(self, slots: Slots, unit: int, time: int, node: Node) -> bool:
        """Take the issue and result slots of a node."""
        mask = self._mask([time + offset for offset in node.offsets])
        turns = vxm.busy_cycles(self.config, node.op)
        return (
            self.claim(slots, ("alu", unit), mask)
            and self.claim(slots, ("bus", unit), mask << node.latency)
            and (turns == 1 or self.claim(slots, ("turns", unit), repeated(mask, turns)))
        )

    def search(self, waiting: list[Node], choose: Callable[[list[Node]], tuple[Node, int]]) -> bool:
        """Place all nodes that wait; tell whether that was possible, as far as it was tried.

        ``choose`` takes one of those whose operands are placed, and says from when on it may begin.
        """
        if not waiting:
            return True
        left = {id(node) for node in waiting}
        free = [n for n in waiting if not any(id(value) in left for value in _nodes_of(n))]
        node, earliest = choose(free)
        rest = [other for other in waiting if other is not node]
        return any(self.search(rest, choose) for _ in self.places(node, earliest))

    def places(self, node: Node, earliest: int) -> Iterator[None]:
        """Give a node its unit and cycle, one way after the other, the earliest first."""
        earliest = max(
            [earliest, *(self.ready(v) for v in node.inputs if isinstance(v, (Node, Pick)))]
        )
        step = self.step if vxm.takes_turns(node.op) else 1
        for time in range(earliest + -earliest % step, earliest + LATEST, step):
            for unit in self.units(node):
                self.tries += 1
                if self.tries > TRIES:
                    return
                before, slots = self.slots, dict(self.slots)
                added, reads, inputs = len(self.added), len(self.reads), list(node.inputs)
                known = {key: list(values) for key, values in self.known.items()}
                if (
                    self.issue(slots, unit, time, node)
                    and self._leave(slots, node, time)
                    and self._inputs(slots, node, time)
                ):
                    node.time, node.unit, self.slots = time, unit, slots
                    yield
                self.slots, node.inputs, self.known = before, inputs, known
                del self.added[added:], self.reads[reads:]

    def _leave(self, slots: Slots, node: Node, time: int) -> bool:
        """Take the way of a node's results to their side, and the write ports there."""
        if not node.sinks:
            return True
        side = node.sinks[0].side
        cycles = [time + node.latency + offset for offset in node.offsets]
        if not self._pass(slots, side.outward, cycles):
            return False
        stores = any(isinstance(sink, Store) for sink in node.sinks)
        return not stores or self.claim(slots, ("port", side), self._ports(cycles, self.hops))

    def _pass(self, slots: Slots, way: Direction, cycles: list[int]) -> bool:
        """Take four streams in the VXM's column, where operands end and results begin."""
        mask = self._mask(cycles)
        groups = range(self.config.streams // 4)
        return any(self.claim(slots, ("streams", way, group), mask) for group in groups)

    def _ports(self, cycles: list[int], shift: int) -> int:
        """Return the mask of the cycles in which slices act; those of reads may be negative."""
        return self._mask([EARLY + cycle + shift for cycle in cycles])

    def _inputs(self, slots: Slots, node: Node, time: int) -> bool:
        """Let all operands of a node arrive in ``time``."""
        for index, value in enumerate(node.inputs):
            if isinstance(value, (Node, Pick)):
                delayed = self._delayed(slots, value, time, node.offsets)
                if delayed is None:
                    return False
                node.inputs[index] = delayed
        for index, value in enumerate(node.inputs):
            if isinstance(value, (Node, Pick, Imm)):
                continue
            if any(value is other for other in node.inputs[:index]):
                continue  # one read serves both operands
            if any(value is r[0] and (time, node.offsets) == r[1:] for r in self.reads):
                continue  # and so it does here
            kept = self._kept(slots, value, time, node.offsets)
            if kept is not None:
                node.inputs[index] = kept
                continue
            if self._read(slots, value, time, node.offsets):
                self.reads.append((value, time, node.offsets))
                continue
            moved = self._moved(slots, value, time, node.offsets)
            if moved is None:
                return False
            node.inputs[index] = moved
        return True

    def _kept(self, slots: Slots, value: object, time: int, offsets: list[int]) -> Node | None:
        """Return what brings an operand that another node has read shortly before."""
        for known, arrival, items in self.reads:
            if known is not value or items != offsets or not 0 < time - arrival <= KEPT:
                continue
            found = self._by_mov(slots, value, arrival, time, offsets)
            if found is not None:
                return found
        return None

    def _read(self, slots: Slots, value: object, time: int, offsets: list[int]) -> bool:
        """Take the read ports of a memory operand, or the way from an accumulator."""
        cycles = [time + offset for offset in offsets]
        if isinstance(value, Emitted):
            planes: dict[tuple[Hemisphere, int], list[int]] = {}
            for acc, cycle in zip(value.accs, cycles, strict=True):
                planes.setdefault((acc.side, acc.plane), []).append(cycle)
            return all(
                self.claim(slots, ("acc", *key), self._mask(at))
                and self._pass(slots, key[0].inward, at)
                for key, at in planes.items()
            )
        if isinstance(value, Gathered):
            choices = [[table.side] for table in value.tables]
        elif isinstance(value, Constant) and not value.vecs:
            return any(self._arrive(slots, side, cycles) for side in Hemisphere)
        else:
            assert isinstance(value, (Stored, Constant))
            choices = [[place.side for place in vec.places] for vec in value.vecs]
        if all(sides == choices[0] for sides in choices):
            return any(self._arrive(slots, side, cycles) for side in choices[0])
        return all(
            any(self._arrive(slots, side, [cycle]) for side in sides)
            for sides, cycle in zip(choices, cycles, strict=True)
        )

    def _arrive(self, slots: Slots, side: Hemisphere, cycles: list[int]) -> bool:
        """Take a side's read ports and streams for reads that arrive in ``cycles``."""
        trial = dict(slots)
        reads = self._ports(cycles, -self.hops - self.latency)
        if self.claim(trial, ("port", side), reads) and self._pass(trial, side.inward, cycles):
            slots.update(trial)
            return True
        return False

    def _moved(self, slots: Slots, value: object, time: int, offsets: list[int]) -> Node | None:
        """Read an operand some cycles early and let ``mov`` bring it."""
        for early in range(1, 4):
            if time < early:
                break
            chosen = dict(slots)
            if not self._read(chosen, value, time - early, offsets):
                continue
            found = self._by_mov(chosen, value, time - early, time, offsets)
            if found is not None:
                slots.clear()
                slots.update(chosen)
                self.reads.append((value, time - early, offsets))
                return found
        return None

    def _by_mov(
        self, slots: Slots, value: object, arrival: int, time: int, offsets: list[int]
    ) -> Node | None:
        """Bring an operand that arrives early to its use."""
        first = self._delay_node("mov", [value], arrival, offsets)
        for unit in self.units(first):
            trial, added = dict(slots), len(self.added)
            if self.issue(trial, unit, arrival, first):
                first.unit = unit
                self.added.append(first)
                last = self._chain(trial, first, arrival + 1, time, offsets, exact=True)
                if isinstance(last, Node):
                    slots.clear()
                    slots.update(trial)
                    return last
                del self.added[added:]
        return None

    def _delay_node(
        self, mnemonic: str, inputs: list[object], time: int, offsets: list[int]
    ) -> Node:
        op = vxm.OPS[mnemonic]
        imm = next((value.value for value in inputs if isinstance(value, Imm)), 0)
        node = Node(op, inputs, imm, offsets, [])  # type: ignore[arg-type]
        node.time, node.latency = time, op.latency(self.config)
        return node

    def _delayed(self, slots: Slots, value: Value, time: int, offsets: list[int]) -> Value | None:
        """Return the value, or what delays it until ``time``."""
        key = (id(value.node), value.item) if isinstance(value, Pick) else (id(value), -1)
        known = self.known.setdefault(key, [(self.ready(value), value)])
        for ready, node in sorted(known, key=lambda pair: -pair[0]):
            if ready > time:
                continue
            added = len(self.added)
            self.steps = 0
            found = self._chain(slots, node, ready, time, offsets, exact=_exact(value))
            if found is not None:
                known += [(self.ready(new), new) for new in self.added[added:]]
                return found
        return None

    def ready(self, value: Value) -> int:
        if isinstance(value, Pick):
            return value.node.time + value.node.latency + value.node.offsets[value.item]
        return value.time + value.latency

    def _chain(
        self,
        slots: Slots,
        value: Value,
        ready: int,
        time: int,
        offsets: list[int],
        *,
        exact: bool,
    ) -> Value | None:
        """Delay from ``ready`` to ``time``; adds nodes and claims, or leaves all as it was."""
        if ready == time:
            return value
        self.steps += 1
        self.walked += 1
        if self.steps > DEPTH or self.walked > WALK:
            return None
        for mnemonic, operands in self._ways(value, time - ready, exact=exact):
            node = self._delay_node(mnemonic, operands, ready, offsets)
            for unit in self.units(node):
                trial, added = dict(slots), len(self.added)
                if not self.issue(trial, unit, ready, node):
                    continue
                node.unit = unit
                self.added.append(node)
                last = self._chain(trial, node, ready + node.latency, time, offsets, exact=exact)
                if last is not None:
                    slots.clear()
                    slots.update(trial)
                    return last
                del self.added[added:]
        return None

    def _ways(self, value: Value, gap: int, *, exact: bool) -> Iterator[tuple[str, list[object]]]:
        if not exact and gap >= vxm.pipelined_latency(self.config):
            yield "fadd", [value, Imm(MINUS_ZERO)]
            if not self.tight:
                yield "fmul", [value, Imm(ONE)]
        yield "mov", [value]


def _nodes_of(node: Node) -> list[Node]:
    """Return the nodes whose results a node takes."""
    values = (value.node if isinstance(value, Pick) else value for value in node.inputs)
    return [value for value in values if isinstance(value, Node)]


def _exact(value: Value) -> bool:
    """Tell whether only ``mov`` may delay a value, because it is not fp32."""
    node = value.node if isinstance(value, Pick) else value
    while node.op.mnemonic in ("mov", "fmax", "rmax") and isinstance(node.inputs[0], (Node, Pick)):
        source = node.inputs[0]
        node = source.node if isinstance(source, Pick) else source
    return node.op.mnemonic not in FLOATS


def least_spacing(config: Config, stencil: Stencil) -> int:
    """Return a spacing below which the units cannot hold a stencil's own nodes."""
    stencil.reset()
    alus = config.alus
    busy: dict[tuple[int, ...], int] = {}
    for node in stencil.nodes:
        if node.op.kind == "alu" and len(node.offsets) > 1:
            able = tuple(i for i, found in enumerate(alus) if vxm.FEATURE[node.op] in found)
            busy[able] = busy.get(able, 0) + vxm.busy_cycles(config, node.op)
    return max([2, *(-(-cycles // len(able)) for able, cycles in busy.items())])


def solve_spaced(
    plan: Plan,
    stencil: Stencil,
    spacing: int,
    least: int,
    attempt: int = 0,
    *,
    endless: bool = False,
) -> bool:
    """Choose times and units of all nodes, items ``spacing`` apart; tell whether all found one.

    ``least`` is the stencil's ``least_spacing``; ``endless`` leaves room for another stencil of the
    same shape that follows without a gap. Attempt 0 takes nodes in the order of their times, each
    as early as it can be; others are random: nodes in another order, some of them later. All take
    back what they have placed when a node finds no place, while ``TRIES`` and ``WALK`` last.
    """
    rng = random.Random(attempt)
    stencil.reset()
    if any((node.hold or node.ring) and len(node.offsets) > 1 for node in stencil.nodes):
        return False
    for node in stencil.nodes:
        node.offsets = [index * spacing for index in range(len(node.offsets))]
    stencil.solve_times()
    # Delays then leave the units alone that others need nearly all of the time.
    tight = endless and spacing - least < 2 * plan.config.turns
    aligned = attempt % 2 == 1 and spacing % plan.config.turns == 0
    solver = _Solver(plan, spacing, endless=endless, tight=tight, aligned=aligned)

    def choose(free: list[Node]) -> tuple[Node, int]:
        if not attempt:
            return free[0], free[0].time
        node = rng.choice(free)
        source = not any(isinstance(value, (Node, Pick)) for value in node.inputs)
        earliest = 0 if source else node.time
        if aligned:
            return node, rng.randrange(AHEAD * spacing) if source else 0
        return node, earliest + (rng.randrange(spacing) if rng.random() < LATER else 0)

    if not solver.search(sorted(stencil.nodes, key=lambda node: node.time), choose):
        return False
    stencil.nodes = sorted([*stencil.nodes, *solver.added], key=lambda node: node.time)
    # A queue needs a cycle an item for its Loop.
    often = [node.unit for node in stencil.nodes if len(node.offsets) > 1]
    return not plan.config.loops or all(often.count(unit) < spacing for unit in often)


def cut(stencil: Stencil) -> Callable[[], Stencil] | None:
    """Cut a stencil before what works over all items: sums, maxima, and what follows them.

    The stencil keeps the part before the cut, and stores what the part behind it needs. Returns
    a function that makes the second stencil, to be called when the first one is fitted; None when
    there is nothing to cut.
    """
    stencil.reset()
    behind = {id(node) for node in stencil.nodes if node.hold or node.ring}
    for node in stencil.nodes:
        if any(
            isinstance(value, Pick) or (isinstance(value, Node) and id(value) in behind)
            for value in node.inputs
        ):
            behind.add(id(node))
    if not behind:
        return None
    for node in reversed(stencil.nodes):
        # What only the second part uses and takes from what is stored anyway goes along.
        users = [other for other in stencil.nodes if any(v is node for v in other.inputs)]
        if (
            id(node) not in behind
            and users
            and not node.sinks
            and all(id(user) in behind for user in users)
            and all(_is_stored(value) for value in node.inputs)
            and _at_once(stencil, [n for n in stencil.nodes if id(n) in behind or n is node])
        ):
            behind.add(id(node))
    second = [node for node in stencil.nodes if id(node) in behind]
    stencil.nodes = [node for node in stencil.nodes if id(node) not in behind]
    stencil.original = []
    if not stencil.nodes:
        stencil.nodes = second
        return None
    stores: dict[int, Store] = {}
    for node in second:
        for value in node.inputs:
            source = value.node if isinstance(value, Pick) else value
            if isinstance(source, Node) and id(source) not in behind:
                stores.setdefault(id(source), _store_of(source))

    def rest() -> Stencil:
        # Items come as fast as what holds its result lets them.
        least = max((node.latency for node in second if node.hold), default=1)
        found = Stencil(stencil.config, spaced(range(len(stencil.offsets)), least))
        found.nodes = second
        stored: dict[int, Stored] = {}
        for node in second:
            node.offsets = found.offsets[: len(node.offsets)]
            for index, value in enumerate(node.inputs):
                source = value.node if isinstance(value, Pick) else value
                if not isinstance(source, Node) or id(source) in behind:
                    continue
                vecs = stores[id(source)].vecs
                if isinstance(value, Pick):
                    node.inputs[index] = Stored([vecs[value.item]])
                else:
                    node.inputs[index] = stored.setdefault(id(source), Stored(vecs))
        return found

    return rest


def _at_once(stencil: Stencil, nodes: Sequence[Node]) -> bool:
    """Tell whether every node can have an ALU of its own, those that issue once aside."""
    often = [node for node in nodes if len(node.offsets) > 1]
    features = [vxm.FEATURE[node.op] for node in often if node.op.kind == "alu"]
    alus = list(enumerate(stencil.config.alus))
    units = [[i for i, found in alus if feature in found] for feature in features]
    return any(len(set(chosen)) == len(chosen) for chosen in itertools.product(*units))


def _is_stored(value: object) -> bool:
    if isinstance(value, Node):
        return any(isinstance(sink, Store) for sink in value.sinks)
    return isinstance(value, (Stored, Constant, Imm))


def _store_of(node: Node) -> Store:
    """Return the sink by which a node's results are kept in memory, a new one if there is none."""
    for sink in node.sinks:
        if isinstance(sink, Store):
            return sink
    store = Store(node.sinks[0].side if node.sinks else Hemisphere.WEST)
    node.sinks.append(store)
    return store

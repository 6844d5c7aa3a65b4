"""What the operations of a block share: stencils over positions, linear maps, residual, norm."""

import dataclasses
from collections.abc import Iterator, Sequence

from waterclock.compiler.fit import fit
from waterclock.compiler.image import Image, PlaneKey
from waterclock.compiler.memory import Place, Vec
from waterclock.compiler.plan import Acc, Plan, Renamed
from waterclock.compiler.prefill_passes import Round, Tap, run_pass
from waterclock.compiler.prefill_rows import Bank, Bundle, Room, Rows
from waterclock.compiler.stencil import Emitted, Imm, Node, Stencil, Store, Stored, bits
from waterclock.isa.floorplan import Hemisphere

Result = tuple[str, int]  #: map of a layer, result vector


@dataclasses.dataclass
class State:
    """The residual stream of a block: its vectors, as activations too, and 1 / rms."""

    x: list[Bundle]
    h: list[Bundle]
    r: Bundle

    def takes_place_of(self, other: "State") -> list[Renamed]:
        """Return what becomes of ``other``, which lies in the same rooms, in the next layer."""
        pairs = zip([*other.x, *other.h, other.r], [*self.x, *self.h, self.r], strict=True)
        return [
            Renamed(a.value, b.value, at.ready, at)
            for old, new in pairs
            for a, b in zip(old.vecs, new.vecs, strict=True)
            for at in b.places
        ]


class Work:
    """A stencil with an item for each position, and the rooms that it reads and fills."""

    def __init__(self, plan: Plan, positions: range):
        self.plan, self.positions = plan, positions
        self.stencil = Stencil(plan.config, range(len(positions)))
        self.op = self.stencil.op
        self.read: list[Room] = []
        self.filled: list[tuple[Room, list[Store]]] = []

    def of(self, bundle: Bundle) -> Stored:
        """Return an operand: one vector of each position."""
        self.read.append(bundle.room)
        return Stored([bundle.vecs[t] for t in self.positions])

    def same(self, vec: Vec) -> Stored:
        """Return an operand: one vector for all positions."""
        return Stored([vec] * len(self.positions))

    def emitted(self, accs: Sequence[Acc]) -> Emitted:
        """Return an operand: an accumulator of each position."""
        return Emitted([accs[t] for t in self.positions])

    def keep(self, node: Node, room: Room) -> None:
        """Store a node's results in a room."""
        self._store(node, room, [room.slices])

    def activate(self, node: Node, room: Room) -> None:
        """Store a node's results as activations in a room, a copy for each hemisphere."""
        rounded = self.op("f32_to_f16", node)
        self._store(rounded, room, [room.slices[:2], room.slices[2:]])

    def _store(self, node: Node, room: Room, copies: Sequence[tuple[int, ...]]) -> None:
        stores = [
            Store(room.side, at=[Place(room.side, slices, room.row + t, 0) for t in self.positions])
            for slices in copies
        ]
        node.sinks += stores
        self.filled.append((room, stores))

    def fit(self) -> list[Bundle]:
        """Fit the stencil; return what it filled, in order."""
        earliest = max([room.free_from for room, _ in self.filled], default=0)
        start = fit(self.plan, self.stencil, earliest)
        end = start + max(node.time + node.offsets[-1] for node in self.stencil.nodes) + 1
        for room in self.read:
            room.free_from = max(room.free_from, end)
        return [
            Bundle(
                room,
                [
                    Vec(vecs[0].value, [vec.places[0] for vec in vecs])
                    for vecs in zip(*(store.vecs for store in stores), strict=True)
                ],
            )
            for room, stores in self.filled
        ]


class BlockWork:
    """What schedules parts of a block into one plan."""

    def __init__(self, plan: Plan, image: Image, rows: Rows):
        self.plan, self.image, self.rows, self.config = plan, image, rows, plan.config
        self.tensors = image.quantised.tensors
        self.model = image.quantised.model
        self.planes = image.planes
        self.all = range(rows.size)

    def work(self) -> Work:
        """Return a stencil over all positions of the block."""
        return Work(self.plan, self.all)

    def rounds(
        self, names: Sequence[str], acts: Sequence[Bundle]
    ) -> Iterator[dict[Result, list[Acc]]]:
        """Multiply with maps of a layer; yield results as accumulators by position.

        A round has one result vector a plane, of whatever map comes next there. What is yielded
        has to be emitted before the next is asked for.
        """
        linear = {name: self.image.linear[f"layers.0.{name}"] for name in names}
        outs = {key: [(n, out) for n in names for out in linear[n].on(key)] for key in self.planes}
        for number in range(max(map(len, outs.values()))):
            found: dict[Result, list[Acc]] = {}
            for side in Hemisphere:
                mine = {
                    key[1]: outs[key][number]
                    for key in self.planes
                    if key[0] is side and number < len(outs[key])
                }
                if not mine:
                    continue
                round = Round()
                for k, bundle in enumerate(acts):
                    taps = {
                        plane: Tap(linear[name].tiles[out, k], add=k > 0)
                        for plane, (name, out) in mine.items()
                    }
                    run_pass(self.plan, side, bundle, taps, round)
                found |= {result: round.accs((side, plane)) for plane, result in mine.items()}
            yield found

    def plane_of(self, result: Result) -> PlaneKey:
        """Return the plane that makes a result vector."""
        name, out = result
        return self.image.linear[f"layers.0.{name}"].plane_of[out]

    def scaled(self, work: Work, result: Result, accs: Sequence[Acc]) -> Node:
        """Add to a stencil: a result vector times its scales, which come from the other side."""
        scale = self.rows.scales[(*result, self.plane_of(result)[0].opposite)]
        return work.op("fmul", work.emitted(accs), work.same(scale))

    def residual(self, name: str, acts: Sequence[Bundle], state: State, norm: str) -> State:
        """Multiply, scale and add to the residual stream, which enters a norm of ``rows.gains``."""
        rooms = next(rooms for rooms in self.rows.x if rooms[0] is not state.x[0].room)
        sums = Sums(self, norm)
        for found in self.rounds([name], acts):
            for result, accs in sorted(found.items()):
                work, out = self.work(), result[1]
                x = work.op("fadd", self.scaled(work, result, accs), work.of(state.x[out]))
                work.keep(x, rooms[out])
                sums.add(work, out, x)
        return sums.state([found[0] for found in sums.found])

    def enter(self, x: list[Bundle]) -> State:
        """Begin the residual stream with vectors in the first rooms."""
        sums = Sums(self, "first")
        for out, bundle in enumerate(x):
            work = self.work()
            sums.add(work, out, work.op("mov", work.of(bundle)))
        return sums.state(x)


class Sums:
    """Rounds new vectors of the residual stream to activations, and adds up their squares.

    ``norm`` says whose gains activations are multiplied by, if weights do not hold them.
    The order of the sum is that of ``Stencil.total``: item i to that of i - 4, then a tree.
    """

    def __init__(self, blocks: BlockWork, norm: str):
        self.blocks, self.rows = blocks, blocks.rows
        self.gains = self.rows.gains.get(norm)
        self.count = len(blocks.image.hidden)
        self.n = min(4, self.count)
        high = self.rows.sums[Bank.HIGH]
        #: Where the partial sums are in the end: every two can be read at once.
        self.last = [high[0], self.rows.last_sums[0], high[-1], self.rows.last_sums[1]]
        self.found: list[list[Bundle]] = [[]] * self.count

    def add(self, work: Work, out: int, x: Node) -> None:
        """Complete a stencil whose node ``x`` is vector ``out``, and fit it."""
        count, n, rows = self.count, self.n, self.rows
        entering = work.op("fmul", x, work.same(self.gains[out])) if self.gains else x
        work.activate(entering, rows.h[out])
        total = work.op("fmul", x, x)
        if out >= n:
            total = work.op("fadd", total, work.of(self.found[out - n][-1]))
        bank = Bank.LOW if (count - 1 - out) // n % 2 else Bank.HIGH
        last = out - (count - n)
        work.keep(total, self.last[last] if last >= 0 else rows.sums[bank][out % n])
        self.found[out] = work.fit()

    def state(self, x: list[Bundle]) -> State:
        """Finish the norm."""
        blocks, model = self.blocks, self.blocks.model
        parts = [found[-1] for found in self.found[-self.n :]]
        if len(parts) > 2:
            work = blocks.work()
            pair = work.op("fadd", work.of(parts[0]), work.of(parts[1]))
            work.keep(pair, self.rows.first_pair)
            parts[:2] = work.fit()
        work = blocks.work()
        total: Node | Stored = work.of(parts[-1])
        if len(parts) > 1:
            total = work.op("fadd", work.of(parts[-2]), total)
        if len(parts) > 2:
            total = work.op("fadd", work.of(parts[0]), total)
        lanes = work.op("rsum", total)
        mean = work.op("fmul", lanes, Imm(bits(1.0 / model["hidden"])))
        r = work.op("rsqrt", work.op("fadd", mean, Imm(bits(model["norm_eps"]))))
        work.keep(r, self.rows.r)
        return State(x, [f[-2] for f in self.found], work.fit()[0])

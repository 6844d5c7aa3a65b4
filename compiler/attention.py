"""Attention of the decode program: projections, cache, scores and their maxima.

Keys are scattered to the plane that holds their tile of positions, values to the plane that holds
their vector; rows and slices come from maps that are looked up by position, so the schedule is
the same for every token. Of 16-bit cache entries each tile is multiplied as two byte planes
into the same accumulators, which stays exact; of 8-bit entries there is one.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from waterclock.compiler.array import Step, Sums, Tile, Use, run_steps
from waterclock.compiler.blocks import EAST, WEST, Blocks, State
from waterclock.compiler.cache_maps import CacheMaps
from waterclock.compiler.fit import fit
from waterclock.compiler.image import DIGITS, Cache, Image, PlaneKey
from waterclock.compiler.memory import Vec
from waterclock.compiler.mixing import Mixing
from waterclock.compiler.plan import Acc, Act, Plan
from waterclock.compiler.stencil import (
    Constant,
    Emitted,
    Imm,
    Node,
    Spread,
    Stencil,
    Store,
    Stored,
    bits,
    spaced,
    tree,
)
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.mxm import Order, Window

MASKED = -1e30  #: score of a position that is not there yet
PAIRS = 2  #: pairs of query vectors a plane after which projections go on into the rotation


class Attention(Blocks):
    """Schedules attention; looks up once what depends on the position alone, first rotations."""

    def __init__(self, plan: Plan, image: Image):
        super().__init__(plan, image)
        self.digits = DIGITS[self.model["cache_bits"]]
        self.rounding = "f32_to_i32" if len(self.digits) > 1 else "f32_to_i8"
        self.tiles = -(-plan.context // self.config.vector)
        position = image.mailbox["position"]
        if "fine_cos" in image.rotary:
            self.rotary = self._rotations(position)
        else:
            self.rotary = {
                "cos": self.gathered(image.rotary["cos"], position, WEST),
                "sin": self.gathered(image.rotary["sin"], position, EAST),
            }
            self.rotary["-sin"] = [self._negated(vec) for vec in self.rotary["sin"]]
        self.maps = CacheMaps(plan, image)
        #: Scales that rotations read in two orders, by name of the map, where memory is short.
        self.kept: dict[str, list[Vec]] = {}

    def look_up(self) -> None:
        """Look up what is needed a little later: masks."""
        self.masks = self._masks(self.image.mailbox["position"])

    def _rotations(self, position: Vec) -> dict[str, list[Vec]]:
        """Multiply the coarse and the fine rotation of a position."""
        step = len(self.tensors["rope.fine_cos"])
        coarse = self.quotient(position, WEST, step)
        stencil, rest = Stencil(self.config, [0]), Store(WEST)
        stencil.op("and", Stored([position]), Imm(step - 1), sinks=[rest])
        fit(self.plan, stencil)
        found: dict[str, list[Vec]] = {"cos": [], "sin": [], "-sin": []}
        maps = {"cos": coarse, "sin": coarse, "fine_cos": rest.vecs[0], "fine_sin": rest.vecs[0]}
        factors = [self.gathered(self.image.rotary[n], vec, EAST) for n, vec in maps.items()]
        for vecs in zip(*factors, strict=True):
            stencil = Stencil(self.config, [0])
            a, b, c, d = (Stored([vec]) for vec in vecs)
            stores = {name: Store(WEST if name == "cos" else EAST) for name in found}
            op = stencil.op
            op("fsub", op("fmul", a, c), op("fmul", b, d), sinks=[stores["cos"]])
            sin = op("fadd", op("fmul", b, c), op("fmul", a, d), sinks=[stores["sin"]])
            op("xor", sin, Imm(0x80000000), sinks=[stores["-sin"]])
            fit(self.plan, stencil)
            for name, store in stores.items():
                found[name] += store.vecs
        return found

    def _negated(self, vec: Vec) -> Vec:
        """Return the negative of an fp32 vector."""
        stencil, sink = Stencil(self.config, [0]), Store(EAST, prefer=2)
        stencil.op("xor", Stored([vec]), Imm(0x80000000), sinks=[sink])
        fit(self.plan, stencil)
        return sink.vecs[0]

    def _masks(self, position: Vec) -> list[Vec]:
        """Return for each tile of positions 1 where the position is there, else 0."""
        vector = self.config.vector
        lanes = np.arange(vector, dtype=np.int32)
        found = []
        for tile in range(self.tiles):
            stencil = Stencil(self.config, [0])
            after = stencil.op("iadd", Stored([position]), Imm(1 - tile * vector & 0xFFFFFFFF))
            side, plane = self.plane_of(tile)
            store = Store(side, prefer=2 + plane, only=True)
            stencil.op("igt", after, Constant(lanes[None, None]), sinks=[store])
            fit(self.plan, stencil)
            found += store.vecs
        return found

    def plane_of(self, tile: int) -> PlaneKey:
        """Return the plane that holds a tile of positions of the keys."""
        return self.planes[tile % len(self.planes)]

    def run(self, layer: int, state: State) -> dict[PlaneKey, list[Act]]:
        """Schedule a layer's attention; return the mixed values as activations."""
        prefix = f"layers.{layer}"
        self.plan.serve(f"{prefix}.qkv")
        if self.config.wide:
            for name, side in ((f"{prefix}.k", EAST), (f"{prefix}.q", WEST)):
                scales = self.scales(name, range(len(self.image.linear[name].outs)))
                self.kept[name] = self.plan.memory.constant(side, 0, scales.data)
        self._keys(layer, state)
        queries = self._queries(layer, state)
        self._values(layer, state)
        self.plan.serve(f"{prefix}.scores")
        scores, tops = self._scores(layer, queries)
        self.plan.serve(f"{prefix}.mix")
        return Mixing(self.plan, self.image, layer, scores, tops, self.value_ready).run()

    # Projections.

    def _rotated(
        self,
        stencil: Stencil,
        name: str,
        items: list[tuple[int, int, int]],
        accs: dict[int, Acc],
        state: State,
    ) -> Node:
        """Scale, rotate and normalise half vectors, an item each: (pair, half, rotary vector).

        With the halves a and b of a pair, item 0 is a cos - b sin and item 1 is b cos - a (-sin).
        """
        op = stencil.op
        own = [2 * pair + part for pair, part, _ in items]
        other = [2 * pair + 1 - part for pair, part, _ in items]
        x = self._biased(stencil, name, own, accs, state)
        y = self._biased(stencil, name, other, accs, state)
        cos = Stored([self.rotary["cos"][dim] for _, _, dim in items])
        sin = Stored([self.rotary["-sin" if part else "sin"][dim] for _, part, dim in items])
        turned = op("fsub", op("fmul", x, cos), op("fmul", y, sin))
        return turned if self.model["biased"] else op("fmul", turned, self._norms(state, len(own)))

    def _biased(
        self, stencil: Stencil, name: str, outs: list[int], accs: dict[int, Acc], state: State
    ) -> Node:
        """Scale; with a bias, normalise and add it. Without, 1 / rms comes last: it may be late."""
        emitted, kept = Emitted([accs[out] for out in outs]), self.kept.get(name)
        if kept:  # a first operand leaves the lowest streams to the accumulators
            scaled = stencil.op("fmul", Stored([kept[out] for out in outs]), emitted)
        else:
            scaled = stencil.op("fmul", emitted, self.scales(name, outs))
        if not self.model["biased"]:
            return scaled
        normal = stencil.op("fmul", scaled, self._norms(state, len(outs)))
        lanes = [self.image.linear[name].outs[out] for out in outs]
        return stencil.op("fadd", normal, self.constant(f"{name}.bias", lanes))

    def _norms(self, state: State, count: int) -> Stored:
        return Stored([state.r] * count)

    def _keys(self, layer: int, state: State) -> None:
        name = f"layers.{layer}.k"
        packs = self.image.key_packs
        where = [(p, i) for p, pack in enumerate(packs) for i in range(len(pack.keys))]
        accs = self.linear(name, range(2 * len(where)), state.acts)
        self.key_ready: dict[tuple[int, int, int, PlaneKey], int] = {}
        chunk = self.config.turns  # where the VXM is slow, stencils that leave it no gaps
        for base in range(0, len(where), chunk):
            some = [(pair, *where[pair]) for pair in range(base, min(base + chunk, len(where)))]
            halves = [(*pair, part) for pair in some for part in (0, 1)]
            # Low and high byte go to the same slices: one cycle after the other.
            bytes_each = len(self.digits)
            stencil = Stencil(self.config, range(0, bytes_each * len(halves), bytes_each))
            items = [(pair, part, index) for pair, _, index, part in halves]
            low = stencil.op(self.rounding, self._rotated(stencil, name, items, accs, state))
            spreads: list[tuple[PlaneKey, Spread]] = []
            for side in Hemisphere:
                node = low if side is WEST else stencil.op("mov", low)
                for byte in range(bytes_each):
                    if byte:
                        node = stencil.op("mov", node)
                    for key, maps in self.maps.keys.items():
                        if key[0] is side:
                            regions = [
                                [self.image.keys[layer, pack, index, part].regions[key][byte]]
                                for _, pack, index, part in halves
                            ]
                            spread = Spread(side, regions, maps)
                            node.sinks.append(spread)
                            spreads.append((key, spread))
            fit(self.plan, stencil)
            for key, sink in spreads:
                for _, pack, index, part in halves:
                    at = (pack, index, part, key)
                    self.key_ready[at] = max(self.key_ready.get(at, 0), sink.ready)

    def _queries(self, layer: int, state: State) -> dict[tuple[int, ...], dict[PlaneKey, Act]]:
        """Return query activations on every plane, by (pack, member, pair, half)."""
        name = f"layers.{layer}.q"
        where = [
            (p, member, pair)
            for p, pack in enumerate(self.image.key_packs)
            for member, pairs in enumerate(pack.queries)
            for pair in range(len(pairs))
        ]
        items = [(i, part, pair) for i, (_, _, pair) in enumerate(where) for part in (0, 1)]
        entries = {key: self.plan.acts[key].take(len(items)) for key in self.planes}
        acts = {key: [Act(0, 0, 0)] * len(items) for key in self.planes}
        # A few at a time: what leaves the VXM takes streams from the weights that come next.
        chunk = 2 * self.config.planes * PAIRS * self.config.turns
        for base in range(0, len(items), chunk):
            numbers = range(base, min(base + chunk, len(items)))
            some = [items[i] for i in numbers]
            accs = self.linear(name, [2 * i + part for i, part, _ in some], state.acts)
            ready = [max(accs[2 * i].ready, accs[2 * i + 1].ready) for i, _, _ in some]
            stencil = Stencil(self.config, spaced(ready))
            node = self._rotated(stencil, name, some, accs, state)
            sinks = self.on_all_planes(entries, numbers)
            self.activate(stencil, node, sinks)
            fit(self.plan, stencil)
            self.loaded(entries, numbers, sinks, acts)
        return {
            (*where[pair], part): {key: acts[key][item] for key in self.planes}
            for item, (pair, part, _) in enumerate(items)
        }

    def _values(self, layer: int, state: State) -> None:
        name = f"layers.{layer}.v"
        packs = self.image.value_packs
        where = [(p, i) for p, pack in enumerate(packs) for i in range(len(pack.values))]
        accs = self.linear(name, range(len(where)), state.acts)
        self.value_ready: dict[tuple[int, int], int] = {}
        for out, (pack, part) in enumerate(where):
            key, regions = next(iter(self.image.values[layer, pack, part].regions.items()))
            stencil = Stencil(self.config, [0])
            normal = self._biased(stencil, name, [out], accs, state)
            if not self.model["biased"]:
                normal = stencil.op("fmul", normal, self._norms(state, 1))
            maps = self.maps.values[key[0]]
            low, *high = (Spread(key[0], [[region]], maps) for region in regions)
            node = stencil.op(self.rounding, normal, sinks=[low])
            if high:
                stencil.op("mov", node, sinks=high)
            fit(self.plan, stencil)
            self.value_ready[pack, part] = max(sink.ready for sink in (low, *high))

    # Scores.

    def _scores(
        self, layer: int, queries: dict[tuple[int, ...], dict[PlaneKey, Act]]
    ) -> tuple[dict[tuple[int, int], Vec], dict[int, Vec]]:
        """Return masked scores by (head, tile), and each head's maximum in all lanes."""
        width = len(self.planes)
        rounds = -(-self.tiles // width)
        heads = [slot.head for pack in self.image.key_packs for slot in pack.slots]
        groups = [(heads, WEST)]
        if self.config.wide:
            # What meets in the softmax comes from both sides, each score from the one to which its
            # weight will not go: a result takes the streams of what comes from over there.
            sides = {
                slot.head: self.image.value_planes(p)[0][0]
                for p, pack in enumerate(self.image.value_packs)
                for slot in pack.slots
            }
            groups = [
                ([head for head in heads if sides[head] is side], side)
                for side in Hemisphere
                if side in sides.values()
            ]
        rooms = {side: iter(places) for side, places in self.image.scores.items()}
        scores: dict[tuple[int, int], Vec] = {}
        best: dict[int, Vec] = {}
        for some, side in groups:
            for number in range(rounds):
                tiles = range(number * width, min((number + 1) * width, self.tiles))
                accs = {tile: self._score_tile(layer, tile, queries, some) for tile in tiles}
                ready = [max(accs[tile][head].ready for tile in tiles) for head in some]
                stencil = Stencil(self.config, spaced(ready))
                stores, masked = [], []
                # Its own side's first: what the sides do is alike then, but for the side.
                for tile in sorted(tiles, key=lambda tile: self.plane_of(tile)[0] is not side):
                    store = Store(self.plane_of(tile)[0])
                    if rooms:
                        away = side.opposite
                        store = Store(away, at=list(itertools.islice(rooms[away], len(some))))
                    masked.append(
                        stencil.op(
                            "select",
                            Stored([self.masks[tile]] * len(some)),
                            Emitted([accs[tile][head] for head in some]),
                            imm=bits(MASKED),
                            sinks=[store],
                        )
                    )
                    stores.append((tile, store))
                top = tree(stencil, "fmax", masked)
                if number:
                    top = stencil.op("fmax", top, Stored([best[head] for head in some]))
                # In its place where memory is short: each item reads it before it writes.
                at = [best[head].places[0] for head in some] if number else None
                kept = Store(side, at=at if self.config.wide else None, prefer=1)
                if number == rounds - 1:
                    stencil.op("rmax", top, sinks=[kept])
                else:
                    top.sinks.append(kept)
                fit(self.plan, stencil)
                best |= dict(zip(some, kept.vecs, strict=True))
                for tile, store in stores:
                    for head, vec in zip(some, store.vecs, strict=True):
                        scores[head, tile] = vec
        return scores, best

    def _score_tile(
        self,
        layer: int,
        tile: int,
        queries: dict[tuple[int, ...], dict[PlaneKey, Act]],
        heads: Sequence[int],
    ) -> dict[int, Acc]:
        """Multiply the queries of heads with one tile of keys, on the plane that holds it."""
        key = self.plane_of(tile)
        local = tile // len(self.planes)
        loads = self.image.loads
        found = {}
        for number, pack in enumerate(self.image.key_packs):
            slots = [slot for slot in pack.slots if slot.head in heads]
            if not slots:
                continue
            entries = self.plan.accs[key].take(len(slots))
            sums, steps = Sums(), []
            alone = len(pack.slots) == len(pack.queries)
            for pair in range(len(pack.keys)):
                for part in (0, 1):
                    cache: Cache = self.image.keys[layer, number, pair, part]
                    for byte, weight in self.digits:
                        region = cache.regions[key][byte]
                        weights = Tile(
                            region.first + local,
                            region.base + local * loads,
                            Order.COLUMNS,
                            self.key_ready[number, pair, part, key],
                            stride=region.stride,
                        )
                        uses = [
                            Use(
                                queries[number, slot.member, pair, part][key],
                                entry,
                                add=bool(steps),
                                weight=weight,
                                window=Window.ALL if alone else Window.INPUT,
                                first=slot.first,
                                last=slot.last,
                            )
                            for slot, entry in zip(slots, entries, strict=True)
                        ]
                        steps.append(Step(weights, uses))
            run_steps(self.plan, *key, steps, sums)
            for slot, entry in zip(slots, entries, strict=True):
                found[slot.head] = Acc(*key, entry, sums.value[entry], sums.ready[entry])
        return found

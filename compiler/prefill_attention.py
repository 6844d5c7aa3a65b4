"""Attention of a block: its keys and values go into the cache, then every position attends.

A tile of the cache stays in a plane while the queries of all positions stream past, for each
head and byte plane. Each position has its own mask, so a position sees those of its own block
that come before it. Scores of one head at a time lie in memory.
"""

from collections.abc import Sequence

from waterclock.compiler.array import Tile
from waterclock.compiler.attention import MASKED
from waterclock.compiler.fit import fit
from waterclock.compiler.image import DIGITS, Image, PlaneKey
from waterclock.compiler.layout import HeadSlot
from waterclock.compiler.memory import Vec
from waterclock.compiler.plan import Acc, Plan
from waterclock.compiler.prefill_blocks import BlockWork, Result, State, Work
from waterclock.compiler.prefill_passes import Round, Tap, run_pass
from waterclock.compiler.prefill_rows import EAST, WEST, Bundle, Room, Rows, slots_of
from waterclock.compiler.stencil import Deal, Gathered, Node, Region, Stencil, Store, Table, bits
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.mxm import Order, Weight, Window

Where = tuple[int, int]  #: tile of the block, row in the tile's rows of a slice

Query = tuple[int, int, int, int]  #: pack, member, pair, half


class BlockAttention(BlockWork):
    """Schedules attention; looks up once what depends on the block's position alone."""

    def __init__(self, plan: Plan, image: Image, rows: Rows):
        super().__init__(plan, image, rows)
        vector = self.config.vector
        self.tiles = -(-plan.context // vector)
        position = image.mailbox["position"]
        work = self.work()
        after = work.op("iadd", work.same(position), work.of(rows.ramp))
        work.keep(after, rows.after)
        self.after = work.fit()[0]
        self.rotary = {
            name: [
                self._looked_up(table, position, room)
                for table, room in zip(image.rotary[name], rows.rotary[name], strict=True)
            ]
            for name in ("cos", "sin")
        }
        self.maps = {table: self._map(table, position) for table in rows.maps}

    def _looked_up(self, table: Table, position: Vec, room: Room) -> Bundle:
        """Return the rows of a table from the block's position on."""
        last = self.image.context - self.rows.size
        work = self.work()
        tables = [Table(table.side, table.slices, table.row + t, last + 1) for t in self.all]
        work.keep(work.op("mov", Gathered(tables, position)), room)
        return work.fit()[0]

    def _map(self, table: Table, position: Vec) -> list[Vec]:
        """Return the row of a table at the block's position, on both sides."""
        stencil = Stencil(self.config, [0])
        found = Gathered([table], position)
        sinks = [Store(place.side, at=[place]) for place in self.rows.maps[table]]
        node = stencil.op("mov", found, sinks=sinks[:1])
        stencil.op("mov", node, sinks=sinks[1:])
        fit(self.plan, stencil)
        return [sink.vecs[0] for sink in sinks]

    def run(self, state: State) -> list[Bundle]:
        """Schedule a layer's attention; return the mixed values as activations."""
        plan, prefix = self.plan, "layers.0"
        plan.serve(f"{prefix}.qkv")
        queries = self._projections(state)
        outputs: list[Bundle] = []
        waiting: list[tuple[tuple[int, int], list[list[Bundle]]]] = []
        packs = self.image.value_packs
        members = [(p, m) for p, pack in enumerate(packs) for m in range(len(pack.outputs))]
        for number, which in enumerate(members):
            plan.serve(f"{prefix}.scores")
            turn = number % self.rows.turns
            waiting.append((which, self._softmax(*which, queries, turn)))
            if len(waiting) == self.rows.turns:  # the next scores, then what waits for exp2
                plan.serve(f"{prefix}.mix")
                outputs += self._mix(*waiting.pop(0), len(outputs))
        for pending in waiting:
            outputs += self._mix(*pending, len(outputs))
        return outputs

    # Projections.

    def _projections(self, state: State) -> dict[Query, Bundle]:
        """Put keys and values into the cache; return queries as activations."""
        key_of = [(p, i) for p, k in enumerate(self.image.key_packs) for i in range(len(k.keys))]
        value_of = [
            (p, i) for p, v in enumerate(self.image.value_packs) for i in range(len(v.values))
        ]
        query_of = [
            (p, member, pair)
            for p, pack in enumerate(self.image.key_packs)
            for member, pairs in enumerate(pack.queries)
            for pair in range(len(pairs))
        ]
        self.key_ready: dict[tuple[int, int, int, PlaneKey], int] = {}
        self.value_ready: dict[tuple[int, int], int] = {}
        queries: dict[Query, Bundle] = {}
        for found in self.rounds(["k", "q", "v"], state.h):  # halves of pairs side by side
            # All results leave the accumulators before anything else is done with them.
            kept: dict[Result, Bundle] = {}
            for name, out in sorted(found):
                work = self.work()
                if name == "v":
                    node = self.scaled(work, (name, out), found[name, out])
                else:
                    dim = key_of[out // 2][1] if name == "k" else query_of[out // 2][2]
                    node = self._turned(work, (name, out), dim, found)
                number = self.planes.index(self.plane_of((name, out)))
                work.keep(node, self.rows.scaled[number])
                kept[name, out] = work.fit()[0]
            for (name, out), bundle in kept.items():
                if name == "q":
                    work = self.work()
                    normal = work.op("fmul", work.of(bundle), work.of(state.r))
                    work.activate(normal, self.rows.acts[out])
                    queries[(*query_of[out // 2], out % 2)] = work.fit()[0]
                elif name == "k":
                    self._keep_keys((*key_of[out // 2], out % 2), bundle, state.r)
                else:
                    self._keep_values(value_of[out], bundle, state.r)
        return queries

    def _turned(self, work: Work, result: Result, dim: int, found: dict[Result, list[Acc]]) -> Node:
        """Scale and rotate a half vector: a cos - b sin, or b cos + a sin.

        All streams into the VXM are busy with that; 1 / rms comes in another stencil.
        """
        name, own = result
        part, other = own % 2, own ^ 1
        scales, op = self.rows.scales, work.op
        x = op("fmul", work.emitted(found[name, own]), work.same(scales[name, own, WEST]))
        y = op("fmul", work.emitted(found[name, other]), work.same(scales[name, other, EAST]))
        x = op("fmul", x, work.of(self.rotary["cos"][dim]))
        y = op("fmul", y, work.of(self.rotary["sin"][dim]))
        return op("fadd" if part else "fsub", x, y)

    def _keep_keys(self, which: tuple[int, int, int], turned: Bundle, r: Bundle) -> None:
        """Put a half vector of the keys, (pack, pair, half), into the cache, tile by tile."""
        vector, regions = self.config.vector, self.image.keys[(0, *which)].regions
        for tile in range(self.rows.size // vector):
            targets = {
                key: (regions[key], {tile: tables}) for key, tables in self.rows.key_tables[tile]
            }
            positions = self.all[tile * vector : (tile + 1) * vector]
            ready = self._deal(turned, r, positions, targets)
            for key in targets:
                at = (*which, key)
                self.key_ready[at] = max(self.key_ready.get(at, 0), ready)

    def _keep_values(self, which: tuple[int, int], scaled: Bundle, r: Bundle) -> None:
        """Put a vector of the values, (pack, part), into the cache."""
        by_tile = dict(enumerate(self.rows.value_tables))
        regions = self.image.values[(0, *which)].regions
        targets = {key: (pair, by_tile) for key, pair in regions.items()}
        self.value_ready[which] = self._deal(scaled, r, self.all, targets)

    def _deal(
        self,
        scaled: Bundle,
        r: Bundle,
        positions: range,
        targets: dict[PlaneKey, tuple[tuple[Region, ...], dict[int, list[Table]]]],
    ) -> int:
        """Normalise, round, and scatter each position to one slice of the regions of planes.

        ``targets``: a plane's regions of both bytes, and the tables that say the row, by tile of
        the block and by row within the tile's rows. Returns when all of it may be read.
        """
        work, streams = Work(self.plan, positions), self.config.load_streams
        low = work.op("f32_to_i32", work.op("fmul", work.of(scaled), work.of(r)))
        deals: list[Deal] = []
        for side in sorted({key[0] for key in targets}):
            node = work.op("mov", low) if deals else low
            for byte in (0, 1):
                node = work.op("mov", node) if byte else node
                mine = [pair for key, pair in targets.items() if key[0] is side]
                aims: list[list[tuple[Region, Vec]]] = []
                for t in positions:
                    tile, lane = divmod(t, self.config.vector)
                    aims.append(
                        [
                            (regions[byte], self.maps[tables[tile][lane // streams]][byte])
                            for regions, tables in mine
                        ]
                    )
                deal = Deal(side, aims, [t % streams for t in positions])
                node.sinks.append(deal)
                deals.append(deal)
        work.fit()
        return max(deal.ready for deal in deals)

    # Scores and softmax.

    def _weights(self, head: int, queries: dict[Query, Bundle], first: int) -> list[Bundle]:
        """Return exp2(score - maximum) of a head as activations, a bundle a tile of positions."""
        number, slot = next(
            (p, slot)
            for p, pack in enumerate(self.image.key_packs)
            for slot in pack.slots
            if slot.head == head
        )
        width, tops = len(self.planes), self.rows.tops
        scores: list[Bundle] = []
        best: Bundle | None = None
        for base in range(0, self.tiles, width):
            tiles = range(base, min(base + width, self.tiles))
            accs = self._score(number, slot, tiles, queries)
            for tile in tiles:
                work = self.work()
                seen = work.op("igt", work.of(self.after), work.same(self.rows.lanes[tile]))
                score = work.emitted(accs[tile])
                node = work.op("select", seen, score, imm=bits(MASKED))
                work.keep(node, self.rows.scores[tile])
                if best:
                    node = work.op("fmax", node, work.of(best))
                top = work.op("rmax" if tile == self.tiles - 1 else "mov", node)
                work.keep(top, tops[tile % 2])
                kept, best = work.fit()
                scores.append(kept)
        assert best
        weights = []
        for tile, score in enumerate(scores):
            work = self.work()
            power = work.op("exp2", work.op("fsub", work.of(score), work.of(best)))
            work.activate(power, self.rows.p[first + tile])
            weights += work.fit()
        return weights

    def _score(
        self, number: int, slot: HeadSlot, tiles: range,
        queries: dict[Query, Bundle],
    ) -> dict[int, list[Acc]]:  # fmt: skip
        """Multiply a head's queries with tiles of keys, each on the plane that holds it."""
        pack, width, loads = self.image.key_packs[number], len(self.planes), self.image.loads
        alone = len(pack.slots) == len(pack.queries)
        found = {}
        for side in Hemisphere:
            mine = {tile: self.planes[tile % width] for tile in tiles}
            mine = {tile: key for tile, key in mine.items() if key[0] is side}
            round = Round()
            for pair in range(len(pack.keys) if mine else 0):
                for part in (0, 1):
                    regions = self.image.keys[0, number, pair, part].regions
                    for byte, weight in DIGITS[16]:
                        taps = {}
                        for tile, key in mine.items():
                            region, local = regions[key][byte], tile // width
                            weights = Tile(
                                region.first + local,
                                region.base + local * loads,
                                Order.COLUMNS,
                                self.key_ready.get((number, pair, part, key), 0),
                                stride=region.stride,
                            )
                            taps[key[1]] = Tap(
                                weights,
                                add=(pair, part, byte) != (0, 0, 1),
                                weight=weight,
                                window=Window.ALL if alone else Window.INPUT,
                                first=slot.first,
                                last=slot.last,
                            )
                        bundle = queries[number, slot.member, pair, part]
                        run_pass(self.plan, side, bundle, taps, round)
            found |= {tile: round.accs(key) for tile, key in mine.items()}
        return found

    # Mixing.

    def _softmax(
        self,
        pack: int,
        member: int,
        queries: dict[Query, Bundle],
        turn: int,
    ) -> list[list[Bundle]]:
        """Return the weights of the heads that share the vectors of a member, by tile."""
        slots, tiles = slots_of(self.image.value_packs[pack], member), self.image.tiles
        first = turn * len(slots) * tiles
        return [
            self._weights(slot.head, queries, first + i * tiles) for i, slot in enumerate(slots)
        ]

    def _mix(self, which: tuple[int, int], weights: list[list[Bundle]], first: int) -> list[Bundle]:
        """Return the mixed values of the heads that share the vectors of a member."""
        image, (pack, member) = self.image, which
        found = image.value_packs[pack]
        slots = slots_of(found, member)
        planes = {part: image.value_plane(pack, part) for part in range(len(found.values))}
        total = next((key for key in self.planes if key not in planes.values()), self.planes[0])
        sums = Round()
        for side in Hemisphere:
            if total[0] is side:
                self._stream(side, slots, weights, {total[1]: None}, pack, sums)
        work = self.work()
        work.keep(work.op("recip", work.emitted(sums.accs(total))), self.rows.inverse)
        inverse = work.fit()[0]
        results: list[Bundle] = []
        for part, key in planes.items():
            round = Round()
            self._stream(key[0], slots, weights, {key[1]: part}, pack, round)
            work = self.work()
            scaled = work.op("fmul", work.emitted(round.accs(key)), work.of(inverse))
            node = work.op("fmul", scaled, work.same(self.rows.steps[pack, part]))
            room = self.rows.acts[self.rows.queries + first + len(results)]
            work.activate(node, room)
            results += work.fit()
        return results

    def _stream(
        self, side: Hemisphere, slots: Sequence[HeadSlot], weights: Sequence[Sequence[Bundle]],
        parts: dict[int, int | None], pack: int, round: Round,
    ) -> None:  # fmt: skip
        """Let the softmax weights of all heads stream past: plane -> part, None for ones."""
        for number, slot in enumerate(slots):
            for tile, bundle in enumerate(weights[number]):
                for place, (byte, weight) in enumerate(DIGITS[16]):
                    fresh = not tile and not place
                    taps = {}
                    for plane, part in parts.items():
                        if part is None and place:
                            continue
                        value = (
                            self.image.ones[side, plane]
                            if part is None
                            else self._value_tile(pack, part, tile, byte)
                        )
                        whole = len(slots) == 1 or (fresh and not number)
                        taps[plane] = Tap(
                            value,
                            add=not fresh,
                            weight=Weight.I8 if part is None else weight,
                            window=Window.ALL if whole else Window.OUTPUT,
                            first=slot.first,
                            last=slot.last,
                        )
                    if taps:
                        run_pass(self.plan, side, bundle, taps, round)

    def _value_tile(self, pack: int, part: int, tile: int, byte: int) -> Tile:
        region = next(iter(self.image.values[0, pack, part].regions.values()))[byte]
        row = region.base + tile * self.image.loads
        ready = self.value_ready[pack, part]
        return Tile(region.first + tile, row, Order.ROWS, ready, stride=region.stride)

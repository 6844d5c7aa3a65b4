"""Mixing of values by the softmax of their scores, in the decode program.

The weights of the softmax enter the MXM as activations. Heads that share a vector of values add
to lanes of their own, and a tile of ones adds up the weights.
"""

import itertools
from collections.abc import Iterator

from waterclock.compiler.array import Step, Sums, Tile, Use, run_steps
from waterclock.compiler.blocks import EAST, WEST, Blocks
from waterclock.compiler.fit import fit
from waterclock.compiler.image import DIGITS, Image, PlaneKey
from waterclock.compiler.layout import HeadSlot
from waterclock.compiler.memory import Vec
from waterclock.compiler.plan import Acc, Act, Plan
from waterclock.compiler.stencil import Activate, Emitted, Stencil, Stored
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.mxm import Order, Weight, Window


class Mixing(Blocks):
    """Schedules the softmax of a layer's scores, times its values.

    Parameters
    ----------
    scores : dict
        Masked scores by (head, tile).
    tops : dict
        Each head's maximum, in all lanes.
    ready : dict
        First cycle in which the values of (pack, part) may be read.
    """

    def __init__(
        self,
        plan: Plan,
        image: Image,
        layer: int,
        scores: dict[tuple[int, int], Vec],
        tops: dict[int, Vec],
        ready: dict[tuple[int, int], int],
    ):
        super().__init__(plan, image)
        self.layer, self.scores, self.tops, self.ready = layer, scores, tops, ready
        self.tiles = -(-plan.context // self.config.vector)
        #: Mixed values and the sum of their weights, by (pack, member, part).
        self.mixed: dict[tuple[int, int, int], tuple[Acc, Acc]] = {}

    def run(self) -> dict[PlaneKey, list[Act]]:
        """Schedule it; return the mixed values as activations on every plane."""
        packs = self.image.value_packs
        outputs = [
            (p, member, part)
            for p, pack in enumerate(packs)
            for member, vectors in enumerate(pack.outputs)
            for part in range(len(vectors))
        ]
        entries = {key: self.plan.acts[key].take(len(outputs)) for key in self.planes}
        acts = {key: [Act(0, 0, 0)] * len(outputs) for key in self.planes}
        for batch in self._batches():
            apart = self.config.turns * len(batch)
            runs = [self._pack(pack, apart) for pack in batch]
            for _ in itertools.zip_longest(*runs):
                pass
        for key in self.planes:
            items = [
                i
                for i, o in enumerate(outputs)
                if self.mixed[o][0].side is key[0] and self.mixed[o][0].plane == key[1]
            ]
            if items:
                self._normalise([outputs[i] for i in items], items, entries, acts)
        return acts

    def _batches(self) -> list[list[int]]:
        """Return the packs of values, those together that the planes mix side by side."""
        packs = range(len(self.image.value_packs))
        keys = [self.image.value_planes(pack) for pack in packs]
        if not self.config.wide or any(len(found) > 1 for found in keys):
            return [[pack] for pack in packs]
        queues = [[pack for pack in packs if keys[pack] == [key]] for key in self.planes]
        batches = itertools.zip_longest(*queues)
        return [[pack for pack in batch if pack is not None] for batch in batches]

    def _pack(self, pack: int, apart: int) -> Iterator[None]:
        """Mix a pack, some tiles a step."""
        found = self.image.value_packs[pack]
        parts = range(len(found.values))
        members = range(len(found.outputs))
        plane_of = {part: self.image.value_plane(pack, part) for part in parts}
        keys = self.image.value_planes(pack)
        sums = {key: Sums() for key in keys}
        out_entry = {
            (part, member): self.plan.accs[plane_of[part]].take(1)[0]
            for part in parts
            for member in members
        }
        sum_entry = {
            (key, member): self.plan.accs[key].take(1)[0] for key in keys for member in members
        }
        room = self.config.act_entries // 2
        chunk = max(1, room // len(found.slots))
        for base in range(0, self.tiles, chunk):
            tiles = range(base, min(base + chunk, self.tiles))
            weights = self._weights(keys, found.slots, tiles, apart)
            for key in keys:
                steps = []
                for tile in tiles:
                    for part in parts:
                        if plane_of[part] == key:
                            steps += self._value_steps(
                                pack,
                                part,
                                tile,
                                weights[key],
                                {m: out_entry[part, m] for m in members},
                            )
                uses = [
                    use
                    for tile in tiles
                    for use in self._uses(
                        found.slots,
                        tile,
                        weights[key],
                        {m: sum_entry[key, m] for m in members},
                        Weight.I8,
                        tile == 0,
                    )
                ]
                steps.append(Step(self.image.ones[key], uses))
                run_steps(self.plan, *key, steps, sums[key])
            yield
        for part in parts:
            key = plane_of[part]
            done = sums[key]
            for member in members:
                o, s = out_entry[part, member], sum_entry[key, member]
                self.mixed[pack, member, part] = (
                    Acc(*key, o, done.value[o], done.ready[o]),
                    Acc(*key, s, done.value[s], done.ready[s]),
                )

    def _weights(
        self,
        keys: list[PlaneKey],
        slots: list[HeadSlot],
        tiles: range,
        apart: int,
    ) -> dict[PlaneKey, dict[tuple[int, int], Act]]:
        """Return exp2(score - maximum) as activations, by plane and (head, tile).

        Items are ``apart`` cycles from each other where that leaves time for those of others.
        """
        items = [(slot.head, tile) for tile in tiles for slot in slots]
        stencil = Stencil(self.config, range(0, apart * len(items), apart))
        shifted = stencil.op(
            "fsub",
            Stored([self.scores[item] for item in items]),
            Stored([self.tops[head] for head, _ in items]),
        )
        power = stencil.op("exp2", shifted)
        sinks = {
            side: [
                Activate(side, key[1], self.plan.acts[key].take(len(items)))
                for key in keys
                if key[0] is side
            ]
            for side in Hemisphere
        }
        self.activate(stencil, power, sinks)
        fit(self.plan, stencil)
        return {
            (sink.side, sink.plane): {
                item: Act(sink.entries[i], sink.values[i], sink.ready[i])
                for i, item in enumerate(items)
            }
            for sink in (*sinks[EAST], *sinks[WEST])
        }

    def _value_steps(
        self,
        pack: int,
        part: int,
        tile: int,
        weights: dict[tuple[int, int], Act],
        entries: dict[int, int],
    ) -> list[Step]:
        """Multiply one tile of values, both byte planes, with every head's weights."""
        cache = self.image.values[self.layer, pack, part]
        regions = next(iter(cache.regions.values()))
        slots = self.image.value_packs[pack].slots
        steps = []
        for byte, weight in DIGITS[self.model["cache_bits"]]:
            region = regions[byte]
            row = region.base + tile * self.image.loads
            ready = self.ready[pack, part]
            found = Tile(region.first + tile, row, Order.ROWS, ready, stride=region.stride)
            fresh = tile == 0 and not steps
            steps.append(Step(found, self._uses(slots, tile, weights, entries, weight, fresh)))
        return steps

    def _uses(
        self,
        slots: list[HeadSlot],
        tile: int,
        weights: dict[tuple[int, int], Act],
        entries: dict[int, int],
        weight: Weight,
        fresh: bool,
    ) -> list[Use]:
        """Let every head of a pack add to its own lanes of its member's accumulator."""
        uses = []
        alone = len(slots) == len({slot.member for slot in slots})
        touched: set[int] = set()
        for slot in slots:
            opening = fresh and slot.member not in touched
            touched.add(slot.member)
            whole = alone or opening
            uses.append(
                Use(
                    weights[slot.head, tile],
                    entries[slot.member],
                    add=not fresh,
                    weight=weight,
                    window=Window.ALL if whole else Window.OUTPUT,
                    first=slot.first,
                    last=slot.last,
                )
            )
        return uses

    def _normalise(
        self,
        outputs: list[tuple[int, int, int]],
        items: list[int],
        entries: dict[PlaneKey, list[int]],
        acts: dict[PlaneKey, list[Act]],
    ) -> None:
        """Divide by the sums, undo the step of the cache, and load the result everywhere."""
        stencil = Stencil(self.config, range(len(items)))
        inverse = stencil.op("recip", Emitted([self.mixed[o][1] for o in outputs]))
        result = stencil.op("fmul", Emitted([self.mixed[o][0] for o in outputs]), inverse)
        if f"layers.{self.layer}.v_step" in self.tensors:
            packs = self.image.value_packs
            lanes = [packs[p].values[part] for p, _, part in outputs]
            steps = self.constant(f"layers.{self.layer}.v_step", lanes)
            result = stencil.op("fmul", result, steps)
        sinks = self.on_all_planes(entries, items)
        self.activate(stencil, result, sinks)
        fit(self.plan, stencil)
        self.loaded(entries, items, sinks, acts)

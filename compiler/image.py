"""The memory image of a model: weights, cache, tables, mailboxes; shared by all buckets."""

import dataclasses
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.array import PlaneKey, Tile
from waterclock.compiler.layout import (
    Channels,
    KeyPack,
    Shape,
    ValuePack,
    key_packs,
    plain,
    tile,
    value_packs,
    vocabulary,
)
from waterclock.compiler.memory import Memory, Place, SetKey, Vec
from waterclock.compiler.stencil import Region, Table
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.mxm import Weight
from waterclock.isa.program import QuantisedModel

#: Regions of the byte planes of a cache entry, and how each counts, by its bits.
DIGITS = {16: ((1, Weight.HIGH), (0, Weight.LOW)), 8: ((0, Weight.I8),)}


@dataclasses.dataclass(frozen=True)
class Linear:
    """A weight matrix in tiles: which plane makes which result vector, and where its tiles are."""

    outs: list[Channels]
    plane_of: list[PlaneKey]
    tiles: dict[tuple[int, int], Tile]  #: (result vector, contraction vector)

    def on(self, key: PlaneKey) -> list[int]:
        """Return the result vectors that a plane makes, in order."""
        return [out for out, plane in enumerate(self.plane_of) if plane == key]


@dataclasses.dataclass(frozen=True)
class Cache:
    """One vector of the cache: its byte planes on each plane that holds some of it."""

    regions: dict[PlaneKey, tuple[Region, ...]]  #: low and high byte, or of 8 bits the only one


class Image:
    """Allocates and fills everything of a model that does not depend on the bucket."""

    def __init__(
        self,
        quantised: QuantisedModel,
        config: Config,
        context: int,
        reserve: Mapping[SetKey, int] | None = None,
    ):
        model = quantised.model
        self.quantised, self.config, self.context = quantised, config, context
        self.memory = Memory(config, reserve)
        self.planes: list[PlaneKey] = [
            (side, plane) for plane in range(config.planes) for side in Hemisphere
        ]
        self.shape = Shape(
            *(model[n] for n in ("hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab"))
        )
        vector = config.vector
        self.loads = vector // config.load_streams
        # Tables in the middle of data slices are the embedding and a share of the head.
        share = -(-self.shape.vocab // vector) * -(-self.shape.hidden // vector) * self.loads
        tables = self.shape.vocab + share // (2 * config.planes)
        self.middle = max(0, config.depth - tables) // 2
        self.tiles = -(-context // vector)  # tiles of positions
        self.hidden = plain(self.shape.hidden, vector)
        self.ffn = plain(self.shape.ffn, vector)
        self.words = vocabulary(self.shape.vocab, vector)
        self.key_packs: list[KeyPack] = key_packs(self.shape, vector)
        self.value_packs: list[ValuePack] = value_packs(self.shape, vector)
        self.weight_bytes = 0
        self._mailboxes()
        self.linear: dict[str, Linear] = {}
        self.keys: dict[tuple[int, int, int, int], Cache] = {}  # layer, pack, pair, part
        self.values: dict[tuple[int, int, int], Cache] = {}  # layer, pack, part
        self.ones = {key: self._ones(key) for key in self.planes}
        self._layers(model["layers"])
        self._tables()
        planes = self._spread(len(self.words))
        self._linear("head", self.words, self.hidden, planes, k_major=False)

    def _spread(self, count: int) -> list[PlaneKey]:
        """Deal result vectors to the planes in turn."""
        return [self.planes[i % len(self.planes)] for i in range(count)]

    def _sides(self, count: int, side: Hemisphere) -> list[PlaneKey]:
        """Deal result vectors to the planes of one hemisphere in turn."""
        return [(side, i % self.config.planes) for i in range(count)]

    def _mailboxes(self) -> None:
        """Place what the host writes: token and position, 32 bits in every lane, on both sides."""
        self.mailbox: dict[str, Vec] = {}
        memory, config = self.memory, self.config
        for name in ("token", "position"):
            vec = Vec(memory.value())
            for side in Hemisphere:
                slices = memory.slices_of(0)
                row = memory.rows(side, slices, 1)
                for byte, index in enumerate(slices):
                    zero = np.zeros((1, config.vector), np.uint8)
                    memory.load(side, index, row, zero, value=vec.value, byte=byte)
                vec.places.append(Place(side, slices, row, 0))
            self.mailbox[name] = vec
        sets = memory.sets[-len(self.planes) :]  # far from where operands are read
        # Where lanes take turns a group of logits is gathered, so they lie in one set.
        share = -(-len(self.words) // (len(sets) if config.turns == 1 else 1))
        self.logits: list[Place] = []  #: as many in a row as fit lie in one set
        for side, number in sets[: -(-len(self.words) // share)]:
            count = min(share, len(self.words) - len(self.logits))
            row = memory.rows(side, memory.slices_of(number), count)
            self.logits += [Place(side, memory.slices_of(number), row + i, 0) for i in range(count)]
        self.share = share
        self.scores = self._scores() if config.wide else {}

    def _scores(self) -> dict[Hemisphere, list[Place]]:
        """Return where scores lie, each on the side to which its weight does not go.

        That is where logits will be, in the other bank than what scores meet.
        """
        memory, found, number = self.memory, {}, 0
        counts = dict.fromkeys(Hemisphere, 0)
        for pack in self.value_packs:
            parts = range(number, number + len(pack.values))
            side = min(self._value_key(part) for part in parts)[0]
            counts[side.opposite] += len(pack.slots) * self.tiles
            number = parts.stop
        for side, count in counts.items():
            places = [place for place in self.logits if place.side is side][:count]
            slices, left = memory.slices_of(0), count - len(places)
            row = memory.rows(side, slices, left)
            found[side] = places + [Place(side, slices, row + i, 0) for i in range(left)]
        return found

    def _layers(self, count: int) -> None:
        """Place all layers, each as far from the one before as that one from its predecessor.

        So all reads of a layer's own rows of a slice move alike from layer to layer.
        """
        memory = self.memory
        rows, first = dict(memory.next_row), memory.next_value
        self._layer(0)
        memory.steps.append((first, memory.next_value, memory.next_value - first))
        strides = {
            key: memory.next_row[place] - rows[place]
            for key in self.planes
            if (place := (key[0], memory.plane_slices(key[1])[0]))
        }
        for linear in self.linear.values():
            for (out, k), placed in linear.tiles.items():
                stride = strides[linear.plane_of[out]]
                linear.tiles[out, k] = dataclasses.replace(placed, stride=stride)
        for cache in (*self.keys.values(), *self.values.values()):
            for key, parts in cache.regions.items():
                cache.regions[key] = tuple(
                    dataclasses.replace(part, stride=strides[key]) for part in parts
                )
        for (side, number), page in memory.pages.items():
            place = side, memory.slices_of(number)[0]
            stride = memory.next_row[place] - rows[place]
            memory.pages[side, number] = dataclasses.replace(page, stride=stride)
        for layer in range(1, count):
            self._layer(layer)

    def _layer(self, layer: int) -> None:
        prefix = f"layers.{layer}"
        both = Hemisphere.WEST, Hemisphere.EAST
        keys = [pair for pack in self.key_packs for pair in pack.keys]
        queries = [pair for pack in self.key_packs for member in pack.queries for pair in member]
        for name, pairs, first in (("k", keys, 0), ("q", queries, len(keys))):
            outs = [pair[part] for pair in pairs for part in (0, 1)]
            planes = [
                (both[part], (first + i) % self.config.planes)
                for i in range(len(pairs))
                for part in (0, 1)
            ]
            self._linear(f"{prefix}.{name}", outs, self.hidden, planes, k_major=False)
        values = [vec for pack in self.value_packs for vec in pack.values]
        self._linear(f"{prefix}.v", values, self.hidden, self._spread(len(values)), k_major=False)
        outputs = [v for pack in self.value_packs for member in pack.outputs for v in member]
        spread = self._spread(len(self.hidden))
        self._linear(f"{prefix}.o", self.hidden, outputs, spread, k_major=True)
        for name, side in (("gate", Hemisphere.WEST), ("up", Hemisphere.EAST)):
            planes = self._sides(len(self.ffn), side)
            self._linear(f"{prefix}.{name}", self.ffn, self.hidden, planes, k_major=False)
        self._linear(f"{prefix}.down", self.hidden, self.ffn, spread, k_major=True)
        self._caches(layer)
        for side, number in self.memory.sets:
            self.memory.reserve_page(side, number)

    def _linear(
        self,
        name: str,
        outs: list[Channels],
        ins: list[Channels],
        planes: list[PlaneKey],
        *,
        k_major: bool,
    ) -> None:
        """Cut a weight matrix into tiles and load them in the order in which they are used."""
        weights = self.quantised.tensors[f"{name}.weight"]
        self.weight_bytes += weights.size
        found = Linear(outs, planes, {})
        for key in self.planes:
            mine = found.on(key)
            pairs = [(out, k) for out in mine for k in range(len(ins))]
            if k_major:
                pairs.sort(key=lambda pair: (pair[1], pair[0]))
            if not pairs:
                continue
            blocks = np.array([tile(weights, outs[out], ins[k]) for out, k in pairs])
            for part, slices in self._places(key, len(mine), len(ins)):
                placed = self._tiles(key, blocks[part], slices)
                found.tiles.update(zip(pairs[part], placed, strict=True))
        self.linear[name] = found

    def _places(
        self, key: PlaneKey, outs: int, ins: int
    ) -> list[tuple[slice, tuple[int, ...] | None]]:
        """Return where a plane's tiles of ``outs`` result vectors go: (tiles, data slices or None).

        What the weight slices cannot hold goes to data slices, and as the planes of a hemisphere
        share these, each plane has its turn: its own share of the time.
        """
        memory, config = self.memory, self.config
        rows = memory.next_row[key[0], memory.plane_slices(key[1])[0]]
        spare = self.spare
        if rows + outs * ins * self.loads <= config.depth or not spare:
            return [(slice(None), None)]
        begin, end = (outs * turn // config.planes * ins for turn in (key[1], key[1] + 1))
        cuts = [(0, begin, None), (begin, end, spare), (end, outs * ins, None)]
        return [(slice(first, last), where) for first, last, where in cuts if first < last]

    @property
    def spare(self) -> tuple[int, ...]:
        """Data slices that could hold weights, as many as LW takes streams; a set is left alone."""
        first = self.memory.first_weight - self.config.load_streams
        return tuple(range(first, self.memory.first_weight)) if first >= 4 else ()

    def _tiles(
        self, key: PlaneKey, blocks: NDArray[np.int8], spare: tuple[int, ...] | None = None
    ) -> list[Tile]:
        """Load tiles (n, vector, vector) into a plane's weight slices, or into data slices."""
        memory, config, loads = self.memory, self.config, self.loads
        slices = spare or memory.plane_slices(key[1])
        count = len(blocks)
        if spare:
            row = memory.middle_rows(key[0], slices, count * loads, self.middle)
        else:
            row = memory.rows(key[0], slices, count * loads)
        first = memory.numbers(count)
        parts = blocks.view(np.uint8).reshape(count, loads, config.load_streams, config.vector)
        for offset, index in enumerate(slices):
            data = parts[:, :, offset, :].reshape(count * loads, config.vector)
            memory.image[int(key[0]), index, row] = np.ascontiguousarray(data)
            for part in range(loads):
                memory.mean(
                    key[0],
                    index,
                    row + part,
                    count,
                    value=first,
                    value_step=1,
                    byte=part * config.load_streams + offset,
                    row_step=loads,
                )
        return [Tile(first + i, row + i * loads, slices=slices) for i in range(count)]

    def _ones(self, key: PlaneKey) -> Tile:
        vector = self.config.vector
        return self._tiles(key, np.ones((1, vector, vector), np.int8))[0]

    def local_tiles(self, key: PlaneKey) -> int:
        """Return how many tiles of positions a plane holds of the keys."""
        return -(-(self.tiles - self.planes.index(key)) // len(self.planes))

    def _cache(self, keys: list[PlaneKey], tiles: dict[PlaneKey, int]) -> Cache:
        memory, config = self.memory, self.config
        regions = {}
        for key in keys:
            slices = memory.plane_slices(key[1])
            count = tiles[key] * self.loads + 1
            parts = []
            for byte in range(self.quantised.model["cache_bits"] // 8):
                base = memory.rows(key[0], slices, count)
                first = memory.numbers(max(1, tiles[key]))
                zero = np.zeros((count, config.vector), np.uint8)
                for index in slices:
                    memory.image[int(key[0]), index, base] = zero
                parts.append(Region(key[0], slices, base, count, first, byte, self.loads))
            regions[key] = tuple(parts)
        return Cache(regions)

    def _caches(self, layer: int) -> None:
        """Place a layer's cache: keys by tiles of positions over all planes, values on one each."""
        local = {key: self.local_tiles(key) for key in self.planes}
        for pack, found in enumerate(self.key_packs):
            for pair in range(len(found.keys)):
                for part in (0, 1):
                    self.keys[layer, pack, pair, part] = self._cache(self.planes, local)
        number = 0
        for pack, packed in enumerate(self.value_packs):
            for part in range(len(packed.values)):
                key = self._value_key(number)
                self.values[layer, pack, part] = self._cache([key], {key: self.tiles})
                number += 1

    def _value_key(self, number: int) -> PlaneKey:
        """Return the plane for a vector of the values, of those of all packs."""
        count = sum(len(pack.values) for pack in self.value_packs)
        # On few planes, heads that are scored together are mixed on one.
        if self.config.wide:
            return self.planes[number * len(self.planes) // count]
        return self.planes[number % len(self.planes)]

    def value_plane(self, pack: int, part: int) -> PlaneKey:
        """Return the plane that holds a vector of the values."""
        return next(iter(self.values[0, pack, part].regions))

    def value_planes(self, pack: int) -> list[PlaneKey]:
        """Return the planes that hold a pack's values."""
        parts = range(len(self.value_packs[pack].values))
        return sorted({self.value_plane(pack, part) for part in parts})

    def table(self, side: Hemisphere, columns: list[NDArray[np.uint8]]) -> Table:
        """Load byte columns (rows, vector) into the least filled weight slices of a side.

        What these cannot hold goes into the middle of data slices.
        """
        memory, width = self.memory, len(columns)

        def groups(first: int, end: int) -> list[tuple[int, ...]]:
            return [tuple(range(i, i + width)) for i in range(first, end - width + 1, width)]

        def filled(group: tuple[int, ...]) -> tuple[int, int, tuple[int, ...]]:
            rows = max(memory.next_row[side, i] for i in group)
            return max(memory.middle.get((side, i), (0, 0))[1] for i in group), rows, group

        slices = min(groups(memory.first_weight, self.config.slices), key=filled)
        count = len(columns[0])
        beyond = memory.next_row[side, slices[0]] + count > self.config.depth
        data = [group for group in groups(0, memory.first_weight) if group[0]]
        if beyond and data:
            data.sort(key=lambda group: group[0] < 4)  # the first set only if it must
            slices = min(data, key=lambda group: memory.middle.get((side, group[0]), (0, 0))[1])
            row = memory.middle_rows(side, slices, count, self.middle)
        else:
            row = memory.rows(side, slices, count, one_bank=True)
        for column, index in zip(columns, slices, strict=True):
            memory.image[int(side), index, row] = np.ascontiguousarray(column)
        return Table(side, slices, row, count)

    def _vectors(self, table: Table) -> list[Vec]:
        """Return the rows of a table of 32-bit vectors as what may be read without a map."""
        first = self.memory.numbers(table.count)
        for byte, index in enumerate(table.slices):
            self.memory.mean(
                table.side, index, table.row, table.count, value=first, value_step=1, byte=byte
            )
        return [
            Vec(first + i, [Place(table.side, table.slices, table.row + i, 0)])
            for i in range(table.count)
        ]

    def _embedding(self, embed: NDArray[np.float16]) -> None:
        """Place the embedding, a table a vector of channels."""
        vector = self.config.vector
        for number, channels in enumerate(self.hidden):
            rows = np.zeros((len(embed), vector), np.float16)
            rows[:, channels >= 0] = embed[:, channels[channels >= 0]]
            planes = rows.view(np.uint8).reshape(len(embed), vector, 2)
            side = Hemisphere(number % 2)
            self.embed.append(self.table(side, [planes[..., byte] for byte in range(2)]))

    def _tables(self) -> None:
        """Place what is looked up by token or position."""
        self.embed: list[Table] = []
        if "embed" in self.quantised.tensors:
            self._embedding(self.quantised.tensors["embed"])
        else:
            scale = self.quantised.tensors["head.scale"]
            rows = np.array([scale[words] for words in self.words])
            self.embed_scale = table = self.table(Hemisphere.EAST, byte_planes(rows))
            self.head_scales = self._vectors(table)
        self.rotary: dict[str, list[Table]] = {}
        dims = self.key_packs[0].dims  # every pack has the same rotary pairs in its lanes
        sides = {"cos": Hemisphere.WEST, "sin": Hemisphere.EAST}
        if "rope.fine_cos" in self.quantised.tensors:
            sides = dict.fromkeys((*sides, "fine_cos", "fine_sin"), Hemisphere.WEST)
        for name, side in sides.items():
            angles = self.quantised.tensors[f"rope.{name}"]
            tables = []
            for dim in dims:
                rows = np.where(dim >= 0, angles[:, np.maximum(dim, 0)], np.float32(0))
                tables.append(self.table(side, byte_planes(rows.astype(np.float32))))
            self.rotary[name] = tables
        self.key_maps: dict[PlaneKey, list[Table]] = {}
        self.value_maps: dict[Hemisphere, list[Table]] = {}
        if not self.config.wide:  # there memory is short, and maps are computed
            self._map_tables()

    def _map_tables(self) -> None:
        """Place the maps of the cache by position, see ``CacheMaps``."""
        vector, config = self.config.vector, self.config
        lanes, streams = config.lanes, config.load_streams
        position = np.arange(self.context)
        slice_of = position % streams
        block, part = position // vector, position % vector // streams

        def mapped(side: Hemisphere, hit: NDArray[np.bool_], row: NDArray[np.int64],
                   spare: int) -> list[Table]:  # fmt: skip
            found = []
            for first in range(0, streams, lanes):
                lane = first + np.arange(vector) % lanes
                chosen = hit[:, None] & (slice_of[:, None] == lane)
                rows = np.where(chosen, row[:, None], spare).astype(np.int32)
                found.append(self.table(side, byte_planes(rows)))
            return found

        for number, key in enumerate(self.planes):
            hit = block % len(self.planes) == number
            row = block // len(self.planes) * self.loads + part
            spare = self.local_tiles(key) * self.loads
            self.key_maps[key] = mapped(key[0], hit, row, spare)
        for side in Hemisphere:
            row = block * self.loads + part
            self.value_maps[side] = mapped(side, row >= 0, row, self.tiles * self.loads)


def byte_planes(rows: NDArray[np.generic]) -> list[NDArray[np.uint8]]:
    """Return the four byte planes of 32-bit rows."""
    planes = np.ascontiguousarray(rows).view(np.uint8).reshape(*rows.shape, 4)
    return [np.ascontiguousarray(planes[..., byte]) for byte in range(4)]

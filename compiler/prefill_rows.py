"""Where a block of positions keeps what it computes: rows of the data slices, fixed for all blocks.

Sets 0, 1 and 2 of both hemispheres are used so that no stencil reads two operands from one set:

    W0, E0    what belongs to one layer: scales, steps of the cache; scores, short-lived results
    E1        the residual stream before and after an addition; maxima, sines
    W1        cosines, sums of the softmax, gains of norms; on both sides maps
    E2        1 / rms, sums of squares, numbers of positions
    W2, W3    activations, two copies: one flows west, the other east through the VXM

What is read while something of the same slices is written lies in the other bank: ``Bank.LOW``
grows from row 0 up, ``Bank.HIGH`` from the last row down. Where the tables between them leave too
few rows, activations, gains and sines go on in the last set, which blocks do not use otherwise.
"""

import dataclasses
import enum
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.image import Image, PlaneKey, byte_planes
from waterclock.compiler.layout import HeadSlot, ValuePack, pick
from waterclock.compiler.memory import Memory, Place, Vec
from waterclock.compiler.stencil import Table
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.program import Port

EAST, WEST = Hemisphere.EAST, Hemisphere.WEST
SETS = 3  #: sets of data slices that a hemisphere must have


class Bank(enum.Enum):
    """Which end of a slice's rows a room is taken from."""

    LOW = enum.auto()
    HIGH = enum.auto()


@dataclasses.dataclass(eq=False)
class Room:
    """Rows for one vector of each position of a block."""

    side: Hemisphere
    slices: tuple[int, ...]
    row: int
    free_from: int = 0  #: cycle from which it may be written in the plan under way


@dataclasses.dataclass
class Bundle:
    """One vector of each position, and the room that holds them."""

    room: Room
    vecs: list[Vec]


def block_size(config: Config, context: int) -> int:
    """Return the positions of a block, 0 where the chip or the context cannot hold one."""
    size = min(config.act_entries, config.acc_entries)
    data_slices = config.slices - config.planes * config.load_streams
    fits = size % config.vector == 0 and data_slices >= 4 * SETS and config.digits == 1
    fits = fits and not config.wide  # MXM has no streams for activations beside weights then
    tiles = size // config.vector
    planes = 2 * config.planes
    return size if fits and size <= context and (tiles % planes == 0 or planes % tiles == 0) else 0


class Rows:
    """Everything that blocks of all buckets share: rooms, constants, tables, the token mailbox."""

    def __init__(self, image: Image, size: int):
        self.image, self.size, self.config = image, size, image.config
        self.memory: Memory = image.memory
        self.rooms: list[Room] = []
        memory, config, n = self.memory, self.config, size
        low, high = Bank.LOW, Bank.HIGH
        hidden = len(image.hidden)
        self.x = [self._room(EAST, 1, bank, hidden) for bank in Bank]
        outputs = sum(len(v) for pack in image.value_packs for v in pack.outputs)
        queries = sum(2 * len(q) for pack in image.key_packs for q in pack.queries)
        self.queries = queries
        self.h = self._room(WEST, 2, low, hidden)
        weights = image.tiles * max(len(slots_of(pack, 0)) for pack in image.value_packs)
        own = len(memory.sets) // 2 > SETS  # softmax weights have a set of their own if they can
        most = config.rows // 4 if own else config.rows
        #: How many members' softmax weights there is room for: with two, one is made as the
        #: other is used.
        self.turns = 2 if (hidden + 2 * weights) * size <= most else 1
        self.p = self._room(WEST, *((SETS, high) if own else (2, low)), self.turns * weights)
        last = len(memory.sets) // 2 - 1
        #: A set that nothing here uses otherwise, if there is one.
        self.spare = last if last > SETS else None
        more = [] if self.spare is None else [(self.spare, high), (self.spare, low)]
        self.acts: list[Room] = []
        for _ in range(max(queries + outputs, len(image.ffn))):
            number, bank = self._with_room(WEST, [(2, high), *more], size)
            self.acts += self._room(WEST, number, bank, 1)
        self.r = self._room(EAST, 2, low, 1)[0]
        self.sums = {bank: self._room(EAST, 2, bank, min(4, hidden)) for bank in Bank}
        self.last_sums = self._room(EAST, 0, low, 2)
        self.first_pair = self._room(WEST, 0, low, 1)[0]
        self.scores = self._room(WEST, 0, high, image.tiles)
        self.tops = [self._room(EAST, 1, bank, 1)[0] for bank in Bank]
        self.inverse = self._room(WEST, 1, low, 1)[0]
        self.scaled = self._room(WEST, 0, low, len(image.planes))
        self.after = self._room(WEST, 1, high, 1)[0]
        dims = len(image.key_packs[0].dims)
        # The ramp goes where the sines are not.
        number, bank = self._with_room(EAST, [(1, high), *more], (dims + 1) * size)
        self.rotary = {
            "cos": self._room(WEST, 1, high, dims),
            "sin": self._room(EAST, number, bank, dims),
        }
        self.tokens: list[Vec] = []
        values = memory.numbers(n)
        places = {side: self._room(side, 0, low, 1)[0] for side in Hemisphere}
        for side, room in places.items():
            for byte, index in enumerate(room.slices[:2]):
                zero = np.zeros((n, config.vector), np.uint8)
                memory.load(side, index, room.row, zero, value=values, value_step=1, byte=byte)
        for t in range(n):
            copies = [Place(s, room.slices[:2], room.row + t, 0) for s, room in places.items()]
            self.tokens.append(Vec(values + t, copies))
        ramp = np.repeat(np.arange(1, n + 1, dtype=np.int32)[:, None], config.vector, 1)
        vecs = memory.constant(EAST, 1, ramp[None])
        self.ramp = Bundle(Room(EAST, memory.slices_of(1), vecs[0].places[0].row), vecs)
        lanes = np.arange(image.tiles * config.vector, dtype=np.int32)
        self.lanes = memory.constant(EAST, 2, lanes.reshape(1, -1, config.vector))
        self._constants()
        self._maps()

    def _room(self, side: Hemisphere, number: int, bank: Bank, count: int) -> list[Room]:
        """Take ``count`` rooms of a set."""
        slices = self.memory.slices_of(number)
        take = self.memory.rows if bank is Bank.LOW else self.memory.top_rows
        row = take(side, slices, count * self.size)
        found = [Room(side, slices, row + i * self.size) for i in range(count)]
        self.rooms += found
        return found

    def _with_room(
        self, side: Hemisphere, places: Sequence[tuple[int, Bank]], count: int
    ) -> tuple[int, Bank]:
        """Return the first of some sets and banks that has as many rows left, or the first."""
        memory = self.memory
        for number, bank in places:
            slices = memory.slices_of(number)
            low = max(memory.next_row[side, index] for index in slices)
            high = min(memory.top_row[side, index] for index in slices)
            taken = (low + count, high) if bank is Bank.LOW else (low, high - count)
            if memory.has_room(side, slices, *taken):
                return number, bank
        return places[0]

    def _constants(self) -> None:
        """Load what stencils multiply with, for all layers; rotary pairs need their scales twice.

        ``scales`` are by (map, result vector, side), ``steps`` by (pack, vector): those of the
        first layer, from which the others have a distance. ``gains`` are by norm: that of the
        first layer's attention, and in each layer that of the feed-forward block and the next
        layer's; none where the weights hold them.
        """
        image, tensors = self.image, self.image.quantised.tensors
        layers = range(image.quantised.model["layers"])
        rows: dict[Hemisphere, list[list[NDArray[np.generic]]]] = {
            side: [[] for _ in layers] for side in Hemisphere
        }
        where: dict[Hemisphere, list[tuple[str, int]]] = {side: [] for side in Hemisphere}
        for part in ("q", "k", "v", "o", "gate", "up", "down"):
            linear = image.linear[f"layers.0.{part}"]
            for out, (channels, plane) in enumerate(zip(linear.outs, linear.plane_of, strict=True)):
                for side in Hemisphere if part in "qk" else (plane[0].opposite,):
                    where[side].append((part, out))
                    for layer in layers:
                        scale = tensors[f"layers.{layer}.{part}.scale"]
                        rows[side][layer].append(pick(scale, channels))
        packs = image.value_packs
        parts = [(p, i) for p, pack in enumerate(packs) for i in range(len(pack.values))]
        for pack, index in parts:
            for layer in layers:
                step = tensors[f"layers.{layer}.v_step"]
                rows[WEST][layer].append(pick(step, packs[pack].values[index]))
        self.scales: dict[tuple[str, int, Hemisphere], Vec] = {}
        self.steps: dict[tuple[int, int], Vec] = {}
        for side in Hemisphere:
            vecs = self.memory.constant(side, 0, np.array(rows[side], np.float32))
            for (part, out), vec in zip(where[side], vecs, strict=False):
                self.scales[part, out, side] = vec
            if side is WEST:
                self.steps = dict(zip(parts, vecs[len(where[side]) :], strict=True))
        self.gains: dict[str, list[Vec]] = {}
        if "final.gain" in tensors:
            norms = {
                "first": ["layers.0.attn"],
                "ffn": [f"layers.{layer}.ffn" for layer in layers],
                "next": [*(f"layers.{layer}.attn" for layer in layers[1:]), "final"],
            }
            for name, each in norms.items():
                gains = [[pick(tensors[f"{n}.gain"], c) for c in image.hidden] for n in each]
                self.gains[name] = self._gains(np.array(gains, np.float32))

    def _gains(self, layers: NDArray[np.float32]) -> list[Vec]:
        """Load gains into the first of some sets that has room for them."""
        memory = self.memory
        spare = [] if self.spare is None else [(EAST, self.spare)]
        for side, number in [(WEST, 1), *spare]:
            low = max(memory.next_row[side, index] for index in memory.slices_of(number))
            taken = memory.top(side, number).take(*layers.shape[:2])
            if taken and memory.has_room(side, memory.slices_of(number), low, taken[0].row):
                return memory.constant(side, number, layers)
        return memory.constant(WEST, 1, layers)

    def _maps(self) -> None:
        """Place the tables that say, by the position of a block, where its cache rows are.

        Both are by (tile of the block, row of the tile's rows in a slice). What is looked up in
        them lies in ``maps``, by table, on both sides: low and high bytes follow each other so
        closely that each needs a map of its own.
        """
        image, planes, loads = self.image, self.image.planes, self.image.loads
        tiles = self.size // self.config.vector
        first = np.arange(image.context) // self.size * tiles  # the block's first tile
        #: By tile of the block: the planes that may hold it, and their tables by row.
        self.key_tables: list[list[tuple[PlaneKey, list[Table]]]] = []
        #: By tile of the block, by row.
        self.value_tables: list[list[Table]] = []
        self.maps: dict[Table, list[Place]] = {}

        def table(rows: NDArray[np.int64], turn: int = 0) -> Table:
            spread = np.repeat(rows.astype(np.int32)[:, None], self.config.vector, 1)
            found = image.table(Hemisphere(len(self.maps) % 2), byte_planes(spread))
            slices = self.memory.slices_of(SETS + turn - 1 if turn else 1)
            self.maps[found] = [
                Place(side, slices, self.memory.rows(side, slices, 1), 0) for side in Hemisphere
            ]
            return found

        for tile in range(tiles):
            at = first + tile
            row, held = at // len(planes) * loads, at < image.tiles
            found = []
            for number, key in enumerate(planes):
                hit = (at % len(planes) == number) & held
                if hit.any():
                    spare = image.local_tiles(key) * loads
                    # Maps that are wanted at once lie in different sets.
                    tables = [
                        table(np.where(hit, row + part, spare), len(found)) for part in range(loads)
                    ]
                    found.append((key, tables))
            self.key_tables.append(found)
            spare = image.tiles * loads
            self.value_tables.append(
                [table(np.where(held, at * loads + part, spare)) for part in range(loads)]
            )

    def port(self) -> Port:
        """Return where the host writes the tokens of a block, each in all lanes of a vector."""
        copies = [
            [[(int(at.side), index, at.row) for index in at.slices] for at in copy]
            for copy in zip(*(token.places for token in self.tokens), strict=True)
        ]
        shape = (self.size, self.config.vector)
        return Port(places=np.array(copies, np.int64), dtype="uint16", shape=shape)

    def begin(self) -> None:
        """Forget what an earlier plan did to the rooms."""
        for room in self.rooms:
            room.free_from = 0


def slots_of(pack: ValuePack, member: int) -> list[HeadSlot]:
    """Return the slots of a value pack that share the vectors of a member."""
    return [slot for slot in pack.slots if slot.member == member]


def half(bundle: Bundle, side: Hemisphere) -> Sequence[Place]:
    """Return the places of the copy of activations that flows to a hemisphere."""
    return [vec.places[side] for vec in bundle.vecs]

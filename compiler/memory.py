"""Where vectors live: sets of four data slices, weight slices, and the image that is loaded.

The slices of a hemisphere next to the VXM hold data: every four of them are a *set*, which
holds the four byte planes of a 32-bit vector in one row. The others hold weights: as many a
plane as LW takes streams, so that one row over all of them is what one LW loads. On a chip with
too few slices for both, the same ones hold data and weights.
"""

import dataclasses
import hashlib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import Hemisphere

SetKey = tuple[Hemisphere, int]  #: a set: side and number


@dataclasses.dataclass(frozen=True)
class Place:
    """One copy of a vector: byte plane b is in ``slices[b]`` at ``row``."""

    side: Hemisphere
    slices: tuple[int, ...]
    row: int
    ready: int  #: first cycle in which a Read may be issued
    stride: int = 0  #: rows to the place of the next layer's, where each layer has its own


@dataclasses.dataclass
class Vec:
    """A vector: its value number and the places that hold it."""

    value: int
    places: list[Place] = dataclasses.field(default_factory=list)

    def on(self, side: Hemisphere) -> Place:
        """Return the copy on a side."""
        return next(place for place in self.places if place.side is side)


PAGES = 4096  #: parts of a slice's rows, one of which each layer has in a page


@dataclasses.dataclass(frozen=True)
class Top:
    """What constants of a set take: rows from the top down, and pages for those of layers.

    A page has ``size`` rows for each layer, ``stride`` apart, so that all constants of a set move
    alike from layer to layer.
    """

    row: int  #: the lowest that is taken
    size: int
    stride: int
    page: int = 0  #: row of the first layer's part of the newest page
    left: int = 0  #: rows of that part that are free
    fixed: bool = False  #: whether there are no further pages

    def take(self, layers: int, count: int) -> "tuple[Top, list[int]] | None":
        """Take rows for ``count`` constants; return those of the first layer, None if too few."""
        row, page, left = self.row, self.page, self.left
        if layers == 1:
            row -= count
            return dataclasses.replace(self, row=row), list(range(row, row + count))
        rows: list[int] = []
        while len(rows) < count:
            if not left:
                if self.fixed:
                    return None
                row -= layers * self.size
                page, left = row, self.size
            first = page + self.size - left
            now = min(left, count - len(rows))
            rows += range(first, first + now)
            left -= now
        return dataclasses.replace(self, row=row, page=page, left=left), rows


class Memory:
    """Allocates rows, numbers values and collects the memory image.

    ``reserve`` says how many rows a set keeps among those of each layer for its constants, on a
    chip whose slices hold weights and data.
    """

    def __init__(self, config: Config, reserve: Mapping[SetKey, int] | None = None):
        self.config = config
        self.reserve = reserve or {}
        weights = config.planes * config.load_streams
        if config.slices < max(4, weights):
            raise UserError(
                f"configuration {config.name}: slices: found {config.slices}, expected "
                f"{max(4, weights)} or more: {weights} of them hold weights"
            )
        self.first_weight = config.slices - weights  #: weights are in this slice and beyond
        own = self.first_weight // 4  # sets without weights; if there is none, they share slices
        self.sets = [
            (side, number) for number in range(own or config.slices // 4) for side in Hemisphere
        ]
        self.next_row = {(side, index): 0 for side in Hemisphere for index in range(config.slices)}
        self.top_row = dict.fromkeys(self.next_row, config.depth)
        #: Rows in the middle of a slice that hold tables: what grows from both sides ends there.
        self.middle: dict[tuple[Hemisphere, int], tuple[int, int]] = {}
        self.pages: dict[SetKey, Top] = {}
        #: Rows of the image, by slice, that are filled as constants come: (first row, rows).
        self.blank: dict[tuple[Hemisphere, int], list[tuple[int, NDArray[np.uint8]]]] = {}
        #: Constants by set and content, so that buckets share them.
        self.constants: dict[tuple[SetKey, ConstantKey], list[Vec]] = {}
        self.used: dict[SetKey, int] = {}  #: constants of a layer in each set
        self.image: dict[tuple[int, int, int], NDArray[np.uint8]] = {}
        self.extents: list[tuple[int, ...]] = []
        self.next_value = 1
        #: Value numbers (first, end) that belong to a layer, and the distance to the next one's.
        self.steps: list[tuple[int, int, int]] = []
        self.missing = 0  #: bytes that did not fit

    def value(self) -> int:
        """Return a new value number."""
        return self.numbers(1)

    def numbers(self, count: int) -> int:
        """Take ``count`` value numbers in a row; return the first."""
        first = self.next_value
        self.next_value += count
        return first

    def slices_of(self, number: int) -> tuple[int, ...]:
        """Return the slices of a set."""
        return tuple(range(4 * number, 4 * number + 4))

    def plane_slices(self, plane: int) -> tuple[int, ...]:
        """Return the weight slices of a hemisphere's plane."""
        first = self.first_weight + plane * self.config.load_streams
        return tuple(range(first, first + self.config.load_streams))

    def rows(
        self, side: Hemisphere, slices: tuple[int, ...], count: int, *, one_bank: bool = False
    ) -> int:
        """Take ``count`` rows, the same in all of ``slices``; return the first.

        With ``one_bank`` the rows do not straddle the banks, unless they are more than one bank.
        Rows beyond the slice are counted in ``missing`` and reported when the whole is known.
        """
        row = max(self.next_row[side, index] for index in slices)
        rows = self.config.rows
        if one_bank and count <= rows and row < rows < row + count:
            row = rows
        for index in slices:
            self.next_row[side, index] = row + count
        self._count_missing(side, slices, count)
        return row

    def top_rows(self, side: Hemisphere, slices: tuple[int, ...], count: int) -> int:
        """Take ``count`` rows from the top down, where constants go; return the first.

        So constants are read from one bank while results are written to the other, until a
        slice is nearly full.
        """
        row = min(self.top_row[side, index] for index in slices) - count
        for index in slices:
            self.top_row[side, index] = row
        self._count_missing(side, slices, count)
        return row

    def has_room(self, side: Hemisphere, slices: tuple[int, ...], low: int, high: int) -> bool:
        """Tell whether rows below ``low`` and from ``high`` on leave tables alone."""
        return low <= high and all(
            low <= self.middle.get((side, index), (low, 0))[0]
            and high >= self.middle.get((side, index), (0, high))[1]
            for index in slices
        )

    def middle_rows(self, side: Hemisphere, slices: tuple[int, ...], count: int, start: int) -> int:
        """Take ``count`` rows behind the tables that stand in ``slices`` from ``start`` on."""
        row = max(self.middle.get((side, index), (start, start))[1] for index in slices)
        for index in slices:
            self.middle[side, index] = start, row + count
        self._count_missing(side, slices, count)
        return row

    def _count_missing(self, side: Hemisphere, slices: tuple[int, ...], count: int) -> None:
        for index in slices:
            low, high = self.middle.get((side, index), (self.config.depth, 0))
            rows, top = self.next_row[side, index], self.top_row[side, index]
            beyond = max(rows - min(top, low), max(rows, high) - top, high - self.config.depth)
            self.missing += max(0, min(beyond, count)) * self.config.vector

    def load(
        self,
        side: Hemisphere,
        index: int,
        row: int,
        data: NDArray[np.uint8],
        *,
        value: int,
        value_step: int = 0,
        byte: int = 0,
    ) -> None:
        """Put (rows, vector) uint8 into the image at ``row`` and say what each row means."""
        self.image[int(side), index, row] = np.ascontiguousarray(data, np.uint8)
        self.mean(side, index, row, len(data), value=value, value_step=value_step, byte=byte)

    def mean(
        self,
        side: Hemisphere,
        index: int,
        row: int,
        count: int,
        *,
        value: int,
        value_step: int = 0,
        byte: int = 0,
        row_step: int = 1,
    ) -> None:
        """Say what ``count`` rows of the image hold (columns of ``program.EXTENT_COLUMNS``)."""
        self.extents.append((int(side), index, row, row_step, count, value, value_step, byte))

    def top(self, side: Hemisphere, number: int) -> Top:
        """Return what constants of a set take so far."""
        row = min(self.top_row[side, index] for index in self.slices_of(number))
        size = max(4, self.config.depth // PAGES)
        return dataclasses.replace(
            self.pages.get((side, number), Top(row, size=size, stride=size)), row=row
        )

    def reserve_page(self, side: Hemisphere, number: int) -> None:
        """Take the reserved rows of one layer."""
        count = self.reserve.get((side, number), 0)
        if count:
            slices = self.slices_of(number)
            row = self.rows(side, slices, count)
            self._blank(side, slices, row, count)
            if (side, number) not in self.pages:
                self.pages[side, number] = Top(0, count, 0, page=row, left=count, fixed=True)

    def known(self, side: Hemisphere, number: int, key: "ConstantKey") -> list[Vec]:
        """Return the constants of that content that a set holds already."""
        return self.constants.get(((side, number), key), [])

    def constant(self, side: Hemisphere, number: int, layers: NDArray[np.generic]) -> list[Vec]:
        """Load (layers, n, vector) 32-bit constants into a set; return the first layer's.

        What the set holds already is not loaded again.
        """
        key = constant_key(layers)
        if found := self.known(side, number, key):
            return found
        slices, before = self.slices_of(number), self.top(side, number)
        count, each = layers.shape[:2]
        taken = before.take(count, each)
        assert taken
        top, rows = taken
        planes = np.ascontiguousarray(layers).view(np.uint8).reshape(*layers.shape, 4)
        first = self.numbers(count * each)
        if count == 1:
            self.top_rows(side, slices, each)
            for byte, index in enumerate(slices):
                data = planes[0, ..., byte]
                self.load(side, index, rows[0], data, value=first, value_step=1, byte=byte)
        else:
            self.steps.append((first, first + each, each))
            self.top_rows(side, slices, before.row - top.row)
            if top.row < before.row:
                self._blank(side, slices, top.row, before.row - top.row)
            self.pages[side, number] = top
            self.used[side, number] = self.used.get((side, number), 0) + each
            for byte, index in enumerate(slices):
                self._fill(side, index, rows, planes[..., byte], top, first, byte)
        stride = top.stride if count > 1 else 0
        found = [
            Vec(first + i, [Place(side, slices, row, 0, stride)]) for i, row in enumerate(rows)
        ]
        self.constants[(side, number), key] = found
        return found

    def _blank(self, side: Hemisphere, slices: tuple[int, ...], row: int, count: int) -> None:
        """Put rows into the image that constants fill later."""
        for index in slices:
            rows = np.zeros((count, self.config.vector), np.uint8)
            self.image[int(side), index, row] = rows
            self.blank.setdefault((side, index), []).append((row, rows))

    def _fill(
        self, side: Hemisphere, index: int, rows: list[int], data: NDArray[np.uint8], top: Top,
        first: int, byte: int,
    ) -> None:  # fmt: skip
        """Put (layers, n, vector) uint8 into pages of a slice and say what each row means."""
        layers = len(data)
        each = data.shape[1]
        for i, row in enumerate(rows):
            for layer in range(layers):
                at = row + layer * top.stride
                first_row, blank = next(
                    found for found in self.blank[side, index] if 0 <= at - found[0] < len(found[1])
                )
                blank[at - first_row] = data[layer, i]
            self.mean(
                side, index, row, layers, value=first + i, value_step=each, byte=byte,
                row_step=top.stride,
            )  # fmt: skip


ConstantKey = tuple[tuple[int, ...], bytes]


def constant_key(layers: NDArray[np.generic]) -> ConstantKey:
    """Return what tells constants of other content apart."""
    return layers.shape, hashlib.sha256(np.ascontiguousarray(layers).data).digest()

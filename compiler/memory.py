"""Where vectors live: sets of four data slices, weight slices, and the image that is loaded.

The slices of a hemisphere next to the VXM hold data: every four of them are a *set*, which
holds the four byte planes of a 32-bit vector in one row. The others hold weights: as many a
plane as LW takes streams, so that one row over all of them is what one LW loads. On a chip with
too few slices for both, the same ones hold data and weights.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import Hemisphere


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


class Memory:
    """Allocates rows, numbers values and collects the memory image."""

    def __init__(self, config: Config):
        self.config = config
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

    def constant(self, side: Hemisphere, number: int, layers: NDArray[np.generic]) -> list[Vec]:
        """Load (layers, n, vector) 32-bit constants into a set; return the first layer's."""
        slices = self.slices_of(number)
        count, each = layers.shape[:2]
        vectors = layers.reshape(count * each, -1)
        row = self.top_rows(side, slices, len(vectors))
        planes = np.ascontiguousarray(vectors).view(np.uint8).reshape(*vectors.shape, 4)
        first = self.numbers(len(vectors))
        if count > 1:
            self.steps.append((first, first + each, each))
        for byte, index in enumerate(slices):
            self.load(side, index, row, planes[..., byte], value=first, value_step=1, byte=byte)
        stride = each if count > 1 else 0
        return [Vec(first + i, [Place(side, slices, row + i, 0, stride)]) for i in range(each)]

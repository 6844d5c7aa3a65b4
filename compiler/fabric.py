"""Reservations: which resource of the chip is taken in which cycles.

A resource is a tuple; the cycles in which it is taken are the bits of one integer, so that a
whole run of a stencil is tested by one AND. Streams are reserved column by column: a value
occupies every column from its producer to its last consumer, and no further, because a producer
downstream may overwrite what nobody needs any more.
"""

from collections.abc import Sequence

from waterclock.isa.config import Config
from waterclock.isa.streams import Direction, stream

Key = tuple[object, ...]


def mask_of(cycles: Sequence[int]) -> int:
    """Return the integer with the bits ``cycles`` set."""
    mask = 0
    for cycle in cycles:
        mask |= 1 << cycle
    return mask


class Fabric:
    """Everything that is reserved for good."""

    def __init__(self, config: Config):
        self.config = config
        self.taken: dict[Key, int] = {}


class Trial:
    """A stencil being fitted: claims on top of a fabric, kept or dropped as a whole."""

    def __init__(self, fabric: Fabric):
        self.fabric = fabric
        self.claims: dict[Key, int] = {}

    def claim(self, key: Key, mask: int) -> bool:
        """Reserve a resource for the cycles in ``mask``; return False when one is taken."""
        mine = self.claims.get(key, 0)
        if (self.fabric.taken.get(key, 0) | mine) & mask:
            return False
        self.claims[key] = mine | mask
        return True

    def claim_rows(
        self, port: str, slice_key: Key, rows: Sequence[int], cycles: Sequence[int]
    ) -> bool:
        """Reserve a slice's ``port`` ("read", "write") and the banks of its ``rows``."""
        if not self.claim((port, *slice_key), mask_of(cycles)):
            return False
        size = self.fabric.config.rows
        banks: dict[int, int] = {}
        for row, cycle in zip(rows, cycles, strict=True):
            banks[row // size] = banks.get(row // size, 0) | 1 << cycle
        return all(self.claim(("bank", *slice_key, bank), m) for bank, m in banks.items())

    def free(self, key: Key, mask: int) -> bool:
        """Tell whether a resource is free in all cycles of ``mask``."""
        return not (self.fabric.taken.get(key, 0) | self.claims.get(key, 0)) & mask

    def commit(self) -> None:
        """Make all claims permanent."""
        for key, mask in self.claims.items():
            self.fabric.taken[key] = self.fabric.taken.get(key, 0) | mask

    def stream_free(
        self, direction: Direction, number: int, starts: list[tuple[int, int]], end: int, mask: int
    ) -> bool:
        """Tell whether streams are free from their producers' columns to column ``end``.

        ``starts`` lists (stream offset, column); ``mask`` has the cycles in which the values
        pass column ``end``.
        """
        step = 1 if direction is Direction.EAST else -1
        for offset, start in starts:
            for column in range(start, end + step, step):
                key = ("stream", direction, number + offset, column)
                if not self.free(key, mask >> abs(end - column)):
                    return False
        return True

    def route(
        self,
        direction: Direction,
        starts: list[tuple[int, int]],
        end: int,
        mask: int,
        span: int,
    ) -> int | None:
        """Find and claim ``span`` aligned streams; return the first one's code, or None."""
        align = 4 if span == 3 else span
        step = 1 if direction is Direction.EAST else -1
        for number in range(0, self.fabric.config.streams - span + 1, align):
            if self.stream_free(direction, number, starts, end, mask):
                for offset, start in starts:
                    for column in range(start, end + step, step):
                        key = ("stream", direction, number + offset, column)
                        self.claim(key, mask >> abs(end - column))
                return stream(direction, number)
        return None

"""Reservations: which resource of the chip is taken in which cycles.

A resource is a tuple; the cycles in which it is taken are the bits of one integer, so that a
whole run of a stencil is tested by one AND. Streams are reserved column by column: a value
occupies every column from its producer to its last consumer, and no further, because a producer
downstream may overwrite what nobody needs any more.

Where a MEM group has fewer paths than streams, what its slices drive and sample is reserved too.
"""

from collections.abc import Sequence

from waterclock.isa import mem
from waterclock.isa.config import WIDTH, Config
from waterclock.isa.floorplan import Hemisphere, mem_column, mxm_column
from waterclock.isa.streams import Direction, direction_of, stream

Key = tuple[object, ...]


def mask_of(cycles: Sequence[int]) -> int:
    """Return the integer with the bits ``cycles`` set."""
    mask = 0
    for cycle in cycles:
        mask |= 1 << cycle
    return mask


def repeated(mask: int, cycles: int) -> int:
    """Return a mask in which each cycle of ``mask`` is followed by as many more, less one."""
    found = 0
    for cycle in range(cycles):
        found |= mask << cycle
    return found


class Fabric:
    """Everything that is reserved for good."""

    def __init__(self, config: Config):
        self.config = config
        self.taken: dict[Key, int] = {}
        #: Columns whose slices share paths, and the way outward there.
        self.shared = {
            mem_column(config, side, index): side.outward
            for side in Hemisphere
            for index in range(config.slices)
            if config.paths < 2 * config.streams
        }
        self.rivals: dict[int, list[int]] = {}  #: stream code -> the others of its path
        codes = [stream(way, number) for way in Direction for number in range(config.streams)]
        for code in codes:
            path = mem.path(config, code)
            self.rivals[code] = [c for c in codes if mem.path(config, c) == path and c != code]


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
        self, port: str, slice_key: Key, rows: Sequence[int], cycles: Sequence[int], again: int = 0
    ) -> bool:
        """Reserve a slice's ``port`` ("read", "write") and the banks of its ``rows``.

        ``again`` is how far the rows are moved at the last repetition of a block.
        """
        if not self.claim((port, *slice_key), mask_of(cycles)):
            return False
        size = self.fabric.config.rows
        banks: dict[int, int] = {}
        for row, cycle in zip(rows, cycles, strict=True):
            for bank in range(row // size, (row + again) // size + 1):
                banks[bank] = banks.get(bank, 0) | 1 << cycle
        return all(self.claim(("bank", *slice_key, bank), m) for bank, m in banks.items())

    def claim_run(
        self, port: str, slice_key: Key, rows: Sequence[int], mask: int, again: int = 0
    ) -> bool:
        """Reserve a port in the cycles of ``mask``, and every bank that ``rows`` lie in."""
        size = self.fabric.config.rows
        banks = range(min(rows) // size, (max(rows) + again) // size + 1)
        return self.claim((port, *slice_key), mask) and all(
            self.claim(("bank", *slice_key, bank), mask) for bank in banks
        )

    def sample(self, column: int, code: int, mask: int) -> bool:
        """Reserve the path by which slices at ``column`` sample a stream; several may at once."""
        if column not in self.fabric.shared:
            return True
        if direction_of(code) is not self.fabric.shared[column] or not all(
            self.free(("sample", column, rival), mask) for rival in self.fabric.rivals[code]
        ):
            return False
        key = ("sample", column, code)
        self.claims[key] = self.claims.get(key, 0) | mask
        return True

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
            if not self.free(
                self._drive(direction, number + offset, start), mask >> abs(end - start)
            ):
                return False
            for column in range(start, end + step, step):
                key = ("stream", direction, number + offset, column)
                if not self.free(key, mask >> abs(end - column)):
                    return False
        return True

    def _drive(self, direction: Direction, number: int, column: int) -> Key:
        """Return the resource that a producer at ``column`` takes besides the stream."""
        if column not in self.fabric.shared:
            return ()
        return "drive", column, mem.path(self.fabric.config, stream(direction, number))

    def claim_streams(
        self, direction: Direction, number: int, starts: list[tuple[int, int]], end: int, mask: int
    ) -> None:
        """Reserve streams that are free, see ``stream_free``."""
        step = 1 if direction is Direction.EAST else -1
        for offset, start in starts:
            drive = self._drive(direction, number + offset, start)
            if drive:
                self.claim(drive, mask >> abs(end - start))
            for column in range(start, end + step, step):
                key = ("stream", direction, number + offset, column)
                self.claim(key, mask >> abs(end - column))

    def route(
        self,
        direction: Direction,
        starts: list[tuple[int, int]],
        end: int,
        mask: int,
        span: int,
        *,
        is_map: bool = False,
        highest: bool = False,
    ) -> int | None:
        """Find and claim ``span`` aligned streams; return the first one's code, or None.

        The ``highest`` that there are, if they are asked for.
        """
        config = self.fabric.config
        first, align = 0, WIDTH if config.wide or span == 3 else span
        map_path = mem.map_path(config)
        if is_map and map_path is not None:
            first, align = map_path - map_path % span, config.paths
        ends = {end, *(column for _, column in starts)}
        planes = {mxm_column(config, side) for side in Hemisphere}
        most = WIDTH if config.wide and ends & planes else config.streams
        numbers = range(first, most - span + 1, align)
        for number in reversed(numbers) if highest else numbers:
            if self.stream_free(direction, number, starts, end, mask):
                self.claim_streams(direction, number, starts, end, mask)
                return stream(direction, number)
        return None

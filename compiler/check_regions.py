"""Part of ``check.py``: the tables of a program: extents, regions, results, and the image.

Rows of all slices are numbered through: see ``Rows.number``.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.check_history import spread
from waterclock.compiler.check_issues import Bools, Ints, ScheduleError
from waterclock.compiler.check_streams import BYTE_BITS, BYTE_MASK, NOTHING, show
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.program import EXTENT_COLUMNS, REGION_COLUMNS, RESULT_COLUMNS, Program, Schedule

Table = dict[str, Ints]


def read_table(array: NDArray[np.int64], names: tuple[str, ...], what: str) -> Table:
    """Return the columns of a table of the program file by name."""
    if array.ndim != 2 or array.shape[1] != len(names):
        raise ScheduleError(f"{what}: expected columns {', '.join(names)}, found {array.shape}")
    return {name: array[:, i].astype(np.int64) for i, name in enumerate(names)}


def _expect(ok: Bools, what: str, expected: str) -> None:
    if not ok.all():
        raise ScheduleError(f"{what} {np.flatnonzero(~ok)[0]}: expected {expected}")


class Rows:
    """What rows hold at launch, and which of them a run must leave alone.

    Members
    -------
    extent : (rows,) int64
        Tag that the program's extents give, or ``NOTHING``.
    stale : (rows,) bool
        Rows of Scatter regions, of whatever schedule: they hold what earlier runs left.
    loaded : (rows,) bool
        Rows of the memory image.
    kept : (rows,) bool
        Rows that the next run needs as they are: those of the image that an extent or a Gather
        region names, except those of ports, which the host loads each time, and those of Scatter
        regions without the spare row; a Scatter alone may change the latter.
    """

    def __init__(self, program: Program, schedules: Iterable[Schedule]):
        self.config: Config = program.config
        total = 2 * self.config.slices * self.config.depth
        self.extent: Ints = np.full(total, NOTHING, np.int64)
        self.stale, self.loaded = np.zeros(total, np.bool_), np.zeros(total, np.bool_)
        self._load_extents(program)
        self._load_image(program)
        ports = self._port_rows(program)
        for row in np.flatnonzero((self.extent != NOTHING) & ~self.loaded & ~ports)[:1].tolist():
            raise ScheduleError(
                f"extents: {self.name(row)}: expected in the memory image or in a port, found that "
                f"nobody loads it"
            )
        gathered, scattered = np.zeros(total, np.bool_), np.zeros(total, np.bool_)
        for schedule in schedules:
            regions = self.regions(schedule)
            for i in range(len(regions["base"])):
                rows = self.of_region(regions, i)
                if regions["scatter"][i]:
                    self.stale[rows] = True
                    scattered[rows[:-1]] = True
                else:
                    gathered[rows] = True
        tables = self.loaded & ((self.extent != NOTHING) | gathered) & ~ports & ~self.stale
        self.kept: Bools = tables | scattered

    def number(self, side: Ints, slice_index: Ints, row: Ints) -> Ints:
        """Return the number of a row of a slice."""
        return (side * self.config.slices + slice_index) * self.config.depth + row

    def name(self, number: int) -> str:
        """Say which row has a number."""
        place, row = divmod(number, self.config.depth)
        side, index = divmod(place, self.config.slices)
        return f"MEM_{Hemisphere(side).name[0]}{index} row {row}"

    def regions(self, schedule: Schedule) -> Table:
        """Return a schedule's regions; each lies within its slice and makes tags that exist."""
        table = read_table(schedule.regions, REGION_COLUMNS, "regions")
        base, count = table["base"], table["count"]
        self._expect_inside(table["side"], table["slice"], base, base + count - 1, "region")
        scatter = table["scatter"]
        _expect(count >= 1, "region", "a count of 1 or more")
        _expect((scatter == 0) | (table["rows_a_value"] >= 1), "region", "1 or more rows a value")
        last = table["byte"] + (table["rows_a_value"] - 1) * table["byte_step"] * scatter
        _expect(_is_tag(table["value"], table["byte"]), "region", "a value and a byte")
        _expect(_is_tag(table["value"], last), "region", f"bytes from 0 to {BYTE_MASK}")
        return table

    def of_region(self, regions: Table, i: int) -> Ints:
        """Return the numbers of the rows of a region."""
        offset = np.arange(regions["count"][i], dtype=np.int64)
        return self.number(regions["side"][i], regions["slice"][i], regions["base"][i] + offset)

    def results(self, schedule: Schedule) -> tuple[Ints, Ints]:
        """Return (row numbers, tags) of the results of a schedule."""
        table = read_table(schedule.results, RESULT_COLUMNS, "results")
        row = table["row"]
        self._expect_inside(table["side"], table["slice"], row, row, "result")
        _expect(_is_tag(table["value"], table["byte"]), "result", "a value and a byte")
        tags = table["value"] << BYTE_BITS | table["byte"]
        return self.number(table["side"], table["slice"], row), tags

    def _expect_inside(
        self, side: Ints, slice_index: Ints, low: Ints, high: Ints, what: str
    ) -> None:
        config = self.config
        ok = (side >= 0) & (side < 2) & (slice_index >= 0) & (slice_index < config.slices)
        ok &= (np.minimum(low, high) >= 0) & (np.maximum(low, high) < config.depth)
        _expect(ok, what, f"rows below {config.depth} of slices below {config.slices}")

    def _load_extents(self, program: Program) -> None:
        table = read_table(program.extents, EXTENT_COLUMNS, "extents")
        steps = table["count"] - 1
        _expect(steps >= 0, "extent", "one row or more")
        last = table["row"] + steps * table["row_step"]
        self._expect_inside(table["side"], table["slice"], table["row"], last, "extent")
        final = table["value"] + steps * table["value_step"]
        tags = _is_tag(table["value"], table["byte"]) & _is_tag(final, table["byte"])
        _expect(tags, "extent", "values and bytes")
        which, i = spread(table["count"])
        row = table["row"][which] + i * table["row_step"][which]
        rows = self.number(table["side"][which], table["slice"][which], row)
        value = table["value"][which] + i * table["value_step"][which]
        tag = value << BYTE_BITS | table["byte"][which]
        self.extent[rows] = tag
        for twice in np.flatnonzero(self.extent[rows] != tag)[:1]:
            found = f"{show(int(tag[twice]))} and {show(int(self.extent[rows[twice]]))}"
            raise ScheduleError(
                f"extents: {self.name(int(rows[twice]))}: expected one tag, found {found}"
            )

    def _port_rows(self, program: Program) -> Bools:
        ports = np.zeros(len(self.extent), np.bool_)
        for name, port in program.ports.items():
            side, index, row = port.places.reshape(-1, 3).astype(np.int64).T
            self._expect_inside(side, index, row, row, f"port {name}: place")
            ports[self.number(side, index, row)] = True
        return ports

    def _load_image(self, program: Program) -> None:
        self.blocks: list[tuple[int, NDArray[np.uint8]]] = []
        for (side, index, first), data in program.memory.items():
            if data.dtype != np.uint8 or data.shape != (len(data), self.config.vector):
                raise ScheduleError(
                    f"memory {side, index, first}: expected rows of {self.config.vector} bytes, "
                    f"found {data.dtype} {data.shape}"
                )
            at = [np.array([x], np.int64) for x in (side, index, first, first + len(data) - 1)]
            self._expect_inside(at[0], at[1], at[2], at[3], f"memory {side, index, first}: block")
            start = int(self.number(at[0], at[1], at[2])[0])
            self.loaded[start : start + len(data)] = True
            self.blocks.append((start, data))

    def image(self, rows: Ints) -> NDArray[np.uint8] | None:
        """Return what the image holds in some rows, (rows, vector) uint8; None if not all."""
        if not self.loaded[rows].all():
            return None
        found = np.zeros((len(rows), self.config.vector), np.uint8)
        for start, data in self.blocks:
            inside = np.flatnonzero((rows >= start) & (rows < start + len(data)))
            if len(inside):
                found[inside] = data[rows[inside] - start]
        return found


def _is_tag(value: Ints, byte: Ints) -> Bools:
    return (value >= 0) & (value < 1 << 31) & (byte >= 0) & (byte <= BYTE_MASK)

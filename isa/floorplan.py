"""Where everything stands: columns of stream registers, slices, queues and hop distances.

Columns are counted from the west edge; each is one stream register in either direction:

    MXM  SXM  MEM groups G-1 .. 0  VXM  MEM groups 0 .. G-1  SXM  MXM

A chip without SXMs (``Config.sxm``) has no columns for them.

A value moves one column a cycle. An eastward value met at column x in cycle t lies on the
diagonal t - x, a westward one on t + x.
"""

import dataclasses
import enum
from functools import lru_cache

from waterclock.isa.config import Config
from waterclock.isa.streams import Direction


class Hemisphere(enum.IntEnum):
    """Half of the chip, seen from the VXM."""

    WEST = 0
    EAST = 1

    @property
    def outward(self) -> Direction:
        """Direction from the VXM to this hemisphere's MXM."""
        return Direction.EAST if self is Hemisphere.EAST else Direction.WEST

    @property
    def inward(self) -> Direction:
        """Direction from this hemisphere's MXM to the VXM."""
        return Direction.WEST if self is Hemisphere.EAST else Direction.EAST

    @property
    def opposite(self) -> "Hemisphere":
        """The other one."""
        return Hemisphere.WEST if self is Hemisphere.EAST else Hemisphere.EAST


def columns(config: Config) -> int:
    """Return the number of columns of the chip."""
    return 2 * vxm_column(config) + 1


def vxm_column(config: Config) -> int:
    """Return the column of the VXM, in the middle."""
    return config.groups + 1 + config.sxm


def mem_column(config: Config, hemisphere: Hemisphere, slice_index: int) -> int:
    """Return the column of a MEM slice; slice 0 is next to the VXM."""
    distance = 1 + slice_index // config.group
    return vxm_column(config) + (distance if hemisphere is Hemisphere.EAST else -distance)


def sxm_column(config: Config, hemisphere: Hemisphere) -> int:
    """Return the column of a hemisphere's SXM."""
    assert config.sxm
    return columns(config) - 2 if hemisphere is Hemisphere.EAST else 1


def mxm_column(config: Config, hemisphere: Hemisphere) -> int:
    """Return the column of a hemisphere's MXM planes."""
    return columns(config) - 1 if hemisphere is Hemisphere.EAST else 0


def diagonal(direction: Direction, column: int, cycle: int) -> int:
    """Return the diagonal on which a value met at ``column`` in ``cycle`` lies."""
    return cycle - column if direction is Direction.EAST else cycle + column


def meets(direction: Direction, column: int, diag: int) -> int:
    """Return the cycle in which a diagonal crosses a column."""
    return diag + column if direction is Direction.EAST else diag - column


def downstream(direction: Direction, start: int, end: int) -> bool:
    """Tell whether a value put at column ``start`` passes column ``end`` (or is put there)."""
    return start <= end if direction is Direction.EAST else start >= end


@dataclasses.dataclass(frozen=True)
class Queue:
    """One instruction queue: the unit it drives and where that unit stands."""

    index: int  #: place in ``queues(config)``: the number of the queue in program and host port
    name: str  #: for people, for example ``MEM_E3.read``
    kind: str  #: which instructions it issues (see ``isa/spec.py``)
    column: int
    hemisphere: Hemisphere | None  #: None for the VXM
    unit: int  #: slice, ALU or plane number; 0 elsewhere
    leader: int | None = None  #: the queue that it follows; it has no words of its own then


MXM_KINDS = ("mxm_lw", "mxm_iw", "mxm_abl", "mxm_abc", "mxm_acc")
SXM_KINDS = ("sxm_shift", "sxm_permute", "sxm_transpose")


@lru_cache(maxsize=64)
def queues(config: Config) -> tuple[Queue, ...]:
    """Return every queue of the chip in the one order that everybody uses."""
    found: list[Queue] = []

    def add(
        name: str,
        kind: str,
        column: int,
        hemisphere: Hemisphere | None,
        unit: int,
        leader: int | None = None,
    ) -> None:
        found.append(Queue(len(found), name, kind, column, hemisphere, unit, leader))

    for side in Hemisphere:
        letter = side.name[0]
        for index in range(config.slices):
            column = mem_column(config, side, index)
            for kind in ("mem_read", "mem_write"):
                follows = config.wide and index % config.group
                leader = len(found) - 2 * (index % config.group) if follows else None
                add(f"MEM_{letter}{index}.{kind[4:]}", kind, column, side, index, leader)
    for index in range(len(config.alus)):
        add(f"VXM.alu{index}", "alu", vxm_column(config), None, index)
    add("VXM.reduce", "reduce", vxm_column(config), None, len(config.alus))
    for side in Hemisphere:
        letter = side.name[0]
        for plane in range(config.planes):
            for kind in MXM_KINDS:
                column = mxm_column(config, side)
                add(f"MXM_{letter}{plane}.{kind[4:]}", kind, column, side, plane)
        for kind in SXM_KINDS if config.sxm else ():
            add(f"SXM_{letter}.{kind[4:]}", kind, sxm_column(config, side), side, 0)
    return tuple(found)


@lru_cache(maxsize=64)
def queue_numbers(config: Config) -> dict[tuple[str, Hemisphere | None, int], int]:
    """Return the queue's index by (kind, hemisphere, unit)."""
    return {(q.kind, q.hemisphere, q.unit): q.index for q in queues(config)}

"""One attempt to fit a stencil: its claims, and what it will issue if all of them succeed."""

import dataclasses
from collections.abc import Callable

from waterclock.compiler.fabric import Trial
from waterclock.compiler.memory import SetKey, Top
from waterclock.compiler.plan import Plan
from waterclock.compiler.stencil import Node
from waterclock.isa.floorplan import Hemisphere

Emit = Callable[[], None]
Found = tuple[list[int], list[int]]  #: of each item of an operand: source code, value number


@dataclasses.dataclass
class Attempt:
    """Claims so far, and what to do when all of them succeeded."""

    plan: Plan
    trial: Trial
    start: int
    emits: list[Emit]
    units: dict[int, int]  # id(node) -> ALU number
    rows: dict[tuple[Hemisphere, int], int]  # rows of each set that this attempt takes
    tops: dict[SetKey, Top]  # the same at the top, for constants
    maps: dict[tuple[int, int], tuple[int, int]]  # (id(place), diagonal) -> stream code, end

    def cycles(self, node: Node) -> list[int]:
        """Return the cycles in which a node issues its items."""
        return [self.start + node.time + offset for offset in node.offsets]

    def load(self, unit: int) -> tuple[int, int]:
        """Return how many nodes and issues an ALU has already: spread work takes fewer words."""
        return list(self.units.values()).count(unit), self.plan.loads.get(unit, 0)

    def next_row(self, side: Hemisphere, number: int) -> int:
        """Return the row of a set that comes next, after those that this attempt takes."""
        memory = self.plan.memory
        row = max(memory.next_row[side, index] for index in memory.slices_of(number))
        return row + self.rows.get((side, number), 0)

    def top_row(self, side: Hemisphere, number: int) -> int:
        """Return the lowest row that constants of a set take, this attempt's included."""
        return self.top(side, number).row

    def top(self, side: Hemisphere, number: int) -> Top:
        """Return what constants of a set take, this attempt's included."""
        return self.tops.get((side, number)) or self.plan.memory.top(side, number)

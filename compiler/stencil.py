"""Stencils of the VXM: a graph of ALU operations over a row of items, fitted as one rigid block.

Each node issues once an item. Nodes follow each other at fixed distances: a result stands on its
bus for one cycle, so a consumer issues in exactly that cycle, and where two inputs of a node are
not ready together the earlier one is delayed by further ALUs. Memory operands are read so that
they arrive in the cycle of use; results leave on streams to memory, to activation buffers or
into the cache.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.memory import ConstantKey, Place, Vec, constant_key
from waterclock.compiler.plan import Acc
from waterclock.isa import vxm
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.spec import Instruction

ONE = 0x3F800000  #: 1.0 as bits


def bits(value: float) -> int:
    """Return the bits of an fp32 number."""
    return int(np.float32(value).view(np.uint32))


@dataclasses.dataclass(frozen=True)
class Imm:
    """An immediate operand, raw bits."""

    value: int


@dataclasses.dataclass(eq=False)
class Stored:
    """A memory operand: one vector an item."""

    vecs: Sequence[Vec]


@dataclasses.dataclass(eq=False)
class Constant:
    """A constant operand, (layers, items, vector) of 32 bits; placed where the stencil likes.

    Where what is scheduled happens once there is one layer.
    """

    data: NDArray[np.generic]
    vecs: Sequence[Vec] = ()
    side: Hemisphere | None = None  #: where it must lie, if that matters

    @cached_property
    def key(self) -> ConstantKey:
        """What tells it apart from constants of other content."""
        return constant_key(self.data)


@dataclasses.dataclass(eq=False)
class Emitted:
    """An operand that comes from MXM accumulators, one an item."""

    accs: Sequence[Acc]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table in memory, addressed by a map vector that lies in memory too.

    Byte plane b is in ``slices[b]``, rows ``row`` .. ``row + count - 1``.
    """

    side: Hemisphere
    slices: tuple[int, ...]
    row: int
    count: int


@dataclasses.dataclass(eq=False)
class Gathered:
    """A memory operand whose row is data: one table an item, all addressed by ``map``."""

    tables: Sequence[Table]
    map: Vec
    lane: int = 0


@dataclasses.dataclass(eq=False)
class Store:
    """Write the node's results to memory; ``vecs`` is filled in, one an item.

    ``at`` names the place of each item, all in the same slices; otherwise the fit chooses a set,
    beginning with number ``prefer``, or that alone: operands that meet in one stencil want
    different sets.
    """

    side: Hemisphere
    at: Sequence[Place] | None = None
    prefer: int = 0
    only: bool = False
    vecs: list[Vec] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(eq=False)
class Activate:
    """Load the node's results into a plane's activation buffer."""

    side: Hemisphere
    plane: int
    entries: Sequence[int]  #: one an item; -1 to leave an item out
    ready: list[int] = dataclasses.field(default_factory=list)  #: filled in
    values: list[int] = dataclasses.field(default_factory=list)  #: filled in


@dataclasses.dataclass(frozen=True)
class Region:
    """Rows of a plane's weight slices that a Scatter fills: one byte plane of one cache.

    ``first`` is the value number of the first tile that the rows hold; row ``base + count - 1``
    is spare.
    """

    side: Hemisphere
    slices: tuple[int, ...]
    base: int
    count: int
    first: int
    byte: int  #: byte of the result that goes there
    rows_a_tile: int
    stride: int = 0  #: rows to the next layer's


@dataclasses.dataclass(eq=False)
class Spread:
    """Scatter the node's results into cache regions; ``maps[i]`` addresses lanes of slice i."""

    side: Hemisphere
    regions: Sequence[Sequence[Region]]  #: an item: the regions of that vector
    maps: Sequence[Vec]  #: map vectors; slice i uses maps[i // lanes], lane i % lanes
    ready: int = 0  #: filled in: first cycle in which any Read may see all of it


@dataclasses.dataclass(eq=False)
class Deal:
    """Scatter each result into one slice of cache regions, all by lane 0 of the region's map."""

    side: Hemisphere
    targets: Sequence[Sequence[tuple[Region, Vec]]]  #: an item: regions, and the maps of each
    numbers: Sequence[int]  #: an item: which of a region's slices
    ready: int = 0  #: filled in: first cycle in which any Read may see all of it


Operand = "Node | Pick | Imm | Stored | Constant | Emitted | Gathered"
Sink = Store | Activate | Spread | Deal


@dataclasses.dataclass(eq=False)
class Node:
    """One operation of a stencil."""

    op: type[Instruction]
    inputs: list["Node | Pick | Imm | Stored | Constant | Emitted | Gathered"]
    imm: int
    offsets: list[int]  #: cycles of the items, relative to ``time``
    sinks: list[Sink]
    hold: bool = False  #: keeps its result alive between items (a running maximum)
    ring: int = 0  #: item i also takes the result of item i - ring (a running sum)
    time: int = 0  #: cycle of item 0, relative to the stencil
    latency: int = 0
    unit: int | None = None  #: the unit that it must have; None for any with the feature
    values: list[int] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Pick:
    """One item's result of a node, as the operand of a node with a single item."""

    node: Node
    item: int


class Stencil:
    """Builds the graph and solves its times."""

    def __init__(self, config: Config, offsets: Sequence[int]):
        self.config = config
        self.offsets = spaced(offsets, config.turns)
        self.nodes: list[Node] = []
        self.original: list[tuple[Node, list[object], list[int]]] = []

    def op(
        self,
        mnemonic: str,
        *inputs: "Node | Pick | Imm | Stored | Constant | Emitted | Gathered",
        imm: int = 0,
        sinks: Sequence[Sink] = (),
        single: bool = False,
        hold: bool = False,
        ring: int = 0,
    ) -> Node:
        """Add a node; an ``Imm`` among the inputs sets the immediate.

        Of a stencil with a node that holds, items come no faster than its results. What a reducer
        that has no streams is to drive is moved by an ALU.
        """
        op = vxm.OPS.get(mnemonic) or vxm.REDUCTIONS[mnemonic]
        if mnemonic in vxm.REDUCTIONS and sinks and not self.config.reduce_streams:
            reduced = self.op(mnemonic, *inputs, single=single)
            return self.op("mov", reduced, single=single, sinks=sinks)
        for value in inputs:
            if isinstance(value, Imm):
                imm = value.value
        node = Node(op, list(inputs), imm, [0] if single else self.offsets, list(sinks), hold, ring)
        node.latency = op.latency(self.config)
        if hold:
            self.offsets[:] = spaced(self.offsets, node.latency)
        elif not single:
            self.offsets[:] = spaced(self.offsets, vxm.busy_cycles(self.config, op))
        self.nodes.append(node)
        return node

    def rounds(self, node: Node) -> bool:
        """Let a node give f16, if it can and nothing takes its result yet; tell whether it does."""
        op = vxm.ROUNDED.get(node.op)
        used = node.sinks or any(value is node for other in self.nodes for value in other.inputs)
        if not op or used or not any(vxm.FEATURE[op] in found for found in self.config.alus):
            return False
        node.op = op
        return True

    def total(self, value: Node) -> Node:
        """Add up fp32 items in the order of ``vxm.partial_sums``.

        Items come one a cycle, into running sums. Where lanes take turns they may be further apart:
        each addition is a node of its own.
        """
        items, most = len(value.offsets), vxm.partial_sums(self.config)
        if self.config.turns > 1:
            sums: dict[int, Node | Pick] = {}
            for i in range(items):
                found = Pick(value, i)
                own = sums.pop(i % most, None)
                sums[i % most] = self.op("fadd", found, own, single=True) if own else found
            parts = list(sums.values())
        else:
            if any(b - a != 1 for a, b in itertools.pairwise(value.offsets)):
                raise ValueError("items of a sum must come one a cycle")
            if items <= most:
                parts = [Pick(value, i) for i in range(items)]
            else:
                running = self.op("fadd", value, Imm(0), ring=most)
                parts = [Pick(running, items - most + k) for k in range(most)]
        while len(parts) > 1:
            pairs = [
                self.op("fadd", parts[i], parts[i + 1], single=True)
                for i in range(0, len(parts) - 1, 2)
            ]
            parts = [*pairs, *parts[len(parts) // 2 * 2 :]]
        last = parts[0]
        if isinstance(last, Pick):
            last = self.op("mov", last, single=True)
        return last

    def reset(self) -> None:
        """Return to the graph as it was built: without times and delays."""
        if not self.original:
            self.original = [(node, list(node.inputs), node.offsets) for node in self.nodes]
        for node, inputs, offsets in self.original:
            node.inputs, node.offsets = list(inputs), offsets  # type: ignore[assignment]
            node.unit, node.time = None, 0
        self.nodes = [node for node, _, _ in self.original]

    def shape(self) -> tuple[object, ...]:
        """Return what the places of nodes depend on: the graph, its items, sides of operands.

        Of many items it does not matter how many; mirrored, a stencil has the same shape.
        """
        self.reset()
        number = {id(node): index for index, node in enumerate(self.nodes)}
        names: dict[Hemisphere, int] = {}
        found: list[object] = []

        def named(x: int) -> int:
            return names.setdefault(x, len(names)) if isinstance(x, Hemisphere) else x

        def seen(sides: Sequence[tuple[int, ...]]) -> tuple[object, ...]:
            """Return sides by the order in which they come up, those of one item if all agree."""
            some = sides[:1] if len(set(sides)) == 1 else sides
            return tuple(tuple(named(x) for x in item) for item in some)

        for node in self.nodes:
            found.append((node.op, len(node.offsets) > 1, tuple(type(sink) for sink in node.sinks)))
            for value in node.inputs:
                what = value.node if isinstance(value, Pick) else value
                item = value.item if isinstance(value, Pick) else -1
                index = number.setdefault(id(what), len(number))
                found.append((index, type(what), item, seen(_sides(value))))
            sinks = [sink for sink in node.sinks if not isinstance(sink, Deal)]
            found += seen([(sink.side,) for sink in sinks])
        return tuple(found)

    def solve(self) -> None:
        """Set the time of every node and insert the delays that make operands meet."""
        self.reset()
        self.solve_times()
        self._insert_delays()

    def solve_times(self) -> None:
        """Set the time of every node, as if operands could wait."""
        for node in self.nodes:
            ready = [self._ready(value) for value in node.inputs]
            node.time = max([time for time in ready if time is not None], default=0)
        for node in reversed(self.nodes):
            if all(self._ready(value) is None for value in node.inputs):
                slack = [
                    other.time
                    - node.time
                    - node.latency
                    - (value.node.offsets[value.item] if isinstance(value, Pick) else 0)
                    for other in self.nodes
                    for value in other.inputs
                    if (value.node if isinstance(value, Pick) else value) is node
                ]
                node.time += min(slack, default=0)

    def _insert_delays(self) -> None:
        for node in list(self.nodes):
            for index, value in enumerate(node.inputs):
                ready = self._ready(value)
                if isinstance(value, (Node, Pick)) and ready is not None and ready < node.time:
                    node.inputs[index] = self._delay(value, node.time - ready)
        self.nodes.sort(key=lambda node: node.time)

    def _ready(self, value: object) -> int | None:
        if isinstance(value, Pick):
            node = value.node
            return node.time + node.latency + node.offsets[value.item]
        if isinstance(value, Node):
            return value.time + value.latency
        return None

    def _delay(self, value: "Node | Pick", cycles: int) -> Node:
        single = isinstance(value, Pick)
        node: Node | Pick = value
        while cycles:
            step = "fmul" if cycles >= vxm.pipelined_latency(self.config) else "mov"
            operands = (node, Imm(ONE)) if step == "fmul" else (node,)
            time = self._ready(node)
            assert time is not None
            offsets = [0] if single else (node.offsets if isinstance(node, Node) else [0])
            node = self.op(step, *operands, single=single)
            node.offsets, node.time = offsets, time
            cycles -= node.latency
        assert isinstance(node, Node)
        return node


def _sides(value: object) -> tuple[tuple[int, ...], ...]:
    """Return where each item of an operand may come from: sides, of planes their number too."""
    if isinstance(value, (Stored, Constant)):
        return tuple(tuple(place.side for place in vec.places) for vec in value.vecs)
    if isinstance(value, Emitted):
        return tuple((acc.side, acc.plane) for acc in value.accs)
    return tuple((table.side,) for table in value.tables) if isinstance(value, Gathered) else ()


def spaced(ready: Sequence[int], least: int = 1) -> list[int]:
    """Return item offsets, ``least`` cycles apart, that follow those in which items are ready."""
    found = [0]
    for cycle in ready[1:]:
        found.append(max(found[-1] + least, cycle - ready[0]))
    return found


def tree(stencil: Stencil, mnemonic: str, nodes: Sequence[Node]) -> Node:
    """Combine nodes pairwise with a binary operation."""
    found = list(nodes)
    while len(found) > 1:
        pairs = [stencil.op(mnemonic, found[i], found[i + 1]) for i in range(0, len(found) - 1, 2)]
        found = [*pairs, *found[len(found) // 2 * 2 :]]
    return found[0]

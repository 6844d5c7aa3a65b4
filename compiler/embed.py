"""The embedding where it shares the head's weights: a matrix product with a single one.

The token chooses which tiles of the head are loaded: LW takes them from Gathers. They are laid
into the array by columns, so that their tokens meet the activation, which is 1 in the
token's lane and 0 elsewhere. On all planes but one there is no 1, and the sum over the planes is
the token's row.
"""

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.array import Step, Sums, Tile, Use, run_steps
from waterclock.compiler.blocks import EAST, WEST, Blocks, State
from waterclock.compiler.fit import fit
from waterclock.compiler.image import Image, PlaneKey
from waterclock.compiler.layout import pick
from waterclock.compiler.memory import Vec
from waterclock.compiler.plan import Acc, Act, Plan
from waterclock.compiler.stencil import (
    Activate,
    Constant,
    Emitted,
    Gathered,
    Imm,
    Node,
    Stencil,
    Store,
    Stored,
    tree,
)
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.mxm import Order


class SharedEmbedding(Blocks):
    """Schedules the lookup of a token in the head's weights."""

    def __init__(self, plan: Plan, image: Image):
        """Schedule the product."""
        super().__init__(plan, image)
        self.token = image.mailbox["token"]
        config, items = self.config, range(len(self.image.hidden))
        tokens = len(self.planes) * config.vector  # of all planes' tiles of a vector of channels
        where = {
            side: self.quotient(self.token, side, tokens, len(items) * self.image.loads)
            for side in Hemisphere
        }
        self.accs = {
            key: self._rows(key, self._choose(number, key), where[key[0]])
            for number, key in enumerate(self.planes)
        }
        self.scale = self._scale()

    def run(self) -> State:
        """Schedule what makes the residual stream of it."""
        items = range(len(self.image.hidden))
        stencil = Stencil(self.config, items)
        rows = [stencil.op("mov", Emitted(self.accs[key])) for key in self.planes]
        gain = np.array([pick(self.tensors["embed.gain"], c) for c in self.image.hidden])
        scaled = stencil.op("fmul", tree(stencil, "fadd", rows), Stored([self.scale] * len(items)))
        store = Store(EAST)
        x = stencil.op("fmul", scaled, Constant(gain[None]), sinks=[store])
        return self.finish(stencil, x, store, ["layers.0.attn"])

    def _choose(self, number: int, key: PlaneKey) -> Act:
        """Return a plane's activation: 1 in the token's lane if the plane holds its tiles."""
        vector, width = self.config.vector, len(self.planes)
        stencil = Stencil(self.config, [0])
        lanes = number * vector + np.arange(vector, dtype=np.int32)
        hit = self._hit(stencil, width * vector, lanes)
        entry = self.plan.acts[key].take(1)
        sink = Activate(key[0], key[1], entry)
        stencil.op("f32_to_f16", stencil.op("i32_to_f32", hit), sinks=[sink])
        fit(self.plan, stencil)
        return Act(entry[0], sink.values[0], sink.ready[0])

    def _hit(self, stencil: Stencil, divisor: int, lanes: NDArray[np.int32]) -> Node:
        """Return 1 in the lanes that are the token modulo a power of two, 0 elsewhere."""
        token = Stored([self.token])
        return stencil.op(
            "ieq", stencil.op("and", token, Imm(divisor - 1)), Constant(lanes[None, None])
        )

    def _scale(self) -> Vec:
        """Return the token's scale, in all lanes."""
        vector, table = self.config.vector, self.image.embed_scale
        row = self.quotient(self.token, table.side, vector)
        stencil, store = Stencil(self.config, [0]), Store(WEST, prefer=1)
        hit = self._hit(stencil, vector, np.arange(vector, dtype=np.int32))
        own = stencil.op("select", hit, Gathered([table], row))
        stencil.op("rsum", own, sinks=[store])
        fit(self.plan, stencil)
        return store.vecs[0]

    def _rows(self, key: PlaneKey, act: Act, where: Vec) -> list[Acc]:
        """Multiply; return the accumulator of each vector of channels."""
        plan, head, loads = self.plan, self.image.linear["head"], self.image.loads
        first, count = head.on(key)[0], len(self.image.hidden)
        rows = len(head.on(key)) * count * loads
        entries, sums = plan.accs[key].take(count), Sums()
        steps = []
        for k, entry in enumerate(entries):
            row = head.tiles[first, k].row
            value = plan.memory.value()
            ready = where.on(key[0]).ready
            tile = Tile(value, row, Order.COLUMNS, ready, map=where, count=rows - k * loads)
            steps.append(Step(tile, [Use(act, entry, add=False)]))
        run_steps(plan, *key, steps, sums)
        return [Acc(*key, entry, sums.value[entry], sums.ready[entry]) for entry in entries]

"""The head where ALUs are few: the largest logit is looked for in groups of vectors.

Vectors are compared as they come, which leaves the maximum of each group. The lowest group that
holds the largest logit is found first; its vectors are then gathered, and only those are compared.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.blocks import EAST, WEST, State
from waterclock.compiler.fit import fit
from waterclock.compiler.head import NOBODY, Head
from waterclock.compiler.image import Image
from waterclock.compiler.memory import Vec
from waterclock.compiler.plan import Acc, Plan
from waterclock.compiler.stencil import (
    Constant,
    Gathered,
    Pick,
    Stencil,
    Store,
    Stored,
    Table,
    tree,
)

PART = 4  #: vectors of logits that are compared while they are scaled
GROUP = 8  #: vectors of logits a group


class GroupedHead(Head):
    """A head whose logits lie in one set, so that any group of them can be gathered."""

    def __init__(self, plan: Plan, image: Image):
        super().__init__(plan, image)
        self.starts: list[int] = []  #: the first vector of each group
        self.rooms = list(image.scores.get(EAST, []))  #: of scores, which are not needed any more

    def _logits(self, outs: range, accs: dict[int, Acc], state: State) -> None:
        """Scale and store logits vectors and the maxima of their groups."""
        step = 1 if len(outs) % PART else PART
        items = range(len(outs) // step)
        stencil, kept = Stencil(self.config, items), Store(WEST)
        if len(self.rooms) >= len(items):
            kept = Store(EAST, at=self.rooms[: len(items)])
            del self.rooms[: len(items)]
        stores: list[Store] = []
        parts = []
        for first in range(step):
            mine = outs[first::step]
            places = [self.image.logits[out] for out in mine]
            stores.append(Store(places[0].side, at=places))
            scaled = self._scaled(stencil, mine, accs)
            r = Stored([state.r] * len(mine))
            parts.append(stencil.op("fmul", scaled, r, sinks=[stores[-1]]))
        if step > 1:
            tree(stencil, "fmax", parts).sinks.append(kept)
        fit(self.plan, stencil)
        self.logits += [store.vecs[item] for item in items for store in stores]
        maxima = kept.vecs if step > 1 else stores[0].vecs
        for item in range(0, len(maxima), GROUP // step):
            self.starts.append(outs[item * step])
            self.tops.append(self._maximum(maxima[item : item + GROUP // step]))

    def _maximum(self, vecs: Sequence[Vec]) -> Vec:
        """Store the maximum of vectors, lane by lane."""
        stencil, store = Stencil(self.config, range(len(vecs))), Store(WEST)
        top = stencil.op("fmax", Stored(vecs), hold=True)
        stencil.op("mov", Pick(top, len(vecs) - 1), single=True, sinks=[store])
        fit(self.plan, stencil)
        return store.vecs[0]

    def argmax(self, best: Vec) -> None:
        """Find the lowest token with the largest logit and leave it in the mailbox."""
        image, vectors = self.image, len(self.image.words)
        count = min(GROUP, vectors)
        # The last group is full, too: it begins within the one before if it must.
        rows = [min(first, vectors - count) for first in self.starts]
        numbers = [np.full(self.config.vector, row) for row in rows]
        stencil, low = self._hit(best, Stored(self.tops), numbers)
        first = image.logits[0]
        row, token = Store(first.side), Store(WEST)
        number = stencil.op("rimin", low, single=True, sinks=[row])
        for _ in range(self.config.levels):  # tokens are numbered vector by vector
            number = stencil.op("iadd", number, number, single=True)
        number.sinks.append(token)
        fit(self.plan, stencil)
        tables = [
            Table(first.side, first.slices, first.row + item, vectors - item)
            for item in range(count)
        ]
        found = Gathered(tables, row.vecs[0])
        stencil, low = self._hit(best, found, image.words[:count])
        number = stencil.op("rimin", low, single=True)
        number = stencil.op("iadd", number, Stored(token.vecs), single=True)
        self._to_mailbox(stencil, "token", number)

    def _hit(
        self, best: Vec, values: Stored | Gathered, numbers: Sequence[NDArray[np.integer[Any]]]
    ) -> tuple[Stencil, Pick]:
        """Return the lowest number whose value is the best, lane by lane, and its stencil."""
        count = len(numbers)
        stencil = Stencil(self.config, range(count))
        hit = stencil.op("fge", values, Stored([best] * count))
        words = Constant(np.array([numbers], np.int32))
        low = stencil.op("imin", stencil.op("select", hit, words, imm=NOBODY), hold=True)
        return stencil, Pick(low, count - 1)

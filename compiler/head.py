"""The head of the decode program: logits, and the lowest token with the largest of them."""

import itertools
from collections.abc import Sequence

import numpy as np

from waterclock.compiler.blocks import EAST, WEST, Blocks, State
from waterclock.compiler.fit import fit
from waterclock.compiler.memory import Vec
from waterclock.compiler.plan import Acc
from waterclock.compiler.stencil import (
    Constant,
    Emitted,
    Imm,
    Node,
    Pick,
    Stencil,
    Store,
    Stored,
    spaced,
    tree,
)

NOBODY = 0x7FFFFFFF  #: more than any token


class Head(Blocks):
    """Schedules what follows the layers; the next token and position go to the mailbox."""

    def run(self, state: State, position_read: int) -> None:
        """Schedule everything; nobody reads the old position from cycle ``position_read`` on."""
        plan = self.plan
        plan.serve("head")
        best = self.head(state)
        plan.serve("argmax")
        self.argmax(best)
        self.advance(position_read)
        for vec, places in zip(self.logits, self.image.logits, strict=True):
            for byte, index in enumerate(places.slices):
                plan.results.append((int(places.side), index, places.row, vec.value, byte))

    def head(self, state: State) -> Vec:
        """Write the logits; return the largest one, in all lanes."""
        image = self.image
        self.logits: list[Vec] = []
        chunk = len(self.planes) * (self.config.acc_entries // 2)
        self.tops: list[Vec] = []
        cuts = sorted(
            {*range(0, len(image.words), chunk), *range(0, len(image.words), image.share)}
        )
        for first, end in itertools.pairwise([*cuts, len(image.words)]):
            outs = range(first, end)
            self._logits(outs, self.linear("head", outs, state.acts), state)
        return self._largest()

    def _largest(self) -> Vec:
        """Return the largest logit, in all lanes."""
        stencil = Stencil(self.config, range(len(self.tops)))
        top: Node | Pick = stencil.op("fmax", Stored(self.tops), hold=True)
        store = Store(WEST)
        stencil.op("rmax", Pick(top, len(self.tops) - 1), single=True, sinks=[store])
        fit(self.plan, stencil)
        return store.vecs[0]

    def _logits(self, outs: range, accs: dict[int, Acc], state: State) -> None:
        """Scale and store logits vectors, which lie in one set, and their maximum."""
        places = [self.image.logits[out] for out in outs]
        stencil = Stencil(self.config, spaced([accs[out].ready for out in outs]))
        store, kept = Store(places[0].side, at=places), Store(WEST)
        scaled = self._scaled(stencil, outs, accs)
        logits = stencil.op("fmul", scaled, Stored([state.r] * len(outs)), sinks=[store])
        top = stencil.op("fmax", logits, hold=True)
        stencil.op("mov", Pick(top, len(outs) - 1), single=True, sinks=[kept])
        fit(self.plan, stencil)
        self.logits += store.vecs
        self.tops += kept.vecs

    def _scaled(self, stencil: Stencil, outs: Sequence[int], accs: dict[int, Acc]) -> Node:
        emitted = Emitted([accs[out] for out in outs])
        if not self.image.embed:
            return stencil.op(
                "fmul", Stored([self.image.head_scales[out] for out in outs]), emitted
            )
        scales = self.scales("head", outs)
        scales.side = EAST  # 1 / rms comes from the west, again and again: short code
        return stencil.op("fmul", emitted, scales)

    def argmax(self, best: Vec) -> None:
        """Find the lowest token with the largest logit and leave it in the mailbox."""
        image = self.image
        stencil_parts: list[Vec] = []
        # Sets side by side, as far as all have a vector; what remains, set by set.
        count = len(image.words)
        starts = range(0, count, image.share)
        even = min(image.share, count - starts[-1])
        parts = [[range(start, start + even) for start in starts]]
        parts += [[range(start + even, min(start + image.share, count))] for start in starts]
        for part in parts:
            if not part[0]:
                continue
            stencil = Stencil(self.config, range(len(part[0])))
            chains = []
            for outs in part:
                logits = Stored([self.logits[out] for out in outs])
                hit = stencil.op("fge", logits, Stored([best] * len(outs)))
                words = Constant(np.array([[image.words[out] for out in outs]], np.int32))
                chains.append(stencil.op("select", hit, words, imm=NOBODY))
            low = stencil.op("imin", tree(stencil, "imin", chains), hold=True)
            store = Store(WEST)
            stencil.op("mov", Pick(low, len(part[0]) - 1), single=True, sinks=[store])
            fit(self.plan, stencil)
            stencil_parts += store.vecs
        stencil = Stencil(self.config, range(len(stencil_parts)))
        low = stencil.op("imin", Stored(stencil_parts), hold=True)
        token = stencil.op("rimin", Pick(low, len(stencil_parts) - 1), single=True)
        self._to_mailbox(stencil, "token", token)

    def advance(self, earliest: int) -> None:
        """Leave the next position in the mailbox."""
        stencil = Stencil(self.config, [0])
        position = stencil.op("iadd", Stored([self.image.mailbox["position"]]), Imm(1))
        self._to_mailbox(stencil, "position", position, earliest)

    def _to_mailbox(self, stencil: Stencil, name: str, value: Node, earliest: int = 0) -> None:
        stores = []
        for place in self.image.mailbox[name].places:
            store = Store(place.side, at=[place])
            stencil.op("mov", value, single=True, sinks=[store])
            stores.append(store)
        fit(self.plan, stencil, earliest)
        for store in stores:
            place = store.vecs[0].places[0]
            for byte, index in enumerate(place.slices):
                row = (int(place.side), index, place.row, store.vecs[0].value, byte)
                self.plan.results.append(row)

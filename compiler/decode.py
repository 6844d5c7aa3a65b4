"""The decode program: one token through all layers, as stencils and tiles.

Every function schedules one operation of the model and returns where its results are. Norms are
numbers, not vectors: activations enter the MXM unnormalised and 1 / rms multiplies the results,
so the matrix runs while the norm is still being summed.
"""

import itertools
from collections.abc import Sequence

import numpy as np

from waterclock.compiler.attention import Attention
from waterclock.compiler.blocks import EAST, WEST, Blocks, State
from waterclock.compiler.embed import SharedEmbedding
from waterclock.compiler.fit import fit
from waterclock.compiler.image import PlaneKey
from waterclock.compiler.memory import Vec
from waterclock.compiler.plan import Acc, Act
from waterclock.compiler.stencil import (
    Constant,
    Emitted,
    Gathered,
    Imm,
    Node,
    Pick,
    Stencil,
    Store,
    Stored,
    bits,
    spaced,
    tree,
)

CHUNK = 4  #: result vectors a plane after which gate and up go on into SwiGLU

LOG2E = float(np.float32(np.log2(np.e)))


class Decode(Blocks):
    """Schedules one token for a bucket of ``plan.context`` positions."""

    def run(self) -> None:
        """Schedule everything."""
        plan, image = self.plan, self.image
        plan.serve("position")
        attention = Attention(self.plan, self.image)
        position_read = plan.end  # nobody needs the old position after that
        plan.serve("embed")
        state = self.embed()
        state = self.layer(attention, state)
        plan.serve("head")
        best = self.head(state)
        plan.serve("argmax")
        self.argmax(best)
        self.advance(position_read)
        for vec, places in zip(self.logits, image.logits, strict=True):
            for byte, index in enumerate(places.slices):
                plan.results.append((int(places.side), index, places.row, vec.value, byte))

    def layer(self, attention: Attention, state: State) -> State:
        """Schedule one layer, which happens as often as there are layers."""
        plan, first = self.plan, state
        plan.open_block(self.model["layers"])
        acts = attention.run(0, state)
        plan.serve("layers.0.o")
        norms = [f"layers.{layer}.ffn" for layer in range(self.layers)]
        state = self.residual("layers.0.o", acts, state, norms)
        plan.serve("layers.0.gate_up")
        acts = self.feed_forward("layers.0", state)
        plan.serve("layers.0.down")
        norms = [*(f"layers.{layer}.attn" for layer in range(1, self.layers)), "final"]
        plan.keep_free()  # for the next layer, which begins while this one ends
        state = self.residual("layers.0.down", acts, state, norms, first)
        cycles, numbers = plan.close_block(state.takes_place_of(first))
        return state.later(cycles, numbers)

    # Operations of the model.

    def embed(self) -> State:
        """Look the token up."""
        if not self.image.embed:
            return SharedEmbedding(self.plan, self.image).run()
        stencil = Stencil(self.config, range(len(self.image.embed)))
        store = Store(EAST)
        source = Gathered(self.image.embed, self.image.mailbox["token"])
        x = stencil.op("f16_to_f32", source, sinks=[store])
        return self.finish(stencil, x, store, ["layers.0.attn"])

    def residual(
        self,
        name: str,
        acts: dict[PlaneKey, list[Act]],
        state: State,
        norms: Sequence[str],
        like: State | None = None,
    ) -> State:
        """Multiply, scale and add to the residual stream; ``like`` names where it goes.

        ``norms`` come next, one in each layer.
        """
        count = len(self.image.hidden)
        accs = self.linear(name, range(count), acts, k_major=True)
        stencil = Stencil(self.config, range(count))
        scaled = stencil.op(
            "fmul", Emitted([accs[i] for i in range(count)]), self.scales(name, range(count))
        )
        store = Store(EAST, at=[vec.places[0] for vec in like.x] if like else None)
        x = stencil.op("fadd", scaled, Stored(state.x), sinks=[store])
        return self.finish(stencil, x, store, norms, like)

    def feed_forward(self, prefix: str, state: State) -> dict[PlaneKey, list[Act]]:
        """Return SiLU(gate) * up as activations."""
        count = len(self.image.ffn)
        entries = {key: self.plan.acts[key].take(count) for key in self.planes}
        acts: dict[PlaneKey, list[Act]] = {key: [Act(0, 0, 0)] * count for key in self.planes}
        # What leaves the VXM takes streams from the weights that come next: it is scheduled first.
        chunk = self.config.planes * CHUNK
        for base in range(0, count, chunk):
            items = range(base, min(base + chunk, count))
            gate = self.linear(f"{prefix}.gate", items, state.acts)
            up = self.linear(f"{prefix}.up", items, state.acts)
            stencil = Stencil(self.config, spaced([max(gate[i].ready, up[i].ready) for i in items]))
            r = Stored([state.r] * len(items))

            def scaled(
                name: str,
                accs: dict[int, Acc],
                stencil: Stencil = stencil,
                r: Stored = r,
                items: range = items,
            ) -> Node:
                emitted = Emitted([accs[i] for i in items])
                scales = self.scales(f"{prefix}.{name}", items)
                if self.config.wide:  # 1 / rms comes from the west, where weights are read too
                    scales.side = EAST
                product = stencil.op("fmul", emitted, scales)
                return stencil.op("fmul", product, r)

            g, u = scaled("gate", gate), scaled("up", up)
            power = stencil.op("exp2", stencil.op("fmul", g, Imm(bits(-LOG2E))))
            sigmoid = stencil.op("recip", stencil.op("fadd", power, Imm(bits(1.0))))
            h = stencil.op("fmul", stencil.op("fmul", g, u), sigmoid)
            sinks = self.on_all_planes(entries, items)
            self.activate(stencil, h, sinks)
            fit(self.plan, stencil)
            self.loaded(entries, items, sinks, acts)
        return acts

    def head(self, state: State) -> Vec:
        """Write the logits; return the largest one, in all lanes."""
        image = self.image
        self.logits: list[Vec] = []
        chunk = len(self.planes) * (self.config.acc_entries // 2)
        tops: list[Vec] = []
        cuts = sorted(
            {*range(0, len(image.words), chunk), *range(0, len(image.words), image.share)}
        )
        for first, end in itertools.pairwise([*cuts, len(image.words)]):
            outs = range(first, end)
            accs = self.linear("head", outs, state.acts)
            tops.append(self._logits(outs, accs, state))
        stencil = Stencil(self.config, range(len(tops)))
        top: Node | Pick = stencil.op("fmax", Stored(tops), hold=True)
        store = Store(WEST)
        stencil.op("rmax", Pick(top, len(tops) - 1), single=True, sinks=[store])
        fit(self.plan, stencil)
        return store.vecs[0]

    def _logits(self, outs: range, accs: dict[int, Acc], state: State) -> Vec:
        """Scale and store logits vectors, which lie in one set; return their maximum."""
        places = [self.image.logits[out] for out in outs]
        # Irregular items leave no room for others where two lanes take turns.
        ready = [accs[out].ready for out in outs]
        stencil = Stencil(
            self.config, spaced(ready) if self.config.turns == 1 else range(len(outs))
        )
        store, kept = Store(places[0].side, at=places), Store(WEST)
        scales = self.scales("head", outs)
        scales.side = EAST  # 1 / rms comes from the west, again and again: short code
        scaled = stencil.op("fmul", Emitted([accs[out] for out in outs]), scales)
        logits = stencil.op("fmul", scaled, Stored([state.r] * len(outs)), sinks=[store])
        top = stencil.op("fmax", logits, hold=True)
        stencil.op("mov", Pick(top, len(outs) - 1), single=True, sinks=[kept])
        fit(self.plan, stencil)
        self.logits += store.vecs
        return kept.vecs[0]

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
                chains.append(stencil.op("select", hit, words, imm=0x7FFFFFFF))
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

"""The decode program: one token through all layers, as stencils and tiles.

Every function schedules one operation of the model and returns where its results are. Norms are
numbers, not vectors: activations enter the MXM unnormalised and 1 / rms multiplies the results,
so the matrix runs while the norm is still being summed.
"""

from collections.abc import Sequence

from waterclock.compiler.attention import Attention
from waterclock.compiler.blocks import EAST, Blocks, State
from waterclock.compiler.embed import SharedEmbedding
from waterclock.compiler.fit import fit
from waterclock.compiler.head import Head
from waterclock.compiler.head_groups import GroupedHead
from waterclock.compiler.image import PlaneKey
from waterclock.compiler.plan import Act
from waterclock.compiler.stencil import (
    Emitted,
    Gathered,
    Imm,
    Node,
    Stencil,
    Store,
    Stored,
    bits,
    spaced,
)

CHUNK = 4  #: result vectors a plane after which gate and up go on into SwiGLU


class Decode(Blocks):
    """Schedules one token for a bucket of ``plan.context`` positions."""

    def run(self) -> None:
        """Schedule everything."""
        plan = self.plan
        shared = None
        if not self.image.embed:
            plan.serve("embed")
            shared = SharedEmbedding(plan, self.image)
        plan.serve("position")
        attention = Attention(plan, self.image)
        plan.serve("embed")
        state = shared.run() if shared else self.embed()
        plan.serve("position")
        attention.look_up()
        position_read = plan.end  # nobody needs the old position after that
        state = self.layer(attention, state)
        head = (Head if self.config.turns == 1 else GroupedHead)(plan, self.image)
        head.run(state, position_read)

    def layer(self, attention: Attention, state: State) -> State:
        """Schedule one layer, which happens as often as there are layers."""
        plan, first = self.plan, state
        plan.open_block(self.model["layers"])
        state = state.not_before(plan.expected())
        acts = attention.run(0, state)
        plan.serve("layers.0.o")
        norms = [f"layers.{layer}.ffn" for layer in range(self.layers)]
        state = self.residual("layers.0.o", acts, state, norms)
        plan.serve("layers.0.gate_up")
        acts = self.feed_forward("layers.0", state)
        plan.serve("layers.0.down")
        norms = [*(f"layers.{layer}.attn" for layer in range(1, self.layers)), "final"]
        plan.end_block(max(act.ready for found in acts.values() for act in found))
        state = self.residual("layers.0.down", acts, state, norms, first)
        cycles, numbers = plan.close_block(state.takes_place_of(first))
        return state.later(cycles, numbers)

    # Operations of the model.

    def embed(self) -> State:
        """Look the token up."""
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
            scales = self.scales(f"{prefix}.gate", items)
            if self.config.wide:  # 1 / rms comes from the west, where weights are read too
                scales.side = EAST
            g = stencil.op("fmul", Emitted([gate[i] for i in items]), scales)
            g = stencil.op("fmul", g, r)
            u: Node | Emitted = Emitted([up[i] for i in items])
            if "up_scale" not in self.model:
                u = stencil.op("fmul", u, self.scales(f"{prefix}.up", items))
            u = stencil.op("fmul", u, r)
            power = stencil.op("exp2", g)  # gate and up are scaled for that: quantise.py
            sigmoid = stencil.op("recip", stencil.op("fadd", power, Imm(bits(1.0))))
            h = stencil.op("fmul", stencil.op("fmul", g, u), sigmoid)
            sinks = self.on_all_planes(entries, items)
            self.activate(stencil, h, sinks)
            fit(self.plan, stencil)
            self.loaded(entries, items, sinks, acts)
        return acts

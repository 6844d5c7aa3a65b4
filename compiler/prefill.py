"""The prefill program: a block of positions through all layers, each tile of weights loaded once.

Another schedule of the same memory image: it leaves the rows of its positions in the cache, as
decode would, and nothing else. Activations of all positions lie in memory between operations; a
stencil of the VXM has an item for each position. The order of every sum is that of decode, so
the cache is the same to the bit.
"""

from collections.abc import Sequence

from waterclock.compiler.fit import fit
from waterclock.compiler.image import Image
from waterclock.compiler.memory import Place, Vec
from waterclock.compiler.plan import Plan
from waterclock.compiler.prefill_attention import BlockAttention
from waterclock.compiler.prefill_blocks import BlockWork, State
from waterclock.compiler.prefill_rows import EAST, Bundle, Rows
from waterclock.compiler.stencil import Gathered, Imm, Stencil, Store, bits


class Prefill(BlockWork):
    """Schedules a block for a bucket of ``plan.context`` positions."""

    def __init__(self, plan: Plan, image: Image, rows: Rows):
        super().__init__(plan, image, rows)
        rows.begin()

    def run(self) -> None:
        """Schedule everything."""
        plan = self.plan
        plan.serve("position")
        attention = BlockAttention(plan, self.image, self.rows)
        plan.serve("embed")
        first = self.embed()
        plan.open_block(self.model["layers"])
        acts: Sequence[Bundle] = attention.run(first)
        plan.serve("layers.0.o")
        state = self.residual("o", acts, first, "ffn")
        plan.serve("layers.0.gate_up")
        acts = self.feed_forward(state)
        plan.serve("layers.0.down")
        state = self.residual("down", acts, state, "next")
        # Layers use the same rooms, so one begins when the one before has ended; a cycle for Loop.
        plan.close_block(state.takes_place_of(first), plan.block_cycles() + 1)

    def embed(self) -> State:
        """Look the tokens up, one after the other."""
        rooms = self.rows.x[0]
        vecs: list[list[Vec]] = [[] for _ in rooms]
        start = 0
        for t, token in enumerate(self.rows.tokens):
            stencil = Stencil(self.config, range(len(rooms)))
            store = Store(EAST, at=[Place(EAST, r.slices, r.row + t, 0) for r in rooms])
            stencil.op("f16_to_f32", Gathered(self.image.embed, token), sinks=[store])
            start = fit(self.plan, stencil, start) + 1
            for found, vec in zip(vecs, store.vecs, strict=True):
                found.append(vec)
        return self.enter([Bundle(room, v) for room, v in zip(rooms, vecs, strict=True)])

    def feed_forward(self, state: State) -> list[Bundle]:
        """Return SiLU(gate) * up as activations."""
        acts: dict[int, Bundle] = {}
        for found in self.rounds(["gate", "up"], state.h):
            for out in sorted(out for name, out in found if name == "gate"):
                work = self.work()
                op = work.op
                g, u = (
                    op("fmul", self.scaled(work, result, found[result]), work.of(state.r))
                    for result in (("gate", out), ("up", out))
                )
                sigmoid = op("recip", op("fadd", op("exp2", g), Imm(bits(1.0))))
                work.activate(op("fmul", op("fmul", g, u), sigmoid), self.rows.acts[out])
                acts[out] = work.fit()[0]
        return [acts[out] for out in range(len(acts))]

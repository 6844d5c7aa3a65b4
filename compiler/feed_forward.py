"""The feed-forward block of one layer alone, as other machines measure it: from MEM to MEM.

A program like any other, so that every engine runs it and the checker proves it: its ``logits``
port is the result, its input lies in the memory image.
"""

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.blocks import EAST, WEST, State
from waterclock.compiler.compile import mailbox_ports, port_of
from waterclock.compiler.decode import Decode
from waterclock.compiler.emit import emit
from waterclock.compiler.fit import fit
from waterclock.compiler.image import Image
from waterclock.compiler.memory import Place
from waterclock.compiler.plan import Act, Plan
from waterclock.compiler.stencil import Emitted, Stencil, Store, Stored
from waterclock.isa.floorplan import Hemisphere
from waterclock.isa.program import Program, QuantisedModel


class FeedForward(Decode):
    """Schedules SwiGLU between gate, up and down of layer 0, without norm and residual."""

    def alone(self, x: NDArray[np.float32]) -> list[Place]:
        """Schedule everything for an input (hidden,); return the places of the result."""
        plan, image, memory = self.plan, self.image, self.plan.memory
        count, vector = len(image.hidden), self.config.vector
        padded = np.zeros((1, count, vector), np.float32)
        padded.reshape(-1)[: len(x)] = x
        plan.serve("layers.0.input")
        vecs = memory.constant(EAST, 0, padded)
        one = memory.constant(WEST, 0, np.ones((1, 1, vector), np.float32))[0]
        entries = {key: plan.acts[key].take(count) for key in self.planes}
        sinks = self.on_all_planes(entries, range(count))
        stencil = Stencil(self.config, range(count))
        for side in Hemisphere:
            stencil.op("f32_to_f16", Stored(vecs), sinks=sinks[side])
        fit(plan, stencil)
        acts = {key: [Act(0, 0, 0)] * count for key in self.planes}
        self.loaded(entries, range(count), sinks, acts)
        plan.serve("layers.0.gate_up")
        acts = self.feed_forward("layers.0", State(vecs, acts, one))
        plan.serve("layers.0.down")
        accs = self.linear("layers.0.down", range(count), acts, k_major=True)
        stencil, store = Stencil(self.config, range(count)), Store(EAST)
        scales = self.scales("layers.0.down", range(count))
        emitted = Emitted([accs[i] for i in range(count)])
        stencil.op("fmul", emitted, scales, sinks=[store])
        fit(plan, stencil)
        for vec in store.vecs:
            for byte, index in enumerate(vec.places[0].slices):
                plan.results.append((int(EAST), index, vec.places[0].row, vec.value, byte))
        return [vec.places[0] for vec in store.vecs]


def feed_forward_program(model: QuantisedModel, x: NDArray[np.float32]) -> Program:
    """Return the program of a model's first feed-forward block for one input (hidden,).

    Raises
    ------
    NoFitError
        When the chip lacks something that the block needs.
    """
    image = Image(model, model.config, model.model["context"])
    plan = Plan(model.config, image.memory, model.model["context"])
    places = FeedForward(plan, image).alone(x)
    weights = sum(model.tensors[f"layers.0.{name}.weight"].size for name in ("gate", "up", "down"))
    return Program(
        **vars(model),
        schedules=(emit(plan, 0),),
        memory=image.memory.image,
        extents=np.array(image.memory.extents, np.int64),
        ports={**mailbox_ports(image), "logits": port_of(places, model.model["hidden"])},
        limit_cycles=-(-weights // model.config.stream_bytes),
    )

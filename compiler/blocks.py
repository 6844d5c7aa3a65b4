"""Building blocks that the operations of a model share: multiply, scale, fetch, finish."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from waterclock.compiler.array import Step, Sums, Use, run_steps
from waterclock.compiler.fit import fit
from waterclock.compiler.image import Image, PlaneKey
from waterclock.compiler.layout import Channels, pick
from waterclock.compiler.memory import Vec
from waterclock.compiler.plan import Acc, Act, Plan, Renamed
from waterclock.compiler.stencil import (
    Activate,
    Constant,
    Gathered,
    Imm,
    Node,
    Stencil,
    Store,
    Stored,
    Table,
    bits,
)
from waterclock.isa.floorplan import Hemisphere

EAST, WEST = Hemisphere.EAST, Hemisphere.WEST


def norm_numbers(model: Mapping[str, Any], norm: str) -> tuple[float, float]:
    """Return what the sum of squares is multiplied by, and what is added, before the root.

    With them the 1 / rms before a feed-forward block is times the up projection's one scale, if it
    has only one.
    """
    inverse = 1.0 / (model.get("up_scale", 1.0) if norm.endswith("ffn") else 1.0) ** 2
    return inverse / model["hidden"], inverse * model["norm_eps"]


@dataclasses.dataclass
class State:
    """The residual stream: its vectors, its activation entries on every plane, and 1 / rms."""

    x: list[Vec]
    acts: dict[PlaneKey, list[Act]]
    r: Vec

    def entries(self) -> dict[PlaneKey, list[int]]:
        """Return the entries of the activation buffers that hold it."""
        return {key: [act.entry for act in acts] for key, acts in self.acts.items()}

    def takes_place_of(self, other: "State") -> list[Renamed]:
        """Return what becomes of ``other``, which lies in the same places, in the next layer."""
        vecs = zip([*other.x, other.r], [*self.x, self.r], strict=True)
        found = [Renamed(a.value, b.value, b.places[0].ready, a.places[0]) for a, b in vecs]
        for key, acts in self.acts.items():
            pairs = zip(other.acts[key], acts, strict=True)
            found += [Renamed(a.value, b.value, b.ready) for a, b in pairs]
        return found

    def not_before(self, ready: Sequence[int]) -> "State":
        """Return the state as if its parts, in the order above, were ready no earlier."""
        if not ready:
            return self
        rest = iter(ready)

        def moved(vec: Vec) -> Vec:
            cycle = next(rest)
            return Vec(
                vec.value,
                [dataclasses.replace(p, ready=max(p.ready, cycle)) for p in vec.places],
            )

        x, r = [moved(vec) for vec in self.x], moved(self.r)
        acts = {
            key: [dataclasses.replace(act, ready=max(act.ready, next(rest))) for act in found]
            for key, found in self.acts.items()
        }
        return State(x, acts, r)

    def later(self, cycles: int, numbers: int) -> "State":
        """Return the state of a later repetition."""

        def moved(vec: Vec) -> Vec:
            places = [dataclasses.replace(p, ready=p.ready + cycles) for p in vec.places]
            return Vec(vec.value + numbers, places)

        acts = {
            key: [Act(act.entry, act.value + numbers, act.ready + cycles) for act in found]
            for key, found in self.acts.items()
        }
        return State([moved(vec) for vec in self.x], acts, moved(self.r))


class Blocks:
    """What schedules parts of a model into one plan."""

    def __init__(self, plan: Plan, image: Image):
        self.plan, self.image, self.config = plan, image, plan.config
        self.tensors = image.quantised.tensors
        self.model = image.quantised.model
        self.planes = image.planes

    def gathered(
        self, tables: Sequence[Table], where: Vec, side: Hemisphere, first: int = 2
    ) -> list[Vec]:
        """Fetch one row of each table and keep it on a side, each in another set from ``first``."""
        found = []
        for number, table in enumerate(tables):
            stencil = Stencil(self.config, [0])
            sink = Store(side, prefer=first + number, only=True)
            stencil.op("mov", Gathered([table], where), sinks=[sink])
            fit(self.plan, stencil)
            found += sink.vecs
        return found

    def quotient(self, value: Vec, side: Hemisphere, divisor: int, factor: int = 1) -> Vec:
        """Return value // divisor * factor on a side; the divisor is a power of two."""
        stencil, store = Stencil(self.config, [0]), Store(side)
        high = stencil.op("and", Stored([value]), Imm(-divisor & 0xFFFFFFFF))
        ratio = stencil.op("fmul", stencil.op("i32_to_f32", high), Imm(bits(factor / divisor)))
        stencil.op("f32_to_i32", ratio, sinks=[store])
        fit(self.plan, stencil)
        return store.vecs[0]

    def on_all_planes(
        self, entries: dict[PlaneKey, list[int]], items: Sequence[int]
    ) -> dict[Hemisphere, list[Activate]]:
        """Return sinks that load items into the given entries of every plane, by side."""
        return {
            side: [
                Activate(side, key[1], [entries[key][i] for i in items])
                for key in self.planes
                if key[0] is side
            ]
            for side in Hemisphere
        }

    def activate(self, stencil: Stencil, x: Node, sinks: dict[Hemisphere, list[Activate]]) -> None:
        """Add to a stencil what loads a node as f16 into the entries of both hemispheres.

        Where lanes take turns at a conversion, a move of its result takes a unit for half as long.
        Where products and powers can be rounded at once, that is no operation of its own.
        """
        half: Node | None = None
        for side in (side for side in Hemisphere if sinks[side]):
            if half and self.config.turns > 1:
                stencil.op("mov", half, sinks=sinks[side])
            elif half is None and stencil.rounds(x):
                half = x
                half.sinks += sinks[side]
            else:
                half = stencil.op("f32_to_f16", x, sinks=sinks[side])

    def loaded(
        self,
        entries: dict[PlaneKey, list[int]],
        items: Sequence[int],
        sinks: dict[Hemisphere, list[Activate]],
        acts: dict[PlaneKey, list[Act]],
    ) -> None:
        """Note in ``acts`` what sinks of ``on_all_planes`` have loaded."""
        for side in Hemisphere:
            for sink in sinks[side]:
                key = (side, sink.plane)
                for place, item in enumerate(items):
                    acts[key][item] = Act(entries[key][item], sink.values[place], sink.ready[place])

    def linear(
        self,
        name: str,
        outs: Sequence[int],
        acts: dict[PlaneKey, list[Act]],
        *,
        k_major: bool = False,
    ) -> dict[int, Acc]:
        """Multiply; return the accumulator of each result vector of ``outs``."""
        linear = self.image.linear[name]
        found = {}
        for key in self.planes:
            mine = [out for out in linear.on(key) if out in set(outs)]
            entries = dict(zip(mine, self.plan.accs[key].take(len(mine)), strict=True))
            ks = range(len(acts[key]))
            if k_major:
                order = sorted(ks, key=lambda k: acts[key][k].ready)
                pairs = [(out, k) for k in order for out in mine]
            else:
                order = list(ks)
                pairs = [(out, k) for out in mine for k in order]
            sums = Sums()
            steps = [
                Step(
                    linear.tiles[out, k],
                    [Use(acts[key][k], entries[out], add=k != order[0])],
                )
                for out, k in pairs
            ]
            run_steps(self.plan, *key, steps, sums)
            for out, entry in entries.items():
                found[out] = Acc(*key, entry, sums.value[entry], sums.ready[entry])
        return found

    def scales(self, name: str, outs: Sequence[int]) -> Constant:
        """Return the scales of result vectors as a constant, one an item."""
        return self.constant(f"{name}.scale", [self.image.linear[name].outs[out] for out in outs])

    def constant(self, name: str, lanes: Sequence[Channels]) -> Constant:
        """Return a tensor (channels,) by lanes as a constant, of all layers that take part."""
        layers = [name, *(name.replace("layers.0", f"layers.{k}") for k in range(1, self.layers))]
        return Constant(
            np.array([[pick(self.tensors[each], item) for item in lanes] for each in layers])
        )

    @property
    def layers(self) -> int:
        """How many layers what is being scheduled stands for."""
        return self.plan.repetitions

    def finish(
        self,
        stencil: Stencil,
        x: Node,
        store: Store,
        norms: Sequence[str],
        like: State | None = None,
    ) -> State:
        """Add to a stencil whose items are the new residual what every reader of it needs.

        ``norms`` come next, one in each layer that is scheduled. It goes where ``like`` lies, or
        to new places.
        """
        count = len(x.offsets)
        new = {key: self.plan.acts[key].take(count) for key in self.planes} if not like else {}
        entries = like.entries() if like else new
        sinks = self.on_all_planes(entries, range(count))
        entering = x
        if "final.gain" in self.tensors:
            gains = [self.tensors[f"{norm}.gain"] for norm in norms]
            lanes = [[pick(gain, item) for item in self.image.hidden] for gain in gains]
            entering = stencil.op("fmul", x, Constant(np.array(lanes)))
        self.activate(stencil, entering, sinks)
        total = stencil.total(stencil.op("fmul", x, x))
        lanes = stencil.op("rsum", total, single=True)
        part, eps = norm_numbers(self.model, norms[0])
        mean = stencil.op("fmul", lanes, Imm(bits(part)), single=True)
        shifted = stencil.op("fadd", mean, Imm(bits(eps)), single=True)
        r = Store(WEST, at=[like.r.places[0]] if like else None)
        stencil.op("rsqrt", shifted, single=True, sinks=[r])
        fit(self.plan, stencil)
        acts: dict[PlaneKey, list[Act]] = {key: [Act(0, 0, 0)] * count for key in self.planes}
        self.loaded(entries, range(count), sinks, acts)
        return State(store.vecs, acts, r.vecs[0])

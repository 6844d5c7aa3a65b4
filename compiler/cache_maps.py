"""Maps of the cache: which slice and row a position's keys and values go to, as data.

Position p of a vector goes to slice p mod ``load_streams``; in all other slices of the plane to a
spare row. Maps are looked up in tables, or computed where memory is short.
"""

import numpy as np

from waterclock.compiler.blocks import EAST, WEST, Blocks
from waterclock.compiler.fit import fit
from waterclock.compiler.image import Image, PlaneKey
from waterclock.compiler.memory import Vec
from waterclock.compiler.plan import Plan
from waterclock.compiler.stencil import Constant, Imm, Node, Stencil, Store, Stored, bits
from waterclock.isa.floorplan import Hemisphere


class CacheMaps(Blocks):
    """Provides the maps of the position that is fed: ``keys`` by plane, ``values`` by side."""

    def __init__(self, plan: Plan, image: Image):
        super().__init__(plan, image)
        self.position = image.mailbox["position"]
        if image.key_maps:
            # What one Scatter after the other needs at once lies in different sets.
            self.keys = {
                key: self.gathered(tables, self.position, key[0], 2 + key[1] * len(tables))
                for key, tables in image.key_maps.items()
            }
            self.values = {
                side: self.gathered(tables, self.position, side)
                for side, tables in image.value_maps.items()
            }
        else:
            self.values = self._values()
            self.keys = self._keys()

    def _values(self) -> dict[Hemisphere, list[Vec]]:
        """Compute the maps of values: every plane holds all positions of its vectors."""
        streams = self.config.load_streams
        stencil, row = Stencil(self.config, [0]), Store(WEST)
        stencil.op("f32_to_i32", self._part(stencil, -streams, 1 / streams), sinks=[row])
        fit(self.plan, stencil)
        stencil, stores = Stencil(self.config, [0]), {side: Store(side) for side in (WEST, EAST)}
        spare = self.image.tiles * self.image.loads
        hit = self._hit(stencil, streams - 1, 0)
        found = stencil.op("select", hit, Stored(row.vecs), imm=spare, sinks=[stores[WEST]])
        stencil.op("mov", found, sinks=[stores[EAST]])
        fit(self.plan, stencil)
        return {side: store.vecs for side, store in stores.items()}

    def _keys(self) -> dict[PlaneKey, list[Vec]]:
        """Compute the maps of keys, whose tiles of positions are dealt to the planes in turn."""
        config, image = self.config, self.image
        streams, vector = config.load_streams, config.vector
        dealt = vector * len(self.planes)  # positions after which it is the first plane's turn
        stencil, row = Stencil(config, [0]), Store(WEST)
        tiles = self._part(stencil, -dealt, image.loads / dealt)
        within = self._part(stencil, vector - streams, 1 / streams)
        stencil.op("f32_to_i32", stencil.op("fadd", tiles, within), sinks=[row])
        fit(self.plan, stencil)
        found = {}
        for number, key in enumerate(self.planes):
            stencil, store = Stencil(config, [0]), Store(key[0])
            hit = self._hit(stencil, dealt - vector | streams - 1, vector * number)
            spare = image.local_tiles(key) * image.loads
            stencil.op("select", hit, Stored(row.vecs), imm=spare, sinks=[store])
            fit(self.plan, stencil)
            found[key] = store.vecs
        return found

    def _part(self, stencil: Stencil, mask: int, factor: float) -> Node:
        """Return some bits of the position times a power of two, in fp32."""
        part = stencil.op("and", Stored([self.position]), Imm(mask & 0xFFFFFFFF))
        return stencil.op("fmul", stencil.op("i32_to_f32", part), Imm(bits(factor)))

    def _hit(self, stencil: Stencil, mask: int, first: int) -> Node:
        """Return 1 in the lane whose slice the position goes to, and if ``first`` tells so."""
        lanes = first + np.arange(self.config.vector, dtype=np.int32)
        lanes[self.config.load_streams :] = -1  # as many lanes as slices have a meaning
        part = stencil.op("and", Stored([self.position]), Imm(mask))
        return stencil.op("ieq", part, Constant(lanes[None, None]))

"""How a model's channels lie in lanes: every vector as the list of channels in its lanes.

Key and query heads are cut in half, because rotary embedding pairs channel d with d + half: the
first halves of several heads share a vector A, the second halves the vector B in the same lanes,
so that the rotation is plain arithmetic between A and B. A query head lies in the lanes of the
key head that it attends to. All of this is a permutation of weight rows and costs nothing.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Channels = NDArray[np.int64]  #: (vector,) channel in each lane, -1 for padding


@dataclasses.dataclass(frozen=True)
class Shape:
    """The sizes of a model that layouts depend on."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int

    @property
    def groups(self) -> int:
        """Query heads a key head."""
        return self.heads // self.kv_heads


@dataclasses.dataclass(frozen=True)
class HeadSlot:
    """Where one query head finds its key or value head: which pack, and which lanes in it."""

    head: int
    member: int  #: number among the query heads of its key head
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class KeyPack:
    """Key heads that share vectors: ``halves`` pairs of vectors (A, B) for the keys.

    ``queries[j]`` are the pairs of vectors of the j-th query head of every key head.
    """

    keys: list[tuple[Channels, Channels]]
    queries: list[list[tuple[Channels, Channels]]]
    slots: list[HeadSlot]
    dims: list[Channels]  #: rotary pair number in each lane, one a pair of vectors


@dataclasses.dataclass(frozen=True)
class ValuePack:
    """Value heads that share vectors; ``outputs[j]`` are the vectors of their j-th query heads."""

    values: list[Channels]
    outputs: list[list[Channels]]
    slots: list[HeadSlot]


def plain(count: int, vector: int) -> list[Channels]:
    """Return channels 0 .. count - 1 in order, padded."""
    total = -(-count // vector) * vector
    channels = np.where(np.arange(total) < count, np.arange(total), -1)
    return list(channels.reshape(-1, vector))


def key_packs(shape: Shape, vector: int) -> list[KeyPack]:
    """Return the packs of all key heads."""
    half, rep = shape.head_dim // 2, shape.groups
    heads_a_pack = max(1, vector // half)
    pairs = -(-half // vector)
    packs = []
    for base in range(0, shape.kv_heads, heads_a_pack):
        members = range(base, min(base + heads_a_pack, shape.kv_heads))
        dims = [np.full(vector, -1) for _ in range(pairs)]
        head_of = np.full(vector, -1)
        slots = []
        for place, head in enumerate(members):
            for pair in range(pairs):
                width = min(vector, half - pair * vector) if pairs > 1 else half
                lanes = np.arange(width) + (place * half if pairs == 1 else 0)
                dims[pair][lanes] = pair * vector + np.arange(width)
                head_of[lanes] = head
            first = place * half if pairs == 1 else 0
            last = first + half - 1 if pairs == 1 else vector - 1
            slots += [HeadSlot(head * rep + j, j, first, last) for j in range(rep)]

        def channels(
            heads: Channels, dims: Sequence[Channels] = dims
        ) -> list[tuple[Channels, Channels]]:
            return [
                tuple(
                    np.where(dim >= 0, heads * shape.head_dim + dim + part * half, -1)
                    for part in (0, 1)
                )
                for dim in dims
            ]  # type: ignore[return-value]

        packs.append(
            KeyPack(
                channels(head_of),
                [channels(head_of * rep + j) for j in range(rep)],
                slots,
                dims,
            )
        )
    return packs


def value_packs(shape: Shape, vector: int) -> list[ValuePack]:
    """Return the packs of all value heads."""
    size, rep = shape.head_dim, shape.groups
    heads_a_pack = max(1, vector // size)
    parts = -(-size // vector)
    packs = []
    for base in range(0, shape.kv_heads, heads_a_pack):
        members = range(base, min(base + heads_a_pack, shape.kv_heads))
        dims = [np.full(vector, -1) for _ in range(parts)]
        head_of = np.full(vector, -1)
        slots = []
        for place, head in enumerate(members):
            for part in range(parts):
                width = min(vector, size - part * vector) if parts > 1 else size
                lanes = np.arange(width) + (place * size if parts == 1 else 0)
                dims[part][lanes] = part * vector + np.arange(width)
                head_of[lanes] = head
            first = place * size if parts == 1 else 0
            last = first + size - 1 if parts == 1 else vector - 1
            slots += [HeadSlot(head * rep + j, j, first, last) for j in range(rep)]
        packs.append(
            ValuePack(
                [np.where(dim >= 0, head_of * size + dim, -1) for dim in dims],
                [
                    [np.where(dim >= 0, (head_of * rep + j) * size + dim, -1) for dim in dims]
                    for j in range(rep)
                ],
                slots,
            )
        )
    return packs


def vocabulary(count: int, vector: int) -> list[Channels]:
    """Return tokens in order; padding repeats token 0, so that it can never win alone."""
    return [np.maximum(channels, 0) for channels in plain(count, vector)]


def pick(values: NDArray[np.generic], channels: Channels) -> NDArray[np.generic]:
    """Return ``values`` (channels, ...) by lane, zero where a lane is padding."""
    found = values[np.maximum(channels, 0)]
    found[channels < 0] = 0
    return found


def tile(weights: NDArray[np.int8], outs: Channels, ins: Channels) -> NDArray[np.int8]:
    """Return the tile (row = contraction lane, column = result lane) of weights (out, in)."""
    block = weights[np.ix_(np.maximum(outs, 0), np.maximum(ins, 0))].T.copy()
    block[ins < 0] = 0
    block[:, outs < 0] = 0
    return block

"""The float32 reference of Llama-family decoders: what a checkpoint means, as Hugging Face runs it.

Everything else is measured against this model, so it is plain: float32 throughout, no
approximation, one path for whole sequences and for single steps.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Float = NDArray[np.floating[Any]]


class LlamaModel(Protocol):
    """What the reference needs of a model.

    ``tensors`` holds "embed", "final_norm", "head" if not ``tied``, and "layers.{i}." followed by
    "attn_norm", "q", "k", "v", "o", "ffn_norm", "gate", "up", "down", and if there are biases
    "q_bias", "k_bias", "v_bias"; matrices are (outputs, inputs). "rope_factors", if there, divide
    the frequencies of RoPE.
    """

    @property
    def layers(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...
    @property
    def vocab(self) -> int: ...
    @property
    def context(self) -> int: ...
    @property
    def rope_theta(self) -> float: ...
    @property
    def norm_eps(self) -> float: ...
    @property
    def tied(self) -> bool: ...
    @property
    def tensors(self) -> Mapping[str, Float32]: ...


@dataclass
class _Cache:
    """Rotated keys and values of the positions so far, (kv_heads, positions, head_dim) a layer."""

    positions: int = 0
    keys: dict[int, Float] = field(default_factory=dict[int, Float])
    values: dict[int, Float] = field(default_factory=dict[int, Float])

    def extend(self, layer: int, keys: Float, values: Float) -> tuple[Float, Float]:
        if layer in self.keys:
            keys = np.concatenate([self.keys[layer], keys], axis=1)
            values = np.concatenate([self.values[layer], values], axis=1)
        self.keys[layer], self.values[layer] = keys, values
        return keys, values


class Reference:
    """A decoder in numpy float32, with a key-value cache for single steps.

    Parameters
    ----------
    model : LlamaModel
        A checkpoint; its tensors are used in place and never written.
    """

    def __init__(self, model: LlamaModel) -> None:
        self.model = model
        self._cache = _Cache()
        self._moments: dict[str, Float64] | None = None
        wavelengths = np.power(model.rope_theta, np.arange(0, model.head_dim, 2) / model.head_dim)
        self._frequencies: Float64 = 1 / (wavelengths * model.tensors.get("rope_factors", 1.0))

    def reset(self) -> None:
        """Forget all tokens that were given to ``step``."""
        self._cache = _Cache()

    def logits(self, ids: Sequence[int]) -> Float32:
        """Run a whole sequence from position 0, leaving the cache of ``step`` alone.

        Parameters
        ----------
        ids : (tokens,) int
            At least one and at most ``context`` token ids.

        Returns
        -------
        (tokens, vocab) float32
            Row i predicts the token after ``ids[i]``.

        Raises
        ------
        ValueError
            If there are too few or too many tokens, or one is outside the vocabulary.
        """
        return self._forward(ids, _Cache())

    def step(self, token: int) -> Float32:
        """Run one token at the next position.

        Parameters
        ----------
        token : int
            A token id.

        Returns
        -------
        (vocab,) float32
            Logits of the token after it.

        Raises
        ------
        ValueError
            If the context is full or the token is outside the vocabulary.
        """
        return self._forward([token], self._cache)[0]

    def generate(self, prompt_ids: Sequence[int], n: int) -> tuple[list[int], list[float]]:
        """Continue a prompt greedily from an empty cache; of equal logits the lowest id wins.

        An end-of-text token does not stop it.

        Parameters
        ----------
        prompt_ids : (tokens,) int
            At least one token id.
        n : int
            Number of tokens to generate.

        Returns
        -------
        ids : (n,) int
        top2_gaps : (n,) float
            The best logit minus the second best, where each token was chosen. Where the gap is
            tiny, a model of lower precision may choose another token.

        Raises
        ------
        ValueError
            If prompt and continuation exceed the context, or a token is outside the vocabulary.
        """
        self.reset()
        ids: list[int] = []
        gaps: list[float] = []
        if n < 1:
            return ids, gaps
        if len(prompt_ids) + n > self.model.context:
            raise ValueError(
                f"a prompt of {len(prompt_ids)} tokens and {n} more exceed the context of "
                f"{self.model.context}"
            )
        logits = self._forward(prompt_ids, self._cache)[-1]
        while True:
            best = int(np.argmax(logits))
            ids.append(best)
            gaps.append(float(logits[best] - np.delete(logits, best).max(initial=-np.inf)))
            if len(ids) == n:
                return ids, gaps
            logits = self.step(best)

    def moments(self, sequences: Sequence[Sequence[int]]) -> dict[str, Float64]:
        """Return what enters the matrices on average over texts, as mean outer products.

        All of it is computed in float64, so that what is decided by it, as weights are rounded,
        hardly ever depends on the order in which a library adds.

        Parameters
        ----------
        sequences : token ids
            Texts, each from position 0; at least one, of one to ``context`` tokens.

        Returns
        -------
        dict of (inputs, inputs) float64
            "layers.{i}." followed by "attn" (queries and keys), "o", "ffn" (gate and up) and
            "down", and "final" (head). After a norm its gain is not applied. "layers.{i}.v" is
            (kv_heads, inputs, inputs), of inputs as the softmax mixes them: the values of a
            position matter as much as it is attended to.
        """
        self._moments = {}
        try:
            for ids in sequences:
                self._hidden(ids, _Cache(), np.float64)
            tokens = sum(map(len, sequences))
            return {name: found / tokens for name, found in self._moments.items()}
        finally:
            self._moments = None

    def _saw(self, name: str, inputs: Float) -> None:
        """Note the inputs (..., n, channels) of a matrix, if that is wanted."""
        if self._moments is not None:
            found = inputs.swapaxes(-1, -2) @ inputs
            self._moments[name] = self._moments.get(name, np.zeros(())) + found

    def _norm(self, x: Float, name: str) -> Float:
        """Return what the RMSNorm called "{name}_norm" multiplies by its gain, (n, hidden)."""
        normed = _normalise(x, self.model.norm_eps)
        self._saw(name, normed)
        return normed

    def _forward(self, ids: Sequence[int], cache: _Cache) -> Float32:
        """Run tokens (n,) at the positions after the cache; return logits (n, vocab)."""
        normed = self._hidden(ids, cache, np.float32)
        logits = _project(normed, self.model.tensors["embed" if self.model.tied else "head"])
        return logits.astype(np.float32, copy=False)

    def _hidden(self, ids: Sequence[int], cache: _Cache, dtype: type[np.floating[Any]]) -> Float:
        """Run tokens (n,) at the positions after the cache; return what enters the head."""
        model, tensors = self.model, self.model.tensors
        tokens = np.asarray(ids)
        if tokens.ndim != 1 or not tokens.size or not np.issubdtype(tokens.dtype, np.integer):
            raise ValueError(f"token ids must be a non-empty row of integers, not {ids!r}")
        if tokens.min() < 0 or tokens.max() >= model.vocab:
            raise ValueError(
                f"token ids from {tokens.min()} to {tokens.max()} must be below the vocabulary of "
                f"{model.vocab}"
            )
        end = cache.positions + len(tokens)
        if end > model.context:
            raise ValueError(f"position {end - 1} is beyond the context of {model.context}")
        positions = np.arange(cache.positions, end)
        hidden: Float = tensors["embed"][tokens].astype(dtype)
        for layer in range(model.layers):
            name = f"layers.{layer}."
            normed = self._norm(hidden, name + "attn")
            hidden = hidden + self._attention(layer, normed, positions, cache)
            normed = tensors[name + "ffn_norm"] * self._norm(hidden, name + "ffn")
            gate = _silu(_project(normed, tensors[name + "gate"]))
            gated = gate * _project(normed, tensors[name + "up"])
            self._saw(name + "down", gated)
            hidden = hidden + _project(gated, tensors[name + "down"])
        cache.positions = end
        return tensors["final_norm"] * self._norm(hidden, "final")

    def _attention(
        self, layer: int, normed: Float, positions: NDArray[np.int64], cache: _Cache
    ) -> Float:
        """Grouped-query attention of what the norm leaves (n, hidden) over the cache and itself."""
        model, name = self.model, f"layers.{layer}."
        inputs = model.tensors[name + "attn_norm"] * normed
        n, group = len(normed), model.heads // model.kv_heads

        def by_head(matrix: str) -> Float:
            """Project (n, hidden) to (heads or kv_heads, n, head_dim)."""
            bias = model.tensors.get(f"{name}{matrix}_bias", np.float32(0))
            lanes = _project(inputs, model.tensors[name + matrix]) + bias
            return lanes.reshape(n, -1, model.head_dim).swapaxes(0, 1)

        frequencies = self._frequencies.astype(normed.dtype)
        angles = positions.astype(normed.dtype)[:, None] * frequencies
        queries = _rotate(by_head("q"), angles)
        keys, values = cache.extend(layer, _rotate(by_head("k"), angles), by_head("v"))
        # Query head h attends with key-value head h // group.
        queries = queries.reshape(model.kv_heads, group, n, model.head_dim)
        scores = queries @ keys[:, None].swapaxes(-1, -2) * np.float32(model.head_dim**-0.5)
        past = np.arange(cache.positions + n) <= positions[:, None]
        weights = _softmax(np.where(past, scores, np.float32(-np.inf)))
        if self._moments is not None:
            self._saw(name + "v", (weights @ normed).reshape(model.kv_heads, group * n, -1))
        mixed: Float = weights @ values[:, None]
        lanes = mixed.reshape(model.heads, n, model.head_dim).swapaxes(0, 1).reshape(n, -1)
        self._saw(name + "o", lanes)
        return _project(lanes, model.tensors[name + "o"])


def nll(logits: ArrayLike, ids: Sequence[int]) -> NDArray[np.float64]:
    """Return the negative log-likelihood of each token but the first.

    Parameters
    ----------
    logits : (tokens, vocab) float
        Row i predicts ``ids[i + 1]``; the last row is not used.
    ids : (tokens,) int

    Returns
    -------
    (tokens - 1,) float64, nats

    Raises
    ------
    ValueError
        If there are not as many rows as tokens, or fewer than two tokens.
    """
    rows = np.asarray(logits, dtype=np.float64)
    if rows.ndim != 2 or len(rows) != len(ids) or len(ids) < 2:
        raise ValueError(
            f"logits of shape {rows.shape} must have a row for each of {len(ids)} tokens, of two "
            "or more"
        )
    rows = rows[:-1] - rows[:-1].max(axis=-1, keepdims=True)
    chosen = np.take_along_axis(rows, np.asarray(ids[1:])[:, None], axis=-1)[:, 0]
    return np.log(np.exp(rows).sum(axis=-1)) - chosen


def perplexity(logits: ArrayLike, ids: Sequence[int]) -> float:
    """Return the exponential of the mean ``nll``, whose arguments and errors it shares."""
    return float(np.exp(nll(logits, ids).mean()))


def _project(x: Float, matrix: Float) -> Float:
    return x @ matrix.T


def _normalise(x: Float, eps: float) -> Float:
    normed: Float = x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + np.float32(eps))
    return normed


def _silu(x: Float) -> Float:
    # The exponential of -|x| never overflows.
    decay: Float = np.exp(-np.abs(x))
    return x * np.divide(np.where(x >= 0, np.float32(1), decay), 1 + decay)


def _softmax(x: Float) -> Float:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _rotate(x: Float, angles: Float) -> Float:
    """Apply RoPE in half-split order: lane j turns with lane j + head_dim / 2."""
    cosine, sine = np.cos(angles), np.sin(angles)
    low, high = np.split(x, 2, axis=-1)
    return np.concatenate([low * cosine - high * sine, high * cosine + low * sine], axis=-1)

"""Choosing tokens on the host, from the logits that the chip wrote."""

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.errors import UserError


class Sampler:
    """Draws tokens; given to an engine as ``choose``.

    Parameters
    ----------
    temperature : float
        Divides the logits; 0 takes the largest, of equals the lowest number.
    top_k : int, optional
        Draw from so many of the largest logits.
    top_p : float
        Draw from the fewest tokens that have this probability together, after ``top_k``.
    seed : int, optional
        Of the draws; by default another one each time.

    Raises
    ------
    UserError
        For a number that is out of range.
    """

    def __init__(
        self,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float = 1.0,
        seed: int | None = None,
    ):
        if not 0 <= temperature < float("inf"):
            raise UserError(f"temperature: found {temperature}, expected 0 or more")
        if top_k is not None and top_k < 1:
            raise UserError(f"top-k: found {top_k}, expected 1 or more")
        if not 0 < top_p <= 1:
            raise UserError(f"top-p: found {top_p}, expected above 0, and 1 at most")
        if seed is not None and seed < 0:
            raise UserError(f"seed: found {seed}, expected 0 or more")
        self.temperature, self.top_k, self.top_p = temperature, top_k, top_p
        self._rng = np.random.default_rng(seed)

    def __call__(self, logits: NDArray[np.float32]) -> int:
        """Return a token for logits (vocab,)."""
        if self.temperature == 0:
            return int(logits.argmax())
        # A stable order, so that equal logits are no matter of the library.
        order = np.argsort(-logits, kind="stable")[: self.top_k]
        best = logits[order].astype(np.float64)
        with np.errstate(over="ignore"):
            weights = np.exp((best - best[0]) / self.temperature)
        share = np.cumsum(weights) / weights.sum()
        kept = int(np.searchsorted(share, self.top_p)) + 1
        weights = weights[:kept]
        sums = np.cumsum(weights)
        drawn = np.searchsorted(sums, self._rng.random() * sums[-1], side="right")
        return int(order[min(int(drawn), len(weights) - 1)])


def sampler(
    temperature: float | None, top_k: int | None, top_p: float, seed: int | None
) -> Sampler | None:
    """Return what options ask for: None is greedy, as the chip chooses by itself.

    Raises
    ------
    UserError
        For a number that is out of range.
    """
    if temperature is None:
        temperature = 0.0 if (top_k, top_p, seed) == (None, 1.0, None) else 1.0
    chosen = Sampler(temperature, top_k, top_p, seed)
    return chosen if temperature else None

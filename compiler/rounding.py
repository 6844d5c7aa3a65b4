"""Rounding of weight matrices to int8, with an eye on the inputs that they will meet.

What counts is the error of a product, not of a weight. Where inputs are correlated, as those of
language models are, a weight can make up for the rounding of another one. So weights are rounded
one input after the other, those of the largest inputs first, and what was lost so far is added,
as the inputs' moments tell, to the weight that is rounded next (known as GPTQ or LDLQ).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 127  #: largest magnitude of a weight
DAMPING = 0.8  #: of an input's usual mean square: what a few texts do not tell of others
LEAF = 8  #: inputs that are rounded one by one before a matrix product takes what they lost on
ROWS = 2048  #: rows that are rounded at once: what caches hold

Double = NDArray[np.float64]


class Inputs:
    """What is known of the inputs of a matrix.

    Parameters
    ----------
    moments : (inputs, inputs) float
        Mean outer products of the inputs.
    """

    def __init__(self, moments: NDArray[np.floating[Any]]):
        self.order = np.argsort(-np.diag(moments), kind="stable")
        damped = moments[np.ix_(self.order, self.order)].astype(np.float64)
        damped[np.diag_indices_from(damped)] += max(DAMPING * np.median(np.diag(moments)), 1e-30)
        upper = np.linalg.cholesky(damped[::-1, ::-1])[::-1, ::-1]  # damped = upper upper^T
        #: What of the loss at an input (row) a later one (column) makes up for, in its units.
        self.share = np.ascontiguousarray(upper / np.diag(upper))

    def rounded(self, weights: Double) -> NDArray[np.int8]:
        """Return weights (out, in), in units of the steps of their rows, as integers."""
        found = np.empty(weights.shape, np.int8)
        for first in range(0, len(weights), ROWS):
            lost = np.ascontiguousarray(weights[first : first + ROWS].T[self.order])
            wanted, integers = lost.copy(), np.empty(lost.shape, np.int8)
            self._round(wanted, lost, integers, 0, len(lost))
            found[first : first + ROWS].T[self.order] = integers
        return found

    def _round(
        self, wanted: Double, lost: Double, integers: NDArray[np.int8], first: int, end: int
    ) -> None:
        """Round inputs ``first`` to ``end``, in order; ``lost`` holds weights until they are."""
        share = self.share
        if end - first <= LEAF:
            for j in range(first, end):
                wanted[j] += share[first:j, j] @ lost[first:j]
                rounded = np.clip(np.rint(wanted[j]), -MOST, MOST)
                integers[j] = rounded
                lost[j] -= rounded
            return
        middle = (first + end) // 2
        self._round(wanted, lost, integers, first, middle)
        wanted[middle:end] += share[first:middle, middle:end].T @ lost[first:middle]
        self._round(wanted, lost, integers, middle, end)


def quantise_rows(weights: Double, inputs: Inputs | None = None) -> tuple[NDArray[np.int8], Double]:
    """Return int8 weights (out, in) and float64 scales (out,): largest magnitude over 127."""
    scales = np.abs(weights).max(axis=1) / MOST
    scales[scales == 0] = 1.0
    steps = weights / scales[:, None]
    if inputs is not None:
        return inputs.rounded(steps), scales
    return np.clip(np.rint(steps), -MOST, MOST).astype(np.int8), scales

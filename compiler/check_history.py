"""Marks at places in time, and runs of numbers: the two tools on which the checker is built.

Part of ``check.py``. Streams, memory rows, buffers, accumulators and result buses are all read by
the same question: which mark at this place was the last one before this time?
"""

import numpy as np

from waterclock.compiler.check_issues import Ints


class History:
    """What happened at numbered places, in order of time: marks that stay until the next one.

    Parameters
    ----------
    place, time : (marks,) int64
        Places are not negative; times are below ``end``.
    end : int
        Beyond every time that is asked about.
    """

    def __init__(self, place: Ints, time: Ints, end: int):
        self.end = end
        keys = place * end + time
        self.order: Ints = np.argsort(keys, kind="stable")
        self.keys: Ints = keys[self.order]

    def before(self, place: Ints, time: Ints) -> Ints:
        """Return the number of the last mark at each place before each time, -1 for none."""
        if not len(self.keys):
            return np.full(len(place), -1, np.int64)
        found = np.searchsorted(self.keys, place * self.end + time) - 1
        known = (found >= 0) & (self.keys[found] >= place * self.end)
        return np.where(known, self.order[found], -1)

    def doubles(self) -> tuple[Ints, Ints]:
        """Return the marks that have the place and time of another, and that other."""
        same = np.flatnonzero(self.keys[1:] == self.keys[:-1])
        return self.order[same + 1], self.order[same]


def spread(counts: Ints) -> tuple[Ints, Ints]:
    """Return (which, offset): for every i, counts[i] entries (i, 0), (i, 1), ..."""
    which = np.repeat(np.arange(len(counts), dtype=np.int64), counts)
    return which, np.arange(len(which), dtype=np.int64) - (np.cumsum(counts) - counts)[which]

"""What a golden unit sees of the chip: its column's streams, and how it reports a hazard."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Hazard(RuntimeError):
    """A promise of the schedule is broken. The message names the cycle and the unit."""


class Port(Protocol):
    """The streams of one column in one cycle, in superlane-0 time."""

    def read(self, code: int, span: int) -> NDArray[np.uint8]:
        """Return what ``span`` streams from stream code ``code`` on hold: (span, vector) uint8.

        Raises
        ------
        Hazard
            When a stream holds nothing that was ever produced.
        """
        ...

    def drive(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        """Put ``data`` (span, vector) uint8 on streams from ``code`` on, ``latency`` cycles hence.

        Raises
        ------
        Hazard
            When another producer drives one of them at the same column in the same cycle.
        """
        ...

    def drive_each(self, code: int, data: NDArray[np.uint8], latency: int) -> None:
        """Put ``data`` (cycles, vector) uint8 on stream ``code``, one vector a cycle.

        The first comes ``latency`` cycles hence.

        Raises
        ------
        Hazard
            As ``drive``.
        """
        ...

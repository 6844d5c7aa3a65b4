"""What a serial line does to bytes that it carries."""

import random
from collections import Counter

from waterclock.fpga.frames import SYNC

KINDS = ("flip", "drop", "garbage", "silence", "cut")


class Faults:
    """Spoils frames at random.

    Parameters
    ----------
    rng : random.Random
    share : float
        Of the frames that are spoilt.

    Attributes
    ----------
    counts : Counter
        Faults so far, by kind.
    """

    def __init__(self, rng: random.Random, share: float):
        self.rng, self.share = rng, share
        self.counts: Counter[str] = Counter()

    def spoil(self, data: bytes) -> bytes:
        """Return what arrives of a frame."""
        if self.rng.random() >= self.share:
            return data
        kind = self.rng.choice(KINDS)
        self.counts[kind] += 1
        at = self.rng.randrange(len(data))
        if kind == "flip":
            return data[:at] + bytes([data[at] ^ 1 << self.rng.randrange(8)]) + data[at + 1 :]
        if kind == "drop":
            return data[:at] + data[at + 1 :]
        if kind == "garbage":
            noise = self.rng.choice([self.rng.randbytes(3), bytes([SYNC]), bytes(2)])
            return noise + data
        return data[:at] if kind == "cut" else b""

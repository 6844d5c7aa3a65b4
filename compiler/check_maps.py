"""Part of ``check.py``: do the maps that the memory image holds stay within their regions?

A map is a 16-bit number of each superlane. One that comes from the host (a token, a position) or
from the VXM is data, and nothing is known of it. One that a Read or Gather takes from the memory
image is known before the run, or is one of a table's entries.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from waterclock.compiler.check_issues import Ints, Violations
from waterclock.compiler.check_memory import Memory
from waterclock.compiler.check_streams import BYTE_BITS

#: One byte plane of a map: the choice of its rows, and what they hold: (rows, vector) uint8.
Plane = tuple[object, NDArray[np.uint8]]


def check_maps(memory: Memory, violations: Violations) -> int:
    """Check the maps of all Gathers and Scatters.

    Returns
    -------
    int
        How many of the regions in use have a map that was proven to stay within.
    """
    worst: dict[tuple[int, int], int | None] = {}
    proven = 0
    regions = memory.regions
    for op, numbers in memory.region.items():
        used, where = np.unique(numbers, return_index=True)
        for region, first in zip(used.tolist(), where.tolist(), strict=True):
            key = int(regions["map"][region]), int(regions["lane"][region])
            if key not in worst:
                worst[key] = _largest(memory, *key)
            largest, count = worst[key], int(regions["count"][region])
            if largest is not None:
                proven += 1
                violations.expect(
                    np.array([largest < count]),
                    memory.issued.groups[op].issue[first : first + 1],
                    lambda _, op=op, largest=largest, count=count: (
                        f"{op.mnemonic} map: expected below {count}, the rows of its region, "
                        f"found {largest} in its table"
                    ),
                )
    return proven


def _largest(memory: Memory, value: int, lane: int) -> int | None:
    """Return the largest number in one lane of each superlane of a map, None if not known."""
    low, high = (list(_planes(memory, value, byte)) for byte in (0, 1))
    if not low or not high or any(plane is None for plane in low + high):
        return None
    largest = 0
    for low_choice, low_bytes in filter(None, low):
        for high_choice, high_bytes in filter(None, high):
            config = memory.rows.config
            lanes = np.arange(config.superlanes) * config.lanes + lane
            a, b = (plane[:, lanes].astype(np.int64) for plane in (low_bytes, high_bytes))
            if low_choice != high_choice:  # rows that do not belong together: any may meet any
                a, b = a.max(0), b.max(0)
            largest = max(largest, int((b << 8 | a).max()))
    return largest


def _planes(memory: Memory, value: int, byte: int) -> Iterator[Plane | None]:
    """Go through all places from which one byte plane of a value may come."""
    regions, rows = memory.regions, memory.rows

    def held(choice: object, numbers: Ints) -> Plane | None:
        image = rows.image(numbers)
        return None if image is None or not rows.kept[numbers].all() else (choice, image)

    for i in np.flatnonzero(
        (regions["scatter"] == 0) & (regions["value"] == value) & (regions["byte"] == byte)
    ).tolist():
        choice = tuple(int(regions[name][i]) for name in ("map", "lane", "count"))
        yield held(choice, rows.of_region(regions, i))
    for number in np.flatnonzero(memory.initial == (value << BYTE_BITS | byte)):
        yield held(None, np.array([number], np.int64))

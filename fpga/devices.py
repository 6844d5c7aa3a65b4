"""FPGA devices, and the counts of what they are made of."""

import dataclasses
import operator
from collections.abc import Mapping, Sequence


@dataclasses.dataclass(frozen=True)
class Resources:
    """Counts of what an FPGA is made of."""

    lut: int = 0  #: four-input LUTs, those of carry chains and small memories included
    ff: int = 0  #: flip-flops
    dsp: int = 0  #: multipliers of 18 x 18 bits
    bram: int = 0  #: block RAMs of 18 Kbit

    def __add__(self, other: "Resources") -> "Resources":
        return Resources(*map(operator.add, dataclasses.astuple(self), dataclasses.astuple(other)))

    def fits(self, device: "Resources", spare: float = 0.0) -> bool:
        """Tell whether a device has all this, with a share of everything to spare."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(device), strict=True)
        return all(taken <= there * (1 - spare) for taken, there in pairs)


#: Devices by name [ECP5].
DEVICES = {
    "lfe5u-25f": Resources(24_288, 24_288, 28, 56),
    "lfe5u-45f": Resources(43_848, 43_848, 72, 108),
    "lfe5u-85f": Resources(83_640, 83_640, 156, 208),
}


@dataclasses.dataclass(frozen=True)
class Site:
    """A place for a block RAM or a multiplier."""

    x: int
    y: int
    name: str  #: within its tile

    @property
    def bel(self) -> str:
        """Its name for nextpnr."""
        return f"X{self.x}/Y{self.y}/{self.name}"


def _rows(
    columns: Sequence[int], rows: Sequence[int], offsets: Mapping[str, int]
) -> list[list[Site]]:
    """Return rows of sites: groups of them begin in the same columns of every row."""
    return [
        [Site(column + x, y, name) for column in columns for name, x in offsets.items()]
        for y in rows
    ]


_COLUMNS_85F = (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)
#: By device and cell, rows of sites from left to right, as nextpnr counts them.
SITES = {
    "lfe5u-85f": {
        "DP16KD": _rows(_COLUMNS_85F, (22, 46, 70, 82), {f"EBR{i}": 2 * i for i in range(4)}),
        "MULT18X18D": _rows(_COLUMNS_85F, (10, 34, 58), {f"MULT18_{i}": i for i in (0, 1, 4, 5)}),
    },
}

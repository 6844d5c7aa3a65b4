"""FPGA devices, and the counts of what they are made of."""

import dataclasses
import operator


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

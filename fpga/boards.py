"""Boards: where the oscillator, the USB bridge's UART and the lights are.

Pins come from amaranth-boards where it knows them.
"""

import dataclasses
import importlib
import importlib.util
from typing import Any

from waterclock.fpga.devices import DEVICES, Resources
from waterclock.isa.errors import UserError

CURE = "pip install amaranth-boards"


@dataclasses.dataclass(frozen=True)
class Pin:
    """A pin of the FPGA and its electrical settings."""

    site: str
    settings: tuple[tuple[str, str], ...] = (("IO_TYPE", "LVCMOS33"),)
    inverted: bool = False  #: low means one


@dataclasses.dataclass(frozen=True)
class Board:
    """A board: a platform of amaranth-boards, and the names there of what the top uses.

    A name is a resource, its number and, where it has some, a subsignal; or a ``Pin``.
    """

    platform: str  #: module and class in ``amaranth_boards``
    device: str  #: in ``DEVICES``
    options: tuple[str, ...]  #: by which nextpnr-ecp5 knows device, package and speed grade
    clock: tuple[str, int, str]
    rx: tuple[str, int, str] | Pin
    tx: tuple[str, int, str] | Pin
    running: tuple[str, int, str]  #: a light
    error: tuple[str, int, str]  #: another
    note: str = ""  #: what the user has to know

    @property
    def resources(self) -> Resources:
        """What the device is made of."""
        return DEVICES[self.device]


BOARDS = {
    "ulx3s-85f": Board(
        platform="ulx3s ULX3S_85F_Platform",
        device="lfe5u-85f",
        options=("--85k", "--package", "CABGA381", "--speed", "6"),
        clock=("clk25", 0, ""),
        rx=("uart", 0, "rx"),
        tx=("uart", 0, "tx"),
        running=("led", 0, ""),
        error=("led", 7, ""),
    ),
    "orangecrab-85f": Board(
        platform="orangecrab_r0_2 OrangeCrabR0_2_85FPlatform",
        device="lfe5u-85f",
        options=("--85k", "--package", "CSFBGA285", "--speed", "8"),
        clock=("clk", 0, ""),
        rx=Pin("N17"),
        tx=Pin("M18"),
        running=("rgb_led", 0, "g"),
        error=("rgb_led", 0, "r"),
        note="a serial adapter of 3.3 V at pins 0 (its TX) and 1 (its RX): there is no USB bridge",
    ),
    "ecpix5-85f": Board(
        platform="ecpix5 ECPIX585Platform",
        device="lfe5u-85f",
        options=("--um5g-85k", "--package", "CABGA554", "--speed", "8"),
        clock=("clk100", 0, ""),
        rx=("uart", 0, "rx"),
        tx=("uart", 0, "tx"),
        running=("rgb_led", 0, "g"),
        error=("rgb_led", 0, "r"),
    ),
}


@dataclasses.dataclass(frozen=True)
class Wiring:
    """What the top of a board is connected to."""

    clock_hz: int  #: of the oscillator
    pins: dict[str, Pin]  #: by port of the top: clk, rx, tx, running, error

    def constraints(self, net: str, hz: float) -> str:
        """Return pins, and a clock to strive for of a net, as Lattice's preferences (LPF)."""
        lines = [f'FREQUENCY PORT "clk" {self.clock_hz} HZ;']
        lines.append(f'FREQUENCY NET "{net}" {hz:.0f} HZ;')
        for port, pin in self.pins.items():
            settings = " ".join(f"{name}={value}" for name, value in pin.settings)
            lines += [
                f'LOCATE COMP "{port}" SITE "{pin.site}";',
                f'IOBUF PORT "{port}" {settings};',
            ]
        return "\n".join(lines) + "\n"


def find_board(name: str) -> Board:
    """Return a board. Raises ``UserError`` when it is unknown."""
    if name not in BOARDS:
        raise UserError(f"board: found {name!r}, expected one of {', '.join(BOARDS)}")
    return BOARDS[name]


def wiring_of(board: Board) -> Wiring:
    """Look a board's pins up. Raises ``UserError`` when amaranth-boards is not installed."""
    if importlib.util.find_spec("amaranth_boards") is None:
        raise UserError(f"amaranth-boards: found none: {CURE}")
    module, name = board.platform.split()
    platform = getattr(importlib.import_module(f"amaranth_boards.{module}"), name)
    resources = {(found.name, found.number): found for found in platform.resources}
    clock = resources[board.clock[:2]].clock.frequency
    names = ("clock", "rx", "tx", "running", "error")
    pins = {name: _pin(resources, getattr(board, name)) for name in names}
    return Wiring(round(clock), {"clk": pins.pop("clock"), **pins})


def _pin(resources: dict[tuple[str, int], Any], place: tuple[str, int, str] | Pin) -> Pin:
    """Find a pin among the resources of a platform."""
    if isinstance(place, Pin):
        return place
    name, number, part = place
    resource = resources[name, number]
    signal = resource
    if part:
        signal = next(s for s in resource.ios if getattr(s, "name", None) == part)
    pins = signal.ios[0]
    attributes = {**resource.attrs, **signal.attrs}
    return Pin(pins.names[0], tuple(attributes.items()), pins.invert)

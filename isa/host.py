"""The register map of the host port: one AXI4-Lite subordinate, 32-bit registers.

Declared once; the RTL, the drivers and docs/host.md are read off it.
"""

import dataclasses
import enum
from collections.abc import Callable
from functools import partial

from waterclock.isa.config import ALU_FEATURES, LIMITS, Config
from waterclock.isa.floorplan import queues
from waterclock.isa.mem import ADDRESS_BITS as ROW_BITS
from waterclock.isa.spec import WORD_BITS

ADDRESS_BITS = 12  #: width of the AXI addresses, in bytes; the map ends earlier
DATA_BITS = 32
UNIT_BITS = 16
PC_BITS = 16

#: Cycles from the read strobe of the host bus to its data, so that the chip may pipeline them.
READ_LATENCY = 6


class Access(enum.Enum):
    """What a host may do with a register; anything else is answered with SLVERR."""

    READ = "read"
    BOTH = "read, write"
    WRITE = "write"  #: reads as zero
    CLEAR = "read, clear"  #: writing a one clears a bit


class Space(enum.IntEnum):
    """Which memories the window looks into."""

    MEM = 0  #: rows of the MEM slices
    IMEM = 1  #: words of the instruction memories


class Command(enum.IntEnum):
    """What the window does; both count ADDRESS up by one."""

    WRITE = 1  #: store the staging registers
    READ = 2  #: load the staging registers


class Error(enum.IntFlag):
    """Causes of an error: the units that found a broken promise, and the host itself."""

    MEM = 1
    VXM = 2
    MXM = 4
    SXM = 8
    ICU = 16
    HOST = 32


CAUSES = 5  #: causes that come from the chip: all but the last


@dataclasses.dataclass(frozen=True)
class Field:
    """Some bits of a register."""

    name: str
    low: int
    bits: int
    doc: str


@dataclasses.dataclass(frozen=True)
class Register:
    """One register, or ``words(config)`` of them in a row."""

    name: str
    offset: int  #: in bytes
    access: Access
    doc: str
    fields: tuple[Field, ...] = ()
    reset: int | Callable[[Config], int] = 0  #: a function for what tells the configuration
    words: Callable[[Config], int] | None = None

    def field(self, name: str) -> Field:
        """Return a field. Raises ``KeyError`` when there is none of this name."""
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"{self.name} has no field {name}")

    def value(self, config: Config) -> int:
        """Return what the register holds after reset."""
        return self.reset(config) if callable(self.reset) else self.reset


#: Every register in the order of the offsets.
REGISTERS: list[Register] = []


def _register(
    name: str,
    offset: int,
    access: Access,
    doc: str,
    *fields: Field,
    reset: int | Callable[[Config], int] = 0,
    words: Callable[[Config], int] | None = None,
) -> Register:
    """Enter a register in ``REGISTERS``."""
    new = Register(name, offset, access, doc, fields, reset, words)
    REGISTERS.append(new)
    return new


def window_bits(config: Config) -> int:
    """Return the width of the memory window: a vector, at least an instruction word."""
    return max(config.vector * 8, WORD_BITS)


def staging_words(config: Config) -> int:
    """Return the number of staging registers."""
    return -(-window_bits(config) // DATA_BITS)


def features_word(config: Config, index: int) -> int:
    """Return a byte for each of the ALUs 4 * index and following, a bit for each of ``_BYTE``."""
    word = 0
    for place, features in enumerate(config.alus[4 * index : 4 * index + 4]):
        bits = sum(1 << bit for bit, letter in enumerate(_BYTE) if letter in features)
        word |= bits << 8 * place
    return word


def rounding_word(config: Config) -> int:
    """Return a bit for each ALU that rounds products and powers to f16."""
    return sum(1 << index for index, features in enumerate(config.alus) if "r" in features)


MAGIC = _register(
    "MAGIC", 0x000, Access.READ, "The letters WCLK.", reset=int.from_bytes(b"WCLK", "little")
)
VERSION = _register(
    "VERSION",
    0x004,
    Access.READ,
    "Version of this map. Another major version is another map.",
    Field("minor", 0, 16, "grows with additions"),
    Field("major", 16, 16, "grows with changes"),
    reset=2 << 16 | 5,
)
CONTROL = _register(
    "CONTROL",
    0x010,
    Access.WRITE,
    "Starts the chip.",
    Field("launch", 0, 1, "write 1: all queues begin at START; refused while running"),
)
START = _register(
    "START",
    0x014,
    Access.BOTH,
    "Where the queues begin.",
    Field("pc", 0, PC_BITS, "word of the instruction memories"),
)
STATUS = _register(
    "STATUS",
    0x018,
    Access.READ,
    "What the chip is doing.",
    Field("idle", 0, 1, "no run is under way"),
    Field("running", 1, 1, "a run is under way"),
    Field("done", 2, 1, "a run has ended since the last launch"),
    Field("error", 3, 1, "a bit of ERROR is set"),
    reset=1,
)
ERROR = _register(
    "ERROR",
    0x01C,
    Access.CLEAR,
    "Broken promises. Bits stay until they are cleared; a launch does not clear them.",
    Field("mem", 0, 1, "a MEM slice"),
    Field("vxm", 1, 1, "the VXM"),
    Field("mxm", 2, 1, "an MXM plane"),
    Field("sxm", 3, 1, "an SXM"),
    Field("icu", 4, 1, "an instruction queue"),
    Field("host", 5, 1, "a refused launch or command: while running, unknown, or out of range"),
)
CYCLES_LOW = _register(
    "CYCLES_LOW",
    0x020,
    Access.READ,
    "Cycles of the last or current run. Reading it keeps the high word for CYCLES_HIGH.",
)
CYCLES_HIGH = _register(
    "CYCLES_HIGH",
    0x024,
    Access.READ,
    "High word of the count whose low word was read last.",
)
SELECT = _register(
    "SELECT",
    0x028,
    Access.BOTH,
    "What the memory window looks into.",
    Field("unit", 0, UNIT_BITS, "MEM: hemisphere * slices + slice; IMEM: number of the queue"),
    Field("space", 16, 1, "0 for MEM, 1 for IMEM"),
)
ADDRESS = _register(
    "ADDRESS",
    0x02C,
    Access.BOTH,
    "Where the memory window looks.",
    Field("address", 0, ROW_BITS, "row of the slice, or word of the instruction memory"),
)
COMMAND = _register(
    "COMMAND",
    0x030,
    Access.WRITE,
    "Moves a row or word; the write is answered when it has been moved. Then ADDRESS is one more.",
    Field("command", 0, 2, "1: staging to memory; 2: memory to staging"),
)
SIGNATURE = _register(
    "SIGNATURE",
    0x034,
    Access.READ,
    "Of all memory writes of the last or current run, see `isa/signature.py`. A launch clears it.",
)


def _number(name: str, config: Config) -> int:
    value: int = getattr(config, name)
    return value


_BYTE = tuple(ALU_FEATURES)[:8]  #: features of a byte, from the lowest bit on
_FEATURE_BITS = ", ".join(_BYTE)

_CONFIGURATION: dict[str, tuple[str, Callable[[Config], int]]] = {
    "alus": ("Configuration: number of ALUs.", lambda config: len(config.alus)),
    **{
        f"features_{index}": (
            f"Configuration: eight bits ({_FEATURE_BITS}) for ALU {4 * index} and the next three.",
            lambda config, index=index: features_word(config, index),
        )
        for index in range(8)
    },
    "queues": ("Number of instruction queues.", lambda config: len(queues(config))),
    **{name: (f"Configuration: {name}.", partial(_number, name)) for name in LIMITS},
    "rounding": (
        "Configuration: a bit (r) for each ALU that rounds products and powers to f16.",
        rounding_word,
    ),
}
for _index, (_name, (_doc, _value)) in enumerate(_CONFIGURATION.items()):
    _register(_name.upper(), 0x100 + 4 * _index, Access.READ, _doc, reset=_value)

STAGING = _register(
    "STAGING",
    0x200,
    Access.BOTH,
    "The row or word that a command moves, lane 0 (or bit 0) first; as many as a vector takes.",
    words=staging_words,
)


def _bits_text(field: Field) -> str:
    bits = f"{field.low + field.bits - 1}:{field.low}" if field.bits > 1 else str(field.low)
    return f"{bits} `{field.name}`: {field.doc}"


def docs() -> str:
    """Return the register map as a table in Markdown."""
    lines = ["| offset | register | access | reset | meaning |", "|---|---|---|---|---|"]
    for register in REGISTERS:
        offset = f"0x{register.offset:03X}" + (" + 4 i" if register.words else "")
        reset = "constant" if callable(register.reset) else f"0x{register.reset:X}"
        meaning = "<br>".join([register.doc, *map(_bits_text, register.fields)])
        cells = (offset, f"`{register.name}`", register.access.value, reset, meaning)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"

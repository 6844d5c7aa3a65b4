"""How an instruction is declared: once, as a class from which every tool reads what it needs.

The class gives the encoding (assembler, disassembler, RTL decoder), the role of each operand
(scheduler, checker), the latency (all of them) and the sentence for the reference (docs).
Words are at most 64 bits and do not depend on the configuration; a queue's instruction memory
is as wide as the widest instruction of its kind.
"""

import dataclasses
import enum
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar, dataclass_transform

from waterclock.isa.config import WIDTH, Config
from waterclock.isa.streams import ID_BITS

OPCODE_BITS = 6
WORD_BITS = 64


class Role(enum.Enum):
    """What a scheduler, a checker and an address generator have to know about an operand."""

    CONST = "const"  #: fixed when the program is assembled
    ADDRESS = "address"  #: fixed too, but Repeat and Loop add their stride; two count as one number
    READS = "reads"  #: a stream that the unit samples at issue
    WRITES = "writes"  #: a stream that the unit drives ``latency`` cycles after issue


@dataclasses.dataclass(frozen=True)
class Operand:
    """One field of an instruction word.

    ``kind`` says how text shows the number: ``int``, ``stream``, ``source`` or ``target`` (see
    ``isa/streams.py``), ``hex``, or the name of an enumeration whose members are in ``names``.
    """

    name: str
    bits: int
    signed: bool
    role: Role
    kind: str
    doc: str
    names: tuple[str, ...] = ()
    streams: "int | Callable[[Any, Config], int]" = 1  #: streams that the operand spans
    below: "Callable[[Config], int] | None" = None  #: legal values, where fewer than the field's
    default: int | None = None  #: value where none is given
    first_only: bool = False  #: whether it is the first streams where slices are wide
    low: int = 0  # position of the least significant bit in the word

    def span(self, of: "Instruction", config: Config) -> int:
        """Return how many streams this operand of instruction ``of`` spans."""
        return self.streams if isinstance(self.streams, int) else self.streams(of, config)

    def unit(self, of: "type[Instruction]", config: Config) -> int:
        """Return what the number of the first stream is a multiple of, in instructions ``of``.

        Values of 16 and 32 bits are aligned; spans that depend on anything are rows of bytes.
        Where slices are wide, VXM and MXM know streams by fours, MXM the first ones only; for MEM
        see ``isa/mem.py``.
        """
        if config.wide and not of.kind.startswith(("mem", "sxm")):
            return config.streams if self.first_only else WIDTH
        return self.streams if isinstance(self.streams, int) else 1

    def used(self, config: Config) -> int:
        """Return the bits of the field that legal values of a configuration set, as a mask."""
        number = (config.streams - 1).bit_length()
        if self.kind == "source":  # of the buses, the lane reduction's comes last
            number = max(number, len(config.alus).bit_length())
        if self.kind in ("stream", "source", "target"):
            return ((1 << number) - 1 | -1 << ID_BITS) & (1 << self.bits) - 1
        values = self.below(config) if self.below else 1 << self.bits
        return (1 << (values - 1).bit_length()) - 1

    def holds(self, value: int) -> bool:
        """Tell whether ``value`` fits the field."""
        if self.signed:
            return -(1 << self.bits - 1) <= value < 1 << self.bits - 1
        return 0 <= value < 1 << self.bits


def operand(
    bits: int,
    role: Role = Role.CONST,
    *,
    doc: str,
    kind: str = "int",
    signed: bool = False,
    names: tuple[str, ...] = (),
    streams: int | Callable[[Any, Config], int] = 1,
    below: Callable[[Config], int] | None = None,
    default: int | None = None,
    first_only: bool = False,
) -> Any:
    """Declare one operand of an instruction class.

    ``streams`` is the number of streams that a stream operand spans, or a function of the
    instruction and the configuration. ``below`` returns the number of legal values. ``default``
    need not be given, nor is it shown. Of ``first_only`` streams the first number is 0 where
    slices are wide.
    """
    spec = Operand("", bits, signed, role, kind, doc, names, streams, below, default, first_only)
    metadata = {"operand": spec}
    if default is None:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Instruction:
    """Base of all instructions; a subclass made with ``@instruction`` specifies one opcode."""

    kind: ClassVar[
        str
    ]  #: kind of queue that issues it: ``mem_read``, ``alu``, ...; ``icu`` for all
    mnemonic: ClassVar[str]
    opcode: ClassVar[int]
    operands: ClassVar[tuple[Operand, ...]]
    bits: ClassVar[int]  #: width of the word, opcode included
    ours: ClassVar[bool]  #: True for an extension that the published TSP does not have

    @staticmethod
    def latency(config: Config) -> int:
        """Return the cycles from issue to the first driven stream, or to the effect."""
        raise NotImplementedError

    def encode(self) -> int:
        """Return the word.

        Raises
        ------
        ValueError
            When an operand does not fit its field.
        """
        word = self.opcode
        for spec in self.operands:
            value = getattr(self, spec.name)
            if not spec.holds(value):
                sign = "signed" if spec.signed else "unsigned"
                raise ValueError(
                    f"{self.mnemonic}: {spec.name}={value} does not fit {spec.bits} bits {sign}"
                )
            word |= (value & (1 << spec.bits) - 1) << spec.low
        return word

    @classmethod
    def address(cls) -> Operand | None:
        """Return the operand to which strides are added, if there is one.

        Two operands side by side are one number, the first in its low bits.
        """
        specs = [spec for spec in cls.operands if spec.role is Role.ADDRESS]
        if len(specs) < 2:
            return specs[0] if specs else None
        low, high = specs
        below = high.below
        return dataclasses.replace(
            low,
            name=f"{low.name}+{high.name}",
            bits=low.bits + high.bits,
            below=below and (lambda config: below(config) << low.bits),
        )

    def strided(self, offset: int) -> "Instruction":
        """Return the instruction with ``offset`` added to its address, modulo the field."""
        specs = [spec for spec in self.operands if spec.role is Role.ADDRESS]
        if not specs or not offset:
            return self
        moved, values = offset, {}
        for spec in specs:
            moved += getattr(self, spec.name)
            values[spec.name] = moved & (1 << spec.bits) - 1
            moved >>= spec.bits
        return dataclasses.replace(self, **values)  # type: ignore[type-var]


#: Every instruction by kind of queue and opcode; complete once ``waterclock.isa`` is imported.
ISA: dict[tuple[str, int], type[Instruction]] = {}
T = TypeVar("T", bound=Instruction)


def _one_cycle(_: Config) -> int:
    return 1


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(operand,))
def instruction(
    kind: str,
    opcode: int,
    *,
    latency: Callable[[Config], int] = _one_cycle,
    ours: bool = False,
    mnemonic: str = "",
) -> Callable[[type[T]], type[T]]:
    """Enter a class in ``ISA``.

    Raises
    ------
    TypeError
        For a taken opcode, a word that is too wide, or addresses that are not side by side.
    """

    def declare(cls: type[T]) -> type[T]:
        new: Any = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
        new.kind, new.opcode = kind, opcode
        new.mnemonic = mnemonic or cls.__name__.lower()
        new.latency, new.ours = staticmethod(latency), ours
        operands, low = [], OPCODE_BITS
        for field in dataclasses.fields(new):
            spec = field.metadata["operand"]
            operands.append(dataclasses.replace(spec, name=field.name, low=low))
            low += spec.bits
        new.operands, new.bits = tuple(operands), low
        if low > WORD_BITS:
            raise TypeError(f"{cls.__name__} takes {low} of {WORD_BITS} bits")
        places = [i for i, spec in enumerate(operands) if spec.role is Role.ADDRESS]
        if len(places) > 2 or (len(places) == 2 and places[1] != places[0] + 1):
            raise TypeError(f"{cls.__name__}: more than two addresses, or not side by side")
        if not 0 <= opcode < 1 << OPCODE_BITS:
            raise TypeError(f"{cls.__name__}: opcode {opcode} does not fit {OPCODE_BITS} bits")
        if ISA.setdefault((kind, opcode), new) is not new:
            raise TypeError(f"{kind} opcode {opcode} is {ISA[kind, opcode].__name__}'s")
        return new

    return declare


def instructions(kind: str) -> list[type[Instruction]]:
    """Return the instructions that a queue of this kind issues, queue control first."""
    return [op for unit in ("icu", kind) for (k, _), op in sorted(ISA.items()) if k == unit]


def word_bits(kind: str) -> int:
    """Return the width of the instruction memory of a queue of this kind."""
    return max(op.bits for op in instructions(kind))


def decode(kind: str, word: int) -> Instruction:
    """Return the instruction in ``word``.

    Raises
    ------
    ValueError
        When the opcode is free or bits beyond the instruction are set.
    """
    opcode = word & (1 << OPCODE_BITS) - 1
    cls = ISA.get(("icu", opcode)) or ISA.get((kind, opcode))
    if cls is None:
        raise ValueError(f"{kind}: opcode {opcode} is no instruction of this queue")
    if word >> cls.bits:
        raise ValueError(f"{kind}: {cls.mnemonic}: bits beyond {cls.bits} are set")
    values: dict[str, int] = {}
    for spec in cls.operands:
        value = word >> spec.low & (1 << spec.bits) - 1
        if spec.signed and value >> spec.bits - 1:
            value -= 1 << spec.bits
        values[spec.name] = value
    return cls(**values)

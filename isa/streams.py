"""Streams as operands: directions, stream codes, and where an ALU takes and puts its values.

A stream code is 6 bits: the direction above the stream's number. A value of 16 bits takes two
streams and one of 32 bits four, least significant byte first, the first number a multiple of
two or four; the code names the first. Where slices are wide (``Config.wide``, ours) VXM and MXM
know streams by fours: whatever its width, a value begins at a multiple of four. MXM then knows the
first four only.
"""

import enum


class Direction(enum.IntEnum):
    """The way a stream flows."""

    EAST = 0
    WEST = 1


ID_BITS = 5
STREAM_BITS = ID_BITS + 1

#: ALU sources: a stream code, or one of these plus a number.
SOURCE_BITS = 7
SOURCE_ALU = 0x40  #: the result bus of the ALU whose number is in the low five bits
SOURCE_IMM = 0x60  #: the instruction's immediate

#: ALU targets: none, or ``TARGET_STREAM`` plus a stream code.
TARGET_BITS = 7
TARGET_NONE = 0
TARGET_STREAM = 0x40


def stream(direction: Direction, number: int) -> int:
    """Return the code of a stream."""
    return int(direction) << ID_BITS | number


def direction_of(code: int) -> Direction:
    """Return the direction in a stream code."""
    return Direction(code >> ID_BITS & 1)


def number_of(code: int) -> int:
    """Return the stream number in a stream code."""
    return code & (1 << ID_BITS) - 1


def stream_text(code: int) -> str:
    """Show a stream code, for example ``E12``."""
    return f"{direction_of(code).name[0]}{number_of(code)}"


def source_text(code: int) -> str:
    """Show an ALU source: ``E12``, ``alu3`` or ``imm``."""
    if code < SOURCE_ALU:
        return stream_text(code)
    return "imm" if code >= SOURCE_IMM else f"alu{code - SOURCE_ALU}"


def target_text(code: int) -> str:
    """Show an ALU target: ``E12`` or ``none``."""
    return stream_text(code & ~TARGET_STREAM) if code & TARGET_STREAM else "none"


def parse_stream(text: str) -> int:
    """Read what ``stream_text`` shows. Raises ``ValueError``."""
    if text[:1] not in ("E", "W") or not text[1:].isdigit() or int(text[1:]) >= 1 << ID_BITS:
        raise ValueError(f"{text!r} is no stream: expected E or W and a number below 32")
    return stream(Direction.EAST if text[0] == "E" else Direction.WEST, int(text[1:]))


def parse_source(text: str) -> int:
    """Read what ``source_text`` shows. Raises ``ValueError``."""
    if text == "imm":
        return SOURCE_IMM
    if text.startswith("alu") and text[3:].isdigit() and int(text[3:]) < 32:
        return SOURCE_ALU + int(text[3:])
    return parse_stream(text)


def parse_target(text: str) -> int:
    """Read what ``target_text`` shows. Raises ``ValueError``."""
    return TARGET_NONE if text == "none" else TARGET_STREAM | parse_stream(text)

"""Assembler and disassembler: one instruction a line, all of it read off the declarations.

mem_read: read addr=17, dst=E3
icu:      repeat distance=1, count=3, stride=1
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import streams
from waterclock.isa.spec import Instruction, Operand, decode, instructions

_SHOW = {
    "stream": streams.stream_text,
    "source": streams.source_text,
    "target": streams.target_text,
    "hex": hex,
    "int": str,
}
_READ = {
    "stream": streams.parse_stream,
    "source": streams.parse_source,
    "target": streams.parse_target,
    "hex": lambda text: int(text, 0),
    "int": lambda text: int(text, 0),
}


def _show(spec: Operand, value: int) -> str:
    if spec.names:
        return spec.names[value] if value < len(spec.names) else str(value)
    text = _SHOW[spec.kind](value)
    # A code that means nothing is shown as a number, so that every word can be read back.
    return text if _READ[spec.kind](text) == value else hex(value)


def _read(spec: Operand, text: str) -> int:
    if text in spec.names:
        return spec.names.index(text)
    number = spec.names or text.startswith("0x")
    return _READ["int" if number else spec.kind](text)


def to_text(op: Instruction) -> str:
    """Return one line of text; ``parse`` reads it back."""
    values = [(spec, getattr(op, spec.name)) for spec in op.operands]
    shown = [f"{spec.name}={_show(spec, it)}" for spec, it in values if it != spec.default]
    return f"{op.mnemonic} {', '.join(shown)}".rstrip()


def parse(kind: str, line: str) -> Instruction:
    """Read one instruction of a queue of ``kind``.

    Raises
    ------
    ValueError
        For an unknown mnemonic, a missing, repeated or unknown operand, or one that does not fit.
    """
    mnemonic, _, rest = line.strip().partition(" ")
    found = {op.mnemonic: op for op in instructions(kind)}
    if mnemonic not in found:
        raise ValueError(f"{mnemonic!r} is no instruction of {kind}: use {', '.join(found)}")
    specs = {spec.name: spec for spec in found[mnemonic].operands}
    values: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        name, _, text = (piece.strip() for piece in part.partition("="))
        if name not in specs or name in values:
            raise ValueError(f"{mnemonic}: operand {name!r} is unknown or given twice")
        values[name] = _read(specs[name], text)
    for name, spec in specs.items():
        if name not in values and spec.default is None:
            raise ValueError(f"{mnemonic}: operand {name!r} is missing")
    op = found[mnemonic](**values)
    op.encode()
    return op


def assemble(kind: str, lines: Iterable[str]) -> NDArray[np.uint64]:
    """Return the words of a queue; empty lines and what follows ``#`` are passed over.

    Raises
    ------
    ValueError
        Naming the line.
    """
    words = []
    for number, line in enumerate(lines, 1):
        code = line.partition("#")[0].strip()
        if not code:
            continue
        try:
            words.append(parse(kind, code).encode())
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
    return np.array(words, np.uint64)


def disassemble(kind: str, words: NDArray[np.uint64]) -> list[str]:
    """Return one line of text a word. Raises ``ValueError`` for a word of no instruction."""
    return [to_text(decode(kind, int(word))) for word in words]

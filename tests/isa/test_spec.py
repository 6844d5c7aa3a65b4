"""Every instruction is what its declaration says: words, text, opcodes."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from waterclock.isa import ISA, PRESETS, Instruction, decode, icu, load_config, mem, mxm, sxm, vxm
from waterclock.isa.floorplan import SXM_KINDS, queues
from waterclock.isa.program import INTENTS
from waterclock.isa.spec import (
    OPCODE_BITS,
    WORD_BITS,
    Operand,
    Role,
    instruction,
    instructions,
    operand,
    word_bits,
)
from waterclock.isa.streams import SOURCE_BITS, TARGET_BITS
from waterclock.isa.text import assemble, disassemble, parse, to_text

ALL = list(ISA.values())
CONFIGS = [load_config(name) for name in PRESETS]
every = pytest.mark.parametrize("cls", ALL, ids=lambda cls: f"{cls.kind}.{cls.mnemonic}")


def limits(spec: Operand) -> tuple[int, int]:
    """Return the smallest and the largest value of an operand."""
    if spec.signed:
        return -(1 << spec.bits - 1), (1 << spec.bits - 1) - 1
    return 0, (1 << spec.bits) - 1


def of(cls: type[Instruction]) -> st.SearchStrategy[Instruction]:
    """Return a strategy for an instruction with any operands that fit their fields."""
    return st.builds(cls, **{spec.name: st.integers(*limits(spec)) for spec in cls.operands})


def at_the_limits(cls: type[Instruction], which: int) -> Instruction:
    return cls(**{spec.name: limits(spec)[which] for spec in cls.operands})


# Words.


@every
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_word_and_text_can_be_read_back(cls, data):
    for op in (data.draw(of(cls)), at_the_limits(cls, 0), at_the_limits(cls, 1)):
        word = op.encode()
        assert 0 <= word < 1 << cls.bits <= 1 << WORD_BITS
        assert decode(cls.kind, word) == op
        assert parse(cls.kind, to_text(op)) == op


@every
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_operand_beyond_its_field_raises(cls, data):
    good = data.draw(of(cls))
    for spec in cls.operands:
        low, high = limits(spec)
        for value in (low - 1, high + 1):
            bad = dataclasses.replace(good, **{spec.name: value})
            with pytest.raises(ValueError, match=f"^{cls.mnemonic}: {spec.name}={value} does not"):
                bad.encode()


@every
@settings(max_examples=20, deadline=None, derandomize=True)
@given(data=st.data())
def test_stride_is_added_to_the_address_modulo_its_field(cls, data):
    op, offset = data.draw(of(cls)), data.draw(st.integers(-(1 << 40), 1 << 40))
    moved = op.strided(offset)
    spec = cls.address()
    if spec is None:
        assert moved == op
    else:
        mask = (1 << spec.bits) - 1 << spec.low
        value = (op.encode() >> spec.low) + offset << spec.low & mask
        assert moved.encode() == op.encode() & ~mask | value


def test_word_of_a_known_instruction_is_as_documented():
    assert mem.Read(addr=17, dst=3).encode() == 8 | 17 << 6 | 3 << 24
    assert icu.Repeat(count=2, distance=3, stride=-1).encode() == 2 | 3 << 6 | 2 << 14 | 0xFFF << 25
    assert icu.Halt().encode() == 0


# Declarations.


@every
def test_declaration_is_complete(cls):
    assert cls.__doc__
    assert cls.__doc__.strip().split("\n")[0].endswith(".")
    assert all(spec.doc and spec.bits > 0 for spec in cls.operands)
    low = OPCODE_BITS
    for spec in cls.operands:  # one after the other, without a gap
        assert spec.low == low
        low += spec.bits
    assert low == cls.bits <= WORD_BITS
    kinds = {"source": SOURCE_BITS, "target": TARGET_BITS}
    assert all(spec.bits == kinds[spec.kind] for spec in cls.operands if spec.kind in kinds)
    assert all(len(spec.names) <= 1 << spec.bits for spec in cls.operands)
    assert sum(spec.role is Role.ADDRESS for spec in cls.operands) <= 2


def test_opcodes_and_mnemonics_are_unique_in_a_queue():
    kinds = {kind for kind, _ in ISA} - {"icu"}
    for config in CONFIGS:
        missing = set() if config.sxm else set(SXM_KINDS)
        assert {queue.kind for queue in queues(config)} == kinds - missing
    assert set(INTENTS) == kinds
    for kind in kinds:
        ops = instructions(kind)
        assert len({op.opcode for op in ops}) == len({op.mnemonic for op in ops}) == len(ops)
        assert word_bits(kind) == max(op.bits for op in ops)


@every
def test_latency_is_positive_on_every_preset(cls):
    assert all(cls.latency(config) >= 1 for config in CONFIGS)


@every
def test_streams_of_an_operand_fit_every_preset(cls):
    op = dataclasses.replace(at_the_limits(cls, 0), **({"count": 2} if cls is sxm.Rotate else {}))
    for spec in cls.operands:
        if spec.kind in ("stream", "source", "target"):
            assert all(1 <= spec.span(op, config) <= config.streams for config in CONFIGS)


def test_alu_operations_say_what_they_need():
    ops = [op for (kind, _), op in ISA.items() if kind == "alu"]
    assert set(ops) == set(vxm.FEATURE) == set(vxm.ARITY) == set(vxm.OPS.values())
    assert all(vxm.OPS[op.mnemonic] is op for op in ops)
    assert {vxm.ARITY[op] for op in ops} == {1, 2}


def test_declaration_refuses_what_cannot_be():
    before = dict(ISA)

    def declare(opcode: int, **fields: object) -> None:
        body = {"__doc__": "One.", "__annotations__": dict.fromkeys(fields, int), **fields}
        instruction("mem_read", opcode)(type("Made", (Instruction,), body))

    with pytest.raises(TypeError, match=r"^mem_read opcode 8 is Read's"):
        declare(8)
    with pytest.raises(TypeError, match=r"^Made takes 66 of 64 bits"):
        declare(60, a=operand(60, doc="wide"))
    a, b = (operand(4, Role.ADDRESS, doc=name) for name in "ab")
    with pytest.raises(TypeError, match=r"^Made: more than two addresses, or not side by side"):
        declare(60, a=a, between=operand(4, doc="between"), b=b)
    with pytest.raises(TypeError, match=r"^Made: opcode 64 does not fit 6 bits"):
        declare(64)
    assert before == ISA


# What is no instruction.


@pytest.mark.parametrize(
    ("kind", "word", "message"),
    [
        ("mem_read", 10, "mem_read: opcode 10 is no instruction of this queue"),
        ("alu", 63, "alu: opcode 63 is no instruction of this queue"),
        ("mem_read", 8 | 1 << 30, "mem_read: read: bits beyond 30 are set"),
        ("mxm_iw", 9 | 1 << 6, "mxm_iw: iw: bits beyond 6 are set"),
        ("alu", 1 << 40, "alu: halt: bits beyond 6 are set"),
    ],
)
def test_word_that_is_no_instruction_raises(kind, word, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        decode(kind, word)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("write addr=1, src=E0", "'write' is no instruction of mem_read: use halt, nop, "),
        ("read addr=1", "read: operand 'dst' is missing"),
        ("read addr=1, dst=E0, dst=E1", "read: operand 'dst' is unknown or given twice"),
        ("read addr=1, dst=E0, lane=1", "read: operand 'lane' is unknown or given twice"),
        ("read addr=65536, dst=E0", "read: addr=65536 does not fit 16 bits unsigned"),
        ("read addr=1, dst=E32", "'E32' is no stream: expected E or W and a number below 32"),
        ("read addr=1, dst=N1", "'N1' is no stream"),
        ("read addr=x, dst=E0", "invalid literal"),
    ],
)
def test_text_that_is_no_instruction_raises(line, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        parse("mem_read", line)


def test_text_shows_streams_units_and_names():
    add = vxm.OPS["fadd"](a=0x25, b=0x43, dst=0x4C, imm=0x3F800000)
    assert to_text(add) == "fadd a=W5, b=alu3, dst=E12, imm=0x3f800000"
    keep = vxm.OPS["mov"](a=0x60, b=0x60, dst=0, imm=7)
    assert to_text(keep) == "mov a=imm, b=imm, dst=none, imm=0x7"
    assert to_text(mxm.LW(row=2, src=0, order=1)) == "lw row=2, src=E0, order=COLUMNS"
    assert to_text(mxm.IW()) == "iw"


def test_text_shows_a_code_that_means_nothing_as_a_number():
    odd = vxm.OPS["mov"](a=0x61, b=0x7F, dst=0x3F, imm=0)
    assert to_text(odd) == "mov a=0x61, b=0x7f, dst=0x3f, imm=0x0"
    acc = mxm.ABC(entry=0, acc=0, add=0, activation=0, weight=3, window=3, first=0, last=0)
    assert "weight=3, window=3" in to_text(acc)


def test_lines_are_assembled_and_disassembled():
    lines = ["nop count=3", "read addr=1, dst=E0", "repeat distance=1, count=2, stride=-1", "halt"]
    spaced = ["# a comment", "", *(f"  {line}  # why" for line in lines)]
    words = assemble("mem_read", spaced)
    assert disassemble("mem_read", words) == lines
    with pytest.raises(ValueError, match=r"^line 2: read: operand 'dst' is missing"):
        assemble("mem_read", ["halt", "read addr=1"])

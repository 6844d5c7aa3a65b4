"""The reference of the instruction set is generated, complete and up to date."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from waterclock.isa import ISA, PRESETS, load_config
from waterclock.isa.reference import markdown

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def text() -> str:
    return markdown()


def test_docs_are_up_to_date(text):
    stored = (ROOT / "docs" / "isa.md").read_text(encoding="utf-8")
    hint = "run `python -m waterclock.isa.reference > docs/isa.md`"
    assert stored == text, hint


def test_module_prints_the_reference(text):
    command = [sys.executable, "-P", "-m", "waterclock.isa.reference"]
    assert subprocess.run(command, capture_output=True, check=True).stdout.decode() == text


@pytest.mark.parametrize("op", ISA.values(), ids=lambda op: f"{op.kind}.{op.mnemonic}")
def test_every_instruction_is_there_with_its_latencies_and_mark(op, text):
    latencies = " | ".join(str(op.latency(load_config(name))) for name in PRESETS)
    mark = "ours" if op.ours else ""
    row = f"| {op.opcode} | `{op.mnemonic}` | {op.bits} | {mark} | {latencies} |"
    assert row in text
    sentence = op.__doc__.strip().split("\n")[0].replace("``", "`")
    assert sentence in text
    for spec in op.operands:
        high = spec.low + spec.bits - 1
        bits = f"{high}" if spec.bits == 1 else f"{high}:{spec.low}"
        signed = ", signed" if spec.signed else ""
        expected = f"| {bits} | `{spec.name}` | {spec.kind}{signed} | {spec.role.value} |"
        assert f"{expected} {spec.doc} |" in text
        assert all(f"| `{name}` |" in text for name in spec.names)


def test_every_field_of_every_preset_is_there(text):
    for name in ("superlanes", "slices", "rows", "load_streams", "imem_words"):
        values = " | ".join(str(getattr(load_config(preset), name)) for preset in PRESETS)
        assert f"| `{name}` | {values} | " in text
    assert "| bytes of SRAM | 327,680 | 1,835,008 | 218,103,808 | 230,686,720 |" in text
    assert "| VXM | 2 | 9 | 15 | 13 |" in text


def test_tables_are_rectangular(text):
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    assert len(tables) > len({kind for kind, _ in ISA})
    for table in tables:
        rows = [re.split(r"(?<!\\)\|", line) for line in table.splitlines()]
        assert len({len(row) for row in rows}) == 1, table

"""Registers of emitted Verilog: clocked blocks with enables, and nothing else changed."""

import re

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from waterclock.rtl.emit import convert


class Registers(wiring.Component):
    """One register that keeps its value, one that never does, one whose next value is used."""

    load: In(1)
    part: In(1)
    value: In(16)
    kept: Out(16)
    stepped: Out(16)
    counted: Out(16)
    peeked: Out(16)

    def elaborate(self, platform):
        m = Module()
        with m.If(self.load):
            m.d.sync += self.kept.eq(self.value)
        m.d.sync += self.stepped.eq(self.value)
        with m.If(self.part):
            m.d.sync += self.stepped[:8].eq(self.value[8:])
        following = Signal(16)
        m.d.comb += following.eq(self.counted)
        with m.If(self.load):
            m.d.comb += following.eq(self.counted + 1)
        m.d.sync += self.counted.eq(following)
        m.d.comb += self.peeked.eq(following)
        return m


def _block(text: str, register: str) -> str:
    """Return the clocked block that assigns a register."""
    blocks = re.findall(r"  always @\(posedge clk\).*?(?=\n  \w)", text, re.DOTALL)
    (found,) = [block for block in blocks if f" {register} " in block and "<=" in block]
    return found


def test_register_that_keeps_its_value_has_an_enable():
    block = _block(convert(Registers(), "registers"), "kept")
    assert "if (load)" in block
    assert "kept <= value;" in block
    assert "kept <= kept" not in block
    assert (
        block.index("kept <= value;") < block.index("if (rst)") < block.index("kept <= 16'h0000;")
    )


def test_register_that_is_assigned_in_parts_is_assigned_in_parts():
    block = _block(convert(Registers(), "registers"), "stepped")
    assert "stepped <= value;" in block
    assert "stepped [7:0] <= value[15:8];" in block


def test_next_value_that_others_use_stays_logic():
    text = convert(Registers(), "registers")
    assert "counted <= peeked;" in text or "counted <= following;" in text


def test_no_register_is_copied_from_logic_of_its_own():
    text = convert(Registers(), "registers")
    assert not re.search(r"<= \\\$\d+ ;", text)

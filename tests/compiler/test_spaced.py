"""Stencils where ALUs are few: items as close as units allow, one stencil behind the other."""

import itertools

import numpy as np
import pytest

from waterclock.compiler.fit import fit
from waterclock.compiler.memory import Memory
from waterclock.compiler.plan import End, Learned, NoFitError, Plan
from waterclock.compiler.spaced import least_spacing
from waterclock.compiler.stencil import ONE, Constant, Imm, Stencil, Store
from waterclock.isa.config import load_config
from waterclock.isa.floorplan import Hemisphere

NANO, WEST = load_config("nano"), Hemisphere.WEST
ITEMS = 6


def chain(*mnemonics: str) -> Stencil:
    """Return a stencil of operations of one operand, one after the other."""
    stencil = Stencil(NANO, range(ITEMS))
    value = stencil.op("mov", Imm(ONE))
    for mnemonic in mnemonics:
        value = stencil.op(mnemonic, value, *([Imm(ONE)] if mnemonic.startswith("fmul") else []))
    return stencil


def plan_of(learned: Learned | None = None) -> Plan:
    plan = Plan(NANO, Memory(NANO), 64, learned=learned)
    plan.serve("test")
    return plan


@pytest.mark.parametrize(
    "mnemonics", [("exp2", "recip"), ("fmul", "exp2", "recip"), ("exp2", "recip") * 3]
)
def test_items_are_as_close_as_one_unit_allows_and_stencils_have_no_gap(mnemonics) -> None:
    plan, stencils = plan_of(), [chain(*mnemonics) for _ in range(3)]
    starts = [fit(plan, stencil) for stencil in stencils]
    spacing = stencils[0].nodes[0].offsets[1]
    assert spacing == least_spacing(NANO, chain(*mnemonics)) == NANO.turns * len(mnemonics)
    assert {b - a for a, b in itertools.pairwise(starts)} == {ITEMS * spacing}


def test_what_was_found_once_is_tried_first() -> None:
    learned = Learned()
    first, second = chain("exp2", "recip"), chain("exp2", "recip")
    fit(plan_of(learned), first)
    ((shape, found),) = learned.spacings.items()
    assert shape == second.shape() != chain("recip", "exp2").shape()
    learned.spacings[shape] = (found[0] + 3, *found[1:])
    fit(plan_of(learned), second)
    assert second.nodes[0].offsets[1] == found[0] + 3


def gated() -> Stencil:
    """Return a stencil like that of SwiGLU: eight operations of one unit, one of the other."""
    stencil = Stencil(NANO, range(ITEMS))
    one = Imm(ONE)
    gate, up = (stencil.op("fmul", stencil.op("fmul", one, one), one) for _ in range(2))
    sigmoid = stencil.op("recip", stencil.op("fadd", stencil.op("exp2", gate), one))
    stencil.op("fmul", stencil.op("fmul", gate, up), sigmoid)
    return stencil


def test_a_unit_that_is_nearly_always_busy_is_packed_densely() -> None:
    plan, stencils = plan_of(), [gated() for _ in range(3)]
    starts = [fit(plan, stencil) for stencil in stencils]
    spacing = stencils[0].nodes[0].offsets[1]
    assert least_spacing(NANO, gated()) == 16
    assert spacing <= 18
    assert {b - a for a, b in itertools.pairwise(starts)} == {ITEMS * spacing}


def stored(side: Hemisphere, items: int) -> Stencil:
    stencil = Stencil(NANO, range(items))
    one = stencil.op("mov", Imm(ONE), sinks=[Store(side)])
    stencil.op("fmul", one, Imm(ONE), sinks=[Store(side.opposite)])
    return stencil


def test_shapes_know_neither_which_side_nor_how_many() -> None:
    shape = stored(WEST, ITEMS).shape()
    assert shape == stored(WEST.opposite, ITEMS + 1).shape()
    assert shape != stored(WEST, 1).shape()


def test_a_result_that_nobody_else_takes_is_rounded_at_once() -> None:
    stencil = Stencil(NANO, range(ITEMS))
    product = stencil.op("fmul", Imm(ONE), Imm(ONE))
    taken_twice = stencil.op("fmul", Imm(ONE), Imm(ONE))
    total = stencil.op("fadd", taken_twice, Imm(ONE))
    assert [stencil.rounds(node) for node in (product, taken_twice, total)] == [True, False, False]
    assert product.op.mnemonic == "fmul_f16"
    without = Stencil(load_config("small"), [0])
    assert not without.rounds(without.op("fmul", Imm(ONE), Imm(ONE)))


def taken(plan: Plan) -> list[int]:
    return [cycle for cycle in range(30) if not plan.trial().free(("queue",), 1 << cycle)]


def test_how_a_block_ended_is_kept_free_where_it_begins_and_its_beginning_where_it_ends() -> None:
    end = End(begin=50, taken={("queue",): 0b11 << 12}, ready=[14])
    plan = plan_of(Learned(periods={64: 10}, ends={64: end}))
    plan.open_block(2)
    assert plan.expected() == [4]
    assert taken(plan) == [2, 3]
    beginning = plan.trial()
    assert beginning.claim(("queue",), 0b11 << 5)
    beginning.commit()
    plan.end_block(53)  # three cycles later than it was
    assert taken(plan) == [5, 6, 18, 19]


def test_a_full_memory_is_said_at_once() -> None:
    plan, stencil = plan_of(), chain("exp2")
    slices = plan.memory.slices_of(0)
    plan.memory.rows(WEST, slices, NANO.depth - ITEMS + 1)
    stencil.nodes[-1].sinks.append(Store(WEST))
    with pytest.raises(NoFitError, match="test: no rows of MEM are left for exp2"):
        fit(plan, stencil)
    constant = Constant(np.zeros((1, ITEMS, NANO.vector), np.int32), side=WEST)
    stencil = Stencil(NANO, range(ITEMS))
    stencil.op("mov", constant)
    with pytest.raises(NoFitError, match="test: no rows of MEM are left for mov"):
        fit(plan, stencil)

"""What the chip is made of follows from the configuration."""

import dataclasses

import pytest

from waterclock.isa.config import load_config
from waterclock.isa.floorplan import SXM_KINDS, queues
from waterclock.rtl.chip import Chip
from waterclock.rtl.emit import convert


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
@pytest.mark.parametrize("sxm", [False, True])
def test_sxm_is_left_out_with_its_columns(sxm: bool) -> None:
    config = dataclasses.replace(load_config("nano"), sxm=sxm)
    chip = Chip(config)
    names = {"sxm_tile", "sxm_shift", "sxm_permute", *(f"icu_{kind}" for kind in SXM_KINDS)}
    assert names & set(chip.parts) == (names if sxm else set())
    text = convert(chip, "chip")
    assert text.count("  stream_column ") == (4 if sxm else 2)
    assert text.count("  icu_") == sum(queue.leader is None for queue in queues(config))
    assert ("sxm_tile" in text) == sxm

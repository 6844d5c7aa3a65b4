"""The register map of the host port hangs together, and its page shows it."""

from itertools import pairwise
from pathlib import Path

import pytest

from waterclock.isa import PRESETS, host, load_config
from waterclock.isa.host import REGISTERS, Access

PAGE = Path(__file__).parents[2] / "docs" / "host.md"


@pytest.mark.parametrize("preset", PRESETS)
def test_registers_are_aligned_apart_and_within_the_addresses(preset: str) -> None:
    config = load_config(preset)
    ends = [(r.offset, r.offset + 4 * (r.words(config) if r.words else 1)) for r in REGISTERS]
    assert all(first % 4 == 0 for first, _ in ends)
    assert all(end <= first for (_, end), (first, _) in pairwise(ends))
    assert ends[-1][1] <= 1 << host.ADDRESS_BITS


def test_names_are_unique() -> None:
    names = [register.name for register in REGISTERS]
    assert len(set(names)) == len(names)


def test_fields_are_apart_and_within_the_register() -> None:
    for register in REGISTERS:
        spans = sorted((f.low, f.low + f.bits) for f in register.fields)
        assert all(end <= low for (_, end), (low, _) in pairwise(spans)), register.name
        assert all(0 <= low < end <= host.DATA_BITS for low, end in spans), register.name


@pytest.mark.parametrize("preset", PRESETS)
def test_reset_values_fit_and_tell_the_configuration(preset: str) -> None:
    config = load_config(preset)
    values = {register.name: register.value(config) for register in REGISTERS}
    assert all(0 <= value < 1 << host.DATA_BITS for value in values.values())
    for name in ("superlanes", "lanes", "streams", "slices", "group", "rows", "imem_words"):
        assert values[name.upper()] == getattr(config, name)
    for index, features in enumerate(config.alus):
        bits = values[f"FEATURES_{index // 4}"] >> 8 * (index % 4) & 255
        found = {letter for i, letter in enumerate("amcsibhn") if bits >> i & 1}
        assert found | ({"r"} if values["ROUNDING"] >> index & 1 else set()) == set(features)


def test_magic_reads_as_its_letters_in_memory_order() -> None:
    assert host.MAGIC.value(load_config("nano")).to_bytes(4, "little") == b"WCLK"


def test_error_register_has_a_bit_for_each_cause() -> None:
    assert {f.name.upper(): 1 << f.low for f in host.ERROR.fields} == {
        cause.name: cause.value for cause in host.Error
    }


def test_status_is_idle_after_reset_and_cannot_be_written() -> None:
    assert host.STATUS.value(load_config("nano")) == 1 << host.STATUS.field("idle").low
    assert host.STATUS.access is Access.READ


def test_unknown_field_is_named() -> None:
    with pytest.raises(KeyError, match="STATUS has no field tired"):
        host.STATUS.field("tired")


def test_page_shows_the_table_of_the_map() -> None:
    assert host.docs() in PAGE.read_text(encoding="utf-8"), "docs/host.md: paste isa.host.docs()"

"""Configurations: presets load, and every mistake is told in one line."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml

from waterclock.isa import PRESETS, Config, UserError, load_config
from waterclock.isa.config import LIMITS, config_from_dict


def write(path: Path, **changed: Any) -> Path:
    """Write the fields of preset small, some of them changed, as a YAML file."""
    fields = dataclasses.asdict(load_config("small"))
    fields["alus"] = list(fields["alus"])
    path.write_text(yaml.safe_dump({**fields, **changed}), encoding="utf-8")
    return path


def mistake(preset: str | Path) -> str:
    """Return the message of the UserError that loading raises: one line."""
    with pytest.raises(UserError) as caught:
        load_config(preset)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", PRESETS)
def test_presets_load(name):
    config = load_config(name)
    assert config.name == name
    assert load_config(name) == config
    assert hash(load_config(name)) == hash(config)
    assert config_from_dict(dataclasses.asdict(config), "here") == config


def test_full_preset_is_the_published_chip():
    config = load_config("tsp1")
    assert (config.vector, config.groups, config.depth, config.levels) == (320, 11, 8192, 9)
    assert config.sram_bytes == 220 * 1024 * 1024
    assert config.stream_bytes == 20480
    assert 2 * config.planes * config.vector**2 == 409_600


def test_configuration_of_a_file_may_differ_from_the_presets(tmp_path):
    config = load_config(write(tmp_path / "mine.yaml", name="mine", rows=4096))
    assert config == dataclasses.replace(load_config("small"), name="mine", rows=4096)
    assert load_config(str(tmp_path / "mine.yaml")) == config


@pytest.mark.parametrize("name", ["big", "Small", "", "small.yml.txt"])
def test_unknown_preset_is_a_mistake(name):
    expected = f"preset {name!r} is unknown: use nano, small, medium, tsp1 or a .yaml file"
    assert mistake(name) == expected


# Impossible geometries.


@pytest.mark.parametrize("field", LIMITS)
def test_number_beyond_its_limits_is_a_mistake(field, tmp_path):
    low, high = LIMITS[field]
    path = write(tmp_path / "c.yaml")
    for value in (low - 1, high + 1, -1, 2.0, True, None, "4"):
        write(path, **{field: value})
        expected = f"{path}: {field}: found {value!r}, expected an integer from {low} to {high}"
        assert mistake(path) == expected


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"streams": 6},
         "streams: found 6, expected a multiple of 4 (a 32-bit value takes 4 streams)"),
        ({"group": 3}, "slices: found 28, expected a multiple of group (3)"),
        (
            {"slices": 2, "group": 2},
            "slices: found 2, expected 4 or more (a 32-bit value takes 4 slices)",
        ),
        ({"rows": 1000}, "rows: found 1000, expected a power of two, or two_port"),
        ({"load_streams": 32}, "load_streams: found 32, expected at most streams (16)"),
        ({"load_streams": 3}, "load_streams: found 3, expected a divisor of streams (16)"),
        ({"slices": 8}, "load_streams: found 16, expected at most slices (8)"),
        ({"lanes": 12}, "load_streams: found 16, expected a divisor of the vector (12)"),
        ({"wide": True, "planes": 2}, "planes: found 2, expected 1, as the slices are wide"),
        ({"wide": True}, "load_streams: found 16, expected 4, as the slices are wide"),
        (
            {"turns": 2, "simple_cycles": 2, "alu_cycles": 5},
            "turns: found 2, expected 1, as the vector is 16, none of (2, 4, 8)",
        ),
        ({"integers": 1}, "integers: found 1, expected true or false"),
        ({"b_streams": "few"}, "b_streams: found 'few', expected true or false"),
        ({"reduce_streams": None}, "reduce_streams: found None, expected true or false"),
        ({"sxm": 1}, "sxm: found 1, expected true or false"),
        ({"sxm": "yes please"}, "sxm: found 'yes please', expected true or false"),
        ({"sxm": None}, "sxm: found None, expected true or false"),
        ({"alus": []}, "alus: found 0, expected 1 to 31 ALUs"),
        ({"alus": ["amcsib"] * 32}, "alus: found 32, expected 1 to 31 ALUs"),
        ({"alus": ["amcsib", "x"]}, "alus[1]: found 'x', expected letters of amcsibhnr"),
        ({"alus": ["aa", "mcs"]}, "alus[0]: found 'aa', expected letters of amcsibhnr"),
        ({"alus": ["ac", "s"]},
         "alus: found ['ac', 's'], expected at least one ALU with 'm' (multiply)"),
        ({"alus": ["amcsib", "n"]}, "alus[1]: found 'n', expected 'm' beside 'n'"),
        ({"alus": ["amcsib", "mr"]},
         "alus[1]: found 'mr', expected 'm' and 's' but no 'n' beside 'r'"),
        ({"alus": "amcsib"}, "alus: found 'amcsib', expected a list of feature letters"),
        ({"alus": ["amcsib", 1]}, "alus: found ['amcsib', 1], expected a list of feature letters"),
    ],
    ids=str,
)  # fmt: skip
def test_impossible_geometry_is_a_mistake(changed, message, tmp_path):
    path = write(tmp_path / "c.yaml", **changed)
    assert mistake(path) == f"{path}: {message}"


def test_geometry_is_checked_without_a_file_too():
    config = load_config("small")
    with pytest.raises(UserError, match=r"^configuration small: rows: found 7, expected an integ"):
        dataclasses.replace(config, rows=7)


# Files that are no configuration.


def test_unknown_field_is_a_mistake(tmp_path):
    path = write(tmp_path / "c.yaml", lane=4)
    assert mistake(path).startswith(f"{path}: lane: unknown field, expected one of name, superl")


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Config)])
def test_missing_field_is_a_mistake(field, tmp_path):
    path = write(tmp_path / "c.yaml")
    lines = yaml.safe_load(path.read_text())
    del lines[field]
    path.write_text(yaml.safe_dump(lines))
    assert mistake(path) == f"{path}: {field}: missing field"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "found NoneType, expected fields ['name', "),
        ("- lanes: 1", "found list, expected fields ['name', "),
        ("small", "found str, expected fields ['name', "),
        ("lanes: 1: 2", "not YAML: mapping values are not allowed here"),
        ("lanes: [1", "not YAML: "),
        ("{[1]: 2}", "not YAML: "),
        ("lanes: 2001-13-45", "not YAML: "),
        ("lanes: !!python/object:os.system x", "not YAML: "),
        ("lanes: \x00", "not YAML: "),
    ],
)
def test_text_that_is_no_configuration_is_a_mistake(text, message, tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert mistake(path).startswith(f"{path}: {message}")


def test_unreadable_file_is_a_mistake(tmp_path):
    path = tmp_path / "c.yaml"
    assert mistake(path).startswith(f"{path}: cannot be read: ")
    path.mkdir()
    assert mistake(path).startswith(f"{path}: cannot be read: ")
    path = tmp_path / "latin.yaml"
    path.write_bytes(b"name: caf\xe9")
    assert mistake(path).startswith(f"{path}: cannot be read: ")

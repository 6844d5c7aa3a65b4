"""The command line: what it prints and writes, and one clear line for each mistake."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from models import write_random_llama

from waterclock import story

SIZES = {"hidden": 32, "heads": 2, "kv_heads": 1, "head_dim": 16, "ffn": 48, "vocab": 40}


def waterclock(*args: object) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    code = "from waterclock.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny model without a tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    return write_random_llama(folder, **SIZES, layers=1, tied=True, seed=3, context=96)


@pytest.fixture(scope="module")
def program(model: Path) -> Path:
    """Return the program file of the tiny model."""
    path = model / "tiny.wclk"
    done = waterclock("compile", model, "--preset", "small", "-o", path)
    assert done.returncode == 0, done.stderr
    return path


def refused(*args: object) -> str:
    """Return the one line with which a command is refused."""
    done = waterclock(*args)
    lines = done.stderr.strip().splitlines()
    assert done.returncode == 2, done.stderr
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


def test_run_writes_json_and_logits(program: Path, tmp_path: Path) -> None:
    result, logits = tmp_path / "r.json", tmp_path / "l.npy"
    done = waterclock(
        "run", program, "--engine", "golden", "--prompt-ids", "1,5,9", "--tokens", 4,
        "--json", result, "--logits", logits,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert set(found) == {
        "model", "preset", "engine", "prompt_ids", "ids", "text", "cycles_predicted",
        "cycles_measured", "in_blocks", "limit_cycles", "exact", "signatures_measured",
        "signatures_predicted", "cycles_per_second", "wall_seconds",
    }  # fmt: skip
    assert found["exact"] is True
    assert found["cycles_measured"] == found["cycles_predicted"]
    assert len(found["ids"]) == 4
    values = np.load(logits)
    assert values.shape == (6, SIZES["vocab"])
    assert values.dtype == np.float32


def test_check_report_and_disasm_show_a_program(program: Path) -> None:
    assert "proven" in waterclock("check", program).stdout
    assert "head" in waterclock("report", program).stdout
    text = waterclock("disasm", program, "--queue", "VXM.alu0").stdout
    assert "notify" in text
    assert "halt" in text


def test_doctor_lists_tools() -> None:
    done = waterclock("doctor")
    assert done.returncode == 0
    assert "Verilator" in done.stdout


def test_compile_leaves_no_file_behind_when_it_fails(model: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.wclk"
    line = refused("compile", model, "--context", 1000, "-o", path)
    assert "context: found 1000, expected 1 to 96" in line
    assert not list(tmp_path.iterdir())


def test_mistakes_of_options_are_one_line(model: Path, program: Path, tmp_path: Path) -> None:
    cases = {
        ("run", model, "--preset", "huge"): "preset 'huge' is unknown",
        ("run", model, "--engine", "fast"): "engine: found 'fast'",
        ("run", model, "--engine", "golden", "--prompt-ids", "1,400"): "token 400 is unknown",
        ("run", model, "--engine", "golden", "--prompt-ids", "1,x"): "prompt-ids: found '1,x'",
        ("run", model, "--engine", "golden", "--prompt", "Hi"): "has no tokenizer",
        ("run", program, "--engine", "golden", "--prompt-ids", ",".join("1" * 97)): "longer than",
        ("run", program, "--engine", "golden", "--tokens", 97): "exceed the context of 96",
        ("run", tmp_path / "nothing"): "nothing",
        ("check", model / "config.json"): "not a readable program file",
        ("disasm", program, "--queue", "VXM.alu99"): "queue 'VXM.alu99' is unknown",
    }
    for args, expected in cases.items():
        assert expected in refused(*args)


def test_a_preset_file_with_an_impossible_geometry_is_refused(model: Path, tmp_path: Path) -> None:
    text = "name: bad\nsuperlanes: 1\nlanes: 16\nstreams: 15\nslices: 28\ngroup: 4\nrows: 64\n"
    text += (
        "planes: 1\nload_streams: 15\nact_entries: 8\nacc_entries: 8\ndigits: 1\nintegers: true\n"
    )
    path = tmp_path / "bad.yaml"
    text += (
        "sxm: true\nalus: [amcsib]\nsimple_cycles: 1\nalu_cycles: 4\nb_streams: true\n"
        "reduce_streams: true\n"
        "turns: 1\nimem_words: 64\n"
        "imem_words_of: {}\npaths: 4\n"
    )
    path.write_text(text + "loops: 1\ntwo_port: false\nwide: false\n")
    assert "streams: found 15, expected a multiple of 4" in refused("run", model, "--preset", path)


def test_a_model_that_does_not_fit_says_what_is_missing(tmp_path: Path) -> None:
    sizes = {**SIZES, "hidden": 128, "ffn": 2048, "vocab": 512}
    write_random_llama(tmp_path, **sizes, layers=6, tied=True, seed=1)
    line = refused("run", tmp_path, "--preset", "small")
    assert "bytes are missing" in line
    assert "preset medium would do" in line


def test_damaged_and_foreign_files_are_refused(program: Path, tmp_path: Path) -> None:
    data = bytearray(program.read_bytes())
    cut = tmp_path / "cut.wclk"
    cut.write_bytes(data[: len(data) // 2])
    assert "not a readable program file" in refused("check", cut)
    data[-100] ^= 1
    flipped = tmp_path / "flipped.wclk"
    flipped.write_bytes(data)
    assert "damaged" in refused("run", flipped)
    broken = tmp_path / "model"
    shutil.copytree(story(), broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[:-1000])
    assert "model.safetensors" in refused("run", broken)


def test_a_missing_compiler_is_one_line(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    line = refused("run", model, "--engine", "rtl", "--prompt-ids", "1", "--tokens", 1)
    assert "C++ compiler" in line or "CXX=no-such-compiler" in line

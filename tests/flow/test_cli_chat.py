"""``waterclock chat`` and the options of ``run`` that go with it."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chat import write_chat_model


def waterclock(*args: object, said: str = "") -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does."""
    code = "from waterclock.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, *map(str, args)]
    return subprocess.run(
        command, input=said, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def program(model: Path) -> Path:
    path = model / "tiny.wclk"
    done = waterclock("compile", model, "-o", path, "--context", 64)
    assert done.returncode == 0, done.stderr
    return path


def test_a_conversation_of_two_questions(program: Path) -> None:
    found = {}
    for engine in ("tensor", "golden"):
        done = waterclock(
            "chat", "--model", program, "--engine", engine, "--tokens", 5, "--mhz", 100,
            said="Hi\nSo\n",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        told = re.findall(r"\((\d) tokens, .*; [\d,]+ cycles until the first, ", done.stderr)
        assert len(told) == 2
        assert "tokens/s at 100 MHz" in done.stderr
        found[engine] = done.stdout
    assert found["tensor"] == found["golden"]


def test_a_seed_repeats_a_conversation(model: Path) -> None:
    options = ("--engine", "tensor", "--tokens", 8, "--temperature", 1.5, "--top-k", 50)
    said = [
        waterclock("chat", "--model", model, *options, "--seed", seed, said="Hi\n").stdout
        for seed in (1, 1, 2)
    ]
    assert said[0] == said[1] != said[2]


def test_run_takes_a_question_and_draws(model: Path, tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    done = waterclock(
        "run", model, "--engine", "golden", "--chat", "--prompt", "Hi", "--system", "Be",
        "--tokens", 3, "--temperature", 2, "--seed", 7, "--json", result,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["exact"]
    assert found["cycles_measured"] == found["cycles_predicted"]
    assert len(found["prompt_ids"]) == 9  # <|system|>Be<|end|><|user|>Hi<|end|><|assistant|>


def test_the_tensor_engine_runs_without_compiling(model: Path, tmp_path: Path) -> None:
    result = tmp_path / "r.json"
    # A schedule for tsp1 would take minutes.
    done = waterclock(
        "run", model, "--preset", "tsp1", "--engine", "tensor", "--tokens", 3, "--json", result
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["cycles_measured"] is found["limit_cycles"] is None
    assert len(found["ids"]) == 3


def test_mistakes_of_options_are_one_line(model: Path, tmp_path: Path) -> None:
    plain = write_chat_model(tmp_path / "plain", template=None)
    chat = ("chat", "--model", model)
    cases = {
        (*chat, "--temperature", -1): "temperature: found -1.0, expected 0 or more",
        (*chat, "--top-p", 0): "top-p: found 0.0, expected above 0, and 1 at most",
        ("run", model, "--engine", "tensor", "--top-k", 0): "top-k: found 0, expected 1 or more",
        (*chat, "--mhz", 100): "mhz: engine tensor knows no cycles of",
        (*chat, "--engine", "fast"): "engine: found 'fast'",
        (*chat, "--context", 4): "conversation: 5 tokens or more exceed the context of 4",
        (*chat, "--context", 97): "context: found 97, expected 1 to 96",
        ("chat", "--model", plain): "plain: has no chat template",
        ("run", plain, "--chat", "--prompt", "Hi"): "plain: has no chat template",
        ("run", model, "--chat"): "chat: found no question: give one with --prompt",
    }
    for args, expected in cases.items():
        done = waterclock(*args, said="Hi\n")
        lines = done.stderr.strip().splitlines()
        assert done.returncode == 2, (args, done.stderr)
        assert len(lines) == 1, done.stderr
        assert expected in lines[0]

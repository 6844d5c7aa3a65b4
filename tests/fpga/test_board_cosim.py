"""The host link end to end: the command line, a serial port, UART and chip in simulation."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from board_bench import SimulatedBoard
from models import write_random_llama

from waterclock import compiled
from waterclock.isa.config import load_config
from waterclock.isa.program import save_program

SEED = 20261128
TIMEOUT = 10  # seconds after which the host repeats: a busy machine simulates slowly
TINY = {"hidden": 16, "heads": 2, "kv_heads": 1, "head_dim": 8, "ffn": 16, "vocab": 32}


def run(port: str, folder: Path, *args: object) -> dict[str, object]:
    """Run ``waterclock run --engine uart``; return its result."""
    result = folder / "result.json"
    code = "from waterclock.cli import main; main()"
    command = [sys.executable, "-P", "-c", code, "run", *map(str, args), "--engine", "uart",
               "--port", port, "--timeout", str(TIMEOUT), "--json", str(result)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(result.read_text())
    assert found["exact"]
    assert found["cycles_measured"] == found["cycles_predicted"]
    predicted = found["signatures_predicted"]
    assert predicted
    assert found["signatures_measured"][: len(predicted)] == predicted
    return found


@pytest.mark.long
def test_a_model_runs_on_a_board_over_a_line_with_faults(tmp_path: Path) -> None:
    print(f"seed {SEED}")
    model = write_random_llama(tmp_path / "model", **TINY, layers=1, tied=True, seed=5, context=16)
    board = SimulatedBoard(load_config("nano"), share=0.02, seed=SEED)
    with board:
        args = model, "--preset", "nano", "--prompt-ids", "1,7,3", "--tokens", 3
        found = run(board.port, tmp_path, *args, "--signatures", 5)
    assert len(found["ids"]) == 3
    assert sum(board.faults.values()) > 1, board.faults


@pytest.mark.long
def test_a_board_that_holds_its_program_tells_a_story(tmp_path: Path) -> None:
    """The embedded model; loading it bit by bit would take the simulation most of an hour."""
    print(f"seed {SEED}")
    program = compiled(preset="small", context=64)
    save_program(program, tmp_path / "story.wclk")
    board = SimulatedBoard(program.config, share=0.05, seed=SEED, program=program)
    with board:
        for _ in range(2):  # the second finds the position that the first left
            found = run(
                board.port, tmp_path, tmp_path / "story.wclk", "--tokens", 12, "--preloaded"
            )
            assert str(found["text"]).startswith("Once upon a time")
    assert sum(board.faults.values()) > 5, board.faults

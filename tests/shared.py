"""Where tests find the shared checkpoints, and why they skip without them."""

import json
from pathlib import Path
from typing import Any

import pytest

from waterclock.compiler.source import SMOLLM2, find_model
from waterclock.isa.errors import UserError

SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"


def stories260k() -> tuple[Path, list[dict[str, Any]]]:
    """Return the checkpoint's folder and its reference runs; skip the test without them."""
    folder = SHARED / "stories260K"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"the shared checkpoint {folder.name} is not beside the repository")
    return folder, json.loads((folder / "reference.json").read_text())["runs"]


def smollm2() -> Path:
    """Return the file of SmolLM2-135M-Instruct; skip the test without the package."""
    try:
        return find_model(SMOLLM2)
    except UserError as error:
        pytest.skip(str(error))

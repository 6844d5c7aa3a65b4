"""Where tests find the shared checkpoints, and why they skip without them."""

import json
from pathlib import Path
from typing import Any

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "models"


def stories260k() -> tuple[Path, list[dict[str, Any]]]:
    """Return the checkpoint's folder and its reference runs; skip the test without them."""
    folder = SHARED / "stories260K"
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"the shared checkpoint {folder.name} is not beside the repository")
    return folder, json.loads((folder / "reference.json").read_text())["runs"]

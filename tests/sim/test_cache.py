"""The cache forgets what was not used for long, and nothing else."""

import os
import time
from pathlib import Path

import pytest

from waterclock.sim.cache import DAYS, cache_folder, note_use, prune


def test_what_was_not_used_for_long_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = cache_folder("builds")
    assert tmp_path in folder.parents
    old = time.time() - (DAYS + 1) * 24 * 3600
    for name in ("build", "used", "new"):
        (folder / name).mkdir(parents=True)
        (folder / name / "simulator").touch()
    for name in ("text", "read"):
        (folder / name).touch()
    for name in ("build", "used", "text", "read"):
        os.utime(folder / name, (old, old))
    note_use(folder / "used")
    note_use(folder / "read")
    prune("builds")
    assert {entry.name for entry in folder.iterdir()} == {"used", "new", "read"}

"""What can be made again: kept for the next time, removed when nobody has used it for long."""

import os
import shutil
import time
from pathlib import Path

DAYS = 30  #: an entry is kept so long after its last use


def cache_folder(kind: str) -> Path:
    """Return the folder of the entries of a kind, in ``$XDG_CACHE_HOME`` or ``~/.cache``."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "waterclock" / kind


def note_use(entry: Path) -> None:
    """Let an entry, a file or a folder, count as used now."""
    os.utime(entry)


def prune(kind: str) -> None:
    """Remove the entries of a kind that were last used more than ``DAYS`` days ago."""
    oldest = time.time() - DAYS * 24 * 3600
    for entry in cache_folder(kind).iterdir():
        try:
            if entry.stat().st_mtime < oldest:
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        except FileNotFoundError:
            pass  # somebody else was faster

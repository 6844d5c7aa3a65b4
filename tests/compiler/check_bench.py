"""Hand-written programs for the checker's tests: instructions at cycles, and their intents."""

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from waterclock.compiler.check import Proof, ScheduleError, check_schedule
from waterclock.isa import load_config
from waterclock.isa.floorplan import queues
from waterclock.isa.program import (
    EXTENT_COLUMNS,
    INTENTS,
    REGION_COLUMNS,
    RESULT_COLUMNS,
    Port,
    Program,
    Schedule,
)
from waterclock.isa.text import assemble

WEST, EAST = 0, 1
ALUS = ("amncsibh", "amncibh") * 8  #: whatever the presets spend on ALUs


@dataclasses.dataclass
class Placed:
    """One instruction, with a Repeat if it has more than one row of intents; none if of the ICU.

    ``intents``: one row an issue, in the order of ``INTENTS``. ``repeat``: distance and stride.
    """

    queue: str
    cycle: int
    text: str
    intents: list[tuple[int, ...]]
    repeat: tuple[int, int]


class Bench:
    """A program in the making; ``check`` assembles it and runs the checker."""

    def __init__(self, preset: str = "small"):
        config = load_config(preset)
        slices = max(8, config.slices)
        self.config = dataclasses.replace(config, alus=ALUS, slices=slices, wide=False)
        self.placed: list[Placed] = []
        self.extents: list[tuple[int, ...]] = []
        self.regions: list[tuple[int, ...]] = []
        self.results: list[tuple[int, ...]] = []
        self.memory: dict[tuple[int, int, int], np.ndarray] = {}
        self.ports: dict[str, Port] = {}
        self.cycles: int | None = None  #: what the schedule claims; None for the truth
        self.others: tuple[Schedule, ...] = ()

    def put(
        self,
        queue: str,
        cycle: int,
        text: str,
        *intents: tuple[int, ...],
        repeat: tuple[int, int] = (1, 0),
    ) -> None:
        """Issue an instruction in a cycle, once for each row of intents."""
        self.placed.append(Placed(queue, cycle, text, list(intents), repeat))

    def holds(self, side: int, index: int, row: int, value: int, byte: int) -> None:
        """Give a row a tag at launch."""
        self.extents.append((side, index, row, 0, 1, value, 0, byte))

    def change(self, queue: str, cycle: int, /, **fields: object) -> None:
        """Change the instruction that ``queue`` issues first in ``cycle``."""
        (found,) = (p for p in self.placed if (p.queue, p.cycle) == (queue, cycle))
        for name, value in fields.items():
            setattr(found, name, value)

    def edit(self, queue: str, cycle: int, old: str, new: str) -> None:
        """Change the text of an instruction."""
        (found,) = (p for p in self.placed if (p.queue, p.cycle) == (queue, cycle))
        assert old in found.text
        found.text = found.text.replace(old, new)

    def drop(self, queue: str, cycle: int) -> None:
        """Take an instruction out."""
        self.placed = [p for p in self.placed if (p.queue, p.cycle) != (queue, cycle)]

    def schedule(self) -> Schedule:
        """Assemble the queues."""
        words, intents, served = {}, {}, {}
        end = 0
        for queue in queues(self.config):
            mine = sorted((p for p in self.placed if p.queue == queue.name), key=lambda p: p.cycle)
            if not mine:
                continue
            lines, time = [], 0
            for p in mine:
                assert p.cycle >= time, f"{p.queue} is busy in cycle {p.cycle}"
                if p.cycle > time:
                    lines.append(f"nop count={p.cycle - time}")
                lines.append(p.text)
                time = p.cycle + 1
                if (more := len(p.intents) - 1) > 0:
                    distance, stride = p.repeat
                    lines.append(f"repeat count={more}, distance={distance}, stride={stride}")
                    time += more * distance
            words[queue.index] = assemble(queue.kind, lines)
            width = len(INTENTS[queue.kind])
            rows = [row for p in mine for row in p.intents]
            intents[queue.index] = np.array(rows, np.int32).reshape(len(rows), width)
            served[queue.index] = np.array([(len(p.intents), 0) for p in mine], np.int32)
            end = max(end, time)
        for queue in queues(self.config):  # those that follow another mean what it means
            if queue.leader in intents:
                intents[queue.index] = intents[queue.leader]
                served[queue.index] = served[queue.leader]
        return Schedule(
            context=64,
            start=0,
            cycles=end if self.cycles is None else self.cycles,
            words=words,
            operations=("layer.add",),
            served=served,
            intents=intents,
            regions=table(self.regions, REGION_COLUMNS),
            results=table(self.results, RESULT_COLUMNS),
        )

    def program(self, *schedules: Schedule) -> Program:
        """Return a program of some schedules, with this bench's memory."""
        return Program(
            name="bench",
            config=self.config,
            schedules=schedules,
            memory=self._image(),
            extents=table(self.extents, EXTENT_COLUMNS),
            ports=self.ports,
            limit_cycles=0,
            model={},
            tensors={},
            tokenizer=None,
            chat_template=None,
        )

    def _image(self) -> dict[tuple[int, int, int], np.ndarray]:
        """Return the memory with zeros in rows of extents that neither it nor a port loads."""
        loaded = {(s, i, row + k) for (s, i, row), d in self.memory.items() for k in range(len(d))}
        loaded |= {
            tuple(place) for p in self.ports.values() for place in p.places.reshape(-1, 3).tolist()
        }
        image = dict(self.memory)
        for side, index, first, step, count, _, _, _ in self.extents:
            for row in range(first, first + count * step, step) if step else [first]:
                if (side, index, row) not in loaded:
                    image[side, index, row] = np.zeros((1, self.config.vector), np.uint8)
        return image

    def check(self) -> Proof:
        """Assemble and check."""
        schedule = self.schedule()
        return check_schedule(self.program(schedule, *self.others), schedule)


def broken(bench: Bench, message: str) -> None:
    """Assert that the checker rejects a program with a message."""
    with pytest.raises(ScheduleError, match=message):
        bench.check()


def table(rows: Sequence[tuple[int, ...]], columns: tuple[str, ...]) -> np.ndarray:
    """Return rows as a table of the program file."""
    return np.array(rows, np.int64).reshape(len(rows), len(columns))


X, Y, SUM, SCALED = 10, 20, 30, 40  # two vectors each


def adder() -> Bench:
    """Return MEM -> VXM -> MEM: two vectors x + y, one result stored, one chained and stored."""
    bench = Bench()
    for byte in range(4):
        bench.extents.append((WEST, byte, 0, 1, 2, X, 1, byte))
        bench.extents.append((WEST, 4 + byte, 7, 1, 2, Y, 1, byte))
        rows = ((-1,), (-1,))
        bench.put(f"MEM_W{byte}.read", 1, f"read addr=0, dst=E{byte}", *rows, repeat=(1, 1))
        bench.put(f"MEM_W{4 + byte}.read", 0, f"read addr=7, dst=E{4 + byte}", *rows, repeat=(1, 1))
    both = [(X, Y, SUM), (X + 1, Y + 1, SUM + 1)]
    bench.put("VXM.alu0", 4, "fadd a=E0, b=E4, dst=E8, imm=0", *both)
    chained = [(SUM, -1, SCALED), (SUM + 1, -1, SCALED + 1)]
    bench.put("VXM.alu1", 8, "fmul a=alu0, b=imm, dst=W0, imm=0x40000000", *chained)
    for byte in range(4):
        rows = [(SUM, -1), (SUM + 1, -1)]
        bench.put(f"MEM_E{byte}.write", 9, f"write addr=3, src=E{8 + byte}", *rows, repeat=(1, 1))
        rows = [(SCALED, -1), (SCALED + 1, -1)]
        bench.put(f"MEM_W{byte}.write", 13, f"write addr=5, src=W{byte}", *rows, repeat=(1, 1))
        for i in range(2):
            bench.results.append((EAST, byte, 3 + i, SUM + i, byte))
            bench.results.append((WEST, byte, 5 + i, SCALED + i, byte))
    return bench


TILE, ACTIVATION, PRODUCT = 50, 60, 70


def multiplier() -> Bench:
    """Return MEM -> MXM -> MEM: one vector times one tile."""
    bench = Bench()
    for row in range(16):
        bench.holds(EAST, row, 5, TILE, row)
        bench.put(f"MEM_E{row}.read", 10 + row // 4, f"read addr=5, dst=E{row}", (-1,))
    for byte in range(2):
        bench.holds(EAST, 16 + byte, 0, ACTIVATION, byte)
        bench.put(f"MEM_E{16 + byte}.read", 15, f"read addr=0, dst=E{byte}", (-1,))
    bench.put("MXM_E0.lw", 20, "lw row=0, src=E0, order=ROWS", (TILE,))
    bench.put("MXM_E0.iw", 21, "iw", ())
    bench.put("MXM_E0.abl", 21, "abl entry=3, src=E0", (ACTIVATION,))
    bench.put("MXM_E0.abc", 22, abc(), (ACTIVATION, TILE, -1, PRODUCT))
    bench.put("MXM_E0.acc", 26, "acc acc=2, dst=W4, result=F32", (PRODUCT,))
    for byte in range(4):
        bench.put(f"MEM_E{20 + byte}.write", 33, f"write addr=9, src=W{4 + byte}", (PRODUCT, -1))
        bench.results.append((EAST, 20 + byte, 9, PRODUCT, byte))
    return bench


def abc(**changed: object) -> str:
    """Return the text of an ABC of entry 3 into accumulator 2."""
    fields: dict[str, object] = {
        "entry": 3, "acc": 2, "add": 0, "activation": "F16", "weight": "I8", "window": "ALL",
        "first": 0, "last": 15,
    }  # fmt: skip
    return "abc " + ", ".join(f"{name}={value}" for name, value in {**fields, **changed}.items())


TOKEN, ROW, CACHE = 80, 81, 90


def embedder() -> Bench:
    """Return Gather -> Scatter -> Read -> Write, all by one map: row TOKEN of a table."""
    bench = Bench()
    places = np.array([[[[EAST, 0, 0], [EAST, 1, 0]]]], np.int64)
    bench.ports["token"] = Port(places=places, dtype="uint16", shape=(16,))
    for byte in range(2):
        bench.holds(EAST, byte, 0, TOKEN, byte)
        for cycle in (0, 2):
            bench.put(f"MEM_E{byte}.read", cycle, f"read addr=0, dst=E{byte}", (-1,))
    bench.memory[EAST, 4, 10] = np.zeros((3, bench.config.vector), np.uint8)
    bench.memory[EAST, 8, 100] = np.zeros((4, bench.config.vector), np.uint8)
    bench.regions.append((0, EAST, 4, 10, 3, TOKEN, 5, ROW, 0, -1, -1, 0, 0))
    bench.regions.append((1, EAST, 8, 100, 5, TOKEN, 5, CACHE, 0, ROW, 0, 2, 1))
    bench.put("MEM_E4.read", 3, "gather addr=10, dst=E2, map=E0, lane=5", (TOKEN,))
    bench.put("MEM_E8.write", 6, "scatter addr=100, src=E2, map=E0, lane=5", (ROW, TOKEN))
    for i in range(4):
        bench.put("MEM_E8.read", 7 + i, f"read addr={100 + i}, dst=E3", (-1,))
        bench.put("MEM_E12.write", 10 + i, f"write addr={i}, src=E3", (CACHE + i // 2, -1))
        bench.results.append((EAST, 12, i, CACHE + i // 2, i % 2))
    return bench

"""Part of ``check.py``: which producer every stream read meets, and which tag it carries.

A tag is one number, ``value << BYTE_BITS | byte``, or ``NOTHING``. Producers are called drives.
The tag of most drives is known from their issue; that of a Read is the tag of a memory row, which
may come from a stream by way of a Write. Such a drive points to the drive that its tag comes
from. A pointer always leads back in time, so following them ends.
"""

import dataclasses

import numpy as np

from waterclock.compiler.check_history import History
from waterclock.compiler.check_issues import Bools, Group, Ints, Issued, Violations
from waterclock.compiler.check_operands import uses
from waterclock.isa import mem, mxm, sxm
from waterclock.isa.floorplan import columns
from waterclock.isa.spec import Instruction, Role
from waterclock.isa.streams import ID_BITS, stream_text

BYTE_BITS = 16
BYTE_MASK = (1 << BYTE_BITS) - 1
NOTHING = -1
ANY = -1  #: the byte expected where whatever arrives is right

#: Instructions that take one byte plane of a value, whichever it is, and hand it on.
KEEP_BYTE = (sxm.Shift, sxm.Select, sxm.Permute, sxm.Distribute)
TAKE_ANY = (mem.Write, mem.Scatter, *KEEP_BYTE)


def show(tag: int) -> str:
    """Say what a tag means."""
    if tag == NOTHING:
        return "nothing"
    return f"value {tag >> BYTE_BITS} byte {tag & BYTE_MASK}"


@dataclasses.dataclass(frozen=True)
class Crossings:
    """Where stream operands cross the fabric, one entry a stream: (entries,) int64."""

    issue: Ints
    code: Ints
    column: Ints
    cycle: Ints
    value: Ints
    byte: Ints
    spans: dict[tuple[type[Instruction], str], slice]  #: entries of an operand of a group


def _crossings(issued: Issued, role: Role) -> Crossings:
    """Collect all reads or all drives, with the tags that the intents give them."""
    parts: list[tuple[Ints, ...]] = []
    spans: dict[tuple[type[Instruction], str], slice] = {}
    start = 0
    for group in issued.groups.values():
        for use in uses(group, role, issued.config):
            at = use.which
            value, byte = _intended(group, use.spec.name, role)[at], use.offset
            if group.op is mxm.LW:
                byte = byte + group.fields["row"][at]
            if use.spec.name == "src" and group.op in TAKE_ANY:
                byte = np.full(len(at), ANY, np.int64)
            cycle = group.cycle[at] + (group.latency if role is Role.WRITES else 0)
            parts.append((group.issue[at], use.code, group.column[at], cycle, value, byte))
            spans[group.op, use.spec.name] = slice(start, start + len(at))
            start += len(at)
    issue, code, column, cycle, value, byte = map(np.concatenate, zip(*parts, strict=True))
    return Crossings(issue, code, column, cycle, value, byte, spans)


def _intended(group: Group, name: str, role: Role) -> Ints:
    """Return the value that the intents name for a stream operand."""
    if group.op.kind == "mem_read" and role is Role.WRITES:
        return np.full(len(group.issue), NOTHING, np.int64)  # found in memory
    if group.op is mxm.LW:
        return group.intents["tile"]
    if group.op is mxm.ACC:
        return group.intents["acc"]
    return group.intents["out" if role is Role.WRITES else name]


class Fabric:
    """All streams of the chip during a run.

    Members
    -------
    reads, drives : Crossings
    source : (reads,) int64
        Drive that each read meets; ``nowhere``, which carries nothing, if there is none.
    """

    def __init__(self, issued: Issued, violations: Violations):
        self.issued, self.violations = issued, violations
        self.reads = _crossings(issued, Role.READS)
        self.drives = _crossings(issued, Role.WRITES)
        self.nowhere = len(self.drives.issue)
        self.columns = columns(issued.config)
        history = History(*self._places(self.drives), self.columns + 1)
        place, position = self._places(self.reads)
        found = history.before(place, position + 1)  # a drive at the very column is met too
        self.source: Ints = np.where(found < 0, self.nowhere, found)
        later, other = history.doubles()
        drives = self.drives
        violations.expect(
            np.zeros(len(later), np.bool_),
            drives.issue[later],
            lambda i: (
                f"drives stream {stream_text(int(drives.code[later[i]]))} in cycle "
                f"{drives.cycle[later[i]]}: expected no other producer in this column, found "
                f"{issued.at(int(drives.issue[other[i]]))}"
            ),
        )
        self._check_paths()
        # What is known without memory; Memory fills in what Read and Gather drive.
        self.tag: Ints = np.append(drives.value << BYTE_BITS | drives.byte, NOTHING)
        self.value_from: Ints = np.arange(self.nowhere + 1, dtype=np.int64)
        self.byte_from: Ints = self.value_from.copy()
        for op in KEEP_BYTE:
            self.byte_from[drives.spans[op, "dst"]] = self.source[self.reads.spans[op, "src"]]

    def _check_paths(self) -> None:
        """Check that no two streams of one path are sampled, or driven, at once at MEM slices."""
        config = self.issued.config
        if config.paths == 2 * config.streams:
            return
        for crossings, verb in ((self.reads, "samples"), (self.drives, "drives")):
            mine = np.concatenate(
                [
                    np.arange(span.start, span.stop)
                    for (op, _), span in crossings.spans.items()
                    if op.kind in ("mem_read", "mem_write")
                ]
            )
            code, column, cycle = (
                getattr(crossings, name)[mine] for name in ("code", "column", "cycle")
            )
            place = (cycle * self.columns + column) * config.paths + mem.path(config, code)
            order = np.lexsort((code, place))
            shared = (place[order[1:]] == place[order[:-1]]) & (
                (code[order[1:]] != code[order[:-1]]) | (crossings is self.drives)
            )
            later, other = mine[order[1:][shared]], mine[order[:-1][shared]]
            self.violations.expect(
                np.zeros(len(later), np.bool_),
                crossings.issue[later],
                lambda i, c=crossings, later=later, other=other, verb=verb: (
                    f"{verb} stream {stream_text(int(c.code[later[i]]))} in cycle "
                    f"{c.cycle[later[i]]}: expected its path free, found stream "
                    f"{stream_text(int(c.code[other[i]]))} of "
                    f"{self.issued.at(int(c.issue[other[i]]))}"
                ),
            )

    def _places(self, crossings: Crossings) -> tuple[Ints, Ints]:
        """Return (diagonal of a stream, how far downstream) of crossings, as in ``floorplan``."""
        west = crossings.code >> ID_BITS == 1
        column, cycle = crossings.column, crossings.cycle
        diagonal = np.where(west, cycle + column, cycle - column + self.columns)
        position = np.where(west, self.columns - 1 - column, column)
        return diagonal << ID_BITS + 1 | crossings.code, position

    def resolve(self) -> None:
        """Follow every pointer: afterwards ``tag`` holds the tag of every drive."""
        value, byte = self.tag[_roots(self.value_from)], self.tag[_roots(self.byte_from)]
        known = (value != NOTHING) & (byte != NOTHING)
        self.tag = np.where(known, value & ~BYTE_MASK | byte & BYTE_MASK, NOTHING)

    def check(self) -> None:
        """Check that every read meets the tag that is meant for it."""
        reads, found = self.reads, self.tag[self.source]
        same_byte = (reads.byte == ANY) | (found & BYTE_MASK == reads.byte)
        ok: Bools = (found != NOTHING) & (found >> BYTE_BITS == reads.value) & same_byte
        self.violations.expect(ok, reads.issue, self._explain)

    def _explain(self, i: int) -> str:
        reads, source = self.reads, int(self.source[i])
        byte = "" if reads.byte[i] == ANY else f" byte {reads.byte[i]}"
        found = show(int(self.tag[source]))
        if source != self.nowhere:
            found += f" from {self.issued.at(int(self.drives.issue[source]))}"
        return (
            f"stream {stream_text(int(reads.code[i]))}: expected value {reads.value[i]}{byte}, "
            f"found {found}"
        )


def _roots(pointer: Ints) -> Ints:
    """Return where each chain of pointers ends: an entry that points to itself."""
    while True:
        further = pointer[pointer]
        if np.array_equal(further, pointer):
            return pointer
        pointer = further

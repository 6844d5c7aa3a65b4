"""Part of ``check.py``: which tag every memory row holds when, and who may touch it."""

import numpy as np

from waterclock.compiler.check_history import History, spread
from waterclock.compiler.check_issues import Bools, Group, Ints, Issued, ScheduleError, Violations
from waterclock.compiler.check_regions import Rows, Table
from waterclock.compiler.check_streams import BYTE_BITS, NOTHING, Fabric, show
from waterclock.isa import mem
from waterclock.isa.program import Schedule
from waterclock.isa.spec import Instruction

BANKS = ("no bank", "bank 0", "bank 1", "both banks")  #: by set of banks


class Memory:
    """All rows of memory during a run.

    An event is a row that a Write or a Scatter changes; a Write's take their tag from the drive
    that the Write samples, and these come first.

    Members
    -------
    regions : the schedule's regions by column
    region : Gather and Scatter -> (issues,) int64, the region of each issue
    """

    def __init__(self, rows: Rows, schedule: Schedule, fabric: Fabric, violations: Violations):
        self.rows, self.fabric, self.violations = rows, fabric, violations
        self.issued: Issued = fabric.issued
        self.regions: Table = rows.regions(schedule)
        self.region = {op: self._match(op) for op in (mem.Gather, mem.Scatter)}
        violations.raise_first()  # without its region nothing can be said of a Gather
        self.initial: Ints = np.where(rows.stale, NOTHING, rows.extent)
        # A Gather may also meet rows of the image that have no tag: those of a table.
        self.ready: Bools = (self.initial != NOTHING) | rows.loaded & ~rows.stale
        self._collect_events()
        self._lead_reads()

    def _match(self, op: type[Instruction]) -> Ints:
        """Return the one region of each issue of Gather or Scatter."""
        group, scatter = self.issued.groups[op], int(op is mem.Scatter)
        names = ("scatter", "side", "slice", "base", "lane", "map")
        known: dict[tuple[int, ...], list[int]] = {}
        for i, key in enumerate(zip(*(self.regions[name].tolist() for name in names), strict=True)):
            known.setdefault(key, []).append(i)
        fields = (group.side, group.unit, group.fields["addr"], group.fields["lane"])
        keys = zip(*(field.tolist() for field in (*fields, group.intents["map"])), strict=True)
        found = [known.get((scatter, *key), []) for key in keys]
        self.violations.expect(
            np.array([len(regions) == 1 for regions in found], np.bool_),
            group.issue,
            lambda i: (
                f"{op.mnemonic} addr {group.fields['addr'][i]} lane "
                f"{group.fields['lane'][i]} map {group.intents['map'][i]}: expected one region, "
                f"found {len(found[i])}"
            ),
        )
        return np.array([regions[0] if regions else 0 for regions in found], np.int64)

    def _row(self, group: Group) -> Ints:
        return self.rows.number(group.side, group.unit, group.fields["addr"])

    def _collect_events(self) -> None:
        """Put all changes of rows in order of time."""
        write, scatter = self.issued.groups[mem.Write], self.issued.groups[mem.Scatter]
        mine = {name: column[self.region[mem.Scatter]] for name, column in self.regions.items()}
        which, i = spread(mine["count"])
        mine = {name: column[which] for name, column in mine.items()}
        value = mine["value"] + i // mine["rows_a_value"]
        byte = mine["byte"] + i % mine["rows_a_value"] * mine["byte_step"]
        spare = i == mine["count"] - 1
        # The tags of a Write's events are filled in when the streams are known.
        self.sampled: Ints = self.fabric.source[self.fabric.reads.spans[mem.Write, "src"]]
        scattered = np.where(spare, NOTHING, value << BYTE_BITS | byte)
        self.tag: Ints = np.concatenate([np.full(len(self.sampled), NOTHING), scattered])
        row = np.concatenate([self._row(write), self._row(scatter)[which] + i])
        cycle = np.concatenate([write.cycle, scatter.cycle[which]])
        self.issue: Ints = np.concatenate([write.issue, scatter.issue[which]])
        self.end = int(self.issued.cycle.max(initial=0)) + 1
        self.history = History(row, cycle, self.end)

    def _lead_reads(self) -> None:
        """Say where the tags come from that Read and Gather drive."""
        fabric, read = self.fabric, self.issued.groups[mem.Read]
        row = self._row(read)
        event = self.history.before(row, read.cycle)
        span = fabric.drives.spans[mem.Read, "dst"]
        written = (event >= 0) & (event < len(self.sampled))
        drive = np.arange(span.start, span.stop, dtype=np.int64)
        drive[written] = self.sampled[event[written]]
        fabric.value_from[span] = fabric.byte_from[span] = drive
        fabric.tag[span] = self._tags(row, event)
        region = self.region[mem.Gather]
        tag = self.regions["value"][region] << BYTE_BITS | self.regions["byte"][region]
        fabric.tag[fabric.drives.spans[mem.Gather, "dst"]] = tag

    def _tags(self, row: Ints, event: Ints) -> Ints:
        """Return the tags of rows after their last events, -1 for none since launch."""
        tag = self.initial[row]
        tag[event >= 0] = self.tag[event[event >= 0]]
        return tag

    def resolve(self) -> None:
        """Take over the tags that Writes sample, once the streams are resolved."""
        self.tag[: len(self.sampled)] = self.fabric.tag[self.sampled]

    def check(self) -> None:
        """Check all rules of memory but the results."""
        self._check_banks()
        self._check_kept()
        read = self.issued.groups[mem.Read]
        tag = self.fabric.tag[self.fabric.drives.spans[mem.Read, "dst"]]
        self.violations.expect(
            tag != NOTHING,
            read.issue,
            lambda i: (
                f"read addr {read.fields['addr'][i]}: expected a value, found unwritten memory"
            ),
        )
        self._check_gather()
        self._check_scatter()

    def _check_banks(self) -> None:
        """Check that a read and a write of one slice in one cycle are in different banks."""
        reads, writes = self._banks(mem.Read, mem.Gather), self._banks(mem.Write, mem.Scatter)
        history = History(writes[1], writes[2], self.end)
        other = history.before(reads[1], reads[2] + 1)
        # Number -1 stands for no write before: it takes the last entry, added here.
        cycle, banks = np.append(writes[2], -1)[other], np.append(writes[3], 0)[other]
        self.violations.expect(
            (cycle != reads[2]) | (reads[3] & banks == 0),
            reads[0],
            lambda i: (
                f"reads {BANKS[reads[3][i]]}: expected no write in it in this "
                f"cycle, found {self.issued.at(int(writes[0][other[i]]))}"
            ),
        )

    def _banks(self, *ops: type[Instruction]) -> tuple[Ints, Ints, Ints, Ints]:
        """Return (issue, slice, cycle, set of banks) of all accesses by two instructions."""
        parts: list[tuple[Ints, Ints, Ints, Ints]] = []
        for op in ops:
            group = self.issued.groups[op]
            low = high = group.fields["addr"]
            if op in self.region:
                high = low + self.regions["count"][self.region[op]] - 1
            rows = self.rows.config.rows
            banks = 1 << low // rows | 1 << high // rows
            place = group.side * self.rows.config.slices + group.unit
            parts.append((group.issue, place, group.cycle, banks))
        issue, place, cycle, banks = map(np.concatenate, zip(*parts, strict=True))
        return issue, place, cycle, banks

    def _check_kept(self) -> None:
        """Check that no Write changes a row that the next run needs."""
        write = self.issued.groups[mem.Write]
        row = self._row(write)
        self.violations.expect(
            ~self.rows.kept[row],
            write.issue,
            lambda i: (
                f"write addr {write.fields['addr'][i]}: expected a row that the run may "
                f"change, found one of "
                f"{'a Scatter region' if self.rows.stale[row[i]] else 'the memory image'}"
            ),
        )

    def _check_gather(self) -> None:
        """Check that all rows of a Gather's region hold something."""
        gather = self.issued.groups[mem.Gather]
        empty = np.full(len(gather.issue), -1, np.int64)
        for i, region in enumerate(self.region[mem.Gather].tolist()):
            rows = self.rows.of_region(self.regions, region)
            event = self.history.before(rows, np.full(len(rows), gather.cycle[i]))
            ready = self.ready[rows]
            ready[event >= 0] = self.tag[event[event >= 0]] != NOTHING
            if not ready.all():
                empty[i] = rows[np.argmin(ready)]
        self.violations.expect(
            empty == -1,
            gather.issue,
            lambda i: (
                f"gather: expected all rows of its region initialised, found unwritten "
                f"memory at {self.rows.name(int(empty[i]))}"
            ),
        )

    def _check_scatter(self) -> None:
        """Check what arrives at each Scatter, and that its region is whole and scattered once."""
        scatter, region = self.issued.groups[mem.Scatter], self.region[mem.Scatter]
        source, byte = self.regions["source"][region], self.regions["source_byte"][region]
        expected = source << BYTE_BITS | byte
        found = self.fabric.tag[self.fabric.source[self.fabric.reads.spans[mem.Scatter, "src"]]]
        self.violations.expect(
            (found == expected) & (scatter.intents["src"] == source),
            scatter.issue,
            lambda i: (
                f"scatter src: expected {show(int(expected[i]))} for its region, "
                f"found {show(int(found[i]))} (intent: value {scatter.intents['src'][i]})"
            ),
        )
        empty = np.full(len(region), -1, np.int64)
        for i, number in enumerate(region.tolist()):
            rows = self.rows.of_region(self.regions, number)[:-1]
            if not self.rows.loaded[rows].all():
                empty[i] = rows[np.argmin(self.rows.loaded[rows])]
        self.violations.expect(
            empty == -1,
            scatter.issue,
            lambda i: (
                f"scatter: expected the rows of its region in the memory image, because it "
                f"writes one of them, found unwritten memory at {self.rows.name(int(empty[i]))}"
            ),
        )
        order = np.argsort(region, kind="stable")  # a region's issues stay in order of cycles
        again = region[order[1:]] == region[order[:-1]]
        later, other = order[1:][again], order[:-1][again]
        self.violations.expect(
            np.zeros(len(later), np.bool_),
            scatter.issue[later],
            lambda i: (
                f"scatter: expected a region once a run, found it scattered before by "
                f"{self.issued.at(int(scatter.issue[other[i]]))}"
            ),
        )

    def check_results(self, row: Ints, tag: Ints) -> None:
        """Raise unless every row holds its tag at the end of the run."""
        event = self.history.before(row, np.full(len(row), self.end))
        found = self._tags(row, event)
        for i in np.flatnonzero(found != tag)[:1].tolist():
            by = f" from {self.issued.at(int(self.issue[event[i]]))}" if event[i] >= 0 else ""
            raise ScheduleError(
                f"result {self.rows.name(int(row[i]))} at the end: expected {show(int(tag[i]))}, "
                f"found {show(int(found[i]))}{by}"
            )

"""The checker: proves, before it runs, that a program is free of conflicts and means what it says.

It knows the machine (``isa``) and shares no code with the scheduler. It executes a schedule on
tags instead of data: see ``docs/checker.md``. The parts:

    check_issues    every issue as arrays; collecting violations
    check_history   the last mark at a place before a time
    check_operands  fields of instructions
    check_streams   which producer a stream read meets
    check_regions   tables of the program file
    check_memory    what rows of memory hold, banks
    check_maps      numbers that choose rows
    check_planes    MXM
"""

import dataclasses

import numpy as np

from waterclock.compiler.check_history import History
from waterclock.compiler.check_issues import Issued, ScheduleError, Violations
from waterclock.compiler.check_maps import check_maps
from waterclock.compiler.check_memory import Memory
from waterclock.compiler.check_operands import check_operands, takes
from waterclock.compiler.check_planes import check_planes
from waterclock.compiler.check_regions import Rows
from waterclock.compiler.check_streams import BYTE_BITS, Fabric
from waterclock.isa import icu, mem, mxm
from waterclock.isa.program import Program, Schedule
from waterclock.isa.streams import SOURCE_ALU, SOURCE_IMM

__all__ = ["Proof", "ScheduleError", "check_program", "check_schedule"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proof:
    """What was checked of one schedule and found right: counts for a table."""

    context: int
    cycles: int
    issues: int
    drives: int  #: stream registers driven by a unit
    stream_reads: int  #: streams sampled, each of which met the tag meant for it
    bus_reads: int  #: ALU sources taken from a result bus
    memory_reads: int
    memory_writes: int
    products: int  #: ABCs: vectors multiplied with an array
    values: int  #: different values that streams carried
    maps: int  #: regions of Gather and Scatter whose map is known to stay within
    maps_assumed: int  #: regions whose map is data: the host or the VXM answers for it


def check_program(program: Program) -> list[Proof]:
    """Check every schedule of a program; see ``check_schedule``."""
    return [check_schedule(program, schedule) for schedule in program.schedules]


def check_schedule(program: Program, schedule: Schedule) -> Proof:
    """Prove that one schedule is free of conflicts and that every read meets its value.

    Raises
    ------
    ScheduleError
        For the earliest violation. Names queue, cycle, word and operation, what was expected and
        what was found.
    """
    try:
        return _check(program, schedule)
    except ScheduleError as error:
        raise ScheduleError(f"{program.name}, context {schedule.context}: {error}") from None


def _check(program: Program, schedule: Schedule) -> Proof:
    issued = Issued(program.config, schedule)
    _check_words(issued, program)
    violations = Violations(issued)
    check_operands(issued, violations)
    violations.raise_first()  # the rest relies on legal operands
    fabric = Fabric(issued, violations)
    rows = Rows(program, (schedule, *program.schedules))
    memory = Memory(rows, schedule, fabric, violations)
    fabric.resolve()
    memory.resolve()
    fabric.check()
    memory.check()
    maps = check_maps(memory, violations)
    bus_reads = _check_buses(issued, violations)
    check_planes(issued, violations)
    _check_end(issued, violations)
    violations.raise_first()
    if issued.halt != schedule.cycles:
        raise ScheduleError(
            f"cycles: expected {schedule.cycles}, found that the last queue halts in cycle "
            f"{issued.halt}"
        )
    memory.check_results(*rows.results(schedule))
    count = {op: len(group.issue) for op, group in issued.groups.items()}
    used = sum(len(np.unique(region)) for region in memory.region.values())
    return Proof(
        context=schedule.context,
        cycles=schedule.cycles,
        issues=len(issued.cycle),
        drives=len(fabric.drives.issue),
        stream_reads=len(fabric.reads.issue),
        bus_reads=bus_reads,
        memory_reads=count[mem.Read] + count[mem.Gather],
        memory_writes=count[mem.Write] + count[mem.Scatter],
        products=count[mxm.ABC],
        values=len(np.unique(fabric.tag[:-1] >> BYTE_BITS)),
        maps=maps,
        maps_assumed=used - maps,
    )


def _check_words(issued: Issued, program: Program) -> None:
    """Check that a schedule keeps to its own words, as all schedules are loaded at once."""
    schedule = issued.schedule
    for other in program.schedules:
        if other is schedule:
            continue
        for queue in issued.queues:
            words = schedule.words.get(queue.index, np.zeros(0, np.uint64))
            # A queue halts at the word behind its last, unless that was a Halt.
            halts = len(words) > 0 and int(words[-1]) == icu.Halt().encode()
            end = schedule.start + len(words) + (not halts)
            other_end = other.start + len(other.words.get(queue.index, ()))
            if max(schedule.start, other.start) < min(end, other_end):
                raise ScheduleError(
                    f"{queue.name}: expected words {schedule.start} to {end - 1} for this schedule "
                    f"and its halt, found words {other.start} to {other_end - 1} for context "
                    f"{other.context}"
                )


def _check_buses(issued: Issued, violations: Violations) -> int:
    """Check the result buses of ALUs and lane reduction; return how many sources read them."""
    groups = issued.of_kind("alu", "reduce")
    unit, cycle, issue, out = (
        np.concatenate(column)
        for column in zip(
            *((g.unit, g.cycle + g.latency, g.issue, g.intents["out"]) for g in groups),
            strict=True,
        )
    )
    history = History(unit, cycle, int(cycle.max(initial=0)) + 2)
    later, other = history.doubles()
    violations.expect(
        np.zeros(len(later), np.bool_),
        issue[later],
        lambda i: (
            f"result in cycle {cycle[later[i]]}: expected the unit's bus free, found the "
            f"result of {issued.at(int(issue[other[i]]))}"
        ),
    )
    reads = 0
    for group in groups:
        for name in ("a", "b"):
            if name not in group.fields or not takes(group, name):
                continue
            code, meant = group.fields[name], group.intents[name]
            used = np.flatnonzero((code >= SOURCE_ALU) & (code < SOURCE_IMM))
            bus = code[used] - SOURCE_ALU
            mark = history.before(bus, group.cycle[used] + 1)
            stands = np.append(cycle, -1)[mark] == group.cycle[used]
            found = np.where(stands, np.append(out, -1)[mark], -1)
            reads += len(used)
            violations.expect(
                found == meant[used],
                group.issue[used],
                lambda i, name=name, bus=bus, found=found, meant=meant[used]: (
                    f"source {name}: expected value {meant[i]} on the bus of alu{bus[i]}, found "
                    f"{f'value {found[i]}' if found[i] >= 0 else 'nothing'}"
                ),
            )
    return reads


def _check_end(issued: Issued, violations: Violations) -> None:
    """Check that the last effect of every issue, in the last superlane, falls into the run."""
    ripple, cycles = issued.config.superlanes - 1, issued.schedule.cycles
    for group in issued.groups.values():
        effect = group.cycle + group.latency + ripple
        violations.expect(
            effect <= cycles,
            group.issue,
            lambda i, group=group, effect=effect: (
                f"{group.op.mnemonic}: expected its effect by the end in cycle {cycles}, "
                f"found it in cycle {effect[i]}"
            ),
        )

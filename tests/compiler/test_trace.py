"""The trace: valid events, every unit's cycles as the report counts them, names of the model."""

import json
from collections import Counter

import pytest

from waterclock import compiled
from waterclock.compiler.report import report
from waterclock.compiler.trace import CYCLES, trace
from waterclock.isa.floorplan import queues
from waterclock.isa.program import Program


@pytest.fixture(scope="module")
def program() -> Program:
    return compiled(preset="small", context=64)


def test_trace_has_the_cycles_that_the_report_counts(program: Program):
    schedule = program.schedules[0]
    found = json.loads(json.dumps(trace(program, schedule)))
    blocks = [event for event in found["traceEvents"] if event["ph"] == "X"]
    kinds = {queue.index: queue.kind for queue in queues(program.config)}
    spent: Counter[str] = Counter()
    for block in blocks:
        spent[kinds[block["tid"]]] += block["dur"]
    units = report(program, schedule).totals.units
    assert {kind: unit.issues for kind, unit in units.items() if unit.issues} == spent
    assert found["otherData"]["cycles"] == schedule.cycles
    assert found["otherData"]["unit"] == CYCLES


def test_events_are_those_of_the_trace_event_format(program: Program):
    schedule = program.schedules[0]
    for event in trace(program, schedule)["traceEvents"]:
        assert isinstance(event["name"], str)
        assert isinstance(event["pid"], int)
        assert isinstance(event["tid"], int)
        if event["ph"] == "X":
            assert 0 <= event["ts"] < event["ts"] + event["dur"] <= schedule.cycles
            assert event["name"] in schedule.operations
        else:
            assert event["ph"] == "M"
            assert event["name"] in {
                "process_name", "thread_name", "process_sort_index", "thread_sort_index",
            }  # fmt: skip


def test_blocks_of_a_track_do_not_overlap_and_tracks_have_names(program: Program):
    events = trace(program, program.schedules[0])["traceEvents"]
    ends: dict[int, int] = {}
    for event in events:
        if event["ph"] == "X":
            assert event["ts"] >= ends.get(event["tid"], 0)
            ends[event["tid"]] = event["ts"] + event["dur"]
    names = {e["tid"]: e["args"]["name"] for e in events if e["name"] == "thread_name"}
    assert names == {queue.index: queue.name for queue in queues(program.config)}

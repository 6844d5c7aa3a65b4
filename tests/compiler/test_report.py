"""The report accounts for every cycle, and its critical path is one of the program's own."""

import dataclasses
import io
import json

import numpy as np
import pytest
from check_bench import EAST, SUM, WEST, Bench, adder, multiplier
from models import write_random_llama
from rich.console import Console

from waterclock.compiler.checkpoint import load_checkpoint
from waterclock.compiler.compile import compile_model
from waterclock.compiler.report import Report, report, tables
from waterclock.compiler.report_path import CLASSES, Step
from waterclock.isa import decode, load_config, queues
from waterclock.isa.program import Program
from waterclock.isa.sequence import expand
from waterclock.isa.spec import word_bits
from waterclock.isa.text import to_text

SEED = 11


@pytest.fixture(scope="module", params=["small", "medium"])
def compiled(request, tmp_path_factory) -> tuple[Program, Report]:
    """A small random model compiled for a preset, and the report of its one schedule."""
    directory = write_random_llama(
        tmp_path_factory.mktemp("model"),
        hidden=32,
        heads=4,
        kv_heads=2,
        head_dim=8,
        ffn=48,
        vocab=64,
        layers=2,
        tied=True,
        seed=SEED,
    )
    program = compile_model(load_checkpoint(directory), load_config(request.param), 64)
    return program, report(program, program.schedules[0])


def of_bench(bench: Bench, **changed: object) -> Report:
    schedule = dataclasses.replace(bench.schedule(), **changed)
    return report(bench.program(schedule), schedule)


def cycles_of(step: Step) -> int:
    return step.waiting + step.occupied + step.latency + step.travel


# Adding up.


def test_operations_kinds_and_path_each_add_up_to_the_cycles(compiled):
    program, found = compiled
    cycles = program.schedules[0].cycles
    assert found.totals.cycles == cycles
    assert sum(operation.cycles for operation in found.operations) == cycles
    assert sum(kind.cycles for kind in found.kinds) == cycles
    assert sum(found.path.spent().values()) == cycles
    assert (found.path.launch, found.path.tail) == (4, 0)
    assert found.path.launch + sum(map(cycles_of, found.path.steps)) == cycles


def test_each_step_of_the_path_begins_where_the_one_before_ends(compiled):
    _, found = compiled
    now = found.path.launch
    for step in found.path.steps:
        assert min(step.waiting, step.occupied, step.latency, step.travel) >= 0
        now += step.waiting + step.occupied
        assert step.cycle == now, step
        now += step.latency + step.travel
    assert now == found.totals.cycles


def test_each_step_of_the_path_is_an_issue_of_its_queue(compiled):
    program, found = compiled
    issues = expand(program.config, program.schedules[0].words)
    by_name = {queue.name: queue for queue in queues(program.config)}
    for step in found.path.steps:
        queue = by_name[step.queue]
        mine = issues[queue.index]
        (at,) = np.flatnonzero(mine.cycles == step.cycle)
        assert step.text == to_text(decode(queue.kind, int(mine.words[at])))
        served = program.schedules[0].served[queue.index]
        operation = np.repeat(served[:, 1], served[:, 0])[at]
        assert step.operation == program.schedules[0].operations[operation]


def test_path_crosses_every_layer_and_ends_with_the_choice_of_the_token(compiled):
    _, found = compiled
    names = list(dict.fromkeys(step.operation for step in found.path.steps))
    order = [operation.name for operation in found.operations]
    assert names == sorted(names, key=order.index)
    assert {"layers.0.mix", "layers.1.mix", "head"} <= set(names)
    assert names[-1] == "argmax"
    assert found.path.steps[-1].text.startswith("write")


# Counting.


def test_totals_agree_with_what_the_queues_issue(compiled):
    program, found = compiled
    config, schedule, totals = program.config, program.schedules[0], found.totals
    issues = expand(config, schedule.words)
    kinds = {queue.index: queue.kind for queue in queues(config)}
    count = dict.fromkeys(kinds.values(), 0)
    for index, mine in issues.items():
        count[kinds[index]] += len(mine.cycles)
    assert totals.issues == sum(count.values())
    assert {kind: unit.issues for kind, unit in totals.units.items()} == count
    lengths = {index: len(words) for index, words in schedule.words.items()}
    assert totals.words == sum(lengths.values())
    assert totals.longest_queue == max(lengths.values())
    bits = sum(length * word_bits(kinds[index]) for index, length in lengths.items())
    assert 8 * totals.rom_bytes - 8 < bits <= 8 * totals.rom_bytes
    planes = 2 * config.planes
    assert totals.mxm == pytest.approx(count["mxm_abc"] / planes / totals.cycles)
    loaded = count["mxm_lw"] * config.load_streams
    assert totals.weights == pytest.approx(loaded / (2 * config.streams) / totals.cycles)
    assert totals.units["mem_read"].queues == 2 * config.slices
    share = count["mem_read"] / (2 * config.slices * totals.cycles)
    assert totals.units["mem_read"].utilisation == pytest.approx(share)
    assert totals.limit_cycles == program.limit_cycles
    assert totals.ratio == pytest.approx(totals.cycles / program.limit_cycles)


def test_operations_carry_their_first_issue_last_effect_and_issues(compiled):
    program, found = compiled
    config, schedule = program.config, program.schedules[0]
    assert [operation.name for operation in found.operations] == list(schedule.operations)
    issues = expand(config, schedule.words)
    first, last, count = {}, {}, {}
    for queue in queues(config):
        if queue.index not in issues:
            continue
        mine, served = issues[queue.index], schedule.served[queue.index]
        operations = np.repeat(served[:, 1], served[:, 0]).tolist()
        for cycle, word, i in zip(mine.cycles.tolist(), mine.words, operations, strict=True):
            latency = type(decode(queue.kind, int(word))).latency(config)
            first[i] = min(cycle, first.get(i, cycle))
            last[i] = max(cycle + latency + config.superlanes - 1, last.get(i, 0))
            count[i, queue.kind] = count.get((i, queue.kind), 0) + 1
    frontier = 0
    for i, operation in enumerate(found.operations):
        assert (operation.first, operation.last) == (first[i], last[i])
        assert operation.cycles == max(0, last[i] - frontier)
        frontier = max(frontier, last[i])
        mine = {kind: n for (index, kind), n in count.items() if index == i}
        assert operation.issues == mine


def test_kinds_sum_the_layers(compiled):
    _, found = compiled
    assert [(kind.name, kind.operations) for kind in found.kinds] == [
        ("position", 1), ("embed", 1), ("qkv", 2), ("scores", 2), ("mix", 2), ("o", 2),
        ("gate_up", 2), ("down", 2), ("head", 1), ("argmax", 1),
    ]  # fmt: skip
    (mix,) = (kind for kind in found.kinds if kind.name == "mix")
    layers = [operation for operation in found.operations if operation.name.endswith(".mix")]
    assert mix.cycles == sum(operation.cycles for operation in layers)
    assert mix.issues["alu"] == sum(operation.issues["alu"] for operation in layers)


# Paths that are known.


def test_path_of_an_addition_takes_its_operands_from_memory():
    found = of_bench(adder())
    steps = [(s.cycle, s.queue, s.waiting, s.latency, s.travel) for s in found.path.steps]
    # The second result, doubled: x was read one cycle after y, both just in time.
    assert steps == [
        (1, "MEM_W4.read", 0, 2, 2),
        (5, "VXM.alu0", 0, 4, 0),
        (9, "VXM.alu1", 0, 4, 1),
        (14, "MEM_W0.write", 0, 1, 0),
    ]
    assert found.path.steps[0].occupied == 1  # by the Read of the first y
    assert found.path.launch == found.path.tail == 0
    assert found.path.spent() == {
        "vxm": 8, "mxm": 0, "sxm": 0, "mem": 3, "streams": 3, "occupied": 1, "waiting": 0,
        "launch": 0,
    }  # fmt: skip


def test_path_of_a_product_takes_the_input_that_was_ready_last():
    found = of_bench(multiplier())
    # The activation came in the cycle before ABC; the weights could have come 8 cycles earlier.
    assert [(s.cycle, s.queue) for s in found.path.steps] == [
        (15, "MEM_E16.read"),
        (21, "MXM_E0.abl"),
        (22, "MXM_E0.abc"),
        (26, "MXM_E0.acc"),
        (33, "MEM_E20.write"),
    ]
    assert [s.waiting for s in found.path.steps] == [11, 0, 0, 0, 0]
    assert found.path.launch == 4
    assert found.path.spent()["mxm"] == 1 + 4 + 4


def test_path_goes_through_the_weights_when_they_were_ready_last():
    bench = multiplier()
    bench.change("MXM_E0.abl", 21, cycle=12)
    for byte in range(2):
        bench.change(f"MEM_E{16 + byte}.read", 15, cycle=6)
    bench.check()
    found = of_bench(bench)
    # ABC may meet an LW of its own cycle. The LW could come 8 cycles earlier, 2 + 6; the ABL 9.
    assert [(s.cycle, s.queue, s.waiting, s.occupied, s.latency) for s in found.path.steps[:3]] == [
        (10, "MEM_E0.read", 6, 0, 2),
        (20, "MXM_E0.lw", 0, 0, 0),
        (22, "MXM_E0.abc", 1, 1, 4),  # the LW kept the plane busy for one of the two
    ]


def test_path_goes_from_a_read_to_the_write_before_it():
    bench = adder()
    for byte in range(4):
        bench.put(f"MEM_E{byte}.read", 20, f"read addr=3, dst=E{byte}", (-1,))
        bench.put(f"MEM_E{8 + byte}.write", 24, f"write addr=0, src=E{byte}", (SUM, -1))
        bench.results.append((EAST, 8 + byte, 0, SUM, byte))
    bench.check()
    found = of_bench(bench)
    tail = [(s.cycle, s.queue, s.waiting, s.latency, s.travel) for s in found.path.steps[-3:]]
    assert tail == [
        (9, "MEM_E0.write", 0, 1, 0),  # the first sum, written in cycle 9
        (20, "MEM_E0.read", 10, 2, 2),
        (24, "MEM_E8.write", 0, 1, 0),
    ]


def test_path_goes_from_the_later_of_two_inputs():
    bench = Bench()
    for byte in range(4):
        bench.holds(WEST, byte, 0, 10, byte)
        bench.holds(WEST, 4 + byte, 0, 20, byte)
        bench.put(f"MEM_W{byte}.read", 0, f"read addr=0, dst=W{byte}", (-1,))
    # Both operands come from memory when they are wanted; the second was stored later.
    for byte in range(4):
        bench.put(f"MEM_W{4 + byte}.write", 3, f"write addr=9, src=W{byte}", (10, -1))
        bench.put(f"MEM_W{byte}.read", 27, f"read addr=0, dst=E{byte}", (-1,))
        bench.put(f"MEM_W{4 + byte}.read", 26, f"read addr=9, dst=E{4 + byte}", (-1,))
    bench.put("VXM.alu3", 30, "iadd a=E0, b=E4, dst=none, imm=0", (10, 10, 30))
    bench.check()
    found = of_bench(bench)
    assert [(s.cycle, s.queue) for s in found.path.steps] == [
        (0, "MEM_W0.read"),
        (3, "MEM_W4.write"),
        (26, "MEM_W4.read"),
        (30, "VXM.alu3"),
    ]
    assert found.path.steps[2].waiting == 22


def test_cycles_after_the_last_effect_are_waiting_and_the_last_operations():
    found = of_bench(adder(), cycles=40)
    assert found.path.tail == 25
    assert sum(found.path.spent().values()) == 40
    assert found.path.spent()["waiting"] == 25
    assert sum(operation.cycles for operation in found.operations) == 40


def test_a_schedule_without_issues_is_all_waiting():
    found = of_bench(Bench(), cycles=9)
    assert found.path.steps == ()
    assert found.totals.issues == found.totals.words == 0
    assert found.operations[0].cycles == 9


# For people and programs.


def test_report_is_plain_data(compiled):
    _, found = compiled
    read = json.loads(json.dumps(found.to_dict()))
    assert read["totals"]["cycles"] == found.totals.cycles
    assert len(read["path"]["steps"]) == len(found.path.steps)
    assert read["path"]["spent"] == found.path.spent()
    assert set(read["path"]["spent"]) == set(CLASSES)
    assert read["operations"][0]["name"] == "position"


def test_tables_show_the_totals_and_with_details_every_step(compiled):
    _, found = compiled

    def shown(details: bool) -> str:
        console = Console(file=io.StringIO(), width=200)
        for table in tables(found, details=details):
            console.print(table)
        return console.file.getvalue()  # type: ignore[attr-defined]

    brief, long = shown(False), shown(True)
    assert f"{found.totals.cycles:,}" in brief
    assert "gate_up" in brief
    assert "layers.1.gate_up" not in brief
    assert long.startswith(brief)
    assert "layers.1.gate_up" in long
    assert sum(step.text in long for step in found.path.steps) == len(found.path.steps)

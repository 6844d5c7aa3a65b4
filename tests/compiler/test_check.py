"""The checker accepts what is legal and names what is not: programs, operands, streams, buses."""

import dataclasses

import numpy as np
import pytest
from check_bench import (
    ACTIVATION,
    EAST,
    PRODUCT,
    SUM,
    TILE,
    WEST,
    Bench,
    X,
    Y,
    abc,
    adder,
    broken,
    embedder,
    multiplier,
)

from waterclock.compiler.check import ScheduleError, check_program, check_schedule


def test_legal_programs_are_proven():
    proof = adder().check()
    assert (proof.cycles, proof.issues, proof.stream_reads, proof.bus_reads) == (15, 36, 32, 2)
    assert (proof.memory_reads, proof.memory_writes, proof.values) == (16, 16, 8)
    proof = multiplier().check()
    assert (proof.cycles, proof.products, proof.stream_reads) == (34, 1, 22)
    proof = embedder().check()
    assert (proof.maps, proof.maps_assumed) == (0, 2)


def test_every_schedule_of_a_program_is_checked():
    bench = adder()
    good = bench.schedule()
    second = dataclasses.replace(good, start=500)
    assert len(check_program(bench.program(good, second))) == 2
    bench.edit("VXM.alu0", 4, "b=E4", "b=E0")
    second = dataclasses.replace(bench.schedule(), start=500)
    with pytest.raises(ScheduleError, match=r"VXM.alu0 cycle 4 word 501"):
        check_program(bench.program(good, second))


@pytest.mark.parametrize("halt", [False, True])
def test_schedules_do_not_run_into_each_other(halt):
    bench = adder()
    first = bench.schedule()
    if halt:
        words = {i: np.append(w, np.uint64(0)) for i, w in first.words.items()}
        first = dataclasses.replace(first, words=words)
    longest = max(len(words) for words in first.words.values())
    program = bench.program(first, dataclasses.replace(bench.schedule(), start=longest))
    if halt:
        check_program(program)
    else:
        with pytest.raises(ScheduleError, match=r"words 0 to 3 for this .* found words 3 to 5 for"):
            check_program(program)


def test_message_names_queue_cycle_word_operation_expected_and_found():
    bench = adder()
    bench.edit("VXM.alu0", 4, "b=E4", "b=E0")
    with pytest.raises(ScheduleError) as caught:
        bench.check()
    assert str(caught.value) == (
        "bench, context 64: VXM.alu0 cycle 4 word 1 (layer.add): stream E0: expected value 20 "
        "byte 0, found value 10 byte 0 from MEM_W0.read cycle 1 word 1 (layer.add)"
    )


# Tables and queues.


def rejected(bench: Bench, message: str, **fields: object) -> None:
    """Assert that a schedule is rejected once some of its fields are changed."""
    schedule = dataclasses.replace(bench.schedule(), **fields)
    with pytest.raises(ScheduleError, match=message):
        check_schedule(bench.program(), schedule)


def test_intents_and_served_operations_must_count_every_issue():
    bench, schedule = adder(), adder().schedule()
    index = next(iter(schedule.words))
    intents = {**schedule.intents, index: schedule.intents[index][:1]}
    rejected(bench, r"MEM_W0.read: intents: expected 2 issues", intents=intents)
    served = {**schedule.served, index: np.array([[1, 0]], np.int32)}
    rejected(bench, r"MEM_W0.read: served: expected 2 issues, found 1", served=served)
    served = {**schedule.served, index: np.array([[2, 1]], np.int32)}
    rejected(bench, r"MEM_W0.read: served: an operation that is not listed", served=served)


def test_queues_must_exist_and_fit_their_memory():
    bench, schedule = adder(), adder().schedule()
    words = {**schedule.words, 9999: schedule.words[0]}
    rejected(bench, r"queue 9999: the chip has", words=words)
    intents = {**schedule.intents, 9999: schedule.intents[0]}
    rejected(bench, r"queue 9999: the chip has", intents=intents)
    limit = bench.config.imem_words
    words = {**schedule.words, 0: np.zeros(limit + 1, np.uint64)}
    rejected(bench, rf"expected words 0 to {limit - 1}, found {limit + 1} from word 0", words=words)
    rejected(
        bench, rf"expected words 0 to {limit - 1}, found 3 from word {limit - 2}", start=limit - 2
    )


def test_rules_of_the_queues_are_checked():
    bench = adder()
    bench.put("SXM_W.shift", 3, "sync")
    broken(bench, r"SXM_W.shift: Sync waits for a Notify that never comes")


def test_predicted_cycles_must_be_exact():
    bench = adder()
    bench.cycles = 16
    broken(bench, r"cycles: expected 16, found that the last queue halts in cycle 15")
    bench.cycles = 14
    broken(bench, r"MEM_W0.write cycle 14.*expected its effect by the end in cycle 14, found .*15")


def test_effect_after_the_end_is_rejected():
    bench = adder()
    bench.put("VXM.alu4", 12, "exp2 a=imm, b=imm, dst=none, imm=0", (-1, -1, 5))
    broken(
        bench, r"VXM.alu4 cycle 12.*exp2: expected its effect by the end in cycle 15, found .*16"
    )


def test_results_must_be_there_at_the_end():
    bench = adder()
    bench.results.append((EAST, 0, 3, SUM + 1, 0))
    broken(bench, r"result MEM_E0 row 3 .*expected value 31 byte 0, found value 30 byte 0 from MEM")
    bench.results[-1] = (EAST, 0, 9, SUM, 0)
    broken(bench, r"result MEM_E0 row 9 at the end: expected value 30 byte 0, found nothing$")


# Operands.


@pytest.mark.parametrize(
    ("make", "queue", "cycle", "old", "new", "message"),
    [
        (adder, "MEM_W0.read", 1, "dst=E0", "dst=E16", "expected 1 of 16 streams, found E16"),
        (adder, "MEM_W0.read", 1, "addr=0", "addr=2048", "addr: expected below 2048, found 2048"),
        (adder, "MEM_E0.write", 9, "addr=3", "addr=9000", "addr: expected below 2048, found 9000"),
        (adder, "VXM.alu0", 4, "a=E0", "a=E1", "fadd a: expected a multiple of 4, found E1"),
        (adder, "VXM.alu0", 4, "b=E4", "b=E6", "fadd b: expected a multiple of 4, found E6"),
        (adder, "VXM.alu0", 4, "dst=E8", "dst=E9", "dst: expected a multiple of 4, found E9"),
        (adder, "VXM.alu0", 4, "fadd a=E0", "f16_to_f32 a=E1", "a: expected a multiple of 2"),
        (adder, "VXM.alu0", 4, "fadd", "exp2", "intent b: expected none .-1., found 20"),
        (adder, "VXM.alu0", 4, "a=E0", "a=imm", "fadd intent a: expected none .-1., found 10"),
        (adder, "VXM.alu1", 8, "b=imm", "b=E0", "fmul intent b: expected a value, found -1"),
        (adder, "VXM.alu1", 8, "a=alu0", "a=alu17", "one of 16 ALUs .*found alu17"),
        (adder, "VXM.alu1", 8, "fmul a=alu0, b=imm", "mov b=E0, a=alu16", "bus of alu16, found no"),
        (embedder, "MEM_E4.read", 3, "lane=5", "lane=15", "lane 15 .*expected one region, found 0"),
        (embedder, "MEM_E4.read", 3, "map=E0", "map=E1", "map: expected a multiple of 2, found E1"),
        (multiplier, "MXM_E0.lw", 20, "src=E0", "src=W0", "flows outward, found W0"),
        (multiplier, "MXM_E0.lw", 20, "src=E0", "src=E4", "expected 16 of 16 streams, found E4"),
        (multiplier, "MXM_E0.lw", 20, "row=0", "row=1", "row: expected below 1, found 1"),
        (multiplier, "MXM_E0.abl", 21, "src=E0", "src=W0", "flows outward, found W0"),
        (multiplier, "MXM_E0.abl", 21, "src=E0", "src=E1", "expected a multiple of 2, found E1"),
        (multiplier, "MXM_E0.abl", 21, "entry=3", "entry=32", "entry: expected below 32, found 32"),
        (multiplier, "MXM_E0.abc", 22, "acc=2", "acc=32", "acc: expected below 32, found 32"),
        (multiplier, "MXM_E0.abc", 22, "weight=I8", "weight=3", "weight: expected below 3, found"),
        (multiplier, "MXM_E0.abc", 22, "window=ALL", "window=3", "window: expected below 3, found"),
        (multiplier, "MXM_E0.acc", 26, "dst=W4", "dst=E4", "flows inward, found E4"),
        (multiplier, "MXM_E0.acc", 26, "dst=W4", "dst=W6", "expected a multiple of 4, found W6"),
        (multiplier, "MXM_E0.acc", 26, "acc=2", "acc=40", "acc: expected below 32, found 40"),
    ],
    ids=lambda x: x if isinstance(x, str) and "=" in x else "",
)
def test_illegal_operand_is_named(make, queue, cycle, old, new, message):
    bench = make()
    bench.edit(queue, cycle, old, new)
    broken(bench, rf"{queue} cycle {cycle}.*{message}")


@pytest.mark.parametrize(("first", "last"), [(0, 16), (5, 4)])
@pytest.mark.parametrize("window", ["INPUT", "OUTPUT"])
def test_window_must_lie_within_the_vector(window, first, last):
    bench = multiplier()
    bench.change("MXM_E0.abc", 22, text=abc(window=window, first=first, last=last))
    broken(bench, rf"abc window: expected lanes within 0 to 15, found {first} to {last}")


def test_lane_of_a_map_must_lie_within_the_superlane():
    bench = Bench("nano")  # 8 lanes
    bench.put("MEM_E4.read", 3, "gather addr=10, dst=E2, map=E0, lane=8", (1,))
    broken(bench, "gather lane: expected below 4, found 8")


def test_source_and_target_codes_that_mean_nothing_are_rejected():
    bench = adder()
    schedule = bench.schedule()
    index = next(i for i, w in schedule.words.items() if len(w) == 3 and w[1] & np.uint64(63) == 32)
    for operand, low, code in (("a", 6, 0x61), ("dst", 20, 0x01)):
        word = schedule.words[index].copy()
        mask = np.uint64(0x7F << low)
        word[1] = word[1] & ~mask | np.uint64(code << low)
        words = {**schedule.words, index: word}
        rejected(bench, rf"fadd {operand}: expected .*code {code:#x}", words=words)


def test_lane_reduction_has_a_bus_but_no_immediate():
    bench = adder()
    both = [(SUM, 35), (SUM + 1, 36)]
    bench.put("VXM.reduce", 8, "rmax a=alu0, dst=none", *both)  # 4 levels: 4 cycles
    bench.put("VXM.alu2", 12, "mov a=alu16, b=imm, dst=none, imm=0", (35, -1, 37), (36, -1, 38))
    assert bench.check().bus_reads == 6
    bench.edit("VXM.reduce", 8, "a=alu0", "a=imm")
    broken(bench, r"VXM.reduce cycle 8.*rmax a: expected .*found imm")


def test_alu_must_have_the_feature():
    bench = adder()
    bench.change("VXM.alu1", 8, text="exp2 a=alu0, b=imm, dst=W0, imm=0")
    broken(bench, r"VXM.alu1 cycle 8.*exp2: expected an ALU with feature 's', found 'amncibh'")


@pytest.mark.parametrize(("operand", "found"), [("a=alu0, dst=W0", "dst"), ("a=E0, dst=none", "a")])
def test_a_reducer_without_streams_takes_and_drives_none(operand, found):
    bench = adder()
    bench.config = dataclasses.replace(bench.config, reduce_streams=False)
    both = [(X, 35), (X + 1, 36)] if found == "a" else [(SUM, 35), (SUM + 1, 36)]
    bench.put("VXM.reduce", 8, f"rmax {operand}", *both)
    broken(bench, rf"VXM.reduce cycle 8.*rmax {found}: expected no stream, found [EW]0")


def test_a_second_operand_is_one_of_the_lowest_streams():
    bench = adder()
    bench.config = dataclasses.replace(bench.config, b_streams=False)
    broken(bench, r"VXM.alu0 cycle 4.*fadd b: expected one of the lowest 4 streams, found E4")


@pytest.mark.parametrize(
    ("queue", "cycle", "old", "new", "message"),
    [
        ("MXM_E0.abc", 22, "activation=F16", "activation=I8", "abc activation: expected F16"),
        ("MXM_E0.acc", 26, "result=F32", "result=I32", "acc result: expected F32"),
    ],
)
def test_a_plane_without_integers_is_asked_for_none(queue, cycle, old, new, message):
    bench = multiplier()
    bench.config = dataclasses.replace(bench.config, integers=False)
    bench.check()
    bench.edit(queue, cycle, old, new)
    broken(bench, rf"{queue} cycle {cycle}.*{message}, as the planes have no integers")


@pytest.mark.parametrize(
    ("queue", "text", "message"),
    [
        ("MXM_E0.lw", "lw row=2, src=E0, order=ROWS", "row: expected a multiple of 4, found 2"),
        ("MXM_E0.lw", "lw row=0, src=E2, order=ROWS", "src: expected a multiple of 8, found E2"),
        ("MXM_E0.abl", "abl entry=0, src=E4", "src: expected a multiple of 8, found E4"),
        ("VXM.alu0", "f16_to_f32 a=E2, b=imm, dst=none, imm=0", "a: expected a multiple of 4"),
        ("VXM.alu0", "f32_to_f16 a=imm, b=imm, dst=E2, imm=0", "dst: expected a multiple of 4"),
    ],
)
def test_where_slices_are_wide_streams_come_in_fours(queue, text, message):
    bench = Bench("nano")
    bench.config = dataclasses.replace(bench.config, wide=True)
    source = -1 if "a=imm" in text else X
    taken = {"lw": (TILE,), "abl": (ACTIVATION,)}.get(text.split()[0], (source, -1, Y))
    bench.put(queue, 4, text, taken)
    broken(bench, rf"{queue} cycle 4.*{message}")


@pytest.mark.parametrize(
    ("first", "then", "least"),
    [("rsum", "rsum", 12), ("rsum", "rmax", 12), ("rmax", "rsum", 4), ("rmax", "rmin", 4)],
)
def test_a_reducer_works_at_one_pair_after_the_other(first, then, least):
    bench = Bench("nano")
    bench.put("VXM.reduce", 8, f"{first} a=alu0, dst=none", (SUM, 35))
    bench.put("VXM.reduce", 7 + least, f"{then} a=alu0, dst=none", (SUM, 36))
    broken(
        bench,
        rf"VXM.reduce cycle {7 + least}.*expected {least} cycles from an operation to the next, "
        rf"found {least - 1}",
    )


def test_an_alu_takes_an_operation_a_turn():
    bench = Bench("nano")
    bench.put("VXM.alu0", 4, "fadd a=imm, b=imm, dst=none, imm=0", (-1, -1, SUM), (-1, -1, SUM + 1),
              repeat=(1, 0))  # fmt: skip
    broken(bench, r"VXM.alu0 cycle 5.*expected 2 cycles from an operation to the next, found 1")


@pytest.mark.parametrize(
    ("queue", "text", "intents"),
    [
        ("MEM_E0.read", "read addr=0, dst=E1", (-1,)),
        ("MEM_E0.write", "write addr=0, src=E2", (X, -1)),
    ],
)
def test_streams_of_wide_slices_take_paths_that_lead_to_them(queue, text, intents):
    bench = Bench("nano")
    bench.config = dataclasses.replace(bench.config, wide=True)
    bench.put(queue, 4, text, intents)
    broken(bench, rf"{queue} cycle 4.*expected a path that leads to the slice, found {text[-1]}")


@pytest.mark.parametrize(("count", "ok"), [(1, False), (2, True), (4, True), (5, False)])
def test_rotate_takes_two_to_four_streams(count, ok):
    bench = Bench()
    for byte in range(4):
        bench.holds(EAST, byte, 0, X, byte)
        bench.put(f"MEM_E{byte}.read", 0, f"read addr=0, dst=E{byte}", (-1,))
    bench.put("SXM_E.shift", 9, f"rotate src=E0, dst=W0, count={count}", (X, -1, Y))
    bench.put("MEM_E24.write", 12, "write addr=0, src=W1", (Y, -1))
    bench.results.append((EAST, 24, 0, Y, 1))
    if ok:
        assert bench.check().drives == 4 + count**2
    else:
        broken(bench, rf"rotate .*expected .*{'2, 3 or 4' if count == 1 else '25 of 16'}")


def test_intents_are_given_where_a_unit_takes_or_drives_a_value_and_nowhere_else():
    bench = adder()
    bench.change("VXM.alu0", 4, intents=[(X, Y, -1), (X + 1, Y + 1, SUM + 1)])
    broken(bench, r"fadd intent out: expected a value, found -1")
    bench = adder()
    bench.change("MEM_W0.read", 1, intents=[(5,), (-1,)])
    broken(bench, r"MEM_W0.read cycle 1.*read intent map: expected none .-1., found 5")


# Streams.


def test_two_producers_of_a_stream_in_one_column_conflict():
    bench = adder()
    bench.edit("MEM_W1.read", 1, "dst=E1", "dst=E0")
    broken(
        bench,
        r"MEM_W1.read cycle 1 .*drives stream E0 in cycle 3: expected no other producer in this "
        r"column, found MEM_W0.read cycle 1 word 1",
    )


def few_paths():
    bench = adder()
    bench.config = dataclasses.replace(bench.config, paths=4)
    return bench


def test_one_path_carries_one_drive():
    few_paths().check()
    bench = few_paths()
    bench.edit("MEM_W1.read", 1, "dst=E1", "dst=E4")
    broken(
        bench,
        r"MEM_W1.read cycle 1 .*drives stream E4 in cycle 3: expected its path free, found "
        r"stream E0 of MEM_W0.read cycle 1 word 1",
    )


def test_one_path_carries_one_sampled_stream():
    bench = few_paths()
    bench.edit("MEM_E1.write", 9, "src=E9", "src=E12")
    broken(
        bench,
        r"MEM_E1.write cycle 9 .*samples stream E12 in cycle 9: expected its path free, found "
        r"stream E8 of MEM_E0.write cycle 9",
    )


def test_shared_paths_carry_nothing_that_flows_inward():
    bench = few_paths()
    bench.edit("MEM_E1.write", 9, "src=E9", "src=W9")
    broken(bench, r"MEM_E1.write cycle 9 .*expected a stream that flows outward, found W9")


def test_reading_a_stream_that_holds_nothing_is_rejected():
    bench = adder()
    bench.drop("MEM_W5.read", 0)
    broken(bench, r"VXM.alu0 cycle 4.*stream E5: expected value 20 byte 1, found nothing")


def test_overwritten_value_is_met_upstream_only():
    bench = Bench()
    bench.holds(WEST, 0, 0, X, 0)
    bench.holds(EAST, 0, 0, Y, 0)
    bench.put("MEM_W0.read", 0, "read addr=0, dst=E3", (-1,))  # column 8 in cycle 2
    bench.put("MEM_E0.read", 2, "read addr=0, dst=E3", (-1,))  # column 10 in cycle 4: the same
    bench.put("VXM.alu0", 3, "i8_to_i32 a=E3, b=imm, dst=none, imm=0", (X, -1, SUM))
    bench.put("MEM_E4.write", 5, "write addr=0, src=E3", (Y, -1))  # column 11
    bench.results.append((EAST, 4, 0, Y, 0))
    bench.check()
    bench.change("MEM_E4.write", 5, intents=[(X, -1)])
    broken(bench, r"MEM_E4.write cycle 5.*expected value 10, found value 20 byte 0 from MEM_E0")


def test_value_put_in_a_column_is_met_there():
    bench = Bench()
    bench.holds(EAST, 0, 0, X, 0)
    bench.put("MEM_E0.read", 0, "read addr=0, dst=E3", (-1,))
    bench.put("MEM_E1.write", 2, "write addr=0, src=E3", (X, -1))
    bench.results.append((EAST, 1, 0, X, 0))
    bench.check()
    bench.edit("MEM_E0.read", 0, "dst=E3", "dst=W3")
    bench.edit("MEM_E1.write", 2, "src=E3", "src=W3")
    bench.check()


def test_streams_do_not_flow_upstream():
    bench = Bench()
    bench.holds(EAST, 0, 0, X, 0)
    bench.put("MEM_E0.read", 0, "read addr=0, dst=E3", (-1,))
    bench.put("VXM.alu0", 1, "i8_to_i32 a=E3, b=imm, dst=none, imm=0", (X, -1, SUM))
    broken(bench, r"VXM.alu0 cycle 1.*stream E3: expected value 10 byte 0, found nothing")


@pytest.mark.parametrize("byte", [0, 1])
def test_byte_sources_take_byte_zero(byte):
    bench = Bench()
    bench.holds(WEST, 0, 0, X, byte)
    bench.put("MEM_W0.read", 0, "read addr=0, dst=E3", (-1,))
    bench.put("VXM.alu0", 3, "i8_to_i32 a=E3, b=imm, dst=none, imm=0", (X, -1, SUM))
    if byte:
        broken(bench, r"stream E3: expected value 10 byte 0, found value 10 byte 1")
    else:
        bench.check()


def test_narrow_targets_drive_as_many_streams():
    bench = adder()
    bench.edit("VXM.alu1", 8, "fmul", "f32_to_f16")
    broken(bench, r"MEM_W2.write cycle 13.*stream W2: expected value 40, found nothing")


def test_weight_vectors_must_arrive_in_order():
    bench = multiplier()
    bench.edit("MEM_E2.read", 10, "dst=E2", "dst=E3")
    bench.edit("MEM_E3.read", 10, "dst=E3", "dst=E2")
    broken(bench, r"MXM_E0.lw .*stream E2: expected value 50 byte 2, found value 50 byte 3")


# Result buses.


def test_bus_holds_a_result_for_one_cycle():
    bench = adder()
    bench.change("VXM.alu1", 8, cycle=9)
    broken(
        bench, r"VXM.alu1 cycle 9.*source a: expected value 30 on the bus of alu0, found value 31"
    )
    bench.edit("VXM.alu1", 9, "a=alu0", "a=alu4")
    broken(bench, r"VXM.alu1 cycle 9.*expected value 30 on the bus of alu4, found nothing")


def test_two_results_of_one_alu_in_one_cycle_conflict():
    bench = adder()
    bench.put("VXM.alu0", 7, "mov a=imm, b=imm, dst=none, imm=0", (-1, -1, 99))
    broken(bench, r"result in cycle 8: expected the unit's bus free, found .* VXM.alu0 cycle 7")


# SXM.


def shifter() -> Bench:
    """Return a program that shifts both bytes of a value, transposes, and stores."""
    bench = Bench()
    for byte in range(2):
        bench.holds(EAST, byte, 0, X, byte)
        rows = [(X, -1, Y)]
        bench.put(f"MEM_E{byte}.read", byte, f"read addr=0, dst=E{byte}", (-1,))
        bench.put("SXM_E.shift", 9 + byte, f"shift src=E{byte}, dst=W{byte}, count=1", *rows)
        bench.put(f"MEM_E{24 + byte}.write", 12 + byte, f"write addr=0, src=W{byte}", (Y, -1))
        bench.results.append((EAST, 24 + byte, 0, Y, byte))
    return bench


def test_shift_hands_on_the_byte_that_it_takes():
    shifter().check()


def test_shift_must_meet_its_value():
    bench = shifter()
    bench.change("SXM_E.shift", 10, intents=[(X + 1, -1, Y)])
    broken(bench, r"SXM_E.shift cycle 10.*stream E1: expected value 11, found value 10 byte 1")


@pytest.mark.parametrize("queue", ["shift", "permute"])
def test_map_of_sxm_must_arrive(queue):
    bench = shifter()
    text = {
        "shift": "select src=E0, dst=W0, map=E2, count=1",
        "permute": "permute src=E0, dst=W0, map=E2",
    }[queue]
    bench.drop("SXM_E.shift", 9)
    bench.put(f"SXM_E.{queue}", 9, text, (X, 15, Y))
    broken(bench, rf"SXM_E.{queue} cycle 9.*stream E2: expected value 15 byte 0, found nothing")
    for byte in range(2):
        bench.holds(EAST, 2 + byte, 0, 15, byte)
        bench.put(f"MEM_E{2 + byte}.read", 0, f"read addr=0, dst=E{2 + byte}", (-1,))
    bench.check()


def test_transpose_takes_and_drives_all_lanes_in_order():
    bench = Bench()
    for row in range(16):
        bench.holds(EAST, row, 5, TILE, row)
        bench.put(f"MEM_E{row}.read", 10 + row // 4, f"read addr=5, dst=E{row}", (-1,))
        bench.put(f"MEM_E{row}.write", 21 + 7 - row // 4, f"write addr=6, src=W{row}", (Y, -1))
        bench.results.append((EAST, row, 6, Y, row))
    bench.put("SXM_E.transpose", 19, "transpose src=E0, dst=W0", (TILE, Y))
    assert bench.check().stream_reads == 32
    bench.edit("MEM_E7.read", 11, "dst=E7", "dst=E6")
    bench.edit("MEM_E6.read", 11, "dst=E6", "dst=E7")
    broken(bench, r"SXM_E.transpose .*stream E6: expected value 50 byte 6, found value 50 byte 7")


def test_values_of_one_name_are_told_apart_by_byte():
    bench = multiplier()
    bench.edit("MEM_E16.read", 15, "dst=E0", "dst=E1")
    bench.edit("MEM_E17.read", 15, "dst=E1", "dst=E0")
    broken(
        bench, rf"MXM_E0.abl .*expected value {ACTIVATION} byte 0, found value {ACTIVATION} byte"
    )


def test_results_are_byte_planes_of_the_right_value():
    bench = multiplier()
    bench.edit("MEM_E21.write", 33, "src=W5", "src=W6")
    broken(bench, rf"result MEM_E21 row 9.*expected value {PRODUCT} byte 1, found .* byte 2")

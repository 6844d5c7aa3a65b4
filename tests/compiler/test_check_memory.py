"""The checker on memory: rows, banks, regions, maps, and what must stay for the next run."""

import dataclasses

import numpy as np
import pytest
from check_bench import CACHE, EAST, ROW, TOKEN, WEST, Bench, X, Y, broken, embedder, table

from waterclock.compiler.check import ScheduleError, check_program
from waterclock.isa.program import REGION_COLUMNS, Port

# Rows.


def copier() -> Bench:
    """Return a program that copies a row from E0 to E4 and on to E8."""
    bench = Bench()
    bench.holds(EAST, 0, 0, X, 2)
    bench.put("MEM_E0.read", 0, "read addr=0, dst=E3", (-1,))
    bench.put("MEM_E4.write", 3, "write addr=7, src=E3", (X, -1))
    bench.put("MEM_E4.read", 4, "read addr=7, dst=E5", (-1,))
    bench.put("MEM_E8.write", 7, "write addr=8, src=E5", (X, -1))
    bench.results.append((EAST, 8, 8, X, 2))
    return bench


def test_write_is_seen_by_a_read_in_the_next_cycle():
    copier().check()


def test_write_is_not_seen_by_a_read_before_it():
    bench = copier()
    bench.change("MEM_E4.read", 4, cycle=2)
    broken(bench, r"MEM_E4.read cycle 2.*read addr 7: expected a value, found unwritten memory")


def test_unwritten_memory_must_not_be_read():
    bench = copier()
    bench.edit("MEM_E0.read", 0, "addr=0", "addr=1")
    broken(bench, r"MEM_E0.read cycle 0 .*read addr 1: expected a value, found unwritten memory")


def test_last_write_of_a_row_is_what_a_read_finds():
    bench = copier()
    bench.holds(EAST, 1, 0, Y, 2)
    bench.put("MEM_E1.read", 2, "read addr=0, dst=E3", (-1,))
    bench.put("MEM_E4.write", 5, "write addr=7, src=E3", (Y, -1))
    bench.change("MEM_E4.read", 4, cycle=6)
    bench.change("MEM_E8.write", 7, cycle=9)
    broken(bench, r"MEM_E8.write cycle 9.*stream E5: expected value 10, found value 20 byte 2")


def test_write_must_meet_its_value_but_takes_any_byte():
    bench = copier()
    bench.change("MEM_E4.write", 3, intents=[(Y, -1)])
    broken(bench, r"MEM_E4.write cycle 3.*stream E3: expected value 20, found value 10 byte 2")


@pytest.mark.parametrize("bank", [0, 1])
def test_read_and_write_in_one_cycle_need_different_banks(bank):
    bench = copier()
    row = 5 + bank * bench.config.rows
    bench.holds(EAST, 4, row, Y, 0)
    bench.put("MEM_E4.read", 3, f"read addr={row}, dst=W0", (-1,))
    if bank:
        bench.check()
    else:
        broken(
            bench,
            r"MEM_E4.read cycle 3 .*reads bank 0: expected no write in it in this cycle, found "
            r"MEM_E4.write cycle 3",
        )


def straddler(base: int, count: int, row: int) -> Bench:
    """Return a Gather from ``base`` in the cycle in which ``row`` of its slice is written."""
    bench = copier()
    bench.drop("MEM_E4.read", 4)
    bench.drop("MEM_E8.write", 7)
    bench.results.clear()
    bench.edit("MEM_E4.write", 3, "addr=7", f"addr={row}")
    for byte in range(2):
        bench.holds(EAST, 1 + byte, 0, TOKEN, byte)
        bench.put(f"MEM_E{1 + byte}.read", 0, f"read addr=0, dst=E{byte}", (-1,))
    bench.put("MEM_E4.read", 3, f"gather addr={base}, dst=W0, map=E0, lane=0", (TOKEN,))
    bench.regions.append((0, EAST, 4, base, count, TOKEN, 0, ROW, 0, -1, -1, 1, 0))
    bench.extents.append((EAST, 4, base, 1, count, 200, 1, 0))
    bench.put("SXM_W.shift", 8, "notify")  # lets the last effect end
    return bench


@pytest.mark.parametrize(
    ("base", "count", "row", "bank"),
    [
        (10, 4, 1500, None),
        (10, 4, 500, "bank 0"),
        (1022, 4, 500, "both banks"),
        (1022, 4, 1500, "both banks"),
    ],
)
def test_gather_occupies_the_banks_of_its_whole_region(base, count, row, bank):
    bench = straddler(base, count, row)
    if bank:
        broken(bench, rf"MEM_E4.read cycle 3.*reads {bank}: expected no write")
    else:
        bench.check()


# Regions.


@pytest.mark.parametrize(
    ("queue", "cycle", "old", "new"),
    [
        ("MEM_E4.read", 3, "addr=10", "addr=11"),
        ("MEM_E4.read", 3, "lane=5", "lane=4"),
        ("MEM_E8.write", 6, "addr=100", "addr=99"),
        ("MEM_E8.write", 6, "lane=5", "lane=6"),
    ],
)
def test_gather_and_scatter_must_match_a_region(queue, cycle, old, new):
    bench = embedder()
    bench.edit(queue, cycle, old, new)
    broken(bench, rf"{queue} cycle {cycle}.*{new.replace('=', ' ')}.* expected one region, found 0")


def test_map_of_an_intent_must_be_that_of_a_region():
    bench = embedder()
    bench.change("MEM_E8.write", 6, intents=[(ROW, TOKEN + 5)])
    broken(bench, r"MEM_E8.write cycle 6.*map 85: expected one region, found 0")


def test_regions_must_not_be_ambiguous():
    bench = embedder()
    bench.regions.append(bench.regions[0])
    broken(bench, r"MEM_E4.read cycle 3.*expected one region, found 2")


@pytest.mark.parametrize(
    ("column", "value"),
    [("count", 0), ("count", 3000), ("slice", 28), ("side", 2), ("base", -1), ("value", -1)],
)
def test_regions_must_lie_within_a_slice(column, value):
    bench = embedder()
    row = list(bench.regions[0])
    row[REGION_COLUMNS.index(column)] = value
    bench.regions[0] = tuple(row)
    broken(bench, r"region 0: expected")


def test_map_must_arrive_at_gather_and_scatter():
    bench = embedder()
    bench.drop("MEM_E1.read", 2)
    broken(bench, r"MEM_E8.write cycle 6.*stream E1: expected value 80 byte 1, found nothing")


def test_rows_of_a_gather_must_be_initialised():
    bench = embedder()
    bench.memory[EAST, 4, 10] = np.zeros((2, 16), np.uint8)
    broken(bench, r"MEM_E4.read cycle 3.*found unwritten memory at MEM_E4 row 12")
    bench.holds(EAST, 4, 12, X, 0)
    bench.check()


def test_gather_yields_the_value_of_its_region():
    bench = embedder()
    row = list(bench.regions[0])
    row[REGION_COLUMNS.index("value")] = X
    bench.regions[0] = tuple(row)
    broken(bench, r"MEM_E8.write cycle 6.*stream E2: expected value 81, found value 10 byte 0")


def test_scatter_must_meet_the_source_of_its_region():
    bench = embedder()
    row = list(bench.regions[0])
    row[REGION_COLUMNS.index("byte")] = 1
    bench.regions[0] = tuple(row)
    broken(bench, r"scatter src: expected value 81 byte 0 for its region, found value 81 byte 1")


def test_rows_of_a_scatter_region_are_stale_before_the_scatter():
    bench = embedder()
    bench.holds(EAST, 8, 101, CACHE, 1)
    bench.check()
    bench.put("MEM_E8.read", 5, "read addr=101, dst=E9", (-1,))
    broken(bench, r"MEM_E8.read cycle 5.*read addr 101: expected a value, found unwritten memory")


def test_rows_of_a_scatter_region_must_be_in_the_image():
    bench = embedder()
    bench.memory[EAST, 8, 100] = np.zeros((3, 16), np.uint8)
    broken(bench, r"MEM_E8.write cycle 6.*in the memory image.*unwritten memory at MEM_E8 row 103")


def test_spare_row_of_a_scatter_region_holds_nothing_afterwards():
    bench = embedder()
    bench.holds(EAST, 8, 104, CACHE + 2, 0)
    bench.put("MEM_E8.read", 11, "read addr=104, dst=E3", (-1,))
    broken(bench, r"MEM_E8.read cycle 11.*read addr 104: expected a value, found unwritten memory")


def test_region_is_scattered_once_a_run():
    bench = embedder()
    for byte in range(2):  # the map again, 20 cycles later, for another Gather and Scatter
        for cycle in (20, 22):
            bench.put(f"MEM_E{byte}.read", cycle, f"read addr=0, dst=E{byte}", (-1,))
    bench.put("MEM_E4.read", 23, "gather addr=10, dst=E2, map=E0, lane=5", (TOKEN,))
    bench.put("MEM_E8.write", 26, "scatter addr=100, src=E2, map=E0, lane=5", (ROW, TOKEN))
    broken(bench, r"MEM_E8.write cycle 26.*once a run, found it scattered before by .* cycle 6")


# Maps.


def looker(*, largest: int, lane: int = 5) -> Bench:
    """Return a Gather by a map that an earlier Gather takes from a table of the image."""
    bench = embedder()
    cache = ("MEM_E8.write", "MEM_E8.read", "MEM_E12.write")
    bench.placed = [p for p in bench.placed if p.queue not in cache]
    bench.results.clear()
    bench.regions.clear()
    low, high = np.zeros((2, 3, 16), np.uint8)
    low[1, 5], high[1, 5] = largest % 256, largest // 256
    low[2, 5] = 255  # the bytes of one row belong together: 255, not 255 + 256
    bench.memory = {(EAST, 4, 10): low[:1], (EAST, 4, 11): low[1:], (EAST, 5, 10): high}
    bench.memory[EAST, 12, 0] = np.zeros((300, 16), np.uint8)
    for byte in range(2):
        bench.regions.append((0, EAST, 4 + byte, 10, 3, TOKEN, lane, X, byte, -1, -1, 1, 0))
    bench.regions.append((0, EAST, 12, 0, 300, X, lane, Y, 0, -1, -1, 1, 0))
    bench.edit("MEM_E4.read", 3, "lane=5", f"lane={lane}")
    bench.put("MEM_E5.read", 3, f"gather addr=10, dst=E3, map=E0, lane={lane}", (TOKEN,))
    bench.put("MEM_E12.read", 7, f"gather addr=0, dst=E4, map=E2, lane={lane}", (X,))
    bench.put("MEM_E16.write", 10, "write addr=0, src=E4", (Y, -1))
    return bench


def test_table_of_maps_is_checked_against_the_regions_that_use_it():
    proof = looker(largest=299).check()
    assert (proof.maps, proof.maps_assumed) == (1, 2)
    broken(looker(largest=300), r"MEM_E12.read cycle 7.*map: expected below 300.*, found 300")
    looker(largest=300, lane=6).check()


def test_map_of_the_image_itself_is_checked():
    bench = looker(largest=0)
    bench.ports.clear()
    bench.extents = [row for row in bench.extents if row[5] != TOKEN]
    for byte, content in enumerate((4, 0)):
        bench.holds(EAST, byte, 0, TOKEN, byte)
        bench.memory[EAST, byte, 0] = np.full((1, 16), content, np.uint8)
    broken(bench, r"MEM_E4.read cycle 3.*gather map: expected below 3, .*found 4")
    bench.memory[EAST, 0, 0][0, 5] = 2
    assert bench.check().maps == 3


# What the next run needs.


def test_memory_image_must_not_be_overwritten():
    bench = embedder()
    bench.edit("MEM_E12.write", 10, "addr=0", "addr=9")
    bench.results[0] = (EAST, 12, 9, CACHE, 0)
    bench.check()
    bench.memory[EAST, 12, 9] = np.zeros((1, 16), np.uint8)
    bench.check()  # a gap of the image
    bench.holds(EAST, 12, 9, X, 0)
    broken(bench, r"MEM_E12.write cycle 10.*write addr 9: .*found one of the memory image")
    bench.ports["in"] = Port(
        places=np.array([[[[EAST, 12, 9]]]], np.int64), dtype="int8", shape=(16,)
    )
    bench.check()


def test_table_of_a_gather_must_not_be_overwritten():
    bench = embedder()
    bench.put("MEM_E4.write", 20, "write addr=11, src=E0", (X, -1))
    bench.holds(WEST, 0, 0, X, 0)
    bench.put("MEM_W0.read", 15, "read addr=0, dst=E0", (-1,))
    broken(bench, r"MEM_E4.write cycle 20.*write addr 11: .*found one of the memory image")


def test_rows_that_are_scattered_must_not_be_written():
    bench = embedder()
    bench.holds(EAST, 5, 0, X, 0)
    bench.put("MEM_E5.read", 2, "read addr=0, dst=E7", (-1,))
    bench.put("MEM_E8.write", 5, "write addr=102, src=E7", (X, -1))
    broken(bench, r"MEM_E8.write cycle 5.*write addr 102: .*found one of a Scatter region")
    bench.edit("MEM_E8.write", 5, "102", "104")
    bench.check()  # the spare row is nobody's


def test_rows_that_another_schedule_scatters_must_not_be_touched():
    bench, other = embedder(), embedder()
    row = list(other.regions[1])
    row[REGION_COLUMNS.index("base")] = 0
    row[REGION_COLUMNS.index("slice")] = 12
    other.regions.append(tuple(row))
    program = bench.program(bench.schedule(), dataclasses.replace(other.schedule(), start=99))
    with pytest.raises(ScheduleError, match=r"MEM_E12.write cycle 10.*one of a Scatter region"):
        check_program(program)


# Tables of the program.


@pytest.mark.parametrize(
    "row",
    [
        (2, 0, 0, 1, 1, X, 0, 0),
        (EAST, 28, 0, 1, 1, X, 0, 0),
        (EAST, 0, 2040, 1, 9, X, 0, 0),
        (EAST, 0, 3, -1, 5, X, 0, 0),
        (EAST, 0, 3, 1, 0, X, 0, 0),
        (EAST, 0, 3, 1, 5, 3, -1, 0),
        (EAST, 0, 3, 1, 5, X, 0, 70000),
    ],
)
def test_extents_must_lie_within_slices(row):
    bench = copier()
    bench.extents.append(row)
    broken(bench, r"extent 1: expected")


def test_extents_must_be_loaded():
    bench = copier()
    schedule = bench.schedule()
    program = dataclasses.replace(bench.program(schedule), memory={})
    with pytest.raises(ScheduleError, match=r"extents: MEM_E0 row 0: .*nobody loads it"):
        check_program(program)


def test_extents_must_give_a_row_one_tag():
    bench = copier()
    bench.holds(EAST, 0, 0, Y, 0)
    broken(bench, r"extents: MEM_E0 row 0: expected one tag, found value 10 byte 2 and value 20")


def test_memory_image_must_have_rows_of_the_vector():
    bench = copier()
    bench.memory[EAST, 0, 0] = np.zeros((1, 8), np.uint8)
    broken(bench, r"memory \(1, 0, 0\): expected rows of 16 bytes, found uint8 \(1, 8\)")


def test_tables_must_have_their_columns():
    bench = copier()
    schedule = bench.schedule()
    schedule = dataclasses.replace(schedule, results=table([(1, 2)], ("side", "slice")))
    with pytest.raises(ScheduleError, match=r"results: expected columns side, slice, row"):
        check_program(bench.program(schedule))

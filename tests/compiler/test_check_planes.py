"""The checker on MXM planes: buffers, arrays, accumulators and their times."""

import dataclasses

import pytest
from check_bench import ACTIVATION, EAST, PRODUCT, TILE, Bench, abc, broken, multiplier

from waterclock.isa.mxm import acc_delay, weights_at

NEXT = PRODUCT + 1  # the product after another ABC
OTHER = TILE + 1  # another tile


def narrow(orders: tuple[str, str] = ("ROWS", "ROWS"), rows: tuple[int, int] = (0, 4)) -> Bench:
    """Return a product on a plane of 8 x 8 that takes two LWs a tile and three cycles an ABC."""
    bench = Bench("nano")
    bench.config = dataclasses.replace(bench.config, slices=12, load_streams=4, sxm=True)
    for i in range(8):  # slice i holds vector i; slices 0 to 3 are a column nearer to the VXM
        bench.holds(EAST, i, 5, TILE, rows[i // 4] + i % 4)
        bench.put(f"MEM_E{i}.read", 4 if i < 4 else 6, f"read addr=5, dst=E{i % 4}", (-1,))
    for i in range(2):
        text = f"lw row={rows[i]}, src=E0, order={orders[i]}"
        bench.put("MXM_E0.lw", 10 + i, text, (TILE,))
    bench.put("MXM_E0.iw", 12, "iw", ())
    for byte in range(2):
        bench.holds(EAST, 8 + byte, 0, ACTIVATION, byte)
        bench.put(f"MEM_E{8 + byte}.read", 8, f"read addr=0, dst=E{byte}", (-1,))
    bench.put("MXM_E0.abl", 12, "abl entry=3, src=E0", (ACTIVATION,))
    bench.put("MXM_E0.abc", 13, abc(last=7), (ACTIVATION, TILE, -1, PRODUCT))
    bench.put(
        "MXM_E0.acc", 13 + acc_delay(bench.config), "acc acc=2, dst=W4, result=F32", (PRODUCT,)
    )
    bench.put("SXM_E.shift", 30, "notify")  # the run lasts until all effects are over
    return bench


# Weights.


def test_install_needs_a_load_in_an_earlier_cycle():
    bench = multiplier()
    bench.change("MXM_E0.iw", 21, cycle=20)
    broken(bench, r"MXM_E0.iw cycle 20.*iw: expected a buffer .*all 16 vectors.*incomplete")


def test_buffer_is_filled_by_several_loads():
    assert narrow().check().stream_reads == 10
    narrow(("COLUMNS", "COLUMNS")).check()
    narrow(rows=(4, 0)).check()


@pytest.mark.parametrize("rows", [(0, 0), (0, 3), (4, 4)])
def test_buffer_needs_all_its_rows(rows):
    broken(narrow(rows=rows), r"MXM_E0.iw cycle 12.*all 8 vectors.*found it incomplete")


@pytest.mark.parametrize("orders", [("ROWS", "COLUMNS"), ("COLUMNS", "ROWS")])
def test_buffer_needs_one_order(orders):
    broken(narrow(orders), r"MXM_E0.iw cycle 12.*in one order, found it incomplete")


def test_buffer_needs_one_tile():
    bench = narrow()
    bench.change("MXM_E0.lw", 11, intents=[(OTHER,)])
    bench.extents[4:8] = [(EAST, i, 5, 0, 1, OTHER, 0, i) for i in range(4, 8)]
    broken(bench, r"MXM_E0.iw cycle 12.*one tile in one order, found it incomplete")


def test_install_serves_a_product_from_the_cycle_before():
    bench = multiplier()
    bench.change("MXM_E0.iw", 21, cycle=23)
    bench.check()
    bench.change("MXM_E0.iw", 23, cycle=24)
    broken(bench, r"MXM_E0.abc cycle 22.*abc weights: expected value 50, found nothing")


def test_product_needs_its_tile():
    bench = multiplier()
    bench.change("MXM_E0.abc", 22, intents=[(ACTIVATION, OTHER, -1, PRODUCT)])
    broken(bench, r"MXM_E0.abc cycle 22.*abc weights: expected value 51, found value 50")


@pytest.mark.parametrize(("passed", "ok"), [(0, True), (1, False), (2, True)])
def test_array_must_not_change_while_it_multiplies(passed, ok):
    bench = narrow()
    cycle = 13 + weights_at(bench.config) - 1 + passed
    bench.put("MXM_E0.iw", cycle, "iw", ())
    if ok:
        bench.check()
    else:
        broken(
            bench,
            r"MXM_E0.abc cycle 13.*expected value 50 for 2 cycles, found them changed by "
            rf"MXM_E0.iw cycle {cycle}",
        )


@pytest.mark.parametrize(("distance", "ok"), [(1, False), (2, True)])
def test_products_keep_their_distance(distance, ok):
    bench = narrow()
    bench.put("MXM_E0.abc", 13 + distance, abc(acc=5), (ACTIVATION, TILE, -1, NEXT))
    if ok:
        bench.check()
    else:
        broken(
            bench,
            rf"MXM_E0.abc cycle {13 + distance}.*expected 2 cycles after the one before, found "
            r"MXM_E0.abc cycle 13",
        )


# Activations.


def test_entry_is_seen_from_the_cycle_after_its_load():
    bench = multiplier()
    bench.change("MXM_E0.abc", 22, cycle=21)
    broken(bench, r"MXM_E0.abc cycle 21.*abc entry 3: expected value 60, found nothing")


def test_entry_must_hold_its_value():
    bench = multiplier()
    bench.change("MXM_E0.abc", 22, text=abc(entry=4))
    broken(bench, r"MXM_E0.abc cycle 22.*abc entry 4: expected value 60, found nothing")
    bench.change("MXM_E0.abc", 22, text=abc(), intents=[(61, TILE, -1, PRODUCT)])
    broken(bench, r"MXM_E0.abc cycle 22.*abc entry 3: expected value 61, found value 60")


# Accumulators.


def twice(text: str, before: int) -> Bench:
    """Return a program whose second ABC is ``text`` and whose ACC comes as early as it may."""
    bench = multiplier()
    bench.put("MXM_E0.abc", 23, text, (ACTIVATION, TILE, before, NEXT))
    bench.change("MXM_E0.acc", 26, cycle=27, intents=[(NEXT,)])
    for byte in range(4):
        queue = f"MEM_E{20 + byte}.write"
        bench.change(queue, 33, cycle=34, intents=[(NEXT, -1)])
        bench.results[byte] = (EAST, 20 + byte, 9, NEXT, byte)
    return bench


@pytest.mark.parametrize(
    ("fields", "before", "message"),
    [
        ({"add": 1}, PRODUCT, None),
        ({"add": 1}, -1, "accumulator 2: expected nothing before, to add to, found value 70"),
        ({"add": 1}, 75, "accumulator 2: expected value 75 before, to add to, found value 70"),
        ({"add": 1, "acc": 3}, PRODUCT, "accumulator 3: expected value 70 before, to add to"),
        ({"add": 1, "acc": 3}, -1, "accumulator 3: expected nothing before, to add to, found no"),
        ({"add": 0}, -1, None),
        ({"add": 0}, PRODUCT, "accumulator 2: expected value 70 before, found nothing kept"),
        ({"add": 0, "window": "INPUT"}, -1, None),
        ({"add": 0, "window": "OUTPUT"}, PRODUCT, None),
        ({"add": 0, "window": "OUTPUT"}, -1, "expected nothing before, found value 70"),
    ],
    ids=str,
)
def test_product_meets_what_it_adds_to_or_keeps(fields, before, message):
    bench = twice(abc(**fields), before)
    if message is None:
        bench.check()
    else:
        broken(bench, rf"MXM_E0.abc cycle 23.*abc {message}|MXM_E0.abc cycle 23.*{message}")


def test_first_window_of_an_accumulator_keeps_nothing():
    bench = multiplier()
    bench.change("MXM_E0.abc", 22, text=abc(window="OUTPUT"))
    bench.check()


def test_accumulator_is_seen_after_its_delay():
    bench = twice(abc(add=1), PRODUCT)
    bench.check()
    bench.change("MXM_E0.acc", 27, cycle=26)
    broken(bench, r"MXM_E0.acc cycle 26.*acc accumulator 2: expected value 71, found value 70")
    bench.change("MXM_E0.acc", 26, cycle=25)
    broken(bench, r"MXM_E0.acc cycle 25.*acc accumulator 2: expected value 71, found nothing")


def test_emission_needs_its_accumulator():
    bench = multiplier()
    bench.edit("MXM_E0.acc", 26, "acc=2", "acc=1")
    broken(bench, r"MXM_E0.acc cycle 26.*acc accumulator 1: expected value 70, found nothing")


def test_planes_are_apart():
    bench = multiplier()
    bench.put("MXM_W0.iw", 22, "iw", ())
    broken(bench, r"MXM_W0.iw cycle 22.*found it incomplete")
    bench = multiplier()
    bench.put("MXM_W0.acc", 26, "acc acc=2, dst=E4, result=F32", (PRODUCT,))
    broken(bench, r"MXM_W0.acc cycle 26.*acc accumulator 2: expected value 70, found nothing")

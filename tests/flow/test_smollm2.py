"""SmolLM2-135M-Instruct on medium: all of it on one chip, proven, exact, near the limit."""

import pytest

from waterclock import Program, run
from waterclock.api import encode_prompt, loaded, scheduled
from waterclock.compiler.check import check_program
from waterclock.compiler.report import report
from waterclock.conversation import question
from waterclock.isa.errors import UserError

pytestmark = pytest.mark.long

CONTEXT = 128
BLOCKS_CONTEXT = 256  #: what `run` and `chat` have if none is asked for
MOST_CYCLES = 95_000  #: of a token
MOST_CODE = 1 << 20  #: bytes of all instruction memories
MOST_SCHEDULE = MOST_CODE // 4  #: bytes of a schedule, on average, with blocks
LEAST_LINEAR = 0.85  #: of the bound by multiplications, in a block


@pytest.fixture(scope="module")
def program() -> Program:
    try:
        model = loaded("smollm2", "medium", CONTEXT)
    except UserError as error:
        pytest.skip(str(error))
    return scheduled(model)


def test_it_is_proven_and_near_the_limit(program):
    proofs = check_program(program)
    assert [proof.context for proof in proofs] == [64, 128]
    assert program.limit_cycles == 65_664
    assert max(schedule.cycles for schedule in program.schedules) <= MOST_CYCLES
    words = sum(len(found) for schedule in program.schedules for found in schedule.words.values())
    assert 8 * words <= MOST_CODE


@pytest.fixture(scope="module")
def with_blocks() -> Program:
    try:
        model = loaded("smollm2", "medium", BLOCKS_CONTEXT)
    except UserError as error:
        pytest.skip(str(error))
    return scheduled(model, prefill=True)


def test_blocks_of_positions_go_through_all_layers(with_blocks):
    proofs = check_program(with_blocks)
    assert [proof.context for proof in proofs] == 2 * [64, 128, 256]
    schedules = with_blocks.schedules
    words = sum(len(code) for schedule in schedules for code in schedule.words.values())
    assert 8 * words <= MOST_SCHEDULE * len(schedules)
    block = next(schedule for schedule in schedules if schedule.block > 1)
    assert report(with_blocks, block).linear >= LEAST_LINEAR


def test_a_block_runs_on_rtl(with_blocks):
    text = "Once upon a time there was a question: " + 8 * "what is the capital of France? "
    prompt = encode_prompt(with_blocks, text)
    block = next(schedule for schedule in with_blocks.schedules if schedule.block > 1)
    assert block.block < len(prompt) < 128
    # Of a block the golden machine's signature would take an hour.
    result = run(with_blocks, prompt, 4, "rtl", signatures=0)
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted
    assert max(result.cycles_measured) == block.cycles


@pytest.mark.parametrize("engine", ["golden", "rtl"])
def test_it_answers(program, engine):
    prompt = question(program, "What is the capital of France?")
    tokens = 16 if engine == "rtl" else 1
    fed = prompt if engine == "rtl" else prompt[:2]
    result = run(program, fed, tokens, engine)
    assert result.exact
    assert result.cycles_measured == result.cycles_predicted
    if engine == "rtl":
        assert "Paris" in (result.text or "")

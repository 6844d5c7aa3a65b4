"""Choosing tokens: ranges, seeds, and the probabilities that are asked for."""

import numpy as np
import pytest

from waterclock.isa.errors import UserError
from waterclock.sampling import Sampler

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.05, 0.25], np.float32))
SQUARES = np.exp(LOGITS.astype(float)) ** 2  # probabilities at temperature 1/2, times a number
DRAWS = 4000


def shares(**options: float) -> np.ndarray:
    """Return how often each token is drawn."""
    sampler = Sampler(seed=1, **options)  # pyright: ignore[reportArgumentType]
    return np.bincount([sampler(LOGITS) for _ in range(DRAWS)], minlength=5) / DRAWS


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"temperature": 0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1}, [0.1, 0.4, 0.2, 0.05, 0.25]),
        ({"temperature": 0.5}, (SQUARES / SQUARES.sum()).tolist()),
        ({"temperature": 1, "top_k": 2}, [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        ({"temperature": 1, "top_k": 99}, [0.1, 0.4, 0.2, 0.05, 0.25]),
        ({"temperature": 1, "top_p": 0.6}, [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        ({"temperature": 1, "top_p": 0.3}, [0, 1, 0, 0, 0]),
        ({"temperature": 1, "top_k": 3, "top_p": 0.7}, [0, 0.4 / 0.65, 0, 0, 0.25 / 0.65]),
        ({"temperature": 1e-30}, [0, 1, 0, 0, 0]),
        ({"temperature": 1e30}, [0.2] * 5),
    ],
)
def test_tokens_have_the_probabilities_that_are_asked_for(
    options: dict[str, float], expected: list[float]
) -> None:
    found = shares(**options)
    assert np.abs(found - expected).max() < 0.03, found
    assert ((found > 0) <= (np.array(expected) > 0)).all()


def test_a_seed_repeats_and_none_does_not() -> None:
    flat = np.zeros(50_000, np.float32)

    def draws(seed: int | None) -> list[int]:
        sampler = Sampler(1, seed=seed)
        return [sampler(flat) for _ in range(4)]

    assert draws(5) == draws(5)
    assert draws(5) != draws(6)
    assert draws(None) != draws(None)


def test_of_equal_logits_the_lowest_number_wins() -> None:
    assert Sampler()(np.array([1, 3, 3], np.float32)) == 1
    assert Sampler(1, top_k=1)(np.array([1, 3, 3], np.float32)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.1}, "temperature: found -0.1, expected 0 or more"),
        ({"temperature": float("nan")}, "temperature: found nan, expected 0 or more"),
        ({"temperature": float("inf")}, "temperature: found inf, expected 0 or more"),
        ({"top_k": 0}, "top-k: found 0, expected 1 or more"),
        ({"top_p": 0}, "top-p: found 0, expected above 0, and 1 at most"),
        ({"top_p": 1.01}, "top-p: found 1.01, expected above 0, and 1 at most"),
        ({"top_p": float("nan")}, "top-p: found nan, expected above 0, and 1 at most"),
        ({"seed": -1}, "seed: found -1, expected 0 or more"),
    ],
)
def test_numbers_out_of_range_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Sampler(**options)  # pyright: ignore[reportArgumentType]
    assert str(caught.value) == message

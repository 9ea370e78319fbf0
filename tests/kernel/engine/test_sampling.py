"""Draws: the softmax's own shares, cut where asked, and the same for equal seeds and places."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.kernel.engine.sampling import Sampling, draw, uniform

SCORES = np.array([0.3, -1.0, 2.0, 1.1, -np.inf, 0.0], "f4")
COUNT = 4000


def shares(sampling):
    drawn = np.bincount([draw(SCORES, sampling, place) for place in range(COUNT)], minlength=len(SCORES))
    return drawn / COUNT


def softmax(temperature, kept):
    chances = np.where(np.isin(np.arange(len(SCORES)), kept), np.exp(SCORES / temperature), 0)
    return chances / chances.sum()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, [0, 1, 2, 3, 5]),
        ({"temperature": 0.5}, [0, 1, 2, 3, 5]),
        ({"temperature": 3.0}, [0, 1, 2, 3, 5]),
        ({"top_k": 2}, [2, 3]),
        ({"top_k": 100}, [0, 1, 2, 3, 5]),
        ({"top_p": 0.5}, [2]),
        ({"top_p": 0.75}, [2, 3]),
        ({"top_k": 3, "top_p": 0.999}, [0, 2, 3]),
    ],
)
def test_tokens_come_as_often_as_the_softmax_says(settings, kept):
    sampling = Sampling(seed=3, **settings)
    expected = softmax(sampling.temperature, kept)
    error = 4 * np.sqrt(expected * (1 - expected) / COUNT)
    assert (abs(shares(sampling) - expected) <= error).all()


@given(st.integers(0, 2**63 - 1), st.integers(0, 10_000))
def test_chance_is_a_function_of_seed_and_place(seed, place):
    assert 0 <= uniform(seed, place) < 1
    sampling = Sampling(seed=seed)
    assert draw(SCORES, sampling, place) == draw(SCORES.astype("f8"), sampling, place)


def test_seeds_and_places_are_independent():
    grid = np.array([[uniform(seed, place) for place in range(200)] for seed in range(200)])
    assert abs(grid.mean() - 0.5) < 0.006  # 4 standard errors
    for other in (grid[1:, :-1], grid[:-1, :-1].T):
        assert abs(np.corrcoef(grid[:-1, 1:].ravel(), other.ravel())[0, 1]) < 0.02


@pytest.mark.parametrize("temperature", [1e-6, 0.0])
def test_cold_draws_are_the_likeliest_token_whatever_the_scores(temperature):
    assert {draw(SCORES * 1e4, Sampling(temperature, seed=1), place) for place in range(50)} == {2}

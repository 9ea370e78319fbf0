"""Means of bounded values by betting."""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given, settings
from hypothesis import strategies as st
from soaking import size

from salver.stats.bounded_mean import MeanEvidence, log_capitals, start
from salver.words.errors import InvalidInput

VALUES = st.lists(st.floats(0, 1), max_size=30)
KINDS = {"coins": (0.3, 0.7), "wide": (0.6, 1.4), "narrow": (30.0, 70.0), "rare": (0.02, 1.98)}


def draws(kind: str, shape: tuple[int, int], seed: int) -> tuple[np.ndarray, float]:
    a, b = KINDS[kind]
    rng = np.random.default_rng(seed)
    values = rng.random(shape) < a if kind == "coins" else rng.beta(a, b, shape)
    return values.astype(float), a / (a + b)


@pytest.mark.parametrize("kind", KINDS)
def test_watched_at_every_value_it_keeps_the_size(kind: str) -> None:
    values, mean = draws(kind, (2000, 1000), 81)
    above, below = log_capitals(values, mean)
    both = np.logaddexp(above, below) - math.log(2)
    for capital in (above, below, both):
        may_be((capital.max(axis=1) >= math.log(20)).sum(), 2000, at_most=0.05)


def test_whoever_bets_in_vain_keeps_the_mean_of_capital_at_one() -> None:
    """Exactly so: the mean over all sequences of three values of two kinds is 1."""
    grid = np.array(np.meshgrid(*[[0.0, 1.0]] * 3)).reshape(3, -1).T
    chances = np.prod(np.where(grid == 1, 0.25, 0.75), axis=1)
    for capital in log_capitals(grid, 0.25):
        assert chances @ np.exp(capital[:, -1]) == pytest.approx(1, abs=1e-12)


@given(VALUES.filter(bool), st.floats(0.01, 0.99))
@settings(max_examples=50)
def test_arrays_say_the_same(values: list[float], mean: float) -> None:
    evidence, above, below = start([mean]), [], []
    for value in values:
        evidence = evidence.add([value])
        above.append(evidence.log_e_above())
        below.append(evidence.log_e_below())
    found = log_capitals([values], mean)
    np.testing.assert_allclose(found[0][0], above, atol=1e-9)
    np.testing.assert_allclose(found[1][0], below, atol=1e-9)
    assert evidence.log_e() == pytest.approx(np.logaddexp(above[-1], below[-1]) - math.log(2), abs=1e-9)


@given(VALUES, st.integers(0, 30))
@settings(max_examples=50)
def test_at_once_or_with_a_restart_in_between_is_the_same_bit_by_bit(values: list[float], at: int) -> None:
    half = start(alpha=0.1).add(values[:at])
    again = msgspec.json.decode(msgspec.json.encode(half), type=MeanEvidence)
    assert again.add(values[at:]) == start(alpha=0.1).add(values)


@pytest.mark.soak
def test_the_interval_covers_and_narrows() -> None:
    rows = size(200, 50)
    values, mean = draws("wide", (rows, 1500), 82)
    missed = 0
    for row in values:
        evidence = start()
        for part in np.split(row, 10):
            evidence = evidence.add(part.tolist())
            low, high = evidence.interval()
            if not low <= mean <= high:
                missed += 1
                break
        else:
            assert high - low < 0.08
    may_be(missed, rows, at_most=0.05)


def test_the_interval_is_between_the_means_that_either_side_refutes_at_half_of_alpha() -> None:
    evidence = start(alpha=0.1).add(draws("wide", (1, 400), 85)[0][0].tolist())
    low, high = evidence.interval()
    for mean, above, below in zip(evidence.means, evidence.log_above, evidence.log_below, strict=True):
        assert (above >= math.log(20)) == (mean <= low)
        assert (below >= math.log(20)) == (mean >= high)


def test_little_noise_makes_it_narrow() -> None:
    narrow = start().add(draws("narrow", (1, 500), 83)[0][0].tolist()).interval()
    coins = start().add(draws("coins", (1, 500), 83)[0][0].tolist()).interval()
    assert narrow.high - narrow.low < 0.4 * (coins.high - coins.low)


def test_nothing_seen_is_nothing_known() -> None:
    assert start().interval() == (0, 1)
    assert start([0.5]).log_e() == 0


def test_probabilities_that_no_longer_hold_are_found_within_200_labels() -> None:
    """Of late labels: what came less what was predicted has the mean 0, scaled to [0, 1]."""
    rng = np.random.default_rng(84)
    p = rng.beta(2, 2, (300, 200))
    true, drifted = (rng.random(p.shape) < p), (rng.random(p.shape) < np.clip(p + 0.2, 0, 1))
    for labels, bound in ((true, {"at_most": 0.01}), (drifted, {"at_least": 0.95})):
        above, below = log_capitals((labels - p + 1) / 2, 0.5, alpha=0.01)
        both = np.logaddexp(above, below) - math.log(2)
        may_be((both.max(axis=1) >= math.log(100)).sum(), 300, **bound)


def test_what_cannot_be_is_refused() -> None:
    for means, alpha in (([0.0], 0.05), ([1.0], 0.05), ([math.nan], 0.05), ([0.5], 0.0), ([0.5], 1.0)):
        with pytest.raises(InvalidInput, match="cannot be"):
            start(means, alpha)
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(InvalidInput, match="not between 0 and 1"):
            start().add([0.5, value])


def test_numbers_of_numpy_are_written_down_as_others_are() -> None:
    values = np.array([0.25, 0.5], np.float32)
    found = start(np.array([0.5]), np.float64(0.1)).add(values)
    assert msgspec.json.encode(found) == msgspec.json.encode(start([0.5], 0.1).add([0.25, 0.5]))

"""Quantiles and proportions that are watched, and A/B tests of them."""

import math

import numpy as np
import pytest
from chances import may_be
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.stats.boundaries import BetaBinomial
from salver.stats.quantile_sequence import ab_p_value, proportion, quantile
from salver.words.errors import InvalidInput

ROW = np.arange(1, 1001)


def test_the_published_interval_of_a_proportion() -> None:
    assert proportion(15, 50, best=50) == pytest.approx((0.129556, 0.511896), abs=1e-5)


@pytest.mark.parametrize(
    ("shift", "p", "value"), [(70, 0.5, 0.814704), (100, 0.5, 0.0054947), (55, 0.9, 0.0340463)]
)
def test_the_published_p_values_of_shifted_arms(shift: int, p: float, value: float) -> None:
    assert ab_p_value(ROW, ROW + shift, p) == pytest.approx(value, abs=1e-5)
    assert ab_p_value(ROW + shift, ROW, p) == pytest.approx(value, abs=1e-5)


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_a_watched_quantile_is_covered_at_every_look(p: float) -> None:
    rng, missed = np.random.default_rng(101), 0
    true = math.exp(1.2815515655446004 if p == 0.9 else 2.3263478740408408 if p == 0.99 else 0.0)
    for _ in range(400):
        values = rng.lognormal(size=2000)
        for count in (50, 100, 200, 400, 800, 1400, 2000):
            low, high = quantile(values[:count], p, best=500)
            if not low <= true <= high:
                missed += 1
                break
    may_be(missed, 400, at_most=0.05)


def test_values_that_are_often_the_same_are_covered_too() -> None:
    rng, missed = np.random.default_rng(102), 0
    for _ in range(400):
        values = rng.integers(0, 4, 600)
        bounds = [quantile(values[:count], 0.6) for count in range(50, 601, 50)]
        missed += not all(low <= 2 <= high for low, high in bounds)
    may_be(missed, 400, at_most=0.05)


def test_latencies_that_differ_are_found_and_equal_ones_are_not() -> None:
    rng = np.random.default_rng(103)
    found = {1.0: 0, 1.3: 0}
    for factor in found:
        for _ in range(200):
            stable, canary = rng.lognormal(0, 0.5, 1500), factor * rng.lognormal(0, 0.5, 1500)
            looks = (ab_p_value(stable[:n], canary[:n], 0.9) for n in (250, 500, 1000, 1500))
            found[factor] += any(p <= 0.05 for p in looks)
    may_be(found[1.0], 200, at_most=0.05)
    may_be(found[1.3], 200, at_least=0.9)


@given(
    st.lists(st.integers(0, 20), min_size=1, max_size=40),
    st.lists(st.integers(0, 20), min_size=1, max_size=40),
    st.floats(0.05, 0.95),
)
@settings(max_examples=40)
def test_no_place_of_the_common_quantile_is_less_refuted(a: list[int], b: list[int], p: float) -> None:
    """By trying them all: values, the gaps between them, and beyond."""
    mixture = BetaBinomial.tuned(100 * p * (1 - p), 0.05, p, 1 - p)
    least = math.inf
    for place in np.arange(-0.5, 21, 0.5):
        total = 0.0
        for arm in (np.array(a), np.array(b)):
            splits = np.linspace((arm < place).sum(), (arm <= place).sum(), 500)
            total += mixture.log_e(splits - p * arm.size, p * (1 - p) * arm.size).min()
        least = min(least, total)
    assert ab_p_value(a, b, p) == pytest.approx(math.exp(-max(0.0, least)), rel=1e-3)


@given(st.integers(1, 300), st.data(), st.floats(0.001, 0.2))
@settings(max_examples=50)
def test_a_watched_proportion_is_inside_its_bounds(trials: int, data: st.DataObject, alpha: float) -> None:
    hits = data.draw(st.integers(0, trials))
    low, high = proportion(hits, trials, alpha)
    assert 0 <= low <= hits / trials <= high <= 1
    assert proportion(trials - hits, trials, alpha) == pytest.approx((1 - high, 1 - low), abs=1e-6)


def test_a_watched_proportion_is_covered_at_every_look() -> None:
    hits = (np.random.default_rng(104).random((1000, 300)) < 0.1).cumsum(axis=1)
    bounds = {
        (count, n): proportion(count, n, best=100)
        for n in range(20, 301, 20)
        for count in set(hits[:, n - 1].tolist())
    }
    missed = 0
    for row in hits:
        intervals = [bounds[int(row[n - 1]), n] for n in range(20, 301, 20)]
        missed += not all(low <= 0.1 <= high for low, high in intervals)
    may_be(missed, 1000, at_most=0.05)


@given(st.integers(1, 400), st.floats(0.02, 0.98))
@settings(max_examples=60)
def test_the_bounds_are_the_outermost_values_that_may_be_the_quantile(count: int, p: float) -> None:
    mixture = BetaBinomial.tuned(100 * p * (1 - p), 0.05, p, 1 - p)
    log_e = mixture.log_e(np.arange(count + 1) - p * count, p * (1 - p) * count)
    # the value i has i values below it and i + 1 up to it; between them lies the mixture's least, if anywhere
    least = np.minimum(log_e[:-1], log_e[1:])
    least[int(np.argmin(log_e[:-1] + log_e[1:]))] = -1.0
    left = np.flatnonzero(least < math.log(20))
    low, high = quantile(np.random.default_rng(105).permutation(count), p)
    assert low in (left[0], -math.inf)
    assert high in (left[-1], math.inf)
    assert (low == -math.inf) == (log_e[0] < math.log(20))
    assert (high == math.inf) == (log_e[-1] < math.log(20))


def test_too_little_is_no_bound() -> None:
    assert quantile([1.0, 2.0, 3.0], 0.5) == (-math.inf, math.inf)
    assert quantile([1.0, 2.0, 3.0], 0.99) == (1.0, math.inf)
    low, high = quantile(np.arange(200), 0.99)
    assert (low > 150, high) == (True, math.inf)
    assert proportion(0, 10).low == 0
    assert proportion(10, 10).high == 1


def test_what_cannot_be_is_refused() -> None:
    for hits, trials in ((-1, 5), (6, 5), (0, 0)):
        with pytest.raises(InvalidInput, match="cannot be"):
            proportion(hits, trials)
    square = [[1.0, 2.0], [3.0, 4.0]]
    for values, p in (([], 0.5), ([1.0, math.nan], 0.5), ([1.0], 0.0), ([1.0], 1.0), (square, 0.5)):
        with pytest.raises(InvalidInput, match="cannot be"):
            quantile(values, p)
        with pytest.raises(InvalidInput, match="cannot be"):
            ab_p_value(values, [1.0, 2.0], p)

"""Several e-values: their weighted mean, and e-BH."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.combine import e_bh, log_mean
from salver.words.errors import InvalidInput

LOG_ES = st.lists(st.floats(-700, 700), min_size=1, max_size=10)


@given(LOG_ES, st.data())
def test_it_is_the_weighted_mean(log_es: list[float], data: st.DataObject) -> None:
    parts = data.draw(st.lists(st.floats(0.01, 1), min_size=len(log_es), max_size=len(log_es)))
    weights = [part / sum(parts) for part in parts]
    expected = np.logaddexp.reduce(np.array(log_es) + np.log(weights))
    assert log_mean(log_es, weights) == pytest.approx(expected, abs=1e-8)
    assert log_mean(log_es) == pytest.approx(np.logaddexp.reduce(log_es) - math.log(len(log_es)), abs=1e-8)


@given(LOG_ES)
def test_one_that_passes_its_own_bound_passes_that_of_all(log_es: list[float]) -> None:
    weights = [1 / len(log_es)] * len(log_es)
    alone = max(log_e + math.log(weight) for log_e, weight in zip(log_es, weights, strict=True))
    assert log_mean(log_es, weights) >= alone - 1e-9


def test_a_weight_that_is_not_spent_is_kept() -> None:
    assert log_mean([-math.inf], [0.25]) == pytest.approx(math.log(0.75))
    assert log_mean([math.log(21)], [0.05]) == pytest.approx(math.log(2))
    assert log_mean([math.log(5), math.log(7)], [1.0, 0.0]) == math.log(5)
    assert log_mean([-math.inf, -math.inf]) == -math.inf


@pytest.mark.parametrize(
    ("log_es", "weights"),
    [([], []), ([0.0], [0.5, 0.5]), ([0.0], [1.1]), ([0.0, 0.0], [1.5, -0.5]), ([0.0, math.nan], [])],
)
def test_weights_that_do_not_fit_are_refused(log_es: list[float], weights: list[float]) -> None:
    with pytest.raises(InvalidInput, match="do not fit"):
        log_mean(log_es, weights)


def test_e_bh_finds_the_strongest() -> None:
    assert e_bh([math.log(e) for e in (200, 0.5, 39, 41)], 0.05) == [0, 3, 2]
    assert e_bh([0.0, 0.0], 0.05) == []
    assert e_bh([], 0.05) == []


@given(LOG_ES, st.floats(0.001, 0.999))
def test_e_bh_is_its_definition(log_es: list[float], rate: float) -> None:
    found = e_bh(log_es, rate)
    by_strength = sorted(log_es, reverse=True)
    passing = [
        k for k in range(1, len(log_es) + 1) if by_strength[k - 1] >= math.log(len(log_es) / (k * rate))
    ]
    assert sorted((log_es[i] for i in found), reverse=True) == by_strength[: max(passing, default=0)]


def test_e_bh_bounds_false_discoveries_whatever_the_dependence() -> None:
    rng, rate, found = np.random.default_rng(51), 0.1, []
    for _ in range(2000):
        noise = 0.7 * rng.normal() + math.sqrt(0.51) * rng.normal(size=50)  # correlated by .49
        noise[:5] += 5
        rejected = e_bh(list(3 * noise - 4.5), rate)  # the likelihood ratio of a mean of 3 against 0
        found.append(sum(index >= 5 for index in rejected) / max(1, len(rejected)))
    assert np.mean(found) - 3.3 * np.std(found) / math.sqrt(2000) <= rate * 45 / 50


def test_arrays_are_sequences_too() -> None:
    log_es = np.array([1.0, 3.0])
    assert log_mean(log_es) == log_mean([1.0, 3.0])
    assert log_mean(log_es, np.array([0.5, 0.25])) == log_mean([1.0, 3.0], [0.5, 0.25])
    assert e_bh(log_es, 0.2) == e_bh([1.0, 3.0], 0.2) == [1]


@pytest.mark.parametrize(
    ("log_es", "rate"), [([math.nan, 9.0], 0.05), ([9.0], 0.0), ([9.0], 1.0), ([9.0], math.nan)]
)
def test_discoveries_that_cannot_be_counted_are_refused(log_es: list[float], rate: float) -> None:
    with pytest.raises(InvalidInput, match="cannot be"):
        e_bh(log_es, rate)

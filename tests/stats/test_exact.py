"""Clopper-Pearson, by its definition and by what other implementations give."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binom, binomtest

from salver.stats.exact import clopper_pearson
from salver.words.errors import InvalidInput


@given(st.integers(1, 2000), st.data(), st.floats(0.5, 0.9999))
def test_it_is_that_of_scipy(trials: int, data: st.DataObject, confidence: float) -> None:
    successes = data.draw(st.integers(0, trials))
    other = binomtest(successes, trials).proportion_ci(confidence, method="exact")
    assert clopper_pearson(successes, trials, confidence) == pytest.approx((other.low, other.high), abs=1e-9)


@pytest.mark.parametrize("p", [0.001, 0.03, 0.5, 0.98])
@pytest.mark.parametrize("trials", [5, 50, 300])
def test_it_covers_whatever_the_proportion(p: float, trials: int) -> None:
    covered = 0.0
    for successes in range(trials + 1):
        low, high = clopper_pearson(successes, trials)
        covered += float(binom.pmf(successes, trials, p)) * (low <= p <= high)
    assert covered >= 0.95


def test_nothing_seen_says_something() -> None:
    assert clopper_pearson(0, 0) == (0, 1)
    assert clopper_pearson(0, 3000).high == pytest.approx(1 - 0.025 ** (1 / 3000))
    assert clopper_pearson(10, 10) == pytest.approx((0.025**0.1, 1))


@pytest.mark.parametrize(
    ("successes", "trials", "confidence"),
    [(-1, 5, 0.9), (6, 5, 0.9), (1, 5, 0.0), (1, 5, 1.0), (1, 5, math.nan), (1, math.inf, 0.9)],
)
def test_what_cannot_be_is_refused(successes: int, trials: int, confidence: float) -> None:
    with pytest.raises(InvalidInput, match="cannot be"):
        clopper_pearson(successes, trials, confidence)


@pytest.mark.parametrize("nines", [3, 9, 13, 15])
@pytest.mark.parametrize(("successes", "trials"), [(3, 17), (0, 5), (5, 5), (499, 1000), (5, 10**9)])
def test_both_sides_are_as_exact_at_any_confidence(successes: int, trials: int, nines: int) -> None:
    confidence = 1 - 10.0**-nines
    low, high = clopper_pearson(successes, trials, confidence)
    tail = (1 - confidence) / 2
    if successes:
        assert beta.cdf(low, successes, trials - successes + 1) == pytest.approx(tail, rel=1e-6, abs=0)
    if successes < trials:
        assert beta.sf(high, successes + 1, trials - successes) == pytest.approx(tail, rel=1e-6, abs=0)

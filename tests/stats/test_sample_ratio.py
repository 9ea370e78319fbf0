"""Have the arms as many units as they should? Every unit may be a look."""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import gammaln
from scipy.stats import chi2, chisquare

from salver.stats import multinomial_evidence
from salver.stats.sample_ratio import SampleRatio, chi_squared, start
from salver.words.errors import InvalidInput

LOOKS, STEP = 400, 250
HALVES = (0.5, 0.5)


def paths(share: float, replications: int, seed: int, concentration: float = 1000.0) -> np.ndarray:
    """``log_e`` of two arms that should be halves, at each look; shape (replication, look)."""
    rng = np.random.default_rng(seed)
    first = rng.binomial(STEP, share, (replications, LOOKS)).cumsum(axis=1)
    total = STEP * np.arange(1, LOOKS + 1)
    half = concentration / 2

    def log_beta(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return gammaln(a) + gammaln(b) - gammaln(a + b)

    start_at = float(log_beta(np.float64(half), np.float64(half)))
    return log_beta(half + first, half + total - first) - start_at + total * math.log(2)


def test_the_paths_of_these_tests_are_those_of_the_evidence() -> None:
    rng = np.random.default_rng(31)
    first = rng.binomial(STEP, 0.5, (1, LOOKS))
    evidence, own = start(2), []
    for count in first[0].tolist():
        evidence = evidence.add((count, STEP - count), HALVES)
        own.append(evidence.log_e)
    np.testing.assert_allclose(paths(0.5, 1, 31)[0], own, atol=1e-6)


def test_watched_all_the_time_it_is_rarely_wrong_where_chi_squared_is_often() -> None:
    replications = 4000
    hits = (paths(0.5, replications, 32) >= math.log(1000)).any(axis=1).sum()
    may_be(hits, replications, at_most=0.001)
    first = np.random.default_rng(32).binomial(STEP, 0.5, (replications, LOOKS)).cumsum(axis=1)
    total = STEP * np.arange(1, LOOKS + 1)
    naive = ((2 * first - total) ** 2 / total >= chi2.isf(0.001, 1)).any(axis=1).sum()
    may_be(naive, replications, at_least=0.015, near=0.0185)


@pytest.mark.parametrize(("share", "median"), [(0.51, 42_500), (0.52, 11_000)])
def test_it_needs_as_many_units_as_a_fixed_design(share: float, median: float) -> None:
    passed = paths(share, 2000, 33) >= math.log(1000)
    units = np.where(passed.any(axis=1), (passed.argmax(axis=1) + 1) * STEP, math.inf)
    assert np.median(units) == pytest.approx(median, rel=0.05)


@given(st.lists(st.lists(st.integers(0, 100), min_size=3, max_size=3), max_size=8), st.floats(10.0, 1000.0))
def test_with_shares_that_stay_it_is_the_dirichlet_form(rows: list[list[int]], concentration: float) -> None:
    shares = (0.2, 0.3, 0.5)
    plain = multinomial_evidence.start(shares, concentration)
    evidence = start(3, concentration)
    for row in rows:
        plain, evidence = plain.add(row), evidence.add(row, shares)
    assert evidence.log_e == pytest.approx(plain.log_e, abs=1e-6)


def test_shares_that_change_keep_the_size_and_pooling_them_would_not() -> None:
    rng, replications, hits = np.random.default_rng(34), 1000, 0
    stages = [(0.99, 0.01), (0.95, 0.05), (0.75, 0.25), (0.5, 0.5)]
    wrong = 0
    for _ in range(replications):
        evidence, pooled, most = start(2), [0, 0], 0.0
        for shares in stages:
            for row in rng.multinomial(500, shares, 10).tolist():
                evidence = evidence.add(row, shares)
                most = max(most, evidence.log_e)
                pooled = [a + b for a, b in zip(pooled, row, strict=True)]
        hits += most >= math.log(20)
        wrong += chi_squared(pooled, stages[-1])[1] < 0.05
    may_be(hits, replications, at_most=0.05)
    assert wrong == replications


@given(
    st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0.01, 0.99)), max_size=5),
    st.floats(0.01, 0.99),
    st.integers(1, 12),
)
def test_no_bet_can_be_expected_to_gain_whatever_came_before(
    past: list[tuple[int, int, float]], share: float, units: int
) -> None:
    """Exactly so, whatever the shares were: a sum over all that the next bucket can hold."""
    evidence = start(2)
    for first, second, before in past:
        evidence = evidence.add((first, second), (before, 1 - before))
    mean = sum(
        math.comb(units, first)
        * share**first
        * (1 - share) ** (units - first)
        * math.exp(evidence.add((first, units - first), (share, 1 - share)).log_e - evidence.log_e)
        for first in range(units + 1)
    )
    assert mean == pytest.approx(1, abs=1e-6)


def test_what_was_learnt_of_an_arm_survives_a_change_of_shares() -> None:
    """An arm that loses a tenth of its units does so at every share."""
    learnt = start(2)
    for _ in range(20):
        learnt = learnt.add((9500, 450), (0.95, 0.05))
    before = learnt.log_e
    fresh = start(2).add((5000, 4500), (0.5, 0.5)).log_e
    assert learnt.add((5000, 4500), (0.5, 0.5)).log_e - before > fresh


@pytest.mark.parametrize(
    ("counts", "statistic", "p"), [((9463, 7681), 185.2, 3.5e-42), ((502, 498), 0.016, 0.899)]
)
def test_chi_squared_gives_the_published_values(counts: tuple[int, int], statistic: float, p: float) -> None:
    found, tail = chi_squared(counts, HALVES)
    assert found == pytest.approx(statistic, abs=0.05)
    assert tail == pytest.approx(p, rel=0.01)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=12))
def test_chi_squared_is_that_of_scipy(counts: list[int]) -> None:
    shares = [1 / len(counts)] * len(counts)
    other = chisquare(counts)
    found, tail = chi_squared(counts, shares)
    assert found == pytest.approx(other.statistic, rel=1e-9, abs=1e-9)
    assert tail == pytest.approx(other.pvalue, rel=1e-8, abs=1e-300)


def test_a_restart_in_between_changes_not_a_bit() -> None:
    once = again = start(2)
    for count in range(40):
        once = once.add((count, 20), (0.4, 0.6))
        again = msgspec.json.decode(msgspec.json.encode(again), type=SampleRatio).add((count, 20), (0.4, 0.6))
    assert again == once
    assert again.log_e.hex() == once.log_e.hex()


def test_what_cannot_be_is_refused() -> None:
    for arms, concentration in ((1, 100.0), (2, 0.0), (2, math.nan)):
        with pytest.raises(InvalidInput, match="cannot be"):
            start(arms, concentration)
    for counts, shares in (
        ((1, 2, 3), HALVES),
        ((1, 2), (0.5, 0.3, 0.2)),
        ((1, -2), HALVES),
        ((1, math.inf), HALVES),
        ((1, 2), (1.0, 0.0)),
    ):
        with pytest.raises(InvalidInput, match="not those of"):
            start(2).add(counts, shares)
    with pytest.raises(InvalidInput, match="no units"):
        chi_squared((0, 0), HALVES)


@pytest.mark.parametrize("arms", [1500, 3000, 3001])
def test_chi_squared_bears_thousands_of_arms(arms: int) -> None:
    counts = np.random.default_rng(35).multinomial(100 * arms, np.full(arms, 1 / arms))
    assert chi_squared(counts, [1 / arms] * arms)[1] == pytest.approx(chisquare(counts).pvalue, rel=1e-8)


def test_numbers_of_numpy_are_written_down_as_others_are() -> None:
    found = start(2).add(np.array([3, 4]), np.array([0.4, 0.6]))
    assert msgspec.json.encode(found) == msgspec.json.encode(start(2).add((3, 4), (0.4, 0.6)))

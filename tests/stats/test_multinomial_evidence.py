"""The Dirichlet-multinomial form, by the published vectors of Lindon & Malek's examples."""

import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.multinomial_evidence import (
    MultinomialEvidence,
    Null,
    log_likelihood,
    log_marginal,
    start,
)
from salver.words.errors import InvalidInput


def first_rejection(evidence: MultinomialEvidence, draws: np.ndarray) -> tuple[int, float]:
    """The look at which 5 % is passed, and the p-value there."""
    for look, row in enumerate(draws, 1):
        evidence = evidence.add([int(count) for count in row])
        if evidence.p_value < 0.05:
            return look, evidence.p_value
    pytest.fail("never rejected")


def test_the_published_example_of_a_simple_null() -> None:
    np.random.seed(1)
    draws = np.random.multinomial(1, (0.1, 0.3, 0.6), 1000)
    look, p = first_rejection(start((0.1, 0.4, 0.5)), draws)
    assert look == 402
    assert p == pytest.approx(0.04845591105969517, abs=1e-9)


def test_the_published_example_of_no_arm_better_than_the_first() -> None:
    shares = np.array((0.1, 0.3, 0.6))
    true = shares * (0.2, 0.3, 0.4)
    np.random.seed(1)
    draws = np.random.multinomial(1, true / true.sum(), 5250)
    look, p = first_rejection(start(tuple(shares), null="none_higher"), draws)
    assert look == 302
    assert p == pytest.approx(0.0492354656, abs=1e-7)


COUNTS = st.lists(st.integers(0, 300), min_size=2, max_size=5)


@given(COUNTS, st.sampled_from(["none_higher", "none_lower"]))
def test_a_composite_null_is_fitted_as_well_as_can_be(counts: list[int], null: Null) -> None:
    shares = np.linspace(1, 2, len(counts))
    shares /= shares.sum()
    evidence = start(tuple(shares), null=null).add(counts)
    best = log_marginal(100 * shares, counts) - evidence.log_e
    rng = np.random.default_rng(5)
    for rates in rng.exponential(size=(50, len(counts))):
        rates[0] = max(rates) if null == "none_higher" else min(rates)
        fitted = shares * rates
        assert log_likelihood(counts, fitted / fitted.sum()) <= best + 1e-9
    assert evidence.log_e <= start(tuple(shares)).add(counts).log_e + 1e-9


@given(COUNTS)
def test_the_marginal_is_the_product_of_predictions(counts: list[int]) -> None:
    prior = [2.0 + arm for arm in range(len(counts))]
    weights, total = list(prior), 0.0
    for arm in itertools.chain.from_iterable([arm] * count for arm, count in enumerate(counts)):
        total += math.log(weights[arm] / sum(weights))
        weights[arm] += 1
    assert log_marginal(prior, counts) == pytest.approx(total, rel=1e-9, abs=1e-8)


@pytest.mark.parametrize("null", ["equal", "none_higher", "none_lower"])
def test_looking_at_every_event_keeps_the_size(null: Null) -> None:
    rng, replications, shares = np.random.default_rng(21), 300, (0.2, 0.3, 0.5)
    hits = 0
    for _ in range(replications):
        evidence = start(shares, 20, null)
        for row in rng.multinomial(5, shares, 100):
            evidence = evidence.add(row.tolist())
            if evidence.p_value <= 0.05:
                hits += 1
                break
    may_be(hits, replications, at_most=0.05)


def test_each_direction_is_found_by_its_own_null() -> None:
    more, less = (400, 700, 700), (900, 450, 450)
    thirds = (1 / 3, 1 / 3, 1 / 3)
    assert start(thirds, null="none_higher").add(more).p_value < 1e-6
    assert start(thirds, null="none_lower").add(more).p_value == 1
    assert start(thirds, null="none_higher").add(less).p_value == 1
    assert start(thirds, null="none_lower").add(less).p_value < 1e-6


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=10))
def test_a_restart_in_between_changes_not_a_bit(rows: list[tuple[int, int]]) -> None:
    once = again = start((0.3, 0.7))
    for row in rows:
        once = once.add(row)
        again = msgspec.json.decode(msgspec.json.encode(again), type=MultinomialEvidence).add(row)
    assert once == again
    assert once.log_e.hex() == again.log_e.hex()
    assert start((0.3, 0.7)).p_value == 1


def test_what_cannot_be_is_refused() -> None:
    for shares in ((1.0,), (0.5, 0.4), (1.0, 0.0), (math.nan, 0.5)):
        with pytest.raises(InvalidInput, match="shares"):
            start(shares)
    for concentration in (0.0, math.inf, math.nan):
        with pytest.raises(InvalidInput, match="concentration"):
            start((0.5, 0.5), concentration)
    for counts in ((1,), (1, -1), (1, 2, 3), (1, math.inf), (1, math.nan), (1, 0.5)):
        with pytest.raises(InvalidInput, match="counts"):
            start((0.5, 0.5)).add(counts)


def test_a_null_that_is_spelt_wrongly_is_refused() -> None:
    wrong: Any = "none_higer"
    with pytest.raises(InvalidInput, match=r"'none_higer'.* equal, none_higher, none_lower"):
        start((0.5, 0.5), null=wrong)


def test_numbers_of_numpy_are_written_down_as_others_are() -> None:
    found = start(np.array([0.5, 0.5]), np.float64(20)).add(np.array([3, 4]))
    assert msgspec.json.encode(found) == msgspec.json.encode(start((0.5, 0.5), 20).add((3, 4)))

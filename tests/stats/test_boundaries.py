"""Uniform boundaries, by the published values (tolerance 1e-5) and by walks that must not leave them."""

import math
from collections.abc import Callable

import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.special import log_ndtr
from soaking import size

from salver.stats.boundaries import (
    BetaBinomial,
    beta_binomial_mixture,
    double_stitching,
    empirical_process,
    gamma_exponential_mixture,
    gamma_poisson_mixture,
    normal_mixture,
    one_sided_rho,
    polynomial_stitching,
    two_sided_rho,
)
from salver.words.errors import InvalidInput

TIMES = np.unique(np.geomspace(1, 2000, 60).astype(int))


def test_the_published_values() -> None:
    near = {"abs": 1e-5}
    assert two_sided_rho(100, 0.05) == pytest.approx(12.60056, **near)
    assert normal_mixture(100, 0.05, 100) == pytest.approx(30.35209, **near)
    assert gamma_exponential_mixture(100, 0.05, 100, c=2) == pytest.approx(33.02017, **near)
    assert gamma_poisson_mixture(100, 0.05, 100, c=2) == pytest.approx(30.1949, **near)
    assert beta_binomial_mixture(100, 0.05, 100, g=0.2, h=0.8) == pytest.approx(31.4308, **near)
    assert polynomial_stitching(100, 0.05, 10, c=3) == pytest.approx(64.48755, **near)
    assert polynomial_stitching(100, 0.05, 10, c=-1) == pytest.approx(28.99389, **near)
    assert empirical_process(1000, 0.05, 100, spread=0.85) == pytest.approx(0.08204769, **near)
    assert double_stitching(0.5, 1000, 0.05, 100) == pytest.approx(68.62803, **near)
    assert double_stitching(0.9, 1000, 0.05, 100) == pytest.approx(43.72119, **near)


def leaves(paths: np.ndarray, bounds: list[float]) -> int:
    """How many of the paths are above their bound at one of TIMES or more."""
    return int((paths[:, TIMES - 1] > bounds).any(axis=1).sum())


def test_sums_of_normal_values_stay_inside() -> None:
    paths = np.random.default_rng(91).normal(size=(2000, 2000)).cumsum(axis=1)
    two_sided = [normal_mixture(t, 0.05, 100) for t in TIMES]
    may_be(leaves(np.abs(paths), two_sided), 2000, at_most=0.05, at_least=0.01)
    stitched = [polynomial_stitching(t, 0.05, 1) for t in TIMES]
    may_be(leaves(paths, stitched), 2000, at_most=0.05)


def test_counts_and_waiting_times_stay_inside() -> None:
    rng = np.random.default_rng(92)
    counts = (rng.poisson(1.0, (2000, 2000)) - 1.0).cumsum(axis=1)
    may_be(leaves(counts, [gamma_poisson_mixture(t, 0.05, 100, c=1) for t in TIMES]), 2000, at_most=0.05)
    waits = (rng.exponential(1.0, (2000, 2000)) - 1.0).cumsum(axis=1)
    may_be(leaves(waits, [gamma_exponential_mixture(t, 0.05, 100, c=1) for t in TIMES]), 2000, at_most=0.05)


def test_coins_stay_inside_and_their_mean_e_value_is_one() -> None:
    p = 0.2
    hits = (np.random.default_rng(93).random((2000, 2000)) < p).cumsum(axis=1)
    sums = hits - p * np.arange(1, 2001)
    bounds = [beta_binomial_mixture(p * (1 - p) * t, 0.05, 16, g=p, h=1 - p) for t in TIMES]
    may_be(leaves(sums, [b + 1e-9 for b in bounds]), 2000, at_most=0.05)
    mixture = BetaBinomial.tuned(16, 0.05, p, 1 - p)
    chances = np.array([math.comb(12, k) * p**k * (1 - p) ** (12 - k) for k in range(13)])
    log_e = mixture.log_e(np.arange(13) - 12 * p, 12 * p * (1 - p))
    assert chances @ np.exp(log_e) == pytest.approx(1, abs=1e-9)


@pytest.mark.soak
def test_an_empirical_distribution_stays_inside_over_all_values_at_once() -> None:
    rng, hits, rows = np.random.default_rng(94), 0, size(300, 100)
    for _ in range(rows):
        values = rng.random(1000)
        for count in (100, 200, 400, 1000):
            ordered = np.sort(values[:count])
            ranks = np.arange(1, count + 1) / count
            apart = max(np.max(ranks - ordered), np.max(ordered - ranks + 1 / count))
            if apart > empirical_process(count, 0.05, 100):
                hits += 1
                break
    may_be(hits, rows, at_most=0.05)
    assert empirical_process(99, 0.05, 100) == math.inf


@given(st.floats(0.02, 0.98), st.floats(1, 1e5))
def test_over_all_quantiles_at_once_is_wider_than_for_one(p: float, count: float) -> None:
    assert double_stitching(p, count, 0.05, 100) > 0
    v = p * (1 - p) * max(count, 100)
    assert double_stitching(p, count, 0.05, 100) > 1.96 * math.sqrt(v)


@given(st.floats(1, 1e5), st.floats(0.001, 0.3))
def test_less_alpha_and_more_time_are_wider(v: float, alpha: float) -> None:
    for bound in (
        lambda time, alpha: normal_mixture(time, alpha, v),
        lambda time, alpha: gamma_exponential_mixture(time, alpha, v, 1.0),
        lambda time, alpha: gamma_poisson_mixture(time, alpha, v, 1.0),
        lambda time, alpha: polynomial_stitching(time, alpha, v, 1.0),
    ):
        assert bound(v, alpha / 2) > bound(v, alpha)
        assert bound(2 * v, alpha) > bound(v, alpha)
    assert one_sided_rho(v, alpha) > two_sided_rho(v, alpha)


def test_a_stitched_bound_begins_at_its_least_time() -> None:
    assert polynomial_stitching(1, 0.05, 10) == polynomial_stitching(10, 0.05, 10)


def test_no_sum_goes_further_than_its_steps() -> None:
    assert beta_binomial_mixture(0.5, 1e-6, 100, g=0.2, h=0.8) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("v", "alpha", "best"), [(0, 0.05, 1), (1, 0.5, 1), (1, 0.05, 0), (math.nan, 0.05, 1)]
)
def test_what_cannot_be_is_refused(v: float, alpha: float, best: float) -> None:
    with pytest.raises(InvalidInput, match="cannot be"):
        normal_mixture(v, alpha, best)


@pytest.mark.parametrize(
    "bound",
    [
        lambda: gamma_exponential_mixture(100, 0.05, 100, c=0),
        lambda: gamma_poisson_mixture(100, 0.05, 100, c=-1),
        lambda: gamma_poisson_mixture(100, 0.05, 100, c=math.nan),
        lambda: polynomial_stitching(100, 0.05, 10, c=math.nan),
        lambda: beta_binomial_mixture(100, 0.05, 100, g=0, h=1),
        lambda: beta_binomial_mixture(100, 0.05, 100, g=1, h=math.inf),
        lambda: double_stitching(0, 1000, 0.05, 100),
        lambda: double_stitching(1, 1000, 0.05, 100),
        lambda: double_stitching(math.nan, 1000, 0.05, 100),
        lambda: empirical_process(1000, 0.05, 100, spread=0.7),
        lambda: empirical_process(1000, 0.05, 100, spread=math.nan),
    ],
)
def test_shapes_that_cannot_be_are_refused(bound: Callable[[], float]) -> None:
    with pytest.raises(InvalidInput, match="cannot be"):
        bound()


@pytest.mark.parametrize("alpha", [1e-300, 1e-100, 1e-12])
def test_hardly_any_alpha_is_wide_and_no_error(alpha: float) -> None:
    for bound in (
        normal_mixture(100, alpha, 100),
        gamma_exponential_mixture(100, alpha, 100, 1.0),
        gamma_poisson_mixture(100, alpha, 100, 1.0),
        polynomial_stitching(100, alpha, 10),
        1000 * empirical_process(1000, alpha, 100),
    ):
        assert math.sqrt(2 * 100 * -math.log(alpha)) < bound < math.inf


@pytest.mark.parametrize("spread", [0.7072, 0.72, 2.0, 10.0])
def test_any_factor_of_the_law_of_the_iterated_logarithm_has_its_bound(spread: float) -> None:
    assert 0.08 < empirical_process(1000, 0.05, 100, spread) < 1e3


@given(st.floats(1e4, 1e16), st.floats(0.001, 0.3))
def test_of_many_small_steps_all_mixtures_become_that_of_a_normal_walk(v: float, alpha: float) -> None:
    """At the scale 1 both differ from it by what the third moment brings, a part of 1 / sqrt(v)."""
    rho = one_sided_rho(v, alpha)

    def log_mixture(s: float) -> float:
        tail = log_ndtr(s / math.sqrt(v + rho)) - math.log(0.5)
        return s**2 / (2 * (v + rho)) - math.log((v + rho) / rho) / 2 + float(tail)

    normal = brentq(lambda s: log_mixture(s) + math.log(alpha), 0, 100 * math.sqrt(v))
    for bound in (gamma_exponential_mixture(v, alpha, v, 1.0), gamma_poisson_mixture(v, alpha, v, 1.0)):
        assert bound / normal == pytest.approx(1, abs=1e-7 + 3 / math.sqrt(v))

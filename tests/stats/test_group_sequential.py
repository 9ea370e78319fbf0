"""Group sequential bounds: by recorded values, by simulation, and by what must hold of any plan."""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import ndtr, ndtri
from scipy.stats import norm

from salver.stats.group_sequential import (
    Spending,
    crossing,
    futility,
    obrien_fleming,
    obrien_fleming_bounds,
    pocock,
    pocock_bounds,
    power_family,
    spent_bounds,
)
from salver.words.errors import InvalidInput

FIVE = [0.2, 0.4, 0.6, 0.8, 1.0]
ONE_LOOK = float(ndtri(0.975) + ndtri(0.8))  # drift at which a test of one look has a power of 80 %


def equal(looks: int) -> list[float]:
    return [(look + 1) / looks for look in range(looks)]


def hwang_shih_decani(gamma: float) -> Spending:
    return lambda time, alpha: alpha * math.expm1(-gamma * time) / math.expm1(-gamma)


def walks(times: list[float], replications: int, seed: int, drift: float = 0.0) -> np.ndarray:
    """z-scores at the looks; shape (replication, look)."""
    steps = np.diff(times, prepend=0)
    noise = np.random.default_rng(seed).normal(size=(replications, len(times)))
    return (noise * np.sqrt(steps) + drift * steps).cumsum(axis=1) / np.sqrt(times)


def test_the_classical_bounds() -> None:
    assert pocock_bounds(FIVE) == pytest.approx([2.4132] * 5, abs=1e-3)
    recorded = [4.5617, 3.2256, 2.6337, 2.2809, 2.0401]
    assert obrien_fleming_bounds(FIVE) == pytest.approx(recorded, abs=1e-3)


def test_bounds_by_spending() -> None:
    recorded = [4.8769, 3.3570, 2.6803, 2.2898, 2.0310]
    assert spent_bounds(FIVE, spending=obrien_fleming) == pytest.approx(recorded, abs=1e-3)
    recorded = [3.0902, 2.7141, 2.4728, 2.2799, 2.1140]
    assert spent_bounds(FIVE, spending=power_family(2)) == pytest.approx(recorded, abs=1e-3)
    # of Pocock's kind: near his own bounds, and all alpha is spent
    bounds = spent_bounds(FIVE, spending=pocock)
    assert bounds == pytest.approx([2.4132] * 5, abs=0.04)
    out = crossing(FIVE, bounds)
    assert sum(out.above) + sum(out.below) == pytest.approx(0.05, abs=1e-6)


@pytest.mark.parametrize(("looks", "rejects"), [(5, 0.142), (10, 0.193), (20, 0.248), (100, 0.374)])
def test_naive_looks_reject_too_often(looks: int, rejects: float) -> None:
    out = crossing(equal(looks), [1.959964] * looks)
    assert sum(out.above) + sum(out.below) == pytest.approx(rejects, abs=1e-3)
    z = walks(equal(looks), 2000, seed=61)
    hits = (np.abs(z) > 1.959964).any(axis=1).sum()
    may_be(hits, 2000, near=rejects)


@pytest.mark.parametrize("spending", [obrien_fleming, pocock, power_family(2), power_family(1)])
def test_a_planned_test_keeps_its_size(spending: Spending) -> None:
    times = [0.1, 0.15, 0.5, 0.77, 1.0]
    z = walks(times, 2000, seed=62)
    may_be((np.abs(z) > spent_bounds(times, spending=spending)).any(axis=1).sum(), 2000, near=0.05)
    one_sided = spent_bounds(times, 0.05, spending, sides=1)
    may_be((z > one_sided).any(axis=1).sum(), 2000, near=0.05)


def test_fourteen_looks_cost_little_power_and_bonferroni_much() -> None:
    times = equal(14)
    spending = sum(crossing(times, spent_bounds(times), drift=ONE_LOOK).above)
    assert spending == pytest.approx(0.77, abs=0.02)
    bonferroni = float(ndtri(1 - 0.05 / 14 / 2))
    assert sum(crossing(times, [bonferroni] * 14, drift=ONE_LOOK).above) == pytest.approx(0.55, abs=0.02)
    z = walks(times, 2000, seed=63, drift=ONE_LOOK)
    may_be((z > spent_bounds(times)).any(axis=1).sum(), 2000, near=spending)


@given(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=6, unique=True), st.floats(0.001, 0.2))
@settings(max_examples=25)
def test_any_looks_spend_no_more_than_alpha_and_earlier_bounds_stay(parts: list[float], alpha: float) -> None:
    times = sorted({round(part, 2) for part in parts})
    bounds = spent_bounds(times, alpha)
    out = crossing(times, bounds)
    spent = 2 * obrien_fleming(times[-1], alpha / 2)
    assert sum(out.above) + sum(out.below) == pytest.approx(spent, abs=1e-7)
    assert spent_bounds(times[:-1] or times, alpha) == pytest.approx(bounds[: len(times) - 1] or bounds)


def test_a_plan_that_ends_early_or_late_spends_all_the_same() -> None:
    for times, is_last in (([0.3, 0.8], True), ([0.3, 0.7, 1.2], False)):
        out = crossing(times, spent_bounds(times, is_last=is_last))
        assert sum(out.above) + sum(out.below) == pytest.approx(0.05, abs=1e-7)
    assert spent_bounds([0.3, 1.0, 1.2])[2] == math.inf  # nothing is left


def test_one_look_is_the_test_that_everybody_knows() -> None:
    for bounds in (spent_bounds([1.0]), pocock_bounds([1.0]), obrien_fleming_bounds([1.0])):
        assert bounds == pytest.approx([1.959964], abs=1e-6)
    out = crossing([1.0], [1.959964], drift=ONE_LOOK)
    assert out.above[0] == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize("times", [[0.5, 1.0], [0.5, 0.501], [0.01, 1.0], [0.9, 0.9002]])
def test_two_looks_are_two_correlated_normal_values(times: list[float]) -> None:
    """By another road: the distribution of both, however close the looks are."""
    root = math.sqrt(times[0] / times[1])
    drift = 1.3
    means = [drift * math.sqrt(time) for time in times]
    spread = math.sqrt(1 - root**2)

    def stays(x: float) -> float:
        """The density of the first, times the chance that the second is inside as well."""
        middle = means[1] + root * (x - means[0])
        return float(
            norm.pdf(x - means[0]) * (ndtr((1.4 - middle) / spread) - ndtr((-1.1 - middle) / spread))
        )

    edge = (1.4 - means[1]) / root + means[0]
    points = [x for x in (edge - 5 * spread, edge, edge + 5 * spread) if -0.8 < x < 1.7]
    inside = quad(stays, -0.8, 1.7, points=points, epsabs=1e-10, limit=400)[0]
    out = crossing(times, [1.7, 1.4], [-0.8, -1.1], drift)
    assert 1 - sum(out.above) - sum(out.below) == pytest.approx(inside, abs=1e-7)
    assert out.above[0] == pytest.approx(norm.sf(1.7 - means[0]), abs=1e-9)


def test_futility_gives_the_published_values() -> None:
    """gsDesign's default design: three looks, Hwang-Shih-DeCani -4 and -2, 2.5 % and 90 %."""
    times = equal(3)
    above = spent_bounds(times, 0.025, hwang_shih_decani(-4), sides=1)
    assert above == pytest.approx([3.0107, 2.5465, 1.9992], abs=1e-3)
    found = futility(times, above, 0.025, 0.9, hwang_shih_decani(-2))
    assert found.bounds == pytest.approx([-0.2387, 0.9411, 1.9992], abs=1e-3)
    assert found.inflation == pytest.approx(1.0699, abs=1e-3)


def test_futility_has_the_power_asked_for_and_does_not_bind() -> None:
    above = spent_bounds(FIVE, 0.025, sides=1)
    found = futility(FIVE, above, 0.025, power=0.8)
    assert found.bounds[-1] == above[-1]  # in the end it is one or the other
    planned = crossing(FIVE, above, found.bounds, found.drift)
    assert sum(planned.above) == pytest.approx(0.8, abs=1e-4)
    assert sum(planned.below) == pytest.approx(0.2, abs=1e-4)
    heedless = crossing(FIVE, above, [-math.inf] * 5)
    assert sum(heedless.above) == pytest.approx(0.025, abs=1e-6)
    idle = crossing(FIVE, above, found.bounds)
    assert sum(idle.below[:3]) > 0.5  # where there is no effect, most give up by the third look
    assert sum(idle.above) < 0.025
    assert 1 < found.inflation < 1.3


@pytest.mark.parametrize(
    "times", [[], [0.0, 1.0], [0.5, 0.5], [0.5, 0.4], [0.5, 0.50001], [math.nan], [math.inf]]
)
def test_looks_that_do_not_rise_are_refused(times: list[float]) -> None:
    with pytest.raises(InvalidInput, match="do not rise"):
        spent_bounds(times)


def test_what_cannot_be_is_refused() -> None:
    for alpha, sides in ((0.0, 2), (1.0, 2), (0.05, 3)):
        with pytest.raises(InvalidInput, match="cannot be"):
            spent_bounds(FIVE, alpha, sides=sides)
    with pytest.raises(InvalidInput, match="5 looks have 4 bounds"):
        crossing(FIVE, [2.0] * 4)
    with pytest.raises(InvalidInput, match="cannot be"):
        futility(FIVE, [2.0] * 5, 0.025, power=1.0)


def test_arrays_are_sequences_too() -> None:
    times = np.linspace(0.2, 1, 5)
    bounds = spent_bounds(times, 0.025, sides=1)
    assert bounds == spent_bounds(times.tolist(), 0.025, sides=1)
    assert crossing(times, np.array(bounds), np.full(5, -1.0)) == crossing(times.tolist(), bounds, [-1.0] * 5)
    found = futility(times, np.array(bounds), 0.025)
    assert msgspec.json.encode(found) == msgspec.json.encode(futility(times.tolist(), bounds, 0.025))


@pytest.mark.parametrize(
    ("above", "below", "drift"),
    [
        ([math.nan, 2.0], (), 0.0),
        ([2.0, 2.0], [3.0, -2.0], 0.0),
        ([2.0, 2.0], (), math.nan),
        ([2.0, 2.0], (), math.inf),
    ],
)
def test_bounds_that_cannot_be_are_refused(above: list[float], below: list[float], drift: float) -> None:
    with pytest.raises(InvalidInput, match="cannot be"):
        crossing([0.5, 1.0], above, below, drift)


def test_futility_has_a_bound_for_each_look_and_more_power_than_alpha() -> None:
    above = spent_bounds([0.5, 1.0], 0.025, sides=1)
    with pytest.raises(InvalidInput, match="3 looks have 2 bounds"):
        futility([0.3, 0.5, 1.0], above, 0.025)
    for power in (0.01, 0.025):
        with pytest.raises(InvalidInput, match="power"):
            futility([0.5, 1.0], above, 0.025, power)

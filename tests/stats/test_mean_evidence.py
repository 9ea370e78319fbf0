"""Evidence on means: the mixture that it is, what the past takes from its variance, what skew does not do."""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.mean_evidence import (
    Contrast,
    Phase,
    contrast,
    estimate,
    log_less,
    log_more,
    undecided,
)
from salver.stats.mean_sequence import Moments, difference, half_width
from salver.words.releases import Sums, plus

Floats = np.ndarray
#: N rho squared, where it is best for a level of one in 500.
BEST = 2 * math.log(500) + math.log1p(2 * math.log(500))


def sums(values: Floats, past: Floats | None = None) -> Sums:
    past = np.zeros(len(values)) if past is None else past
    powers = (float((values**power).sum()) for power in (1, 2, 3))
    products = (float(past.sum()), float(past @ past), float(values @ past))
    return Sums(len(values), int(np.count_nonzero(values)), *powers, *products)


def grown(values: Floats, past: Floats, looks: int) -> list[Sums]:
    """An arm at each of its looks."""
    found = [Sums()]
    for some, before in zip(np.array_split(values, looks), np.array_split(past, looks), strict=True):
        found.append(plus(found[-1], sums(some, before)))
    return found[1:]


# The formula


@given(st.floats(-5, 40), st.floats(1, 1e6))
def test_it_is_a_mixture_of_likelihood_ratios_over_effects_of_one_side(score: float, units: float) -> None:
    """In units of the score: of Brownian motion at time 1, over a half-normal prior."""
    scale = math.sqrt(BEST / 5000 * units)
    effects = np.linspace(0, min(8 * scale + scale**2 * max(score, 0), max(score, 0) + 12), 100_001)
    logs = effects * score - effects**2 / 2 - (effects / scale) ** 2 / 2
    top = logs.max()
    integral = np.trapezoid(np.exp(logs - top), effects) * 2 / (scale * math.sqrt(2 * math.pi))
    assert log_more(Contrast(score, units, 1.0)) == pytest.approx(top + math.log(integral), abs=2e-3)


@given(st.floats(0, 60), st.floats(1, 1e7))
def test_it_is_the_level_at_which_an_interval_excludes_the_null(score: float, units: float) -> None:
    """Of two sides, which one side beats by a factor of 2 at most, and never by less than 1."""
    log_e, scaled = log_more(Contrast(score, units, 1.0)), BEST / 5000 * units
    two_sided = score**2 / 2 * scaled / (scaled + 1) - math.log1p(scaled) / 2
    assert two_sided - 1e-9 <= log_e <= two_sided + math.log(2) + 1e-3
    if two_sided > 0.1 and abs(math.exp(-two_sided) - 0.002) < 1e-5:
        assert half_width(1.0, round(units), 5000, 0.002) == pytest.approx(score, rel=0.01)


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e9))
def test_less_is_more_of_the_opposite_and_both_are_finite(score: float, units: float) -> None:
    seen = Contrast(score, units, 1.0)
    assert log_less(seen) == log_more(Contrast(-score, units, 1.0))
    assert math.isfinite(log_more(seen))
    assert log_more(Contrast(score + 0.5, units, 1.0)) >= log_more(seen)


def test_nothing_that_varies_is_no_evidence() -> None:
    level = sums(np.ones(2000))
    assert contrast([(level, level)], 1.0) == Contrast(0.0, 0.0, math.inf)
    assert log_more(contrast([(level, level)], 1.0)) == 0.0


def test_without_a_past_it_is_the_difference_of_means_by_its_error() -> None:
    rng = np.random.default_rng(81)
    one, other = rng.gamma(2, 3, 4000), rng.gamma(2, 3, 9000)
    seen = contrast([(sums(one), sums(other))], 1.0)
    error = math.sqrt(max(one.var(), other.var()) / 4000 + other.var() / 9000)
    assert seen.score == pytest.approx((one.mean() - other.mean()) / error, rel=0.01)
    assert seen.units == pytest.approx(4000 * 9000 / 13_000, rel=0.05)
    known = difference(Moments.of_values(other), Moments.of_values(one), 5000)
    assert (estimate([(sums(one), sums(other))], 0.05).value - 1) * other.mean() == pytest.approx(
        known.value, rel=1e-9
    )


@given(st.floats(0.3, 3.0), st.floats(-2.0, 2.0))
def test_a_multiple_of_the_control_is_met_where_it_is_true(ratio: float, level: float) -> None:
    """Values and past of the canary are the control's, times the ratio and as they are: the score is of what
    rounding leaves, whatever the slope.
    """
    rng = np.random.default_rng(82)
    past = rng.gamma(2, 1, 3000)
    values = 5 + level * past + rng.normal(0, 1, 3000)
    if values.mean() <= 1:
        return
    seen = contrast([(sums(ratio * values, past), sums(values, past))], ratio)
    assert abs(seen.score) < 0.05 * abs(1 - ratio) + 1e-6
    assert estimate([(sums(ratio * values, past), sums(values, past))], 0.05).value == pytest.approx(ratio)


# What the past explains


@pytest.mark.parametrize("correlation", [0.3, 0.7, 0.9])
def test_the_past_takes_its_part_of_the_variance_away(correlation: float) -> None:
    """1 - rho squared, within 2 %, of 100,000 units."""
    rng = np.random.default_rng(83)
    past = rng.normal(10, 2, (2, 50_000))
    values = 20 + 3 * (
        correlation * (past - 10) / 2 + math.sqrt(1 - correlation**2) * rng.normal(0, 1, past.shape)
    )
    plain, less = (
        contrast([(sums(values[0], some[0]), sums(values[1], some[1]))], 1.0).error
        for some in (np.zeros_like(past), past)
    )
    assert (less / plain) ** 2 == pytest.approx(1 - correlation**2, rel=0.02)


def test_one_look_at_two_alike_arms_is_wrong_as_often_as_it_says() -> None:
    """Size 5 +- .7 %, of 4,000 replications, with a past that explains half."""
    rng, wrong, replications = np.random.default_rng(84), 0, 4000
    for _ in range(replications):
        past = rng.normal(3, 1, 2400)
        values = 10 + past + rng.normal(0, 1, 2400)
        seen = contrast([(sums(values[:1200], past[:1200]), sums(values[1200:], past[1200:]))], 1.0)
        wrong += abs(seen.score) > 1.96
    assert wrong / replications == pytest.approx(0.05, abs=0.007)


# Looking again and again


def buyers(rng: np.random.Generator, number: int, part: float, sigma: float, cap: float) -> Floats:
    """Few buy, and few of those buy much."""
    return np.minimum((rng.random(number) < part) * rng.lognormal(0, sigma, number), cap)


def arm(
    rng: np.random.Generator, number: int, part: float, sigma: float, cap: float, ratio: float = 1.0
) -> tuple[Floats, Floats]:
    """Values and past; half of the units do as before."""
    past = buyers(rng, number, part, sigma, cap)
    same = rng.random(number) < 0.5
    return ratio * np.where(same, past, buyers(rng, number, part, sigma, cap)), past


def most_evidence(
    rng: np.random.Generator, plan: list[tuple[float, int]], kind: tuple[float, float, float], ratio: float
) -> tuple[float, float, int]:
    """Greatest evidence of more and of less over all looks, and how many looks were decided."""
    done: list[Phase] = []
    more, less, decided = 0.0, 0.0, 0
    for share, units in plan:
        canary = grown(*arm(rng, round(share * units), *kind, ratio), 20)
        control = grown(*arm(rng, units - round(share * units), *kind), 20)
        for pair in zip(canary, control, strict=True):
            phases = [*done, pair]
            if not undecided(phases):
                decided += 1
                seen = contrast(phases, 1.0)
                more, less = max(more, log_more(seen)), max(less, log_less(seen))
        done.append((canary[-1], control[-1]))
    return more, less, decided


@pytest.mark.parametrize(
    ("plan", "kind"),
    [
        ([(0.05, 40_000), (0.25, 30_000)], (1.0, 1.0, 20.0)),
        ([(0.05, 60_000)], (0.05, 1.5, 10.0)),
        ([(0.5, 12_000)], (0.05, 1.5, 1e9)),
        ([(0.95, 60_000)], (1.0, 1.0, 20.0)),
    ],
)
def test_skewed_values_that_are_looked_at_all_the_time_keep_alpha_on_either_side(
    plan: list[tuple[float, int]], kind: tuple[float, float, float]
) -> None:
    rng, replications = np.random.default_rng(85), 100
    found = [most_evidence(rng, plan, kind, 1.0) for _ in range(replications)]
    may_be(sum(more >= math.log(50) for more, _, _ in found), replications, at_most=0.02)
    may_be(sum(less >= math.log(50) for _, less, _ in found), replications, at_most=0.02)
    assert np.median([decided for *_, decided in found]) >= 10


def test_a_mean_that_falls_by_a_tenth_is_found() -> None:
    rng = np.random.default_rng(86)
    found = [most_evidence(rng, [(0.25, 60_000)], (1.0, 1.0, 20.0), 0.9) for _ in range(60)]
    may_be(sum(less >= math.log(500) for _, less, _ in found), 60, at_least=0.99)
    assert max(more for more, _, _ in found) < math.log(20)


def test_intervals_hold_at_every_look() -> None:
    rng, wrong, replications = np.random.default_rng(87), 0, 100
    for _ in range(replications):
        canary = grown(*arm(rng, 10_000, 0.3, 1.0, 20.0, 1.2), 30)
        control = grown(*arm(rng, 30_000, 0.3, 1.0, 20.0), 30)
        bounds = [
            estimate([pair], 0.05) for pair in zip(canary, control, strict=True) if not undecided([pair])
        ]
        wrong += any(not low <= 1.2 <= high for _, low, high in bounds)
        assert bounds[-1].high - bounds[-1].low < 0.35
    may_be(wrong, replications, at_most=0.05)


def test_who_comes_when_the_canary_is_large_deceives_nobody() -> None:
    """On the second day units bring ten times as much and half meet the canary; on the first, a tenth."""
    rng = np.random.default_rng(88)
    phases = [
        (sums(level + rng.normal(0, 1, n)), sums(level + rng.normal(0, 1, m)))
        for level, n, m in ((10.0, 3000, 27_000), (100.0, 15_000, 15_000))
    ]
    assert abs(contrast(phases, 1.0).score) < 3
    together = tuple(plus(first, second) for first, second in zip(*phases, strict=True))
    assert contrast([(together[0], together[1])], 1.0).score > 50


def test_an_arm_whose_large_values_are_still_missing_is_not_believed_to_vary_less() -> None:
    rng = np.random.default_rng(89)
    control = buyers(rng, 100_000, 0.1, 1.0, 50.0)
    tame = np.minimum(buyers(rng, 20_000, 0.1, 1.0, 50.0), 1.0)
    own = math.sqrt(tame.var() / 20_000 + control.var() / 100_000)
    seen = contrast([(sums(tame), sums(control))], 1.0)
    assert abs(seen.score) < 0.6 * abs(tame.mean() - control.mean()) / own


# Where nothing is said


@pytest.mark.parametrize(
    ("canary", "control", "why"),
    [
        (np.ones(999), np.ones(5000), "999 units of the smaller arm"),
        (np.r_[np.ones(49), np.zeros(2000)], np.ones(5000), "49 units of an arm have a value"),
        (-np.ones(2000), -np.ones(2000), "the control's mean is not above 0"),
        (np.ones(2000), np.r_[np.ones(1000), -np.ones(1000)], "the control's mean is not above 0"),
        (np.r_[np.ones(60), np.zeros(3000)], np.r_[1e4 * np.ones(60), np.zeros(60_000)], "too skewed"),
    ],
)
def test_it_says_why_it_says_nothing(canary: Floats, control: Floats, why: str) -> None:
    assert why in undecided([(sums(canary), sums(control))])
    assert undecided([]).startswith("0 units")


def test_skew_does_not_matter_where_arms_are_of_one_size_and_a_small_phase_waits() -> None:
    wild = np.r_[1e4 * np.ones(60), np.zeros(3000)]
    phase = (sums(wild), sums(wild))
    assert undecided([phase]) == ""
    small = (sums(np.full(500, 9e9)), sums(np.ones(500)))
    assert contrast([phase, small], 1.0) == contrast([phase], 1.0)


@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=30), st.integers(0, 30))
def test_parts_add_up_and_are_written_down_to_the_bit(rows: list[tuple[float, float]], at: int) -> None:
    values, past = np.array(rows).T
    whole = sums(values, past)
    parts = plus(sums(values[:at], past[:at]), sums(values[at:], past[at:]))
    assert msgspec.structs.astuple(parts) == pytest.approx(msgspec.structs.astuple(whole), abs=1e-9)
    assert msgspec.json.decode(msgspec.json.encode(parts), type=Sums) == parts

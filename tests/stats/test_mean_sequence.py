"""Asymptotic confidence sequences: published values, sizes, and where they are refused."""

import math
from collections.abc import Callable

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.group_sequential import crossing
from salver.stats.mean_sequence import Moments, difference, half_width, lift
from salver.words.errors import FailedPrecondition, InvalidInput

Draw = Callable[[np.random.Generator, int], np.ndarray]
CONTROL, TREATMENT = Moments.of_counts(1396, 3000), Moments.of_counts(2422, 3461)
PAIRS, BURN_IN = 10_000, 100
DRAWS: dict[str, Draw] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "bernoulli": lambda rng, n: (rng.random(n) < 0.01).astype(float),
    "skewed": lambda rng, n: rng.lognormal(0, 2, n),
    "revenue": lambda rng, n: (rng.random(n) < 0.05) * rng.lognormal(0, 1.5, n),
}


def crossings(draw: Draw, planned: int, replications: int) -> tuple[int, int]:
    """In how many replications of equal arms the sequence, and a naive test, ever excludes no difference."""
    rng, count = np.random.default_rng(71), np.arange(1, PAIRS + 1)
    factors = np.array([half_width(1.0, 2 * int(pairs), planned) for pairs in count])
    hits = naive = 0
    for _ in range(replications):
        means, variances = [], []
        for _ in range(2):
            values = draw(rng, PAIRS)
            means.append(values.cumsum() / count)
            variances.append(np.maximum((values**2).cumsum() / count - means[-1] ** 2, 0))
        apart, errors = np.abs(means[0] - means[1]), np.sqrt(sum(variances) / count)
        hits += bool((apart > factors * errors)[BURN_IN:].any())
        naive += bool((apart > 1.96 * errors)[BURN_IN:].any())
    return hits, naive


def test_the_published_lift() -> None:
    found = lift(CONTROL, TREATMENT, planned=5000)
    assert found == pytest.approx((0.50386, 0.40098, 0.60675), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "planned", "recorded"),
    [
        ("normal", 1000, 0.043),
        ("normal", 5000, 0.021),
        ("normal", 20_000, 0.016),
        ("bernoulli", 1000, 0.018),
        ("bernoulli", 5000, 0.025),
        ("bernoulli", 20_000, 0.015),
        ("skewed", 5000, None),
        ("revenue", 5000, None),
    ],
)
def test_a_look_after_every_pair_keeps_the_size(kind: str, planned: int, recorded: float | None) -> None:
    hits, naive = crossings(DRAWS[kind], planned, 600)
    may_be(hits, 600, at_most=0.05, near=recorded)
    may_be(naive, 600, at_least=0.30)  # the same looks with a t-test


def test_rare_events_at_one_percent_mislead_it_which_is_why_it_refuses_them() -> None:
    rng, looks, hits = np.random.default_rng(72), 40, 0
    for _ in range(1000):
        small = rng.binomial(100, 0.005, looks).cumsum()
        large = rng.binomial(9900, 0.005, looks).cumsum()
        units = 100 * np.arange(1, looks + 1)
        rates, base = small / units, large / (99 * units)
        errors = np.sqrt(rates * (1 - rates) / units + base * (1 - base) / (99 * units))
        factors = np.array([half_width(1.0, 100 * int(n), 100_000) for n in units])
        better = (base - rates > factors * errors) & (small > 0)
        hits += bool(better.any())
        if better.any():
            look = int(better.argmax())
            with pytest.raises(FailedPrecondition, match="too small for this interval"):
                difference(
                    Moments.of_counts(int(large[look]), 99 * int(units[look])),
                    Moments.of_counts(int(small[look]), int(units[look])),
                    100_000,
                )
    may_be(hits, 1000, at_least=0.05)


def growing(values: np.ndarray, step: int) -> list[Moments]:
    """An arm at its looks, each a step further."""
    found = [Moments()]
    for part in values.reshape(-1, step):
        found.append(found[-1].add(Moments.of_values(part)))
    return found[3:]  # from 1,500 units on


def test_skewed_values_in_a_small_arm_mislead_it_so_it_refuses_them_until_they_are_capped() -> None:
    """One user in twenty buys, one in twenty is in the treatment, and there is no difference."""
    rng, step, looks, planned = np.random.default_rng(73), 500, 30, 150_000
    unguarded = capped = answers = 0
    for _ in range(120):
        arms = [(rng.random(n) < 0.05) * rng.lognormal(0, 1.5, n) for n in (19 * looks * step, looks * step)]
        wrong = False
        for control, treatment in zip(*map(growing, arms, (19 * step, step)), strict=True):
            error = math.sqrt(control.variance / control.units + treatment.variance / treatment.units)
            half = half_width(error, control.units + treatment.units, planned)
            wrong |= abs(treatment.mean - control.mean) > half
            with pytest.raises(FailedPrecondition, match="too skewed"):
                difference(control, treatment, planned)
        unguarded += wrong
        wrong = False
        arms = [np.minimum(values, 5.0) for values in arms]
        for control, treatment in zip(*map(growing, arms, (19 * step, step)), strict=True):
            try:
                _, low, high = difference(control, treatment, planned)
            except FailedPrecondition:
                continue
            answers += 1
            wrong |= not low <= 0 <= high
        capped += wrong
    may_be(unguarded, 120, at_least=0.08)
    may_be(capped, 120, at_most=0.05)
    assert answers > 0.8 * 120 * (looks - 2)


def test_arms_of_one_size_may_be_as_skewed_as_they_like() -> None:
    values = np.random.default_rng(74).lognormal(0, 2, 4000)
    assert difference(Moments.of_values(values[:2000]), Moments.of_values(values[2000:]), 5000)
    with pytest.raises(FailedPrecondition, match=r"too skewed .* Cap them .* or wait for"):
        difference(Moments.of_values(np.tile(values, 10)), Moments.of_values(values), 5000)


@pytest.mark.parametrize(("hits", "units"), [(400, 999), (49, 2000), (1951, 2000)])
def test_small_arms_are_refused_with_the_way_out(hits: int, units: int) -> None:
    with pytest.raises(FailedPrecondition, match="Wait for 1000 units and 50 events in each arm, or count"):
        lift(CONTROL, Moments.of_counts(hits, units), 5000)
    with pytest.raises(FailedPrecondition):
        difference(Moments.of_counts(hits, units), TREATMENT, 5000)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=40), st.integers(0, 40))
def test_parts_add_up(values: list[float], at: int) -> None:
    whole = Moments.of_values(values)
    parts = Moments.of_values(values[:at]).add(Moments.of_values(values[at:]))
    assert (parts.units, parts.events) == (whole.units, whole.events)
    assert parts.mean == pytest.approx(np.mean(values), abs=1e-9)
    assert parts.variance == pytest.approx(np.var(values), rel=1e-6, abs=1e-9)
    third = np.mean((np.array(values) - np.mean(values)) ** 3)
    assert parts.third == pytest.approx(third, rel=1e-6, abs=1e-6)
    assert msgspec.json.decode(msgspec.json.encode(parts), type=Moments) == parts


def test_counts_are_values_of_nought_and_one() -> None:
    values = [1.0] * 300 + [0.0] * 900
    assert Moments.of_counts(300, 1200) == Moments.of_values(values)
    assert Moments.of_counts(900, 1200).events == Moments.of_values(1 - np.array(values), usual=1.0).events


@given(st.integers(2, 10**7), st.integers(1, 10**7), st.floats(0.001, 0.3))
def test_it_is_wider_than_one_look_and_narrowest_near_the_plan(
    units: int, planned: int, alpha: float
) -> None:
    ratio = half_width(1.0, units, planned, alpha)
    assert ratio > math.sqrt(2 * math.log(1 / alpha)) - 1e-9
    assert ratio >= half_width(1.0, units, units, alpha) * (1 - 0.02)


@pytest.mark.parametrize("planned", [5000, 10_000, 20_000])
def test_an_open_end_costs_power(planned: int) -> None:
    """Where one look has 80 %, of 10,000 units, and fourteen looks are made."""
    times = [(look + 1) / 14 for look in range(14)]
    bounds = [half_width(1.0, round(10_000 * time), planned) for time in times]
    assert sum(crossing(times, bounds, drift=2.8016).above) == pytest.approx(0.465, abs=0.02)


def test_what_cannot_be_is_refused() -> None:
    for planned, alpha in ((0, 0.05), (100, 0.0), (100, 1.0), (100, math.nan)):
        with pytest.raises(InvalidInput, match="cannot be"):
            half_width(1.0, 100, planned, alpha)
    for error, units in ((math.nan, 100), (-1.0, 100), (1.0, 0), (1.0, -5)):
        with pytest.raises(InvalidInput, match="cannot be"):
            half_width(error, units, 100)
    with pytest.raises(InvalidInput, match="5 of 4"):
        Moments.of_counts(5, 4)
    level = Moments.of_values([-1.0, 1.0] * 1000)
    with pytest.raises(FailedPrecondition, match="mean is 0"):
        lift(level, level, 5000)


@pytest.mark.parametrize("values", [[1.0, math.nan], [1.0, math.inf], [[1.0, 2.0], [3.0, 4.0]]])
def test_values_that_are_none_are_refused(values: list[float]) -> None:
    with pytest.raises(InvalidInput, match="one finite value a unit"):
        Moments.of_values(values)


def test_values_of_which_sums_cannot_tell_the_variance_are_refused_rather_than_taken_for_certain() -> None:
    noise = np.random.default_rng(76).normal(size=(2, 2000))
    arms = [Moments.of_values(1e9 + row) for row in noise]  # squares of 1e18, which a float tells to 128
    for control, treatment in (arms, [Moments.of_values(np.full(2000, 3.5))] * 2):
        with pytest.raises(FailedPrecondition, match="Take a constant"):
            difference(control, treatment, 5000)
    near = [Moments.of_values(1e3 + row) for row in noise]
    plain = [Moments.of_values(row) for row in noise]
    assert difference(*near, 5000) == pytest.approx(difference(*plain, 5000), rel=1e-6)


def test_numbers_of_numpy_are_written_down_as_others_are() -> None:
    found = Moments.of_counts(np.int64(3), np.int64(5))
    assert msgspec.json.encode(found) == msgspec.json.encode(Moments.of_counts(3, 5))

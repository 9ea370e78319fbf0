"""Only matured units enter a look."""

import math

import numpy as np
import pytest
from chances import may_be
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.group_sequential import pocock, spent_bounds
from salver.stats.pending import matured
from salver.words.errors import InvalidInput

DAYS, PER_DAY, WINDOW = 28, 1500, 7.0
TIMES = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 200)), max_size=30)


@given(TIMES, st.floats(0, 150), st.floats(0.1, 50), st.floats(0, 20))
def test_it_is_what_the_words_say(
    units: list[tuple[float, float]], watermark: float, window: float, delay: float
) -> None:
    exposed, happened = (np.array(column) for column in zip(*units, strict=True)) if units else ([], [])
    found = matured(exposed, happened, watermark, window, 100, delay)
    for unit, (since, event) in enumerate(units):
        opens = since + delay
        assert found.units[unit] == (since + delay + window <= watermark)
        assert found.hits[unit] == (opens <= event < opens + window)
    assert found.time == sum(found.units) / 100


def test_a_window_holds_its_beginning_and_not_its_end() -> None:
    found = matured(
        [0.0, 0.0, 0.0, 0.0], [1.9, 2.0, 8.9, 9.0], watermark=9.0, window=7.0, planned=4, delay=2.0
    )
    assert found.units.all()
    assert found.hits.tolist() == [False, True, True, False]
    assert not matured([0.0], [2.0], 8.9, 7.0, 4, delay=2.0).units.any()


def test_a_unit_once_matured_stays_so_and_its_outcome_too() -> None:
    rng = np.random.default_rng(121)
    exposed = rng.uniform(0, 50, 500)
    happened = np.where(rng.random(500) < 0.3, exposed + rng.exponential(5, 500), np.inf)
    before = matured(exposed, happened, 20, 7, 500)
    for watermark in (30, 40, 60):
        known = np.where(happened <= watermark, happened, np.nan)  # what has come in by then
        now = matured(exposed, known, watermark, 7, 500)
        assert now.units[before.units].all()
        assert (now.hits == before.hits)[before.units].all()
        before = now
    assert before.time == 1


def rejections(replications: int) -> tuple[int, int]:
    """Of equal final rates and different delays: by matured units, and by counting "not yet" as "no"."""
    rng, right, naive = np.random.default_rng(122), 0, 0
    looks = [12.0, 19.0, 26.0, DAYS + WINDOW]
    units = DAYS * PER_DAY
    bounds: dict[tuple[float, ...], tuple[float, ...]] = {}
    for _ in range(replications):
        exposed = rng.uniform(0, DAYS, units)
        arm = rng.random(units) < 0.5
        # both arms end up at 10 % inside the window; one has most of it sooner
        delays = np.where(arm, 1.5, 3.0)
        inside = -delays * np.log1p(-rng.random(units) * -np.expm1(-WINDOW / delays))
        happened = np.where(rng.random(units) < 0.1, exposed + inside, np.inf)
        seen = [matured(exposed, happened, look, WINDOW, units) for look in looks]
        times = tuple(round(look.time, 2) for look in seen)
        if times not in bounds:
            bounds[times] = spent_bounds(times, spending=pocock)
        right += any(
            abs(z(arm[look.units], look.hits[look.units])) > bound
            for look, bound in zip(seen, bounds[times], strict=True)
        )
        by_now = [exposed <= look for look in looks[:3]]
        naive += any(
            abs(z(arm[known], (happened <= look)[known])) > bound
            for known, look, bound in zip(by_now, looks, bounds[times], strict=False)
        )
    return right, naive


def z(arm: np.ndarray, hits: np.ndarray) -> float:
    """Of two proportions."""
    rates = [hits[arm].mean(), hits[~arm].mean()]
    pooled = hits.mean()
    error = math.sqrt(pooled * (1 - pooled) * (1 / arm.sum() + 1 / (~arm).sum()))
    return float((rates[0] - rates[1]) / error) if error else 0.0


def test_matured_units_keep_the_size_where_not_yet_as_no_does_not() -> None:
    right, naive = rejections(300)
    may_be(right, 300, at_most=0.05)
    may_be(naive, 300, at_least=0.10)
    assert naive > 30


def test_a_third_is_immature_at_the_looks_of_that_test() -> None:
    immature = [1 - (look - WINDOW) / look for look in (12.0, 19.0, 26.0)]
    assert np.mean(immature) > 0.3


def test_what_cannot_be_is_refused() -> None:
    for exposed, happened, window, planned, delay in (
        ([1.0], [], 7.0, 10, 0.0),
        ([1.0], [2.0], 0.0, 10, 0.0),
        ([1.0], [2.0], math.nan, 10, 0.0),
        ([1.0], [2.0], 7.0, 0, 0.0),
        ([1.0], [2.0], 7.0, 10, -1.0),
        ([1.0], [2.0], 7.0, 10, math.nan),
        ([1.0], [2.0], 7.0, math.nan, 0.0),
    ):
        with pytest.raises(InvalidInput, match="cannot be"):
            matured(exposed, happened, 5.0, window, planned, delay)

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.histogram import DURATION_BOUNDS, ROW_BOUNDS, Histogram

values = st.lists(st.floats(min_value=0, max_value=200, allow_nan=False), max_size=200)


def filled(numbers: list[float], bounds: tuple[float, ...] = DURATION_BOUNDS) -> Histogram:
    histogram = Histogram(bounds)
    histogram.add_all(numbers)
    return histogram


def test_bounds_are_ascending_log_spaced_and_span_what_is_promised() -> None:
    assert DURATION_BOUNDS[0] == 50e-6
    assert DURATION_BOUNDS[-1] == 60.0
    steps = [b / a for a, b in itertools.pairwise(DURATION_BOUNDS)]
    assert min(steps) > 1.3
    assert max(steps) <= 2.0001
    assert list(ROW_BOUNDS) == sorted(ROW_BOUNDS)


def test_a_value_on_a_bound_belongs_to_the_bucket_below_it() -> None:
    few = filled([2.0], (1.0, 2.0, 4.0))
    many = filled([2.0] * 100, (1.0, 2.0, 4.0))
    assert few.counts == [0, 1, 0, 0]
    assert many.counts == [0, 100, 0, 0]


@given(values)
def test_each_value_is_counted_once_in_the_right_bucket(numbers: list[float]) -> None:
    histogram = filled(numbers)
    assert histogram.count == len(numbers)
    assert math.isclose(histogram.sum, sum(numbers), abs_tol=1e-9)
    for bound, at_most in zip(DURATION_BOUNDS, histogram.cumulative(), strict=False):
        assert at_most == sum(number <= bound for number in numbers)


@given(values, values)
def test_merging_equals_counting_together(left: list[float], right: list[float]) -> None:
    merged = filled(left)
    merged.merge(filled(right))
    assert merged.counts == filled(left + right).counts


def test_merging_other_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match="different bounds"):
        filled([], (1.0,)).merge(filled([], (2.0,)))


@pytest.mark.parametrize("q", [0.01, 0.5, 0.9, 0.99, 0.999])
def test_two_replicas_merge_to_the_true_quantile_within_one_bucket(q: float) -> None:
    random = np.random.default_rng(7)
    fast, slow = random.lognormal(-6, 1, 20_000), random.lognormal(-3, 0.5, 5_000)
    merged = filled(fast.tolist())
    merged.merge(filled(slow.tolist()))
    true = float(np.quantile(np.concatenate([fast, slow]), q))
    bucket = int(np.searchsorted(DURATION_BOUNDS, true))
    assert DURATION_BOUNDS[max(0, bucket - 1)] <= merged.quantile(q) <= DURATION_BOUNDS[bucket]


def test_quantiles_of_nothing_and_beyond_the_last_bound() -> None:
    assert filled([]).quantile(0.5) == 0.0
    assert filled([1000.0]).quantile(0.5) == 60.0
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        filled([1.0]).quantile(1.5)

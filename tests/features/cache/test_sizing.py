"""Sizes of caches: hulls, the optimum at a price, allocation against brute force, and the switch."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.features.cache.reuse import Point
from salver.features.cache.sizing import Demand, Switch, allocate, hull

UNIT = 10


@st.composite
def curves(draw, steps=8):
    """Concave curves with corners at multiples of a unit."""
    slopes = sorted(draw(st.lists(st.integers(0, 100), min_size=1, max_size=steps)), reverse=True)
    total = sum(slopes) or 1
    ratio, points = 0.0, []
    for number, slope in enumerate(slopes, 1):
        ratio += slope / total * 0.9
        points.append(Point(number * UNIT, ratio))
    return points


DEMANDS = st.lists(
    st.builds(Demand, st.floats(0.1, 50), st.floats(0.001, 0.1), st.just(0.0), curves()),
    min_size=1,
    max_size=4,
)


def whole(demands, sizes, price):
    return sum(demand.gain(size, price) for demand, size in zip(demands, sizes, strict=True))


@settings(max_examples=60, deadline=None)
@given(DEMANDS, st.integers(0, 20), st.floats(0, 0.01))
def test_allocation_saves_as_much_as_the_best_of_all_splits(demands, units, price):
    found = allocate({str(n): demand for n, demand in enumerate(demands)}, units * UNIT, price)
    sizes = [found[str(n)] for n in range(len(demands))]
    assert sum(sizes) <= units * UNIT + 1e-9
    ranges = [range(len(demand.curve) + 1) for demand in demands]
    best = max(
        whole(demands, [each * UNIT for each in split], price)
        for split in itertools.product(*ranges)
        if sum(split) <= units
    )
    assert whole(demands, sizes, price) == pytest.approx(best, abs=1e-9)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0, 1)), max_size=12))
def test_a_hull_is_concave_and_lies_above_its_curve(drawn):
    sizes = sorted({size for size, _ in drawn})
    curve = [Point(size, ratio) for size, ratio in zip(sizes, sorted(r for _, r in drawn), strict=False)]
    corners = [Point(0.0, 0.0), *hull(curve)]
    slopes = [(b.hit_ratio - a.hit_ratio) / (b.bytes - a.bytes) for a, b in itertools.pairwise(corners)]
    assert all(one >= other - 1e-9 for one, other in itertools.pairwise(slopes))
    demand = Demand(1.0, 1.0, 0.0, curve)
    assert all(demand.hit_ratio(point.bytes) >= point.hit_ratio - 1e-9 for point in curve)


def test_the_optimum_is_where_the_next_byte_saves_what_it_costs():
    """H(C) = 1 - exp(-C / 100), rate 10, 0.1 s: the gain is largest at C = 100 ln(0.01 / price)."""
    import math

    curve = [Point(size, 1 - math.exp(-size / 100)) for size in range(1, 1000)]
    demand = Demand(10.0, 0.1, 0.0, curve)
    assert allocate({"m": demand}, 1e9, 0.001)["m"] == pytest.approx(100 * math.log(10), abs=2)
    assert allocate({"m": demand}, 50, 0.001) == {"m": 50}
    assert allocate({"m": demand}, 1e9, 0.02) == {"m": 0}
    assert demand.gain(0, 0.001) == 0


def test_the_switch_has_hysteresis():
    switch = Switch(patience=3)
    assert [switch.decide(1.0, 2.0) for _ in range(2)] == [True, True]
    assert switch.decide(2.0, 1.0) and [switch.decide(1.0, 2.0) for _ in range(3)] == [True, True, False]
    assert [switch.decide(3.0, 2.0) for _ in range(5)] == [False] * 5
    assert [switch.decide(4.1, 2.0) for _ in range(3)] == [False, False, True]

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.tuning.roofline import Ceilings, Cost, RooflineBound, bound, knee

CORE = Ceilings(flops_per_s=116e9, bytes_per_s=25e9)  # the reference core
numbers = st.floats(1, 1e12)
costs = st.builds(Cost, flops_a_row=numbers, weight_bytes=numbers, bytes_a_row=st.floats(0, 1e9))


@pytest.mark.parametrize(
    ("flops_per_s", "bytes_a_weight", "ridge"),
    [(116e9, 4, 4.6), (465e9, 1, 18.6)],  # fp32; int8
)
def test_weights_from_memory_put_the_knee_at_nine_rows(
    flops_per_s: float, bytes_a_weight: int, ridge: float
) -> None:
    machine = Ceilings(flops_per_s, 25e9)
    layer = Cost(flops_a_row=2e6, weight_bytes=1e6 * bytes_a_weight)
    assert machine.ridge == pytest.approx(ridge, abs=0.1)
    assert knee(layer, machine) == pytest.approx(9.3, abs=0.1)


def test_weights_in_a_nearer_cache_put_it_lower() -> None:
    layer = Cost(flops_a_row=2e6, weight_bytes=4e6)
    assert knee(layer, Ceilings(116e9, 80e9)) == pytest.approx(3, abs=0.2)  # L3
    assert knee(layer, Ceilings(116e9, 115e9)) == pytest.approx(2, abs=0.1)  # L2


@given(costs, st.integers(1, 256))
def test_memory_is_the_bound_below_the_knee_and_arithmetic_above(cost: Cost, rows: int) -> None:
    turn = knee(cost, CORE)
    if rows < turn * (1 - 1e-9):
        assert bound(cost, CORE, rows).by == "memory"
    if rows > turn * (1 + 1e-9):
        assert bound(cost, CORE, rows).by == "arithmetic"


@given(costs, st.integers(1, 256))
def test_the_bound_grows_with_the_batch_to_the_peak_and_no_further(cost: Cost, rows: int) -> None:
    here, more = bound(cost, CORE, rows).rate, bound(cost, CORE, 2 * rows).rate
    assert here <= more * (1 + 1e-9)
    assert more <= CORE.flops_per_s / cost.flops_a_row * (1 + 1e-9)


def test_rows_that_cost_more_to_move_than_to_compute_leave_no_knee() -> None:
    assert knee(Cost(1e6, 1e6, bytes_a_row=1e9), CORE) == math.inf


def test_products_of_8_bit_integers_have_a_peak_of_their_own() -> None:
    machine = Ceilings(100e9, 25e9, int8_ops_per_s=400e9)
    assert bound(Cost(1e9, int8_ops_a_row=4e9), machine, 4) == RooflineBound(pytest.approx(50), "arithmetic")
    assert bound(Cost(int8_ops_a_row=4e9), Ceilings(100e9, 25e9), 4).rate == pytest.approx(25)


def test_nothing_known_bounds_nothing() -> None:
    assert bound(Cost(), CORE, 8).rate == math.inf
    assert knee(Cost(), CORE) == math.inf
    assert bound(Cost(weight_bytes=25e9), CORE, 2).rate == pytest.approx(2)

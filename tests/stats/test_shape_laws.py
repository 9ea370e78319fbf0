"""Laws by the size of rows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.stats.batch_law import BatchLaw, LiveLaw
from salver.stats.shape_laws import ShapeLaws, rounded

LAW = BatchLaw(0.001, 0.004, 8, 0.002)


@pytest.mark.parametrize(("size", "up"), [(0, 0), (1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (1000, 1024)])
def test_sizes_are_rounded_up_to_powers_of_two(size: int, up: int) -> None:
    assert rounded(size) == up


def test_fixed_shapes_have_one_law() -> None:
    usual = LiveLaw(LAW)
    laws = ShapeLaws(usual)
    assert laws.of(0) is usual
    assert laws.others() == {}


def test_without_a_measured_size_the_first_that_comes_is_the_usual_one() -> None:
    laws = ShapeLaws()
    assert laws.of(100) is laws.usual
    assert laws.of(128) is laws.usual
    assert laws.of(129) is not laws.usual
    assert list(laws.others()) == [256]


def test_a_new_size_starts_from_the_nearest_and_then_goes_its_own_way() -> None:
    laws = ShapeLaws(LiveLaw(LAW), 16, {256: BatchLaw(0.010, 0.004)})
    assert laws.of(32).law() == BatchLaw(0.002, 0.004, 4, 0.004)
    assert laws.of(512).law() == BatchLaw(0.020, 0.004)
    for _ in range(300):
        laws.of(512).observe(4, 1.0)
    assert laws.of(512).law().seconds(4) == pytest.approx(1.0, rel=0.05)
    assert laws.usual.law() == LAW


def test_nothing_known_is_nothing_for_every_size() -> None:
    laws = ShapeLaws()
    assert laws.of(8).law() == laws.of(4096).law() == BatchLaw(0.0, 0.0)


@given(st.lists(st.integers(1, 1 << 62), max_size=200))
def test_any_sizes_leave_few_laws_and_the_usual_one(sizes: list[int]) -> None:
    laws = ShapeLaws(LiveLaw(LAW), 16)
    for size in sizes:
        laws.of(size).observe(1, 0.01)
        assert laws.of(size) is laws.of(rounded(size))
    assert len(laws.others()) <= 64
    assert laws.of(16) is laws.usual

"""Shares of priority levels and zones."""

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx

from salver.features.routing.levels import level_of, level_shares

LEVELS = st.lists(st.integers(0, 50).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))), min_size=1)


@given(LEVELS)
def test_shares_add_up_and_nobody_gets_more_than_is_there(levels: list[tuple[int, int]]) -> None:
    shares = level_shares(levels)
    assert sum(shares) == approx(1.0) and min(shares) >= 0
    if any(fit for fit, _ in levels):
        assert not any(share > 1e-9 for share, (fit, _) in zip(shares, levels, strict=True) if not fit)


def test_another_zone_is_asked_after_this_one() -> None:
    zones = ["eu/a", "eu/b", "us/a", "europe/a", ""]
    assert [level_of(0, zone, "eu/a") for zone in zones] == [0, 1, 2, 2, 2]
    assert [level_of(0, "a", "a"), level_of(0, "b", "a"), level_of(1, "a", "a")] == [0, 2, 3]
    assert level_of(1, "b", "") == 3

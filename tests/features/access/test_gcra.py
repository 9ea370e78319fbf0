"""A limit is never exceeded, in any window, under any arrivals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.access.gcra import Cell, Rate, parse_rate
from salver.words.errors import InvalidInput

NS = 1_000_000_000
RATES = st.builds(
    Rate,
    st.sampled_from([1, 2, 3, 7, 10, 1000, 999_983, 1_000_000]),
    st.sampled_from([1, 60, 3600]),
    st.sampled_from([1, 2, 5, 50]),
)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Rate, list[int]]:
    """A rate, and pauses that are short, about as long as its period, or as long as a burst lasts."""
    rate = draw(RATES)
    period = rate.period_ns
    pause = st.one_of(
        st.integers(0, 1),
        st.integers(0, 1000),
        st.integers(0, 2 * period),
        st.integers(0, 3 * period * rate.burst),
    )
    return rate, draw(st.lists(pause, max_size=120))


@given(histories())
def test_no_window_accepts_more_than_the_burst_and_the_rate(history: tuple[Rate, list[int]]) -> None:
    rate, pauses = history
    cell, now, accepted = Cell(rate), 0, list[int]()
    for pause in pauses:
        now += pause
        if cell.wait(now) == 0:
            cell.take(now)
            accepted.append(now)
    for first, begin in enumerate(accepted):
        for last in range(first, len(accepted)):
            # in whole numbers: accepted - burst <= count / seconds * window
            excess = last - first + 1 - rate.burst
            assert excess * NS * rate.seconds <= rate.count * (accepted[last] - begin)


@given(histories())
def test_what_is_left_is_accepted_and_no_more(history: tuple[Rate, list[int]]) -> None:
    rate, pauses = history
    cell, now = Cell(rate), 0
    assert cell.left(0) == rate.burst
    for pause in pauses[:20]:
        now += pause
        left = cell.left(now)
        for _ in range(left):
            assert cell.wait(now) == 0
            cell.take(now)
        assert cell.wait(now) > 0 and cell.left(now) == 0
    assert Cell(Rate(0, 1, 1)).left(now) == 0


@given(histories())
def test_who_waits_as_told_is_accepted_and_not_before(history: tuple[Rate, list[int]]) -> None:
    rate, pauses = history
    cell, now = Cell(rate), 0
    for pause in pauses:
        now += pause
        wait = cell.wait(now)
        if wait:
            assert cell.wait(now + wait - 1) > 0
            now += wait
        assert cell.wait(now) == 0
        cell.take(now)


def test_a_full_burst_comes_back_and_no_more() -> None:
    cell = Cell(parse_rate("10/s+3"))
    for _ in range(2):
        taken = 0
        while cell.wait(10 * NS) == 0:
            cell.take(10 * NS)
            taken += 1
        assert taken in (3, 0)
    assert cell.wait(10 * NS) == NS // 10
    assert [cell.wait(3600 * NS), parse_rate("10/s+3").window_s] == [0, 1]


def test_a_rate_of_0_refuses_everything() -> None:
    cell = Cell(parse_rate("0/s"))
    assert all(cell.wait(now) > 0 for now in (0, NS, 10**18))


@pytest.mark.parametrize(
    "text", ["", "5", "-1/s", "nan/s", "inf/s", "1.5/s", "5/d", "5/s+0", "1000001/s", "1/s+1000001"]
)
def test_wrong_rates(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_rate(text)

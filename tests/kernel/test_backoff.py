from hypothesis import given
from hypothesis import strategies as st

from salver.kernel.supervise import Backoff


def test_a_long_life_starts_the_count_anew() -> None:
    rule = Backoff(healthy_s=30)
    assert [rule.count(4, 29.9), rule.count(4, 30.0), rule.count(0, 0.0)] == [5, 1, 1]


@given(st.integers(0, 10**9), st.floats(0, 1, exclude_max=True))
def test_waits_double_up_to_the_most_give_or_take_the_jitter(deaths: int, chance: float) -> None:
    rule = Backoff(first_s=0.1, most_s=30, jitter=0.1)
    plain = min(30, 0.1 * 2 ** min(max(deaths, 1) - 1, 40))
    assert 0.9 * plain <= rule.delay(deaths, chance) <= 1.1 * plain


def test_chance_spreads_the_waits_over_both_sides() -> None:
    rule = Backoff(first_s=1.0, jitter=0.5)
    assert [rule.delay(1, chance) for chance in (0.0, 0.5, 0.75)] == [0.5, 1.0, 1.25]

"""Ejection of instances, and the budget of retries."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from pytest import approx, mark, raises

from salver.features.routing.balancing import POLICIES
from salver.features.routing.budget import RetryBudget
from salver.features.routing.choosing import Outcome, Router
from salver.features.routing.health import EjectionConfig
from salver.features.routing.instances import Instance
from salver.words.errors import InvalidInput


def router(count: int, policy: str = "least-requests", **ejection: float) -> Router:
    instances = [Instance(f"http://{number}") for number in range(count)]
    config = EjectionConfig(**ejection)  # type: ignore[arg-type]
    return Router(instances, POLICIES[policy](Random(1)), config, RetryBudget(0.1, 10), Random(2).random)


def attempt(router: Router, instance: Instance, outcome: Outcome, now: float, seconds: float = 0.01) -> None:
    under_way = router.begin(instance)
    router.end(instance, outcome, seconds, under_way, now)


def test_one_dead_of_ten_is_ejected_after_three_failures_and_tried_again() -> None:
    found = router(10, base_s=5)
    dead = found.instances[4]
    for _ in range(2):
        attempt(found, dead, "failed", 0.0)
    assert dead.is_available(0.0)
    attempt(found, dead, "failed", 0.0)
    assert not dead.is_available(4.9) and found.ejected == 1
    assert {found.choose("", [], 1.0).url for _ in range(300)} == {  # type: ignore[union-attr]
        each.url for each in found.instances if each is not dead
    }
    # Half-open: one request at a time, whatever the policy thinks of its latency.
    assert found.choose("", [], 5.0) is dead
    under_way = found.begin(dead)
    assert found.choose("", [], 5.0) is not dead
    found.end(dead, "failed", 0.01, under_way, 5.0)
    assert not dead.is_available(14.9) and dead.is_available(15.0)  # twice as long
    attempt(found, dead, "answered", 15.0)
    assert dead.is_available(15.0) and not dead.is_ejected and dead.load.latency == 0


def test_never_more_than_the_share_is_ejected_but_always_one() -> None:
    few = router(4, most_share=0.5)
    for each in few.instances:
        for _ in range(5):
            attempt(few, each, "failed", 0.0)
    assert sum(each.is_ejected for each in few.instances) == 2
    one = router(2, most_share=0.1)
    for _ in range(3):
        attempt(one, one.instances[0], "failed", 0.0)
    assert one.instances[0].is_ejected


def rounds_until_ejection(found: Router, failing: dict[int, int], rounds: int = 200) -> int:
    """Return the attempts of each instance until one is ejected, where each n-th fails; 0 = none is."""
    for number in range(1, rounds + 1):
        for place, each in enumerate(found.instances):
            attempt(
                found, each, "failed" if number % failing.get(place, rounds + 1) == 0 else "answered", 0.0
            )
            if each.is_ejected:
                return number
    return 0


def test_an_instance_that_often_fails_between_answers_is_ejected() -> None:
    assert 10 < rounds_until_ejection(router(3), {1: 2}) < 40
    assert rounds_until_ejection(router(3), {1: 10}) == 0  # a tenth is borne
    assert rounds_until_ejection(router(3), {1: 2}, 8) == 0  # too few to tell
    assert rounds_until_ejection(router(3, failure_share=1.0), {1: 2}) == 0
    assert rounds_until_ejection(router(1), {0: 2}) > 0  # there is nobody to compare with


def test_what_fails_everywhere_ejects_nobody() -> None:
    assert rounds_until_ejection(router(3), {0: 2, 1: 2, 2: 2}) == 0


def test_with_too_few_left_all_are_asked() -> None:
    found = router(3, most_share=1)
    for each in found.instances[:2]:
        for _ in range(3):
            attempt(found, each, "failed", 0.0)
    assert {found.choose("", [], 1.0).url for _ in range(300)} == {  # type: ignore[union-attr]
        each.url for each in found.instances
    }
    # An operator's wish counts even then.
    found.instances[0].is_draining = True
    found.instances[1].unfit = "other inputs"
    assert {found.choose("", [], 1.0) for _ in range(50)} == {found.instances[2]}
    assert found.choose("", [found.instances[2].url], 1.0) is None


def test_a_fast_failure_does_not_look_fast() -> None:
    found = router(2, "peak-ewma")
    good, bad = found.instances
    for each in (good, bad):
        attempt(found, each, "answered", 0.0, seconds=0.1)
    attempt(found, bad, "failed", 0.1, seconds=0.001)
    assert bad.load.latency == approx(1.0) and {found.choose("", [], 0.1) for _ in range(50)} == {good}


@mark.parametrize("policy", ["measured", "peak-ewma"])
def test_failures_between_answers_do_not_add_up_without_limit(policy: str) -> None:
    found = router(2, policy)
    each = found.instances[0]
    for now in range(2000):
        attempt(found, each, "failed" if now % 2 else "answered", now / 100)
    assert 0.01 < each.load.latency <= 0.1


def test_what_the_caller_ends_says_nothing() -> None:
    found = router(2, "peak-ewma")
    each = found.instances[0]
    attempt(found, each, "left", 0.0, seconds=9)
    assert (each.load.pending, each.load.latency, each.failures) == (0, 0, 0)
    attempt(found, each, "late", 0.0, seconds=9)
    assert (each.load.latency, each.failures) == (9, 0)


def levels(*available: tuple[int, int]) -> Router:
    """Return a router with so many available instances and all instances of each level."""
    draws = Random(1)
    found = router(sum(there for _, there in available))
    found._draw = draws.random
    rest = iter(found.instances)
    for level, (fit, there) in enumerate(available):
        for number in range(there):
            each = next(rest)
            each.level, each.is_down = level, number >= fit
    return found


@mark.parametrize(
    ("available", "shares"),
    [
        ([(4, 4), (4, 4)], [1, 0]),
        ([(3, 4), (4, 4)], [1, 0]),  # 1.4 times .75 is enough
        ([(2, 4), (4, 4)], [0.7, 0.3]),
        ([(1, 4), (1, 4), (4, 4)], [0.35, 0.35, 0.3]),
        ([(0, 4), (4, 4)], [0, 1]),
        ([(0, 4), (0, 4)], [1, 0]),  # nobody: the first level's, in panic
    ],
)
def test_what_a_level_cannot_take_spills_over(available: list[tuple[int, int]], shares: list[float]) -> None:
    found = levels(*available)
    counts = [0] * len(available)
    for _ in range(4000):
        each = found.choose("", [], 0.0)
        assert each is not None
        counts[each.level] += 1
    assert [count / 4000 for count in counts] == approx(shares, abs=0.03)


def test_a_retry_leaves_the_level_when_all_of_it_has_failed() -> None:
    found = levels((1, 1), (1, 1))
    first, second = found.instances
    assert found.choose("", [first.url], 0.0) is second
    assert found.choose("", [first.url, second.url], 0.0) is None


def test_an_instance_that_is_back_starts_slowly() -> None:
    found = router(2)
    back = found.instances[1]
    back.slow_start_s = 10.0
    for _ in range(3):
        attempt(found, back, "failed", 0.0)
    attempt(found, back, "answered", 5.0)
    assert back.joined_at == 5.0 and back.share(6.0) == approx(0.1) and back.share(15.0) == 1.0


@given(
    ratio=st.floats(0, 1),
    reserve=st.integers(0, 20),
    events=st.lists(st.booleans(), max_size=300),
)
def test_no_order_of_events_exceeds_the_budget(ratio: float, reserve: int, events: list[bool]) -> None:
    budget, requests, retries = RetryBudget(ratio, reserve), 0, 0
    for is_request in events:
        if is_request:
            budget.request()
            requests += 1
        else:
            retries += budget.take()
        assert retries <= reserve + ratio * requests + 1e-9


@given(
    st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["answered", "failed", "refused"])), max_size=60)
)
def test_some_instance_is_always_there(events: list[tuple[int, Outcome]]) -> None:
    found = router(4, most_share=1)
    for now, (number, outcome) in enumerate(events):
        attempt(found, found.instances[number], outcome, float(now))
        assert found.choose("", [], float(now)) is not None


@mark.parametrize(
    ("wrong", "field"),
    [({"failures": 0}, "failures"), ({"base_s": 0}, "base_s"), ({"most_share": 2}, "most_share")],
)
def test_values_that_make_no_sense_are_refused(wrong: dict[str, float], field: str) -> None:
    with raises(InvalidInput, match=field):
        EjectionConfig(**wrong)  # type: ignore[arg-type]

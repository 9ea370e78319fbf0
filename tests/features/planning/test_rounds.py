"""Rounds and packing: the published example, brute force on small cases, what order and cores may change."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.planning.packing import Plan, pack, plan, refusal
from salver.features.planning.rehearsal import WANTED, in_time, with_margin
from salver.features.planning.rounds import Broken, PlacedLaw, Promise, Round, shortest_round
from salver.stats.batch_law import BatchLaw


def promise(
    name: str, rate: float, limit_ms: float, a_ms: float, t0_ms: float, *, most: int = 64, kink: int = 0,
    beyond_ms: float = 0.0, priority: float = 1.0, placements: tuple[tuple[int, int], ...] = ((1, 1),),
) -> Promise:  # fmt: skip
    law = BatchLaw(a_ms / 1e3, t0_ms / 1e3, kink, beyond_ms / 1e3)
    return Promise(name, rate, limit_ms / 1e3, [PlacedLaw(n, t, law) for n, t in placements], most, priority)


# Nexus (SOSP 2019), its models of section 4: milliseconds of batches of 4, 8 and 16, promises of 200 and 250.
A = promise("A", 64, 200, 6.25, 25, kink=8, beyond_ms=3.125)
B = promise("B", 32, 250, 10, 10, kink=8, beyond_ms=4.375)
C = promise("C", 32, 250, 8.75, 25, kink=8, beyond_ms=3.75)


def test_the_published_example_shares_one_round_between_two_models() -> None:
    found = shortest_round([A, B], 1)
    assert isinstance(found, Round)
    assert found.seconds == pytest.approx(0.125)
    assert [(turn.name, turn.rows) for turn in found.turns] == [("A", 8), ("B", 4)]
    assert [turn.latency_s for turn in found.turns] == pytest.approx([0.200, 0.175])
    assert found.tightness == pytest.approx(1.0)


def test_the_published_third_model_does_not_fit_and_says_whom_it_collides_with() -> None:
    assert isinstance(shortest_round([A, B, C], 1), Broken)
    found = plan([A, B, C], 1)
    assert [each.name for each in found.refused] == [
        "A"
    ]  # the one that needs most, if all are worth the same
    found = plan(
        [
            A,
            B,
            C.faster(1),
        ],
        2,
    )
    assert not found.refused and len(found.groups) == 2
    refused = refusal(C, [A, B], 1)
    assert refused.collides == ["A"]
    assert str(refused).startswith("C collides with A: A: answers would take ")
    important = [A, B, promise("C", 32, 250, 8.75, 25, kink=8, beyond_ms=3.75, priority=2.0)]
    assert "C" not in [each.name for each in plan(important, 1).refused]


CASES = {
    "nobody": ([], 1, None),
    "a row that takes too long": ([promise("a", 0, 50, 60, 0)], 1, "answers would take 120 of 50 ms"),
    "a round and its run are just in time": ([promise("a", 0, 120, 60, 0)], 1, None),
    "more rows than a run takes": (
        [promise("a", 500, 90, 0, 20, most=8)], 1, "10 rows arrive in a round, and a run takes at most 8"),
    "measured on two cores": (
        [promise("a", 0, 90, 1, 1, placements=((1, 2),))], 1,
        "it was measured on 2 cores or more, and has 1"),
    "two instances share the rows": ([promise("a", 90, 100, 1, 40, most=4, placements=((2, 1),))], 2, None),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_a_round_keeps_and_breaks(case: str) -> None:
    promises, cores, why = CASES[case]
    found = shortest_round(promises, cores)
    if why is None:
        assert isinstance(found, Round)
    else:
        assert str(found) == why


NUMBERS = st.tuples(
    st.floats(0, 300), st.floats(5, 200), st.floats(0, 5), st.floats(0.5, 20), st.integers(1, 6)
)
FEW = st.lists(NUMBERS, min_size=1, max_size=3)


def made(numbers: list[tuple[float, float, float, float, int]]) -> list[Promise]:
    return [
        promise(f"m{n}", rate, limit, a, t0, most=most)
        for n, (rate, limit, a, t0, most) in enumerate(numbers)
    ]


@given(FEW)
def test_the_round_is_the_shortest_of_all(numbers: list[tuple[float, float, float, float, int]]) -> None:
    promises = made(numbers)
    lengths = []
    for rows in itertools.product(*(range(1, each.max_rows + 1) for each in promises)):
        runs = [each.laws[0].seconds(count) for each, count in zip(promises, rows, strict=True)]
        length = sum(runs)
        if all(
            count >= math.ceil(each.rate * length - 1e-9) and length + run <= each.limit_s + 1e-9
            for each, count, run in zip(promises, rows, runs, strict=True)
        ):
            lengths.append(length)
    found = shortest_round(promises, 1)
    if lengths:
        assert isinstance(found, Round)
        assert found.seconds == pytest.approx(min(lengths), rel=1e-6)
    else:
        assert isinstance(found, Broken)


@given(st.lists(NUMBERS, min_size=1, max_size=5), st.randoms(use_true_random=False), st.integers(1, 3))
def test_order_changes_nothing_and_cores_only_help(numbers, shuffler, cores) -> None:  # type: ignore[no-untyped-def]
    promises = made(numbers)
    found = pack(promises, cores)
    shuffler.shuffle(promises)
    again = pack(promises, cores)
    assert (found is None) == (again is None)
    if found is not None:
        assert again is not None and again.tightness == pytest.approx(found.tightness)
        assert pack(promises, cores + 1) is not None
        assert pack(promises[1:], cores) is not None
    whole = plan(promises, cores)
    assert bool(whole.refused) == (found is None)
    names = [turn.name for group in whole.groups for turn in group.round.turns]
    assert sorted([*names, *(each.name for each in whole.refused)]) == sorted(each.name for each in promises)


@given(st.lists(NUMBERS, min_size=2, max_size=4))
def test_models_are_packed_onto_cores_as_brute_force_would(
    numbers: list[tuple[float, float, float, float, int]],
) -> None:
    promises = made(numbers)
    possible = False
    for places in itertools.product((0, 1), repeat=len(promises)):
        groups = [[p for p, place in zip(promises, places, strict=True) if place == core] for core in (0, 1)]
        possible = possible or all(isinstance(shortest_round(group, 1), Round) for group in groups)
    together = isinstance(shortest_round(promises, 2), Round)  # both cores take turns together
    assert (pack(promises, 2) is not None) == (possible or together)


def test_a_heavy_model_gets_more_cores_and_the_light_ones_share_one() -> None:
    both = ((1, 1), (2, 1), (3, 1))
    promises = [
        promise("heavy", 150, 120, 10, 10, placements=both),
        *(promise(f"light{n}", 5, 200, 2, 2) for n in range(3)),
    ]
    found = pack(promises, 4)
    assert found is not None
    by_name = {turn.name: (group.cores, turn) for group in found.groups for turn in group.round.turns}
    cores, turn = by_name["heavy"]
    assert len(cores) >= 2 and turn.instances >= 2
    assert all(not set(by_name[f"light{n}"][0]) & set(cores) for n in range(3))
    assert pack(promises, 1) is None
    many = [promise(f"m{n}", 50, 100, 2, 5, placements=((1, 1), (2, 1), (4, 1))) for n in range(12)]
    large = pack(many, 16)
    assert large is not None and sum(len(group.round.turns) for group in large.groups) == 12


def test_random_arrivals_need_a_margin_and_the_plan_finds_it() -> None:
    import numpy as np

    def gaps(number: int) -> list[float]:
        drawn: list[float] = np.random.default_rng(number).exponential(1.0, 1500).tolist()
        return drawn

    promises = [promise("a", 400, 60, 1, 4), promise("b", 200, 90, 1, 4)]
    even = pack(promises, 1)
    assert even is not None
    assert in_time(even, promises, lambda number: [1.0] * 1500) == {"a": 1.0, "b": 1.0}
    found = with_margin(promises, 1, gaps)
    assert found is not None
    better, margin, shares = found
    assert margin > 1 and min(shares.values()) >= WANTED > min(in_time(even, promises, gaps).values())
    assert isinstance(better, Plan)
    assert in_time(even, [each.faster(0) for each in promises], gaps) == {}
    assert with_margin([promise("a", 900, 20, 2, 10)], 1, gaps) is None

"""Requests that hang, through split, door, collector and evidence, in small: who is rolled back, who not."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from chances import may_be

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark's module, imported as the script imports it, and forgotten afterwards."""
    sys.path.insert(0, str(FOLDER))
    try:
        yield __import__("judge_hanging")
    finally:
        sys.path.remove(str(FOLDER))
        sys.modules.pop("judge_hanging", None)


def found(bench: Any, world: Any, releases: int) -> tuple[int, int]:
    """How many releases are rolled back, and how many were paused."""
    courses = [bench.Release(world, (5, seed)).run() for seed in range(releases)]
    ends = sum(course.rolled_back is not None for course in courses)
    return ends, sum(course.paused is not None for course in courses)


@pytest.mark.parametrize("is_closed", [False, True], ids=["open", "closed"])
def test_a_good_canary_is_rolled_back_by_alpha_at_most_where_requests_of_all_arms_hang(
    bench: Any, is_closed: bool
) -> None:
    some = bench.mixed(0.05, bench.never, bench.lognormal(0.5, 0.3))
    world = bench.World(some, weight=0.25, seconds=400)
    world = world._replace(callers=40) if is_closed else world._replace(per_second=3.0)
    ends, _ = found(bench, world, 20)
    may_be(ends, 20, at_most=bench.policy_of(world).alpha)


def test_a_canary_that_hangs_is_found_though_none_of_its_callers_asks_again(bench: Any) -> None:
    slow = bench.lognormal(0.5, 0.5)
    closed = bench.World(slow, bench.never, callers=8, weight=0.25, seconds=900)
    assert found(bench, closed, 3)[0] == 3
    named = bench.World(slow, bench.never, callers=64, users=64, weight=0.25, seconds=900)
    assert found(bench, named, 3)[0] == 3
    few = bench.World(slow, bench.never, callers=8, users=8, weight=0.25, seconds=900)
    assert found(bench, few, 3) == (0, 0)  # of eight users one in four hangs, which may be chance


def test_a_canary_that_hangs_is_paused_where_others_come(bench: Any) -> None:
    world = bench.World(bench.FAST, bench.never, per_second=20, weight=0.25, seconds=700)
    courses = [bench.Release(world, (6, seed)).run() for seed in range(3)]
    assert all(course.paused is not None and course.paused <= 120 for course in courses)
    assert all(course.rolled_back is not None for course in courses)

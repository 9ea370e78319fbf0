"""The rules of other judges, the simulated traffic, and a seeded part of what the judge's page claims."""

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from chances import may_be
from judge_paths import Arms, Schedule

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = ("models", "page", "judge_peers", "judge_traffic", "judge_more", "judge_report", "judge")


@pytest.fixture(scope="module")
def bench() -> Iterator[Any]:
    """The benchmark's modules, imported as the script imports them, and forgotten afterwards."""
    before = dict(sys.modules)
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: __import__(name) for name in NAMES})
    finally:
        sys.path.remove(str(FOLDER))
        for name in NAMES:
            sys.modules.pop(name, None)
            if name in before:
                sys.modules[name] = before[name]


@pytest.fixture(scope="module")
def result(bench: Any) -> Any:
    """The whole benchmark, in small."""
    return bench.judge.run(20)


# Other judges


@pytest.mark.parametrize(("jumps", "fails"), [(0, False), (6, False), (7, False), (8, True), (10, True)])
def test_kayenta_fails_a_jump_in_eight_of_ten_points_as_reported(bench: Any, jumps: int, fails: bool) -> None:
    canary = np.ones((1, 10))
    canary[:, :jumps] = 100
    assert bench.judge_peers.is_worse(np.ones((1, 10)), canary).tolist() == [fails]


def test_kayenta_takes_an_improvement_for_none(bench: Any) -> None:
    rng = np.random.default_rng(1)
    control, canary = rng.normal(10, 1, (2, 1, 30))
    assert not bench.judge_peers.is_worse(control, canary - 5)[0]
    assert bench.judge_peers.is_worse(control, canary + 5)[0]


def stage_of(errors: list[int], requests: int = 100) -> tuple[Arms, Arms, Schedule]:
    """One release, one stage, so many errors of the canary in each bucket."""
    row = np.array([errors])
    calm = np.zeros_like(row)
    schedule = Schedule(np.zeros(len(errors), int), np.full(len(errors), 0.1))
    return Arms(*(np.full_like(row, requests),) * 3), Arms(row, calm, calm), schedule


def test_argo_counts_measurements_of_five_minutes_and_fails_after_the_fourth(bench: Any) -> None:
    requests, events, _ = stage_of([6] * 300)  # 6 %
    assert bench.judge_peers.argo(requests, events, 0.95).tolist() == [4 * 30 - 1]
    requests, events, _ = stage_of([5] * 300)  # exactly what is allowed
    assert bench.judge_peers.argo(requests, events, 0.95).tolist() == [-1]
    requests, events, _ = stage_of(([6] * 30 + [0] * 30) * 5)
    assert bench.judge_peers.argo(requests, events, 0.95).tolist() == [7 * 30 - 1]


def test_flagger_counts_minutes_and_fails_at_the_tenth(bench: Any) -> None:
    requests, events, _ = stage_of([2] * 120)
    assert bench.judge_peers.flagger(requests, events).tolist() == [59]


# Traffic


def test_traffic_is_as_large_as_it_should_be(bench: Any) -> None:
    traffic, rng = bench.judge_traffic, np.random.default_rng(2)
    for scene in (
        traffic.independent(rng, 5, 100),
        traffic.by_user(rng, 5, 100, 20_000),
        traffic.by_user(rng, 5, 100, 20_000, is_sticky=False),
        traffic.by_user(rng, 5, 100, 20_000, tail=1.0),
    ):
        asked, failed = (sum(arm.sum() for arm in arms) for arms in (scene.requests, scene.raw))
        assert asked == pytest.approx(5 * 3 * 3600 * 100, rel=0.01)
        assert failed / asked == pytest.approx(0.005, rel=0.25)
        share = scene.requests.canary[:, -360:].sum() / sum(arm[:, -360:].sum() for arm in scene.requests)
        assert share == pytest.approx(0.25, abs=0.01)
        assert all((first <= every).all() for first, every in zip(scene.firsts, scene.raw, strict=True))


def test_a_few_users_have_all_failures_and_their_first_ones_are_few(bench: Any) -> None:
    scene = bench.judge_traffic.by_user(np.random.default_rng(3), 2, 100, 20_000)
    firsts, raw = (sum(arm.sum(axis=1) for arm in arms) for arms in (scene.firsts, scene.raw))
    assert (firsts <= 200).all() and (firsts >= 190).all()
    assert (raw > 4000).all()


def test_a_worse_canary_hits_anybody_in_it(bench: Any) -> None:
    scene = bench.judge_traffic.by_user(np.random.default_rng(4), 3, 1000, 200_000, 5.0)
    late = slice(-360, None)
    rates = [
        arm[:, late].sum() / asked[:, late].sum()
        for arm, asked in zip(scene.raw, scene.requests, strict=True)
    ]
    assert rates[0] / rates[2] == pytest.approx(5, rel=0.15)


def test_the_bad_times_are_what_they_are_called(bench: Any) -> None:
    traffic, rng = bench.judge_traffic, np.random.default_rng(5)
    outage = traffic.outage(rng, 50)
    assert set(np.unique(outage)) == {1.0, 6.0}
    assert ((outage > 1).sum(axis=1) == 120).all()
    bursts = traffic.bursts(rng, 20)
    assert bursts.mean() == pytest.approx(1, abs=0.05)
    assert bursts.std() == pytest.approx(2, abs=0.2)
    assert traffic.swing().mean() == pytest.approx(1, abs=0.01) and traffic.swing().max() == pytest.approx(
        2, 0.01
    )
    host = traffic.bad_host(rng, 5, 5)
    assert host[0].max() == 2 and (host[1:] == 1).all()


# What the page claims, in small


def test_the_benchmark_in_small_keeps_its_claims(bench: Any, result: Any) -> None:
    found = bench.judge_report.targets(result)
    assert len(found) > 20
    chances = [target for target in found if "≤" in target.claim and "req" not in target.measured]
    chances = [target for target in chances if "good releases" in target.claim or "passes" in target.claim]
    assert [target for target in chances if not target.holds] == []


def test_twenty_releases_find_what_thousands_do(result: Any) -> None:
    cells = {(row["per_second"], row["ratio"]): row for row in result["found"]}
    for cell, minutes in (((100, 3), 25), ((100, 10), 4), ((1000, 3), 5)):
        assert cells[cell]["salver"]["found"] == 20
        assert cells[cell]["salver"]["minutes"] < minutes
    assert cells[100, 3]["salver"]["minutes"] * 3 <= cells[100, 3]["Kayenta"]["minutes"]
    assert cells[100, 1]["Flagger 99"]["found"] == 20  # of good ones


def test_good_releases_survive_where_others_lose_them(result: Any) -> None:
    worst = dict.fromkeys(("salver", "E1", "Kayenta", "Flagger 99"), 0)
    for row in result["good"]:
        if "hosts" not in row["scene"]:
            for name in worst:
                worst[name] += row[name]["found"]
    number = 20 * sum("hosts" not in row["scene"] for row in result["good"])
    may_be(worst["salver"], number, at_most=0.01)
    assert worst["Flagger 99"] > number / 2
    assert worst["E1"] > 10 * max(1, worst["salver"])


def test_harm_is_found_where_the_canary_is_large_and_after_its_promotion(result: Any) -> None:
    for row in [*result["large"], *result["held"]]:
        if row["ratio"] >= 1.5 and row.get("scene") != "bursts":
            assert row["found"] == 20, row
    decided = {
        row["plan"]: row for row in result["money"] if row["kind"].startswith("all") and row["ratio"] < 1
    }
    assert decided["1, 5, 25 %"]["less"] == 20
    assert max(row["more"] for row in decided.values()) == 0


def test_the_page_is_made_of_the_figures(bench: Any, result: Any, tmp_path: Path) -> None:
    text = bench.judge_report.tables(result)
    assert "| req/s, canary's errors | **Salver** |" in text
    assert "| 1 % of users have all failures | 100 |" in text
    assert text.count("\n| ") > 60
    bench.judge_report.draw(result, tmp_path)
    for name in ("judge-delay.svg", "judge-quiet.svg"):
        assert "Salver" in (tmp_path / name).read_text()
    again = tmp_path / "again"
    bench.judge_report.draw(result, again)
    assert (again / "judge-delay.svg").read_bytes() == (tmp_path / "judge-delay.svg").read_bytes()


def test_a_claim_that_fails_is_said(bench: Any, result: Any) -> None:
    for row in result["good"]:
        row["salver"] = {**row["salver"], "found": row["salver"]["releases"]}
    found = bench.judge_report.targets(result)
    assert any(not target.holds for target in found)
    assert "**no**" in bench.judge_report.tables(result)


def test_requests_to_the_canary_are_those_of_its_stages(bench: Any) -> None:
    asked = bench.judge_report.requests_to_canary
    assert asked(19) == pytest.approx(1140)
    assert asked(90) == pytest.approx(12_600)
    assert asked(180) == asked(200)

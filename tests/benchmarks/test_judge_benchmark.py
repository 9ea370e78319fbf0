"""The rules of other judges, and the simulated worlds of releases."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judge_arrays import (
    judge_cells,
    judge_frontier,
    judge_peers,
    judge_report,
    judge_resources,
    judge_twin,
    judge_worlds,
)

# Other judges


@pytest.mark.parametrize(("jumps", "fails"), [(0, False), (6, False), (7, False), (8, True), (10, True)])
def test_kayenta_fails_a_jump_in_eight_of_ten_points_as_reported(jumps: int, fails: bool) -> None:
    canary = np.ones((1, 10))
    canary[:, :jumps] = 100
    assert judge_peers.is_worse(np.ones((1, 10)), canary).tolist() == [fails]


def test_kayenta_takes_an_improvement_for_none() -> None:
    rng = np.random.default_rng(1)
    control, canary = rng.normal(10, 1, (2, 1, 30))
    assert not judge_peers.is_worse(control, canary - 5)[0]
    assert judge_peers.is_worse(control, canary + 5)[0]


def stage_of(errors: list[int], requests: int = 100) -> tuple[Any, Any, Any]:
    """One release, one stage, so many errors of the canary in each bucket."""
    row = np.array([errors])
    calm = np.zeros_like(row)
    schedule = judge_twin.Schedule(np.zeros(len(errors), int), np.full(len(errors), 0.1))
    return judge_peers.Arms(*(np.full_like(row, requests),) * 3), judge_peers.Arms(row, calm, calm), schedule


def test_argo_counts_measurements_of_five_minutes_and_fails_after_the_fourth() -> None:
    requests, events, _ = stage_of([6] * 300)  # 6 %
    assert judge_peers.argo(requests, events, 0.95).tolist() == [4 * 30 - 1]
    requests, events, _ = stage_of([5] * 300)  # exactly what is allowed
    assert judge_peers.argo(requests, events, 0.95).tolist() == [-1]
    requests, events, _ = stage_of(([6] * 30 + [0] * 30) * 5)
    assert judge_peers.argo(requests, events, 0.95).tolist() == [7 * 30 - 1]


def test_flagger_counts_minutes_and_fails_at_the_tenth() -> None:
    requests, events, _ = stage_of([2] * 120)
    assert judge_peers.flagger(requests, events).tolist() == [59]


# Worlds


@pytest.mark.parametrize("name", judge_worlds.WORLDS)
def test_a_world_fails_as_often_as_it_should_and_in_its_arms(name: str) -> None:
    world = judge_worlds.WORLDS[name]
    [releases] = judge_cells.batches(2, name, world, 100.0, 4, judge_worlds.Plan())
    counted = judge_worlds.scene(releases)
    share = counted.requests[:, -360:, 0].sum() / counted.requests[:, -360:].sum()
    assert share == pytest.approx(0.25, abs=0.08 if world.activity == "whales" else 0.01)
    assert (counted.raw <= counted.requests).all()
    rate = counted.raw.sum() / counted.requests.sum()
    calm = not (world.hiccups or world.retries or world.rates == "outage")
    assert rate > 0.004 and (rate < 0.006 or not calm)
    assert (counted.events <= counted.places[:, :, 0] + counted.places.sum(axis=2)).all()
    assert (counted.places.sum(axis=2) <= counted.raw).all()
    assert counted.met.sum(axis=(1, 2)).max() <= 3 * releases[0].users


def test_all_units_that_fail_were_met_and_are_counted_by_their_blocks() -> None:
    [[release]] = judge_cells.batches(3, "few", judge_worlds.World(users=50), 10.0, 1, judge_worlds.Plan())
    events, places = release.firsts()
    assert events.shape == (1, 1080, 3) and events.sum() == len(np.unique(release.unit))
    blocks = {(unit, bucket // 6) for unit, bucket in zip(release.unit, release.bucket, strict=True)}
    assert places.sum() == len(blocks)
    met, exposed = release.met()
    assert exposed.sum() <= 50 and met.sum() <= 150
    assert (np.cumsum(exposed.sum(axis=1)) >= np.cumsum(events[0].sum(axis=1))).all()


def test_hiccups_of_a_process_hit_its_version_alone() -> None:
    world = judge_worlds.WORLDS["hiccups, half fail 30 s each 40 min"]
    [releases] = judge_cells.batches(4, "hiccups", world, 1000.0, 2, judge_worlds.Plan((0.25,)))
    for release in releases:
        rates = release.raw / release.requests
        struck = rates > 0.3
        assert 0.002 < struck[:, 0].mean() < 0.1
        assert (struck[:, 1] == struck[:, 2]).mean() > 0.99  # they share a process
        assert (struck[:, 0] & struck[:, 2]).mean() < 0.02


def test_what_fails_completely_is_told_of_the_last_buckets() -> None:
    world = judge_worlds.World(users=64, ratio=1 + 1 / judge_worlds.BASE, onset=12)
    [[release]] = judge_cells.batches(5, "all", world, 20.0, 1, judge_worlds.Plan((0.25,), 90))
    assert release.may_pause()[0] >= 12
    lately = release.lately(15, 0)
    assert lately.buckets == lately.failed_buckets == 4
    assert lately.failures.canary == lately.requests.canary > 100
    assert lately.failing.canary == lately.units.canary == 16 and lately.failing.control <= 1


# The page


def test_resources_are_judged_as_good_as_bad_and_at_the_margin_of_the_gate() -> None:
    [row, *_] = judge_resources.resources(3, 20)
    good, margin, harm = (row[case] for case in ("good", "margin", "harm"))
    assert (good["rolled_back"]["found"], good["passed"]["found"]) == (0, 20)
    assert harm["rolled_back"]["found"] == 20 and margin["passed"]["found"] <= 4


def test_the_page_is_made_of_the_results_each_with_its_number_and_interval(tmp_path: Path) -> None:
    result = json.loads((judge_report.RESULTS / "judge.json").read_text())
    text = judge_report.tables(result)
    for row in result["good"].values():
        assert f"{row['rolled_back']['found']} of {row['releases']:,}, ≤ " in text
    assert text.count(" req/s") > 30 and "a fifth less" in text
    judge_report.draw(result, tmp_path / "one.svg")
    judge_report.draw(result, tmp_path / "two.svg")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_the_frontier_is_drawn_alike_and_has_the_settings_in_force_first(tmp_path: Path) -> None:
    rows = json.loads((judge_report.RESULTS / "judge.json").read_text())["frontier"]
    for name in ("one.svg", "two.svg"):
        judge_report.draw_frontier(rows, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()
    [table] = judge_report._frontier(rows)
    assert table.splitlines()[2].startswith("| as it is |") and len(table.splitlines()) == 2 + len(rows)


# Cells


def test_without_what_tempers_it_the_judge_is_sooner_and_rolls_back_more_good_releases() -> None:
    cells = {name: run for name, _, _, run in judge_frontier.frontier(5, 20)}
    usual, plain = cells["as it is"](), cells["none of these"]()
    world = "hiccups, half fail 30 s each 40 min"
    assert plain["good"][world]["found"] > 5 > usual["good"][world]["found"]
    assert plain["bad"]["×10"]["minutes"][0] < usual["bad"]["×10"]["minutes"][0]
    assert cells["as it is"]() == usual  # settings are put back


def test_a_cell_is_told_with_its_interval_and_not_simulated_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "judge.json"
    how = ["judge_cells.py", "good", "--releases", "6", "--only", "independent", "--per-second", "100"]
    monkeypatch.setattr("sys.argv", [*how, "--out", str(out)])
    judge_cells.main()
    [row] = json.loads(out.read_text())["good"].values()
    assert (row["releases"], row["seed"], row["rolled_back"]["found"]) == (6, 2026, 0)
    assert row["rolled_back"]["high"] == pytest.approx(0.459, abs=0.001)  # 1 - 0.025 ** (1 / 6)
    assert row["flagger"]["found"] >= 1
    capsys.readouterr()
    judge_cells.main()
    assert not capsys.readouterr().out

"""Do the judge on arrays and the judge of the server say the same, and does it keep its promises?"""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_arrays import judge_cells, judge_course, judge_together, judge_twin, judge_worlds
from soaking import ONLY

from salver.features.releases.judge.evidence import observe, start
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.words.releases import Bucket, Counts

METRICS = (
    Metric("errors", "errors", "severe", negligible=0.002),
    Metric("fallbacks", "fallbacks", "soft", rollback_margin=0.1),
    Metric("slow", "latency", "soft", rollback_margin=0.25, quantile=0.99),
)
WORLDS = judge_worlds.WORLDS


def counts(row: np.ndarray) -> Counts:
    return Counts(*(int(count) for count in row))


class Drawn:
    """Random counts of one release, in bursts, of one server or several, each with bursts of its own."""

    def __init__(self, rng: np.random.Generator, shares: np.ndarray, per_bucket: float, servers: int) -> None:
        arms = np.stack([shares, np.minimum(shares, 1 - shares), np.maximum(0, 1 - 2 * shares)], axis=1)
        bursts = rng.gamma(0.5, 2.0, (1, len(shares), 1, 3)) * np.array([1.0, 0.3, 0.1])[:, None]
        places = rng.poisson(per_bucket * arms[None, :, None, :] * bursts)
        requests = rng.poisson(30 * per_bucket * arms[None])
        struck = rng.dirichlet(np.full(servers, 0.3), len(shares))
        alike = np.full((len(shares), servers), 1 / servers)
        # Of each bucket; the last axis is the server.
        self.placed, self.asked = (
            np.stack([rng.multinomial(rows[0, index], parts[index]) for index in range(len(shares))])
            for rows, parts in ((places, struck), (requests, alike))
        )
        self.first, self.servers = rng.binomial(self.placed[:, 0], 0.7), servers
        units = np.moveaxis(self.placed.sum(axis=1), -1, 1)[None]
        by_server = judge_twin.ServerScene(
            requests=np.moveaxis(self.asked, -1, 1)[None],
            raw=2 * units,
            units=units,
            first=np.moveaxis(self.first, -1, 1)[None],
            places=np.moveaxis(self.placed, -1, 1)[None],
        )
        self.seen = judge_twin.Scene(
            requests=requests,
            met=rng.poisson(40 * arms[None]),
            events=self.first.sum(axis=-1)[None],
            raw=2 * places.sum(axis=2),
            places=places,
            servers=by_server if servers > 1 else None,
        )

    def bucket(self, index: int, metric: str, *, is_missing: bool) -> Bucket:
        """What all servers counted, and each of them."""
        of_servers = [
            self._bucket(
                index,
                metric,
                self.asked[index, :, server],
                self.first[index, :, server],
                self.placed[index, :, :, server],
            )
            for server in range(self.servers)
        ]
        whole = self._bucket(
            index,
            metric,
            self.seen.requests[0, index],
            self.seen.events[0, index],
            self.seen.places[0, index],
        )
        whole = msgspec.structs.replace(whole, met=counts(self.seen.met[0, index]))
        if is_missing:
            return msgspec.structs.replace(whole, events={}, raw={}, blocks={})
        return msgspec.structs.replace(whole, parts=judge_course.parts_of(of_servers))

    def _bucket(
        self, index: int, metric: str, requests: np.ndarray, first: np.ndarray, places: np.ndarray
    ) -> Bucket:
        return Bucket(
            10.0 * index,
            10.0,
            0,
            0.0,
            counts(requests),
            events={metric: counts(first)},
            raw={metric: counts(2 * places.sum(axis=0))},
            blocks={metric: tuple(counts(row) for row in places)},
        )


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    metric=st.sampled_from(METRICS),
    weights=st.lists(st.floats(0.01, 0.95), min_size=1, max_size=3, unique=True),
    per_bucket=st.sampled_from([0.3, 5.0, 200.0]),
    warm_up=st.sampled_from([0.0, 25.0]),
    length=st.sampled_from([5, 40]),
    alone=st.booleans(),
    missing=st.frozensets(st.integers(0, 80), max_size=20),
    servers=st.sampled_from([1, 3]),
)
def test_arrays_say_what_the_judge_says(
    seed: int,
    metric: Metric,
    weights: list[float],
    per_bucket: float,
    warm_up: float,
    length: int,
    alone: bool,
    missing: frozenset[int],
    servers: int,
) -> None:
    """To the ninth digit, in bursts, with stages that begin within a block, and buckets without counts.

    Each of several servers has bursts of its own.
    """
    stages = tuple(Stage(weight, 1, margin_times=2) for weight in sorted(weights)) + (Stage(1.0, 0),) * alone
    policy = Policy(stages=stages, metrics=(metric,), warm_up_seconds=warm_up)
    shares = np.repeat([stage.weight for stage in stages], length)
    schedule = judge_twin.Schedule(np.repeat(np.arange(len(stages)), length), shares, missing)
    drawn = Drawn(np.random.default_rng(seed), shares, per_bucket, servers)
    found = judge_twin.paths(policy, metric, schedule, drawn.seen)
    evidence = start(policy)
    for index, (stage, share) in enumerate(zip(schedule.stages.tolist(), shares.tolist(), strict=True)):
        bucket = drawn.bucket(index, metric.name, is_missing=index in missing)
        bucket = msgspec.structs.replace(bucket, stage=stage, share=share)
        evidence = observe(policy, evidence, bucket)
        [known] = evidence.metrics
        assert known.counts is not None
        for name, value in (
            ("log_e", known.log_e(metric)),
            ("first", known.counts.first.log_e),
            ("units", known.counts.log_units),
            ("blocks", known.counts.blocks.bets.log_e),
            ("flip", known.log_flip),
            ("gate", known.log_gate(metric)),
            ("factor", known.counts.blocks.factor(share)),
        ):
            assert value == pytest.approx(getattr(found, name)[0, index], rel=1e-9, abs=1e-9), name


def cell(name: str, releases: int, world: object = None, per_second: float = 100.0) -> dict:
    return judge_cells.cell(31, name, world or WORLDS[name], per_second, releases, peers=False)


@pytest.mark.parametrize(
    "name",
    [
        "hiccups, half fail 30 s each 40 min",
        "one canary process, twenty stable, hiccups",
        "bursts by process, CV 2",
        "5 % of users, retry storms",
        "outage of all arms, × 10",
        "counts missing for 2 min each 20 min",
        "clocks of half of the servers 30 s ahead",
        "four servers, half fail 30 s each 40 min",
        "four servers, late, one killed each 40 min",
    ],
)
def test_good_releases_are_not_rolled_back_where_processes_hiccup_and_users_differ(name: str) -> None:
    releases = 40
    found = cell(name, releases)
    may_be(found["rolled_back"]["found"], releases, at_most=0.01)
    assert found["paused"] <= 0.05 * releases and not found["off_at_end"]


def test_the_bursts_of_one_server_among_several_do_not_hide_harm() -> None:
    world = WORLDS["four servers, half fail 30 s each 40 min"]._replace(ratio=10.0)
    found = cell("harm on all servers", 20, world)["rolled_back"]
    assert found["found"] == 20 and found["minutes"][0] <= 15


@ONLY
def test_all_metrics_together_and_stages_that_end_by_evidence_keep_alpha() -> None:
    names = ("seven metrics, hiccups and bursts, 100/s", "independent users, 100/s")
    for cells in (judge_together.seven, judge_together.adaptive):
        [found, *_] = [run() for key, _, _, run in cells(12, 4) if key in names]
        may_be(found["rolled_back"]["found"], found["releases"], at_most=0.01)


def test_harm_neither_passes_the_gates_of_stages_that_end_by_evidence_nor_is_it_missed() -> None:
    name = "independent users, 100/s, errors ×3"
    [found] = [run() for key, _, _, run in judge_together.adaptive(12, 100) if key == name]
    assert found["promoted"]["found"] == 0 and found["rolled_back"]["found"] == found["releases"] == 20


def test_neither_witness_would_do_alone() -> None:
    """Blocks are needed where processes have bursts, units where few users have all errors."""
    found = cell("bursts by process, CV 2", 20)
    assert found["alone"]["units"] >= 4 > found["alone"]["blocks"]


@pytest.mark.parametrize(("ratio", "minutes"), [(3.0, 30.0), (10.0, 6.5)])
def test_harm_is_found_in_minutes(ratio: float, minutes: float) -> None:
    found = cell("harm", 60, judge_worlds.World(ratio=ratio))["rolled_back"]
    assert found["found"] == 60 and found["minutes"][0] <= minutes


def test_harm_to_frequent_users_is_found_within_the_plan() -> None:
    found = cell("frequent", 40, judge_worlds.World(users=300, ratio=3.0))["rolled_back"]
    may_be(found["found"], 40, at_least=0.8)


def test_harm_that_begins_late_is_found_as_well() -> None:
    found = cell("late", 30, judge_worlds.World(ratio=10.0, onset=300))["rolled_back"]
    assert found["found"] == 30 and found["minutes"][0] <= 12


@pytest.mark.parametrize("users", [20, 64, 1000])
def test_a_canary_that_fails_completely_is_paused_within_a_minute_and_rolled_back_on_its_return(
    users: int,
) -> None:
    found = judge_cells.failure(7, users, users / 10, 0.25, 1.0, 1, 10)
    assert found["paused"] == found["rolled_back"] == 10
    assert found["pause_seconds"][0] <= 60 and found["rollback_seconds"][1] <= 300


@pytest.mark.parametrize("name", ["error-proneness lognormal 2", "5 % of users have 90 % of errors"])
def test_harm_at_the_margin_seldom_passes_a_gate_whatever_units_are_like(name: str) -> None:
    releases = 40
    found = judge_cells.gate(8, name, WORLDS[name], 100.0, 1.5, releases)["passed"]
    may_be(found["found"], releases, at_most=0.05)


def test_no_harm_passes_a_gate() -> None:
    found = judge_cells.gate(8, "independent users", WORLDS["independent users"], 100.0, 1.0, 40)["passed"]
    may_be(found["found"], 40, at_least=0.95)


def test_a_biased_split_is_held_and_gives_no_verdict() -> None:
    releases = judge_cells.batches(
        9, "biased", judge_worlds.World(bias=1.5), 100.0, 2, judge_worlds.Plan((0.05,), 90)
    )
    for release in next(releases):
        course = judge_course.followed([release], judge_cells.policy(release.plan))
        assert course.rolled_back < 0 and "split" in course.causes


@pytest.mark.parametrize(
    ("share", "ratio", "claim"),
    [
        (0.6, 1.0, {"at_most": 0.01}),
        (0.9, 1.0, {"at_most": 0.01}),
        (0.6, 2.0, {"at_least": 0.99}),
        (0.9, 2.0, {"at_least": 0.99}),
    ],
)
def test_a_soft_metric_is_judged_where_the_canary_has_more_than_half(
    share: float, ratio: float, claim: dict[str, float]
) -> None:
    """Two hours, 100 requests a second, 1 % of them fallbacks; all opinions have to agree."""
    metric = Metric("fallbacks", "fallbacks", "soft")
    policy = Policy(stages=(Stage(share, 120),), metrics=(metric,))
    rng, number = np.random.default_rng(11), 720
    schedule = judge_twin.Schedule(np.zeros(number, np.int64), np.full(number, share))
    parts = np.array([share * ratio, 1 - share, 0.0])
    events = rng.poisson(10 * parts, (100, number, 3))
    asked = rng.poisson(1000 * np.array([share, 1 - share, 0.0]), (100, number, 3))
    seen = judge_twin.Scene(asked, asked, events, events, events[:, :, None])
    found = judge_twin.paths(policy, metric, schedule, seen).log_e
    rolled_back = (found >= -math.log(policy.alpha)).any(axis=1)
    may_be(int(rolled_back.sum()), 100, **claim)

"""Buckets of what was seen: units once, happenings once a unit, all in bounded memory."""

import itertools
from functools import reduce

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import CollectorWorld, happened_in, served

from salver.features.releases.experiments.assign import assign
from salver.features.releases.experiments.happenings import happened
from salver.features.releases.experiments.outputs import OutputCheck
from salver.features.releases.experiments.router import Route, Router
from salver.features.releases.experiments.seen_units import CollectorConfig
from salver.stats.exact import clopper_pearson
from salver.words.errors import Code
from salver.words.events import Responded, Shadowed, StateChanged
from salver.words.messages import Call, ModelId, State
from salver.words.releases import (
    ARMS,
    NO_STAGE,
    NO_UNITS,
    Arm,
    Copies,
    Counts,
    Split,
    first_in,
    plus,
    unit_number,
)
from salver.words.tensor import tensor

SPLIT = Split("r1", "m", stable="1", canary="2", weight=0.25, salt="s1")


def arms_of(met):
    return [ARMS[place] for place in met.arms]


def test_a_bucket_has_requests_and_first_exposures_by_arm():
    world = CollectorWorld()
    world.serve(served(), served(), served("bo", Arm.STABLE), served("cy", Arm.BASELINE))
    world.serve(served(), served("di"))
    (seen,) = world.close()
    bucket = seen.bucket
    assert (seen.release, bucket.start, bucket.seconds, bucket.share) == ("r1", 1000.0, 10.0, 0.25)
    assert (bucket.requests, bucket.exposures) == (Counts(4, 1, 1), Counts(2, 1, 1))
    met = seen.exposures
    assert list(met.units) == [unit_number(name) for name in ("ada", "bo", "cy", "di")]
    assert arms_of(met) == [Arm.CANARY, Arm.STABLE, Arm.BASELINE, Arm.CANARY]
    assert (met.are_first == 1).all() and (met.times == 1000.0).all()
    world.serve(served(), served("bo", Arm.STABLE))
    (again,) = world.close()
    assert (again.bucket.start, again.bucket.requests) == (1010.0, Counts(1, 0, 1))
    assert (again.bucket.exposures, len(again.exposures)) == (Counts(), 0)


def test_only_what_the_hash_has_assigned_counts_and_only_of_releases_that_are_followed():
    world = CollectorWorld()
    others = ("always", "never", "excluded")
    world.serve(*(served(reason=reason) for reason in others), served(release="r2"))
    plain = msgspec.structs.replace(served(), assignment=None)
    world.serve(plain, StateChanged(ModelId("m", "1"), State.NEW, State.LOADING))
    (seen,) = world.close()
    assert (seen.bucket.requests, seen.bucket.stage) == (Counts(), NO_STAGE)

    world.collector.follow("r2")
    world.serve(served(), served(release="r2"))
    assert [seen.release for seen in world.close()] == ["r1", "r2"]
    world.serve(served())
    world.collector.leave("r1")
    assert world.seen[-1].bucket.requests == Counts(1)
    world.serve(served())
    assert [seen.release for seen in world.close()] == ["r2"]


@pytest.mark.parametrize(("share", "expected"), [(0.2, Counts(1, 1, 1)), (0.9, Counts(1, 2, 0))])
def test_those_held_back_are_of_the_control_and_of_the_baseline_of_a_large_canary(share, expected):
    world = CollectorWorld()
    said = {"propensity": share}
    world.serve(
        served("ada", **said),
        served("bo", Arm.BASELINE, **said),
        served("cy", Arm.HOLDBACK, reason="holdback", **said),
    )
    (seen,) = world.close()
    assert (seen.bucket.requests, seen.bucket.exposures, seen.bucket.share) == (expected, expected, share)


def test_that_nobody_came_is_told_too():
    world = CollectorWorld()
    world.serve(served())
    one, two, three = (world.close()[0].bucket for _ in range(3))
    assert (one.start, one.seconds, one.stage) == (1000.0, 10.0, 0)
    assert [(b.start, b.seconds, b.stage, b.share) for b in (two, three)] == [
        (1010.0, 10.0, NO_STAGE, 0.0),
        (1020.0, 10.0, NO_STAGE, 0.0),
    ]


def test_something_happens_to_a_unit_for_the_first_time_once_whenever_it_comes_again():
    world = CollectorWorld()
    bad = [served(outcome="model_failed")] * 3 + [served("bo", Arm.STABLE, "model_failed")]
    world.serve(*bad)
    world.serve(served(outcome="deadline_exceeded"))
    (seen,) = world.close()
    assert happened_in(seen.bucket.events) == {"errors": Counts(1, 0, 1), "timeouts": Counts(1)}
    assert happened_in(seen.bucket.raw) == {"errors": Counts(3, 0, 1), "timeouts": Counts(1)}
    ada, bo = unit_number("ada"), unit_number("bo")
    assert not seen.bucket.in_stage
    errors, timeouts = [(ada, Arm.CANARY), (bo, Arm.STABLE)], [(ada, Arm.CANARY)]
    assert {name: list(zip(met.units, arms_of(met), strict=True)) for name, met in seen.firsts.items()} == {
        "errors": errors,
        "timeouts": timeouts,
    }
    world.serve(*bad)
    (again,) = world.close()
    assert (happened_in(again.bucket.events), again.firsts) == ({}, {})
    assert happened_in(again.bucket.raw) == {"errors": Counts(3, 0, 1)}


def test_bins_have_first_events_in_each_stage_also_after_a_restart():
    bins = OutputCheck("score", "bins", "p", bins=2, bounds=(0.5,))

    def count(world, *units, stage):
        for unit in units:
            event = served(unit, stage=stage)
            world.serve(event, Responded(event.assignment, unit, (tensor("p", [0.1]),)))
        bucket = world.close()[-1].bucket
        return happened_in(bucket.events), bucket.in_stage

    world = CollectorWorld()
    world.collector.watch("r1", (bins,), keeps_requests=False)
    assert count(world, "ada", "bo", stage=0) == ({"score.0": Counts(2)}, {})
    assert count(world, "ada", "cy", stage=1) == ({"score.0": Counts(1)}, {"score.0": Counts(2)})
    assert count(world, "ada", "cy", stage=1) == ({}, {})
    again = CollectorWorld(follows=())
    known = [("score.0", unit_number("ada")), (first_in("score.0", "in_stage", 1), unit_number("ada"))]
    again.collector.follow("r1", memory=again.collector.remembered((), known))
    again.collector.watch("r1", (bins,), keeps_requests=False)
    assert count(again, "ada", "bo", stage=1) == ({"score.0": Counts(1)}, {"score.0": Counts(1)})


def test_without_units_every_request_counts_and_none_is_kept():
    world = CollectorWorld()
    world.serve(*[served("q1", outcome="model_failed", has_unit=False)] * 3)
    (seen,) = world.close()
    assert seen.bucket.exposures == seen.bucket.events["errors"] == Counts(3)
    assert (len(seen.exposures), seen.firsts) == (0, {})


@pytest.mark.parametrize("code", list(Code))
def test_what_a_caller_does_wrong_is_not_the_models_error(code):
    blame = {
        Code.MODEL_FAILED: ["errors"],
        Code.UNKNOWN: ["errors"],
        Code.INTERNAL: ["errors"],
        Code.DEADLINE_EXCEEDED: ["timeouts"],
        Code.CANCELLED: ["timeouts"],
        Code.OVERLOADED: ["refused"],
        Code.NOT_READY: ["errors"],
        Code.INVALID_INPUT: ["rejected"],
        Code.NOT_FOUND: ["rejected"],
        Code.TOO_LARGE: ["rejected"],
        Code.UNSUPPORTED: ["rejected"],
    }
    assert happened(served(outcome=code.value), {}) == blame.get(code, [])


def test_outputs_that_fit_nothing_are_told_from_other_errors():
    assert happened(served(outcome="model_failed", why="output"), {}) == ["invalid"]


def test_an_answer_whose_status_says_that_it_failed_is_an_error_and_neither_good_nor_slow():
    assert happened(served(why="status", latency=9.0), {"slow": 1.0}) == ["errors"]
    world = CollectorWorld()
    world.serve(served(why="status"), *[served("bo", Arm.STABLE, why="status")] * 100)
    assert world.collector.thresholds("r1", {"slow": 0.5}) == {}
    (seen,) = world.close()
    assert happened_in(seen.bucket.events) == {"errors": Counts(1, 0, 1)}


def test_an_answer_of_another_version_is_a_fallback_and_may_be_an_error_too():
    assert happened(served(answered="1"), {}) == ["fallbacks"]
    assert happened(served(answered="1", outcome="model_failed"), {}) == ["errors", "fallbacks"]
    assert happened(served(answered="", outcome="not_found"), {}) == []
    world = CollectorWorld()
    world.serve(served(answered="1"))
    assert happened_in(world.close()[0].bucket.events) == {"fallbacks": Counts(1)}


def test_slow_is_what_takes_longer_than_the_frozen_seconds():
    world = CollectorWorld()
    world.collector.slow_from("r1", {"p50": 0.02, "p99": 0.5})
    world.serve(served(latency=0.1), served("bo", Arm.BASELINE, latency=1.0), served("cy", latency=0.01))
    world.serve(served("di", latency=9.0, outcome="model_failed"), served("ed", latency=2.0, outcome="ok"))
    (seen,) = world.close()
    assert happened_in(seen.bucket.events) == {"p50": Counts(2, 1), "p99": Counts(1, 1), "errors": Counts(1)}


def test_a_version_that_hangs_until_its_callers_leave_is_late_and_slow():
    """Without that it would have no events at all, and be promoted for it."""
    world = CollectorWorld()
    world.collector.slow_from("r1", {"p99": 0.5})
    world.serve(served(latency=30.0, outcome="cancelled"), served("bo", Arm.BASELINE))
    (seen,) = world.close()
    assert happened_in(seen.bucket.events) == {"timeouts": Counts(1), "p99": Counts(1)}


def test_thresholds_are_quantiles_of_the_stable_versions_answers_once_there_are_enough():
    world = CollectorWorld()
    rng = np.random.default_rng(3)
    seconds = rng.lognormal(-3, 0.5, 4000)
    quantiles = {"slow": 0.5, "very_slow": 0.99}
    assert world.collector.thresholds("r1", quantiles) == {}
    arms = itertools.cycle((Arm.STABLE, Arm.BASELINE))
    events = [served(f"u{n}", next(arms), latency=float(s)) for n, s in enumerate(seconds)]
    world.serve(*events[:390])
    assert world.collector.thresholds("r1", quantiles) == {}
    world.serve(*events[390:], *[served(latency=50.0)] * 5000)  # the canary's are not asked
    found = world.collector.thresholds("r1", quantiles)
    assert found["slow"] == pytest.approx(np.quantile(seconds, 0.5), rel=0.08)
    assert found["very_slow"] == pytest.approx(np.quantile(seconds, 0.99), rel=0.12)
    world.collector.slow_from("r1", {"slow": 10.0, "very_slow": 20.0})  # as if they had come on a bad day
    assert world.collector.thresholds("r1", quantiles) == {}
    world.serve(*events, *events, *events, *events)
    again = world.collector.thresholds("r1", quantiles)
    assert again == pytest.approx(found, rel=0.05)


def test_a_latency_is_in_the_bucket_once_it_is_measured_and_nobody_was_slow():
    world = CollectorWorld()
    world.serve(served(latency=9.0))
    (before,) = world.close()
    world.collector.slow_from("r1", {"p99": 0.5})
    world.serve(served(latency=0.1))
    (since,) = world.close()
    assert ["p99" in one.bucket.raw for one in (before, since)] == [False, True]
    assert since.bucket.raw["p99"] == since.bucket.events["p99"] == Counts()


@pytest.mark.parametrize("keeps_arms", [True, False])
def test_a_unit_that_moves_as_the_canary_grows_is_exposed_there_but_not_for_the_first_time(keeps_arms):
    world = CollectorWorld()
    world.collector.follow("r1", memory=world.collector.remembered(keeps_arms=keeps_arms))
    world.serve(served(arm=Arm.STABLE))
    world.close()
    world.serve(served(stage=1, propensity=0.5), served(stage=1, propensity=0.5))
    (seen,) = world.close()
    assert (seen.bucket.requests, seen.bucket.exposures) == (Counts(2), Counts())
    moved = [Arm.CANARY] * keeps_arms  # of which nobody wants to know where no outcomes are posted
    assert (arms_of(seen.exposures), seen.exposures.are_first.tolist()) == (moved, [0] * keeps_arms)


def test_a_change_of_the_split_within_a_bucket_makes_two_of_it():
    world = CollectorWorld()
    world.serve(served())
    world.now += 4
    world.serve(served("bo", stage=1, propensity=0.5), served("cy"))
    first, second = world.close()
    assert (first.bucket.start, first.bucket.stage, first.bucket.requests) == (1000.0, 0, Counts(2))
    assert (second.bucket.start, second.bucket.stage, second.bucket.share) == (1004.0, 1, 0.5)


@pytest.mark.parametrize("order", [("new", "old"), ("old", "new"), ("old", "new", "old", "new")])
def test_a_request_that_the_stage_before_has_left_behind_takes_no_time_of_the_next(order):
    world = CollectorWorld()
    next_one = {"stage": 1, "propensity": 0.5}
    world.serve(served("ada"))
    world.now += 4
    world.serve(served("bo", **next_one))
    assert [(seen.bucket.start, seen.bucket.seconds) for seen in world.close()] == [
        (1000.0, 4.0),
        (1004.0, 6.0),
    ]
    for what in order:
        world.now += 1
        world.serve(served("cy", **(next_one if what == "new" else {})))
    world.now -= len(order)
    first, second = (seen.bucket for seen in world.close())
    assert (first.stage, first.start, first.seconds) == (0, 1010.0, 0.0)
    assert (second.stage, second.start, second.seconds) == (1, 1010.0, 10.0)
    assert first.requests == second.requests == Counts(len(order) // 2)


def test_nothing_is_handed_over_twice_and_nothing_lost_at_the_end():
    world = CollectorWorld()
    world.serve(served())
    world.now += 3
    world.collector.flush()
    world.serve(served("bo"))
    world.now += 2
    world.collector.flush()
    world.collector.flush()
    buckets = [seen.bucket for seen in world.seen]
    assert [(b.start, b.seconds, b.exposures) for b in buckets] == [
        (1000.0, 3.0, Counts(1)),
        (1003.0, 2.0, Counts(1)),
    ]


def test_a_bucket_with_very_many_units_is_handed_over_early():
    world = CollectorWorld(CollectorConfig(units=100_000, most_pending=4000))
    for start in range(0, 12_000, 2000):
        world.now += 0.5
        world.serve(*(served(f"u{n}") for n in range(start, start + 2000)))
    assert sum(len(seen.exposures) for seen in world.seen) > 11_950
    assert [seen.bucket.start for seen in world.seen] == [1000.0, 1001.0, 1002.0]
    (rest,) = world.close()
    assert (rest.bucket.start, rest.bucket.requests) == (1003.0, Counts())


def test_a_bucket_with_very_many_requests_is_handed_over_early():
    world = CollectorWorld(CollectorConfig(most_requests=1000))
    for _ in range(3):
        world.now += 0.5
        world.serve(*(served("ada") for _ in range(600)))
    assert [seen.bucket.requests.total for seen in world.seen] == [1200]
    (rest,) = world.close()
    assert rest.bucket.requests.total == 600


def test_after_a_restart_what_is_known_is_not_counted_again():
    world = CollectorWorld()
    world.serve(served(), served("bo", Arm.STABLE, "model_failed"))
    (seen,) = world.close()
    again = CollectorWorld(follows=())
    events = [(metric, unit) for metric, met in seen.firsts.items() for unit in met.units.tolist()]
    again.collector.follow("r1", memory=again.collector.remembered(seen.exposures.units, events))
    again.serve(served(), served("bo", Arm.STABLE, "model_failed"), served("bo", Arm.STABLE, "internal"))
    again.serve(served("bo", Arm.STABLE, "deadline_exceeded"), served("cy"))
    (bucket,) = [seen.bucket for seen in again.close()]
    assert (bucket.requests, bucket.exposures) == (Counts(2, 0, 3), Counts(1))
    assert (happened_in(bucket.events), bucket.raw["errors"]) == (
        {"timeouts": Counts(0, 0, 1)},
        Counts(0, 0, 2),
    )


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.integers(0, 15), st.sampled_from(["ok", "model_failed", "overloaded"])), max_size=80
    ),
    st.integers(1, 20),
)
def test_however_events_are_handed_over_the_sums_are_the_same(story, size):
    route = Route((SPLIT,))
    events = [
        msgspec.structs.replace(
            served(f"u{unit}", outcome=outcome),
            assignment=route.recall(Call("x", 0.0, traits={"header:x-user-id": f"u{unit}"})).assignment,
        )
        for unit, outcome in story
    ]
    events = [
        msgspec.structs.replace(event, version=event.assignment.version)  # each by its arm's version
        for event in events
    ]
    world = CollectorWorld()
    for start in range(0, len(events), size):
        world.now += 1.7
        world.serve(*events[start : start + size])
    world.close()
    buckets = [seen.bucket for seen in world.seen]
    arms = {unit: assign(SPLIT, {"header:x-user-id": f"u{unit}", "request": "q"}).arm for unit, _ in story}
    assert sum(bucket.requests.total for bucket in buckets) == len(story)
    assert sum(bucket.exposures.total for bucket in buckets) == len(arms)
    canaries = list(arms.values()).count(Arm.CANARY)
    assert sum(bucket.exposures.canary for bucket in buckets) == canaries
    broken = {unit for unit, outcome in story if outcome == "model_failed"}
    firsts = [unit for seen in world.seen if "errors" in seen.firsts for unit in seen.firsts["errors"].units]
    assert sorted(firsts) == sorted(unit_number(f"u{unit}") for unit in broken)


def test_a_crowded_filter_loses_units_of_every_arm_alike_and_says_so_once():
    split = msgspec.structs.replace(SPLIT, weight=0.5)
    world = CollectorWorld(CollectorConfig(units=5_000, error=0.05))
    arms = {}
    for start in range(0, 20_000, 1000):
        found = {
            f"u{n}": assign(split, {"header:x-user-id": f"u{n}", "request": ""}).arm
            for n in range(start, start + 1000)
        }
        arms |= found
        events = [served(unit, arm, propensity=0.5) for unit, arm in found.items()]
        world.serve(*events)
    world.close()
    counts = list(arms.values())
    exposed = [
        sum(getattr(seen.bucket.exposures, arm) for seen in world.seen) for arm in ("canary", "baseline")
    ]
    lost = [counts.count(arm) - seen for arm, seen in zip((Arm.CANARY, Arm.BASELINE), exposed, strict=True)]
    assert sum(lost) > 1000
    low, high = clopper_pearson(lost[0], sum(lost), 0.999)
    share = counts.count(Arm.CANARY) / len(counts)
    assert low < share < high
    assert [text.count("more than 5000 units") for text in world.warnings] == [1]


def test_what_is_kept_is_bounded_whatever_comes():
    world = CollectorWorld(CollectorConfig(units=1000))
    followed = world.collector._followed["r1"]
    for start in range(0, 150_000, 10_000):
        world.serve(*(served(f"u{n}", outcome="model_failed") for n in range(start, start + 10_000)))
        assert followed.pending <= 65_536 + 20_000
        assert len(followed.recent) <= 65_536


def copied(unit, outcome="ok", agrees=True, seconds=0.01, release="r1"):
    return Shadowed("m", "2", release, unit, "q", outcome, 0.02, seconds, agrees, 0.0)


def test_copies_are_counted_by_unit_for_the_worst_of_them():
    world = CollectorWorld()
    world.serve(
        served("bo", Arm.STABLE, propensity=0.0),
        copied("ada"),
        copied("ada", agrees=False, seconds=0.5),
        copied("ada"),
        copied("bo", outcome="model_failed", agrees=False, seconds=9.0),
        copied("bo", agrees=False),
        copied("cy"),
        copied("di", release="r2"),
    )
    (seen,) = world.close()
    assert seen.bucket.copies == Copies(asked=3, differed=1, failed=1, slower=1)
    (after,) = world.close()
    assert after.bucket.copies == Copies()


def test_copies_of_more_units_than_can_be_kept_are_left_out():
    world = CollectorWorld()
    world.serve(*(copied(f"u{number}") for number in range(65_600)))
    (seen,) = world.close()
    assert seen.bucket.copies == Copies(65_536)


def test_of_the_time_before_a_release_is_followed_nothing_is_told():
    world = CollectorWorld(follows=())
    world.now = 1003.0
    world.collector.follow("r1")
    world.collector.tick()
    world.now = 1010.0
    world.collector.tick()
    (bucket,) = [seen.bucket for seen in world.seen]
    assert (bucket.start, bucket.seconds, bucket.stage) == (1003.0, 7.0, NO_STAGE)


def test_copies_of_a_bucket_in_which_nobody_else_came_are_told_too():
    world = CollectorWorld()
    world.collector.observe([copied("ada")])
    (seen,) = world.close()
    assert (seen.bucket.stage, seen.bucket.copies) == (NO_STAGE, Copies(1))


def test_where_nobody_meets_the_canary_no_unit_is_used_up():
    world = CollectorWorld()
    world.collector.watch("r1", (), keeps_requests=True)
    assert world.collector.thresholds("r1", {"p50": 0.2}) == {}
    failed = served("ada", Arm.STABLE, outcome="model_failed", propensity=0.0)
    world.serve(failed, served("ada", Arm.STABLE, latency=0.3, propensity=0.0))
    (seen,) = world.close()
    assert (seen.bucket.share, seen.bucket.requests, happened_in(seen.bucket.raw)) == (
        0.0,
        Counts(0, 0, 2),
        {"errors": Counts(0, 0, 1)},
    )
    assert not seen.rows
    world.serve(served("ada", outcome="model_failed"))
    (seen,) = world.close()
    assert (seen.bucket.exposures, happened_in(seen.bucket.events)) == (Counts(1), {"errors": Counts(1)})
    assert world.collector.thresholds("r1", {"p50": 0.2}) != {}


def test_who_waits_for_far_longer_than_others_ever_did_has_a_time_out():
    world = CollectorWorld()
    router = Router()
    router.replace([SPLIT])
    everybody = [f"user-{number}" for number in range(40)]
    arms = [assign(SPLIT, {"header:x-user-id": unit, "request": ""}).arm for unit in everybody]
    calls = []

    def begin():
        for unit in everybody:
            call = Call("x", world.now, traits={"header:x-user-id": unit})
            world.under_way.begin(call, router.find("m", "").recall(call))
            calls.append(call)

    def counts(chosen):
        return Counts(*(chosen.count(arm) for arm in ARMS))

    begin()
    waits = [happened_in(world.close()[0].bucket.raw) for _ in range(4)]
    assert waits == [{}] * 4  # nobody knows how long an answer may take
    assert world.collector.waiting("r1") != ""
    world.serve(served("bo", Arm.STABLE, latency=5.0), served("cy"))
    assert world.collector.waiting("r1") == ""
    assert happened_in(world.close()[0].bucket.raw) == {}  # ten times five seconds are just over
    begin()  # the same users ask again
    looks = [world.close()[0].bucket for _ in range(30)]
    # An eighth of those who wait, the oldest first, be it for the canary or not.
    assert [one.requests.total for one in looks[:6]] == [5, 5, 4, 4, 3, 8]
    assert looks[0].requests == looks[0].exposures == counts(arms[:5])
    assert happened_in(looks[0].events) == happened_in(looks[0].raw) == {"timeouts": counts(arms[:5])}
    assert reduce(plus, [one.exposures for one in looks]) == counts(arms)
    assert reduce(plus, [one.events.get("timeouts", Counts()) for one in looks]) == counts(arms)
    assert reduce(plus, [one.raw.get("timeouts", Counts()) for one in looks]) == counts(2 * arms)
    number = 2 * arms.count(Arm.CANARY)
    words = f"requests to the canary that have no answer yet: {number}, the oldest for 350 seconds"
    assert world.collector.waiting("r1") == words
    assert all(world.under_way.end(call) for call in calls)  # each was told
    assert world.collector.waiting("r1") == ""


@pytest.mark.parametrize("named", [True, False])
def test_while_a_request_waits_that_was_reported_its_unit_fails_in_each_bucket(named):
    world = CollectorWorld()
    router = Router()
    router.replace([SPLIT])
    world.serve(served("bo", Arm.STABLE))
    traits = {"header:x-user-id": "ada"} if named else {"request": "ada"}
    call = Call("x", world.now, request_id="q", traits=traits)
    world.under_way.begin(call, router.find("m", "").settled(call, traits))
    seen = [world.close()[0] for _ in range(7)]
    assert [[*each.failing.get("timeouts", NO_UNITS).units] for each in seen] == (
        [[]] * 3 + [[unit_number("ada")] * times for times in (2 if named else 1, 1, 1, 1)]
    )
    assert [each.bucket.requests.total for each in seen] == [1, 0, 0, 1, 0, 0, 0]
    timeouts = [each.bucket.events.get("timeouts", Counts()).total for each in seen]
    assert timeouts == [0, 0, 0, 1, 0, 0, 0]
    assert not any(counts.total for each in seen for counts in each.bucket.blocks.get("timeouts", ()))
    assert world.under_way.end(call)
    assert world.close()[0].failing == {}


def test_a_version_that_stands_still_for_three_buckets_does_not_hang():
    world = CollectorWorld()
    router = Router()
    router.replace([SPLIT])
    world.serve(served("bo", Arm.STABLE))
    call = Call("x", world.now, request_id="q", traits={"header:x-user-id": "ada"})
    world.under_way.begin(call, router.find("m", "").recall(call))
    seen = [happened_in(world.close()[0].bucket.raw) for _ in range(4)]
    assert [list(raw) for raw in seen] == [[], [], [], ["timeouts"]]

"""A first stage without weight: nobody meets the canary, and how alike its answers are decides."""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be

from salver.features.releases.judge import procedure
from salver.features.releases.judge.evidence import observe, start
from salver.features.releases.judge.explain import explain, foretell, unseen
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.outlook import Forecast, detection_minutes, outlook
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import proposed
from salver.features.releases.judge.replay import Entry, first_difference
from salver.features.releases.judge.shadowing import Alike, CopyEvidence, fewest, verdict
from salver.features.releases.judge.verdict import Decision
from salver.words.errors import InvalidInput
from salver.words.releases import Bucket, Copies, Counts, ReleaseState, Shadow, Traffic

ALIKE = Alike(0.98)
POLICY = Policy(
    stages=(Stage(0.0, 1, sample=2000), Stage(0.1, 1)),
    metrics=(Metric("errors", "errors", "severe", negligible=0.01),),
    warm_up_seconds=0,
    no_data_seconds=60,
    hold_minutes=5,
    traffic=Traffic(shadow=Shadow(share=0.5)),
    alike=ALIKE,
)
GOOD, BAD = Copies(100, 0, 0, 10), Copies(100, 15, 5)
PROVEN = 7  # so many bad buckets


def bucket(number, copies=GOOD, **changes):
    fields = {
        "stage": 0,
        "share": 0.0,
        "requests": Counts(0, 0, 500),
        "exposures": Counts(0, 0, 500),
        **changes,
    }
    return Bucket(10.0 * number, 10.0, copies=copies, **fields)


def followed(copies, policy=POLICY, state=ReleaseState.RUNNING):
    evidence, said = start(policy), []
    for number, some in enumerate(copies):
        evidence, found = judge(policy, evidence, bucket(number, some), state)
        said.append(found)
    return evidence, said


def test_copies_that_are_alike_let_it_go_on_after_its_time():
    evidence, said = followed([GOOD] * 6)
    assert [each.decision for each in said] == [*[Decision.CONTINUE] * 5, Decision.PROMOTE]
    assert said[-1].next_stage == 1
    assert said[-1].copies.copies == evidence.copies.copies == Copies(600, 0, 0, 60)
    assert (evidence.requests, evidence.units, evidence.split.counts) == (Counts(), Counts(), (0, 0))


@pytest.mark.parametrize(("rolls_back", "decision"), [(False, Decision.HOLD), (True, Decision.ROLLBACK)])
def test_copies_that_are_not_alike_hold_it_or_roll_it_back_as_the_policy_says(rolls_back, decision):
    policy = msgspec.structs.replace(POLICY, alike=Alike(0.98, rolls_back))
    _, said = followed([BAD] * PROVEN, policy)
    assert {one.decision for one in said[:-1]} == {Decision.CONTINUE}  # one bucket may be a burst
    assert (said[-1].decision, said[-1].cause) == (decision, None if rolls_back else "unlike")
    assert f"of {100 * PROVEN} copies {15 * PROVEN} differ and {5 * PROVEN} failed" in said[-1].reasons[0]


def test_a_hold_for_copies_that_are_not_alike_ends_in_a_rollback_at_its_deadline():
    _, said = followed([BAD] * (PROVEN + 31))
    assert [each.decision for each in said[PROVEN - 1 : PROVEN + 29]] == [Decision.HOLD] * 30
    assert said[PROVEN + 29].decision is Decision.ROLLBACK
    later = msgspec.structs.replace(POLICY, after_hold="wait")
    assert followed([BAD] * (PROVEN + 31), later)[1][-1].decision is Decision.HOLD


def test_what_proves_neither_is_inconclusive_and_waits_for_a_person():
    few = Copies(400, 8)
    _, said = followed([few] * 40)
    held = [each for each in said if each.decision is Decision.HOLD]
    assert held and {each.cause for each in held} == {"inconclusive"}
    assert "2400 requests, of 2000" in held[0].reasons[0] and "98% of the copies" in held[0].reasons[1]
    assert said[-1].decision is Decision.HOLD, "no severe metric was seen failing"
    budget = msgspec.structs.replace(POLICY, ships_on_budget=True)
    assert followed([few] * 6, budget)[1][-1].decision is Decision.PROMOTE


def test_without_copies_there_are_no_data():
    _, said = followed([GOOD, *[Copies()] * 8])
    assert (said[-1].decision, said[-1].cause) == (Decision.HOLD, "no_data")
    assert "the canary has answered no copies" in said[-1].reasons[0]


def test_one_that_is_paused_is_held_and_still_rolled_back():
    assert followed([GOOD] * 9, state=ReleaseState.PAUSED)[1][-1].cause == "person"
    policy = msgspec.structs.replace(POLICY, alike=Alike(0.98, rolls_back=True))
    assert followed([BAD] * PROVEN, policy, ReleaseState.PAUSED)[1][-1].decision is Decision.ROLLBACK


def test_the_next_stage_begins_with_nothing_but_what_copies_have_shown():
    evidence, _ = followed([GOOD] * 6)
    first = bucket(
        6, Copies(), stage=1, share=0.1, requests=Counts(50, 50, 400), exposures=Counts(50, 50, 400)
    )
    after, said = judge(POLICY, evidence, first, ReleaseState.RUNNING)
    fresh, _ = judge(POLICY, start(POLICY), first, ReleaseState.RUNNING)
    assert said.copies is None
    assert msgspec.structs.replace(after, copies=fresh.copies) == fresh
    late = observe(POLICY, after, bucket(7, Copies(5, 5)))
    assert (late.copies.copies.asked, late.stage_seconds, late.stage) == (605, after.stage_seconds, 1)


def test_a_bucket_without_a_share_has_no_requests_to_the_canary():
    """Unless it is of a stage without weight; while it is paused, the stable version answers all."""
    with pytest.raises(InvalidInput, match="share is 0"):
        observe(POLICY, start(POLICY), bucket(0, stage=1, requests=Counts(1, 1, 8)))
    paused = observe(POLICY, start(POLICY), bucket(0, stage=1, requests=Counts(stable=10)))
    assert paused.requests.total == paused.stage_seconds == 0


@pytest.mark.parametrize(("seconds", "buckets"), [(10.4, 1), (10.6, 0), (9.4, 0)])
def test_a_bucket_of_another_length_says_nothing_of_how_wild_copies_are(seconds, buckets):
    uneven = msgspec.structs.replace(bucket(0, BAD), seconds=seconds)
    assert observe(POLICY, start(POLICY), uneven).copies.wildness.buckets == buckets


def test_decisions_are_computed_again_bit_by_bit():
    evidence, log = start(POLICY), []
    for number, copies in enumerate([GOOD, BAD, GOOD, Copies(), GOOD]):
        evidence, found = judge(POLICY, evidence, bucket(number, copies), ReleaseState.RUNNING)
        log.append(Entry(bucket(number, copies), ReleaseState.RUNNING, found))
    read = msgspec.json.decode(msgspec.json.encode(log), type=list[Entry])
    assert read == log and first_difference(POLICY, read) is None
    wrong = [msgspec.structs.replace(read[0], bucket=bucket(0, BAD)), *read[1:]]
    assert first_difference(POLICY, wrong) is not None


def test_a_release_goes_from_copies_to_callers():
    release = procedure.started(proposed("r1", "m", ("1", "2"), POLICY, 1.0), 2.0, "")
    assert (release.weight, release.split.weight, release.split.shadow) == (0.0, 0.0, Shadow(share=0.5))
    after = procedure.judged(release, followed([GOOD] * 6)[1][-1], 3.0)
    assert (after.stage, after.weight) == (1, 0.1)


def test_it_is_told_in_words():
    _, said = followed([GOOD])
    words = explain(POLICY, said[-1])
    assert words.startswith("CONTINUE at stage 1 of 2 (0% of the units)")
    assert "Of 100 copies 0 differ and 0 failed; 10 took the canary longer." in words
    assert "It lacks evidence" in words
    told = foretell(POLICY, outlook(POLICY, Forecast(10, {"errors": 0.005})))
    assert "Stage 1 (0%) lasts 1.0 min if all is well.\n  Nobody meets it: copies" in told


def test_the_outlook_knows_how_many_copies_are_enough():
    slow = outlook(POLICY, Forecast(0.1, {"errors": 0.005}))
    assert slow.minutes[0] == pytest.approx(fewest(ALIKE, 0.05) / (60 * 0.1 * 0.5))
    needed = math.ceil(fewest(ALIKE, POLICY.beta))
    assert not verdict(CopyEvidence().add(Copies(needed), ALIKE), ALIKE, 0.01, 0.05).missing
    assert verdict(CopyEvidence().add(Copies(needed * 4 // 5), ALIKE), ALIKE, 0.01, 0.05).missing
    one = msgspec.structs.replace(POLICY, stages=POLICY.stages[1:])
    forecast = Forecast(100, {"errors": 0.005})
    (metric,) = POLICY.metrics
    assert math.isinf(detection_minutes(POLICY, 0, metric, 3.0, forecast))
    assert detection_minutes(POLICY, 1, metric, 3.0, forecast) == detection_minutes(
        one, 0, metric, 3.0, forecast
    )


def test_a_first_stage_without_weight_wants_a_shadow_and_a_stage_after_it():
    for stages, traffic in (
        ((Stage(0, 1), Stage(0.1, 1)), Traffic()),
        ((Stage(0, 1), Stage(0.1, 1)), Traffic(shadow=Shadow(share=0))),
        ((Stage(0, 1),), Traffic(shadow=Shadow())),
    ):
        with pytest.raises(InvalidInput, match="no weight"):
            Policy(stages=stages, traffic=traffic)
    assert Policy.from_json(POLICY.to_json()) == POLICY


@pytest.mark.parametrize("ratio", [1.0, 5.0])
def test_bursts_of_copies_that_differ_hold_no_canary_that_is_alike_enough_as_a_rule(ratio):
    """Half as many as may differ, in one bucket of fifty; and five times as many as that, one by one."""
    rng, alike, found, releases = np.random.default_rng(8), Alike(0.99), 0, 200
    for _ in range(releases):
        evidence, is_found = CopyEvidence(), False
        for _ in range(100):
            bad = int(rng.binomial(100, 0.005 * ratio)) if ratio > 1 else 25 * int(rng.random() < 0.02)
            evidence = evidence.add(Copies(100, bad), alike)
            is_found |= evidence.log_unlike >= -math.log(0.01)
        found += is_found
    may_be(found, releases, **({"at_least": 0.95} if ratio > 1 else {"at_most": 0.01}))


@pytest.mark.parametrize("least", [0.9, 0.99])
def test_chances_of_a_wrong_step_are_kept_at_every_look(least):
    """With as many alike as may just be: neither is proven more often than promised, in 2,000 releases."""
    alike, releases, looks = Alike(least), 2000, 60
    bad = np.random.default_rng(7).binomial(50, 1 - least, (releases, looks))
    passed = rejected = 0
    for counts in bad:
        evidence, has = CopyEvidence(), [False, False]
        for count in counts:
            evidence = evidence.add(Copies(50, int(count)), alike)
            has = [
                has[0] or evidence.log_alike >= -math.log(0.05),
                has[1] or evidence.log_unlike >= -math.log(0.01),
            ]
        passed, rejected = passed + has[0], rejected + has[1]
    may_be(passed, releases, at_most=0.05)
    may_be(rejected, releases, at_most=0.01)


def test_what_no_metric_could_look_at_is_told():
    policy = msgspec.structs.replace(
        POLICY, metrics=(Metric("rule", "rule", "soft", output="p"), *POLICY.metrics)
    )
    raw = {"rule.unseen": Counts(3, 0, 1000), "errors": Counts(5)}
    seen = [msgspec.structs.replace(bucket(number), raw=raw) for number in range(2)]
    assert list(unseen(policy, seen)) == [
        "rule could not look at 2,006 answers: its output is not there, or too large."
    ]
    assert list(unseen(policy, [bucket(0)])) == []

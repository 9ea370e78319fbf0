"""What becomes of a release, and what is said of it?"""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from hypothesis import given, settings
from hypothesis import strategies as st
from rollout_releases import ERRORS, POLICY, SLOW, buckets, counts, judged, with_policy

from salver.features.releases.judge.evidence import Evidence, observe, start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.rules import Approval, CostCap, Facts, Never, ShipOnBudget, StepApproval
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.words.errors import InvalidInput
from salver.words.releases import Bucket, Counts, OutcomeCohort, ReleaseState


def last(*args: object, **changes: object) -> Verdict:
    return judged(*args, **changes)[1][-1]  # type: ignore[arg-type]


# A way through


def test_a_good_release_goes_through_its_stages_each_after_its_time() -> None:
    evidence, begin, seen = None, 0.0, []
    for stage, number in ((0, 80), (1, 80), (2, 1)):
        evidence, verdicts = judged(
            buckets(stage=stage, number=number, begin=begin, events={"errors": 150, "slow": 250}),
            evidence=evidence,
            until=lambda verdict: verdict.decision is Decision.PROMOTE,
        )
        begin += 10 * len(verdicts)
        seen.append((len(verdicts), verdicts[-1].decision, verdicts[-1].next_stage))
        assert {one.decision for one in verdicts[:-1]} <= {Decision.CONTINUE}
    assert [(decision, following) for _, decision, following in seen] == [
        (Decision.PROMOTE, 1),
        (Decision.PROMOTE, 2),
        (Decision.PROMOTE, None),
    ]
    assert seen[0][0] >= 6 and seen[1][0] >= 6  # a minute each, whatever the evidence


def test_a_bad_release_is_rolled_back_at_once_and_for_good() -> None:
    policy = with_policy(stages=(Stage(0.1, 60), Stage(1.0, 0)))
    evidence, verdicts = judged(buckets(policy, ratios={"errors": 10.0}, number=60), policy)
    assert verdicts[-1].decision is Decision.ROLLBACK
    assert len(verdicts) <= 36  # minutes, and before the stage's least time
    assert verdicts[-1].reasons[0].startswith("errors: the canary has 10.00 times its control's rate")
    again, verdict = judge(policy, evidence, next(buckets(policy, begin=1000)), ReleaseState.RUNNING)
    assert verdict.decision is Decision.ROLLBACK and "final" in verdict.reasons[0]
    assert again == evidence


@pytest.mark.parametrize("state", list(ReleaseState))
def test_a_rollback_comes_in_every_state(state: ReleaseState) -> None:
    assert last(buckets(ratios={"errors": 10.0}, number=30), state=state).decision is Decision.ROLLBACK


def test_one_that_is_paused_is_held_and_one_that_is_promoted_goes_on() -> None:
    verdict = last(buckets(number=20), state=ReleaseState.PAUSED)
    assert (verdict.decision, verdict.cause) == (Decision.HOLD, "person")
    assert verdict.held_since is None  # no deadline runs
    assert last(buckets(number=20), state=ReleaseState.PROMOTED).decision is Decision.CONTINUE


def test_one_that_was_rolled_back_stays_so_whatever_is_known_of_it() -> None:
    evidence, verdict = judge(POLICY, start(POLICY), next(buckets()), ReleaseState.ROLLED_BACK)
    assert verdict.decision is Decision.ROLLBACK
    assert evidence.is_over and evidence.requests.total == 0


def test_evidence_does_not_shorten_a_stage() -> None:
    policy = with_policy(stages=(Stage(0.1, 15),))
    plenty = buckets(policy, events={"errors": 2000, "slow": 2000}, requests=40_000, number=100)
    _, verdicts = judged(plenty, policy, until=lambda verdict: verdict.decision is Decision.PROMOTE)
    assert len(verdicts) == 90
    assert not any(metric.missing for metric in verdicts[80].metrics)
    assert verdicts[80].reasons == ("stage 1 lasts another 1.5 minutes at least",)


def test_with_all_of_the_traffic_nobody_is_missed() -> None:
    _, verdicts = judged(buckets(stage=2, number=10))
    assert {verdict.decision for verdict in verdicts} == {Decision.PROMOTE}
    assert verdicts[-1].next_stage is None


def test_silence_is_counted_anew_at_each_stage() -> None:
    silence = {"requests": Counts(), "exposures": Counts(), "events": {}}
    seen = [*buckets(number=5), *buckets(stage=1, begin=50, number=6)]
    _, verdicts = judged([msgspec.structs.replace(one, **silence) for one in seen])
    assert [verdict.cause for verdict in verdicts] == [None] * 10 + ["no_data"]


# Evidence


def test_a_soft_metric_needs_the_second_opinion() -> None:
    """More slow answers than all of the control, and no more than its own baseline, is no proof; for latency
    only the baseline counts at all.
    """
    soft = Metric("odd", "rule", "soft", promotion_margin=None)
    policy = with_policy(metrics=(soft,))
    share = policy.stages[0].weight
    bucket = next(buckets(events={}))
    for baseline, rolls_back in ((2, True), (30, False)):
        odd = Counts(canary=30, baseline=baseline, stable=16)
        seen = [
            msgspec.structs.replace(bucket, start=10.0 * n, events={"odd": odd}, share=share)
            for n in range(20)
        ]
        verdict = last(seen, policy)
        [metric] = verdict.metrics
        assert (verdict.decision is Decision.ROLLBACK) == rolls_back
        assert metric.log_e == min(metric.log_harm, metric.log_flip)
        assert metric.log_harm >= metric.threshold or rolls_back


def test_latency_is_held_against_its_baseline_alone() -> None:
    policy = with_policy(metrics=(SLOW,))
    bucket = next(buckets(events={}))
    seen = [
        msgspec.structs.replace(bucket, start=10.0 * n, events={"slow": Counts(30, 30, stable)})
        for n, stable in enumerate([0, 500] * 10)
    ]
    verdict = last(seen, policy)
    assert verdict.decision is not Decision.ROLLBACK
    assert verdict.metrics[0].effect == pytest.approx(1.0)


def test_metrics_that_are_not_enough_alone_are_together() -> None:
    metrics = tuple(Metric(f"m{n}", "errors", "severe") for n in range(5))
    policy = with_policy(metrics=metrics)
    names = {metric.name: 20.0 for metric in metrics}
    verdict = last(buckets(policy, events=names, ratios=dict.fromkeys(names, 3.0), number=200), policy)
    assert verdict.decision is Decision.ROLLBACK
    assert all(metric.log_e < metric.threshold for metric in verdict.metrics)
    assert "other metrics add to it" in verdict.reasons[0]


def test_evidence_is_never_reset_and_gates_begin_anew() -> None:
    seen, before = judged(buckets(ratios={"errors": 1.4}, number=36))
    evidence, after = judged(buckets(stage=1, begin=360, number=1, events={}), evidence=seen)
    harm = [verdict.metrics[0].log_harm for verdict in (before[-1], after[0])]
    assert harm[0] == harm[1] != 0
    gates = [known.metrics[1].counts.log_gate for known in (seen, evidence)]  # type: ignore[union-attr]
    assert gates[1] < -600 < gates[0]  # nothing, before the first minute of the stage is over


def test_warming_up_counts_severe_events_and_nothing_else() -> None:
    policy = with_policy(warm_up_seconds=600.0)
    evidence, [*_, verdict] = judged(buckets(ratios={"slow": 10.0}, number=30), policy)
    errors, slow = verdict.metrics
    assert errors.events.total > 0
    assert slow.events.total == 0 and slow.log_e <= 0
    assert evidence.stage_requests == Counts()
    assert verdict.decision is Decision.CONTINUE
    assert last(buckets(ratios={"errors": 10.0}, number=36), policy).decision is Decision.ROLLBACK


def test_an_output_that_moves_either_way_is_found() -> None:
    score = Metric("score", "output", "soft", bins=3, promotion_margin=None)
    policy = with_policy(metrics=(score,))
    for ratio, rolls_back in ((1.0, False), (3.0, True), (0.2, True)):
        events = {"score.0": 300.0, "score.1": 300.0, "score.2": 300.0}
        verdict = last(buckets(policy, events=events, ratios={"score.1": ratio}, number=40), policy)
        assert (verdict.decision is Decision.ROLLBACK) == rolls_back, ratio
        assert verdict.metrics[0].effect == pytest.approx(ratio, rel=0.1)


def test_an_output_that_only_spreads_wider_is_found() -> None:
    """Tests of a mean or a median miss it: the outer bins fill from both sides."""
    score = Metric("score", "output", "soft", bins=4, promotion_margin=None)
    policy = with_policy(metrics=(score,))
    events = {f"score.{number}": 300.0 for number in range(4)}
    for wider, rolls_back in ((1.0, False), (1.6, True)):
        inner = 2 - wider
        ratios = {"score.0": wider, "score.1": inner, "score.2": inner, "score.3": wider}
        verdict = last(buckets(policy, events=events, ratios=ratios, number=40), policy)
        assert (verdict.decision is Decision.ROLLBACK) == rolls_back, wider


def test_fewer_sales_are_harm_and_more_are_none() -> None:
    sales = Metric("sales", "outcome", "soft", worse="less", matures_minutes=1, promotion_margin=0.3)
    policy = with_policy(metrics=(sales,), stages=(Stage(0.3, 1),))

    def selling(ratio: float) -> list[Bucket]:
        return [
            msgspec.structs.replace(
                bucket,
                outcomes=(
                    OutcomeCohort("sales", bucket.start - 60, 0.3, counts(300, 0.3), counts(100, 0.3, ratio)),
                ),
            )
            for bucket in buckets(policy, number=60, events={})
        ]

    fewer = last(selling(0.5), policy)
    assert fewer.decision is Decision.ROLLBACK
    assert fewer.metrics[0].effect == pytest.approx(0.5)
    assert fewer.metrics[0].units.canary == 90 * fewer.metrics[0].events.canary / 15
    for ratio in (1.0, 1.5):
        assert last(selling(ratio), policy).decision is Decision.PROMOTE


def test_outcomes_count_at_the_share_of_their_exposure() -> None:
    """A unit of the first stage whose outcome comes in the second is judged by the first one's odds."""
    sales = Metric("refunds", "outcome", "severe", promotion_margin=None)
    policy = with_policy(metrics=(sales,))
    late = OutcomeCohort("refunds", 0.0, 0.1, counts(1000, 0.1), counts(100, 0.1))
    bucket = msgspec.structs.replace(next(buckets(stage=1, begin=100)), outcomes=(late,))
    evidence = observe(policy, start(policy), bucket)
    [known] = evidence.metrics
    assert known.strands[0].ratio.estimate == pytest.approx(1.0)
    assert known.units == counts(1000, 0.1)


def test_what_must_never_happen_rolls_back_whatever_the_evidence() -> None:
    policy = with_policy(rules=(Never("leak"),))
    bucket = msgspec.structs.replace(next(buckets()), raw={"leak": Counts(canary=1)})
    assert last([bucket], policy).reasons == ("'leak' must never happen, and did 1 times",)
    bucket = msgspec.structs.replace(bucket, raw={"leak": Counts(stable=1)})
    assert last([bucket], policy).decision is Decision.CONTINUE


# Holds


def test_no_data_is_said_and_held() -> None:
    silences = ((Counts(stable=900), "the canary"), (Counts(canary=100), "the stable version beside"))
    for silent, who in silences:
        silence = {"requests": silent, "exposures": Counts(), "events": {}}
        seen = [msgspec.structs.replace(one, **silence) for one in buckets(number=6)]
        evidence, verdicts = judged(seen)
        assert [one.decision for one in verdicts] == [Decision.CONTINUE] * 5 + [Decision.HOLD]
        assert verdicts[-1].cause == "no_data" and verdicts[-1].reasons[0].startswith(f"no data: {who}")
        assert (
            verdicts[-1]
            .reasons[0]
            .endswith("has answered no request for 60 seconds; units so far, of all versions: 0")
        )
        assert last(buckets(begin=60, number=80), evidence=evidence).decision is Decision.PROMOTE


def test_who_waits_for_the_canary_in_vain_is_told_with_what_is_missed_by_that() -> None:
    waits = Facts(waiting="requests that have no answer yet: 7")
    silence = {"requests": Counts(stable=900), "exposures": Counts(), "events": {}}
    few = {"exposures": counts(2000, 0.05)}
    for changes, begins in (
        (silence, "no data: "),
        (few, "the canary keeps units waiting, or the split is "),
    ):
        seen = [msgspec.structs.replace(one, **changes) for one in buckets(number=6)]
        _, verdicts = judged(seen, facts=waits)
        assert verdicts[-1].reasons[0].startswith(begins)
        assert verdicts[-1].reasons[0].endswith("; requests that have no answer yet: 7")


def test_a_broken_split_is_held_until_a_person_decides() -> None:
    crooked = counts(2000, 0.2)
    seen = [msgspec.structs.replace(one, exposures=crooked) for one in buckets(number=100)]
    _, verdicts = judged(seen)
    held = [one for one in verdicts if one.decision is Decision.HOLD]
    assert {one.cause for one in held} == {"split"}
    assert held[0].reasons[0] == (
        "the split is broken: 400 of 2000 (all units) got the canary, and 200.0 were expected"
    )
    assert verdicts[-1].decision is Decision.HOLD  # at the deadline, too: it gives no verdict
    late = next(one for one in verdicts if "which is the deadline" in one.reasons[-1])
    assert late.at - held[0].at == 300 and late.reasons[-1].endswith("a person has to decide")


def test_a_baseline_that_is_not_as_large_as_the_canary_is_a_broken_split_too() -> None:
    crooked = Counts(canary=200, baseline=100, stable=1700)
    verdict = last([msgspec.structs.replace(one, exposures=crooked) for one in buckets(number=3)])
    assert verdict.cause == "split"
    assert "(units of the canary and its baseline) got the canary" in verdict.reasons[0]


def test_a_good_split_is_seldom_taken_for_a_broken_one_whatever_the_stages() -> None:
    policy, rng, broken = with_policy(metrics=(ERRORS,)), np.random.default_rng(31), 0
    for _ in range(100):
        evidence, at = start(policy), 0.0
        for share in [0.01] * 12 + [0.05] * 12 + [0.25] * 12:
            parts = rng.multinomial(rng.poisson(300), (share, share, 1 - 2 * share))
            bucket = Bucket(at, 10.0, 0, share, exposures=Counts(*map(int, parts)))
            evidence, at = observe(policy, evidence, bucket), at + 10
            if evidence.split_log_e >= -math.log(policy.split_alpha):
                broken += 1
                break
    may_be(broken, 100, at_most=policy.split_alpha)


def returning(bias: float, seed: int, users: int = 20_000) -> list[Evidence]:
    """Evidence at the end of each stage, where all users come at each and are known after the first."""
    policy, evidence, found = with_policy(metrics=(ERRORS,)), start(with_policy(metrics=(ERRORS,))), []
    place = np.random.default_rng(seed).random(users)
    for stage, share in enumerate((0.01, 0.05, 0.25)):
        canary = int((place < share * bias).sum())
        baseline = int((place > 1 - share).sum())
        met = Counts(canary, baseline, users - canary - baseline)
        new = met if not stage else Counts()
        bucket = Bucket(10.0 * stage, 10.0, stage, share, exposures=new, met=met, requests=met)
        evidence = observe(policy, evidence, bucket)
        found.append(evidence)
    return found


def test_the_split_of_users_who_come_back_is_tested_at_each_stage() -> None:
    alarm = -math.log(POLICY.split_alpha)
    good = [max(each.split_log_e for each in returning(1.0, seed)) for seed in range(200)]
    may_be(sum(each >= alarm for each in good), 200, at_most=POLICY.split_alpha)
    bad = [[each.split_log_e >= alarm for each in returning(1.3, seed)] for seed in range(20)]
    assert all(last for *_, last in bad)
    assert sum(first for first, *_ in bad) < 10  # hardly seen while few users have the canary
    assert all(seen == sorted(seen) for seen in bad)  # once seen, it stays


def test_a_split_that_was_broken_at_an_earlier_stage_is_told() -> None:
    crooked = Counts(400, 200, 1400)
    before = [msgspec.structs.replace(one, exposures=crooked, met=crooked) for one in buckets(number=3)]
    evidence, _ = judged(before)
    later = [msgspec.structs.replace(one, stage=1) for one in buckets(begin=30, number=1)]
    verdict = judged(later, evidence=evidence)[1][-1]
    assert (verdict.cause, verdict.reasons[0]) == ("split", "the split was broken at an earlier stage")


def test_evidence_from_a_broken_split_gives_no_verdict() -> None:
    crooked = counts(2000, 0.2)
    seen = [
        msgspec.structs.replace(one, exposures=crooked) for one in buckets(number=60, ratios={"errors": 10.0})
    ]
    verdict = last(seen)
    assert verdict.log_e > verdict.threshold
    assert (verdict.decision, verdict.cause) == (Decision.HOLD, "split")


def test_late_outcomes_are_waited_for() -> None:
    sales = Metric("sales", "outcome", "soft", promotion_margin=None)
    policy = with_policy(metrics=(*POLICY.metrics, sales), most_late_seconds=60.0)
    late = [msgspec.structs.replace(one, late_seconds=61.0) for one in buckets(number=7)]
    assert last(late, policy).cause == "late"
    nobody = with_policy(most_late_seconds=60.0)  # waits for outcomes without a metric of them
    assert last(late, nobody).cause is None


def test_inconclusive_is_said_with_what_is_missing() -> None:
    evidence, verdicts = judged(buckets(events={"errors": 100, "slow": 0}, number=160))
    verdict = verdicts[-1]
    assert (verdict.decision, verdict.cause) == (Decision.HOLD, "inconclusive")
    assert verdict.reasons[0].startswith("inconclusive: 32000 requests, of 32000, show neither")
    assert verdict.reasons[1].startswith("slow: evidence 1 of 20 that it is within its margin")
    assert [metric.missing != "" for metric in verdict.metrics] == [False, True]
    assert verdict.held_since is not None
    # with what was missing, it goes on, and is not held any more
    _, after = judged(buckets(begin=1600, number=120), evidence=evidence)
    assert after[-1].decision is Decision.PROMOTE and after[-1].held_since is None


@pytest.mark.parametrize(
    ("events", "after_hold", "decision"),
    [
        ({"errors": 100, "slow": 0}, "by_severity", Decision.HOLD),  # a soft metric waits for a person
        ({"errors": 0, "slow": 300}, "by_severity", Decision.ROLLBACK),
        ({"errors": 0, "slow": 300}, "wait", Decision.HOLD),
        ({"errors": 100, "slow": 0}, "rollback", Decision.ROLLBACK),
    ],
)
def test_a_hold_has_a_deadline(events: dict[str, float], after_hold: str, decision: Decision) -> None:
    metrics = (msgspec.structs.replace(ERRORS, negligible=0.0), SLOW)
    policy = with_policy(after_hold=after_hold, metrics=metrics)
    verdict = last(buckets(policy, events=events, number=200), policy)
    assert verdict.decision is decision
    assert any("which is the deadline" in reason for reason in verdict.reasons)
    if decision is Decision.HOLD:
        assert verdict.reasons[-1].endswith("a person has to decide")


def test_a_budget_ships_where_it_may_and_nothing_speaks_against_it() -> None:
    events = {"errors": 100.0, "slow": 0.0}
    for policy in (with_policy(ships_on_budget=True), with_policy(rules=(ShipOnBudget((0,)),))):
        verdict = last(buckets(policy, events=events, number=160), policy)
        assert verdict.decision is Decision.PROMOTE
        assert verdict.reasons[0].startswith("32000 requests used up the budget without evidence of harm")
        assert "slow: evidence 1 of 20" in verdict.reasons[0]
    policy = with_policy(ships_on_budget=True)
    verdict = last(buckets(policy, events=events, ratios={"errors": 1.15}, number=160), policy)
    assert verdict.decision is Decision.HOLD and "barred by evidence against errors" in verdict.reasons[0]


def test_an_event_that_never_happens_is_proven_negligible() -> None:
    policy = with_policy(metrics=(ERRORS,), stages=(Stage(0.1, 1),))
    evidence, verdicts = judged(
        buckets(policy, events={}, requests=1000, number=100),
        policy,
        until=lambda one: one.decision is Decision.PROMOTE,
    )
    asked = evidence.stage_requests.canary
    assert verdicts[-1].decision is Decision.PROMOTE
    assert 3_000 < asked < 6_000  # three by the rate is the least that anyone needs
    policy = with_policy(metrics=(msgspec.structs.replace(ERRORS, negligible=0.0),), stages=(Stage(0.1, 1),))
    assert last(buckets(policy, events={}, number=100), policy).decision is Decision.CONTINUE


def test_a_rule_holds_what_evidence_would_promote() -> None:
    policy = with_policy(rules=(Approval(1, by=("ann",)),))
    verdict = last(buckets(policy, number=80), policy)
    assert (verdict.decision, verdict.cause) == (Decision.HOLD, "rule")
    assert verdict.reasons[:1] == ("the step into stage 2 waits for the approval of ann",)
    facts = Facts(approvals=(StepApproval(1, "ann"),))
    assert last(buckets(policy, number=80), policy, facts=facts).decision is Decision.PROMOTE


@pytest.mark.parametrize(("most", "decision"), [(159.9, Decision.HOLD), (160.0, Decision.PROMOTE)])
def test_a_release_goes_as_far_as_its_cost_may(most: float, decision: Decision) -> None:
    """Of 16,000 requests to the canary, for a hundredth each."""
    policy = with_policy(rules=(CostCap(most, request=0.01),))
    assert last(buckets(policy, number=80), policy).decision is decision


# What is told


def test_every_verdict_tells_effect_interval_evidence_units_and_reason() -> None:
    for seen in (
        buckets(number=20),
        buckets(ratios={"errors": 4.0}, number=20),
        buckets(events={}, number=3),
    ):
        for verdict in judged(seen)[1]:
            assert verdict.reasons and all(verdict.reasons)
            assert [metric.name for metric in verdict.metrics] == ["errors", "slow"]
            for metric in verdict.metrics:
                assert metric.units.canary > 0
                assert metric.threshold == pytest.approx(math.log(200))
                if metric.effect:
                    assert metric.low is not None and metric.high is not None
                    assert metric.low <= metric.effect <= metric.high
    assert verdict.metrics[0].effect is None and verdict.metrics[0].low is None


def test_a_verdict_and_evidence_survive_their_json_bit_by_bit() -> None:
    evidence, verdicts = judged(buckets(ratios={"errors": 1.3}, number=9))
    assert msgspec.json.decode(msgspec.json.encode(evidence), type=Evidence) == evidence
    assert msgspec.json.decode(msgspec.json.encode(verdicts[-1]), type=Verdict) == verdicts[-1]


# What cannot be


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"stage": 3}, "stage 3 is none of 3"),
        ({"share": 0.0}, "share is 0.0"),
        ({"share": 1.5}, "share is 1.5"),
        ({"start": -5.0}, "was counted before"),
        ({"start": 0.0}, "was counted before"),
        ({"events": {"errors": Counts(canary=-1, stable=2)}}, "-1 of 1 events"),
        ({"outcomes": (OutcomeCohort("sales", 11.0, 0.1, Counts(), Counts()),)}, "have not matured"),
    ],
)
def test_buckets_that_cannot_follow_are_refused(changes: dict[str, object], words: str) -> None:
    policy = with_policy(metrics=(ERRORS, Metric("sales", "outcome", "soft", matures_minutes=1)))
    evidence, _ = judged(buckets(number=1), policy)
    bucket = msgspec.structs.replace(next(buckets(begin=10)), **changes)
    with pytest.raises(InvalidInput, match=words) as caught:
        judge(policy, evidence, bucket, ReleaseState.RUNNING)
    assert caught.value.fix


@settings(max_examples=50)
@given(st.data())
def test_any_counts_give_a_verdict(data: st.DataObject) -> None:
    number = st.integers(0, 50)
    arms = st.builds(Counts, number, number, number)
    policy, evidence, at, stage = Policy(warm_up_seconds=20.0), start(Policy()), 0.0, 0
    for _ in range(data.draw(st.integers(1, 8))):
        stage = data.draw(st.integers(stage, 3))
        share = policy.stages[stage].weight
        events = {
            metric.name: Counts(canary=data.draw(number)) if share == 1 else data.draw(arms)
            for metric in policy.metrics
        }
        bucket = Bucket(at, 10.0, stage, share, data.draw(arms), data.draw(arms), events)
        evidence, verdict = judge(policy, evidence, bucket, data.draw(st.sampled_from(list(ReleaseState))))
        assert verdict.reasons
        assert (verdict.decision is Decision.HOLD) == (verdict.cause is not None)
        assert (
            msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
        )  # no NaN, no infinity
        at += 10.0


def test_what_comes_late_from_a_stage_counts_for_harm_and_moves_nothing_back() -> None:
    """Long requests end after the weight has changed: a bucket of the stage that was left."""
    evidence, _ = judged(buckets(number=20, ratios={"errors": 1.2}))
    evidence, _ = judged(buckets(stage=1, begin=200, number=3), evidence=evidence)
    [late] = buckets(
        stage=0, begin=225, number=1, events={"errors": 30}, ratios={"errors": 9.0}, requests=300
    )
    after, verdict = judge(POLICY, evidence, late, ReleaseState.RUNNING)
    assert (after.stage, verdict.stage) == (1, 1)
    assert after.log_e(POLICY) > evidence.log_e(POLICY)
    for name in ("stage_seconds", "stage_requests", "idle_seconds"):
        assert getattr(after, name) == getattr(evidence, name)
    for before, now in zip(evidence.metrics, after.metrics, strict=True):
        assert before.counts is not None and now.counts is not None
        assert (now.rare, now.counts.log_gate) == (before.rare, before.counts.log_gate)
        assert now.counts.clusters == before.counts.clusters
        assert now.counts.blocks.jumps == before.counts.blocks.jumps
    assert after.requests.total == evidence.requests.total + 300
    warming = with_policy(warm_up_seconds=600.0)  # which the stage that was left is not
    evidence, _ = judged(buckets(stage=1, number=2), warming)
    [slow] = buckets(stage=0, begin=15, number=1, events={"slow": 30})
    after, _ = judge(warming, evidence, slow, ReleaseState.RUNNING)
    assert after.metrics[1].counts is not None and after.metrics[1].counts.events.total == 30


def test_a_block_that_was_cut_short_says_nothing_of_jumps() -> None:
    evidence, _ = judged(buckets(number=14))
    [short] = buckets(begin=140, number=1, stage=1, events={"errors": 20}, requests=400)
    short = msgspec.structs.replace(short, seconds=2.0)
    after, _ = judge(POLICY, evidence, short, ReleaseState.RUNNING)
    [before, now] = [known.metrics[0].counts for known in (evidence, after)]
    assert before is not None and now is not None
    assert now.blocks.variation() == before.blocks.variation()
    assert before.blocks.last is not None and now.blocks.last is None
    assert now.blocks.open is not None and now.blocks.open.seconds == 2


@pytest.mark.parametrize("name", ["rejected", "refused"])
def test_by_the_usual_policy_a_version_that_takes_less_than_the_other_is_rolled_back(name: str) -> None:
    usual = Policy(warm_up_seconds=0)
    evidence, said = start(usual), []
    for number in range(60):
        canary, rest = Counts(20, 0, 0), Counts(20, 20, 1960)
        events = {name: canary}
        bucket = Bucket(10.0 * number, 10.0, 0, 0.01, rest, rest, events, events)
        evidence, verdict = judge(usual, evidence, bucket, ReleaseState.RUNNING)
        said.append(verdict.decision)
    assert Decision.PROMOTE not in said and said[-1] is Decision.ROLLBACK


def test_by_the_usual_policy_mistakes_of_callers_hold_nobody_up() -> None:
    usual = Policy(warm_up_seconds=0)
    evidence, said = start(usual), []
    for number in range(60):
        rest, events = Counts(20, 20, 1960), {"rejected": Counts(1, 1, 98)}  # a twentieth of all requests
        bucket = Bucket(10.0 * number, 10.0, 0, 0.01, rest, rest, events, events)
        evidence, verdict = judge(usual, evidence, bucket, ReleaseState.RUNNING)
        said.append(verdict.metrics[5].missing)
        assert verdict.decision is not Decision.ROLLBACK
    assert set(said) == {""}

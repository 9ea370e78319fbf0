"""Each number of a policy is a border: does the judge decide on its right side, to the last digit?"""

import math

import msgspec
import pytest
from rollout_releases import ERRORS, POLICY, buckets, judged, with_policy

from salver.features.releases.judge import procedure
from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.ratio import GRID, Ratio
from salver.features.releases.judge.record import ChangeRequest, proposed
from salver.features.releases.judge.rules import StepApproval
from salver.features.releases.judge.strand import Weight, strands
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.stats.combine import log_mean
from salver.words.releases import Counts, ReleaseState


def last(policy: Policy, **how: object) -> Verdict:
    return judged(buckets(policy, **how), policy, until=lambda _: False)[1][-1]  # type: ignore[arg-type]


def test_alpha_is_what_all_metrics_together_may_spend() -> None:
    seen = last(with_policy(alpha=1e-12), ratios={"errors": 6.0}, number=24)
    assert seen.decision is not Decision.ROLLBACK and seen.log_e > math.log(20)
    for times, decision in ((0.999, Decision.CONTINUE), (1.001, Decision.ROLLBACK)):
        policy = with_policy(alpha=times * math.exp(-seen.log_e))
        assert last(policy, ratios={"errors": 6.0}, number=24).decision is decision


def test_each_metric_has_its_part_of_alpha() -> None:
    parts = (0.7, 0.1)
    metrics = tuple(
        msgspec.structs.replace(ERRORS, name=f"m{part}", share=part, promotion_margin=None) for part in parts
    )
    policy = with_policy(metrics=metrics, alpha=1e-9)
    seen = last(policy, events={"m0.7": 100.0}, ratios={"m0.7": 2.0}, number=24)
    for metric, part in zip(seen.metrics, parts, strict=True):
        assert metric.threshold == pytest.approx(-math.log(1e-9 * part))
    together = 0.7 * math.exp(seen.metrics[0].log_e) + 0.1 * math.exp(seen.metrics[1].log_e) + 0.2
    assert seen.log_e == pytest.approx(math.log(together))


def test_beta_is_what_a_gate_may_spend() -> None:
    metrics = (msgspec.structs.replace(ERRORS, negligible=0.0),)
    plenty = {"events": {"errors": 100}, "number": 30}
    seen = last(with_policy(metrics=metrics, beta=1e-12), **plenty)
    [known] = seen.metrics
    assert seen.decision is Decision.CONTINUE and known.missing and known.log_gate > math.log(5)
    for times, decision in ((0.999, Decision.CONTINUE), (1.001, Decision.PROMOTE)):
        policy = with_policy(metrics=metrics, beta=times * math.exp(-known.log_gate))
        assert last(policy, **plenty).decision is decision


def test_split_alpha_is_what_a_good_split_may_spend() -> None:
    crooked = [
        msgspec.structs.replace(one, exposures=Counts(230, 200, 1570), events={}) for one in buckets(number=4)
    ]
    seen = judged(crooked, with_policy(split_alpha=1e-12))[1][-1]
    assert seen.cause is None and seen.split_log_e > 1
    for times, cause in ((0.999, None), (1.001, "split")):
        policy = with_policy(split_alpha=times * math.exp(-seen.split_log_e))
        assert judged(crooked, policy)[1][-1].cause == cause


def test_a_stage_lasts_its_minutes_and_its_warm_up() -> None:
    policy = with_policy(stages=(Stage(0.1, 19), Stage(1.0, 0)), warm_up_seconds=60.0)
    plenty = {"events": {"errors": 2000, "slow": 2000}, "requests": 40_000}
    for number, decision in ((119, Decision.CONTINUE), (120, Decision.PROMOTE)):
        assert last(policy, number=number, **plenty).decision is decision


def test_warming_up_ends_with_its_last_second() -> None:
    policy = with_policy(warm_up_seconds=30.0)
    for number, counted in ((3, 0), (4, 1)):
        evidence, _ = judged(buckets(policy, number=number), policy)
        assert evidence.stage_requests.total == counted * 2000
        slow = evidence.metrics[1].counts
        assert slow is not None and (slow.events.total > 0) == bool(counted)


def test_silence_and_holds_last_their_seconds() -> None:
    silence = {"requests": Counts(), "exposures": Counts(), "events": {}}
    policy = with_policy(no_data_seconds=50.0, hold_minutes=1.0, after_hold="rollback")
    quiet = [msgspec.structs.replace(one, **silence) for one in buckets(policy, number=11)]
    decisions = [one.decision for one in judged(quiet, policy)[1]]
    assert decisions == [Decision.CONTINUE] * 4 + [Decision.HOLD] * 6 + [Decision.ROLLBACK]


@pytest.mark.parametrize("off", [0, 1, 2])
def test_an_output_passes_by_its_worst_bin(off: int) -> None:
    """Two bins are as they were, and the third is not."""
    score = Metric("score", "output", "soft", bins=3, rollback_margin=9.0)
    policy = with_policy(metrics=(score,))
    events = {f"score.{number}": 600.0 for number in range(3)}
    assert last(policy, events=events, number=8).metrics[0].missing == ""
    worse = last(policy, events=events, ratios={f"score.{off}": 1.6}, number=8)
    assert worse.metrics[0].log_gate < 0 and worse.metrics[0].missing


def test_a_bucket_of_the_stage_before_counts_for_harm_alone() -> None:
    evidence, _ = judged(buckets(stage=1, number=2, begin=100), until=lambda _: False)
    late = next(buckets(stage=0, begin=200))
    after, verdict = judge(POLICY, evidence, late, ReleaseState.RUNNING)
    assert (after.stage, verdict.stage, after.stage_seconds) == (1, 1, evidence.stage_seconds)
    for before, now in zip(evidence.metrics, after.metrics, strict=True):
        assert before.counts is not None and now.counts is not None
        assert now.counts.log_gate == before.counts.log_gate and now.rare == before.rare
        assert now.counts.clusters == before.counts.clusters
        assert now.counts.first != before.counts.first


def test_margins_are_as_wide_as_their_stage_says() -> None:
    """A tenth more is well within four times a margin of 15 %, and too near to once that."""
    metrics = (msgspec.structs.replace(ERRORS, negligible=0.0, rollback_margin=9.0, promotion_margin=0.15),)
    for times, may_pass in ((4.0, True), (1.0, False)):
        policy = with_policy(metrics=metrics, stages=(Stage(0.1, 1, margin_times=times), Stage(1.0, 0)))
        seen = last(policy, events={"errors": 600}, ratios={"errors": 1.1}, number=72)
        assert (seen.decision is Decision.PROMOTE) == may_pass
        assert (seen.metrics[0].log_gate > 0) == may_pass


@pytest.mark.parametrize(("ratio", "is_harm"), [(0.52, False), (0.35, True)])
def test_of_what_is_good_a_half_may_be_lost_and_not_more(ratio: float, is_harm: bool) -> None:
    """A loss of a half is twice the control's, seen from the other side."""
    sales = Metric("sales", "outcome", "severe", worse="less", rollback_margin=0.5)
    [strand] = strands(sales)
    for _ in range(200):
        strand = strand.add(sales, Counts(round(400 * ratio), 400), 0.5, Weight())
    assert (strand.harm.log_e > 0) == is_harm


@pytest.mark.parametrize("place", [-6, 6])
def test_an_interval_ends_where_its_chance_says(place: int) -> None:
    """At a ratio of the grid that the mixture of all refutes at just that chance."""
    ratio = Ratio()
    for _ in range(20):
        ratio = ratio.add(10, 110, 0.1)
    likeliest = max(range(len(GRID)), key=ratio.log_likelihoods.__getitem__)
    logs = ratio.log_likelihoods
    chance = math.exp(logs[likeliest + place] - log_mean(logs))
    assert 0 < chance < 0.05
    bounds = ratio.interval(chance)
    assert bounds[place > 0] == pytest.approx(GRID[likeliest + place])


def test_what_is_tempered_widens_its_interval_too() -> None:
    plain, tempered = (Ratio().add(60, 260, 0.1, factor) for factor in (1.0, 4.0))
    assert tempered.log_likelihoods == pytest.approx([log / 4 for log in plain.log_likelihoods])
    assert tempered.estimate == plain.estimate


def test_whoever_promotes_a_proposal_begins_it() -> None:
    new = proposed("r", "fraud", ("1", "2"), POLICY, 1.0)
    begun = procedure.wished(new, ChangeRequest(1, "r", "promote", "ann", "", 2.0), 2.0)
    assert (begun.state, begun.stage, begun.weight) == (ReleaseState.RUNNING, 0, 0.1)
    assert begun.progress.approvals == (StepApproval(0, "ann"),)
    further = procedure.wished(begun, ChangeRequest(2, "r", "promote", "ann", "", 3.0), 3.0)
    assert (further.stage, further.progress.approvals[-1]) == (1, StepApproval(1, "ann"))


def test_there_is_nothing_before_the_first_bucket() -> None:
    assert start(POLICY).stage_requests == Counts()

"""Verdict on a release after the counts of one more bucket.

A rollback needs evidence of harm, at any time; a step needs evidence of no harm, time, and no objection;
anything between is held, with a list of what is missing. Counting, acting and the current time are elsewhere.
Pure: the same policy, evidence, bucket, state and facts give the same verdict, bit by bit.

Sources: Howard, Ramdas, McAuliffe & Sekhon 2021 and Lindon & Malek 2022 on evidence that is valid at any
time; Berger 1982 on gates that all have to pass, which need no correction.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from salver.features.releases.judge import rules, shadowing
from salver.features.releases.judge.count_evidence import CountEvidence
from salver.features.releases.judge.evidence import Evidence, MetricEvidence, observe
from salver.features.releases.judge.policy import Metric, Policy
from salver.features.releases.judge.strand import Strand
from salver.features.releases.judge.verdict import (
    Cause,
    CopyVerdict,
    Decision,
    MetricVerdict,
    Verdict,
    number,
)
from salver.words.releases import Bucket, Counts, ReleaseState

#: Evidence of harm above which nothing ships on its budget.
_SUSPICION = math.log(3)


class _Opinion(NamedTuple):
    """A preliminary decision; for a pause with its seconds, 0 = until a person resumes."""

    decision: Decision
    reasons: tuple[str, ...]
    cause: Cause | None = None
    seconds: float = 0.0


def judge(
    policy: Policy,
    evidence: Evidence,
    bucket: Bucket,
    state: ReleaseState,
    facts: rules.Facts = rules.Facts(),  # noqa: B008 - frozen
) -> tuple[Evidence, Verdict]:
    """Return the evidence with one more bucket, and the verdict.

    Args:
        policy: Policy of the release, constant during its life.
        evidence: Evidence after the previous bucket, or
            :func:`salver.features.releases.judge.evidence.start`.
        bucket: The next bucket, even if empty: silence is information. If two share an interval because the
            weight changed in it, the one that begins first.
        state: State of the release; a paused one is held, and still rolled back if necessary.
        facts: Facts for the policy's rules.

    Raises:
        InvalidInput: The bucket cannot follow the evidence.
    """
    # A rollback is final: later buckets cannot revive the release.
    if state is ReleaseState.ROLLED_BACK or evidence.is_over:
        over = _Opinion(Decision.ROLLBACK, ("it was rolled back before, which is final",))
        evidence = msgspec.structs.replace(evidence, is_over=True)
        return evidence, _verdict(policy, evidence, bucket, over)
    evidence = observe(policy, evidence, bucket)
    is_open = state in (ReleaseState.RUNNING, ReleaseState.HELD) or facts.keeps_share
    evidence, struck = _struck(policy, evidence, bucket, is_open=is_open)
    opinion = (
        _harm(policy, evidence, bucket, facts)
        or struck
        or _without_harm(policy, evidence, bucket, state, facts)
    )
    if state is ReleaseState.PROMOTED and opinion.decision is Decision.ROLLBACK:
        opinion = _after_promotion(policy, evidence, opinion)
    evidence, opinion = _held(policy, evidence, opinion)
    evidence = msgspec.structs.replace(evidence, is_over=opinion.decision is Decision.ROLLBACK)
    return evidence, _verdict(policy, evidence, bucket, opinion)


def _struck(
    policy: Policy, evidence: Evidence, bucket: Bucket, *, is_open: bool
) -> tuple[Evidence, _Opinion | None]:
    """Return whether most requests to the canary fail: a pause, or a rollback after the third in a row."""
    if not is_open or not bucket.share or bucket.stage != evidence.stage:
        return evidence, None
    severe = [one.name for one in policy.metrics if one.is_counted and one.severity == "severe"]
    outages, strike = evidence.outages.add(bucket, severe, policy.bucket_seconds)
    evidence = msgspec.structs.replace(evidence, outages=outages)
    if strike is None:
        return evidence, None
    if not strike.is_last:
        return evidence, _Opinion(Decision.PAUSE, (strike.reason,), "outage", strike.seconds)
    name = strike.reason.partition(":")[0]
    last = f"{name}: most requests to the canary have it for the third time in a row"
    if _is_split_broken(policy, evidence):  # it may be the units, not the version
        return evidence, _Opinion(Decision.PAUSE, (last, strike.reason, "the split is broken"), "split")
    return evidence, _Opinion(Decision.ROLLBACK, (last, strike.reason))


def _harm(policy: Policy, evidence: Evidence, bucket: Bucket, facts: rules.Facts) -> _Opinion | None:
    """Return the opinion if something requires an immediate rollback."""
    objections = rules.objections(policy.rules, facts, _moment(evidence, bucket))
    reasons = [each.reason for each in objections if each.decision is Decision.ROLLBACK]
    if policy.alike.rolls_back and (objection := _unlike(policy, evidence)):
        reasons.append(objection)
    # Ville's inequality: without harm, e-values exceed 1/alpha with probability alpha at most, at any time.
    # They compare units at random, so a broken split gives no verdict.
    if evidence.log_e(policy) >= -math.log(policy.alpha) and not _is_split_broken(policy, evidence):
        reasons.append(_proof(policy, evidence))
    if not reasons:
        return None
    return _Opinion(Decision.ROLLBACK, tuple(reasons))


def _proof(policy: Policy, evidence: Evidence) -> str:
    """Describe the evidence of harm: of one metric, or of several that are not sufficient alone."""
    known, metric, share = _weightiest(policy, evidence)
    # Each metric has a share of alpha, so that all together keep it (Bonferroni).
    log_e, enough = known.log_e(metric), -math.log(policy.alpha * share)
    who = _effect(metric, known)
    if log_e < enough:
        who, log_e, enough = (
            f"{who}, and other metrics add to it",
            evidence.log_e(policy),
            -math.log(policy.alpha),
        )
    return (
        f"{who}: evidence {number(log_e)}, where {number(enough)} is enough; at most 1 in {number(log_e)} "
        "harmless releases reaches this level"
    )


def _weightiest(policy: Policy, evidence: Evidence) -> tuple[MetricEvidence, Metric, float]:
    """Return the metric with the most evidence of harm, and its part of alpha.

    A severe metric with sufficient evidence of its own goes before all soft ones.
    """

    def weight(one: tuple[MetricEvidence, Metric, float]) -> tuple[bool, float]:
        known, metric, share = one
        log_e = known.log_e(metric) + math.log(share)
        return metric.severity == "severe" and log_e >= -math.log(policy.alpha), log_e

    return max(zip(evidence.metrics, policy.metrics, policy.shares, strict=True), key=weight)


def _after_promotion(policy: Policy, evidence: Evidence, opinion: _Opinion) -> _Opinion:
    """Return the consequence of harm proven after promotion; forbidden events count as severe."""
    _, metric, _ = _weightiest(policy, evidence)
    is_soft = metric.severity == "soft" and not any(evidence.never.values())
    if policy.after_promotion == "rollback" or (policy.after_promotion == "by_severity" and not is_soft):
        return opinion
    told = "it is promoted: a person has to decide whether to abort it"
    return _Opinion(Decision.HOLD, (*opinion.reasons, told), "person")


def _without_harm(
    policy: Policy, evidence: Evidence, bucket: Bucket, state: ReleaseState, facts: rules.Facts
) -> _Opinion:
    """Return the opinion if nothing requires a rollback."""
    if state is ReleaseState.PAUSED:
        if not bucket.share and policy.stages[bucket.stage].weight:
            return _Opinion(Decision.HOLD, ("the canary failed and gets no traffic now",), "outage")
        return _Opinion(Decision.HOLD, ("a person has paused it",), "person")
    if state is ReleaseState.PROMOTED:
        return _Opinion(Decision.CONTINUE, ("it is promoted",))
    blind = _blind(policy, evidence, bucket, facts)
    if blind:
        return blind
    stage = policy.stages[evidence.stage]
    if objection := _unlike(policy, evidence):
        return _Opinion(Decision.HOLD, (objection,), "unlike")
    # The warm-up is added to the stage: what is seen in it counts only for harm.
    left = 60 * stage.minutes - (evidence.stage_seconds - policy.warm_up_seconds)
    if left > 0:
        return _Opinion(
            Decision.CONTINUE, (f"stage {evidence.stage + 1} lasts another {left / 60:.1f} minutes at least",)
        )
    lacking = list(_lacking(policy, evidence, bucket))
    if lacking:
        opinion = _unproven(policy, evidence, bucket, [f"{name}: {what}" for name, what in lacking])
        if opinion.decision is not Decision.PROMOTE:
            return opinion
    else:
        opinion = _Opinion(Decision.PROMOTE, ("every gate is passed",))
    # Rules come last, so that they are named only where nothing else prevents a step.
    objections = rules.objections(policy.rules, facts, _moment(evidence, bucket))
    if objections:
        return _Opinion(Decision.HOLD, tuple(each.reason for each in objections), "rule")
    return opinion


def _of_copies(policy: Policy, evidence: Evidence) -> CopyVerdict | None:
    """Return the opinion from copies; None = callers get the canary at this stage."""
    if policy.stages[evidence.stage].weight:
        return None
    return shadowing.verdict(evidence.copies, policy.alike, policy.alpha, policy.beta)


def _unlike(policy: Policy, evidence: Evidence) -> str:
    """Return why no caller may get the canary; empty = nothing is proven."""
    found = _of_copies(policy, evidence)
    if not found:
        return ""
    return shadowing.objection(found)


def _blind(policy: Policy, evidence: Evidence, bucket: Bucket, facts: rules.Facts) -> _Opinion | None:
    """Return why no conclusion is possible."""
    if facts.missing and not (bucket.requests.canary or bucket.copies.asked):
        return _Opinion(Decision.HOLD, (f"no data: {facts.missing}",), "no_data")
    if facts.clocks:
        return _Opinion(Decision.HOLD, (f"the clocks of servers differ: {facts.clocks}",), "clocks")
    waiting = facts.waiting and f"; {facts.waiting}"
    if _is_split_broken(policy, evidence):
        split = max(evidence.split, evidence.matched, key=lambda one: one.log_e)
        whose = "units of the canary and its baseline"
        if split is evidence.split:
            whose = "all units"
        what = "the split"
        if facts.waiting:
            what = "the canary keeps units waiting, or the split"
        reason = (
            f"{what} is broken: {split.counts[0]} of {sum(split.counts)} ({whose}) got the canary, and "
            f"{split.expected[0]:.1f} were expected{waiting}"
        )
        if evidence.split_log_e == evidence.earlier_split:
            reason = f"{what} was broken at an earlier stage{waiting}"
        return _Opinion(Decision.HOLD, (reason,), "split")
    if evidence.idle_seconds >= policy.no_data_seconds:
        who = "the stable version beside it"
        if not bucket.requests.canary:
            who = "the canary"
        reason = (
            f"no data: {who} has answered no request for {evidence.idle_seconds:.0f} seconds; units so far, "
            f"of all versions: {evidence.units.total}{waiting}"
        )
        if not policy.stages[evidence.stage].weight:
            reason = f"no data: the canary has answered no copies for {evidence.idle_seconds:.0f} seconds"
        return _Opinion(Decision.HOLD, (reason,), "no_data")
    if opinion := _uncounted(policy, evidence) or _too_high(policy, evidence):
        return opinion
    has_outcomes = any(metric.is_posted for metric in policy.metrics)
    if has_outcomes and evidence.late_seconds > policy.most_late_seconds:
        reason = (
            f"outcomes are {evidence.late_seconds:.0f} s late; {policy.most_late_seconds:.0f} s are allowed"
        )
        return _Opinion(Decision.HOLD, (reason,), "late")
    return None


def _uncounted(policy: Policy, evidence: Evidence) -> _Opinion | None:
    """Return the opinion if the counts of a metric are missing: that is not zero events."""
    names = [
        metric.name
        for known, metric in zip(evidence.metrics, policy.metrics, strict=True)
        # Which answers are slow is known only after enough of them.
        if known.missing_seconds >= policy.no_data_seconds and metric.kind != "latency"
    ]
    if not names:
        return None
    what = f"no data: {', '.join(names)} have not been counted for {policy.no_data_seconds:.0f} seconds"
    return _Opinion(Decision.HOLD, (what,), "no_data")


def _too_high(policy: Policy, evidence: Evidence) -> _Opinion | None:
    """Return the opinion if a rate is above its ceiling, whatever the other version has."""
    reasons = []
    for known, metric in zip(evidence.metrics, policy.metrics, strict=True):
        for who, recent in zip(("the canary", "the control"), known.recent, strict=True):
            if metric.ceiling and recent.is_above(metric.ceiling):
                reasons.append(
                    f"{metric.name}: {recent.rate:.1%} of the requests to {who} had it in the last minutes, "
                    f"and the ceiling is {metric.ceiling:.4g}"
                )
    if not reasons:
        return None
    return _Opinion(Decision.HOLD, tuple(reasons), "ceiling")


def _unproven(policy: Policy, evidence: Evidence, bucket: Bucket, lacking: list[str]) -> _Opinion:
    """Return the opinion if a gate is not passed and nothing is proven against the canary."""
    # Without a budget, or within it, keep collecting evidence.
    stage, seen = policy.stages[evidence.stage], evidence.stage_requests.canary
    if not stage.weight:
        seen = evidence.copies.copies.asked
    if not stage.sample or seen < stage.sample:
        return _Opinion(Decision.CONTINUE, tuple(lacking))
    suspected = [
        metric.name
        for known, metric in zip(evidence.metrics, policy.metrics, strict=True)
        if known.log_e(metric) >= _SUSPICION
    ]
    if evidence.copies.log_unlike >= _SUSPICION:
        suspected.append("copies")
    may_ship = policy.ships_on_budget or rules.may_ship_on_budget(policy.rules, evidence.stage)
    if may_ship and not suspected:
        reason = f"{seen} requests used up the budget without evidence of harm; not proven: "
        return _Opinion(Decision.PROMOTE, (reason + "; ".join(lacking),))
    reason = f"inconclusive: {seen} requests, of {stage.sample}, show neither harm nor its absence"
    if may_ship:
        reason += f"; shipping on the budget is barred by evidence against {', '.join(suspected)}"
    return _Opinion(Decision.HOLD, (reason, *lacking), "inconclusive")


def _held(policy: Policy, evidence: Evidence, opinion: _Opinion) -> tuple[Evidence, _Opinion]:
    """Return since when it has been held, and whether that is too long."""
    # A pause has no deadline.
    is_held = opinion.decision is Decision.HOLD and opinion.cause not in ("person", "outage")
    since = None
    if is_held:
        since = evidence.held_since
        if evidence.held_since is None:
            since = evidence.until
    evidence = msgspec.structs.replace(evidence, held_since=since)
    if since is None or evidence.until is None or evidence.until - since < 60 * policy.hold_minutes:
        return evidence, opinion
    late = f"it was held for {policy.hold_minutes:g} minutes, which is the deadline"
    if policy.after_hold == "rollback" or (
        policy.after_hold == "by_severity" and _is_severe(policy, evidence, opinion)
    ):
        evidence = msgspec.structs.replace(evidence, held_since=None)
        return evidence, _Opinion(Decision.ROLLBACK, (late, *opinion.reasons))
    return evidence, opinion._replace(reasons=(*opinion.reasons, f"{late}: a person has to decide"))


def _is_severe(policy: Policy, evidence: Evidence, opinion: _Opinion) -> bool:
    """Return whether it is held for copies that differ, or for a severe metric not proven harmless."""
    return opinion.cause == "unlike" or (
        opinion.cause == "inconclusive"
        and policy.stages[evidence.stage].weight > 0
        and any(
            metric.severity == "severe" and _lacks(policy, known, metric)
            for known, metric in zip(evidence.metrics, policy.metrics, strict=True)
        )
    )


def _lacking(policy: Policy, evidence: Evidence, bucket: Bucket) -> Iterator[tuple[str, str]]:
    """Return the gates that are not passed and what they lack. A canary with all traffic has no gates."""
    if (copies := _of_copies(policy, evidence)) is not None:
        if copies.missing:
            yield "copies", copies.missing
    elif policy.stages[evidence.stage].weight < 1:
        for known, metric in zip(evidence.metrics, policy.metrics, strict=True):
            what = _lacks(policy, known, metric)
            if what:
                yield metric.name, what


def _lacks(policy: Policy, known: MetricEvidence, metric: Metric) -> str:
    """Return what is missing, as text; empty = nothing."""
    gate = -math.log(policy.beta)
    if metric.promotion_margin is None:
        return ""
    if known.missing_seconds:
        return "its counts: they are missing"
    if known.log_gate(metric) >= gate:
        return ""
    return f"evidence {number(known.log_gate(metric))} of {number(gate)} that it is within its margin"


def _is_split_broken(policy: Policy, evidence: Evidence) -> bool:
    return evidence.split_log_e >= -math.log(policy.split_alpha)


def _moment(evidence: Evidence, bucket: Bucket) -> rules.Moment:
    return rules.Moment(
        at=bucket.start + bucket.seconds,
        stage=evidence.stage + 1,
        canary_units=evidence.units.canary,
        canary_requests=evidence.requests.canary,
        canary_events=evidence.never,
        hours=frozenset(evidence.hours),
    )


def _verdict(policy: Policy, evidence: Evidence, bucket: Bucket, opinion: _Opinion) -> Verdict:
    follows = evidence.stage + 1 if evidence.stage + 1 < len(policy.stages) else None
    return Verdict(
        decision=opinion.decision,
        at=bucket.start + bucket.seconds,
        stage=evidence.stage,
        next_stage=follows if opinion.decision is Decision.PROMOTE else None,
        reasons=opinion.reasons,
        cause=opinion.cause,
        held_since=evidence.held_since,
        log_e=evidence.log_e(policy),
        threshold=-math.log(policy.alpha),
        split_log_e=evidence.split_log_e,
        metrics=tuple(
            _metric_verdict(policy, evidence, known, metric, share, bucket)
            for known, metric, share in zip(evidence.metrics, policy.metrics, policy.shares, strict=True)
        ),
        copies=_of_copies(policy, evidence),
        pause_seconds=opinion.seconds,
    )


def _metric_verdict(
    policy: Policy, evidence: Evidence, known: MetricEvidence, metric: Metric, share: float, bucket: Bucket
) -> MetricVerdict:
    effect, low, high = _bounds(known, policy.beta)
    is_mean, counted = metric.kind == "mean", _counted(known)
    dispersion = 1.0
    if isinstance(counted, CountEvidence):
        dispersion = counted.blocks.factor(bucket.share)
    elif counted is not None:
        dispersion = counted.wildness.factor(bucket.share)
    units = known.units if metric.is_posted else evidence.units
    events = known.means.events if counted is None else counted.events
    if known.usage is not None:  # minutes, and those above the margin
        units, events = Counts(known.usage.minutes), Counts(known.usage.above)
    return MetricVerdict(
        name=metric.name,
        effect=effect,
        low=low,
        high=high,
        log_e=known.log_e(metric),
        log_harm=known.log_harm,
        log_flip=known.log_flip,
        threshold=-math.log(policy.alpha * share),
        log_gate=known.log_gate(metric),
        gate=None if metric.promotion_margin is None else -math.log(policy.beta),
        dispersion=dispersion,
        units=units,
        events=events,
        missing=_lacks(policy, known, metric),
        undecided=known.means.unknown if is_mean else "",
    )


def _bounds(known: MetricEvidence, chance: float) -> tuple[float | None, float | None, float | None]:
    """Describe the effect and its bounds."""
    if (counted := _counted(known)) is not None:
        return counted.ratio.estimate, *counted.ratio.interval(chance)
    if known.usage is not None:
        return known.usage.ratio, None, None
    found = known.means.estimate(chance)
    if found is None:
        return None, None, None
    low, high = (bound if math.isfinite(bound) else None for bound in (found.low, found.high))
    return found.value, low, high


def _counted(known: MetricEvidence) -> CountEvidence | Strand | None:
    """Return the evidence of events, of the worst bin of an output; None = of means."""
    if known.counts is not None or not known.strands:
        return known.counts
    return max(known.strands, key=lambda one: one.harm.log_e)


def _effect(metric: Metric, known: MetricEvidence) -> str:
    estimate, _, _ = _bounds(known, 0.5)
    if known.usage is not None and estimate is not None:
        return (
            f"{metric.name}: the canary needs {estimate:.2f} times what its control does, and more than its "
            f"margin in {known.usage.above} of {known.usage.minutes} minutes"
        )
    what = "rate"
    if metric.kind == "mean":
        what = "mean"
    times = "events where its control has none"
    if estimate is not None:
        times = f"{estimate:.2f} times its control's {what}"
    return f"{metric.name}: the canary has {times}"

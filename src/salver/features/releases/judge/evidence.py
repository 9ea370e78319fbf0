"""Evidence about a release, updated after each bucket of counts.

Plain data, stored with the decision made from it. Here it is decided what counts as evidence: which buckets,
which units, at which share. Conclusions are drawn in ``judge.py``. Pure.
"""

import math
from collections.abc import Mapping
from typing import Self

import msgspec

from salver.features.releases.judge.ceiling import Recent
from salver.features.releases.judge.count_evidence import CountEvidence, Look
from salver.features.releases.judge.means import Means
from salver.features.releases.judge.outage import Outages
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.rules import Never, hour_of_week
from salver.features.releases.judge.shadowing import CopyEvidence
from salver.features.releases.judge.strand import Recurrence, Strand, Weight, strands
from salver.features.releases.judge.usage import UsageEvidence
from salver.features.releases.judge.wildness import matched_share
from salver.stats import sample_ratio
from salver.stats.combine import log_mean
from salver.words.errors import InvalidInput
from salver.words.releases import BLOCK_BUCKETS, Bucket, Counts, OutcomeCohort, plus

#: Rates that the evidence for a negligible rate bets on, as fractions of the largest negligible one.
BETS = (0.5, 0.2, 0.05)


class MetricEvidence(msgspec.Struct, frozen=True):
    """Evidence of one metric.

    Args:
        strands: Evidence of outputs and outcomes.
        counts: Evidence of events of units; None = another kind of metric.
        units: Units with known outcomes; empty for metrics known immediately.
        rare: For each bet, the log likelihood ratio to the largest negligible rate since the stage began.
        means: Evidence of a metric of values.
        usage: Evidence of a resource; None = another kind of metric.
        recent: Rates of the canary and of its control in the last minutes.
        missing_seconds: Length of buckets with requests since the metric was last counted.
    """

    strands: tuple[Strand, ...] = ()
    counts: CountEvidence | None = None
    units: Counts = Counts()
    rare: tuple[float, ...] = (0.0,) * len(BETS)
    means: Means = Means()
    usage: UsageEvidence | None = None
    recent: tuple[Recent, Recent] = (Recent(), Recent())
    missing_seconds: float = 0.0

    @property
    def log_harm(self) -> float:
        """Return the log evidence of harm: of counts, or of means."""
        if self.counts is not None:
            return self.counts.log_harm
        if self.usage is not None:
            return self.usage.log_harm
        if not self.strands:
            return self.means.log_harm
        return log_mean([strand.harm.log_e for strand in self.strands])

    @property
    def log_flip(self) -> float:
        """Return the log sign-flip evidence of harm; 0 for means and resources, which have none."""
        if self.counts is not None:
            return self.counts.flip.log_e
        if not self.strands:
            return 0.0
        return log_mean([strand.flip.log_e for strand in self.strands])

    def log_e(self, metric: Metric) -> float:
        """Return the log evidence that counts for a rollback: for a soft count metric, the weaker of both."""
        if metric.severity == "severe" or metric.kind in ("mean", "resource"):
            return self.log_harm
        return min(self.log_harm, self.log_flip)

    def log_gate(self, metric: Metric) -> float:
        """Return the log evidence for the gate: within its margin, or negligible."""
        if metric.kind == "mean":
            return self.means.log_gate
        if self.usage is not None:
            return self.usage.log_gate
        if self.counts is not None:
            gate = self.counts.log_gate
        else:
            gate = min(strand.gate.log_e for strand in self.strands)
        if not metric.negligible_at(1.0):
            return gate
        return log_mean([gate, log_mean(self.rare)])


class Evidence(msgspec.Struct, frozen=True):
    """Evidence of one release; updated by copying.

    Args:
        metrics: Metrics in the policy's order.
        split: Test of this stage's numbers of units of canary and control against their shares.
        matched: The same for the canary and its baseline.
        earlier_split: Most log evidence of these tests at a stage before; None = there was none.
        since, until: Unix seconds, start and end of the last bucket; None = no bucket yet.
        stage_seconds: Total length of buckets in this stage.
        requests, units: Totals of the release; ``stage_requests`` of this stage.
        idle_seconds: Length of buckets since the last request to the canary, or to its control.
        late_seconds: Current delay of outcomes.
        hours: Hours of the week in UTC with requests to the canary.
        never: Forbidden events of the canary, by name.
        held_since: Unix seconds; None = not held.
        is_over: It was rolled back.
        copies: Evidence of a first stage without weight.
        outages: Failures of the canary that pause it.
    """

    metrics: tuple[MetricEvidence, ...]
    split: sample_ratio.SampleRatio = msgspec.field(default_factory=lambda: sample_ratio.start(2))
    matched: sample_ratio.SampleRatio = msgspec.field(default_factory=lambda: sample_ratio.start(2))
    earlier_split: float | None = None
    stage: int = 0
    since: float | None = None
    until: float | None = None
    stage_seconds: float = 0.0
    stage_requests: Counts = Counts()
    requests: Counts = Counts()
    units: Counts = Counts()
    idle_seconds: float = 0.0
    late_seconds: float = 0.0
    hours: tuple[int, ...] = ()
    never: Mapping[str, int] = msgspec.field(default_factory=dict)
    held_since: float | None = None
    is_over: bool = False
    copies: CopyEvidence = CopyEvidence()
    outages: Outages = Outages()

    @property
    def split_log_e(self) -> float:
        """Return the log evidence that the split is broken.

        Units that come back are split anew at each stage, but not independently of the stage before. So each
        stage has a test of its own, and the parts 1/2, 1/4, … of the probability of a false alarm.
        """
        mine = log_mean([self.split.log_e, self.matched.log_e]) - (self.stage + 1) * math.log(2)
        return mine if self.earlier_split is None else max(mine, self.earlier_split)

    def log_e(self, policy: Policy) -> float:
        """Return the log evidence of harm of all metrics together, weighted by their parts of alpha."""
        each = [known.log_e(metric) for known, metric in zip(self.metrics, policy.metrics, strict=True)]
        return log_mean(each, policy.shares)

    def at_stage(self, policy: Policy, stage: int) -> Self:
        """Return the evidence at a new stage: only gates and their counts start again."""
        if stage == self.stage:
            return self
        last = policy.stages[self.stage]
        metrics = (
            msgspec.structs.replace(
                known,
                strands=tuple(strand.at_new_stage() for strand in known.strands),
                counts=known.counts
                and known.counts.at_new_stage(metric, _look(policy, metric, last, is_warm=True)),
                rare=(0.0,) * len(BETS),
                means=known.means.at_new_stage(),
                usage=known.usage and known.usage.at_new_stage(),
            )
            for known, metric in zip(self.metrics, policy.metrics, strict=True)
        )
        return msgspec.structs.replace(
            self,
            metrics=tuple(metrics),
            split=sample_ratio.start(2),
            matched=sample_ratio.start(2),
            earlier_split=self.split_log_e if sum(self.split.counts) else self.earlier_split,
            stage=stage,
            stage_seconds=0.0,
            stage_requests=Counts(),
            idle_seconds=0.0,
        )


def start(policy: Policy) -> Evidence:
    """Return empty evidence."""
    return Evidence(
        metrics=tuple(
            MetricEvidence(
                strands(metric),
                CountEvidence() if metric.is_counted else None,
                usage=UsageEvidence() if metric.kind == "resource" else None,
            )
            for metric in policy.metrics
        )
    )


def observe(policy: Policy, evidence: Evidence, bucket: Bucket) -> Evidence:
    """Return the evidence with one more bucket. A bucket of an earlier stage counts only for harm.

    Raises:
        InvalidInput: The bucket has an unknown stage or no share, was counted before, or holds outcomes that
            have not matured.
    """
    _check(policy, evidence, bucket)
    is_late = bucket.stage < evidence.stage
    is_whole = not is_late and abs(bucket.seconds - policy.bucket_seconds) < _UNEVEN * policy.bucket_seconds
    if not policy.stages[bucket.stage].weight:
        return _of_copies(policy, evidence, bucket, is_late, is_whole)
    if not bucket.share:  # paused: nobody gets the canary, and nothing is compared
        return msgspec.structs.replace(
            evidence, since=bucket.start, until=bucket.start + bucket.seconds, idle_seconds=0.0
        )
    evidence = evidence if is_late else evidence.at_stage(policy, bucket.stage)
    # A late bucket is of a stage whose warm-up is over.
    is_warm = is_late or evidence.stage_seconds >= policy.warm_up_seconds
    weight, stage = Weight(None, is_warm, is_whole), None if is_late else policy.stages[bucket.stage]
    # Units that come back may have an event again, in another stage: strands allow for that.
    units = evidence.units.total
    returning = 0
    if evidence.requests.total > _COMES_BACK * units:
        returning = units
    split, matched = (evidence.split, evidence.matched) if is_late else _split(evidence, bucket)
    evidence = msgspec.structs.replace(
        evidence,
        metrics=tuple(
            _counted(policy, known, metric, bucket, stage, is_warm=is_warm)
            if metric.is_counted
            else _observed(policy, known, metric, bucket, stage, weight, returning)
            for known, metric in zip(evidence.metrics, policy.metrics, strict=True)
        ),
        split=split,
        matched=matched,
        since=bucket.start,
        until=bucket.start + bucket.seconds,
        requests=plus(evidence.requests, bucket.requests),
        units=plus(evidence.units, bucket.exposures),
        late_seconds=bucket.late_seconds,
        never={
            rule.event: evidence.never.get(rule.event, 0) + _all_of(bucket, rule.event).canary
            for rule in policy.rules
            if isinstance(rule, Never)
        },
    )
    is_alone = policy.stages[bucket.stage].weight >= 1
    if is_late:
        return evidence
    return _of_stage(evidence, bucket, is_warm, is_alone=is_alone)


def _of_copies(policy: Policy, evidence: Evidence, bucket: Bucket, is_late: bool, is_whole: bool) -> Evidence:
    """Update for a stage without weight: no unit gets the canary, and only copies are compared."""
    evidence = msgspec.structs.replace(
        evidence,
        since=bucket.start,
        until=bucket.start + bucket.seconds,
        late_seconds=bucket.late_seconds,
        copies=evidence.copies.add(bucket.copies, policy.alike, is_whole=is_whole),
    )
    if is_late:
        return evidence
    return msgspec.structs.replace(
        evidence,
        stage_seconds=evidence.stage_seconds + bucket.seconds,
        idle_seconds=0.0 if bucket.copies.asked else evidence.idle_seconds + bucket.seconds,
    )


def _of_stage(evidence: Evidence, bucket: Bucket, is_warm: bool, *, is_alone: bool) -> Evidence:
    """Update the counts of the stage; beside a canary with all traffic, only units held back remain."""
    # Silence of the control is silence, too: a canary alone can be compared with nothing.
    asked = bucket.requests.canary and (bucket.requests.control or is_alone)
    hours = {hour_of_week(bucket.start)} if bucket.requests.canary else set()
    return msgspec.structs.replace(
        evidence,
        stage_seconds=evidence.stage_seconds + bucket.seconds,
        stage_requests=plus(evidence.stage_requests, bucket.requests) if is_warm else evidence.stage_requests,
        idle_seconds=0.0 if asked else evidence.idle_seconds + bucket.seconds,
        hours=tuple(sorted(hours.union(evidence.hours))),
    )


def _counted(
    policy: Policy,
    known: MetricEvidence,
    metric: Metric,
    bucket: Bucket,
    stage: Stage | None,
    *,
    is_warm: bool,
) -> MetricEvidence:
    """Update a metric of events of units. A bucket without its counts adds nothing: missing is not zero."""
    requests = bucket.requests
    if metric.name not in bucket.events and metric.name not in bucket.raw:
        missing = known.missing_seconds + (bucket.seconds if requests.total else 0.0)
        return msgspec.structs.replace(known, missing_seconds=missing)
    assert known.counts is not None
    look = _look(policy, metric, stage, is_warm=is_warm)
    events, recent = _all_of(bucket, metric.name), known.recent
    rare, most = known.rare, 0.0
    if stage is not None:
        canary, control = recent
        recent = (
            canary.add(events.canary, requests.canary, bucket.seconds),
            control.add(events.control, requests.control, bucket.seconds),
        )
        most = metric.negligible_at(stage.margin_times) if is_warm else 0.0
    if most and (metric.kind != "latency" or metric.name in bucket.raw):
        blocks = BLOCK_BUCKETS * policy.bucket_seconds / (bucket.seconds or policy.bucket_seconds)
        factor = known.counts.blocks.rare_factor(most * requests.canary * blocks)
        rare = _rare(rare, events.canary, requests.canary, most, factor)
    return msgspec.structs.replace(
        known,
        counts=known.counts.add(metric, bucket, look),
        rare=rare,
        recent=recent,
        missing_seconds=0.0,
    )


def _look(policy: Policy, metric: Metric, stage: Stage | None, *, is_warm: bool) -> Look:
    """Return what a bucket of a stage contributes to; None = an earlier stage."""
    stages = sum(0 < one.weight * (1 - policy.traffic.holdback) < 1 for one in policy.stages)
    margin = None
    if stage is not None and metric.promotion_margin is not None:
        margin = bounded(metric, metric.promotion_margin * stage.margin_times)
    is_warm = is_warm or metric.severity == "severe"
    return Look(policy.bucket_seconds, stage is None, is_warm, margin, 1 / max(1, stages))


def _observed(
    policy: Policy,
    known: MetricEvidence,
    metric: Metric,
    bucket: Bucket,
    stage: Stage | None,
    weight: Weight,
    units: int,
) -> MetricEvidence:
    """Update a metric of outputs, outcomes or resources; a stage of None is an earlier one.

    Args:
        units: Known units, which may return.
    """
    if stage is not None and metric.promotion_margin is not None:
        margin = metric.promotion_margin * stage.margin_times
        weight = weight._replace(gate_margin=bounded(metric, margin))
    is_recent = stage is not None
    if known.usage is not None:
        block_seconds = BLOCK_BUCKETS * policy.bucket_seconds
        return _used(known, known.usage, metric, bucket, weight, block_seconds if is_recent else 0.0)
    if metric.is_posted:
        for matured in bucket.outcomes:
            if matured.metric == metric.name:
                known = _with_outcomes(known, metric, matured, weight, is_recent=is_recent)
        return known
    names = [f"{metric.name}.{index // 2}" for index in range(2 * metric.bins)]
    grown = tuple(
        strand.add(
            metric,
            events := bucket.events.get(name, Counts()),
            bucket.share,
            weight,
            Recurrence(bucket.in_stage.get(name, events) if is_recent else Counts(), units),
        )
        for strand, name in zip(known.strands, names, strict=True)
    )
    return msgspec.structs.replace(known, strands=grown)


def _used(
    known: MetricEvidence,
    usage: UsageEvidence,
    metric: Metric,
    bucket: Bucket,
    weight: Weight,
    block_seconds: float,
) -> MetricEvidence:
    """Update a metric of a resource. Missing is not zero.

    Args:
        block_seconds: 0 = the bucket is of an earlier stage, and counts for nothing.
    """
    if not block_seconds or bucket.share >= 1:
        return known
    used = bucket.resources.get(metric.name)
    if used is None:
        missing = known.missing_seconds + bucket.seconds * bool(bucket.requests.canary)
        return msgspec.structs.replace(known, missing_seconds=missing)
    number = math.floor(bucket.start / block_seconds + _ROUNDED)
    margins = (metric.rollback_margin, weight.gate_margin)
    usage = usage.add(used, number, margins, is_warm=weight.is_warm)
    return msgspec.structs.replace(known, usage=usage, missing_seconds=0.0)


_ROUNDED = 1e-3  # of a block
#: A bucket whose length differs by more than this fraction carries no information about jumps.
_UNEVEN = 0.05
#: Mean requests per unit above which units are considered to return.
_COMES_BACK = 2
#: Whatever the margins of a stage: the largest fraction of good events that may be lost.
MOST_LESS = 0.9


def bounded(metric: Metric, margin: float) -> float:
    """Return the margin of a stage; where less is worse, not all events may be lost."""
    if metric.worse == "less":
        return min(margin, MOST_LESS)
    return margin


def _with_outcomes(
    known: MetricEvidence,
    metric: Metric,
    matured: OutcomeCohort,
    weight: Weight,
    *,
    is_recent: bool,
) -> MetricEvidence:
    units = plus(known.units, matured.units)
    if metric.kind == "mean":
        means = known.means.add(metric, matured, weight.gate_margin, is_recent=is_recent)
        return msgspec.structs.replace(known, means=means, units=units)
    [strand] = known.strands
    again = Recurrence(matured.events if is_recent else Counts())
    # Cohorts matured long after they were exposed, and are of no bucket's length.
    weight = weight._replace(is_warm=True, is_whole=False)
    grown = strand.add(metric, matured.events, matured.share, weight, again)
    return msgspec.structs.replace(known, strands=(grown,), units=units)


def _rare(
    log_sums: tuple[float, ...], events: int, requests: int, most: float, factor: float
) -> tuple[float, ...]:
    """Update with the events in a number of requests; ``most`` is the rate in question."""
    # Each bet multiplies its capital by the likelihood ratio; the factor tempers it for rates that jump.
    calm = max(0, requests - events)
    return tuple(
        total + (events * math.log(bet) + calm * (math.log1p(-bet * most) - math.log1p(-most))) / factor
        for total, bet in zip(log_sums, BETS, strict=True)
    )


def _split(evidence: Evidence, bucket: Bucket) -> tuple[sample_ratio.SampleRatio, sample_ratio.SampleRatio]:
    """Update the test of the split with the units that are new to the stage, and the current share."""
    split, matched, units, share = evidence.split, evidence.matched, bucket.new_units, bucket.share
    if share < 1 and units.total:  # beside a canary with all traffic nothing is split
        split = split.add((units.canary, units.control), (share, 1 - share))
        part = share / (share + matched_share(share))
        matched = matched.add((units.canary, units.baseline), (part, 1 - part))
    return split, matched


def _all_of(bucket: Bucket, name: str) -> Counts:
    """Return all requests with the event if counted, else the units."""
    return bucket.raw.get(name, bucket.events.get(name, Counts()))


def _check(policy: Policy, evidence: Evidence, bucket: Bucket) -> None:
    if not 0 <= bucket.stage < len(policy.stages):
        raise InvalidInput(
            f"stage {bucket.stage} is none of {len(policy.stages)}", fix="Judge by the policy of the release."
        )
    is_compared = policy.stages[bucket.stage].weight > 0
    if not 0 <= bucket.share <= 1 or (is_compared and not bucket.share and bucket.requests.canary):
        raise InvalidInput(
            f"the canary's share is {bucket.share}",
            fix="Judge buckets in which it had one: above 0, up to 1.",
        )
    if evidence.since is not None and bucket.start <= evidence.since:
        raise InvalidInput(
            f"the bucket from {bucket.start} was counted before, or is older than that from {evidence.since}",
            fix="Judge each bucket once, in the order of their starts.",
        )
    mature = {metric.name: 60 * metric.matures_minutes for metric in policy.metrics if metric.is_posted}
    for matured in bucket.outcomes:
        if matured.exposed + mature.get(matured.metric, 0.0) > bucket.start + bucket.seconds + 1e-6:
            raise InvalidInput(
                f"outcomes '{matured.metric}' of exposures at {matured.exposed} have not matured",
                fix="Hand them over when they have; early ones are those that came fast.",
            )

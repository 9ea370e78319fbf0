"""Records of the management operations on releases, and how they are made of releases.

What a request says, what an answer shows, and the answers to external rollout controllers: Argo Rollouts'
web metric reads a verdict, Flagger's webhooks read a status (docs/how-to/controllers.md).
"""

import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from salver.features.releases.carriers import Carrier
from salver.features.releases.experiments.windows import CountedBy
from salver.features.releases.judge.outlook import Forecast, Outlook, StageOutlook
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.record import Release
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.features.releases.release_rows import Look
from salver.transport.operations import MOST_NUMBER, STORABLE, PageQuery, Why
from salver.words.errors import InvalidInput
from salver.words.releases import Bucket, Counts, Outcome, ReleaseState

_MOST_POINTS: Final = 1000
_MOST_OUTCOMES: Final = 5000  # of one request
#: Maximum size of a policy: each look costs time per metric, and each metric a part of alpha.
_MOST_METRICS: Final = 100
_MOST_STAGES: Final = 100
#: Flagger's hooks in the order of a canary's life. The last two only notify.
Hook = Literal[
    "confirm-rollout",
    "pre-rollout",
    "rollout",
    "confirm-traffic-increase",
    "confirm-promotion",
    "rollback",
    "post-rollout",
    "event",
]


class ReleaseView(msgspec.Struct, frozen=True):
    """Summary of a release.

    Attributes:
        stage: Current stage, from 0, of ``stages``.
        weight: Current fraction of units that get the canary.
        reason: Why it is in this state.
        waits_for: What prevents a proposed release from starting.
        watched_until: For a promoted release that is still compared, until when, in Unix seconds.
        resumes_at: For a release that the judge has paused, Unix seconds from which it is tried again.
        pauses: How often the judge has paused it.
    """

    id: str
    model: str
    stable: str
    canary: str
    alias: str
    state: ReleaseState
    stage: int
    stages: int
    weight: float
    reason: str
    created: float
    changed: float
    ended: float | None
    by: str
    why: str
    waits_for: str
    watched_until: float | None
    resumes_at: float | None
    pauses: int


class LastLook(msgspec.Struct, frozen=True):
    """Counts of the last bucket, and the verdict on all buckets so far."""

    seq: int
    bucket: Bucket
    verdict: Verdict


class ReleaseDetail(msgspec.Struct, frozen=True):
    """A release, its policy, and the last look at it; None = there was none.

    Attributes:
        servers: Servers that count it; empty before it starts and after it ends.
    """

    release: ReleaseView
    policy: Policy
    look: LastLook | None
    servers: tuple[CountedBy, ...]


class ReleasesQuery(PageQuery, frozen=True, forbid_unknown_fields=True):
    """Filter of releases.

    Attributes:
        model: Model name; empty = all.
        state: State; None = any.
        is_live: Only active ones, or only ended ones; None = both.
    """

    model: Annotated[str, msgspec.Meta(max_length=128, pattern=STORABLE)] = ""
    state: ReleaseState | None = None
    is_live: bool | None = None


class Explained(msgspec.Struct, frozen=True):
    """Findings of the last look and what is missing.

    Attributes:
        text: Lines of text.
        carriers: By metric, the units and blocks of time that carry the evidence of the stage.
    """

    text: str
    carriers: tuple[Carrier, ...] = ()


class EvidenceQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Filter of looks.

    Attributes:
        after: Only looks after this number.
        points: Maximum number, evenly spaced, including the last.
    """

    after: Annotated[int, msgspec.Meta(ge=-1, le=MOST_NUMBER)] = -1
    points: Annotated[int, msgspec.Meta(ge=1, le=_MOST_POINTS)] = 300


class Line(msgspec.Struct, frozen=True):
    """A metric and the thresholds of its evidence.

    Attributes:
        threshold: Value of ``log_e`` from which it causes a rollback by itself.
        gate: Value of ``log_gate`` from which the release may continue; None = not a gate.
    """

    name: str
    severity: Literal["severe", "soft"]
    threshold: float
    gate: float | None


class LinePoint(msgspec.Struct, frozen=True):
    """Evidence of a metric at one time.

    Attributes:
        log_e: Log evidence of harm.
        log_gate: Log evidence of no harm in the stage.
        effect, low, high: The canary's rate as a multiple of its control's, with bounds.
    """

    log_e: float
    log_gate: float
    effect: float | None
    low: float | None
    high: float | None


class Point(msgspec.Struct, frozen=True):
    """Counts and verdict at one time.

    Attributes:
        at: Unix seconds, the end of the bucket.
        share: The canary's share of all arms.
        requests: Requests in this bucket.
        lines: Evidence by metric, in the order of ``metrics``.
    """

    seq: int
    at: float
    stage: int
    share: float
    decision: Decision
    requests: Counts
    log_e: float
    split_log_e: float
    lines: tuple[LinePoint, ...]


class Evidence(msgspec.Struct, frozen=True):
    """Looks at a release over time.

    Attributes:
        threshold: Value of ``log_e`` of all metrics together that causes a rollback.
    """

    metrics: tuple[Line, ...]
    threshold: float
    items: tuple[Point, ...]


class NewRelease(Why, frozen=True, forbid_unknown_fields=True):
    """Request for a new release; empty fields are taken from the registry.

    Attributes:
        stable: Version to replace.
        alias: Alias moved on promotion.
        policy: None = the model's own, or the default.
    """

    model: Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=STORABLE)]
    version: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    stable: Annotated[str, msgspec.Meta(max_length=64)] = ""
    alias: Annotated[str, msgspec.Meta(max_length=64)] = ""
    policy: Policy | None = None


class Wished(msgspec.Struct, frozen=True):
    """Result of a change request.

    Attributes:
        is_done: A server has processed it; otherwise one will on its next tick.
    """

    wish: int
    is_done: bool
    release: ReleaseView


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy and the traffic that it would judge."""

    traffic: Forecast
    policy: Policy = Policy()


class Detection(msgspec.Struct, frozen=True):
    """Minutes until a canary with ``ratio`` times its control's rate is rolled back; None = never."""

    ratio: float
    minutes: float | None


class StagePlan(msgspec.Struct, frozen=True):
    """Forecast of one metric at one stage.

    Attributes:
        minutes: Minimum duration.
        promotes: Usual minutes until a harmless canary passes its gate; None = no gate, or it cannot be
            passed.
        budget: Minutes until the stage's sample is complete; None = no sample.
    """

    stage: int
    weight: float
    minutes: float
    detects: list[Detection]
    promotes: float | None
    budget: float | None


class MetricPlan(msgspec.Struct, frozen=True):
    """Forecast of one metric over all stages.

    Attributes:
        rate: Rate of its events under the stable version.
    """

    name: str
    rate: float
    stages: list[StagePlan]
    detects: list[Detection]


class PlanView(msgspec.Struct, frozen=True):
    """Forecast of a policy.

    Attributes:
        minutes: By stage, its duration for a harmless canary; None = it is not promoted from there.
        advice: Suggested changes.
    """

    metrics: list[MetricPlan]
    minutes: list[float | None]
    advice: list[str]
    policy: Policy


class Outcomes(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Outcomes, each with an id chosen by the caller: one posted twice counts once."""

    outcomes: Annotated[tuple[Outcome, ...], msgspec.Meta(min_length=1, max_length=_MOST_OUTCOMES)]


class NewPolicy(Why, frozen=True, forbid_unknown_fields=True):
    """Effect of moving an alias."""

    policy: Literal["immediate"] | Policy


class Judged(msgspec.Struct, frozen=True):
    """Verdict on a release in one word.

    Attributes:
        verdict: ``pass``: promoted, or every gate of the last stage is passed. ``fail``: rolled back.
            Otherwise neither is proven; the same holds without data.
        p: Upper bound on the probability of that much evidence of harm in a harmless release, valid at any
            time.
        n: Units, or requests, of the canary.
        stage: Number of its ``stages`` that it has passed.
    """

    verdict: Literal["pass", "fail", "inconclusive"]
    p: float
    n: int
    state: ReleaseState
    stage: int
    stages: int
    reason: str


class HookQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Query parameter: which of Flagger's hooks is calling."""

    hook: Hook = "rollout"


class Hooked(msgspec.Struct, frozen=True):
    """Positive answer; a negative one is an error."""

    state: ReleaseState
    reason: str


def shown(release: Release) -> ReleaseView:
    """Return the summary of a release."""
    return ReleaseView(
        stages=len(release.policy.stages),
        waits_for=release.waits_for,
        pauses=release.progress.pauses,
        **{name: getattr(release, name) for name in _SHOWN},
    )


_SHOWN = tuple(
    name for name in ReleaseView.__struct_fields__ if name not in ("stages", "waits_for", "pauses")
)


def evidence(policy: Policy, looks: tuple[Look, ...]) -> Evidence:
    """Return looks in the form of a chart."""
    gate = -math.log(policy.beta)
    lines = tuple(
        Line(
            metric.name,
            metric.severity,
            -math.log(policy.alpha * share),
            None if metric.promotion_margin is None else gate,
        )
        for metric, share in zip(policy.metrics, policy.shares, strict=True)
    )
    return Evidence(lines, -math.log(policy.alpha), tuple(_point(look) for look in looks))


def _point(look: Look) -> Point:
    bucket, verdict = look.entry.bucket, look.entry.verdict
    return Point(
        look.seq,
        verdict.at,
        bucket.stage,
        bucket.share,
        verdict.decision,
        bucket.requests,
        verdict.log_e,
        verdict.split_log_e,
        tuple(LinePoint(m.log_e, m.log_gate, m.effect, m.low, m.high) for m in verdict.metrics),
    )


def stride(number: int, most: int) -> int:
    """Return n for taking every n-th look, so that there are at most that many.

    >>> [stride(number, 300) for number in (0, 300, 301, 10_000)]
    [1, 1, 2, 34]
    """
    return max(1, -(-number // most))


def check_size(policy: Policy) -> None:
    """Check that a policy is small enough to be evaluated every second.

    Raises:
        InvalidInput: it is too large.
    """
    if len(policy.metrics) > _MOST_METRICS or len(policy.stages) > _MOST_STAGES:
        raise InvalidInput(
            f"the policy has {len(policy.metrics)} metrics and {len(policy.stages)} stages",
            field="body.policy",
            fix=f"{_MOST_METRICS} and {_MOST_STAGES} at most.",
        )


def plan_view(policy: Policy, seen: Outlook) -> PlanView:
    """Return the forecast of a policy."""
    metrics = [
        MetricPlan(metric.name, metric.rate, list(map(_stage, metric.stages)), _detections(metric.detects))
        for metric in seen.metrics
    ]
    return PlanView(metrics, list(seen.minutes), list(seen.advice), policy)


def _stage(stage: StageOutlook) -> StagePlan:
    return StagePlan(
        stage.stage, stage.weight, stage.minutes, _detections(stage.detects), stage.promotes, stage.budget
    )


def _detections(detects: Mapping[float, float]) -> list[Detection]:
    """Return what is detected when; JSON has no infinity."""
    return [Detection(r, minutes if minutes < math.inf else None) for r, minutes in sorted(detects.items())]


def judged(release: Release, verdict: Verdict | None) -> Judged:
    """Return the verdict on a release."""
    word: Literal["pass", "fail", "inconclusive"] = "inconclusive"
    if release.state is ReleaseState.ROLLED_BACK:
        word = "fail"
    elif _is_through(release, verdict):
        word = "pass"
    chance, seen = 1.0, 0
    if verdict is not None:
        chance = math.exp(-max(0.0, verdict.log_e))
        seen = max((metric.units.canary for metric in verdict.metrics), default=0)
    stages = len(release.policy.stages)
    return Judged(word, chance, seen, release.state, min(release.stage, stages), stages, release.reason)


def _is_through(release: Release, verdict: Verdict | None) -> bool:
    """Return whether it has all of the traffic, or may have it; evidence of a single stage is not enough."""
    is_last = verdict is not None and verdict.decision is Decision.PROMOTE and verdict.next_stage is None
    return release.state is ReleaseState.PROMOTED or (release.state is ReleaseState.RUNNING and is_last)


def says_yes(hook: Hook, release: Release, verdict: Verdict | None) -> bool:
    """Return the answer to a hook of Flagger; if unknown, neither continue nor roll back."""
    match hook:
        case "rollback":
            return release.state is ReleaseState.ROLLED_BACK
        # a negative answer counts towards Flagger's own threshold, so only harm is one
        case "pre-rollout" | "rollout":
            return release.state is not ReleaseState.ROLLED_BACK
        case "confirm-rollout":
            return release.state in (ReleaseState.RUNNING, ReleaseState.PROMOTED)
        case "confirm-traffic-increase":  # not while the canary answers only copies
            is_met = release.state is ReleaseState.RUNNING and release.weight > 0
            return is_met or release.state is ReleaseState.PROMOTED
        case "confirm-promotion":
            return _is_through(release, verdict)
        case "post-rollout" | "event":
            return True

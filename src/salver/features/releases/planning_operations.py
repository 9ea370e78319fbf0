"""Management operation for the forecast of a release (``features/releases/judge/outlook.py``)."""

import asyncio
import math
from collections.abc import Mapping

import msgspec

from salver.features.releases.judge.outlook import Forecast, MetricOutlook, StageOutlook, outlook
from salver.features.releases.judge.policy import Policy
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.words.errors import InvalidInput

#: Maximum size of a policy: each look costs time per metric, and each metric a part of alpha.
_MOST_METRICS = 100
_MOST_STAGES = 100


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


def planning_operations() -> list[Operation]:
    """Return the operation."""

    async def plan(asked: ApiRequest) -> Answer:
        policy: Policy = asked.body.policy
        check_size(policy)
        seen = await asyncio.to_thread(
            outlook, policy, asked.body.traffic
        )  # off the event loop, because it takes long
        metrics = [_metric(metric) for metric in seen.metrics]
        return Answer(PlanView(metrics, list(seen.minutes), list(seen.advice), policy))

    return [Operation("plan", "POST", "/plan", "What a policy would see of a traffic", plan, PlanView, Plan)]


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


def _metric(metric: MetricOutlook) -> MetricPlan:
    return MetricPlan(
        metric.name, metric.rate, [_stage(stage) for stage in metric.stages], _detections(metric.detects)
    )


def _stage(stage: StageOutlook) -> StagePlan:
    return StagePlan(
        stage.stage, stage.weight, stage.minutes, _detections(stage.detects), stage.promotes, stage.budget
    )


def _detections(detects: Mapping[float, float]) -> list[Detection]:
    return [Detection(r, None if math.isinf(minutes) else minutes) for r, minutes in sorted(detects.items())]

"""What would a release see of a traffic, before it begins? The operation over
``features/releases/judge/outlook.py``.
"""

import asyncio
import math
from collections.abc import Mapping

import msgspec

from salver.features.releases.judge.outlook import Forecast, MetricOutlook, StageOutlook, outlook
from salver.features.releases.judge.policy import Policy
from salver.transport.operations import Answer, ApiRequest, Operation
from salver.words.errors import InvalidInput

#: Of a policy: each look at a release costs as much as it has metrics, and each metric a part of alpha.
_MOST_METRICS = 100
_MOST_STAGES = 100


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy, and the traffic that it would judge."""

    traffic: Forecast
    policy: Policy = Policy()


class Detection(msgspec.Struct, frozen=True):
    """Minutes until a canary with ``ratio`` times its control's rate is rolled back; None = never."""

    ratio: float
    minutes: float | None


class StagePlan(msgspec.Struct, frozen=True):
    """Of one metric at one stage.

    Attributes:
        minutes: That it lasts at least.
        promotes: Minutes until a canary that is no worse passes its gate, as a rule; None = it is none, or
            cannot be passed.
        budget: Minutes until the stage's sample is there; None = it has none.
    """

    stage: int
    weight: float
    minutes: float
    detects: list[Detection]
    promotes: float | None
    budget: float | None


class MetricPlan(msgspec.Struct, frozen=True):
    """Of one metric, over all stages.

    Attributes:
        rate: Of its events under the stable version.
    """

    name: str
    rate: float
    stages: list[StagePlan]
    detects: list[Detection]


class PlanView(msgspec.Struct, frozen=True):
    """What the policy would see.

    Attributes:
        minutes: By stage, that it lasts for a canary that is no worse; None = it does not get on from there.
        advice: What better be changed.
    """

    metrics: list[MetricPlan]
    minutes: list[float | None]
    advice: list[str]
    policy: Policy


def planning_operations() -> list[Operation]:
    """That row of the table."""

    async def plan(asked: ApiRequest) -> Answer:
        policy: Policy = asked.body.policy
        check_size(policy)
        seen = await asyncio.to_thread(
            outlook, policy, asked.body.traffic
        )  # as long as it takes, off the loop
        metrics = [_metric(metric) for metric in seen.metrics]
        return Answer(PlanView(metrics, list(seen.minutes), list(seen.advice), policy))

    return [Operation("plan", "POST", "/plan", "What a policy would see of a traffic", plan, PlanView, Plan)]


def check_size(policy: Policy) -> None:
    """Is that few enough to be looked at each second?

    Raises:
        InvalidInput: it is not.
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

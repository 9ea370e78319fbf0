"""Forecast of what a given traffic can detect, at which stage and when.

Both witnesses of harm have to agree. For units, evidence grows by Wald's argument with the information in
requests, so the time needed is the required evidence divided by that rate; where the same users return, it
grows with the number of users. For blocks the usual course is computed block by block (``block_outlook.py``).
Two measured factors account for not knowing the true ratio (the judge bets on several), and for the overshoot
when the bound is passed. Pure.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from salver.features.releases.judge import mean_outlook
from salver.features.releases.judge.block_outlook import (
    blocks_needed,
    clusters_needed,
    gate_blocks,
    rare_blocks,
)
from salver.features.releases.judge.blocks import Sides
from salver.features.releases.judge.count_evidence import CountEvidence, Look
from salver.features.releases.judge.evidence import MetricEvidence, bounded
from salver.features.releases.judge.outage import LEAST_UNITS, LEVEL, chance
from salver.features.releases.judge.policy import Metric, Policy
from salver.features.releases.judge.rules import may_ship_on_budget
from salver.features.releases.judge.shadowing import fewest
from salver.features.releases.judge.strand import Weight, strands
from salver.features.releases.judge.usage import minutes_needed
from salver.features.releases.judge.wildness import (
    MOST,
    PRIOR_BUCKETS,
    PRIOR_EVENTS,
    PRIOR_VARIATION,
    matched_share,
)
from salver.words.errors import InvalidInput
from salver.words.releases import BLOCK_BUCKETS, Bucket, Counts

#: Ratios in the tables.
RATIOS = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
#: Requests needed, relative to Wald's bound (measured, see docs/explanation/judge.md).
_DETECTION, _PROMOTION = 1.15, 1.3
#: Requests needed by the second opinion, relative to plain evidence against the same baseline.
_FLIPS = 1.1
#: Below this many requests per second a smaller first stage detects nothing.
_SPARSE, _LARGE = 1.0, 0.25
#: Buckets after which a metric counts as detecting nothing.
_PATIENCE = 100
#: Ranges of a forecast: wide of any service, and such that no formula overflows.
_PER_SECOND, _LEAST_RATE, _SPREADS = (1e-6, 1e9), 1e-15, (1e-6, 1e6)
_MOST_USERS, _MOST_PROCESSES = 10**10, 10**6


class Forecast(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Expected traffic of a model.

    Attributes:
        requests_per_second: Total of all arms.
        rates: By metric, the fraction of requests with an event under the stable version; for latencies it
            follows from their quantile. Missing = unknown.
        spreads: By metric of the kind ``mean``, the standard deviation of a unit's value as a multiple of the
            mean, after the correction by its past. Missing = unknown.
        units_per_second: New units in all arms; 0 = each request is a unit.
        users: Number of users who come again and again; 0 = so many that most requests are of new ones.
        processes: Processes of the stable version.
    """

    requests_per_second: float
    rates: Mapping[str, float] = msgspec.field(default_factory=dict)
    spreads: Mapping[str, float] = msgspec.field(default_factory=dict)
    units_per_second: float = 0.0
    users: int = 0
    processes: int = 1

    def __post_init__(self) -> None:
        self._check("requests_per_second", self.requests_per_second, *_PER_SECOND)
        for name, rate in self.rates.items():
            if rate:
                self._check(f"rates.{name}", rate, _LEAST_RATE, 1)
        for name, spread in self.spreads.items():
            self._check(f"spreads.{name}", spread, *_SPREADS)
        if self.units_per_second:
            self._check("units_per_second", self.units_per_second, _PER_SECOND[0], self.requests_per_second)
        self._check("users", self.users, 0, _MOST_USERS)
        self._check("processes", self.processes, 1, _MOST_PROCESSES)

    @staticmethod
    def _check(field: str, value: float, least: float, most: float) -> None:
        if not least <= value <= most:
            raise InvalidInput(
                f"{field} is {value:g}", field=field, fix=f"Give a number from {least:g} to {most:g}."
            )

    def rate(self, metric: Metric) -> float:
        """Return the rate of a metric's events; 0 = unknown."""
        if metric.kind == "latency":
            return 1 - metric.quantile
        return self.rates.get(metric.name, 0.0)

    def brings(self, metric: Metric) -> dict[str, float]:
        """Return the forecast of a mean, as ``mean_outlook.py`` needs it."""
        units = 60 * (self.units_per_second or self.requests_per_second)
        return {"spread": self.spreads.get(metric.name, 0.0), "per_minute": units}


class StageOutlook(msgspec.Struct, frozen=True):
    """Forecast of one metric at one stage, from the stage's start.

    Attributes:
        minutes: Minimum duration of the stage, with its warm-up.
        detects: By ratio of the canary's rate to its control's, usual minutes until it is rolled back.
        promotes: Usual minutes until a harmless canary passes this gate; None = no gate, or it cannot be
            passed.
        budget: Minutes until the stage's sample is complete; None = no sample.
    """

    stage: int
    weight: float
    minutes: float
    detects: Mapping[float, float]
    promotes: float | None
    budget: float | None

    def visible(self) -> tuple[float, ...]:
        """Return the ratios that are detected before the stage may end."""
        return tuple(ratio for ratio, minutes in self.detects.items() if minutes <= self.minutes)


class MetricOutlook(msgspec.Struct, frozen=True):
    """Forecast of one metric.

    Attributes:
        rate: Rate of its events under the stable version; 0 = unknown. For a mean, its spread.
        alone: Number of blocks (of outcomes, buckets) with an event of the canary and none of its control
            that causes a rollback; 0 = no number does.
        detects: By ratio, usual minutes from the start of the release until it is rolled back, if every stage
            has its minimum duration; infinite = not before the canary has all traffic.
    """

    name: str
    rate: float
    alone: int
    stages: tuple[StageOutlook, ...]
    detects: Mapping[float, float]


class Outlook(msgspec.Struct, frozen=True):
    """Forecast of a release.

    Attributes:
        minutes: By stage, its duration for a harmless canary; None = it is not promoted from there.
        advice: Suggested changes, as text.
    """

    metrics: tuple[MetricOutlook, ...]
    minutes: tuple[float | None, ...]
    advice: tuple[str, ...]


def outlook(policy: Policy, forecast: Forecast) -> Outlook:
    """Return what the policy can detect with the forecast traffic.

    >>> seen = outlook(Policy(), Forecast(100, {"errors": 0.005}))
    >>> round(seen.metrics[0].stages[0].detects[3.0])
    25
    """
    indices = range(len(policy.stages))
    stages = [
        tuple(_stage(policy, forecast, metric, index) for index in indices) for metric in policy.metrics
    ]
    lasting = tuple(_lasts(policy, index, [seen[index] for seen in stages]) for index in indices)
    metrics = tuple(
        MetricOutlook(
            metric.name,
            forecast.brings(metric)["spread"] if metric.kind == "mean" else forecast.rate(metric),
            _alone(policy, metric),
            seen,
            _whole(policy, metric, seen, lasting),
        )
        for metric, seen in zip(policy.metrics, stages, strict=True)
    )
    return Outlook(metrics, lasting, tuple(_advice(policy, forecast, metrics, lasting)))


def detection_minutes(policy: Policy, index: int, metric: Metric, ratio: float, forecast: Forecast) -> float:
    """Return the usual minutes until a canary with ``ratio`` times the control's rate is rolled back."""
    weight, rate = policy.stages[index].weight, forecast.rate(metric)
    tolerated = 1 + metric.rollback_margin
    if not weight:
        return math.inf
    needed = -math.log(policy.alpha * policy.shares[policy.metrics.index(metric)])
    if metric.kind == "mean":
        return mean_outlook.detection_minutes(metric, weight, ratio, needed, **forecast.brings(metric))
    if metric.kind == "resource":
        return minutes_needed(needed) if ratio > tolerated and weight < 1 else math.inf
    if rate <= 0 or ratio <= tolerated or weight >= 1:
        return math.inf
    if metric.is_counted:
        seconds = _counted_seconds(policy, metric, weight, ratio, needed, forecast)
    else:
        # Wald: the expected number of samples is the evidence needed over the information in each.
        per_request = _information(rate, weight, 1.0, ratio, tolerated)
        seconds = _DETECTION * needed / (per_request * forecast.requests_per_second)
        lost = float(math.ceil(needed / MOST))  # buckets until rates are known to be steady
        if index == _first(policy):
            events = rate * forecast.requests_per_second * policy.bucket_seconds
            lost = max(lost, _lost_buckets(weight, events, seconds / policy.bucket_seconds))
        seconds += lost * policy.bucket_seconds
    if metric.severity == "soft":
        seconds = max(seconds, _flip_seconds(policy, metric, weight, ratio, needed, forecast))
    return seconds / 60


def _counted_seconds(
    policy: Policy, metric: Metric, weight: float, ratio: float, needed: float, forecast: Forecast
) -> float:
    """Return the seconds until both witnesses suffice."""
    rate, per_second = forecast.rate(metric), forecast.requests_per_second
    control = matched_share(weight) if metric.is_matched else 1 - weight
    length = BLOCK_BUCKETS * policy.bucket_seconds
    level = rate * per_second * length
    blocks = blocks_needed(Sides(weight, control, metric.rollback_margin), level, ratio, needed)
    half = needed + math.log(2)  # half of the bet on units is on each kind of evidence
    if forecast.users:
        stages = sum(0 < stage.weight < 1 for stage in policy.stages)
        share = weight / (weight + control)
        units = clusters_needed(
            forecast.users * (weight + control),
            share,
            level / forecast.users,
            ratio / (1 + metric.rollback_margin),
            half + math.log(stages),
        )
    else:
        per_request = _information(rate, weight, weight + control, ratio, 1 + metric.rollback_margin)
        units = _DETECTION * half / (per_request * per_second) / length
    return max(blocks, units) * length


def _flip_seconds(
    policy: Policy, metric: Metric, weight: float, ratio: float, needed: float, forecast: Forecast
) -> float:
    """Return the seconds until the sign-flip test agrees, which sees equal arms only."""
    equal = matched_share(weight)
    surer = (1 + ratio) / (1 + equal / weight * ratio)  # the mean is computed as for the larger arm
    per_request = surer * _information(forecast.rate(metric), equal, 2 * equal, ratio, 1.0)
    fewest = math.ceil(needed / math.log(2)) * policy.bucket_seconds  # none of which brings more
    return max(fewest, _FLIPS * _DETECTION * needed / (per_request * forecast.requests_per_second))


def _information(rate: float, weight: float, enrolled: float, ratio: float, tolerated: float) -> float:
    """Return the information in one request to any arm, for the ratio against the largest tolerated one.

    Args:
        enrolled: Fraction of units that are compared, including the canary's ``weight``.
    """
    share = weight / enrolled
    return (
        enrolled
        * rate
        * (share * ratio + 1 - share)
        * _divergence(_part(share, ratio), _part(share, tolerated))
    )


def _lost_buckets(weight: float, events: float, needed: float) -> float:
    """Return the number of buckets whose evidence is lost until steady events are known to be steady.

    Args:
        events: Events of a bucket in all arms.
        needed: Buckets of untempered evidence.
    """
    part, got, seen = matched_share(weight) / (1 - weight), 0.0, 0  # the baseline's part of the control
    while got < needed and seen < _PATIENCE:
        seen += 1
        steady = part * (1 - part) * (1 - weight) * events * seen
        variation = PRIOR_VARIATION * (PRIOR_BUCKETS / (PRIOR_BUCKETS + seen)) ** 2
        feared = 2 * variation * weight * (1 - weight) * events
        got += 1 / (1 + PRIOR_EVENTS * feared / (PRIOR_EVENTS + steady))
    return max(0.0, seen - min(got, needed))


def promotion_minutes(policy: Policy, index: int, metric: Metric, forecast: Forecast) -> float:
    """Return the usual minutes until a harmless canary passes a stage's gate."""
    stage, rate = policy.stages[index], forecast.rate(metric)
    if metric.promotion_margin is None or stage.weight >= 1:
        return 0.0
    margin = metric.promotion_margin * stage.margin_times
    if metric.kind == "mean":
        margin = bounded(metric, margin)
        enough, brings = -math.log(policy.beta), forecast.brings(metric)
        return mean_outlook.promotion_minutes(metric, stage.weight, margin, enough, **brings)
    needed, seconds = math.log(1 / policy.beta), math.inf
    if metric.kind == "resource":
        return minutes_needed(needed)
    per_second = forecast.requests_per_second
    if not metric.is_counted:
        if rate > 0:
            information = rate * _divergence(stage.weight, _part(stage.weight, 1 + margin))
            seconds = _PROMOTION * needed / (information * per_second)
        return seconds / 60
    control = matched_share(stage.weight) if metric.is_matched else 1 - stage.weight
    sides, length = Sides(stage.weight, control, margin), BLOCK_BUCKETS * policy.bucket_seconds
    requests, level = per_second * length * stage.weight, rate * per_second * length
    if most := metric.negligible_at(stage.margin_times):
        needed += math.log(2)  # half of the bet is on each
        if rate < most:
            gain = _divergence(rate, most) * requests / _PROMOTION
            seconds = length * rare_blocks(sides, level, most * requests, gain, needed)
    if rate > 0:
        seconds = min(seconds, length * gate_blocks(sides, level, needed))
    return seconds / 60


def _alone(policy: Policy, metric: Metric) -> int:
    """Return how many first blocks with events of only the canary cause a rollback; of outcomes, buckets.

    0 = no number does.
    """
    if metric.kind in ("mean", "resource"):
        return 0
    share = policy.stages[_first(policy)].weight
    enough = -math.log(policy.alpha * policy.shares[policy.metrics.index(metric)])
    # No closed form: the judge's own evidence is grown until it suffices.
    known, events = MetricEvidence(strands(metric), CountEvidence()), Counts(canary=1)
    for count in range(1, _PATIENCE):
        if metric.is_counted and known.counts is not None:
            length = BLOCK_BUCKETS * policy.bucket_seconds
            bucket = Bucket((count - 1) * length, length, 0, share, events={metric.name: events})
            grown = known.counts.add(metric, bucket, Look(policy.bucket_seconds))
            known = msgspec.structs.replace(known, counts=grown)
        else:
            strand = known.strands[0].add(metric, events, share, Weight())
            known = MetricEvidence((strand, *known.strands[1:]))
        if known.log_e(metric) >= enough:
            return count
    return 0


def _part(share: float, ratio: float) -> float:
    """Return the canary's part of the events for a given ratio of rates."""
    return share * ratio / (share * ratio + 1 - share)


def _stage(policy: Policy, forecast: Forecast, metric: Metric, index: int) -> StageOutlook:
    stage, warm_up = policy.stages[index], policy.warm_up_seconds / 60
    if not stage.weight:
        return _without_weight(policy, forecast, index)
    blind = warm_up
    if metric.severity == "severe":
        blind = 0.0
    promotes = promotion_minutes(policy, index, metric, forecast)
    has_gate = metric.promotion_margin is not None and math.isfinite(promotes)
    budget = None
    if stage.sample:
        budget = warm_up + stage.sample / (60 * forecast.requests_per_second * stage.weight)
    return StageOutlook(
        stage=index,
        weight=stage.weight,
        minutes=stage.minutes + warm_up,
        detects={
            ratio: blind + detection_minutes(policy, index, metric, ratio, forecast) for ratio in RATIOS
        },
        promotes=warm_up + promotes if has_gate else None,
        budget=budget,
    )


def _without_weight(policy: Policy, forecast: Forecast, index: int) -> StageOutlook:
    """Return the forecast of a stage with only copies, where no metric detects anything."""
    stage, warm_up, shadow = policy.stages[index], policy.warm_up_seconds / 60, policy.traffic.shadow
    copies = 60 * forecast.requests_per_second * (shadow.share if shadow else 0.0)  # per minute
    return StageOutlook(
        stage=index,
        weight=0.0,
        minutes=stage.minutes + warm_up,
        detects=dict.fromkeys(RATIOS, math.inf),
        promotes=fewest(policy.alike, policy.beta) / copies if copies else None,
        budget=stage.sample / copies if stage.sample and copies else None,
    )


def _first(policy: Policy) -> int:
    """Return the first stage at which callers get the canary."""
    return next(index for index, stage in enumerate(policy.stages) if stage.weight)


def _lasts(policy: Policy, index: int, seen: Sequence[StageOutlook]) -> float | None:
    """Return the minutes of a stage for a harmless canary; None = its gates cannot be passed."""
    least, budget, proven = seen[0].minutes, seen[0].budget, 0.0
    if not policy.stages[index].weight:
        return max(least, seen[0].promotes or 0.0)
    for one, metric in zip(seen, policy.metrics, strict=True):
        if metric.promotion_margin is not None:
            proven = max(proven, math.inf if one.promotes is None else one.promotes)
    if budget is not None and (policy.ships_on_budget or may_ship_on_budget(policy.rules, index)):
        proven = min(proven, budget)
    if math.isinf(proven):
        return None
    return max(least, proven)


def _whole(
    policy: Policy, metric: Metric, stages: Sequence[StageOutlook], lasting: Sequence[float | None]
) -> dict[float, float]:
    """Return by ratio the minutes from the start: each stage adds as much evidence as its duration allows."""
    blind = 0.0
    if metric.severity != "severe":
        blind = policy.warm_up_seconds / 60
    found = {}
    for ratio in RATIOS:
        minutes, left = 0.0, 1.0
        for stage, lasts in zip(stages, lasting, strict=True):
            needs = left * (stage.detects[ratio] - blind)
            if lasts is None or blind + needs <= lasts:
                minutes, left = minutes + blind + needs, 0.0
                break
            minutes, left = minutes + lasts, left * (1 - (lasts - blind) / needs)
        found[ratio] = minutes if not left else math.inf
    return found


def _advice(
    policy: Policy, forecast: Forecast, metrics: Sequence[MetricOutlook], lasting: Sequence[float | None]
) -> Iterator[str]:
    first, per_second = policy.stages[_first(policy)], forecast.requests_per_second
    if forecast.users:
        yield _of_users(policy, forecast.users)
    if forecast.processes > 1:
        yield (
            f"hiccups of each of {forecast.processes} processes of the stable version count as variation of "
            "all: where they have some, harm below ×10 is found late or not"
        )
    if per_second < _SPARSE and first.weight < _LARGE:
        yield (
            f"at {per_second:g} requests a second a stage of {first.weight:.0%} sees nothing: begin at "
            f"{_LARGE:.0%}, or replay recorded requests"
        )
    for index, lasts in enumerate(lasting):
        if lasts is None:
            stuck = [
                one.name
                for one, metric in zip(metrics, policy.metrics, strict=True)
                if metric.promotion_margin is not None and one.stages[index].promotes is None
            ]
            yield (
                f"nothing can prove {', '.join(stuck)} harmless at stage {index + 1}, as no events are "
                "foreseen: give a negligible rate (of a mean, its spread), no promotion_margin, or ship on "
                "the budget"
            )
        elif lasts - policy.stages[index].minutes > policy.hold_minutes:
            yield (
                f"stage {index + 1} takes {spoken(lasts)} to prove no harm, and a hold ends after "
                f"{spoken(policy.hold_minutes)}: widen its margins, raise its weight, or ship on the budget"
            )


def _of_users(policy: Policy, users: int) -> str:
    """Describe from which stage on so many users can prove that everything fails."""
    for index, stage in enumerate(policy.stages):
        if 0 < stage.weight < 1:
            canary = round(users * stage.weight)
            failing = chance(Counts(canary, 0, users - canary), Counts(canary))
            if canary >= LEAST_UNITS and failing <= LEVEL:
                return (
                    f"with {users} users, a canary that fails completely is paused within a minute from "
                    f"stage {index + 1} on, where {canary} of them meet it"
                )
    return f"{users} users are too few to prove at any stage that the canary fails completely"


def spoken(minutes: float) -> str:
    """Format minutes.

    >>> spoken(19.2), spoken(0.4), spoken(300.0), spoken(math.inf)
    ('19 min', '0.4 min', '5.0 h', 'never')
    """
    if math.isinf(minutes):
        return "never"
    if minutes >= 180:
        if minutes < 2880:
            return f"{minutes / 60:.1f} h"
        return f"{minutes / 1440:.1f} d"
    if minutes >= 9.5:
        return f"{minutes:.0f} min"
    return f"{minutes:.1f} min"


def _divergence(true: float, other: float) -> float:
    """Return the Kullback-Leibler divergence of two probabilities."""
    first = 0.0
    if true > 0:
        first = true * math.log(true / other)
    return first + (1 - true) * (math.log1p(-true) - math.log1p(-other))

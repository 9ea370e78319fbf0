"""Evidence of many simulated releases at once, on arrays.

The same evidence as in ``evidence.py``, for benchmarks and tests; a property test checks that the two agree.
For metrics that are known immediately and of which more is worse; the simulation is elsewhere. Pure.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from salver.features.releases.judge.evidence import BETS
from salver.features.releases.judge.hourly import ON_FIRST
from salver.features.releases.judge.policy import Metric, Policy
from salver.features.releases.judge.wildness import MOST, PRIOR_BUCKETS, PRIOR_EVENTS, PRIOR_VARIATION
from salver.stats import sign_flip
from salver.stats.binomial_evidence import HARM, NO_HARM
from salver.words.errors import InvalidInput

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Arms(NamedTuple):
    """Counts by arm, each of shape ``(releases, buckets)``."""

    canary: Ints
    baseline: Ints
    stable: Ints


class Schedule(NamedTuple):
    """Schedule of all releases: the stage of each bucket, and the canary's share; shape ``(buckets,)``."""

    stages: Ints
    shares: Floats


class MetricPaths(NamedTuple):
    """Evidence after each bucket, shape ``(releases, buckets)``. ``log_gate`` starts again at each stage."""

    log_e: Floats
    log_harm: Floats
    log_flip: Floats
    log_gate: Floats


class Paths(NamedTuple):
    """Evidence of all metrics together, and of each."""

    log_e: Floats
    metrics: Mapping[str, MetricPaths]

    def rollbacks(self, policy: Policy) -> Ints:
        """Return the bucket at which each release is rolled back; -1 = none. Shape ``(releases,)``."""
        hits = self.log_e >= -np.log(policy.alpha)
        return np.where(hits.any(axis=1), hits.argmax(axis=1), -1)


def paths(policy: Policy, schedule: Schedule, requests: Arms, events: Mapping[str, Arms]) -> Paths:
    """Return the evidence after each bucket, regardless of gates and rollbacks.

    Args:
        policy: Policy with metrics that are known immediately, not outputs, and of which more is worse.
        schedule: Common schedule of all releases.
        requests: Requests; the gates of rare events need those of the canary.
        events: Events by metric; missing = none.

    Raises:
        InvalidInput: A metric is of another kind.
    """
    none = Arms(*(np.zeros_like(requests.canary) for _ in Arms._fields))
    found = {
        metric.name: _paths(policy, metric, schedule, requests, events.get(metric.name) or none)
        for metric in policy.metrics
    }
    total = np.full(requests.canary.shape, -np.inf)
    for share, one in zip(policy.shares, found.values(), strict=True):
        np.logaddexp(total, one.log_e + np.log(share), out=total)
    rest = 1 - sum(policy.shares)
    return Paths(np.logaddexp(total, np.log(rest)) if rest > 1e-9 else total, found)


def _paths(policy: Policy, metric: Metric, schedule: Schedule, requests: Arms, events: Arms) -> MetricPaths:
    if metric.kind == "output" or metric.is_posted:
        raise InvalidInput(
            f"paths of '{metric.name}' are not simulated", fix="Leave outputs and outcomes out."
        )
    share, other = schedule.shares, events.baseline + events.stable
    warm = _warm(policy, schedule)
    counted = (share < 1) & (warm | (metric.severity == "severe"))
    factor, most = _wildness(schedule, events)
    part = share
    if metric.is_matched:
        other, part = events.baseline, share / (share + np.minimum(share, 1 - share))
    sides = _Sides(events.canary, events.canary + other, np.broadcast_to(part, factor.shape), factor, most)
    keep = np.where(share < 1, np.minimum(share, 1 - share) / share, 1.0)

    def harms(inside: Bools) -> Floats:
        return _log_mean(_steps(sides.at(inside), HARM, 1 + metric.rollback_margin), counted[inside])

    def flips(inside: Bools) -> Floats:
        canary, baseline = (arm[:, inside] * counted[inside] for arm in (events.canary, events.baseline))
        return sign_flip.log_e_paths(sign_flip.start(), canary, baseline, keep[inside])

    hours: Ints = (np.arange(len(share)) * policy.bucket_seconds // 3600).astype(np.int64)
    harm, flip = (_with_hours(each, hours, share < 1) for each in (harms, flips))
    gate = np.zeros_like(harm)
    if metric.promotion_margin is not None:
        for stage in np.unique(schedule.stages):
            inside = schedule.stages == stage
            times = policy.stages[stage].margin_times
            here, shift = sides.at(inside), 1 + metric.promotion_margin * times
            steps = _steps(here, [ratio / shift for ratio in NO_HARM], shift)
            gate[:, inside] = _log_mean(steps, (warm & (share < 1))[inside])
            if worst := metric.negligible_at(times):
                rare = _log_mean(_rare(here, requests.canary[:, inside], worst), warm[inside])
                gate[:, inside] = np.logaddexp(gate[:, inside], rare) - np.log(2)
    return MetricPaths(harm if metric.severity == "severe" else np.minimum(harm, flip), harm, flip, gate)


def _with_hours(log_e: Callable[[Bools], Floats], hours: Ints, compared: Bools) -> Floats:
    """Return the evidence of all buckets, and of each hour separately."""
    first = log_e(np.ones(len(hours), bool))
    again, past = np.zeros_like(first), np.full(len(first), -np.inf)
    numbered = np.unique(hours[compared])
    for number, hour in enumerate(numbered, 1):
        inside = (hours == hour) if number > 1 else hours <= hour
        here = log_e(inside) - np.log(number * (number + 1))
        total = np.logaddexp(here, past[:, None])
        again[:, inside] = np.logaddexp(total, -np.log(number + 1))
        past = total[:, -1]
        again[:, hours > hour] = again[:, inside][:, -1:]
    together: Floats = np.logaddexp(first + np.log(ON_FIRST), again + np.log(1 - ON_FIRST))
    return together


class _Sides(NamedTuple):
    """The canary's events, both sides' events, the canary's share of units, and tempering of the evidence."""

    canary: Ints
    events: Ints
    share: Floats
    factor: Floats
    most: Floats

    def at(self, inside: Bools) -> "_Sides":
        return _Sides(
            self.canary[:, inside],
            self.events[:, inside],
            self.share[:, inside],
            self.factor[:, inside],
            self.most[:, inside],
        )


def _steps(sides: _Sides, ratios: Sequence[float], shift: float) -> Iterator[Floats]:
    """Return the log contribution of each bucket for each ratio to the boundary of the null, at ``shift``."""
    boundary = sides.share * shift / (sides.share * shift + 1 - sides.share)
    for ratio in ratios:
        step = sides.canary * np.log(ratio) - sides.events * np.log1p(boundary * (ratio - 1))
        yield np.minimum(step / sides.factor, sides.most)


def _rare(sides: _Sides, requests: Ints, most: float) -> Iterator[Floats]:
    calm = np.maximum(requests - sides.canary, 0)
    for bet in BETS:
        step = sides.canary * np.log(bet) + calm * (np.log1p(-bet * most) - np.log1p(-most))
        yield step / sides.factor


def _log_mean(steps: Iterator[Floats], counted: Bools) -> Floats:
    """Return the log of the mean of the products, over the buckets that count."""
    sums = [np.cumsum(step * counted, axis=1) for step in steps]
    total: Floats = np.logaddexp.reduce(sums) - np.log(len(sums))
    return total


def _warm(policy: Policy, schedule: Schedule) -> Bools:
    """Return a mask of the buckets after the warm-up of their stage."""
    first = np.searchsorted(schedule.stages, schedule.stages)
    return (np.arange(len(first)) - first) * policy.bucket_seconds >= policy.warm_up_seconds


def _wildness(schedule: Schedule, events: Arms) -> tuple[Floats, Floats]:
    """Return for each bucket the tempering factor and the largest contribution."""
    share, stages = schedule.shares, schedule.stages
    control = (events.baseline + events.stable).astype(np.float64)
    together = np.maximum(1 - share, 1e-300)
    part = np.minimum(np.minimum(share, 1 - share) / together, 1.0)
    opens = np.r_[True, stages[1:] != stages[:-1]]
    before = np.c_[np.zeros(len(control)), control[:, :-1]]
    jumps = _before(np.where(opens, 0.0, (control - before) ** 2 - control - before))
    count, mean = np.arange(control.shape[1]), _before(control)
    mean = mean / np.maximum(count, 1)
    seen = np.maximum(jumps, 0.0) / np.where(mean > 0, 2 * mean * mean, np.inf)
    variation = np.where(
        mean > 0,
        PRIOR_VARIATION * (PRIOR_BUCKETS / (PRIOR_BUCKETS + count)) ** 2 + seen / (PRIOR_BUCKETS + count),
        PRIOR_VARIATION,
    )
    squares, expected = np.zeros_like(control), np.zeros_like(control)
    for stage in np.unique(stages):
        inside = stages == stage
        shares, events_in = part[inside], control[:, inside]
        squares[:, inside] = _before((events.baseline[:, inside] - shares * events_in) ** 2)
        expected[:, inside] = _before(shares * (1 - shares) * events_in)
    feared = 1 + 2 * variation * share * (1 - share) * (mean / together)
    factor = np.maximum(1.0, (PRIOR_EVENTS * feared + squares) / (PRIOR_EVENTS + expected))
    factor = np.where((share >= 1) | (count == 0), 1.0, factor)
    return factor, MOST * np.maximum(1.0, 1 / variation)


def _before(values: Floats) -> Floats:
    """Return for each bucket the sum of those before it."""
    return np.cumsum(values, axis=1) - values

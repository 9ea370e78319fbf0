"""Errors of the judge where there is no baseline of the canary's size, after a promotion, and by money.

More worlds for ``judge_cells.py``, in which no other tool has a rule to stand beside: simulated counts and
values, of a seed.
"""

import math
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
from judge_twin import Scene, Schedule, paths
from judge_worlds import around_median, interval

from salver.features.releases.judge.outlook import Forecast, detection_minutes
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.stats.mean_evidence import Phase, contrast, log_less, log_more, undecided
from salver.words.releases import Sums

Floats = npt.NDArray[np.float64]

FALLBACKS = Metric("fallbacks", "fallbacks", "soft")
SECONDS, RATE = 10.0, 0.01
#: Shares of the canary, an hour each, and of one that is promoted beside 5 % that are held back.
LARGE, HELD = (0.6, 0.75, 0.9), 0.95
ALPHA = 0.002  # of a mean, beside four other metrics
LOOKS = 20  # of each stage

#: Buyers' part, sigma of what they spend, cap: few buy, and few of those buy much.
KINDS = {
    "all buy, sigma 1": (1.0, 1.0, 20.0),
    "one in five, sigma 1": (0.2, 1.0, 20.0),
    "one in twenty, sigma 1.5": (0.05, 1.5, 30.0),
}
#: The canary's share, and units, stage by stage.
PLANS = {
    "5 %": ((0.05, 60_000),),
    "1, 5, 25 %": ((0.01, 120_000), (0.05, 40_000), (0.25, 40_000)),
    "95 %": ((0.95, 60_000),),
}


def large(seed: int, releases: int) -> Iterator[dict[str, Any]]:
    """A soft metric, where the canary has more than half."""
    policy = Policy(stages=tuple(Stage(share, 60) for share in LARGE), metrics=(FALLBACKS,))
    schedule = Schedule(np.repeat(np.arange(3), 360), np.repeat(LARGE, 360))
    for world, shape, ratios in (("calm", 0.0, (1.0, 1.25, 1.5, 2.0, 3.0)), ("bursts", 0.25, (1.0, 2.0))):
        for ratio in ratios:
            rng = np.random.default_rng([seed, 6, int(100 * ratio), int(100 * shape)])
            at = _found(rng, policy, schedule, releases, ratio, shape)
            told = detection_minutes(policy, 0, FALLBACKS, ratio, Forecast(100, {"fallbacks": RATE}))
            hint = 2 + told if ratio > 1 and not shape else None  # two minutes of warming up
            yield {"world": world, "ratio": ratio, "told": hint, "seed": seed} | _told(at, SECONDS)


def held(seed: int, releases: int) -> Iterator[dict[str, Any]]:
    """After a promotion, beside 5 % that are held back: a day, in buckets of a minute, 10 req/s."""
    stages, buckets = (Stage(HELD, 60),), 24 * 60
    schedule = Schedule(np.zeros(buckets, np.int64), np.full(buckets, HELD))
    for severity in ("severe", "soft"):
        metric = msgspec.structs.replace(FALLBACKS, severity=severity)
        policy = Policy(stages=stages, metrics=(metric,), bucket_seconds=60.0, warm_up_seconds=0.0)
        for ratio in (1.0, 1.25, 1.5, 2.0, 5.0):
            rng = np.random.default_rng([seed, 7, int(100 * ratio), len(severity)])
            at = _found(rng, policy, schedule, releases, ratio, 0.0, per_second=10)
            yield {"world": severity, "ratio": ratio, "seed": seed} | _told(at, 60.0)


def money(seed: int, releases: int) -> Iterator[dict[str, Any]]:
    """Means of skewed values, whose past tells half of them; looked at twenty times a stage."""
    for plan, stages in PLANS.items():
        for kind, (part, sigma, cap) in KINDS.items():
            for ratio in (1.0, 0.8):
                rng = np.random.default_rng([seed, 8, len(plan), int(100 * part), int(100 * ratio)])
                found = [_most(rng, stages, (part, sigma, cap), ratio) for _ in range(releases)]
                enough = -math.log(ALPHA)
                yield {
                    "world": f"{plan}, {kind}",
                    "seed": seed,
                    "plan": plan,
                    "kind": kind,
                    "ratio": ratio,
                    "releases": releases,
                    "less": sum(less >= enough for less, _, _ in found),
                    "more": sum(more >= enough for _, more, _ in found),
                    "decided": sum(is_decided for *_, is_decided in found),
                }


def _found(
    rng: np.random.Generator,
    policy: Policy,
    schedule: Schedule,
    releases: int,
    ratio: float,
    shape: float,
    per_second: float = 100,
) -> npt.NDArray[np.int64]:
    """The bucket after which each release is rolled back. With a shape, arms have gamma rates each."""
    share, size = schedule.shares, (releases, len(schedule.shares))
    rest, mean = np.minimum(share, 1 - share), per_second * policy.bucket_seconds * RATE
    wild = rng.gamma(shape, 1 / shape, (2, *size)) if shape else np.ones((2, *size))
    none = np.zeros(size, np.int64)
    events = np.stack(
        [rng.poisson(mean * share * ratio * wild[0]), rng.poisson(mean * rest * wild[1]), none], axis=2
    )
    parts = np.stack([share, rest, 0 * share], axis=1)
    asked = rng.poisson(per_second * policy.bucket_seconds * parts, (releases, len(share), 3))
    [metric] = policy.metrics
    seen = Scene(np.maximum(asked, events), np.maximum(asked, events), events, events, events[:, :, None])
    log_e = paths(policy, metric, schedule, seen).log_e
    hits = log_e >= -math.log(policy.alpha * policy.shares[0])
    found: npt.NDArray[np.int64] = np.where(hits.any(axis=1), hits.argmax(axis=1), -1)
    return found


def _told(at: npt.NDArray[np.int64], seconds: float) -> dict[str, Any]:
    number = int((at >= 0).sum())
    minutes = np.where(at >= 0, (at + 1) * seconds / 60, np.inf)
    low, high = interval(number, len(at))
    told = [None if math.isinf(each) else round(float(each), 1) for each in around_median(minutes.tolist())]
    median = float(np.median(minutes))
    return {
        "releases": len(at),
        "found": number,
        "low": low,
        "high": high,
        "minutes": None if math.isinf(median) else round(median, 1),
        "median_within": told,
    }


def _most(
    rng: np.random.Generator,
    stages: tuple[tuple[float, int], ...],
    kind: tuple[float, float, float],
    ratio: float,
) -> tuple[float, float, bool]:
    """Greatest evidence of less and of more over all looks, and whether there was any."""
    done: tuple[Phase, ...] = ()  # stages that are over
    less = more = -math.inf
    for share, units in stages:
        canary = _arm(rng, round(share * units), kind, ratio)
        control = _arm(rng, units - round(share * units), kind, 1.0)
        for one, other in zip(canary, control, strict=True):
            phases = (*done, (one, other))
            if not undecided(phases):
                seen = contrast(phases, 1.0)
                less, more = max(less, log_less(seen)), max(more, log_more(seen))
        done = (*done, (canary[-1], control[-1]))
    return less, more, math.isfinite(less)


def _arm(rng: np.random.Generator, units: int, kind: tuple[float, float, float], ratio: float) -> list[Sums]:
    """What is known of an arm at each look."""
    past = _spent(rng, units, kind)
    values = ratio * np.where(rng.random(units) < 0.5, past, _spent(rng, units, kind))
    rows = np.stack(
        [values != 0, values, values**2, values**3, past, past**2, values * past], dtype=np.float64
    ).cumsum(axis=1)
    ends = [units * (look + 1) // LOOKS for look in range(LOOKS)]
    return [Sums(end, int(rows[0, end - 1]), *rows[1:, end - 1].tolist()) for end in ends]


def _spent(rng: np.random.Generator, units: int, kind: tuple[float, float, float]) -> Floats:
    part, sigma, cap = kind
    return np.minimum((rng.random(units) < part) * rng.lognormal(0, sigma, units), cap)

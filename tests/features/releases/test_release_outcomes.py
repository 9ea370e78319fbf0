"""Outcomes that come days late: does waiting until they have matured keep the promises, and is it needed?

Complaints, of one unit in ten whichever version it met; they come after three days in the mean, and after
a day and a half where the canary answered. A bucket is a day.
"""

import math

import numpy as np
import pytest
from chances import bounds, may_be
from soaking import size

from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.verdict import Decision
from salver.words.releases import Bucket, Counts, OutcomeCohort, ReleaseState

DAY, DAYS, SHARE, UNITS, RATE = 86_400.0, 40, 0.25, 2000, 0.1
PARTS = (SHARE, SHARE, 1 - 2 * SHARE)
DELAYS = (1.5, 3.0, 3.0)  # days, by arm
MATURE = 20


def complaints(rng: np.random.Generator, ratio: float) -> np.ndarray:
    """By arm, day of exposure and days until they come (the last: even later)."""
    reached = 1 - np.exp(-np.arange(1, DAYS + 1)[None] / np.array(DELAYS)[:, None])
    steps = np.diff(np.c_[np.zeros(3), reached, np.ones(3)], axis=1)
    worse = (ratio, 1.0, 1.0)
    rows = [
        [rng.multinomial(rng.poisson(UNITS * part * RATE * times), step) for _ in range(DAYS)]
        for part, times, step in zip(PARTS, worse, steps, strict=True)
    ]
    return np.array(rows)


def is_rolled_back(rng: np.random.Generator, ratio: float, mature: int) -> bool:
    """Of those exposed on a day all complaints count ``mature`` days later; 0 = each as it comes."""
    metric = Metric(
        "complaints", "outcome", "severe", promotion_margin=None, matures_minutes=mature * DAY / 60
    )
    policy = Policy(stages=(Stage(SHARE, 1e9),), metrics=(metric,), bucket_seconds=DAY, warm_up_seconds=0)
    came, evidence = complaints(rng, ratio), start(policy)
    units = Counts(*(round(UNITS * part) for part in PARTS))
    for today in range(DAYS):
        if mature:
            exposed = [today - mature] if today >= mature else []
            counts = {day: came[:, day, : mature + 1].sum(axis=1) for day in exposed}
        else:
            counts = {day: came[:, day, today - day] for day in range(today + 1)}
        outcomes = tuple(
            OutcomeCohort(metric.name, day * DAY, SHARE, units, Counts(*map(int, some)))
            for day, some in counts.items()
        )
        bucket = Bucket(today * DAY, DAY, 0, SHARE, units, units, outcomes=outcomes)
        evidence, verdict = judge(policy, evidence, bucket, ReleaseState.RUNNING)
        if verdict.decision is Decision.ROLLBACK:
            return True
    return False


def test_outcomes_that_have_matured_roll_no_good_release_back() -> None:
    rng = np.random.default_rng(41)
    may_be(sum(is_rolled_back(rng, 1.0, MATURE) for _ in range(150)), 150, at_most=0.01)


@pytest.mark.soak
def test_outcomes_as_they_come_would() -> None:
    """The reason for waiting: who is told sooner seems worse."""
    rng = np.random.default_rng(42)
    releases = size(100, 40)
    low, _ = bounds(sum(is_rolled_back(rng, 1.0, 0) for _ in range(releases)), releases)
    assert low > 0.01


@pytest.mark.parametrize("ratio", [1.5, 3.0])
def test_harm_that_has_matured_is_found(ratio: float) -> None:
    rng = np.random.default_rng(43)
    may_be(sum(is_rolled_back(rng, ratio, MATURE) for _ in range(20)), 20, at_least=0.95)


def test_the_delays_are_what_they_are_called() -> None:
    came = sum(complaints(np.random.default_rng(44), 1.0) for _ in range(5))
    seen = came[:, :, :3].sum(axis=(1, 2)) / came.sum(axis=(1, 2))
    assert seen == pytest.approx([1 - math.exp(-3 / days) for days in DELAYS], abs=0.02)

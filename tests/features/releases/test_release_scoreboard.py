"""What is claimed of the judge beside others' rules, each claim on simulated releases of a fixed seed.

Three stages of an hour at 1, 5 and 25 %, buckets of ten seconds, half a per cent of failures, as on the page
about the judge. Whether the arrays say what the judge says is ``test_release_paths.py``'s question.
"""

from collections.abc import Mapping

import numpy as np
import pytest
from chances import may_be
from judge_paths import Arms, Schedule, paths
from rollout_releases import buckets, judged, with_policy

from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.verdict import Decision

BUCKETS, SECONDS = 360, 10.0  # of a stage
FAILURES = 0.005
POLICY = Policy(
    stages=(Stage(0.01, 60), Stage(0.05, 60), Stage(0.25, 60)),
    metrics=(Metric("errors", "errors", "severe", share=0.2), Metric("other", "timeouts", "severe")),
)
WEIGHTS = np.array([stage.weight for stage in POLICY.stages])
SCHEDULE = Schedule(np.repeat(np.arange(3), BUCKETS), np.repeat(WEIGHTS, BUCKETS))


def poisson(rng: np.random.Generator, releases: int, per_bucket: np.ndarray, ratio: float = 1.0) -> Arms:
    """Failures by arm, of so many in all in each bucket where all is well."""
    share, size = SCHEDULE.shares, (releases, len(SCHEDULE.shares))
    parts = (share * ratio, share, 1 - 2 * share)
    return Arms(*(rng.poisson(per_bucket * part, size) for part in parts))


STICKY, EACH_SECONDS = (
    200,
    2 * 20_000 / 100,
)  # users of 20,000 who fail at every second request, of 100 a second


def all_failures(rng: np.random.Generator, releases: int) -> Arms:
    """Of these users, in the arms that are theirs."""
    place = rng.random((releases, STICKY))
    lower = np.stack([(place < weight).sum(axis=1) for weight in WEIGHTS], axis=1)[:, SCHEDULE.stages]
    upper = np.stack([(place > 1 - weight).sum(axis=1) for weight in WEIGHTS], axis=1)[:, SCHEDULE.stages]
    return Arms(
        *(rng.poisson(arm * SECONDS / EACH_SECONDS) for arm in (lower, upper, STICKY - lower - upper))
    )


def first_failures(rng: np.random.Generator, releases: int) -> Arms:
    """The first of each, in the arm that is theirs at that moment; nobody leaves the canary as it grows."""
    at = rng.exponential(EACH_SECONDS, (releases, STICKY)) // SECONDS
    place = rng.random((releases, STICKY))
    known = at < len(SCHEDULE.shares)
    bucket = np.where(known, at, 0).astype(int)
    share = SCHEDULE.shares[bucket]
    arms = (place < share, place > 1 - share)
    chosen = (arms[0], arms[1], ~(arms[0] | arms[1]))
    counted = np.zeros((3, releases, len(SCHEDULE.shares)), np.int64)
    rows = np.broadcast_to(np.arange(releases)[:, None], bucket.shape)
    for arm, mask in enumerate(chosen):
        np.add.at(counted[arm], (rows[mask & known], bucket[mask & known]), 1)
    return Arms(*counted)


def rolled_back(events: Mapping[str, Arms]) -> np.ndarray:
    """By release, the bucket of its rollback; -1 = there was none."""
    none = np.zeros_like(next(iter(events.values())).canary)
    return paths(POLICY, SCHEDULE, Arms(none, none, none), events).rollbacks(POLICY)


TIME = np.arange(3 * BUCKETS) * SECONDS
BAD_TIMES = {
    "day and night": 1 + np.sin(2 * np.pi * TIME / 86_400),
    "an outage of all arms": np.where((TIME >= 4000) & (TIME < 5200), 6.0, 1.0),
}


@pytest.mark.parametrize("times", BAD_TIMES)
def test_a_good_release_survives_times_that_are_bad_for_all(times: str) -> None:
    per_bucket = 100 * SECONDS * FAILURES * BAD_TIMES[times]
    found = rolled_back({"errors": poisson(np.random.default_rng(21), 400, per_bucket)})
    may_be(int((found >= 0).sum()), 400, at_most=POLICY.alpha)


def test_a_good_release_survives_users_who_always_fail() -> None:
    found = rolled_back({"errors": first_failures(np.random.default_rng(22), 400)})
    may_be(int((found >= 0).sum()), 400, at_most=POLICY.alpha)
    found = rolled_back({"errors": all_failures(np.random.default_rng(22), 400)})
    may_be(int((found >= 0).sum()), 400, at_least=0.1)  # what whoever counts requests would do


@pytest.mark.parametrize(("ratio", "minutes"), [(3.0, 20.0), (10.0, 3.0)])
def test_harm_is_found_in_minutes_and_few_meet_it(ratio: float, minutes: float) -> None:
    """At 100 requests a second, from the first stage on; Kayenta takes 90 and 30 minutes, 12,600 requests."""
    per_bucket = np.full(len(SCHEDULE.shares), 100 * SECONDS * FAILURES)
    found = rolled_back({"errors": poisson(np.random.default_rng(23), 400, per_bucket, ratio)})
    assert (found >= 0).all()
    took = np.median(found + 1) * SECONDS
    assert took <= 60 * minutes
    assert took * 100 * WEIGHTS[0] <= 1500  # the canary's requests until then


def test_an_output_that_only_spreads_wider_is_found() -> None:
    """Tests of a mean or a median miss it: the outer bins fill from both sides."""
    score = Metric("score", "output", "soft", bins=4, promotion_margin=None)
    policy = with_policy(metrics=(score,))
    events = {f"score.{number}": 300.0 for number in range(4)}
    for wider, decision in ((1.0, Decision.CONTINUE), (1.6, Decision.ROLLBACK)):
        inner = 2 - wider
        ratios = {"score.0": wider, "score.1": inner, "score.2": inner, "score.3": wider}
        _, verdicts = judged(buckets(policy, events=events, ratios=ratios, number=40), policy)
        verdict = verdicts[-1]
        assert (verdict.decision is Decision.ROLLBACK) == (decision is Decision.ROLLBACK), wider

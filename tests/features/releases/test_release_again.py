"""Users who come often fail again and again. What breaks then is told, and what does not."""

import math
from collections.abc import Iterator

import numpy as np
import pytest
from chances import may_be
from soaking import size

from salver.features.releases.judge.evidence import observe, start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.verdict import Decision
from salver.words.releases import BLOCK_BUCKETS, MOST_BLOCKS, Bucket, Counts, ReleaseState

ERRORS = Metric("errors", "errors", "severe")
SECONDS = 10.0


def by_arm(arms: np.ndarray) -> Counts:
    return Counts(*np.bincount(arms, minlength=3).tolist())


class Users:
    """As the servers count them: who fails for the first time, and who in so many blocks of the stage.

    Args:
        share: Of them that meet the canary; as many more are its baseline.
        activity: Of each, relative to the mean.
    """

    def __init__(self, rng: np.random.Generator, share: float, activity: np.ndarray) -> None:
        self.rng, self.share, self.activity = rng, share, activity
        at = rng.permutation(len(activity)) / len(activity)
        self.arms = np.where(at < share, 0, np.where(at > 1 - share, 1, 2))
        self.known = np.zeros(len(activity), bool)
        self.blocks, self.last = np.zeros((2, len(activity)), int)
        self.index, self.stage = 0, -1

    def bucket(self, events: float, ratio: float = 1.0, stage: int = 0) -> Bucket:
        """One with so many events of good arms altogether."""
        is_new = stage != self.stage
        if is_new:
            self.blocks[:], self.last[:], self.stage = 0, -1, stage
        rates = events * self.activity / self.activity.sum() * np.where(self.arms == 0, ratio, 1.0)
        counts = self.rng.poisson(rates)
        first = (counts > 0) & ~self.known
        self.known |= first
        again = (counts > 0) & (self.last != self.index // BLOCK_BUCKETS)
        self.blocks[again] += 1
        self.last[again] = self.index // BLOCK_BUCKETS
        places = np.minimum(self.blocks, MOST_BLOCKS)
        bucket = Bucket(
            self.index * SECONDS,
            SECONDS,
            stage,
            self.share,
            Counts(1000, 1000, 8000),
            by_arm(self.arms) if not self.index else Counts(),
            events={"errors": by_arm(self.arms[first])},
            raw={"errors": Counts(*np.bincount(self.arms, counts, 3).astype(int).tolist())},
            met=by_arm(self.arms) if is_new else Counts(),
            blocks={
                "errors": tuple(
                    by_arm(self.arms[again & (places == place)]) for place in range(1, MOST_BLOCKS + 1)
                )
            },
        )
        self.index += 1
        return bucket


def verdicts(policy: Policy, buckets: Iterator[Bucket]) -> Iterator[tuple[int, Decision, str]]:
    evidence = start(policy)
    for index, bucket in enumerate(buckets):
        evidence, verdict = judge(policy, evidence, bucket, ReleaseState.RUNNING)
        yield index, verdict.decision, verdict.reasons[0]


@pytest.mark.parametrize("severity", ["severe", "soft"])
def test_a_canary_that_breaks_when_all_its_users_have_had_an_error_is_rolled_back(severity: str) -> None:
    """Of four hundred users each has had several in an hour, when the canary begins to fail ten times as
    often.
    """
    kind = "errors" if severity == "severe" else "fallbacks"
    policy = Policy(
        stages=(Stage(0.1, 6000), Stage(1, 0)),
        metrics=(Metric("errors", kind, severity, promotion_margin=None),),
        warm_up_seconds=0.0,
        bucket_seconds=SECONDS,
    )
    users, breaks = Users(np.random.default_rng(1), 0.1, np.ones(400)), 360
    seen = (users.bucket(5.0, 10.0 if index >= breaks else 1.0) for index in range(breaks + 360))
    index, _, why = next(each for each in verdicts(policy, seen) if each[1] is Decision.ROLLBACK)
    assert users.known.mean() > 0.9 and breaks <= index < breaks + 180
    assert why.startswith("errors: the canary has ")


@pytest.mark.soak
def test_good_releases_whose_users_come_often_keep_alpha() -> None:
    """An hour of a hundred users, of whom a few make most of the requests."""
    policy = Policy(
        stages=(Stage(0.2, 6000), Stage(1, 0)),
        metrics=(ERRORS,),
        warm_up_seconds=0.0,
        bucket_seconds=SECONDS,
        alpha=0.05,
    )
    rng, wrong, releases = np.random.default_rng(2), 0, size(40, 20)
    for _ in range(releases):
        users = Users(rng, 0.2, rng.pareto(1.2, 100) + 0.05)
        seen = (users.bucket(4.0) for _ in range(360))
        wrong += any(decision is Decision.ROLLBACK for _, decision, _ in verdicts(policy, seen))
    may_be(wrong, releases, at_most=policy.alpha)


def gates(ratio: float, stages: int, number: int, seed: int, releases: int = 40) -> int:
    """How many releases pass the last of so many stages, of half an hour each."""
    policy = Policy(
        stages=(*(Stage(0.2 + 0.01 * stage, 600) for stage in range(stages)), Stage(1, 0)),
        metrics=(ERRORS,),
        warm_up_seconds=0.0,
        bucket_seconds=SECONDS,
    )
    rng, passed = np.random.default_rng(seed), 0
    for _ in range(releases):
        users, evidence, best = Users(rng, 0.25, rng.gamma(2.0, 1.0, number)), start(policy), -math.inf
        for index in range(180 * stages):
            stage = index // 180
            evidence = observe(policy, evidence, users.bucket(12.0, ratio, stage))
            if stage == stages - 1:
                best = max(best, evidence.metrics[0].log_gate(ERRORS))
        passed += best >= -math.log(policy.beta)
    return passed


def test_a_version_that_is_no_worse_passes_where_all_users_had_an_error_at_the_stage_before() -> None:
    assert gates(1.0, stages=2, number=1000, seed=3, releases=20) >= 15


def test_one_that_is_worse_by_the_margin_does_not_though_all_users_have_had_an_error_in_the_end() -> None:
    """Half as many errors again, of all users: in the end each has had one, of both arms."""
    may_be(gates(1.5, stages=1, number=1000, seed=4), 40, at_most=0.05)

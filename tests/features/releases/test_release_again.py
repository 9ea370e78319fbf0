"""Users who come often have each had an error before long. What breaks then is told, and what does not."""

import math
from collections.abc import Iterator

import msgspec
import numpy as np
import pytest
from chances import may_be
from soaking import size

from salver.features.releases.judge.evidence import observe, start
from salver.features.releases.judge.hourly import Hourly
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.verdict import Decision
from salver.words.releases import Bucket, Counts, ReleaseState

ERRORS = Metric("errors", "errors", "severe")
SECONDS = 60.0


class Users:
    """As the collector counts them: whose event is the first one of the release, of the hour, of the stage.

    Args:
        share: Of them that meet the canary; as many more are its baseline.
        activity: Of each, relative to the mean.
    """

    def __init__(self, rng: np.random.Generator, share: float, activity: np.ndarray) -> None:
        self.rng, self.share, self.activity = rng, share, activity
        at = rng.random(len(activity))
        self.arms = np.where(at < share, 0, np.where(at > 1 - share, 1, 2))
        self.known = [np.zeros(len(activity), bool) for _ in range(3)]
        self.index = 0

    def bucket(self, events: float, ratio: float = 1.0, stage: int = 0) -> Bucket:
        """A minute with so many events of good arms altogether."""
        started = self.index * SECONDS
        if started % 3600 == 0:
            self.known[1][:] = False
        rates = events * self.activity / self.activity.sum() * np.where(self.arms == 0, ratio, 1.0)
        counts = self.rng.poisson(rates)
        firsts = []
        for known in self.known:
            is_first = (counts > 0) & ~known
            known |= is_first
            firsts.append({"errors": Counts(*np.bincount(self.arms[is_first], minlength=3).tolist())})
        exposed = Counts(*np.bincount(self.arms, minlength=3).tolist()) if not self.index else Counts()
        raw = {"errors": Counts(*np.bincount(self.arms, counts, 3).astype(int).tolist())}
        self.index += 1
        asked = Counts(1000, 1000, 8000)
        named = dict(zip(("events", "in_hour", "in_stage"), firsts, strict=True))
        return Bucket(started, SECONDS, stage, self.share, asked, exposed, **named, raw=raw)


def verdicts(policy: Policy, buckets: Iterator[Bucket]) -> Iterator[tuple[int, Decision, str]]:
    evidence = start(policy)
    for index, bucket in enumerate(buckets):
        evidence, verdict = judge(policy, evidence, bucket, ReleaseState.RUNNING)
        yield index, verdict.decision, verdict.reasons[0]


@pytest.mark.parametrize("severity", ["severe", "soft"])
def test_a_canary_that_breaks_when_all_its_users_have_had_an_error_is_rolled_back(severity: str) -> None:
    """Of four thousand users each has had several in ten hours, when the canary begins to fail ten times as
    often.
    """
    kind = "errors" if severity == "severe" else "fallbacks"
    policy = Policy(
        stages=(Stage(0.1, 6000), Stage(1, 0)),
        metrics=(Metric("errors", kind, severity, promotion_margin=None),),
        warm_up_seconds=0.0,
        bucket_seconds=SECONDS,
    )
    users, breaks = Users(np.random.default_rng(1), 0.1, np.ones(4000)), 600
    seen = (users.bucket(20.0, 10.0 if index >= breaks else 1.0) for index in range(breaks + 180))
    index, _, why = next(each for each in verdicts(policy, seen) if each[1] is Decision.ROLLBACK)
    assert users.known[0].mean() > 0.9 and breaks <= index < breaks + 180
    assert "in this hour" in why


@pytest.mark.soak
def test_good_releases_whose_users_come_often_keep_alpha() -> None:
    """Four hours of a hundred users, of whom a few make most of the requests."""
    policy = Policy(
        stages=(Stage(0.2, 6000), Stage(1, 0)),
        metrics=(ERRORS,),
        warm_up_seconds=0.0,
        bucket_seconds=SECONDS,
        alpha=0.05,
    )
    rng, wrong, releases = np.random.default_rng(2), 0, size(60, 20)
    for _ in range(releases):
        users = Users(rng, 0.2, rng.pareto(1.2, 100) + 0.05)
        seen = (users.bucket(6.0) for _ in range(240))
        wrong += any(decision is Decision.ROLLBACK for _, decision, _ in verdicts(policy, seen))
    may_be(wrong, releases, at_most=policy.alpha)


def gates(ratio: float, stages: int, number: int, seed: int) -> int:
    """How many of 100 releases pass the last of so many stages, of half an hour each."""
    policy = Policy(
        stages=(*(Stage(0.1 + 0.01 * stage, 600) for stage in range(stages)), Stage(1, 0)),
        metrics=(ERRORS,),
        warm_up_seconds=0.0,
        bucket_seconds=SECONDS,
    )
    rng, passed = np.random.default_rng(seed), 0
    for _ in range(100):
        users, evidence, best = Users(rng, 0.25, rng.gamma(2.0, 1.0, number)), start(policy), -math.inf
        for index in range(30 * stages):
            stage, opens = divmod(index, 30)
            if not opens:
                users.known[2][:] = False
            evidence = observe(policy, evidence, users.bucket(48.0, ratio, stage))
            if stage == stages - 1:
                best = max(best, evidence.metrics[0].log_gate(ERRORS))
        passed += best >= -math.log(policy.beta)
    return passed


def test_a_version_that_is_no_worse_passes_where_all_users_had_an_error_at_the_stage_before() -> None:
    assert gates(1.0, stages=2, number=1000, seed=3) >= 50


def test_one_that_is_worse_by_the_margin_does_not_though_all_users_have_had_an_error_in_the_end() -> None:
    """Half as many errors again, of all users: in the end each has had one, of both arms."""
    may_be(gates(1.5, stages=1, number=1000, seed=4), 100, at_most=0.05)


def test_evidence_of_an_hour_counts_by_its_part_and_is_never_lost() -> None:
    hourly = Hourly()
    for hour in range(5):
        hourly = hourly.at(hour)
        assert hourly.log_harm == pytest.approx(0) == hourly.log_flip
    proven = msgspec.structs.replace(hourly, harm=hourly.harm.add(9, 9, 0.1))
    part = math.log(1 - 1 / 30 + math.exp(proven.harm.log_e) / 30)  # of the fifth hour
    for hour in range(5, 30):
        assert proven.log_harm == pytest.approx(part) and proven.log_flip == pytest.approx(0)
        proven = proven.at(hour)
        assert proven.harm.log_e == 0

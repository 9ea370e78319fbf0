"""After its promotion a release is compared with those that are held back: does that keep its promises?"""

import math

import msgspec
import numpy as np
import pytest
from chances import may_be
from rollout_releases import ERRORS, with_policy
from soaking import size

from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import MOST_DAYS, Metric, Policy, Stage
from salver.features.releases.judge.rules import Never
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.words.errors import InvalidInput
from salver.words.releases import Bucket, Counts, ReleaseState, Traffic

SOFT = Metric("errors", "fallbacks", "soft", promotion_margin=None)
HOLDBACK = 0.05


def policy_of(metric: Metric = ERRORS, **fields: object) -> Policy:
    return with_policy(
        metrics=(metric,),
        stages=(Stage(0.25, 1), Stage(1.0, 0)),
        traffic=Traffic(holdback=HOLDBACK),
        **fields,
    )


def promoted(policy: Policy, ratio: float, number: int = 200, events: float = 100) -> list[Verdict]:
    """Verdicts of buckets in which the control is those held back; expected counts."""
    evidence, verdicts, share = start(policy), [], 1 - HOLDBACK
    for at in range(number):
        bucket = Bucket(
            start=600.0 * at,
            seconds=600.0,
            stage=1,
            share=share,
            requests=Counts(9500, 500),
            exposures=Counts(1900, 100),
            events={"errors": Counts(round(events * share * ratio), round(events * HOLDBACK))},
        )
        evidence, verdict = judge(policy, evidence, bucket, ReleaseState.PROMOTED)
        verdicts.append(verdict)
        if verdict.decision is Decision.ROLLBACK:
            break
    return verdicts


@pytest.mark.parametrize(
    ("metric", "after", "decision"),
    [
        (ERRORS, "by_severity", Decision.ROLLBACK),
        (ERRORS, "rollback", Decision.ROLLBACK),
        (ERRORS, "wait", Decision.HOLD),
        (SOFT, "by_severity", Decision.HOLD),
        (SOFT, "rollback", Decision.ROLLBACK),
        (SOFT, "wait", Decision.HOLD),
    ],
)
def test_proven_harm_is_taken_back_or_told_to_a_person_as_the_policy_says(
    metric: Metric, after: str, decision: Decision
) -> None:
    *_, verdict = promoted(policy_of(metric, after_promotion=after), 3.0)
    assert verdict.decision is decision
    assert verdict.reasons[0].startswith("errors: the canary has 3.00 times its control's rate")
    assert (verdict.cause == "person") == (decision is Decision.HOLD)
    assert verdict.held_since is None  # no deadline runs


def test_one_that_is_as_good_goes_on_and_nobody_is_missed() -> None:
    """The arms are as they should be, and too few outcomes or requests hold nobody any more."""
    verdicts = promoted(policy_of(), 1.0)
    assert {verdict.decision for verdict in verdicts} == {Decision.CONTINUE}
    assert verdicts[-1].split_log_e < 0
    silent = promoted(policy_of(), 1.0, events=0, number=20)
    assert silent[-1].reasons == ("it is promoted",)


def test_what_must_never_happen_is_severe_then_too() -> None:
    policy = policy_of(SOFT, rules=(Never("leak"),))
    bucket = Bucket(0.0, 600.0, 1, 1 - HOLDBACK, Counts(10, 1), raw={"leak": Counts(canary=1)})
    _, verdict = judge(policy, start(policy), bucket, ReleaseState.PROMOTED)
    assert verdict.decision is Decision.ROLLBACK


def test_what_is_severe_rolls_back_though_a_soft_metric_proves_more() -> None:
    """And though a person has been told of that before."""
    soft = Metric("fallbacks", "fallbacks", "soft", promotion_margin=None)
    policy = msgspec.structs.replace(policy_of(rules=(Never("leak"),)), metrics=(ERRORS, soft))
    evidence, decisions = start(policy), []
    for at in range(40):
        counts = {"fallbacks": Counts(300, 2), "errors": Counts(40 * (at >= 20))}
        bucket = Bucket(600.0 * at, 600.0, 1, 1 - HOLDBACK, Counts(9500, 500), Counts(1900, 100), counts)
        evidence, verdict = judge(policy, evidence, bucket, ReleaseState.PROMOTED)
        decisions.append(verdict.decision)
        if at == 19:
            leak = msgspec.structs.replace(bucket, start=bucket.start + 1, raw={"leak": Counts(canary=1)})
            assert judge(policy, evidence, leak, ReleaseState.PROMOTED)[1].decision is Decision.ROLLBACK
        if verdict.decision is Decision.ROLLBACK:
            break
    assert decisions[19] is Decision.HOLD and decisions[-1] is Decision.ROLLBACK
    assert verdict.reasons[0].startswith("errors: the canary has")


def test_few_who_are_held_back_are_not_missed_at_the_last_stage() -> None:
    policy, evidence = policy_of(), None
    for at in range(20):
        bucket = Bucket(10.0 * at, 10.0, 1, 1 - HOLDBACK, Counts(canary=5), events={"errors": Counts()})
        evidence, verdict = judge(policy, evidence or start(policy), bucket, ReleaseState.RUNNING)
    assert verdict.decision is Decision.PROMOTE


# By units


def failures(rng: np.random.Generator, ratio: float, users: int = 20_000) -> list[tuple[Counts, Counts]]:
    """First visits and first failures, by arm, before a promotion and in 40 stretches of time after it.

    Users are as active as they please (lognormal), one in ten fails often, and who was met before counts no
    more; all are of the canary then but those held back, who were of the control from the start.
    """
    active = np.exp(rng.normal(0, 1.5, users))
    failing = 0.002 * np.exp(rng.normal(0, 1, users)) * np.where(rng.random(users) < 0.1, 20, 1)
    held, early = rng.random(users) < HOLDBACK, rng.random(users) < 0.25
    met, failed = np.zeros(users, bool), np.zeros(users, bool)
    found = []
    for step in range(50):
        canary = ~held if step >= 10 else ~held & early
        visits = rng.poisson(active)
        faults = rng.binomial(visits, np.minimum(failing * np.where(canary, ratio, 1.0), 1.0)) > 0
        new, first = (visits > 0) & ~met, faults & ~failed
        met, failed = met | new, failed | first
        counts = [Counts(int((some & canary).sum()), int((some & ~canary).sum())) for some in (new, first)]
        if step >= 10:
            found.append((counts[0], counts[1]))
    return found


def is_found(rng: np.random.Generator, ratio: float) -> bool:
    policy = policy_of(msgspec.structs.replace(ERRORS, share=1.0))
    evidence = start(policy)
    for at, (new, first) in enumerate(failures(rng, ratio)):
        bucket = Bucket(600.0 * at, 600.0, 1, 1 - HOLDBACK, new, new, {"errors": first})
        evidence, verdict = judge(policy, evidence, bucket, ReleaseState.PROMOTED)
        assert verdict.split_log_e < math.log(1000)
        if verdict.decision is Decision.ROLLBACK:
            return True
    return False


@pytest.mark.soak
def test_a_good_release_is_not_taken_back_whoever_comes_often() -> None:
    rng, releases = np.random.default_rng(61), size(60, 30)
    may_be(sum(is_found(rng, 1.0) for _ in range(releases)), releases, at_most=0.01)


def test_harm_that_shows_after_the_promotion_is_found() -> None:
    rng = np.random.default_rng(62)
    may_be(sum(is_found(rng, 3.0) for _ in range(20)), 20, at_least=0.95)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"traffic": Traffic(holdback=1.0)}, "all units are held back"),
        ({"stages": (Stage(0.51, 1),), "traffic": Traffic(holdback=0.05)}, "beside which no baseline"),
        ({"watch_days": MOST_DAYS + 1}, "watch_days is 31"),
        ({"watch_days": -1.0}, "watch_days is -1"),
    ],
)
def test_a_watch_that_cannot_be_is_refused(fields: dict[str, object], words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        with_policy(**fields)


def test_stages_beside_half_are_as_they_were() -> None:
    for weight in (0.5, 0.53, 1.0):
        assert with_policy(stages=(Stage(weight, 1),), traffic=Traffic(holdback=0.05))

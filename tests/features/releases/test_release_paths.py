"""Do the judge on arrays and the judge of the server say the same, and does it keep its promises?"""

import math

import numpy as np
import pytest
from chances import may_be
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_paths import Arms, Paths, Schedule, paths
from soaking import size

from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.verdict import Decision
from salver.words.errors import InvalidInput
from salver.words.releases import Bucket, Counts, ReleaseState


def simulated(
    rng: np.random.Generator, schedule: Schedule, releases: int, per_bucket: float, ratio: float = 1.0
) -> Arms:
    """Poisson counts by arm."""
    share = schedule.shares
    size = (releases, len(share))
    baseline = np.minimum(share, 1 - share)
    return Arms(
        rng.poisson(per_bucket * share * ratio, size),
        rng.poisson(per_bucket * baseline, size),
        rng.poisson(per_bucket * (1 - share - baseline), size),
    )


def schedule_of(policy: Policy, buckets: int) -> Schedule:
    """As many buckets at each stage."""
    weights = np.array([stage.weight for stage in policy.stages])
    return Schedule(np.repeat(np.arange(len(weights)), buckets), np.repeat(weights, buckets))


def row(arms: Arms, release: int, bucket: int) -> Counts:
    return Counts(*(int(arm[release, bucket]) for arm in arms))


METRICS = (
    Metric("errors", "errors", "severe", negligible=0.002),
    Metric("fallbacks", "fallbacks", "soft", rollback_margin=0.1),
    Metric("slow", "latency", "soft", rollback_margin=0.25, quantile=0.99, share=0.3),
    Metric("breaches", "rule", "severe", promotion_margin=None, share=0.1),
)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    weights=st.lists(st.floats(0.01, 0.95), min_size=1, max_size=3, unique=True),
    per_bucket=st.sampled_from([0.3, 5.0, 200.0]),
    warm_up=st.sampled_from([0.0, 25.0]),
    seconds=st.sampled_from([10.0, 900.0]),
    alone=st.booleans(),
)
def test_arrays_say_what_the_judge_says(
    seed: int, weights: list[float], per_bucket: float, warm_up: float, seconds: float, alone: bool
) -> None:
    stages = tuple(Stage(weight, 1, margin_times=2) for weight in sorted(weights)) + (Stage(1.0, 0),) * alone
    policy = Policy(stages=stages, metrics=METRICS, warm_up_seconds=warm_up, bucket_seconds=seconds)
    rng, schedule = np.random.default_rng(seed), schedule_of(policy, 7)
    requests = simulated(rng, schedule, 2, 50 * per_bucket)
    events = {
        "errors": simulated(rng, schedule, 2, per_bucket, 1.3),
        "fallbacks": simulated(rng, schedule, 2, per_bucket),
        "slow": simulated(rng, schedule, 2, per_bucket, 2.0),
    }
    found = paths(policy, schedule, requests, events)
    for release in range(2):
        evidence = start(policy)
        for index, (stage, share) in enumerate(zip(schedule.stages, schedule.shares, strict=True)):
            bucket = Bucket(
                start=seconds * index,
                seconds=seconds,
                stage=int(stage),
                share=float(share),
                requests=row(requests, release, index),
                events={name: row(arms, release, index) for name, arms in events.items()},
                raw={"slow": row(events["slow"], release, index)},
            )
            evidence, verdict = judge(policy, evidence, bucket, ReleaseState.RUNNING)
            if verdict.decision is Decision.ROLLBACK:
                assert found.rollbacks(policy)[release] == index
                break
            assert verdict.log_e == pytest.approx(found.log_e[release, index], rel=1e-9, abs=1e-9)
            for metric in verdict.metrics:
                there = found.metrics[metric.name]
                for value, path in (
                    (metric.log_e, there.log_e),
                    (metric.log_harm, there.log_harm),
                    (metric.log_flip, there.log_flip),
                    (metric.log_gate, there.log_gate),
                ):
                    assert value == pytest.approx(path[release, index], rel=1e-9, abs=1e-9), metric.name
        else:
            assert found.rollbacks(policy)[release] == -1


def test_what_is_not_simulated_is_refused() -> None:
    policy = Policy(metrics=(Metric("score", "output", "soft"),))
    schedule = schedule_of(policy, 2)
    with pytest.raises(InvalidInput, match="'score' are not simulated"):
        paths(policy, schedule, Arms(*(np.zeros((1, 8), int),) * 3), {})


def looked_at_each_second(releases: int, hours: float, ratio: float, seed: int) -> tuple[Policy, Paths]:
    """The default policy's metrics at the default stages, on 100 requests a second, a bucket a second."""
    policy = Policy(
        stages=(Stage(0.01, 1), Stage(0.05, 1), Stage(0.25, 1)), bucket_seconds=1.0, warm_up_seconds=0.0
    )
    schedule = schedule_of(policy, round(3600 * hours / 3))
    rng = np.random.default_rng(seed)
    none = np.zeros((releases, len(schedule.shares)), np.int64)
    events = {
        metric.name: simulated(rng, schedule, releases, 100 * rate, ratio if metric.name == "errors" else 1.0)
        for metric, rate in zip(policy.metrics, (0.005, 0.001, 0.002, 0.01, 0.01, 0.02, 0.001), strict=True)
    }
    return policy, paths(policy, schedule, Arms(none, none, none), events)


@pytest.mark.soak
def test_good_releases_looked_at_each_second_keep_alpha() -> None:
    """All seven metrics, three stages, every second a look: alpha is what one look may spend."""
    rolled_back, parts = 0, size(10, 2)
    for part in range(parts):
        policy, found = looked_at_each_second(100, 0.5, 1.0, seed=100 + part)
        rolled_back += int((found.rollbacks(policy) >= 0).sum())
    may_be(rolled_back, 100 * parts, at_most=policy.alpha)


def test_the_same_looks_find_a_bad_one() -> None:
    policy, found = looked_at_each_second(50, 0.5, 10.0, seed=7)
    at = found.rollbacks(policy)
    assert (at >= 0).all()
    assert np.median(at) < 180  # three minutes into the first stage


@pytest.mark.parametrize(("share", "margin"), [(0.05, 0.5), (0.05, 1.0), (0.25, 0.2)])
def test_harm_at_the_margin_seldom_passes_a_gate_and_no_harm_does(share: float, margin: float) -> None:
    policy = Policy(
        stages=(Stage(share, 1),),
        metrics=(Metric("errors", "errors", "severe", promotion_margin=margin),),
        warm_up_seconds=0.0,
    )
    schedule, rng = schedule_of(policy, 400), np.random.default_rng(8)
    none = np.zeros((500, 400), np.int64)
    for ratio, claim in ((1 + margin, {"at_most": policy.beta}), (1.0, {"at_least": 0.99})):
        events = {"errors": simulated(rng, schedule, 500, 80, ratio)}
        gate = paths(policy, schedule, Arms(none, none, none), events).metrics["errors"].log_gate
        passed = (gate.max(axis=1) >= math.log(1 / policy.beta)).sum()
        may_be(int(passed), 500, **claim)


def test_bursts_in_single_arms_roll_no_good_release_back() -> None:
    """Gamma rates, CV 2 by ten seconds and arm: raw evidence rolls 70 % of these back."""
    policy = Policy(stages=(Stage(0.01, 1), Stage(0.05, 1), Stage(0.25, 1)), metrics=METRICS[:1])
    schedule, rng = schedule_of(policy, 120), np.random.default_rng(9)
    size = (500, len(schedule.shares))
    rates = 50 * rng.gamma(0.25, 4.0, (3, *size))
    shares = schedule.shares
    events = Arms(
        *(
            rng.poisson(rate * part)
            for rate, part in zip(rates, (shares, shares, 1 - 2 * shares), strict=True)
        )
    )
    none = np.zeros(size, np.int64)
    found = paths(policy, schedule, Arms(none, none, none), {"errors": events})
    may_be(int((found.rollbacks(policy) >= 0).sum()), 500, at_most=policy.alpha)


@pytest.mark.parametrize(
    ("share", "ratio", "claim"),
    [
        (0.6, 1.0, {"at_most": 0.01}),
        (0.9, 1.0, {"at_most": 0.01}),
        (0.6, 2.0, {"at_least": 0.99}),
        (0.9, 2.0, {"at_least": 0.99}),
    ],
)
def test_a_soft_metric_is_judged_where_the_canary_has_more_than_half(
    share: float, ratio: float, claim: dict[str, float]
) -> None:
    """An hour, 100 requests a second, 1 % of them fallbacks; both opinions have to agree."""
    metric = Metric("fallbacks", "fallbacks", "soft")
    policy = Policy(stages=(Stage(share, 60),), metrics=(metric,))
    schedule, rng = schedule_of(policy, 360), np.random.default_rng(11)
    none = np.zeros((400, 360), np.int64)
    events = {"fallbacks": simulated(rng, schedule, 400, 10, ratio)}
    found = paths(policy, schedule, Arms(none, none, none), events)
    may_be(int((found.rollbacks(policy) >= 0).sum()), 400, **claim)

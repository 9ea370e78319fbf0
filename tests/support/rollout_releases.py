"""Releases for the tests: buckets with counts near what rates promise, judged one after the other."""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from salver.features.releases.judge.evidence import Evidence, start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.rules import Facts
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.words.releases import Bucket, Counts, ReleaseState

ERRORS = Metric("errors", "errors", "severe", negligible=0.001)
SLOW = Metric("slow", "latency", "soft", quantile=0.99)
#: Short stages, no warm-up: a test's patience.
POLICY = Policy(
    stages=(Stage(0.1, 1, sample=32_000), Stage(0.5, 1, sample=160_000), Stage(1.0, 0)),
    metrics=(ERRORS, SLOW),
    warm_up_seconds=0.0,
    hold_minutes=5.0,
    no_data_seconds=60.0,
)


def counts(total: float, share: float, ratio: float = 1.0) -> Counts:
    """As expected, rounded, without chance."""
    baseline = min(share, 1 - share)
    parts = (total * share * ratio, total * baseline, total * (1 - share - baseline))
    return Counts(*(round(part) for part in parts))


def buckets(
    policy: Policy = POLICY,
    *,
    stage: int = 0,
    number: int = 10,
    begin: float = 0.0,
    requests: float = 2000,
    events: Mapping[str, float] | None = None,
    ratios: Mapping[str, float] | None = None,
) -> Iterator[Bucket]:
    """Of one stage, each alike; what has no events is counted as well, since missing is not zero."""
    share = policy.stages[stage].weight
    events = {"errors": 100, "slow": 200} if events is None else events
    events = {metric.name: 0.0 for metric in policy.metrics if metric.is_counted} | dict(events)
    for index in range(number):
        yield Bucket(
            start=begin + index * policy.bucket_seconds,
            seconds=policy.bucket_seconds,
            stage=stage,
            share=share,
            requests=counts(requests, share),
            exposures=counts(requests, share),
            events={
                name: counts(total, share, (ratios or {}).get(name, 1.0)) for name, total in events.items()
            },
        )


def judged(
    seen: Iterable[Bucket],
    policy: Policy = POLICY,
    *,
    evidence: Evidence | None = None,
    state: ReleaseState = ReleaseState.RUNNING,
    facts: Facts = Facts(),  # noqa: B008 - frozen
    until: Callable[[Verdict], bool] = lambda verdict: verdict.decision is Decision.ROLLBACK,
) -> tuple[Evidence, list[Verdict]]:
    """The verdicts up to one that ends it, and the evidence after that."""
    evidence, verdicts = evidence or start(policy), []
    for bucket in seen:
        evidence, verdict = judge(policy, evidence, bucket, state, facts)
        verdicts.append(verdict)
        if until(verdict):
            break
    return evidence, verdicts


def with_policy(**changes: object) -> Policy:
    return msgspec.structs.replace(POLICY, **changes)

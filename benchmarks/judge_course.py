"""Course of a simulated release by the product's own judge, whose pauses take the traffic away."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from judge_worlds import SECONDS, Plan, Release, around_median, interval

from salver.features.releases.experiments.windows import WindowPart, _of_server
from salver.features.releases.judge.evidence import start
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.outage import Outages
from salver.features.releases.judge.policy import Policy
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.words.releases import Bucket, Counts, ReleaseState, ServerPart

#: The metrics of one release, in the order of the policy's.
Metrics = Sequence[Release]


class Course:
    """What became of a release.

    Attributes:
        rolled_back: Bucket of the rollback; -1 = none.
        promoted: Bucket of the promotion by evidence; -1 = none.
        pauses: Buckets of pauses.
        is_off: It is paused at the end.
        hurt: Failed requests to the canary, by the first metric.
        causes: Why it was held.
    """

    def __init__(self) -> None:
        self.rolled_back = self.promoted = -1
        self.pauses: list[int] = []
        self.is_off = False
        self.hurt = 0
        self.causes: set[str] = set()


def followed(metrics: Metrics, rules: Policy, again: Callable[[Plan], Metrics] | None = None) -> Course:
    """Judge a release bucket by bucket.

    Args:
        again: Simulates the same release by another plan; None = stages do not end by evidence.
    """
    course, evidence, counted = Course(), start(rules), _Counted(metrics, rules)
    since, on_at, stage = 0, 0, 0
    off: list[int] = []
    for index in range(metrics[0].buckets):
        if counted.stages[index] != stage:
            stage, since = counted.stages[index], index
        if index < on_at:
            since = index + 1
            continue
        evidence, verdict = judge(rules, evidence, counted.bucket(index, since), ReleaseState.RUNNING)
        course.hurt += int(counted.metrics[0].raw[index, 0])
        if verdict.cause:
            course.causes.add(verdict.cause)
        if verdict.decision is Decision.ROLLBACK:
            course.rolled_back = index
        if verdict.decision is Decision.PAUSE:
            course.pauses.append(index)
            on_at = index + 1 + round(verdict.pause_seconds / SECONDS)
            off += range(index + 1, on_at)
            course.is_off = on_at == index + 1
            counted.count(off)
        if again is not None and verdict.decision is Decision.PROMOTE:
            if stage + 1 == len(rules.stages):
                course.promoted = index
            else:
                plan = _promoted(counted.metrics[0].plan, verdict, index)
                counted = _Counted(again(plan), rules)
                counted.count(off)
        if course.is_off or max(course.rolled_back, course.promoted) >= 0:
            break
    return course


def by_evidence(plan: Plan) -> Plan:
    """Return a plan whose first stage ends by evidence, or never."""
    return plan._replace(begins=(0,) + (plan.size,) * (len(plan.shares) - 1))


def _promoted(plan: Plan, verdict: Verdict, index: int) -> Plan:
    after = verdict.stage + 1
    begins = (*plan.begins[:after], index + 1, *plan.begins[after + 1 :])
    return plan._replace(begins=begins)


def is_struck(release: Release) -> bool:
    """Return whether the canary may be paused at all."""
    if release.world.servers > 1:
        return any(map(release.has_window, release.may_pause().tolist()))
    for index in release.may_pause().tolist():
        since = int(np.searchsorted(release.stages, release.stages[index]))
        if index - since + 1 >= 4 and Outages()._is_outage(release.lately(index, since)):
            return True
    return False


def told(at: list[int], onset: int = 0) -> dict[str, Any]:
    """Return how many were rolled back, and after which minutes (50, 80, 90 % of all).

    With 95 % intervals: of the fraction, and of the median, by order statistics.
    """
    found = [index for index in at if index >= 0]
    low, high = interval(len(found), len(at))
    minutes = sorted((index + 1 - onset) / 6 if index >= 0 else math.inf for index in at)
    quantiles = [
        minutes[min(len(minutes) - 1, math.ceil(part * len(minutes)) - 1)] for part in (0.5, 0.8, 0.9)
    ]
    return {
        "found": len(found),
        "low": low,
        "high": high,
        "median_within": [None if math.isinf(each) else round(each, 1) for each in around_median(minutes)],
        "minutes": [None if math.isinf(each) else round(each, 1) for each in quantiles],
    }


class _Counted:
    """Counts of a release by one plan."""

    def __init__(self, metrics: Metrics, rules: Policy) -> None:
        plan, self.metrics = metrics[0].plan, metrics
        self.stages, self.shares = plan.schedule.stages.tolist(), plan.schedule.shares.tolist()
        self._met, self._exposed = metrics[0].met()
        self._by_name = {one.name: each for one, each in zip(rules.metrics, metrics, strict=True)}
        severe = [one.name for one in rules.metrics if one.severity == "severe"]
        self._suspect = {name: set(self._by_name[name].may_pause().tolist()) for name in severe}
        self.count()

    def count(self, off: Sequence[int] = ()) -> None:
        """Count first events, without those of buckets in which the canary has no traffic."""
        self._firsts = {name: each.firsts(off) for name, each in self._by_name.items()}

    def bucket(self, index: int, since: int) -> Bucket:
        """Return what is counted of a bucket; the last few ones begin with ``since``."""
        release = self.metrics[0]
        told: dict[str, Any] = {}
        if index not in release.plan.missing:
            told = {
                "events": {
                    name: _counts(events[:, index].sum(axis=0)) for name, (events, _) in self._firsts.items()
                },
                "raw": {name: _counts(one.raw[index]) for name, one in self._by_name.items()},
                "blocks": {
                    name: tuple(_counts(place) for place in places[:, index].sum(axis=0))
                    for name, (_, places) in self._firsts.items()
                },
                "lately": {
                    name: self._by_name[name].lately(index, since)
                    for name, suspect in self._suspect.items()
                    if index in suspect
                },
            }
        return Bucket(
            start=index * SECONDS,
            seconds=SECONDS,
            stage=self.stages[index],
            share=self.shares[index],
            requests=_counts(release.requests[index]),
            exposures=_counts(self._exposed[index]),
            met=_counts(self._met[index]),
            parts=self._parts(index),
            **told,
        )

    def _parts(self, index: int) -> tuple[ServerPart, ...]:
        """Return what each of several servers counted, as the product merges it."""
        found = []
        for server in range(self.metrics[0].world.servers):
            raw = {name: _counts(one.of_servers[server][1][index]) for name, one in self._by_name.items()}
            first = {name: _counts(events[server, index]) for name, (events, _) in self._firsts.items()}
            blocks = {
                name: tuple(_counts(place) for place in places[server, index])
                for name, (_, places) in self._firsts.items()
            }
            requests = _counts(self.metrics[0].of_servers[server][0][index])
            found.append(
                Bucket(index * SECONDS, SECONDS, 0, 0.0, requests, events=first, raw=raw, blocks=blocks)
            )
        return parts_of(found)


def parts_of(buckets: Sequence[Bucket]) -> tuple[ServerPart, ...]:
    """Return what each of several servers counted in a bucket, as the product merges it."""
    if len(buckets) == 1:
        return ()
    parts = [WindowPart(str(server), 0, bucket) for server, bucket in enumerate(buckets)]
    return tuple(_of_server(part, part.bucket.raw) for part in parts)


def _counts(row: Any) -> Counts:
    return Counts(*(int(count) for count in row))

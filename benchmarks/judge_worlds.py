"""Simulated releases with the server's processes, users and faults, for the judge of releases.

A release lasts three hours, an hour each at 1, 5 and 25 %, in buckets of ten seconds; 0.5 % of requests fail.
The canary has processes of its own; baseline and stable version share theirs, as in the server. Arms are
assigned at random to units. All of it depends on the seed only.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from judge_twin import Scene, Schedule

from salver.words.releases import (
    BLOCK_BUCKETS,
    ENOUGH_RECENT,
    MOST_BLOCKS,
    MOST_RECENT_BUCKETS,
    RECENT_BUCKETS,
    Counts,
    RecentRequests,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

SECONDS = 10.0
BASE = 0.005
HOUR = 360  # buckets


class World(NamedTuple):
    """Settings of a simulated world.

    Attributes:
        users: Number of units; 0 = 200 for each request per second.
        proneness: Distribution of the units' error rates: ``equal``, ``lognormal``, ``few`` (5 % have 90 %).
        activity: Distribution of their requests: ``equal``, or ``whales`` (Pareto 1.2).
        retries: Probability that a failed request is repeated, and fails again.
        hiccups: Buckets between hiccups of a process, their length, and the fraction of requests that fail.
        often: Factor of the canary's number of hiccups.
        processes: Number of processes of the control.
        bursts: Squared coefficient of variation of each process's error rate by bucket.
        rates: Error rate over time: ``constant``, ``day`` (± 80 %), or ``outage`` (ten times for a quarter of
            an hour, in all arms).
        late: Buckets by which counts may arrive late.
        missing: Buckets between stretches without counts, and their mean length.
        ahead: Buckets by which the clocks of half of the servers are ahead.
        bias: Factor of the canary's true share over the one that the judge assumes.
        base: Error rate of users, or of bursts.
        ratio: Factor of the canary's error rate.
        onset: First bucket with that factor.
        corner: Fraction of the canary's units that have all of the harm; 1 = all.
    """

    users: int = 0
    proneness: str = "equal"
    activity: str = "equal"
    retries: float = 0.0
    hiccups: tuple[float, int, float] | None = None
    often: float = 1.0
    processes: int = 1
    bursts: float = 0.0
    rates: str = "constant"
    late: int = 0
    missing: tuple[float, float] | None = None
    ahead: int = 0
    bias: float = 1.0
    base: float = BASE
    ratio: float = 1.0
    onset: int = 0
    corner: float = 1.0


#: Worlds in which good releases are judged.
WORLDS: dict[str, World] = {
    "independent users": World(),
    "300 frequent users": World(users=300),
    "whales (activity Pareto 1.2)": World(activity="whales"),
    "error-proneness lognormal 2": World(proneness="lognormal"),
    "5 % of users have 90 % of errors": World(proneness="few"),
    "retry storms": World(retries=0.8),
    "5 % of users, retry storms": World(proneness="few", retries=0.8),
    "day and night ± 80 %": World(rates="day"),
    "outage of all arms, × 10": World(rates="outage"),
    "hiccups, half fail 30 s each 40 min": World(hiccups=(240, 3, 0.5)),
    "restarts, all fail 10 s each 30 min": World(hiccups=(180, 1, 1.0)),
    "one canary process, twenty stable, hiccups": World(hiccups=(240, 3, 0.5), processes=20),
    "bursts by process, CV 2": World(bursts=4.0),
    "counts up to 20 s late": World(late=2),
    "counts missing for 2 min each 20 min": World(missing=(120, 12)),
    "clocks of half of the servers 30 s ahead": World(ahead=3),
    "hiccups, day and night, few prone users": World(hiccups=(240, 3, 0.5), rates="day", proneness="few"),
    "hiccups, all fail 40 s each 40 min": World(hiccups=(240, 4, 1.0)),
}


class Plan(NamedTuple):
    """Stages of a release, with the canary's share of each and their length in buckets.

    Attributes:
        missing: Buckets without counts of errors.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.25)
    length: int = HOUR
    missing: frozenset[int] = frozenset()

    @property
    def schedule(self) -> Schedule:
        numbers = np.repeat(np.arange(len(self.shares)), self.length)
        return Schedule(numbers, np.repeat(self.shares, self.length).astype(np.float64), self.missing)


class Release:
    """One simulated release.

    Attributes:
        bucket, unit, arm: Of each failed request, in the order of buckets.
        requests: Requests by bucket and arm.
        raw: Failed ones.
    """

    def __init__(self, rng: np.random.Generator, world: World, per_second: float, plan: Plan) -> None:
        self.rng, self.world, self.plan = rng, world, plan
        self.per_bucket = per_second * SECONDS
        self.users = world.users or round(200 * per_second)
        self.shares = plan.schedule.shares * world.bias
        self.buckets = len(self.shares)
        # With few users the arms are as near to their shares as can be.
        few = self.users < 3000
        self.position = (
            rng.permutation((np.arange(self.users) + 0.5) / self.users) if few else rng.random(self.users)
        )
        self.activity = np.ones(self.users)
        if world.activity == "whales":
            self.activity = np.minimum(rng.pareto(1.2, self.users) + 1, 1000.0)
        self.load = self._load()
        self.failing = np.zeros((self.buckets, 3))  # expected fraction of requests
        self.bucket, self.unit, self.arm = self._failures()
        share = np.stack([self.shares, self.shares, np.maximum(0, 1 - 2 * self.shares)], axis=1)
        self.raw = _count(self.bucket, self.arm, self.buckets)
        good = self.per_bucket * share * np.maximum(self.load[:, None] - self.failing, 0)
        self.requests = self.raw + rng.poisson(good)
        self._drawn: dict[int, tuple[Ints, Ints, Any]] = {}

    def arms(self, units: Ints, buckets: Ints) -> Ints:
        """Return the arms of units in buckets."""
        share, at = self.shares[buckets], self.position[units]
        return np.where(at < share, 0, np.where(at >= 1 - share, 1, 2))

    def _load(self) -> Floats:
        if self.world.rates == "day":
            phase = 2 * np.pi * self.rng.random()
            return 1 + 0.8 * np.sin(2 * np.pi * np.arange(self.buckets) / 830 + phase)
        return np.ones(self.buckets)

    def _failures(self) -> tuple[Ints, Ints, Ints]:
        world, rng, size = self.world, self.rng, self.buckets
        prone = np.ones(self.users)
        if world.proneness == "lognormal":
            prone = rng.lognormal(0, 2, self.users)
        if world.proneness == "few":
            prone = np.where(rng.random(self.users) < 0.05, 18.0, 0.1 / 0.95)
        weights = prone * self.activity
        rates = self.load.copy()
        if world.rates == "outage":
            begin = rng.integers(0, size - 90)
            rates[begin : begin + 90] = 10
        harmful = np.arange(size) >= world.onset
        found = []
        if world.bursts:
            shape = 1 / world.bursts
            canary, control = rng.gamma(shape, world.bursts, (2, size))
            worse = np.where(harmful, world.ratio, 1.0)
            found += [self._spread(world.base * rates * canary * worse, (0,))]
            found += [self._spread(world.base * rates * control, (1, 2))]
        else:
            found += [self._of_units(world.base * rates, weights, None)]
            if world.ratio > 1:
                extra = np.minimum(world.base * rates * (world.ratio - 1), 1) * harmful
                cornered = weights
                if world.corner < 1:
                    cornered = weights * (rng.random(self.users) < world.corner) / world.corner
                found += [self._of_units(extra * cornered.mean() / weights.mean(), cornered, 0)]
        if world.hiccups:
            found += [self._spread(self._hiccup(1, world.often), (0,))]
            found += [self._spread(self._hiccup(world.processes, 1.0), (1, 2))]
        bucket, unit, arm = (np.concatenate(column) for column in zip(*found, strict=True))
        if world.late or world.ahead:
            late = bucket + rng.integers(0, world.late + 1, len(bucket))
            late += world.ahead * rng.integers(0, 2, len(bucket))
            is_same = late // self.plan.length == bucket // self.plan.length
            bucket = np.where(is_same, late, bucket)
        order = np.argsort(bucket.astype(np.int16), kind="stable")  # sorted by radix
        return bucket[order], unit[order], arm[order]

    def _of_units(self, rates: Floats, weights: Floats, only: int | None) -> tuple[Ints, Ints, Ints]:
        """Draw failures of units with these weights; of all arms, or of one."""
        self.failing[:, slice(None) if only is None else only] += rates[:, None] if only is None else rates
        bucket = np.repeat(np.arange(self.buckets), self.rng.poisson(self.per_bucket * rates))
        unit = _drawn(self.rng, weights, len(bucket))
        if self.world.retries:
            times = self.rng.geometric(1 - self.world.retries, len(bucket))
            order = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
            bucket = np.minimum(np.repeat(bucket, times) + order // 3, self.buckets - 1)
            unit = np.repeat(unit, times)
        arm = self.arms(unit, bucket)
        if only is None:
            return bucket, unit, arm
        kept = arm == only
        return bucket[kept], unit[kept], arm[kept]

    def _spread(self, rates: Floats, arms: Sequence[int]) -> tuple[Ints, Ints, Ints]:
        """Draw failures of any units of these arms: their process fails at this rate."""
        self.failing[:, arms] += (self.load * rates)[:, None]
        bucket = np.repeat(np.arange(self.buckets), self.rng.poisson(self.per_bucket * self.load * rates))
        unit = _drawn(self.rng, self.activity, len(bucket))
        arm = self.arms(unit, bucket)
        kept = arm == 0 if arms == (0,) else arm > 0
        return bucket[kept], unit[kept], arm[kept]

    def _hiccup(self, processes: int, often: float) -> Floats:
        assert self.world.hiccups is not None
        every, length, part = self.world.hiccups
        rates = np.zeros(self.buckets)
        for _ in range(processes):
            for begin in np.flatnonzero(self.rng.random(self.buckets) < often / every):
                rates[begin : begin + length] += part / processes
        return np.minimum(rates, 1.0)

    # What is counted

    def met(self) -> tuple[Ints, Ints]:
        """Return units met for the first time, in the stage and in the release; shape ``(buckets, 3)``."""
        length, found, exposed = self.plan.length, [], np.zeros((self.buckets, 3), np.int64)
        rates = self.per_bucket * self.activity / self.activity.sum()
        new = np.ones(self.users, bool)
        failed = np.full((len(self.plan.shares), self.users), self.buckets)
        last_to_first = self.bucket[::-1]
        failed[last_to_first // length, self.unit[::-1]] = last_to_first  # the first one stays
        for stage in range(len(self.plan.shares)):
            at = stage * length + (self.rng.exponential(size=self.users) / rates).astype(np.int64)
            at = np.minimum(at, failed[stage])  # whoever failed was met
            units = np.flatnonzero(at < (stage + 1) * length)
            where, arms = at[units], self.arms(units, at[units])
            found.append(_count(where, arms, self.buckets))
            is_new = new[units]
            exposed += _count(where[is_new], arms[is_new], self.buckets)
            new[units] = False
        return np.sum(found, axis=0), exposed

    def firsts(self) -> tuple[Ints, Ints]:
        """Return first events of units, ``(buckets, 3)``, and by failing block, ``(buckets, places, 3)``."""
        number = len(self.unit)
        first = np.full(self.users, -1)
        first[self.unit[::-1]] = np.arange(number)[::-1]  # the first one stays
        index = first[first >= 0]
        events = _count(self.bucket[index], self.arm[index], self.buckets)
        blocks = self.buckets // BLOCK_BUCKETS + 1
        block = self.unit * blocks + self.bucket // BLOCK_BUCKETS
        block, index = np.divmod(np.sort(block * number + np.arange(number)), max(1, number))
        is_first = np.r_[True, block[1:] != block[:-1]][:number]
        block, index = block[is_first], index[is_first]
        stage = block % blocks // (self.plan.length // BLOCK_BUCKETS)
        group = block // blocks * len(self.plan.shares) + stage
        opens = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else np.zeros(0, np.int64)
        rank = np.arange(len(group)) - np.repeat(opens, np.diff(np.r_[opens, len(group)]))
        places = np.zeros((self.buckets, MOST_BLOCKS, 3), np.int64)
        np.add.at(places, (self.bucket[index], np.minimum(rank, MOST_BLOCKS - 1), self.arm[index]), 1)
        return events, places

    def answered(self, bucket: int) -> tuple[Ints, Ints, Any]:
        """Return units, arms and failures of a bucket's requests; those that did not fail are drawn now."""
        if bucket not in self._drawn:
            first, last = np.searchsorted(self.bucket, [bucket, bucket + 1])
            units, arms = [self.unit[first:last]], [self.arm[first:last]]
            everybody = np.arange(self.users)
            their = self.arms(everybody, np.full(self.users, bucket))
            for arm in range(3):
                number = int(self.requests[bucket, arm] - self.raw[bucket, arm])
                inside = everybody[their == arm]
                if number and len(inside):
                    units.append(inside[_drawn(self.rng, self.activity[inside], number)])
                    arms.append(np.full(number, arm))
            joined = np.concatenate(units)
            has_failed = np.arange(len(joined)) < last - first
            self._drawn[bucket] = joined, np.concatenate(arms), has_failed
        return self._drawn[bucket]

    def lately(self, bucket: int, since: int) -> RecentRequests:
        """Return what the collector tells of the last buckets, from ``since`` on at the earliest."""
        window = range(self.window(bucket, since), bucket + 1)
        drawn = [self.answered(each) for each in window]
        units, arms, failed = (np.concatenate(column) for column in zip(*drawn, strict=True))
        requests, failures = _arms(arms), _arms(arms[failed])
        _, index, inverse = np.unique(units, return_index=True, return_inverse=True)
        asked, bad = np.bincount(inverse), np.bincount(inverse, failed)
        their = arms[index]
        return RecentRequests(
            requests=requests,
            failures=failures,
            units=_arms(their),
            failing=_arms(their[(bad > 0) & (bad >= 0.75 * asked)]),
            buckets=len(window),
            failed_buckets=sum(bool(self.raw[each, 0]) for each in window),
        )

    def window(self, bucket: int, since: int) -> int:
        """Return the first bucket of the window that ends with a bucket."""
        first = max(since, bucket - RECENT_BUCKETS + 1)
        while (
            first > max(since, bucket - MOST_RECENT_BUCKETS + 1)
            and self.requests[first : bucket + 1, 0].sum() < ENOUGH_RECENT
        ):
            first -= 1
        return first

    def may_pause(self) -> Ints:
        """Return the buckets at which most of the canary's recent requests failed."""
        asked, failed = (np.r_[0, np.cumsum(counts[:, 0])] for counts in (self.requests, self.raw))
        end, found = np.arange(1, self.buckets + 1), np.zeros(self.buckets, bool)
        for length in range(1, MOST_RECENT_BUCKETS + 1):
            begin = np.maximum(end - length, 0)
            found |= failed[end] - failed[begin] >= np.maximum(
                0.75 * (asked[end] - asked[begin]), 0.75 * ENOUGH_RECENT
            )
        return np.flatnonzero(found)


def scene(releases: Sequence[Release]) -> Scene:
    """Return the counts of releases, stacked."""
    met = [release.met()[0] for release in releases]
    firsts = [release.firsts() for release in releases]
    return Scene(
        requests=np.stack([release.requests for release in releases]),
        met=np.stack(met),
        events=np.stack([events for events, _ in firsts]),
        raw=np.stack([release.raw for release in releases]),
        places=np.stack([places for _, places in firsts]),
    )


def _drawn(rng: np.random.Generator, weights: Floats, number: int) -> Ints:
    """Draw places with these weights."""
    drawn = rng.random(number)
    if (weights == weights[0]).all():
        return (drawn * len(weights)).astype(np.int64)
    cumulated = np.cumsum(weights)
    return np.searchsorted(cumulated / cumulated[-1], drawn)


def _count(buckets: Ints, arms: Ints, size: int) -> Ints:
    return np.bincount(buckets * 3 + arms, minlength=3 * size).reshape(size, 3)


def _arms(arms: Ints) -> Counts:
    return Counts(*np.bincount(arms, minlength=3).tolist())


def around_median(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of a median, by order statistics; what was never found is infinite."""
    from scipy.stats import binom

    ordered = sorted(values)
    rank = max(1, int(binom.ppf(0.025, len(ordered), 0.5)))
    return ordered[rank - 1], ordered[len(ordered) - rank]


def interval(found: int, number: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a fraction (Clopper and Pearson)."""
    from scipy.stats import beta

    tail = (1 - confidence) / 2
    low = 0.0 if not found else float(beta.ppf(tail, found, number - found + 1))
    high = 1.0 if found == number else float(beta.ppf(1 - tail, found + 1, number - found))
    return low, high if not math.isnan(high) else 1.0

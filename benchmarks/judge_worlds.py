"""Simulated releases with the server's processes, users and faults, for the judge of releases.

A release lasts three hours, in buckets of ten seconds, an hour each at 1, 5 and 25 % unless its stages end by
evidence; 0.5 % of requests fail. The canary has processes of its own; baseline and stable version share
theirs, as in the server. Of several servers of one ledger, each has such processes. Arms are assigned at
random to units. All of it depends on the seed only.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from judge_twin import Scene, Schedule, ServerScene

from salver.features.releases.experiments.windows import _together
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
        servers: Number of servers, each with a process of the canary and one of the control.
        deaths: Buckets between the deaths of servers, whose counts of that bucket are lost; 0 = none.
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
    servers: int = 1
    deaths: float = 0.0
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
    "four servers, half fail 30 s each 40 min": World(hiccups=(240, 3, 0.5), servers=4),
    "four servers, all fail 40 s each 40 min": World(hiccups=(240, 4, 1.0), servers=4),
    "four servers, bursts by process, CV 2": World(bursts=4.0, servers=4),
    "four servers, late, one killed each 40 min": World(servers=4, late=2, deaths=240),
    "twenty servers, half fail 30 s each 40 min": World(hiccups=(240, 3, 0.5), servers=20),
}

#: Metrics of the default policy: what differs of each from the world in which they are together.
SEVEN: dict[str, dict[str, Any]] = {
    "errors": {"part": 0.5},
    "timeouts": {"base": 0.0005, "part": 0.3},
    "invalid": {"base": 0.0002, "proneness": "few"},
    "fallbacks": {"base": 0.002, "part": 0.2},
    "latency_p99": {"base": 0.01, "bursts": 1.0, "part": 0.4},
    "rejected": {"base": 0.01, "proneness": "few"},
    "refused": {"base": 0.001, "bursts": 4.0},
}


class Plan(NamedTuple):
    """Stages of a release, with the canary's share of each and their length in buckets.

    Attributes:
        missing: Buckets without counts of errors.
        begins: First bucket of each stage that ends by evidence; empty = each has its length.
    """

    shares: tuple[float, ...] = (0.01, 0.05, 0.25)
    length: int = HOUR
    missing: frozenset[int] = frozenset()
    begins: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """Return the number of buckets."""
        return len(self.shares) * self.length

    @property
    def bounds(self) -> list[tuple[int, int]]:
        """Return the first bucket of each stage, and the one after its last."""
        begins = self.begins or tuple(stage * self.length for stage in range(len(self.shares)))
        return list(zip(begins, (*begins[1:], self.size), strict=True))

    @property
    def schedule(self) -> Schedule:
        lengths = [end - begin for begin, end in self.bounds]
        numbers = np.repeat(np.arange(len(self.shares)), lengths)
        return Schedule(numbers, np.repeat(self.shares, lengths).astype(np.float64), self.missing)


class Release:
    """One simulated release, and one metric of it.

    Args:
        beside: Another metric of the release, with the same units, processes and requests.

    Attributes:
        bucket, unit, arm, server: Of each failed request, in the order of buckets.
        requests: Requests by bucket and arm.
        raw: Failed ones.
    """

    def __init__(
        self,
        rng: np.random.Generator,
        world: World,
        per_second: float,
        plan: Plan,
        beside: "Release | None" = None,
    ) -> None:
        self.rng, self.world, self.plan = rng, world, plan
        self.per_bucket = per_second * SECONDS
        self.users = world.users or round(200 * per_second)
        schedule = plan.schedule
        self.stages, self.shares = schedule.stages, schedule.shares * world.bias
        self.buckets = plan.size
        self.hiccups: list[list[int]] = [] if beside is None else list(beside.hiccups)
        self.is_beside = beside is not None
        if beside is None:
            # With few users the arms are as near to their shares as can be.
            few = self.users < 3000
            self.position = (
                rng.permutation((np.arange(self.users) + 0.5) / self.users) if few else rng.random(self.users)
            )
            self.activity = np.ones(self.users)
            if world.activity == "whales":
                self.activity = np.minimum(rng.pareto(1.2, self.users) + 1, 1000.0)
            self.load = self._load()
        else:
            self.position, self.activity, self.load = beside.position, beside.activity, beside.load
        # expected fraction of all requests, by server
        self.failing = np.zeros((world.servers, self.buckets, 3))
        self.bucket, self.unit, self.arm, self.server = self._failures()
        self.raw = _count(self.bucket, self.arm, self.buckets)
        self.of_servers: list[tuple[Ints, Ints]]
        if beside is None:
            self._answer()
        else:
            self.requests, self.raw = beside.requests, np.minimum(self.raw, beside.requests)
            self.of_servers = [(self.requests, self.raw)]
        self._drawn: dict[int, tuple[Ints, Ints, Any, Ints]] = {}

    def arms(self, units: Ints, buckets: Ints) -> Ints:
        """Return the arms of units in buckets."""
        share, at = self.shares[buckets], self.position[units]
        return np.where(at < share, 0, np.where(at >= 1 - share, 1, 2))

    def _load(self) -> Floats:
        if self.world.rates == "day":
            phase = 2 * np.pi * self.rng.random()
            return 1 + 0.8 * np.sin(2 * np.pi * np.arange(self.buckets) / 830 + phase)
        return np.ones(self.buckets)

    def _answer(self) -> None:
        """Draw the requests that do not fail, and lose the counts of servers that die."""
        world, rng, servers = self.world, self.rng, self.world.servers
        share = np.stack([self.shares, self.shares, np.maximum(0, 1 - 2 * self.shares)], axis=1)
        calm = np.maximum(self.load[:, None] / servers - self.failing, 0)
        raw = np.stack([self._count_of(server) for server in range(servers)])
        requests = raw + rng.poisson(self.per_bucket * share * calm)
        if world.deaths:
            lives = rng.random((servers, self.buckets)) >= 1 / world.deaths / servers
            kept = lives[self.server, self.bucket]
            self.bucket, self.unit, self.arm, self.server = (
                column[kept] for column in (self.bucket, self.unit, self.arm, self.server)
            )
            raw, requests = raw * lives[..., None], requests * lives[..., None]
        self.raw, self.requests = raw.sum(axis=0), requests.sum(axis=0)
        self.of_servers = list(zip(requests, raw, strict=True))

    def _count_of(self, server: int) -> Ints:
        its = self.server == server
        return _count(self.bucket[its], self.arm[its], self.buckets)

    def _failures(self) -> tuple[Ints, Ints, Ints, Ints]:
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
        for server in range(world.servers if world.bursts else 0):
            shape = 1 / world.bursts
            canary, control = rng.gamma(shape, world.bursts, (2, size)) / world.servers
            worse = np.where(harmful, world.ratio, 1.0)
            found += [self._spread(world.base * rates * canary * worse, (0,), server)]
            found += [self._spread(world.base * rates * control, (1, 2), server)]
        if not world.bursts:
            found += [self._of_units(world.base * rates, weights, None)]
            if world.ratio > 1:
                extra = np.minimum(world.base * rates * (world.ratio - 1), 1) * harmful
                cornered = weights
                if world.corner < 1:
                    cornered = weights * (rng.random(self.users) < world.corner) / world.corner
                found += [self._of_units(extra * cornered.mean() / weights.mean(), cornered, 0)]
        for server in range(world.servers if world.hiccups else 0):
            found += [self._spread(self._hiccup(1, world.often) / world.servers, (0,), server)]
            found += [self._spread(self._hiccup(world.processes, 1.0) / world.servers, (1, 2), server)]
        bucket, unit, arm, server = (np.concatenate(column) for column in zip(*found, strict=True))
        if world.late or world.ahead:
            late = bucket + rng.integers(0, world.late + 1, len(bucket))
            late += world.ahead * rng.integers(0, 2, len(bucket))
            last = np.minimum(late, size - 1)
            is_same = (late == last) & (self.stages[last] == self.stages[bucket])
            bucket = np.where(is_same, late, bucket)
        order = np.argsort(bucket.astype(np.int16), kind="stable")  # sorted by radix
        return bucket[order], unit[order], arm[order], server[order]

    def _of_units(self, rates: Floats, weights: Floats, only: int | None) -> tuple[Ints, ...]:
        """Draw failures of units with these weights; of all arms, or of one."""
        arms = slice(None) if only is None else slice(only, only + 1)
        self.failing[:, :, arms] += rates[:, None] / self.world.servers
        bucket = np.repeat(np.arange(self.buckets), self.rng.poisson(self.per_bucket * rates))
        unit = _drawn(self.rng, weights, len(bucket))
        if self.world.retries:
            times = self.rng.geometric(1 - self.world.retries, len(bucket))
            order = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
            bucket = np.minimum(np.repeat(bucket, times) + order // 3, self.buckets - 1)
            unit = np.repeat(unit, times)
        arm = self.arms(unit, bucket)
        server = np.zeros(len(bucket), np.int64)
        if self.world.servers > 1:
            server = self.rng.integers(0, self.world.servers, len(bucket))
        if only is None:
            return bucket, unit, arm, server
        kept = arm == only
        return bucket[kept], unit[kept], arm[kept], server[kept]

    def _spread(self, rates: Floats, arms: Sequence[int], server: int = 0) -> tuple[Ints, ...]:
        """Draw failures of any units of these arms: their process fails at this rate."""
        self.failing[server][:, arms] += (self.load * rates)[:, None]
        bucket = np.repeat(np.arange(self.buckets), self.rng.poisson(self.per_bucket * self.load * rates))
        unit = _drawn(self.rng, self.activity, len(bucket))
        arm = self.arms(unit, bucket)
        kept = arm == 0 if arms == (0,) else arm > 0
        return bucket[kept], unit[kept], arm[kept], np.full(int(kept.sum()), server)

    def _hiccup(self, processes: int, often: float) -> Floats:
        assert self.world.hiccups is not None
        every, length, part = self.world.hiccups
        rates = np.zeros(self.buckets)
        for _ in range(processes):
            if not self.is_beside:
                self.hiccups.append(np.flatnonzero(self.rng.random(self.buckets) < often / every).tolist())
            begins = self.hiccups.pop(0) if self.is_beside else self.hiccups[-1]
            for begin in begins:
                rates[begin : begin + length] += part / processes
        return np.minimum(rates, 1.0)

    # What is counted

    def met(self) -> tuple[Ints, Ints]:
        """Return units met for the first time, in the stage and in the release; shape ``(buckets, 3)``."""
        found, exposed = [], np.zeros((self.buckets, 3), np.int64)
        rates = self.per_bucket * self.activity / self.activity.sum()
        new = np.ones(self.users, bool)
        failed = np.full((len(self.plan.shares), self.users), self.buckets)
        last_to_first = self.bucket[::-1]
        failed[self.stages[last_to_first], self.unit[::-1]] = last_to_first  # the first one stays
        for stage, (begin, end) in enumerate(self.plan.bounds):
            at = begin + (self.rng.exponential(size=self.users) / rates).astype(np.int64)
            at = np.minimum(at, failed[stage])  # whoever failed was met
            units = np.flatnonzero(at < end)
            where, arms = at[units], self.arms(units, at[units])
            found.append(_count(where, arms, self.buckets))
            is_new = new[units]
            exposed += _count(where[is_new], arms[is_new], self.buckets)
            new[units] = False
        return np.sum(found, axis=0), exposed

    def firsts(self, off: Sequence[int] = ()) -> tuple[Ints, Ints]:
        """Return first events of units, and by failing block, each with an axis of servers before.

        Their shapes are ``(servers, buckets, 3)`` and ``(servers, buckets, places, 3)``.

        Args:
            off: Buckets without traffic to the canary, which count for nothing.
        """
        bucket, unit, arm, server = self.bucket, self.unit, self.arm, self.server
        if len(off):
            is_on = ~np.isin(bucket, off)
            bucket, unit, arm, server = bucket[is_on], unit[is_on], arm[is_on], server[is_on]
        number = len(unit)
        first = np.full(self.users, -1)
        first[unit[::-1]] = np.arange(number)[::-1]  # the first one stays
        index = first[first >= 0]
        servers = self.world.servers
        events = _count(server[index] * self.buckets + bucket[index], arm[index], servers * self.buckets)
        events = events.reshape(servers, self.buckets, 3)
        # a block that a change of the stage cuts is two
        blocks, stages = self.buckets // BLOCK_BUCKETS + 1, len(self.plan.shares)
        block = (unit * stages + self.stages[bucket]) * blocks + bucket // BLOCK_BUCKETS
        block, index = np.divmod(np.sort(block * number + np.arange(number)), max(1, number))
        is_first = np.r_[True, block[1:] != block[:-1]][:number]
        block, index = block[is_first], index[is_first]
        group = block // blocks
        opens = np.flatnonzero(np.r_[True, group[1:] != group[:-1]]) if len(group) else np.zeros(0, np.int64)
        rank = np.arange(len(group)) - np.repeat(opens, np.diff(np.r_[opens, len(group)]))
        places = np.zeros((servers, self.buckets, MOST_BLOCKS, 3), np.int64)
        np.add.at(places, (server[index], bucket[index], np.minimum(rank, MOST_BLOCKS - 1), arm[index]), 1)
        return events, places

    def answered(self, bucket: int) -> tuple[Ints, Ints, Any, Ints]:
        """Return units, arms, failures and servers of a bucket's requests.

        Those that did not fail are drawn now.
        """
        if bucket not in self._drawn:
            first, last = np.searchsorted(self.bucket, [bucket, bucket + 1])
            units, arms, servers = [self.unit[first:last]], [self.arm[first:last]], [self.server[first:last]]
            everybody = np.arange(self.users)
            their = self.arms(everybody, np.full(self.users, bucket))
            for server, (requests, raw) in enumerate(self.of_servers):
                for arm in range(3):
                    number = int(requests[bucket, arm] - raw[bucket, arm])
                    inside = everybody[their == arm]
                    if number and len(inside):
                        units.append(inside[_drawn(self.rng, self.activity[inside], number)])
                        arms.append(np.full(number, arm))
                        servers.append(np.full(number, server))
            joined = np.concatenate(units)
            has_failed = np.arange(len(joined)) < last - first
            self._drawn[bucket] = joined, np.concatenate(arms), has_failed, np.concatenate(servers)
        return self._drawn[bucket]

    def lately(self, bucket: int, since: int) -> RecentRequests:
        """Return what is told of the last buckets, from ``since`` on at the earliest.

        Each server counts for itself.
        """
        if self.world.servers == 1:
            return self._lately(0, self._window(bucket, since), bucket)
        first = max(since, bucket - RECENT_BUCKETS + 1)
        told = [self._lately(server, first, bucket) for server in range(self.world.servers)]
        mostly = [{"": one} for one in told if 0 < one.requests.canary <= 2 * one.failures.canary]
        return _together(mostly).get("", RecentRequests())

    def _lately(self, server: int, first: int, bucket: int) -> RecentRequests:
        window = range(first, bucket + 1)
        drawn = [self.answered(each) for each in window]
        units, arms, failed, servers = (np.concatenate(column) for column in zip(*drawn, strict=True))
        if self.world.servers > 1:
            its = servers == server
            units, arms, failed = units[its], arms[its], failed[its]
        requests, failures = _arms(arms), _arms(arms[failed])
        _, index, inverse = np.unique(units, return_index=True, return_inverse=True)
        asked, bad = np.bincount(inverse), np.bincount(inverse, failed)
        their = arms[index]
        raw = self.of_servers[server][1]
        return RecentRequests(
            requests=requests,
            failures=failures,
            units=_arms(their),
            failing=_arms(their[(bad > 0) & (bad >= 0.75 * asked)]),
            buckets=len(window),
            failed_buckets=sum(bool(raw[each, 0]) for each in window),
        )

    def _window(self, bucket: int, since: int) -> int:
        """Return the first bucket of the window that ends with a bucket."""
        first, requests = max(since, bucket - RECENT_BUCKETS + 1), self.requests
        while (
            first > max(since, bucket - MOST_RECENT_BUCKETS + 1)
            and requests[first : bucket + 1, 0].sum() < ENOUGH_RECENT
        ):
            first -= 1
        return first

    def has_window(self, bucket: int) -> bool:
        """Return whether the canary of several servers failed enough for a pause, whatever its units."""
        first = self._window(bucket, int(np.searchsorted(self.stages, self.stages[bucket])))
        asked, failed = self.requests[first : bucket + 1, 0], self.raw[first : bucket + 1, 0]
        requests, failures = int(asked.sum()), int(failed.sum())
        enough = 0.75 * requests if requests >= 10 else requests
        return len(asked) >= RECENT_BUCKETS and requests >= ENOUGH_RECENT and failures >= enough

    def may_pause(self) -> Ints:
        """Return the buckets at which most of the canary's recent requests failed."""
        end, found = np.arange(1, self.buckets + 1), np.zeros(self.buckets, bool)
        asked, failed = (np.r_[0, np.cumsum(counts[:, 0])] for counts in (self.requests, self.raw))
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
    by_server = None
    if releases[0].world.servers > 1:  # axes: releases, buckets, servers
        counts = np.array([release.of_servers for release in releases]).transpose(2, 0, 3, 1, 4)
        units, first, placed = (
            np.stack(of_each).swapaxes(1, 2)
            for of_each in (
                [places.sum(axis=2) for _, places in firsts],
                [events for events, _ in firsts],
                [places.astype(np.int32) for _, places in firsts],
            )
        )
        by_server = ServerScene(counts[0], counts[1], units, first, placed)
    return Scene(
        requests=np.stack([release.requests for release in releases]),
        met=np.stack(met),
        events=np.stack([events.sum(axis=0) for events, _ in firsts]),
        raw=np.stack([release.raw for release in releases]),
        places=np.stack([places.sum(axis=0) for _, places in firsts]),
        servers=by_server,
    )


def key_of(seed: int, name: str, per_second: float) -> list[int]:
    """Return the seed of a cell."""
    return [seed, int(10 * per_second), sum(ord(c) * (i + 1) for i, c in enumerate(name))]


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

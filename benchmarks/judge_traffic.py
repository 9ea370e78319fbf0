"""What does a canary's traffic look like, in good times and bad? Simulated counts, of a seed.

Three hours: an hour each at 1, 5 and 25 %, in buckets of ten seconds, with 0.5 % of requests failing. Counts
are of shape ``(releases, buckets)``.
"""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from judge_paths import Arms, Schedule

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

WEIGHTS = (0.01, 0.05, 0.25)
HOUR = 360  # buckets
SECONDS = 10.0
BASE = 0.005
SCHEDULE = Schedule(np.repeat(np.arange(len(WEIGHTS)), HOUR), np.repeat(WEIGHTS, HOUR))
#: Of sticky failures: this part of the users fails this part of its requests, everybody else none.
BAD_USERS, BAD_RATE = 0.01, 0.5


class Scene(NamedTuple):
    """What judges see: requests; failed ones; those of users who had not failed before."""

    requests: Arms
    raw: Arms
    firsts: Arms


def parts() -> Floats:
    """Of canary, baseline and stable, by bucket; shape ``(3, buckets)``."""
    share = SCHEDULE.shares
    return np.stack([share, share, 1 - 2 * share])


def independent(
    rng: np.random.Generator,
    releases: int,
    per_second: float,
    ratio: float = 1.0,
    *,
    rates: Floats | None = None,
    base: float = BASE,
) -> Scene:
    """Each request fails for itself. ``rates`` multiply the base rate, by arm, release and bucket."""
    share = parts()[:, None, :]
    size = (3, releases, share.shape[2])
    worse = np.array([ratio, 1.0, 1.0])[:, None, None]
    requests = Arms(*rng.poisson(np.broadcast_to(per_second * SECONDS * share, size)))
    failures = per_second * SECONDS * base * share * worse * (1.0 if rates is None else rates)
    events = Arms(*rng.poisson(np.broadcast_to(failures, size)))
    return Scene(requests, events, events)


def swing() -> Floats:
    """The base rate by day and night: twice at noon, nothing at midnight, over the three hours."""
    return 1 + np.sin(np.linspace(0, 2 * np.pi, len(SCHEDULE.stages)))


def outage(rng: np.random.Generator, releases: int, times: float = 6.0, minutes: float = 20.0) -> Floats:
    """A dependency of all arms fails once, at any time."""
    length, buckets = round(minutes * 60 / SECONDS), len(SCHEDULE.stages)
    start = rng.integers(0, buckets - length, releases)[:, None]
    at = np.arange(buckets)
    return np.where((at >= start) & (at < start + length), times, 1.0)


def bursts(rng: np.random.Generator, releases: int, variation: float = 2.0) -> Floats:
    """Rates that are gamma distributed, for each arm and bucket, with this coefficient of variation."""
    shape = 1 / variation**2
    return rng.gamma(shape, 1 / shape, (3, releases, len(SCHEDULE.stages)))


def bad_host(
    rng: np.random.Generator, releases: int, replicas: int, times: float = 6.0, minutes: float = 20.0
) -> Floats:
    """One of the canary's hosts fails so many times as often for a while."""
    rates = np.ones((3, releases, len(SCHEDULE.stages)))
    rates[0] += (outage(rng, releases, times, minutes) - 1) / replicas
    return rates


def by_user(
    rng: np.random.Generator,
    releases: int,
    per_second: float,
    users: int,
    ratio: float = 1.0,
    *,
    is_sticky: bool = True,
    tail: float = 0.0,
    rates: Floats | None = None,
) -> Scene:
    """Failures of users, told apart.

    Args:
        is_sticky: A few users have all the failures, but those that a worse canary adds, which hit anybody.
        tail: Of the users' activity, the standard deviation of its logarithm; 0 = all are equally active.
        rates: As in :func:`independent`, of failures that are not sticky.
    """
    requests = independent(rng, releases, per_second).requests
    raw, firsts = [], []
    for release in range(releases):
        crowd = _Crowd(rng, users, tail)
        expected = np.zeros((3, len(SCHEDULE.stages)))  # that hit anybody, for the whole traffic
        expected[0] = ratio - 1
        if not is_sticky:
            expected[1:], expected[0] = 1.0, ratio
        if rates is not None:
            expected *= rates[:, release]
        who, when = crowd.failures(rng, expected * per_second * SECONDS * BASE)
        if is_sticky:
            bad, then = crowd.sticky(rng, per_second)
            who, when = np.r_[who, bad], np.r_[when, then]
        for kept, some in zip((raw, firsts), crowd.counted(rng, who, when), strict=True):
            kept.append(some)
    return Scene(requests, Arms(*np.stack(raw, axis=1)), Arms(*np.stack(firsts, axis=1)))


class _Crowd:
    """Users in the order of their hash, so that arms are stretches of them."""

    def __init__(self, rng: np.random.Generator, users: int, tail: float) -> None:
        self.place = np.sort(rng.random(users))
        activity = rng.lognormal(0.0, tail, users) if tail else np.ones(users)
        self.activity = activity / activity.sum()
        self.mass = np.r_[0.0, np.cumsum(self.activity)]

    def failures(self, rng: np.random.Generator, expected: Floats) -> tuple[Ints, Ints]:
        """Of anybody: users and buckets. ``expected``, by arm and bucket: if it had all of the traffic."""
        who, when = [], []
        for stage, weight in enumerate(WEIGHTS):
            buckets = np.flatnonzero(SCHEDULE.stages == stage)
            low, high = np.searchsorted(self.place, (weight, 1 - weight))
            for arm, (begin, end) in enumerate(((0, low), (high, len(self.place)), (low, high))):
                mass = self.mass[end] - self.mass[begin]
                number = rng.poisson(expected[arm, buckets] * mass)
                at = self.mass[begin] + rng.random(number.sum()) * mass
                who.append(np.clip(np.searchsorted(self.mass, at, side="right") - 1, begin, end - 1))
                when.append(np.repeat(buckets, number))
        return np.concatenate(who), np.concatenate(when)

    def sticky(self, rng: np.random.Generator, per_second: float) -> tuple[Ints, Ints]:
        """Of those few who have them whichever version they meet."""
        users, buckets = len(self.place), len(SCHEDULE.stages)
        bad = rng.choice(users, round(BAD_USERS * users), replace=False)
        number = rng.poisson(self.activity[bad] * per_second * SECONDS * BAD_RATE * buckets)
        return np.repeat(bad, number), rng.integers(0, buckets, number.sum())

    def counted(self, rng: np.random.Generator, who: Ints, when: Ints) -> tuple[Ints, Ints]:
        """All failures, and users' first ones; by arm and bucket."""
        order = np.argsort(when + rng.random(len(when)))
        who, when = who[order], when[order]
        share, place = SCHEDULE.shares[when], self.place[who]
        arm = np.where(place < share, 0, np.where(place > 1 - share, 1, 2))
        at, buckets = arm * len(SCHEDULE.stages) + when, len(SCHEDULE.stages)
        first = at[np.unique(who, return_index=True)[1]]
        raw, firsts = (np.bincount(some, minlength=3 * buckets).reshape(3, buckets) for some in (at, first))
        return raw, firsts

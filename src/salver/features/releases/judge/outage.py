"""Pause of a canary that fails most of its requests.

A pause takes the canary's traffic back at once, and it comes back by itself for a probe. It needs a few
seconds of failures, so it may be wrong, and costs nothing of the error budget of a rollback: only the third
failure in a row is one. A hiccup of the canary's process is thus at most a pause. Failures are in a row if
most requests failed since the traffic returned: a canary that answered in between may have hiccuped again.

Evidence is Fisher's exact test on units: those of which three quarters of the requests failed, of the canary
and of its control. Of several servers all count: requests are added up, and the canary's failing units are
those that the ledger has counted in a block of time, each once. Pure.
"""

import itertools
import math
import operator
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple, Self

import msgspec

from salver.words.releases import (
    BLOCK_BUCKETS,
    ENOUGH_RECENT,
    MOST_RECENT_BUCKETS,
    RECENT_BUCKETS,
    Bucket,
    Counts,
    RecentRequests,
    plus,
)

#: Fraction of the canary's requests, and number of its units, that have to fail.
_PART, LEAST_UNITS = 0.75, 3
#: Requests to the canary of which all have to fail if they are fewer.
_MANY: Final = 10
#: Probability by chance.
LEVEL: Final = 1e-4
#: Buckets in which the canary fails.
_SPREAD: Final = 3
#: Buckets of a window, and of a pause, after each number of strikes.
_PROBE: Final = 2
OFF: Final = (3, 6)
#: Failures in a row that are final.
STRIKES: Final = 3
#: Buckets without a failure that clear the strikes, with at least so many requests that did not fail.
CALM, _CALM_REQUESTS = 9, 10
_NEAR: Final = 1e-6  # of a bucket
#: Pauses within as many buckets, after which a person has to resume the release.
_MOST_PAUSES, _WITHIN = 8, 360


class Strike(NamedTuple):
    """A failure of the canary.

    Attributes:
        reason: Text.
        seconds: Length of the pause; 0 = a person has to resume it.
        is_last: It is the third in a row.
    """

    reason: str
    seconds: float
    is_last: bool


class _Past(msgspec.Struct, frozen=True):
    """Canary of several servers in a bucket.

    Attributes:
        block: Number of its block of time.
        requests: Requests to the canary.
        failures: By metric, those that failed.
        units: By metric, units with their first failure in the block, and with their first of all.
    """

    block: int
    requests: int
    failures: Mapping[str, int]
    units: Mapping[str, tuple[int, int]]


class Outages(msgspec.Struct, frozen=True):
    """Failures of the canary; plain data, updated by copying.

    Args:
        strikes: Number in a row.
        calm: Buckets since the last one.
        answered, failed: Requests to the canary since then.
        times: Unix seconds of the latest pauses.
        past: Last buckets of a stage that several servers counted, since the last failure.
        met: Units that were met in the stage.
    """

    strikes: int = 0
    calm: float = 0.0
    answered: int = 0
    failed: int = 0
    times: tuple[float, ...] = ()
    past: tuple[_Past, ...] = ()
    met: Counts = Counts()
    stage: int = 0

    def add(self, bucket: Bucket, metrics: Sequence[str], seconds: float) -> tuple[Self, Strike | None]:
        """Add a bucket in which the canary had traffic.

        Args:
            metrics: Severe metrics.
            seconds: Length of a bucket by the policy.
        """
        after = self._counted(bucket, metrics, seconds)
        for name in metrics:
            lately = bucket.lately.get(name)
            if lately is not None and bucket.parts:
                lately = after._of_all(name, lately)
            if lately is not None and self._is_outage(lately):
                return after._struck(name, lately, bucket.start + bucket.seconds, seconds)
        if after.calm >= CALM - _NEAR and after.answered >= _CALM_REQUESTS:
            return msgspec.structs.replace(after, strikes=0), None
        return after, None

    def _counted(self, bucket: Bucket, metrics: Sequence[str], seconds: float) -> Self:
        failures = {name: bucket.raw[name].canary for name in metrics if name in bucket.raw}
        failed, past, met = max(failures.values(), default=0), self.past, self.met
        if bucket.stage != self.stage:
            past, met = (), Counts()
        if bucket.parts:
            block = math.floor(bucket.start / (BLOCK_BUCKETS * seconds) + _NEAR)
            units = {
                name: (
                    sum(place.canary for place in bucket.blocks.get(name, ())),
                    bucket.events.get(name, Counts()).canary,
                )
                for name in metrics
            }
            past = (*past, _Past(block, bucket.requests.canary, failures, units))[-MOST_RECENT_BUCKETS:]
        return msgspec.structs.replace(
            self,
            calm=self.calm + bucket.seconds / seconds,
            answered=self.answered + max(0, bucket.requests.canary - failed),
            failed=self.failed + failed,
            past=past,
            met=plus(met, bucket.new_units),
            stage=bucket.stage,
        )

    def _of_all(self, name: str, told: RecentRequests) -> RecentRequests:
        """Return the window of several servers.

        Args:
            told: Sum of their windows, where a unit that asks each of them counts as many times.
        """
        length = RECENT_BUCKETS
        while length < len(self.past) and sum(one.requests for one in self.past[-length:]) < ENOUGH_RECENT:
            length += 1
        window = self.past[-length:]
        failed = [one.failures.get(name, 0) for one in window]
        units = [
            (one.block, *one.units.get(name, (0, 0))) for one in self.past if one.block >= window[0].block
        ]
        blocks = itertools.groupby(units, operator.itemgetter(0))
        # Each counts once in a block of time, and once in the release.
        in_block = max(sum(one for _, one, _ in some) for _, some in blocks)
        failing = max(in_block, sum(first for *_, first in units))
        part = min(1.0, failing / max(1, told.failing.canary))
        others = Counts(0, math.ceil(part * told.failing.baseline), math.ceil(part * told.failing.stable))
        return RecentRequests(
            msgspec.structs.replace(told.requests, canary=sum(one.requests for one in window)),
            msgspec.structs.replace(told.failures, canary=sum(failed)),
            Counts(*map(max, msgspec.structs.astuple(self.met), (failing, others.baseline, others.stable))),
            plus(others, Counts(failing)),
            len(window),
            sum(map(bool, failed)),
        )

    def _is_outage(self, lately: RecentRequests) -> bool:
        least = _PROBE if self.strikes else RECENT_BUCKETS
        asked, failed = lately.requests.canary, lately.failures.canary
        return (
            lately.buckets >= least
            and asked >= ENOUGH_RECENT
            and failed >= (_PART * asked if asked >= _MANY else asked)
            and lately.failing.canary >= LEAST_UNITS
            and lately.failed_buckets >= min(_SPREAD, lately.buckets)
            and chance(lately.units, lately.failing) <= LEVEL
        )

    def _struck(self, name: str, lately: RecentRequests, now: float, seconds: float) -> tuple[Self, Strike]:
        strikes = 1
        if self.failed >= _PART * (self.failed + self.answered):
            strikes += self.strikes
        times = (*(time for time in self.times if now - time <= _WITHIN * seconds), now)
        others = lately.units.control
        reason = (
            f"{name}: {lately.failures.canary} of the last {lately.requests.canary} requests to the canary "
            f"had it, and {lately.failing.canary} of {lately.units.canary} units had it in most of theirs, "
            f"where {lately.failing.control} of {others} of the control's had"
        )
        off = OFF[min(strikes, len(OFF)) - 1] * seconds
        if len(times) >= _MOST_PAUSES:
            off, reason = 0.0, f"{reason}; that was the pause number {len(times)} of late"
        return type(self)(strikes, times=times, met=self.met, stage=self.stage), Strike(
            reason, off, strikes >= STRIKES
        )


def chance(units: Counts, failing: Counts) -> float:
    """Return the probability that so many of the failing units are the canary's by chance.

    Fisher's exact test, one-sided: the upper tail of the hypergeometric distribution.

    >>> round(chance(Counts(canary=2, stable=2), Counts(canary=2)), 9)
    0.166666667
    """
    canary, control, bad = units.canary, units.control, failing.total
    log_whole = _log_choose(canary + control, bad)
    return min(
        1.0,
        math.fsum(
            math.exp(_log_choose(canary, count) + _log_choose(control, bad - count) - log_whole)
            for count in range(max(failing.canary, bad - control), min(canary, bad) + 1)
        ),
    )


def _log_choose(whole: int, some: int) -> float:
    return math.lgamma(whole + 1) - math.lgamma(some + 1) - math.lgamma(whole - some + 1)

"""Requests of the last few buckets by unit, and which of them failed.

The judge takes traffic from a canary if most of its recent requests fail. Units are kept as hashes; of very
many, only a sample that does not depend on the arm. It decides nothing.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from salver.words.releases import (
    ARMS,
    ENOUGH_RECENT,
    MOST_RECENT_BUCKETS,
    MOSTLY,
    RECENT_BUCKETS,
    Counts,
    RecentRequests,
)

#: Requests of an arm in a bucket whose units are kept; of more, a sample of the units.
_MOST: Final = 16_384
_HALF: Final = 0.5

_Hashes = npt.NDArray[np.int64]
#: Stage, turn and share.
Key = tuple[int, int, float]


class RequestLog:
    """Units of the requests of an open bucket, by arm and in any order.

    Attributes:
        failing: By metric, those of requests with the event.
    """

    __slots__ = ("failing", "units")

    def __init__(self, metrics: Iterable[str]) -> None:
        self.units: tuple[list[str], ...] = ([], [], [])
        self.failing: dict[str, tuple[list[str], ...]] = {metric: ([], [], []) for metric in metrics}


class _Recent:
    """Requests of a bucket.

    Attributes:
        end: Unix seconds of the end of its window.
    """

    __slots__ = ("end", "failing", "failures", "requests", "units")

    def __init__(self, end: float, log: RequestLog) -> None:
        self.end = end
        self.requests = [len(units) for units in log.units]
        self.units = [_hashes(units) for units in log.units]
        self.failures = {name: [len(units) for units in by_arm] for name, by_arm in log.failing.items()}
        self.failing = {
            name: [_hashes(units) for units in by_arm] for name, by_arm in log.failing.items() if any(by_arm)
        }

    def extend(self, more: "_Recent") -> None:
        """Add requests of the same window."""
        self.requests = _sums([self.requests, more.requests])
        self.units = _joined([self.units, more.units])
        for name, failures in more.failures.items():
            self.failures[name] = _sums([self.failures.get(name, [0, 0, 0]), failures])
        for name, failing in more.failing.items():
            self.failing[name] = _joined([self.failing[name], failing] if name in self.failing else [failing])

    def thin(self, mask: int) -> None:
        """Keep a sample of the units."""
        self.units = [units[units & mask == 0] for units in self.units]
        self.failing = {
            name: [units[units & mask == 0] for units in by_arm] for name, by_arm in self.failing.items()
        }


class RecentBuckets:
    """The last buckets of a release, of one stage and share, since the canary got its traffic."""

    def __init__(self) -> None:
        self._key: Key | None = None
        self._buckets: deque[_Recent] = deque(maxlen=MOST_RECENT_BUCKETS)
        self._mask = 0

    def __repr__(self) -> str:
        return f"<RecentBuckets {len(self._buckets)} of {self._key}>"

    def add(self, key: Key | None, end: float, log: RequestLog) -> dict[str, RecentRequests]:
        """Add a bucket, and return the window by metric, as :attr:`salver.words.releases.Bucket.lately`.

        Args:
            key: None = it had no requests.
            end: Unix seconds of the end of its window, of which it may be a part.
        """
        if key is not None and self._key is not None and key[:2] < self._key[:2]:
            return {}  # requests of before the last change, such as time-outs
        if key is not None and key != self._key:
            self._key, self._mask = key, 0
            self._buckets.clear()
        if self._key is None or not self._key[-1]:  # nobody gets the canary
            return {}
        recent = _Recent(end, log)
        if self._buckets and self._buckets[-1].end == end:  # a bucket that was closed early
            self._buckets[-1].extend(recent)
        else:
            self._buckets.append(recent)
        self._thin()
        return self._lately()

    def _thin(self) -> None:
        """Keep so few units that the last bucket is small."""
        mask = self._mask
        while max(map(len, self._buckets[-1].units)) > _MOST:
            self._mask = 2 * self._mask + 1
            self._buckets[-1].thin(self._mask)
        if self._mask != mask:  # a unit is in all buckets of the window or in none
            for bucket in self._buckets:
                bucket.thin(self._mask)
        elif mask:
            self._buckets[-1].thin(mask)

    def _lately(self) -> dict[str, RecentRequests]:
        window: list[_Recent] = []
        seen = 0
        for bucket in reversed(self._buckets):
            if len(window) >= RECENT_BUCKETS and seen >= ENOUGH_RECENT:
                break
            window.append(bucket)
            seen += bucket.requests[0]
        if not seen:
            return {}
        found = {}
        for metric in window[0].failures:
            told = _told(window, metric)
            if len(window) > RECENT_BUCKETS and (short := _told(window[:RECENT_BUCKETS], metric)):
                told = msgspec.structs.replace(told or RecentRequests(), short=short)
            if told is not None:
                found[metric] = told
        return found


def _told(window: Sequence[_Recent], metric: str) -> RecentRequests | None:
    """Return what is told of a window; None = less than half of the canary's requests have the event."""
    requests = _sums([bucket.requests for bucket in window])
    failures = _sums([bucket.failures.get(metric, [0, 0, 0]) for bucket in window])
    if not requests[0] or failures[0] < _HALF * requests[0]:
        return None
    units, failing = _by_unit(window, metric)
    return RecentRequests(
        Counts(*requests),
        Counts(*failures),
        units,
        failing,
        len(window),
        sum(bool(bucket.failures.get(metric, [0])[0]) for bucket in window),
    )


def _by_unit(window: Sequence[_Recent], metric: str) -> tuple[Counts, Counts]:
    """Return the units by arm, and those of which most requests have the event."""
    having = [bucket.failing[metric] for bucket in window if metric in bucket.failing]
    units, failing = [], []
    for asked, bad in zip(_joined([bucket.units for bucket in window]), _joined(having), strict=True):
        known, requests = np.unique(asked, return_counts=True)
        units.append(len(known))
        some, failures = np.unique(bad, return_counts=True)
        # An answer is analysed apart from its request, perhaps in the next bucket: then it counts as one.
        of_each = np.ones(len(some))
        is_known = np.isin(some, known)
        of_each[is_known] = requests[np.searchsorted(known, some[is_known])]
        failing.append(int((failures >= MOSTLY * of_each).sum()))
    return Counts(*units), Counts(*failing)


def _hashes(units: Sequence[str]) -> _Hashes:
    return np.fromiter(map(hash, units), np.int64, len(units))


def _sums(counts: Sequence[Sequence[int]]) -> list[int]:
    return [sum(of_arm) for of_arm in zip(*counts, strict=True)]


def _joined(by_arm: Sequence[Sequence[_Hashes]]) -> list[_Hashes]:
    return [
        np.concatenate([np.empty(0, np.int64), *(arms[place] for arms in by_arm)])
        for place in range(len(ARMS))
    ]

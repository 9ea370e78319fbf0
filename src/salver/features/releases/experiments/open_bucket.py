"""Bucket of a release that is still being counted.

It holds the counts so far, the lookups of units that are put off until many can be done at once, and the rows
for the ledger.
"""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from salver.features.releases.experiments.recent import RequestLog
from salver.words.releases import (
    FIRSTS,
    NO_EXPOSURES,
    NO_PREDICTIONS,
    NO_UNITS,
    UNSEEN,
    Arm,
    Assignment,
    Bucket,
    BucketObservations,
    Copies,
    Counts,
    Exposures,
    Predictions,
    RecentRequests,
    UnitObservations,
    first_in,
    kept_in,
    plus,
)

#: Indices of arms in :data:`ARMS`. Beside a canary of more than half, all of the control is its baseline,
#: including units held back.
_PLACES: Final = {Arm.CANARY: 0, Arm.BASELINE: 1, Arm.STABLE: 2, Arm.HOLDBACK: 2}
_PLACES_BESIDE_MOST: Final = {**_PLACES, Arm.HOLDBACK: 1}
_HALF: Final = 0.5

_Places = npt.NDArray[np.uint8]
_Times = npt.NDArray[np.float64]
_T = TypeVar("_T", bound=Hashable)
_M = TypeVar("_M", bound=UnitObservations)


class _PendingLookups(Generic[_T]):
    """Lookups to be done.

    Attributes:
        places: Indices of arms in :data:`ARMS`, by kind.
        times: Unix seconds of each, in order.
    """

    __slots__ = ("places", "times")

    def __init__(self) -> None:
        self.places: dict[_T, int] = {}
        self.times: list[float] = []

    def date(self, now: float) -> None:
        """Set the time of entries without one."""
        if missing := len(self.places) - len(self.times):
            self.times += [now] * missing

    def taken(self) -> tuple[Mapping[_T, int], _Places, _Times]:
        """Return all entries and clear them."""
        found, times = self.places, self.times
        self.places, self.times = {}, []
        return found, np.fromiter(found.values(), np.uint8, len(found)), np.array(times, np.float64)


class Lookups:
    """Lookups of one bucket that are to be done.

    Attributes:
        fresh: New units.
        news: Names and units of new events.
        asked: Ids of requests and their units; empty = no unit.
    """

    __slots__ = ("asked", "fresh", "news")

    def __init__(self) -> None:
        self.fresh: _PendingLookups[str] = _PendingLookups()
        self.news: _PendingLookups[tuple[str, str]] = _PendingLookups()
        self.asked: _PendingLookups[tuple[str, str]] = _PendingLookups()

    def __len__(self) -> int:
        return len(self.fresh.places) + len(self.news.places) + len(self.asked.places)

    def date(self, now: float) -> None:
        """Set the time of entries without one."""
        self.fresh.date(now)
        self.news.date(now)
        self.asked.date(now)


class _LedgerRows:
    """Rows of one bucket for the ledger."""

    __slots__ = ("exposures", "failing", "firsts", "met", "predictions")

    def __init__(self) -> None:
        self.exposures: list[Exposures] = []
        self.met: list[UnitObservations] = []
        self.firsts: dict[str, list[UnitObservations]] = {}
        self.failing: dict[str, list[UnitObservations]] = {}
        self.predictions: list[Predictions] = []


class OpenBucket:
    """Counts of one stage and share.

    Args:
        start: Unix seconds.
        counted: Metrics that are counted even if there are no events.
        bins: The same, of metrics with an event in every answer.

    Attributes:
        assigned: An assignment with its stage and share.
        heard: See :attr:`salver.words.releases.BucketObservations.heard`.
        places: Indices of arms in :data:`ARMS`.
        events: By name (:func:`~salver.words.releases.first_in`), first events of units.
        alone: By metric, events of requests without a unit.
    """

    __slots__ = (
        "alone", "assigned", "events", "exposed", "heard", "log", "lookups", "met", "names", "places",
        "raw", "requests", "rows", "start",
    )  # fmt: skip

    def __init__(
        self, assigned: Assignment, start: float, counted: Iterable[str], bins: Iterable[str]
    ) -> None:
        self.start = start
        self.heard = 0
        self.assigned = assigned
        self.log = RequestLog(counted)
        self.names: dict[str, tuple[str, ...]] = {}
        self.places = _PLACES_BESIDE_MOST if assigned.propensity > _HALF else _PLACES
        self.requests = [0, 0, 0]
        self.exposed = [0, 0, 0]
        self.met = [0, 0, 0]
        self.raw: dict[str, list[int]] = {metric: [0, 0, 0] for metric in (*counted, *bins)}
        self.events: dict[str, list[int]] = {metric: [0, 0, 0] for metric in self.raw}
        self.alone: dict[str, list[int]] = {}
        self.lookups = Lookups()
        self.rows = _LedgerRows()

    def note(self, metrics: Iterable[str], assigned: Assignment, unit: str, place: int) -> None:
        """Record an event of a request."""
        for metric in metrics:
            self.raw.setdefault(metric, [0, 0, 0])[place] += 1
            if (failing := self.log.failing.get(metric)) is not None:
                failing[place].append(unit)
            if assigned.propensity and assigned.has_unit:  # else an event cannot be a unit's first
                for name in self.names.get(metric) or self._names_of(metric):
                    self.lookups.news.places.setdefault((name, unit), place)
            else:
                self.alone.setdefault(metric, [0, 0, 0])[place] += 1

    def waits(self, assigned: Assignment, metric: str) -> None:
        """Take an event of a request without a unit, which still waits, for one of a unit."""
        place = self.places[assigned.arm]
        self.alone[metric][place] -= 1
        self.events[metric][place] += 1

    def _names_of(self, metric: str) -> tuple[str, ...]:
        """Return the names of a metric's first events; those of bins are also counted by stage."""
        names: tuple[str, ...] = (metric,)
        stage = self.assigned.stage
        if stage and metric not in self.log.failing and not metric.endswith(UNSEEN):
            names += (first_in(metric, "in_stage", stage),)
        self.names[metric] = names
        return names

    def closed(
        self, release: str, end: float, copies: Copies, lately: Mapping[str, RecentRequests]
    ) -> BucketObservations:
        """Return the finished bucket.

        Args:
            end: Unix seconds.
        """
        events: dict[str, dict[str, Counts]] = {field: {} for field in FIRSTS}
        for name, by_arm in self.events.items():
            metric, field, _ = kept_in(name)
            events[field][metric] = Counts(*by_arm)
        alone = {metric: Counts(*by_arm) for metric, by_arm in self.alone.items()}
        for metric, counts in alone.items():
            events["events"][metric] = plus(events["events"].get(metric, Counts()), counts)
        bucket = Bucket(
            start=self.start,
            seconds=end - self.start,
            stage=self.assigned.stage,
            share=self.assigned.propensity,
            requests=Counts(*self.requests),
            exposures=Counts(*self.exposed),
            events=events["events"],
            in_stage=events["in_stage"],
            raw={name: Counts(*counts) for name, counts in self.raw.items()},
            copies=copies,
            met=Counts(*self.met),
            blocks={metric: (counts,) for metric, counts in alone.items() if metric in self.log.failing},
            lately=lately,
        )
        rows = self.rows
        return BucketObservations(
            release,
            bucket,
            _joined(rows.exposures) or NO_EXPOSURES,
            _joined_each(rows.firsts),
            _joined(rows.predictions) or NO_PREDICTIONS,
            self.heard,
            _joined(rows.met) or NO_UNITS,
            _joined_each(rows.failing),
        )


def _joined_each(parts: Mapping[str, Sequence[_M]]) -> dict[str, _M]:
    return {name: rows for name, some in parts.items() if (rows := _joined(some)) is not None}


def _joined(parts: Sequence[_M]) -> _M | None:
    """Concatenate rows; return None if there are no parts."""
    if len(parts) < 2:
        return parts[0] if parts else None
    fields = parts[0].__struct_fields__
    return type(parts[0])(*(np.concatenate([getattr(part, field) for part in parts]) for field in fields))

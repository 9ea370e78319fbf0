"""What was seen of a release, bucket by bucket, told apart by unit?

An observer of the road of events, off every request's path. It keeps no unit: whether one was seen before
is told by a filter of fixed size, whose errors depend on nothing but a hash that has to do neither with the
arm nor with its salt. What the counts prove, and where they are kept, is not known here.
"""

import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import numpy as np

from salver.events import Event, Responded, Served
from salver.experiments.config import CollectorConfig
from salver.experiments.happenings import OK, happened
from salver.experiments.outputs import OutputCheck, Watch
from salver.experiments.ports import Sink
from salver.releases import (
    NO_STAGE,
    Arm,
    Assignment,
    Bucket,
    Counts,
    Exposure,
    FirstEvent,
    Prediction,
    Seen,
    unit_number,
)
from salver.stats.bloom import Bloom
from salver.stats.histogram import Histogram

_LOG = logging.getLogger("salver.experiments")
_CANARY, _BASELINE = Arm.CANARY, Arm.BASELINE
_PLACE: Final = {_CANARY.value: 0, _BASELINE.value: 1, Arm.STABLE.value: 2}  # an enum's own hash is slow
#: Tells a unit's number in an arm from the number itself.
_MARKS: Final = tuple(0x9E3779B97F4A7C15 * (place + 1) % 2**64 for place in _PLACE.values())
_BOUNDS: Final = tuple(50e-6 * 10 ** (step / 20) for step in range(122))  # seconds, to a minute
_MOST_RECENT: Final = 65_536
_AT_ONCE: Final = 8192  # units that are restored in one go
#: Units and happenings that wait to be looked up together, which costs a tenth of one at a time.
_MOST_WAITING: Final = 1024

#: What happened to a unit: the name of a metric, and the unit's number.
_Happening = tuple[str, int]
_T = TypeVar("_T")
#: The bucket that it belongs to, what was assigned, and when, in Unix seconds.
_Told = tuple["_Tally", Assignment, float]
_Seen = tuple[Served | Responded, Assignment]


class _Tally:
    """A bucket while it is open."""

    __slots__ = (
        "events",
        "exposed",
        "exposures",
        "firsts",
        "predictions",
        "raw",
        "requests",
        "share",
        "stage",
        "start",
    )

    def __init__(self, start: float, assigned: Assignment) -> None:
        self.start = start
        self.stage = assigned.stage
        self.share = assigned.propensity
        self.requests = [0, 0, 0]
        self.exposed = [0, 0, 0]
        self.events: dict[str, list[int]] = {}
        self.raw: dict[str, list[int]] = {}
        self.exposures: list[Exposure] = []
        self.firsts: list[FirstEvent] = []
        self.predictions: list[Prediction] = []

    def closed(self, release: str, end: float) -> Seen:
        events = {name: Counts(*counts) for name, counts in self.events.items()}
        raw = {name: Counts(*counts) for name, counts in self.raw.items()}
        counted = (Counts(*self.requests), Counts(*self.exposed), events, raw)
        bucket = Bucket(self.start, end - self.start, self.stage, self.share, *counted)
        kept = (tuple(self.exposures), tuple(self.firsts), tuple(self.predictions))
        return Seen(release, bucket, *kept)


class _Followed:
    """One release.

    Attributes:
        seconds: Length of a bucket.
        end: Of the window that is open, in Unix seconds.
        slow: By metric, seconds from which on an answer is slow.
        tallies: The open buckets, by stage and share: several only where one of them has just changed.
        recent: Units of which it is known for sure in which arm they were seen last.
        since: Unix seconds up to which everything has been handed over.
        latencies: Of good answers of the stable version.
        fresh, news: Units, and what happened to units, which are still to be looked up.
        watch: What is looked at in answers.
        keeps_requests: Outcomes may be posted by the ids of requests.
    """

    def __init__(self, config: CollectorConfig, seconds: float) -> None:
        self.seconds = seconds
        self.end = 0.0
        self.slow: Mapping[str, float] = {}
        self.tallies: dict[tuple[int, float], _Tally] = {}
        self.recent: dict[str, Arm] = {}
        self.since = 0.0
        self.latencies = Histogram(_BOUNDS)
        self.fresh: dict[str, _Told] = {}
        self.news: dict[tuple[str, str], _Told] = {}
        self.watch = Watch()
        self.keeps_requests = False
        self.pending = 0
        self.is_crowded = False
        self._units = Bloom(2 * config.units, config.error)  # units, and units in an arm
        self._happenings = Bloom(config.units, config.error)
        self._most = config.units

    def exposed(self, units: Sequence[int], arms: Sequence[Arm]) -> list[tuple[bool, bool]]:
        """Which of these different units are new, and which are new in their arm."""
        numbers = np.array(units, np.int64).view(np.uint64)
        in_arm = numbers ^ np.array([_MARKS[_PLACE[arm.value]] for arm in arms], np.uint64)
        return list(zip(self._units.add(numbers).tolist(), self._units.add(in_arm).tolist(), strict=True))

    def know(self, units: Sequence[int]) -> None:
        """These different units were seen before, in whatever arm."""
        self._units.add(np.array(units, np.int64).view(np.uint64))

    def happened(self, happenings: Sequence[_Happening]) -> list[bool]:
        """Which of these different happenings are the first of their kind for their unit."""
        numbers = np.array([unit for _, unit in happenings], np.int64)
        kinds = np.array([hash(metric) for metric, _ in happenings], np.int64)
        firsts: list[bool] = self._happenings.add((numbers ^ kinds).view(np.uint64)).tolist()
        return firsts

    @property
    def is_over(self) -> bool:
        """It has met more units than it can tell apart well."""
        return len(self._units) > 2 * self._most

    def keep(self, recent: Mapping[str, Arm]) -> None:
        """These were seen just now."""
        if len(self.recent) + len(recent) > _MOST_RECENT:
            self.recent.clear()
        self.recent.update(recent)


_USUAL: Final = CollectorConfig()


class Collector:
    """Counts what is seen of the releases that it follows.

    Args:
        sink: Takes each bucket that is over.
        clock: Unix seconds.
    """

    def __init__(self, sink: Sink, clock: Callable[[], float], config: CollectorConfig = _USUAL) -> None:
        self._sink = sink
        self._clock = clock
        self._config = config
        self._followed: dict[str, _Followed] = {}

    def __repr__(self) -> str:
        return f"<Collector of {', '.join(self._followed) or 'nothing'}>"

    def follow(
        self,
        release: str,
        units: Iterable[int] = (),
        happenings: Iterable[_Happening] = (),
        seconds: float = 10.0,
    ) -> None:
        """Count a release from now on; events of others are not.

        Args:
            units: Numbers of those that were exposed before, as the ledger has them.
            happenings: Metric and unit of what has happened before.
            seconds: Length of its buckets.
        """
        followed = self._followed[release] = _Followed(self._config, seconds)
        followed.since = self._clock()
        for some in _chunks(units):
            followed.know(some)
        for more in _chunks(happenings):
            followed.happened(more)

    def slow_from(self, release: str, seconds: Mapping[str, float]) -> None:
        """Answers of a release are slow from so many seconds on, by metric."""
        self._followed[release].slow = dict(seconds)

    def thresholds(self, release: str, quantiles: Mapping[str, float]) -> dict[str, float]:
        """Quantiles of the seconds that the stable version's answers took so far.

        Args:
            quantiles: By metric, in (0, 1).

        Returns:
            Seconds by metric; nothing while the answers are too few for the outermost quantile to be known
            (Hahn and Meeker 1991: fewer than 4 p / (1 - p)).
        """
        latencies = self._followed[release].latencies
        outermost = max([*quantiles.values(), 0.0])
        if latencies.count < 4 * outermost / (1 - outermost) or not latencies.count:
            return {}
        return {metric: latencies.quantile(quantile) for metric, quantile in quantiles.items()}

    def watch(self, release: str, checks: Sequence[OutputCheck], *, keeps_requests: bool) -> None:
        """Look at answers of a release so, and note whom each request was sent to, or do not."""
        followed = self._followed[release]
        followed.watch.checks = tuple(checks)
        followed.keeps_requests = keeps_requests

    def bins(self, release: str) -> Mapping[str, tuple[float, ...]]:
        """Inner bounds of the bins that are to be, by metric; nothing of one that was told, or while answers
        of the stable version are too few.
        """
        return self._followed[release].watch.bounds()

    def leave(self, release: str) -> None:
        """It is over: hand over what is left of it."""
        if followed := self._followed.pop(release, None):
            self._close(release, followed, self._clock())

    def tick(self) -> None:
        """Hand over the buckets that are over."""
        now = self._clock()
        for release, followed in self._followed.items():
            if now >= followed.end:
                last = now // followed.seconds * followed.seconds
                self._close(release, followed, followed.end if followed.tallies else last)
                followed.end = last + followed.seconds

    def flush(self) -> None:
        """Hand over all that there is, as at the end of the server."""
        self.tick()
        now = self._clock()
        for release, followed in self._followed.items():
            self._close(release, followed, now)

    def observe(self, events: Sequence[Event]) -> None:
        """See :class:`~salver.serving.ports.Observer`."""
        if not self._followed:
            return
        self.tick()
        now = self._clock()
        groups: dict[str, list[_Seen]] = {}
        for event in events:
            if type(event) is not Served and type(event) is not Responded:
                continue
            if (assigned := event.assignment) is None:
                continue
            if assigned.reason == "hash":
                group = groups.get(assigned.release)
                if group is None:
                    group = groups[assigned.release] = []
                group.append((event, assigned))
        for release, group in groups.items():
            followed = self._followed.get(release)
            if followed is not None:
                self._count(followed, group, now)
                if followed.pending >= self._config.most_pending:
                    self._close(release, followed, now)

    def _count(self, followed: _Followed, events: Sequence[_Seen], now: float) -> None:
        fresh, news = followed.fresh, followed.news
        good: list[float] = []  # seconds of the stable version's answers
        recent, slow, tally = followed.recent, followed.slow, None
        answers = [event.outputs for event, _ in events if type(event) is Responded]
        if answers and followed.watch.are_fine(answers):
            events = [told for told in events if type(told[0]) is Served]
        for event, assigned in events:
            if tally is None or tally.share != assigned.propensity or tally.stage != assigned.stage:
                tally = self._tally(followed, assigned, now)
            arm, unit = assigned.arm, assigned.unit
            place = 0 if arm is _CANARY else 1 if arm is _BASELINE else 2
            if type(event) is Served:
                tally.requests[place] += 1
                if not assigned.has_unit:
                    tally.exposed[place] += 1
                elif recent.get(unit) is not arm and unit not in fresh:
                    fresh[unit] = tally, assigned, now
                if followed.keeps_requests:
                    followed.pending += 1
                    tally.predictions.append(_prediction(event.request_id, assigned, now))
                if event.outcome == OK:
                    if place:
                        good.append(event.latency)
                    if not slow and event.version == assigned.version:
                        continue
                found = happened(event, slow)
            elif type(event) is Responded:
                found = followed.watch.happened(event.outputs, is_control=bool(place))
            for metric in found:
                tally.raw.setdefault(metric, [0, 0, 0])[place] += 1
                if assigned.has_unit:
                    news.setdefault((metric, unit), (tally, assigned, now))
                else:
                    tally.events.setdefault(metric, [0, 0, 0])[place] += 1
        followed.latencies.add_all(good)
        if len(fresh) + len(news) >= _MOST_WAITING:
            self._look_up(followed)

    def _look_up(self, followed: _Followed) -> None:
        """Count those that are new."""
        if followed.fresh:
            self._expose(followed, followed.fresh)
            followed.fresh.clear()
        if followed.news:
            self._note(followed, followed.news)
            followed.news.clear()

    def _expose(self, followed: _Followed, fresh: Mapping[str, _Told]) -> None:
        numbers = [unit_number(unit) for unit in fresh]
        arms = [assigned.arm for _, assigned, _ in fresh.values()]
        told = zip(numbers, fresh.values(), followed.exposed(numbers, arms), strict=True)
        for number, (tally, assigned, at), (is_new, is_new_there) in told:
            if is_new:
                tally.exposed[_PLACE[assigned.arm.value]] += 1
            if is_new or is_new_there:
                followed.pending += 1
                exposure = Exposure(number, assigned.arm, assigned.stage, assigned.propensity, at, is_new)
                tally.exposures.append(exposure)
        followed.keep(dict(zip(fresh, arms, strict=True)))
        if followed.is_over and not followed.is_crowded:
            followed.is_crowded = True
            _LOG.warning(
                "a release has met more than %d units: of new ones ever more are taken for known ones, in "
                "all arms alike",
                self._config.units,
            )

    def _note(self, followed: _Followed, news: Mapping[tuple[str, str], _Told]) -> None:
        happenings = [(metric, unit_number(unit)) for metric, unit in news]
        told = zip(happenings, news.values(), followed.happened(happenings), strict=True)
        for (metric, number), (tally, assigned, at), is_first in told:
            if is_first:
                tally.events.setdefault(metric, [0, 0, 0])[_PLACE[assigned.arm.value]] += 1
                followed.pending += 1
                tally.firsts.append(FirstEvent(number, metric, assigned.arm, assigned.stage, at))

    def _tally(self, followed: _Followed, assigned: Assignment, now: float) -> _Tally:
        key = assigned.stage, assigned.propensity
        tally = followed.tallies.get(key)
        if tally is None:
            start = max(followed.end - followed.seconds, followed.since)
            tally = followed.tallies[key] = _Tally(now if followed.tallies else start, assigned)
        return tally

    def _close(self, release: str, followed: _Followed, end: float) -> None:
        """Hand over what was seen; that nothing was, too, is told, at no stage and without a share."""
        self._look_up(followed)
        if not followed.tallies and end > followed.since:
            nothing = Bucket(followed.since, end - followed.since, NO_STAGE, 0.0)
            self._sink.write(Seen(release, nothing))
        tallies = list(followed.tallies.values())  # what began a stage before it ends where that begins
        for tally, its_end in zip(tallies, [*(t.start for t in tallies[1:]), end], strict=False):
            self._sink.write(tally.closed(release, its_end))
        followed.tallies.clear()
        followed.pending = 0
        followed.since = max(end, followed.since)


def _prediction(request_id: str, assigned: Assignment, now: float) -> Prediction:
    number = unit_number(request_id)
    unit = unit_number(assigned.unit) if assigned.has_unit else number
    return Prediction(number, unit, assigned.arm, assigned.stage, assigned.propensity, now)


def _chunks(things: Iterable[_T]) -> Iterator[list[_T]]:
    """In lists without repetition."""
    source = iter(things)
    while some := list(dict.fromkeys(itertools.islice(source, _AT_ONCE))):
        yield some

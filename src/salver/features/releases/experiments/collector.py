"""Counter of exposures and events of releases, in buckets and by unit.

An observer of events, off the request path. Evaluation and storage of the counts are elsewhere.
"""

import itertools
import math
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from salver.features.releases.experiments.happenings import EVERYWHERE, OK, TIMEOUTS, happened
from salver.features.releases.experiments.open_bucket import OpenBucket
from salver.features.releases.experiments.outputs import OutputCheck, Watch
from salver.features.releases.experiments.pending import Pending, quiet
from salver.features.releases.experiments.recent import Key, RecentBuckets, RequestLog
from salver.features.releases.experiments.resources import ResourceMeter
from salver.features.releases.experiments.seen_units import CollectorConfig, SeenUnits
from salver.features.releases.experiments.speed import Speed
from salver.features.releases.experiments.underway import ActiveRequests
from salver.words.events import BatchRan, Event, Responded, Served, Shadowed
from salver.words.releases import (
    COUNTED,
    NO_STAGE,
    Assignment,
    Bucket,
    BucketObservations,
    Copies,
    Exposures,
    Predictions,
    UnitObservations,
    unit_numbers,
)

_MOST_RECENT: Final = 65_536
_ALIKE, _DIFFERS, _FAILED = 0, 1, 2  # results of copies, from best to worst
_FAR: Final = 10  # multiple of the slowest answer of the stable version that counts as a hang
#: Minimum in buckets: a version that pauses for a minute and then continues does not hang.
_BUCKETS: Final = 3
_AT_ONCE: Final = 8192  # units restored in one step
#: Units, events and requests looked up together, which costs a tenth of looking up each.
_MOST_WAITING: Final = 1024
_MOST_ANSWERS: Final = 65_536  # answers waiting for analysis, as many as the event queue holds

_Numbers = npt.NDArray[np.int64]
_Places = npt.NDArray[np.uint8]
#: An event of a unit: the name under which it counts, and the unit's number.
_Happening = tuple[str, int]
_T = TypeVar("_T", bound=Hashable)
_NOTHING: Final[Mapping[int, _Numbers]] = {}


class _Durations:
    """Durations of a release's answers.

    Attributes:
        slow: By metric, seconds from which an answer is slow.
        quick: Seconds up to which an answer is slow by no metric.
        stable: Durations of successful answers of the stable version.
        slowest: Seconds of the slowest of these.
    """

    __slots__ = ("quick", "slow", "slowest", "stable")

    def __init__(self) -> None:
        self.slow: Mapping[str, float] = {}
        self.quick = math.inf
        self.stable = Speed()
        self.slowest = 0.0


class _FollowedRelease:
    """State of one release.

    Attributes:
        memory: Units and events seen.
        seconds: Length of a bucket.
        end: End of the open window, in Unix seconds.
        tallies: Open buckets by stage, turn and share; several only after a change.
        newest: Latest of these.
        recent: Units whose last arm is known for certain, by its index.
        lately: The last few buckets, by unit.
        since: Unix seconds up to which everything has been passed on.
        heard: See :attr:`salver.words.releases.BucketObservations.heard`.
        watch: Checks of outputs.
        keeps_requests: Outcomes may be posted by the ids of requests.
        copies: By unit, the worst result of its copies in this bucket, and whether one was slower than the
            original.
        pending: Number of rows of the open buckets for the ledger.
        meter: Meter of resources; None = no metric needs it.
    """

    def __init__(self, memory: SeenUnits, seconds: float) -> None:
        self.memory = memory
        self.seconds = seconds
        self.end = 0.0
        self.durations = _Durations()
        self.meter: ResourceMeter | None = None
        self.tallies: dict[Key, OpenBucket] = {}
        self.newest: Key = (NO_STAGE, 0, 0.0)
        self.recent: dict[str, int] = {}
        self.lately = RecentBuckets()
        self.since = 0.0
        self.heard = 0
        self.watch = Watch()
        self.keeps_requests = False
        self.copies: dict[str, tuple[int, bool]] = {}
        self.pending = 0
        self.is_crowded = False

    @property
    def asked(self) -> int:
        """Return the number of requests in the open buckets."""
        return sum(sum(tally.requests) for tally in self.tallies.values())

    @property
    def too_long(self) -> float:
        """Return the seconds after which an unanswered request counts as a time-out."""
        return max(_BUCKETS * self.seconds, _FAR * self.durations.slowest)

    def copied(self, event: Shadowed) -> None:
        """Record the result of a copy, keeping the worst per unit."""
        fared = _ALIKE if event.agrees else _DIFFERS
        if event.outcome != OK:
            fared = _FAILED
        is_slower = fared != _FAILED and event.seconds > event.stable_seconds
        known = self.copies.get(event.unit)
        if known is not None:
            self.copies[event.unit] = max(known[0], fared), known[1] or is_slower
        elif len(self.copies) < _MOST_RECENT:
            self.copies[event.unit] = fared, is_slower

    def taken(self) -> Copies:
        """Return the copies since the last bucket."""
        fared = [how for how, _ in self.copies.values()]
        slower = sum(is_slower for _, is_slower in self.copies.values())
        self.copies = {}
        return Copies(len(fared), fared.count(_DIFFERS), fared.count(_FAILED), slower)

    def keep(self, recent: Mapping[str, int]) -> None:
        """Record units seen just now."""
        if len(self.recent) + len(recent) > _MOST_RECENT:
            self.recent.clear()  # cheaper than to forget the oldest; the filter knows them anyway
        self.recent.update(recent)


_USUAL: Final = CollectorConfig()


class Collector:
    """Counter for the releases that it follows.

    Args:
        sink: Receives each finished bucket.
        clock: Unix seconds.
        under_way: Requests without an answer.
        warn: Receives warnings for the operator, as :meth:`logging.Logger.warning` does.
        processes: Returns the ids of the host processes of a model's version; empty = it runs in the server.
    """

    def __init__(
        self,
        sink: Pending,
        clock: Callable[[], float],
        config: CollectorConfig = _USUAL,
        under_way: ActiveRequests | None = None,
        warn: Callable[..., None] = quiet,
        processes: Callable[[str, str], Sequence[int]] = lambda model, version: (),
    ) -> None:
        self._processes = processes
        self._warn = warn
        self._under_way = under_way or ActiveRequests(clock)
        self._sink = sink
        self._clock = clock
        self._config = config
        self._followed: dict[str, _FollowedRelease] = {}
        #: Answers waiting for analysis; if there are too many, only the newest are kept.
        self.answers: deque[Responded] = deque(maxlen=_MOST_ANSWERS)

    def __repr__(self) -> str:
        return f"<Collector of {', '.join(self._followed) or 'nothing'}>"

    def remembered(
        self,
        units: Sequence[int] | _Numbers = (),
        happenings: Iterable[_Happening] = (),
        *,
        by_stage: Mapping[int, _Numbers] = _NOTHING,
        keeps_arms: bool = False,
    ) -> SeenUnits:
        """Restore what was counted before. For millions of units it takes seconds; callable on any thread.

        Args:
            units: Numbers of known units.
            by_stage: Those of each stage, after the first.
            happenings: Name (:func:`~salver.words.releases.first_in`) and unit of past events in the ledger.
            keeps_arms: A unit that moves to another arm is also stored in the ledger.
        """
        memory = SeenUnits(self._config, keeps_arms=keeps_arms)
        memory.know(units)
        for stage, of_stage in sorted(by_stage.items()):
            memory.met(of_stage, stage)
        for some in _chunks(happenings):
            for name, chosen in _by_name(some).items():
                memory.happened(np.array([some[index][1] for index in chosen], np.int64), name)
        return memory

    def follow(
        self, release: str, seconds: float = 10.0, memory: SeenUnits | None = None, heard: int = 0
    ) -> None:
        """Count a release from now on; events of others are ignored.

        Args:
            seconds: Length of its buckets.
            memory: Earlier counts; None = none.
            heard: As in :meth:`know`.
        """
        followed = self._followed[release] = _FollowedRelease(memory or self.remembered(), seconds)
        followed.since = self._clock()
        followed.heard = heard

    def know(self, release: str, units: Mapping[int, _Numbers], heard: int) -> None:
        """Add units that another server has seen.

        Args:
            units: By stage, and :data:`~salver.words.releases.NO_STAGE` for the release.
            heard: Value to pass on with later observations
                (:attr:`~salver.words.releases.BucketObservations.heard`).
        """
        if (followed := self._followed.get(release)) is not None:
            for stage, some in sorted(units.items()):
                if stage == NO_STAGE:
                    followed.memory.know(some)
                else:
                    followed.memory.met(some, stage)
            followed.heard = heard

    def slow_from(self, release: str, seconds: Mapping[str, float]) -> None:
        """Set the seconds from which answers are slow, by metric."""
        durations = self._followed[release].durations
        durations.slow = dict(seconds)
        durations.quick = min(seconds.values(), default=math.inf)

    def pace(self, release: str, seconds: float) -> None:
        """Set the length of a release's buckets, from the next one on."""
        self._followed[release].seconds = seconds

    def thresholds(self, release: str, quantiles: Mapping[str, float]) -> dict[str, float]:
        """Return the seconds from which answers are slow, by metric, if they differ from the current ones.

        See :meth:`~salver.features.releases.experiments.speed.Speed.thresholds`.
        """
        durations = self._followed[release].durations
        return durations.stable.thresholds(quantiles, durations.slow)

    def watch(self, release: str, checks: Sequence[OutputCheck], *, keeps_requests: bool) -> None:
        """Set the checks of a release's answers, and whether to record each request's version."""
        followed = self._followed[release]
        followed.watch.checks = tuple(checks)
        followed.keeps_requests = keeps_requests

    def measure(self, release: str, model: str, versions: tuple[str, str]) -> None:
        """Measure the resources of a release's canary and stable version."""
        followed = self._followed[release]
        if followed.meter is None:
            followed.meter = ResourceMeter(model, versions, self._processes)

    def bins(self, release: str) -> Mapping[str, tuple[float, ...]]:
        """Return the inner bounds of bins that become known, by metric.

        Empty for bins already known, or while the stable version has too few answers.
        """
        return self._followed[release].watch.bounds()

    def waiting(self, release: str) -> str:
        """Return which requests have waited too long for the canary, as text; empty = none."""
        number, oldest = self._under_way.waiting(release, self._followed[release].too_long)
        if not number:
            return ""
        words = "requests to the canary that have no answer yet"
        return f"{words}: {number}, the oldest for {oldest:.0f} seconds"

    def leave(self, release: str) -> None:
        """Stop counting a release and pass on the remaining counts."""
        if followed := self._followed.pop(release, None):
            self._close(release, followed, self._clock())

    def tick(self) -> None:
        """Pass on finished buckets."""
        now = self._clock()
        for release, followed in self._followed.items():
            if now >= followed.end:
                self._look_for_waiting(release, followed, now)
                last = now // followed.seconds * followed.seconds
                self._close(release, followed, followed.end if followed.tallies else last)
                followed.end = last + followed.seconds

    def _look_for_waiting(self, release: str, followed: _FollowedRelease, now: float) -> None:
        """Report unanswered requests as time-outs once they have waited far longer than any before."""
        if followed.durations.slowest:
            for event in self._under_way.overdue(release, followed.too_long):
                if event.assignment is not None:
                    self._count(followed, event.assignment, (event,), now)
                    if not event.assignment.has_unit:
                        self._tally(followed, event.assignment, now).waits(event.assignment, TIMEOUTS)
            self._wait_on(release, followed, now)
            for tally in followed.tallies.values():
                tally.lookups.date(now)

    def _wait_on(self, release: str, followed: _FollowedRelease, now: float) -> None:
        """Let units fail in each block of time in which a request that was reported still waits."""
        units: defaultdict[Assignment, list[str]] = defaultdict(list)
        for assigned, unit in self._under_way.reported(release):
            if (assigned.stage, assigned.propensity) == (followed.newest[0], followed.newest[2]):
                units[assigned].append(unit)
        for assigned, some in units.items():
            # Those that waited before a pause wait on.
            current = msgspec.structs.replace(assigned, turn=followed.newest[1])
            tally = self._tally(followed, current, now)
            if assigned.propensity:
                places = np.full(len(some), tally.places[assigned.arm], np.uint8)
                failing = UnitObservations(unit_numbers(some), places, np.full(len(some), now))
                tally.rows.failing.setdefault(TIMEOUTS, []).append(failing)

    def flush(self) -> None:
        """Pass on everything, as at the end of the server."""
        self.tick()
        now = self._clock()
        for release, followed in self._followed.items():
            self._close(release, followed, now)

    def observe(self, events: Sequence[Event]) -> None:
        """See :class:`~salver.kernel.serving.ports.Observer`."""
        answers = list(self.answers)
        self.answers.clear()
        if not self._followed:
            return
        self.tick()
        now = self._clock()
        served: defaultdict[Assignment, list[Served]] = defaultdict(list)
        for event in events:
            if type(event) is Served:
                if (assigned := event.assignment) is not None:
                    served[assigned].append(event)
            elif type(event) is BatchRan:
                for followed in self._followed.values():
                    if followed.meter is not None:
                        followed.meter.ran(event)
            elif type(event) is Shadowed and event.release in self._followed:
                self._followed[event.release].copied(event)
        responded: defaultdict[str, list[Responded]] = defaultdict(list)
        for answer in answers:
            responded[answer.assignment.release].append(answer)
        for release, followed in self._followed.items():
            if release in responded:
                self._look_at(followed, responded[release], now)
            for assigned, some in served.items():
                if assigned.release == release and assigned.reason in COUNTED:
                    self._count(followed, assigned, some, now)
            for tally in followed.tallies.values():
                tally.lookups.date(now)
            if sum(len(tally.lookups) for tally in followed.tallies.values()) >= _MOST_WAITING:
                self._look_up(followed)
            if followed.pending >= self._config.most_pending or followed.asked >= self._config.most_requests:
                self._close(release, followed, now)

    def _look_at(self, followed: _FollowedRelease, answers: Sequence[Responded], now: float) -> None:
        if not followed.watch.are_fine(answers):
            for answer in answers:
                assigned = answer.assignment
                if assigned.reason in COUNTED:
                    tally = self._tally(followed, assigned, now)
                    place = tally.places[assigned.arm]
                    found = followed.watch.happened(answer, is_control=bool(place))
                    tally.note(found, assigned, answer.unit, place)

    def _count(
        self, followed: _FollowedRelease, assigned: Assignment, events: Sequence[Served], now: float
    ) -> None:
        """Count the requests of an assignment."""
        # This is the hot loop of the collector: lookups by unit are put off until many can be done at once.
        tally = self._tally(followed, assigned, now)
        place = tally.places[assigned.arm]
        tally.requests[place] += len(events)
        units = [event.unit for event in events]
        is_compared = assigned.propensity > 0  # otherwise nobody gets the canary and units are kept for later
        if is_compared and followed.keeps_requests:
            asked = [(event.request_id, event.unit if assigned.has_unit else "") for event in events]
            tally.lookups.asked.places.update(dict.fromkeys(asked, place))
        if is_compared:
            tally.log.units[place].extend(units)
        if is_compared and assigned.has_unit:
            recent, fresh = followed.recent, tally.lookups.fresh.places
            for unit in units:
                if recent.get(unit) != place and unit not in fresh:  # most units were seen just now
                    fresh[unit] = place
        else:
            tally.exposed[place] += len(events)
            tally.met[place] += len(events)
        good: list[float] = []
        durations, version = followed.durations, assigned.version
        slow, quick = durations.slow, durations.quick
        for event in events:
            if event.outcome == OK and not event.why:
                latency = event.latency
                good.append(latency)
                if event.version == version and latency <= quick:
                    continue
            tally.note(happened(event, slow), assigned, event.unit, place)
        if place and good:  # of the stable version
            durations.stable.add_all(good)
            durations.slowest = max(durations.slowest, *good)

    def _look_up(self, followed: _FollowedRelease) -> None:
        """Count new units and events; those of earlier stages first."""
        for _, tally in sorted(followed.tallies.items()):
            lookups = tally.lookups
            if lookups.fresh.places:
                self._expose(followed, tally)
            if lookups.news.places:
                self._note(followed, tally)
            if lookups.asked.places:
                asked, places, times = lookups.asked.taken()
                requests = unit_numbers(request for request, _ in asked)
                has_unit = np.fromiter((bool(unit) for _, unit in asked), np.bool_, len(asked))
                units = np.where(has_unit, unit_numbers(unit for _, unit in asked), requests)
                tally.rows.predictions.append(Predictions(units, places, times, requests))
                followed.pending += len(asked)

    def _expose(self, followed: _FollowedRelease, tally: OpenBucket) -> None:
        fresh, places, times = tally.lookups.fresh.taken()
        units = unit_numbers(fresh)
        # A unit counts in the arm that it met first; one that changes its arm is kept for its outcomes only.
        is_new, is_new_there = followed.memory.exposed(units, places)
        _add(tally.exposed, places[is_new])
        kept = is_new | is_new_there
        tally.rows.exposures.append(
            Exposures(units[kept], places[kept], times[kept], is_new[kept].view(np.uint8))
        )
        followed.pending += int(kept.sum())
        stage = tally.assigned.stage
        if not stage:
            _add(tally.met, places[is_new])
        elif stage == followed.newest[0]:
            is_met = followed.memory.met(units, stage)
            _add(tally.met, places[is_met])
            tally.rows.met.append(UnitObservations(units[is_met], places[is_met], times[is_met]))
            followed.pending += int(is_met.sum())
        if stage == followed.newest[0]:  # it is not known in which earlier stages they were seen
            followed.keep(fresh)
        if followed.memory.is_over and not followed.is_crowded:
            followed.is_crowded = True
            self._warn(
                "a release has seen more than %d units: a growing fraction of new units is counted as known, "
                "equally in all arms",
                self._config.units,
            )

    def _note(self, followed: _FollowedRelease, tally: OpenBucket) -> None:
        news, places, times = tally.lookups.news.taken()
        units = unit_numbers(unit for _, unit in news)
        for name, indices in _by_name(news).items():
            chosen = np.array(indices)
            if name in tally.log.failing:
                failing = UnitObservations(units[chosen], places[chosen], times[chosen])
                tally.rows.failing.setdefault(name, []).append(failing)
                followed.pending += len(chosen)
            chosen = chosen[followed.memory.happened(units[chosen], name)]
            if len(chosen):
                followed.pending += len(chosen)
                _add(tally.events.setdefault(name, [0, 0, 0]), places[chosen])
                met = UnitObservations(units[chosen], places[chosen], times[chosen])
                tally.rows.firsts.setdefault(name, []).append(met)

    def _tally(self, followed: _FollowedRelease, assigned: Assignment, now: float) -> OpenBucket:
        key = assigned.stage, assigned.turn, assigned.propensity
        tally = followed.tallies.get(key)
        if tally is None:
            start = max(followed.end - followed.seconds, followed.since)
            # A stage that begins within a window begins now, not with the window.
            if followed.tallies and key > followed.newest:
                start = now
            if key[0] > followed.newest[0]:  # a new stage meets all units again
                followed.recent.clear()
            followed.newest = max(followed.newest, key)
            bounds, bins = followed.watch.counted()
            counted = dict.fromkeys((*EVERYWHERE, *followed.durations.slow, *bounds))
            tally = OpenBucket(assigned, start, counted, bins)
            tally.heard = followed.heard
            followed.tallies[key] = tally
        return tally

    def _close(self, release: str, followed: _FollowedRelease, end: float) -> None:
        """Pass on a finished bucket. An empty one is reported too, without stage and share."""
        self._look_up(followed)
        if not followed.tallies and end > followed.since:
            nothing = Bucket(followed.since, end - followed.since, NO_STAGE, 0.0, copies=followed.taken())
            self._sink.write(BucketObservations(release, nothing))
            followed.lately.add(None, followed.end, RequestLog(()))
        # A stage ends where the next begins; what is left of an earlier one has no duration.
        keys = sorted(followed.tallies)
        tallies = [followed.tallies[key] for key in keys]
        for key, tally, its_end in zip(keys, tallies, [*(t.start for t in tallies[1:]), end], strict=False):
            lately = {}
            if key == followed.newest:
                lately = followed.lately.add(key, followed.end, tally.log)
            # Copies count with the earliest stage, which requested them.
            written = tally.closed(release, its_end, followed.taken(), lately)
            if followed.meter is not None and key == followed.newest:
                used = followed.meter.taken()
                bucket = msgspec.structs.replace(written.bucket, resources=used)
                written = msgspec.structs.replace(written, bucket=bucket)
            self._sink.write(written)
        followed.tallies.clear()
        followed.pending = 0
        followed.since = max(end, followed.since)


def _add(counts: list[int], places: _Places) -> None:
    """Add counts to each arm."""
    for place, more in enumerate(np.bincount(places).tolist()):
        counts[place] += more


def _by_name(happenings: Iterable[tuple[str, object]]) -> Mapping[str, Sequence[int]]:
    """Return indices by name."""
    found: dict[str, list[int]] = {}
    for index, (name, _) in enumerate(happenings):
        found.setdefault(name, []).append(index)
    return found


def _chunks(things: Iterable[_T]) -> Iterator[list[_T]]:
    """Split into lists without duplicates."""
    source = iter(things)
    while some := list(dict.fromkeys(itertools.islice(source, _AT_ONCE))):
        yield some

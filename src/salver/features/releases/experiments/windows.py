"""Merging of the counts of several servers into buckets that can be judged.

Each server counts by itself, in windows that begin at the same times everywhere. What they saw in one window,
at one stage and share, is one bucket, once every live server has reported its part. Pure: storage of the
parts and evaluation of the buckets are elsewhere.
"""

import functools
import itertools
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple, TypeVar

import msgspec

from salver.words.releases import (
    BLOCK_BURST,
    NO_STAGE,
    UNSEEN,
    Bucket,
    Counts,
    MetricPart,
    RecentRequests,
    ResourceUse,
    ServerPart,
    Spent,
    is_burst,
    plus,
)

_V = TypeVar("_V")

#: Windows that a server may be late: one is always open, then two more are waited for.
PATIENCE: Final = 3
_LEAST_MISSED: Final = 10.0  # seconds
_LEAST_AHEAD: Final = 1.0  # seconds that may be an error of measurement
#: Times that differ by less than this fraction of a window are equal.
_NEAR: Final = 1e-3

#: A stage with the canary's share, and the value for intervals without traffic.
Stand = tuple[int, float]
_QUIET: Final[Stand] = (NO_STAGE, 0.0)


class WindowPart(msgspec.Struct, frozen=True):
    """Counts of one server in an interval.

    Attributes:
        number: Sequence number per server and release, from 0.
    """

    server: str
    number: int
    bucket: Bucket


class CountingServer(msgspec.Struct, frozen=True):
    """A server that counts a release.

    Attributes:
        until: Unix seconds up to which it has reported.
        ahead: Seconds that its clock is ahead of the ledger's, or, negative, behind.
    """

    server: str
    until: float
    ahead: float = 0.0


class CountedBy(msgspec.Struct, frozen=True):
    """A server that counts a release.

    Attributes:
        server: Its name in logs; new at each start.
        silent_seconds: Seconds since its last complete report; up to a bucket and a second is normal.
        is_heard: It reports regularly; else it has been silent for at least three buckets and ten seconds,
            and the judge does not wait for it.
        ahead_seconds: Seconds that its clock is ahead of the ledger's.
    """

    server: str
    silent_seconds: float
    is_heard: bool
    ahead_seconds: float = 0.0


class JudgedBucket(NamedTuple):
    """The last bucket that was judged.

    Attributes:
        stage: Stage reached.
        since, until: Start and end in Unix seconds.
    """

    stage: int
    since: float
    until: float


class MergedBucket(NamedTuple):
    """A bucket and its parts."""

    bucket: Bucket
    parts: tuple[WindowPart, ...]


def silent(
    witnesses: Iterable[CountingServer], now: float, seconds: float, since: float = -math.inf
) -> tuple[CountingServer, ...]:
    """Return the servers that have been silent for so long that nothing waits for them.

    Args:
        now: Unix seconds.
        seconds: Length of a window.
        since: Unix seconds before which nothing could be reported.
    """
    return tuple(each for each in witnesses if now - max(each.until, since) > PATIENCE * seconds)


def counted_by(witnesses: Sequence[CountingServer], now: float, seconds: float) -> tuple[CountedBy, ...]:
    """Return the servers that count a release, for display; arguments as for :func:`silent`.

    A delay of a few short windows is normal on busy servers, as is a slow clock.
    """
    gone = silent(witnesses, now, max(seconds, _LEAST_MISSED / PATIENCE))
    return tuple(
        CountedBy(w.server, max(0.0, now - w.until), is_heard=w not in gone, ahead_seconds=w.ahead)
        for w in witnesses
    )


def clocks(witnesses: Iterable[CountingServer], now: float, seconds: float) -> str:
    """Return whose clocks differ by more than a bucket, as text; empty = nobody's.

    Windows of such a server are those of other times, and buckets mix them. Arguments as for :func:`silent`.
    """
    found = []
    for each in witnesses:
        # By whatever clock, whoever is dead has reported long ago.
        silence = now - (each.until - each.ahead)
        if abs(each.ahead) > max(seconds, _LEAST_AHEAD) and silence <= PATIENCE * max(seconds, _LEAST_MISSED):
            where = "ahead" if each.ahead > 0 else "behind"
            found.append(f"the clock of {each.server} is {abs(each.ahead):.0f} seconds {where}")
    return "; ".join(found)


def due(
    parts: Iterable[WindowPart], seconds: float, until: float, judged: JudgedBucket | None
) -> list[MergedBucket]:
    """Return the buckets that can be judged now, in order; each part is in one of them or waits.

    A part that arrives after its window was judged joins the next bucket of its stage and share, whose
    interval stays the same; if that stage has ended, it is a bucket of its own, which counts only for harm. A
    window without traffic has no stage (:data:`salver.words.releases.NO_STAGE`).

    Args:
        parts: All waiting parts.
        seconds: Length of a window.
        until: Unix seconds up to which all servers have reported.
        judged: Last judged bucket; None = none.
    """
    late: dict[Stand, list[WindowPart]] = {}
    windows: dict[int, dict[Stand, list[WindowPart]]] = {}
    for part in sorted(parts, key=lambda part: (part.bucket.start, part.server, part.number)):
        bucket, its = part.bucket, _stand(part)
        # Windows begin at the same times on all servers, so that a rounded quotient names one.
        window = math.floor(bucket.start / seconds + _NEAR)
        if judged is not None and _end(bucket) <= judged.until + _NEAR * seconds:
            # Its last few buckets are those of another time.
            bucket = msgspec.structs.replace(bucket, lately={})
            late.setdefault(its, []).append(msgspec.structs.replace(part, bucket=bucket))
        elif (window + 1 - _NEAR) * seconds <= until:
            windows.setdefault(window, {}).setdefault(its, []).append(part)
    # Of an earlier stage: these can join no bucket any more.
    left = [its for its in sorted(late) if judged is not None and NO_STAGE < its[0] < judged.stage]
    found = [_Group(its, late.pop(its), -math.inf, -math.inf) for its in left]
    for window in sorted(windows):
        found += _of_window(windows[window], late)
    return list(_in_order(found, judged, seconds))


class _Group(NamedTuple):
    """Parts of one bucket, with its own start and end."""

    stand: Stand
    parts: Sequence[WindowPart]
    start: float
    end: float


def _of_window(
    groups: dict[Stand, list[WindowPart]], late: dict[Stand, list[WindowPart]]
) -> Iterator[_Group]:
    """Return groups in order of their start, each ending where the next begins, with late parts added."""
    quiet = groups.pop(_QUIET, []) if len(groups) > 1 else []
    quiet += late.pop(_QUIET, [])
    found = sorted((min(part.bucket.start for part in some), its) for its, some in groups.items())
    for (start, its), (following, _) in zip(found, [*found[1:], (math.inf, _QUIET)], strict=True):
        end = min(max(_end(part.bucket) for part in groups[its]), following)
        yield _Group(its, (*groups[its], *quiet, *late.pop(its, ())), start, end)
        quiet = []  # counted once, with the first group


def _in_order(
    groups: Iterable[_Group], judged: JudgedBucket | None, seconds: float
) -> Iterator[MergedBucket]:
    """Make groups consecutive: each begins after the one before, and not before that ends."""
    since, until = (judged.since, judged.until) if judged else (-math.inf, -math.inf)
    for group in groups:
        start = group.start
        if group.start < until - _NEAR * seconds:
            start = until
        start = max(start, math.nextafter(since, math.inf))  # the judge refuses two of the same start
        end = max(group.end, start)
        yield MergedBucket(_sum(group.parts, group.stand, start, end), tuple(group.parts))
        since, until = start, end


def _sum(parts: Sequence[WindowPart], stand: Stand, start: float, end: float) -> Bucket:
    """Return the sum of parts; a single part unchanged, to the last bit."""
    stage, share = stand
    buckets = [part.bucket for part in parts]
    if len(buckets) == 1 and buckets[0].start == start and _end(buckets[0]) == end:
        return msgspec.structs.replace(buckets[0], stage=stage, share=share)
    # What a server does not count is not zero: it is not known.
    asked = [bucket for bucket in buckets if bucket.requests.total]
    servers = len({part.server for part in parts if part.bucket.requests.total})
    known = set.intersection(*(set(bucket.events) for bucket in asked or buckets))
    known |= {name for bucket in asked for name in bucket.events if name.endswith(UNSEEN)}
    lately = [_known(bucket.lately, known) for bucket in buckets]
    return Bucket(
        start=start,
        seconds=end - start,
        stage=stage,
        share=share,
        requests=functools.reduce(plus, (bucket.requests for bucket in buckets)),
        exposures=functools.reduce(plus, (bucket.exposures for bucket in buckets)),
        events=_totals((bucket.events for bucket in buckets), known),
        in_stage=_totals((bucket.in_stage for bucket in buckets), known),
        raw=_totals((bucket.raw for bucket in buckets), known),
        copies=functools.reduce(plus, (bucket.copies for bucket in buckets)),
        met=functools.reduce(plus, (bucket.met for bucket in buckets)),
        blocks=_by_place((bucket.blocks for bucket in buckets), known),
        lately=_together(lately),
        parts=tuple(_of_server(part, known) for part in parts if servers > 1),
        resources=_used([bucket.resources for bucket in asked]),
    )


def _used(by_server: Sequence[Mapping[str, ResourceUse]]) -> dict[str, ResourceUse]:
    """Return what is known of all servers with requests."""
    if not by_server:
        return {}
    names = set.intersection(*map(set, by_server))
    return {
        name: ResourceUse(
            _spent(used[name].canary for used in by_server), _spent(used[name].stable for used in by_server)
        )
        for name in sorted(names)
    }


def _spent(each: Iterable[Spent]) -> Spent:
    some = list(each)
    return Spent(sum(one.amount for one in some), sum(one.units for one in some))


def _of_server(part: WindowPart, known: Container[str]) -> ServerPart:
    """Return the counts in which a burst of a server's process shows."""
    bucket, found = part.bucket, {}
    for metric, raw in _known(bucket.raw, known).items():
        if raw.canary or is_burst(raw.control, bucket.requests.control, BLOCK_BURST):
            events = bucket.events.get(metric, Counts())
            found[metric] = MetricPart(raw, events, bucket.blocks.get(metric) or (events,))
    return ServerPart(part.server, bucket.requests, found)


def _known(by_metric: Mapping[str, _V], known: Container[str]) -> dict[str, _V]:
    """Return only metrics that are known."""
    return {metric: value for metric, value in by_metric.items() if metric in known}


def _totals(by_metric: Iterable[Mapping[str, Counts]], known: Container[str]) -> dict[str, Counts]:
    found: dict[str, Counts] = {}
    for each in by_metric:
        for metric, counts in _known(each, known).items():
            found[metric] = plus(found.get(metric, Counts()), counts)
    return found


def _by_place(
    by_metric: Iterable[Mapping[str, tuple[Counts, ...]]], known: Container[str]
) -> dict[str, tuple[Counts, ...]]:
    found: dict[str, tuple[Counts, ...]] = {}
    for each in by_metric:
        for metric, places in _known(each, known).items():
            pairs = itertools.zip_longest(found.get(metric, ()), places, fillvalue=Counts())
            found[metric] = tuple(plus(one, other) for one, other in pairs)
    return found


def _together(windows: Iterable[Mapping[str, RecentRequests]]) -> dict[str, RecentRequests]:
    """Return the sums of short windows; units that ask several servers count several times."""
    found: dict[str, RecentRequests] = {}
    for each in windows:
        for metric, lately in each.items():
            known, lately = found.get(metric, RecentRequests()), lately.short or lately
            found[metric] = RecentRequests(
                plus(known.requests, lately.requests),
                plus(known.failures, lately.failures),
                plus(known.units, lately.units),
                plus(known.failing, lately.failing),
                max(known.buckets, lately.buckets),
                max(known.failed_buckets, lately.failed_buckets),
            )
    return found


def _stand(part: WindowPart) -> Stand:
    return part.bucket.stage, part.bucket.share


def _end(bucket: Bucket) -> float:
    return bucket.start + bucket.seconds

"""Merging of the counts of several servers into buckets that can be judged.

Each server counts by itself, in windows that begin at the same times everywhere. What they saw in one window,
at one stage and share, is one bucket, once every live server has reported its part. Pure: storage of the
parts and evaluation of the buckets are elsewhere.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from salver.words.releases import NO_STAGE, Bucket, Counts, plus

#: Windows that a server may be late: one is always open, then two more are waited for.
PATIENCE: Final = 3
_LEAST_MISSED: Final = 10.0  # seconds
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
    """

    server: str
    until: float


class CountedBy(msgspec.Struct, frozen=True):
    """A server that counts a release.

    Attributes:
        server: Its name in logs; new at each start.
        silent_seconds: Seconds since its last complete report; up to a bucket and a second is normal.
        is_heard: It reports regularly; else it has been silent for at least three buckets and ten seconds,
            and the judge does not wait for it.
    """

    server: str
    silent_seconds: float
    is_heard: bool


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
    return tuple(CountedBy(w.server, max(0.0, now - w.until), is_heard=w not in gone) for w in witnesses)


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
            late.setdefault(its, []).append(part)
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
        yield MergedBucket(
            _sum([part.bucket for part in group.parts], group.stand, start, end), tuple(group.parts)
        )
        since, until = start, end


def _sum(buckets: Sequence[Bucket], stand: Stand, start: float, end: float) -> Bucket:
    """Return the sum of parts; a single part unchanged, to the last bit."""
    stage, share = stand
    if len(buckets) == 1 and buckets[0].start == start and _end(buckets[0]) == end:
        return msgspec.structs.replace(buckets[0], stage=stage, share=share)
    return Bucket(
        start=start,
        seconds=end - start,
        stage=stage,
        share=share,
        requests=functools.reduce(plus, (bucket.requests for bucket in buckets)),
        exposures=functools.reduce(plus, (bucket.exposures for bucket in buckets)),
        events=_totals(bucket.events for bucket in buckets),
        in_hour=_totals(bucket.in_hour for bucket in buckets),
        in_stage=_totals(bucket.in_stage for bucket in buckets),
        raw=_totals(bucket.raw for bucket in buckets),
        copies=functools.reduce(plus, (bucket.copies for bucket in buckets)),
    )


def _totals(by_metric: Iterable[Mapping[str, Counts]]) -> dict[str, Counts]:
    found: dict[str, Counts] = {}
    for each in by_metric:
        for metric, counts in each.items():
            found[metric] = plus(found.get(metric, Counts()), counts)
    return found


def _stand(part: WindowPart) -> Stand:
    return part.bucket.stage, part.bucket.share


def _end(bucket: Bucket) -> float:
    return bucket.start + bucket.seconds

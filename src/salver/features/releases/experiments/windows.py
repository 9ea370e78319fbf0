"""Which of what several servers counted is one bucket, and which of it may be judged now?

Each server counts for itself, in windows that begin at the same times everywhere. What they saw of one
window, at one stage and share, is one bucket, once every server that is still there has told its part. Pure:
where parts lie meanwhile, and what a bucket proves, is not known here.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from salver.words.releases import NO_STAGE, Bucket, Counts, plus

#: Windows that a server may be behind: one is always open, and then it is waited for two more.
PATIENCE: Final = 3
_LEAST_MISSED: Final = 10.0  # seconds
#: Times that differ by less than this part of a window are the same.
_NEAR: Final = 1e-3

#: A stage, and the canary's share in it; and those of a stretch of time in which nobody came.
Stand = tuple[int, float]
_QUIET: Final[Stand] = (NO_STAGE, 0.0)


class Part(msgspec.Struct, frozen=True):
    """What one server counted in a stretch of time.

    Attributes:
        number: From 0 on, of those that this server told of this release.
    """

    server: str
    number: int
    bucket: Bucket


class Witness(msgspec.Struct, frozen=True):
    """A server that counts a release.

    Attributes:
        until: Unix seconds; what it saw before has been told.
    """

    server: str
    until: float


class CountedBy(msgspec.Struct, frozen=True):
    """A server that counts a release.

    Attributes:
        server: As logs name it; new each time that a server starts.
        silent_seconds: Since it last told all that it had counted; up to a bucket and a second is usual.
        is_heard: It goes on telling; else it has been silent for three buckets and ten seconds at least, and
            the judge does not wait for it.
    """

    server: str
    silent_seconds: float
    is_heard: bool


class Judged(NamedTuple):
    """The last bucket that was judged.

    Attributes:
        stage: That has been reached.
        since, until: Its start and its end, in Unix seconds.
    """

    stage: int
    since: float
    until: float


class Merged(NamedTuple):
    """A bucket, and of what it is made."""

    bucket: Bucket
    parts: tuple[Part, ...]


def silent(
    witnesses: Iterable[Witness], now: float, seconds: float, since: float = -math.inf
) -> tuple[Witness, ...]:
    """Those who have told nothing for so long that nobody waits for them any more.

    Args:
        now: Unix seconds.
        seconds: Length of a window.
        since: Unix seconds; before, nobody could tell anything.
    """
    return tuple(each for each in witnesses if now - max(each.until, since) > PATIENCE * seconds)


def counted_by(witnesses: Sequence[Witness], now: float, seconds: float) -> tuple[CountedBy, ...]:
    """What people are told of them; arguments as for :func:`silent`.

    Of short windows a few are no news, as busy servers come late; nor is a clock that is behind.
    """
    gone = silent(witnesses, now, max(seconds, _LEAST_MISSED / PATIENCE))
    return tuple(CountedBy(w.server, max(0.0, now - w.until), is_heard=w not in gone) for w in witnesses)


def due(parts: Iterable[Part], seconds: float, until: float, judged: Judged | None) -> list[Merged]:
    """The buckets that may be judged now, in their order; each of the parts is in one of them, or waits.

    What comes after its window was judged joins the next bucket of its stage and share, whose stretch of time
    stays as it is; where that stage has been left, it is a bucket of its own, which counts for harm alone. A
    window in which nobody came is of no stage (:data:`salver.words.releases.NO_STAGE`).

    Args:
        parts: All that wait.
        seconds: Length of a window.
        until: Unix seconds; all servers have told what they saw before.
        judged: None = nothing was.
    """
    late: dict[Stand, list[Part]] = {}
    windows: dict[int, dict[Stand, list[Part]]] = {}
    for part in sorted(parts, key=lambda part: (part.bucket.start, part.server, part.number)):
        bucket, its = part.bucket, _stand(part)
        window = math.floor(bucket.start / seconds + _NEAR)
        if judged is not None and _end(bucket) <= judged.until + _NEAR * seconds:
            late.setdefault(its, []).append(part)
        elif (window + 1 - _NEAR) * seconds <= until:
            windows.setdefault(window, {}).setdefault(its, []).append(part)
    left = [its for its in sorted(late) if judged is not None and NO_STAGE < its[0] < judged.stage]
    found = [_Group(its, late.pop(its), -math.inf, -math.inf) for its in left]
    for window in sorted(windows):
        found += _of_window(windows[window], late)
    return list(_in_order(found, judged, seconds))


class _Group(NamedTuple):
    """Parts of one bucket, and where it would begin and end by itself."""

    stand: Stand
    parts: Sequence[Part]
    start: float
    end: float


def _of_window(groups: dict[Stand, list[Part]], late: dict[Stand, list[Part]]) -> Iterator[_Group]:
    """In the order of their beginnings, each one ending where the next begins. Late ones come along."""
    quiet = groups.pop(_QUIET, []) if len(groups) > 1 else []
    quiet += late.pop(_QUIET, [])
    found = sorted((min(part.bucket.start for part in some), its) for its, some in groups.items())
    for (start, its), (following, _) in zip(found, [*found[1:], (math.inf, _QUIET)], strict=True):
        end = min(max(_end(part.bucket) for part in groups[its]), following)
        yield _Group(its, (*groups[its], *quiet, *late.pop(its, ())), start, end)
        quiet = []


def _in_order(groups: Iterable[_Group], judged: Judged | None, seconds: float) -> Iterator[Merged]:
    """One after the other: each begins after the one before, and not before that ends."""
    since, until = (judged.since, judged.until) if judged else (-math.inf, -math.inf)
    for group in groups:
        start = until if group.start < until - _NEAR * seconds else group.start
        start = max(start, math.nextafter(since, math.inf))
        end = max(group.end, start)
        yield Merged(_sum([part.bucket for part in group.parts], group.stand, start, end), tuple(group.parts))
        since, until = start, end


def _sum(buckets: Sequence[Bucket], stand: Stand, start: float, end: float) -> Bucket:
    """All that was counted; of one bucket, that one to the last bit."""
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


def _stand(part: Part) -> Stand:
    return part.bucket.stage, part.bucket.share


def _end(bucket: Bucket) -> float:
    return bucket.start + bucket.seconds

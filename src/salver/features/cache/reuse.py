"""Online curve of hit ratio by cache size: SHARDS with a fixed number of samples.

Waldspurger et al., Efficient MRC Construction with SHARDS, FAST 2015. Pure. Keys are sampled by their hash,
so that each repetition of a sampled key is seen; the number of bytes of other keys between two accesses is
the size that a cache needs for the second one to hit. When there are more samples than allowed, those with
the largest hashes go, and older counts are scaled to the new rate.
"""

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable
from typing import Final, NamedTuple

_MODULUS: Final = 1 << 32
#: Distances are counted in steps of this factor: fine enough for an error far below the sample's.
_STEPS: Final = 64  # per doubling
_MANY: Final = 512  # distances in entries that are kept


class Point(NamedTuple):
    """Hit ratio of an LRU cache of a size."""

    bytes: float
    hit_ratio: float


class ReuseSampler:
    """Sampler of the accesses to one model's keys.

    Args:
        samples: Largest number of keys that are followed.
        rate: Share of the keys that callers pass on, having left out the others by their content.
    """

    def __init__(self, samples: int = 5000, rate: float = 1.0) -> None:
        self._most = samples
        self._offered = rate
        self._threshold = _MODULUS
        self._last: dict[int, int] = {}  # last access, by hash
        # Arrays, which need a quarter of the memory of lists; taking one number out moves few bytes.
        self._times = array("q")  # last accesses, in order
        self._sizes = array("d")  # sizes in the same order
        self._uniform = True  # all sizes equal
        self._now = 0
        self._counts: defaultdict[int, float] = defaultdict(float)  # by step of distance
        self._entries: defaultdict[int, int] = defaultdict(
            int
        )  # by distance in entries, while sizes are equal
        self._sampled = 0.0  # accesses counted, scaled as the counts are
        self._seen = 0.0  # accesses, scaled by the same factors

    def __repr__(self) -> str:
        return f"<ReuseSampler of {len(self._last)} keys, rate {self.rate:.3g}>"

    @property
    def rate(self) -> float:
        """Share of all keys that are followed."""
        return self._offered * self._threshold / _MODULUS

    @property
    def accesses(self) -> float:
        """Accesses seen, the old ones at a lower weight."""
        return self._seen

    def record(self, hashed: int, size: float) -> None:
        """Note an access; see :meth:`record_all`."""
        self.record_all(((hashed, size),))

    def record_all(self, accesses: Iterable[tuple[int, float]]) -> None:
        """Note accesses.

        Args:
            accesses: 32 bits of a hash of each key, and the bytes of its entry.
        """
        # Names of this function: a hit pays for its share of this loop (benchmarks/cache_hits.py).
        times, latest, entries_at, threshold = self._times, self._last, self._entries, self._threshold
        seen = sampled = 0
        for hashed, size in accesses:
            seen += 1
            if hashed >= threshold:
                continue
            sampled += 1
            last = latest.get(hashed)
            if last is None:
                if self._sizes and size != self._sizes[-1]:
                    self._settle()
                    self._uniform = False
            else:
                at = bisect_left(times, last)
                entries = len(times) - at
                if self._uniform:
                    entries_at[entries] += 1
                else:
                    self._counts[_step(sum(self._sizes[at:]) / self.rate)] += 1
                if entries == 1:  # it is the latest already
                    continue
                size = self._sizes.pop(at)
                del times[at]
            self._now += 1
            times.append(self._now)
            self._sizes.append(size)
            latest[hashed] = self._now
            if len(latest) > self._most:
                self._sampled += sampled
                sampled = 0
                del times, latest  # so that the old ones do not stay beside the new ones
                self._narrow()
                times, latest, threshold = self._times, self._last, self._threshold
        self._seen += seen
        self._sampled += sampled
        if len(self._entries) > _MANY:
            self._settle()

    def _settle(self) -> None:
        """Turn distances in entries of one size into bytes."""
        for entries, count in self._entries.items():
            self._counts[_step(entries * self._sizes[-1] / self.rate)] += count
        self._entries.clear()

    def fade(self, factor: float = 0.5) -> None:
        """Give what was seen until now a lower weight, so that the curve follows the traffic."""
        self._settle()
        self._scale(factor)
        self._seen *= factor

    def curve(self) -> list[Point]:
        """Return sizes and their hit ratios, both rising; empty = nothing was seen twice."""
        self._settle()
        expected = self._seen * self._threshold / _MODULUS
        if not self._counts or expected <= 0:
            return []
        # The sample has by chance more or fewer accesses of popular keys: counted as hits at once
        # (SHARDS-adj).
        total = expected - self._sampled
        points: list[Point] = []
        for step in sorted(self._counts):
            total += self._counts[step]
            ratio = min(1.0, max(0.0, total / expected))
            if not points or ratio > points[-1].hit_ratio:
                points.append(Point(_size(step), ratio))
        return points

    def _narrow(self) -> None:
        """Drop the sixteenth of the keys with the largest hashes; scale the counts to the lower rate."""
        self._settle()
        before = self._threshold
        self._threshold = sorted(self._last)[self._most * 15 // 16]
        self._last = {hashed: last for hashed, last in self._last.items() if hashed < self._threshold}
        kept = set(self._last.values())
        sizes = [size for last, size in zip(self._times, self._sizes, strict=True) if last in kept]
        self._times, self._sizes = array("q", sorted(kept)), array("d", sizes)
        self._scale(self._threshold / before)

    def _scale(self, factor: float) -> None:
        for step in self._counts:
            self._counts[step] *= factor
        self._sampled *= factor


def _step(distance: float) -> int:
    """Return the number of a distance on the logarithmic scale, rounded up."""
    whole = max(1, int(distance))
    doublings = whole.bit_length() - 1
    return doublings * _STEPS + -(-((whole - (1 << doublings)) * _STEPS) // (1 << doublings))


def _size(step: int) -> float:
    """Return the largest distance of a step.

    >>> all(_size(_step(each)) >= each > _size(_step(each) - 1) for each in range(2, 2000))
    True
    """
    doublings, part = divmod(step, _STEPS)
    return float((1 << doublings) * (1 + part / _STEPS))

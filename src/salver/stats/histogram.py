"""Histogram with fixed bounds, whose counts can be added over servers.

Histograms with equal bounds add bucket by bucket, unlike separately computed quantiles. Knows no clock, no
label and no exposition format.
"""

import itertools
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

#: Below this many values a loop is faster than numpy's fixed cost.
_VECTORISE_FROM = 48

#: Seconds, 50 µs to 60 s, about six per decade. The same in every Salver, so that replicas can be added.
DURATION_BOUNDS: tuple[float, ...] = (
    50e-6, 70e-6,
    100e-6, 150e-6, 200e-6, 300e-6, 500e-6, 700e-6,
    1e-3, 1.5e-3, 2e-3, 3e-3, 5e-3, 7e-3,
    10e-3, 15e-3, 20e-3, 30e-3, 50e-3, 70e-3,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.7,
    1.0, 1.5, 2.0, 3.0, 5.0, 7.0,
    10.0, 15.0, 20.0, 30.0, 60.0,
)  # fmt: skip

#: Rows of a batch, powers of two.
ROW_BOUNDS: tuple[float, ...] = tuple(float(2**k) for k in range(13))


class Histogram:
    """Counts per bucket, and the sum.

    Bucket ``i`` holds the values in ``(bounds[i-1], bounds[i]]``; one more holds what is above
    the last bound (Prometheus' ``le`` convention).

    >>> h = Histogram((1.0, 2.0, 4.0))
    >>> h.add_all([0.5, 1.0, 3.0, 9.0])
    >>> h.counts, h.count, h.sum
    ([2, 0, 1, 1], 4, 13.5)
    >>> h.cumulative()
    [2, 2, 3, 4]
    """

    __slots__ = ("_array", "bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self._array = np.asarray(bounds)

    def __repr__(self) -> str:
        return f"<Histogram {self.count} values, sum {self.sum:g}>"

    @property
    def count(self) -> int:
        """Return the number of values."""
        return sum(self.counts)

    def add_all(self, values: Sequence[float]) -> None:
        """Count each value. Values must be finite."""
        counts = self.counts
        if len(values) < _VECTORISE_FROM:
            bounds = self.bounds
            for value in values:
                counts[bisect_left(bounds, value)] += 1
        else:
            found = np.searchsorted(self._array, np.array(values))
            for index, more in enumerate(np.bincount(found).tolist()):
                if more:
                    counts[index] += more
        self.sum += sum(values)

    def merge(self, other: "Histogram") -> None:
        """Add the counts of another histogram.

        Raises:
            ValueError: the bounds differ.
        """
        if other.bounds != self.bounds:
            raise ValueError("histograms of different bounds do not add up")
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum

    def cumulative(self) -> list[int]:
        """Return the number of values at or below each bound, then the total."""
        return list(itertools.accumulate(self.counts))

    def quantile(self, q: float) -> float:
        """Return the ``q`` quantile, interpolated inside its bucket as PromQL's ``histogram_quantile`` does.

        The error is at most the width of that bucket. 0 when empty.

        >>> h = Histogram((1.0, 2.0, 4.0))
        >>> h.add_all([1.5] * 10)
        >>> h.quantile(0.5)
        1.5
        """
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is in [0, 1], not {q}")
        rank, below = q * self.count, 0
        for index, inside in enumerate(self.counts):
            if inside and below + inside >= rank:
                if index == len(self.bounds):
                    return self.bounds[-1]
                low = self.bounds[index - 1] if index else 0.0
                return low + (self.bounds[index] - low) * (rank - below) / inside
            below += inside
        return 0.0

"""Hit ratios of caches whose requests are independent draws from fixed popularities.

Pure. Che, Wang and others, Hierarchical Web Caching Systems, JSAC 2002, for LRU; its form for FIFO and RANDOM
by Gelenbe, and Fricker, Robert and Roberts, 2012.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

_Probabilities = npt.NDArray[np.float64]


def zipf(items: int, exponent: float) -> _Probabilities:
    """Return the probabilities of ``items`` ranks, the most popular first."""
    weights = np.arange(1, items + 1, dtype=np.float64) ** -exponent
    found: _Probabilities = weights / weights.sum()
    return found


def lru_hit_ratio(popularity: Sequence[float] | _Probabilities, capacity: float) -> float:
    """Return the expected hit ratio of LRU with room for so many items.

    >>> round(lru_hit_ratio(zipf(10_000, 0.8), 1_000), 4)
    0.4367
    """
    return _hit_ratio(popularity, capacity, lambda x: -np.expm1(-x))


def fifo_hit_ratio(popularity: Sequence[float] | _Probabilities, capacity: float) -> float:
    """Return the expected hit ratio of FIFO, and of random eviction.

    >>> round(fifo_hit_ratio(zipf(10_000, 0.8), 1_000), 4)
    0.3942
    """
    return _hit_ratio(popularity, capacity, lambda x: x / (1 + x))


def best_hit_ratio(popularity: Sequence[float] | _Probabilities, capacity: int) -> float:
    """Return the share of the most popular items: the best that a cache without foresight reaches.

    >>> round(best_hit_ratio(zipf(10_000, 1.0), 500), 4)
    0.694
    """
    ordered = np.sort(np.asarray(popularity, np.float64))[::-1]
    return float(ordered[:capacity].sum())


def _hit_ratio(
    popularity: Sequence[float] | _Probabilities,
    capacity: float,
    resident: Callable[[_Probabilities], _Probabilities],
) -> float:
    """Return the hit ratio, given the probability that an item with so many expected requests is resident."""
    shares = np.asarray(popularity, np.float64)
    if capacity >= len(shares):
        return 1.0
    if capacity <= 0:
        return 0.0
    low, high = 0.0, 1.0
    while resident(shares * high).sum() < capacity:  # the characteristic time, by bisection
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        if resident(shares * middle).sum() < capacity:
            low = middle
        else:
            high = middle
    return float((shares * resident(shares * high)).sum())

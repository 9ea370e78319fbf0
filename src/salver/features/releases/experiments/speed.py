"""Thresholds from which an answer counts as slow.

Quantiles of the stable version's answers. They are kept, so that both arms are compared with the same
thresholds; but those measured while a machine was busy are outdated once it is not, and are measured anew.
When that happens depends only on earlier answers, and on none of the canary's, so that evidence stays valid.
Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from salver.stats.histogram import Histogram

_BOUNDS: Final = tuple(50e-6 * 10 ** (step / 20) for step in range(122))  # maximum seconds measured, a minute
#: Answers expected beyond the outermost quantile in a window.
_SLOW_ONES: Final = 160
#: Factor of the odds of a slow answer beyond which an old measurement is outdated.
_OFF: Final = 1.5
#: Ticks, usually a second each, without measurement after a window that confirmed the thresholds.
_REST: Final = 60


class Speed:
    """Durations of answers since the last quantiles, once they are needed."""

    def __init__(self) -> None:
        self._seconds = Histogram(_BOUNDS)
        self._rests = 1  # ticks before the next measurement
        self._is_rough = True  # no full window yet

    def __repr__(self) -> str:
        return f"<Speed of {self._seconds.count} answers>"

    def add_all(self, seconds: Sequence[float]) -> None:
        """Add the durations of answers."""
        if not self._rests:
            self._seconds.add_all(seconds)

    def thresholds(self, quantiles: Mapping[str, float], known: Mapping[str, float]) -> dict[str, float]:
        """Return the seconds from which an answer is slow, by metric.

        Args:
            quantiles: Quantile by metric, in (0, 1).
            known: Current thresholds; empty = none yet.

        Returns:
            At first from the earliest answers; empty while they are too few for the outermost quantile (Hahn
            and Meeker 1991: fewer than 4 p / (1 - p)). Then from a full window, and from another one only if
            the fraction of slow answers no longer matches.
        """
        if not quantiles:
            return {}
        self._rests = max(0, self._rests - 1)
        outermost = max(quantiles.values())
        fewest = round((_SLOW_ONES if known else 4 * outermost) / (1 - outermost))
        if self._seconds.count < max(1, fewest):
            return {}
        window, self._seconds = self._seconds, Histogram(_BOUNDS)
        is_kept = not self._is_rough and all(
            _holds(window, known.get(name, 0.0), quantile) for name, quantile in quantiles.items()
        )
        self._is_rough, self._rests = not known, _REST if is_kept else 0
        if is_kept:
            return {}
        return {name: window.quantile(quantile) for name, quantile in quantiles.items()}


def _holds(window: Histogram, threshold: float, quantile: float) -> bool:
    """Return whether about as many answers are slow as the quantile implies."""
    odds = (1 - quantile) / quantile
    least, most = (window.quantile(1 / (1 + odds * times)) for times in (_OFF, 1 / _OFF))
    return least <= threshold <= most

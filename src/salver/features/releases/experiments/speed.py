"""From how many seconds on is an answer slow?

Quantiles of the stable version's answers. They stay, so that both arms are held against the same;
but what was measured while a machine was busy says nothing once it is not, and is measured anew. When
that is depends on answers before alone, and on none of the canary's, so evidence stays what it is. Pure.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from salver.stats.histogram import Histogram

_BOUNDS: Final = tuple(50e-6 * 10 ** (step / 20) for step in range(122))  # seconds, to a minute
#: Answers of which so many are expected beyond the outermost quantile make a window.
_SLOW_ONES: Final = 160
#: Less or more often than so many times, by its odds, an answer is slow where it was measured long ago.
_OFF: Final = 1.5
#: Looks, a second each as a rule, for which nothing is measured after a window that was as it should be: what
#: stays so for a minute costs little to know.
_REST: Final = 60


class Speed:
    """How long answers take: those since the last quantiles were taken, once somebody has asked."""

    def __init__(self) -> None:
        self._seconds = Histogram(_BOUNDS)
        self._rests = 1  # looks, before more is measured
        self._is_rough = True  # there was no whole window yet

    def __repr__(self) -> str:
        return f"<Speed of {self._seconds.count} answers>"

    def add_all(self, seconds: Sequence[float]) -> None:
        """Answers that came, and how long they took."""
        if not self._rests:
            self._seconds.add_all(seconds)

    def thresholds(self, quantiles: Mapping[str, float], known: Mapping[str, float]) -> dict[str, float]:
        """Seconds from which on an answer is slow, by metric.

        Args:
            quantiles: By metric, in (0, 1).
            known: What was slow so far; empty = nothing yet.

        Returns:
            At first of those that come first; nothing while they are too few for the outermost quantile to
            be known (Hahn and Meeker 1991: fewer than 4 p / (1 - p)). Then of a whole window, and of another
            one only where about as many are slow as should be no more.
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
        return {} if is_kept else {name: window.quantile(quantile) for name, quantile in quantiles.items()}


def _holds(window: Histogram, threshold: float, quantile: float) -> bool:
    """About as many are slow as a quantile says."""
    odds = (1 - quantile) / quantile
    least, most = (window.quantile(1 / (1 + odds * times)) for times in (_OFF, 1 / _OFF))
    return least <= threshold <= most

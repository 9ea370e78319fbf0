"""Estimate and interval of the ratio of the canary's rate to its control's.

The likelihood of each ratio on a grid. An interval consists of the ratios that the mixture of all does not
reject (Robbins 1970): it is valid at all looks simultaneously. Knows only counts. Pure.
"""

import math
from typing import Self

import msgspec

from salver.stats.combine import log_mean

#: Ratios from 1/64 to 64.
GRID = tuple(2 ** (step / 4) for step in range(-24, 25))
_LOGS = tuple(math.log(ratio) for ratio in GRID)


class Ratio(msgspec.Struct, frozen=True):
    """Likelihoods of the ratio given the counts so far; plain data, updated by copying.

    Args:
        log_likelihoods: One per ratio of the grid.
        above, below: Mantel-Haenszel sums over the buckets, whose quotient estimates the ratio.

    >>> ratio = Ratio().add(30, 130, share=0.1)
    >>> round(ratio.estimate, 2), [round(bound, 1) for bound in ratio.interval(0.05)]
    (2.7, [1.3, 5.2])
    """

    log_likelihoods: tuple[float, ...] = (0.0,) * len(GRID)
    above: float = 0.0
    below: float = 0.0

    def add(self, canary_events: int, events: int, share: float, factor: float = 1.0) -> Self:
        """Add a bucket.

        Args:
            events: Events of both sides.
            share: The canary's share of the units, in (0, 1).
            factor: Divisor of the evidence.
        """
        return type(self)(
            tuple(
                total + (canary_events * log - events * math.log1p(share * (ratio - 1))) / factor
                for total, ratio, log in zip(self.log_likelihoods, GRID, _LOGS, strict=True)
            ),
            self.above + canary_events * (1 - share),
            self.below + (events - canary_events) * share,
        )

    @property
    def estimate(self) -> float | None:
        """Return the estimate; None = the control had no event."""
        if not self.below:
            return None
        return self.above / self.below

    def interval(self, chance: float) -> tuple[float | None, float | None]:
        """Return bounds that are wrong at any look with at most this probability; None = none yet."""
        least = log_mean(self.log_likelihoods) + math.log(chance)  # of a ratio that is not rejected
        kept = [index for index, value in enumerate(self.log_likelihoods) if value >= least]
        if not kept:  # between two of the grid
            kept = [max(range(len(GRID)), key=self.log_likelihoods.__getitem__)]
        return self._crossing(kept[0], kept[0] - 1, least), self._crossing(kept[-1], kept[-1] + 1, least)

    def _crossing(self, inside: int, outside: int, least: float) -> float | None:
        """Return where the likelihood falls below the limit, between two points of the grid."""
        if not 0 <= outside < len(GRID):
            return None
        near, far = self.log_likelihoods[inside], self.log_likelihoods[outside]
        part = 1.0
        if near > far:
            part = min(1.0, max(0.0, (near - least) / (near - far)))
        return math.exp(_LOGS[inside] + part * (_LOGS[outside] - _LOGS[inside]))

"""How many times its control's rate is the canary's, and between which bounds?

The likelihood of each ratio on a grid. An interval is made of those that the mixture of all does not refute
(Robbins 1970): it holds at every look at once, however often one looks. Knows counts only. Pure.
"""

import math
from typing import Self

import msgspec

from salver.stats.combine import log_mean

#: Ratios from 1/64 to 64.
GRID = tuple(2 ** (step / 4) for step in range(-24, 25))
_LOGS = tuple(math.log(ratio) for ratio in GRID)


class Ratio(msgspec.Struct, frozen=True):
    """What the counts up to now say of the ratio; plain data, that grows by copies.

    Args:
        log_likelihoods: One for each of the grid.
        above, below: Mantel's and Haenszel's sums over the buckets, whose quotient is the ratio.

    >>> ratio = Ratio().add(30, 130, share=0.1)
    >>> round(ratio.estimate, 2), [round(bound, 1) for bound in ratio.interval(0.05)]
    (2.7, [1.3, 5.2])
    """

    log_likelihoods: tuple[float, ...] = (0.0,) * len(GRID)
    above: float = 0.0
    below: float = 0.0

    def add(self, canary_events: int, events: int, share: float, factor: float = 1.0) -> Self:
        """With one more bucket: events of the canary, of both, its share of the units, in (0, 1), and by how
        much its evidence is to be divided.
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
        """None = the control had no event."""
        return self.above / self.below if self.below else None

    def interval(self, chance: float) -> tuple[float | None, float | None]:
        """Bounds that are wrong at any look with this chance at most; None = there is none yet."""
        least = log_mean(self.log_likelihoods) + math.log(chance)  # of a ratio that is not refuted
        kept = [index for index, value in enumerate(self.log_likelihoods) if value >= least]
        if not kept:  # between two of the grid
            kept = [max(range(len(GRID)), key=self.log_likelihoods.__getitem__)]
        return self._crossing(kept[0], kept[0] - 1, least), self._crossing(kept[-1], kept[-1] + 1, least)

    def _crossing(self, inside: int, outside: int, least: float) -> float | None:
        """Where the likelihood falls below the least, between two of the grid."""
        if not 0 <= outside < len(GRID):
            return None
        near, far = self.log_likelihoods[inside], self.log_likelihoods[outside]
        part = min(1.0, max(0.0, (near - least) / (near - far))) if near > far else 1.0
        return math.exp(_LOGS[inside] + part * (_LOGS[outside] - _LOGS[inside]))

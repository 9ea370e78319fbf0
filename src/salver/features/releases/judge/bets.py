"""Bets on several ratios at once, some of which begin late.

A bet on harm from the first minute on loses as long as there is none, so harm that begins after hours of calm
would first have to win that back. Part of the capital is therefore put aside, and a part of that begins anew
from time to time. The sum stays valid evidence, because each part is. Pure.
"""

import math
from collections.abc import Sequence
from typing import Final, Self

import msgspec

from salver.stats.binomial_evidence import HARM
from salver.stats.combine import log_mean, log_sum

#: Part of the capital that is bet from the start.
AT_ONCE: Final = 0.8


class Bets(msgspec.Struct, frozen=True):
    """Bets on each ratio of :data:`salver.stats.binomial_evidence.HARM`; plain data, updated by copying.

    Args:
        log_sums: By ratio, the log of the capital.
        starts: Number of times that bets began.

    >>> late = Bets().add([-50.0] * len(HARM)).begin().add([9.0] * len(HARM))
    >>> late.log_e > 6
    True
    """

    log_sums: tuple[float, ...] = (math.log(AT_ONCE),) * len(HARM)
    starts: int = 1

    def add(self, steps: Sequence[float]) -> Self:
        """Multiply the capital of each ratio by its step, given as a logarithm."""
        sums = tuple(total + step for total, step in zip(self.log_sums, steps, strict=True))
        return type(self)(sums, self.starts)

    def begin(self) -> Self:
        """Bet another part: of the n-th start, 1 / n (n - 1) of what was put aside."""
        number = self.starts + 1
        more = math.log((1 - AT_ONCE) / (number * (number - 1)))
        return type(self)(tuple(log_sum([total, more]) for total in self.log_sums), number)

    @property
    def log_e(self) -> float:
        """Return the log evidence, with what is still put aside."""
        return log_sum([log_mean(self.log_sums), math.log((1 - AT_ONCE) / self.starts)])

"""Sequential tests and intervals for the mean of values in [0, 1], by betting.

(Waudby-Smith & Ramdas, JRSS B 2024.) For each candidate mean a gambler's capital, which cannot be expected to
grow if the candidate is the true mean. It is an e-value against the candidate, at every look and for any
distribution, independent or not, with a constant conditional mean; the candidates not rejected form a
confidence sequence. Values are added one by one, in order. Pure.
"""

import math
from collections.abc import Sequence
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from salver.stats.interval import Interval
from salver.words.errors import InvalidInput

Floats = npt.NDArray[np.float64]
_MOST = 0.5  # fraction of the capital that one value may lose in the worst case


class MeanEvidence(msgspec.Struct, frozen=True):
    """Capital against each candidate mean; plain data, updated by copying.

    Attributes:
        means: Candidates, ascending, in (0, 1).
        log_above, log_below: By candidate, the log capital of bets on a higher, or a lower, mean.
        alpha: Level for which the bets are tuned. count, total, deviations: Number of values, their sum, and
            squared distances from the running mean.
    """

    means: tuple[float, ...]
    log_above: tuple[float, ...]
    log_below: tuple[float, ...]
    alpha: float
    count: int = 0
    total: float = 0.0
    deviations: float = 0.0

    def add(self, values: Sequence[float]) -> Self:
        """Add values, each in [0, 1]; adding them together or one by one gives the same bits.

        Raises:
            InvalidInput: A value is not in [0, 1].
        """
        if not all(0 <= value <= 1 for value in values):
            raise InvalidInput(
                "a value is not between 0 and 1", fix="Scale the values by bounds known beforehand."
            )
        means, above, below = (np.array(part) for part in (self.means, self.log_above, self.log_below))
        count, total, deviations = self.count, self.total, self.deviations
        for value in map(float, values):
            # the bet depends only on earlier values
            bet = math.sqrt(2 * math.log(2 / self.alpha) / ((0.25 + deviations) * math.log(count + 2)))
            above += np.log1p(np.minimum(bet, _MOST / means) * (value - means))
            below += np.log1p(-np.minimum(bet, _MOST / (1 - means)) * (value - means))
            count, total = count + 1, total + value
            deviations += (value - (0.5 + total) / (count + 1)) ** 2
        return type(self)(
            self.means, tuple(above.tolist()), tuple(below.tolist()), self.alpha, count, total, deviations
        )

    def log_e(self, index: int = 0) -> float:
        """Return the log e-value against one of the candidates: half is bet on each side."""
        return float(np.logaddexp(self.log_above[index], self.log_below[index])) - math.log(2)

    def log_e_above(self, index: int = 0) -> float:
        """Return the log e-value against "the mean is the candidate or less"."""
        return self.log_above[index]

    def log_e_below(self, index: int = 0) -> float:
        """Return the log e-value against "the mean is the candidate or more"."""
        return self.log_below[index]

    def interval(self) -> Interval:
        """Return bounds of the mean, as fine as the candidates, valid at every look."""
        # capital falls (above) or rises (below) with the candidate, so all beyond a rejected one are
        # rejected too
        refuting = math.log(2 / self.alpha)
        low = [mean for mean, log in zip(self.means, self.log_above, strict=True) if log >= refuting]
        high = [mean for mean, log in zip(self.means, self.log_below, strict=True) if log >= refuting]
        return Interval(max(low, default=0.0), min(high, default=1.0))


def start(means: Sequence[float] = (), alpha: float = 0.05) -> MeanEvidence:
    """Return evidence without values.

    Args:
        means: Candidates in (0, 1); one, to test a known mean; empty = 199 candidates, for an interval.
        alpha: In (0, 1).

    Raises:
        InvalidInput: A candidate or ``alpha`` is out of range.
    """
    candidates = tuple(sorted(map(float, means))) or tuple(i / 200 for i in range(1, 200))
    if not all(0 < mean < 1 for mean in candidates) or not 0 < alpha < 1:
        raise InvalidInput(
            f"candidates {list(means)} at an alpha of {alpha} cannot be", fix="Let them lie between 0 and 1."
        )
    zeros = (0.0,) * len(candidates)
    return MeanEvidence(candidates, zeros, zeros, float(alpha))


def log_capitals(values: npt.ArrayLike, mean: float, alpha: float = 0.05) -> tuple[Floats, Floats]:
    """Return the capital of both sides against one candidate after each value, for simulations.

    Args:
        values: In [0, 1], shape ``(replication, value)``.
        mean: The candidate.
        alpha: Level for which the bets are tuned.

    Returns:
        Log capital of the bets on a higher and on a lower mean, each with the shape of ``values``.
    """
    array = np.asarray(values, np.float64)
    count = np.arange(1, array.shape[-1] + 1)
    running = (0.5 + array.cumsum(axis=-1)) / (count + 1)
    deviations = ((array - running) ** 2).cumsum(axis=-1)
    before = np.concatenate([np.zeros_like(deviations[..., :1]), deviations[..., :-1]], axis=-1)
    bets = np.sqrt(2 * math.log(2 / alpha) / ((0.25 + before) * np.log(count + 1)))
    above = np.log1p(np.minimum(bets, _MOST / mean) * (array - mean))
    below = np.log1p(-np.minimum(bets, _MOST / (1 - mean)) * (array - mean))
    return above.cumsum(axis=-1), below.cumsum(axis=-1)

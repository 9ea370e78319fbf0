"""Where does the mean of values between 0 and 1 lie, and is it still what it was?

Betting (Waudby-Smith & Ramdas, JRSS B 2024): for each candidate mean a gambler's capital, which cannot be
expected to grow where the candidate is the true mean. It is an e-value against the candidate, at every look
and for any distribution, independent or not, whose conditional mean stays the same; the candidates that
were not refuted are a confidence sequence. Values enter one by one, in the order in which they came. Pure.
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
_MOST = 0.5  # of the capital that one value may lose, in the worst case


class MeanEvidence(msgspec.Struct, frozen=True):
    """Capital against each candidate mean; plain data, that grows by copies.

    Attributes:
        means: The candidates, rising, in (0, 1).
        log_above, log_below: By candidate, the logarithm of the capital of who bets on a higher, or a
        lower, mean. alpha: What the bets are made for. count, total, deviations: Of the values: their
        number, sum, and squared distances from the running mean.
    """

    means: tuple[float, ...]
    log_above: tuple[float, ...]
    log_below: tuple[float, ...]
    alpha: float
    count: int = 0
    total: float = 0.0
    deviations: float = 0.0

    def add(self, values: Sequence[float]) -> Self:
        """With more values, each in [0, 1]; adding them at once or one by one is the same, bit by bit.

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
            # the bet knows what came before its value, and nothing else
            bet = math.sqrt(2 * math.log(2 / self.alpha) / ((0.25 + deviations) * math.log(count + 2)))
            above += np.log1p(np.minimum(bet, _MOST / means) * (value - means))
            below += np.log1p(-np.minimum(bet, _MOST / (1 - means)) * (value - means))
            count, total = count + 1, total + value
            deviations += (value - (0.5 + total) / (count + 1)) ** 2
        return type(self)(
            self.means, tuple(above.tolist()), tuple(below.tolist()), self.alpha, count, total, deviations
        )

    def log_e(self, index: int = 0) -> float:
        """The logarithm of the e-value against one of the candidates: half is bet on each side."""
        return float(np.logaddexp(self.log_above[index], self.log_below[index])) - math.log(2)

    def log_e_above(self, index: int = 0) -> float:
        """The same, against "the mean is the candidate or less"."""
        return self.log_above[index]

    def log_e_below(self, index: int = 0) -> float:
        """The same, against "the mean is the candidate or more"."""
        return self.log_below[index]

    def interval(self) -> Interval:
        """Bounds of the mean that hold at every look with the chance ``1 - alpha``; as fine as the means."""
        # capital falls (above) or rises (below) with the candidate, so those beyond a refuted one are
        # refuted too
        refuting = math.log(2 / self.alpha)
        low = [mean for mean, log in zip(self.means, self.log_above, strict=True) if log >= refuting]
        high = [mean for mean, log in zip(self.means, self.log_below, strict=True) if log >= refuting]
        return Interval(max(low, default=0.0), min(high, default=1.0))


def start(means: Sequence[float] = (), alpha: float = 0.05) -> MeanEvidence:
    """No values yet.

    Args:
        means: Candidates in (0, 1); one, to test a mean that is known; none = 199 of them, for an interval.
        alpha: In (0, 1).

    Raises:
        InvalidInput: A candidate or ``alpha`` is out of its range.
    """
    candidates = tuple(sorted(map(float, means))) or tuple(i / 200 for i in range(1, 200))
    if not all(0 < mean < 1 for mean in candidates) or not 0 < alpha < 1:
        raise InvalidInput(
            f"candidates {list(means)} at an alpha of {alpha} cannot be", fix="Let them lie between 0 and 1."
        )
    zeros = (0.0,) * len(candidates)
    return MeanEvidence(candidates, zeros, zeros, float(alpha))


def log_capitals(values: npt.ArrayLike, mean: float, alpha: float = 0.05) -> tuple[Floats, Floats]:
    """The capital of both sides against one candidate after each value of many replications, for simulations.

    Args:
        values: In [0, 1], shape ``(replication, value)``.
        mean: The candidate.
        alpha: What the bets are made for.

    Returns:
        The logarithms of who bets on a higher and of who bets on a lower mean, each of the shape of
        ``values``.
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

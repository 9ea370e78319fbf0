"""Have the arms as many units as they should?

If not, the split itself is broken, and no effect may be read from it. The sequential test is a
Dirichlet-multinomial e-process (Lindon & Malek, NeurIPS 2022) that may be looked at after every unit; the
chi-squared test is for one look at a planned time. Knows counts of units only. Pure.
"""

import math
from collections.abc import Sequence
from typing import Self

import msgspec

from salver.stats.multinomial_evidence import (
    checked_counts,
    checked_shares,
    log_likelihood,
    log_marginal,
)
from salver.words.errors import InvalidInput


class SampleRatio(msgspec.Struct, frozen=True):
    """Units by arm, and what they say against their shares; plain data, that grows by copies.

    The shares may change from one addition to the next: those at which units were *exposed* count. What has
    been learnt of each arm, the ratio of its units to those expected, then carries over.

    Args:
        counts: Units, by arm.
        expected: Units that the shares promised, by arm.
        concentration: How near to the shares the alternatives lie, in units.
        log_e: The logarithm of the e-value, 0 before the first unit.

    >>> split = start(2)
    >>> for _ in range(100):
    ...     split = split.add((47, 53), shares=(0.5, 0.5))
    >>> split.p_value < 0.001
    True
    """

    counts: tuple[int, ...]
    expected: tuple[float, ...]
    concentration: float
    log_e: float = 0.0

    def add(self, counts: Sequence[int], shares: Sequence[float]) -> Self:
        """With more units, assigned at these shares.

        Args:
            counts: Of the new units, by arm.
            shares: Of each arm when they were exposed, positive, with the sum 1; settled before they came.

        Raises:
            InvalidInput: The counts or shares are not those of the arms.
        """
        counts = checked_counts(counts, len(self.counts))
        shares = checked_shares(shares, len(self.counts))
        prior = self._prior(shares)
        return type(self)(
            tuple(a + b for a, b in zip(self.counts, counts, strict=True)),
            tuple(a + sum(counts) * share for a, share in zip(self.expected, shares, strict=True)),
            self.concentration,
            self.log_e + log_marginal(prior, counts) - log_likelihood(counts, shares),
        )

    @property
    def p_value(self) -> float:
        """Valid at this look, however it was chosen; in (0, 1]."""
        return math.exp(-max(0.0, self.log_e))

    def _prior(self, shares: Sequence[float]) -> list[float]:
        """Of the next units: their shares, tilted as the past was. With shares that never change it is
        ``concentration * share + count``, the plain Dirichlet posterior.
        """
        weights = [self.concentration * share for share in shares]
        tilted = [
            share * (weight + count) / (weight + expected)
            for share, weight, count, expected in zip(
                shares, weights, self.counts, self.expected, strict=True
            )
        ]
        scale = (self.concentration + sum(self.counts)) / math.fsum(tilted)
        return [scale * value for value in tilted]


def start(arms: int, concentration: float = 1000.0) -> SampleRatio:
    """No units yet, of so many arms.

    Raises:
        InvalidInput: Less than two arms, or the concentration is not positive.
    """
    if arms < 2 or not 0 < concentration < math.inf:
        raise InvalidInput(
            f"{arms} arms and a concentration of {concentration} cannot be",
            fix="Name two or more arms and a concentration above 0.",
        )
    return SampleRatio((0,) * arms, (0.0,) * arms, float(concentration))


def chi_squared(counts: Sequence[int], shares: Sequence[float]) -> tuple[float, float]:
    """Pearson's statistic and its p-value, for one look at a time planned before; looks in between void it.

    Raises:
        InvalidInput: The counts or shares are not those of two or more arms, or nothing was counted.
    """
    shares = checked_shares(shares, len(counts))
    counts = checked_counts(counts, len(shares))
    total = sum(counts)
    if not total:
        raise InvalidInput("there are no units to test", fix="Look again when some have come.")
    statistic = math.fsum(
        (count - total * share) ** 2 / (total * share) for count, share in zip(counts, shares, strict=True)
    )
    return statistic, _chi_squared_tail(statistic, len(shares) - 1)


def _chi_squared_tail(x: float, freedom: int) -> float:
    """The chance of more than ``x``, by finite sums (Abramowitz & Stegun 26.4.4 and 26.4.5)."""
    if not x:
        return 1.0
    half, odd = x / 2, freedom % 2
    powers = (odd / 2 + index for index in range(freedom // 2))
    terms = (math.exp(power * math.log(half) - half - math.lgamma(power + 1)) for power in powers)
    return min(1.0, math.fsum([odd * math.erfc(math.sqrt(half)), *terms]))

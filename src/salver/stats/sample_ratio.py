"""Tests of whether the arms have the expected numbers of units.

If not, the split itself is broken, and no effect may be read from it. The sequential test is a
Dirichlet-multinomial e-process (Lindon & Malek, NeurIPS 2022), valid after every unit; the chi-squared test
is for one look at a planned time. Knows only counts of units. Pure.
"""

import math
from collections.abc import Sequence
from typing import Self

import msgspec

from salver.lazy import lazy_imports
from salver.stats.multinomial_evidence import (
    checked_counts,
    checked_shares,
    log_likelihood,
    log_marginal,
)
from salver.words.errors import InvalidInput

with lazy_imports():
    from scipy.special import chdtrc


class SampleRatio(msgspec.Struct, frozen=True):
    """Units by arm, and their evidence against the shares; plain data, updated by copying.

    The shares may change between additions: those at *exposure* count. The estimate for each arm, the ratio
    of its units to those expected, carries over.

    Args:
        counts: Units by arm.
        expected: Expected units by arm.
        concentration: Concentration of the alternatives around the shares, in units.
        log_e: Log e-value; 0 before the first unit.

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
        """Add units that were assigned at these shares.

        Args:
            counts: New units by arm.
            shares: Share of each arm at exposure, positive, with sum 1; fixed in advance.

        Raises:
            InvalidInput: The counts or shares do not match the arms.
        """
        counts = checked_counts(counts, len(self.counts))
        shares = checked_shares(shares, len(self.counts))
        prior = self._prior(shares)
        return type(self)(
            tuple(a + b for a, b in zip(self.counts, counts, strict=True)),
            tuple(a + sum(counts) * share for a, share in zip(self.expected, shares, strict=True)),
            self.concentration,
            # The prior has seen past units only, so the product of all steps is a martingale under the null.
            self.log_e + log_marginal(prior, counts) - log_likelihood(counts, shares),
        )

    @property
    def p_value(self) -> float:
        """Return a p-value in (0, 1], valid at any look."""
        return math.exp(-max(0.0, self.log_e))

    def _prior(self, shares: Sequence[float]) -> list[float]:
        """Return the prior of the next units: their shares, tilted as in the past.

        With constant shares it is ``concentration * share + count``, the plain Dirichlet posterior.
        """
        weights = [self.concentration * share for share in shares]
        tilted = [
            share * (weight + count) / (weight + expected)
            for share, weight, count, expected in zip(
                shares, weights, self.counts, self.expected, strict=True
            )
        ]
        # As much weight as the posterior has: it learns as fast as with constant shares.
        scale = (self.concentration + sum(self.counts)) / math.fsum(tilted)
        return [scale * value for value in tilted]


def start(arms: int, concentration: float = 1000.0) -> SampleRatio:
    """Return evidence without units, for that many arms.

    Raises:
        InvalidInput: Fewer than two arms, or the concentration is not positive.
    """
    if arms < 2 or not 0 < concentration < math.inf:
        raise InvalidInput(
            f"{arms} arms and a concentration of {concentration} cannot be",
            fix="Name two or more arms and a concentration above 0.",
        )
    return SampleRatio((0,) * arms, (0.0,) * arms, float(concentration))


def chi_squared(counts: Sequence[int], shares: Sequence[float]) -> tuple[float, float]:
    """Return Pearson's statistic and its p-value, for a single look at a planned time.

    Raises:
        InvalidInput: The counts or shares do not match two or more arms, or nothing was counted.
    """
    shares = checked_shares(shares, len(counts))
    counts = checked_counts(counts, len(shares))
    total = sum(counts)
    if not total:
        raise InvalidInput("there are no units to test", fix="Look again when some have come.")
    statistic = math.fsum(
        (count - total * share) ** 2 / (total * share) for count, share in zip(counts, shares, strict=True)
    )
    return statistic, float(chdtrc(len(shares) - 1, statistic))

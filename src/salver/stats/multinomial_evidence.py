"""Sequential test of whether events, or values in bins, are distributed over arms as their shares.

A Dirichlet-multinomial e-process (Lindon & Malek, NeurIPS 2022): two-sided, any number of arms, valid at
every look. The shares are fixed; if they change over time, see :mod:`salver.stats.sample_ratio`, or multiply
the evidence of the phases. Knows only counts. Pure.
"""

import math
from collections.abc import Sequence
from typing import Literal, Self, get_args

import msgspec

from salver.words.errors import InvalidInput

#: Null hypothesis on the arms' rates: all are equal; none is above the first arm's; none is below it.
Null = Literal["equal", "none_higher", "none_lower"]


class MultinomialEvidence(msgspec.Struct, frozen=True):
    """Counts by arm, and their evidence against the null; plain data, updated by copying.

    Args:
        shares: Share of each arm under equal rates, positive, with sum 1.
        counts: Events by arm.
        concentration: Concentration of the alternatives around the shares, in events; larger values detect
            smaller deviations soonest.
        null: The null hypothesis.

    >>> evidence = start((0.5, 0.5)).add((60, 140))
    >>> evidence.p_value < 0.001
    True
    """

    shares: tuple[float, ...]
    counts: tuple[int, ...]
    concentration: float
    null: Null

    def add(self, counts: Sequence[int]) -> Self:
        """Add events by arm.

        Raises:
            InvalidInput: Their number is not that of the arms, or one is negative.
        """
        more = checked_counts(counts, len(self.shares))
        sums = tuple(a + b for a, b in zip(self.counts, more, strict=True))
        return msgspec.structs.replace(self, counts=sums)

    @property
    def log_e(self) -> float:
        """Return the log e-value; 0 before the first event."""
        prior = [self.concentration * share for share in self.shares]
        # The best fit of the null: a ratio to the most likely member bounds the ratios to all of them.
        return log_marginal(prior, self.counts) - log_likelihood(self.counts, self._null_shares())

    @property
    def p_value(self) -> float:
        """Return a p-value in (0, 1], valid at any look."""
        return math.exp(-max(0.0, self.log_e))

    def _null_shares(self) -> Sequence[float]:
        """Return the shares under the null that maximise the likelihood of the counts."""
        if self.null == "equal" or not any(self.counts):
            return self.shares
        rates = _bounded_by_first(self.counts, self.shares, 1 if self.null == "none_higher" else -1)
        total = sum(self.counts)
        return [share * rate / total for share, rate in zip(self.shares, rates, strict=True)]


def start(shares: Sequence[float], concentration: float = 100.0, null: Null = "equal") -> MultinomialEvidence:
    """Return evidence without counts.

    Raises:
        InvalidInput: The shares are not positive with sum 1, the concentration is not positive, or there is
            no such null.
    """
    plain = checked_shares(shares, len(shares))
    if not 0 < concentration < math.inf:
        raise InvalidInput(f"a concentration of {concentration} cannot be", fix="Give a number above 0.")
    if null not in get_args(Null):
        raise InvalidInput(f"there is no null '{null}'", fix=f"Say one of: {', '.join(get_args(Null))}.")
    return MultinomialEvidence(plain, (0,) * len(plain), float(concentration), null)


def log_marginal(prior: Sequence[float], counts: Sequence[int]) -> float:
    """Return the log probability of a sequence with these counts and ``Dirichlet(prior)`` shares."""
    arms = math.fsum(math.lgamma(p + c) - math.lgamma(p) for p, c in zip(prior, counts, strict=True))
    weight = math.fsum(prior)
    return arms - (math.lgamma(weight + sum(counts)) - math.lgamma(weight))


def log_likelihood(counts: Sequence[int], shares: Sequence[float]) -> float:
    """Return the log probability for known shares."""
    return math.fsum(c * math.log(share) for c, share in zip(counts, shares, strict=True) if c)


def checked_shares(shares: Sequence[float], arms: int) -> tuple[float, ...]:
    """Return the shares; raise InvalidInput unless there are two or more, positive, with sum 1."""
    if (
        not len(shares) == arms >= 2
        or not all(share > 0 for share in shares)
        or abs(math.fsum(shares) - 1) > 1e-9
    ):
        raise InvalidInput(
            f"the shares {list(shares)} are not those of {arms} arms",
            fix="Give one for each of two or more arms, above 0, with the sum 1.",
        )
    return tuple(map(float, shares))


def checked_counts(counts: Sequence[int], arms: int) -> tuple[int, ...]:
    """Return the counts; raise InvalidInput unless there is one per arm, integer and not negative."""
    if len(counts) != arms or not all(0 <= count < math.inf and count == int(count) for count in counts):
        raise InvalidInput(
            f"the counts {list(counts)} are not those of {arms} arms", fix="Give one of 0 or more for each."
        )
    return tuple(map(int, counts))


def _bounded_by_first(counts: Sequence[int], shares: Sequence[float], sign: int) -> list[float]:
    """Return the rates of best fit with none beyond the first arm's, upwards (1) or downwards (-1).

    Isotonic regression with the simple tree order: arms are pooled with the first, the farthest first, while
    they are beyond the pool (Barlow, Bartholomew, Bremner & Brunk 1972).
    """
    rates = [count / share for count, share in zip(counts, shares, strict=True)]
    others = sorted(range(1, len(rates)), key=lambda i: -sign * rates[i])
    joined, count, share = [0], counts[0], shares[0]
    # An arm within the pool stays as it is, and all after it are closer still.
    for index in others:
        if sign * (rates[index] - count / share) <= 0:
            break
        joined.append(index)
        count, share = count + counts[index], share + shares[index]
    for index in joined:
        rates[index] = count / share
    return rates

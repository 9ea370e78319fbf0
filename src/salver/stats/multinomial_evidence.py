"""Do events, or values in bins, fall on the arms otherwise than the shares say?

A Dirichlet-multinomial e-process (Lindon & Malek, NeurIPS 2022): two-sided, any number of arms, valid at
every look. The shares are fixed; where they change over time, see :mod:`salver.stats.sample_ratio`, or
multiply the evidence of the phases. Knows counts only. Pure.
"""

import math
from collections.abc import Sequence
from typing import Literal, Self, get_args

import msgspec

from salver.words.errors import InvalidInput

#: Of the arms' rates: all are equal; none is above the first arm's; none is below it.
Null = Literal["equal", "none_higher", "none_lower"]


class MultinomialEvidence(msgspec.Struct, frozen=True):
    """Counts by arm, and what they say against the null; plain data, that grows by copies.

    Args:
        shares: Of each arm under equal rates, positive, with the sum 1.
        counts: Of events, by arm.
        concentration: How near to the shares the alternatives lie, in events; the larger, the smaller the
            departures that are found soonest.
        null: What is to be rejected.

    >>> evidence = start((0.5, 0.5)).add((60, 140))
    >>> evidence.p_value < 0.001
    True
    """

    shares: tuple[float, ...]
    counts: tuple[int, ...]
    concentration: float
    null: Null

    def add(self, counts: Sequence[int]) -> Self:
        """With more events, by arm.

        Raises:
            InvalidInput: There are not as many as arms, or one is negative.
        """
        more = checked_counts(counts, len(self.shares))
        sums = tuple(a + b for a, b in zip(self.counts, more, strict=True))
        return msgspec.structs.replace(self, counts=sums)

    @property
    def log_e(self) -> float:
        """The logarithm of the e-value, 0 before the first event."""
        prior = [self.concentration * share for share in self.shares]
        return log_marginal(prior, self.counts) - log_likelihood(self.counts, self._null_shares())

    @property
    def p_value(self) -> float:
        """Valid at this look, however it was chosen; in (0, 1]."""
        return math.exp(-max(0.0, self.log_e))

    def _null_shares(self) -> Sequence[float]:
        """Those of the null under which the counts are likeliest."""
        if self.null == "equal" or not any(self.counts):
            return self.shares
        rates = _bounded_by_first(self.counts, self.shares, 1 if self.null == "none_higher" else -1)
        total = sum(self.counts)
        return [share * rate / total for share, rate in zip(self.shares, rates, strict=True)]


def start(shares: Sequence[float], concentration: float = 100.0, null: Null = "equal") -> MultinomialEvidence:
    """No evidence yet.

    Raises:
        InvalidInput: The shares are not positive with the sum 1, the concentration is not positive, or there
            is no such null.
    """
    plain = checked_shares(shares, len(shares))
    if not 0 < concentration < math.inf:
        raise InvalidInput(f"a concentration of {concentration} cannot be", fix="Give a number above 0.")
    if null not in get_args(Null):
        raise InvalidInput(f"there is no null '{null}'", fix=f"Say one of: {', '.join(get_args(Null))}.")
    return MultinomialEvidence(plain, (0,) * len(plain), float(concentration), null)


def log_marginal(prior: Sequence[float], counts: Sequence[int]) -> float:
    """The logarithm of the chance of a sequence with these counts, the shares being ``Dirichlet(prior)``."""
    arms = math.fsum(math.lgamma(p + c) - math.lgamma(p) for p, c in zip(prior, counts, strict=True))
    weight = math.fsum(prior)
    return arms - (math.lgamma(weight + sum(counts)) - math.lgamma(weight))


def log_likelihood(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The same, of known shares."""
    return math.fsum(c * math.log(share) for c, share in zip(counts, shares, strict=True) if c)


def checked_shares(shares: Sequence[float], arms: int) -> tuple[float, ...]:
    """Raises InvalidInput unless there is one for each of two or more arms, all positive, with the sum 1."""
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
    """Raises InvalidInput unless there is one for each arm, whole and not negative."""
    if len(counts) != arms or not all(0 <= count < math.inf and count == int(count) for count in counts):
        raise InvalidInput(
            f"the counts {list(counts)} are not those of {arms} arms", fix="Give one of 0 or more for each."
        )
    return tuple(map(int, counts))


def _bounded_by_first(counts: Sequence[int], shares: Sequence[float], sign: int) -> list[float]:
    """The rates that fit best among those where none passes the first arm's, upwards (1) or downwards (-1).

    Isotonic regression of the simple tree order: arms join the first, the farthest first, as long as they are
    beyond what has joined (Barlow, Bartholomew, Bremner & Brunk 1972).
    """
    rates = [count / share for count, share in zip(counts, shares, strict=True)]
    others = sorted(range(1, len(rates)), key=lambda i: -sign * rates[i])
    joined, count, share = [0], counts[0], shares[0]
    for index in others:
        if sign * (rates[index] - count / share) <= 0:
            break
        joined.append(index)
        count, share = count + counts[index], share + shares[index]
    for index in joined:
        rates[index] = count / share
    return rates

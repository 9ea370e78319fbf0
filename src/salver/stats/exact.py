"""Exact confidence intervals of a proportion.

For small counts, where normal intervals are wrong. For one look at a planned time; for many looks see
:mod:`salver.stats.binomial_evidence`. Pure.
"""

import math

from scipy.special import betainccinv, betaincinv

from salver.stats.interval import Interval
from salver.words.errors import InvalidInput


def clopper_pearson(successes: int, trials: int, confidence: float = 0.95) -> Interval:
    """Return two-sided bounds of a proportion with at least that confidence (Clopper & Pearson 1934).

    A one-sided bound with confidence ``c`` is the same side of the interval with confidence ``2c - 1``.

    Args:
        successes: From 0 to ``trials``.
        trials: 0 or more; without trials the interval is [0, 1].
        confidence: In (0, 1).

    Raises:
        InvalidInput: An argument is out of range.

    >>> low, high = clopper_pearson(0, 100)
    >>> low, round(high, 4)
    (0.0, 0.0362)
    """
    if not (0 <= successes <= trials < math.inf and 0 < confidence < 1):
        raise InvalidInput(
            f"{successes} of {trials} at a confidence of {confidence} cannot be",
            fix="Give 0 <= successes <= trials, and a confidence between 0 and 1.",
        )
    tail = (1 - confidence) / 2
    low = 0.0
    if successes:
        low = float(betaincinv(successes, trials - successes + 1, tail))
    high = 1.0
    if successes < trials:
        high = float(betainccinv(successes + 1, trials - successes, tail))
    return Interval(low, high)

"""Combination of several pieces of evidence.

e-values may be averaged with weights fixed in advance, whatever their dependence, and remain e-values; a list
of them may be searched with a bound on false discoveries. Knows only logarithms of e-values. Pure.
"""

import math
from collections.abc import Sequence

from salver.words.errors import InvalidInput


def log_mean(log_es: Sequence[float], weights: Sequence[float] = ()) -> float:
    """Return the log of the weighted mean of e-values, itself a log e-value.

    Reject the global null at ``alpha`` when it is ``log(1 / alpha)`` or more. This covers the bound of each
    e-value at ``1 / (weight * alpha)``, which cannot be exceeded without exceeding this one.

    Args:
        log_es: One or more.
        weights: Fixed before the data, not negative, with a sum of at most 1 (the rest counts as the e-value
            1 of no bet); empty = equal.

    Raises:
        InvalidInput: The weights do not match, or an e-value is NaN.

    >>> round(math.exp(log_mean([math.log(30), math.log(2)], weights=(0.5, 0.5))), 9)
    16.0
    """
    weights = weights if len(weights) else [1 / len(log_es) for _ in log_es]
    rest = 1 - math.fsum(weights)
    if (
        len(log_es) == 0
        or any(map(math.isnan, log_es))
        or len(weights) != len(log_es)
        or not all(weight >= 0 for weight in weights)
        or rest < -1e-9
    ):
        raise InvalidInput(
            f"the weights {list(weights)} do not fit {len(log_es)} e-values",
            fix="Give one of 0 or more for each, with a sum of 1 at most.",
        )
    terms = [log_e + math.log(weight) for log_e, weight in zip(log_es, weights, strict=True) if weight]
    if rest > 1e-9:
        terms.append(math.log(rest))
    return log_sum(terms)


def log_sum(logs: Sequence[float]) -> float:
    """Return the log of the sum of one or more numbers given by their logs, without overflow.

    >>> round(math.exp(log_sum([math.log(30), math.log(2)])), 9), log_sum([-math.inf])
    (32.0, -inf)
    """
    top = max(logs)
    if math.isinf(top):
        return top
    return top + math.log(math.fsum(math.exp(log - top) for log in logs))


def e_bh(log_es: Sequence[float], rate: float) -> list[int]:
    """Return the rejected nulls, with a false discovery rate of at most ``rate``.

    The e-Benjamini-Hochberg procedure (Wang & Ramdas, JRSS B 2022): the largest ``k`` for which ``k``
    e-values are ``len(log_es) / (k * rate)`` or more.

    Args:
        log_es: One for each null.
        rate: False discovery rate, in (0, 1).

    Returns:
        Indices, the strongest first.

    Raises:
        InvalidInput: The rate is out of range, or an e-value is NaN.

    >>> e_bh([math.log(e) for e in (1, 90, 30, 55)], rate=0.05)
    [1, 3, 2]
    """
    if not 0 < rate < 1 or any(map(math.isnan, log_es)):
        raise InvalidInput(
            f"a rate of {rate} of {len(log_es)} e-values cannot be",
            fix="Give a rate between 0 and 1, and logarithms that are numbers.",
        )
    order = sorted(range(len(log_es)), key=lambda index: -log_es[index])
    passing = (
        rank for rank, index in enumerate(order, 1) if log_es[index] >= math.log(len(log_es) / (rank * rate))
    )
    return order[: max(passing, default=0)]

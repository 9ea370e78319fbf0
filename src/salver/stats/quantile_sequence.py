"""Confidence sequences of quantiles, and sequential tests of quantiles in two arms.

(Howard & Ramdas, "Sequential estimation of quantiles", Bernoulli 2022.) For example for latencies of unknown
distribution. Exact for independent values. Pure.
"""

import math

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar

from salver.stats.boundaries import BetaBinomial
from salver.stats.interval import Interval
from salver.words.errors import InvalidInput


def proportion(hits: int, trials: int, alpha: float = 0.05, best: int = 100) -> Interval:
    """Return the proportion of hits, with bounds valid after every trial.

    Args:
        hits: From 0 to ``trials``.
        trials: 1 or more.
        alpha: Probability that they ever fail, in (0, 1/2).
        best: Number of trials at which they are narrowest.

    Raises:
        InvalidInput: The counts are impossible.

    >>> low, high = proportion(15, 50, best=50)
    >>> round(low, 5), round(high, 5)
    (0.12956, 0.5119)
    """
    if not 0 <= hits <= trials < math.inf or not trials:
        raise InvalidInput(f"{hits} of {trials} cannot be", fix="Give 0 <= hits <= trials, and a trial.")

    def excess(p: float) -> float:
        return float(_log_e(hits, trials, p, alpha, best)) - math.log(1 / alpha)

    least, most = 1e-12, 1 - 1e-12
    observed = min(max(hits / trials, least), most)
    low = 0.0
    if hits and excess(least) > 0:
        low = float(brentq(excess, least, observed))
    high = 1.0
    if hits < trials and excess(most) > 0:
        high = float(brentq(excess, observed, most))
    return Interval(low, high)


def quantile(values: npt.ArrayLike, p: float, alpha: float = 0.05, best: int = 100) -> Interval:
    """Return the ``p`` quantile, with bounds valid after every value.

    Args:
        values: All values so far, in any order, shape ``(n,)``.
        p: In (0, 1).
        alpha: Probability that they ever fail, in (0, 1/2).
        best: Number of values at which they are narrowest.

    Raises:
        InvalidInput: An argument is out of its range.
    """
    array = np.sort(np.asarray(values, np.float64))
    _check(array, p)
    # the quantile is above a value if too few values are at or below it, and below if too many are strictly
    # below it
    log_es = _log_e(np.arange(array.size + 1), array.size, p, alpha, best)
    refuted = log_es >= math.log(1 / alpha)
    below = np.flatnonzero(refuted[: math.floor(p * array.size) + 1])
    above = np.flatnonzero(refuted[math.ceil(p * array.size) :])
    low = float(array[below[-1]]) if below.size else -math.inf
    high = math.inf
    if above.size:
        high = float(array[above[0] + math.ceil(p * array.size) - 1])
    return Interval(low, high)


def ab_p_value(
    control: npt.ArrayLike, treatment: npt.ArrayLike, p: float, alpha: float = 0.05, best: int = 100
) -> float:
    """Return the p-value, valid at every look, of equal ``p`` quantiles in both arms; in (0, 1].

    Args:
        control, treatment: All values so far, in any order; the arms may differ in size.
        p: In (0, 1).
        alpha: Level for which the test is tuned.
        best: Number of values per arm at which it is strongest.

    Raises:
        InvalidInput: An argument is out of its range.
    """
    arms = [np.sort(np.asarray(arm, np.float64)) for arm in (control, treatment)]
    for arm in arms:
        _check(arm, p)
    # the least-rejected common quantile is at one of the values: between them the evidence is no smaller
    places = np.unique(np.concatenate(arms))
    log_e = np.zeros(places.size)
    for arm in arms:
        least = minimize_scalar(
            lambda count, size=arm.size: float(_log_e(count, size, p, alpha, best)),
            bounds=(0, arm.size),
            method="bounded",
        ).x
        under = np.searchsorted(arm, places, side="left")
        upto = np.searchsorted(arm, places, side="right")
        log_e += _log_e(np.clip(least, under, upto), arm.size, p, alpha, best)
    return math.exp(-max(0.0, float(log_e.min())))


def _log_e(hits: npt.ArrayLike, trials: int, p: float, alpha: float, best: int) -> npt.NDArray[np.float64]:
    """Return the log e-value against a probability ``p`` of a hit."""
    mixture = BetaBinomial.tuned(best * p * (1 - p), alpha, p, 1 - p)
    return mixture.log_e(np.asarray(hits, np.float64) - p * trials, p * (1 - p) * trials)


def _check(values: npt.NDArray[np.float64], p: float) -> None:
    if values.ndim != 1 or not values.size or not np.isfinite(values).all() or not 0 < p < 1:
        raise InvalidInput(
            f"a quantile of {p} of {values.size} values cannot be",
            fix="Give one between 0 and 1, of one or more finite values, in one row.",
        )

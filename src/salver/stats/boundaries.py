"""Time-uniform boundaries of martingales.

Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences", Annals
of Statistics 2021; for quantiles Howard & Ramdas, Bernoulli 2022. With probability ``1 - alpha`` a sum of
deviations stays below its bound at *all* times; ``v`` is its intrinsic time, the variance so far. A mixture
is tightest near ``v_best``; stitched bounds are slightly wider and grow as slowly as possible. Knows no data.
Pure.

Bounds and the scale ``c`` are in the units of the values, ``v`` in their square. Times are above 0 and
``alpha`` is in (0, 1/2); arguments out of range raise InvalidInput.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq, minimize_scalar
from scipy.special import betaln, gammainc, gammaincc, gammaln, zeta

from salver.words.errors import InvalidInput

Floats = npt.NDArray[np.float64]
_LARGE = 1e4  # from which two terms of Stirling's series are exact
_LEAST_SPREAD = 0.5**0.5
_SHAPE, _RATIO = 1.4, 2.0  # stitching: distribution of alpha over epochs, and ratio of their lengths


def normal_mixture(v: float, alpha: float, v_best: float) -> float:
    """Return the two-sided bound for sub-Gaussian deviations.

    >>> round(normal_mixture(100, 0.05, v_best=100), 5)
    30.35209
    """
    _check(v, alpha, v_best)
    rho = two_sided_rho(v_best, alpha)
    return math.sqrt((v + rho) * (math.log((v + rho) / rho) - 2 * math.log(alpha)))


def gamma_exponential_mixture(v: float, alpha: float, v_best: float, c: float) -> float:
    """Return the upper bound for sub-exponential deviations of scale ``c``: empirical variance."""
    _check(v, alpha, v_best, scale=c)
    # The normal mixture's optimum is nearly that of the others, in units of the scale.
    rho = one_sided_rho(v_best, alpha) / c**2
    shape = v / c**2 + rho
    steady = _stirling(shape) - _stirling(rho) - _log(gammainc(rho, rho))

    def log_mixture(s: float) -> float:
        part = s / c / shape
        return steady + _log(gammainc(shape, shape * (1 + part))) + shape * (part - math.log1p(part))

    return _crossing(log_mixture, alpha, v)


def gamma_poisson_mixture(v: float, alpha: float, v_best: float, c: float) -> float:
    """Return the upper bound for sub-Poisson deviations of scale ``c``: counts, bounded steps."""
    _check(v, alpha, v_best, scale=c)
    rho = one_sided_rho(v_best, alpha) / c**2
    reach = v / c**2 + rho
    steady = -_stirling(rho) - _log(gammaincc(rho, rho))

    def log_mixture(s: float) -> float:
        part = s / c / reach
        shape = reach * (1 + part)
        grown = reach * ((1 + part) * math.log1p(part) - part)
        return steady + _stirling(shape) + _log(gammaincc(shape, reach)) + grown

    return _crossing(log_mixture, alpha, v)


class BetaBinomial(NamedTuple):
    """Two-sided mixture for deviations between ``-g`` and ``h``; exact for coins.

    For a coin ``g`` is the probability of heads and ``h`` that of tails.

    Attributes:
        g, h: Largest steps down and up.
        r: Concentration of the mixture.
    """

    g: float
    h: float
    r: float

    @classmethod
    def tuned(cls, v_best: float, alpha: float, g: float, h: float) -> "BetaBinomial":
        """Return the mixture that is tightest near ``v_best``."""
        _check(v_best, alpha, v_best, scale=min(g, h, 1 / g if g else 0.0, 1 / h if h else 0.0))
        return cls(g, h, max(two_sided_rho(v_best, alpha) - g * h, 1e-3 * g * h))

    def log_e(self, s: npt.ArrayLike, v: float) -> Floats:
        """Return the log e-value of a sum ``s`` at time ``v``, with the shape of ``s``."""
        g, h, span = self.g, self.h, self.g + self.h
        total = np.asarray(s, np.float64)
        ups, downs = (v + h * total) / (h * span), (v - g * total) / (g * span)
        prior_ups, prior_downs = self.r / (h * span), self.r / (g * span)
        mixed = betaln(prior_downs + downs, prior_ups + ups) - betaln(prior_downs, prior_ups)
        fixed = ups * math.log(g) + downs * math.log(h) - (ups + downs) * math.log(span)
        return np.asarray(mixed - fixed, np.float64)


def beta_binomial_mixture(v: float, alpha: float, v_best: float, g: float, h: float) -> float:
    """Return the two-sided bound for deviations in [-g, h], at most the maximum ``v / g``."""
    mixture = BetaBinomial.tuned(v_best, alpha, g, h)
    # Early, even the largest possible sum is no evidence: every sum is within the bound.
    if mixture.log_e(v / g, v) < math.log(1 / alpha):
        return v / g
    return float(brentq(lambda s: float(mixture.log_e(s, v)) - math.log(1 / alpha), 0.0, v / g, xtol=1e-9))


def polynomial_stitching(v: float, alpha: float, v_least: float, c: float = 0.0) -> float:
    """Return the upper bound for sub-gamma deviations of scale ``c``, from time ``v_least``."""
    _check(v, alpha, v_least, scale=1 + abs(c))
    # Before that time the bound of that time holds: it is an upper bound for smaller ones, too.
    v = max(v, v_least)
    log = _SHAPE * math.log(math.log(_RATIO * v / v_least)) + math.log(
        zeta(_SHAPE) / (alpha * math.log(_RATIO) ** _SHAPE)
    )
    return _stitched(v, log, c)


def empirical_process(count: float, alpha: float, least: float, spread: float = 0.85) -> float:
    """Return the bound for an empirical distribution function, over all values and all counts from ``least``.

    Infinite before. By the law of the iterated logarithm (Howard & Ramdas 2022, theorem 2); ``spread`` is its
    factor, above the square root of 1/2.
    """
    _check(count, alpha, least, scale=spread - _LEAST_SPREAD)
    if count < least:
        return math.inf

    def chance(level: float) -> float:
        """Return the probability of leaving the bound, for the best ratio of epochs."""

        def of_ratio(ratio: float) -> float:
            rate = 2 / ratio * (spread - math.sqrt(2 * (ratio - 1) / level)) ** 2
            if rate <= 1:
                return math.inf
            return 4 * math.exp(-rate * level) * (1 + 1 / ((rate - 1) * math.log(ratio)))

        widest = brentq(
            lambda x: math.sqrt(x / 2) + math.sqrt(2 * (x - 1) / level) - spread, 1.0, 2 * spread**2
        )
        return float(
            minimize_scalar(of_ratio, bounds=(1.0, widest), method="bounded", options={"xatol": 1e-12}).fun
        )

    # The chance falls with the level, so double it until there is a bracket for the root.
    high = 1.0
    while chance(high) > alpha:
        high *= 2
    level = high
    if high != 1:
        level = brentq(lambda x: chance(x) - alpha, high / 2, high, xtol=1e-12)
    return float(spread * math.sqrt((math.log1p(math.log(count / least)) + level) / count))


def double_stitching(p: float, count: float, alpha: float, count_best: float) -> float:
    """Return the bound on the number of values below the ``p`` quantile, for all ``p`` and counts."""
    _check(count, alpha, count_best, scale=p * (1 - p))
    delta, count = 0.5, max(count, count_best)
    logit = math.log(p / (1 - p))
    ratio = math.sqrt(count / count_best)
    nearest = p if p >= 0.5 else min(0.5, 1 / (1 + math.exp(-logit - 2 * delta * math.sqrt(_RATIO) / ratio)))
    variance = nearest * (1 - nearest)
    rings = ratio * abs(logit) / (2 * delta) + 1
    z = zeta(_SHAPE)
    log = (
        _SHAPE * (math.log(math.log(_RATIO * count / count_best)) + math.log(rings))
        + math.log(2 * z * (2 * z + 1) / (alpha * math.log(_RATIO) ** _SHAPE))
    )  # fmt: skip
    step = delta * math.sqrt(_RATIO * variance) * ratio
    return step + _stitched(variance * count, log, (1 - 2 * p) / 3)


def two_sided_rho(v_best: float, alpha: float) -> float:
    """Return the parameter of the two-sided normal mixture that is tightest at ``v_best``."""
    log = -2 * math.log(alpha)
    return v_best / (log + math.log1p(log))


def one_sided_rho(v_best: float, alpha: float) -> float:
    """Return the parameter of the one-sided mixture; ``alpha`` below 1/2."""
    return two_sided_rho(v_best, 2 * alpha)


def _stitched(v: float, log: float, c: float) -> float:
    spread = (_RATIO**0.25 + _RATIO**-0.25) / math.sqrt(2)
    shift = (math.sqrt(_RATIO) + 1) / 2 * c * log
    return math.sqrt(spread**2 * v * log + shift**2) + shift


def _crossing(log_mixture: Callable[[float], float], alpha: float, v: float) -> float:
    """Return where a mixture that grows with the sum reaches ``1 / alpha``."""
    level, high = math.log(1 / alpha), max(v, 1.0)
    while log_mixture(high) < level:
        high *= 2
    return float(brentq(lambda s: log_mixture(s) - level, 0.0, high, xtol=1e-9))


def _log(chance: float) -> float:
    if chance > 0:
        return math.log(chance)
    return -math.inf


def _stirling(x: float) -> float:
    """Return ``log(gamma(x)) - x log(x) + x`` without cancellation for large ``x``."""
    # Above, gammaln and x log(x) agree in so many digits that their difference would be noise.
    if x < _LARGE:
        return float(gammaln(x)) - x * math.log(x) + x
    return math.log(2 * math.pi / x) / 2 + 1 / (12 * x)


def _check(time: float, alpha: float, best: float, scale: float = 1.0) -> None:
    """Check the ranges; a scale is any other argument that must be above 0."""
    if not (all(0 < each < math.inf for each in (time, best, scale)) and 0 < alpha < 0.5):
        raise InvalidInput(
            f"a time of {time}, {best} to tune for, an alpha of {alpha}, or what shapes the bound, cannot be",
            fix="Give times and scales above 0, and an alpha between 0 and 1/2.",
        )

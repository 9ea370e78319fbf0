"""Sequential test of the mean of unit values, such as revenue, in two arms.

The asymptotic confidence sequence of ``mean_sequence.py``, inverted: the level at which it excludes the null
is the reciprocal of a mixture of likelihood ratios (Robbins 1970; Waudby-Smith, Arbour, Sinha, Kennedy &
Ramdas 2024), so that mixture is evidence, and can be averaged with that of other metrics. Its prior is one-
sided like its null: "not less than a multiple of the control's".

- The arms are compared within each *phase*, an interval with constant shares, and phases are weighted by
  size, so that a change of population along with the shares does not mislead (Simpson's paradox).
- A unit's value before exposure explains part of its value afterwards (CUPED: Deng, Xu, Kohavi & Walker
  2013). Both arms have the same slope, so that it favours neither.
- With skewed values a small arm usually has both too low a mean and too low a variance. So no arm is assumed
  to vary less than both together, which keeps the level for arms of any size; and if the error is very
  skewed, no conclusion is drawn.

Knows only sums; the caller ensures that units are independent and values bounded. Pure.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from salver.lazy import lazy_imports
from salver.stats.interval import Estimate
from salver.stats.mean_sequence import LEAST_EVENTS, LEAST_UNITS, half_width
from salver.words.releases import Sums

with lazy_imports():
    from scipy.special import erfcx

#: Effective units, ``n m / (n + m)`` for two arms, at which evidence is strongest.
PLANNED = 5000
#: Maximum skewness of the error. Pooling the variance keeps the level beyond it (measured, see
#: docs/explanation/judge.md), but from there the mean itself is unreliable.
MOST_SKEW = 0.4
#: Growth of the mixture's variance per unit: optimal for a level of one in 500 at the planned number.
_PER_UNIT = (2 * math.log(500) + math.log1p(2 * math.log(500))) / PLANNED

#: Two arms in one interval, the suspect's first.
Phase = tuple[Sums, Sums]


class Contrast(NamedTuple):
    """The suspect's mean minus a multiple of its control's.

    Attributes:
        score: Difference in standard errors.
        units: Effective number of units.
        error: Standard error of the multiple.
    """

    score: float
    units: float
    error: float


def undecided(phases: Sequence[Phase]) -> str:
    """Return why no conclusion is possible yet, as text; empty = it is."""
    told = _told(phases)
    if not told:
        seen = [max((phase[arm].units for phase in phases), default=0) for arm in (0, 1)]
        return f"{min(seen)} units of the smaller arm at one share, where {LEAST_UNITS} are needed"
    for arm in (0, 1):
        if (events := sum(phase[arm].events for phase in told)) < LEAST_EVENTS:
            return f"{events} units of an arm have a value, where {LEAST_EVENTS} are needed"
    slope = _slope(told)
    if _base(told, slope) <= 0:
        return "the control's mean is not above 0, so that nothing is a part of it"
    excess = (abs(_skewness(told, slope)) / MOST_SKEW) ** 2
    if excess > 1:
        return (
            f"values are too skewed: that takes {excess:.1f} times the units, more equal arms, or a lower cap"
        )
    return ""


def contrast(phases: Sequence[Phase], ratio: float) -> Contrast:
    """Return the contrast for a multiple of the control's mean, if decided (:func:`undecided`)."""
    told = _told(phases)
    slope = _slope(told)
    difference = variance = pooled = units = 0.0
    for suspect, control in told:
        n, m = suspect.units, control.units
        weight, share = n * m / (n + m), n / (n + m)
        # The past is compared with that of both arms: its mean affects both.
        slopes = slope * (1 - (1 - ratio) * share), slope * (1 + (1 - ratio) * (1 - share) / ratio)
        spreads = [
            [_variance(arm, each) for arm in (suspect, control)] for each in slopes
        ]  # covariances with the common slope
        both = [(n * first + m * second) / (n + m) for first, second in spreads]
        difference += weight * (_mean(suspect, slopes[0]) - ratio * _mean(control, slopes[1]))
        variance += weight**2 * (max(spreads[0][0], both[0]) / n + ratio**2 * max(spreads[1][1], both[1]) / m)
        pooled += weight * both[0]
        units += weight
    if variance <= 0:
        return Contrast(0.0, 0.0, math.inf)
    error = math.sqrt(variance)
    return Contrast(difference / error, variance / (pooled / units), error / (units * _base(told, slope)))


def log_more(seen: Contrast) -> float:
    """Return the log evidence that the suspect's mean is more than the multiple.

    >>> log_more(Contrast(5.0, 5000.0, 0.1)) > math.log(500) > log_more(Contrast(3.5, 5000.0, 0.1))
    True
    """
    grown = _PER_UNIT * seen.units
    at = seen.score * math.sqrt(grown / (grown + 1))
    return _log_erfcx(-at / math.sqrt(2)) - math.log1p(grown) / 2


def log_less(seen: Contrast) -> float:
    """Return the log evidence that it is less."""
    return log_more(seen._replace(score=-seen.score))


def estimate(phases: Sequence[Phase], chance: float) -> Estimate:
    """Return the ratio of the suspect's mean to the control's, with bounds valid at every look.

    Only if decided (:func:`undecided`).
    """
    told = _told(phases)
    slope = _slope(told)
    above = sum(_weight(phase) * _around(phase, 0, slope) for phase in told)
    ratio = above / (sum(map(_weight, told)) * _base(told, slope))
    seen = contrast(phases, ratio or 1.0)
    half = half_width(seen.error, max(1, round(seen.units)), PLANNED, chance)
    return Estimate(ratio, ratio - half, ratio + half)


def _told(phases: Sequence[Phase]) -> list[Phase]:
    """Return the phases with enough units of both arms."""
    return [phase for phase in phases if min(phase[0].units, phase[1].units) >= LEAST_UNITS]


def _weight(phase: Phase) -> float:
    n, m = phase[0].units, phase[1].units
    return n * m / (n + m)


def _slope(phases: Sequence[Phase]) -> float:
    """Return the slope of values by past values, within arms."""
    together = alone = 0.0
    for phase in phases:
        for arm in phase:
            together += arm.products - arm.past * arm.total / arm.units
            alone += arm.past_squares - arm.past**2 / arm.units
    return together / alone if alone > 0 else 0.0


def _around(phase: Phase, arm: int, slope: float) -> float:
    """Return an arm's mean adjusted to the past of both arms together."""
    past = sum(one.past for one in phase) / sum(one.units for one in phase)
    return _mean(phase[arm], slope) + slope * past


def _base(phases: Sequence[Phase], slope: float) -> float:
    """Return the control's mean."""
    return sum(_weight(phase) * _around(phase, 1, slope) for phase in phases) / sum(map(_weight, phases))


def _mean(arm: Sums, slope: float) -> float:
    return (arm.total - slope * arm.past) / arm.units


def _variance(arm: Sums, slope: float) -> float:
    squares = arm.squares - 2 * slope * arm.products + slope**2 * arm.past_squares
    return max(0.0, squares / arm.units - _mean(arm, slope) ** 2)


def _skewness(phases: Sequence[Phase], slope: float) -> float:
    """Return the skewness of the difference's error under one distribution of values."""
    cubes = variance = 0.0
    for phase in phases:
        units = phase[0].units + phase[1].units
        third = sum(arm.units * _third(arm) for arm in phase) / units
        spread = sum(arm.units * _variance(arm, slope) for arm in phase) / units
        weight = _weight(phase)
        cubes += weight**3 * third * (1 / phase[0].units ** 2 - 1 / phase[1].units ** 2)
        variance += weight * spread
    if variance <= 0:
        return 0.0
    skewness: float = cubes / variance**1.5
    return skewness


def _third(arm: Sums) -> float:
    mean = arm.total / arm.units
    return arm.cubes / arm.units - 3 * mean * arm.squares / arm.units + 2 * mean**3


def _log_erfcx(x: float) -> float:
    """Return ``log(exp(x * x) erfc(x))`` for any x."""
    if x < _OVERFLOWS:
        return x * x + math.log(2)
    return math.log(erfcx(x))


_OVERFLOWS = -26.0  # below which erfcx is infinite, and erfc is 2

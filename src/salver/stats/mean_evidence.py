"""Is the mean of what units bring, as money, less or more in one arm, looked at as often as one likes?

The asymptotic confidence sequence of ``mean_sequence.py``, turned round: the level at which it excludes the
null is the reciprocal of a mixture of likelihood ratios (Robbins 1970; Waudby-Smith, Arbour, Sinha, Kennedy &
Ramdas 2024), so that mixture is evidence, to be averaged with that of other metrics. Its prior has one side,
as its null has: "not less than so many times the control's".

- The arms are compared within each *phase*, a stretch in which their shares stayed, and phases are added by
  the weight of their sizes: who comes when more of the units are the canary's deceives nobody (Simpson).
- What a unit brought before it was exposed explains some of what it brings after (CUPED: Deng, Xu, Kohavi &
  Walker 2013). One slope for both arms, so that it leans to neither.
- Of skewed values a small arm has too low a mean and too low a variance at once, most of the time. So no arm
  is believed to vary less than both together, which keeps either side's level in arms of any sizes; and where
  the error is very skewed nothing is said at all.

Knows sums only; that units are independent, and values bounded, is its caller's to see to. Pure.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from salver.stats.interval import Estimate
from salver.stats.mean_sequence import LEAST_EVENTS, LEAST_UNITS, half_width
from salver.words.releases import Sums

#: Effective units, as many as ``n m / (n + m)`` of two arms, at which evidence is strongest for its kind.
PLANNED = 5000
#: How skewed the error may be. An arm that is not believed to vary less than both keeps the level beyond that
#: (measured, see docs/explanation/judge.md); from there on the mean itself is no guide.
MOST_SKEW = 0.4
#: By how much the mixture's variance grows with each: best for a level of one in 500 at the planned ones.
_PER_UNIT = (2 * math.log(500) + math.log1p(2 * math.log(500))) / PLANNED

#: Of two arms in one stretch of time, the suspect's first.
Phase = tuple[Sums, Sums]


class Contrast(NamedTuple):
    """The suspect's mean, less a multiple of its control's.

    Attributes:
        score: In standard errors.
        units: Effective ones, on which it rests.
        error: Of the multiple, one standard error.
    """

    score: float
    units: float
    error: float


def undecided(phases: Sequence[Phase]) -> str:
    """Why nothing can be said of the arms yet, in words; empty = it can."""
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
    """Of what is decided (:func:`undecided`), for a multiple of the control's mean."""
    told = _told(phases)
    slope = _slope(told)
    difference = variance = pooled = units = 0.0
    for suspect, control in told:
        n, m = suspect.units, control.units
        weight, share = n * m / (n + m), n / (n + m)
        # The past is held against that of both arms: its mean enters by both.
        slopes = slope * (1 - (1 - ratio) * share), slope * (1 + (1 - ratio) * (1 - share) / ratio)
        spreads = [
            [_variance(arm, each) for arm in (suspect, control)] for each in slopes
        ]  # of either slope, both arms'
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
    """The logarithm of the evidence that the suspect's mean is more than the multiple.

    >>> log_more(Contrast(5.0, 5000.0, 0.1)) > math.log(500) > log_more(Contrast(3.5, 5000.0, 0.1))
    True
    """
    grown = _PER_UNIT * seen.units
    at = seen.score * math.sqrt(grown / (grown + 1))
    return _log_erfcx(-at / math.sqrt(2)) - math.log1p(grown) / 2


def log_less(seen: Contrast) -> float:
    """The same, that it is less."""
    return log_more(seen._replace(score=-seen.score))


def estimate(phases: Sequence[Phase], chance: float) -> Estimate:
    """How many times the control's mean the suspect's is, with bounds that fail at any look with this chance.

    Of what is decided (:func:`undecided`).
    """
    told = _told(phases)
    slope = _slope(told)
    above = sum(_weight(phase) * _around(phase, 0, slope) for phase in told)
    ratio = above / (sum(map(_weight, told)) * _base(told, slope))
    seen = contrast(phases, ratio or 1.0)
    half = half_width(seen.error, max(1, round(seen.units)), PLANNED, chance)
    return Estimate(ratio, ratio - half, ratio + half)


def _told(phases: Sequence[Phase]) -> list[Phase]:
    """Phases with enough of both arms."""
    return [phase for phase in phases if min(phase[0].units, phase[1].units) >= LEAST_UNITS]


def _weight(phase: Phase) -> float:
    n, m = phase[0].units, phase[1].units
    return n * m / (n + m)


def _slope(phases: Sequence[Phase]) -> float:
    """Of values by those of the past, within arms."""
    together = alone = 0.0
    for phase in phases:
        for arm in phase:
            together += arm.products - arm.past * arm.total / arm.units
            alone += arm.past_squares - arm.past**2 / arm.units
    return together / alone if alone > 0 else 0.0


def _around(phase: Phase, arm: int, slope: float) -> float:
    """An arm's mean, had its units the past of both arms' together."""
    past = sum(one.past for one in phase) / sum(one.units for one in phase)
    return _mean(phase[arm], slope) + slope * past


def _base(phases: Sequence[Phase], slope: float) -> float:
    """The control's mean."""
    return sum(_weight(phase) * _around(phase, 1, slope) for phase in phases) / sum(map(_weight, phases))


def _mean(arm: Sums, slope: float) -> float:
    return (arm.total - slope * arm.past) / arm.units


def _variance(arm: Sums, slope: float) -> float:
    squares = arm.squares - 2 * slope * arm.products + slope**2 * arm.past_squares
    return max(0.0, squares / arm.units - _mean(arm, slope) ** 2)


def _skewness(phases: Sequence[Phase], slope: float) -> float:
    """Of the difference's error, if both arms have values of one kind; none where they are of one size."""
    cubes = variance = 0.0
    for phase in phases:
        units = phase[0].units + phase[1].units
        third = sum(arm.units * _third(arm) for arm in phase) / units
        spread = sum(arm.units * _variance(arm, slope) for arm in phase) / units
        weight = _weight(phase)
        cubes += weight**3 * third * (1 / phase[0].units ** 2 - 1 / phase[1].units ** 2)
        variance += weight * spread
    return cubes / variance**1.5 if variance > 0 else 0.0


def _third(arm: Sums) -> float:
    mean = arm.total / arm.units
    return arm.cubes / arm.units - 3 * mean * arm.squares / arm.units + 2 * mean**3


def _log_erfcx(x: float) -> float:
    """``log(exp(x * x) erfc(x))``, of any x."""
    if x < 25:
        return x * x + math.log(math.erfc(x))
    return -math.log(x * math.sqrt(math.pi)) - 1 / (2 * x * x)

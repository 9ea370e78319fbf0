"""Asymptotic confidence sequences for the difference of two means.

(Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, Annals of Statistics 2024.) An interval that covers the
difference at all looks simultaneously, for large samples. With small samples or rare events the estimated
variance, and so the interval, is wrong: at a split of 1 : 99 and a rate of .5 % the smaller arm is falsely
reported as better twice as often as promised. Such data are rejected; use
:mod:`salver.stats.binomial_evidence`, which is exact. Pure.
"""

import math
from typing import Self

import msgspec
import numpy as np
import numpy.typing as npt

from salver.stats.interval import Estimate
from salver.words.errors import FailedPrecondition, InvalidInput

#: Requirements for a valid interval: units and events of each arm, and maximum skewness of the difference's
#: error. The last corresponds, for arms of any size and values, to 50 events in a small arm's proportion.
LEAST_UNITS = 1000
LEAST_EVENTS = 50
MOST_SKEW = LEAST_EVENTS**-0.5
_LEAST_VARIANCE = 1e-10  # relative to the squared mean: below it, sums of squares are dominated by rounding


class Moments(msgspec.Struct, frozen=True):
    """Moments of one arm; plain data, updated by copying.

    Attributes:
        units: Number of units.
        total: Sum of their values.
        squares, cubes: Sums of their second and third powers.
        events: Number of units with a value other than the usual one (normally 0). For values that are all
            different it is the number of units.
    """

    units: int = 0
    total: float = 0.0
    squares: float = 0.0
    cubes: float = 0.0
    events: int = 0

    @classmethod
    def of_counts(cls, hits: int, units: int) -> "Moments":
        """Return the moments of units with a binary property.

        Raises:
            InvalidInput: Not ``0 <= hits <= units``.
        """
        if not 0 <= hits <= units < math.inf:
            raise InvalidInput(f"{hits} of {units} units cannot be", fix="Give 0 <= hits <= units.")
        hits, units = int(hits), int(units)
        return cls(units, float(hits), float(hits), float(hits), min(hits, units - hits))

    @classmethod
    def of_values(cls, values: npt.ArrayLike, usual: float = 0.0) -> "Moments":
        """Return the moments of one value per unit, shape ``(units,)``.

        Raises:
            InvalidInput: The shape is wrong, or a value is not finite.
        """
        array = np.asarray(values, np.float64)
        if array.ndim != 1 or not np.isfinite(array).all():
            raise InvalidInput(
                f"values of the shape {array.shape} cannot be", fix="Give one finite value a unit."
            )
        squares = array * array
        events = int(np.count_nonzero(array != usual))
        return cls(array.size, float(array.sum()), float(squares.sum()), float(squares @ array), events)

    def add(self, other: Self) -> Self:
        """Add the units of another part of the same arm."""
        return type(self)(
            self.units + other.units,
            self.total + other.total,
            self.squares + other.squares,
            self.cubes + other.cubes,
            self.events + other.events,
        )

    @property
    def mean(self) -> float:
        """Return the mean of the values; requires at least one unit."""
        return self.total / self.units

    @property
    def variance(self) -> float:
        """Return the population variance: ``p (1 - p)`` for counts."""
        return max(0.0, self.squares / self.units - self.mean**2)

    @property
    def third(self) -> float:
        """Return the third central moment."""
        return self.cubes / self.units - 3 * self.mean * self.squares / self.units + 2 * self.mean**3


def difference(control: Moments, treatment: Moments, planned: int, alpha: float = 0.05) -> Estimate:
    """Return the difference of the means, treatment minus control, with bounds valid at every look.

    Args:
        control, treatment: The arms.
        planned: Total units at which the interval is narrowest.
        alpha: Probability that it ever fails to cover, in (0, 1).

    Raises:
        FailedPrecondition: An arm is too small for this interval, or its values hardly vary.
        InvalidInput: ``planned`` or ``alpha`` is out of range.
    """
    _check_range(control, treatment)
    error = math.sqrt(control.variance / control.units + treatment.variance / treatment.units)
    return _around(treatment.mean - control.mean, error, control.units + treatment.units, planned, alpha)


def lift(control: Moments, treatment: Moments, planned: int, alpha: float = 0.05) -> Estimate:
    """Return the difference relative to the control's mean (delta method); arguments as :func:`difference`.

    Raises:
        FailedPrecondition: An arm is too small for this interval, its values hardly vary, or the control's
            mean is 0.
        InvalidInput: ``planned`` or ``alpha`` is out of its range.
    """
    _check_range(control, treatment)
    base = control.mean
    if not base:
        raise FailedPrecondition(
            "the control's mean is 0, so nothing is a part of it", fix="Ask for the difference."
        )
    error = math.sqrt(
        treatment.variance / treatment.units / base**2
        + control.variance / control.units * treatment.mean**2 / base**4
    )
    return _around(treatment.mean / base - 1, error, control.units + treatment.units, planned, alpha)


def half_width(error: float, units: int, planned: int, alpha: float = 0.05) -> float:
    """Return the distance from estimate to bound for a standard error, without checking validity.

    Args:
        error: Standard error of the estimate, 0 or more.
        units: Number of units in all arms, above 0.
        planned: As in :func:`difference`.
        alpha: Likewise.

    Raises:
        InvalidInput: An argument is out of its range.
    """
    if not (error >= 0 and units > 0 and planned >= 1 and 0 < alpha < 1):
        raise InvalidInput(
            f"an error of {error} of {units} units, {planned} planned ones and an alpha of {alpha} cannot be",
            fix="Give an error of 0 or more and units, plan one or more, and an alpha between 0 and 1.",
        )
    log = -2 * math.log(alpha)
    # N rho^2, with the rho that is optimal at the planned units
    scaled = units * (log + math.log1p(log)) / planned
    return error * math.sqrt(2 * (scaled + 1) / scaled * math.log(math.sqrt(scaled + 1) / alpha))


def _around(value: float, error: float, units: int, planned: int, alpha: float) -> Estimate:
    half = half_width(error, units, planned, alpha)
    return Estimate(value, value - half, value + half)


def _check_range(control: Moments, treatment: Moments) -> None:
    for arm in (control, treatment):
        if arm.units < LEAST_UNITS or arm.events < LEAST_EVENTS:
            raise FailedPrecondition(
                f"an arm of {arm.units} units with {arm.events} events is too small for this interval",
                fix=f"Wait for {LEAST_UNITS} units and {LEAST_EVENTS} events in each arm, or count events.",
            )
        if arm.variance <= _LEAST_VARIANCE * arm.mean**2:
            raise FailedPrecondition(
                f"values of a mean of {arm.mean:g} hardly vary, of which sums of squares tell nothing",
                fix="Take a constant off all of them that was set beforehand, or compare something else.",
            )
    skew = _skew(control, treatment)
    if skew > MOST_SKEW:
        factor = (skew / MOST_SKEW) ** 2
        raise FailedPrecondition(
            f"values of {control.units} and {treatment.units} units are too skewed for this interval",
            fix="Cap them at a limit set beforehand, make the arms more equal, or wait for "
            f"{factor:.1f} times the units.",
        )


def _skew(control: Moments, treatment: Moments) -> float:
    """Return the skewness of the difference's error under one distribution of values.

    The distribution is pooled: that of the smaller arm alone looks regular just when its rare large values
    are still missing and its mean is too low.
    """
    n, m = control.units, treatment.units
    variance = (n * control.variance + m * treatment.variance) / (n + m)
    third = (n * control.third + m * treatment.third) / (n + m)
    if not variance:
        return 0.0
    skew = third / math.pow(variance, 1.5)
    return abs(skew * (1 / n**2 - 1 / m**2)) / math.pow(1 / n + 1 / m, 1.5)

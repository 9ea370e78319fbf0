"""Forecast of when a change of a mean can be detected.

The number of units until the evidence suffices if it grows as expected, but at least as many as a comparison
of the arms needs. Pure.
"""

import math

from salver.features.releases.judge.policy import Metric
from salver.stats.mean_evidence import Contrast, log_more
from salver.stats.mean_sequence import LEAST_UNITS

_HALVINGS = 60  # of the logarithm of the units


def detection_minutes(
    metric: Metric, weight: float, ratio: float, enough: float, *, spread: float, per_minute: float
) -> float:
    """Return the minutes until a canary whose mean is ``ratio`` times worse is usually rolled back.

    Args:
        weight: Weight of the stage.
        enough: Log evidence that causes a rollback.
        spread: Standard deviation of a unit's value, as a multiple of the mean; 0 = unknown.
        per_minute: New units per minute in all arms.
    """
    is_less, boundary = metric.worse == "less", _boundary(metric, metric.rollback_margin)
    true = 1 / ratio if is_less else ratio
    if true > boundary if is_less else true < boundary:
        return math.inf
    return _minutes(metric, weight, true, boundary, enough, spread, per_minute)


def promotion_minutes(
    metric: Metric, weight: float, margin: float, enough: float, *, spread: float, per_minute: float
) -> float:
    """Return the minutes until a harmless canary usually passes its gate; arguments likewise."""
    return _minutes(metric, weight, 1.0, _boundary(metric, margin), enough, spread, per_minute)


def _boundary(metric: Metric, margin: float) -> float:
    if metric.worse == "less":
        return 1 - margin
    return 1 + margin


def _minutes(
    metric: Metric,
    weight: float,
    true: float,
    boundary: float,
    enough: float,
    spread: float,
    per_minute: float,
) -> float:
    if not spread or weight >= 1 or true == boundary:
        return math.inf
    # combined variance of the arms, in squared spreads, and of the contrast:
    both = weight * true**2 + 1 - weight
    varies = (1 - weight) * max(true**2, both) + weight * boundary**2 * max(1.0, both)

    def is_enough(units: float) -> bool:
        effective = units * weight * (1 - weight)
        score = abs(true - boundary) * math.sqrt(effective / varies) / spread
        return log_more(Contrast(score, effective * varies / both, 0.0)) >= enough

    low, high = math.log(LEAST_UNITS / min(weight, 1 - weight)), math.log(1e18)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if is_enough(math.exp(middle)) else (middle, high)
    return math.exp(high) / per_minute + metric.matures_minutes

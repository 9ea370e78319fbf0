"""Calibrated probabilities: temperature, Platt's sigmoid, isotonic regression.

Scores are log-probabilities of K classes, ``[rows, K]`` (:func:`log_probabilities`). With two classes the
second is calibrated, and the first is the rest; with more, each class is calibrated against the rest, and the
results are divided by their sum (Zadrozny & Elkan 2002). Parameters are fitted in
:mod:`salver.stats.calibration_fitting`. Pure.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit, log_expit, log_softmax

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]
Method = Literal["none", "temperature", "sigmoid", "isotonic"]
#: From the simplest to the most flexible.
METHODS: Final[tuple[Method, ...]] = ("none", "temperature", "sigmoid", "isotonic")
_LEAST_LOG: Final = -50.0  # of a probability: far below what single precision tells from 0


class Curve(NamedTuple):
    """Isotonic curve: straight lines between knots, and constant beyond the first and the last."""

    x: Sequence[float]
    y: Sequence[float]


class Calibration(NamedTuple):
    """Fitted parameters.

    Attributes:
        temperature: Divides the logits.
        slopes, intercepts: Of the sigmoid of each calibrated class, over its log-odds.
        curves: Isotonic curve of each calibrated class, over its probability.
    """

    method: Method = "none"
    temperature: float = 1.0
    slopes: Sequence[float] = ()
    intercepts: Sequence[float] = ()
    curves: Sequence[Curve] = ()


def log_probabilities(scores: Floats, *, are_logits: bool) -> Floats:
    """Return log-probabilities ``[rows, K]`` of scores.

    Args:
        scores: ``[rows, K]``, or one column (or none) for the second of two classes.
        are_logits: They are logits, and not probabilities.

    >>> np.exp(log_probabilities(np.array([0.25]), are_logits=False)).round(3).tolist()
    [[0.75, 0.25]]
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim == 1:
        scores = scores[:, None]
    if scores.shape[1] > 1:
        found = log_softmax(scores, axis=1) if are_logits else _log_shares(scores)
    elif are_logits:
        found = np.concatenate([log_expit(-scores), log_expit(scores)], axis=1)
    else:
        found = _log_shares(np.concatenate([1 - scores, scores], axis=1))
    return np.maximum(found, _LEAST_LOG)


def _log_shares(scores: Floats) -> Floats:
    """Return logs of probabilities, which need not add up to 1 exactly."""
    least = np.exp(_LEAST_LOG)
    kept = np.maximum(scores, least)
    return np.asarray(np.log(kept) - np.log(kept.sum(axis=1, keepdims=True)))


def log_odds(logs: Floats) -> Floats:
    """Return the log-odds of each class."""
    rest = np.log(-np.expm1(np.minimum(logs, -1e-16)))
    return np.asarray(logs - np.maximum(rest, _LEAST_LOG))


def calibrated_classes(classes: int) -> range:
    """Return the classes that are calibrated: of two, the second."""
    return range(1 if classes == 2 else 0, classes)


def calibrated(calibration: Calibration, logs: Floats) -> Floats:
    """Return calibrated probabilities ``[rows, K]`` of log-probabilities.

    >>> import numpy as np
    >>> logs = log_probabilities(np.array([0.9]), are_logits=False)
    >>> calibrated(Calibration("temperature", 2.0), logs).round(3).tolist()
    [[0.25, 0.75]]
    """
    match calibration.method:
        case "temperature":
            return np.asarray(np.exp(log_softmax(logs / calibration.temperature, axis=1)))
        case "sigmoid":
            odds = log_odds(logs)[:, calibrated_classes(logs.shape[1])]
            values = odds * np.asarray(calibration.slopes) + np.asarray(calibration.intercepts)
            return _shared(np.asarray(expit(values)))
        case "isotonic":
            shares = np.exp(logs)[:, calibrated_classes(logs.shape[1])]
            curves = zip(shares.T, calibration.curves, strict=True)
            columns = [np.interp(own, np.asarray(curve.x), np.asarray(curve.y)) for own, curve in curves]
            return _shared(np.stack(columns, axis=1))
    return np.asarray(np.exp(logs))


def _shared(columns: Floats) -> Floats:
    """Return probabilities of all classes from those of the calibrated ones."""
    if columns.shape[1] == 1:
        return np.concatenate([1 - columns, columns], axis=1)
    total = columns.sum(axis=1, keepdims=True)
    equal = np.full_like(columns, 1 / columns.shape[1])
    return np.asarray(np.divide(columns, total, out=equal, where=total > 0))

"""Fitting of the parameters of calibrated probabilities, and cross-validation of them. Pure."""

from typing import Final

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression, minimize, minimize_scalar
from scipy.special import expit, log_expit, log_softmax

from salver.stats.calibration import (
    Calibration,
    Curve,
    Floats,
    Labels,
    Method,
    calibrated,
    calibrated_classes,
    log_odds,
)
from salver.words.errors import InvalidInput

_MOST_LOG_TEMPERATURE: Final = 10.0


def fit(method: Method, logs: Floats, labels: Labels) -> Calibration:
    """Return the parameters of a method that fit rows best.

    Args:
        logs: Log-probabilities, ``[rows, K]``.
        labels: Class of each row, ``[rows]``, from 0 to K - 1.

    Raises:
        InvalidInput: there is no row, or a class without rows, for which there is nothing to fit.
    """
    classes = logs.shape[1]
    counts = np.bincount(labels, minlength=classes)
    if len(counts) > classes or not counts.all():
        missing = int(np.argmin(counts))
        raise InvalidInput(
            f"{int((counts == 0).sum())} of {classes} classes have no row, class {missing} among them",
            fix="Give rows of every class.",
        )
    match method:
        case "temperature":
            return Calibration(method, _temperature(logs, labels))
        case "sigmoid":
            odds = log_odds(logs)
            found = [_sigmoid(odds[:, k], labels == k) for k in calibrated_classes(classes)]
            return Calibration(method, slopes=[a for a, _ in found], intercepts=[b for _, b in found])
        case "isotonic":
            shares = np.exp(logs)
            return Calibration(
                method, curves=[isotonic(shares[:, k], labels == k) for k in calibrated_classes(classes)]
            )
    return Calibration()


def _temperature(logs: Floats, labels: Labels) -> float:
    """Return the temperature of least log loss (Guo et al. 2017), which is convex in its reciprocal."""
    rows = np.arange(len(labels))

    def loss(log_beta: float) -> float:
        return float(-log_softmax(np.exp(log_beta) * logs, axis=1)[rows, labels].mean())

    bounds = (-_MOST_LOG_TEMPERATURE, _MOST_LOG_TEMPERATURE)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-9})
    return float(np.exp(-found.x))


def _sigmoid(odds: Floats, is_class: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """Return slope and intercept over the log-odds (Platt 1999).

    His targets stay away from 0 and 1, so that classes that do not overlap have finite parameters.
    """
    positive = int(is_class.sum())
    negative = len(is_class) - positive
    targets = np.where(is_class, (positive + 1) / (positive + 2), 1 / (negative + 2))

    def loss(parameters: Floats) -> tuple[float, Floats]:
        values = parameters[0] * odds + parameters[1]
        total = -(targets * log_expit(values) + (1 - targets) * log_expit(-values)).mean()
        errors = expit(values) - targets
        return float(total), np.array([(errors * odds).mean(), errors.mean()])

    start = np.array([0.0, np.log((positive + 1) / (negative + 1))])
    found = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-9})
    return float(found.x[0]), float(found.x[1])


def isotonic(shares: Floats, is_class: npt.NDArray[np.bool_]) -> Curve:
    """Return the isotonic curve of least squares, by pooling adjacent violators (Barlow et al. 1972).

    Its values are at least 1 / (rows + 2) away from 0 and 1: no sample says that a class is impossible.
    """
    x, places = np.unique(shares, return_inverse=True)
    weights = np.bincount(places).astype(np.float64)
    means = np.bincount(places, weights=is_class.astype(np.float64)) / weights
    edge = 1 / (len(shares) + 2)
    y = np.clip(isotonic_regression(means, weights=weights).x, edge, 1 - edge)
    # Inner knots of a constant stretch change nothing.
    kept = np.ones(len(x), bool)
    kept[1:-1] = (y[1:-1] != y[:-2]) | (y[1:-1] != y[2:])
    return Curve(x[kept].tolist(), y[kept].tolist())


def cross_calibrated(method: Method, logs: Floats, labels: Labels, folds: int, order: Labels) -> Floats:
    """Return probabilities of rows, each from parameters that were fitted without it.

    Folds have equally many rows of each class, up to one.

    Args:
        order: All rows in random order, in which they are dealt out to the folds.

    Raises:
        InvalidInput: a class has fewer rows than there are folds.
    """
    counts = np.bincount(labels, minlength=logs.shape[1])
    if not 2 <= folds <= counts.min():
        missing = int(np.argmin(counts))
        raise InvalidInput(
            f"class {missing} has {counts[missing]} rows, which are too few for {folds} folds",
            fix="Give more rows of every class, or fewer folds (at least 2).",
        )
    by_class = order[np.argsort(labels[order], kind="stable")]
    fold_of = np.empty(len(labels), np.int64)
    fold_of[by_class] = np.arange(len(labels)) % folds
    found = np.empty_like(logs)
    for fold in range(folds):
        is_out = fold_of == fold
        found[is_out] = calibrated(fit(method, logs[~is_out], labels[~is_out]), logs[is_out])
    return found

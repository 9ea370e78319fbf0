"""Quality of probabilities of classes: log loss, Brier score, calibration error, with intervals. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from salver.stats.calibration import METHODS, Floats, Labels, Method
from salver.stats.calibration_fitting import cross_calibrated
from salver.stats.exact import clopper_pearson
from salver.stats.interval import Estimate, Interval

_Z = 1.959963984540054  # of 95 %
_LEAST = 1e-15


class Quality(NamedTuple):
    """Quality of probabilities; intervals have 95 %.

    Attributes:
        log_loss: Mean of -ln of the probability of a row's class.
        brier: Mean of the squared distance from the row's class, over all classes; for two classes, that of
            the second alone, as it was first defined.
        ece: Expected calibration error, see :func:`bins_of`.
    """

    rows: int
    accuracy: Estimate
    log_loss: Estimate
    brier: Estimate
    ece: float


class Bin(NamedTuple):
    """Bin of a reliability diagram.

    Attributes:
        low, high: Its probabilities, above ``low`` (or 0) and up to ``high``.
        predicted: Mean probability of its rows.
        observed: Share of them for which it came true, with an interval of 95 %.
    """

    low: float
    high: float
    rows: int
    predicted: float
    observed: float
    interval: Interval


class Trial(NamedTuple):
    """A method, judged on rows that it was not fitted on.

    Attributes:
        change: Difference of log loss from the scores as they are; below 0 is better.
    """

    method: Method
    quality: Quality
    change: Estimate


def log_losses(probabilities: Floats, labels: Labels) -> Floats:
    """Return the log loss of each row."""
    return np.asarray(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], _LEAST)))


def quality_of(probabilities: Floats, labels: Labels, bins: int = 15) -> Quality:
    """Return the quality of probabilities ``[rows, K]``, for rows that do not depend on one another."""
    rows, classes = probabilities.shape
    errors = probabilities.copy()
    errors[np.arange(rows), labels] -= 1
    brier = (errors**2).sum(axis=1)
    if classes == 2:
        brier = errors[:, 1] ** 2
    right = int((probabilities.argmax(axis=1) == labels).sum())
    own = bins_of(probabilities, labels, bins)
    ece = sum(each.rows * abs(each.observed - each.predicted) for each in own) / rows
    accuracy = Estimate(right / rows, *clopper_pearson(right, rows))
    return Quality(rows, accuracy, mean_of(log_losses(probabilities, labels)), mean_of(brier), float(ece))


def mean_of(values: Floats) -> Estimate:
    """Return the mean, with the normal interval."""
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, -np.inf, np.inf)
    half = _Z * float(values.std(ddof=1)) / len(values) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def bins_of(probabilities: Floats, labels: Labels, bins: int = 15) -> list[Bin]:
    """Return the bins of equal width that have rows.

    Of two classes, the second one's probability is binned; of more, the greatest one's, which comes true if
    its class is the row's (Guo et al. 2017).
    """
    if probabilities.shape[1] == 2:
        shares, is_true = probabilities[:, 1], labels == 1
    else:
        shares, is_true = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    place = np.clip(np.ceil(shares * bins).astype(np.int64) - 1, 0, bins - 1)
    found = []
    for index in np.unique(place).tolist():
        own = place == index
        rows, true = int(own.sum()), int(is_true[own].sum())
        predicted = float(shares[own].mean())
        interval = clopper_pearson(true, rows)
        found.append(Bin(index / bins, (index + 1) / bins, rows, predicted, true / rows, interval))
    return found


def tried(
    logs: Floats,
    labels: Labels,
    methods: Sequence[Method] = METHODS,
    *,
    order: Labels,
    folds: int = 5,
    bins: int = 15,
) -> tuple[list[Trial], Method]:
    """Return the methods, each judged on rows that it was not fitted on, and the one to use.

    Methods are compared from the simplest to the most flexible, each with the best before it: it is used if
    the interval of the difference of log loss, over the same rows, is below 0.

    Args:
        order: All rows in random order, see :func:`~salver.stats.calibration_fitting.cross_calibrated`.

    Raises:
        InvalidInput: a class has too few rows.
    """
    plain = np.exp(logs)
    before = least = log_losses(plain, labels)
    best: Method = "none"
    trials = [Trial("none", quality_of(plain, labels, bins), Estimate(0.0, 0.0, 0.0))]
    for method in METHODS[1:]:
        if method not in methods:
            continue
        own = cross_calibrated(method, logs, labels, folds, order)
        losses = log_losses(own, labels)
        trials.append(Trial(method, quality_of(own, labels, bins), mean_of(losses - before)))
        if mean_of(losses - least).high < 0:
            best, least = method, losses
    return trials, best

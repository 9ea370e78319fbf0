"""Calibration of scores: methods tried, the parameters of the best, and the report. Pure."""

from collections.abc import Sequence
from typing import Any, Final, Literal, NamedTuple

import msgspec
import numpy as np

from salver.features.pipelines.steps.calibrate import CalibrationFile, Knots
from salver.stats.calibration import METHODS, Floats, Labels, Method, log_probabilities
from salver.stats.calibration_fitting import cross_calibrated, fit
from salver.stats.interval import Estimate
from salver.stats.scoring import Bin, Trial, bins_of, tried
from salver.words.errors import InvalidInput

Wish = Literal["auto", "none", "temperature", "sigmoid", "isotonic"]
_NOTES: Final[dict[Method, str]] = {
    "none": "no method is certainly better than the scores as they are",
    "temperature": "one number for all classes, which changes no ranking",
    "sigmoid": "a slope and an intercept for each class (Platt)",
    "isotonic": "a rising curve for each class",
}


class CalibrationReport(NamedTuple):
    """A calibration.

    Attributes:
        trials: Each method, judged out of fold.
        file: The parameters of the chosen method, fitted on all rows.
        before, after: Reliability as the scores are, and calibrated out of fold.
        why: Why the method.
    """

    trials: Sequence[Trial]
    file: CalibrationFile
    before: Sequence[Bin]
    after: Sequence[Bin]
    why: str


def calibration_of(
    scores: Floats,
    labels: Labels,
    order: Labels,
    *,
    are_logits: bool = False,
    wish: Wish = "auto",
    folds: int = 5,
    bins: int = 15,
) -> CalibrationReport:
    """Return the calibration of scores ``[rows, columns]``.

    Args:
        order: All rows in random order, in which they are dealt out to the folds.
        wish: The method, or ``auto`` for the simplest that is certainly better than those before it.

    Raises:
        InvalidInput: a score is no probability, or a class has too few rows.
    """
    if not are_logits:
        _check_probabilities(scores)
    if not 2 <= bins <= 1000:
        raise InvalidInput("--bins must be from 2 to 1000")
    logs = log_probabilities(scores, are_logits=are_logits)
    methods: tuple[Method, ...] = METHODS if wish == "auto" else ("none", wish)
    trials, best = tried(logs, labels, methods, order=order, folds=folds, bins=bins)
    why = _NOTES[best]
    if wish != "auto":
        best, why = wish, "as it was asked for"
    after = np.exp(logs)
    if best != "none":
        after = cross_calibrated(best, logs, labels, folds, order)
    fitted = fit(best, logs, labels)
    file = CalibrationFile(
        best,
        "logits" if are_logits else "probabilities",
        scores.shape[1],
        fitted.temperature,
        tuple(fitted.slopes),
        tuple(fitted.intercepts),
        tuple(Knots(tuple(curve.x), tuple(curve.y)) for curve in fitted.curves),
        {"rows": len(labels), "folds": folds, "log_loss": _losses(trials, best)},
    )
    return CalibrationReport(
        trials, file, bins_of(np.exp(logs), labels, bins), bins_of(after, labels, bins), why
    )


def _losses(trials: Sequence[Trial], best: Method) -> dict[str, float]:
    losses = {trial.method: round(trial.quality.log_loss.value, 6) for trial in trials}
    return {"before": losses["none"], "after": losses[best]}


def _check_probabilities(scores: Floats) -> None:
    if scores.min() < 0 or scores.max() > 1:
        raise InvalidInput(
            f"scores are from {scores.min():g} to {scores.max():g}, and probabilities from 0 to 1",
            fix="If they are logits (before softmax or sigmoid), say --logits.",
        )
    totals = scores.sum(axis=1)
    if scores.shape[1] > 1 and np.abs(totals - 1).max() > 0.01:
        row = int(np.abs(totals - 1).argmax())
        raise InvalidInput(
            f"the scores of row {row + 1} add up to {totals[row]:g}, and probabilities to 1",
            fix="If they are logits, say --logits; if a row can have several classes, calibrate each alone.",
        )


def columns_of(trial: Trial) -> list[str]:
    """Return a row of the table of methods."""
    quality = trial.quality
    change = "" if trial.method == "none" else with_interval(trial.change, signed=True)
    return [
        trial.method,
        with_interval(quality.log_loss),
        change,
        f"{quality.brier.value:.4f}",
        f"{quality.ece:.4f}",
        f"{quality.accuracy.value:.3f}",
    ]


def with_interval(estimate: Estimate, *, signed: bool = False) -> str:
    """Return an estimate with its interval.

    >>> with_interval(Estimate(0.5, 0.25, 0.75))
    '0.5000 (0.2500 to 0.7500)'
    """
    sign = "+" if signed else ""
    return f"{estimate.value:{sign}.4f} ({estimate.low:{sign}.4f} to {estimate.high:{sign}.4f})"


def as_record(found: CalibrationReport, written: str) -> dict[str, Any]:
    """Return a calibration as JSON values.

    Args:
        written: File of the parameters; empty = not written.
    """
    return {
        "method": found.file.method,
        "why": found.why,
        "methods": [
            {"method": trial.method, "change": trial.change._asdict(), **_quality(trial)}
            for trial in found.trials
        ],
        "before": [_bin(each) for each in found.before],
        "after": [_bin(each) for each in found.after],
        "parameters": msgspec.to_builtins(found.file),
        "file": written,
    }


def _quality(trial: Trial) -> dict[str, Any]:
    told = trial.quality._asdict()
    return {name: each._asdict() if isinstance(each, Estimate) else each for name, each in told.items()}


def _bin(each: Bin) -> dict[str, Any]:
    return {**each._asdict(), "interval": each.interval._asdict()}

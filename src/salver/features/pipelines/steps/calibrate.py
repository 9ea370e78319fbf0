"""Step that calibrates the scores of a classifier, and the file of its parameters."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import msgspec
import numpy as np

from salver.features.pipelines.directory import inside, read_record
from salver.features.pipelines.steps.step import Arrays, Run, Step
from salver.stats.calibration import (
    Calibration,
    Curve,
    Method,
    calibrated,
    calibrated_classes,
    log_probabilities,
)
from salver.words.errors import LoadFailed
from salver.words.tensor import Array

_MOST: Final = 16 << 20  # bytes of a file
_FIX: Final = "Write it with: salver calibrate"


class Knots(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Isotonic curve of a class."""

    x: tuple[float, ...]
    y: tuple[float, ...]


class CalibrationFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Content of a file of parameters.

    Attributes:
        scores: What is calibrated.
        columns: Scores of a row; 1 = that of the second of two classes.
        temperature, slopes, intercepts, curves: See :class:`~salver.stats.calibration.Calibration`.
        fitted: How it was fitted, for people.
    """

    method: Method
    scores: Literal["probabilities", "logits"] = "probabilities"
    columns: int = 1
    temperature: float = 1.0
    slopes: tuple[float, ...] = ()
    intercepts: tuple[float, ...] = ()
    curves: tuple[Knots, ...] = ()
    fitted: dict[str, Any] = {}

    def fault(self) -> str:
        """Return what does not fit together; empty = nothing."""
        if not 1 <= self.columns <= 100_000:
            return "`columns` must be from 1 to 100000"
        wanted = len(calibrated_classes(max(2, self.columns)))
        if self.method == "temperature" and not 0 < self.temperature < float("inf"):
            return "`temperature` must be above 0"
        if self.method == "sigmoid" and not wanted == len(self.slopes) == len(self.intercepts):
            return f"`slopes` and `intercepts` must have {wanted} numbers"
        if self.method == "isotonic":
            if len(self.curves) != wanted:
                return f"`curves` must be {wanted}"
            for curve in self.curves:
                rises = list(curve.x) == sorted(set(curve.x)) and list(curve.y) == sorted(curve.y)
                if not rises or not 0 < len(curve.x) == len(curve.y):
                    return "`x` of a curve must rise, and `y` must not fall, with a `y` for each `x`"
                if not 0 <= curve.y[0] <= curve.y[-1] <= 1:
                    return "`y` of a curve must be from 0 to 1"
        return ""

    def parameters(self) -> Calibration:
        """Return the parameters."""
        curves = [Curve(curve.x, curve.y) for curve in self.curves]
        return Calibration(self.method, self.temperature, self.slopes, self.intercepts, curves)


_DECODER: Final = msgspec.json.Decoder(CalibrationFile)


def read_calibration(path: Path) -> CalibrationFile:
    """Return the content of a file.

    Raises:
        LoadFailed: it cannot be read, or does not fit together.
    """
    found = read_record(path, _DECODER, _MOST, "calibrate", "parameters", _FIX)
    if fault := found.fault():
        raise LoadFailed(f"calibrate: {path}: {fault}", fix=_FIX)
    return found


def calibrating(file: CalibrationFile) -> Callable[[Array], Array]:
    """Return the function of scores that a file describes; the answer has their shape and datatype."""
    parameters, are_logits = file.parameters(), file.scores == "logits"

    def calibrate(scores: Array) -> Array:
        if file.columns > 1:
            logs = log_probabilities(scores, are_logits=are_logits)
            return calibrated(parameters, logs).astype(scores.dtype)
        logs = log_probabilities(scores.ravel(), are_logits=are_logits)
        return calibrated(parameters, logs)[:, 1].reshape(scores.shape).astype(scores.dtype)

    return calibrate


class Calibrate(Step, frozen=True):
    """Calibrated probabilities of the scores of a classifier.

    Attributes:
        file: JSON file of parameters beside ``pipeline.toml``, as ``salver calibrate`` writes it.
    """

    inputs: ClassVar = {"scores": "FLOAT[rows, ...]"}
    outputs: ClassVar = {"scores": "FLOAT[rows, ...]"}

    file: str = "calibration.json"

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        columns = read_calibration(inside(folder, self.file)).columns
        told = "FLOAT[rows, ...]" if columns == 1 else f"FLOAT[rows, {columns}]"
        return {"scores": told}, {"scores": told}

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        calibrate = calibrating(read_calibration(inside(folder, self.file)))

        def run(arrays: Arrays) -> Arrays:
            return {"scores": np.asarray(calibrate(arrays["scores"]))}

        return run

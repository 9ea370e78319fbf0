"""Comparison of pipelines on the same rows: accuracy and log loss, and what they cost. Pure."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np

from salver.features.evaluation.calibration import with_interval
from salver.features.evaluation.labelled import labels_of, shown
from salver.features.evaluation.measuring import Answers
from salver.stats.calibration import log_probabilities
from salver.stats.exact import clopper_pearson
from salver.stats.interval import Estimate
from salver.stats.scoring import log_losses, mean_of
from salver.words.errors import InvalidInput
from salver.words.tensor import Array

_CLOSE = 1e-2


class Scored(NamedTuple):
    """One pipeline on the rows.

    Attributes:
        name: Path, and what was varied.
        accuracy: With an interval of 95 %.
        is_right: Of each row.
        log_loss: None = it answers no probabilities.
        answers: What it answered, and its cost.
    """

    name: str
    accuracy: Estimate
    is_right: Array
    log_loss: Estimate | None
    answers: Answers


def scored(name: str, answers: Answers, told: Sequence[Any], classes: Sequence[str], output: str) -> Scored:
    """Return the quality of answers.

    Args:
        told: Labels as they were written.
        classes: Names of the classes in the order of scores; empty = labels are indices.
        output: Output that is judged; empty = the first with probabilities, or else the first label.

    Raises:
        InvalidInput: no output can be judged.
    """
    chosen = _output(answers, output)
    array = answers.outputs[chosen]
    log_loss = None
    if array.dtype.kind == "f":
        probabilities = np.exp(log_probabilities(_checked(chosen, array), are_logits=False))
        labels = labels_of(told, classes, probabilities.shape[1])
        is_right = probabilities.argmax(axis=1) == labels
        log_loss = mean_of(log_losses(probabilities, labels))
    else:
        found = [shown(value) for value in array.ravel().tolist()]
        if array.dtype.kind != "O" and classes:
            found = [classes[int(index)] if int(index) < len(classes) else index for index in found]
        is_right = np.array([own == shown(label) for own, label in zip(found, told, strict=True)])
    right = int(is_right.sum())
    accuracy = Estimate(right / len(told), *clopper_pearson(right, len(told)))
    return Scored(name, accuracy, is_right, log_loss, answers)


def _output(answers: Answers, output: str) -> str:
    known = answers.outputs
    if output:
        if output not in known:
            raise InvalidInput(f"there is no output {output!r}", fix=f"It has: {', '.join(known)}.")
        return output
    scores = [name for name, array in known.items() if array.dtype.kind == "f" and array.ndim == 2]
    classes = [name for name, array in known.items() if array.ndim == 1]
    if not scores and not classes:
        said = ", ".join(known)
        raise InvalidInput(f"no output of {said} is a class or has scores", fix="Name one: --output")
    return [*scores, *classes][0]


def _checked(name: str, array: Array) -> Array:
    if array.ndim > 2:
        raise InvalidInput(f"the output {name} has rows of {list(array.shape[1:])}, which are no scores")
    is_off = array.ndim == 2 and array.shape[1] > 1 and np.abs(array.sum(axis=1) - 1).max() > _CLOSE
    if not np.isfinite(array).all() or array.min() < 0 or is_off:
        raise InvalidInput(
            f"the output {name} is no probabilities", fix="Put a softmax behind it, or name another: --output"
        )
    return array


def shares(one: Scored) -> dict[str, float]:
    """Return the share of the rows on which each model ran."""
    return {name: cost.rows / one.answers.rows for name, cost in one.answers.steps.items() if cost.is_model}


def columns_of(one: Scored, first: Scored) -> list[str]:
    """Return a row of the table."""
    change = ""
    if one is not first:
        change = with_interval(_change(one, first), signed=True)
    cost, least = _cost(one), _cost(first)
    log_loss = ""
    if one.log_loss is not None:
        log_loss = f"{one.log_loss.value:.4f}"
    runs = ", ".join(f"{name} {share:.0%}" for name, share in shares(one).items())
    ratio = cost / least if least else 1.0
    return [
        one.name,
        with_interval(one.accuracy),
        change,
        log_loss,
        f"{cost * 1e6:.1f}",
        f"{ratio:.2f}",
        runs,
    ]


def _change(one: Scored, first: Scored) -> Estimate:
    return mean_of(one.is_right.astype(np.float64) - first.is_right.astype(np.float64))


def _cost(one: Scored) -> float:
    return one.answers.seconds / one.answers.rows


def as_record(one: Scored, first: Scored) -> dict[str, Any]:
    """Return a pipeline as JSON values; the difference is that from the first."""
    return {
        "name": one.name,
        "rows": one.answers.rows,
        "accuracy": one.accuracy._asdict(),
        "difference": _change(one, first)._asdict(),
        "log_loss": one.log_loss and one.log_loss._asdict(),
        "cpu_seconds_per_row": _cost(one),
        "steps": {
            name: {**msgspec.structs.asdict(cost), "share": cost.rows / one.answers.rows}
            for name, cost in one.answers.steps.items()
        },
    }

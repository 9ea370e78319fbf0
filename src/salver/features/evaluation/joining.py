"""Logged answers joined with what came true for their requests. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from salver.dialects.tensorflow.log_reader import LoggedAnswer
from salver.features.evaluation.labelled import MOST_ROWS
from salver.stats.calibration import Floats
from salver.words.errors import InvalidInput
from salver.words.releases import unit_numbers
from salver.words.tensor import Array

_FIX: Final = (
    "Post outcomes with `request`, the x-request-id of the answer, and see that requests are logged."
)


class Selection(NamedTuple):
    """Answers of a log that are joined.

    Attributes:
        model: Empty = the only one.
        version: Empty = the newest of which there are outcomes.
        output: Output with the scores; empty = the only one with floating-point numbers.
        absent: Label of requests without an outcome; empty = they are left out.
        until: Unix seconds; later requests may still get an outcome, so that ``absent`` is not for them.
    """

    model: str = ""
    version: str = ""
    output: str = ""
    absent: str = ""
    until: float = 0.0


class Joined(NamedTuple):
    """Rows of one version.

    Attributes:
        scores: ``[rows, columns]``.
        labels: Label of each row, as it was told.
        left: Numbers of answers that are not used, by reason.
    """

    model: str
    version: str
    output: str
    scores: Floats
    labels: Sequence[Any]
    left: Mapping[str, int]


class _Row(NamedTuple):
    version: str
    output: str
    scores: Floats
    label: Any


def join(answers: Iterable[LoggedAnswer], outcomes: Mapping[int, Any], selection: Selection) -> Joined:
    """Return the scores of logged answers with the labels of their requests.

    Args:
        outcomes: Labels by the number of the request's id.

    Raises:
        InvalidInput: nothing can be joined, or it is not clear which model or output is meant.
    """
    rows: list[_Row] = []
    left: Counter[str] = Counter()
    models: set[str] = set()
    for answer in answers:
        if selection.model not in ("", answer.model):
            continue
        models.add(answer.model)
        if len(models) > 1:
            raise InvalidInput(
                f"the log has several models: {', '.join(sorted(models))}", fix="Name one: --model NAME"
            )
        row = _row(answer, outcomes, selection)
        if isinstance(row, str):
            left[row] += 1
            continue
        rows.append(row)
        if len(rows) > MOST_ROWS:
            raise InvalidInput(
                f"the log has more than {MOST_ROWS} answers with outcomes", fix="Name one of its files."
            )
    if not rows:
        told = ", ".join(f"{count} {why}" for why, count in left.items()) or "the log has none of this model"
        raise InvalidInput(f"no logged answer could be joined with an outcome: {told}", fix=_FIX)
    version = max((row.version for row in rows), key=lambda version: (len(version), version))
    mine = [row for row in rows if row.version == version]
    if len(mine) < len(rows):
        left["of other versions"] += len(rows) - len(mine)
    if len({row.scores.shape for row in mine}) > 1 or len({row.output for row in mine}) > 1:
        raise InvalidInput(f"the answers of {version} differ in outputs or shape", fix="Name one: --scores")
    scores = np.stack([row.scores for row in mine])
    labels = [row.label for row in mine]
    if scores.shape[1] <= 2:
        # As releases count them: any value above 0 is the event.
        labels = [int(label > 0) if isinstance(label, float) else label for label in labels]
    if not np.isfinite(scores).all():
        raise InvalidInput(f"the output {mine[0].output} has scores that are not finite")
    (model,) = models
    return Joined(model, version, mine[0].output, scores, labels, dict(left))


def _row(answer: LoggedAnswer, outcomes: Mapping[int, Any], selection: Selection) -> _Row | str:
    """Return an answer with its label, or why it is not used."""
    if selection.version not in ("", answer.version):
        return "of other versions"
    if not answer.request:
        return "without the id of their request"
    if not answer.outputs:
        return "without outputs that can be read"
    label = outcomes.get(int(unit_numbers((answer.request,))[0]))
    if label is None:
        if not selection.absent or answer.time > selection.until:
            return "without an outcome"
        label = selection.absent
    output = selection.output or _only(answer.outputs)
    array = answer.outputs.get(output)
    if array is None or array.dtype.kind not in "fiu":
        raise InvalidInput(f"--scores {output} is no output with numbers", fix=_known(answer.outputs))
    if array.ndim and array.shape[0] != 1:
        return "of several rows"  # an outcome does not tell of which
    return _Row(answer.version, output, array.astype(np.float64).reshape(-1), label)


def _only(outputs: Mapping[str, Array]) -> str:
    found = [name for name, array in outputs.items() if array.dtype.kind == "f"]
    if len(found) != 1:
        raise InvalidInput("it is not clear which output has the scores", fix=_known(outputs))
    return found[0]


def _known(outputs: Mapping[str, Array]) -> str:
    return f"Name one: --scores NAME. The answers have: {', '.join(sorted(outputs))}."

"""Rows of a file with their labels: what was predicted or what is asked, and what came true."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from salver.features.bulk.formats import open_reader
from salver.features.bulk.rows import Field, Place
from salver.stats.calibration import Floats, Labels
from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec
from salver.words.tensor import Array, DataType

#: Rows that are read; more tell little that these do not.
MOST_ROWS: Final = 1_000_000
_MOST_VALUES: Final = 50_000_000
_BLOCK: Final = 4096
_MOST_SHOWN: Final = 10
_TRUTHS: Final = {"false": 0, "no": 0, "true": 1, "yes": 1}


class Labelled(NamedTuple):
    """Rows of a file.

    Attributes:
        inputs: Arrays by name, rows along axis 0.
        labels: Label of each row, as it was written.
    """

    inputs: Mapping[str, Array]
    labels: Sequence[Any]


def read_labelled(path: Path, fields: Sequence[Field], label: str, fix: str) -> Labelled:
    """Return all rows of a file.

    Args:
        path: JSON lines, CSV, TSV or Parquet.
        label: Column of the labels.
        fix: What to do about columns that are missing.

    Raises:
        InvalidInput: the file or a row cannot be read, or there are no rows, or too many.
    """
    if not path.is_file():
        raise InvalidInput(f"{path} is no file")
    try:
        reader = open_reader(path, fields, [label])
    except InvalidInput as error:
        told = error.fix.partition("--columns")[0]
        raise InvalidInput(error.message.replace(" to keep", ""), fix=f"{told}{fix}") from error
    pieces: list[dict[str, Array]] = []
    labels: list[Any] = []
    values = 0
    for block in reader.blocks(Place(), _BLOCK):
        if block.bad:
            first = block.bad[0]
            raise InvalidInput(f"{path}, {reader.unit} {first.line}: {first.reason}")
        for piece in block.pieces:
            pieces.append(piece.inputs)
            labels += piece.kept[label]
            values += sum(array.size for array in piece.inputs.values())
        if len(labels) > MOST_ROWS or values > _MOST_VALUES:
            raise InvalidInput(
                f"{path} has more than {MOST_ROWS} rows, or {_MOST_VALUES} values",
                fix="Give a random sample of its rows.",
            )
    if not labels:
        raise InvalidInput(f"{path} has no rows")
    inputs = {}
    for field in fields:
        arrays = [piece[field.name] for piece in pieces]
        if len({array.shape[1:] for array in arrays}) > 1:
            raise InvalidInput(f"{path}: the rows of {field.name} differ in shape")
        inputs[field.name] = np.concatenate(arrays)
    return Labelled(inputs, labels)


def read_scores(path: Path, columns: Sequence[str], label: str) -> tuple[Floats, Sequence[Any]]:
    """Return scores ``[rows, columns]`` and labels.

    Args:
        columns: Columns of the scores, or one with a list; empty = ``scores``, or ``scores_0`` and so on.

    Raises:
        InvalidInput: as ``read_labelled``, or a score is not finite.
    """
    field = Field(TensorSpec("scores", DataType.FP64, (-1, -1)), (-1,), tuple(columns))
    found = read_labelled(path, [field], label, "Name them: --label, --scores")
    scores = found.inputs["scores"]
    if not np.isfinite(scores).all():
        row = int(np.flatnonzero(~np.isfinite(scores).all(axis=1))[0])
        raise InvalidInput(f"{path}: row {row + 1} has a score that is not finite")
    return scores, found.labels


def labels_of(told: Sequence[Any], names: Sequence[str], classes: int) -> Labels:
    """Return classes from 0 on.

    Args:
        told: Labels as they were written: names, indices, or truth values of two classes.
        names: Names of the classes in the order of the scores; empty = they are written as indices.
        classes: Number of classes.

    Raises:
        InvalidInput: a label is not known; names it and its row.
    """
    if names and len(names) != classes:
        raise InvalidInput(
            f"--classes names {len(names)} classes, and there are {classes}",
            fix="Name all of them, in the order of the scores; a single column is the second of two classes.",
        )
    known: dict[str, int] = {name: index for index, name in enumerate(names)}
    if not names:
        known = {str(index): index for index in range(classes)}
        if classes == 2:
            known |= _TRUTHS
    found = np.empty(len(told), np.int64)
    for row, label in enumerate(told):
        text = shown(label)
        index = known.get(text, known.get(text.lower(), -1))
        if index < 0:
            some = ", ".join(list(known)[:_MOST_SHOWN])
            raise InvalidInput(
                f"row {row + 1} has the label {text[:100]!r}, which is none of: {some}",
                fix="Name the classes in the order of the scores: --classes a,b,c",
            )
        found[row] = index
    return found


def shown(label: Any) -> str:
    """Return a label as a text, in which it can be compared."""
    if isinstance(label, bytes):
        return label.decode(errors="replace")
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label).strip()

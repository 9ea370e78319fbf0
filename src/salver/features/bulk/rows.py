"""Rows of a file as inputs of a model.

Records passed between readers, sender and writers, and the conversion of many rows to arrays. It knows no
file and no server. Pure.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np

from salver.words.errors import InvalidInput
from salver.words.messages import TensorSpec
from salver.words.tensor import Array


class Place(msgspec.Struct, frozen=True):
    """Position of a reader.

    Attributes:
        at: Byte offset in a text file, row in other formats.
        line: Line of a text file at ``at``, row in other formats, from 1; 0 before the start.
    """

    at: int = 0
    line: int = 0


class BadRow(msgspec.Struct, frozen=True):
    """A row without an answer.

    Attributes:
        line: Its line in a text file, row in other formats, from 1.
        reason: What is wrong with it.
    """

    line: int
    reason: str


class Piece(msgspec.Struct):
    """Rows that can be sent in one request.

    Attributes:
        inputs: One array per input, rows along axis 0.
        lines: Line of each row (see :class:`BadRow`).
        kept: Columns copied to the output.
    """

    inputs: dict[str, Array]
    lines: list[int]
    kept: dict[str, list[Any]]


class Block(msgspec.Struct):
    """Consecutive rows of a file.

    Attributes:
        pieces: Valid rows in order; several pieces if rows differ in shape.
        bad: Rows that could not be read.
        after: Start of the next block.
    """

    pieces: list[Piece]
    bad: list[BadRow]
    after: Place


class Field(msgspec.Struct, frozen=True):
    """An input or output of the model.

    Attributes:
        row: Its shape without the batch dimension.
        columns: Its columns in the file, if named by the caller.
    """

    spec: TensorSpec
    row: tuple[int, ...]
    columns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return the tensor's name."""
        return self.spec.name

    @property
    def extent(self) -> int | None:
        """Return the elements of a row; None if a dimension is free."""
        if -1 in self.row:
            return None
        return math.prod(self.row)


class Reader(Protocol):
    """Reader of rows in one format.

    Attributes:
        size: ``Place.at`` at the end.
        unit: ``line`` or ``row``, for messages.
        notes: Remarks for the user, for example on ignored columns.
        kept_types: Types of kept columns, if the format has types.
    """

    size: int
    unit: str
    notes: list[str]
    kept_types: dict[str, Any]

    def blocks(self, place: Place, rows: int) -> Iterator[Block]:
        """Yield blocks of up to ``rows`` rows from a position; always split at the same places."""
        ...


class Writer(Protocol):
    """Writer of answers in one format, as bytes to append to one or more part files.

    Attributes:
        parts: Number of part files.
    """

    parts: int

    def start(self, parts: Sequence[Path]) -> list[bytes]:
        """Return the first bytes of each part; read existing parts."""
        ...

    def encode(self, outputs: Mapping[str, Array], kept: Mapping[str, list[Any]]) -> list[bytes]:
        """Return the bytes of more rows, one per part."""
        ...

    def finish(self, parts: Sequence[Path]) -> Path:
        """Assemble the file from its parts; repeating it gives the same bytes."""
        ...


def is_batched(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Return whether axis 0 of every input and output accepts any number of rows.

    >>> from salver.words.tensor import DataType
    >>> is_batched([TensorSpec("x", DataType.FP32, (-1, 3))], [TensorSpec("y", DataType.FP32, (1,))])
    False
    """
    return all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))


def settled(array: Array, field: Field) -> Array:
    """Return rows in the input's own shape; a flat row of the right length is reshaped.

    Raises:
        InvalidInput: the rows have another shape.
    """
    tail = array.shape[1:]
    if len(tail) == len(field.row) and all(w in (-1, h) for w, h in zip(field.row, tail, strict=True)):
        return array
    if len(tail) <= 1 and math.prod(tail) == field.extent:
        return array.reshape(len(array), *field.row)
    if not tail and field.row == (-1,):
        return array[:, None]
    raise InvalidInput(f"{field.name} has shape {list(tail)}, the model wants {list(field.row)} a row")


#: Converts the raw values of rows, a list or an array, to the input's array.
Convert = Callable[[Any, Field], Array]


def assemble(
    lines: list[int],
    raw: Mapping[str, Any],
    kept: dict[str, list[Any]],
    fields: Sequence[Field],
    convert: Convert,
) -> tuple[list[Piece], list[BadRow]]:
    """Return the raw values of rows as pieces, and the rows that cannot be converted.

    Args:
        lines: Line of each row.
        raw: By input, one value per row.
        kept: By column, one value per row.
        fields: Inputs of the model.
        convert: Converts the values of one input to an array with as many rows.
    """
    if not lines:
        return [], []
    try:
        return [Piece({f.name: convert(raw[f.name], f) for f in fields}, lines, kept)], []
    except InvalidInput:  # a row is invalid, or they differ in shape: convert one by one
        pass
    groups: list[list[int]] = []
    rows: dict[int, dict[str, Array]] = {}
    bad: list[BadRow] = []
    shape: tuple[tuple[int, ...], ...] = ()
    for index, line in enumerate(lines):
        try:
            row = {f.name: convert(raw[f.name][index : index + 1], f) for f in fields}
        except InvalidInput as error:
            bad.append(BadRow(line, str(error)))
            continue
        rows[index] = row
        found = tuple(array.shape for array in row.values())
        if not groups or found != shape:
            groups.append([])
        shape = found
        groups[-1].append(index)
    pieces = [
        Piece(
            {f.name: np.concatenate([rows[i][f.name] for i in group]) for f in fields},
            [lines[i] for i in group],
            {column: [values[i] for i in group] for column, values in kept.items()},
        )
        for group in groups
    ]
    return pieces, bad


def part_of(piece: Piece, start: int, stop: int) -> Piece:
    """Return a part with some of the rows."""
    return Piece(
        {name: array[start:stop] for name, array in piece.inputs.items()},
        piece.lines[start:stop],
        {name: values[start:stop] for name, values in piece.kept.items()},
    )


def columns_of(field: Field, header: Sequence[str], path: Path) -> tuple[str, ...]:
    """Return the columns of an input in a table: the named ones, its own, or ``x_0``, ``x_1``, …

    Raises:
        InvalidInput: some are missing.
    """
    if field.columns:
        if missing := [name for name in field.columns if name not in header]:
            raise _no_column(f"no column {', '.join(missing)}", header, path)
        return field.columns
    if field.name in header:
        return (field.name,)
    there, count = set(header), 0
    while f"{field.name}_{count}" in there and count != field.extent:
        count += 1
    if not count or field.extent not in (None, count):
        wanted = field.name
        if field.row:
            wanted = f"{field.name}, nor {field.name}_{count}"
        raise _no_column(f"no column {wanted}", header, path)
    return tuple(f"{field.name}_{index}" for index in range(count))


def _no_column(problem: str, header: Sequence[str], path: Path) -> InvalidInput:
    shown = ", ".join(header[:20]) + (", …" * (len(header) > 20))
    return InvalidInput(
        f"{path} has {problem}", fix=f"It has: {shown}. --columns INPUT=COLUMN,… says which columns to use."
    )


def check_keep(keep: Sequence[str], header: Sequence[str], path: Path) -> None:
    """Check that the columns to keep exist. Raises InvalidInput."""
    if missing := [name for name in keep if name not in header]:
        raise _no_column(f"no {', '.join(missing)} to keep", header, path)

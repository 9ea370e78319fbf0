"""What is a row of a file to a model?

The records that readers, the asker and writers pass on, and how the values of many rows become
arrays. It knows no file and no server. Pure.
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
    """Where a reader goes on.

    Attributes:
        at: Byte offset in a text file, row in the others.
        line: Line of a text file at ``at``, row in the others, counting from 1; 0 before the start.
    """

    at: int = 0
    line: int = 0


class Bad(msgspec.Struct, frozen=True):
    """A row that has no answer.

    Attributes:
        line: Its line in a text file, its row in the others, counting from 1.
        reason: What is wrong with it.
    """

    line: int
    reason: str


class Piece(msgspec.Struct):
    """Rows that can be sent as one request.

    Attributes:
        inputs: One array an input, rows along axis 0.
        lines: Where each row stands (see :class:`Bad`).
        kept: Columns that are carried through to the output.
    """

    inputs: dict[str, Array]
    lines: list[int]
    kept: dict[str, list[Any]]


class Block(msgspec.Struct):
    """Consecutive rows of a file, as a reader gives them.

    Attributes:
        pieces: The good rows in order; more than one where rows differ in shape.
        bad: Rows that could not be read.
        after: Where the next block begins.
    """

    pieces: list[Piece]
    bad: list[Bad]
    after: Place


class Field(msgspec.Struct, frozen=True):
    """One input or output of the model.

    Attributes:
        row: Its shape without the batch dimension.
        columns: The file's columns that hold it, where the caller has named them.
    """

    spec: TensorSpec
    row: tuple[int, ...]
    columns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.spec.name

    @property
    def extent(self) -> int | None:
        """Elements of a row; None where a dimension is free."""
        return None if -1 in self.row else math.prod(self.row)


class Reader(Protocol):
    """One format's way of reading rows.

    Attributes:
        size: What ``Place.at`` will be at the end.
        unit: ``line`` or ``row``, for messages.
        notes: What the user may want to know: columns that are ignored, for instance.
        kept_types: Types of kept columns, where the format has some of its own.
    """

    size: int
    unit: str
    notes: list[str]
    kept_types: dict[str, Any]

    def blocks(self, place: Place, rows: int) -> Iterator[Block]:
        """Blocks of up to ``rows`` rows from there on; always cut in the same places."""
        ...


class Writer(Protocol):
    """One format's way of writing answers, as bytes to append to one or more part files.

    Attributes:
        parts: How many part files.
    """

    parts: int

    def start(self, parts: Sequence[Path]) -> list[bytes]:
        """The first bytes of each part; of parts that hold something, learn what is in them."""
        ...

    def encode(self, outputs: Mapping[str, Array], kept: Mapping[str, list[Any]]) -> list[bytes]:
        """The bytes of some more rows, one a part."""
        ...

    def finish(self, parts: Sequence[Path]) -> Path:
        """Make the whole file of the parts; doing it twice gives the same bytes."""
        ...


def is_batched(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Does axis 0 of every input and output take any number of rows?

    >>> from salver.words.tensor import DataType
    >>> is_batched([TensorSpec("x", DataType.FP32, (-1, 3))], [TensorSpec("y", DataType.FP32, (1,))])
    False
    """
    return all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))


def settled(array: Array, field: Field) -> Array:
    """Rows in the input's own shape; a flat row of the right length is reshaped.

    Raises:
        InvalidInput: the rows are of another shape.
    """
    tail = array.shape[1:]
    if len(tail) == len(field.row) and all(w in (-1, h) for w, h in zip(field.row, tail, strict=True)):
        return array
    if len(tail) <= 1 and math.prod(tail) == field.extent:
        return array.reshape(len(array), *field.row)
    if not tail and field.row == (-1,):
        return array[:, None]
    raise InvalidInput(f"{field.name} has shape {list(tail)}, the model wants {list(field.row)} a row")


#: The raw values of some rows, as a list or an array, to the input's array.
Convert = Callable[[Any, Field], Array]


def assemble(
    lines: list[int],
    raw: Mapping[str, Any],
    kept: dict[str, list[Any]],
    fields: Sequence[Field],
    convert: Convert,
) -> tuple[list[Piece], list[Bad]]:
    """Raw values of rows as pieces, and the rows that do not convert.

    Args:
        lines: Where each row stands.
        raw: By input, one value a row.
        kept: By column, one value a row.
        fields: The model's inputs.
        convert: Values of one input as an array with as many rows.
    """
    if not lines:
        return [], []
    try:
        return [Piece({f.name: convert(raw[f.name], f) for f in fields}, lines, kept)], []
    except InvalidInput:  # some row is wrong, or they differ in shape: one by one
        pass
    groups: list[list[int]] = []
    rows: dict[int, dict[str, Array]] = {}
    bad: list[Bad] = []
    shape: tuple[tuple[int, ...], ...] = ()
    for index, line in enumerate(lines):
        try:
            row = {f.name: convert(raw[f.name][index : index + 1], f) for f in fields}
        except InvalidInput as error:
            bad.append(Bad(line, str(error)))
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
    """Some of its rows."""
    return Piece(
        {name: array[start:stop] for name, array in piece.inputs.items()},
        piece.lines[start:stop],
        {name: values[start:stop] for name, values in piece.kept.items()},
    )


def columns_of(field: Field, header: Sequence[str], path: Path) -> tuple[str, ...]:
    """The columns of a table that hold an input: the named ones, its own, or ``x_0``, ``x_1``, …

    Raises:
        InvalidInput: some are not there.
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
        wanted = field.name if not field.row else f"{field.name}, nor {field.name}_{count}"
        raise _no_column(f"no column {wanted}", header, path)
    return tuple(f"{field.name}_{index}" for index in range(count))


def _no_column(problem: str, header: Sequence[str], path: Path) -> InvalidInput:
    shown = ", ".join(header[:20]) + (", …" if len(header) > 20 else "")
    return InvalidInput(
        f"{path} has {problem}", fix=f"It has: {shown}. --columns INPUT=COLUMN,… says which columns to use."
    )


def check_keep(keep: Sequence[str], header: Sequence[str], path: Path) -> None:
    """Raises InvalidInput when a column that is to be kept is not there."""
    if missing := [name for name in keep if name not in header]:
        raise _no_column(f"no {', '.join(missing)} to keep", header, path)

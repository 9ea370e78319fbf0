"""Reading and writing of JSON lines.

One object per line, with the value of each input under its name, nested or flat. Bytes that are not text are
written and read as ``{"b64": "..."}``. It knows no server.
"""

import base64
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from salver.encoding.json_text import kind_of
from salver.encoding.values import from_json
from salver.features.bulk.lines import MAX_BLOCK, Lines, open_file
from salver.features.bulk.rows import BadRow, Block, Field, Place, assemble, settled
from salver.words.errors import InvalidInput
from salver.words.tensor import Array

_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE


def from_values(values: list[Any], field: Field) -> Array:
    """Convert parsed JSON values, one per row, to the input's array.

    Raises:
        InvalidInput: a value is of the wrong kind or shape, or rows differ in shape.
    """
    return settled(from_json(values, field.spec.datatype, field.name, is_regular=True), field)


class JsonlReader:
    """Reader of objects, one per line; empty lines are skipped."""

    unit = "line"

    def __init__(self, path: Path, fields: Sequence[Field], keep: Sequence[str]) -> None:
        self._file = open_file(path)
        self._fields, self._keep = fields, keep
        self.size = path.stat().st_size
        self.notes: list[str] = []
        self.kept_types: dict[str, Any] = {}
        self._note(self._file.readline(MAX_BLOCK))

    def blocks(self, place: Place, rows: int) -> Iterator[Block]:
        """Yield blocks of up to ``rows`` rows, fewer if lines are long."""
        lines = Lines(self._file, place)
        while True:
            begin, numbers = lines.place.at, list[int]()
            raw: dict[str, list[Any]] = {field.name: [] for field in self._fields}
            kept: dict[str, list[Any]] = {name: [] for name in self._keep}
            bad: list[BadRow] = []
            while len(numbers) + len(bad) < rows and lines.place.at - begin < MAX_BLOCK:
                try:
                    text = lines.next()
                    if not text:
                        break
                    if text.isspace():
                        continue
                    self._take(_parse(text), raw, kept)
                except InvalidInput as error:
                    bad.append(BadRow(lines.place.line, str(error)))
                else:
                    numbers.append(lines.place.line)
            if lines.place.at == begin:
                return
            pieces, wrong = assemble(numbers, raw, kept, self._fields, from_values)
            yield Block(pieces, sorted(bad + wrong, key=lambda one: one.line), lines.place)

    def _take(self, row: dict[str, Any], raw: Mapping[str, list[Any]], kept: Mapping[str, list[Any]]) -> None:
        values = [self._value(row, field) for field in self._fields]
        if missing := [name for name in self._keep if name not in row]:
            raise InvalidInput(f"the row has no {', '.join(missing)} to keep")
        for field, value in zip(self._fields, values, strict=True):
            raw[field.name].append(value)
        for name in self._keep:
            kept[name].append(row[name])

    def _value(self, row: dict[str, Any], field: Field) -> Any:
        try:
            if not field.columns:
                return row[field.name]
            values = [row[name] for name in field.columns]
        except KeyError as error:
            raise InvalidInput(f"the row has no {error.args[0]!r}") from None
        if len(values) != 1:
            return values
        return values[0]

    def _note(self, first: bytes) -> None:
        try:
            row = _parse(first)
        except InvalidInput:
            return  # reported in its own turn
        used = {*self._keep, *(c for f in self._fields for c in (f.columns or (f.name,)))}
        if extra := [name for name in row if name not in used]:
            self.notes.append(f"ignored: {', '.join(extra)}")


def _parse(text: bytes) -> dict[str, Any]:
    try:
        row = orjson.loads(text.removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise InvalidInput(f"the line is not JSON: {error}") from None
    if type(row) is not dict:
        raise InvalidInput(f"the line is {kind_of(row)}, not an object")
    return row


class JsonlWriter:
    """Writer of outputs as objects, kept columns first."""

    parts = 1

    def start(self, parts: Sequence[Path]) -> list[bytes]:
        """Return nothing: there is no header."""
        return [b""]

    def encode(self, outputs: Mapping[str, Array], kept: Mapping[str, list[Any]]) -> list[bytes]:
        """Return one line per row; NaN and infinities, which JSON does not have, become null.

        Raises:
            InvalidInput: a kept value has no JSON form.
        """
        names = (*kept, *outputs)
        columns = (*kept.values(), *map(_cells, outputs.values()))
        try:
            lines = [
                orjson.dumps(dict(zip(names, row, strict=True)), option=_OPTIONS, default=_plain)
                for row in zip(*columns, strict=True)
            ]
        except orjson.JSONEncodeError as error:
            raise InvalidInput(f"a kept column cannot be written as JSON: {error}") from None
        return [b"".join(lines)]

    def finish(self, parts: Sequence[Path]) -> Path:
        """Return the part itself, which is the file."""
        return parts[0]


def _cells(array: Array) -> Any:
    """Return rows in a form that orjson can write."""
    if array.dtype == object:
        flat = np.empty(array.size, dtype=object)
        flat[:] = [as_text(value) for value in array.ravel().tolist()]
        return flat.reshape(array.shape).tolist()
    if array.ndim == 1 and array.dtype.kind != "f":
        return array.tolist()
    return np.ascontiguousarray(array)


def as_text(value: bytes) -> str | dict[str, str]:
    """Return text if it is UTF-8, else base64 in an object."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"b64": base64.b64encode(value).decode()}


def _plain(value: Any) -> Any:
    """Convert types unknown to orjson: bytes and decimals of dictionaries or tables."""
    if isinstance(value, bytes):
        return as_text(value)
    return str(value)

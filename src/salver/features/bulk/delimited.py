"""Reading and writing of comma- or tab-separated values.

The first line names the columns. A vector is stored in columns ``x_0``, ``x_1``, … in row-major order; if its
length is free, in one column as JSON. It knows no server.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import orjson

from salver.features.bulk.jsonl import from_values
from salver.features.bulk.lines import MAX_BLOCK, MAX_ROW, Lines, open_file
from salver.features.bulk.rows import BadRow, Block, Field, Place, assemble, check_keep, columns_of
from salver.words.errors import InvalidInput
from salver.words.tensor import Array, DataType

_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}


class _Feed:
    """Decoded lines for ``csv.reader``, which reads only as many as a record has."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.begin()

    def begin(self) -> None:
        """Start a new record."""
        self.line = self.lines.place.line + 1
        self._start = self.lines.place.at
        self.is_text = True

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        text = self.lines.next()
        if not text:
            raise StopIteration
        if self.lines.place.at - self._start > MAX_ROW:
            raise InvalidInput(f"the record has more than {MAX_ROW} bytes; is a quote never closed?")
        try:
            return text.decode()
        except UnicodeDecodeError:
            self.is_text = False
            return text.decode("utf-8", "replace")


class DelimitedReader:
    """Reader of records with a header."""

    unit = "line"

    def __init__(self, path: Path, fields: Sequence[Field], keep: Sequence[str], delimiter: str) -> None:
        # The limit is global to the process, and only raised.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW))
        self._file = open_file(path)
        self._fields, self._keep, self._delimiter = fields, keep, delimiter
        self.size = path.stat().st_size
        self.notes: list[str] = []
        self.kept_types: dict[str, Any] = {}
        lines = Lines(self._file, Place())
        feed = _Feed(lines)
        try:
            self._header = next(csv.reader(feed, delimiter=delimiter, strict=True), [])
        except (csv.Error, InvalidInput) as error:
            raise InvalidInput(f"the first line of {path} names no columns: {error}") from None
        self._first = lines.place
        self._columns: dict[str, list[int]] = {}
        if self._header:
            if not feed.is_text:
                raise InvalidInput(f"the first line of {path} is not UTF-8")
            self._resolve(path)

    def _resolve(self, path: Path) -> None:
        check_keep(self._keep, self._header, path)
        names = {field.name: columns_of(field, self._header, path) for field in self._fields}
        used = {*self._keep, *(column for columns in names.values() for column in columns)}
        if twice := sorted(name for name in used if self._header.count(name) > 1):
            raise InvalidInput(f"{path} has more than one column {', '.join(twice)}")
        if extra := [name for name in self._header if name not in used]:
            self.notes.append(f"ignored: {', '.join(extra)}")
        self._columns = {name: [self._header.index(c) for c in columns] for name, columns in names.items()}

    def blocks(self, place: Place, rows: int) -> Iterator[Block]:
        """Yield blocks of up to ``rows`` rows, fewer if lines are long."""
        lines = Lines(self._file, place if place.at else self._first)
        feed = _Feed(lines)
        records = csv.reader(feed, delimiter=self._delimiter, strict=True)
        keep = {name: self._header.index(name) for name in self._keep if self._header}
        while True:
            # The reader is kept between blocks, because a record may continue over several lines.
            begin, found, numbers, bad = lines.place.at, list[list[str]](), list[int](), list[BadRow]()
            while len(numbers) + len(bad) < rows and lines.place.at - begin < MAX_BLOCK:
                feed.begin()
                try:
                    record = next(records, None)
                    if record is None:
                        break
                    if not record:  # an empty line
                        continue
                    self._check(record, feed.is_text)
                except (csv.Error, InvalidInput) as error:
                    bad.append(BadRow(feed.line, self._reason(error, feed)))
                else:
                    numbers.append(feed.line)
                    found.append(record)
            if lines.place.at == begin:
                return
            raw = {name: [[r[i] for i in at] for r in found] for name, at in self._columns.items()}
            kept = {name: [r[i] for r in found] for name, i in keep.items()}
            pieces, wrong = assemble(numbers, raw, kept, self._fields, _from_cells)
            yield Block(pieces, sorted(bad + wrong, key=lambda one: one.line), lines.place)

    def _check(self, record: list[str], is_text: bool) -> None:
        if not is_text:
            raise InvalidInput("the row is not UTF-8")
        if len(record) != len(self._header):
            raise InvalidInput(f"the row has {len(record)} cells, the header {len(self._header)}")

    def _reason(self, error: Exception, feed: _Feed) -> str:
        last = feed.lines.place.line
        if last <= feed.line:
            return str(error)
        return f"{error} (the record goes on to line {last}; is a quote never closed?)"


def _from_cells(cells: list[list[str]], field: Field) -> Array:
    """Convert the cells of each row to the input's array."""
    # A single column may hold a whole row as a JSON list.
    if len(cells[0]) == 1 and field.row not in ((), (1,)) and cells[0][0].lstrip().startswith("["):
        try:
            return from_values([orjson.loads(row[0]) for row in cells], field)
        except ValueError as error:
            raise InvalidInput(f"{field.name} holds a list that is not JSON: {error}") from None
    values = [[_value(cell, field) for cell in row] for row in cells]
    return from_values([row[0] for row in values] if len(cells[0]) == 1 else values, field)


def _value(cell: str, field: Field) -> str | float | bool:
    datatype = field.spec.datatype
    if datatype is DataType.BYTES:
        return cell
    try:
        if "_" in cell:  # Python accepts 1_000 as a number; other tools do not
            raise ValueError
        if datatype is DataType.BOOL:
            return _BOOLEANS[cell.strip().lower()]
        if datatype.is_integer:
            return int(cell)
        return float(cell)
    except (ValueError, KeyError):
        shown = repr(cell) if len(cell) <= 40 else f"{cell[:37]!r}..."
        fix = "Write nan for a missing number, if the model takes it."
        if cell:
            fix = ""
        raise InvalidInput(f"{field.name} holds {shown}, which is no {datatype.name}", fix=fix) from None


class DelimitedWriter:
    """Writer of kept columns, then outputs."""

    parts = 1

    def __init__(self, fields: Sequence[Field], keep: Sequence[str], delimiter: str) -> None:
        self._fields, self._keep, self._delimiter = fields, keep, delimiter
        self._special = re.compile(f'["\\r\\n{delimiter}]')

    def start(self, parts: Sequence[Path]) -> list[bytes]:
        """Return the header if the file is empty."""
        names = list(self._keep)
        for field in self._fields:
            wide = field.row not in ((), (1,)) and field.extent is not None
            names += [f"{field.name}_{i}" for i in range(field.extent or 0)] if wide else [field.name]
        return [b"" if parts[0].stat().st_size else self._text([names])]

    def encode(self, outputs: Mapping[str, Array], kept: Mapping[str, list[Any]]) -> list[bytes]:
        """Return one record per row.

        Raises:
            InvalidInput: an output does not have the announced shape, or is not text.
        """
        count = len(next(iter(outputs.values())))
        rows: list[list[str]] = [[_cell(values[i]) for values in kept.values()] for i in range(count)]
        for field in self._fields:
            array = outputs[field.name]
            flat = array.reshape(count, -1)
            texts = _texts(flat, field.name)
            if field.extent is None:
                texts = [[_as_json(row, cells)] for row, cells in zip(array, texts, strict=True)]
            elif flat.shape[1] != field.extent:
                raise InvalidInput(f"{field.name} has {flat.shape[1]} values a row, not {field.extent}")
            for row, more in zip(rows, texts, strict=True):
                row += more
        return [self._text(rows)]

    def finish(self, parts: Sequence[Path]) -> Path:
        """Return the part itself, which is the file."""
        return parts[0]

    def _text(self, rows: Sequence[Sequence[str]]) -> bytes:
        lines = (self._delimiter.join(map(self._quoted, row)) or '""' for row in rows)
        return "".join(f"{line}\n" for line in lines).encode()

    def _quoted(self, cell: str) -> str:
        """Quote a cell (RFC 4180, section 2); before Python 3.13 csv.writer ignores carriage returns."""
        if not self._special.search(cell):
            return cell
        return '"' + cell.replace('"', '""') + '"'


def _texts(flat: Array, name: str) -> list[list[str]]:
    if flat.dtype == object:
        try:
            return [[value.decode() for value in row] for row in flat.tolist()]
        except UnicodeDecodeError:
            raise InvalidInput(
                f"the output {name} holds bytes that are not UTF-8", fix="Write .jsonl, which can hold them."
            ) from None
    if flat.dtype.kind == "b":
        return [["true" if value else "false" for value in row] for row in flat.tolist()]
    if flat.dtype.kind == "f" and flat.dtype.itemsize < 8:  # the shortest text in its own width
        return [list(map(str, row)) for row in flat]
    return [list(map(repr, row)) for row in flat.tolist()]


def _as_json(row: Array, cells: list[str]) -> str:
    """Return a row of free length as one cell."""
    values = row
    if row.dtype == object:
        values = np.array(cells, object).reshape(row.shape).tolist()
    return orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def _cell(value: Any) -> str:
    """Return a kept value as a cell."""
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, np.ndarray | np.bool_):
        value = value.tolist()
    if isinstance(value, bool | list | dict):
        return orjson.dumps(value, default=str).decode()
    return str(value)

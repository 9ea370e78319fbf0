"""Values of a table's columns as tensors, each checked against what the model takes.

An error names the row and the column.

Pure.
"""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from salver.backends.columns import no_category
from salver.encoding.json_text import kind_of
from salver.encoding.values import MAX_STRINGS
from salver.features.pipelines.tables import Specs, Table
from salver.words.errors import InvalidInput
from salver.words.messages import NULL, Column, TensorSpec
from salver.words.tensor import Array, DataType, Tensor

_BOOLEANS: Final = {"true": True, "false": False, "1": True, "0": False}
_NUMBERS: Final = {int, float}
_KINDS: Final = {
    "number": "a number",
    "integer": "an integer",
    "boolean": "true or false",
    "text": "a text",
    "date": "a date (ISO 8601)",
}


def tensors(table: Table, specs: Specs) -> tuple[Tensor, ...]:
    """Return a tensor for each column of the model; those that callers left out are missing values.

    Raises:
        InvalidInput: a value is not what its column takes.
    """
    texts = sum(spec.datatype is DataType.BYTES for spec in specs.values())
    if table.rows * texts > MAX_STRINGS:
        raise InvalidInput(
            f"the table has {table.rows * texts} texts; at most {MAX_STRINGS} are allowed",
            fix=f"Send at most {MAX_STRINGS // texts} rows at a time.",
        )
    return tuple(Tensor(name, spec.datatype, _array(table, spec)) for name, spec in specs.items())


def _array(table: Table, spec: TensorSpec) -> Array:
    column = spec.column or Column()
    values = table.columns.get(spec.name)
    if values is None or not column.is_read:
        return _absent(spec, table.rows)
    if spec.datatype is DataType.BYTES:
        return _texts(table, spec, column, values)
    array = _numbers(table, spec, column, values)
    if array.dtype.kind == "f":
        missing = np.isnan(array)
        if not column.takes_null and missing.any():
            raise _missing(table, spec, int(missing.argmax()))
        if (odd := np.isinf(array)).any():
            raise _wrong(table, spec, int(odd.argmax()), "is infinite")
    if column.categories:
        listed = array.tolist()
        _check_categories(table, spec, column, [value for value in listed if value == value], listed)
    return array


def _absent(spec: TensorSpec, rows: int) -> Array:
    if spec.datatype is DataType.BYTES:
        out = np.empty(rows, object)
        out[:] = [NULL] * rows
        return out
    return np.full(rows, np.nan if spec.datatype.is_float else 0, spec.datatype.dtype)


def _texts(table: Table, spec: TensorSpec, column: Column, values: Sequence[Any]) -> Array:
    if table.is_text and column.takes_null and "" in values:
        values = [value or None for value in values]
    if set(map(type, values)) != {str}:
        for i, value in enumerate(values):
            if value is None or value != value:
                if not column.takes_null:
                    raise _missing(table, spec, i)
            elif type(value) is not str:
                raise _wrong(table, spec, i, f"must be a text, not {_kind(value)}")
        values = [value if type(value) is str else None for value in values]
    if column.categories:
        _check_categories(table, spec, column, [v for v in values if v is not None], values)
    if column.kind == "date":
        values = [None if text is None else _date(table, spec, i, text) for i, text in enumerate(values)]
    out = np.empty(len(values), object)
    try:
        out[:] = [NULL if value is None else value.encode() for value in values]
    except UnicodeEncodeError as error:
        row = next(i for i, value in enumerate(values) if value is error.object)
        raise _wrong(table, spec, row, "has a lone surrogate") from error
    return out


def _date(table: Table, spec: TensorSpec, row: int, value: str) -> str:
    """Return a date without an offset."""
    try:
        found = datetime.fromisoformat(value.strip())
        if found.tzinfo is not None:
            found = found.astimezone(UTC).replace(tzinfo=None)
    except (ValueError, OverflowError):
        raise _wrong(table, spec, row, f"must be {_KINDS['date']}, not {value[:40]!r}") from None
    return found.isoformat()


def _numbers(table: Table, spec: TensorSpec, column: Column, values: Sequence[Any]) -> Array:
    try:
        if column.kind == "number" and spec.datatype.is_float:
            if table.is_text and not any("_" in value for value in values):
                return np.array([float(value) for value in values], spec.datatype.dtype)
            if set(map(type, values)) <= _NUMBERS:
                return np.array(values, spec.datatype.dtype)
    except (ValueError, OverflowError):
        pass  # the values are tried one by one, to find the one that does not fit
    read = (_CELLS if table.is_text else _READERS)[column.kind]
    found: list[float] = []
    for i, value in enumerate(values):
        if value is None or (table.is_text and not value.strip()):
            if not (column.takes_null and spec.datatype.is_float):
                raise _missing(table, spec, i)
            found.append(math.nan)
            continue
        number = read(value)
        if number is None or not _holds(spec.datatype, number):
            shown = f"{value[:40]!r}" if type(value) is str else _kind(value)
            raise _wrong(table, spec, i, f"must be {_KINDS[column.kind]}, not {shown}")
        found.append(number)
    return np.array(found, spec.datatype.dtype)


def _number(value: Any) -> float | None:
    if type(value) in _NUMBERS:
        try:
            return float(value)
        except OverflowError:
            return math.inf
    return None


def _integer(value: Any) -> float | None:
    if type(value) is float and value.is_integer():
        return int(value)
    return value if type(value) is int else None


def _boolean(value: Any) -> float | None:
    return value if type(value) is bool else None


def _of_text(read: Callable[[Any], float | None]) -> Callable[[Any], float | None]:
    """Return a reader that takes texts as well, as cells of delimited text are."""

    def of_cell(value: Any) -> float | None:
        if type(value) is not str or "_" in value:
            return read(value)
        if read is _boolean:
            return _BOOLEANS.get(value.lower())
        try:
            return read(int(value))
        except ValueError:
            pass
        try:
            return read(float(value))
        except ValueError:
            return None

    return of_cell


_READERS: Final = {"number": _number, "integer": _integer, "boolean": _boolean}
_CELLS: Final = {kind: _of_text(read) for kind, read in _READERS.items()}


def _holds(datatype: DataType, number: float) -> bool:
    if not datatype.is_integer:
        return True
    limits = np.iinfo(datatype.dtype)
    return limits.min <= number <= limits.max


def _check_categories(
    table: Table, spec: TensorSpec, column: Column, present: Sequence[Any], values: Sequence[Any]
) -> None:
    if odd := set(present) - set(column.categories):
        row = next(i for i, value in enumerate(values) if value in odd)
        raise no_category(table.where(row), spec, values[row])


def _missing(table: Table, spec: TensorSpec, row: int) -> InvalidInput:
    error = _wrong(table, spec, row, "is missing, and the model takes no missing values there")
    error.fix = "Send a value."
    return error


def _wrong(table: Table, spec: TensorSpec, row: int, said: str) -> InvalidInput:
    where = table.where(row)
    column = spec.column or Column()
    fix = f"Send {_KINDS[column.kind]}" + ", or null if it is missing" * column.takes_null + "."
    return InvalidInput(f"{where}: column {spec.name!r} {said}", fix=fix)


def _kind(value: Any) -> str:
    if type(value) in (dict, list, str, bool, int, float, type(None)):
        return kind_of(value)
    return type(value).__name__

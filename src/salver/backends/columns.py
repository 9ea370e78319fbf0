"""Tables of named columns for models of a matrix.

A model that knows the names of its columns gets a second signature, with an input for each column, and reads
them as the numbers that its framework makes of a data frame: categories become their codes, missing values
NaN. It knows no framework.
"""

from collections.abc import Container, Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from msgspec.structs import replace

from salver.words.errors import InvalidInput
from salver.words.messages import COLUMNS, NULL, Column, Signature, TensorSpec
from salver.words.tensor import Array, DataType

Category = str | int | float | bool

#: More columns are no table that somebody sends by name.
MOST_COLUMNS: Final = 4096
_MOST_SHOWN: Final = 10


class Table:
    """Named columns of one model.

    Args:
        columns: Specifications of the columns, in the model's order.
    """

    def __init__(self, columns: Sequence[TensorSpec]) -> None:
        self.columns = tuple(columns)
        self._codes = {
            spec.name: {_key(spec, value): float(code) for code, value in enumerate(spec.column.categories)}
            for spec in columns
            if spec.column is not None and spec.column.categories
        }

    def beside(self, signature: Signature) -> Signature:
        """Return a signature with that of the columns beside it."""
        own = replace(signature, inputs=self.columns, name=COLUMNS, others=())
        return replace(signature, others=(*signature.others, own))

    def matrix(self, inputs: Mapping[str, Array]) -> Array:
        """Return the columns as FP64, in the model's order.

        Raises:
            InvalidInput: a value is none of the model's categories.
        """
        return np.stack([self.numbers(spec, inputs[spec.name]) for spec in self.columns], axis=1)

    def numbers(self, spec: TensorSpec, values: Array) -> Array:
        """Return a column as FP64, with codes for categories.

        Raises:
            InvalidInput: a value is none of the model's categories.
        """
        if codes := self._codes.get(spec.name):
            return np.array([_code(spec, codes, i, value) for i, value in enumerate(values.tolist())])
        return values.astype(np.float64, copy=False)


def table_of(
    names: Sequence[str] | None, categories: Mapping[str, Sequence[Category]], booleans: Container[str] = ()
) -> Table | None:
    """Return the table of a model whose missing values are NaN; None if its columns have no names.

    Args:
        categories: Categories by column name.
        booleans: Names of columns of booleans.
    """
    if not names or len(set(names)) != len(names) or len(names) > MOST_COLUMNS:
        return None
    specs = []
    for name in names:
        values = tuple(categories.get(name, ()))
        kind = DataType.BYTES if values and isinstance(values[0], str) else DataType.FP64
        sort: Literal["number", "boolean", "text"] = "number"
        if kind is DataType.BYTES:
            sort = "text"
        elif name in booleans or (values and isinstance(values[0], bool)):
            sort = "boolean"
        specs.append(TensorSpec(name, kind, (-1,), column=Column(sort, values, takes_null=True)))
    return Table(specs)


def texts(name: str, values: Array) -> Array:
    """Return a column of texts as a data frame has it: strings, and NaN where one is missing.

    Raises:
        InvalidInput: a value is not UTF-8.
    """
    out = np.empty(len(values), dtype=object)
    try:
        out[:] = [np.nan if value == NULL else value.decode() for value in values.tolist()]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"input {name!r} holds text that is not UTF-8: {error}") from error
    return out


def dates(name: str, values: Array) -> Array:
    """Return a column of dates, NaT where one is missing.

    Raises:
        InvalidInput: a value is no date of ISO 8601.
    """
    found = texts(name, values).tolist()
    try:
        return np.array([value if isinstance(value, str) else "NaT" for value in found], "datetime64[us]")
    except ValueError as error:
        raise InvalidInput(f"input {name!r} holds what is no date of ISO 8601: {error}") from error


def no_category(where: str, spec: TensorSpec, value: Any) -> InvalidInput:
    """Return the error for a value that is none of a column's categories."""
    told = spec.column or Column()
    known = ", ".join(map(str, told.categories[:_MOST_SHOWN]))
    more = len(told.categories) - _MOST_SHOWN
    known += f" and {more} more" * (more > 0)
    missing = ", or null if the value is missing" * told.takes_null
    return InvalidInput(
        f"{where}: column {spec.name!r} has no category {str(value)[:100]!r}",
        fix=f"Send one of: {known}{missing}.",
    )


def _key(spec: TensorSpec, value: Category) -> bytes | float:
    return value.encode() if isinstance(value, str) else float(value)


def _code(spec: TensorSpec, codes: Mapping[bytes | float, float], row: int, value: Any) -> float:
    code = codes.get(value)
    if code is not None:
        return code
    if value == NULL or value != value:
        return np.nan
    shown = value.decode(errors="replace") if isinstance(value, bytes) else value
    raise no_category(f"row {row}", spec, shown)

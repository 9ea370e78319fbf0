"""Tables in requests: rows as JSON objects, MLflow's data frames, and delimited text.

A table is read into lists of values by column name; what is wrong with its columns is said here, what is
wrong with a value in ``cells.py``.

Pure.
"""

import csv
import difflib
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from typing import Any, Final, NamedTuple

from salver.encoding.json_text import kind_of
from salver.words.errors import InvalidInput
from salver.words.messages import Column, TensorSpec

#: Delimiters by content type.
DELIMITED: Final = {b"text/csv": ",", b"application/csv": ",", b"text/tab-separated-values": "\t"}
#: Most rows in one request.
MOST_ROWS: Final = 100_000
_MOST_SHOWN: Final = 20
_FORMS: Final = ("inputs", "instances", "dataframe_records", "dataframe_split")
_FEWER: Final = f"Send at most {MOST_ROWS} rows at a time, or use salver infer with files."
_OBJECTS: Final = 'Send rows as objects, for example {{"{form}": [{{{example}}}]}}.'
_SPLIT: Final = 'Send {"dataframe_split": {"columns": ["…"], "data": [[…]]}}.'

Specs = Mapping[str, TensorSpec]


class Table(NamedTuple):
    """A table as it was sent.

    Attributes:
        columns: Values of each column, by its name.
        rows: Number of rows.
        place: Path of a row in the request, with ``{}`` for its number.
        first: Number of the first row.
        is_text: Values are texts, also those of numbers.
    """

    columns: Mapping[str, Sequence[Any]]
    rows: int
    place: str
    first: int = 0
    is_text: bool = False

    def where(self, row: int) -> str:
        """Return how an error names a row."""
        return self.place.format(self.first + row)


def from_json(root: Any, specs: Specs) -> Table:
    """Return the table of a JSON request.

    Raises:
        InvalidInput: it has none, or its columns are not those of the model.
    """
    if type(root) is not dict:
        raise InvalidInput(f"the request must be a JSON object, not {kind_of(root)}", fix=_objects(specs))
    forms = [form for form in _FORMS if form in root]
    if len(forms) != 1:
        said = f"has both {forms[0]} and {forms[1]}" if forms else f"has none of {', '.join(_FORMS)}"
        raise InvalidInput(f"the request {said}", fix=_objects(specs))
    form = forms[0]
    value = root[form]
    if form == "dataframe_split":
        return _from_split(value, specs)
    if form == "inputs" and type(value) is dict:
        if value.keys() == {"data"} and type(value["data"]) is dict and "data" not in specs:
            value = value["data"]
        if any(type(each) is list for each in value.values()):
            return _from_columns(value, specs)
        value = [value]
    if type(value) is not list:
        raise _no_row(value, form, form, specs)
    for i, row in enumerate(value):
        if type(row) is not dict:
            raise _no_row(row, f"{form}[{i}]", form, specs)
    _check_rows(len(value), form)
    return _from_rows(value, specs, form + "[{}]")


def _no_row(value: Any, where: str, form: str, specs: Specs) -> InvalidInput:
    return InvalidInput(
        f"{where} must be an object, not {kind_of(value)}", field=where, fix=_objects(specs, form)
    )


def from_text(text: str, specs: Specs, delimiter: str = ",") -> Table:
    """Return the table of delimited text, whose first line names the columns.

    Raises:
        InvalidInput: it is no such text, or its columns are not those of the model.
    """
    lines = csv.reader((line + "\n" for line in text.split("\n")), delimiter=delimiter, strict=True)
    try:
        names = [name.strip() for name in next(lines, ())]
        check_names(names, specs, "the first line")
        rows = [row for row in islice(lines, MOST_ROWS + 1) if row]
    except csv.Error as error:
        raise InvalidInput(
            f"line {lines.line_num} is not readable: {error}",
            fix="Quote cells as RFC 4180 says; a cell may have 131,072 characters.",
        ) from error
    _check_rows(len(rows), "the table")
    if set(map(len, rows)) != {len(names)}:
        row = next(i for i, cells in enumerate(rows) if len(cells) != len(names))
        raise InvalidInput(
            f"row {row + 1} has {len(rows[row])} cells, and the first line names {len(names)} columns",
            fix="Send a cell for each column; quote those with commas.",
        )
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    return Table(columns, len(rows), "row {}", first=1, is_text=True)


def check_names(names: Sequence[Any], specs: Specs, where: str) -> None:
    """Check the names of a table's columns against the model's.

    Raises:
        InvalidInput: one is unknown, missing or there twice.
    """
    for name in names:
        if type(name) is not str or name not in specs:
            raise _unknown(name, specs, where)
    if len(set(names)) != len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise InvalidInput(f"{where} has the column {twice!r} twice", field=twice, fix="Send it once.")
    if len(names) < len(specs):
        _check_missing(names, specs, where)


def _unknown(name: Any, specs: Specs, where: str) -> InvalidInput:
    shown = str(name)[:100]
    like = difflib.get_close_matches(shown.lower(), [known.lower() for known in specs], 1)
    meant = next((known for known in specs if like and known.lower() == like[0]), "")
    hint = f"Did you mean {meant!r}? " * bool(meant)
    return InvalidInput(
        f"{where} has an unknown column {shown!r}",
        field=shown,
        fix=f"{hint}The model takes: {described(specs)}.",
    )


def described(specs: Specs) -> str:
    """Return the columns that callers must send, with their kinds, as error texts show them."""
    needed = [spec for spec in specs.values() if (spec.column or Column()).is_read]
    shown = ", ".join(f"{spec.name} ({(spec.column or Column()).kind})" for spec in needed[:_MOST_SHOWN])
    more = len(needed) - _MOST_SHOWN
    return shown + f" and {more} more" * (more > 0)


def _objects(specs: Specs, form: str = "inputs") -> str:
    name = next(iter(specs), "column")
    more = ", …" * (len(specs) > 1)
    return _OBJECTS.format(form=form, example=f'"{name}": …{more}')


def _check_missing(names: Collection[str], specs: Specs, where: str) -> None:
    for name, spec in specs.items():
        column = spec.column or Column()
        if name not in names and column.is_read:
            raise InvalidInput(
                f"{where} has no column {name!r} ({column.kind})",
                field=name,
                fix="Send null where its value is missing." if column.takes_null else "Send its values.",
            )


def _check_rows(count: int, where: str) -> None:
    if not count:
        raise InvalidInput(f"{where} has no rows", fix="Send at least one row.")
    if count > MOST_ROWS:
        raise InvalidInput(f"{where} has more than {MOST_ROWS} rows", fix=_FEWER)


def _from_rows(rows: Sequence[Mapping[str, Any]], specs: Specs, place: str) -> Table:
    first = rows[0].keys()
    check_names([*first], specs, place.format(0))
    if any(row.keys() != first for row in rows):
        for i, row in enumerate(rows):
            check_names([*row], specs, place.format(i))
        names = [name for name in specs if any(name in row for row in rows)]
        return Table({name: [row.get(name) for row in rows] for name in names}, len(rows), place)
    return Table({name: [row[name] for row in rows] for name in first}, len(rows), place)


def _from_columns(columns: Mapping[str, Any], specs: Specs) -> Table:
    check_names([*columns], specs, "inputs")
    rows = -1
    for name, values in columns.items():
        if type(values) is not list:
            raise InvalidInput(
                f"inputs.{name} must be a list, not {kind_of(values)}",
                field=f"inputs.{name}",
                fix=_objects(specs),
            )
        if rows not in (-1, len(values)):
            raise InvalidInput(
                f"inputs.{name} has {len(values)} values, and other columns {rows}", field=f"inputs.{name}"
            )
        rows = len(values)
    _check_rows(rows, "inputs")
    return Table(columns, rows, "row {}")


def _from_split(value: Any, specs: Specs) -> Table:
    parts = [type(value.get(part)) for part in ("columns", "data")] if type(value) is dict else []
    if parts != [list, list]:
        raise InvalidInput("dataframe_split lacks columns or data", field="dataframe_split", fix=_SPLIT)
    names, rows = value["columns"], value["data"]
    check_names(names, specs, "dataframe_split.columns")
    _check_rows(len(rows), "dataframe_split.data")
    place = "dataframe_split.data[{}]"
    for i, row in enumerate(rows):
        if type(row) is not list or len(row) != len(names):
            at = place.format(i)
            found = f"has {len(row)} values" if type(row) is list else f"is {kind_of(row)}"
            raise InvalidInput(f"{at} {found}, and there are {len(names)} columns", field=at, fix=_SPLIT)
    return Table(dict(zip(names, zip(*rows, strict=True), strict=True)), len(rows), place)

"""Usage as CSV and Parquet files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from salver.words.errors import InvalidInput, Unsupported

FORMATS: Final = (".csv", ".parquet")


def check(path: Path) -> None:
    """Refuse a wrong path before anything is asked for it.

    Raises:
        InvalidInput: another format.
        Unsupported: pyarrow is not installed.
    """
    if path.suffix not in FORMATS:
        raise InvalidInput(f"--output {path} is neither .csv nor .parquet")
    if path.suffix == ".parquet":
        _arrow()


def write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a file of the format that its name says.

    Raises:
        InvalidInput: it cannot be written.
    """
    try:
        if path.suffix == ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, columns, extrasaction="ignore")
                writer.writeheader()
                writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
            return
        arrow = _arrow()
        table = arrow.table(
            {name: arrow.array([row[name] for row in rows], _kind(arrow, name)) for name in columns}
        )
        arrow.parquet.write_table(table, path)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror or error}", field="--output"
        ) from error


def _plain(value: Any) -> Any:
    """Return a cell that no spreadsheet takes for a formula."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return value


def _kind(arrow: Any, name: str) -> Any:
    match name:
        case "key" | "model":
            return arrow.string()
        case "hour":
            return arrow.timestamp("s", "UTC")
        case "compute_seconds":
            return arrow.float64()
    return arrow.int64()


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise Unsupported(
            "Parquet files need the package 'pyarrow', which is not installed",
            fix="Install it with: pip install 'salver[parquet]', or write a .csv file.",
        ) from None
    return pyarrow

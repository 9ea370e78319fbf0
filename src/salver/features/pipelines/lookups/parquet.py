"""Rows of a Parquet file, which is read once, when the step is opened."""

import bisect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from salver.features.pipelines.lookups.source import Key, Query, Row, no_package, seconds_of
from salver.words.errors import LoadFailed

_MOST_ROWS: Final = 2_000_000


class ParquetSource:
    """Source of rows in memory, by key and time.

    Raises:
        LoadFailed: it is no such file, has no such column, or has more than two million rows.
    """

    def __init__(self, path: Path, query: Query) -> None:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError as error:
            raise no_package("pyarrow", "parquet") from error
        wanted = [query.key, *query.columns, *filter(None, [query.time])]
        try:
            with parquet.ParquetFile(path) as file:
                if file.metadata.num_rows > _MOST_ROWS:
                    raise LoadFailed(f"look-up: {path} has more than {_MOST_ROWS} rows")
                for name in wanted:
                    if name not in file.schema_arrow.names:
                        raise LoadFailed(f"look-up: {path} has no column {name!r}")
                table = file.read(columns=[*dict.fromkeys(wanted)])
        except (pyarrow.ArrowException, OSError) as error:
            raise LoadFailed(f"look-up: {path} cannot be read: {error}") from error
        listed = {name: table.column(name).to_pylist() for name in table.column_names}
        values = zip(*(listed[name] for name in query.columns), strict=True)
        self._has_time = bool(query.time)
        self._found: dict[Any, list[tuple[float, Row]]] = {}
        times = [0.0] * table.num_rows
        if query.time:
            try:
                times = [seconds_of(value) for value in listed[query.time]]
            except (TypeError, ValueError) as error:
                raise LoadFailed(f"look-up: {path} has a row without a time in {query.time!r}") from error
        for key, time, row in zip(listed[query.key], times, values, strict=True):
            self._found.setdefault(key, []).append((time, row))
        for rows in self._found.values():
            rows.sort(key=_time)

    def __repr__(self) -> str:
        return f"<ParquetSource of {len(self._found)} keys>"

    def rows(self, keys: Sequence[Key], seconds: float) -> Sequence[Row | None]:
        """See :class:`~salver.features.pipelines.lookups.source.Source`."""
        return [self._row(key) for key in keys]

    def _row(self, key: Key) -> Row | None:
        rows = self._found.get(key.value, ())
        if not self._has_time or key.at is None:
            return rows[-1][1] if rows else None
        place = bisect.bisect_right(rows, key.at, key=_time)
        return rows[place - 1][1] if place else None


def _time(row: tuple[float, Row]) -> float:
    return row[0]

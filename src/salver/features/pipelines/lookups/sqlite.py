"""Rows of a SQLite database, which is opened read-only."""

import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from salver.features.pipelines.lookups.source import Key, Query, Row, SourceFailed, SourceLate
from salver.words.errors import LoadFailed

#: Keys of one statement; SQLite takes 32,766 parameters.
_MOST: Final = 8192
#: Steps of SQLite's machine between looks at the clock, some tens of microseconds.
_STEPS: Final = 10_000


class SqliteSource:
    """Source of rows in one table.

    Args:
        clock: Returns monotonic seconds.

    Raises:
        LoadFailed: it is no database, or has no such table or column.
    """

    def __init__(self, path: Path, query: Query, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadline = clock()
        self._has_time = bool(query.time)
        columns = ", ".join(f"c.{_quoted(name)}" for name in query.columns)
        key, table = _quoted(query.key), _quoted(query.table)
        # CROSS JOIN keeps the keys outside, so that the index of the table is used.
        self._select = f"SELECT asked.i, {columns} FROM asked CROSS JOIN {table} c ON c.{key} = asked.k"
        if query.time:
            since = f"c.{_quoted(query.time)}"
            if query.times == "iso":
                since = f"unixepoch({since}, 'subsec')"
            # SQLite takes the other columns from the row that has the maximum (lang_select, 2.5).
            self._select = (
                f"SELECT asked.i, {columns}, max({since}) FROM asked CROSS JOIN {table} c "
                f"ON c.{key} = asked.k AND {since} <= asked.t GROUP BY asked.i"
            )
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(str(path.resolve()))}?mode=ro", uri=True, check_same_thread=False, timeout=0
            )
            self._connection.execute("PRAGMA trusted_schema = OFF")
            self._connection.set_progress_handler(lambda: int(clock() > self._deadline), _STEPS)
            self._deadline = clock() + 60
            self._ask([Key("", 0.0)])
        except sqlite3.Error as error:
            raise LoadFailed(f"look-up: {path} cannot be asked: {error}") from error

    def __repr__(self) -> str:
        return "<SqliteSource>"

    def rows(self, keys: Sequence[Key], seconds: float) -> Sequence[Row | None]:
        """See :class:`~salver.features.pipelines.lookups.source.Source`."""
        self._deadline = self._clock() + seconds
        found: dict[int, Row] = {}
        try:
            self._connection.execute(f"PRAGMA busy_timeout = {max(1, int(seconds * 1000))}")
            for begin in range(0, len(keys), _MOST):
                for index, *values in self._ask(keys[begin : begin + _MOST]):
                    found[begin + index] = tuple(values[:-1] if self._has_time else values)
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_BUSY):
                raise SourceLate("the database gave no answer in time") from error
            raise SourceFailed(f"the database cannot be asked: {error}") from error
        except sqlite3.Error as error:
            raise SourceFailed(f"the database cannot be asked: {error}") from error
        return [found.get(index) for index in range(len(keys))]

    def _ask(self, keys: Sequence[Key]) -> list[Any]:
        given: list[Any] = []
        for index, key in enumerate(keys):
            given += (index, key.value, key.at) if self._has_time else (index, key.value)
        places = "(?, ?, ?)" if self._has_time else "(?, ?)"
        names = "i, k, t" if self._has_time else "i, k"
        asked = f"WITH asked({names}) AS (VALUES {', '.join([places] * len(keys))}) "
        return self._connection.execute(asked + self._select, given).fetchall()


def _quoted(name: str) -> str:
    """Return an identifier for SQL; without ``c.`` in front, one that is no column would be a text."""
    if "\0" in name or not name:
        raise LoadFailed("look-up: the name of a table or column is empty or has a zero byte")
    return '"' + name.replace('"', '""') + '"'

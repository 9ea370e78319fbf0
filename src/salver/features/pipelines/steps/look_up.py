"""Features by key from a database, a file or a service, as they were at the time of an event."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Literal

import msgspec
import numpy as np

from salver.features.pipelines.lookups.cache import RowCache
from salver.features.pipelines.lookups.source import (
    Key,
    Query,
    Row,
    Source,
    SourceFailed,
    SourceLate,
    file_of,
    kind_of_source,
    with_secrets,
)
from salver.features.pipelines.steps.columns import NUMBER, TEXT, check_names
from salver.features.pipelines.steps.dates import moment_of_text
from salver.features.pipelines.steps.step import Arrays, Run, Step
from salver.lazy import lazy_imports
from salver.words.errors import DeadlineExceeded, InvalidInput, LoadFailed, ModelFailed, SalverError
from salver.words.messages import NULL, Column
from salver.words.tensor import Array

with lazy_imports():
    from salver.features.pipelines.lookups.parquet import ParquetSource
    from salver.features.pipelines.lookups.remote import HttpSource, redis_source
    from salver.features.pipelines.lookups.sqlite import SqliteSource

_LOG: Final = logging.getLogger("salver.pipelines")
_MOST_SHOWN: Final = 40
_MOST_MS: Final = 60_000


class LookUp(Step, frozen=True):
    """Columns by key; with ``time``, of the latest row that is not later than the event.

    All keys of the requests that wait together are asked for at once, each once.

    Attributes:
        source: ``sqlite:FILE``, ``parquet:FILE``, ``redis://HOST/0`` or ``https://HOST/PATH``; ``${NAME}``
            is a variable of the environment.
        table: Table of a database; what keys begin with in Redis.
        key: Input with the keys, and the column of the source that has them.
        key_type: Type of the keys.
        columns: Kinds of the columns by their names, which are the outputs.
        time: Column of the source since when a row is valid.
        times: Form of the times, in the source and in the input: seconds since 1970, or ISO 8601.
        at: Input with the time of the event.
        missing: A key that the source does not have is an error, or gives missing values.
        defaults: Values by column for such keys, and when the source is late and ``late`` allows it.
        timeout_ms: Longest wait for the source.
        late: A source that does not answer is an error of the request, or gives the defaults.
        cache_seconds: Seconds for which rows are kept; 0 = none are.
        cache_keys: Most keys that are kept.
        headers: Headers of HTTP, in which ``${NAME}`` is a variable of the environment as well.
    """

    by_name: ClassVar = True
    is_heavy: ClassVar = True
    is_repeatable: ClassVar = False
    is_movable: ClassVar = False  # its counts and the keys that it remembers are the server's

    source: str
    key: str
    columns: dict[str, Literal["number", "text"]]
    table: str = ""
    key_type: Literal["text", "integer"] = "text"
    time: str = ""
    times: Literal["epoch", "iso"] = "epoch"
    at: str = "at"
    missing: Literal["refuse", "null"] = "refuse"
    defaults: dict[str, float | str] = msgspec.field(default_factory=dict)
    timeout_ms: int = 100
    late: Literal["refuse", "default"] = "refuse"
    cache_seconds: float = 0.0
    cache_keys: int = 10_000
    headers: dict[str, str] = msgspec.field(default_factory=dict)

    def described(self, folder: Path) -> tuple[dict[str, str], dict[str, str]]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        check_names("look-up", [self.key, *self.columns, self.at])
        if not self.columns or self.key in self.columns:
            raise LoadFailed("look-up: `columns` must name columns, and not the key")
        for name, value in self.defaults.items():
            kind = self.columns.get(name)
            if kind is None or isinstance(value, str) != (kind == "text"):
                raise LoadFailed(
                    f"look-up: the default of {name!r} is not of one of its columns, or no {kind}"
                )
        if not 1 <= self.timeout_ms <= _MOST_MS or self.cache_keys < 1 or self.cache_seconds < 0:
            raise LoadFailed(f"look-up: `timeout_ms` must be from 1 to {_MOST_MS}, `cache_keys` at least 1")
        if kind_of_source(self.source) == "sqlite" and not self.table:
            raise LoadFailed("look-up: a database needs `table`")
        inputs = {self.key: TEXT if self.key_type == "text" else NUMBER}
        if self.time:
            inputs[self.at] = TEXT if self.times == "iso" else NUMBER
        kinds = {"text": TEXT, "number": "FP64[rows]"}
        return inputs, {name: kinds[kind] for name, kind in self.columns.items()}

    def table_columns(self, folder: Path) -> dict[str, Column]:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        kind: Literal["text", "number"] = "text" if self.key_type == "text" else "number"
        takes_null = self.missing == "null" or bool(self.defaults)
        found = {self.key: Column(kind, takes_null=takes_null)}
        if self.time:
            found[self.at] = Column("date" if self.times == "iso" else "number")
        return found

    def files(self, folder: Path) -> Iterator[Path]:
        """Yield nothing of a source that changes while it is served."""
        if self.source.startswith("parquet:"):
            yield file_of(folder, self.source)

    def open(self, folder: Path) -> Run:
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        run_many = self.open_many(folder)

        def run(arrays: Arrays) -> Arrays:
            (found,) = run_many([arrays])
            if isinstance(found, SalverError):
                raise found
            return found

        return run

    def open_many(self, folder: Path) -> "LookUpRun":
        """See :class:`~salver.features.pipelines.steps.step.Step`."""
        cache = RowCache(self._source(folder), self.cache_seconds, self.cache_keys, time.monotonic)
        return LookUpRun(self, cache)

    def _source(self, folder: Path) -> Source:
        query = Query(
            self.key,
            tuple(self.columns),
            self.table,
            self.time,
            self.times,
            {name: with_secrets(value) for name, value in self.headers.items()},
        )
        kind = kind_of_source(self.source)
        if kind == "sqlite":
            return SqliteSource(file_of(folder, self.source), query)
        if kind == "parquet":
            return ParquetSource(file_of(folder, self.source), query)
        url = with_secrets(self.source)
        if kind in ("redis", "rediss"):
            return redis_source(url, query, self.timeout_ms / 1000)
        return HttpSource(url, query, query.headers)


class LookUpRun:
    """Looks up the keys of several requests at once.

    Attributes:
        counts: Keys and calls by outcome, for the metrics page.
    """

    def __init__(self, step: LookUp, cache: RowCache) -> None:
        self._step = step
        self._cache = cache
        self.counts: Mapping[str, int] = cache.counts
        self._fills: tuple[Any, ...] = tuple(step.defaults.get(name) for name in step.columns)
        self._refuses = step.missing == "refuse" and not step.defaults
        self._is_failing = False

    def __call__(self, many: Sequence[Arrays]) -> Sequence[Arrays | SalverError]:
        """Return the columns of each request, or its error."""
        asked: list[list[Key | None] | SalverError] = []
        wanted: dict[Key, None] = {}
        for arrays in many:
            try:
                keys = self._keys(arrays)
            except SalverError as error:
                asked.append(error)
                continue
            asked.append(keys)
            wanted.update(dict.fromkeys(key for key in keys if key is not None))
        rows, problem = self._rows([*wanted])
        return [
            each if isinstance(each, SalverError) else self._answer(each, rows, problem) for each in asked
        ]

    def _rows(self, keys: Sequence[Key]) -> tuple[Mapping[Key, Row | None], SourceFailed | None]:
        counts = self._cache.counts
        try:
            found = self._cache.rows(keys, self._step.timeout_ms / 1000)
        except SourceFailed as error:
            counts["timeout" if isinstance(error, SourceLate) else "failed"] += 1
            if not self._is_failing:
                _LOG.warning("look-up of %s: %s", self._step.key, error.message)
            self._is_failing = True
            return self._cache.known(keys), error
        self._is_failing = False
        return found, None

    def _keys(self, arrays: Arrays) -> list[Key | None]:
        """Return the key of each row; None = it is missing. Raises InvalidInput."""
        values = arrays[self._step.key].tolist()
        moments = self._moments(arrays[self._step.at]) if self._step.time else [None] * len(values)
        found: list[Key | None] = []
        for value, at in zip(values, moments, strict=True):
            key: str | int | None = None
            if self._step.key_type == "integer":
                key = int(value) if math.isfinite(value) and value == int(value) else None
            elif value != NULL:
                try:
                    key = value.decode()
                except UnicodeDecodeError:
                    key = None  # no source has such a key
            found.append(None if key is None else Key(key, at))
        return found

    def _moments(self, values: Array) -> list[float]:
        found = []
        for row, value in enumerate(values.tolist()):
            try:
                moment = moment_of_text(value).timestamp() if self._step.times == "iso" else float(value)
            except (ValueError, OverflowError):
                moment = math.nan
            if not math.isfinite(moment):
                name = self._step.at
                raise InvalidInput(f"row {row}: {name!r} must be the time of an event", field=name)
            found.append(moment)
        return found

    def _answer(
        self,
        keys: Sequence[Key | None],
        rows: Mapping[Key, Row | None],
        problem: SourceFailed | None,
    ) -> Arrays | SalverError:
        found: list[Sequence[Any]] = []
        for index, key in enumerate(keys):
            if problem is not None and key is not None and key not in rows:
                if self._step.late == "refuse":
                    return self._failure(problem)
                found.append(self._fills)
                continue
            row = None if key is None else rows[key]
            if row is None and self._refuses:
                return self._no_row(index, key)
            found.append(self._fills if row is None else row)
        try:
            return {
                name: _CONVERT[kind]([row[at] for row in found])
                for at, (name, kind) in enumerate(self._step.columns.items())
            }
        except (TypeError, ValueError):
            return ModelFailed(f"look-up: the source has a value that is not what {self._step.columns} says")

    def _failure(self, problem: SourceFailed) -> SalverError:
        said = f"look-up of {self._step.key!r}: {problem.message}"
        if isinstance(problem, SourceLate):
            return DeadlineExceeded(f"{said} ({self._step.timeout_ms} ms)")
        return ModelFailed(said)

    def _no_row(self, index: int, key: Key | None) -> InvalidInput:
        name = self._step.key
        if key is None:
            return InvalidInput(f"row {index}: {name!r} is missing", field=name)
        when = " at that time" if self._step.time else ""
        said = f"row {index}: nothing is known of {name!r} {str(key.value)[:_MOST_SHOWN]!r}{when}"
        return InvalidInput(said, field=name)


def _numbers(values: Sequence[Any]) -> Array:
    return np.array([math.nan if value is None else float(value) for value in values], np.float64)


def _texts(values: Sequence[Any]) -> Array:
    found = np.empty(len(values), object)
    found[:] = [_text(value) for value in values]
    return found


def _text(value: Any) -> bytes:
    if value is None:
        return NULL
    return value if isinstance(value, bytes) else str(value).encode()


_CONVERT: Final[Mapping[str, Callable[[Sequence[Any]], Array]]] = {"number": _numbers, "text": _texts}

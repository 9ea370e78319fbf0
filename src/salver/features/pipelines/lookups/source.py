"""Protocol of the sources of the step ``look-up``: keys, rows, errors, and secrets in addresses."""

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec

from salver.words.errors import Code, LoadFailed, ModelFailed

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_ENVIRONMENT: Final = "Write ${NAME}, and set the variable NAME where the server starts."
KINDS: Final = ("sqlite", "parquet", "redis", "rediss", "http", "https")

#: Values of a row in the order of the columns; None = missing.
Row = tuple[Any, ...]
Times = Literal["", "epoch", "iso"]


class Key(NamedTuple):
    """Key of a row, and the moment at which the row is to be valid, in seconds since 1970."""

    value: str | int
    at: float | None = None


class Query(msgspec.Struct, frozen=True):
    """Names in a source.

    Attributes:
        key: Column of the keys.
        columns: Columns of the values.
        table: Table, or the prefix of keys.
        time: Column that says since when a row is valid; empty = there is one row for a key.
        times: Form of that column.
        headers: Headers of HTTP.
    """

    key: str
    columns: tuple[str, ...]
    table: str = ""
    time: str = ""
    times: Times = "epoch"
    headers: Mapping[str, str] = {}


class SourceFailed(ModelFailed):
    """Failure of a source to answer; the text has no credentials."""


class SourceLate(SourceFailed):
    """Failure of a source to answer in time."""

    code = Code.DEADLINE_EXCEEDED


class Source(Protocol):
    """Source of rows by key. It may be asked by one thread at a time."""

    def rows(self, keys: Sequence[Key], seconds: float) -> Sequence[Row | None]:
        """Return a row for each key: the latest that is not later than its moment; None = there is none.

        Raises:
            SourceLate: it took longer.
            SourceFailed: it cannot be asked.
        """
        ...


def kind_of_source(address: str) -> str:
    """Return the scheme of an address. Raises LoadFailed."""
    kind = address.partition(":")[0]
    if kind not in KINDS or not address.partition(":")[2]:
        fix = "Write sqlite:FILE, parquet:FILE, redis://HOST/0 or https://HOST/PATH."
        raise LoadFailed("look-up: `source` names no source of a known kind", fix=fix)
    return kind


def no_package(name: str, extra: str) -> LoadFailed:
    """Return the error of a package that is not installed."""
    fix = f"Install it with: pip install 'salver[{extra}]'"
    return LoadFailed(f"the step look-up needs the package {name!r} for this source", fix=fix)


def with_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """Return a text with ``${NAME}`` replaced by variables of the environment.

    >>> with_secrets("redis://:${SECRET}@host/0", {"SECRET": "xyz"})
    'redis://:xyz@host/0'

    Raises:
        LoadFailed: a variable is not set, or a URL has a password in plain text.
    """
    if "://" in text:
        password = urlsplit(_VARIABLE.sub("", text)).password
        if password:
            raise LoadFailed("look-up: `source` has a password in plain text", fix=_ENVIRONMENT)

    def value(match: re.Match[str]) -> str:
        found = environment.get(match[1])
        if not found:
            raise LoadFailed(f"look-up: the environment has no variable {match[1]}", fix=_ENVIRONMENT)
        return found

    return _VARIABLE.sub(value, text)


def file_of(folder: Path, address: str) -> Path:
    """Return the file of ``sqlite:FILE`` or ``parquet:FILE``, beside ``pipeline.toml`` unless it is absolute.

    Raises:
        LoadFailed: there is none.
    """
    path = folder / address.partition(":")[2]
    if not path.is_file():
        raise LoadFailed(f"look-up: there is no file {path}")
    return path


def seconds_of(value: Any) -> float:
    """Return a time of a source in seconds since 1970.

    >>> seconds_of("1970-01-02"), seconds_of(datetime(1970, 1, 1, 0, 1)), seconds_of(7)
    (86400.0, 60.0, 7.0)

    Raises:
        ValueError: it is none.
    """
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value)

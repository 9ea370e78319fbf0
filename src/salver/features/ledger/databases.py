"""Supported databases, and how each serialises writers.

SQLite uses write-ahead logging (WAL): readers see the last complete transaction, and a writer takes its lock
at the start. PostgreSQL gets the same from an advisory lock of the ledger, released with the transaction.
"""

import importlib.util
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from salver.features.ledger.watched import connect
from salver.words.errors import InvalidInput, MissingExtra

#: Keep-alive of connections to PostgreSQL. A connection whose other end has vanished or is silent is given up
#: after half a minute; the system's defaults are a quarter of an hour, two hours, or never.
_NETWORK: Final = {
    "connect_timeout": 10,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 4,
    "tcp_user_timeout": 30_000,
}
#: Milliseconds that a writer may leave its transaction idle. PostgreSQL ends one that is cut off in the midst
#: of its work, which would hold the lock of all writers until TCP gives the connection up, after hours.
_MOST_IDLE_MS: Final = 15_000
#: Key of PostgreSQL's advisory lock: "salver" in ASCII.
_LOCK: Final = 0x73616C766572
_FIX: Final = "Name sqlite:////folder/salver.db or postgresql://user@host/database."


def address_of(url: str) -> URL:
    """Parse a ledger's URL.

    Raises:
        InvalidInput: it is not a URL of a supported kind.
        MissingExtra: PostgreSQL's driver is not installed.
    """
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):
        raise InvalidInput("the ledger's URL cannot be read", fix=_FIX) from None
    match address.get_backend_name():
        case "sqlite":
            if not address.database or address.database == ":memory:":
                raise InvalidInput(
                    "a ledger in memory would be lost, and its readers would not see it", fix=_FIX
                )
            return address.set(drivername="sqlite+pysqlite")
        case "postgresql" | "postgres":
            if importlib.util.find_spec("psycopg") is None:
                raise MissingExtra("PostgreSQL", "postgres", "psycopg")
            return address.set(drivername="postgresql+psycopg")
    raise InvalidInput(f"a ledger cannot be {address.get_backend_name()!r}", fix=_FIX)


def engine_of(address: URL, patience: float, *, is_reader: bool = False) -> Engine:
    """Return an engine whose connections are set up for the ledger. Does not connect yet.

    Args:
        patience: Seconds to wait for a lock.
    """
    if address.get_backend_name() == "sqlite":
        return _sqlite(address, patience, is_reader)
    return _postgres(address, patience, is_reader)


def _sqlite(address: URL, patience: float, is_reader: bool) -> Engine:
    engine = create_engine(address, connect_args={"timeout": patience, "check_same_thread": False})

    def prepare(raw: sqlite3.Connection, _: Any) -> None:
        raw.isolation_level = None  # the driver would begin a transaction itself, too late
        raw.execute("PRAGMA foreign_keys = ON")
        if is_reader:
            raw.execute("PRAGMA query_only = ON")
        else:
            raw.execute("PRAGMA journal_mode = WAL")
            raw.execute("PRAGMA synchronous = FULL")  # committed decisions survive a power failure

    def begin(connection: Connection) -> None:
        connection.exec_driver_sql("BEGIN" if is_reader else "BEGIN IMMEDIATE")

    event.listen(engine, "connect", prepare)
    event.listen(engine, "begin", begin)
    return engine


def _postgres(address: URL, patience: float, is_reader: bool) -> Engine:
    engine = create_engine(
        address,
        pool_pre_ping=True,
        isolation_level="REPEATABLE READ" if is_reader else "READ COMMITTED",
        connect_args={name: value for name, value in _NETWORK.items() if name not in address.query},
    )

    def begin(connection: Connection) -> None:
        if is_reader:
            connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        else:
            connection.exec_driver_sql(
                f"SELECT set_config('lock_timeout', '{max(1, int(patience * 1000))}', true), "
                f"set_config('idle_in_transaction_session_timeout', '{_MOST_IDLE_MS}', true)"
            )
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")

    def watched(_: Any, __: Any, args: Sequence[Any], parameters: Mapping[str, Any]) -> object:
        return connect(*args, **parameters)

    event.listen(engine, "do_connect", watched)
    event.listen(engine, "begin", begin)
    return engine


def path_of(address: URL) -> Path | None:
    """Return the file of an SQLite ledger."""
    if address.get_backend_name() != "sqlite":
        return None
    return Path(str(address.database))

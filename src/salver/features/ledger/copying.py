"""Copying of a ledger to a file, and from a file to a ledger of either kind.

The file is an SQLite ledger, whatever the source: one consistent state, even during writes.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, func, insert, select, text

from salver.features.ledger.databases import path_of
from salver.features.ledger.faults import LedgerFailed, shown
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import METADATA
from salver.words.errors import Conflict

_ROWS_AT_A_TIME: Final = 1000


async def copy_out(ledger: Ledger, file: Path) -> None:
    """Write one state of a ledger to a new file.

    Raises:
        LedgerFailed: the ledger cannot be read, or the file not written.
    """
    if path_of(ledger.url) is not None:
        await ledger.read(lambda connection: _copy_pages(connection, file))
        return
    async with await Ledger.open(f"sqlite:///{file}") as target:
        await _copy_rows(ledger, target)


async def copy_in(file: Path, ledger: Ledger) -> None:
    """Fill an empty ledger from a file, which is first migrated to the newest schema.

    Raises:
        Conflict: the ledger already has rows, or a newer Salver wrote the file.
        LedgerFailed: one of them cannot be read or written; the ledger stays empty.
    """
    async with await Ledger.open(f"sqlite:///{file}") as source:
        await _copy_rows(source, ledger)


def check_empty(connection: Connection, name: str) -> None:
    """Check that a ledger has no rows. Raises Conflict."""
    for table in METADATA.sorted_tables:
        if connection.execute(select(table).limit(1)).first() is not None:
            raise Conflict(
                f"the ledger {name} has rows in {table.name} already",
                fix="Restore into an empty one: name another place, or move this one away.",
            )


def _copy_pages(connection: Connection, file: Path) -> None:
    raw = connection.connection.driver_connection
    assert isinstance(raw, sqlite3.Connection)
    try:
        with closing(sqlite3.connect(file)) as target:
            raw.backup(target)
    except sqlite3.Error as error:
        raise LedgerFailed(f"{file} cannot be written: {error}", fix="Name another file.") from error


async def _copy_rows(source: Ledger, target: Ledger) -> None:
    """Copy all rows in one transaction from one state; the reader's thread waits for the writer's."""
    loop = asyncio.get_running_loop()

    def reading(read: Connection) -> None:
        writing = target.write(lambda write: _copy_tables(read, write, shown(target.url)))
        asyncio.run_coroutine_threadsafe(writing, loop).result()

    await source.read(reading)


def _copy_tables(source: Connection, target: Connection, name: str) -> None:
    check_empty(target, name)
    for table in METADATA.sorted_tables:
        rows = source.execute(select(table).execution_options(yield_per=_ROWS_AT_A_TIME))
        for some in rows.mappings().partitions():
            target.execute(insert(table), [dict(row) for row in some])
        if target.dialect.name == "postgresql":
            _count_on(target, table.name)


def _count_on(target: Connection, table: str) -> None:
    """Advance PostgreSQL's sequences past numbers that it did not assign itself."""
    for column in METADATA.tables[table].columns:
        if column.identity is not None:
            last = target.scalar(select(func.max(column)))
            if last is not None:
                sequence = text("SELECT setval(pg_get_serial_sequence(:t, :c), :last)")
                target.execute(sequence, {"t": table, "c": column.name, "last": last})

"""Check of a ledger for damaged pages.

SQLite has no checksums: damage to the structure of a page is found, a changed letter in a text is not.
PostgreSQL verifies its pages itself, on each read.
"""

from typing import Final

from sqlalchemy import Connection

from salver.features.ledger.databases import path_of
from salver.features.ledger.faults import RESTORE, LedgerFailed, shown
from salver.features.ledger.ledger import Ledger

#: Largest file that a server reads through at its start, which takes a second or two.
START_BYTES: Final = 1 << 30


async def check_whole(ledger: Ledger) -> None:
    """Check all pages and indexes of an SQLite ledger.

    Raises:
        LedgerFailed: it is damaged.
    """
    await _check(ledger, "PRAGMA integrity_check(1)")


async def check_at_start(ledger: Ledger) -> None:
    """Check the pages of an SQLite ledger, unless it is large.

    Raises:
        LedgerFailed: it is damaged.
    """
    file = path_of(ledger.url)
    if file is not None and file.stat().st_size <= START_BYTES:
        await _check(ledger, "PRAGMA quick_check(1)")


async def _check(ledger: Ledger, statement: str) -> None:
    if path_of(ledger.url) is None:
        return

    def work(connection: Connection) -> str:
        return str(connection.exec_driver_sql(statement).scalar_one())

    found = await ledger.read(work)
    if found != "ok":
        reason = found.strip().splitlines()[-1]
        raise LedgerFailed(f"the ledger {shown(ledger.url)} is damaged: {reason}", fix=RESTORE)

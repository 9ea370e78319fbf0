"""Translation of database errors into Salver's errors, with advice."""

from typing import Final

from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from salver.words.errors import NotReady, SalverError

#: PostgreSQL's serialization_failure, deadlock_detected, lock_not_available.
_BUSY_STATES: Final = frozenset({"40001", "40P01", "55P03"})
_BUSY_WORDS: Final = ("database is locked", "database table is locked", "database schema is locked")
#: What to do about a damaged ledger.
RESTORE: Final = (
    "Restore a backup, which moves it aside: salver backup restore FOLDER --only ledger --replace."
)
#: Advice by text in the driver's message.
_KNOWN: Final = (
    ("file is not a database", f"Name another file. {RESTORE}"),
    ("unable to open database file", "Check that its folder exists and is writable by this user."),
    ("readonly database", "Let this user write to the file and to its folder."),
    ("attempt to write a readonly", "Let this user write to the file and to its folder."),
    ("disk is full", "Make room on its disk."),
    ("disk i/o error", "Look at its disk; is it full, or on a network?"),
    ("malformed", RESTORE),
    ("password authentication failed", "Name another user or password in the URL."),
    ("does not exist", "Make it first, for instance with createdb, or name another in the URL."),
    ("connection", "Is PostgreSQL running there, and reachable from here?"),
    ("could not translate host name", "Name another host in the URL."),
    ("failed to resolve host", "Name another host in the URL."),
)


class LedgerFailed(NotReady):
    """Ledger that cannot be opened, read or written; the message is the database's reason."""


def is_busy(error: BaseException) -> bool:
    """Return whether another attempt may succeed because a lock was held."""
    if not isinstance(error, DBAPIError):
        return False
    if getattr(error.orig, "sqlstate", None) in _BUSY_STATES:
        return True
    return isinstance(error, OperationalError) and any(word in str(error.orig) for word in _BUSY_WORDS)


def is_cut_off(error: BaseException) -> bool:
    """Return whether the connection, and with it the transaction, is lost."""
    return isinstance(error, DBAPIError) and error.connection_invalidated


def in_our_words(error: SQLAlchemyError, url: URL) -> SalverError:
    """Return Salver's error with the ledger and what to do, without a password."""
    said = str(getattr(error, "orig", None) or error).strip().partition("\n")[0]
    fix = next((fix for word, fix in _KNOWN if word in said.lower()), "")
    if is_busy(error):
        fix = "Another process is writing all the time, or holds its lock; try again later."
    return LedgerFailed(f"the ledger {shown(url)} failed: {said or type(error).__name__}", fix=fix)


def shown(url: URL) -> str:
    """Return the address without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(drivername="postgresql", query={}).render_as_string(hide_password=True)

"""Access to the ledger: one writer and concurrent readers, each on their own threads.

One call of :meth:`Ledger.write` is one transaction, applied completely or not at all. Of several processes
one writes at a time, also with PostgreSQL, so that none sees half of another's work. It knows no table.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Self, TypeVar

from sqlalchemy import Connection, Engine
from sqlalchemy.engine import URL
from sqlalchemy.exc import SQLAlchemyError

from salver.features.ledger.databases import address_of, engine_of
from salver.features.ledger.faults import LedgerFailed, in_our_words, is_busy, is_cut_off, shown
from salver.features.ledger.migrations import migrate
from salver.kernel.supervise import Backoff

T = TypeVar("T")
_LOG: Final = logging.getLogger("salver.ledger")
_READERS: Final = 4
#: Retries of work that met a lock, after the database's own wait.
_AGAIN: Final = 3
_PAUSE: Final = Backoff(first_s=0.05)
#: Maximum seconds that work waits to start in this process.
_MOST_QUEUED_SECONDS: Final = 30.0


class Ledger:
    """A database. Created by :meth:`open`.

    Args:
        writer, reader: Engines of the same database.
    """

    def __init__(self, url: URL, writer: Engine, reader: Engine) -> None:
        self.url = url
        self._writer, self._reader = writer, reader
        self._writing = ThreadPoolExecutor(1, "ledger-writer")
        self._reading = ThreadPoolExecutor(_READERS, "ledger-reader")

    def __repr__(self) -> str:
        return f"<Ledger {shown(self.url)}>"

    @classmethod
    async def open(cls, url: str, *, patience: float = 30.0) -> Self:
        """Open a database and migrate it to the newest schema.

        Args:
            url: ``sqlite:////folder/salver.db`` or ``postgresql://user@host/database``.
            patience: Maximum seconds to wait for others.

        Raises:
            InvalidInput: unsupported kind of URL.
            MissingExtra: PostgreSQL's driver is not installed.
            LedgerFailed: it cannot be opened.
            Conflict: a newer Salver wrote it.
        """
        address = address_of(url)
        ledger = cls(address, engine_of(address, patience), engine_of(address, patience, is_reader=True))
        try:
            await ledger.write(migrate)
        except BaseException:
            await ledger.close()
            raise
        return ledger

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run work in one transaction, after earlier ones.

        Args:
            work: May be called again after a lock conflict, so it must change only rows.

        Raises:
            SalverError: raised by ``work``; nothing is written then.
            LedgerFailed: the database refuses it, or others take too long.
        """
        return await self._begun(self._writing.submit(self._done, self._writer, work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Read from one state of the database, even during writes.

        Raises:
            LedgerFailed: the database cannot be read, ``work`` tries to write, or others take too long.
        """
        return await self._begun(self._reading.submit(self._done, self._reader, work))

    async def close(self) -> None:
        """Finish active work and close the database."""
        for threads, engine in ((self._writing, self._writer), (self._reading, self._reader)):
            await asyncio.to_thread(threads.shutdown)
            engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _begun(self, doing: Future[T]) -> T:
        """Run work if a thread starts it in time."""
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = doing.cancel()  # has no effect on work that has started

        waiting = asyncio.get_running_loop().call_later(_MOST_QUEUED_SECONDS, give_up)
        try:
            return await asyncio.wrap_future(doing)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not is_late or (task is not None and task.cancelling()):
                raise
            raise LedgerFailed(
                f"the ledger {shown(self.url)} did not start this work for {_MOST_QUEUED_SECONDS:g} seconds",
                fix="Earlier work takes that long; check whether the database is slow or unreachable.",
            ) from None
        finally:
            waiting.cancel()

    def _done(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        """Run work on a thread of the engine."""
        tries = 0
        while True:
            is_ending = False
            try:
                with engine.connect() as connection, connection.begin() as transaction:
                    result = work(connection)
                    is_ending = True
                    transaction.commit()
                    return result
            except SQLAlchemyError as error:
                # if the connection broke during the commit, the transaction may or may not be committed
                may_retry = is_busy(error) or (is_cut_off(error) and not is_ending)
                if not may_retry or tries == _AGAIN:
                    raise in_our_words(error, self.url) from error
                _LOG.debug("%r is tried again: %s", self, error)
            tries += 1
            time.sleep(_PAUSE.delay(tries))

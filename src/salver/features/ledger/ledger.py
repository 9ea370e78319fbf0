"""How is the ledger written and read? One writer, readers beside it, each on threads of their own.

What one call of :meth:`Ledger.write` does is one transaction: all of it is there afterwards, or nothing. Of
several processes one writes at a time, in PostgreSQL, too, so that no work sees half of another's.
It knows no table.
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

T = TypeVar("T")
_LOG: Final = logging.getLogger("salver.features.ledger")
_READERS: Final = 4
#: Tries beyond the first of a work that met a lock, which the database waited for as long as it may.
_AGAIN: Final = 3
_PAUSE_SECONDS: Final = 0.05
#: Until a work begins, of those that wait in this process.
_MOST_QUEUED_SECONDS: Final = 30.0


class Ledger:
    """A database. Made by :meth:`open`.

    Args:
        writer, reader: Of the same database.
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
        """Open a database, and bring it to the newest version of the schema.

        Args:
            url: ``sqlite:////folder/salver.db`` or ``postgresql://user@host/database``.
            patience: Seconds that a work waits for others to end theirs.

        Raises:
            InvalidInput: no such kind of URL.
            MissingExtra: PostgreSQL's driver is not installed.
            LedgerFailed: it cannot be opened.
            Conflict: a newer Salver has written it.
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
        """Do it in one transaction, after the works before it.

        Args:
            work: May be called again after it met a lock, so that it changes nothing but rows.

        Raises:
            SalverError: what ``work`` raises; nothing is written then.
            LedgerFailed: the database refuses it, or others take too long.
        """
        return await self._begun(self._writing.submit(self._done, self._writer, work))

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Read from one state of the database, whoever writes meanwhile.

        Raises:
            LedgerFailed: the database cannot be read, ``work`` tries to write, or others take too long.
        """
        return await self._begun(self._reading.submit(self._done, self._reader, work))

    async def close(self) -> None:
        """Ends what is under way, and lets go of the database."""
        for threads, engine in ((self._writing, self._writer), (self._reading, self._reader)):
            await asyncio.to_thread(threads.shutdown)
            engine.dispose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _begun(self, doing: Future[T]) -> T:
        """What comes of it, if a thread takes it up in time."""
        is_late = False

        def give_up() -> None:
            nonlocal is_late
            is_late = doing.cancel()  # not what has begun

        waiting = asyncio.get_running_loop().call_later(_MOST_QUEUED_SECONDS, give_up)
        try:
            return await asyncio.wrap_future(doing)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not is_late or (task is not None and task.cancelling()):
                raise
            raise LedgerFailed(
                f"the ledger {shown(self.url)} did not come to this for {_MOST_QUEUED_SECONDS:g} seconds",
                fix="Works before it take that long; is the database slow, or does it not answer?",
            ) from None
        finally:
            waiting.cancel()

    def _done(self, engine: Engine, work: Callable[[Connection], T]) -> T:
        """On a thread of the engine's own."""
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
                # Of a connection that broke while it committed nobody knows whether it did.
                may_retry = is_busy(error) or (is_cut_off(error) and not is_ending)
                if not may_retry or tries == _AGAIN:
                    raise in_our_words(error, self.url) from error
                _LOG.debug("%r is tried again: %s", self, error)
            time.sleep(_PAUSE_SECONDS * 2**tries)
            tries += 1

"""Accounts of all keys on one server: their meters and quotas, and what is written of them to the ledger."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Sequence
from pathlib import Path
from typing import Any, Final

from salver.features.access.ports import Account
from salver.features.access.quota_rules import Period, QuotaRule, parse_quotas, period_of
from salver.features.usage.allowance import KeyQuotas, Slice, SliceRequest
from salver.features.usage.meters import Batch, UsageMeters
from salver.features.usage.state_file import StateFile, Use, orphan, path_of, runs_in
from salver.features.usage.store import UsageStore
from salver.words.errors import SalverError

_LOG: Final = logging.getLogger("salver.usage")
#: Seconds between two writes: so much is lost at most when the process is killed.
WRITE_S: Final = 10.0
_HOUR_S: Final = 3600
_DAY_S: Final = 86_400.0


class Settling:
    """Answer of the ledger that several may await; one who is cancelled does not cancel it."""

    def __init__(self) -> None:
        self._done = asyncio.Event()

    def __await__(self) -> Generator[Any, None, None]:
        yield from self._done.wait().__await__()

    def end(self) -> None:
        """Wake those who wait."""
        self._done.set()


class KeyAccounts:
    """Accounts of all keys. Implements :class:`~salver.features.access.ports.Accounts`.

    Args:
        folder: Folder for what is used of quotas; None = it is kept in memory, and a killed server's slices
            count as used.
        now: Returns Unix seconds.
        days: Days for which usage is kept.
    """

    def __init__(self, store: UsageStore, folder: Path | None, now: Callable[[], float], days: int) -> None:
        self._store = store
        self._folder = folder
        self.now = now
        self._days = days
        self.meters = UsageMeters()
        self._quotas: dict[str, KeyQuotas] = {}
        self._state: StateFile | None = None
        self._elsewhere: dict[tuple[str, str, str], tuple[int, int]] = {}
        self._book = _Book(now())
        self._requests: list[tuple[SliceRequest, Slice, Settling]] = []
        self._asking: asyncio.Task[None] | None = None
        self._closed: list[tuple[str, Slice]] = []

    def __repr__(self) -> str:
        return f"<KeyAccounts, {len(self._quotas)} keys have quotas>"

    # -- for the keys --------------------------------------------------------------------------

    def account(self, key: str, quotas: tuple[str, ...]) -> Account:
        """See :class:`~salver.features.access.ports.Accounts`."""
        return Account(self.meters.meter(key), self.quotas(key, quotas) if quotas else None)

    def quotas(self, key: str, texts: tuple[str, ...]) -> KeyQuotas:
        """Return the quotas of a key."""
        rules = parse_quotas(texts)
        found = self._quotas.get(key)
        if found is None:
            found = self._quotas[key] = KeyQuotas(key, rules, self)
        else:
            found.change(rules)
        return found

    # -- for the quotas (allowance.py: Shell) -----------------------------------------------------

    def open(self, key: str, rule: QuotaRule, period: Period) -> Slice:
        """See :class:`~salver.features.usage.allowance.Shell`."""
        memory: tuple[Any, int] = ([0], 0)
        if self._state is not None:
            memory = self._state.open(key, rule.name, period.name)
        opened = Slice(rule, period, *memory)
        granted, used = self._elsewhere.get((key, rule.name, period.name), (0, 0))
        opened.elsewhere = max(0, rule.most - max(granted, used))
        return opened

    def close(self, key: str, slice: Slice) -> None:
        """See :class:`~salver.features.usage.allowance.Shell`."""
        self._closed.append((key, slice))

    def ask(self, request: SliceRequest, slice: Slice) -> Awaitable[None]:
        """See :class:`~salver.features.usage.allowance.Shell`."""
        settling = Settling()
        self._requests.append((request, slice, settling))
        if self._asking is None:
            self._asking = asyncio.get_running_loop().create_task(self._ask_all())
        return settling

    async def _ask_all(self) -> None:
        """Ask the ledger, all requests that have come meanwhile at once."""
        try:
            while self._requests:
                requests, self._requests = self._requests, []
                granted: Sequence[Any] = [None] * len(requests)
                try:
                    granted = await self._store.take([request for request, _, _ in requests], self.now())
                except SalverError as error:
                    _LOG.warning("quotas cannot be renewed: %s", error)
                for (_, slice, settling), each in zip(requests, granted, strict=True):
                    slice.settle(each, self.now())
                    settling.end()
        finally:
            self._asking = None
            for _, slice, settling in self._requests:  # it was cancelled
                slice.settle(None, self.now())
                settling.end()

    # -- for the server ------------------------------------------------------------------------

    async def start(self) -> None:
        """Settle what servers have left that were killed, and begin a file.

        Raises:
            LedgerFailed: the ledger cannot be written.
        """
        now = self.now()
        if self._folder is not None:
            for run in await asyncio.to_thread(runs_in, self._folder):
                with orphan(path_of(self._folder, run)) as uses:
                    if uses is not None:
                        await self._store.settle(uses, run)
            self._state = StateFile(path_of(self._folder, self._store.server))
        names = {period_of("day", now).name, period_of("month", now).name}
        self._elsewhere = await self._store.left(names)

    async def tick(self) -> None:
        """Write what is due; what cannot be written is kept, and tried again."""
        book, now = self._book, self.now()
        if book.is_hour_over(now):
            self._assign(now)
        if book.is_due(now):
            book.written = now
            await self.write()
        if book.is_day_over(now):
            book.pruned = now
            await self._store.prune(now - self._days * _DAY_S, now)

    def _assign(self, now: float) -> None:
        """Assign what was counted to the hour in which the last assignment was."""
        self.meters.close_until(self._book.hour)
        self._book.hour = int(now) // _HOUR_S * _HOUR_S

    async def write(self) -> None:
        """Write all that has been counted, once, and settle the slices of periods that are over.

        Raises:
            LedgerFailed: the ledger cannot be written; it is tried again the next time.
        """
        book = self._book
        async with book.writing:
            self._assign(self.now())
            while book.has_pending or book.begin(self.meters.take(), self._changed_uses()):
                await self._store.flush(book.number, *book.pending, self.now())
                book.has_pending = False
            closed, self._closed = self._closed, []
            try:
                if closed:
                    await self._store.settle([_use(key, slice) for key, slice in closed])
            except SalverError:
                self._closed += closed
                raise
            for key, slice in closed:
                book.told.pop((key, slice.rule.name, slice.period.name), None)
                if self._state is not None:
                    self._state.close(slice.counts, slice.at)

    async def stop(self) -> None:
        """Write everything, and give back what is left of slices.

        Raises:
            LedgerFailed: the ledger cannot be written; the file stays for the next server.
        """
        if self._asking is not None:
            await asyncio.gather(self._asking, return_exceptions=True)
        for key, quotas in self._quotas.items():
            self._closed += [(key, slice) for slice in quotas.slices()]
        self._quotas.clear()
        is_settled = False
        try:
            await self.write()
            is_settled = True
        finally:
            if self._state is not None:
                self._state.leave(is_settled=is_settled)
                self._state = None

    def _changed_uses(self) -> list[Use]:
        """Return what is used of slices, where it differs from what was written last."""
        told, uses = self._book.told, list[Use]()
        for key, quotas in self._quotas.items():
            for slice in quotas.slices():
                place = (key, slice.rule.name, slice.period.name)
                if slice.used and told.get(place) != slice.used:
                    told[place] = slice.used
                    uses.append(_use(key, slice))
        return uses


class _Book:
    """State of the writing to the ledger.

    Attributes:
        hour: Hour to which counts belong that are not assigned yet.
        number: Number of the last batch.
        pending: Its content.
        has_pending: It may have been written, or not.
        told: Uses of slices that were written last.
    """

    def __init__(self, now: float) -> None:
        self.hour = int(now) // _HOUR_S * _HOUR_S
        self.written = now
        self.pruned = 0.0
        self.number = 0
        self.pending: tuple[Batch, Sequence[Use]] = {}, ()
        self.has_pending = False
        self.told: dict[tuple[str, str, str], int] = {}
        self.writing = asyncio.Lock()

    def begin(self, batch: Batch, uses: Sequence[Use]) -> bool:
        """Begin the next batch; return False if there is nothing to be written."""
        if batch or uses:
            self.number += 1
            self.pending, self.has_pending = (batch, uses), True
        return self.has_pending

    def is_hour_over(self, now: float) -> bool:
        """Return whether counts from now on belong to another hour."""
        return not self.hour <= now < self.hour + _HOUR_S

    def is_due(self, now: float) -> bool:
        """Return whether it is time to write."""
        return not self.written <= now < self.written + WRITE_S

    def is_day_over(self, now: float) -> bool:
        """Return whether it is time to delete what is old."""
        return now - self.pruned >= _DAY_S


def _use(key: str, slice: Slice) -> Use:
    return Use(key, slice.rule.name, slice.period.name, slice.used)

"""A server's keys, as the ledger has them.

The number of changes is read every fraction of a second, and the keys when it differs, so that a lost message
cannot keep a revoked key alive. A server that the ledger does not answer goes on with the keys that it knows.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import Final

from salver.features.access.building import record_changes
from salver.features.access.key_table import KeyTable
from salver.features.keyring.ledger_keys import KeysFound, LedgerKeys, newer
from salver.features.ledger.ledger import Ledger
from salver.lazy import lazy_imports
from salver.words.errors import SalverError

with lazy_imports():
    from prometheus_client import Metric
    from prometheus_client.core import GaugeMetricFamily

_LOG: Final = logging.getLogger("salver.access")
_SOURCE: Final = "ledger"
#: Seconds after which a ledger that has not answered is told.
_LATE_S: Final = 1.0


class FollowedKeys:
    """Keys that a server follows.

    Args:
        keys: Keys of the server, of which those of the ledger are replaced.
        clock: Returns monotonic seconds.
        are_optional: Requests need no key until the ledger has one.
    """

    def __init__(
        self, ledger: Ledger, keys: KeyTable, clock: Callable[[], float], *, are_optional: bool
    ) -> None:
        self._ledger = ledger
        self._keys = keys
        self._clock = clock
        self._is_open = are_optional
        self._number = -1
        self._heard = clock()
        self._is_late = False
        self._reading: asyncio.Task[KeysFound | None] | None = None
        self._written: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<FollowedKeys of {self._ledger!r}, change {self._number}>"

    async def start(self) -> None:
        """Read the keys. Raises SalverError."""
        self._take(await self._read())

    async def look(self) -> None:
        """Read the keys if they have changed, or tell that the ledger does not answer."""
        reading = self._reading = self._reading or asyncio.create_task(self._read())
        done, _ = await asyncio.wait({reading}, timeout=_LATE_S)
        if not done:
            self._miss("it does not answer")  # the same reading is waited for the next time
            return
        self._reading = None
        try:
            found = reading.result()
        except SalverError as error:
            self._miss(str(error))
            return
        if self._is_late:
            self._is_late = False
            _LOG.info("the ledger answers again, and its keys are followed")
        self._take(found)

    async def catch_up(self) -> None:
        """Read the keys with a change that this server has just written."""
        if self._reading is not None:
            await self.look()  # which began before the change
        await self.look()

    async def write_uses(self, records: LedgerKeys) -> None:
        """Write when keys were last used. Raises SalverError."""
        uses = {id: at for id, at in self._keys.last_uses().items() if at > self._written.get(id, 0.0)}
        await records.use(uses)
        self._written |= uses

    async def stop(self) -> None:
        """Wait for nothing any more."""
        if self._reading is not None:
            self._reading.cancel()
            with contextlib.suppress(asyncio.CancelledError, SalverError):
                await self._reading

    def collect(self) -> Iterator[Metric]:
        """Return the metric family; called by the Prometheus registry."""
        yield GaugeMetricFamily(
            "salver_access_ledger_age_seconds",
            "Seconds since the ledger last told which keys are valid.",
            value=self._clock() - self._heard,
        )

    async def _read(self) -> KeysFound | None:
        return await self._ledger.read(lambda connection: newer(connection, self._number))

    def _take(self, found: KeysFound | None) -> None:
        self._heard = self._clock()
        if found is None or found.number == self._number:
            return  # others may have waited for the same reading
        is_first, self._number = self._number < 0, found.number
        was_open, self._is_open = self._is_open, self._is_open and not found.has_rows
        changes = self._keys.replace(found.keys, _SOURCE, is_open=self._is_open)
        if found.limits is not None:
            self._keys.declare(found.limits, _SOURCE)
        if not is_first:
            record_changes(changes)
        if was_open and not self._is_open and not is_first:
            _LOG.warning("the first key of the ledger has been made: only liveness needs none from now on")
        if not self._is_open:
            count = len({key.id for key in found.keys.values()})
            _LOG.info("%d keys of the ledger are valid; only liveness needs none", count)

    def _miss(self, why: str) -> None:
        if not self._is_late and self._clock() - self._heard >= _LATE_S:
            self._is_late = True
            _LOG.error("the keys stay as they are, as the ledger cannot be read: %s", why)

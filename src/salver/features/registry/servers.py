"""Servers of a ledger: each announces where others reach it and which models it runs."""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Connection, delete, select

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import SERVER
from salver.parts import ServerPlace
from salver.words.errors import InvalidInput, SalverError

#: Seconds between two announcements of the same models; after which a silent server counts as gone.
AGAIN_S: Final = 10.0
_ALIVE_S: Final = 60.0
_LEAVE_S: Final = 2.0
_LOG: Final = logging.getLogger("salver.registry")


class AnnouncedServers:
    """Servers of a ledger (``ServerList`` of ``parts.py``).

    Args:
        url: URL at which others reach this server; empty = it is not announced.
        zone: Where it is.
        clock: Unix seconds.
        models: Returns the names of the models that run here.

    Raises:
        InvalidInput: that is not a URL.
    """

    def __init__(
        self,
        ledger: Ledger,
        url: str,
        zone: str,
        clock: Callable[[], float],
        models: Callable[[], Iterable[str]],
    ) -> None:
        parts = urlsplit(url)
        if url and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise InvalidInput(
                f"{url[:200]!r} is not the URL of a server",
                field="--advertise",
                fix='Give one such as "http://10.0.0.5:8000".',
            )
        self._ledger = ledger
        self._url = url.rstrip("/")
        self._zone = zone
        self._clock = clock
        self._models = models
        self._told: tuple[list[str], float] = ([], 0.0)
        self._has_left = not url

    def __repr__(self) -> str:
        return f"<AnnouncedServers of {self._ledger!r}>"

    async def announce(self) -> None:
        """Write this server's models if they have changed, or were written a while ago."""
        now, models = self._clock(), sorted(set(self._models()))
        before, at = self._told
        if self._has_left or (models == before and now - at < AGAIN_S):
            return
        row = {
            "url": self._url,
            "zone": self._zone,
            "models": msgspec.json.encode(models).decode(),
            "time": now,
        }

        def work(connection: Connection) -> None:
            connection.execute(
                delete(SERVER).where((SERVER.c.url == self._url) | (SERVER.c.time < now - _ALIVE_S))
            )
            connection.execute(SERVER.insert().values(row))

        await self._ledger.write(work)
        self._told = models, now

    async def withdraw(self) -> None:
        """Remove this server from the list; the list forgets it in a minute where that fails."""
        if self._has_left:
            return
        self._has_left = True
        own = delete(SERVER).where(SERVER.c.url == self._url)
        try:
            async with asyncio.timeout(_LEAVE_S):
                await self._ledger.write(lambda connection: connection.execute(own))
        except (SalverError, TimeoutError) as error:
            _LOG.warning("%r still lists this server: %s", self, error or "it takes too long")

    async def serving(self, model: str) -> Sequence[ServerPlace]:
        """Return the servers that run a model. Raises LedgerFailed."""
        listed = await listed_servers(self._ledger, self._clock())
        return [ServerPlace(each.url, each.zone) for each in listed if model in each.models]


class ListedServer(msgspec.Struct, frozen=True):
    """Server with what it has announced.

    Attributes:
        time: Unix seconds of the announcement.
    """

    url: str
    zone: str
    models: Sequence[str]
    time: float


async def listed_servers(ledger: Ledger, now: float) -> list[ListedServer]:
    """Return the servers of a ledger that have not been silent for a minute. Raises LedgerFailed."""
    alive = select(SERVER).where(SERVER.c.time >= now - _ALIVE_S).order_by(SERVER.c.url)
    rows = await ledger.read(lambda connection: connection.execute(alive).all())
    return [ListedServer(row.url, row.zone, msgspec.json.decode(row.models), row.time) for row in rows]

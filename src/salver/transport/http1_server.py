"""Listener for exact HTTP/1.1, which hands HTTP/2 on.

It listens, watches over what its connections do with their time, and ends them gracefully. What is said on
one is ``http1.py``'s. Connections of HTTP/2, as gRPC's clients make them, go on to a front beside it.
"""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

from salver.transport.http1 import Connection, Terms
from salver.transport.parting import leave

#: Seconds within which a request that has begun goes on, and a connection has its next one.
PATIENCE_S: Final = 60.0
IDLE_S: Final = 300.0
_LOOK_S: Final = 5.0


class Front(Protocol):
    """A listener of another kind."""

    async def run(self) -> None:
        """Serve until ``stop``."""
        ...

    async def started(self) -> None:
        """Returns once connections are accepted."""
        ...

    def stop(self) -> None:
        """Accept no more; let what is in flight end."""
        ...


class Http1:
    """A listener (transport.server.Listener).

    Args:
        secure: Of TLS; None = in the clear.
        grace: Seconds that requests in flight may take to end after ``stop``.
        beside: A front to which ``terms.relay`` passes connections of HTTP/2 on; None = there is none.
    """

    def __init__(
        self,
        terms: Terms,
        sock: socket.socket,
        secure: ssl.SSLContext | None = None,
        grace: float = 30.0,
        beside: Front | None = None,
    ) -> None:
        self._beside = beside
        name = sock.getsockname()
        self.port: int = name[1] if isinstance(name, tuple) else 0
        self._terms = terms
        self._socket = sock
        self._secure = secure
        self._grace = grace
        self._has_started = asyncio.Event()
        self._shall_stop = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Http1 on {self.port}, {len(self._terms.open)} connections>"

    async def run(self) -> None:
        """Serve until ``stop``; returns when the last request in flight has ended."""
        loop = asyncio.get_running_loop()
        scheme = "https" if self._secure else "http"

        def connected() -> Connection:
            return Connection(self._terms, scheme)

        is_unix = self._socket.family == socket.AF_UNIX
        listen = loop.create_unix_server if is_unix else loop.create_server
        server = await cast(Callable[..., Any], listen)(connected, sock=self._socket, ssl=self._secure)
        watching = asyncio.create_task(self._watch())
        others = [asyncio.create_task(self._beside.run())] if self._beside else []
        if self._beside:
            await self._beside.started()
        self._has_started.set()
        try:
            await self._shall_stop.wait()
        finally:
            watching.cancel()
            server.close()
            if self._beside:
                self._beside.stop()
            await self._end()
            await asyncio.gather(*others)

    async def started(self) -> None:
        """Returns once connections are accepted."""
        await self._has_started.wait()

    async def leave(self, delay_s: float) -> None:
        """Go on for so long, tell callers to close, then begin no new connection."""
        await leave(self._socket, self._terms.parting, delay_s)

    def stop(self) -> None:
        """Accept no more; let what is in flight end."""
        self._shall_stop.set()

    async def _watch(self) -> None:
        """Those that do nothing with their time have had enough of it."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_S)
            for connection in overdue(self._terms.open, loop.time()):
                connection.drop()

    async def _end(self) -> None:
        for connection in list(self._terms.open):
            connection.end()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace):
                while not all(connection.is_idle for connection in self._terms.open):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        for connection in list(self._terms.open):
            connection.drop()


def overdue(connections: "set[Connection]", now: float) -> list[Connection]:
    """Those of which nothing has come for too long, be it of a request that has begun or of the next one."""
    return [
        each
        for each in connections
        if not each.is_busy and now - each.since > (IDLE_S if each.is_idle else PATIENCE_S)
    ]

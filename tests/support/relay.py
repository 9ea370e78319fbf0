"""What lies between a server and its PostgreSQL, and fails as networks and proxies do. Not a suite itself."""

import asyncio
import contextlib
from pathlib import Path
from typing import Literal, Self

from sqlalchemy.engine import make_url

#: ``refused``: connections break, as do those that come about. ``silent``: they come about and stay, and
#: nothing passes. ``mute``, ``deaf``: nothing passes from the server, or to it.
Trouble = Literal["", "refused", "silent", "mute", "deaf"]
_BYTES = 1 << 16


class Relay:
    """Another way to a database; use as an asynchronous context manager.

    Args:
        url: Of the database, on a socket of this machine's.
    """

    def __init__(self, url: str) -> None:
        self._database = make_url(url)
        (self._socket,) = Path(str(self._database.query["host"])).glob(".s.PGSQL.*[0-9]")
        self._port = 0
        self._refuses = False
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._passes = {"mute": asyncio.Event(), "deaf": asyncio.Event()}  # unless it is that

    def __repr__(self) -> str:
        return f"<Relay to {self._database.database}, {len(self._serving)} connections>"

    async def __aenter__(self) -> Self:
        self.be("")
        # Which listens whatever comes: another process could take the port of one that does not.
        self._listening = await asyncio.start_server(self._meet, "127.0.0.1")
        self._port = self._listening.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._listening.close()
        self.be("refused")
        while self._serving:
            await asyncio.wait(self._serving)

    @property
    def url(self) -> str:
        """Of the database by this way; a connection that takes two seconds is given up."""
        here = self._database.set(host="127.0.0.1", port=self._port, query={"connect_timeout": "2"})
        return here.render_as_string(hide_password=False)

    def be(self, trouble: Trouble) -> None:
        """From now on it is so; what waits to pass, passes once it may."""
        for name, passes in self._passes.items():
            if trouble in (name, "silent"):
                passes.clear()
            else:
                passes.set()
        self._refuses = trouble == "refused"
        if self._refuses:
            for writer in self._open:
                writer.transport.abort()

    def _meet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        serving = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        there, back = await asyncio.open_unix_connection(self._socket)
        both = {writer, back}
        self._open |= both
        await asyncio.gather(self._pass(reader, back, "mute"), self._pass(there, writer, "deaf"))
        self._open -= both

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, unless: str) -> None:
        with contextlib.suppress(OSError):
            while some := await reader.read(_BYTES):
                await self._passes[unless].wait()
                writer.write(some)
                await writer.drain()
        writer.close()

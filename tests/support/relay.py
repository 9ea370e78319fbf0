"""What lies between two processes, and fails as networks and proxies do. Not a suite itself."""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final, Literal, Self

from sqlalchemy.engine import make_url

#: ``refused``: connections break, as do those that come about. ``silent``: they come about and stay, and
#: nothing passes. ``mute``, ``deaf``: nothing passes from the server, or to it. ``torn``: answers are cut in
#: the middle, and their connections reset. ``forgotten``: nothing passes any more where a connection is open,
#: and neither side is told; new ones work. ``dropped``: no connection comes about, and nothing passes.
Trouble = Literal["", "refused", "silent", "mute", "deaf", "torn", "forgotten", "dropped"]
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
_BYTES = 1 << 16
_RESET: Final = struct.pack("ii", 1, 0)  # lingers for no time


class Relay:
    """Another way to a server; use as an asynchronous context manager.

    Args:
        connect: Opens a connection to the server.
    """

    def __init__(self, connect: Callable[[], Awaitable[Streams]]) -> None:
        self._connect = connect
        self._trouble: Trouble = ""
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._passes = {"mute": asyncio.Event(), "deaf": asyncio.Event()}  # unless it is that
        self._accepts = asyncio.Event()
        self._queue: list[socket.socket] = []

    def __repr__(self) -> str:
        return f"<Relay at {self.port}, {len(self._serving)} connections>"

    async def __aenter__(self) -> Self:
        # Which listens whatever comes: another process could take the port of one that does not.
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._listening.setblocking(False)
        self.port: int = self._listening.getsockname()[1]
        self.be("")
        self._accepting = asyncio.create_task(self._accept())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._accepting.cancel()
        self.be("refused")
        self._listening.close()
        while self._serving:
            await asyncio.wait(self._serving)

    def be(self, trouble: Trouble) -> None:
        """From now on it is so; what waits to pass, passes once it may."""
        self._trouble = trouble
        for name, passes in self._passes.items():
            if trouble in (name, "silent", "dropped"):
                passes.clear()
            else:
                passes.set()
        if trouble == "refused":
            for writer in self._open:
                writer.transport.abort()
        if trouble == "forgotten":
            for task in self._serving:
                task.cancel()  # its connections stay open
        if trouble == "dropped":
            self._drop()
        elif not self._accepts.is_set():
            self._listening.listen()
            self._accepts.set()
            while self._queue:
                self._queue.pop().close()

    def _drop(self) -> None:
        """Fill the queue of connections that wait to be accepted: the kernel answers no further SYN."""
        self._accepts.clear()
        self._listening.listen(0)
        for _ in range(4):
            self._queue.append(socket.socket())
            self._queue[-1].setblocking(False)
            self._queue[-1].connect_ex(("127.0.0.1", self.port))

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._accepts.wait()
            accepted, _ = await loop.sock_accept(self._listening)
            serving = asyncio.create_task(self._serve(*await asyncio.open_connection(sock=accepted)))
            self._serving.add(serving)
            serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._trouble == "refused":
            writer.transport.abort()
            return
        self._open.add(writer)
        try:
            there, back = await self._connect()
        except OSError:
            writer.transport.abort()
            self._open.discard(writer)
            return
        both = {writer, back}
        self._open |= both
        await asyncio.gather(self._pass(reader, back, "mute"), self._pass(there, writer, "deaf"))
        self._open -= both

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, unless: str) -> None:
        with contextlib.suppress(OSError):
            while some := await reader.read(_BYTES):
                await self._passes[unless].wait()
                if self._trouble == "torn" and unless == "deaf":
                    some = some[: len(some) // 2]
                writer.write(some)
                await writer.drain()
                if self._trouble == "torn" and unless == "deaf":
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    writer.transport.abort()
                    break
        writer.close()


class DatabaseRelay(Relay):
    """Another way to a database.

    Args:
        url: Of the database, on a socket of this machine's.
    """

    def __init__(self, url: str) -> None:
        self._database = make_url(url)
        (place,) = Path(str(self._database.query["host"])).glob(".s.PGSQL.*[0-9]")
        super().__init__(lambda: asyncio.open_unix_connection(place))

    @property
    def url(self) -> str:
        """Of the database by this way; a connection that takes two seconds is given up."""
        here = self._database.set(host="127.0.0.1", port=self.port, query={"connect_timeout": "2"})
        return here.render_as_string(hide_password=False)

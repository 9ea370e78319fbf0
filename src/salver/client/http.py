"""Minimal HTTP/1.1 client with kept-alive connections to one server.

One request at a time per connection, complete bodies. It knows no tensor and no model. Comments cite RFC
9112.
"""

import asyncio
import os
import ssl
from collections.abc import Iterable
from typing import cast
from urllib.parse import urlsplit

import msgspec

from salver.words.errors import Code, SalverError, TooLarge

MAX_HEAD = 64 * 1024
MAX_BODY = 1 << 30


class Unreachable(SalverError):
    """No answer from that address, or a connection broken during an answer."""

    code = Code.NOT_READY


class NoConnection(Unreachable):
    """No connection to that address: the request was not sent."""


class Reply(msgspec.Struct, gc=False):
    """A complete answer; names in ``headers`` are lower-case."""

    status: int
    headers: dict[bytes, bytes]
    body: bytes


class _Connection(asyncio.Protocol):
    """One connection; ``ask`` writes a request and waits for its reply."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._waiter: asyncio.Future[Reply] | None = None
        self._transport: asyncio.Transport | None = None
        self._head: tuple[int, dict[bytes, bytes]] | None = None
        self._body_at = 0
        self._chunks = bytearray()
        self.open = False
        self.heard = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have another base
        self.open = True

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self._buffer += data
        if self._waiter is None:  # an unsolicited answer, for example 408 on an idle connection
            self.close()
            return
        self._advance(ended=False)

    def eof_received(self) -> None:
        self._advance(ended=True)

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._settle(Unreachable("the server closed the connection before its answer was whole"))

    async def ask(self, request: Iterable[bytes]) -> Reply:
        assert self._transport is not None
        self._buffer.clear()
        self._head = None
        self.heard = False
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.writelines(request)
        try:
            return await self._waiter
        except asyncio.CancelledError:
            self.close()  # the pending answer has no recipient
            raise
        finally:
            self._waiter = None

    def close(self) -> None:
        self.open = False
        if self._transport is not None:
            self._transport.close()

    def _settle(self, result: Reply | SalverError) -> None:
        if self._waiter is None or self._waiter.done():
            return
        if isinstance(result, Reply):
            self._waiter.set_result(result)
        else:
            self.close()
            self._waiter.set_exception(result)

    def _advance(self, *, ended: bool) -> None:
        try:
            reply = self._parse(ended)
        except ValueError:
            self._settle(Unreachable("the answer is not HTTP/1.1", fix="Is the URL that of a model server?"))
        except TooLarge as error:
            self._settle(error)
        else:
            if reply is not None:
                self._settle(reply)

    def _parse(self, ended: bool) -> Reply | None:
        """Return the reply if it is complete. Raises ValueError for invalid HTTP."""
        if self._head is None and not self._parse_head():
            return None
        assert self._head is not None
        status, headers = self._head
        at = self._body_at
        if headers.get(b"transfer-encoding", b"").lower() == b"chunked":  # section 7.1
            if not self._take_chunks():
                return None
            body = bytes(self._chunks)
        elif (length := headers.get(b"content-length")) is not None or status in (204, 304):
            size = int(length or b"0")
            if not 0 <= size <= MAX_BODY:
                raise TooLarge(f"the answer has {size} bytes, over this client's limit of {MAX_BODY}")
            if len(self._buffer) < at + size:
                return None
            body = bytes(memoryview(self._buffer)[at : at + size])
        elif ended:  # section 6.3, rule 8: the body ends with the connection
            body = bytes(self._buffer[at:])
        else:
            return None
        if headers.get(b"connection", b"").lower() == b"close" or ended:
            self.close()
        return Reply(status, headers, body)

    def _parse_head(self) -> bool:
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            if len(self._buffer) > MAX_HEAD:
                raise ValueError("endless head")
            return False
        head = parse_head(bytes(self._buffer[:end]))
        if head[0] == 100:  # an interim answer; the final one follows
            del self._buffer[: end + 4]
            return self._parse_head()
        self._head = head
        self._body_at = end + 4
        self._chunks.clear()
        return True

    def _take_chunks(self) -> bool:
        """Move complete chunks out of the buffer; return True after the last one."""
        while (end := self._buffer.find(b"\r\n", self._body_at)) >= 0:
            size = int(bytes(self._buffer[self._body_at : end]).partition(b";")[0], 16)
            if size < 0 or len(self._chunks) + size > MAX_BODY:
                raise TooLarge(f"the answer's body is over this client's limit of {MAX_BODY} bytes")
            if size == 0:
                return self._buffer.find(b"\r\n", end + 2) >= 0
            if len(self._buffer) < end + size + 4:
                return False
            self._chunks += self._buffer[end + 2 : end + 2 + size]
            del self._buffer[: end + size + 4]
            self._body_at = 0
        return False


def parse_head(head: bytes) -> tuple[int, dict[bytes, bytes]]:
    """Return status and headers, by lower-case name. Raises ValueError for invalid HTTP."""
    status_line, *lines = head.split(b"\r\n")
    version, status, *_ = status_line.split(b" ", 2)
    if not version.startswith(b"HTTP/1."):
        raise ValueError("not HTTP")
    pairs = (line.partition(b":") for line in lines)
    return int(status), {name.strip().lower(): value.strip() for name, _, value in pairs}


def _reason(error: OSError) -> str:
    if error.errno and error.errno > 0:
        return os.strerror(error.errno)
    return str(error) or "no connection in time"


class Http:
    """A server's address and the idle connections to it.

    Args:
        connect_s: Most seconds until a connection is there; None = the kernel's, minutes.
    """

    def __init__(self, url: str, connect_s: float | None = None) -> None:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise Unreachable(f"{url!r} is not a server's URL", fix="Give one such as http://127.0.0.1:8000.")
        self.url = f"{parts.scheme}://{parts.netloc}"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = parts.hostname, parts.port or (443 if self._tls else 80)
        self._host = parts.netloc.rpartition("@")[2].encode()
        self._prefix = parts.path.rstrip("/").encode()
        self._connect_s = connect_s
        self._idle: list[_Connection] = []

    def __repr__(self) -> str:
        """Return the address and the number of idle connections."""
        return f"<Http {self.url}, {len(self._idle)} idle>"

    def request(
        self, verb: str, path: str, body: bytes = b"", headers: Iterable[tuple[str, str]] = ()
    ) -> bytes:
        """Return the bytes of a request, so that a repeated one is built once."""
        lines = [f"{verb} ".encode() + self._prefix + path.encode() + b" HTTP/1.1", b"host: " + self._host]
        lines += [f"{name}: {value}".encode() for name, value in headers]
        if body or verb == "POST":
            lines.append(b"content-length: %d" % len(body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + body

    async def send(self, request: bytes) -> Reply:
        """Send on an idle or a new connection.

        Raises:
            Unreachable: no answer; a kept-alive connection that the server closed meanwhile is replaced once,
                silently.
        """
        while self._idle:
            connection = self._idle.pop()
            if not connection.open:
                continue
            try:
                return await self._ask(connection, request)
            except Unreachable:
                if connection.heard:  # the connection was alive: the server itself broke off
                    raise
                break
        return await self._ask(await self._connect(), request)

    async def _ask(self, connection: _Connection, request: bytes) -> Reply:
        reply = await connection.ask((request,))
        if connection.open:
            self._idle.append(connection)
        return reply

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a new connection, for an answer that is read as it comes. Raises NoConnection."""
        host, port = self._address
        try:
            async with asyncio.timeout(self._connect_s):
                return await asyncio.open_connection(host, port, ssl=self._tls, limit=MAX_HEAD)
        except OSError as error:
            raise self._no_connection(error) from error

    async def _connect(self) -> _Connection:
        host, port = self._address
        try:
            async with asyncio.timeout(self._connect_s):
                _, connection = await asyncio.get_running_loop().create_connection(
                    _Connection, host, port, ssl=self._tls
                )
        except OSError as error:
            raise self._no_connection(error) from error
        return connection

    def _no_connection(self, error: OSError) -> NoConnection:
        return NoConnection(
            f"no server answers at {self.url} ({_reason(error)})", fix="Start one with: salver serve PATH"
        )

    async def close(self) -> None:
        """Close the idle connections."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()
        await asyncio.sleep(0)  # lets the transports close their sockets

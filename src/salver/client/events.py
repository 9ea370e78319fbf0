"""Server-sent events of one HTTP/1.1 answer, as they come. Comments cite RFC 9112."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Self

from salver.client.http import MAX_BODY, Http, Unreachable, parse_head
from salver.words.errors import TooLarge

_MAX_EVENT: Final = 1 << 28


class EventStream:
    """Answer on a connection of its own, which ends with it.

    Attributes:
        status: HTTP status.
        headers: By lower-case name.
        body: Body of an answer whose status is not 200, and which has no events.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._buffer = bytearray()
        self._is_over = False
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""

    @classmethod
    async def open(cls, http: Http, request: bytes) -> Self:
        """Send a request and return its answer, of which the first event has come.

        Raises:
            Unreachable: there is no answer.
        """
        stream = cls(*await http.connect())
        try:
            with _translated():
                stream._writer.write(request)
                await stream._read_head()
                if stream.status == 200:
                    await stream._fill()
                else:
                    stream.close()
        except BaseException:
            stream.close()
            raise
        return stream

    def close(self) -> None:
        """Close the connection, which tells the server that nobody waits any more."""
        self._writer.close()

    async def next(self) -> bytes | None:
        """Return the data of the next event; None = there are no more.

        Raises:
            Unreachable: the connection broke before the end of the answer.
            TooLarge: the event is over this client's limit.
        """
        with _translated():
            await self._fill()
        event, end, rest = self._buffer.partition(b"\n\n")
        if not end:
            return None
        self._buffer = rest
        return bytes(event.removeprefix(b"data:")).strip()

    async def _fill(self) -> None:
        """Read until there is a whole event, or no more."""
        while b"\n\n" not in self._buffer and not self._is_over:
            chunk = await self._chunk()
            self._is_over = not chunk
            self._buffer += chunk
            if len(self._buffer) > _MAX_EVENT:
                raise TooLarge(f"an event is over this client's limit of {_MAX_EVENT} bytes")

    async def _read_head(self) -> None:
        self.status = 100  # interim answers; the final one follows
        while self.status == 100:
            head = await self._reader.readuntil(b"\r\n\r\n")
            self.status, self.headers = parse_head(head[:-4])
        if self.status != 200:
            self.body = await self._chunk()

    async def _chunk(self) -> bytes:
        """Return the next chunk (section 7.1), or the whole body; empty = there is no more."""
        if self.headers.get(b"transfer-encoding", b"").lower() != b"chunked":
            return await self._exactly(int(self.headers.pop(b"content-length", b"0")))
        size = int((await self._reader.readuntil(b"\r\n")).partition(b";")[0], 16)
        return (await self._exactly(size + 2))[:-2]  # with the line break after it

    async def _exactly(self, size: int) -> bytes:
        if not 0 <= size <= MAX_BODY:
            raise TooLarge(f"the answer has {size} bytes, over this client's limit of {MAX_BODY}")
        return await self._reader.readexactly(size)


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise Unreachable("the server closed the connection before its answer was whole") from error
    except (ValueError, asyncio.LimitOverrunError) as error:
        raise Unreachable("the answer is not HTTP/1.1") from error

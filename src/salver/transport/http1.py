"""Connections of HTTP/1.1 whose answers are exact to the letter.

For clients that look at what an ordinary front hides: names of headers as they were sent, the phrase of the
status line, and ``Connection`` (TS-R16, TS-A6). A body is whole, and within its limit, before the application
hears of it. Beyond ASGI: a scope has ``spelled``, the headers as they were sent; the start of an answer may
have ``reason``; a caller who hangs up cancels the application's task. And an application may have ``prompt``,
which answers requests without a task.
"""

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from io import BytesIO
from typing import Any, Final, cast

from salver.encoding.bodies import room
from salver.transport.budget import COUNTED, MOST_HEAD, Budget, Share
from salver.transport.doors import App
from salver.transport.http1_head import Head, Heads
from salver.transport.parting import Parting
from salver.words.errors import SalverError

#: Pieces of a body.
MOST_CHUNKS: Final = 65_536
_MOST_CHUNK_LINE: Final = 1024
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
#: The beginning of a connection of HTTP/2.
PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}
_PHRASES: Final = {status.value: status.phrase for status in HTTPStatus if status != 418} | {
    413: "Request Entity Too Large"
}
#: Of statuses without one of their own, by their first digits, as TorchServe's front has them.
_KINDS: Final = {1: "Informational", 2: "Success", 3: "Redirection", 4: "Client Error", 5: "Server Error"}
_BODILESS: Final = frozenset((204, 304))
#: Closing at once would take an answer away with it from a caller who still sends.
_LINGER_S: Final = 0.5


#: Begins to answer a request, or has answered it, without a task; False = the application is to do it.
Prompt = Callable[["Exchange"], bool]


class Terms:
    """What the connections of a listener have in common.

    Args:
        app: Answers.
        most: Bytes of a body.
        malformed: JSON that answers what is no request.
        connections: Most of them at one time; 0 = as many as one likes.
        relay: Takes connections of HTTP/2, with what has come of them; None = there are none.
        budget: Memory for the bodies of all requests; None = as much as is usual.
        parting: Says when callers are told to close.
    """

    def __init__(
        self,
        app: App,
        most: int,
        malformed: bytes = b"",
        connections: int = 0,
        relay: Callable[[asyncio.Transport, bytes], asyncio.Protocol] | None = None,
        budget: Budget | None = None,
        parting: Parting | None = None,
    ) -> None:
        self.budget = budget or Budget()
        self.app = app
        self.parting = parting or Parting()
        self.prompt: Prompt | None = getattr(app, "prompt", None)
        self.most = most
        self.malformed = malformed
        self.most_connections = connections
        self.relay = relay
        self.open: set[Connection] = set()
        self.heads = Heads()


class Connection(asyncio.Protocol):
    """One connection: one request at a time, in the order in which they come."""

    def __init__(self, terms: Terms, scheme: str) -> None:
        self._terms = terms
        self._scheme = scheme
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self.client: tuple[str, int] | None = None
        self._server: Any = None
        self._buffer = bytearray()
        self._head: Head | None = None  # of the request whose body is not whole yet
        self._whole = BytesIO()  # of a body that is large, or in chunks; gives its bytes uncopied
        self._size = self._count = 0  # of its chunks
        self._task: asyncio.Task[None] | None = None
        self._exchange: Exchange | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_full = False
        self._is_paused = False
        self._is_ending = False  # nothing more is read
        self._share: Share | None = None  # of the memory for bodies, where this one is large
        self.since = self._loop.time()  # when something came, or went

    def __repr__(self) -> str:
        return f"<Connection {'busy' if self._exchange else 'waiting'}>"

    @property
    def is_parting(self) -> bool:
        """Whether the caller is told to close."""
        return self._terms.parting.is_told

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self._exchange is not None

    @property
    def is_idle(self) -> bool:
        """Whether nothing of the next request has come."""
        return self._exchange is None and self._head is None and not self._buffer

    # -- what the event loop tells --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass
        terms = self._terms
        if terms.most_connections and len(terms.open) >= terms.most_connections:
            self._is_ending = True
            self._transport.abort()
            return
        terms.open.add(self)
        peer = transport.get_extra_info("peername")
        self.client = peer[:2] if isinstance(peer, tuple) else None
        mine = transport.get_extra_info("sockname")
        self._server = mine[:2] if isinstance(mine, tuple) else None

    def data_received(self, data: bytes) -> None:
        """Bytes have come."""
        if self._is_ending:
            return
        self.since = self._loop.time()
        if self._head is not None and not self._has_room(len(data)):
            return
        self._buffer += data
        if self._exchange is None:
            self._go_on()
        elif len(self._buffer) > MOST_HEAD and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        """The caller is gone, or we are done."""
        self._terms.open.discard(self)
        self._is_ending = True
        self._free()
        self.resume_writing()
        exchange = self._exchange
        if exchange is not None:
            exchange.is_gone = True
            if self._task is not None:
                self._task.cancel()
            else:
                exchange.on_gone()
                self.done(exchange)

    def pause_writing(self) -> None:
        """The caller does not read as fast as we write."""
        self._is_full = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_full = False
        while self._waiting:
            waiting = self._waiting.popleft()
            if not waiting.done():
                waiting.set_result(None)

    # -- what the listener asks --

    def end(self) -> None:
        """Close when what is in flight has its answer, also what has come in part."""
        self._terms.parting.is_told = True
        if self.is_idle:
            self._transport.close()
        self._is_ending = self.is_idle or self.is_busy  # the rest of a request is read

    def drop(self) -> None:
        """Close now."""
        self._transport.abort()

    # -- reading --

    def _go_on(self) -> None:
        """As far as the bytes go."""
        if self._head is None:
            self._read_head()
        if self._head is not None:
            body = self._read_body(self._head)
            if body is not None:
                self._begin(self._head, body)

    def _read_head(self) -> None:
        buffer = self._buffer
        while buffer.startswith(b"\r\n"):  # RFC 9112, section 2.2
            del buffer[:2]
        if buffer.startswith(b"PRI ") and self._terms.relay is not None:
            if len(buffer) >= len(PREFACE):
                self._hand_over()
            return
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end > MOST_HEAD:
            if len(buffer) > MOST_HEAD:
                self._refuse(431)
            elif b"\n\n" in buffer:  # lines that end otherwise, and would never end the head
                self._refuse(400, self._terms.malformed)
            return
        text = bytes(buffer) if end + 4 == len(buffer) else bytes(buffer[: end + 4])
        del buffer[: end + 4]
        head = self._terms.heads.parse(text[:end])
        if head is None:
            self._refuse(400, self._terms.malformed)
            return
        if head.length > self._terms.most:
            self._refuse(413)
            return
        self._head = head
        if head.length < 0 or head.length > COUNTED:
            self._share = Share(self._terms.budget)
            self._whole = room(head.length)
            if not self._has_room(len(buffer)):
                return
        if head.expects and head.length:
            self._transport.write(_CONTINUE)

    def _read_body(self, head: Head) -> bytes | None:
        """The whole body, or None as long as it is not there."""
        need, buffer = head.length, self._buffer
        if need < 0:
            return self._read_chunks()
        if need == 0:
            return b""
        if need > COUNTED:
            whole = self._whole
            with memoryview(buffer)[: need - whole.tell()] as piece:
                size = whole.write(piece)
            del buffer[:size]
            return self._given() if whole.tell() == need else None
        if len(buffer) < need:
            return None
        if len(buffer) == need:
            self._buffer = bytearray()
            return bytes(buffer)
        body = bytes(memoryview(buffer)[:need])
        del buffer[:need]
        return body

    def _read_chunks(self) -> bytes | None:
        buffer = self._buffer
        while line := _CHUNK.match(buffer):
            size, begin = int(line[1], 16), line.end()
            del line  # a match holds on to the buffer
            if size == 0:
                return self._read_trailers(begin)
            self._count += 1
            if self._size + size > self._terms.most or self._count > MOST_CHUNKS:
                self._refuse(413)
                return None
            if len(buffer) < begin + size + 2:
                self._count -= 1
                return None
            if buffer[begin + size : begin + size + 2] != b"\r\n":
                self._refuse(400, self._terms.malformed)
                return None
            self._size += size
            with memoryview(buffer)[begin : begin + size] as piece:
                self._whole.write(piece)
            del buffer[: begin + size + 2]
        if len(buffer) > _MOST_CHUNK_LINE or b"\r\n" in buffer:
            self._refuse(400, self._terms.malformed)
        return None

    def _read_trailers(self, begin: int) -> bytes | None:
        """They say nothing that anybody here wants to know."""
        buffer = self._buffer
        end = begin if buffer.startswith(b"\r\n", begin) else buffer.find(b"\r\n\r\n", begin) + 2
        if end < 2 or len(buffer) < end + 2:
            if len(buffer) > MOST_HEAD:
                self._refuse(431)
            return None
        del buffer[: end + 2]
        self._size = self._count = 0
        return self._given()

    def _given(self) -> bytes:
        """The body that has been gathered."""
        whole, self._whole = self._whole, BytesIO()
        return whole.getvalue()

    def _hand_over(self) -> None:
        """To who speaks HTTP/2."""
        assert self._terms.relay is not None
        self._terms.open.discard(self)
        self._is_ending = True
        self._transport.set_protocol(self._terms.relay(self._transport, bytes(self._buffer)))

    def _refuse(self, status: int, body: bytes = b"") -> None:
        """Answer what is no request, or too large a one, and read no more."""
        self._head = None
        self._is_ending = True
        self._buffer.clear()
        self._whole = BytesIO()
        self._free()
        kind = b"content-type: application/json\r\n" if body else b""
        if status == 503:
            kind += b"retry-after: 1\r\n"
        head = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\nconnection: close\r\n\r\n"
        self._transport.write(head % (status, _PHRASES[status].encode(), kind, len(body)) + body)
        self._loop.call_later(_LINGER_S, self._transport.close)

    def _has_room(self, size: int) -> bool:
        """Is there memory for so many bytes more of a body? If not, the request is refused."""
        if self._share is not None:
            try:
                self._share.take(size)
            except SalverError:
                self._refuse(503)
                return False
        return True

    def _free(self) -> None:
        """Hold no memory for a body."""
        if self._share is not None:
            self._share.free()
            self._share = None

    # -- running --

    def _begin(self, head: Head, body: bytes) -> None:
        self._head = None
        exchange = self._exchange = Exchange(self, head, body)
        prompt = self._terms.prompt
        if prompt is None or not prompt(exchange):
            scope = self._scope(head)
            self.run(exchange, lambda: self._terms.app(scope, exchange.receive, exchange.send))

    def _scope(self, head: Head) -> dict[str, Any]:
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.version,
            "method": head.method,
            "scheme": self._scheme,
            "path": head.path.decode("latin-1"),
            "raw_path": head.path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "spelled": head.spelled,
            "client": self.client,
            "server": self._server,
        }

    def run(self, exchange: "Exchange", work: Callable[[], Awaitable[None]]) -> None:
        """Have a task answer it, or go on with that."""
        self._task = self._loop.create_task(self._run(exchange, work))

    async def _run(self, exchange: "Exchange", work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            if not exchange.is_gone:
                raise
        finally:
            self._task = None
            self.done(exchange)

    def done(self, exchange: "Exchange") -> None:
        """It has its answer. The next request, if there may be one."""
        self._exchange = None
        self._free()
        exchange.on_end()
        exchange.on_end = exchange.on_gone = _nothing  # who knows it: a cycle a request
        if exchange.is_gone:
            return
        self.since = self._loop.time()
        if not exchange.is_whole:
            self._transport.abort()
        elif self._is_ending or not exchange.keeps:
            self._is_ending = True
            self._transport.close()
        else:
            if self._is_paused:
                self._is_paused = False
                self._transport.resume_reading()
            if self._buffer:
                self._loop.call_soon(self._next)

    def _next(self) -> None:
        if self._exchange is None and not self._is_ending:
            self._go_on()

    def write(self, data: bytes) -> None:
        """Send that."""
        self._transport.write(data)

    async def drained(self) -> None:
        """Returns when there is room for more, or nobody reads any more."""
        if self._is_full:
            waiting = self._loop.create_future()
            self._waiting.append(waiting)
            await waiting


def _nothing() -> None:
    pass


class Exchange:
    """One request and its answer, as the application sees them.

    Attributes:
        body: Whole; as an application it is received, once.
        status: Of the answer; 0 = there is none.
        keeps: The connection may serve more requests.
        is_gone: So is the caller.
        is_whole: The answer is.
        on_gone: Called when the caller goes, where no task is to be cancelled.
        on_end: Called when nothing of the answer follows.
    """

    __slots__ = (
        "_connection", "_is_chunked", "_is_head", "_start", "body", "head", "is_gone", "is_whole", "keeps",
        "on_end", "on_gone", "status",
    )  # fmt: skip

    def __init__(self, connection: Connection, head: Head, body: bytes) -> None:
        self._connection = connection
        self.head = head
        self.body: bytes | None = body
        self._is_head = head.method == "HEAD"
        self._start: dict[str, Any] | None = None
        self._is_chunked = False
        self.status = 0
        self.keeps = head.keeps
        self.is_gone = self.is_whole = False
        self.on_gone: Callable[[], None] = _nothing
        self.on_end: Callable[[], None] = _nothing

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the caller; None = it came by a UNIX socket."""
        return self._connection.client

    @property
    def may_keep(self) -> bool:
        """The connection may serve more requests, and the server does not part from its callers."""
        return self.keeps and not self._connection.is_parting

    def answer(self, status: int, data: bytes, *, keeps: bool) -> None:
        """The whole answer, head and body, of who does without a task."""
        self.status, self.keeps, self.is_whole = status, keeps, True
        self._connection.write(data)
        self._connection.done(self)

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have a task answer it, which is cancelled if the caller goes."""
        self._connection.run(self, work)

    async def receive(self) -> dict[str, Any]:
        """The body, and after that the caller's leaving."""
        body, self.body = self.body, None
        if body is not None:
            return {"type": "http.request", "body": body, "more_body": False}
        if not self.is_gone:
            await asyncio.get_running_loop().create_future()  # until the task is cancelled
        return {"type": "http.disconnect"}

    async def send(self, message: dict[str, Any]) -> None:
        """The start of the answer, or a piece of its body.

        Raises:
            OSError: the caller is gone.
        """
        if self.is_gone:
            raise ConnectionResetError("the caller went away")
        if message["type"] == "http.response.start":
            self._start, self.status = message, message["status"]
            return
        body: bytes = message.get("body", b"")
        more: bool = message.get("more_body", False)
        data = b""
        if self._start is not None:
            data = self._begun(self._start, None if more else len(body))
            self._start = None
        if not self._is_head:
            if self._is_chunked:
                data += b"%x\r\n%b\r\n" % (len(body), body) if body else b""
                data += b"" if more else _LAST_CHUNK
            else:
                data += body
        self.is_whole = self.is_whole or not more
        if data:
            self._connection.write(data)
        if more:
            await self._connection.drained()

    def _begun(self, start: dict[str, Any], size: int | None) -> bytes:
        """The head of the answer, and how its body goes on."""
        data, self.keeps, self._is_chunked = head_of(start, size, self.head.version, self.may_keep)
        if self._is_head or is_bodiless(start["status"]):
            self._is_head, self._is_chunked = True, False
        return data


def is_bodiless(status: int) -> bool:
    """Return whether answers of that status have no body, whatever their headers say."""
    return status in _BODILESS


def head_of(start: dict[str, Any], size: int | None, version: str, keeps: bool) -> tuple[bytes, bool, bool]:
    """Return the head of an answer, whether the connection stays open, and whether the body comes in chunks.

    Args:
        start: As of ASGI's ``http.response.start``.
        size: Of the body; None = it comes in pieces.
        version, keeps: Of the request.
    """
    status, phrase = start["status"], start.get("reason")
    if phrase is None:
        phrase = _PHRASES.get(status) or f"{_KINDS.get(status // 100, 'Unknown Status')} ({status})"
    lines = [b"HTTP/1.1 %d %b" % (status, phrase.encode("latin-1", "replace"))]
    has_length, closes, is_said, is_chunked = False, not keeps, False, False
    for name, value in start["headers"]:
        if name == b"connection":
            closes = closes or value == b"close"
            is_said = True
            continue
        has_length = has_length or name == b"content-length"
        lines.append(b"%b: %b" % (name, value))
    if not has_length and status not in _BODILESS:
        if size is not None:
            lines.append(b"content-length: %d" % size)
        elif version == "1.1":
            is_chunked = True
            lines.append(b"transfer-encoding: chunked")
        else:
            closes = True
    if is_said or closes or version == "1.0":
        lines.append(b"connection: close" if closes else b"connection: keep-alive")
    lines.append(b"\r\n")
    return b"\r\n".join(lines), not closes, is_chunked

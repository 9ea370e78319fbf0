"""Connections of HTTP/1.1 (RFC 9112), which may continue as HTTP/2.

The application is an ASGI one, with some extensions (TS-R16, TS-A6): a scope has ``spelled``, the headers as
they were sent; the start of an answer may have ``reason``; a disconnect cancels the application's task; and
an application may have ``find_prompt``, which answers requests without a task.
"""

import asyncio
import logging
import re
import select
from collections.abc import Awaitable, Callable
from functools import partial
from io import BytesIO
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, cast

from salver.encoding.bodies import room
from salver.transport.budget import COUNTED, MOST_HEAD, Share
from salver.transport.exchange import Exchange, nothing, with_length
from salver.transport.http1_head import PHRASES, PREFACE, Head, Headers, begun_of, head_of, is_bodiless
from salver.transport.terms import TURN, Pulse, Refusal, Terms, WrittenConnection, in_turns, scope_of
from salver.words.errors import SalverError
from salver.words.messages import Alike

if TYPE_CHECKING:
    from salver.transport.http1_chunks import ChunkReader

_LOG = logging.getLogger("salver.transport")
#: Most chunks of a body.
MOST_CHUNKS: Final = 65_536
#: Steps through chunks before others have their turns.
_MOST_STEPS: Final = 1024
#: Those that may stand before a request (RFC 9112, section 2.2).
_EMPTY_LINES: Final = re.compile(rb"(?:\r\n){0,64}")
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_LAST_CHUNK: Final = b"0\r\n\r\n"
_REPLY: Final = b"%bcontent-length: %d\r\nx-request-id: %b\r\n\r\n%b"
#: Bytes waiting for the application from which the connection stops reading.
_MOST_HELD: Final = 1 << 18
#: Bytes of a body that are read and dropped after an early answer, to keep the connection.
_MOST_DROPPED: Final = 16 << 20
#: Closing at once would reset the connection of a caller who is still sending, and lose the answer.
_LINGER_S: Final = 0.5


class Connection(WrittenConnection):
    """HTTP/1.1 connection, which answers one request at a time, in order."""

    def __init__(self, terms: Terms, scheme: str) -> None:
        super().__init__()
        self._terms = terms
        self._scheme = scheme
        self._loop = asyncio.get_running_loop()
        self.client: tuple[str, int] | None = None
        self._server: Any = None
        self._buffer = bytearray()
        self._head: Head | None = None  # head of a request whose body is incomplete
        self._whole = BytesIO()  # collects a large or chunked body; getvalue() does not copy
        self._chunks: ChunkReader | None = None
        self._incoming: Http1Exchange | None = None  # exchange whose body is passed on in pieces
        self._left = 0  # bytes left of that body, if its length is known
        self._task: asyncio.Task[None] | None = None
        self._exchange: Http1Exchange | None = None
        self._is_paused = False
        self._is_behind = False  # received chunks are still being processed
        self._is_ending = False  # stop reading
        self._has_unread = False  # at shutdown, a received request had not been read yet
        self._share: Share | None = None  # share of the memory for bodies, for a large body
        self.since = self._loop.time()  # time of the last byte in either direction

    def __repr__(self) -> str:
        return f"<Connection {'busy' if self._exchange else 'waiting'}>"

    @property
    def is_parting(self) -> bool:
        """Whether the caller is told to close."""
        return self._terms.parting.is_told

    @property
    def pulse(self) -> Pulse:
        """Pulse of the event loop."""
        return self._terms.pulse

    def may_drop(self, exchange: "Http1Exchange") -> bool:
        """Return whether the connection can be kept after an answer to an incomplete body."""
        return exchange is not self._incoming or (
            exchange.head.length >= 0 and self._left <= _MOST_DROPPED and not exchange.expects
        )

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered, or its caller still reads the answer."""
        return self._exchange is not None or self._is_full

    @property
    def is_idle(self) -> bool:
        """Whether no byte of the next request has been received."""
        return not (self._exchange or self._head or self._buffer or self._incoming or self._has_unread)

    @property
    def is_in_head(self) -> bool:
        """Whether a part of a head, or of a body that is dropped, has been received."""
        if self._exchange is not None:
            return False
        return self._incoming is not None or (self._head is None and bool(self._buffer))

    # -- called by the event loop --

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Set the connection up."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's class is not a subclass
        terms = self._terms = self._terms.of(transport)
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
        """Read received bytes."""
        if self._is_ending:
            return
        self.since = self._loop.time()
        self._has_unread = False
        if self._exchange is None and self._incoming is None and self._head is None and not self._buffer:
            end = data.find(b"\r\n\r\n")  # the common case: a complete request whose head is cached
            head = self._terms.heads.known.get(data[:end]) if end > 0 else None
            if head is not None and not (head.expects or self._is_full):
                size = len(data) - end - 4
                if head.length == size <= COUNTED:
                    if not (self._terms.pulse.refusing and self._turn_away(head)):
                        self._begin(head, data[end + 4 :])
                    return
                if COUNTED < head.length > size and not self._terms.most:
                    self._begin_early(head, data, end + 4)
                    return
        if self._incoming is not None:
            self._pass_on(self._incoming, data)
            return
        if self._head is not None and not self._has_room(len(data)):
            return
        self._buffer += data
        if self._exchange is None and not self._is_full:
            self._go_on()
        if self._head is None and len(self._buffer) > MOST_HEAD and not (self._is_paused or self._is_ending):
            self._is_paused = True
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """There is room for the answers of requests that have come meanwhile."""
        super().resume_writing()
        if self._buffer:
            self._loop.call_soon(self._next)

    def connection_lost(self, error: Exception | None) -> None:
        """Clean up after the connection has closed."""
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

    # -- called by the listener --

    def end(self) -> None:
        """Close after the requests in flight, including incomplete ones, are answered."""
        self._terms.parting.is_told = True
        if self.is_idle:
            self._has_unread = _has_unread(self._transport)
            if self._has_unread:
                return
            self._transport.close()
        # an incomplete request is still read
        self._is_ending = self._incoming is None and (self.is_idle or self._exchange is not None)

    def drop(self) -> None:
        """Close now."""
        self._transport.abort()

    def cut_stalled(self, now: float, patience: float) -> None:
        """See :class:`~salver.transport.terms.OpenConnection`; ``watch.py`` covers HTTP/1.1 already."""

    # -- reading --

    def _go_on(self) -> None:
        """Process the received bytes as far as possible."""
        if self._head is None:
            self._read_head()
        head = self._head
        if head is None:
            return
        if self._terms.most or 0 <= head.length <= len(self._buffer):
            body = self._read_body(head)
            if body is not None:
                self._begin(head, body)
        else:
            begun, self._buffer = bytes(self._buffer), bytearray()
            self._begin_early(head, begun, 0)

    def _read_head(self) -> None:
        buffer = self._buffer
        if buffer.startswith(b"\r\n"):
            begin = len(_EMPTY_LINES.match(buffer)[0])  # type: ignore[index]
            del buffer[:begin]
        if PREFACE.startswith(bytes(buffer[: len(PREFACE)])) and self._terms.speaks_http2:
            if len(buffer) >= len(PREFACE):
                self._hand_over()
            return
        end = buffer.find(b"\r\n\r\n")
        if end < 0 or end > MOST_HEAD:
            if len(buffer) > MOST_HEAD:
                self._refuse(431)
            elif b"\n\n" in buffer:  # bare line feeds, with which the head would never end
                self._refuse(400, self._terms.malformed)
            return
        text = bytes(buffer) if end + 4 == len(buffer) else bytes(buffer[: end + 4])
        del buffer[: end + 4]
        head = self._terms.heads.parse(text[:end])
        if head is None:
            self._refuse(400, self._terms.malformed)
            return
        self._head = head
        most = self._terms.most
        if not most:
            return
        if head.length > most:
            self._refuse(413)
            return
        if head.length < 0 or head.length > COUNTED:
            self._share = Share(self._terms.budget)
            self._whole = room(head.length)
            if not self._has_room(len(buffer)):
                return
        if head.expects and head.length:
            self._transport.write(_CONTINUE)

    def _read_body(self, head: Head) -> bytes | None:
        """Return the whole body; None while it is incomplete."""
        need, buffer = head.length, self._buffer
        if need < 0:
            return self._read_chunks()
        if need == 0:
            return b""
        if need > COUNTED and self._terms.most:
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
        chunks = self._chunks = self._chunks or _chunk_reader()
        for _ in range(_MOST_STEPS):
            piece = chunks.read(self._buffer)
            if chunks.fault:
                self._refuse(chunks.fault, self._terms.malformed if chunks.fault == 400 else b"")
                return None
            if chunks.size > self._terms.most or chunks.count > MOST_CHUNKS:
                self._refuse(413)
                return None
            if piece is None:
                return None
            if not piece:
                return self._given()
            self._whole.write(piece)
        self._fall_behind()
        return None

    # -- bodies that the application receives in pieces --

    def _begin_early(self, head: Head, data: bytes, at: int) -> None:
        """Call the application before the body is complete, unless the body can be received whole.

        Args:
            data: What has come, with the beginning of the body from ``at`` on; copied only if it is needed.
        """
        self._head = None
        exchange = self._exchange = self._incoming = Http1Exchange(self, head, None)
        exchange.expects = head.expects
        pulse = self._terms.pulse
        pulse.read_large(exchange, monotonic(), head.length)
        self._left = head.length
        if self._scheme == "http" and exchange.is_collected(self._terms.prompt(head), head.length, b""):
            assert exchange.large is not None
            exchange.large.add(memoryview(data)[at:])
            pulse.receive(exchange)
            from salver.transport.http1_body import BodyReader

            BodyReader(self, self._transport, exchange.large)
        elif exchange.is_whole and self._incoming is not None:  # refused by its head
            from salver.transport.http1_body import BodyDropper

            BodyDropper(self, self._transport, self._left - len(data) + at)
        else:
            self._enter(exchange)
            self._pass_on(exchange, data[at:])

    def collected(self) -> None:
        """Answer a request whose large body has been received whole."""
        exchange, self._incoming = self._exchange, None
        if exchange is not None:
            self._terms.pulse.received(exchange)
            prompt = self._terms.prompt(exchange.head)
            if prompt is None or not prompt(exchange):
                exchange.body = exchange.give_up()
                self._enter(exchange)

    def dropped(self) -> None:
        """Continue after the body of a request that was refused by its head."""
        exchange, self._left = self._incoming, 0
        if exchange is not None:
            self._put(exchange, b"", is_last=True)

    def came_slowly(self) -> None:
        """Pass the beginning of a body on, and then what follows, since not all has been received in time."""
        exchange = self._exchange
        if exchange is not None:
            begun = exchange.give_up()
            self._enter(exchange)
            self._pass_on(exchange, begun)

    def _pass_on(self, exchange: "Http1Exchange", data: bytes) -> None:
        """Pass received bytes of a body on."""
        if exchange.head.length >= 0:
            rest = len(data) - self._left
            if rest > 0:
                self._buffer += data[self._left :]
                data = data[: self._left]
            self._left -= len(data)
            self._put(exchange, data, is_last=not self._left)
            return
        self._buffer += data
        chunks = self._chunks = self._chunks or _chunk_reader()
        for _ in range(_MOST_STEPS):
            piece = chunks.read(self._buffer)
            if piece is None:
                if chunks.fault:
                    self._break_off(chunks.fault)
                return
            self._put(exchange, piece, is_last=not piece)
            if not piece:
                return
        self._fall_behind()

    def _fall_behind(self) -> None:
        """Let others have their turns before more of many small chunks is read."""
        if not self._is_behind:
            self._is_behind = self._is_paused = True
            self._transport.pause_reading()
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        self._is_behind = False
        if self._incoming is None:
            self._next()
            return
        self._pass_on(self._incoming, b"")
        if self._incoming is not None and self._incoming.held <= _MOST_HELD:
            self._resume()

    def _put(self, exchange: "Http1Exchange", piece: bytes, *, is_last: bool) -> None:
        if is_last:
            self._incoming = self._chunks = None
        if exchange is not self._exchange:  # it has its answer
            if is_last:
                exchange.keeps = not self.is_parting
                self.done(exchange)
            return
        exchange.put(piece, is_last=is_last)
        if not is_last and exchange.held > _MOST_HELD and not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def read_on(self) -> None:
        """Read more of the body, because the application has received everything."""
        if self._incoming is not None:
            self._resume()

    def _resume(self) -> None:
        if self._is_paused and not (self._is_behind or self._transport.is_closing()):
            self._is_paused = False
            self._transport.resume_reading()

    def go_ahead(self) -> None:
        """Send ``100 Continue`` to a caller who expects it."""
        self._transport.write(_CONTINUE)

    def _break_off(self, status: int) -> None:
        """Answer a malformed body, and discard the application's answer."""
        exchange, self._incoming = self._exchange, None
        if exchange is None or exchange.status:
            self._transport.abort()
            return
        self._refuse(status, self._terms.malformed if status == 400 else b"")
        exchange.is_gone = True
        if self._task is not None:
            self._task.cancel()

    def _given(self) -> bytes:
        """Return the collected body."""
        self._chunks = None
        whole, self._whole = self._whole, BytesIO()
        return whole.getvalue()

    def _hand_over(self) -> None:
        """Continue the connection as HTTP/2."""
        from salver.transport.http2 import Http2

        self._terms.open.discard(self)
        self._is_ending = True
        begun, self._buffer = bytes(self._buffer), bytearray()
        protocol = Http2(self._transport, self._terms, self._scheme)
        self._transport.set_protocol(cast(asyncio.BaseProtocol, protocol))
        protocol.data_received(begun)

    def _refuse(self, status: int, body: bytes = b"") -> None:
        """Answer a malformed or too large request, and stop reading."""
        self._head = None
        self._is_ending = True
        self._buffer.clear()
        self._whole = BytesIO()
        self._free()
        kind = b"content-type: application/json\r\n" if body else b""
        if status == 503:
            kind += b"retry-after: 1\r\n"
        head = b"HTTP/1.1 %d %b\r\n%bcontent-length: %d\r\nconnection: close\r\n\r\n"
        self._transport.write(head % (status, PHRASES[status].encode(), kind, len(body)) + body)
        self._loop.call_later(_LINGER_S, self._transport.close)

    def _has_room(self, size: int) -> bool:
        """Reserve memory for more bytes of a body; refuse the request and return False if there is none."""
        if self._share is not None:
            try:
                self._share.take(size)
            except SalverError:
                self._refuse(503)
                return False
        return True

    def _free(self) -> None:
        """Release the memory of a body."""
        if self._share is not None:
            self._share.free()
            self._share = None

    # -- running --

    def _begin(self, head: Head, body: bytes) -> None:
        self._head = None
        exchange = self._exchange = Http1Exchange(self, head, body)
        self._terms.pulse.read(exchange, monotonic())
        prompt = head.notes.get(self._terms) or self._terms.prompt(head)
        if prompt is None or not prompt(exchange):
            self._enter(exchange)

    def _turn_away(self, head: Head) -> bool:
        """Refuse a request as others of its kind were in this turn; return False if none was."""
        refusal: Refusal | None = head.notes.get(Refusal)
        if refusal is None or not refusal.is_open or self._terms.parting.is_told:
            return False
        self._transport.write(refusal.copy())
        return True

    def repeat(self, head: Head, begin: bytes, end: bytes, alike: Alike, *, is_own: bool) -> None:
        """See :meth:`~salver.transport.exchange.Exchange.repeat`."""
        kind = None if is_own else (self._terms, head.path)
        self._terms.pulse.refuse(kind, head, begin, end, alike)

    def _enter(self, exchange: "Http1Exchange") -> None:
        """Answer with a task of the application."""
        if exchange.large is not None:
            exchange.free()  # the application reserves memory itself
        scope = scope_of(exchange, self._scheme, self.client, self._server)
        self.run(exchange, lambda: self._terms.app(scope, exchange.receive, exchange.send))

    def run(self, exchange: "Http1Exchange", work: Callable[[], Awaitable[None]]) -> None:
        """Answer with a new task."""
        self._task = self._loop.create_task(self._run(exchange, work))

    async def _run(self, exchange: "Http1Exchange", work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            if not exchange.is_gone:
                raise
        except Exception:
            _LOG.exception("the application failed")
            if not exchange.status:
                self._refuse(500)
                exchange.is_gone = True
        finally:
            self._task = None
            self.done(exchange)

    def done(self, exchange: "Http1Exchange") -> None:
        """Finish an answered exchange, and continue with the next request."""
        self._exchange = None
        if self._share is not None:
            self._free()
        if exchange.large is not None:
            exchange.free()
        if exchange.on_end is not nothing:
            exchange.on_end()
        exchange.on_end = exchange.on_gone = nothing  # breaks the reference cycle of each request
        if exchange.is_gone:
            return
        self.since = self._loop.time()
        if self._incoming is not None:  # the rest of its body is dropped
            self._is_paused = False
            self._transport.resume_reading()
            if not (exchange.keeps and exchange.is_whole):
                self._incoming = None
                self._is_ending = True
                self._loop.call_later(_LINGER_S, self._transport.close)
        elif not exchange.is_whole:
            self._transport.abort()
        elif self._is_ending or not exchange.keeps:
            self._is_ending = True
            self._transport.close()
        else:
            if self._buffer:
                self._loop.call_soon(self._next)
            else:
                self._resume()

    def _next(self) -> None:
        if self._exchange is None and not (self._is_ending or self._is_full):
            self._go_on()
            if self._head is not None or len(self._buffer) <= MOST_HEAD:
                self._resume()

    def write(self, data: bytes) -> None:
        """Send bytes."""
        self._transport.write(data)


def _chunk_reader() -> "ChunkReader":
    from salver.transport.http1_chunks import ChunkReader

    return ChunkReader()


def _has_unread(transport: asyncio.Transport) -> bool:
    """Return whether the socket has unread bytes."""
    sock = transport.get_extra_info("socket")
    if sock is None or sock.fileno() < 0:
        return False
    waiting = select.poll()
    waiting.register(sock.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


class Http1Exchange(Exchange):
    """One request with its answer on an HTTP/1.1 connection.

    Attributes:
        expects: The caller waits for ``100 Continue`` before it sends the body.
        keeps: The connection may serve more requests.
    """

    __slots__ = ("_connection", "_is_chunked", "_is_head", "_start", "expects", "keeps")

    def __init__(self, connection: Connection, head: Head, body: bytes | None) -> None:
        super().__init__(head, body)
        self._connection = connection
        self._is_head = head.method == "HEAD"
        self._start: dict[str, Any] | None = None
        self._is_chunked = self.expects = False
        self.keeps = head.keeps

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the caller; None = it came by a UNIX socket."""
        return self._connection.client

    def is_in_rush(self) -> bool:
        """See :class:`Exchange`."""
        return self._connection.pulse.is_in_rush(self.arrival)

    @property
    def may_keep(self) -> bool:
        """Whether the connection may serve more requests, and the server is not shutting down."""
        connection = self._connection
        return self.keeps and not connection.is_parting and connection.may_drop(self)

    def wants_more(self) -> None:
        """See :class:`Exchange`."""
        if self.expects:
            self.expects = False
            self._connection.go_ahead()

    def received(self, size: int) -> None:
        """See :class:`Exchange`."""
        if self.held <= _MOST_HELD // 2:
            self._connection.read_on()

    def answer(self, status: int, data: bytes, *, keeps: bool) -> None:
        """Send a whole answer, head and body, without a task."""
        self.status, self.keeps, self.is_whole = status, keeps, True
        self._connection.write(data)
        self._connection.done(self)

    def reply(self, status: int, headers: Headers, body: bytes, request_id: str) -> None:
        """See :class:`Exchange`."""
        if self.may_keep and not self._is_head and self.head.version == "1.1" and len(body) <= TURN:
            begun = begun_of(status, headers)
            self.answer(status, _REPLY % (begun, len(body), request_id.encode(), body), keeps=True)
            return
        start = {"status": status, "headers": with_length(headers, body, request_id)}
        if len(body) > TURN:
            self.run(partial(self.send_whole, start, body))
            return
        data, keeps, _ = head_of(start, len(body), self.head.version, self.may_keep)
        self.answer(status, data if self._is_head else data + body, keeps=keeps)

    def repeat(
        self, status: int, headers: Headers, body: bytes, alike: Alike, *, is_own: bool = False
    ) -> None:
        """See :class:`Exchange`."""
        if self.may_keep and not self._is_head and self.head.version == "1.1":
            begin, end = (_REPLY % (begun_of(status, headers), len(body), b"\0", body)).split(b"\0", 1)
            self._connection.repeat(self.head, begin, end, alike, is_own=is_own)

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """See :class:`Exchange`."""
        self._connection.run(self, work)

    async def send(self, message: dict[str, Any]) -> None:
        """See :class:`Exchange`."""
        if self.is_gone:
            raise ConnectionResetError("the caller went away")
        if message["type"] == "http.response.start":
            self._start, self.status = message, message["status"]
            return
        body, more, data = message.get("body", b""), message.get("more_body", False), b""
        if self._start is not None:
            data = self._begun(self._start, None if more else len(body))
            self._start = None
        if not self._is_head:
            if self._is_chunked:
                data += b"%x\r\n%b\r\n" % (len(body), body) if body else b""
                data += b"" if more else _LAST_CHUNK
            elif len(body) > TURN:
                data = await in_turns(self._connection.write, self._connection.drained, data, body)
            else:
                data += body
        self.is_whole = self.is_whole or not more
        if data:
            self._connection.write(data)
        if more:
            await self._connection.drained()

    def _begun(self, start: dict[str, Any], size: int | None) -> bytes:
        """Return the head of the answer, and decide how its body is framed."""
        data, self.keeps, self._is_chunked = head_of(start, size, self.head.version, self.may_keep)
        if self._is_head or is_bodiless(start["status"]):
            self._is_head, self._is_chunked = True, False
        return data

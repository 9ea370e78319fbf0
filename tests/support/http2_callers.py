"""Callers of a connection of HTTP/2 without a socket: h2 at the other end, or frames that a test writes."""

from collections.abc import Callable, Iterator
from typing import Any

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, Event, StreamEnded
from waiting import auntil

from salver.transport import http2_frames
from salver.transport.http1_head import PREFACE
from salver.transport.http2 import Http2
from salver.transport.terms import Terms

GET = [(":method", "GET"), (":path", "/a?b=1"), (":scheme", "http"), (":authority", "x"), ("k", "v")]
POST = [(":method", "POST"), *GET[1:]]
START = PREFACE + http2_frames.settings([])
BLOCK = bytes.fromhex("828684")  # GET http /


class Wire:
    """A transport without a socket."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.is_closed = self.is_aborted = self.is_paused = False
        self.waiting = 0

    def write(self, data: bytes) -> None:
        self.sent += data

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1)

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_closed = self.is_aborted = True

    def get_write_buffer_size(self) -> int:
        return self.waiting


class Caller:
    """A connection, and h2 at its other end."""

    def __init__(self, app: Any, **config: Any) -> None:
        self.wire = Wire()
        self.terms = Terms(app)
        self.connection = Http2(self.wire, self.terms, "http")  # type: ignore[arg-type]
        self.h2 = H2Connection(H2Configuration(header_encoding=None, **config))
        self.h2.initiate_connection()
        self.events: list[Event] = []

    def talk(self, data: bytes = b"", cut: Callable[[bytes], Iterator[bytes]] | None = None) -> None:
        """Send what h2 has to say, and then that; hear what there is."""
        data = self.h2.data_to_send() + data
        for piece in cut(data) if cut is not None else [data]:
            self.connection.data_received(piece)
        self.hear()

    def hear(self) -> None:
        sent, self.wire.sent = bytes(self.wire.sent), bytearray()
        self.events += self.h2.receive_data(sent)

    def of(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def body(self, stream: int) -> bytes:
        return b"".join(event.data for event in self.of(DataReceived) if event.stream_id == stream)

    async def ended(self, stream: int) -> None:
        def has() -> bool:
            self.talk()
            return any(event.stream_id == stream for event in self.of(StreamEnded))

        await auntil(has)


class SlowWire(Wire):
    """A transport that is full after each write, until its caller has read."""

    connection: Any

    def write(self, data: bytes) -> None:
        super().write(data)
        self.connection.pause_writing()

    def read(self) -> bytes:
        sent, self.sent = bytes(self.sent), bytearray()
        self.connection.resume_writing()
        return sent


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Answer with what was asked, in as many pieces as it came."""
    await send(
        {"type": "http.response.start", "status": 201, "headers": [(b"connection", b"close"), (b"a", b"b")]}
    )
    query = scope["query_string"].decode()
    begin = f"{scope['method']} {scope['path']} {query} {scope['http_version']} ".encode()
    await send({"type": "http.response.body", "body": begin, "more_body": True})
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        await send({"type": "http.response.body", "body": message["body"], "more_body": more})

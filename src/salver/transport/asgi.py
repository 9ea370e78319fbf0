"""How does one ASGI call become one answer?

:class:`Front` is an ordinary ASGI application. It reads a body within its limit, stamps the
arrival, gives the request an id and its place in a trace, watches for a hang-up, and writes
whatever reply comes back. What an operation does stands in ``http.py`` and ``grpc.py``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from salver.errors import SalverError, TooLarge
from salver.messages import Call
from salver.transport.grpc import GrpcMethods
from salver.transport.hangup import HangUps
from salver.transport.http import HttpOperations
from salver.transport.routes import Route, match
from salver.wire import traceparent as w3c
from salver.wire.bodies import HttpBody, HttpReply
from salver.wire.compression import deflate, inflate
from salver.wire.faults import http_fault

_LOG = logging.getLogger("salver.front")
_KNOWN_PATHS = 4096
#: Metadata stays plain (TR-R28): tritonclient's asyncio variant asks for gzip and reads none.
_COMPRESSIBLE = frozenset(("infer", "predict_v1", "metrics", "openapi"))

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class HungUp(Exception):
    """The caller left before its request was read; there is nobody to answer."""


class Front:
    """The ASGI application.

    Args:
        http: What the HTTP operations do.
        grpc: What the gRPC methods do.
        clock: Monotonic seconds.
        new_id: Fresh hexadecimal ids of 16 digits (request and span ids).
        max_body: Most bytes of an HTTP body, inflated ones included.
    """

    def __init__(
        self,
        http: HttpOperations,
        grpc: GrpcMethods,
        *,
        clock: Callable[[], float],
        new_id: Callable[[], str],
        max_body: int,
    ) -> None:
        self._http = http
        self._grpc = grpc
        self._clock = clock
        self._new_id = new_id
        self._max_body = max_body
        self._hangups = HangUps()
        self._routes: dict[tuple[str, bytes], Route] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry point."""
        kind = scope["type"]
        if kind == "http":
            headers = dict(scope["headers"])
            try:
                if headers.get(b"content-type", b"").startswith(b"application/grpc"):
                    await self._grpc.handle(scope["path"], headers, receive, send, self._hangups)
                else:
                    await self._answer(scope, headers, receive, send)
            except HungUp:
                return
        elif kind == "lifespan":
            await _lifespan(receive, send)
        else:
            await receive()
            await send({"type": "websocket.close", "code": 1003})

    async def _answer(
        self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send
    ) -> None:
        arrival = self._clock()
        verb = scope["method"]
        raw_path = scope.get("raw_path") or scope["path"].encode()
        given = headers.get(b"x-request-id")
        request_id = (given and _text(given)) or self._new_id()
        call = Call("oip-http", arrival, None, request_id)
        trace = headers.get(b"traceparent")
        if trace is not None:
            parent = w3c.parse(_text(trace))
            if parent is not None:
                call.traceparent = w3c.format(w3c.child(parent, self._new_id()))
        accepted: bytes | None = None
        try:
            route = self._routes.get((verb, raw_path)) or self._match(verb, raw_path)
            if route.operation in _COMPRESSIBLE:
                accepted = headers.get(b"accept-encoding")
            body = await self._read(headers, receive)
            task = self._hangups.enter(receive)
            try:
                reply = await self._http.run(
                    route, HttpBody(route.model, route.version, body, headers), call
                )
            finally:
                self._hangups.leave(task)
        except SalverError as error:
            reply = http_fault(error)
        except asyncio.CancelledError:
            if self._is_shutting_down():
                raise
            return  # the caller hung up; nobody reads an answer
        await self._write(send, reply, accepted, call, verb)

    def _is_shutting_down(self) -> bool:
        """True if the task was cancelled by somebody other than our watcher."""
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 1

    def _match(self, verb: str, raw_path: bytes) -> Route:
        route = match(verb, raw_path)
        if len(self._routes) >= _KNOWN_PATHS:
            self._routes.clear()
        self._routes[verb, raw_path] = route
        return route

    async def _read(self, headers: Mapping[bytes, bytes], receive: Receive) -> bytes:
        """The whole body, inflated."""
        limit = self._max_body
        declared = headers.get(b"content-length", b"")
        if declared.isdigit() and int(declared) > limit:
            self._refuse_size(int(declared))
        message = await receive()
        if message["type"] != "http.request":
            raise HungUp
        body: bytes = message.get("body", b"")
        if message.get("more_body"):
            body = await self._read_on(body, receive)
        encoding = headers.get(b"content-encoding")
        if encoding is not None:
            body = inflate(body, _text(encoding), limit)
        return body

    async def _read_on(self, first: bytes, receive: Receive) -> bytes:
        chunks = [first]
        size = len(first)
        while True:
            message = await receive()
            if message["type"] != "http.request":
                raise HungUp
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > self._max_body:
                self._refuse_size(size)
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)

    def _refuse_size(self, size: int) -> None:
        raise TooLarge(
            f"request body of at least {size} bytes exceeds the maximum allowed size of "
            f"{self._max_body} bytes",
            fix="Send it in parts, or raise the limit with --max-body-mb.",
        )

    async def _write(
        self, send: Send, reply: HttpReply, accepted: bytes | None, call: Call, verb: str
    ) -> None:
        body = reply.body
        headers = list(reply.headers)
        if accepted is not None and reply.status == 200:
            encoding, body = deflate(body, _text(accepted))
            if encoding:
                headers.append((b"content-encoding", encoding.encode()))
        headers.append((b"content-length", b"%d" % len(body)))
        headers.append((b"x-request-id", call.request_id.encode()))
        if call.traceparent:
            headers.append((b"traceparent", call.traceparent.encode()))
        await send({"type": "http.response.start", "status": reply.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if verb == "HEAD" else body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


def _text(value: bytes) -> str:
    """A header's value; empty if it is long or not printable ASCII, so that no log line can be forged."""
    text = value.decode("latin-1")
    return text if len(text) <= 256 and text.isascii() and text.isprintable() else ""

"""How does one ASGI call become one answer?

:class:`Front` is an ordinary ASGI application. It reads a body within its limit, stamps the
arrival, gives the request an id and its place in a trace, watches for a hang-up, and writes
whatever reply comes back. What an operation does stands in ``http.py`` and ``grpc.py``.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from salver.dialects.oip.http_operations import HttpOperations
from salver.dialects.openai.operations import GENERATING
from salver.dialects.tensorflow import paths as tfs_paths
from salver.encoding.bodies import HttpBody, HttpReply
from salver.kernel.serving.standing import CLASS_HEADER, PRIORITY_HEADER, from_headers
from salver.transport.access_check import LOCAL, Access
from salver.transport.budget import COUNTED, Budget, Share
from salver.transport.calls import Reception, is_shutting_down, join_trace, printable, take_traits
from salver.transport.compression import deflate
from salver.transport.event_stream import EventStream
from salver.transport.faults import http_fault, openai_fault, tfs_fault
from salver.transport.grpc import GrpcMethods
from salver.transport.hangup import HangUps
from salver.transport.orca import ASKED as ORCA
from salver.transport.parting import CLOSE
from salver.transport.reading import LARGE, read_whole
from salver.transport.routes import READING, Route, match
from salver.words.errors import Internal, InvalidInput, SalverError, TooLarge
from salver.words.messages import Call

_LOG = logging.getLogger("salver.front")
_KNOWN_PATHS = 4096
#: Headers of requests that need a closer look.
_UNUSUAL = frozenset((b"content-encoding", b"expect", CLASS_HEADER, PRIORITY_HEADER))
#: Metadata stays plain (TR-R28): tritonclient's asyncio variant asks for gzip and reads none.
_STREAMS = GENERATING | {"generate_stream"}
#: Of whose bodies a large one makes sense.
_MAY_BE_LARGE = _STREAMS | tfs_paths.INFERRING | {"infer", "explain_v2", "generate", "embeddings", "load"}
_COMPRESSIBLE = frozenset(("infer", "metrics", "openapi")) | tfs_paths.INFERRING
#: What TensorFlow Serving sends with every answer when pages of any origin may ask (TF-R24).
_ANY_ORIGIN = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
)

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Front:
    """The ASGI application.

    Args:
        http: What the HTTP operations do.
        grpc: What the gRPC methods do.
        reception: Clock, ids, and the header that names the tenant.
        max_body: Most bytes of an HTTP body, inflated ones included.
        hears_http1: The server tells when an HTTP/1.1 caller hangs up (h2corn 2.0 does not: connections are
            looked at).
        access: Who may change something through the port that it answers.
    """

    def __init__(
        self,
        http: HttpOperations,
        grpc: GrpcMethods,
        reception: Reception,
        *,
        max_body: int,
        hears_http1: bool = True,
        access: Access = LOCAL,
    ) -> None:
        self._http = http
        self._grpc = grpc
        self._clock = reception.clock
        self._new_id = reception.new_id
        self._max_body = max_body
        self._budget = reception.budget or Budget()
        self._uncounted = min(COUNTED, max_body)
        self._hears_http1 = hears_http1
        self._access = access
        self._checks_hosts = access.checks_hosts
        self._tenant_header = reception.tenant_header
        self._unusual = reception.unusual(_UNUSUAL)
        self._guard = reception.http.guard
        self._forwarding = reception.http.forwarding
        self._tfs = reception.tfs
        self._tritons_words = reception.tritons_words
        self._curious = reception.curious
        self._parting = reception.parting
        self._hangups = reception.hangups or HangUps()
        self._routes: dict[tuple[str, bytes], Route] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI entry point; hands on the coroutine that does the work, to save one of its own."""
        kind = scope["type"]
        if kind == "http":
            headers = dict(scope["headers"])
            if headers.get(b"content-type", b"").startswith(b"application/grpc"):
                return self._grpc.handle(scope, headers, receive, send, self._hangups, self._access)
            return self._answer(scope, headers, receive, send)
        return _lifespan(receive, send) if kind == "lifespan" else _refuse(receive, send)

    async def _answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        arrival = self._clock()
        verb = scope["method"]
        raw_path = scope.get("raw_path") or scope["path"].encode()
        given = headers.get(b"x-request-id")
        call = Call("oip-http", arrival, None, (given and printable(given)) or self._new_id())
        operation = ""
        share: Share | None = None
        try:
            if self._checks_hosts and headers.get(b"host") not in self._access.known_hosts:
                self._access.check_host(headers)
            if b"traceparent" in headers:
                join_trace(call, headers[b"traceparent"], self._new_id)
            route = self._routes.get((verb, raw_path)) or self._match(verb, raw_path)
            operation = route.operation
            if self._tfs.timeout_s and operation in tfs_paths.INFERRING:
                call.deadline = arrival + self._tfs.timeout_s  # TF-R25
            if self._guard is not None:
                self._guard.check(operation, headers)
            if operation not in READING:
                await self._access.permit(headers, operation)
            if self._forwarding is not None:
                call.forwarded = self._forwarding.parameters(headers)
            if wanted := self._curious.headers:
                take_traits(call, headers, wanted)
            message = await receive()
            body = message.get("body", b"")
            is_unusual = not self._unusual.isdisjoint(headers)
            if is_unusual or message.get("more_body") or len(body) > self._uncounted:
                if is_unusual and verb == "POST":
                    call.standing = from_headers(headers, self._tenant_header)
                    if operation.startswith("generate"):
                        _refuse_compressed(headers)
                inflated = tfs_paths.MOST_INFLATED if operation in tfs_paths.INFERRING else 0
                share = Share(self._budget)
                body = await read_whole(message, headers, receive, self._max_body, inflated, share)
                call.is_large = _is_large(body, operation)
            if message["type"] != "http.request" or body is None:
                return  # the caller left before the request was there
            http = HttpBody(route.model, route.version, body, headers)
            work: Awaitable[HttpReply | None]
            if operation in _STREAMS:
                events = EventStream(send, call, partial(self._load_report, route, headers))
                work = self._http.stream(route, http, call, events.write)
            else:
                work = self._http.run(route, http, call)
            hears = self._hears_http1 or scope["http_version"] != "1.1"
            task = self._hangups.enter(receive if hears else scope)
            try:
                reply = await work
            finally:
                self._hangups.leave(task)
            if reply is not None and operation == "generate" and ORCA in headers:
                reply.headers += self._load_report(route, headers)
        except SalverError as error:
            error.in_tritons_words = self._tritons_words
            reply = _fault_of(raw_path)(error)
        except asyncio.CancelledError:
            if is_shutting_down():
                raise
            return  # the caller hung up; nobody reads an answer
        except Exception as error:
            reply = _fault_of(raw_path)(self._incident(raw_path, error))
        finally:
            if share is not None:
                share.free()
        if reply is None:
            await events.end()
            return
        if self._tfs.allows_cors and tfs_paths.is_below_v1(raw_path):
            reply.headers += _ANY_ORIGIN
        if self._parting.is_told and scope["http_version"][0] == "1":
            reply.headers += (CLOSE,)  # the request may be older than the wish to part
        if len(reply.body) < LARGE or b"accept-encoding" not in headers:
            start, body = _form(reply, headers, call, operation)
        else:  # others would wait while it is compressed
            start, body = await asyncio.to_thread(_form, reply, headers, call, operation)
        await send(start)
        await send({"type": "http.response.body", "body": b"" if verb == "HEAD" else body})

    def _load_report(self, route: Route, headers: Mapping[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
        form = headers.get(ORCA)
        return self._http.load_report(route, form.strip()) if form else ()

    def _incident(self, raw_path: bytes, error: Exception) -> Internal:
        incident = self._new_id()
        _LOG.exception("incident %s: %r", incident, raw_path, exc_info=error)
        return Internal.incident(incident)

    def _match(self, verb: str, raw_path: bytes) -> Route:
        route = match(verb, raw_path)
        if len(self._routes) >= _KNOWN_PATHS:
            self._routes.clear()
        self._routes[verb, raw_path] = route
        return route


def _form(
    reply: HttpReply, asked: Mapping[bytes, bytes], call: Call, operation: str
) -> tuple[dict[str, Any], bytes]:
    """The first message of the answer, and its body."""
    body = reply.body
    headers = list(reply.headers)
    accepted = asked.get(b"accept-encoding")
    if accepted is not None and reply.status == 200 and operation in _COMPRESSIBLE:
        encoding, body = deflate(body, printable(accepted))
        if encoding:
            headers.append((b"content-encoding", encoding.encode()))
    headers.append((b"content-length", b"%d" % len(body)))
    headers.append((b"x-request-id", call.request_id.encode()))
    if call.traceparent:
        headers.append((b"traceparent", call.traceparent.encode()))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}, body


def _is_large(body: bytes | None, operation: str) -> bool:
    """True if decoding the body may keep others waiting; raises TooLarge where none is as large as that."""
    if body is None or len(body) <= COUNTED:
        return False
    if operation not in _MAY_BE_LARGE:
        raise TooLarge(f"the body has {len(body)} bytes; at most {COUNTED} make sense here")
    return True


def _fault_of(raw_path: bytes) -> Callable[[SalverError], HttpReply]:
    """How errors look on that path (X-24)."""
    if raw_path.startswith(tfs_paths.OF_OPENAI):
        return openai_fault
    is_load = raw_path.endswith((b"/load", b"/unload"))
    return tfs_fault if tfs_paths.is_below_v1(raw_path) and not is_load else http_fault


def _refuse_compressed(headers: Mapping[bytes, bytes]) -> None:
    """Generate takes bodies as they are (TR-R28)."""
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise InvalidInput("Unsupported content-encoding, only 'identity' is supported.")


async def _refuse(receive: Receive, send: Send) -> None:
    """Websockets have no use here."""
    await receive()
    await send({"type": "websocket.close", "code": 1003})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})

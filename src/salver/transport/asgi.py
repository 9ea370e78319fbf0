"""ASGI application that answers HTTP requests and passes gRPC calls on.

:class:`Front` reads a body within its limit, stamps the arrival, assigns an id and a trace span, and writes
the reply of the operation that ``routes.py`` finds. Most requests are answered without a task. gRPC calls go
to ``grpc.py``. A disconnect cancels the task.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from salver.encoding.bodies import HttpBody, HttpReply
from salver.kernel.serving.leases import until_resident
from salver.kernel.serving.standing import CLASS_HEADER, PRIORITY_HEADER, from_headers
from salver.lazy import lazy_imports
from salver.transport.access_check import LOCAL, Access, RawHeaders
from salver.transport.budget import COUNTED, MOST_RESERVED, Budget, Share
from salver.transport.calls import RefusedCopies, RequestContext, join_trace, printable, take_traits
from salver.transport.exchange import Exchange, Prompt, never, with_length
from salver.transport.http1_head import Head
from salver.transport.parting import CLOSE
from salver.transport.reading import LARGE, read_whole
from salver.transport.routes import NO_ENDPOINT, Endpoint, Headers, HttpRouter, PostMethod, Route
from salver.words.errors import (
    Internal,
    InvalidInput,
    NotResident,
    OutOfScope,
    RateLimited,
    SalverError,
    TooLarge,
    Unidentified,
)
from salver.words.messages import Call, Grant

with lazy_imports():
    from salver.transport import limit_fields, orca
    from salver.transport.compression import deflate
    from salver.transport.event_stream import EventStream
    from salver.transport.grpc import GrpcFront


_LOG = logging.getLogger("salver.front")
_KNOWN_PATHS = 4096
#: Most digits of the length of a body that is read though its sender is refused.
_FEW_DIGITS = 5
#: Requests with these headers are answered by a task.
_PLAIN_ONLY = frozenset((b"endpoint-load-metrics-format", b"prefer", b"upgrade"))
#: Requests with these headers leave the fast path.
_UNUSUAL = frozenset((b"content-encoding", b"expect", CLASS_HEADER, PRIORITY_HEADER))
#: Headers whose values come back in the answer, so that it is no other request's answer, too.
_GIVEN = frozenset((b"x-request-id", b"traceparent"))

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Front:
    """The ASGI application.

    Args:
        router: HTTP operations of all dialects.
        grpc: gRPC methods.
        context: Clock, ids, and the header that names the tenant.
        max_body: Most bytes of an HTTP body, compressed or inflated.
        access: Access checks of the port.
    """

    def __init__(
        self,
        router: HttpRouter,
        grpc: GrpcFront,
        context: RequestContext,
        *,
        max_body: int,
        access: Access = LOCAL,
    ) -> None:
        self._router = router
        self._grpc = grpc
        self._clock = context.clock
        self._new_id = context.new_id
        self._max_body = max_body
        self._budget = context.budget or Budget()
        self._uncounted = min(COUNTED, max_body)
        self._access = access
        self._checks_hosts = access.checks_hosts
        self._tenant_header = context.tenant_header
        self._unusual = context.unusual(_UNUSUAL)
        self._guard = context.http.guard
        self._forwarding = context.http.forwarding
        self._tritons_words = context.tritons_words
        self._interest = context.interest
        self._parting = context.parting
        self._known: dict[tuple[str, bytes], tuple[Route, Endpoint]] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve an ASGI scope; returns the worker's coroutine, which saves one more for each request."""
        kind = scope["type"]
        if kind == "http":
            headers = dict(scope["headers"])
            if headers.get(b"content-type", b"").startswith(b"application/grpc"):
                return self._grpc.handle(scope, headers, receive, send, self._access)
            return self._answer(scope, headers, receive, send)
        return _lifespan(receive, send) if kind == "lifespan" else _refuse(receive, send)

    async def _answer(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, send: Send) -> None:
        arrival, lag = self._clock(), scope.get("lag", 0.0)
        verb = scope["method"]
        raw_path = scope.get("raw_path") or scope["path"].encode()
        given = headers.get(b"x-request-id")
        call = Call("oip-http", arrival, None, (given and printable(given)) or self._new_id(), lag=lag)
        endpoint = NO_ENDPOINT
        share: Share | None = None
        reply: HttpReply | None = None
        try:
            # Before anything else: a foreign host name means that a browser was tricked (DNS rebinding).
            if self._checks_hosts and headers.get(b"host") not in self._access.known_hosts:
                self._access.check_host(headers)
            if b"traceparent" in headers:
                join_trace(call, headers[b"traceparent"], self._new_id)
            route, endpoint = self._known.get((verb, raw_path)) or self._find(verb, raw_path)
            if endpoint.timeout_s:
                call.deadline = arrival + endpoint.timeout_s
            call.grant = self._check(route, endpoint, scope["headers"], headers)
            if endpoint.changes:
                await self._access.permit(headers, route.operation)
            if self._forwarding is not None:
                call.forwarded = self._forwarding.parameters(headers)
            if wanted := self._interest.headers:
                take_traits(call, headers, wanted)
            # Before the body is read: what can only be late is not worth its memory.
            if endpoint.foresee is not None:
                endpoint.foresee(route, call)
            message = await receive()
            body = message.get("body", b"")
            is_unusual = not self._unusual.isdisjoint(headers)
            if is_unusual or message.get("more_body") or len(body) > self._uncounted:
                if is_unusual and verb == "POST":
                    call.standing = from_headers(headers, self._tenant_header)
                    if endpoint.refuses_compressed:
                        _refuse_compressed(headers)
                share = Share(self._budget)
                body = await read_whole(
                    message, headers, receive, self._max_body, endpoint.most_inflated, share
                )
                call.is_large = _is_large(body, endpoint)
            if message["type"] != "http.request" or body is None:
                return  # the caller left before the request was complete
            http = HttpBody(route.model, route.version, body, headers, None, scope.get("query_string", b""))
            if endpoint.run is not None:
                try:
                    reply = await endpoint.run(route, http, call)
                except NotResident as absent:  # metadata; inference waits by itself
                    await until_resident(absent, call.deadline, self._clock)
                    reply = await endpoint.run(route, http, call)
            else:
                assert endpoint.stream is not None
                events = EventStream(send, call, partial(_reports, endpoint, route, headers, call))
                reply = await endpoint.stream(route, http, call, events.write)
            if reply is not None and (endpoint.run is not None or reply.status == 200):
                reply.headers += _reports(endpoint, route, headers, call, reply.status)
        except SalverError as error:
            reply = self._fault(raw_path, error, scope["http_version"], headers)
        except asyncio.CancelledError:
            return  # the caller hung up; there is no one to answer
        except Exception as error:
            reply = self._router.fault_at(raw_path)(self._incident(raw_path, error))
        finally:
            if share is not None:
                share.free()
        if reply is None:
            await events.end()
            return
        # Errors have them, too: without CORS headers a browser hides an answer from its page.
        if self._router.headers is not None:
            reply.headers += self._router.headers(raw_path)
        if self._parting.is_told and scope["http_version"][0] == "1":
            reply.headers += (CLOSE,)  # the server began to shut down while this request was running
        if len(reply.body) < LARGE or b"accept-encoding" not in headers:
            start, body = _form(reply, headers, call, endpoint)
        else:  # compressing a large body here would block the event loop
            start, body = await asyncio.to_thread(_form, reply, headers, call, endpoint)
        await send(start)
        await send({"type": "http.response.body", "body": b"" if verb == "HEAD" else body})

    def _check(
        self,
        route: Route,
        endpoint: Endpoint,
        raw: RawHeaders,
        headers: Mapping[bytes, bytes],
        *,
        is_trial: bool = False,
    ) -> Grant | None:
        """Check the key and the secret of a request; return the check of a model that the body names.

        Args:
            is_trial: The caller is not told yet.
        """
        keys, grant = self._access.keys, None
        if keys is not None:
            is_later = endpoint.filters or (endpoint.right == "infer" and not route.model)
            grant = keys.admit(raw, endpoint.right, route.model, is_later=is_later, is_trial=is_trial)
        if self._guard is not None:
            self._guard.check(endpoint.group, headers, route.operation)
        return grant

    def find_prompt(self, head: Head) -> Prompt | None:
        """See :data:`~salver.transport.exchange.PromptFinder`."""
        headers = dict(head.headers)
        if headers.get(b"content-type", b"").startswith(b"application/grpc"):
            return self._grpc.find_prompt(head, headers, self._access) if head.version == "2" else never
        try:
            route, endpoint = self._known.get((head.method, head.path)) or self._find(head.method, head.path)
            if endpoint.post is None or endpoint.timeout_s or endpoint.changes:
                return never
            if not _PLAIN_ONLY.isdisjoint(headers) or not self._unusual.isdisjoint(headers):
                return never
            if self._router.headers is not None or self._forwarding is not None:
                return never
            self._access.check_host(headers)
            grant = self._check(route, endpoint, head.headers, headers, is_trial=True)
        except (Unidentified, OutOfScope, RateLimited):
            return never if b"traceparent" in headers else partial(self._refuse, route, endpoint, headers)
        except SalverError:
            return never  # the task repeats the check and writes the error
        accepted = headers.get(b"accept-encoding", b"") if endpoint.is_compressible else b""
        given = printable(headers.get(b"x-request-id", b"")), headers.get(b"traceparent", b"")
        collects = partial(self._collects, endpoint, route, headers, grant)
        prompt = partial(self._ask, endpoint.post, collects, route, headers, accepted, *given, grant)
        keys = self._access.keys
        return prompt if keys is None else keys.lasting(prompt, head.headers)

    def _refuse(
        self, route: Route, endpoint: Endpoint, headers: Mapping[bytes, bytes], exchange: Exchange
    ) -> bool:
        """Refuse a request without a valid key, without a task: refusals must cost less than answers."""
        head = exchange.head
        if exchange.body is None:
            return False
        try:
            self._check(route, endpoint, head.headers, headers)
        except (Unidentified, OutOfScope, RateLimited) as error:
            self._reply_refusal(error, headers, printable(headers.get(b"x-request-id", b"")), exchange)
            return True
        except SalverError:
            return False
        head.notes.clear()  # the key has become valid
        return False

    def _reply_refusal(
        self, error: SalverError, headers: Mapping[bytes, bytes], given: str, exchange: Exchange
    ) -> None:
        """Answer with a refusal, and in a rush further requests with this head with copies of it."""
        head, reply = exchange.head, error.reply
        if reply is None:
            reply = error.reply = self._fault(head.path, error, head.version, headers)
        if error.repeated is not None and not given and exchange.is_in_rush():
            alike = RefusedCopies(self._new_id, error.repeated)
            exchange.repeat(reply.status, reply.headers, reply.body, alike, is_own=True)
        exchange.reply(reply.status, reply.headers, reply.body, given or self._new_id())

    def _ask(
        self,
        post: PostMethod,
        collects: Callable[[Exchange], bool],
        route: Route,
        headers: Mapping[bytes, bytes],
        accepted: bytes,
        given: str,
        trace: bytes,
        grant: Grant | None,
        exchange: Exchange,
    ) -> bool:
        """Answer a request without a task.

        Args:
            collects: Reserves memory for a large body that is received whole; returns whether it is.
            accepted: The request's ``accept-encoding``, where the reply may be compressed; else empty.
            given: The caller's own id of the request; empty = none.
            trace: The request's ``traceparent``; empty = none.
            grant: Counts the request; None = its caller has no limits.
        """
        body, large = exchange.body, None
        # In a flood, before the body is looked at (benchmarks/refusals.py).
        if grant is not None and grant.was_refused and not trace:
            refused = None if body is None else grant.still_refused()
            if refused is not None:
                self._reply_refusal(refused, headers, given, exchange)
                return True
        if body is None or len(body) > self._uncounted:
            if exchange.large is None and not collects(exchange):
                return False
            if exchange.large is None or not exchange.large.is_whole:
                return True
            body, large = b"", exchange.large.view
        call = Call(
            "oip-http", exchange.arrival, None, given or self._new_id(), lag=exchange.lag, grant=grant
        )
        if trace:
            join_trace(call, trace, self._new_id)
        if wanted := self._interest.headers:
            take_traits(call, headers, wanted)
        http = HttpBody(route.model, route.version, body, headers)
        if large is not None:
            call.is_large, http.large = True, large
        give_up = post(route, http, call, partial(_tell, exchange, accepted, call))
        if give_up is None:
            if grant is not None and grant.is_stale:
                exchange.head.notes.clear()  # the task asks for the key again
            return False
        if not exchange.is_whole:
            exchange.on_gone = give_up
        return True

    def _collects(
        self,
        endpoint: Endpoint,
        route: Route,
        headers: Mapping[bytes, bytes],
        grant: Grant | None,
        exchange: Exchange,
    ) -> bool:
        """Reserve memory for a large body that is received whole; return whether it is.

        A request that can only be late is answered.
        """
        size = exchange.expected if exchange.body is None else len(exchange.body)
        if endpoint.lead is None or not COUNTED < size <= min(MOST_RESERVED, self._max_body):
            return False
        if grant is not None and grant.refusal(route.model, is_trial=True) is not None:
            return False  # the task refuses it without its body, and closes the connection
        lead = endpoint.lead(route, headers)
        if lead is None:
            return False
        if endpoint.foresee is not None and exchange.body is None and _GIVEN.isdisjoint(headers):
            lag = exchange.lag + exchange.wait
            call = Call("oip-http", exchange.arrival, None, self._new_id(), lag=lag, grant=grant)
            try:
                endpoint.foresee(route, call)
            except SalverError as error:
                error.in_tritons_words = self._tritons_words
                reply = self._router.fault_at(exchange.head.path)(error)
                exchange.reply(reply.status, reply.headers, reply.body, call.request_id)
                return False
        return exchange.reserve(self._budget, size, lead)

    def _fault(
        self, raw_path: bytes, error: SalverError, version: str, headers: Mapping[bytes, bytes]
    ) -> HttpReply:
        """Return the reply for an error."""
        error.in_tritons_words = self._tritons_words
        reply = self._router.fault_at(raw_path)(error)
        if isinstance(error, Unidentified | OutOfScope | RateLimited) and version[0] == "1":
            size = headers.get(b"content-length", b"0")
            if b"transfer-encoding" in headers or len(size) > _FEW_DIGITS:
                reply.headers += (CLOSE,)  # rather than reading a body that nobody may send
        return reply

    def _incident(self, raw_path: bytes, error: Exception) -> Internal:
        incident = self._new_id()
        _LOG.exception("incident %s: %r", incident, raw_path, exc_info=error)
        return Internal.incident(incident)

    def _find(self, verb: str, raw_path: bytes) -> tuple[Route, Endpoint]:
        found = self._router.find(verb, raw_path)
        # Callers choose the paths, so the table has a limit; most servers never reach it.
        if len(self._known) >= _KNOWN_PATHS:
            self._known.clear()
        self._known[verb, raw_path] = found
        return found


def _reports(
    endpoint: Endpoint, route: Route, headers: Mapping[bytes, bytes], call: Call, status: int = 200
) -> Headers:
    """Return the headers that a request asks for: the model's load, and what is left of its limits."""
    found: Headers = ()
    if endpoint.load_report is not None and (form := headers.get(orca.ASKED)):
        found = endpoint.load_report(route, form.strip())
    if call.charge is not None and b"prefer" in headers and status == 200:
        found += limit_fields.limit_fields(headers, call.charge.states(), time.time())
    return found


def _form(
    reply: HttpReply, asked: Mapping[bytes, bytes], call: Call, endpoint: Endpoint
) -> tuple[dict[str, Any], bytes]:
    """Return the first message of the answer, and its body."""
    body = reply.body
    headers = list(reply.headers)
    accepted = asked.get(b"accept-encoding")
    if accepted is not None and reply.status == 200 and endpoint.is_compressible:
        encoding, body = deflate(body, printable(accepted))
        headers += _encoded(encoding)
    headers.append((b"content-length", b"%d" % len(body)))
    headers.append((b"x-request-id", call.request_id.encode()))
    if call.traceparent:
        headers.append((b"traceparent", call.traceparent.encode()))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}, body


def _is_large(body: bytes | None, endpoint: Endpoint) -> bool:
    """Return whether decoding the body may block the event loop. Raises TooLarge for an unlikely size."""
    if body is None or len(body) <= COUNTED:
        return False
    if not endpoint.is_large:
        raise TooLarge(f"the body has {len(body)} bytes; at most {COUNTED} make sense here")
    return True


def _refuse_compressed(headers: Mapping[bytes, bytes]) -> None:
    """Refuse a compressed body (TR-R28)."""
    if headers.get(b"content-encoding", b"identity").strip().lower() != b"identity":
        raise InvalidInput("Unsupported content-encoding, only 'identity' is supported.")


def _tell(exchange: Exchange, accepted: bytes, call: Call, reply: HttpReply | None, pieces: object) -> None:
    """Write the reply of a request that was answered without a task."""
    assert reply is not None  # streaming models are never asked this way
    headers, body = reply.headers, reply.body
    if call.alike is not None and _GIVEN.isdisjoint(dict(exchange.head.headers)):
        exchange.repeat(reply.status, headers, body, call.alike)
    if call.traceparent:
        headers += ((b"traceparent", call.traceparent.encode()),)
    if accepted and reply.status == 200:
        if len(body) >= LARGE:  # compressing a large body here would block the event loop
            exchange.run(partial(_compress, exchange, accepted, headers, body, call.request_id))
            return
        encoding, body = deflate(body, printable(accepted))
        headers += _encoded(encoding)
    exchange.reply(reply.status, headers, body, call.request_id)


async def _compress(
    exchange: Exchange, accepted: bytes, headers: Headers, body: bytes, request_id: str
) -> None:
    encoding, body = await asyncio.to_thread(deflate, body, printable(accepted))
    more = with_length(headers + _encoded(encoding), body, request_id)
    await exchange.send_whole({"status": 200, "headers": more}, body)


def _encoded(encoding: str) -> Headers:
    return ((b"content-encoding", encoding.encode()),) if encoding else ()


async def _refuse(receive: Receive, send: Send) -> None:
    """Refuse a websocket."""
    await receive()
    await send({"type": "websocket.close", "code": 1003})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "lifespan.shutdown":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})

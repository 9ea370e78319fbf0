"""Front of all gRPC methods.

Calls are ordinary ASGI exchanges: five-byte frames in and out, the status in the trailers. The dialects bring
tables of methods (``grpc_table.py``); gRPC's own services, health and reflection, are added here.
"""

import asyncio
import logging
import struct
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

from salver.encoding.bodies import GrpcStatus
from salver.encoding.varints import check_fields, texts_at
from salver.kernel.serving.leases import until_resident
from salver.kernel.serving.standing import CLASS_HEADER, PRIORITY_HEADER, from_headers
from salver.lazy import lazy_imports
from salver.transport import grpc_health
from salver.transport.access_check import LOCAL, Access, CallerKeys, RawHeaders
from salver.transport.budget import COUNTED, MOST_RESERVED, Budget, Share, pace
from salver.transport.calls import RefusedCopies, RequestContext, join_trace, printable, take_traits
from salver.transport.doors import Receive
from salver.transport.effects import changing
from salver.transport.exchange import Exchange, Prompt, never, nothing
from salver.transport.faults import grpc_fault
from salver.transport.grpc_frames import FrameReader, Packed, frame, parse_timeout, trailers
from salver.transport.grpc_reflection import PATHS as REFLECTION_PATHS
from salver.transport.grpc_reflection import Reflection
from salver.transport.grpc_services import ServiceStream, one_by_one, watched, while_admitted
from salver.transport.grpc_stream import HEADERS, START, STOPPING, packed
from salver.transport.grpc_table import GrpcTable, Method, OpenCalls, PostMethod, Reply, Send
from salver.transport.http1_head import Head
from salver.transport.ports import StatusView
from salver.transport.restrict import group_of_method, right_of_method
from salver.words.errors import (
    Internal,
    InvalidInput,
    NoRoute,
    NotReady,
    NotResident,
    OutOfScope,
    RateLimited,
    SalverError,
    TooLarge,
    Unidentified,
)
from salver.words.messages import ANYBODY, Alike, Call, Grant

with lazy_imports():
    from salver.transport import limit_fields

_LOG = logging.getLogger("salver.grpc")
#: Of those that need a closer look, the headers of calls that are answered without a task.
_PROMPT = frozenset((b"grpc-timeout", b"x-request-id"))
#: Most bytes of a message that neither runs a model nor changes anything.
_LONGEST_QUESTION = 1 << 20
_OK = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_prefix = struct.Struct(">xI").pack  # prefix of an uncompressed message
#: Headers that carry a deadline, an id, a trace, a standing or a wish.
_UNUSUAL = frozenset(
    (b"grpc-timeout", b"x-request-id", b"traceparent", b"prefer", CLASS_HEADER, PRIORITY_HEADER)
)
#: Stands for a method that concerns all models.
_OF_ALL: Final = (0,)


class _Family(NamedTuple):
    """Settings that the methods of one table share.

    Attributes:
        protocol: Label of the metrics.
        fault: Makes the status of an error.
        max_message: Most bytes of a request.
        uncounted: Most bytes of a request that the memory budget ignores, including the prefix.
        check: Checks that a caller may call the methods; None = every caller may.
    """

    protocol: str
    fault: Callable[[SalverError], GrpcStatus]
    max_message: int
    uncounted: int
    check: Callable[[str, Mapping[bytes, bytes]], None] | None

    @classmethod
    def of(cls, table: GrpcTable, max_message: int) -> "_Family":
        """Return the family of a table."""
        most = table.max_message or max_message
        return cls(table.protocol, table.fault, most, min(COUNTED, most) + 5, table.check)


class GrpcFront:
    """All gRPC methods of the server.

    Args:
        tables: The dialects' methods.
        control: Knows which models are healthy.
        context: Clock, ids, and the metadata that names the tenant.
    """

    def __init__(self, tables: Sequence[GrpcTable], control: StatusView, context: RequestContext) -> None:
        self._clock = context.clock
        self._new_id = context.new_id
        self._tenant_header = context.tenant_header
        self._unusual = context.unusual(_UNUSUAL)
        self._guard = context.grpc.guard
        self._forwarding = context.grpc.forwarding
        self._budget = context.budget or Budget()
        self._interest = context.interest
        self._streaming = context.streaming
        self._compression = context.compression
        self._tritons_words = context.tritons_words
        self._is_stopping = False
        self._tables = (*tables, self._own(tables, control))
        self._methods: dict[str, Method] = {}
        self._posts: dict[str, PostMethod] = {}
        self._targets: dict[str, Callable[[bytes], bytes]] = {}
        self._refused: dict[bytes, _Refusal] = {}  # of this turn of the event loop, by what names the model
        self._floods: dict[Hashable, _Refusal] = {}  # the same, of callers at their limits
        self._names: dict[str, Sequence[int]] = {}
        self._leads: dict[str, Callable[[int, bytes], int]] = {}
        self._foresees: dict[str, Callable[[int, bytes, Call], None]] = {}
        self._streams: dict[str, OpenCalls] = {}
        self._families: dict[str, _Family] = {}
        self._inferring = frozenset().union(*(table.inferring for table in tables))
        most = context.max_message
        for table in self._tables:
            self._methods |= table.methods
            self._posts |= table.posts
            self._targets |= table.targets
            self._names |= table.names
            self._leads |= table.leads
            self._foresees |= table.foresees
            self._streams |= table.streams
            self._families |= dict.fromkeys((*table.methods, *table.streams), _Family.of(table, most))
        streams: dict[str, Callable[..., Any]] = {path: each.read for path, each in self._streams.items()}
        #: Methods that need a permission, with the test of their messages.
        self._changing = changing({**self._methods, **streams})

    def _own(self, tables: Sequence[GrpcTable], control: StatusView) -> GrpcTable:
        """Return gRPC's own services."""
        health = grpc_health.Health(control, (name for table in tables for name in table.services))
        streams: dict[str, OpenCalls] = {grpc_health.WATCH: ServiceStream(watched(health.look))}
        self._reflection: Reflection | None = None
        for path, package in REFLECTION_PATHS.items():
            streams[path] = ServiceStream(one_by_one(partial(self._reflect, package)))
        return GrpcTable(
            "grpc",
            grpc_fault,
            {grpc_health.CHECK: health.check},
            streams,
            messages=grpc_health.build,
            types=grpc_health.TYPES,
            many_responses=frozenset((grpc_health.WATCH,)),
        )

    async def handle(
        self,
        scope: Mapping[str, Any],
        headers: Mapping[bytes, bytes],
        receive: Receive,
        send: Send,
        access: Access = LOCAL,
    ) -> None:
        """Answer one call, from its first frame to its trailers."""
        arrival, lag = self._clock(), scope.get("lag", 0.0)
        path = scope["path"]
        # Looked up before it is checked: an unknown method is answered in gRPC's own words.
        family = self._families.get(path)
        call = Call("" if family is None else family.protocol, arrival, lag=lag)
        fault: Callable[[SalverError], GrpcStatus] = grpc_fault
        share: Share | None = None
        try:
            if not self._unusual.isdisjoint(headers):
                self._look_closer(headers, call)
            call.request_id = call.request_id or self._new_id()
            if family is None:
                raise NoRoute(f"Method not found: {path[1:]}")
            method = self._methods.get(path)
            if self._guard is not None and (header := self._guard.lacks(group_of_method(path), headers)):
                # Triton's text and code (TR-R37).
                raise NotReady(f"This protocol is restricted, expecting header '{header}'")
            # Health and metadata are still answered: balancers ask them while a server stops.
            if self._is_stopping and path in self._inferring:
                raise NotReady(STOPPING)
            fault = family.fault
            own = family.check
            keys = access.keys if own is None else _checked(own, path, headers, access.keys)
            if access.checks_hosts and headers.get(b"host") not in access.known_hosts:
                access.check_host(headers)
            if keys is not None:
                call.grant = self._admit(path, scope["headers"], keys)
            if path in self._changing:
                method = await self._permitted(path, scope["headers"], method, access)
            if self._forwarding is not None:
                call.forwarded = self._forwarding.parameters(headers)
            if wanted := self._interest.headers:
                take_traits(call, headers, wanted)
            if method is None:
                serve = partial(self._streams[path].handle, headers, call, receive)
                return await self._serve(path, scope, serve, send, keys)
            event = await receive()
            body = event.get("body", b"")
            # Nearly every call has one uncompressed message, in one piece.
            if 5 <= len(body) <= family.uncounted and body[:5] == _prefix(len(body) - 5):
                message = body[5:]
            else:
                share = Share(self._budget)
                message = await _read(event, headers, receive, family.max_message, share)
                if message is None:
                    return  # the caller hung up before the request was complete
                call.is_large = self._is_large(message, path)
            if call.grant is not None:
                self._check_names(path, message, call.grant)
            # Inference keeps its deadline itself, and says whether the request was running by then.
            if path in self._inferring:
                reply = await method(message, call)
            else:
                reply = await self._call(method, message, call)
        except SalverError as error:
            error.in_tritons_words = self._tritons_words
            reply = fault(error)
        except TimeoutError:
            reply = GrpcStatus(4, "Deadline Exceeded")
        except asyncio.CancelledError:
            return  # the caller hung up
        except Exception as error:
            reply = fault(self._incident(path, error))
        finally:
            if share is not None:
                share.free()
        if isinstance(reply, bytes):
            await self._answer(send, reply, headers, call, path in self._inferring)
        else:  # "Trailers-Only": a client that has seen other headers does not retry (gRPC's A6)
            await _end(send, reply)

    async def _call(self, method: Method, message: bytes, call: Call) -> Reply:
        """Call a method that runs no model, by its deadline; one about an absent version once more."""
        seconds = None if call.deadline is None else call.deadline - self._clock()
        async with asyncio.timeout(seconds):
            try:
                return await method(message, call)
            except NotResident as absent:
                await until_resident(absent, call.deadline, self._clock)
                return await method(message, call)

    def find_prompt(self, head: Head, headers: Mapping[bytes, bytes], access: Access) -> Prompt | None:
        """See :data:`~salver.transport.exchange.PromptFinder`."""
        path = head.path.decode("latin-1")
        post, family = self._posts.get(path), self._families.get(path)
        # What may have to wait needs a task: permissions are checked, and replies compressed, elsewhere.
        if post is None or family is None or path in self._changing or self._compression:
            return never
        if family.check is not None or self._forwarding is not None:
            return never
        if not (self._unusual - _PROMPT).isdisjoint(headers):
            return never
        given, seconds = printable(headers.get(b"x-request-id", b"")), 0.0
        grant: Grant | None = None
        try:
            access.check_host(headers)
            if self._guard is not None and self._guard.lacks(group_of_method(path), headers):
                return never
            if access.keys is not None:
                grant = self._admit(path, head.headers, access.keys, is_trial=True)
            if b"grpc-timeout" in headers:
                seconds = parse_timeout(headers[b"grpc-timeout"].decode("latin-1"))
                if not seconds:
                    return never
        except (Unidentified, OutOfScope, RateLimited):
            assert access.keys is not None
            return partial(self._refuse, path, family, access.keys)
        except SalverError:
            return never  # the task repeats the check and sends the error
        # A caller's own id, deadline or limit is its own: no copy of another call's refusal would be right.
        is_own = given or seconds or (grant and (grant.checks or grant.standing is not ANYBODY))
        target = None if is_own else self._targets.get(path)
        large = self._leads.get(path, _no_lead), self._foresees.get(path)
        admit = None if access.keys is None else partial(self._admit, path, head.headers, access.keys)
        collects = partial(self._collects, family, *large, given, seconds, admit)
        prompt = partial(self._ask, post, collects, family, given, seconds, target, grant)
        return prompt if access.keys is None else access.keys.lasting(prompt, head.headers)

    def _ask(
        self,
        post: PostMethod,
        collects: Callable[[Exchange], bool],
        family: _Family,
        given: str,
        seconds: float,
        target: Callable[[bytes], bytes] | None,
        grant: Grant | None,
        exchange: Exchange,
    ) -> bool:
        """Answer a call without a task.

        Args:
            collects: Reserves memory for a large message that is received whole; returns whether it is.
            given: The caller's own id of the request; empty = none.
            seconds: Seconds until the caller's deadline; 0 = no deadline.
            target: Returns the beginning of a message that names the model; None = each call is decided by
                itself.
            grant: Checks the model; None = the caller may use all.
        """
        body = exchange.body
        if self._is_stopping:
            return False
        # In a flood, before the message is looked at (benchmarks/refusals.py).
        if grant is not None and grant.was_refused and self._refuse_again(grant, family, exchange):
            return True
        message: bytes | memoryview
        if body is not None and len(body) <= family.uncounted:
            message = body[5:]
            if body[:5] != _prefix(len(message)):
                return False
            if self._refused and target is not None:
                refusal = self._refused.get(target(body))
                if refusal is not None:
                    exchange.reply_grpc(refusal.copy())
                    return True
        else:
            if exchange.large is None and not collects(exchange):
                return False
            if exchange.large is None or not exchange.large.is_whole:
                return True
            message, target = exchange.large.view[5:], None
            if exchange.large.view[:5] != _prefix(len(message)):
                return False
        call = Call(
            family.protocol, exchange.arrival, None, given or self._new_id(), lag=exchange.lag, grant=grant
        )
        if seconds:
            call.deadline = call.arrival + seconds
        if wanted := self._interest.headers:
            take_traits(call, dict(exchange.head.headers), wanted)
        try:
            give_up = post(message, call, partial(_tell, exchange, call))
        except SalverError as error:
            self._reply_fault(family, error, exchange)
            return True
        if give_up is None:
            if grant is not None and grant.is_stale:
                exchange.head.notes.clear()  # the task asks for the key again
            return False
        if not exchange.is_whole:
            exchange.on_gone = give_up
        elif isinstance(call.alike, _Refusal) and target and body and (kind := target(body)):
            self._refused[kind] = call.alike
            call.alike.on_close = partial(self._refused.pop, kind)
            exchange.keep(call.alike)
        return True

    def _refuse(self, path: str, family: _Family, keys: CallerKeys, exchange: Exchange) -> bool:
        """Refuse a call without a valid key, without a task: refusals must cost less than answers."""
        if self._is_stopping:
            return False
        notes = exchange.head.notes
        kept = notes.get(_Refusal)
        if kept is not None:
            exchange.reply_grpc(kept.copy())
            return True
        try:
            self._admit(path, exchange.head.headers, keys)
        except (Unidentified, OutOfScope, RateLimited) as error:
            self._reply_refusal(family, error, exchange, notes, _Refusal)
            return True
        except SalverError:
            return False
        notes.clear()  # the key has become valid
        return False

    def _refuse_again(self, grant: Grant, family: _Family, exchange: Exchange) -> bool:
        """Refuse a call of a caller that was at a limit just now, if it still is."""
        caller = grant.caller, family.protocol
        kept = self._floods.get(caller)
        if kept is not None:
            exchange.reply_grpc(kept.copy())
            return True
        error = grant.still_refused()
        if error is None:
            return False
        self._reply_refusal(family, error, exchange, self._floods, caller)
        return True

    def _reply_refusal(
        self, family: _Family, error: SalverError, exchange: Exchange, kept: dict[Any, Any], key: Hashable
    ) -> None:
        """Answer with a refusal; in a rush, keep it for further calls until the turn of the loop ends."""
        status = error.reply
        if status is None:
            error.in_tritons_words = self._tritons_words
            status = error.reply = family.fault(error)
        if error.repeated is not None and exchange.is_in_rush():
            refusal = kept[key] = _Refusal(status, RefusedCopies(str, error.repeated))
            refusal.on_close = partial(kept.pop, key, None)
            exchange.keep(refusal)
        exchange.reply_grpc(status)

    def _reply_fault(self, family: _Family, error: SalverError, exchange: Exchange) -> None:
        error.in_tritons_words = self._tritons_words
        exchange.reply_grpc(family.fault(error))

    def _collects(
        self,
        family: _Family,
        lead: Callable[[int, bytes], int],
        foresee: Callable[[int, bytes, Call], None] | None,
        given: str,
        seconds: float,
        admit: Callable[[], Grant | None] | None,
        exchange: Exchange,
    ) -> bool:
        """Reserve memory for a large message that is received whole; return whether it is.

        A call that can only be late, or whose caller is at a limit, is answered.
        """
        size = exchange.expected if exchange.body is None else len(exchange.body)
        most = min(MOST_RESERVED, family.max_message)
        if not COUNTED + 5 < size <= most:
            return False
        begun = exchange.begun if exchange.body is None else exchange.body
        if exchange.body is None and (foresee or admit):
            lag = exchange.lag + exchange.wait
            call = Call(family.protocol, exchange.arrival, None, given or self._new_id(), lag=lag)
            if seconds:
                call.deadline = call.arrival + seconds
            try:
                if admit is not None:
                    call.grant = admit()
                if foresee is not None:
                    foresee(size - 5, begun[5:], call)
            except SalverError as error:
                self._reply_fault(family, error, exchange)
                return False
        return exchange.reserve(self._budget, size, 5 + lead(size - 5, begun[5:]))

    async def _answer(
        self, send: Send, reply: bytes, headers: Mapping[bytes, bytes], call: Call, may_pack: bool
    ) -> None:
        if self._compression and may_pack:
            start, body = await packed(reply, headers, self._compression)
        else:
            start, body = START, frame(reply)
        if call.traceparent:
            named = (b"traceparent", call.traceparent.encode())
            start = {**start, "headers": [*start["headers"], named]}
        if call.charge is not None and b"prefer" in headers:
            left = limit_fields.limit_fields(headers, call.charge.states(), time.time())
            start = {**start, "headers": [*start["headers"], *left]}
        await send(start)
        await send({"type": "http.response.body", "body": body})
        await send(_OK)

    def _incident(self, path: str, error: Exception) -> Internal:
        incident = self._new_id()
        _LOG.exception("incident %s: %s", incident, path, exc_info=error)
        return Internal.incident(incident)

    def _is_large(self, message: bytes, path: str) -> bool:
        """Return whether reading the message may block the event loop.

        Raises:
            InvalidInput, TooLarge: no method needs such a message.
        """
        if len(message) <= COUNTED:
            return False
        # No question is so long: it would only be a way to keep the server busy.
        if path not in self._inferring:
            if len(message) > _LONGEST_QUESTION and path not in self._changing:
                raise TooLarge(
                    f"the message has {len(message)} bytes; at most {_LONGEST_QUESTION} make sense here"
                )
            check_fields(message)
        return True

    async def _serve(
        self,
        path: str,
        scope: Mapping[str, Any],
        serve: Callable[[Send], Awaitable[None]],
        send: Send,
        keys: CallerKeys | None,
    ) -> None:
        """Serve a streaming call, as long as its caller's key is valid."""
        with self._streaming.stream(scope):
            if keys is None:
                await serve(send)
            else:
                check = partial(self._admit, path, scope["headers"], keys, is_trial=True)
                await while_admitted(serve, send, check, self._families[path].fault)

    def _admit(self, path: str, raw: RawHeaders, keys: CallerKeys, *, is_trial: bool = False) -> Grant | None:
        """Check the key of a call; return the check of the model that the message names."""
        # Where the message decides whether it is a change, it is checked again.
        right = right_of_method(path, changes=self._changing.get(path, _reads) is None)
        try:
            return keys.admit(raw, right, is_later=True, is_trial=is_trial)
        except InvalidInput as error:  # gRPC has one status for credentials
            raise Unidentified(error.message, fix=error.fix, has_credential=True) from None

    def _check_names(self, path: str, message: bytes, grant: Grant) -> None:
        """Check the models that a message names, for a method that does not run them.

        Raises:
            Forbidden: the caller may not use one of them, or not all models.
        """
        if right_of_method(path, changes=False) == "infer":
            return  # the data plane checks each
        fields = self._names.get(path, _OF_ALL)
        if not fields:
            return  # the method leaves models out
        for name in texts_at(message, fields) if fields is not _OF_ALL else [""]:
            grant.check(name)

    async def _permitted(
        self, path: str, raw: RawHeaders, method: Method | None, access: Access
    ) -> Method | None:
        """Check the permission; return the method, wrapped in a check if only some messages need one."""
        if path in access.closed:
            raise NoRoute(f"Method not found: {path[1:]}")
        is_change, headers = self._changing[path], dict(raw)
        if is_change is None or method is None:
            await access.permit(headers, path)
            return method
        wanted, run = is_change, method

        async def checked(message: bytes, call: Call) -> Reply:
            if wanted(message):
                if access.keys is not None:
                    access.keys.admit(raw, "models", is_later=False)
                await access.permit(headers, path)
            return await run(message, call)

        return checked

    def _look_closer(self, headers: Mapping[bytes, bytes], call: Call) -> None:
        """Set the deadline, id, trace and standing from a call's headers."""
        timeout = headers.get(b"grpc-timeout")
        if timeout is not None:
            call.deadline = call.arrival + parse_timeout(timeout.decode("latin-1"))
        call.request_id = printable(headers.get(b"x-request-id", b""))
        if b"traceparent" in headers:
            join_trace(call, headers[b"traceparent"], self._new_id)
        call.standing = from_headers(headers, self._tenant_header)

    def stop(self) -> None:
        """Accept no new inference; streams end when their pending requests have replies."""
        self._is_stopping = True
        for streams in self._streams.values():
            streams.stop()

    def _reflect(self, package: str, message: bytes) -> bytes:
        if self._reflection is None:  # built on demand, since few servers need it
            self._reflection = Reflection(self._tables)
        return self._reflection.answer(package, message)


class _Refusal:
    """Status of a refused call, which ends others for the same model until the turn of the loop ends.

    Attributes:
        on_close: Called at the end of the turn.
    """

    __slots__ = ("_alike", "_status", "on_close")

    def __init__(self, status: Reply, alike: Alike) -> None:
        self._status = status
        self._alike = alike
        self.on_close: Callable[[], object] = nothing

    def copy(self) -> Reply:
        """Return the status for another call."""
        self.new_id()
        return self._status

    def new_id(self) -> str:
        """See :class:`~salver.words.messages.Alike`."""
        return self._alike.new_id()

    def close(self) -> int:
        """See :class:`~salver.words.messages.Closable`."""
        self.on_close()
        return self._alike.close()


def _tell(exchange: Exchange, call: Call, reply: Reply | None, pieces: object) -> None:
    assert reply is not None  # streaming models are never asked this way
    if call.alike is not None:
        call.alike = _Refusal(reply, call.alike)
    headers = ((b"traceparent", call.traceparent.encode()),) if call.traceparent else ()
    exchange.reply_grpc(reply, headers)


async def _end(send: Send, status: GrpcStatus) -> None:
    """Send an error as the whole answer of a call."""
    headers = [*HEADERS, *trailers(status)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


def _checked(
    check: Callable[[str, Mapping[bytes, bytes]], None],
    path: str,
    headers: Mapping[bytes, bytes],
    keys: CallerKeys | None,
) -> CallerKeys | None:
    """Check a key of a dialect's own, unless the caller has one of the server's; return which keys decide."""
    if keys is not None and keys.own(headers.items()) is not None:
        return keys
    check(path, headers)
    return None


async def _read(
    event: dict[str, Any], headers: Mapping[bytes, bytes], receive: Receive, most: int, share: Share
) -> bytes | None:
    """Return the one message of a unary call; None if the caller left first."""
    encoding = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
    reader = FrameReader(most, encoding, inflates=False)
    messages: list[bytes] = []
    async with pace() as timer:
        while event["type"] == "http.request":
            piece = event.get("body", b"")
            share.take(len(piece))
            await timer.came(len(piece))
            if messages := reader.feed(piece):
                break
            if not event.get("more_body"):
                raise InvalidInput("the call ended before its message was complete")
            event = await receive()
    message = messages[0] if messages else None
    return await share.inflate(message, encoding, most) if isinstance(message, Packed) else message


def _reads(message: bytes) -> bool:
    """Change nothing."""
    return False


def _no_lead(size: int, begun: bytes) -> int:
    """Know no message."""
    return 0

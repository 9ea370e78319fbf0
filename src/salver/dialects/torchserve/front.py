"""ASGI application that answers TorchServe's routes, around Salver's own application.

A port of TorchServe's has TorchServe's routes only; a port for everything passes on other paths (X-9, X-30).
The path of an earlier prediction is found without matching and, over HTTP/1.1, answered without a task. Paths
are matched in ``paths.py``, operations are in ``operations.py``.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, TypeGuard

import msgspec

from salver.dialects.torchserve.answer import Answer, Layouts, request_id_of
from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.bodies import is_large, query_of
from salver.dialects.torchserve.faults import http_fault
from salver.dialects.torchserve.json_layout import TorchServeReply, json_reply
from salver.dialects.torchserve.openapi import describe_port
from salver.dialects.torchserve.operations import InferenceOperations, ManagementOperations, Method, Request
from salver.dialects.torchserve.paths import PathMatch, Surface, find, find_oldest, is_own, may_be_own
from salver.dialects.torchserve.predict import HandlerQuery, Prediction
from salver.dialects.torchserve.tokens import SCOPES
from salver.dialects.torchserve.tokens import Scope as KeyScope
from salver.encoding.exposition import PLAIN, chosen
from salver.kernel.serving.standing import CLASS_HEADER, PRIORITY_HEADER, from_headers
from salver.transport.access_check import LOCAL, Access
from salver.transport.budget import Budget, Share
from salver.transport.calls import join_trace, take_traits
from salver.transport.doors import App, Receive, Scope, Send
from salver.transport.effects import changing, reads
from salver.transport.exchange import Exchange, Prompt, PromptFinder, never
from salver.transport.http1 import Http1Exchange
from salver.transport.http1_head import Head
from salver.transport.reading import read_whole
from salver.words.errors import Internal, NoRoute, SalverError, TooLarge, WrongVerb
from salver.words.messages import Call

_LOG = logging.getLogger("salver.torchserve")
_KNOWN_PATHS: Final = 4096
_UNUSUAL: Final = frozenset((b"traceparent", CLASS_HEADER, PRIORITY_HEADER))
#: Operations -> their group in Triton's restrictions (TR-R34); all others are inference.
_GROUPS: Final = {
    **dict.fromkeys(("register", "unregister", "scale", "set_default"), "model-repository"),
    **dict.fromkeys(("list", "describe", "describe_managed", "is_ready"), "metadata"),
    "ping": "health",
}


#: Writes all pieces of an answer.
WriteAll = Callable[[Callable[[TorchServeReply], Awaitable[None]]], Awaitable[None]]
#: Operations that a port for everything has only if the operator allows changes.
_CHANGES: Final = frozenset(("scale", "set_default", "register_workflow", "unregister_workflow"))
#: Match of an unknown path, which needs a key as well.
_ANYTHING: Final = PathMatch("anything", "inference")


class Target(msgspec.Struct, frozen=True, gc=False):
    """Model and codec of a path, computed once.

    Attributes:
        headers: Headers for the handler besides those of the call.
        is_shared: Whether the route belongs to another protocol, too, for models that are no handlers.
    """

    match: PathMatch
    codec: Prediction
    headers: Mapping[str, str]
    is_shared: bool = False


class CallHeaders(msgspec.Struct, frozen=True, gc=False):
    """Headers of a request, as far as they matter.

    Attributes:
        lower: All headers, with names in lower case.
        shown: Headers for the handler: names as they were sent, and those of the path.
        sequence: Sequence of the request (:class:`salver.dialects.torchserve.predict.HandlerQuery`).
        is_unusual: Whether there are headers for the call: trace, priority, tenant.
    """

    lower: Mapping[bytes, bytes]
    shown: Mapping[str, str]
    content_type: str
    sequence: tuple[str, bool, bool] | None
    is_unusual: bool


class TorchServe:
    """The application.

    Args:
        app: Salver's own application.
        surfaces: Interfaces that the port serves; None = a port for everything.
        access: Check of host names, and of changes.
    """

    def __init__(
        self,
        app: App,
        backing: Backing,
        surfaces: frozenset[Surface] | None = None,
        access: Access = LOCAL,
    ) -> None:
        rules, context = backing.rules, backing.context
        self._app = app
        self._find_inner: PromptFinder | None = getattr(app, "find_prompt", None)
        self._backing = backing
        self._rules = rules
        self._door = backing.door
        self._keys = backing.keys
        self._access = access
        self._is_common = surfaces is None
        self._surfaces: frozenset[Surface] = surfaces or frozenset(("inference", "management"))
        self._most = rules.max_request or backing.max_body
        self._budget = context.budget or Budget()
        self._cors = rules.cors
        self._clock = context.clock
        self._new_id = context.new_id
        self._unusual = context.unusual(_UNUSUAL)
        self._sequence = [name.lower().encode("latin-1") for name in rules.sequence_headers]
        self._inference = InferenceOperations(backing.handlers)
        management = ManagementOperations(backing.handlers, backing.keys, may_change=rules.may_change)
        self._methods: dict[str, Method] = {
            **backing.more,
            **self._inference.http(),
            **management.http(),
            "describe_port": self._describe_port,
            "metrics": self._metrics,
        }
        self._changing = changing(self._methods).keys()
        self._targets: dict[tuple[str, bytes], Target] = {}
        self._layouts = Layouts(rules.cors)

    def __repr__(self) -> str:
        return f"<TorchServe {'+'.join(sorted(self._surfaces))}>"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Answer a request; the entry point of ASGI."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        path = scope.get("raw_path") or scope["path"].encode()
        # Clients ask few paths many times, so that most requests end here.
        target = self._targets.get((scope["method"], path))
        if target is not None:
            return self._predict(target, scope, receive, send)
        if self._is_common and not may_be_own(scope["method"], path, scope["query_string"]):
            return self._app(scope, receive, send)
        return self._answer(scope, path, receive, send)

    # -- predictions --

    def find_prompt(self, head: Head) -> Prompt | None:
        """See :data:`~salver.transport.exchange.PromptFinder`."""
        target = self._targets.get((head.method, head.path))
        if target is None:
            if not self._is_common or may_be_own(head.method, head.path, head.query):
                return None
            return never if self._find_inner is None else self._find_inner(head)
        if target.is_shared or head.method == "HEAD" or head.version == "2":
            return None
        headers = self._read_headers(head.spelled, target)
        if headers.sequence is not None or not self._access.knows_host(headers.lower):
            return None
        return functools.partial(self._ask, target, headers)

    def _ask(self, target: Target, headers: CallHeaders, exchange: Exchange) -> bool:
        assert isinstance(exchange, Http1Exchange)
        head, body = exchange.head, exchange.body
        if not self._may_take(body) or is_large(body, headers.content_type):
            return False
        id = request_id_of(self._new_id())
        call = Call("ts-http", self._clock(), None, id)
        respond = functools.partial(self._respond, exchange, id)
        match = target.match
        try:
            if self._keys is not None or self._backing.context.http.guard is not None:
                self._check(match, headers.lower)
            query = self._query(target, headers, body, (head.query, head.path), call)
        except SalverError as error:
            respond(http_fault(error, match.model, match.version), None)
            return True
        give_up = self._door.post(
            target.codec, query, match.model, match.version, call, respond, takes_pieces=True
        )
        if give_up is None:
            return False
        if not exchange.is_whole:
            exchange.on_gone = give_up
        return True

    def _may_take(self, body: bytes | None) -> TypeGuard[bytes]:
        return body is not None and len(body) <= self._most

    def _respond(
        self, exchange: Http1Exchange, id: str, reply: TorchServeReply | None, write_all: WriteAll | None
    ) -> None:
        """Send the reply, or start a task that writes its pieces."""
        if reply is not None:
            data, keeps = self._layouts.of(reply, id, exchange.head.version, exchange.may_keep)
            exchange.answer(reply.status, data, keeps=keeps)
        elif write_all is not None:
            exchange.run(functools.partial(self._respond_in_pieces, exchange, id, write_all))

    async def _respond_in_pieces(self, exchange: Exchange, id: str, write_all: WriteAll) -> None:
        answer = Answer(exchange.send, exchange.head.method, id, self._cors)
        await write_all(answer.write)
        await answer.end()

    async def _predict(
        self, target: Target, scope: Scope, receive: Receive, send: Send, body: bytes | None = None
    ) -> None:
        """Run the model and write its answer.

        Args:
            body: The body, if it has been read.
        """
        call = Call("ts-http", self._clock(), None, request_id_of(self._new_id()))
        headers = self._read_headers(scope.get("spelled") or scope["headers"], target)
        match, lower = target.match, headers.lower
        answer = Answer(send, scope["method"], call.request_id, self._cors)
        share = Share(self._budget)
        try:
            self._access.check_host(lower)
            if target.is_shared and self._takes_tensors(match.model):
                self._check(match, lower)
                await self._app(scope, receive, send)
                return
            if self._keys is not None or self._backing.context.http.guard is not None:
                self._check(match, lower)
            if body is None and (body := await self._read(receive, lower, share)) is None:
                return  # the caller hung up before the request was complete
            place = scope["query_string"], scope.get("raw_path") or b""
            query = self._query(target, headers, body, place, call)
            reply = await self._door.stream(
                target.codec, query, match.model, match.version, call, answer.write
            )
        except SalverError as error:
            reply = http_fault(error, match.model, match.version)
        except asyncio.CancelledError:
            return  # the caller hung up
        except Exception as error:
            reply = http_fault(self._incident(scope, error))
        finally:
            share.free()
        if reply is not None:
            await answer.write(reply)
        await answer.end()

    def _query(
        self, target: Target, headers: CallHeaders, body: bytes, place: tuple[bytes, bytes], call: Call
    ) -> HandlerQuery:
        """Return the query to a handler, and complete its call.

        Args:
            place: Query string and path.

        Raises:
            NamedFault: the query string is not percent-encoded correctly.
        """
        if headers.is_unusual:
            if b"traceparent" in headers.lower:
                join_trace(call, headers.lower[b"traceparent"], self._new_id)
            call.standing = from_headers(headers.lower, self._backing.context.tenant_header)
        if wanted := self._backing.context.interest.headers:
            take_traits(call, headers.lower, wanted)
        call.is_large = is_large(body, headers.content_type)
        fields: Sequence[tuple[str, str]] = ()
        if place[0] and target.match.takes_query:
            fields = query_of(*place)
        return HandlerQuery(
            body, headers.content_type, headers.shown, fields, call.request_id, headers.sequence
        )

    def _read_headers(self, spelled: Iterable[tuple[bytes, bytes]], target: Target) -> CallHeaders:
        lower = {name.lower(): value for name, value in spelled}
        shown = {name.decode("latin-1"): value.decode("latin-1") for name, value in spelled}
        sequence = None
        if self._sequence[0] in lower:  # TS-R17
            id, start, end = [lower.get(name, b"").decode("latin-1") for name in self._sequence]
            sequence = id, start.lower() == "true", end.lower() == "true"
        return CallHeaders(
            lower,
            {**shown, **target.headers},
            lower.get(b"content-type", b"").decode("latin-1"),
            sequence,
            not self._unusual.isdisjoint(lower),
        )

    def _target(self, scope: Scope, path: bytes, match: PathMatch) -> Target:
        """Return the target of a path, and remember it."""
        headers = {}
        if match.explains is not None:
            headers["explain"] = str(match.explains)
        if match.extra is not None:
            headers["url_path"] = match.extra
        codec = Prediction(match.model, match.version, self._knows, self._rules.max_response)
        # Routes with an extra path or a query for the handler are TorchServe's alone.
        is_shared = match.extra is None and not match.takes_query
        target = Target(match, codec, headers, is_shared)
        if scope["method"] != "OPTIONS":
            if len(self._targets) >= _KNOWN_PATHS:  # callers choose the paths
                self._targets.clear()
            self._targets[scope["method"], path] = target
        return target

    def _knows(self, model: str) -> bool:
        try:
            self._backing.handlers.describe(model)
        except SalverError:
            return False
        return True

    def _takes_tensors(self, model: str) -> bool:
        """Return whether a model is loaded and is no handler."""
        try:
            return not self._door.signature(model)[1].takes_forms
        except SalverError:
            return False

    # -- other operations --

    async def _answer(self, scope: Scope, path: bytes, receive: Receive, send: Send) -> None:
        verb = scope["method"]
        lower: dict[bytes, bytes] = dict(scope["headers"])
        answer = Answer(send, verb, request_id_of(self._new_id()), self._cors)
        share = Share(self._budget)
        try:
            self._access.check_host(lower)
            match = self._match(verb, path, lower)
            if match is None:
                await self._app(scope, receive, send)
                return
            operation = match.operation
            if operation == "predict" and verb != "OPTIONS":  # checks the key itself
                await self._predict(self._target(scope, path, match), scope, receive, send)
                return
            self._check(match, lower)
            if operation in self._changing:
                await self._access.permit(lower, operation)
            if (body := await self._read(receive, lower, share)) is None:
                return
            query = tuple(query_of(scope["query_string"], path))
            request = Request(match, verb, body, query, lower, scope.get("spelled") or scope["headers"])
            if operation == "invocations":
                match = match._replace(model=await self._inference.find_model(request))
            if operation in ("predict", "invocations") and verb == "OPTIONS":
                reply = self._inference.description(match.model, match.version)
            elif operation == "invocations":
                codec = Prediction(match.model, "", self._knows, self._rules.max_response)
                await self._predict(Target(match, codec, {}), scope, receive, send, body)
                return
            else:
                reply = await self._run(request)
        except SalverError as error:
            reply = http_fault(error)
        except asyncio.CancelledError:
            return
        except Exception as error:
            reply = http_fault(self._incident(scope, error))
        finally:
            share.free()
        await answer.write(reply)
        await answer.end()

    def _match(self, verb: str, path: bytes, headers: Mapping[bytes, bytes]) -> PathMatch | None:
        """Return the match of a path; None = Salver's own application answers it.

        Raises:
            NoRoute, WrongVerb, NamedFault: the path has no match.
            Unauthenticated: the caller has no key, and is not told that.
        """
        if self._is_common:
            if headers.get(b"content-type", b"").startswith(b"application/grpc"):
                return None
            if path == b"/metrics":
                return PathMatch("metrics")
            if not is_own(path):
                return PathMatch("describe_port") if verb == "OPTIONS" else find_oldest(verb, path)
        try:
            return find(verb, path, self._surfaces, speaks_oip=self._rules.speaks_oip)
        except SalverError:
            self._check(_ANYTHING, headers)
            raise

    def _check(self, match: PathMatch, headers: Mapping[bytes, bytes]) -> None:
        """Check that the caller may do what a path asks for.

        Raises:
            Unauthenticated: it needs a key (TS-B11).
            Forbidden: it needs a secret (TR-R34).
        """
        if self._is_common:
            guard = self._backing.context.http.guard
            if guard is not None:
                guard.check(_GROUPS.get(match.operation, "inference"), headers)
        if self._keys is not None and match.surface in ("inference", "management"):
            scopes: tuple[KeyScope, ...] = (match.surface,)
            if match is _ANYTHING:
                scopes = tuple([scope for scope in SCOPES if scope in self._surfaces])
                if not scopes:
                    return
            self._keys.check(headers.get(b"authorization", b"").decode("latin-1"), *scopes)

    async def _run(self, request: Request) -> TorchServeReply:
        operation = request.match.operation
        if operation == "token" and self._keys is None:
            raise NoRoute("the server has no keys")
        if self._is_common and operation in _CHANGES and not self._rules.may_change:
            raise WrongVerb("requests may not change models (enable_model_api)")
        method = self._methods.get(operation)
        if method is None:
            raise NoRoute(f"the server has no operation {operation}")
        return await method(request)

    @reads
    async def _describe_port(self, request: Request) -> TorchServeReply:
        return json_reply(describe_port(self._surfaces))

    @reads
    async def _metrics(self, request: Request) -> TorchServeReply:
        # All metrics, or those that the query names (TS-M11).
        if not self._rules.has_metrics:
            raise NoRoute("enable_metrics_api is false")
        page = b""
        if self._rules.shows_metrics:
            page, _ = self._backing.exposition.metrics("")
            page = chosen(page, [value for name, value in request.query if name == "name[]"])
        return TorchServeReply(200, page, ((b"content-type", PLAIN),))

    async def _read(self, receive: Receive, headers: Mapping[bytes, bytes], share: Share) -> bytes | None:
        """Return the whole body; None if the caller hung up.

        Args:
            share: Of the memory for all bodies; the caller gives it back.

        Raises:
            SalverError: it is over the limit, comes too slowly, or has no room beside others.
        """
        message = await receive()
        body: bytes = message.get("body", b"")
        declared = headers.get(b"content-length", b"")
        if len(body) > self._most or (declared.isdigit() and int(declared) > self._most):
            raise TooLarge("max_request_size")
        if message.get("more_body"):
            as_it_is = {name: value for name, value in headers.items() if name != b"content-encoding"}
            return await read_whole(message, as_it_is, receive, self._most, share=share)
        return body if message["type"] == "http.request" else None

    def _incident(self, scope: Scope, error: Exception) -> Internal:
        incident = self._new_id()
        _LOG.exception("incident %s: %r", incident, scope["path"], exc_info=error)
        return Internal.incident(incident)

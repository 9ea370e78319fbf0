"""How are TorchServe's routes answered at a port?

An ASGI application around Salver's own: a port of TorchServe's has TorchServe's routes and no others; a port
for everything hands on what is not in dispute (X-9, X-30). Whoever asks a model again by the same path meets
no table and, where the front has ``prompt``, no task. What a path means stands in ``ts_paths.py``, what an
operation does in ``ts_inference.py`` and ``ts_management.py``.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Final, TypeGuard

import msgspec

from salver.dialects.torchserve.answer import Answer, Layouts, request_id_of
from salver.dialects.torchserve.bodies import is_large, query_of
from salver.dialects.torchserve.faults import http_fault
from salver.dialects.torchserve.inference import InferenceOperations
from salver.dialects.torchserve.json_layout import TorchServeReply, replied
from salver.dialects.torchserve.management import ManagementOperations
from salver.dialects.torchserve.openapi import of_port
from salver.dialects.torchserve.operation_calls import Method, Request
from salver.dialects.torchserve.paths import OWN, PathMatch, Surface, find, find_oldest
from salver.dialects.torchserve.predict import Asking, Prediction
from salver.dialects.torchserve.rules import TorchServeRules
from salver.dialects.torchserve.tokens import SCOPES, TokenKeys
from salver.dialects.torchserve.tokens import Scope as KeyScope
from salver.encoding.exposition import PLAIN, chosen
from salver.kernel.serving.standing import CLASS_HEADER, PRIORITY_HEADER, from_headers
from salver.transport.access_check import LOCAL, Access
from salver.transport.calls import RequestContext, is_shutting_down, join_trace, take_traits
from salver.transport.doors import App, Receive, Scope, Send
from salver.transport.effects import changing, reads
from salver.transport.hangup import HangUps
from salver.transport.http1 import Exchange
from salver.transport.http1_head import Head
from salver.transport.ports import Exposition, Handlers, PostingDoor
from salver.transport.reading import MOST_CHUNKS
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
#: Kind of a port -> what it serves; two addresses that are one are one port (TS-P1).
SURFACES: Final[Mapping[str, frozenset[Surface]]] = {
    "torchserve-inference": frozenset(("inference",)),
    "torchserve-management": frozenset(("management",)),
    "torchserve-metrics": frozenset(("metrics",)),
    "torchserve-inference-metrics": frozenset(("inference", "metrics")),
    "torchserve-management-metrics": frozenset(("management", "metrics")),
    "torchserve-all": frozenset(("inference", "management", "metrics")),
}
#: That a port for everything allows only where the operator does; models come and go nowhere else.
_CHANGES: Final = frozenset(("scale", "set_default", "register_workflow", "unregister_workflow"))
#: What is not known, and wants some key all the same.
_ANYTHING: Final = PathMatch("anything", "inference")


class Target(msgspec.Struct, frozen=True, gc=False):
    """Whom a path asks, worked out once.

    Attributes:
        headers: What the handler sees beside those of the call.
        is_shared: The route is another protocol's, too, for models that are no handlers.
    """

    asked: PathMatch
    codec: Prediction
    headers: Mapping[str, str]
    is_shared: bool = False


class CallHeaders(msgspec.Struct, frozen=True, gc=False):
    """What the headers of a request say.

    Attributes:
        lower: With names in lower case.
        shown: For the handler, with names as they were sent, and what the path says.
        sequence: Which sequence of requests is gone on with
            (:class:`salver.dialects.torchserve.predict.Asking`).
        is_unusual: They say something of the call, too.
    """

    lower: Mapping[bytes, bytes]
    shown: Mapping[str, str]
    content_type: str
    sequence: tuple[str, bool, bool] | None
    is_unusual: bool


class Backing(msgspec.Struct, frozen=True):
    """What TorchServe's routes are answered with.

    Attributes:
        context: Clock, ids, restrictions.
        keys: That callers must show; None = everybody may ask.
        more: Operations of others, by their names.
        max_body: Most bytes of a body.
    """

    door: PostingDoor
    handlers: Handlers
    exposition: Exposition
    context: RequestContext
    rules: TorchServeRules
    keys: TokenKeys | None = None
    more: Mapping[str, Method] = {}
    max_body: int = 64 << 20


class TorchServe:
    """The application.

    Args:
        app: Salver's own.
        surfaces: What the port serves; None = it is a port for everything.
        access: Who may change something there, and by which name it is asked.
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
        self._backing = backing
        self._rules = rules
        self._door = backing.door
        self._keys = backing.keys
        self._access = access
        self._is_common = surfaces is None
        self._surfaces: frozenset[Surface] = (
            frozenset(("inference", "management")) if surfaces is None else surfaces
        )
        self._most = rules.max_request or backing.max_body
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
        self._hangups = HangUps()

    def __repr__(self) -> str:
        return f"<TorchServe {'+'.join(sorted(self._surfaces))}>"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI entry point."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        path = scope.get("raw_path") or scope["path"].encode()
        target = self._targets.get((scope["method"], path))
        if target is not None:
            return self._predict(target, scope, receive, send)
        if self._is_common and not _may_be_own(scope["method"], path, scope["query_string"]):
            return self._app(scope, receive, send)
        return self._answer(scope, path, receive, send)

    # -- asking a model --

    def prompt(self, exchange: Exchange) -> bool:
        """Ask a model that calls back (:data:`salver.transport.http1.Prompt`)."""
        head, body = exchange.head, exchange.body
        known: tuple[Target, CallHeaders] | None = head.notes.get(self) or self._known(head)
        if known is None or not self._may_take(body):
            return False
        target, told = known
        if is_large(body, told.content_type):
            return False
        id = request_id_of(self._new_id())
        call = Call("ts-http", self._clock(), None, id)
        tell = functools.partial(self._tell, exchange, id)
        asked = target.asked
        try:
            if self._keys is not None or self._backing.context.http.guard is not None:
                self._check(asked, told.lower)
            asking = self._asking(target, told, body, (head.query, head.path), call)
        except SalverError as error:
            tell(http_fault(error, asked.model, asked.version), None)
            return True
        give_up = self._door.post(target.codec, asking, asked.model, asked.version, call, tell)
        if give_up is None:
            return False
        exchange.on_gone = give_up
        return True

    def _known(self, head: Head) -> tuple[Target, CallHeaders] | None:
        """Whom requests of this head ask, and what it says of them; None = not without a task."""
        target = self._targets.get((head.method, head.path))
        if target is None or target.is_shared or head.method == "HEAD":
            return None
        told = self._told_by(head.spelled, target)
        if told.sequence is not None or not self._access.knows_host(told.lower):
            return None
        head.notes[self] = target, told
        return target, told

    def _may_take(self, body: bytes | None) -> TypeGuard[bytes]:
        return body is not None and len(body) <= self._most

    def _tell(
        self, exchange: Exchange, id: str, reply: TorchServeReply | None, write_all: WriteAll | None
    ) -> None:
        """The answer; or there are pieces of it, and that writes them."""
        if reply is not None:
            data, keeps = self._layouts.of(reply, id, exchange.head.version, exchange.may_keep)
            exchange.answer(reply.status, data, keeps=keeps)
        elif write_all is not None:
            exchange.run(functools.partial(self._tell_all, exchange, id, write_all))

    async def _tell_all(self, exchange: Exchange, id: str, write_all: WriteAll) -> None:
        answer = Answer(exchange.send, exchange.head.method, id, self._cors)
        await write_all(answer.write)
        await answer.end()

    async def _predict(
        self, target: Target, scope: Scope, receive: Receive, send: Send, body: bytes | None = None
    ) -> None:
        """Ask the model, and write its answer.

        Args:
            body: What is read already; None = nothing is.
        """
        call = Call("ts-http", self._clock(), None, request_id_of(self._new_id()))
        told = self._told_by(scope.get("spelled") or scope["headers"], target)
        lower = told.lower
        answer = Answer(send, scope["method"], call.request_id, self._cors)
        task = None
        try:
            asked = target.asked
            self._access.check_host(lower)
            if target.is_shared and self._is_of_tensors(asked.model):
                self._check(asked, lower)
                await self._app(scope, receive, send)
                return
            if self._keys is not None or self._backing.context.http.guard is not None:
                self._check(asked, lower)
            if body is None and (body := await self._read(receive, lower)) is None:
                return  # the caller left before the request was there
            place = scope["query_string"], scope.get("raw_path") or b""
            asking = self._asking(target, told, body, place, call)
            task = self._watch(scope, receive)
            reply = await self._door.stream(
                target.codec, asking, asked.model, asked.version, call, answer.write
            )
        except SalverError as error:
            reply = http_fault(error, target.asked.model, target.asked.version)
        except asyncio.CancelledError:
            if is_shutting_down():
                raise
            return  # the caller hung up; nobody reads an answer
        except Exception as error:
            reply = http_fault(self._incident(scope, error))
        finally:
            if task is not None:
                self._hangups.leave(task)
        if reply is not None:
            await answer.write(reply)
        await answer.end()

    def _asking(
        self, target: Target, told: CallHeaders, body: bytes, place: tuple[bytes, bytes], call: Call
    ) -> Asking:
        """What the model is asked.

        Args:
            place: Query and path.

        Raises:
            NamedFault: the query is not encoded as it should be.
        """
        if told.is_unusual:
            self._look_closer(call, told.lower)
        if wanted := self._backing.context.interest.headers:
            take_traits(call, told.lower, wanted)
        call.is_large = is_large(body, told.content_type)
        query = query_of(*place) if place[0] and target.asked.takes_query else ()
        return Asking(body, told.content_type, told.shown, query, call.request_id, told.sequence)

    def _told_by(self, spelled: Iterable[tuple[bytes, bytes]], target: Target) -> CallHeaders:
        lower = {name.lower(): value for name, value in spelled}
        shown = {name.decode("latin-1"): value.decode("latin-1") for name, value in spelled}
        return CallHeaders(
            lower,
            {**shown, **target.headers},
            lower.get(b"content-type", b"").decode("latin-1"),
            self._sequence_of(lower) if self._sequence[0] in lower else None,
            not self._unusual.isdisjoint(lower),
        )

    def _watch(self, scope: Scope, receive: Receive) -> "asyncio.Task[Any] | None":
        """Have the current task cancelled if its caller hangs up; None = who serves it does so already."""
        if "spelled" in scope:
            return None
        return self._hangups.enter(receive if scope["http_version"] != "1.1" else scope)

    def _target(self, scope: Scope, path: bytes, asked: PathMatch) -> Target:
        """Whom that path asks; known from now on."""
        headers = {}
        if asked.explains is not None:
            headers["explain"] = "True" if asked.explains else "False"
        if asked.extra is not None:
            headers["url_path"] = asked.extra
        codec = Prediction(asked.model, asked.version, self._knows, self._rules.max_response)
        is_shared = asked.extra is None and not asked.takes_query
        target = Target(asked, codec, headers, is_shared)
        if scope["method"] != "OPTIONS":
            if len(self._targets) >= _KNOWN_PATHS:
                self._targets.clear()
            self._targets[scope["method"], path] = target
        return target

    def _knows(self, model: str) -> bool:
        try:
            self._backing.handlers.describe(model)
        except SalverError:
            return False
        return True

    def _is_of_tensors(self, model: str) -> bool:
        """Is it there, and no handler?"""
        try:
            return not self._door.signature(model)[1].takes_forms
        except SalverError:
            return False

    def _sequence_of(self, headers: Mapping[bytes, bytes]) -> tuple[str, bool, bool]:
        """TS-R17."""
        id, start, end = [headers.get(name, b"").decode("latin-1") for name in self._sequence]
        return id, start.lower() == "true", end.lower() == "true"

    def _look_closer(self, call: Call, headers: Mapping[bytes, bytes]) -> None:
        if b"traceparent" in headers:
            join_trace(call, headers[b"traceparent"], self._new_id)
        call.standing = from_headers(headers, self._backing.context.tenant_header)

    # -- everything else --

    async def _answer(self, scope: Scope, path: bytes, receive: Receive, send: Send) -> None:
        verb = scope["method"]
        lower: dict[bytes, bytes] = dict(scope["headers"])
        answer = Answer(send, verb, request_id_of(self._new_id()), self._cors)
        task = None
        try:
            self._access.check_host(lower)
            asked = self._asked(verb, path, lower)
            if asked is None:
                await self._app(scope, receive, send)
                return
            is_prediction = asked.operation in ("predict", "invocations")
            if is_prediction and asked.operation == "predict" and verb != "OPTIONS":
                await self._predict(self._target(scope, path, asked), scope, receive, send)
                return
            self._check(asked, lower)
            if asked.operation in self._changing:
                await self._access.permit(lower, asked.operation)
            if (body := await self._read(receive, lower)) is None:
                return
            query = tuple(query_of(scope["query_string"], path))
            request = Request(asked, verb, body, query, lower, scope.get("spelled") or scope["headers"])
            if asked.operation == "invocations":
                asked = asked._replace(model=await self._inference.meant(request))
            if is_prediction and verb == "OPTIONS":
                reply = self._inference.description(asked.model, asked.version)
            elif is_prediction:
                codec = Prediction(asked.model, "", self._knows, self._rules.max_response)
                await self._predict(Target(asked, codec, {}), scope, receive, send, body)
                return
            else:
                task = self._watch(scope, receive)
                reply = await self._run(request)
        except SalverError as error:
            reply = http_fault(error)
        except asyncio.CancelledError:
            if is_shutting_down():
                raise
            return
        except Exception as error:
            reply = http_fault(self._incident(scope, error))
        finally:
            if task is not None:
                self._hangups.leave(task)
        await answer.write(reply)
        await answer.end()

    def _asked(self, verb: str, path: bytes, headers: Mapping[bytes, bytes]) -> PathMatch | None:
        """What is meant; None = Salver's own application answers that.

        Raises:
            NoRoute, WrongVerb, NamedFault: nothing.
            Unauthenticated: it may not be known without a key.
        """
        if self._is_common and headers.get(b"content-type", b"").startswith(b"application/grpc"):
            return None
        if self._is_common and path == b"/metrics":
            return PathMatch("metrics")
        if self._is_common and not _is_own(path):
            return PathMatch("describe_port") if verb == "OPTIONS" else find_oldest(verb, path)
        try:
            return find(verb, path, self._surfaces, speaks_oip=self._rules.speaks_oip)
        except SalverError:
            self._check(_ANYTHING, headers)
            raise

    def _check(self, asked: PathMatch, headers: Mapping[bytes, bytes]) -> None:
        """May the caller do that?

        Raises:
            Unauthenticated: not without a key (TS-B11).
            Forbidden: not without a secret (TR-R34).
            WrongVerb: it is a change, and this is a port for everything (X-30).
        """
        if self._is_common:
            guard = self._backing.context.http.guard
            if guard is not None:
                guard.check(_GROUPS.get(asked.operation, "inference"), headers)
        if self._keys is not None and asked.surface in ("inference", "management"):
            wanted: tuple[KeyScope, ...] = (asked.surface,)
            if asked is _ANYTHING:
                wanted = tuple([scope for scope in SCOPES if scope in self._surfaces])
                if not wanted:
                    return
            self._keys.check(headers.get(b"authorization", b"").decode("latin-1"), *wanted)

    async def _run(self, request: Request) -> TorchServeReply:
        asked = request.asked
        if asked.operation == "token" and self._keys is None:
            raise NoRoute("there are no keys")
        if self._is_common and asked.operation in _CHANGES and not self._rules.may_change:
            raise WrongVerb("models are not to be changed by requests (enable_model_api)")
        method = self._methods.get(asked.operation)
        if method is None:
            raise NoRoute("nobody does that here")
        return await method(request)

    @reads
    async def _describe_port(self, request: Request) -> TorchServeReply:
        has = self._surfaces.__contains__
        return replied(of_port(infers=has("inference"), manages=has("management")))

    @reads
    async def _metrics(self, request: Request) -> TorchServeReply:
        """TS-M11: names that are asked for, or all."""
        if not self._rules.has_metrics:
            raise NoRoute("enable_metrics_api is false")
        page = b""
        if self._rules.shows_metrics:
            page, _ = self._backing.exposition.metrics("")
            page = chosen(page, [value for name, value in request.query if name == "name[]"])
        return TorchServeReply(200, page, ((b"content-type", PLAIN),))

    async def _read(self, receive: Receive, headers: Mapping[bytes, bytes]) -> bytes | None:
        """The whole body; None if the caller left meanwhile.

        Raises:
            TooLarge: it is over the limit.
        """
        message = await receive()
        body: bytes = message.get("body", b"")
        declared = headers.get(b"content-length", b"")
        if len(body) > self._most or (declared.isdigit() and int(declared) > self._most):
            raise TooLarge("max_request_size")
        if message.get("more_body"):
            pieces, size = [body], len(body)
            while message.get("more_body"):
                message = await receive()
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
                if size > self._most or len(pieces) > MOST_CHUNKS:
                    raise TooLarge("max_request_size")
            body = b"".join(pieces)
        return body if message["type"] == "http.request" else None

    def _incident(self, scope: Scope, error: Exception) -> Internal:
        incident = self._new_id()
        _LOG.exception("incident %s: %r", incident, scope["path"], exc_info=error)
        return Internal.incident(incident)


def _is_own(path: bytes) -> bool:
    """Does it begin as TorchServe's do, and nobody else's?"""
    return path[1:].partition(b"/")[0].decode("latin-1") in OWN


def _may_be_own(verb: str, path: bytes, query: bytes) -> bool:
    """Is it worth a look, on a port for everything (X-8, X-22, X-23)?"""
    if path.startswith((b"/v2/", b"/v1/", b"/V1/")):
        return False
    if path == b"/metrics":
        return query != b""
    return _is_own(path) or path.endswith(b"/predict") or verb == "OPTIONS"

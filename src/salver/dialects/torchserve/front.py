"""ASGI application that answers TorchServe's routes, around Salver's own application.

A port of TorchServe's has TorchServe's routes only; a port for everything passes on other paths.
The path of an earlier prediction is found without matching and, over HTTP/1.1, answered without a task. What
a path means and who may use it is in ``port_paths.py``, other operations are in ``port_operations.py``.
"""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeGuard

import msgspec

from salver.dialects.torchserve.answer import Answer, Layouts, request_id_of
from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.bodies import is_large, query_of
from salver.dialects.torchserve.faults import http_fault
from salver.dialects.torchserve.json_layout import TorchServeReply
from salver.dialects.torchserve.operations import Request
from salver.dialects.torchserve.paths import PathMatch, Surface, may_be_own
from salver.dialects.torchserve.port_operations import PortOperations
from salver.dialects.torchserve.port_paths import PortPaths
from salver.dialects.torchserve.queries import CallHeaders, QueryReader, Target
from salver.transport.access_check import LOCAL, Access, RawHeaders, begun
from salver.transport.budget import Budget, Share
from salver.transport.doors import App, Receive, Scope, Send
from salver.transport.exchange import Exchange, Prompt, PromptFinder, never
from salver.transport.http1 import Http1Exchange
from salver.transport.http1_head import Head
from salver.transport.reading import read_whole
from salver.words.errors import Internal, NotResident, SalverError, TooLarge
from salver.words.messages import Call, Grant

_LOG = logging.getLogger("salver.torchserve")
#: Writes all pieces of an answer.
WriteAll = Callable[[Callable[[TorchServeReply], Awaitable[None]]], Awaitable[None]]
#: Operations that leave out the models that their caller may not read.
_LISTS: Final = frozenset(("list", "list_workflows"))


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
        self._paths = PortPaths(backing, surfaces, access.keys)
        self._targets = self._paths.targets
        self._is_common = surfaces is None
        self._operations = PortOperations(backing, self._paths)
        self._reader = QueryReader(context, rules)
        self._door = backing.door
        self._access = access
        self._most = rules.max_request or backing.max_body
        self._budget = context.budget or Budget()
        self._clock = context.clock
        self._new_id = context.new_id
        self._layouts = Layouts(rules.cors)

    def __repr__(self) -> str:
        return f"<TorchServe {'+'.join(sorted(self._paths.surfaces))}>"

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
            if self._find_inner is None:
                return never
            return self._find_inner(head)
        if target.is_shared or head.method == "HEAD" or head.version == "2":
            return None
        headers = self._reader.headers(head.spelled, target)
        if headers.sequence is not None or not self._access.knows_host(headers.lower):
            return None
        if self._access.keys is None:
            return functools.partial(self._ask, target, headers, None)
        try:
            grant = self._admit(target.match, head.headers, is_trial=True)
        except SalverError:
            return None  # the task tells it
        prompt = functools.partial(self._ask, target, headers, grant)
        if self._is_for_own_key(target.match, head.headers):
            return prompt  # which checks it each time
        return self._access.keys.lasting(prompt, head.headers)

    def _admit(self, match: PathMatch, raw: RawHeaders, *, is_trial: bool = False) -> Grant | None:
        """Check the caller's key; return the check of a model that the path does not name.

        Raises:
            Unidentified, InvalidInput, OutOfScope: it is missing, wrong, or not for this.
        """
        keys, operation = self._access.keys, match.operation
        if keys is None:
            return None
        right = self._paths.right(match, changes=operation in self._operations.changing)
        if right is None or self._is_for_own_key(match, raw):
            return None
        is_later = operation in _LISTS or (operation == "invocations" and not match.model)
        return keys.admit(raw, right, match.model, is_later=is_later, is_trial=is_trial)

    def _is_for_own_key(self, match: PathMatch, raw: RawHeaders) -> bool:
        """Return whether a key of TorchServe's own decides, as the caller has none of the server's."""
        keys = self._access.keys
        return keys is None or (self._paths.has_own_keys(match) and keys.own(raw) is None)

    def _ask(self, target: Target, headers: CallHeaders, grant: Grant | None, exchange: Exchange) -> bool:
        assert isinstance(exchange, Http1Exchange)
        head, body = exchange.head, exchange.body
        if not self._may_take(body) or is_large(body, headers.content_type):
            return False
        id = request_id_of(self._new_id())
        call = Call("ts-http", self._clock(), None, id, grant=grant)
        respond = functools.partial(self._respond, exchange, id)
        match = target.match
        try:
            if self._paths.is_guarded:
                self._paths.check(match, headers.lower)
            query = self._reader.query(target, headers, body, (head.query, head.path), call)
        except SalverError as error:
            respond(http_fault(error, match.model, match.version), None)
            return True
        give_up = self._door.post(
            target.codec, query, match.model, match.version, call, respond, takes_pieces=True
        )
        if give_up is None:
            if grant is not None and grant.is_stale:
                head.notes.clear()  # the task asks for the key again
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
        answer = Answer(exchange.send, exchange.head.method, id, self._layouts.cors)
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
        headers = self._reader.headers(scope.get("spelled") or scope["headers"], target)
        match, lower = target.match, headers.lower
        answer = Answer(send, scope["method"], call.request_id, self._layouts.cors)
        share = Share(self._budget)
        try:
            self._access.check_host(lower)
            call.grant = self._admit(match, scope["headers"])
            if target.is_shared and self._takes_tensors(match.model):
                self._paths.check(match, lower)
                await self._app(scope, receive, send)
                return
            if self._paths.is_guarded:
                self._paths.check(match, lower)
            if body is None and (body := await self._read(receive, lower, share)) is None:
                return  # the caller hung up before the request was complete
            place = scope["query_string"], scope.get("raw_path") or b""
            query = self._reader.query(target, headers, body, place, call)
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

    def _takes_tensors(self, model: str) -> bool:
        """Return whether a model is loaded and is no handler."""
        try:
            return not self._door.signature(model)[1].takes_forms
        except NotResident:  # handlers always are
            return True
        except SalverError:
            return False

    # -- other operations --

    async def _answer(self, scope: Scope, path: bytes, receive: Receive, send: Send) -> None:
        verb = scope["method"]
        lower: dict[bytes, bytes] = dict(scope["headers"])
        answer = Answer(send, verb, request_id_of(self._new_id()), self._layouts.cors)
        share = Share(self._budget)
        try:
            self._access.check_host(lower)
            match = self._paths.match(verb, path, lower)
            if match is None:
                await self._app(scope, receive, send)
                return
            operation = match.operation
            if operation == "predict" and verb != "OPTIONS":  # checks the key itself
                await self._predict(self._paths.target(verb, path, match), scope, receive, send)
                return
            grant = self._admit(match, scope["headers"])
            self._paths.check(match, lower)
            if operation in self._operations.changing:
                await self._access.permit(lower, operation)
            if (body := await self._read(receive, lower, share)) is None:
                return
            query = tuple(query_of(scope["query_string"], path))
            request = Request(match, verb, body, query, lower, scope.get("spelled") or scope["headers"])
            if grant is not None:
                request = msgspec.structs.replace(request, may_see=grant.allows)
            if operation == "invocations":
                match = match._replace(model=await self._find_model(request, grant))
            if operation in ("predict", "invocations") and verb == "OPTIONS":
                reply = self._operations.inference.description(match.model, match.version)
            elif operation == "invocations":
                target = Target(match, self._paths.codec(match.model, ""), {})
                await self._predict(target, scope, receive, send, body)
                return
            else:
                reply = await self._run(request, grant)
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

    async def _run(self, request: Request, grant: Grant | None) -> TorchServeReply:
        """Answer a request; a prediction of a workflow, whose models are called inside, counts as one."""
        if grant is None or request.match.operation != "predict_workflow":
            return await self._operations.run(request)
        model = request.match.model
        charge = await begun(grant, model)
        if isinstance(charge, SalverError):
            raise charge
        try:
            return await self._operations.run(request)
        finally:
            if charge is not None:
                charge.leave()

    async def _find_model(self, request: Request, grant: Grant | None) -> str:
        """Return the model that a request names elsewhere than in its path.

        Raises:
            SalverError: there is none; Forbidden to a caller who may not know which models there are.
        """
        try:
            return await self._operations.inference.find_model(request)
        except SalverError:
            if grant is not None:
                grant.check("")
            raise

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

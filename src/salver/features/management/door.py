"""What does a port show beside the protocols of inference?

``/api/…`` and the pages of ``/console/…``, at the port that serves everything; all else goes on to the
application behind it. It reads a request within its limit, writes the answer, and tells errors as RFC 9457
has them.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import orjson

from salver.encoding.bodies import HttpReply
from salver.features.management.faults import api_fault
from salver.features.management.openapi import describe
from salver.transport.access_check import Access, Caller, check_role
from salver.transport.calls import printable
from salver.transport.doors import App, Receive, Scope, Send, say
from salver.transport.operations import Answer, Api, ApiRequest, Operation, read_query, tag_of
from salver.transport.pages import Sites
from salver.transport.reading import read_whole
from salver.words.errors import Internal, InvalidInput, SalverError, TooLarge, Unauthenticated, WrongVerb

_LOG = logging.getLogger("salver.api")
DESCRIPTION: Final = "/api/openapi.json"
_KIND: Final = (b"content-type", b"application/json")
#: What browsers are told of every answer: guess no type, and hand it to no page of another origin.
_ALWAYS: Final = ((b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin"))
#: Ask again each time; of a change, whose answer may hold a secret, keep nothing.
_ASK_AGAIN: Final = (b"cache-control", b"no-cache")
_KEEP_NOTHING: Final = (b"cache-control", b"no-store")


class Management:
    """The application behind one port, with the management interface and the console in front of it.

    Args:
        app: What serves all other paths.
        pages: Serve the paths below their roots.
        version: Of the server, for the description.
    """

    def __init__(
        self, app: App, api: Api, access: Access, pages: Sites, new_id: Callable[[], str], version: str
    ) -> None:
        self._app = app
        self._api = api
        self._access = access
        self._pages = pages
        self._roots = tuple(f"/{root}" for root in pages.roots)  # one look, for the many that are no pages
        self._new_id = new_id
        self._version = version

    def __repr__(self) -> str:
        return f"<Management {self._api!r} {self._access!r}>"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """The ASGI entry point."""
        if scope["type"] == "http":
            path = scope["path"]
            if path.startswith("/api/"):
                return self._answer(scope, receive, send)
            if path.startswith(self._roots) and path.split("/", 2)[1] in self._pages.roots:
                return self._show(scope, receive, send)
        return self._app(scope, receive, send)

    async def _show(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self._access.check_host(dict(scope["headers"]))
        except SalverError as error:
            await say(send, api_fault(error))
        else:
            await self._pages(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        try:
            reply = await self._reply(scope, headers, receive)
        except WrongVerb as error:
            fault = api_fault(error)
            reply = HttpReply(fault.status, fault.body, (*fault.headers, self._allow(scope)))
        except SalverError as error:
            reply = api_fault(error)
        except Exception as error:
            incident = self._new_id()
            _LOG.exception("incident %s: %r", incident, scope["path"], exc_info=error)
            reply = api_fault(Internal.incident(incident))
        if reply is not None:
            keeps = _ASK_AGAIN if scope["method"] in ("GET", "HEAD") else _KEEP_NOTHING
            whole = HttpReply(reply.status, reply.body, (*reply.headers, keeps, *_ALWAYS))
            await say(send, whole, scope["method"])

    def _allow(self, scope: Scope) -> tuple[bytes, bytes]:
        """RFC 9110, sections 9.3.7 and 15.5.6."""
        verbs = ("GET", "HEAD") if _path(scope) == DESCRIPTION else self._api.verbs(_path(scope))
        return b"allow", ", ".join(verbs).encode()

    async def _reply(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive
    ) -> HttpReply | None:
        """None: the caller has left."""
        verb, path = scope["method"], _path(scope)
        if path == DESCRIPTION:
            self._access.check(headers, "metadata", changes=False)
            if verb not in ("GET", "HEAD"):
                raise WrongVerb(f"{path} is only read")
            return _tagged(200, orjson.dumps(describe(self._api.operations, self._version)), headers)
        if verb == "OPTIONS" and self._api.verbs(path):
            return HttpReply(200, b"", (self._allow(scope),))
        operation, names = self._api.find(verb, path)
        self._access.check(headers, operation.group, changes=operation.changes)
        caller = await self._caller(headers, operation) if operation.changes else Caller("")
        expected = _etags(headers.get(b"if-match", b""))
        if expected and operation.changes and not operation.is_conditional:
            raise InvalidInput(
                f"{operation.name} does not mind if-match", field="if-match", fix="Leave it out."
            )
        try:
            body = await read_whole(await receive(), headers, receive, operation.most_body)
        except TooLarge as error:
            raise TooLarge(
                f"the body of {operation.name} may have {operation.most_body} bytes",
                field="body",
                fix="Send less at once.",
            ) from error
        if body is None:
            return None
        asked = ApiRequest(
            names,
            read_query(operation, scope.get("query_string") or b""),
            await self._api.record(operation, body),
            caller,
            expected,
            self._access.changing,
        )
        return _written(operation, await operation.run(asked), headers)

    async def _caller(self, headers: Mapping[bytes, bytes], operation: Operation) -> Caller:
        """Who changes something. Raises Unauthenticated, Forbidden."""
        try:
            caller = await self._access.caller(headers)
        except Unauthenticated:
            _LOG.warning("nobody's token wished %s", operation.name)  # never the token itself
            raise
        check_role(caller, operation.role, operation.name)
        return caller


def _path(scope: Scope) -> str:
    """As it was sent, so that a slash in a name is told from one between two."""
    return str((scope.get("raw_path") or scope["path"].encode()).decode("latin-1"))


def _written(operation: Operation, answer: Answer, headers: Mapping[bytes, bytes]) -> HttpReply:
    body = msgspec.json.encode(answer.body)
    if operation.verb == "GET":
        return _tagged(operation.status, body, headers, answer.etag)
    tags = (_entity_tag(answer.etag),) if answer.etag else ()
    return HttpReply(operation.status, body, (_KIND, *tags))


def _tagged(status: int, body: bytes, headers: Mapping[bytes, bytes], etag: str = "") -> HttpReply:
    """The whole answer, or that it is the one that the caller has (RFC 9110, section 13.1.2)."""
    etag = etag or tag_of(body)
    if _etags(headers.get(b"if-none-match", b"")) & {etag, "*"}:
        return HttpReply(304, b"", (_entity_tag(etag),))
    return HttpReply(status, body, (_KIND, _entity_tag(etag)))


def _entity_tag(etag: str) -> tuple[bytes, bytes]:
    return b"etag", b'"%s"' % etag.encode()


def _etags(header: bytes) -> frozenset[str]:
    """What entity tags name, weak or not: proxies that compress weaken them."""
    parts = (printable(part.strip().removeprefix(b"W/").strip(b'"')) for part in header.split(b","))
    return frozenset(part for part in parts if part)

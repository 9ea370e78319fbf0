"""ASGI application for ``/api/…`` and the pages of the console, in front of the inference protocols.

Other paths go to the application behind it. It reads requests within a size limit, writes answers, and
reports errors according to RFC 9457.
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
from salver.transport.operations import Answer, Api, ApiRequest, Operation, read_query, right_of, tag_of
from salver.transport.pages import Sites
from salver.transport.reading import read_whole
from salver.words.errors import (
    Internal,
    InvalidInput,
    SalverError,
    TooLarge,
    Unauthenticated,
    Unidentified,
    WrongVerb,
)

_LOG = logging.getLogger("salver.api")
DESCRIPTION: Final = "/api/openapi.json"
_KIND: Final = (b"content-type", b"application/json")
#: Headers of every answer: no content sniffing, and no use by pages of other origins.
_ALWAYS: Final = ((b"x-content-type-options", b"nosniff"), (b"cross-origin-resource-policy", b"same-origin"))
#: Caching: revalidate each time; never store the answer to a change, which may contain a secret.
_ASK_AGAIN: Final = (b"cache-control", b"no-cache")
_KEEP_NOTHING: Final = (b"cache-control", b"no-store")
#: Rights of operations that are about keys, which are told the caller's.
_OF_KEYS: Final = ("known", "access")
#: Lets a browser send the key as a password (RFC 7617).
_FOR_BROWSERS: Final = (b"www-authenticate", b'Basic realm="salver", charset="UTF-8"')


class Management:
    """Application of one port, with the management API and the console in front of another application.

    Args:
        app: Application for all other paths.
        pages: Serve the paths below their roots.
        version: Version of the server, for the description.
    """

    def __init__(
        self, app: App, api: Api, access: Access, pages: Sites, new_id: Callable[[], str], version: str
    ) -> None:
        self._app = app
        self._api = api
        self._access = access
        self._pages = pages
        # a single check, because most paths are not pages
        self._roots = tuple(f"/{root}" for root in pages.roots)
        self._new_id = new_id
        self._version = version

    def __repr__(self) -> str:
        return f"<Management {self._api!r} {self._access!r}>"

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Handle an ASGI request."""
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
            await self._access.admit(scope["headers"], "known", "")
        except Unidentified as error:
            await say(send, _asked_by_browsers(error))
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
        except Unidentified as error:
            reply = _asked_by_browsers(error)
        except SalverError as error:
            reply = api_fault(error)
        except Exception as error:
            incident = self._new_id()
            _LOG.exception("incident %s: %r", incident, scope["path"], exc_info=error)
            reply = api_fault(Internal.incident(incident))
        if reply is not None:
            keeps = _KEEP_NOTHING
            if scope["method"] in ("GET", "HEAD"):
                keeps = _ASK_AGAIN
            whole = HttpReply(reply.status, reply.body, (*reply.headers, keeps, *_ALWAYS))
            await say(send, whole, scope["method"])

    def _allow(self, scope: Scope) -> tuple[bytes, bytes]:
        """Return the allowed verbs (RFC 9110, sections 9.3.7 and 15.5.6)."""
        verbs = ("GET", "HEAD") if _path(scope) == DESCRIPTION else self._api.verbs(_path(scope))
        return b"allow", ", ".join(verbs).encode()

    async def _reply(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive
    ) -> HttpReply | None:
        """Return the answer; None = the caller has disconnected."""
        verb, path = scope["method"], _path(scope)
        if path == DESCRIPTION:
            self._access.check(headers, "metadata", changes=False)
            await self._access.admit(scope["headers"], "known", "")
            if verb not in ("GET", "HEAD"):
                raise WrongVerb(f"{path} is only read")
            return _tagged(200, orjson.dumps(describe(self._api.operations, self._version)), headers)
        if verb == "OPTIONS" and self._api.verbs(path):
            return HttpReply(200, b"", (self._allow(scope),))
        operation, names = self._api.find(verb, path)
        right, model = right_of(operation), names.get("model", "")
        grant = await self._access.admit(scope["headers"], right, model, is_later=operation.filters)
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
            self._access.own(scope["headers"]) if operation.right in _OF_KEYS else None,
            grant,
        )
        return _written(operation, await operation.run(asked), headers)

    async def _caller(self, headers: Mapping[bytes, bytes], operation: Operation) -> Caller:
        """Return the caller for a change. Raises Unauthenticated, Forbidden."""
        try:
            caller = await self._access.caller(headers)
        except Unauthenticated:
            _LOG.warning("request without a valid token to %s", operation.name)  # never the token itself
            raise
        check_role(caller, operation.role, operation.name)
        return caller


def _asked_by_browsers(error: Unidentified) -> HttpReply:
    """Return the answer for which browsers ask for a name and a password, which is the key."""
    fault = api_fault(error)
    return HttpReply(fault.status, fault.body, (*fault.headers, _FOR_BROWSERS))


def _path(scope: Scope) -> str:
    """Return the path as it was sent, so that an encoded slash differs from a separator."""
    return str((scope.get("raw_path") or scope["path"].encode()).decode("latin-1"))


def _written(operation: Operation, answer: Answer, headers: Mapping[bytes, bytes]) -> HttpReply:
    body = msgspec.json.encode(answer.body)
    if operation.verb == "GET":
        return _tagged(operation.status, body, headers, answer.etag)
    tags = (_entity_tag(answer.etag),) if answer.etag else ()
    return HttpReply(operation.status, body, (_KIND, *tags))


def _tagged(status: int, body: bytes, headers: Mapping[bytes, bytes], etag: str = "") -> HttpReply:
    """Return the answer, or 304 if the caller already has it (RFC 9110, section 13.1.2)."""
    etag = etag or tag_of(body)
    if _etags(headers.get(b"if-none-match", b"")) & {etag, "*"}:
        return HttpReply(304, b"", (_entity_tag(etag),))
    return HttpReply(status, body, (_KIND, _entity_tag(etag)))


def _entity_tag(etag: str) -> tuple[bytes, bytes]:
    return b"etag", b'"%s"' % etag.encode()


def _etags(header: bytes) -> frozenset[str]:
    """Return the values of entity tags, weak or not: compressing proxies weaken them."""
    parts = (printable(part.strip().removeprefix(b"W/").strip(b'"')) for part in header.split(b","))
    return frozenset(part for part in parts if part)

"""What does a port show beside the protocols of inference?

``/api/…`` and the pages of ``/console/…``, at the port that serves everything; all else goes on to the
application behind it. It reads a request within its limit, writes the answer, and tells errors as RFC 9457
has them.
"""

import hashlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
import orjson

from salver.errors import Internal, SalverError, TooLarge
from salver.transport.api.access import Access, Caller
from salver.transport.api.openapi import describe
from salver.transport.api.table import Answer, Api, Asked, Operation, read_body, read_query
from salver.transport.calls import printable
from salver.transport.doors import App, Receive, Scope, Send, say
from salver.transport.reading import read_whole
from salver.wire.bodies import HttpReply
from salver.wire.faults import api_fault

_LOG = logging.getLogger("salver.api")
DESCRIPTION: Final = "/api/openapi.json"
_KIND: Final = (b"content-type", b"application/json")
#: What browsers are told of every answer: ask again each time, and guess no type.
_ALWAYS: Final = ((b"cache-control", b"no-cache"), (b"x-content-type-options", b"nosniff"))


class Management:
    """The application behind one port, with the management interface and the console in front of it.

    Args:
        app: What serves all other paths.
        pages: Serves paths below ``/console``.
        version: Of the server, for the description.
    """

    def __init__(
        self, app: App, api: Api, access: Access, pages: App, new_id: Callable[[], str], version: str
    ) -> None:
        self._app = app
        self._api = api
        self._access = access
        self._pages = pages
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
            if path == "/console" or path.startswith("/console/"):
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
        except SalverError as error:
            reply = api_fault(error)
        except Exception as error:
            incident = self._new_id()
            _LOG.exception("incident %s: %r", incident, scope["path"], exc_info=error)
            reply = api_fault(Internal.incident(incident))
        if reply is not None:
            await say(send, HttpReply(reply.status, reply.body, (*reply.headers, *_ALWAYS)), scope["method"])

    async def _reply(
        self, scope: Scope, headers: Mapping[bytes, bytes], receive: Receive
    ) -> HttpReply | None:
        """None: the caller has left."""
        verb = scope["method"]
        path = (scope.get("raw_path") or scope["path"].encode()).decode("latin-1")
        if path == DESCRIPTION:
            self._access.check(headers, "metadata", changes=False)
            return HttpReply(200, orjson.dumps(describe(self._api.operations, self._version)), (_KIND,))
        operation, names = self._api.find(verb, path)
        self._access.check(headers, operation.group, changes=operation.changes)
        caller = await self._access.caller(headers) if operation.changes else Caller("")
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
        asked = Asked(
            names,
            read_query(operation, scope.get("query_string") or b""),
            read_body(operation, body),
            caller,
            _etag(headers.get(b"if-match", b"")),
            self._access.changing,
        )
        return _written(operation, await operation.run(asked), headers)


def _written(operation: Operation, answer: Answer, headers: Mapping[bytes, bytes]) -> HttpReply:
    body = msgspec.json.encode(answer.body)
    if operation.changes and not answer.etag:
        return HttpReply(operation.status, body, (_KIND,))
    etag = answer.etag or hashlib.blake2b(body, digest_size=12).hexdigest()
    tagged = (b"etag", b'"%s"' % etag.encode())
    if not operation.changes and _etag(headers.get(b"if-none-match", b"")) == etag:
        return HttpReply(304, b"", (tagged,))
    return HttpReply(operation.status, body, (_KIND, tagged))


def _etag(header: bytes) -> str:
    """What one entity tag names, weak or not."""
    return printable(header.strip().removeprefix(b"W/").strip(b'"'))

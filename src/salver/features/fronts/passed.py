"""Requests that a front has passed on, answered by the application of the home process."""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Final

import msgspec

from salver.features.fronts.messages import Answer, Begin, Failed, Gone, Piece, Pull, Read, Trailers
from salver.transport.doors import App

_LOG: Final = logging.getLogger("salver.fronts")
_ASGI: Final = {"version": "3.0", "spec_version": "2.4"}
#: Bytes of an answer in pieces that may be on their way to the caller.
_MOST_UNREAD: Final = 1 << 18

Send = Callable[[msgspec.Struct], None]


class PassedRequest:
    """Request with its answer, as an ASGI application sees it.

    Args:
        send: Sends a message to the front.
    """

    def __init__(self, begin: Begin, send: Send) -> None:
        self._begin = begin
        self._send = send
        #: Piece that the application has not received.
        self._piece: Begin | Piece | None = begin if begin.body or not begin.more else None
        self._has_body = not begin.more
        self._come: asyncio.Future[None] | None = None
        self._start: dict[str, Any] | None = None  # head of the answer, until the first piece of the body
        self._trails = False
        self._unread = 0
        self._room: asyncio.Future[None] | None = None
        self.is_whole = self.is_gone = False

    def __repr__(self) -> str:
        return f"<PassedRequest {self._begin.number} {self._begin.method} {self._begin.path!r}>"

    async def run(self, app: App) -> None:
        """Have the application answer."""
        begin = self._begin
        scope = {
            "type": "http",
            "asgi": _ASGI,
            "http_version": begin.version,
            "method": begin.method,
            "scheme": begin.scheme,
            "path": begin.path.decode("latin-1"),
            "raw_path": begin.path,
            "query_string": begin.query,
            "root_path": "",
            "headers": begin.headers,
            "spelled": begin.spelled,
            "lag": begin.lag,
            "client": begin.client,
            "server": begin.server,
        }
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.is_gone:
                raise
        except Exception:
            _LOG.exception("the application failed")
        finally:
            if not (self.is_whole or self.is_gone):
                self._send(Failed(begin.number))

    # -- called by the application --

    async def receive(self) -> dict[str, Any]:
        """Return the next piece of the body; afterwards, wait until the caller is gone."""
        if self._piece is None:
            loop = asyncio.get_running_loop()
            if self._has_body:
                await loop.create_future()  # until the task is cancelled
            self._come = loop.create_future()
            self._send(Pull(self._begin.number))
            await self._come
        piece, self._piece = self._piece, None
        assert piece is not None
        if isinstance(piece, Piece) and piece.is_gone:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": piece.body, "more_body": piece.more, "count": piece.count}

    async def send(self, message: dict[str, Any]) -> None:
        """Send a part of the answer to the front."""
        kind, number = message["type"], self._begin.number
        if kind == "http.response.start":
            self._start, self._trails = message, message.get("trailers", False)
            return
        if kind == "http.response.trailers":
            self._send(Trailers(number, tuple(message["headers"])))
            self.is_whole = True
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        start, self._start = self._start, None
        status, headers, reason = 0, (), None
        if start is not None:
            status, headers, reason = start["status"], tuple(start["headers"]), start.get("reason")
        self._send(Answer(number, status, headers, reason, self._trails, body, more))
        self.is_whole = not (more or self._trails)
        if more:
            self._unread += len(body)
            while self._unread > _MOST_UNREAD:
                self._room = asyncio.get_running_loop().create_future()
                await self._room

    # -- called by the front's messages --

    def hear(self, message: Piece | Read) -> None:
        """Take a piece of the body, or note what the caller has taken of the answer."""
        if isinstance(message, Piece):
            self._piece, self._has_body = message, not message.more
            waiting = self._come
        else:
            self._unread -= message.size
            waiting = self._room
        if waiting is not None and not waiting.done():
            waiting.set_result(None)


class PassedRequests:
    """Requests of one front that are being answered.

    Args:
        app: Application of the port.
        send: Sends a message to the front.
    """

    def __init__(self, app: App, send: Send) -> None:
        self._app = app
        self._send = send
        self._open: dict[int, tuple[PassedRequest, asyncio.Task[None]]] = {}

    def __repr__(self) -> str:
        return f"<PassedRequests, {len(self._open)} open>"

    def begin(self, begin: Begin) -> None:
        """Begin to answer a request."""
        request = PassedRequest(begin, self._send)
        task = asyncio.get_running_loop().create_task(request.run(self._app))
        self._open[begin.number] = request, task
        task.add_done_callback(lambda _: self._open.pop(begin.number, None))

    def hear(self, message: Piece | Gone | Read) -> None:
        """Take a message about a request; it may have ended."""
        request, task = self._open.get(message.number, (None, None))
        if request is None or task is None:
            return
        if isinstance(message, Gone):
            request.is_gone = True
            task.cancel()
        else:
            request.hear(message)

    def abandon(self) -> None:
        """Cancel all requests, because their front is gone."""
        for request, task in list(self._open.values()):
            request.is_gone = True
            task.cancel()

"""Requests that a front has passed on, answered by the application of the home process."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from salver.features.fronts.messages import Answer, Begin, Failed, Piece, Pull, Read, Trailers
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
        forget: Called when it has ended.

    Attributes:
        on_gone: Called when the caller goes, if there is no task to cancel.
    """

    def __init__(self, begin: Begin, send: Send, forget: Callable[[int], object]) -> None:
        self._begin = begin
        self._send = send
        self._forget = forget
        #: Piece that the application has not received.
        self._piece: Begin | Piece | None = begin if begin.body or not begin.more else None
        self._has_body = not begin.more
        self._come: asyncio.Future[None] | None = None
        self._start: dict[str, Any] | None = None  # head of the answer, until the first piece of the body
        self._trails = False
        self._unread = 0
        self._room: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_whole = self._is_gone = False
        self.on_gone: Callable[[], None] = _nothing

    def __repr__(self) -> str:
        return f"<PassedRequest {self._begin.number} {self._begin.method} {self._begin.path!r}>"

    @property
    def number(self) -> int:
        """Number of the request."""
        return self._begin.number

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the caller; None = it came by a UNIX socket."""
        return self._begin.client

    def ask(self, app: App) -> Awaitable[None]:
        """Call an application."""
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
        return app(scope, self.receive, self.send)

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        """Answer with a task."""
        self._task = asyncio.get_running_loop().create_task(self._run(work))

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            if not self._is_gone:
                raise
        except Exception:
            _LOG.exception("the application failed")
        finally:
            if not self._is_whole:
                self.finish(Failed(self._begin.number))

    def finish(self, message: msgspec.Struct) -> None:
        """Send the last message, or the whole answer."""
        self._is_whole = True
        self.on_gone = _nothing  # breaks the reference cycle of each request
        self._forget(self._begin.number)
        if not self._is_gone:
            self._send(message)

    def leave(self) -> None:
        """Cancel the request, because its caller or its front is gone."""
        self._is_gone = True
        if self._task is not None:
            self._task.cancel()
        else:
            self.on_gone()

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
            self.finish(Trailers(number, tuple(message["headers"])))
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        start, self._start = self._start, None
        status, headers, reason = 0, (), None
        if start is not None:
            status, headers, reason = start["status"], tuple(start["headers"]), start.get("reason")
        answer = Answer(number, status, headers, reason, self._trails, body, more)
        if not (more or self._trails):
            self.finish(answer)
            return
        self._send(answer)
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


def _nothing() -> None:
    pass

"""Front: passes requests on to the home process, and runs copies of models that need nothing of it."""

import asyncio
import contextlib
import logging
import os
import pickle
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import msgspec

from salver.features.fronts.channel import Channel
from salver.features.fronts.messages import (
    Ack,
    Answer,
    Begin,
    Copies,
    Failed,
    FromHome,
    Gone,
    Happened,
    Logged,
    Piece,
    Pull,
    Read,
    Trailers,
)
from salver.features.fronts.names import GRPC_INFER, called, first_text, path_name
from salver.parts import Kernel
from salver.transport.budget import COUNTED
from salver.transport.doors import App, Receive, Scope, Send
from salver.transport.exchange import Exchange, Prompt, PromptFinder, never
from salver.transport.http1_head import Head
from salver.words.artifacts import Manifest
from salver.words.errors import Internal
from salver.words.events import BatchRan, Event, Served, StateChanged

_GRPC: Final = b"application/grpc"
#: Headers of requests that only the home process can answer.
_HOME_ONLY: Final = frozenset((b"expect", b"upgrade", b"endpoint-load-metrics-format"))
#: Seconds in which a body comes whole from usual callers, who may send it after its head.
_SOON_S: Final = 0.1
#: Call that has the gRPC methods imported.
_HEALTH: Final = "/grpc.health.v1.Health/Check"


class OpenRequest:
    """Request that the home process answers."""

    def __init__(self) -> None:
        self._messages: list[FromHome] = []
        self._come: asyncio.Future[None] | None = None
        self.pulling: asyncio.Task[None] | None = None

    def hear(self, message: FromHome) -> None:
        """Take a message."""
        self._messages.append(message)
        if self._come is not None and not self._come.done():
            self._come.set_result(None)

    async def next(self) -> FromHome:
        """Return the next message."""
        while not self._messages:
            self._come = asyncio.get_running_loop().create_future()
            await self._come
        return self._messages.pop(0)


class FrontSide:
    """A front's end of the socket, with the copies that it runs.

    Attributes:
        copies: Names of the models that it can run itself.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._open: dict[int, OpenRequest] = {}
        self._last = 0
        self._pickled: tuple[bytes, ...] = ()
        self._manifests: tuple[Manifest, ...] = ()
        self._warming: asyncio.Task[None] | None = None
        self._app: App | None = None
        self.copies: frozenset[str] = frozenset()
        self.channel: Channel[FromHome] = Channel(FromHome, self._hear, _end)

    def __repr__(self) -> str:
        return f"<FrontSide, {len(self._open)} open, copies of {', '.join(sorted(self.copies)) or 'nothing'}>"

    async def connect(self, descriptor: int) -> None:
        """Take over the socket, and send the log there."""
        loop = asyncio.get_running_loop()
        await loop.create_unix_connection(lambda: self.channel, sock=socket.socket(fileno=descriptor))
        handler = _LogHandler(self.channel.send, loop)
        logging.getLogger().handlers[:] = [handler]

    def enclose(self, apps: Sequence[App]) -> Sequence[App]:
        """Pass everything on that no copy answers."""
        self._app = apps[0]
        return [FrontApp(apps[0], self, self._kernel.context.streaming.stream)]

    async def opened(self, ports: Sequence[int]) -> None:
        """Say that copies can come."""
        self.channel.send(Ack(0))

    async def close(self) -> None:
        """Send what is left, and close."""
        if self._warming is not None:
            self._warming.cancel()
        self.channel.close()

    # -- requests --

    def begin(self, make: Callable[[int], Begin]) -> tuple[int, OpenRequest]:
        """Pass a request on."""
        self._last += 1
        number, request = self._last, OpenRequest()
        self._open[number] = request
        self.channel.send(make(number))
        return number, request

    def end(self, number: int, *, is_whole: bool) -> None:
        """Forget a request; tell the home process if the caller is gone."""
        request = self._open.pop(number)
        if request.pulling is not None:
            request.pulling.cancel()
        if not is_whole:
            self.channel.send(Gone(number))

    def _hear(self, message: FromHome) -> None:
        if isinstance(message, Answer | Trailers | Failed | Pull):
            request = self._open.get(message.number)
            if request is not None:
                request.hear(message)
        elif isinstance(message, Copies):
            self._take(message)
        else:
            self._kernel.context.parting.is_told = True
            if message.is_last:
                signal.raise_signal(signal.SIGTERM)

    # -- copies --

    def over(self, found: Sequence[Manifest]) -> tuple[Manifest, ...]:
        """Return the versions to load (:class:`~salver.kernel.serving.controlplane.Changes`)."""
        return self._manifests

    def ask_again(self, name: str) -> None:
        """Do nothing: requests to load a model go to the home process."""

    def _take(self, message: Copies) -> None:
        """Stop what is not in the list any more, at once; then begin to load what is new."""
        known = dict(zip(self._pickled, self._manifests, strict=True))
        kept = {pickled: known[pickled] for pickled in message.manifests if pickled in known}
        if len(kept) < len(known):
            self._manifests = tuple(kept.values())
            self._kernel.plane.refresh()
            self._note()
        self.channel.send(Ack(message.epoch))
        self._pickled = message.manifests
        self._manifests = tuple(kept.get(each) or pickle.loads(each) for each in message.manifests)
        self._kernel.plane.refresh()

    def _note(self) -> None:
        self.copies = frozenset(each.manifest.id.name for each in self._kernel.models.servables())
        if self.copies and self._warming is None and self._app is not None:
            self._warming = asyncio.get_running_loop().create_task(_import_grpc(self._app))

    def observe(self, events: Sequence[Event]) -> None:
        """Send the events of copies to the home process."""
        served = [event for event in events if type(event) is Served]
        ran = [event for event in events if type(event) is BatchRan]
        if served or ran:
            encode = msgspec.msgpack.encode
            self.channel.send(Happened(msgspec.Raw(encode(served)), msgspec.Raw(encode(ran))))
        if any(type(event) is StateChanged for event in events):
            self._note()


class FrontApp:
    """Application of the port in a front.

    Args:
        inner: The front's own application, which finds the copies alone.
        side: Passes requests on.
        streaming: Counts a request as a stream (:class:`~salver.transport.watch.StreamingPeers`).
    """

    def __init__(self, inner: App, side: FrontSide, streaming: Callable[[Scope], Any]) -> None:
        self._inner = inner
        self._side = side
        self._streaming = streaming
        self._find: PromptFinder = getattr(inner, "find_prompt", lambda head: never)

    def find_prompt(self, head: Head) -> Prompt:
        """Return the function that has a copy answer; it leaves to the home process what no copy can."""
        name = None if head.path == GRPC_INFER else path_name(head.path)
        if (name is None and head.path != GRPC_INFER) or not _can_run(head.method, dict(head.headers)):
            return never
        return _CopyPrompt(self._side, partial(self._find, head), name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a copy answer, or pass the request on."""
        headers, path = dict(scope["headers"]), scope["raw_path"]
        name = path_name(path)
        if (name is not None or path == GRPC_INFER) and _can_run(scope["method"], headers):
            first = await _gathered(receive)
            if not first["more_body"]:
                name = first_text(first["body"][5:140]) if path == GRPC_INFER else name
                if name in self._side.copies:
                    await self._inner(scope, _given(first, receive), send)
                    return
        elif b"expect" in headers:  # the caller sends the body when the home process wants it
            first = {"type": "http.request", "more_body": True}
        else:
            first = await receive()
        if first["type"] != "http.request":
            return
        more = first.get("more_body", False)
        begin = partial(
            Begin,
            method=scope["method"],
            path=path,
            query=scope["query_string"],
            version=scope["http_version"],
            scheme=scope["scheme"],
            headers=scope["headers"],
            spelled=scope["spelled"],
            client=scope["client"],
            server=scope["server"],
            lag=scope["lag"],
            body=first.get("body", b""),
            more=more,
            count=first.get("count", 1),
        )
        if more and headers.get(b"content-type", b"").startswith(_GRPC):
            with self._streaming(scope):
                await self._pass(begin, receive, send)
        else:
            await self._pass(begin, receive, send)

    async def _pass(self, begin: Callable[[int], Begin], receive: Receive, send: Send) -> None:
        number, request = self._side.begin(begin)
        is_whole = False
        try:
            while not is_whole:
                message = await request.next()
                if isinstance(message, Pull):
                    request.pulling = asyncio.get_running_loop().create_task(self._pull(number, receive))
                elif isinstance(message, Answer):
                    is_whole = not (message.more or message.trails)
                    await self._answer(message, send)
                elif isinstance(message, Trailers):
                    is_whole = True
                    await send({"type": "http.response.trailers", "headers": list(message.headers)})
                else:
                    is_whole = True
                    raise Internal("the home process has not answered; its log says why")
        finally:
            self._side.end(number, is_whole=is_whole)

    async def _pull(self, number: int, receive: Receive) -> None:
        got = await receive()
        is_gone = got["type"] != "http.request"
        body, more = got.get("body", b""), got.get("more_body", False)
        self._side.channel.send(Piece(number, body, more, got.get("count", 1), is_gone))

    async def _answer(self, message: Answer, send: Send) -> None:
        if message.status:
            start: dict[str, Any] = {
                "type": "http.response.start",
                "status": message.status,
                "headers": list(message.headers),
                "trailers": message.trails,
            }
            if message.reason is not None:
                start["reason"] = message.reason
            await send(start)
        await send({"type": "http.response.body", "body": message.body, "more_body": message.more})
        if message.more:
            self._side.channel.send(Read(message.number, len(message.body)))


class _CopyPrompt:
    """Answers requests with one head from copies, where they can.

    Args:
        find: Finds the prompt of the front's own application.
        name: The model; None = the message names it.
    """

    __slots__ = ("_find", "_name", "_prompt", "_side")

    def __init__(self, side: FrontSide, find: Callable[[], Prompt | None], name: str | None) -> None:
        self._side = side
        self._find = find
        self._name = name
        self._prompt: Prompt | None = None

    def __call__(self, exchange: Exchange) -> bool:
        """See :data:`~salver.transport.exchange.Prompt`."""
        name = self._name
        if name is None:
            name = called(exchange)
        if name not in self._side.copies:
            return False
        self._prompt = prompt = self._prompt or self._find()
        return prompt is not None and prompt(exchange)


def _can_run(method: str, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a copy may answer a request with these headers."""
    return method == "POST" and _HOME_ONLY.isdisjoint(headers)


async def _gathered(receive: Receive) -> dict[str, Any]:
    """Return the body as one message if it is small and comes soon; else its beginning."""
    pieces: list[bytes] = []
    size = 0
    message: dict[str, Any] = {"type": "http.request", "more_body": True}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SOON_S):
            while message["type"] == "http.request" and message.get("more_body") and size <= COUNTED:
                message = await receive()
                pieces.append(message.get("body", b""))
                size += len(pieces[-1])
    more = message.get("more_body", False)
    return {**message, "body": b"".join(pieces), "more_body": more, "count": len(pieces)}


def _given(message: dict[str, Any], receive: Receive) -> Receive:
    """Return a function that returns a message, and then what the given one does."""
    waiting = [message]

    async def given() -> dict[str, Any]:
        return waiting.pop() if waiting else await receive()

    return given


async def _import_grpc(app: App) -> None:
    """Call a method, because the methods are imported at the first call."""
    scope: dict[str, Any] = {
        "type": "http", "http_version": "2", "method": "POST", "scheme": "http", "path": _HEALTH,
        "raw_path": _HEALTH.encode(), "query_string": b"", "headers": ((b"content-type", _GRPC),),
        "client": None, "server": None,
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bytes(5), "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        pass

    await app(scope, receive, send)


class _LogHandler(logging.Handler):
    """Sends the log to the home process."""

    def __init__(self, send: Callable[[msgspec.Struct], None], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._send = send
        self._loop = loop

    def emit(self, record: logging.LogRecord) -> None:
        """Send a record."""
        message = record.msg
        if not isinstance(message, dict):
            message = record.getMessage()
            if record.exc_info and record.exc_info[0] is not None:
                message += "\n" + logging.Formatter().formatException(record.exc_info)
        else:
            message = {str(key): str(value) for key, value in message.items()}
        logged = Logged(record.name, record.levelno, message)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._send, logged)


def _end() -> None:
    """End at once: without its home process a front can answer nothing."""
    os._exit(1)

"""Requests that a front has passed on to the home process, and their answers."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from salver.encoding.bodies import GrpcStatus
from salver.features.fronts.messages import (
    Answer,
    Begin,
    Failed,
    Gone,
    GrpcReply,
    Piece,
    Pull,
    Read,
    Reply,
    Trailers,
)
from salver.transport.doors import Receive, Send
from salver.transport.exchange import Exchange, nothing, with_length
from salver.transport.grpc_frames import frame, trailers
from salver.transport.grpc_stream import HEADERS, START
from salver.words.errors import Internal

OfRequest = Reply | GrpcReply | Answer | Trailers | Failed | Pull


class OpenRequest:
    """Request that the home process answers.

    Attributes:
        has_begun: Its messages are being passed on.
        pulling: Reads the next piece of the body; None = none was asked for.
    """

    def __init__(self) -> None:
        self.has_begun = False
        self._messages: list[OfRequest] = []
        self._come: asyncio.Future[None] | None = None
        self.pulling: asyncio.Task[None] | None = None

    def hear(self, message: OfRequest) -> None:
        """Take a message."""
        self._messages.append(message)
        if self._come is not None and not self._come.done():
            self._come.set_result(None)

    async def next(self) -> OfRequest:
        """Return the next message."""
        while not self._messages:
            self._come = asyncio.get_running_loop().create_future()
            await self._come
        return self._messages.pop(0)


class OutgoingRequests:
    """Requests of a front that the home process answers.

    Args:
        send: Sends a message to the home process.
    """

    def __init__(self, send: Callable[[msgspec.Struct], None]) -> None:
        self._send = send
        self._open: dict[int, OpenRequest] = {}
        self._prompt: dict[int, Exchange] = {}  # requests that were passed on without a task
        self._last = 0

    def __repr__(self) -> str:
        return f"<OutgoingRequests, {len(self._open) + len(self._prompt)} open>"

    def begin(self, make: Callable[[int], Begin]) -> tuple[int, OpenRequest]:
        """Pass a request on."""
        self._last += 1
        number, request = self._last, OpenRequest()
        self._open[number] = request
        self._send(make(number))
        return number, request

    def begin_promptly(self, exchange: Exchange, body: bytes, scheme: str) -> None:
        """Pass a whole request on without a task."""
        self._last += 1
        number, head = self._last, exchange.head
        self._prompt[number] = exchange
        exchange.on_gone = partial(self._leave, number)
        begin = Begin(
            number,
            head.method,
            head.path,
            head.query,
            head.version,
            scheme,
            head.headers,
            head.spelled,
            exchange.client,
            None,
            exchange.arrival,
            exchange.lag,
            body,
            False,
            1,
        )
        self._send(begin)

    def _leave(self, number: int) -> None:
        if self._prompt.pop(number, None) is not None:
            self._send(Gone(number))

    def hear(self, message: OfRequest) -> None:
        """Take a message of the home process."""
        number = message.number
        if (request := self._open.get(number)) is not None:
            request.hear(message)
            return
        exchange = self._prompt.pop(number, None)
        if exchange is None:
            return  # the caller is gone
        if isinstance(message, Reply):
            exchange.reply(message.status, message.headers, message.body, message.request_id)
        elif not isinstance(message, GrpcReply):
            request = self._open[number] = OpenRequest()
            request.hear(message)
            exchange.on_gone = nothing
            exchange.run(partial(self.relay, number, request, exchange.receive, exchange.send))
            # A task that is cancelled before it has begun ends nothing.
            asyncio.get_running_loop().call_soon(self._end_unless_begun, number, request)
        elif message.code:
            status = GrpcStatus(message.code, message.text, message.pushback_ms)
            exchange.reply_grpc(status, message.headers)
        else:
            exchange.reply_grpc(message.message, message.headers)

    async def relay(self, number: int, request: OpenRequest, receive: Receive, send: Send) -> None:
        """Pass pieces of the body and of the answer on."""
        request.has_begun, is_whole = True, False
        try:
            while not is_whole:
                message = await request.next()
                if isinstance(message, Pull):
                    request.pulling = asyncio.get_running_loop().create_task(self._pull(number, receive))
                elif isinstance(message, Answer):
                    is_whole = not (message.more or message.trails)
                    await _send_on(message, send)
                    if message.more:
                        self._send(Read(number, len(message.body)))
                else:
                    is_whole = True
                    await _send_last(message, send)
        finally:
            self._end(number, is_whole=is_whole)

    def _end_unless_begun(self, number: int, request: OpenRequest) -> None:
        if not request.has_begun:
            self._end(number, is_whole=False)

    def _end(self, number: int, *, is_whole: bool) -> None:
        """Forget a request; tell the home process if the caller is gone."""
        request = self._open.pop(number)
        if request.pulling is not None:
            request.pulling.cancel()
        if not is_whole:
            self._send(Gone(number))

    async def _pull(self, number: int, receive: Receive) -> None:
        got = await receive()
        is_gone = got["type"] != "http.request"
        body, more = got.get("body", b""), got.get("more_body", False)
        self._send(Piece(number, body, more, got.get("count", 1), is_gone))


async def _send_last(message: OfRequest, send: Send) -> None:
    """Send the last message, or a whole answer."""
    if isinstance(message, Trailers):
        await send({"type": "http.response.trailers", "headers": list(message.headers)})
    elif isinstance(message, Reply):
        headers = with_length(message.headers, message.body, message.request_id)
        await send({"type": "http.response.start", "status": message.status, "headers": headers})
        await send({"type": "http.response.body", "body": message.body})
    elif isinstance(message, GrpcReply) and message.code:
        status = GrpcStatus(message.code, message.text, message.pushback_ms)
        headers = (*HEADERS[:1], *trailers(status))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})
    elif isinstance(message, GrpcReply):
        await send({**START, "headers": [*HEADERS, *message.headers]})
        await send({"type": "http.response.body", "body": frame(message.message)})
        await send({"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]})
    else:
        raise Internal("the home process has not answered; its log says why")


async def _send_on(message: Answer, send: Send) -> None:
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

"""Streaming gRPC calls that run no model: reflection and health watching.

They end when the caller disconnects or the server stops.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, Final

from salver.encoding.bodies import GrpcStatus
from salver.transport.doors import Receive
from salver.transport.effects import reads
from salver.transport.faults import grpc_fault
from salver.transport.grpc_frames import FrameReader, frame, trailers
from salver.transport.grpc_stream import START, STOPPING
from salver.transport.grpc_table import Send
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import Call

_MOST: Final = 1 << 16  # bytes of a request
_LOOKS_S: Final = 1.0  # between two polls of a watched state
_CHECKS_S: Final = 0.25  # between two checks of a key, which has to end its calls within a second

#: Turns the requests of a call into responses; the second argument reports the caller's disconnect.
Answers = Callable[[AsyncIterator[bytes], Receive], AsyncIterator[bytes]]


class ServiceStream:
    """Streaming method of a service, with its open calls."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._open: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    @reads
    def read(self) -> None:
        """Carry the mark of the method."""

    async def handle(self, headers: Mapping[bytes, bytes], call: Call, receive: Receive, send: Send) -> None:
        """Answer one call, from its headers to its trailers."""
        is_late = self._is_stopping
        status = GrpcStatus(14, STOPPING) if is_late else GrpcStatus(0, "")
        await send(START)
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        if not is_late:
            task = asyncio.create_task(self._converse(headers, receive, send))
            self._open.add(task)
            try:
                async with asyncio.timeout(None if call.deadline is None else call.deadline - call.arrival):
                    await task
            except TimeoutError:
                status = GrpcStatus(4, "Deadline Exceeded")
            except SalverError as error:
                status = grpc_fault(error)
            except asyncio.CancelledError:
                if not self._is_stopping:
                    raise
                status = GrpcStatus(14, STOPPING)
            except ConnectionAbortedError:
                return
            finally:
                task.cancel()
                self._open.discard(task)
        with contextlib.suppress(OSError, RuntimeError):
            await send({"type": "http.response.body", "body": b""})
            await send({"type": "http.response.trailers", "headers": trailers(status)})

    def stop(self) -> None:
        """End every call."""
        self._is_stopping = True
        for task in self._open:
            task.cancel()

    async def _converse(self, headers: Mapping[bytes, bytes], receive: Receive, send: Send) -> None:
        encoding = headers.get(b"grpc-encoding", b"identity").decode("latin-1")
        async for answer in self._answers(_requests(encoding, receive), receive):
            await send({"type": "http.response.body", "body": frame(answer), "more_body": True})


async def _requests(encoding: str, receive: Receive) -> AsyncIterator[bytes]:
    """Yield the messages of a call until the client half-closes.

    Raises:
        ConnectionAbortedError: the client is gone.
    """
    reader = FrameReader(_MOST, encoding)
    while (event := await receive())["type"] == "http.request":
        for message in reader.feed(event.get("body", b"")):
            yield message
        if not event.get("more_body"):
            if not reader.is_empty:
                raise InvalidInput("the call ended before its message was complete")
            return
    raise ConnectionAbortedError


def one_by_one(answer: Callable[[bytes], bytes]) -> Answers:
    """Answer each request with one response."""

    async def answers(requests: AsyncIterator[bytes], receive: Receive) -> AsyncIterator[bytes]:
        async for message in requests:
            yield answer(message)

    return answers


def watched(look: Callable[[bytes], Awaitable[bytes]], pause: float = _LOOKS_S) -> Answers:
    """Answer the one request with the current state, and again whenever the state changes."""

    async def answers(requests: AsyncIterator[bytes], receive: Receive) -> AsyncIterator[bytes]:
        message = await anext(requests, None)
        if message is None:
            raise InvalidInput("the call has no message")
        told = None
        leaving = asyncio.create_task(_left(receive))
        try:
            while not leaving.done():
                seen = await look(message)
                if seen != told:
                    told = seen
                    yield seen
                await asyncio.wait({leaving}, timeout=pause)
            raise ConnectionAbortedError
        finally:
            leaving.cancel()

    return answers


async def _left(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] == "http.request":
        pass


async def while_admitted(
    serve: Callable[[Send], Awaitable[None]],
    send: Send,
    check: Callable[[], object],
    fault: Callable[[SalverError], GrpcStatus],
) -> None:
    """Serve a streaming call until its caller's key ends.

    Args:
        serve: Answers the call through ``send``.
        check: Raises SalverError once the key is not valid.
        fault: Makes the status with which the call then ends.
    """
    has_begun = False

    async def pass_on(message: dict[str, Any]) -> None:
        nonlocal has_begun
        has_begun = True
        await send(message)

    task = asyncio.ensure_future(serve(pass_on))
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=_CHECKS_S)
            if not task.done():
                check()
        await task
    except SalverError as error:
        if task.done():
            raise
        await _cancelled(task)
        if not has_begun:
            await send(START)
        await send({"type": "http.response.body", "body": b""})
        await send({"type": "http.response.trailers", "headers": trailers(fault(error))})
    finally:
        await _cancelled(task)


async def _cancelled(task: asyncio.Future[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)

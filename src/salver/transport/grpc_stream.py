"""Streaming gRPC calls for inference.

Each message is a request, and requests run concurrently. Replies keep the order of the requests, as in
Triton, except those of decoupled models, which are sent as they are produced. The call ends when the client
has half-closed and every reply is sent, or at once if the client disconnects, the deadline passes, or a
message cannot be read. The dialects bring the codecs.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import msgspec

from salver.encoding.bodies import GrpcStatus
from salver.transport.budget import COUNTED, Budget, Share, pace
from salver.transport.calls import RequestContext, join_trace
from salver.transport.doors import Receive
from salver.transport.grpc_frames import FrameReader, Packed, encoding_for, frame, trailers
from salver.transport.grpc_table import Send
from salver.transport.ports import InferDoor
from salver.words.errors import Cancelled, Internal, InvalidInput, SalverError
from salver.words.messages import Call

_LOG = logging.getLogger("salver.grpc")
HEADERS = [(b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,deflate,gzip")]
START = {"type": "http.response.start", "status": 200, "headers": HEADERS, "trailers": True}
#: Triton's text (TR-R37).
STOPPING = "GRPC server is shutting down and has stopped accepting new requests."
_STOPPING = GrpcStatus(14, STOPPING)

#: Bytes from which compressing would block the event loop for too long.
_LARGE = 1 << 16


def begun(encoding: str) -> dict[str, Any]:
    """Return the start of an answer whose messages may have this encoding."""
    if not encoding:
        return START
    return {**START, "headers": [*HEADERS, (b"grpc-encoding", encoding.encode())]}


async def packed(reply: bytes, headers: Mapping[bytes, bytes], level: int) -> tuple[dict[str, Any], bytes]:
    """Return the start of an answer and its one message, compressed if the caller accepts that."""
    encoding = encoding_for(headers.get(b"grpc-accept-encoding", b""))
    return begun(encoding), await framed(reply, encoding, level)


async def framed(reply: bytes, encoding: str, level: int) -> bytes:
    """Return a message with its prefix; large ones are compressed on a thread."""
    if not encoding or len(reply) < _LARGE:
        return frame(reply, encoding, level)
    return await asyncio.to_thread(frame, reply, encoding, level)


class StreamRequest(Protocol):
    """One request and the codec of its replies, which are messages or a status that ends the call.

    Attributes:
        is_decoupled: Send any number of replies as they come; else one reply, in the order of the requests.
        refused: Reply to a request that runs no model; None = run the model.
        farewell: Status that ends the call after this request; None = the call goes on.
    """

    is_decoupled: bool
    refused: bytes | GrpcStatus | None
    farewell: GrpcStatus | None

    @property
    def model(self) -> str:
        """Name of the model."""
        ...

    @property
    def version(self) -> str:
        """Version; empty = the server's choice."""
        ...

    def end(self) -> bytes | None:
        """Return the final reply, if the protocol has one."""
        ...


class StreamLimits(msgspec.Struct, frozen=True):
    """Limits of one call.

    Attributes:
        max_message: Most bytes of one message.
        most: Most requests running at a time; at the limit the server stops reading, and the client's flow
            control makes it wait.
        most_bytes: Most bytes of running requests and waiting replies; a single request is always accepted.
        patience: Seconds without room for the next reply after which the caller counts as gone.
    """

    max_message: int
    most: int = 256
    most_bytes: int = 64 << 20
    patience: float = 60.0


class InferStream:
    """Streaming inference method, with its open calls.

    Args:
        read: Decodes a message, given the call's headers. Raises SalverError.
        fault: Makes the status of an error that ends the call.
        read_large: Decodes large messages without blocking; None = as ``read``.
    """

    def __init__(
        self,
        door: InferDoor,
        context: RequestContext,
        read: Callable[[bytes, Mapping[bytes, bytes]], StreamRequest],
        limits: StreamLimits,
        fault: Callable[[SalverError], GrpcStatus],
        read_large: Callable[[bytes, Mapping[bytes, bytes]], Awaitable[StreamRequest]] | None = None,
    ) -> None:
        self.door = door
        self.context = context
        self.read = read
        self.limits = limits
        self.fault = fault
        self.read_large = read_large
        self.budget = context.budget or Budget()
        self._open: set[_StreamCall] = set()
        self._is_stopping = False

    async def handle(self, headers: Mapping[bytes, bytes], call: Call, receive: Receive, send: Send) -> None:
        """Answer one call, from its headers to its trailers."""
        exchange = _StreamCall(self, headers, call, send)
        self._open.add(exchange)
        try:
            if self._is_stopping:
                exchange.stop()
            await exchange.run(receive)
        finally:
            self._open.discard(exchange)

    def stop(self) -> None:
        """Read no more requests; each call ends when its running requests have replies."""
        self._is_stopping = True
        for exchange in self._open:
            exchange.stop()


class _StreamCall:
    """One open call."""

    def __init__(self, method: InferStream, headers: Mapping[bytes, bytes], call: Call, send: Send) -> None:
        self._method = method
        self._headers = headers
        self._call = call
        self._send = send
        accepted = headers.get(b"grpc-accept-encoding", b"")
        self._encoding = encoding_for(accepted) if method.context.compression else ""
        self._under_way: dict[asyncio.Task[None], int] = {}  # running requests, with message sizes
        self._share = Share(method.budget)
        self._unread = 0  # bytes of an incomplete message
        self._bytes = 0  # total of running requests and waiting replies
        self._has_less = asyncio.Event()
        self._writing = asyncio.Lock()
        self._turn = asyncio.Event()  # set when the latest ordered reply has been sent
        self._turn.set()
        self._count = 0
        #: Status that ends the call when no request is running; None = more requests may come.
        self._farewell: GrpcStatus | None = None
        #: Status that ends the call now; None = the client is gone.
        self._end: asyncio.Future[GrpcStatus | None] = asyncio.get_running_loop().create_future()

    async def run(self, receive: Receive) -> None:
        """Serve the call; return when it has ended and none of its tasks is left."""
        reader = asyncio.create_task(self._guard(self._read, receive))
        deadline = self._call.deadline
        try:
            with contextlib.suppress(Cancelled):
                # Send the headers at once: some clients wait for them before they send.
                await self._put(begun(self._encoding))
                await self._put({"type": "http.response.body", "body": b"", "more_body": True})
            try:
                async with asyncio.timeout(
                    None if deadline is None else deadline - self._method.context.clock()
                ):
                    status = await self._end
            except TimeoutError:
                status = GrpcStatus(4, "Deadline Exceeded")
            if status is not None:
                await self._writing.acquire()  # never cut a reply that is being written
        finally:
            tasks = (reader, *self._under_way)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._share.give(self._unread)
        if status is not None:
            with contextlib.suppress(OSError, RuntimeError):
                await self._send({"type": "http.response.body", "body": b""})
                await self._send({"type": "http.response.trailers", "headers": trailers(status)})

    def stop(self) -> None:
        """Read no more requests."""
        self._part(self._farewell or _STOPPING)

    # Requests come.

    async def _read(self, receive: Receive) -> None:
        encoding = self._headers.get(b"grpc-encoding", b"identity").decode("latin-1")
        reader = FrameReader(self._method.limits.max_message, encoding, inflates=False)
        event = await receive()
        while event["type"] == "http.request":
            if self._farewell is None:
                piece = event.get("body", b"")
                self._share.take(len(piece))
                self._unread += len(piece)
                await self._take(reader.feed(piece), encoding)
                if reader.is_empty:
                    self._share.give(self._unread)
                    self._unread = 0
                if not event.get("more_body"):
                    if not reader.is_empty:
                        raise InvalidInput("the call ended before its message was complete")
                    self._part(self._farewell or GrpcStatus(0, ""))
            event = await (receive() if reader.is_empty else self._rest(receive))
        self._close(None)

    async def _rest(self, receive: Receive) -> dict[str, Any]:
        """Receive more of an incomplete message, at a minimum rate, so that none is held forever."""
        async with pace():
            return await receive()

    async def _take(self, messages: list[bytes], encoding: str) -> None:
        for message in messages:
            if isinstance(message, Packed):
                before = self._share.size
                message = await self._share.inflate(message, encoding, self._method.limits.max_message)
                self._share.give(self._share.size - before)  # from here on it counts with its request
            while self._is_full():
                self._has_less.clear()
                await self._has_less.wait()
            if self._farewell is not None:
                return
            if len(message) > COUNTED and self._method.read_large is not None:
                asked = await self._method.read_large(message, self._headers)
            else:
                asked = self._method.read(message, self._headers)
            self._share.take(len(message))
            self._begin(asked, len(message))

    def _is_full(self) -> bool:
        count = len(self._under_way)
        return count >= self._method.limits.most or (
            count > 0 and self._bytes >= self._method.limits.most_bytes
        )

    def _begin(self, asked: StreamRequest, size: int) -> None:
        self._count += 1
        call = self._one_call()
        if asked.is_decoupled:
            work = self._guard(self._answer_in_pieces, asked, call)
        else:
            before, self._turn = self._turn, asyncio.Event()
            work = self._guard(self._answer, asked, call, before, self._turn)
        task = asyncio.create_task(work)
        self._under_way[task] = size
        self._bytes += size
        task.add_done_callback(self._leave)

    def _one_call(self) -> Call:
        whole, context = self._call, self._method.context
        call = msgspec.structs.replace(
            whole, arrival=context.clock(), request_id=f"{whole.request_id}-{self._count}"
        )
        if whole.traceparent:
            join_trace(call, whole.traceparent.encode(), context.new_id)
            call.origin = whole.origin  # the stream as a whole is not a span
        return call

    # Replies go.

    async def _answer(
        self, asked: StreamRequest, call: Call, before: asyncio.Event, turn: asyncio.Event
    ) -> None:
        reply = await self._method.door.infer(asked, None, asked.model, asked.version, call)
        await self._write(reply, before)
        turn.set()

    async def _answer_in_pieces(self, asked: StreamRequest, call: Call) -> None:
        reply = asked.refused
        if reply is None:
            reply = await self._method.door.stream(asked, None, asked.model, asked.version, call, self._write)
        if reply is None:
            reply = asked.end()
        if reply is not None:
            await self._write(reply)
        if asked.farewell is not None:
            self._part(asked.farewell)

    async def _write(self, reply: bytes | GrpcStatus, before: asyncio.Event | None = None) -> None:
        """Send a reply; return when there is room for the next one.

        Args:
            before: Event that is set when it is this reply's turn.

        Raises:
            Cancelled: the client is gone or the call has ended.
        """
        size = 0 if isinstance(reply, GrpcStatus) else len(reply)
        self._bytes += size
        try:
            if before is not None:
                await before.wait()
            async with self._writing:
                if isinstance(reply, GrpcStatus):
                    self._close(reply)
                if self._end.done() or isinstance(reply, GrpcStatus):
                    raise Cancelled("the call has ended")
                body = await framed(reply, self._encoding, self._method.context.compression)
                await self._put({"type": "http.response.body", "body": body, "more_body": True})
        finally:
            self._bytes -= size
            self._has_less.set()

    async def _put(self, message: dict[str, Any]) -> None:
        # A plain timer costs a third of asyncio.timeout; the end of the call ends the wait as well.
        timer = asyncio.get_running_loop().call_later(self._method.limits.patience, self._close, None)
        try:
            await self._send(message)
        except (OSError, RuntimeError) as error:
            self._close(None)
            raise Cancelled("the caller went away") from error
        finally:
            timer.cancel()

    # The end.

    async def _guard(self, work: Callable[..., Awaitable[None]], *given: Any) -> None:
        """Run some work of the call; an error in it ends the call."""
        try:
            await work(*given)
        except Cancelled:
            pass
        except SalverError as error:
            error.in_tritons_words = self._method.context.tritons_words
            self._close(self._method.fault(error))
        except Exception as error:
            incident = self._method.context.new_id()
            _LOG.exception("incident %s: a stream of requests", incident, exc_info=error)
            self._close(self._method.fault(Internal.incident(incident)))

    def _leave(self, task: asyncio.Task[None]) -> None:
        size = self._under_way.pop(task)
        self._bytes -= size
        self._share.give(size)
        self._has_less.set()
        if self._farewell is not None:
            self._part(self._farewell)

    def _part(self, farewell: GrpcStatus) -> None:
        self._farewell = farewell
        if not self._under_way:
            self._close(farewell)

    def _close(self, status: GrpcStatus | None) -> None:
        if not self._end.done():
            self._end.set_result(status)

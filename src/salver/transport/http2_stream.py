"""One request with its answer on an HTTP/2 connection."""

import asyncio
import logging
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final

from salver.encoding.bodies import GrpcStatus
from salver.transport import http2_frames as frames
from salver.transport.budget import COUNTED, RESERVED_S
from salver.transport.exchange import Exchange, Prompt, never, nothing, with_length
from salver.transport.grpc_frames import frame as grpc_frame
from salver.transport.grpc_frames import message_size, trailers
from salver.transport.http1_head import Head, Headers
from salver.transport.http2_frames import Fault, header_block
from salver.transport.terms import Pulse, WrittenConnection
from salver.words.messages import Closable

_LOG = logging.getLogger("salver.transport")
#: Flow-control window of a stream, in bytes.
WINDOW: Final = 1 << 20
LARGEST_WINDOW: Final = (1 << 31) - 1
_GRPC_HEAD: Final = (
    (b"content-type", b"application/grpc"),
    (b"grpc-accept-encoding", b"identity,deflate,gzip"),
)
_GRPC_OK: Final = ((b"grpc-status", b"0"),)
_HEAD_OK: Final = header_block(200, _GRPC_HEAD)
_TRAILERS_OK: Final = header_block(0, _GRPC_OK)
_ENDS: Final = frames.END_HEADERS | frames.END_STREAM
#: Headers that HTTP/2 forbids.
_NOT_SENT: Final = frozenset((b"connection", b"keep-alive", b"transfer-encoding"))
#: Successful gRPC answer: head and message prefix, then the end.
_GRPC_BEGIN: Final = struct.Struct(f">BHBBI{len(_HEAD_OK)}sBHBBIxI")
_GRPC_END: Final = struct.Struct(f">BHBBI{len(_TRAILERS_OK)}s")


class StreamOwner(WrittenConnection):
    """Connection, as its streams see it; :class:`~salver.transport.http2.Http2` is the only one.

    Attributes:
        window: Bytes that may be sent on all streams.
        most_frame: Most bytes of a frame that the caller accepts.
        room: Bytes of answers that may be sent before the caller has read those already sent.
        begin: Prefix of the next header block.
        since: Time of the last received byte, by the event loop's clock.
        client: Address and port of the caller; None = a UNIX socket.
        is_narrow: Streams have to be widened when they begin.
    """

    is_narrow: bool
    window: int
    most_frame: int
    room: int
    begin: bytes
    since: float
    client: tuple[str, int] | None

    def emit(self, data: bytes) -> None:
        """Send frames, together with others of this turn of the event loop."""
        raise NotImplementedError

    def give_credit(self, size: int) -> None:
        """Let the caller send so many more bytes, on any stream."""
        raise NotImplementedError

    def queue(self, stream: "Stream") -> None:
        """Continue an answer when there is room, after those that already wait."""
        raise NotImplementedError

    def forget(self, stream: "Stream") -> None:
        """Remove a finished stream."""
        raise NotImplementedError

    def expect(self, stream: "Stream") -> None:
        """Have a stream enter at the end of this read, if it is incomplete then."""
        raise NotImplementedError

    def prompt(self, stream: "Stream") -> Prompt | None:
        """Return the function that answers a stream's complete request without a task."""
        raise NotImplementedError

    def prompt_large(self, stream: "Stream", size: int) -> Prompt | None:
        """Return that function for a request of which the beginning of a body of so many bytes has come."""
        raise NotImplementedError

    def widen(self, stream: "Stream") -> None:
        """Let the caller send as much on a narrow stream as on others."""
        ...

    def receive(self, stream: "Stream") -> None:
        """Count the large body of a stream, which has begun to come."""
        raise NotImplementedError

    def received(self, stream: "Stream") -> Prompt | None:
        """Note that a large body has come; return the function that answers its request without a task."""
        raise NotImplementedError

    @property
    def pulse(self) -> Pulse:
        """Pulse of the event loop."""
        raise NotImplementedError

    def keep(self, refusal: Closable) -> None:
        """Close a refusal when the turn of the event loop ends."""
        raise NotImplementedError

    def app(self, stream: "Stream") -> Awaitable[None]:
        """Call the application for a stream."""
        raise NotImplementedError


class Stream(Exchange):
    """One request with its answer on an HTTP/2 connection.

    Attributes:
        has_begun: The request is being answered.
        has_ended: The request is complete, or the caller has reset it.
        is_filling: A large body is being received whole.
        is_narrow: The caller may send only the beginning of the body until it is widened.
        is_stalled: The answer waits for the caller to open a window.
        receivable: Bytes of the body that the caller may still send.
        since: Time when its head came, a byte of the answer was last sent, or began to wait for a window.
    """

    __slots__ = (
        "_connection",
        "_credit",
        "_end",
        "_given",
        "_has_trailers",
        "_head",
        "_patience",
        "_size",
        "_task",
        "_unsent",
        "_wait",
        "_whole",
        "_window",
        "has_begun",
        "has_ended",
        "id",
        "is_filling",
        "is_narrow",
        "is_stalled",
        "receivable",
        "since",
    )  # fmt: skip

    def __init__(self, connection: StreamOwner, id: int, head: Head, window: int) -> None:
        super().__init__(head, None)
        self._connection = connection
        self.id = id
        self._window = window
        self.receivable = WINDOW
        self.is_narrow = connection.is_narrow
        self.has_begun = self.has_ended = self.is_stalled = self.is_filling = False
        self._whole: list[bytes] | None = []  # pieces of the body, until it is being answered
        self._size = self._given = self._credit = 0  # bytes: arrived, received by the application, uncredited
        self._patience: asyncio.TimerHandle | None = None  # runs while a body is expected to come soon
        self._task: asyncio.Task[None] | None = None
        self._head: tuple[int, Headers] | None = None  # unsent head of the answer
        self._has_trailers = False
        self._unsent: deque[memoryview] = deque()  # body of the answer that waits for a window
        self._end: bytes | None = None  # header block of the trailers; empty = no trailers
        self._wait: asyncio.Future[None] | None = None
        self.since = connection.since

    @property
    def client(self) -> tuple[str, int] | None:
        """Address and port of the caller; None = it came by a UNIX socket."""
        return self._connection.client

    def is_in_rush(self) -> bool:
        """See :class:`~salver.transport.exchange.Exchange`."""
        return self._connection.pulse.is_in_rush(self.arrival)

    # -- the request --

    def take(self, piece: bytes, *, is_last: bool) -> None:
        """Add a piece of the body."""
        self._size += len(piece)
        self.has_ended = is_last
        length = self.head.length
        if 0 <= length < self._size or (is_last and length > self._size):
            self.reset(Fault.PROTOCOL_ERROR)
        elif self._whole is not None:
            self._whole.append(piece)
            if is_last:
                self._begin_whole(self._whole)
            else:
                self._connection.expect(self)
        elif self.is_filling:
            self._fill((piece,), is_last=is_last)
        else:
            self.put(piece, is_last=is_last)

    def _begin_whole(self, pieces: list[bytes]) -> None:
        self.has_begun = True
        self._whole = None
        if self._patience is not None:
            self._wait_no_more()
        self.body = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        self._given = self._size
        self._connection.give_credit(self._size)
        prompt = self._connection.prompt(self)
        if prompt is None or not prompt(self):
            if self.large is not None:
                self.free()  # the application reserves memory itself
            self.run(self._app)

    def fill(self, pieces: Iterable[memoryview], size: int) -> None:
        """Add pieces of so many bytes together, none of them the last, to a body that is received whole."""
        self._size += size
        if 0 <= self.head.length < self._size:
            self.reset(Fault.PROTOCOL_ERROR)
        else:
            self._fill(pieces, is_last=False)

    def _fill(self, pieces: Iterable[bytes | memoryview], *, is_last: bool) -> None:
        large = self.large
        assert large is not None
        self._count_received(self._size - self._given)
        if self._size <= large.size:
            for piece in pieces:
                large.add(piece)
            if is_last and large.is_whole:
                self._answer_large()
            elif is_last:
                self._pass_on((), is_last=True)
        else:  # more than was announced
            self._pass_on(pieces, is_last=is_last)

    def collect(self, begun: bytes) -> bool:
        """Receive a large body whole if no task is needed; return whether it is, or was refused.

        Args:
            begun: The first bytes.
        """
        size = self.head.length
        if size < 0:
            size = message_size(begun)
        if size <= COUNTED or not self.is_collected(self._connection.prompt_large(self, size), size, begun):
            return self.is_whole
        self._connection.receive(self)
        if self.is_narrow:
            self._connection.widen(self)
        pieces, self._whole = self._whole or (), None
        self.has_begun = self.is_filling = True
        self._wait_for(self._come_slowly)
        self._fill(pieces, is_last=False)
        return True

    def _waits(self) -> bool:
        """Wait a moment for the first bytes, if the request may be answered without a task."""
        if self._patience is not None:  # it has waited
            return False
        prompt = self._connection.prompt(self)
        if prompt is None or prompt is never:
            return False
        self._wait_for(self.enter)
        return True

    def _wait_for(self, end: Callable[[], None]) -> None:
        self._wait_no_more()
        self._patience = asyncio.get_running_loop().call_later(RESERVED_S, end)

    def _wait_no_more(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _come_slowly(self) -> None:
        self._pass_on(())

    def _answer_large(self) -> None:
        """Answer a request whose large body has been received whole."""
        self.is_filling = False
        self._wait_no_more()
        prompt = self._connection.received(self)
        if prompt is None or not prompt(self):
            self.body = self.give_up()
            self.run(self._app)

    def _pass_on(self, pieces: Iterable[bytes | memoryview], *, is_last: bool = False) -> None:
        """Call the application with a body that comes slowly, or has another size than announced."""
        self.is_filling = False
        self._wait_no_more()
        self.put(b"".join((self.give_up(), *pieces)), is_last=is_last)
        self.run(self._app)

    def enter(self) -> None:
        """Call the application before the body is complete, unless the body is to be received whole."""
        whole = self._whole or ()
        if self.is_whole or (self.collect(whole[0]) if whole else self._waits()) or self.is_whole:
            return
        self._wait_no_more()
        self.has_begun, self._whole = True, None
        if self.is_narrow:
            self._connection.widen(self)
        for piece in whole:
            self.put(piece, is_last=False)
        if self.head.expects:
            self._connection.emit(self._in_frames(header_block(100, ()), 0))
        self.run(self._app)

    def _app(self) -> Awaitable[None]:
        return self._connection.app(self)

    def received(self, size: int) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        if self._given >= self._size:
            return  # the whole body arrived before the application was called
        self._count_received(size)

    def _count_received(self, size: int) -> None:
        """Let the caller send as many bytes more."""
        self._given += size
        self._connection.give_credit(size)
        self._credit += size
        if self._credit >= WINDOW // 2 and not self.has_ended:
            self._connection.emit(frames.window_update(self.id, self._credit))
            self.receivable += self._credit
            self._credit = 0

    # -- the answer --

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        self._task = asyncio.get_running_loop().create_task(self._work(work))

    async def _work(self, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except asyncio.CancelledError:
            if not self.is_gone:
                raise
        except Exception:
            _LOG.exception("the application failed")
        finally:
            self._task = None
            if not self.is_gone and not self.is_whole and self._end is None:
                self.reset(Fault.INTERNAL_ERROR)  # the application sent no answer

    def reply(self, status: int, headers: Headers, body: bytes, request_id: str) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        self._head, self.status = (status, with_length(headers, body, request_id)), status
        self._write(b"" if self.head.method == "HEAD" else body, b"")

    def keep(self, refusal: Closable) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        self._connection.keep(refusal)

    def reply_grpc(self, reply: bytes | GrpcStatus, headers: Headers = ()) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        self.status = 200
        if isinstance(reply, GrpcStatus):
            self._head = 200, (*_GRPC_HEAD, *trailers(reply))
            self._write(b"", b"")
            return
        size, id, connection = len(reply), self.id, self._connection
        whole = size + 5
        most = min(self._window, connection.window, connection.most_frame, connection.room)
        if whole > most or connection.begin or headers:
            self._head = 200, (*_GRPC_HEAD, *headers)
            self._write(grpc_frame(reply), _TRAILERS_OK)
            return
        connection.window -= whole
        connection.room -= whole
        begin = _GRPC_BEGIN.pack(
            0, len(_HEAD_OK), frames.HEADERS, frames.END_HEADERS, id, _HEAD_OK,
            whole >> 16, whole & 0xFFFF, frames.DATA, 0, id, size,
        )  # fmt: skip
        end = _GRPC_END.pack(0, len(_TRAILERS_OK), frames.HEADERS, _ENDS, id, _TRAILERS_OK)
        connection.emit(b"%b%b%b" % (begin, reply, end))
        self._finish()

    async def send(self, message: dict[str, Any]) -> None:
        """See :class:`~salver.transport.exchange.Exchange`."""
        if self.is_gone:
            raise ConnectionResetError("the caller went away")
        kind = message["type"]
        if kind == "http.response.start":
            headers = tuple(pair for pair in message["headers"] if pair[0] not in _NOT_SENT)
            self._head, self.status = (message["status"], headers), message["status"]
            self._has_trailers = message.get("trailers", False)
            return
        if kind == "http.response.trailers":
            self._write(b"", header_block(0, tuple(message["headers"])))
            return
        more = message.get("more_body", False)
        body = b"" if self.head.method == "HEAD" else message.get("body", b"")
        self._write(body, None if more or self._has_trailers else b"")
        if more:
            await self._connection.drained()
            while self._unsent and not self.is_gone:
                self._wait = asyncio.get_running_loop().create_future()
                await self._wait

    def _write(self, data: bytes, end: bytes | None) -> None:
        """Send more of the body, after the head if that has not been sent.

        Args:
            end: Header block of the trailers; empty = no trailers; None = more of the body follows.
        """
        if self._head is not None:
            status, headers = self._head
            self._head = None
            ends = end == b"" and not data
            block = header_block(status, headers)
            self._connection.emit(self._in_frames(block, frames.END_STREAM if ends else 0))
            if ends:
                self._finish()
                return
        if data:
            self._unsent.append(memoryview(data))
        self._end = end
        if data or end is not None:
            self.pump()

    def pump(self) -> None:
        """Send as much as the windows and the caller's reading allow."""
        connection, unsent = self._connection, self._unsent
        has_ended = False
        while unsent:
            if connection.room <= 0:
                self.is_stalled = False
                connection.queue(self)
                return
            piece = unsent[0]
            size = min(len(piece), self._window, connection.window, connection.most_frame)
            if size <= 0:
                if not self.is_stalled:
                    self.is_stalled, self.since = True, connection.since
                if self._window > 0:
                    connection.queue(self)
                return
            if size == len(piece):
                unsent.popleft()
            else:
                unsent[0] = piece[size:]
            has_ended = not unsent and self._end == b""
            flags = frames.END_STREAM if has_ended else 0
            connection.emit(frames.frame(frames.DATA, flags, self.id, bytes(piece[:size])))
            self._window -= size
            connection.window -= size
            connection.room -= size
            self.is_stalled = False
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(None)
        if self._end is not None:
            if not has_ended:
                end, id = self._end, self.id
                connection.emit(
                    self._in_frames(end, frames.END_STREAM)
                    if end
                    else frames.frame(frames.DATA, frames.END_STREAM, id)
                )
            self._finish()

    def widen(self, size: int) -> None:
        """Change the window of the answer by so many bytes."""
        self._window += size
        if self._window > LARGEST_WINDOW:
            self.reset(Fault.FLOW_CONTROL_ERROR)
        else:
            self.pump()

    def _finish(self) -> None:
        """Finish the exchange after the answer is sent."""
        self.is_whole = True
        if not self.has_ended:  # the rest of the request is not needed (RFC 9113, section 8.1)
            self._connection.emit(frames.rst_stream(self.id, Fault.NO_ERROR))
        self._over()

    def reset(self, fault: Fault) -> None:
        """End the stream without an answer."""
        self._connection.emit(frames.rst_stream(self.id, fault))
        self.leave()

    def leave(self) -> None:
        """Cancel the exchange because the caller is gone."""
        if self.is_gone or self.is_whole:
            return
        self.is_gone = True
        self._unsent.clear()
        if self._wait is not None and not self._wait.done():
            self._wait.set_result(None)
        if self._task is not None:
            self._task.cancel()
        else:
            self.on_gone()
        self._over()

    def _over(self) -> None:
        connection = self._connection
        connection.forget(self)
        if self.large is not None:
            self.is_filling = False
            self.free()
        if self._patience is not None:
            self._wait_no_more()
        if self._given < self._size:
            connection.give_credit(self._size - self._given)
            self._given = self._size
        self.on_end()
        self.on_end = self.on_gone = nothing  # breaks the reference cycle of each request

    def _in_frames(self, block: bytes, flags: int) -> bytes:
        """Return a header block, split into frames if necessary."""
        most, id = self._connection.most_frame, self.id
        block = self._connection.begin + block
        if len(block) <= most:
            return frames.frame(frames.HEADERS, flags | frames.END_HEADERS, id, block)
        pieces = [block[at : at + most] for at in range(0, len(block), most)]
        out = [frames.frame(frames.HEADERS, flags, id, pieces[0])]
        out += [frames.frame(frames.CONTINUATION, 0, id, piece) for piece in pieces[1:-1]]
        out.append(frames.frame(frames.CONTINUATION, frames.END_HEADERS, id, pieces[-1]))
        return b"".join(out)

"""Connections of HTTP/2 (RFC 9113): many requests side by side, gRPC's among them.

What comes together leaves together: the frames that answer one read are one write. Limits of RFC 9113 hold,
and bounds on what it leaves open: resets, control frames, headers, bytes that wait for a slow reader.
"""

import asyncio
from collections.abc import Awaitable
from time import monotonic
from typing import Final

from salver.transport import http2_frames as frames
from salver.transport.budget import MOST_HEAD
from salver.transport.exchange import Prompt
from salver.transport.http1_head import PREFACE
from salver.transport.http2_frames import Fault, Setting
from salver.transport.http2_head import Http2Heads
from salver.transport.http2_stream import LARGEST_WINDOW, WINDOW, Stream
from salver.transport.terms import Terms, WrittenConnection, scope_of
from salver.words.errors import InvalidInput, TooLarge

#: Streams of a connection that are open at one time.
MOST_STREAMS: Final = 256
#: Bytes of a frame that a caller may send.
_MOST_FRAME: Final = 1 << 18
#: Bytes of the bodies of all streams that may be on their way.
_CONNECTION_WINDOW: Final = 1 << 22
_DEFAULT_WINDOW: Final = 65_535
_DEFAULT_TABLE: Final = 4096
#: Makes the table of headers empty, which is not used (RFC 7541, section 4.2: a smaller one is acknowledged).
_NO_TABLE: Final = b"\x20"
#: Frames without use for a request, and resets, that a caller may send within a second.
_MOST_CONTROL: Final = 1000
#: Bytes of answers that leave at once; more follow when the caller has read those.
_TURN: Final = 1 << 18
#: Frames that are read before others have their turns.
_MOST_FRAMES: Final = 512
#: Settings of a frame.
_MOST_SETTINGS: Final = 64
#: Streams of which something may still come after they were ended here.
_MOST_ENDED: Final = 1024
#: Bytes that wait for a caller who does not read, with which the connection ends.
_MOST_WAITING: Final = 1 << 26
_MOST_CONTINUATIONS: Final = 32
_PARTING_S: Final = 0.1  # between the two GOAWAYs: longer than a round trip on a usual network


class Http2(WrittenConnection):
    """One connection.

    Args:
        transport: Of a connection that began as HTTP/1.1's.
        terms: What the connections of a listener have in common.
    """

    def __init__(self, transport: asyncio.Transport, terms: Terms, scheme: str) -> None:
        super().__init__()
        self._transport = transport
        self._terms = terms
        self._scheme = scheme
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._has_preface = self._has_settings = False
        self._heads = Http2Heads()
        self._block: tuple[int, int, list[bytes]] | None = None  # of a head that is not whole: stream, flags
        self._streams: dict[int, Stream] = {}
        self._queue: dict[int, Stream] = {}  # whose answers wait for room, or for the connection's window
        self._ended: dict[int, None] = {}  # before the caller had ended them
        self._last = 0  # of the caller's streams
        self._begun: list[Stream] = []  # whose bodies were not whole in this read
        self._out: list[bytes] = []
        self._is_flushing = self._is_ending = self._is_behind = False
        self._parting: asyncio.TimerHandle | None = None
        self._credit = 0  # bytes that the application has received since the window was opened
        self._receivable = _CONNECTION_WINDOW
        self.window = self._peer_window = _DEFAULT_WINDOW
        self.most_frame = 16_384
        self.room = _TURN
        self.begin = b""
        self._control, self._control_until = 0, 0.0
        peer, mine = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self.client: tuple[str, int] | None = peer[:2] if isinstance(peer, tuple) else None
        self._server = mine[:2] if isinstance(mine, tuple) else None
        self.since = self._loop.time()
        values = (
            (Setting.MAX_CONCURRENT_STREAMS, MOST_STREAMS),
            (Setting.INITIAL_WINDOW_SIZE, WINDOW),
            (Setting.MAX_FRAME_SIZE, _MOST_FRAME),
            (Setting.MAX_HEADER_LIST_SIZE, MOST_HEAD),
        )
        self.emit(frames.settings(values) + frames.window_update(0, _CONNECTION_WINDOW - _DEFAULT_WINDOW))
        terms.open.add(self)

    def __repr__(self) -> str:
        return f"<Http2, {len(self._streams)} streams>"

    # -- what the listener asks --

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return bool(self._streams)

    @property
    def is_idle(self) -> bool:
        """Whether the caller waits for nothing, and nothing of a request has come."""
        return not (self._streams or self._buffer or self._block or self._parting)

    @property
    def is_in_head(self) -> bool:
        """Whether a frame or a header block has come in part."""
        return bool(self._buffer) or self._block is not None

    def end(self) -> None:
        """Tell the caller to begin no more streams; close when those that have begun are answered."""
        if self._parting is None and not self._is_ending:
            self.emit(frames.goaway(LARGEST_WINDOW, Fault.NO_ERROR))
            self._parting = self._loop.call_later(_PARTING_S, self._part)

    def _part(self) -> None:
        self._parting = None
        if not self._is_ending:
            self._is_ending = True
            self.emit(frames.goaway(self._last, Fault.NO_ERROR))
            self._close_if_done()

    def _close_if_done(self) -> None:
        if self._is_ending and not self._streams:
            self.flush()
            self._transport.close()

    def drop(self) -> None:
        """Close now."""
        if not self._streams and not self._buffer:
            self._fail(Fault.NO_ERROR)
        else:
            self._transport.abort()

    def cut_stalled(self, now: float, patience: float) -> None:
        """See :class:`~salver.transport.terms.OpenConnection`."""
        for stream in list(self._streams.values()):
            if stream.is_stalled and now - stream.since > patience:
                stream.reset(Fault.CANCEL)

    # -- what the event loop tells --

    def connection_lost(self, error: Exception | None) -> None:
        """The caller is gone, or we are done."""
        self._terms.open.discard(self)
        self._is_ending = True
        self._out.clear()
        for stream in list(self._streams.values()):
            stream.leave()
        self.resume_writing()

    def data_received(self, data: bytes) -> None:
        """Read frames."""
        if self._is_ending and not self._streams:
            return
        self.since = self._loop.time()
        if self._buffer:
            data = self._buffer + data
        position = 0
        if not self._has_preface:
            if len(data) < len(PREFACE):
                self._buffer = data
                return
            self._has_preface = True
            position = len(PREFACE)
        self._is_flushing = True  # what is written meanwhile leaves at the end
        try:
            position = self._read(data, position)
            for stream in self._begun:
                if not (stream.has_begun or stream.is_gone):  # it may have been reset in the same read
                    stream.enter()
        except _ConnectionFault as fault:
            self._fail(fault.fault, fault.text)
            return
        finally:
            self._begun.clear()
            self._is_flushing = False
        self._buffer = data[position:] if position < len(data) else b""
        self.flush()
        if self._is_behind and not self._transport.is_closing():
            self._transport.pause_reading()
            self._loop.call_soon(self._catch_up)

    def _catch_up(self) -> None:
        """Read the frames that came with too many others."""
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self.data_received(b"")

    def pause_writing(self) -> None:
        """The caller does not read as fast as we write."""
        super().pause_writing()
        self.room = 0

    def resume_writing(self) -> None:
        """There is room again."""
        super().resume_writing()
        self.room = _TURN
        self._pump()

    # -- writing --

    def emit(self, data: bytes) -> None:
        """Send frames, with others of this turn of the event loop."""
        self._out.append(data)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self._is_flushing = False
        self.flush()

    def flush(self) -> None:
        """Send now what waits."""
        out = self._out
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))
            if not self._is_full:
                self.room = _TURN
                if self._queue:
                    self._loop.call_soon(self._pump)
            elif self._transport.get_write_buffer_size() > _MOST_WAITING:
                self._transport.abort()
        out.clear()

    def queue(self, stream: Stream) -> None:
        """Go on with that answer when there is room, after those that wait already."""
        self._queue[stream.id] = stream

    def _pump(self) -> None:
        queue = self._queue
        while queue and self.room > 0 and self.window > 0:
            queue.pop(next(iter(queue))).pump()

    def _fail(self, fault: Fault, text: str = "") -> None:
        """End the connection, with the reason."""
        if not self._transport.is_closing():
            self._out.append(frames.goaway(self._last, fault, text.encode()))
            self.flush()
            self._is_ending = True
            self._transport.close()
        for stream in list(self._streams.values()):
            stream.leave()

    # -- reading --

    def _read(self, data: bytes, position: int) -> int:
        """Read the frames that are whole; return where the next one begins."""
        size = len(data)
        self._is_behind = False
        for _ in range(_MOST_FRAMES):
            if size - position < frames.HEAD_SIZE:
                return position
            upper, lower, kind, flags, id = frames.unpack_head(data, position)
            length = upper << 16 | lower
            if length > _MOST_FRAME:
                raise _ConnectionFault(Fault.FRAME_SIZE_ERROR)
            start = position + frames.HEAD_SIZE
            end = start + length
            if end > size:
                return position
            position = end
            id &= LARGEST_WINDOW
            if self._block is not None and kind != frames.CONTINUATION:
                raise _ConnectionFault(Fault.PROTOCOL_ERROR, "a header block is not whole")
            if not self._has_settings and kind != frames.SETTINGS:
                raise _ConnectionFault(Fault.PROTOCOL_ERROR, "SETTINGS comes first")
            if kind == frames.DATA:
                self._data(id, flags, data[start:end])
            elif kind == frames.HEADERS:
                self._headers(id, flags, data[start:end])
            else:
                self._other(kind, flags, id, data[start:end])
        self._is_behind = True
        return position

    def _other(self, kind: int, flags: int, id: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._window_update(id, payload)
        elif kind == frames.CONTINUATION:
            self._continuation(id, flags, payload)
        elif kind == frames.RST_STREAM:
            self._count_control()
            if len(payload) != 4:
                raise _ConnectionFault(Fault.FRAME_SIZE_ERROR)
            if not id or id > self._last:
                raise _ConnectionFault(Fault.PROTOCOL_ERROR)
            self._ended.pop(id, None)
            if (stream := self._streams.get(id)) is not None:
                stream.has_ended = True
                stream.leave()
        elif kind == frames.PING:
            self._count_control()
            if len(payload) != 8:
                raise _ConnectionFault(Fault.FRAME_SIZE_ERROR)
            if id:
                raise _ConnectionFault(Fault.PROTOCOL_ERROR)
            if not flags & frames.ACK:
                self.emit(frames.frame(frames.PING, frames.ACK, 0, payload))
        elif kind == frames.SETTINGS:
            self._settings(id, flags, payload)
        elif kind == frames.PUSH_PROMISE:
            raise _ConnectionFault(Fault.PROTOCOL_ERROR)
        else:  # PRIORITY has no meaning any more, a caller's GOAWAY changes nothing, others are unknown
            self._count_control()
            if kind == frames.PRIORITY and (not id or len(payload) != 5):
                raise _ConnectionFault(Fault.PROTOCOL_ERROR if not id else Fault.FRAME_SIZE_ERROR)
            if kind == frames.GOAWAY and (id or len(payload) < 8):
                raise _ConnectionFault(Fault.PROTOCOL_ERROR if id else Fault.FRAME_SIZE_ERROR)

    def _count_control(self) -> None:
        """Bound the frames that make work and ask for nothing."""
        if self.since >= self._control_until:
            self._control, self._control_until = 0, self.since + 1.0
        self._control += 1
        if self._control > _MOST_CONTROL:
            raise _ConnectionFault(Fault.ENHANCE_YOUR_CALM, "too many control frames")

    def _settings(self, id: int, flags: int, payload: bytes) -> None:
        self._count_control()
        if id or (flags & frames.ACK and payload) or len(payload) % 6:
            raise _ConnectionFault(Fault.PROTOCOL_ERROR if id else Fault.FRAME_SIZE_ERROR)
        self._has_settings = True
        if flags & frames.ACK:
            return
        if len(payload) > 6 * _MOST_SETTINGS:
            raise _ConnectionFault(Fault.ENHANCE_YOUR_CALM, "too many settings")
        change = 0
        for key, value in frames.read_settings(payload):
            if key == Setting.INITIAL_WINDOW_SIZE:
                if value > LARGEST_WINDOW:
                    raise _ConnectionFault(Fault.FLOW_CONTROL_ERROR)
                change += value - self._peer_window
                self._peer_window = value
            elif key == Setting.MAX_FRAME_SIZE:
                if not 16_384 <= value < 1 << 24:
                    raise _ConnectionFault(Fault.PROTOCOL_ERROR)
                self.most_frame = value
            elif key == Setting.HEADER_TABLE_SIZE and value < _DEFAULT_TABLE:
                self.begin = _NO_TABLE
            elif key == Setting.ENABLE_PUSH and value > 1:
                raise _ConnectionFault(Fault.PROTOCOL_ERROR)
        # Before any byte that only the new values allow: until then a caller counts by the old ones.
        self.emit(frames.frame(frames.SETTINGS, frames.ACK, 0))
        if change:
            for stream in list(self._streams.values()):
                stream.widen(change)

    def _window_update(self, id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise _ConnectionFault(Fault.FRAME_SIZE_ERROR)
        size = int.from_bytes(payload, "big") & LARGEST_WINDOW
        if not size:
            raise _ConnectionFault(Fault.PROTOCOL_ERROR)
        if id:
            if id > self._last:
                raise _ConnectionFault(Fault.PROTOCOL_ERROR)
            if (stream := self._streams.get(id)) is not None:
                stream.widen(size)
                self._count_if_reset(stream)
            return
        self.window += size
        if self.window > LARGEST_WINDOW:
            raise _ConnectionFault(Fault.FLOW_CONTROL_ERROR)
        self._pump()

    def _headers(self, id: int, flags: int, payload: bytes) -> None:
        if not id & 1:
            raise _ConnectionFault(Fault.PROTOCOL_ERROR, "streams of callers have odd numbers")
        if flags & (frames.PADDED | frames.WITH_PRIORITY):
            payload = _stripped(payload, flags)
        if not flags & frames.END_HEADERS:
            self._block = id, flags, [payload]
        else:
            self._open(id, flags, payload)

    def _continuation(self, id: int, flags: int, payload: bytes) -> None:
        block = self._block
        if block is None or block[0] != id:
            raise _ConnectionFault(Fault.PROTOCOL_ERROR)
        pieces = block[2]
        pieces.append(payload)
        if len(pieces) > _MOST_CONTINUATIONS or sum(map(len, pieces)) > MOST_HEAD:
            raise _ConnectionFault(Fault.ENHANCE_YOUR_CALM, "the header block is too large")
        if flags & frames.END_HEADERS:
            self._block = None
            self._open(id, block[1], b"".join(pieces))

    def _open(self, id: int, flags: int, block: bytes) -> None:
        """Begin a stream, or end one with trailers, which say nothing that anybody here wants to know."""
        try:
            head = self._heads.read(block)
        except TooLarge as error:
            raise _ConnectionFault(Fault.ENHANCE_YOUR_CALM, error.message) from None
        except InvalidInput as error:
            raise _ConnectionFault(Fault.COMPRESSION_ERROR, error.message) from None
        if id <= self._last:
            stream = self._streams.get(id)
            if stream is None:
                self._check_ended(id, flags)
                return
            if stream.has_ended:
                raise _ConnectionFault(Fault.STREAM_CLOSED)
            if not flags & frames.END_STREAM:
                stream.reset(Fault.PROTOCOL_ERROR)
            else:
                stream.take(b"", is_last=True)
            self._count_if_reset(stream)
            return
        self._last = id
        if self._is_ending or len(self._streams) >= MOST_STREAMS:
            self._refuse(id, flags, Fault.REFUSED_STREAM)
            return
        if head is None:
            self._refuse(id, flags, Fault.PROTOCOL_ERROR)
            return
        stream = self._streams[id] = Stream(self, id, head, self._peer_window)
        if flags & frames.END_STREAM:
            stream.take(b"", is_last=True)
        else:
            self._begun.append(stream)

    def _refuse(self, id: int, flags: int, fault: Fault) -> None:
        """Begin no such stream."""
        self._count_control()
        self.emit(frames.rst_stream(id, fault))
        if not flags & frames.END_STREAM:
            self._note_ended(id)

    def _count_if_reset(self, stream: Stream) -> None:
        """Count what breaks a rule to have its stream reset as what the caller resets himself."""
        if stream.is_gone:
            self._count_control()

    def _note_ended(self, id: int) -> None:
        """Let what is on its way for a stream come, though it was ended here."""
        if len(self._ended) >= _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[id] = None

    def _check_ended(self, id: int, flags: int) -> None:
        """Refuse what comes of a stream after the caller has ended it himself (RFC 9113, section 5.1)."""
        if id not in self._ended:
            raise _ConnectionFault(Fault.STREAM_CLOSED)
        if flags & frames.END_STREAM:
            del self._ended[id]

    def _data(self, id: int, flags: int, payload: bytes) -> None:
        if not id or id > self._last:
            raise _ConnectionFault(Fault.PROTOCOL_ERROR)
        size = len(payload)
        self._receivable -= size
        if self._receivable < 0:
            raise _ConnectionFault(Fault.FLOW_CONTROL_ERROR)
        if not size and not flags & frames.END_STREAM:
            self._count_control()
        stream = self._streams.get(id)
        if stream is None:
            self._check_ended(id, flags)
            self.give_credit(size)
            return
        if stream.has_ended:
            raise _ConnectionFault(Fault.STREAM_CLOSED)
        stream.receivable -= size
        if stream.receivable < 0:
            raise _ConnectionFault(Fault.FLOW_CONTROL_ERROR)
        if flags & frames.PADDED:
            payload = _stripped(payload, frames.PADDED)
            self.give_credit(size - len(payload))
            stream.receivable += size - len(payload)
        stream.take(payload, is_last=bool(flags & frames.END_STREAM))
        self._count_if_reset(stream)

    def give_credit(self, size: int) -> None:
        """Let the caller send so many bytes more, on any stream."""
        self._credit += size
        if self._credit >= _CONNECTION_WINDOW // 2:
            self.emit(frames.window_update(0, self._credit))
            self._receivable += self._credit
            self._credit = 0

    # -- streams --

    def forget(self, stream: Stream) -> None:
        """Note that a stream is over."""
        self._streams.pop(stream.id, None)
        self._queue.pop(stream.id, None)
        if not stream.has_ended:
            self._note_ended(stream.id)
        self.since = self._loop.time()
        self._terms.pulse.worked = monotonic()
        if self._is_ending:
            self._close_if_done()

    def prompt(self, stream: "Stream") -> Prompt | None:
        """Return what answers a stream without a task, whose request is whole now."""
        self._terms.pulse.read(stream, self.since, monotonic())
        return self._terms.prompt(stream.head)

    def app(self, stream: "Stream") -> Awaitable[None]:
        """Have the application answer a stream."""
        scope = scope_of(stream, self._scheme, self.client, self._server)
        return self._terms.app(scope, stream.receive, stream.send)


class _ConnectionFault(Exception):
    """The connection has to end."""

    def __init__(self, fault: Fault, text: str = "") -> None:
        super().__init__(text)
        self.fault = fault
        self.text = text


def _stripped(payload: bytes, flags: int) -> bytes:
    """Return a payload without its padding and priority (RFC 9113, sections 6.1 and 6.2)."""
    begin, end = 0, len(payload)
    if flags & frames.PADDED:
        begin, end = 1, end - (payload[0] if payload else end + 1)
    if flags & frames.WITH_PRIORITY:
        begin += 5
    if begin > end:
        raise _ConnectionFault(Fault.PROTOCOL_ERROR, "the padding is longer than the frame")
    return payload[begin:end]

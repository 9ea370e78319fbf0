"""Connections of HTTP/2 (RFC 9113), with many concurrent requests, including gRPC.

All frames that answer one read are sent with one write. Besides the limits of RFC 9113 there are bounds on
what it leaves open: resets, control frames, headers, and bytes waiting for a slow reader.
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
from salver.transport.http2_stream import LARGEST_WINDOW, WINDOW, Stream, StreamOwner
from salver.transport.parting import PARTING_S
from salver.transport.terms import Pulse, Terms, scope_of
from salver.words.errors import InvalidInput, TooLarge
from salver.words.messages import Closable

#: Most open streams of a connection.
MOST_STREAMS: Final = 256
#: Most bytes of a received frame.
_MOST_FRAME: Final = 1 << 18
#: First window of a stream while more comes than can be answered: enough to see what is asked for.
_NARROW_WINDOW: Final = 65_535
#: Flow-control window for the bodies of all streams, in bytes.
_CONNECTION_WINDOW: Final = 1 << 22
_DEFAULT_WINDOW: Final = 65_535
_DEFAULT_TABLE: Final = 4096
#: Sets the dynamic table of our header blocks, which is not used, to size 0 (RFC 7541, section 4.2).
_NO_TABLE: Final = b"\x20"
#: Most control frames and resets that a caller may send within a second.
_MOST_CONTROL: Final = 1000
#: Bytes of answers sent at once; more follow when the caller has read them.
_TURN: Final = 1 << 18
#: Frames processed before the event loop gets its turn.
_MOST_FRAMES: Final = 256
#: Bytes of long header blocks that are; decoding them takes longest of all that is read.
_LONG_BLOCK: Final = 1024
_MOST_LONG: Final = 8192
#: Most settings in a frame.
_MOST_SETTINGS: Final = 64
#: Most streams that are remembered after the server ended them, because frames may still arrive.
_MOST_ENDED: Final = 1024
#: Bytes waiting for a caller who does not read at which the connection is closed.
_MOST_WAITING: Final = 1 << 26
_MOST_CONTINUATIONS: Final = 32
#: Bytes of a DATA frame that is copied straight into the memory of its body.
_LARGE_FRAME: Final = 4096


class Http2(StreamOwner):
    """HTTP/2 connection.

    Args:
        transport: Transport of a connection that began as HTTP/1.1.
        terms: Settings that the connections of a listener share.
    """

    def __init__(self, transport: asyncio.Transport, terms: Terms, scheme: str) -> None:
        super().__init__()
        self._transport = transport
        self._terms = terms
        self._scheme = scheme
        self._loop = asyncio.get_running_loop()
        self._buffer = b""
        self._has_preface = self._has_settings = False
        self._heads = Http2Heads(terms.facts)
        self._block: tuple[int, int, list[bytes]] | None = None  # incomplete head: stream, flags, parts
        self._streams: dict[int, Stream] = {}
        self._queue: dict[int, Stream] = {}  # answers that wait for room or the connection's window
        self._ended: dict[int, None] = {}  # streams that the server ended before the caller did
        self._last = 0  # latest stream of the caller
        self._begun: list[Stream] = []  # streams of this read whose bodies are incomplete
        self._out: list[bytes] = []
        self._is_flushing = self._is_ending = self._is_behind = False
        self._parting: asyncio.TimerHandle | None = None
        self._credit = 0  # bytes received by the application since the last WINDOW_UPDATE
        self._receivable = _CONNECTION_WINDOW
        self.is_narrow = False
        self.window = self._peer_window = _DEFAULT_WINDOW
        self.most_frame = 16_384
        self.room = _TURN
        self.begin = b""
        self._control, self._control_until = 0, 0.0
        self._long = 0  # bytes of long header blocks in this turn
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

    # -- called by the listener --

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return bool(self._streams)

    @property
    def is_idle(self) -> bool:
        """Whether no request is open and no byte of one has been received."""
        return not (self._streams or self._buffer or self._block or self._parting)

    @property
    def is_in_head(self) -> bool:
        """Whether a frame or a header block is incomplete."""
        return bool(self._buffer) or self._block is not None

    def end(self) -> None:
        """Tell the caller to open no more streams; close after the open ones are answered."""
        if self._parting is None and not self._is_ending:
            self.emit(frames.goaway(LARGEST_WINDOW, Fault.NO_ERROR))
            self._parting = self._loop.call_later(PARTING_S, self._part)

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

    # -- called by the event loop --

    def connection_lost(self, error: Exception | None) -> None:
        """Clean up after the connection has closed."""
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
        begun, position = self._buffer, 0
        if begun:
            if self._has_preface and len(data) > _LARGE_FRAME:
                position = frames.missing(begun)
            if not 0 < position < len(data):  # else only the frame that has begun is copied
                data, begun, position = begun + data, b"", 0
        if not self._has_preface:
            if len(data) < len(PREFACE):
                self._buffer = data
                return
            self._has_preface = True
            position = len(PREFACE)
        self._is_flushing = True  # frames written meanwhile are sent together at the end
        try:
            if begun:
                self._read(begun + data[:position], 0)
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
        """Note that the write buffer is full."""
        super().pause_writing()
        self.room = 0

    def resume_writing(self) -> None:
        """Note that the write buffer has room again."""
        super().resume_writing()
        self.room = _TURN
        self._pump()

    # -- writing --

    def emit(self, data: bytes) -> None:
        """Send frames, together with others of this turn of the event loop."""
        self._out.append(data)
        if not self._is_flushing:
            self._is_flushing = True
            self._loop.call_soon(self._flush_later)

    def _flush_later(self) -> None:
        self._is_flushing = False
        self.flush()

    def flush(self) -> None:
        """Send the waiting frames now."""
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
        """Continue an answer when there is room, after those that already wait."""
        self._queue[stream.id] = stream

    def _pump(self) -> None:
        queue = self._queue
        while queue and self.room > 0 and self.window > 0:
            queue.pop(next(iter(queue))).pump()

    def _fail(self, fault: Fault, text: str = "") -> None:
        """Close the connection with an error code."""
        if not self._transport.is_closing():
            self._out.append(frames.goaway(self._last, fault, text.encode()))
            self.flush()
            self._is_ending = True
            self._transport.close()
        for stream in list(self._streams.values()):
            stream.leave()

    # -- reading --

    def _read(self, data: bytes, position: int) -> int:
        """Process the complete frames; return where the next one begins."""
        size = len(data)
        self._is_behind, self._long = False, 0
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
                if not flags and length >= _LARGE_FRAME and self._is_plain(id, data, start):
                    position = self._fill(self._streams.get(id), data, start, length)
                else:
                    self._data(id, flags, data[start:end])
            elif kind == frames.HEADERS:
                self._headers(id, flags, data[start:end])
            else:
                self._other(kind, flags, id, data[start:end])
            if self._long > _MOST_LONG:
                break
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
        else:  # PRIORITY is deprecated, a caller's GOAWAY changes nothing, and other types are unknown
            self._count_control()
            if kind == frames.PRIORITY and (not id or len(payload) != 5):
                raise _ConnectionFault(Fault.PROTOCOL_ERROR if not id else Fault.FRAME_SIZE_ERROR)
            if kind == frames.GOAWAY and (id or len(payload) < 8):
                raise _ConnectionFault(Fault.PROTOCOL_ERROR if id else Fault.FRAME_SIZE_ERROR)

    def _count_control(self) -> None:
        """Bound the frames that cost work without asking for anything."""
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
        # Send it before any byte that only the new values allow: callers apply them when it arrives.
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
        """Open a stream, or end one with trailers, whose content is ignored."""
        if len(block) > _LONG_BLOCK:
            self._long += len(block)
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
        """Refuse to open a stream."""
        self._count_control()
        self.emit(frames.rst_stream(id, fault))
        if not flags & frames.END_STREAM:
            self._note_ended(id)

    def _count_if_reset(self, stream: Stream) -> None:
        """Count the reset of a faulty stream like one by the caller, who could otherwise force resets."""
        if stream.is_gone:
            self._count_control()

    def _note_ended(self, id: int) -> None:
        """Remember a stream that the server ended, because frames for it may still arrive."""
        if len(self._ended) >= _MOST_ENDED:
            del self._ended[next(iter(self._ended))]
        self._ended[id] = None

    def _check_ended(self, id: int, flags: int) -> None:
        """Refuse frames for a stream that the caller has already ended (RFC 9113, section 5.1)."""
        if id not in self._ended:
            raise _ConnectionFault(Fault.STREAM_CLOSED)
        if flags & frames.END_STREAM:
            del self._ended[id]

    def _is_plain(self, id: int, data: bytes, start: int) -> bool:
        """Return whether a stream's body is received whole, after a look at its first bytes, or dropped."""
        stream = self._streams.get(id)
        if stream is None:
            return id in self._ended
        if not stream.has_begun:
            stream.collect(data[start : start + _LARGE_FRAME])
        return stream.is_filling or stream.is_whole

    def _fill(self, stream: Stream | None, data: bytes, start: int, length: int) -> int:
        """Take a DATA frame, and those with the same header that follow; return where the next frame begins.

        Args:
            stream: None = it has ended, and drops them.
            start, length: Of the first frame's payload.
        """
        head = data[start - frames.HEAD_SIZE : start]
        view, size, pieces = memoryview(data), len(data), []
        while True:
            pieces.append(view[start : start + length])
            start += length + frames.HEAD_SIZE
            if start + length > size or not data.startswith(head, start - frames.HEAD_SIZE):
                break
        received = length * len(pieces)
        self._receivable -= received
        if stream is not None:
            stream.receivable -= received
        if self._receivable < 0 or (stream is not None and stream.receivable < 0):
            raise _ConnectionFault(Fault.FLOW_CONTROL_ERROR)
        if stream is None:
            self.give_credit(received)
        else:
            stream.fill(pieces, received)
            self._count_if_reset(stream)
        return start - frames.HEAD_SIZE

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
        """Let the caller send so many more bytes, on any stream."""
        self._credit += size
        if self._credit >= _CONNECTION_WINDOW // 2:
            self.emit(frames.window_update(0, self._credit))
            self._receivable += self._credit
            self._credit = 0

    # -- streams --

    def forget(self, stream: Stream) -> None:
        """Remove a finished stream."""
        self._streams.pop(stream.id, None)
        self._queue.pop(stream.id, None)
        if not stream.has_ended:
            self._note_ended(stream.id)
        self.since = self._loop.time()
        if self._is_ending:
            self._close_if_done()

    def expect(self, stream: Stream) -> None:
        """Have a stream enter at the end of this read, if it is incomplete then."""
        self._begun.append(stream)

    def prompt(self, stream: "Stream") -> Prompt | None:
        """Return the function that answers a stream's complete request without a task."""
        self._terms.pulse.read(stream, monotonic())
        return self._terms.prompt(stream.head)

    def prompt_large(self, stream: "Stream", size: int) -> Prompt | None:
        """Return that function for a request of which the beginning of a body of so many bytes has come."""
        pulse, now = self._terms.pulse, monotonic()
        pulse.read_large(stream, now, size, stream.since)
        is_narrow = now < pulse.limited_until
        if is_narrow is not self.is_narrow:
            self._set_window(is_narrow=is_narrow)
        return self._terms.prompt(stream.head)

    def _set_window(self, *, is_narrow: bool) -> None:
        """Set the first window of streams, also of open ones: those that have begun get theirs back."""
        self.is_narrow = is_narrow
        window = _NARROW_WINDOW if is_narrow else WINDOW
        self.emit(frames.settings([(Setting.INITIAL_WINDOW_SIZE, window)]))
        for stream in self._streams.values():
            stream.is_narrow = is_narrow
            if is_narrow and stream.has_begun:
                self.widen(stream)

    def widen(self, stream: "Stream") -> None:
        """Let the caller send as much on a narrow stream as on others."""
        stream.is_narrow = False
        if not stream.has_ended:
            size = WINDOW - _NARROW_WINDOW
            self.emit(frames.window_update(stream.id, size))
            stream.receivable += size

    def receive(self, stream: "Stream") -> None:
        """Count the large body of a stream, which has begun to come."""
        self._terms.pulse.receive(stream)

    def received(self, stream: "Stream") -> Prompt | None:
        """Note that a large body has come; return the function that answers its request without a task."""
        self._terms.pulse.received(stream)
        return self._terms.prompt(stream.head)

    @property
    def pulse(self) -> Pulse:
        """Pulse of the event loop."""
        return self._terms.pulse

    def keep(self, refusal: Closable) -> None:
        """Close a refusal when the turn of the event loop ends."""
        self._terms.pulse.keep(refusal)

    def app(self, stream: "Stream") -> Awaitable[None]:
        """Call the application for a stream."""
        scope = scope_of(stream, self._scheme, self.client, self._server)
        return self._terms.app(scope, stream.receive, stream.send)


class _ConnectionFault(Exception):
    """Error that closes the connection."""

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

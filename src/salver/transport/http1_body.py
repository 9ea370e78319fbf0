"""Large bodies of HTTP/1.1 that are received whole, straight into their own memory."""

import asyncio
import mmap
import socket
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final, Protocol, cast

from salver.transport.budget import RESERVED_S

if TYPE_CHECKING:
    from salver.transport.large_body import LargeBody

#: Bytes received at once. libuv receives up to 32 times before other connections have their turns.
_STEP: Final = 1 << 18
#: Bytes discarded at once.
_MOST_DISCARDED: Final = 1 << 24


class BodyOwner(Protocol):
    """Connection that receives a body.

    Attributes:
        since: Time of the last byte, by the event loop's clock.
    """

    since: float

    def collected(self) -> None:
        """Continue with the whole body."""
        ...

    def came_slowly(self) -> None:
        """Continue with the part of the body that has been received."""
        ...

    def dropped(self) -> None:
        """Continue after a body that was dropped."""
        ...

    def pause_writing(self) -> None:
        """Note that the write buffer is full."""
        ...

    def resume_writing(self) -> None:
        """Note that the write buffer has room again."""
        ...

    def connection_lost(self, error: Exception | None) -> None:
        """Clean up after the connection has closed."""
        ...


class _BodyProtocol(asyncio.BufferedProtocol):
    """Protocol of a connection while it receives a large body."""

    def __init__(self, owner: BodyOwner, transport: asyncio.Transport) -> None:
        self._owner = owner
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def pause_writing(self) -> None:
        """Note that the write buffer is full."""
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        """Note that the write buffer has room again."""
        self._owner.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the connection has closed."""
        self._owner.connection_lost(exc)

    def _use(self, protocol: object) -> None:
        """Change the protocol while the transport does not read: uvloop looks at its kind then."""
        self._transport.pause_reading()
        self._transport.set_protocol(cast(asyncio.BaseProtocol, protocol))
        self._transport.resume_reading()


class BodyDropper(_BodyProtocol):
    """Protocol of a connection that receives the rest of a body that nobody wants.

    What has come is discarded in the kernel, without a copy.

    Args:
        left: Bytes of the rest.
    """

    _last: ClassVar = bytearray(1 << 12)
    _room: ClassVar = mmap.mmap(-1, _MOST_DISCARDED)  # never written to, so that it takes no memory

    def __init__(self, owner: BodyOwner, transport: asyncio.Transport, left: int) -> None:
        super().__init__(owner, transport)
        self._left = left
        self._fd = transport.get_extra_info("socket").fileno()
        self._use(self)

    def __repr__(self) -> str:
        return f"<BodyDropper, {self._left} left>"

    def get_buffer(self, sizehint: int) -> memoryview:
        """Discard what has come, and return memory for the next bytes."""
        self._owner.since = self._loop.time()
        self._discard()
        return memoryview(self._last)[: self._left]

    def _discard(self) -> None:
        """Discard all bytes that have come but the last one, whose reception ends this."""
        most = min(self._left - 1, _MOST_DISCARDED)
        if most:
            sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, self._fd)
            with suppress(OSError):  # nothing has come, or the connection is lost, which libuv sees as well
                self._left -= sock.recv_into(self._room, most, socket.MSG_TRUNC)
            sock.detach()

    def buffer_updated(self, nbytes: int) -> None:
        """Count received bytes."""
        self._left -= nbytes
        if not self._left:
            self._transport.pause_reading()
            self._loop.call_soon(self._end)

    def _end(self) -> None:
        if not self._transport.is_closing():
            self._use(self._owner)
            self._owner.dropped()


class BodyReader(_BodyProtocol):
    """Protocol of a connection from the head of a request to the end of its large body.

    Args:
        body: The body, incomplete.
    """

    def __init__(self, owner: BodyOwner, transport: asyncio.Transport, body: "LargeBody") -> None:
        super().__init__(owner, transport)
        self._body = body
        self._timer = self._loop.call_later(RESERVED_S, self._give_up)
        self._use(self)

    def __repr__(self) -> str:
        return f"<BodyReader {self._body}>"

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return the memory for the next bytes."""
        body = self._body
        return body.view[body.at : body.at + _STEP]

    def buffer_updated(self, nbytes: int) -> None:
        """Count received bytes."""
        self._body.at += nbytes
        if self._body.is_whole:
            self._end()
            self._owner.collected()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clean up after the connection has closed."""
        self._timer.cancel()
        super().connection_lost(exc)

    def _end(self) -> None:
        self._timer.cancel()
        self._use(self._owner)

    def _give_up(self) -> None:
        if not self._transport.is_closing():
            self._end()
            self._owner.came_slowly()

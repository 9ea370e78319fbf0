"""Non-blocking socket of frames, the server's end of a channel of a host process."""

import asyncio
import socket
from collections.abc import Callable

import msgspec

from salver.kernel.engine.control import Frames


class FrameSocket:
    """Socket that carries frames, on the event loop.

    Args:
        sock: Closed by its owner.
        hear: Takes the payload of a frame; raises ValueError or MsgspecError if it is invalid.
        broken: Called for an invalid frame.
        ended: Called when the other end is closed.

    Attributes:
        is_unread: The other end was closed before it had read everything.
    """

    def __init__(
        self,
        sock: socket.socket,
        hear: Callable[[bytes], None],
        broken: Callable[[Exception], object],
        ended: Callable[[], None] | None = None,
    ) -> None:
        self.is_unread = False
        self._sock = sock
        self._hear = hear
        self._broken = broken
        self._ended = ended
        self._frames = Frames()
        self._leaving = bytearray()  # bytes that the socket does not accept yet
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(sock.fileno(), self.listen)

    def listen(self) -> bool:
        """Read the available frames; return False if there may be no more."""
        try:
            data = self._sock.recv(1 << 16)
        except (BlockingIOError, InterruptedError):
            return False
        except ConnectionResetError:  # it was closed with unread data in it
            data, self.is_unread = b"", True
        except OSError:
            data = b""
        if not data:
            self._loop.remove_reader(self._sock.fileno())
            if self._ended is not None:
                self._ended()
            return False
        try:
            for payload in self._frames.feed(data):
                self._hear(payload)
        except (ValueError, msgspec.MsgspecError) as error:
            self._broken(error)
            return False
        return True

    def send(self, framed: bytes | bytearray) -> None:
        """Send a frame; what the socket does not accept waits (little: tensors are in shared memory)."""
        is_waiting = bool(self._leaving)
        self._leaving += framed
        if not is_waiting:
            self._push()
            if self._leaving:
                self._loop.add_writer(self._sock.fileno(), self._push_on)

    def close(self) -> None:
        """Neither read nor write any more."""
        self._loop.remove_reader(self._sock.fileno())
        self._loop.remove_writer(self._sock.fileno())

    def _push_on(self) -> None:
        self._push()
        if not self._leaving:
            self._loop.remove_writer(self._sock.fileno())

    def _push(self) -> None:
        try:
            sent = self._sock.send(self._leaving)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:  # a dead child is noticed by its process descriptor
            sent, self.is_unread = len(self._leaving), True
        del self._leaving[:sent]

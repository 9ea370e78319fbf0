"""Socket between the home process and a front: frames of MessagePack, written once a turn of the loop."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

import msgspec

_LENGTH: Final = struct.Struct("=I")
Message = TypeVar("Message")


def frame(payload: bytes) -> bytes:
    """Return a payload behind its length."""
    return _LENGTH.pack(len(payload)) + payload


class Channel(asyncio.Protocol, Generic[Message]):
    """One end of the socket.

    Args:
        kinds: Type of the messages of the other end.
        hear: Takes each of them.
        lost: Called once, when the other end is closed.
    """

    def __init__(self, kinds: Any, hear: Callable[[Message], None], lost: Callable[[], None]) -> None:
        self._decode: Callable[[bytes], Message] = msgspec.msgpack.Decoder(kinds).decode
        self._encode = msgspec.msgpack.Encoder().encode
        self._hear = hear
        self._lost = lost
        self._unsent: list[bytes] = []
        self._unread = bytearray()
        self._transport: asyncio.Transport | None = None
        self._loop = asyncio.get_running_loop()

    def __repr__(self) -> str:
        return f"<Channel {'closed' if self._transport is None else 'open'}>"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Hear the messages that are complete."""
        unread, at = data, 0
        if self._unread:
            self._unread += data
            unread = bytes(self._unread) if self._is_whole() else b""
        while len(unread) - at >= 4:
            end = at + 4 + _LENGTH.unpack_from(unread, at)[0]
            if end > len(unread):
                break
            message, at = self._decode(memoryview(unread)[at + 4 : end]), end  # type: ignore[arg-type]
            self._hear(message)
        if unread:
            self._unread = bytearray(memoryview(unread)[at:])

    def _is_whole(self) -> bool:
        """Return whether the first message is complete; large ones come in many pieces."""
        unread = self._unread
        return len(unread) >= 4 and len(unread) - 4 >= _LENGTH.unpack_from(unread)[0]

    def connection_lost(self, error: Exception | None) -> None:
        """Tell the owner."""
        self._transport = None
        self._lost()

    def send(self, message: msgspec.Struct) -> None:
        """Send a message with the others of this turn of the loop; nothing if the other end is closed."""
        payload = self._encode(message)
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent += (_LENGTH.pack(len(payload)), payload)

    def flush(self) -> None:
        """Write what has been sent."""
        unsent, self._unsent = self._unsent, []
        if self._transport is not None and unsent:
            self._transport.write(b"".join(unsent))

    def close(self) -> None:
        """Write what has been sent, and close."""
        self.flush()
        if self._transport is not None:
            self._transport.close()

"""Records between transports and codecs.

A codec is pure: bytes to words and back, no socket, no clock, no loaded model (only its
:class:`~salver.words.messages.Signature`).

Pure.
"""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import msgspec

from salver.words.errors import TooLarge, tritons

_NO_HEADERS: Mapping[bytes, bytes] = {}

#: Bytes of a body whose room is made at once, and of the most room that is.
_LARGE, _MOST_ROOM = 8 << 20, 64 << 20


class HttpBody(msgspec.Struct, gc=False):
    """An HTTP request for a codec.

    Attributes:
        headers: With lower-case names.
        large: A large body, instead of ``body``, for a codec whose ``weigh`` returned 0 for it.
        query: Query string, except of requests that are answered without a task.
        root: The body's JSON, if the codec's ``weigh`` has parsed it.
    """

    model: str
    version: str
    body: bytes
    headers: Mapping[bytes, bytes] = _NO_HEADERS
    large: memoryview | None = None
    query: bytes = b""
    root: Any = None

    @property
    def content(self) -> bytes | memoryview:
        """Return the body, whichever of the two it is."""
        return self.body if self.large is None else self.large


def media_type(headers: Mapping[bytes, bytes]) -> bytes:
    """Return the content type without its parameters, in lower case; empty = there is none.

    >>> media_type({b"content-type": b"Text/CSV; charset=utf-8"}), media_type({})
    (b'text/csv', b'')
    """
    return headers.get(b"content-type", b"").partition(b";")[0].strip().lower()


class Message(msgspec.Struct, frozen=True, gc=False):
    """A large gRPC message that has not been parsed."""

    message: bytes


class HttpReply(msgspec.Struct, gc=False):
    """An HTTP reply; the transport adds only ``content-length``."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


def over_limit(text: str) -> TooLarge:
    """Return the error for a body over the limit.

    Args:
        text: Error text before the number of bytes.
    """
    return tritons(
        TooLarge(f"{text} bytes", fix="Use --max-body-mb to increase the limit."),
        f"{text} bytes. Use --http-max-input-size to increase the limit.",
    )


class GrpcStatus(msgspec.Struct, frozen=True, gc=False):
    """A gRPC status code (0 to 16) and its message.

    Attributes:
        pushback_ms: Milliseconds that the client should wait before a retry (gRPC's A6); 0 = not set,
            -1 = none can help.
    """

    code: int
    message: str
    pushback_ms: int = 0


def room(size: int) -> BytesIO:
    """Return a buffer for so many bytes, which it gives away uncopied.

    Room for a large body is made at once: it takes no memory before it is used, while making more, again and
    again, copies what is there. Smaller ones are faster in memory that has been used before.
    """
    return BytesIO(bytes(min(size, _MOST_ROOM)) if size > _LARGE else b"")

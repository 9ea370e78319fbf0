"""What goes into a codec, and what comes out?

The records between transports and codecs. A codec is pure: bytes to words and back, no
socket, no clock, no loaded model (only its :class:`~salver.words.messages.Signature`).

Pure.
"""

from collections.abc import Mapping

import msgspec

from salver.words.errors import TooLarge, tritons

_NO_HEADERS: Mapping[bytes, bytes] = {}


class HttpBody(msgspec.Struct, gc=False):
    """An HTTP request as a codec sees it: ``headers`` have lower-case names."""

    model: str
    version: str
    body: bytes
    headers: Mapping[bytes, bytes] = _NO_HEADERS


class Message(msgspec.Struct, frozen=True, gc=False):
    """A large message of gRPC that nobody has read yet, as a codec gets it."""

    message: bytes


class HttpReply(msgspec.Struct, gc=False):
    """An HTTP reply; the transport adds ``content-length``, nothing else."""

    status: int
    body: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ((b"content-type", b"application/json"),)


def over_limit(text: str) -> TooLarge:
    """What is larger than a body may be.

    Args:
        text: That says so, up to the number of bytes.
    """
    return tritons(
        TooLarge(f"{text} bytes", fix="Use --max-body-mb to increase the limit."),
        f"{text} bytes. Use --http-max-input-size to increase the limit.",
    )


class GrpcStatus(msgspec.Struct, frozen=True, gc=False):
    """A gRPC status code (0 to 16) and its message.

    Attributes:
        pushback_ms: How long the client should wait before it tries again (gRPC's A6); 0 = not said.
    """

    code: int
    message: str
    pushback_ms: int = 0

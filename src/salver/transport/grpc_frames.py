"""Frames of gRPC messages, and gRPC's encoding of time and text in headers.

The five-byte prefix, ``grpc-encoding``, ``grpc-timeout`` and ``grpc-message`` of "gRPC over HTTP2". Bytes may
arrive in pieces of any size.

Pure.
"""

import re
import struct
from io import BytesIO
from typing import Final

from salver.encoding.bodies import GrpcStatus, room
from salver.transport.compression import WORTHWHILE, inflate, pack
from salver.words.errors import InvalidInput, TooLarge, Unsupported

_PREFIX = struct.Struct(">BI")
_ENCODINGS: Final = ("identity", "gzip", "deflate")
#: Bytes of a message that are escaped; no header begins or ends with a space.
_ESCAPED: Final = re.compile(rb"[^ -~]|%|\A | \Z")
_TIMEOUT = re.compile(r"(\d{1,8})([HMSmun])")
_SECONDS: Final = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def frame(message: bytes, encoding: str = "", level: int = 0) -> bytes:
    """Return a message with its prefix.

    Args:
        encoding: The call's ``grpc-encoding``; empty = no compression. Small messages are never compressed.
        level: Compression level, 1 to 9.
    """
    # Small messages grow by compression, and it takes longer than to send them.
    if not encoding or len(message) < WORTHWHILE:
        return _PREFIX.pack(0, len(message)) + message
    packed = pack(message, encoding, level)
    return _PREFIX.pack(1, len(packed)) + packed


def message_size(begun: bytes) -> int:
    """Return the bytes of a message with its prefix, of which the first are given; 0 = too few to tell.

    >>> message_size(frame(b"abc")[:6]), message_size(b"12")
    (8, 0)
    """
    return _PREFIX.unpack_from(begun)[1] + _PREFIX.size if len(begun) >= _PREFIX.size else 0


def encoding_for(accepted: bytes) -> str:
    """Return the encoding for a ``grpc-accept-encoding``, gzip before deflate; empty for neither.

    >>> encoding_for(b"identity, deflate, gzip"), encoding_for(b"identity")
    ('gzip', '')
    """
    names = {name.strip() for name in accepted.split(b",")}
    return next((name for name in ("gzip", "deflate") if name.encode() in names), "")


class Packed(bytes):
    """A message that is still compressed."""


class FrameReader:
    """Splits received bytes into complete messages.

    Args:
        limit: Most bytes of one message, compressed or inflated.
        encoding: The call's ``grpc-encoding``.
        inflates: Inflate compressed messages at once; else they are returned as :class:`Packed`.

    >>> reader = FrameReader(100)
    >>> reader.feed(frame(b"ab")[:3]), reader.feed(frame(b"ab")[3:] + frame(b""))
    ([], [b'ab', b''])
    """

    def __init__(self, limit: int, encoding: str = "identity", *, inflates: bool = True) -> None:
        self._limit = limit
        self._encoding = encoding
        self._inflates = inflates
        self._prefix = bytearray()  # received part of the next message's prefix
        self._body: BytesIO | None = None  # message whose prefix is complete; getvalue() does not copy
        self._flag = self._left = 0

    @property
    def is_empty(self) -> bool:
        """Whether the reader is between messages, where a stream may end."""
        return not self._prefix and self._body is None

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that these bytes complete.

        Raises:
            TooLarge: a message is over the limit; raised as soon as its prefix is complete.
            Unsupported: its compression is unknown.
            InvalidInput: its prefix or its compressed bytes are malformed.
        """
        if self.is_empty and len(data) >= 5:  # the usual case: one whole message
            flag, size = _PREFIX.unpack_from(data)
            if len(data) == size + 5 and size <= self._limit:
                return [self._open(flag, data[5:])]
        # A view: cutting bytes would copy the rest for every message in them.
        view = memoryview(data)
        messages: list[bytes] = []
        while view:
            if self._body is None:
                need = 5 - len(self._prefix)
                self._prefix += view[:need]
                view = view[need:]
                if len(self._prefix) < 5:
                    break
                self._begin()
            assert self._body is not None
            piece = view[: self._left]
            self._body.write(piece)
            view = view[len(piece) :]
            self._left -= len(piece)
            if not self._left:
                message, self._body = self._body.getvalue(), None
                messages.append(self._open(self._flag, message))
        return messages

    def _begin(self) -> None:
        self._flag, self._left = _PREFIX.unpack(self._prefix)
        # By the prefix alone, before memory is spent on the message.
        if self._left > self._limit:
            raise TooLarge(
                f"Received message larger than max ({self._left} vs. {self._limit})",
                fix="Send it in parts, or raise the server's limit for gRPC messages.",
            )
        self._prefix.clear()
        self._body = room(self._left)

    def _open(self, flag: int, message: bytes) -> bytes:
        if flag == 0:
            return message
        if flag != 1:
            raise InvalidInput(f"a gRPC message prefix begins with {flag}, not 0 or 1")
        if self._encoding not in _ENCODINGS:
            raise Unsupported(
                f"grpc-encoding '{self._encoding}' is not supported", fix="Use gzip, deflate or identity."
            )
        if self._encoding == "identity":
            raise InvalidInput("a gRPC message is marked compressed, but the call names no grpc-encoding")
        if self._inflates:
            return inflate(message, self._encoding, self._limit)
        return Packed(message)


def parse_timeout(text: str) -> float:
    """Return the seconds of a ``grpc-timeout``.

    Raises:
        InvalidInput: it is not one to eight digits and a unit.

    >>> parse_timeout("100m"), parse_timeout("2S")
    (0.1, 2.0)
    """
    # ``\d`` matches digits of other scripts, which gRPC does not know.
    parts = None
    if text.isascii():
        parts = _TIMEOUT.fullmatch(text)
    if parts is None:
        raise InvalidInput(f"grpc-timeout {text[:40]!r} is not one to eight digits and one of HMSmun")
    return int(parts[1]) * _SECONDS[parts[2]]


def encode_message(text: str) -> bytes:
    """Encode a ``grpc-message``: UTF-8, percent-encoded except for printable ASCII other than ``%``.

    >>> encode_message("50% of ü ")
    b'50%25 of %C3%BC%20'
    """
    if text.isascii() and text.isprintable() and "%" not in text and text.strip() == text:
        return text.encode()
    return _ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], text.encode("utf-8", "replace"))


def trailers(status: GrpcStatus) -> list[tuple[bytes, bytes]]:
    """Return the trailers of a call.

    >>> trailers(GrpcStatus(0, "")), trailers(GrpcStatus(3, "no"))
    ([(b'grpc-status', b'0')], [(b'grpc-status', b'3'), (b'grpc-message', b'no')])
    """
    headers = [(b"grpc-status", b"%d" % status.code)]
    if status.message:
        headers.append((b"grpc-message", encode_message(status.message)))
    if status.pushback_ms:
        headers.append((b"grpc-retry-pushback-ms", b"%d" % status.pushback_ms))
    return headers

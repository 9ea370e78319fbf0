"""Frames and header blocks of HTTP/2 (RFC 9113, RFC 7541), as the server writes them.

Header blocks are literals without index and Huffman coding, which need no state of the connection. Pure.
"""

import struct
from collections.abc import Iterable
from enum import IntEnum
from functools import lru_cache
from typing import Final

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM, END_HEADERS, PADDED, WITH_PRIORITY, ACK = 0x1, 0x4, 0x8, 0x20, 0x1
#: Bytes of a frame header.
HEAD_SIZE: Final = 9
#: Unpacks a frame header: upper and lower bits of the length, type, flags, stream.
unpack_head = struct.Struct(">BHBBI").unpack_from
_head = struct.Struct(">BHBBI").pack
_SETTING: Final = struct.Struct(">HI")
_STATUSES: Final = {
    200: b"\x88",
    204: b"\x89",
    206: b"\x8a",
    304: b"\x8b",
    400: b"\x8c",
    404: b"\x8d",
    500: b"\x8e",
}


class Fault(IntEnum):
    """Error codes of HTTP/2 (RFC 9113, section 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class Setting(IntEnum):
    """Settings (RFC 9113, section 6.5.2)."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame.

    >>> frame(PING, ACK, 0, b"12345678")[:9]
    b'\\x00\\x00\\x08\\x06\\x01\\x00\\x00\\x00\\x00'
    """
    size = len(payload)
    return _head(size >> 16, size & 0xFFFF, kind, flags, stream) + payload


def missing(begun: bytes) -> int:
    """Return the bytes that an incomplete frame lacks; 0 = its header is incomplete.

    >>> missing(frame(PING, 0, 0, b"12345678")[:10]), missing(b"12345678")
    (7, 0)
    """
    if len(begun) < HEAD_SIZE:
        return 0
    return int.from_bytes(begun[:3], "big") + HEAD_SIZE - len(begun)


def settings(values: Iterable[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(key, value) for key, value in values))


def read_settings(payload: bytes) -> list[tuple[int, int]]:
    """Return the settings of a frame whose length is a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def window_update(stream: int, size: int) -> bytes:
    """Return a WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, size.to_bytes(4, "big"))


def rst_stream(stream: int, fault: Fault) -> bytes:
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, fault.to_bytes(4, "big"))


def goaway(last: int, fault: Fault, text: bytes = b"") -> bytes:
    """Return a GOAWAY frame; ``last`` is the last stream that may be processed."""
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + fault.to_bytes(4, "big") + text)


@lru_cache(256)
def header_block(status: int, headers: tuple[tuple[bytes, bytes], ...]) -> bytes:
    r"""Return the block of a response's head, or of trailers.

    Args:
        status: Status; 0 = trailers, which have none.

    >>> header_block(200, ((b"a", b"b"),))
    b'\x88\x00\x01a\x01b'
    """
    return b"".join((_status(status), *(_literal(name, value) for name, value in headers)))


def _status(status: int) -> bytes:
    if not status:
        return b""
    return _STATUSES.get(status) or b"\x08\x03%d" % status


def _literal(name: bytes, value: bytes) -> bytes:
    # Without indexing: blocks can be cached, since no table changes with each of them.
    return b"\x00%b%b%b%b" % (_length(len(name)), name.lower(), _length(len(value)), value)


def _length(value: int) -> bytes:
    """Encode an integer with a prefix of seven bits (RFC 7541, section 5.1).

    >>> _length(5), _length(1337)
    (b'\\x05', b'\\x7f\\xba\\t')
    """
    if value < 127:
        return bytes((value,))
    out = bytearray((127,))
    value -= 127
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)

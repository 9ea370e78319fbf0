"""Chunked bodies of HTTP/1.1 (RFC 9112, section 7.1).

Trailers are read and ignored. Pure.
"""

import re
from typing import Final

from salver.transport.budget import MOST_HEAD

_MOST_LINE: Final = 1024
_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\r\n]*)?\r\n")
_LINE_END: Final = b"\r\n"


class ChunkReader:
    r"""Reader of one chunked body.

    Attributes:
        size: Bytes of all chunks whose lines have been read.
        count: Number of these chunks.
        fault: Status with which the body is to be refused; 0 = none.

    >>> reader, buffer = ChunkReader(), bytearray(b"3\r\nabc\r\n0\r\n\r\nnext")
    >>> reader.read(buffer), reader.read(buffer), buffer
    (b'abc', b'', bytearray(b'next'))
    """

    __slots__ = ("_left", "count", "fault", "size")

    def __init__(self) -> None:
        self._left = 0  # bytes left of a chunk, with its line end; 0 = a chunk line follows
        self.size = self.count = self.fault = 0

    def __repr__(self) -> str:
        return f"<ChunkReader, {self.count} chunks>"

    def read(self, buffer: bytearray) -> bytes | None:
        """Take the next piece out of the buffer.

        Returns:
            The piece; empty = the body is over; None = more bytes are needed, or there is a fault.
        """
        while True:
            if not self._left:
                line = _LINE.match(buffer)
                if line is None:
                    if len(buffer) > _MOST_LINE or b"\n" in buffer:
                        self.fault = 400
                    return None
                size, begin = int(line[1], 16), line.end()
                del line  # a match exports the buffer, which then cannot be resized
                if not size:
                    return self._end(buffer, begin)
                del buffer[:begin]
                self.size += size
                self.count += 1
                self._left = size + len(_LINE_END)
            if self._left > len(_LINE_END):
                piece = bytes(buffer[: self._left - len(_LINE_END)])
                del buffer[: len(piece)]
                self._left -= len(piece)
                return piece or None
            if not _LINE_END.startswith(bytes(buffer[: len(_LINE_END)])):
                self.fault = 400
                return None
            if len(buffer) < len(_LINE_END):
                return None
            del buffer[: len(_LINE_END)]
            self._left = 0

    def _end(self, buffer: bytearray, begin: int) -> bytes | None:
        """Drop the trailers, from a position on; None = they are incomplete."""
        end = begin if buffer.startswith(_LINE_END, begin) else buffer.find(b"\r\n\r\n", begin) + 2
        if end < 2 or len(buffer) < end + 2:
            if len(buffer) > MOST_HEAD:
                self.fault = 431
            return None
        del buffer[: end + 2]
        return b""

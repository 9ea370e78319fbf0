"""Compression of HTTP bodies and gRPC messages, within bounds.

gzip and deflate, as Triton does (TR-R28). A small body that would inflate beyond the limit is
refused before it has. It knows no header but the two texts it is given.

Pure.
"""

import zlib
from io import BytesIO
from typing import Final

from salver.words.errors import InvalidInput, TooLarge, Unsupported

#: Below this size compression costs more than it saves.
WORTHWHILE: Final = 128
#: Times its size that a body may inflate to, and bytes that any body may inflate to. Text of numbers shrinks
#: to a tenth at best; a file of zeros, whose only use is to cost its reader much, to a thousandth.
MOST_TIMES: Final = 100
FREE: Final = 8 << 20
_PIECE: Final = 1 << 18  # bytes that take half a millisecond
_GZIP: Final = 16 + zlib.MAX_WBITS
_EITHER: Final = 32 + zlib.MAX_WBITS  # gzip or zlib, whatever the label says, as Triton reads them
_LEVEL: Final = 1  # tensors hardly shrink more at a higher one


def ceiling(size: int, limit: int) -> int:
    """Most bytes that a body of that many bytes may inflate to."""
    return min(limit, max(FREE, size * MOST_TIMES))


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before ``Content-Encoding: encoding``, all at once.

    Raises:
        InvalidInput, TooLarge, Unsupported: as :class:`Inflater`.
    """
    machine = Inflater(body, encoding, limit)
    machine.run()
    return machine.data()


class Inflater:
    """A body that is inflated piece by piece, so that no piece keeps others waiting.

    Args:
        encoding: Of ``Content-Encoding`` or ``grpc-encoding``.
        limit: Most bytes of what comes out.

    Raises:
        Unsupported: the encoding is neither gzip, deflate nor identity.
    """

    def __init__(self, body: bytes, encoding: str, limit: int) -> None:
        name = encoding.strip().lower()
        if name not in ("gzip", "x-gzip", "deflate", "identity"):
            raise Unsupported(f"Unsupported compression type '{encoding[:40]}'", fix="Use gzip or deflate.")
        self._name = name
        self._limit = limit
        self._ceiling = ceiling(len(body), limit)
        is_bare = name == "deflate" and not _has_header(body)  # by the RFC it has one, from some clients not
        self._machine = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _EITHER)
        self._rest = memoryview(body)
        self._tail: bytes | memoryview = b""  # of the piece that has gone in
        self._out = BytesIO()  # gives its bytes away without copying them
        if name == "identity":
            self._out.write(body)

    def step(self) -> bool:
        """Inflate one piece; True if it was the last.

        Raises:
            InvalidInput: the body is not whole, or something follows it.
            TooLarge: it inflates beyond the limit, or to too many times its size.
        """
        if self._name == "identity":
            return True
        machine = self._machine
        if not self._tail:  # piece by piece, since what is left of the input is copied each time
            self._tail, self._rest = self._rest[:_PIECE], self._rest[_PIECE:]
        try:
            piece = machine.decompress(self._tail, _PIECE)
        except zlib.error as error:
            raise InvalidInput(f"failed to decompress the {self._name} body: {error}") from None
        self._tail = machine.unconsumed_tail
        self._out.write(piece)
        size = self._out.tell()
        if size > self._limit:
            raise TooLarge(f"the {self._name} body inflates to more than the maximum of {self._limit} bytes")
        if size > self._ceiling:
            raise TooLarge(
                f"the {self._name} body inflates to more than {MOST_TIMES} times its size",
                fix=f"Send it as it is; up to {FREE} bytes may come of any size.",
            )
        if machine.eof:
            if machine.unused_data or self._rest:
                raise InvalidInput(f"failed to decompress the {self._name} body: bytes follow its end")
            return True
        if not (self._tail or self._rest) and len(piece) < _PIECE:
            raise InvalidInput(f"failed to decompress the {self._name} body: it ends too early")
        return False

    def run(self) -> None:
        """All pieces that are left. Raises as :meth:`step`."""
        while not self.step():
            pass

    def data(self) -> bytes:
        """What came out."""
        return self._out.getvalue()


def _has_header(body: bytes) -> bool:
    """True if it begins as gzip or zlib do."""
    if body[:2] == b"\x1f\x8b":
        return True
    return len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def deflate(body: bytes, accepted: str) -> tuple[str, bytes]:
    """The encoding that the caller's ``Accept-Encoding`` likes best, and the body in it.

    The encoding is empty, and the body untouched, where identity is liked as well or the
    body is small.
    """
    if len(body) < WORTHWHILE:
        return "", body
    name = choose(accepted)
    if not name:
        return "", body
    return name, pack(body, name, _LEVEL)


def pack(body: bytes, encoding: str, level: int) -> bytes:
    """The body as gzip or deflate, at a level from 1 to 9."""
    machine = zlib.compressobj(level, wbits=_GZIP if encoding == "gzip" else zlib.MAX_WBITS)
    return machine.compress(body) + machine.flush()


def choose(accepted: str) -> str:
    """gzip, deflate, or empty for identity, by quality (RFC 9110, 12.5.3); ``*`` means identity.

    >>> choose("deflate;q=0.5, gzip;q=0.8"), choose("gzip;q=0"), choose("identity, gzip;q=0.5")
    ('gzip', '', '')
    """
    best, best_quality = "", 0.0
    for item in accepted.split(","):
        name, *options = (part.strip().lower() for part in item.split(";"))
        quality = _quality(options)
        if name == "x-gzip":
            name = "gzip"
        if name in ("gzip", "deflate", "identity") and quality > best_quality:
            best, best_quality = "" if name == "identity" else name, quality
    return best


def _quality(options: list[str]) -> float:
    for option in options:
        key, _, value = option.partition("=")
        if key.strip() == "q":
            try:
                quality = float(value)
            except ValueError:
                return 0.0
            return quality if 0.0 <= quality <= 1.0 else 0.0
    return 1.0

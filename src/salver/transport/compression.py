"""Compression of HTTP bodies and gRPC messages, within bounds.

gzip and deflate, as in Triton (TR-R28). A body that would inflate beyond the limit is refused before it does.

Pure.
"""

import zlib
from io import BytesIO
from typing import Final

from salver.words.errors import InvalidInput, TooLarge, Unsupported

#: Below this size compression costs more than it saves.
WORTHWHILE: Final = 128
#: Factor by which a body may inflate, and bytes that any body may inflate to. Numbers as text shrink to a
#: tenth at best; a compression bomb of zeros to a thousandth.
MOST_TIMES: Final = 100
FREE: Final = 8 << 20
_PIECE: Final = 1 << 18  # bytes inflated in one step, about half a millisecond
_GZIP: Final = 16 + zlib.MAX_WBITS
_EITHER: Final = 32 + zlib.MAX_WBITS  # gzip or zlib, whatever the header says, as Triton accepts
_LEVEL: Final = 1  # higher levels hardly make tensors smaller


def ceiling(size: int, limit: int) -> int:
    """Return the most bytes that a body of this size may inflate to."""
    return min(limit, max(FREE, size * MOST_TIMES))


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """Return a body inflated, in one go.

    Raises:
        InvalidInput, TooLarge, Unsupported: as :class:`Inflater`.
    """
    machine = Inflater(body, encoding, limit)
    machine.run()
    return machine.data()


class Inflater:
    """Inflates a body step by step, so that no step blocks the event loop for long.

    Args:
        encoding: Value of ``Content-Encoding`` or ``grpc-encoding``.
        limit: Most bytes of the inflated body.

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
        # Some clients omit the zlib header that RFC 9110 requires.
        is_bare = name == "deflate" and not _has_header(body)
        self._machine = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _EITHER)
        self._rest = memoryview(body)
        self._tail: bytes | memoryview = b""  # input of the current piece that is not consumed
        self._out = BytesIO()  # getvalue() returns its buffer without a copy
        if name == "identity":
            self._out.write(body)

    def step(self) -> bool:
        """Inflate one piece; True if it was the last.

        Raises:
            InvalidInput: the body is truncated, or bytes follow its end.
            TooLarge: it inflates beyond the limit, or by more than the allowed factor.
        """
        if self._name == "identity":
            return True
        machine = self._machine
        if not self._tail:  # small pieces, since zlib copies the unconsumed rest each time
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
        """Inflate the rest. Raises as :meth:`step`."""
        while not self.step():
            pass

    def data(self) -> bytes:
        """Return the inflated bytes."""
        return self._out.getvalue()


def _has_header(body: bytes) -> bool:
    """Return whether a body begins with a gzip or zlib header."""
    if body[:2] == b"\x1f\x8b":
        return True
    return len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0


def deflate(body: bytes, accepted: str) -> tuple[str, bytes]:
    """Return the encoding that ``Accept-Encoding`` prefers, and the body in it.

    The encoding is empty and the body unchanged if identity is preferred or the body is small.
    """
    if len(body) < WORTHWHILE:
        return "", body
    name = choose(accepted)
    if not name:
        return "", body
    return name, pack(body, name, _LEVEL)


def pack(body: bytes, encoding: str, level: int) -> bytes:
    """Compress a body with gzip or deflate, at a level from 1 to 9."""
    machine = zlib.compressobj(level, wbits=_GZIP if encoding == "gzip" else zlib.MAX_WBITS)
    return machine.compress(body) + machine.flush()


def choose(accepted: str) -> str:
    """Return gzip, deflate, or empty for identity, by quality (RFC 9110, 12.5.3); ``*`` means identity.

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
            if 0.0 <= quality <= 1.0:
                return quality
            return 0.0
    return 1.0

"""How are HTTP bodies and gRPC messages compressed, within bounds?

gzip and deflate, as Triton does (TR-R28). A small body that would inflate beyond the limit is
refused before it has. It knows no header but the two texts it is given.
"""

import zlib
from typing import Final

from salver.errors import InvalidInput, TooLarge, Unsupported

#: Below this size compression costs more than it saves.
WORTHWHILE: Final = 128
_GZIP: Final = 16 + zlib.MAX_WBITS
_EITHER: Final = 32 + zlib.MAX_WBITS  # gzip or zlib, whatever the label says, as Triton reads them
_LEVEL: Final = 1  # tensors hardly shrink more at a higher one


def inflate(body: bytes, encoding: str, limit: int) -> bytes:
    """The body as it was before ``Content-Encoding: encoding``.

    Raises:
        InvalidInput: it is not whole, or something follows it.
        TooLarge: it inflates beyond the limit.
        Unsupported: the encoding is neither gzip, deflate nor identity.
    """
    name = encoding.strip().lower()
    if name == "identity":
        return body
    if name not in ("gzip", "x-gzip", "deflate"):
        raise Unsupported(f"Unsupported compression type '{encoding[:40]}'", fix="Use gzip or deflate.")
    is_bare = name == "deflate" and not _has_header(body)  # by the RFC it has one, from some clients not
    machine = zlib.decompressobj(-zlib.MAX_WBITS if is_bare else _EITHER)
    try:
        data = machine.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInput(f"failed to decompress the {name} body: {error}") from None
    if len(data) > limit:
        raise TooLarge(f"the {name} body inflates to more than the maximum of {limit} bytes")
    if not machine.eof:
        raise InvalidInput(f"failed to decompress the {name} body: it ends too early")
    if machine.unused_data:
        raise InvalidInput(f"failed to decompress the {name} body: bytes follow its end")
    return data


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

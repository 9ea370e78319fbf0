"""Keys that the headers of a request carry.

Each place of a credential is read: ``authorization`` with Bearer, or with Basic, whose password is the key;
``x-api-key``; ``api-key``. Other schemes and places, such as the query, count as none. Pure.
"""

import base64
import binascii
import re
from typing import Final

from salver.transport.access_check import RawHeaders

_PLACES: Final = frozenset((b"authorization", b"x-api-key", b"api-key"))
#: Most bytes of a value that is hashed.
_LONGEST: Final = 8 << 10
_VISIBLE: Final = re.compile(rb"[\x21-\x7e]+")
#: Stands for a credential that no key can be.
UNUSABLE: Final = b""


def credentials(headers: RawHeaders) -> set[bytes]:
    """Return the different keys of a request.

    >>> credentials([(b"authorization", b"BEARER  k"), (b"x-api-key", b"k"), (b"cookie", b"key=z")])
    {b'k'}
    """
    found = set()
    for name, value in headers:
        if name not in _PLACES:
            continue
        if len(value) > _LONGEST:
            found.add(UNUSABLE)
        elif name != b"authorization":
            found.add(_clean(value))
        else:
            scheme, _, rest = value.strip().partition(b" ")
            match scheme.lower():
                case b"bearer":
                    found.add(_clean(rest))
                case b"basic":
                    found.add(_password(rest))
    return found


def _clean(value: bytes) -> bytes:
    """Return a value without blanks around it; unusable if there are others in it, or odd letters."""
    key = value.strip()
    return key if _VISIBLE.fullmatch(key) else UNUSABLE


def _password(encoded: bytes) -> bytes:
    try:
        pair = base64.b64decode(encoded.strip(), validate=True)
    except binascii.Error:
        return UNUSABLE
    return _clean(pair.partition(b":")[2])

"""Bytes of a file in a request: as they are, in base64 or in a ``data:`` URL.

Pure.
"""

import base64
import binascii
import re
from typing import Final

from salver.words.errors import InvalidInput

#: What no image or sound begins with: 64 letters of base64.
_BASE64: Final = re.compile(rb"(?:data:[^,]{0,200},|[A-Za-z0-9+/=\r\n]{64})")


def payload(value: bytes | str, kind: str, fix: str) -> bytes:
    """Return the bytes of a file.

    Args:
        kind: What the file is, such as ``an image``; for error texts, as ``fix``.

    >>> payload("data:image/png;base64,iVBORw0KGgo=", "an image", "")[:4]
    b'\\x89PNG'

    Raises:
        InvalidInput: it is a URL of another kind, or broken base64.
    """
    data = value.encode() if isinstance(value, str) else value
    if data[:8].lower().startswith((b"http://", b"https://")):
        raise InvalidInput(
            "inputs has a URL, and a server fetches nothing for its callers", field="inputs", fix=fix
        )
    if not _BASE64.match(data) and not (len(data) < 64 and data.isascii() and data):
        return data
    text = data[data.index(b",") + 1 :] if data.startswith(b"data:") else data
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error as error:
        raise InvalidInput(
            f"inputs has neither {kind} nor valid base64 ({error}): {data[:24]!r}", field="inputs", fix=fix
        ) from error

"""Reading of whole HTTP bodies within limits.

Pieces are appended to one buffer as they arrive. A body that is too large is refused as soon as that is
known, with Triton's text (TR-R29, TR-R37).
"""

import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from salver.encoding.bodies import over_limit, room
from salver.transport.budget import Budget, Share, pace
from salver.transport.calls import printable
from salver.words.errors import InvalidInput, TooLarge

#: Most non-empty pieces of a chunked body.
MOST_CHUNKS: Final = 65_536
#: Default limit of a body, in bytes.
USUAL: Final = 64 << 20
#: Bytes of an answer from which compressing it would block the event loop for too long.
LARGE: Final = 1 << 18


async def read_whole(
    message: dict[str, Any],
    headers: Mapping[bytes, bytes],
    receive: Callable[[], Awaitable[dict[str, Any]]],
    limit: int,
    inflated: int = 0,
    share: Share | None = None,
) -> bytes | None:
    """Return the whole body, inflated; None if the caller left meanwhile.

    Args:
        message: First ASGI message, already received.
        limit: Most bytes, compressed or inflated.
        inflated: Most bytes of an inflated body if the limit is at least :data:`USUAL`; 0 = ``limit``.
        share: Share of the memory for all bodies, which the caller releases; None = do not count this body.

    Raises:
        TooLarge: the body is over the limit.
        InvalidInput: it has too many chunks, or cannot be inflated.
        Unsupported: its compression is unknown.
        Overloaded: the memory for bodies is in use.
        DeadlineExceeded: it arrives too slowly.
    """
    share = share or Share(Budget(sys.maxsize))
    declared = headers.get(b"content-length", b"")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(headers, int(declared), limit)
    is_chunked = b"transfer-encoding" in headers
    body = room(int(declared) if declared.isdigit() else 0)
    size = count = 0
    async with pace() as timer:
        while message["type"] == "http.request":
            if piece := message.get("body", b""):
                size += len(piece)
                count = message.get("count", count + 1)
                if size > limit:
                    raise _too_large(headers, size, limit)
                if is_chunked and count > MOST_CHUNKS:
                    raise InvalidInput(
                        f"Chunked request body exceeds maximum of {MOST_CHUNKS} non-empty chunks. "
                        "Send fewer or larger HTTP chunks."
                    )
                share.take(len(piece))
                body.write(piece)
                await timer.came(len(piece))
            if not message.get("more_body"):
                break
            message = await receive()
    if message["type"] != "http.request":
        return None
    body.truncate()
    encoding = headers.get(b"content-encoding")
    if encoding is None:
        return body.getvalue()
    most = limit
    if limit >= USUAL:
        most = max(inflated, limit)
    return await share.inflate(body.getvalue(), printable(encoding), most)


def _too_large(headers: Mapping[bytes, bytes], size: int, limit: int) -> TooLarge:
    """Return the error for a body of at least this size."""
    length = headers.get(b"inference-header-content-length")
    if length is not None and length.strip() == b"0":
        text = f"Raw input has a byte_size ({size} bytes) that exceeds the maximum allowed value of {limit}"
    else:
        what = "JSON" if length is None else "body"
        text = f"request {what} size of {size} bytes exceeds the maximum allowed input size of {limit}"
    return over_limit(text)

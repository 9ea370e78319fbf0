"""HTTP and gRPC statuses for each error code, from which the dialects' tables start.

Each dialect has one total table for each of its wires, in its ``faults.py``.

Pure.
"""

import math
from functools import lru_cache
from typing import Final

import orjson

from salver.encoding.bodies import GrpcStatus, HttpReply
from salver.words.errors import (
    Code,
    OutOfScope,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    ReachedLimit,
    SalverError,
    Unidentified,
)

#: HTTP's own status for each kind of failure.
HTTP: Final[dict[Code, int]] = {
    Code.INVALID_INPUT: 400,
    Code.NOT_FOUND: 404,
    Code.NOT_READY: 503,
    Code.CONFLICT: 409,
    Code.NO_ROUTE: 404,
    Code.WRONG_VERB: 405,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.RATE_LIMITED: 429,
    Code.OVERLOADED: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.CANCELLED: 499,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED: 501,
    Code.MODEL_FAILED: 500,
    Code.UNKNOWN: 500,
    Code.INTERNAL: 500,
}

#: gRPC's own status for each kind of failure (numbers of grpc/status.h).
GRPC: Final[dict[Code, int]] = {
    Code.INVALID_INPUT: 3,  # INVALID_ARGUMENT
    Code.NOT_FOUND: 5,  # NOT_FOUND
    Code.NOT_READY: 14,  # UNAVAILABLE
    Code.CONFLICT: 6,  # ALREADY_EXISTS
    Code.NO_ROUTE: 12,  # UNIMPLEMENTED
    Code.WRONG_VERB: 12,  # UNIMPLEMENTED
    Code.UNAUTHENTICATED: 16,  # UNAUTHENTICATED
    Code.FORBIDDEN: 7,  # PERMISSION_DENIED
    Code.RATE_LIMITED: 8,  # RESOURCE_EXHAUSTED
    Code.OVERLOADED: 14,  # UNAVAILABLE
    Code.DEADLINE_EXCEEDED: 4,  # DEADLINE_EXCEEDED
    Code.CANCELLED: 1,  # CANCELLED
    Code.TOO_LARGE: 8,  # RESOURCE_EXHAUSTED
    Code.UNSUPPORTED: 12,  # UNIMPLEMENTED
    Code.MODEL_FAILED: 13,  # INTERNAL
    Code.UNKNOWN: 2,  # UNKNOWN
    Code.INTERNAL: 13,  # INTERNAL
}

JSON: Final = (b"content-type", b"application/json")
_MAX_PAUSE_S: Final = 86_400.0
_NO_RETRY: Final = (b"x-should-retry", b"false")


def json_headers(error: SalverError) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of an error in JSON, with ``retry-after`` where a retry helps."""
    if isinstance(error, RateLimited):
        return (JSON, *limit_headers(error))
    if not isinstance(error, Overloaded):
        return (JSON, *challenge(error))
    # RFC 9110, section 10.2.3, allows whole seconds only.
    return (JSON, (b"retry-after", b"%d" % max(1, math.ceil(_pause(error)))))


def limit_headers(error: RateLimited) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers that tell a caller its limit, and when to try again.

    By ``draft-ietf-httpapi-ratelimit-headers-10``; ``retry-after-ms`` is what OpenAI's client obeys.
    """
    pause, limit = _pause(error), error.limit
    seconds = max(1, math.ceil(pause))
    again: tuple[tuple[bytes, bytes], ...] = (
        (b"retry-after", b"%d" % seconds),
        (b"retry-after-ms", b"%d" % max(1, math.ceil(pause * 1e3))),
    )
    state = f";r=0;t={seconds}"
    if error.is_final:  # clients of OpenAI's and Anthropic's would try again
        again, state = (_NO_RETRY,), ";r=0"
    elif isinstance(error, QuotaExceeded):
        again = (again[0], _NO_RETRY)  # else they would wait for hours
    if limit is None:
        return again
    return (*again, (b"ratelimit-policy", policy(limit)), (b"ratelimit", f'"{limit.name}"{state}'.encode()))


@lru_cache(1024)
def policy(limit: ReachedLimit) -> bytes:
    """Return an item of the field ``ratelimit-policy``."""
    text = f'"{limit.name}";q={limit.quota}'
    if not limit.window_s:
        return f'{text};qu="concurrent-requests"'.encode()
    if limit.unit != "requests":
        text += f';qu="{limit.unit}"'
    return f"{text};w={limit.window_s}".encode()


def challenge(error: SalverError) -> tuple[tuple[bytes, bytes], ...]:
    """Return the header that tells a caller which key is needed (RFC 6750, section 3); empty = none is."""
    if isinstance(error, Unidentified):
        wrong = b', error="invalid_token"' if error.has_credential else b""
        return ((b"www-authenticate", b'Bearer realm="salver"' + wrong),)
    if isinstance(error, OutOfScope) and error.scope:
        text = f'Bearer realm="salver", error="insufficient_scope", scope="{error.scope}"'
        return ((b"www-authenticate", text.encode()),)
    return ()


def http_fault(error: SalverError) -> HttpReply:
    """Return ``{"error": text}`` with HTTP's own status. Never raises."""
    return HttpReply(HTTP[error.code], orjson.dumps({"error": clean(str(error))}), json_headers(error))


def grpc_fault(error: SalverError) -> GrpcStatus:
    """Return the gRPC status of an error outside all dialects. Never raises."""
    return ended(GRPC[error.code], clean(str(error)), error)


def ended(code: int, text: str, error: SalverError) -> GrpcStatus:
    """Return a gRPC status, with the pause before a retry where one helps."""
    if isinstance(error, QuotaExceeded) or (isinstance(error, RateLimited) and error.is_final):
        return GrpcStatus(code, text, -1)
    if isinstance(error, Overloaded | RateLimited):
        return GrpcStatus(code, text, max(1, math.ceil(_pause(error) * 1e3)))
    return GrpcStatus(code, text)


def clean(text: str) -> str:
    """Replace lone surrogates, which a caller's names may contain."""
    return text.encode("utf-8", "replace").decode()


def _pause(error: Overloaded | RateLimited) -> float:
    """Return the seconds until a retry, within bounds even if a model chose the number."""
    if isinstance(error, QuotaExceeded):
        return error.retry_after
    if error.retry_after > 0:
        return min(error.retry_after, _MAX_PAUSE_S)
    return 0.0

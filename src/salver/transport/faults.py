"""What does each protocol call each kind of failure?

One total table per protocol (a test holds them against :class:`~salver.words.errors.Code`):
the columns of collisions "One error, many faces". It knows no message and no route.

Pure.
"""

import math
from typing import Final

import orjson

from salver.dialects.tensorflow.json_layout import object_of, quoted
from salver.encoding.bodies import GrpcStatus, HttpReply
from salver.words.errors import (
    Code,
    FailedPrecondition,
    NoVersion,
    OnlyStreams,
    Outdated,
    Overloaded,
    SalverError,
)

#: HTTP status of Open Inference routes, as Triton gives it (TR-R19).
OIP_HTTP: Final[dict[Code, int]] = {
    Code.INVALID_INPUT: 400,
    Code.NOT_FOUND: 404,
    Code.NOT_READY: 503,
    Code.CONFLICT: 400,
    Code.NO_ROUTE: 404,
    Code.WRONG_VERB: 405,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.RATE_LIMITED: 429,
    Code.OVERLOADED: 503,
    Code.DEADLINE_EXCEEDED: 503,
    Code.CANCELLED: 400,
    Code.TOO_LARGE: 400,
    Code.UNSUPPORTED: 501,
    Code.MODEL_FAILED: 500,
    Code.UNKNOWN: 400,
    Code.INTERNAL: 500,
}

#: gRPC status of ``inference.GRPCInferenceService`` (numbers of grpc/status.h).
OIP_GRPC: Final[dict[Code, int]] = {
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

#: gRPC status of ``tensorflow.serving``'s services, which know only versions that can answer.
TFS_GRPC: Final[dict[Code, int]] = {**OIP_GRPC, Code.NOT_READY: 5}
_FAILED_PRECONDITION: Final = 9
_QUEUE_FULL: Final = "The batch scheduling queue to which this task was submitted is full"

#: HTTP status of the KServe v1 (and TensorFlow Serving) routes.
KSERVE_V1: Final[dict[Code, int]] = {
    Code.INVALID_INPUT: 400,
    Code.NOT_FOUND: 404,
    Code.NOT_READY: 404,
    Code.CONFLICT: 409,
    Code.NO_ROUTE: 404,
    Code.WRONG_VERB: 400,
    Code.UNAUTHENTICATED: 401,
    Code.FORBIDDEN: 403,
    Code.RATE_LIMITED: 429,
    Code.OVERLOADED: 503,
    Code.DEADLINE_EXCEEDED: 504,
    Code.CANCELLED: 499,
    Code.TOO_LARGE: 400,
    Code.UNSUPPORTED: 501,
    Code.MODEL_FAILED: 500,
    Code.UNKNOWN: 500,
    Code.INTERNAL: 500,
}

#: HTTP status of OpenAI's routes.
OPENAI: Final[dict[Code, int]] = {
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
    Code.CANCELLED: 400,
    Code.TOO_LARGE: 413,
    Code.UNSUPPORTED: 501,
    Code.MODEL_FAILED: 500,
    Code.UNKNOWN: 500,
    Code.INTERNAL: 500,
}
#: HTTP status of the management interface.
API: Final[dict[Code, int]] = {**OPENAI, Code.CANCELLED: 499}
#: ``type`` and ``code`` of OpenAI's error objects by status, as OpenAI or Triton's front end has them.
_OPENAI_KINDS: Final[dict[int, tuple[str, str]]] = {
    401: ("authentication_error", "invalid_auth"),
    413: ("invalid_request_error", "content_too_large"),
    429: ("rate_limit_error", "rate_limit_exceeded"),
}

_JSON = (b"content-type", b"application/json")
_PLAIN = (_JSON,)
_MAX_PAUSE_S = 86_400.0


def http_fault(error: SalverError, table: dict[Code, int] = OIP_HTTP) -> HttpReply:
    """``{"error": text}`` with the protocol's status. Total: never raises."""
    text = _triton(error, "HTTP end point") if table is OIP_HTTP else _clean(str(error))
    status = table[error.code]
    if isinstance(error, NoVersion) and table is OIP_HTTP:
        status = 404  # no route has it (TR-R3)
    return HttpReply(status, orjson.dumps({"error": text}), _headers(error))


def api_fault(error: SalverError) -> HttpReply:
    """A problem of RFC 9457, with the field and the fix apart as well. Total: never raises."""
    status = 412 if isinstance(error, Outdated) else API[error.code]
    told = {
        "type": f"urn:salver:problem:{error.code}",
        "title": str(error.code).replace("_", " ").capitalize(),
        "status": status,
        "detail": _clean(error.message),
    }
    told |= {key: _clean(text) for key, text in (("field", error.field), ("fix", error.fix)) if text}
    headers: list[tuple[bytes, bytes]] = [(b"content-type", b"application/problem+json")]
    headers += [pair for pair in _headers(error) if pair != _JSON]
    if status == 401:
        headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110, section 11.6.1
    return HttpReply(status, orjson.dumps(told), tuple(headers))


def openai_fault(error: SalverError) -> HttpReply:
    """OpenAI's error object (X-24). Total: never raises."""
    status = OPENAI[error.code]
    kind, code = _OPENAI_KINDS.get(
        status, ("invalid_request_error" if status < 500 else "server_error", None)
    )
    if error.code is Code.NOT_FOUND:
        code = "model_not_found"
    told = {
        "message": _clean(str(error)),
        "type": kind,
        "param": _clean(error.field) or None,
        "code": code,
    }
    return HttpReply(status, orjson.dumps({"error": told}), _headers(error))


def _headers(error: SalverError) -> tuple[tuple[bytes, bytes], ...]:
    if not isinstance(error, Overloaded):
        return _PLAIN
    # Whole seconds, as RFC 9110, section 10.2.3, has them.
    return (_JSON, (b"retry-after", b"%d" % max(1, math.ceil(_pause(error)))))


def tfs_fault(error: SalverError, *more: tuple[bytes, bytes]) -> HttpReply:
    """The same as TensorFlow Serving lays it out (TF-R20, TF-R29). Total: never raises.

    Args:
        more: Further members, quoted names and values.
    """
    reply = http_fault(error, KSERVE_V1)
    reply.body = object_of([(b'"error"', quoted(tfs_text(error))), *more], 0)
    return reply


def model_fault(error: SalverError, model: str) -> HttpReply:
    """There is no such model, to clients of TensorFlow Serving and of TorchServe at once (X-13)."""
    return tfs_fault(
        error,
        (b'"code"', b"%d" % KSERVE_V1[error.code]),
        (b'"type"', b'"ModelNotFoundException"'),
        (b'"message"', quoted(_clean(f"Model not found: {model}"))),
    )


def grpc_status(error: SalverError) -> GrpcStatus:
    """The status and message that end the call. Total: never raises."""
    return _ended(OIP_GRPC[error.code], _triton(error, "ModelInfer RPC"), error)


def tfs_status(error: SalverError) -> GrpcStatus:
    """The same of a call of TensorFlow Serving's services."""
    code = _FAILED_PRECONDITION if isinstance(error, FailedPrecondition) else TFS_GRPC[error.code]
    return _ended(code, tfs_text(error), error)


def tfs_text(error: SalverError) -> str:
    """What a client of TensorFlow Serving is told: its own words for a full queue (TF-B1)."""
    is_full = isinstance(error, Overloaded) and error.why == "queue_full"
    return _QUEUE_FULL if is_full else _clean(str(error))


def _ended(code: int, text: str, error: SalverError) -> GrpcStatus:
    if isinstance(error, Overloaded):
        return GrpcStatus(code, text, max(1, math.ceil(_pause(error) * 1e3)))
    return GrpcStatus(code, text)


def _triton(error: SalverError, road: str) -> str:
    """The text; in Triton's words with the id of the request that does not fit its model in front (TR-R30).

    Args:
        road: On which the request came.
    """
    if not error.in_tritons_words:
        return _clean(str(error))
    if isinstance(error, OnlyStreams):
        return f"{road} doesn't support models with decoupled transaction policy"
    text = error.triton or str(error)
    if error.about is None:
        return _clean(text)
    return _clean(f"[request id: {error.about or '<id_unknown>'}] {text}")


def _clean(text: str) -> str:
    """A lone surrogate may come from a caller's name."""
    return text.encode("utf-8", "replace").decode()


def _pause(error: Overloaded) -> float:
    """Seconds to the next try, whatever nonsense a model may have said."""
    return min(error.retry_after, _MAX_PAUSE_S) if error.retry_after > 0 else 0.0

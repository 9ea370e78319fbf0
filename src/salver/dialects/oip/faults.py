"""Errors of the Open Inference Protocol over HTTP and gRPC, with Triton's statuses and texts.

Pure.
"""

from typing import Final

import orjson

from salver.encoding.bodies import GrpcStatus, HttpReply
from salver.transport.faults import GRPC, HTTP, clean, ended, json_headers
from salver.words.errors import Code, NoVersion, OnlyStreams, SalverError

#: Triton's HTTP status for each error code (TR-R19).
OIP_HTTP: Final[dict[Code, int]] = {
    **HTTP,
    Code.CONFLICT: 400,
    Code.DEADLINE_EXCEEDED: 503,
    Code.CANCELLED: 400,
    Code.TOO_LARGE: 400,
    Code.UNKNOWN: 400,
}

#: gRPC status of ``inference.GRPCInferenceService``.
OIP_GRPC: Final[dict[Code, int]] = GRPC


def http_fault(error: SalverError) -> HttpReply:
    """Return ``{"error": text}`` with Triton's status. Never raises."""
    text = _text(error, "HTTP end point")
    status = 404 if isinstance(error, NoVersion) else OIP_HTTP[error.code]  # such a path has no route (TR-R3)
    return HttpReply(status, orjson.dumps({"error": text}), json_headers(error))


def grpc_status(error: SalverError) -> GrpcStatus:
    """Return the status and message that end the call. Never raises."""
    return ended(OIP_GRPC[error.code], _text(error, "ModelInfer RPC"), error)


def _text(error: SalverError, road: str) -> str:
    """Return the error text; Triton's has the id of a request that does not match its model (TR-R30).

    Args:
        road: Triton's name for the request's transport.
    """
    if not error.in_tritons_words:
        return clean(str(error))
    if isinstance(error, OnlyStreams):
        return f"{road} doesn't support models with decoupled transaction policy"
    text = error.triton or str(error)
    if error.about is None:
        return clean(text)
    return clean(f"[request id: {error.about or '<id_unknown>'}] {text}")

"""TorchServe's statuses, names and texts of errors.

Over REST an error has three keys (TS-R18 to TS-R21), over gRPC two lines (TS-R22, TS-G5). Total over
:class:`~salver.words.errors.Code`. Pure.
"""

import math
from typing import Final

import msgspec

from salver.dialects.torchserve.json_layout import TorchServeReply, json_reply
from salver.encoding.bodies import GrpcStatus
from salver.transport.faults import challenge, ended, limit_headers
from salver.words.errors import (
    BadArchive,
    BadGraph,
    Code,
    HandlerFailed,
    HostDied,
    InvalidInput,
    NoDownload,
    NoModel,
    NoModelVersion,
    NotFound,
    NotReady,
    NoVersion,
    NoWorkflow,
    OutOfScope,
    Overloaded,
    RateLimited,
    SalverError,
    StillDefault,
    Unidentified,
    WorkersFailed,
    WorkflowFailed,
)

#: Code -> HTTP status and name of the exception.
TORCHSERVE: Final[dict[Code, tuple[int, str]]] = {
    Code.INVALID_INPUT: (400, "BadRequestException"),
    Code.NOT_FOUND: (404, "ModelNotFoundException"),
    Code.NOT_READY: (503, "ServiceUnavailableException"),
    Code.CONFLICT: (409, "ConflictStatusException"),
    Code.NO_ROUTE: (404, "ResourceNotFoundException"),
    Code.WRONG_VERB: (405, "MethodNotAllowedException"),
    Code.UNAUTHENTICATED: (400, "InvalidKeyException"),
    Code.FORBIDDEN: (403, "IllegalArgumentException"),
    Code.RATE_LIMITED: (429, "ServiceUnavailableException"),
    Code.OVERLOADED: (503, "ServiceUnavailableException"),
    Code.DEADLINE_EXCEEDED: (503, "ServiceUnavailableException"),
    Code.CANCELLED: (499, "InternalServerException"),
    Code.TOO_LARGE: (413, "BadRequestException"),
    Code.UNSUPPORTED: (501, "UnsupportedOperationException"),
    Code.MODEL_FAILED: (503, "InternalServerException"),
    Code.UNKNOWN: (503, "InternalServerException"),
    Code.INTERNAL: (500, "InternalServerException"),
}
#: Errors with other names than their code has; the first that matches.
_SPECIAL: Final[tuple[tuple[type[SalverError], tuple[int, str]], ...]] = (
    (Unidentified, (401, "InvalidKeyException")),
    (NoModelVersion, (404, "ModelVersionNotFoundException")),
    (NoVersion, (404, "ModelVersionNotFoundException")),
    (NoWorkflow, (404, "WorkflowNotFoundException")),
    (StillDefault, (403, "InvalidModelVersionException")),
    (BadArchive, (400, "InvalidModelException")),
    (NoDownload, (400, "DownloadArchiveException")),
    (BadGraph, (400, "InvalidDAGException")),
    (HostDied, (500, "InternalServerException")),
    (WorkersFailed, (500, "InternalServerException")),
    (WorkflowFailed, (500, "WorkflowException")),
)
#: Packages of exceptions; the default is ``org.pytorch.serve.http``.
_PACKAGES: Final = {
    "ModelException": "org.pytorch.serve.archive.model.",
    "ModelNotFoundException": "org.pytorch.serve.archive.model.",
    "ModelVersionNotFoundException": "org.pytorch.serve.archive.model.",
    "InvalidModelException": "org.pytorch.serve.archive.model.",
    "InvalidKeyException": "org.pytorch.serve.archive.model.",
    "DownloadArchiveException": "org.pytorch.serve.archive.",
    "WorkflowNotFoundException": "org.pytorch.serve.archive.workflow.",
    "WorkflowException": "org.pytorch.serve.archive.workflow.",
    "InvalidDAGException": "org.pytorch.serve.ensemble.",
    "IllegalArgumentException": "java.lang.",
    "UnsupportedOperationException": "java.lang.",
    "JsonSyntaxException": "com.google.gson.",
    "ErrorDataDecoderException": "io.netty.handler.codec.http.multipart.HttpPostRequestDecoder$",
}
_NO_RESOURCE: Final = "Requested resource is not found, please refer to API document."
_NO_METHOD: Final = "Requested method is not allowed, please refer to API document."
#: Texts for a wrong key: in a request, and in a request to renew a key.
UNAUTHORIZED: Final = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
UNAUTHENTICATED: Final = (
    "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
)
#: Management over gRPC: HTTP status -> gRPC status (TS-G5).
_OF_HTTP: Final = {
    400: 3, 401: 16, 403: 7, 404: 5, 409: 10, 413: 8, 416: 11, 429: 8, 499: 1, 501: 12, 503: 14, 504: 4,
}  # fmt: skip
_UNKNOWN, _FAILED_PRECONDITION, _INTERNAL, _UNAVAILABLE, _UNAUTHENTICATED = 2, 9, 13, 14, 16
#: gRPC statuses of errors whose text has no second line.
_BARE: Final[dict[Code, int]] = {
    Code.UNAUTHENTICATED: 7,  # PERMISSION_DENIED (TS-G6)
    Code.CANCELLED: 1,
    Code.DEADLINE_EXCEEDED: 4,
    Code.RATE_LIMITED: 8,  # RESOURCE_EXHAUSTED
    Code.TOO_LARGE: 8,
    Code.NO_ROUTE: 12,  # UNIMPLEMENTED
    Code.UNSUPPORTED: 12,
}
_MAX_PAUSE_S: Final = 86_400.0


class NamedFault(InvalidInput):
    """An error with a status and an exception name of its own.

    Args:
        status: HTTP status.
        kind: Name of the exception.
    """

    def __init__(self, message: str, status: int, kind: str) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        """Rebuild from its own three arguments."""
        return (NamedFault, (self.message, self.status, self.kind))


class Fault(msgspec.Struct, frozen=True):
    """An error as a client sees it, whatever the protocol.

    Attributes:
        retry_after: Seconds until a retry is worthwhile; 0 = not known.
    """

    status: int
    kind: str
    message: str
    retry_after: float = 0.0


def has_no_worker(model: str, version: str = "", *, is_describing: bool = False) -> str:
    """Return the text for a model without workers, or without room in its queue.

    For a version it has TorchServe's stray quote (TS-R21).
    """
    whom = f'Model "{model}"'
    if version:
        whom += f' Version {version}"'
    text = "{} has no worker to serve {} request. Please use scale workers API to add workers."
    if is_describing:
        return text.format(whom, "describe")
    return (
        f"{text.format(whom, 'inference')} If this is a sequence inference, please check if it is closed, "
        "or expired; or exceeds maxSequenceJobQueueSize"
    )


def no_model(model: str) -> NoModel:
    """Return the error for a model that does not exist."""
    return NoModel(f"Model not found: {model}", field="model_name")


def no_version(model: str, version: str) -> NoModelVersion:
    """Return the error for a version that does not exist, of a model that does."""
    return NoModelVersion(f"Model version: {version} does not exist for model: {model}", field="version")


def fault_of(error: SalverError, model: str = "", version: str = "") -> Fault:
    """Return an error as a client sees it. Never raises.

    Args:
        model, version: Arguments of a prediction; empty = another operation, or none was named.

    >>> fault_of(NotReady("loading"), "m").message[:50]
    'Model "m" has no worker to serve inference request'
    """
    status, kind = TORCHSERVE[error.code]
    text = error.message
    retry_after = 0.0
    if isinstance(error, NamedFault):
        status, kind = _whole_status(error.status), error.kind
    elif isinstance(error, HandlerFailed):
        status = _whole_status(error.status)
    else:
        status, kind = next((names for of, names in _SPECIAL if isinstance(error, of)), (status, kind))
    # Texts of TorchServe in place of ours, which name paths and causes.
    if error.code is Code.NO_ROUTE:
        text = _NO_RESOURCE
    elif error.code is Code.WRONG_VERB:
        text = _NO_METHOD
    elif isinstance(error, NoVersion):
        text = no_version(model, version).message
    elif isinstance(error, NotFound) and type(error) is NotFound and model:
        text = no_model(model).message
    elif isinstance(error, NotReady | Overloaded) and model:
        text = has_no_worker(model, version)
    if isinstance(error, Overloaded):
        retry_after = max(0.0, min(error.retry_after, _MAX_PAUSE_S))
    return Fault(status, kind, text.encode("utf-8", "replace").decode(), retry_after)


def _whole_status(status: int) -> int:
    """Return a valid status; 413 becomes 507, since clients take 413 for a large body (TS-R19)."""
    if status == 413:
        return 507
    return status if 200 <= status <= 999 else 500


def http_fault(error: SalverError, model: str = "", version: str = "") -> TorchServeReply:
    """Return the reply for an error. Never raises."""
    fault = fault_of(error, model, version)
    if isinstance(error, HandlerFailed) and fault.status == 200:  # TorchServe's body for this case
        return TorchServeReply(200, b"error", (), "")
    if error.code is Code.TOO_LARGE:
        return TorchServeReply(413, b"", ())
    body = {"code": fault.status, "type": fault.kind, "message": fault.message}
    if isinstance(error, RateLimited):
        return json_reply(body, fault.status, limit_headers(error))
    if isinstance(error, Overloaded):
        pause = b"%d" % max(1, math.ceil(fault.retry_after))
        return json_reply(body, fault.status, ((b"retry-after", pause),))
    return json_reply(body, fault.status, challenge(error))


def class_of(kind: str) -> str:
    """Return the full name of an exception.

    >>> class_of("ModelNotFoundException")
    'org.pytorch.serve.archive.model.ModelNotFoundException'
    """
    return _PACKAGES.get(kind, "org.pytorch.serve.http.") + kind


def inference_status(error: SalverError, model: str = "", version: str = "") -> GrpcStatus:
    """Return the status that ends a call of the inference service; mostly INTERNAL. Never raises.

    Args:
        model, version: Arguments of the call.
    """
    if type(error) is NotFound and error.field == "version" and model:
        error = no_version(model, version)
    fault = fault_of(error, model, version)
    if isinstance(error, Unidentified):
        return GrpcStatus(_UNAUTHENTICATED, fault.message)
    if error.code in _BARE:
        return ended(_BARE[error.code], fault.message, error)
    if isinstance(error, OutOfScope):
        return GrpcStatus(_OF_HTTP[fault.status], fault.message)
    if error.code is Code.NOT_READY or isinstance(error, Overloaded):
        text = f"{fault.message}\nInternalServerException.()"
        if error.code is Code.NOT_READY:
            return GrpcStatus(_INTERNAL, text)
        return GrpcStatus(_UNAVAILABLE, text, max(1, math.ceil(fault.retry_after * 1e3)))
    code = _INTERNAL
    if error.code in (Code.MODEL_FAILED, Code.UNKNOWN):
        code = grpc_code(fault.status)
    if fault.kind == "BadRequestException":
        return GrpcStatus(code, f"{fault.message}\nBadRequestException.()")
    return GrpcStatus(code, f"{fault.message}\n{class_of(fault.kind)}")


def management_status(error: SalverError, model: str = "", version: str = "") -> GrpcStatus:
    """Return the status that ends a call of the management service. Never raises."""
    fault = fault_of(error, model, version)
    if isinstance(error, Unidentified):
        return GrpcStatus(_UNAUTHENTICATED, fault.message)
    if error.code in _BARE:
        code = _BARE[error.code]
        if error.code is Code.DEADLINE_EXCEEDED:
            code = _FAILED_PRECONDITION
        return GrpcStatus(code, fault.message)
    code = grpc_code(fault.status)
    if isinstance(error, StillDefault):
        code = _UNKNOWN  # as TorchServe, although it answers 403 over REST (TS-M5)
    return GrpcStatus(code, f"{fault.message}\n{class_of(fault.kind)}")


def grpc_code(status: int) -> int:
    """Return the gRPC status for an HTTP status (TS-G5).

    >>> [grpc_code(status) for status in (404, 418, 507)]
    [5, 9, 13]
    """
    if status in _OF_HTTP:
        return _OF_HTTP[status]
    if 400 <= status < 500:
        return _FAILED_PRECONDITION
    return _INTERNAL


#: Body of the answer to bytes that are no HTTP request.
NO_MESSAGE: Final = http_fault(InvalidInput("Invalid HTTP message.")).body

"""Errors of TensorFlow Serving over REST, which KServe's first protocol shares, and over gRPC. Pure."""

from typing import Final

from salver.encoding.bodies import GrpcStatus, HttpReply
from salver.lazy import lazy_imports
from salver.transport.faults import GRPC, HTTP, clean, ended, json_headers
from salver.words.errors import Code, FailedPrecondition, Overloaded, SalverError

with lazy_imports():
    from salver.dialects.tensorflow.json_layout import object_of, quoted


#: HTTP status of the REST routes.
KSERVE_V1: Final[dict[Code, int]] = {
    **HTTP, Code.NOT_READY: 404, Code.WRONG_VERB: 400, Code.TOO_LARGE: 400
}  # fmt: skip
#: gRPC status of ``tensorflow.serving``'s services, to which a version that cannot answer does not exist.
TFS_GRPC: Final[dict[Code, int]] = {**GRPC, Code.NOT_READY: 5}
_FAILED_PRECONDITION: Final = 9
_QUEUE_FULL: Final = "The batch scheduling queue to which this task was submitted is full"


def tfs_fault(error: SalverError, *more: tuple[bytes, bytes]) -> HttpReply:
    """Return an error in TensorFlow Serving's layout (TF-R20, TF-R29). Never raises.

    Args:
        more: Quoted names and values of further members.
    """
    body = object_of([(b'"error"', quoted(tfs_text(error))), *more], 0)
    return HttpReply(KSERVE_V1[error.code], body, json_headers(error))


def model_fault(error: SalverError, model: str) -> HttpReply:
    """Return "no such model" for clients of TensorFlow Serving and of TorchServe at once."""
    return tfs_fault(
        error,
        (b'"code"', b"%d" % KSERVE_V1[error.code]),
        (b'"type"', b'"ModelNotFoundException"'),
        (b'"message"', quoted(clean(f"Model not found: {model}"))),
    )


def tfs_status(error: SalverError) -> GrpcStatus:
    """Return the status that ends a call of TensorFlow Serving's services. Never raises."""
    code = _FAILED_PRECONDITION if isinstance(error, FailedPrecondition) else TFS_GRPC[error.code]
    return ended(code, tfs_text(error), error)


def tfs_text(error: SalverError) -> str:
    """Return the text of an error; for a full queue it is TensorFlow Serving's (TF-B1)."""
    if isinstance(error, Overloaded) and error.why == "queue_full":
        return _QUEUE_FULL
    return clean(str(error))

"""How do TorchServe's gRPC messages become words, and the answers messages?

Those of its inference and management services (TS-G1 to TS-G3, TS-G5). It knows no frame, stream or port.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError

from salver.errors import (
    BadArchive,
    Code,
    HandlerFailed,
    InvalidInput,
    ModelFailed,
    NoDownload,
    NoModelVersion,
    SalverError,
    StillDefault,
    Unsupported,
    WorkersFailed,
)
from salver.handlers import (
    Form,
    HandlerReply,
    Registration,
    as_request,
    joined,
    part,
    reply_of,
)
from salver.messages import InferRequest, InferResponse, Signature
from salver.wire import varints
from salver.wire.bodies import GrpcStatus
from salver.wire.faults import grpc_status
from salver.wire.ts_schema import build

_CLASSES: Final = build()
_PredictionsRequest: Final = _CLASSES["PredictionsRequest"]
_PredictionResponse: Final = _CLASSES["PredictionResponse"]
_ErrorInfo: Final = _CLASSES["ErrorInfo"]
_PREDICTION: Final = b"\x0a"  # field 1 of a PredictionResponse, which has bytes
_DEADLINE_EXCEEDED: Final = 4
_INTERNAL: Final = 13
_UNAVAILABLE: Final = 14
#: TorchServe's end of a call that asks a model that is not there.
_BROKEN: Final = GrpcStatus(2, "")  # UNKNOWN
#: Headers of the id of a sequence, its start and its end.
SequenceNames = tuple[str, str, str]
SEQUENCE_NAMES: Final[SequenceNames] = (
    "ts_request_sequence_id",
    "ts_request_sequence_start",
    "ts_request_sequence_end",
)
_PACKAGE: Final = "org.pytorch.serve."
_WORKER: Final = "http.InternalServerException"
#: What a code is called in calls of inference and of management, and TorchServe's class for it; empty = the
#: text has no second line (collisions, "One error, many faces").
FACES: Final[dict[Code, tuple[int, int, str]]] = {
    Code.INVALID_INPUT: (_INTERNAL, 3, "http.BadRequestException"),
    Code.NOT_FOUND: (_INTERNAL, 5, "archive.model.ModelNotFoundException"),
    Code.NOT_READY: (_INTERNAL, _UNAVAILABLE, "http.ServiceUnavailableException"),
    Code.CONFLICT: (10, 10, "http.ConflictStatusException"),  # ABORTED
    Code.NO_ROUTE: (12, 12, ""),  # UNIMPLEMENTED
    Code.WRONG_VERB: (12, 12, ""),
    Code.UNAUTHENTICATED: (7, 7, ""),  # PERMISSION_DENIED, of tokens (TS-G6)
    Code.FORBIDDEN: (7, 7, "archive.model.ModelException"),
    Code.RATE_LIMITED: (8, 8, ""),  # RESOURCE_EXHAUSTED
    Code.OVERLOADED: (_UNAVAILABLE, _UNAVAILABLE, "http.ServiceUnavailableException"),
    Code.DEADLINE_EXCEEDED: (_INTERNAL, 9, "http.RequestTimeoutException"),  # FAILED_PRECONDITION
    Code.CANCELLED: (1, 1, ""),
    Code.TOO_LARGE: (8, 8, ""),
    Code.UNSUPPORTED: (12, 12, ""),
    Code.MODEL_FAILED: (_INTERNAL, _INTERNAL, _WORKER),
    Code.UNKNOWN: (_INTERNAL, _INTERNAL, _WORKER),
    Code.INTERNAL: (_INTERNAL, _INTERNAL, _WORKER),
}
#: Classes of errors that the code does not tell apart.
_CLASS_OF: Final[dict[type[SalverError], str]] = {
    NoModelVersion: "archive.model.ModelVersionNotFoundException",
    StillDefault: "http.InvalidModelVersionException",
    BadArchive: "archive.model.InvalidModelException",
    NoDownload: "archive.DownloadArchiveException",
    WorkersFailed: _WORKER,
}
#: As TorchServe spells the class of what its inference service refuses by itself.
_BRIEFLY: Final = {
    "http.BadRequestException": "BadRequestException.()",
    "http.ServiceUnavailableException": "InternalServerException.()",
}
#: gRPC status by HTTP status (TS-G5); others by their hundreds.
_BY_HTTP: Final[dict[int, int]] = {
    400: 3,  # INVALID_ARGUMENT
    401: 16,  # UNAUTHENTICATED
    403: 7,  # PERMISSION_DENIED
    404: 5,  # NOT_FOUND
    409: 10,  # ABORTED
    413: 8,  # RESOURCE_EXHAUSTED
    416: 11,  # OUT_OF_RANGE
    429: 8,
    499: 1,  # CANCELLED
    501: 12,  # UNIMPLEMENTED
    503: _UNAVAILABLE,
    504: _DEADLINE_EXCEEDED,
}


def parse(name: str, message: bytes) -> Any:
    """A message of that name.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return _CLASSES[name].FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is no {name}: {error}") from None


# Errors.


def status_of_http(status: int) -> int:
    """The gRPC status for an HTTP status.

    >>> status_of_http(503), status_of_http(418), status_of_http(507), status_of_http(200)
    (14, 9, 13, 2)
    """
    known = _BY_HTTP.get(status)
    if known is not None:
        return known
    return {4: 9, 5: _INTERNAL}.get(status // 100, 2)  # FAILED_PRECONDITION, or UNKNOWN


def no_worker(model: str, version: str = "", what: str = "inference") -> str:
    """That nobody takes a request, or not one more; the odd quote is TorchServe's (TS-R21)."""
    named = f'Model "{model}" Version {version}"' if version else f'Model "{model}"'
    text = f"{named} has no worker to serve {what} request. Please use scale workers API to add workers."
    if what != "inference":
        return text
    return (
        f"{text} If this is a sequence inference, please check if it is closed, or expired; or exceeds "
        "maxSequenceJobQueueSize"
    )


def class_of(error: SalverError) -> str:
    """TorchServe's class for that error, without its package; empty = it has none."""
    return _CLASS_OF.get(type(error)) or FACES[error.code][2]


def inference_status(
    error: SalverError, model: str = "", version: str = "", *, is_late: bool = False
) -> GrpcStatus:
    """How a call of inference ends with that error (TS-G5). Total: never raises.

    Args:
        model, version: Whom it asked.
        is_late: The caller's own deadline is over.
    """
    if isinstance(error, HandlerFailed):
        return GrpcStatus(status_of_http(error.status), _two_lines(error.message, _PACKAGE + _WORKER))
    code, _, _ = FACES[error.code]
    named = class_of(error)
    text = str(error)
    if error.code is Code.DEADLINE_EXCEEDED and is_late:
        return GrpcStatus(_DEADLINE_EXCEEDED, text)
    if error.code is Code.NOT_FOUND:
        is_version = isinstance(error, NoModelVersion) or error.field == "version"
        named = _CLASS_OF[NoModelVersion] if is_version else named
        text = (
            f"Model version: {version} does not exist for model: {model}"
            if is_version
            else f"Model not found: {model}"
        )
    elif error.code in (Code.NOT_READY, Code.OVERLOADED):
        text = no_worker(model, version)
    second = _BRIEFLY.get(named) or (named and _PACKAGE + named)
    return GrpcStatus(code, _two_lines(text, second), grpc_status(error).pushback_ms)


def management_status(error: SalverError) -> GrpcStatus:
    """How a call of management ends with that error. Total: never raises."""
    named = class_of(error)
    # TorchServe does not say why it refuses to remove a default version, but with which status (TS-M5).
    code = 2 if isinstance(error, StillDefault) else FACES[error.code][1]
    return GrpcStatus(code, _two_lines(str(error), named and _PACKAGE + named))


def unknown_method(path: str) -> GrpcStatus:
    """There is no such method at this port.

    >>> unknown_method("/a.B/C")
    GrpcStatus(code=12, message='Method not found: a.B/C', pushback_ms=0)
    """
    return GrpcStatus(FACES[Code.NO_ROUTE][0], f"Method not found: {path[1:]}")


def _two_lines(text: str, second: str) -> str:
    text = text.encode("utf-8", "replace").decode()
    return f"{text}\n{second}" if second else text


# Inference.


class Prediction:
    """One PredictionsRequest, and the codec of its replies.

    Args:
        message: The request.

    Raises:
        InvalidInput: it is none, or names no model.
    """

    protocol = "ts-grpc"

    def __init__(self, message: bytes) -> None:
        try:
            self.parsed = _PredictionsRequest.FromString(message)
        except DecodeError as error:
            raise InvalidInput(f"the message is no PredictionsRequest: {error}") from None
        self.model: str = self.parsed.model_name
        #: Empty = the default one.
        self.version: str = self.parsed.model_version
        #: The caller's own deadline is over.
        self.is_late = False
        if not self.model:
            raise InvalidInput("Parameter model_name is required.")

    def decode(self, body: None, signature: Signature) -> InferRequest:
        """The request.

        Raises:
            Unsupported: the model is no handler.
        """
        check_takes_forms(self.model, signature)
        return as_request(self.model, self.form(), self.version)

    def form(self) -> Form:
        """What the handler is asked; metadata of calls do not reach handlers, as in TorchServe."""
        return Form(tuple([part(name, data) for name, data in self.parsed.input.items()]))

    def encode(self, request: InferRequest, response: InferResponse) -> bytes | GrpcStatus:
        """A PredictionResponse, or the status that the handler's error ends the call with."""
        return encode_reply(read_reply(response))

    def fault(self, error: SalverError) -> bytes | GrpcStatus:
        """The status that ends the call."""
        return inference_status(error, self.model, self.version, is_late=self.is_late)


class WholePrediction(Prediction):
    """The same of which the reply is one, though the handler may give it in pieces."""

    def __init__(self, message: bytes) -> None:
        super().__init__(message)
        self._pieces: list[HandlerReply] = []

    def encode(self, request: InferRequest, response: InferResponse) -> bytes | GrpcStatus:
        """Nothing yet, but for an error."""
        reply = read_reply(response)
        self._pieces.append(reply)
        return encode_reply(reply) if reply.is_error else b""

    def whole(self) -> bytes | GrpcStatus:
        """The reply."""
        if not self._pieces:
            return inference_status(ModelFailed("the handler gave no answer"))
        return encode_reply(joined(self._pieces))


class StreamedPrediction(Prediction):
    """The one request of a StreamPredictions call, whose replies are its pieces."""

    #: What is said in place of asking the model; None = it is asked.
    refused: bytes | GrpcStatus | None = None
    #: How the call ends after this request; None = it goes on.
    farewell: GrpcStatus | None = None
    is_decoupled = True

    def end(self) -> None:
        """Nothing comes after the last reply."""


class SequencePrediction(StreamedPrediction):
    """One request of a StreamPredictions2 call: errors are messages, too (TS-B6).

    Args:
        names: Headers in which handlers find the id of the sequence, its start and its end. A request says
            the last two by inputs of these names.
        new_id: Names a sequence that its first request does not name.
    """

    def __init__(self, message: bytes, names: SequenceNames, new_id: Callable[[], str]) -> None:
        try:
            super().__init__(message)
        except InvalidInput as error:
            self.refused = self.fault(error)
            return
        given = self.parsed.input
        self._names = names
        self._starts, self._ends = (_is_true(given.get(name, b"")) for name in names[1:])
        self._is_named = bool(self.parsed.sequence_id)
        self._sequence = self.parsed.sequence_id or f"ts-seq-{new_id()}"
        if not self._is_named and not self._starts:
            self.refused = self.fault(InvalidInput("Parameter sequenceId is required."))

    def decode(self, body: None, signature: Signature) -> InferRequest:
        """The request.

        Raises:
            Unsupported: the model is no handler.
        """
        check_takes_forms(self.model, signature)
        said = (self._sequence, self._starts, self._ends)
        headers = {
            name: value if isinstance(value, str) else "true"
            for name, value in zip(self._names, said, strict=True)
            if value
        }
        form = msgspec.structs.replace(self.form(), headers=headers)
        return as_request(self.model, form, self.version, said)

    def encode(self, request: InferRequest, response: InferResponse) -> bytes | GrpcStatus:
        """A PredictionResponse, which names the sequence where we have named it."""
        reply = read_reply(response)
        if reply.is_error:
            return encode_error(encode_reply(reply))
        if self._is_named:
            return encode_reply(reply)
        made = _PredictionResponse(prediction=reply.body, sequence_id=self._sequence)
        return made.SerializeToString()  # type: ignore[no-any-return]

    def fault(self, error: SalverError) -> bytes | GrpcStatus:
        """A PredictionResponse that holds the error; who is asked in vain ends the call, as in TorchServe."""
        if error.code is Code.NOT_FOUND:
            self.farewell = _BROKEN
        return encode_error(super().fault(error))


def check_takes_forms(model: str, signature: Signature) -> None:
    """Raises Unsupported: it wants tensors."""
    if not signature.takes_forms:
        raise Unsupported(
            f"model '{model}' is no handler: it takes tensors, not inputs of bytes",
            fix="Ask it by inference.GRPCInferenceService/ModelInfer.",
        )


def read_reply(response: InferResponse) -> HandlerReply:
    """What the handler said.

    Raises:
        SalverError: that it failed.
    """
    if response.error is not None:
        raise response.error
    outputs = response.outputs
    return reply_of(outputs[0].array if outputs else None, response.parameters)


def encode_reply(reply: HandlerReply) -> bytes | GrpcStatus:
    """A PredictionResponse; what the handler set of status and headers has no place in it. Or its error."""
    if reply.is_error:
        text = reply.body.decode("utf-8", "replace")
        return GrpcStatus(status_of_http(reply.status), _two_lines(text, _PACKAGE + _WORKER))
    return b"".join((_PREDICTION, varints.one(len(reply.body)), reply.body)) if reply.body else b""


def encode_error(status: bytes | GrpcStatus) -> bytes:
    """A PredictionResponse that holds the status."""
    assert isinstance(status, GrpcStatus)
    text, _, reason = status.message.rpartition("\n")
    made = _PredictionResponse()
    made.status.code, made.status.message = status.code, text or reason
    if text:
        made.status.details.add().Pack(_ErrorInfo(reason=reason))
    return made.SerializeToString()  # type: ignore[no-any-return]


def encode_health(is_healthy: bool) -> bytes:
    """A TorchServeHealthResponse."""
    text = f'{{\n  "status": "{"Healthy" if is_healthy else "Unhealthy"}"\n}}'
    return _CLASSES["TorchServeHealthResponse"](health=text).SerializeToString()  # type: ignore[no-any-return]


def _is_true(data: bytes) -> bool:
    return data.lower() == b"true"


# Management.


def encode_management(text: str) -> bytes:
    """A ManagementResponse."""
    return _CLASSES["ManagementResponse"](msg=text).SerializeToString()  # type: ignore[no-any-return]


def decode_registration(message: bytes) -> Registration:
    """What a RegisterModelRequest says; numbers that are not positive say nothing.

    Raises:
        InvalidInput: it is none, or has no URL.
    """
    parsed = parse("RegisterModelRequest", message)
    if not parsed.url:
        raise InvalidInput("Parameter url is required.")
    return Registration(
        url=parsed.url,
        name=parsed.model_name,
        handler=parsed.handler,
        runtime=parsed.runtime,
        batch_size=_positive(parsed.batch_size),
        max_batch_delay_ms=_positive(parsed.max_batch_delay),
        initial_workers=_positive(parsed.initial_workers),
        waits=parsed.synchronous,
        response_timeout_s=_positive(parsed.response_timeout),
        startup_timeout_s=_positive(parsed.startup_timeout),
        is_encrypted=parsed.s3_sse_kms,
    )


def decode_scale(message: bytes) -> tuple[str, str, int, int | None, bool]:
    """Model, version, least and most workers, and whether to wait, of a ScaleWorkerRequest.

    Raises:
        InvalidInput: it is none.
    """
    parsed = parse("ScaleWorkerRequest", message)
    least = _positive(parsed.min_worker) or 1
    return parsed.model_name, parsed.model_version, least, _positive(parsed.max_worker), parsed.synchronous


def _positive(number: int) -> int | None:
    return number if number > 0 else None

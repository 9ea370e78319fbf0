"""How do TorchServe's gRPC messages become words, and the answers messages?

Those of its inference and management services (TS-G1 to TS-G3, TS-G5). It knows no frame, stream or port.

Pure.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError

from salver.dialects.torchserve.faults import inference_status
from salver.dialects.torchserve.grpc_schema import build
from salver.dialects.torchserve.reply import read_reply
from salver.encoding import varints
from salver.encoding.bodies import GrpcStatus
from salver.kernel.serving.ports import Codec
from salver.words.errors import Code, InvalidInput, SalverError, Unsupported
from salver.words.handlers import Form, HandlerReply, Registration, as_request, part
from salver.words.messages import InferRequest, InferResponse, Signature

_CLASSES: Final = build()
_PredictionsRequest: Final = _CLASSES["PredictionsRequest"]
_PredictionResponse: Final = _CLASSES["PredictionResponse"]
_ErrorInfo: Final = _CLASSES["ErrorInfo"]
_PREDICTION: Final = b"\x0a"  # field 1 of a PredictionResponse, which has bytes
#: TorchServe's end of a call that asks a model that is not there.
_BROKEN: Final = GrpcStatus(2, "")  # UNKNOWN
#: Headers of the id of a sequence, its start and its end.
SequenceNames = tuple[str, str, str]


def parse(name: str, message: bytes) -> Any:
    """A message of that name.

    Raises:
        InvalidInput: it is none.
    """
    try:
        return _CLASSES[name].FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is no {name}: {error}") from None


# Inference.


class Prediction(Codec[None, bytes | GrpcStatus]):
    """One PredictionsRequest, and the codec of its replies.

    Args:
        message: The request.
        most: Bytes of an answer, or of a piece of it; 0 = as many as one likes.

    Raises:
        InvalidInput: it is none, or names no model.
    """

    protocol = "ts-grpc"
    #: It shares its run with no other, as handlers that stream expect of this service (TS-G7).
    is_alone = False
    model = ""
    #: Empty = the default one.
    version = ""

    def __init__(self, message: bytes, most: int = 0) -> None:
        self._most = most
        try:
            self.parsed = _PredictionsRequest.FromString(message)
        except DecodeError as error:
            raise InvalidInput(f"the message is no PredictionsRequest: {error}") from None
        self.model = self.parsed.model_name
        self.version = self.parsed.model_version
        if not self.model:
            raise InvalidInput("Parameter model_name is required.")

    def decode(self, body: None, signature: Signature) -> InferRequest:
        """The request.

        Raises:
            Unsupported: the model is no handler.
        """
        check_takes_forms(self.model, signature)
        return as_request(self.model, self.form(), self.version, is_alone=self.is_alone)

    def form(self) -> Form:
        """What the handler is asked; metadata of calls do not reach handlers, as in TorchServe."""
        return Form(tuple([part(name, data) for name, data in self.parsed.input.items()]))

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """A PredictionResponse; what the handler set of status and headers has no place in it.

        Raises:
            SalverError: that the handler failed.
        """
        return encode_reply(read_reply(response, self._most))

    def fault(self, error: SalverError) -> bytes | GrpcStatus:
        """The status that ends the call."""
        return inference_status(error, self.model, self.version)


class StreamedPrediction(Prediction):
    """The one request of a StreamPredictions call, whose replies are its pieces."""

    #: What is said in place of asking the model; None = it is asked.
    refused: bytes | GrpcStatus | None = None
    #: How the call ends after this request; None = it goes on.
    farewell: GrpcStatus | None = None
    is_decoupled = True
    is_alone = True

    def end(self) -> None:
        """Nothing comes after the last reply."""


class SequencePrediction(StreamedPrediction):
    """One request of a StreamPredictions2 call: errors are messages, too (TS-B6).

    Args:
        names: Headers in which handlers find the id of the sequence, its start and its end. A request says
            the last two by inputs of these names.
        new_id: Names a sequence that its first request does not name.
    """

    def __init__(
        self, message: bytes, names: SequenceNames, new_id: Callable[[], str], most: int = 0
    ) -> None:
        try:
            super().__init__(message, most)
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

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """A PredictionResponse, which names the sequence where we have named it."""
        reply = read_reply(response, self._most)
        if self._is_named:
            return encode_reply(reply)
        made = _PredictionResponse(prediction=reply.body, sequence_id=self._sequence)
        return made.SerializeToString()  # type: ignore[no-any-return]

    def fault(self, error: SalverError) -> bytes:
        """A PredictionResponse that holds the error; who is asked in vain ends the call, as in TorchServe."""
        if error.code is Code.NOT_FOUND:
            self.farewell = _BROKEN
        return encode_error(inference_status(error, self.model, self.version))


def check_takes_forms(model: str, signature: Signature) -> None:
    """Raises Unsupported: it wants tensors."""
    if not signature.takes_forms:
        raise Unsupported(
            f"model '{model}' is no handler: it takes tensors, not inputs of bytes",
            fix="Ask it by inference.GRPCInferenceService/ModelInfer.",
        )


def encode_reply(reply: HandlerReply) -> bytes:
    """A PredictionResponse."""
    return b"".join((_PREDICTION, varints.one(len(reply.body)), reply.body)) if reply.body else b""


def encode_error(status: GrpcStatus) -> bytes:
    """A PredictionResponse that holds the status."""
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

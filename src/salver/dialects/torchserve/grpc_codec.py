"""Codecs of TorchServe's gRPC messages.

Those of its inference and management services (TS-G1 to TS-G3, TS-G5); a test compares ``protos/`` with
TorchServe's files. Frames, streams and ports are not known here. Pure.
"""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from google.protobuf.message import DecodeError

from salver.dialects.torchserve.faults import inference_status
from salver.dialects.torchserve.json_layout import read_reply, to_json
from salver.encoding import protobuf, varints
from salver.encoding.bodies import GrpcStatus
from salver.kernel.serving.ports import Codec
from salver.words.errors import Code, InvalidInput, SalverError, Unsupported
from salver.words.handlers import Form, HandlerReply, Registration, as_request, part
from salver.words.messages import InferRequest, InferResponse, Signature

#: Message classes by name, and those of ``google.rpc`` in them.
CLASSES: Final = protobuf.build(__package__)
_PredictionsRequest: Final = CLASSES["PredictionsRequest"]
_PredictionResponse: Final = CLASSES["PredictionResponse"]
_ErrorInfo: Final = CLASSES["ErrorInfo"]
_PREDICTION: Final = b"\x0a"  # field 1 of a PredictionResponse, which has bytes
#: Status that ends a call for an unknown model, as in TorchServe.
_BROKEN: Final = GrpcStatus(2, "")  # UNKNOWN
#: Headers of the id of a sequence, its start and its end.
SequenceNames = tuple[str, str, str]


def parse(name: str, message: bytes) -> Any:
    """Return the parsed message of a type.

    Raises:
        InvalidInput: it is malformed.
    """
    try:
        return CLASSES[name].FromString(message)
    except DecodeError as error:
        raise InvalidInput(f"the message is not a {name}: {error}") from None


# Inference.


class Prediction(Codec[None, bytes | GrpcStatus]):
    """One PredictionsRequest, and the codec of its replies.

    Args:
        message: The request.
        most: Maximum bytes of an answer, or of a piece of it; 0 = no limit.

    Raises:
        InvalidInput: the message is malformed, or names no model.
    """

    protocol = "ts-grpc"
    #: Whether it must be alone in its run, as handlers that stream expect (TS-G7).
    is_alone = False
    model = ""
    #: Empty = the default version.
    version = ""

    def __init__(self, message: bytes, most: int = 0) -> None:
        self._most = most
        try:
            self.parsed = _PredictionsRequest.FromString(message)
        except DecodeError as error:
            raise InvalidInput(f"the message is not a PredictionsRequest: {error}") from None
        self.model = self.parsed.model_name
        self.version = self.parsed.model_version
        if not self.model:
            raise InvalidInput("Parameter model_name is required.")

    def decode(self, body: None, signature: Signature) -> InferRequest:
        """Return the request.

        Raises:
            Unsupported: the model is no handler.
        """
        check_takes_forms(self.model, signature)
        return as_request(self.model, self.form(), self.version, is_alone=self.is_alone)

    def form(self) -> Form:
        """Return the form for the handler; metadata of calls do not reach handlers, as in TorchServe."""
        return Form(tuple([part(name, data) for name, data in self.parsed.input.items()]))

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """Return a PredictionResponse, which has no place for the handler's status and headers.

        Raises:
            SalverError: the handler failed.
        """
        return encode_reply(read_reply(response, self._most))

    def fault(self, error: SalverError) -> bytes | GrpcStatus:
        """Return the status that ends the call."""
        return inference_status(error, self.model, self.version)


class StreamedPrediction(Prediction):
    """The request of a StreamPredictions call, whose replies are its pieces."""

    #: Answer if the request is refused before the model runs.
    refused: bytes | GrpcStatus | None = None
    #: Status that ends the call after this request; None = the call goes on.
    farewell: GrpcStatus | None = None
    is_decoupled = True
    is_alone = True

    def end(self) -> None:
        """Send nothing after the last reply."""


class SequencePrediction(StreamedPrediction):
    """One request of a StreamPredictions2 call, whose errors are messages (TS-B6).

    Args:
        names: Headers with the id of the sequence, its start and its end. A request gives the last two as
            inputs of these names.
        new_id: Returns an id for a sequence whose first request has none.
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
        """Return the request.

        Raises:
            Unsupported: the model is no handler.
        """
        check_takes_forms(self.model, signature)
        headers = {self._names[0]: self._sequence}
        if self._starts:
            headers[self._names[1]] = "true"
        if self._ends:
            headers[self._names[2]] = "true"
        form = msgspec.structs.replace(self.form(), headers=headers)
        return as_request(self.model, form, self.version, (self._sequence, self._starts, self._ends))

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """Return a PredictionResponse, with the id of the sequence if the server has chosen it."""
        reply = read_reply(response, self._most)
        if self._is_named:
            return encode_reply(reply)
        made = _PredictionResponse(prediction=reply.body, sequence_id=self._sequence)
        return made.SerializeToString()  # type: ignore[no-any-return]

    def fault(self, error: SalverError) -> bytes:
        """Return a PredictionResponse with the error; an unknown model ends the call, as in TorchServe."""
        if error.code is Code.NOT_FOUND:
            self.farewell = _BROKEN
        return encode_error(inference_status(error, self.model, self.version))


def check_takes_forms(model: str, signature: Signature) -> None:
    """Check that a model is a handler. Raises Unsupported."""
    if not signature.takes_forms:
        raise Unsupported(
            f"model '{model}' is no handler: it takes tensors, not inputs of bytes",
            fix="Call inference.GRPCInferenceService/ModelInfer.",
        )


def encode_reply(reply: HandlerReply) -> bytes:
    """Return a PredictionResponse."""
    if not reply.body:
        return b""
    return b"".join((_PREDICTION, varints.one(len(reply.body)), reply.body))


def encode_error(status: GrpcStatus) -> bytes:
    """Return a PredictionResponse with a status."""
    text, _, reason = status.message.rpartition("\n")
    made = _PredictionResponse()
    made.status.code, made.status.message = status.code, text or reason
    if text:
        made.status.details.add().Pack(_ErrorInfo(reason=reason))
    return made.SerializeToString()  # type: ignore[no-any-return]


def encode_health(is_healthy: bool) -> bytes:
    """Return a TorchServeHealthResponse."""
    status = "Healthy" if is_healthy else "Unhealthy"
    text = to_json({"status": status}).decode()
    return CLASSES["TorchServeHealthResponse"](health=text).SerializeToString()  # type: ignore[no-any-return]


def _is_true(data: bytes) -> bool:
    return data.lower() == b"true"


# Management.


def encode_management(text: str) -> bytes:
    """Return a ManagementResponse."""
    return CLASSES["ManagementResponse"](msg=text).SerializeToString()  # type: ignore[no-any-return]


def decode_registration(message: bytes) -> Registration:
    """Return the content of a RegisterModelRequest; numbers that are not positive count as not set.

    Raises:
        InvalidInput: the message is malformed, or has no URL.
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
    """Return model, version, least and most workers, and whether to wait, of a ScaleWorkerRequest.

    Raises:
        InvalidInput: the message is malformed.
    """
    parsed = parse("ScaleWorkerRequest", message)
    least = _positive(parsed.min_worker) or 1
    return parsed.model_name, parsed.model_version, least, _positive(parsed.max_worker), parsed.synchronous


def _positive(number: int) -> int | None:
    return number if number > 0 else None

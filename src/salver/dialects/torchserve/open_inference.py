"""TorchServe's own Open Inference service over gRPC.

``org.pytorch.serve.grpc.openinference.GRPCInferenceService`` (TS-G4), whose messages are those of
``inference.GRPCInferenceService``. Models of tensors get a request of it as one of that service.
"""

import asyncio
from typing import Any, Final

import orjson

from salver.dialects.torchserve.faults import inference_status
from salver.dialects.torchserve.json_layout import read_reply
from salver.dialects.torchserve.paths import OPEN_INFERENCE
from salver.dialects.torchserve.tensors import answer_of, elements, form_of
from salver.encoding.bodies import GrpcStatus
from salver.encoding.tensor_messages import TensorMessages
from salver.encoding.varints import check_fields
from salver.kernel.serving.ports import Codec
from salver.transport.effects import reads
from salver.transport.grpc_table import Method, Reply
from salver.transport.ports import Handlers, InferDoor, StatusView
from salver.words.errors import Code, InvalidInput, NotFound, SalverError
from salver.words.handlers import HandlerStatus, as_request, is_form
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature
from salver.words.tensor import DATATYPES, Array, DataType, Tensor

_PREFIX: Final = f"/{OPEN_INFERENCE}/"
_NOT_FOUND: Final = 5
_UNIMPLEMENTED: Final = 12
#: In place of a version: every one.
_ALL: Final = "all"
_NO_TENSORS: Final = Signature((), ())


class TensorPrediction(Codec[None, bytes | GrpcStatus]):
    """One ModelInferRequest, and the codec of its reply.

    Args:
        message: The request.
        most: Bytes of a handler's answer; 0 = no limit.

    Raises:
        InvalidInput: the message is not a request, or names no model.
    """

    protocol = "ts-grpc"

    def __init__(self, messages: TensorMessages, message: bytes, most: int = 0) -> None:
        self._messages = messages
        self._parsed = parsed = messages.read_infer(message)
        self._most = most
        self.model = parsed.model
        self.version = parsed.version
        if not self.model:
            raise InvalidInput("Parameter model_name is required.")

    def decode(self, body: None, signature: Signature) -> InferRequest:
        """Return the request. Raises InvalidInput."""
        if not signature.takes_forms:
            return self._parsed.request()
        inputs = [_input(*entry) for entry in self._parsed.entries()]
        return as_request(self.model, form_of(self.model, self._parsed.id, inputs), self.version)

    def encode(self, request: InferRequest, response: InferResponse) -> bytes:
        """Return a ModelInferResponse, with the contents of its tensors as values.

        Raises:
            SalverError: the handler failed, or its answer is not of this protocol.
        """
        if not is_form(request):
            return self._messages.write_infer(request, response)
        answer = answer_of(read_reply(response, self._most))
        names = (
            answer.model or response.model,
            answer.version or response.version,
            answer.id or self._parsed.id,
        )
        return self._messages.write_values(names, [(tensor, _values(tensor)) for tensor in answer.outputs])

    def fault(self, error: SalverError) -> GrpcStatus:
        """Return the status that ends the call."""
        return inference_status(error, self.model, self.version)


def _input(name: str, datatype: str, shape: list[int], values: Array | None) -> dict[str, Any]:
    """Return an input as JSON for a handler, which checks by itself whether the values fit."""
    entry: dict[str, Any] = {"name": name, "shape": shape, "datatype": datatype}
    if values is not None:
        entry["data"] = elements(DATATYPES[datatype], values)
    return entry


def _values(tensor: Tensor) -> list[Any]:
    values: list[Any] = tensor.array.reshape(-1).tolist()
    if tensor.datatype is not DataType.BYTES:
        return values
    # In quotes, since TorchServe's clients read each as JSON.
    return [orjson.dumps(each.decode("utf-8", "replace")) for each in values]


class OpenInferenceService:
    """The methods of the service.

    Args:
        most: Bytes of a handler's answer; 0 = no limit.
    """

    def __init__(
        self, door: InferDoor, handlers: Handlers, control: StatusView, messages: TensorMessages, most: int
    ) -> None:
        self._door = door
        self._handlers = handlers
        self._control = control
        self._messages = messages
        self._most = most

    def methods(self) -> dict[str, Method]:
        """Return the methods by their paths."""
        return {
            f"{_PREFIX}ServerLive": self._live,
            f"{_PREFIX}ServerReady": self._ready,
            f"{_PREFIX}ServerMetadata": self._server_metadata,
            f"{_PREFIX}ModelReady": self._model_ready,
            f"{_PREFIX}ModelMetadata": self._model_metadata,
            f"{_PREFIX}ModelInfer": self._infer,
        }

    @reads
    async def _infer(self, message: bytes, call: Call) -> Reply:
        most = self._most
        if call.is_large and self._messages.is_dense(message):
            check_fields(message)
            codec = await asyncio.to_thread(TensorPrediction, self._messages, message, most)
        else:
            codec = TensorPrediction(self._messages, message, most)
        reply: Reply = await self._door.infer(codec, None, codec.model, codec.version, call)
        return reply

    @reads
    async def _live(self, message: bytes, call: Call) -> Reply:
        return self._messages.write_ready(True)

    @reads
    async def _ready(self, message: bytes, call: Call) -> Reply:
        return self._messages.write_ready(True)  # as TorchServe, which checks models only

    @reads
    async def _server_metadata(self, message: bytes, call: Call) -> Reply:
        # TorchServe declares this method and does not implement it.
        return GrpcStatus(_UNIMPLEMENTED, f"Method {_PREFIX[1:]}ServerMetadata is unimplemented")

    @reads
    async def _model_ready(self, message: bytes, call: Call) -> Reply:
        name, version = self._messages.read_model(message)
        if not name:
            raise InvalidInput("Parameter name is required.")
        try:
            statuses = self._handlers.describe(name, version)
        except NotFound as error:
            if not self._is_other(name, version):
                return _status_of_model(error)
            return self._messages.write_ready(await self._control.is_ready(name, version))
        return self._messages.write_ready(all(_has_workers(status) for status in statuses))

    @reads
    async def _model_metadata(self, message: bytes, call: Call) -> Reply:
        name, version = self._messages.read_model(message)
        if not name:
            raise InvalidInput("Parameter model_name is required.")
        try:
            self._handlers.describe(name, version)
            every = self._handlers.describe(name, _ALL)
        except NotFound as error:
            if not self._is_other(name, version):
                return _status_of_model(error)
            id, signature = self._door.signature(name, version)
            return self._messages.write_metadata(id, [id.version], signature)
        versions = [status.version for status in every]
        return self._messages.write_metadata(ModelId(name, ""), versions, _NO_TENSORS)

    def _is_other(self, name: str, version: str) -> bool:
        """Return whether a model exists that is no handler."""
        return any(
            status.id.name == name and version in ("", status.id.version)
            for status in self._control.statuses()
        )


def _status_of_model(error: SalverError) -> GrpcStatus:
    """Return the status that ends a call about a model."""
    status = inference_status(error)
    if error.code is Code.NOT_FOUND:
        return GrpcStatus(_NOT_FOUND, status.message)
    return status


def _has_workers(status: HandlerStatus) -> bool:
    return sum(worker.status == "READY" for worker in status.running) >= status.workers.least

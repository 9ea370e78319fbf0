"""Methods of TorchServe's gRPC services.

``InferenceAPIsService``, ``ManagementAPIsService`` and its own ``GRPCInferenceService`` (TS-G1 to TS-G7).
``grpc_codec.py`` reads and writes their messages.
"""

from collections.abc import Awaitable, Mapping
from typing import Final

from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.paths import OPEN_INFERENCE
from salver.encoding.tensor_messages import TensorMessages
from salver.encoding.varints import check_fields
from salver.lazy import lazy_imports
from salver.transport.effects import changes, reads
from salver.transport.grpc_stream import InferStream, StreamLimits, StreamRequest
from salver.transport.grpc_table import GrpcTable, Method, OpenCalls, Reply
from salver.transport.ports import StatusView
from salver.words.errors import InvalidInput, NotReady, Unauthenticated
from salver.words.handlers import Metadata
from salver.words.messages import Call

with lazy_imports():
    from salver.dialects.torchserve import faults
    from salver.dialects.torchserve import grpc_codec as wire
    from salver.dialects.torchserve import models as ts_models
    from salver.dialects.torchserve.faults import (
        NamedFault,
        has_no_worker,
        inference_status,
        management_status,
    )
    from salver.dialects.torchserve.json_layout import to_json
    from salver.dialects.torchserve.open_inference import OpenInferenceService
    from salver.dialects.torchserve.tokens import Scope


SERVICES: Final = (
    "org.pytorch.serve.grpc.inference.InferenceAPIsService",
    "org.pytorch.serve.grpc.management.ManagementAPIsService",
    OPEN_INFERENCE,
)
_INFERENCE, _MANAGEMENT = (f"/{name}/" for name in SERVICES[:2])
#: Methods that keep their deadlines themselves.
_INFERRING: Final = frozenset((f"{_INFERENCE}Predictions", f"/{OPEN_INFERENCE}/ModelInfer"))
#: In place of a version: every one.
_ALL: Final = "all"


class TorchServeMethods:
    """Methods of one server.

    Args:
        backing: Services that answer.
        messages: Messages of its Open Inference service; None = it has no such service.
    """

    def __init__(self, backing: Backing, control: StatusView, messages: TensorMessages | None) -> None:
        self._door = backing.door
        self._handlers = backing.handlers
        self._rules = backing.rules
        self._keys = backing.keys
        self._context = backing.context
        self._control = control
        self._messages = messages

    def tables(self) -> tuple[GrpcTable, GrpcTable]:
        """Return the methods of inference and those of management."""
        methods: dict[str, Method] = {
            f"{_INFERENCE}Ping": self._ping,
            f"{_INFERENCE}Predictions": self._predict,
        }
        if self._rules.speaks_oip and self._messages:
            most = self._rules.max_response
            own = OpenInferenceService(self._door, self._handlers, self._control, self._messages, most)
            methods |= own.methods()
        management: dict[str, Method] = {
            f"{_MANAGEMENT}DescribeModel": self._describe,
            f"{_MANAGEMENT}ListModels": self._list,
            f"{_MANAGEMENT}RegisterModel": self._register,
            f"{_MANAGEMENT}ScaleWorker": self._scale,
            f"{_MANAGEMENT}SetDefault": self._set_default,
            f"{_MANAGEMENT}UnregisterModel": self._unregister,
        }
        most = self._rules.max_request
        check = None if self._keys is None else self.check
        inference = GrpcTable(
            "ts-grpc",
            inference_status,
            methods,
            self._streams(),
            names={f"/{OPEN_INFERENCE}/{name}": (1,) for name in ("ModelReady", "ModelMetadata")},
            inferring=_INFERRING,
            services=SERVICES,
            max_message=most,
            check=check,
        )
        names: dict[str, tuple[int, ...]] = {
            _MANAGEMENT + name: (1,)
            for name in ("DescribeModel", "ScaleWorker", "SetDefault", "UnregisterModel")
        }
        names[f"{_MANAGEMENT}ListModels"] = ()
        return inference, GrpcTable(
            "ts-grpc",
            management_status,
            management,
            names=names,
            max_message=most,
            check=check,
        )

    def _streams(self) -> dict[str, OpenCalls]:
        rules, new_id = self._rules, self._context.new_id

        def pieces(message: bytes, headers: Mapping[bytes, bytes]) -> StreamRequest:
            return wire.StreamedPrediction(message, rules.max_response)

        def sequences(message: bytes, headers: Mapping[bytes, bytes]) -> StreamRequest:
            return wire.SequencePrediction(message, rules.sequence_headers, new_id, rules.max_response)

        limits = StreamLimits(rules.max_request or self._context.max_message)
        readers = {"StreamPredictions": pieces, "StreamPredictions2": sequences}
        return {
            _INFERENCE + name: InferStream(self._door, self._context, reads(read), limits, inference_status)
            for name, read in readers.items()
        }

    def check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """Check the key of a call. Raises Unauthenticated (TS-G6)."""
        keys = self._keys
        if keys is None:
            return
        scope: Scope = "management" if path.startswith(_MANAGEMENT) else "inference"
        if not keys.allows(scope, headers.get(b"authorization", b"").decode("latin-1")):
            raise Unauthenticated(faults.UNAUTHORIZED)

    @reads
    async def _ping(self, message: bytes, call: Call) -> Reply:
        return wire.encode_health(self._handlers.is_healthy())

    @reads
    def _predict(self, message: bytes, call: Call) -> Awaitable[Reply]:
        if call.is_large:
            check_fields(message)
        codec = wire.Prediction(message, self._rules.max_response)
        return self._door.infer(codec, None, codec.model, codec.version, call)

    # Management.

    @reads
    async def _describe(self, message: bytes, call: Call) -> Reply:
        request = wire.parse("DescribeModelRequest", message)
        model, version = request.model_name, request.model_version
        statuses = self._handlers.describe(model, version)
        metadata: Metadata = None
        if request.customized and version != _ALL and statuses:
            try:
                metadata = await self._handlers.metadata(model, version) or {}
            except NotReady:
                text = has_no_worker(model, is_describing=True)
                raise NamedFault(text, 500, "InternalServerException") from None
        return wire.encode_management(to_json(ts_models.describe_versions(statuses, metadata)).decode())

    @reads
    async def _list(self, message: bytes, call: Call) -> Reply:
        request = wire.parse("ListModelsRequest", message)
        models = [model for model in self._handlers.models() if call.may_see(model.name)]
        page = ts_models.list_models(models, request.limit, request.next_page_token)
        return wire.encode_management(to_json(page).decode())

    @changes
    async def _register(self, message: bytes, call: Call) -> Reply:
        self._check_open()
        order = wire.decode_registration(message)
        result = await self._handlers.register(order)
        return wire.encode_management(ts_models.registered_text(result))

    @changes
    async def _scale(self, message: bytes, call: Call) -> Reply:
        model, version, least, most, waits = wire.decode_scale(message)
        how, workers = await self._handlers.scale(model, version, least, most, waits=waits)
        return wire.encode_management(ts_models.scaled_text(how, workers, model, version))

    @changes
    async def _set_default(self, message: bytes, call: Call) -> Reply:
        request = wire.parse("SetDefaultRequest", message)
        self._handlers.set_default(request.model_name, request.model_version)
        return wire.encode_management(ts_models.default_text(request.model_name, request.model_version))

    @changes
    async def _unregister(self, message: bytes, call: Call) -> Reply:
        self._check_open()
        request = wire.parse("UnregisterModelRequest", message)
        if not request.model_name:
            raise InvalidInput("Parameter url is required.")  # TorchServe names the wrong parameter
        await self._handlers.unregister(request.model_name, request.model_version)
        return wire.encode_management(ts_models.unregistered_text(request.model_name))

    def _check_open(self) -> None:
        if not self._rules.may_change:
            raise NamedFault("Model API disabled", 403, "ModelException")

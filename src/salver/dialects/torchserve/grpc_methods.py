"""What the gRPC methods of TorchServe do.

``InferenceAPIsService``, ``ManagementAPIsService`` and its own ``GRPCInferenceService`` (TS-G1 to TS-G7).
``grpc_codec.py`` reads and writes their messages.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Literal, Protocol

from salver.dialects.oip import grpc_codec as oip_grpc
from salver.dialects.torchserve import grpc_codec as wire
from salver.dialects.torchserve import models as ts_models
from salver.dialects.torchserve import oip as ts_oip
from salver.dialects.torchserve.faults import (
    UNAUTHORIZED,
    NamedFault,
    has_no_worker,
    inference_status,
    management_status,
)
from salver.dialects.torchserve.json_layout import printed
from salver.dialects.torchserve.rules import TorchServeRules
from salver.encoding.bodies import GrpcStatus
from salver.encoding.varints import check_fields
from salver.transport.calls import RequestContext
from salver.transport.effects import changes, reads
from salver.transport.grpc_stream import InferStream, StreamLimits, StreamRequest
from salver.transport.grpc_table import GrpcTable, Method, OpenCalls, Reply
from salver.transport.ports import Handlers, InferDoor, Looking
from salver.words.errors import InvalidInput, NotFound, NotReady, Unauthenticated
from salver.words.handlers import HandlerStatus, Metadata
from salver.words.messages import Call

SERVICES: Final = (
    "org.pytorch.serve.grpc.inference.InferenceAPIsService",
    "org.pytorch.serve.grpc.management.ManagementAPIsService",
    "org.pytorch.serve.grpc.openinference.GRPCInferenceService",
)
_INFERENCE, _MANAGEMENT, _OPEN_INFERENCE = (f"/{name}/" for name in SERVICES)
#: Those that keep their deadlines themselves.
_INFERRING: Final = frozenset((f"{_INFERENCE}Predictions", f"{_OPEN_INFERENCE}ModelInfer"))
#: Those of its management that change something.
CHANGING: Final = frozenset(
    _MANAGEMENT + name for name in ("RegisterModel", "ScaleWorker", "SetDefault", "UnregisterModel")
)
_UNIMPLEMENTED: Final = 12

#: In place of a version: every one.
_ALL: Final = "all"

#: Which of its two interfaces a key opens.
Scope = Literal["inference", "management"]


class Keys(Protocol):
    """The keys that callers have to show."""

    def allows(self, scope: Scope, authorization: str) -> bool:
        """Does this header open that interface?"""
        ...


class TorchServeMethods:
    """The methods of one server.

    Args:
        rules: Options that the operator set.
        keys: That callers must show; None = everybody may ask.
    """

    def __init__(
        self,
        door: InferDoor,
        control: Looking,
        handlers: Handlers,
        rules: TorchServeRules,
        keys: Keys | None,
        context: RequestContext,
    ) -> None:
        self._door = door
        self._control = control
        self._handlers = handlers
        self._rules = rules
        self._keys = keys
        self._context = context

    def tables(self) -> tuple[GrpcTable, GrpcTable]:
        """Return the methods of inference, and those of management."""
        methods: dict[str, Method] = {
            f"{_INFERENCE}Ping": self._ping,
            f"{_INFERENCE}Predictions": self._predict,
        }
        if self._rules.speaks_oip:
            methods |= {
                f"{_OPEN_INFERENCE}ServerLive": self._live,
                f"{_OPEN_INFERENCE}ServerReady": self._ready,
                f"{_OPEN_INFERENCE}ServerMetadata": self._server_metadata,
                f"{_OPEN_INFERENCE}ModelReady": self._model_ready,
                f"{_OPEN_INFERENCE}ModelMetadata": self._model_metadata,
                f"{_OPEN_INFERENCE}ModelInfer": self._infer,
            }
        management: dict[str, Method] = {
            f"{_MANAGEMENT}DescribeModel": self._describe,
            f"{_MANAGEMENT}ListModels": self._list,
            f"{_MANAGEMENT}RegisterModel": self._register,
            f"{_MANAGEMENT}ScaleWorker": self._scale,
            f"{_MANAGEMENT}SetDefault": self._set_default,
            f"{_MANAGEMENT}UnregisterModel": self._unregister,
        }
        most = self._rules.max_request
        inference = GrpcTable(
            "ts-grpc",
            inference_status,
            methods,
            self._streams(),
            inferring=_INFERRING,
            services=SERVICES,
            max_message=most,
            check=self.check,
        )
        return inference, GrpcTable(
            "ts-grpc", management_status, management, max_message=most, check=self.check
        )

    def _streams(self) -> dict[str, OpenCalls]:
        rules, new_id = self._rules, self._context.new_id
        reading: dict[str, Callable[[bytes, Mapping[bytes, bytes]], StreamRequest]] = {
            f"{_INFERENCE}StreamPredictions": lambda message, _: wire.StreamedPrediction(
                message, rules.max_response
            ),
            f"{_INFERENCE}StreamPredictions2": lambda message, _: wire.SequencePrediction(
                message, rules.sequence_headers, new_id, rules.max_response
            ),
        }
        limits = StreamLimits(rules.max_request or self._context.max_message)
        return {
            path: InferStream(self._door, self._context, reads(read), limits, inference_status)
            for path, read in reading.items()
        }

    def check(self, path: str, headers: Mapping[bytes, bytes]) -> None:
        """May the caller ask there? Raises Unauthenticated (TS-G6)."""
        keys = self._keys
        if keys is None:
            return
        scope: Scope = "management" if path.startswith(_MANAGEMENT) else "inference"
        if not keys.allows(scope, headers.get(b"authorization", b"").decode("latin-1")):
            raise Unauthenticated(UNAUTHORIZED)

    @reads
    async def _ping(self, message: bytes, call: Call) -> Reply:
        return wire.encode_health(self._handlers.is_healthy())

    @reads
    def _predict(self, message: bytes, call: Call) -> Awaitable[Reply]:
        if call.is_large:
            check_fields(message)
        codec = wire.Prediction(message, self._rules.max_response)
        return self._door.infer(codec, None, codec.model, codec.version, call)

    # Open Inference.

    @reads
    async def _infer(self, message: bytes, call: Call) -> Reply:
        most = self._rules.max_response
        if call.is_large and oip_grpc.is_dense(message):
            check_fields(message)
            codec = await asyncio.to_thread(ts_oip.TensorPrediction, message, most=most)
        else:
            codec = ts_oip.TensorPrediction(message, most=most)
        reply: Reply = await self._door.infer(codec, None, codec.model, codec.version, call)
        return reply

    @reads
    async def _live(self, message: bytes, call: Call) -> Reply:
        return oip_grpc.encode_server_live(True)

    @reads
    async def _ready(self, message: bytes, call: Call) -> Reply:
        return oip_grpc.encode_server_ready(True)  # as TorchServe, which says it of models alone

    @reads
    async def _server_metadata(self, message: bytes, call: Call) -> Reply:
        # TorchServe has it in its table of methods, and no more of it.
        return GrpcStatus(_UNIMPLEMENTED, f"Method {_OPEN_INFERENCE[1:]}ServerMetadata is unimplemented")

    @reads
    async def _model_ready(self, message: bytes, call: Call) -> Reply:
        name, version = oip_grpc.decode_model_request(message)
        if not name:
            raise InvalidInput("Parameter name is required.")
        try:
            statuses = self._handlers.describe(name, version)
        except NotFound as error:
            if not self._is_other(name, version):
                return ts_oip.status_of_model(error)
            return oip_grpc.encode_model_ready(await self._control.is_ready(name, version))
        return oip_grpc.encode_model_ready(all(_has_workers(status) for status in statuses))

    @reads
    async def _model_metadata(self, message: bytes, call: Call) -> Reply:
        name, version = oip_grpc.decode_model_request(message)
        if not name:
            raise InvalidInput("Parameter model_name is required.")
        try:
            self._handlers.describe(name, version)
            every = self._handlers.describe(name, _ALL)
        except NotFound as error:
            if not self._is_other(name, version):
                return ts_oip.status_of_model(error)
            id, signature = self._door.signature(name, version)
            return oip_grpc.encode_model_metadata(id, [id.version], signature)
        return ts_oip.encode_metadata(name, [status.version for status in every])

    def _is_other(self, name: str, version: str) -> bool:
        """Is it a model that is no handler?"""
        return any(
            status.id.name == name and version in ("", status.id.version)
            for status in self._control.statuses()
        )

    # Management.

    @reads
    async def _describe(self, message: bytes, call: Call) -> Reply:
        asked = wire.parse("DescribeModelRequest", message)
        model, version = asked.model_name, asked.model_version
        statuses = self._handlers.describe(model, version)
        metadata: Metadata = None
        if asked.customized and version != _ALL and statuses:
            try:
                metadata = await self._handlers.metadata(model, version) or {}
            except NotReady:
                text = has_no_worker(model, is_describing=True)
                raise NamedFault(text, 500, "InternalServerException") from None
        return wire.encode_management(printed(ts_models.description(statuses, metadata)).decode())

    @reads
    async def _list(self, message: bytes, call: Call) -> Reply:
        asked = wire.parse("ListModelsRequest", message)
        told = ts_models.listed(self._handlers.models(), asked.limit, asked.next_page_token)
        return wire.encode_management(printed(told).decode())

    @changes
    async def _register(self, message: bytes, call: Call) -> Reply:
        self._check_open()
        order = wire.decode_registration(message)
        done = await self._handlers.register(order)
        return wire.encode_management(ts_models.registered(done))

    @changes
    async def _scale(self, message: bytes, call: Call) -> Reply:
        model, version, least, most, waits = wire.decode_scale(message)
        how, workers = await self._handlers.scale(model, version, least, most, waits=waits)
        return wire.encode_management(ts_models.scaled(how, workers, model, version))

    @changes
    async def _set_default(self, message: bytes, call: Call) -> Reply:
        asked = wire.parse("SetDefaultRequest", message)
        self._handlers.set_default(asked.model_name, asked.model_version)
        return wire.encode_management(ts_models.set_default(asked.model_name, asked.model_version))

    @changes
    async def _unregister(self, message: bytes, call: Call) -> Reply:
        self._check_open()
        asked = wire.parse("UnregisterModelRequest", message)
        if not asked.model_name:
            raise InvalidInput("Parameter url is required.")  # in TorchServe's words
        await self._handlers.unregister(asked.model_name, asked.model_version)
        return wire.encode_management(ts_models.unregistered(asked.model_name))

    def _check_open(self) -> None:
        if not self._rules.may_change:
            raise NamedFault("Model API disabled", 403, "ModelException")


def _has_workers(status: HandlerStatus) -> bool:
    return sum(worker.status == "READY" for worker in status.running) >= status.workers.least

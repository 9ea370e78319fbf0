"""A server with TorchServe's gRPC services at real ports; the handler behind them is played."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from dialect_tables import grpc_front
from servables import Declaring
from torchserve_stubs import (
    INFERENCE,
    MANAGEMENT,
    OPEN_INFERENCE,
    Stub,
    message,
)
from waiting import PATIENCE_S

from salver.dialects.oip.foreign_service import OpenInferenceMessages
from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.foreign_forms import HandlerForms
from salver.dialects.torchserve.grpc_methods import TorchServeMethods
from salver.dialects.torchserve.rules import TorchServeRules
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.transport.asgi import Front
from salver.transport.calls import RequestContext
from salver.transport.doors import Kind, door
from salver.transport.server import FrontConfig, listen
from salver.words import handlers
from salver.words.errors import (
    Conflict,
    DeadlineExceeded,
    HandlerFailed,
    NoModel,
    NoModelVersion,
    NotFound,
    NotReady,
    Overloaded,
    StillDefault,
    WorkersFailed,
)
from salver.words.handlers import (
    HandlerReply,
    HandlerStatus,
    ModelListing,
    Registration,
    RegistrationResult,
    Workers,
)
from salver.words.messages import (
    InferRequest,
    InferResponse,
    ModelId,
    Signature,
    State,
    TensorSpec,
    VersionStatus,
)
from salver.words.tensor import DataType, Tensor


class Played(Declaring):
    """A handler that does what its bytes say, and all that registers it."""

    id = ModelId("m", "1.0")
    signature = handlers.SIGNATURE
    takes_forms = True

    def __init__(self) -> None:
        self.seen: list[InferRequest] = []
        self.gate = asyncio.Event()
        self.left = 0
        self.closed = 0
        self.orders: list[Any] = []
        self.is_well = True

    # As a version that is leased.

    def acquire(self, name: str, version: str = "") -> Any:
        if name == "tensors":
            return SimpleNamespace(servable=Identity(), id=ModelId("tensors", "1"), release=lambda: None)
        if name != "m":
            raise NotFound("of another protocol", field="model")
        if version not in ("", "1.0"):
            raise NotFound("of another protocol", field="version")
        return SimpleNamespace(servable=self, id=self.id, release=lambda: None)

    def other(self, name: str, version: str, is_wanted: Any) -> None:
        return None

    async def infer(self, request: InferRequest, deadline: Any, sender: Any, standing: Any) -> InferResponse:
        pieces = [piece async for piece in self.stream(request, deadline, standing)]
        body = b"".join(piece.outputs[0].array.tobytes() for piece in pieces)
        return self._say(HandlerReply(body))

    async def stream(
        self, request: InferRequest, deadline: Any = None, standing: Any = None
    ) -> AsyncIterator[InferResponse]:
        self.seen.append(request)
        try:
            (part,) = handlers.form_of(request).parts or (handlers.part("data", b"nothing"),)
            if part.content_type == "application/json":
                yield self._say(self._double(json.loads(part.data.tobytes())))
                return
            for word in part.data.tobytes().decode().split():
                yield self._say(await self._do(word, deadline))
        except asyncio.CancelledError:
            self.left += 1
            raise
        finally:
            self.closed += 1

    async def _do(self, word: str, deadline: float | None) -> HandlerReply:
        if word == "hold":
            try:
                async with asyncio.timeout_at(deadline):
                    await self.gate.wait()
            except TimeoutError:
                raise DeadlineExceeded("Request timeout expired") from None
        elif word == "full":
            raise Overloaded("Exceeds maximum queue size", retry_after=2.0)
        elif word == "asleep":
            raise NotReady("no worker")
        elif word == "fail":
            raise HandlerFailed("Prediction failed", 503)
        elif word == "defect":
            raise ZeroDivisionError
        elif word.isdigit():
            raise HandlerFailed("no", int(word))
        return HandlerReply(word.encode(), 201, headers={"a": "b"})

    def _double(self, asked: Any) -> HandlerReply:
        """Double numbers, in the format of the envelope kservev2."""
        outputs = [
            given | {"data": [2 * value for value in given["data"]]}
            if given["datatype"] != "BYTES"
            else given
            for given in asked["inputs"]
        ]
        if any(given["name"] == "odd" for given in outputs):
            return HandlerReply(b"no tensors")
        told = {"id": asked["id"] or "made", "model_name": "m", "model_version": "1.0", "outputs": outputs}
        return HandlerReply(json.dumps(told).encode())

    def _say(self, reply: HandlerReply) -> InferResponse:
        outputs, parameters = handlers.as_answer(reply)
        tensors = tuple([Tensor(name, DataType.UINT8, array) for name, array in outputs.items()])
        return InferResponse("m", "1.0", tensors, parameters=parameters)

    # As the store of handlers.

    async def register(self, order: Registration) -> RegistrationResult:
        await self.gate.wait()
        self.orders.append(order)
        if order.url == "twice.mar":
            raise Conflict("Model version 1.0 is already registered for model m")
        if order.url == "broken.mar":
            raise WorkersFailed("Failed to start workers for model broken version: 1.0")
        if order.url == "lost.mar":
            raise NoModel("Model not found in model store: lost.mar")
        return RegistrationResult(order.name or "m", "1.0", order.initial_workers or 1, order.waits)

    async def unregister(self, model: str, version: str = "") -> None:
        if version == "1.0":
            raise StillDefault(f"Cannot remove default version for model {model}")

    async def scale(self, model: str, version: str, least: int, most: int | None, *, waits: bool) -> Any:
        self.orders.append((model, version, least, most))
        return ("done" if waits else "begun", least)

    def set_default(self, model: str, version: str) -> None:
        if version != "1.0":
            raise NoModelVersion(f"Model version {version} does not exist for model {model}")

    def models(self) -> tuple[ModelListing, ...]:
        return (ModelListing("m", "m.mar"), ModelListing("n", "n.mar"))

    def describe(self, model: str, version: str = "") -> tuple[HandlerStatus, ...]:
        if model not in ("m", "asleep"):
            raise NoModel(f"Model not found: {model}")
        return (HandlerStatus(model, "1.0", "m.mar", Workers()),) * (2 if version == "all" else 1)

    async def metadata(self, model: str, version: str) -> Any:
        if model == "asleep":
            raise NotReady("no worker")
        return {"inputs": 4} if not version else None

    def is_healthy(self) -> bool:
        return self.is_well


class Identity(Declaring):
    """A model of tensors."""

    signature = Signature(
        (TensorSpec("a", DataType.INT64, (-1,)),), (TensorSpec("a", DataType.INT64, (-1,)),)
    )

    async def infer(self, request: InferRequest, *_: Any) -> InferResponse:
        return InferResponse("tensors", "1", request.inputs, request.id)


class Keys:
    def allows(self, scope: str, authorization: str) -> bool:
        return authorization == f"Bearer {scope}"


class Rig:
    """A server of one handler, at one port for each kind of door."""

    def __init__(self, keys: Any = None, **rules: Any) -> None:
        self.played = Played()
        self.events: list[Any] = []
        ids = itertools.count(1)
        clock = asyncio.get_running_loop().time
        context = RequestContext(clock, lambda: f"{next(ids):016x}", forms=HandlerForms())
        self.bus = Bus((self,))
        plane = DataPlane(RequestPath(self.played, self.bus.emit, clock, context.new_id))
        control: Any = SimpleNamespace(is_ready=self._is_ready, statuses=self._statuses)
        played: Any = self.played
        backing = Backing(plane, played, played, context, TorchServeRules(**rules), keys)
        methods = TorchServeMethods(backing, control, OpenInferenceMessages())
        self.grpc = grpc_front(plane, control, None, context, max_message=1 << 20, torchserve=methods)
        front: Any = Front(None, self.grpc, context, max_body=1 << 20)  # type: ignore[arg-type]
        kinds: tuple[Kind, ...] = ("all", "torchserve-grpc-inference", "torchserve-grpc-management")
        apps = [door(front, kind) for kind in kinds]
        self.listeners = listen(apps, [FrontConfig(port=0, serves=kind) for kind in kinds])

    async def _is_ready(self, model: str = "", version: str = "") -> bool:
        return model != "loads"

    def _statuses(self) -> tuple[VersionStatus, ...]:
        return (
            VersionStatus(ModelId("tensors", "1"), State.READY),
            VersionStatus(ModelId("loads", "1"), State.NEW),
        )

    def observe(self, events: Any) -> None:
        self.events += events

    def outcomes(self) -> list[tuple[str, str]]:
        self.bus.flush()
        return [(event.protocol, event.outcome) for event in self.events]

    def client(self, at: int = 0) -> Any:
        return grpc.aio.insecure_channel(f"127.0.0.1:{self.listeners[at].port}")


@asynccontextmanager
async def rig(**rules: Any) -> AsyncIterator[Any]:
    made = Rig(**rules)
    running = [asyncio.create_task(listener.run()) for listener in made.listeners]
    for listener in made.listeners:
        await listener.started()
    channels = [made.client(at) for at in range(3)]
    try:
        yield SimpleNamespace(
            rig=made,
            played=made.played,
            channels=channels,
            inference=Stub(channels[0], f"{INFERENCE}.InferenceAPIsService"),
            management=Stub(channels[0], f"{MANAGEMENT}.ManagementAPIsService"),
            open_inference=Stub(channels[1], f"{OPEN_INFERENCE}.GRPCInferenceService"),
        )
    finally:
        for channel in channels:
            await channel.close()
        for listener in made.listeners:
            listener.stop()
        await asyncio.wait(running, timeout=PATIENCE_S)


async def failure(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code().name, raised.value.details()


async def pieces(call: Any) -> list[bytes]:
    found = []
    while (reply := await call.read()) is not grpc.aio.EOF:
        found.append(reply.prediction)
    return found


def healthy() -> Any:
    return message("google.protobuf.Empty")()

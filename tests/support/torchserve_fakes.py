"""A door and a store of handlers, as TorchServe's routes see them; nothing runs behind them."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from salver.dialects.torchserve.backing import Backing
from salver.dialects.torchserve.faults import NO_MESSAGE, no_model, no_version
from salver.dialects.torchserve.front import TorchServe
from salver.dialects.torchserve.rules import TorchServeRules
from salver.dialects.torchserve.tokens import TokenKeys
from salver.transport.calls import RequestContext
from salver.transport.server import FrontConfig, Listener, bind
from salver.transport.terms import Terms
from salver.words import handlers
from salver.words.errors import (
    Conflict,
    DeadlineExceeded,
    NoModelVersion,
    NotFound,
    NotReady,
    SalverError,
    StillDefault,
)
from salver.words.handlers import (
    HandlerReply,
    HandlerStatus,
    Metadata,
    ModelListing,
    Registration,
    RegistrationResult,
    Scaled,
    Workers,
    WorkerStatus,
)
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor

TENSORS = Signature((TensorSpec("x", DataType.FP32, (-1,)),), ())
Answer = Callable[[InferRequest], Any]


def response(reply: HandlerReply, *, is_last: bool = True) -> InferResponse:
    outputs, parameters = handlers.as_answer(reply)
    tensors = tuple(Tensor(name, DataType.UINT8, array) for name, array in outputs.items())
    return InferResponse("m", "1.0", tensors, parameters=parameters, is_last=is_last)


class Door:
    """Models by name: what answers, or the error that it is."""

    def __init__(self, **models: Answer) -> None:
        self.models = models
        self.asked: list[InferRequest] = []
        self.calls: list[Call] = []
        self.posted = 0

    async def stream(
        self,
        codec: Any,
        body: Any,
        model: str,
        version: str,
        call: Call,
        write: Callable[[Any], Awaitable[None]] | None = None,
    ) -> Any:
        assert write is not None
        self.calls.append(call)
        has_begun = False
        try:
            if model not in self.models:
                raise NotFound("in other words")
            if version not in ("", "1.0"):
                raise NotFound("in other words")
            request = codec.decode(body, handlers.SIGNATURE)
            self.asked.append(request)
            answers = self.models[model](request)
            if asyncio.iscoroutine(answers):
                answers = await answers
            if isinstance(answers, SalverError):
                raise answers
            for reply in [answers] if isinstance(answers, HandlerReply) else list(answers)[:-1]:
                is_last = isinstance(answers, HandlerReply)
                piece = codec.encode(request, response(reply, is_last=is_last))
                has_begun = True
                await write(piece)
            if not isinstance(answers, HandlerReply):
                last = list(answers)[-1]
                await write(codec.encode(request, response(last)))
        except SalverError as error:
            fault = codec.fault(error)
            if not has_begun:
                return fault
            await write(fault)
        return None

    def post(
        self,
        codec: Any,
        body: Any,
        model: str,
        version: str,
        call: Call,
        tell: Callable[[Any, Any], None],
        *,
        takes_pieces: bool = False,
    ) -> Callable[[], None] | None:
        """Run a request in a task of its own; return None if it is no model."""
        if model not in self.models or version not in ("", "1.0"):
            return None
        self.posted += 1
        written: list[Any] = []

        async def take(reply: Any) -> None:
            written.append(reply)

        async def run() -> None:
            fault = await self.stream(codec, body, model, version, call, take)
            if fault is not None or len(written) == 1:
                tell(fault or written[0], None)
                return

            async def write_all(write: Callable[[Any], Awaitable[None]]) -> None:
                for piece in written:
                    await write(piece)

            tell(None, write_all)

        task = asyncio.ensure_future(run())
        return lambda: task.cancel() and None

    async def infer(self, *_: Any) -> Any:
        raise AssertionError

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        if model == "tensors":
            return ModelId(model, "1"), TENSORS
        if model not in self.models:
            raise NotFound("in other words")
        return ModelId(model, "1.0"), handlers.SIGNATURE

    def is_decoupled(self, model: str, version: str = "") -> bool:
        return True


class Store:
    """Handlers ``m`` (two versions) and ``asleep`` (without workers)."""

    def __init__(self) -> None:
        self.orders: list[Registration] = []
        self.changes: list[tuple[Any, ...]] = []
        self.healthy = True
        self.started = ["m"]

    def models(self) -> tuple[ModelListing, ...]:
        return tuple(ModelListing(name, f"{name}.mar", name in self.started) for name in ("asleep", "m"))

    def describe(self, model: str, version: str = "") -> tuple[HandlerStatus, ...]:
        if model not in ("m", "asleep"):
            raise no_model(model)
        if version not in ("", "all", "1.0", "2.0"):
            raise no_version(model, version)
        running = (WorkerStatus(9000, 1.5, "READY", 42, 7),) if model == "m" else ()
        rows = [
            HandlerStatus(
                model,
                each,
                f"{model}.mar",
                Workers(),
                running,
                3,
                is_default=each == "1.0",
                is_loaded_at_startup=model in self.started,
            )
            for each in (("1.0", "2.0") if version == "all" else (version or "1.0",))
        ]
        return tuple(rows)

    async def metadata(self, model: str, version: str) -> Metadata:
        if model == "asleep":
            raise NotReady("no worker")
        return {"inputs": 4} if version == "2.0" else None

    def is_healthy(self) -> bool:
        return self.healthy

    async def register(self, order: Registration) -> RegistrationResult:
        self.orders.append(order)
        if order.url == "twice.mar":
            raise Conflict("Model version 1.0 is already registered for model twice")
        workers = 1 if order.initial_workers is None else order.initial_workers
        return RegistrationResult(order.name or "r", "1.0", workers, order.waits)

    async def unregister(self, model: str, version: str = "") -> None:
        self.describe(model, version)
        if model == "asleep":
            raise DeadlineExceeded(f"Timed out while cleaning resources: {model}")
        if version == "1.0":
            raise StillDefault(f"Cannot remove default version for model {model}")
        self.changes.append(("unregister", model, version))

    async def scale(
        self, model: str, version: str, least: int, most: int | None, *, waits: bool
    ) -> tuple[Scaled, int]:
        self.describe(model, version)
        self.changes.append(("scale", model, version, least, most, waits))
        return ("partly" if least == 9 else "done" if waits else "begun"), least

    def set_default(self, model: str, version: str) -> None:
        if version not in ("1.0", "2.0"):
            raise NoModelVersion(f"Model version {version} does not exist for model {model}")
        self.changes.append(("set_default", model, version))


class Page:
    """A page of metrics."""

    def metrics(self, accept: str) -> tuple[bytes, str]:
        return b"# TYPE a gauge\na 1.0\n# TYPE b gauge\nb 2.0\n", "text/plain"


async def salver(scope: Any, receive: Any, send: Any) -> None:
    """Salver's own application: says that it was asked."""
    if scope["type"] == "http":
        await receive()
        body = b"salver " + scope["raw_path"]
        headers = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def backing(
    door: Door,
    store: Store,
    rules: TorchServeRules,
    keys: TokenKeys | None = None,
    **context: Any,
) -> Backing:
    numbers = count(1)
    own = RequestContext(time.monotonic, lambda: f"{next(numbers):016x}", **context)
    return Backing(door, store, Page(), own, rules, keys)  # type: ignore[arg-type]


@asynccontextmanager
async def listening(app: TorchServe | Any, most: int = 1 << 20) -> AsyncIterator[int]:
    """Yield the port of a server."""
    listener = Listener(Terms(app, most, NO_MESSAGE), bind(FrontConfig(port=0)), grace=2.0)
    running = asyncio.create_task(listener.run())
    await listener.started()
    try:
        yield listener.port
    finally:
        listener.stop()
        await running

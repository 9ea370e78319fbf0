"""The HTTP and gRPC front around one model, called without a socket."""

import asyncio
import itertools
import struct
from types import SimpleNamespace

from dialect_tables import grpc_front, http_router

from salver.backends.protocol import Traits
from salver.dialects.openai.resolved_model import ResolvedModel
from salver.dialects.triton.config_view import Facts, complete
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.capabilities import Capabilities
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.transport.asgi import Front
from salver.transport.calls import RequestContext
from salver.words.artifacts import ModelConfig
from salver.words.errors import InvalidInput, NotFound, NotReady
from salver.words.messages import ModelId, Signature, State, TensorSpec, VersionStatus
from salver.words.tensor import DataType

SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 2)),), (TensorSpec("y", DataType.FP32, (-1, 2)),), batched=True
)


class Model:
    signature = SIGNATURE

    def __init__(self):
        self.gate = None
        self.runs = 0

    def run(self, inputs):
        self.runs += 1
        if self.gate:
            self.gate()
        return {"y": inputs["x"] * 2}

    def close(self):
        pass


def served(infer):
    """A servable that can do nothing but infer."""
    return SimpleNamespace(signature=SIGNATURE, capabilities=Capabilities(), infer=infer)


class Control:
    """One model ``m``, version 1, always loaded."""

    def __init__(self):
        self.calls = []

    def other(self, name, version, is_wanted):
        return None

    def acquire(self, name, version=""):
        if name != "m" or version not in ("", "1"):
            raise NotFound(f"Request for unknown model: '{name}' is not found")
        return self

    id = ModelId("m", "1")
    leases = 0

    def release(self):
        pass

    def statuses(self):
        return (VersionStatus(self.id, State.READY), VersionStatus(ModelId("n", "2"), State.FAILED, "broken"))

    async def is_ready(self, model="", version=""):
        return model in ("", "m") and version in ("", "1")

    def model_config(self, model, version=""):
        id = self.acquire(model, version).id
        return complete(b"", id, SIGNATURE, Facts("onnx", "model.onnx", 8))

    def version_of_label(self, model, label):
        raise InvalidInput(f"Unrecognized servable version label: {label}")

    def speech(self, name):
        return ResolvedModel(self.acquire(name).id.name, names=(name,))

    def versions(self, model):
        return tuple(row for row in self.statuses() if row.id.name == model)

    async def load(self, model, order):
        self.calls.append(("load", model, order))

    async def unload(self, model, dependents=False):
        raise NotReady("explicit model load / unload is not allowed if polling is enabled")


class Exposition:
    def metrics(self, accept):
        return b"# TYPE x counter\n", "text/plain"

    def statistics(self, model="", version=""):
        return {"model_stats": []}

    def explain(self, model, version, request=""):
        return {"explained": [model, version, request]}


class Seen:
    def __init__(self):
        self.events = []

    def observe(self, events):
        self.events.extend(events)


class FrontRig:
    def __init__(self, max_body=10_000, tenant_header=b"x-tenant"):
        clock = asyncio.get_running_loop().time
        ids = itertools.count(1)
        new_id = lambda: f"{next(ids):016x}"  # noqa: E731
        self.seen = Seen()
        self.bus = Bus((self.seen,))
        self.model = Model()
        self.control = Control()
        self.engine = Engine(
            ModelId("m", "1"),
            ThreadRunner([self.model], Traits(), slots=1),
            ModelConfig(),
            clock=clock,
            emit=self.bus.emit,
        )
        self.control.servable = served(self.engine.infer)
        door = DataPlane(RequestPath(self.control, self.bus.emit, clock, new_id))
        context = RequestContext(clock, new_id, tenant_header)
        self.front = Front(
            http_router(door, self.control, Exposition(), context),
            grpc_front(door, self.control, Exposition(), context, max_message=max_body),
            context,
            max_body=max_body,
        )

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.engine.close()
        self.bus.flush()

    def served(self):
        self.bus.flush()
        return [e for e in self.seen.events if type(e).__name__ == "Served"]

    async def call(self, verb, path, chunks=(b"",), headers=()):
        """The messages sent; after the body, silence."""
        incoming = [
            {"type": "http.request", "body": chunk, "more_body": index < len(chunks) - 1}
            for index, chunk in enumerate(chunks)
        ]
        sent = []

        async def receive():
            if incoming:
                return incoming.pop(0)
            return await asyncio.Event().wait()

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http",
            "method": verb,
            "http_version": "2",
            "path": path,
            "raw_path": path.encode(),
            "headers": [(k.encode(), v.encode()) for k, v in headers],
        }
        await self.front(scope, receive, send)
        return sent

    async def http(self, verb, path, body=b"", headers=(), chunks=None):
        sent = await self.call(verb, path, chunks or (body,), headers)
        start, end = sent
        return start["status"], dict(start["headers"]), end["body"]

    async def grpc(self, method, message, headers=(), chunks=None, service="inference.GRPCInferenceService"):
        framed = struct.pack(">?I", False, len(message)) + message
        headers = (("content-type", "application/grpc"), *headers)
        sent = await self.call("POST", f"/{service}/{method}", chunks or (framed,), headers)
        trailers = dict(sent[-1].get("headers", sent[0]["headers"]))  # an error has trailers only
        return int(trailers[b"grpc-status"]), trailers.get(b"grpc-message", b"").decode(), sent[1]["body"][5:]

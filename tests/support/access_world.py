"""A server with a keys file, everything that its ports can be asked, and keys of several kinds."""

import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import httpx
from waiting import PATIENCE_S
from zoo import write_mlp

from salver.app import Server
from salver.configuration import ServeConfig
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.registering import HandlerStoreConfig
from salver.encoding.varints import one
from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord, Previous, hash_of, written
from salver.features.access.scopes import RIGHTS
from salver.features.management.placement import placement_operation
from salver.features.management.serving_operations import serving_operations
from salver.transport.doors import Kind
from salver.transport.operations import Operation, right_of
from salver.transport.restrict import Right, right_of_method
from salver.transport.routes import HttpRouter
from salver.transport.server import FrontConfig

KINDS: tuple[Kind, ...] = (
    *("all", "http", "grpc", "metrics", "openai", "sagemaker", "vertex-ai"),
    *("torchserve-inference", "torchserve-management", "torchserve-metrics"),
    *("torchserve-grpc-inference", "torchserve-grpc-management"),
)
#: What TorchServe's ports over REST and those of the clouds can be asked, with the right that it needs.
OTHERS: tuple[tuple[tuple[Kind, ...], str, str, Right], ...] = (
    (("all", "torchserve-inference"), "GET", "/ping", "known"),
    (("all", "torchserve-inference"), "POST", "/predictions/mlp", "infer"),
    (("all", "torchserve-inference"), "POST", "/predictions/mlp/1", "infer"),
    (("all", "torchserve-inference"), "OPTIONS", "/predictions/mlp", "infer"),
    (("all", "torchserve-inference"), "POST", "/explanations/mlp", "infer"),
    (("all", "torchserve-inference"), "POST", "/models/mlp/invoke", "infer"),
    (("all", "torchserve-inference"), "POST", "/invocations?model_name=mlp", "infer"),
    (("all", "torchserve-inference"), "POST", "/wfpredict/mlp", "infer"),
    (("all", "torchserve-inference"), "POST", "/mlp/predict", "infer"),
    (("torchserve-inference",), "POST", "/v1/models/mlp:predict", "infer"),
    (("torchserve-inference",), "POST", "/v2/models/mlp/infer", "infer"),
    (("torchserve-inference", "torchserve-management"), "OPTIONS", "/", "known"),
    (("all", "torchserve-management"), "GET", "/models", "read"),
    (("all", "torchserve-management"), "GET", "/models/mlp", "read"),
    (("all", "torchserve-management"), "OPTIONS", "/models/mlp", "read"),
    (("all", "torchserve-management"), "GET", "/workflows", "read"),
    (("all", "torchserve-management"), "GET", "/workflows/mlp", "read"),
    (("torchserve-management",), "GET", "/v1/models/mlp", "read"),
    (("all", "torchserve-management"), "POST", "/models?url=none.mar", "models"),
    (("all", "torchserve-management"), "PUT", "/models/mlp?min_worker=1", "models"),
    (("all", "torchserve-management"), "PUT", "/models/mlp/1.0/set-default", "models"),
    (("all", "torchserve-management"), "DELETE", "/models/mlp", "models"),
    (("all", "torchserve-management"), "POST", "/workflows?url=none.war", "models"),
    (("all", "torchserve-management"), "DELETE", "/workflows/mlp", "models"),
    (("all", "torchserve-metrics"), "GET", "/metrics?name[]=none", "read"),
    (("sagemaker",), "GET", "/ping", "known"),
    (("sagemaker",), "POST", "/invocations", "infer"),
    (("sagemaker",), "POST", "/models/mlp/invoke", "infer"),
    (("sagemaker",), "GET", "/models", "read"),
    (("sagemaker",), "GET", "/models/mlp", "read"),
    (("sagemaker",), "POST", "/models", "models"),
    (("sagemaker",), "DELETE", "/models/mlp", "models"),
    (("vertex-ai",), "GET", "/health", "known"),
    (("vertex-ai",), "POST", "/predict", "infer"),
    (("all",), "GET", "/api/openapi.json", "known"),
    (("all",), "GET", "/console/", "known"),
    (("all",), "GET", "/docs/", "known"),
)
#: Where messages of methods that run models name them.
RUNNING = {"ModelInfer": (1,), "ModelStreamInfer": (1,), "Predictions": (1,)}


class Asking(NamedTuple):
    """One thing that a port can be asked: over HTTP by verb and path, over gRPC by its path and message."""

    kind: Kind
    verb: str
    path: str
    right: Right
    names_model: bool = True
    message: bytes = b""
    filters: bool = False


class Said(NamedTuple):
    """Status of an answer; over gRPC the name of its code. The text of an answer with an error."""

    status: int | str
    text: str
    headers: Any = None

    @property
    def is_unidentified(self) -> bool:
        return self.status in (401, "UNAUTHENTICATED")

    @property
    def is_refused(self) -> bool:
        """The port answers nobody who asks for this."""
        what = "changes are refused" in self.text or "inference is refused" in self.text
        is_said = what and self.status in (403, "PERMISSION_DENIED", "OK")
        return is_said or self.is_unidentified or "a change needs a token" in self.text

    @property
    def is_out_of_scope(self) -> bool:
        """A method that streams inference has errors among its replies."""
        return "scope" in self.text and self.status in (403, "PERMISSION_DENIED", "OK")


def message(path: Sequence[int], value: str | bytes = "mlp") -> bytes:
    """Return a message with a value, a model's name, at a path of field numbers."""
    found = value.encode() if isinstance(value, str) else value
    for number in reversed(path):
        found = one(number << 3 | 2) + one(len(found)) + found
    return found


def askings(server: Server) -> Iterator[Asking]:
    """Everything, as the tables of the running server have it."""
    yield from over_http(server.ports._router)
    for operation in management(server):
        path = "/api/v1" + re.sub(r"{\w+}", "mlp", operation.path)
        names = "{model}" in operation.path
        yield Asking("all", operation.verb, path, right_of(operation), names, filters=operation.filters)
    for kinds, verb, path, right in OTHERS:
        for kind in kinds:
            filters = path in ("/models", "/workflows") and verb == "GET" and kind != "sagemaker"
            yield Asking(kind, verb, path, right, "mlp" in path or right == "infer", filters=filters)
    yield from over_grpc(server)


def over_http(router: HttpRouter) -> Iterator[Asking]:
    for row in router.operations:
        path = row.path.replace("{model}", "mlp").replace("{version}", "1")
        path = re.sub(r"{\w+}", "none", path)
        right = router.endpoints[row.name].right
        is_named, filters = "{model}" in row.path, router.endpoints[row.name].filters
        if path != "/metrics":
            yield Asking("http", row.verb, path, right, is_named, filters=filters)
        else:
            yield Asking("metrics", row.verb, path, right, is_named, filters=filters)
        yield Asking("all", row.verb, path, right, is_named, filters=filters)
        if path.startswith("/v1/"):
            yield Asking("openai", row.verb, path, right, is_named, filters=filters)


def management(server: Server) -> list[Operation]:
    own = serving_operations(server.control, server.kernel.state, ("", ""))
    own.append(placement_operation(server.control, server.kernel.models.servables, None))
    return [*own, *(one for part in server.kernel.parts for one in part.operations)]


def over_grpc(server: Server) -> Iterator[Asking]:
    front = server.ports._grpc.front()
    for path in (*front._methods, *front._streams):
        right = right_of_method(path, changes=path in front._changing and front._changing[path] is None)
        name = path.rpartition("/")[2]
        fields = front._names.get(path) or (RUNNING.get(name, (1, 1)) if right == "infer" else ())
        if name.startswith("StreamPredictions"):
            fields = (1,)
        sent = message(fields) if fields else b""
        if name == "StreamPredictions2":
            sent += message((4,), "a-sequence")
        if name == "MultiInference":
            task = message((1, 1)) + message((2,), "tensorflow/serving/classify")
            sent = message((1,), task)
        for kind in _kinds_of(path):
            yield Asking(kind, "", path, right, bool(fields), sent, front._names.get(path) == ())


def _kinds_of(path: str) -> tuple[Kind, ...]:
    """Return the ports that have a gRPC method."""
    if path.startswith("/org.pytorch.serve.grpc.management."):
        return ("all", "torchserve-grpc-management")
    if path.startswith("/org.pytorch.serve.grpc.inference."):
        return ("all", "grpc", "torchserve-grpc-inference")
    if path.startswith("/grpc.health."):
        return ("all", "grpc", "torchserve-grpc-inference", "torchserve-grpc-management")
    return ("all", "grpc")


class KeyRing:
    """Keys of several kinds, and their file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[KeyRecord] = []
        now = datetime.now(UTC).replace(microsecond=0)
        self.everything = self.add("everything", "*")
        self.expired = self.add("expired", "*", not_after=now - timedelta(seconds=1))
        self.revoked = self.add("revoked", "*", revoked=now)
        self.same_model = self.add("same-model", *_all("mlp"))
        self.other_model = self.add("other-model", *_all("other*"))
        self.old, self.new = new_key(), new_key()
        previous = Previous(hash_of(self.old), now + timedelta(hours=1))
        self.records.append(KeyRecord("rotated", "rotated", hash_of(self.new), ("*",), previous=previous))
        #: A key with every right but one, by that right.
        self.without = {right: self.add(f"no-{right}", *(set(_RIGHTS) - {right})) for right in _RIGHTS}
        self.write()

    def add(self, name: str, *scopes: str, **more: Any) -> str:
        key = new_key()
        self.records.append(KeyRecord(name, name, hash_of(key), scopes, **more))
        return key

    def write(self) -> None:
        self.path.write_text(written(self.records))


_RIGHTS = [right for right in RIGHTS if right != "*"]


def _all(pattern: str) -> list[str]:
    return [f"{right}:{pattern}" for right in _RIGHTS]


class Ports:
    """Ports of one running server, by what they serve."""

    def __init__(self, server: Server, client: httpx.AsyncClient) -> None:
        self.server = server
        kinds = [config.serves for config in server.listeners.configs]
        self.ports = dict(zip(kinds, server.listeners.ports(), strict=True))
        self._client = client
        self._channels: dict[str, grpc.aio.Channel] = {}

    def url(self, kind: Kind = "all") -> str:
        return f"http://127.0.0.1:{self.ports[kind]}"

    async def ask(self, asking: Asking, key: str = "", headers: Sequence[tuple[str, str]] = ()) -> Said:
        sent = [*headers, *([("authorization", f"Bearer {key}")] if key else [])]
        if asking.verb:
            kind = "application/json"
            if "/audio/" in asking.path:
                kind = "multipart/form-data; boundary=line"
            reply = await self._client.request(
                asking.verb,
                self.url(asking.kind) + asking.path,
                content=b"" if asking.verb == "GET" else body(asking),
                headers=[("content-type", kind), *sent],
            )
            return Said(reply.status_code, reply.text if reply.status_code >= 400 else "", reply.headers)
        channel = self._channel(f"127.0.0.1:{self.ports[asking.kind]}")
        call = channel.unary_stream(asking.path)(asking.message, metadata=sent, timeout=PATIENCE_S)
        text = b""
        try:
            if asking.path.endswith("/Watch"):
                await call.read()
                call.cancel()
                return Said("OK", "")
            async for reply in call:
                text += reply
        except grpc.aio.AioRpcError as error:
            return Said(error.code().name, error.details() or "")
        is_told = b"scope" in text or b"refused" in text
        return Said("OK", text.decode("latin-1") if is_told else "")

    def _channel(self, address: str) -> grpc.aio.Channel:
        if address not in self._channels:
            self._channels[address] = grpc.aio.insecure_channel(address)
        return self._channels[address]

    async def close(self) -> None:
        for channel in self._channels.values():
            await channel.close()


def form(**fields: bytes) -> bytes:
    """A form with a boundary of ``line``."""
    head = b'--line\r\ncontent-disposition: form-data; name="%s"\r\n\r\n%s\r\n'
    return b"".join(head % (name.encode(), value) for name, value in fields.items()) + b"--line--\r\n"


def body(asking: Asking) -> bytes:
    """A body that names the model where the path does not."""
    if asking.path.endswith("/chat/completions"):
        return b'{"model":"mlp","messages":[{"role":"user","content":"a"}]}'
    if asking.path.endswith("/completions"):
        return b'{"model":"mlp","prompt":"a"}'
    if asking.path.endswith("/embeddings"):
        return b'{"model":"mlp","input":"a"}'
    if "/audio/" in asking.path:
        return form(model=b"mlp", file=b"a")
    return b"{}"


@asynccontextmanager
async def serving(
    folder: Path, keys: Path | str, *, host: str = "127.0.0.1", **tables: Any
) -> AsyncIterator[Ports]:
    """A server with a port of each kind, on which requests may change all that requests ever may."""
    (folder / "store").mkdir(exist_ok=True)
    write_mlp(folder / "models" / "mlp", 1)
    clouds = {"sagemaker": {"model": "mlp", "brings_models": True}, "vertex-ai": {"model": "mlp"}}
    fronts = [
        FrontConfig(host, 0, grace_seconds=5, serves=kind, platform=clouds.get(kind, {}))  # type: ignore[arg-type]
        for kind in KINDS
    ]
    handlers = HandlerStoreConfig(ArchiveStoreConfig(str(folder / "store")), is_open=True)
    config = ServeConfig(
        paths=(str(folder / "models"),),
        front=fronts[0],
        more=tuple(fronts[1:]),
        control="explicit",
        load=("mlp",),
        tables={
            "torchserve": {"handlers": handlers},
            "access": {"keys_file": str(keys)},
            "cache": {"name": "local", "options": {"size": "1m"}},
            **tables,
        },
    )
    async with Server(config) as server, httpx.AsyncClient(timeout=PATIENCE_S) as client:
        ports = Ports(server, client)
        yield ports
        await ports.close()

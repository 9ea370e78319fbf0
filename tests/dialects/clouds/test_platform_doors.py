"""Routes of SageMaker and Vertex AI, without sockets."""

import asyncio
import json
from typing import Any

import pytest

from salver.dialects.clouds.doors import SageMaker, SageMakerDoor, Vertex, VertexDoor
from salver.dialects.clouds.many_models import ManyModels
from salver.dialects.oip.faults import http_fault
from salver.transport.doors import App
from salver.transport.restrict import Guard, Restriction
from salver.words.artifacts import LoadOrder
from salver.words.errors import LoadFailed
from salver.words.messages import ModelId, State, VersionStatus

Answer = tuple[int, dict[bytes, bytes], bytes]
BINARY = "application/vnd.sagemaker-triton.binary+json;json-header-size="
LENGTH = b"inference-header-content-length"


class Control:
    """Remembers what was loaded, from which folder."""

    def __init__(self, *ready: str) -> None:
        self.loaded = dict.fromkeys(ready, "")
        self.departed: list[str] = []
        self.fault = ""

    def statuses(self) -> tuple[VersionStatus, ...]:
        return tuple(VersionStatus(ModelId(name, "1"), State.READY) for name in self.loaded)

    async def is_ready(self, model: str = "", version: str = "") -> bool:
        return model in self.loaded

    def model_config(self, model: str, version: str = "") -> bytes:
        raise AssertionError

    def version_of_label(self, model: str, label: str) -> str:
        raise AssertionError

    async def load(self, model: str, order: LoadOrder) -> None:
        await asyncio.sleep(0)
        if self.fault:
            raise LoadFailed(self.fault)
        self.loaded[model] = order.folder

    async def unload(self, model: str, *, waits: bool = False) -> None:
        if self.loaded.pop(model, None) is not None and waits:
            self.departed.append(model)


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Says what it was asked; a length in the request's header comes back in the reply's."""
    headers = dict(scope["headers"])
    reply = [(b"content-type", b"application/octet-stream")]
    if LENGTH in headers:
        reply.append((LENGTH, headers[LENGTH]))
    body = f"{scope['method']} {scope['raw_path'].decode()}".encode()
    await send({"type": "http.response.start", "status": 200, "headers": reply})
    await send({"type": "http.response.body", "body": body})


def ask(door: App, verb: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> Answer:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": verb, "path": path, "raw_path": path.encode(), "headers": pairs}
    asyncio.run(door(scope, receive, send))  # type: ignore[arg-type]
    return sent[0]["status"], dict(sent[0]["headers"]), b"".join(m.get("body", b"") for m in sent[1:])


def test_models_that_take_raw_inputs_answer_at_their_own_path() -> None:
    many = ManyModels(Control(), None, http_fault, is_allowed=False)
    doors = (
        (SageMakerDoor, SageMaker(), "/invocations", (many, http_fault), "sagemaker"),
        (VertexDoor, Vertex(), "/predict", (http_fault,), "vertex-ai"),
    )
    for kind, config, path, rest, platform in doors:
        door: App = kind(application, config, Control("a b"), *rest, takes_raw=lambda name: name == "a b")  # type: ignore[operator]
        assert ask(door, "POST", path)[2].decode() == "POST /v1/models/a%20b/invocations"
        binary = {"Content-Type": BINARY.replace("sagemaker", platform) + "17"}
        assert ask(door, "POST", path, headers=binary)[2].decode() == "POST /v2/models/a%20b/infer"


def sagemaker(control: Control | None = None, guard: Guard | None = None, **config: Any) -> SageMakerDoor:
    control = control or Control("m")
    door = SageMaker(**config)
    return SageMakerDoor(
        application,
        door,
        control,
        ManyModels(control, guard, http_fault, is_allowed=door.brings_models),
        http_fault,
    )


@pytest.mark.clause("TR-V1")
@pytest.mark.parametrize(
    ("config", "verb", "path", "expected"),
    [
        ({}, "GET", "/ping", "GET /v2/health/ready"),
        ({"ping": "live"}, "GET", "/ping", "GET /v2/health/live"),
        ({}, "POST", "/invocations", "POST /v2/models/m/infer"),
        ({"model": "a b"}, "POST", "/invocations", "POST /v2/models/a%20b/infer"),
        ({"inference": "generate"}, "POST", "/invocations", "POST /v2/models/m/generate"),
        ({"inference": "generate_stream"}, "POST", "/invocations", "POST /v2/models/m/generate_stream"),
    ],
)
def test_routes_of_sagemaker(config: dict[str, Any], verb: str, path: str, expected: str) -> None:
    assert ask(sagemaker(**config), verb, path)[2].decode() == expected


@pytest.mark.clause("TR-V1")
@pytest.mark.parametrize(
    ("verb", "path"), [("GET", "/"), ("GET", "/v2"), ("POST", "/ping/x"), ("PUT", "/models"), ("GET", "/m")]
)
def test_nothing_else_is_there(verb: str, path: str) -> None:
    assert ask(sagemaker(), verb, path)[::2] == (400, b"")


@pytest.mark.clause("TR-V1")
def test_the_content_type_tells_the_length_of_the_json_part_both_ways() -> None:
    status, headers, _ = ask(sagemaker(), "POST", "/invocations", headers={"Content-Type": f"{BINARY}17"})
    assert status == 200
    assert headers[b"content-type"].decode() == f"{BINARY}17"
    assert LENGTH not in headers
    plain = ask(sagemaker(), "POST", "/invocations", headers={"Content-Type": "application/json"})
    assert plain[1] == {b"content-type": b"application/octet-stream"}
    status, _, body = ask(sagemaker(), "POST", "/invocations", headers={"Content-Type": f"x;{BINARY}17"})
    assert status == 400
    assert b"expect MIME type for binary data starts with 'application/vnd.sagemaker" in body


@pytest.mark.clause("TR-V1")
def test_no_model_is_named_and_there_is_not_one() -> None:
    for names in ((), ("a", "b")):
        status, _, body = ask(sagemaker(Control(*names)), "POST", "/invocations")
        assert status == 404
        assert b"only a single model if default model is not specified" in body


def load(door: SageMakerDoor, name: str, url: str = "/opt/ml/models/x/model") -> Answer:
    return ask(door, "POST", "/models", json.dumps({"model_name": name, "url": url}).encode())


@pytest.mark.clause("TR-V2")
def test_a_models_life() -> None:
    control = Control()
    door = sagemaker(control, brings_models=True)
    assert ask(door, "GET", "/models")[::2] == (200, b'{"models":[]}')
    assert load(door, "h1")[::2] == (200, b"")
    assert control.loaded == {"h1": "/opt/ml/models/x/model"}
    entry = {"modelName": "h1", "modelUrl": "/opt/ml/models/x/model"}
    assert json.loads(ask(door, "GET", "/models")[2]) == {"models": [entry]}
    assert json.loads(ask(door, "GET", "/models/h1")[2]) == entry
    assert ask(door, "POST", "/models/h1/invoke")[2] == b"POST /v2/models/h1/infer"
    assert ask(door, "GET", "/models/h1/invoke")[0] == 400
    again = load(door, "h1")
    assert again[0] == 409
    assert b"conflicting mapping for 'h1'" in again[2]
    assert ask(door, "DELETE", "/models/h1")[0] == 200
    assert (control.loaded, control.departed) == ({}, ["h1"])
    for verb, path in (("GET", "/models/h1"), ("DELETE", "/models/h1"), ("POST", "/models/h1/invoke")):
        assert ask(door, verb, path)[::2] == (404, b"")
    assert load(door, "h1")[0] == 200


@pytest.mark.clause("TR-V2")
def test_a_name_that_the_repository_has_is_taken() -> None:
    assert load(sagemaker(Control("m"), brings_models=True), "m")[0] == 409


@pytest.mark.clause("TR-V2")
@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("no such file", 400),
        ("CUDA out of memory", 507),
        ("MemoryError()", 507),
        ("No space left on device", 507),
    ],
)
def test_a_load_that_fails_leaves_nothing(fault: str, status: int) -> None:
    control = Control()
    door = sagemaker(control, brings_models=True)
    control.fault = fault
    assert load(door, "h")[0] == status
    assert ask(door, "GET", "/models/h")[0] == 404
    control.fault = ""
    assert load(door, "h")[0] == 200


@pytest.mark.clause("TR-V2")
async def test_a_load_goes_on_without_its_caller() -> None:
    control = Control()
    models = ManyModels(control, None, http_fault, is_allowed=True)
    body = b'{"model_name": "h", "url": "/opt/ml/models/h/model"}'
    caller = asyncio.create_task(models.ask("POST", "", {}, body))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([caller])
    while "h" not in models:
        await asyncio.sleep(0)
    assert (await models.ask("GET", "h", {}, b"")).status == 200


@pytest.mark.clause("TR-V2")
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"{}", "'model_name' is missing"),
        (b'{"model_name":"m"}', "'url' is missing"),
        (b'{"model_name":"m","url":1}', "'url' is a number"),
        (b'{"model_name":"","url":"/x"}', "'model_name' is a string, or empty"),
        (b"[]", "object"),
        (b"{", "JSON"),
    ],
)
def test_a_wrong_request(body: bytes, text: str) -> None:
    status, _, reply = ask(sagemaker(brings_models=True), "POST", "/models", body)
    assert status == 400
    assert text in json.loads(reply)["error"]


@pytest.mark.clause("TR-V2")
def test_only_where_the_environment_says_so() -> None:
    status, _, body = load(sagemaker(Control()), "h")
    assert status == 400
    assert b"SAGEMAKER_MULTI_MODEL=true" in body
    assert ask(sagemaker(Control()), "GET", "/models")[2] == b'{"models":[]}'


@pytest.mark.clause("TR-V2")
def test_models_are_restricted_as_the_repository_is() -> None:
    guard = Guard([Restriction(("model-repository",), "admin-key", "sesame")])
    door = sagemaker(guard=guard, brings_models=True)
    status, _, body = ask(door, "GET", "/models")
    assert status == 403
    assert b"This API is restricted, expecting header 'admin-key'" in body
    assert ask(door, "GET", "/models", headers={"admin-key": "sesame"})[0] == 200


def vertex(*ready: str, **config: str) -> VertexDoor:
    return VertexDoor(application, Vertex(**config), Control(*ready), http_fault)


@pytest.mark.clause("TR-V4")
@pytest.mark.parametrize(
    ("verb", "path", "expected"),
    [
        ("GET", "/health", "GET /v2/health/ready"),
        ("POST", "/health", "POST /v2/health/ready"),
        ("POST", "/predict", "POST /v2/models/m/infer"),
    ],
)
def test_routes_of_vertex(verb: str, path: str, expected: str) -> None:
    assert ask(vertex("m"), verb, path)[2].decode() == expected
    moved = vertex("m", predict="/p", health="/h")
    assert ask(moved, verb, {"/health": "/h", "/predict": "/p"}[path])[2].decode() == expected
    assert ask(moved, verb, path)[::2] == (400, b"")


@pytest.mark.clause("TR-V4")
def test_a_binary_body() -> None:
    kind = {"Content-Type": "application/vnd.vertex-ai-triton.binary+json;json-header-size=9"}
    _, headers, _ = ask(vertex("m"), "POST", "/predict", headers=kind)
    assert headers == {b"content-type": b"application/octet-stream", LENGTH: b"9"}


@pytest.mark.clause("TR-V4")
@pytest.mark.parametrize(
    ("redirect", "expected"),
    [
        ("v2", "GET /v2"),
        ("metrics", "GET /metrics"),
        ("v2/health/live", "GET /v2/health/live"),
        ("v2/models/m", "GET /v2/models/m"),
        ("v2/models/m/ready", "GET /v2/models/m/ready"),
        ("v2/models/m/versions/1/config", "GET /v2/models/m/versions/1/config"),
        ("v2/models/stats", "GET /v2/models/stats"),
        ("v2/models/m/infer", "POST /v2/models/m/infer"),
        ("v2/repository/index", "POST /v2/repository/index"),
        ("v2/systemsharedmemory/status", "GET /v2/systemsharedmemory/status"),
        ("v2/cudasharedmemory/region/r/status", "GET /v2/cudasharedmemory/region/r/status"),
    ],
)
def test_redirects(redirect: str, expected: str) -> None:
    header = {"X-Vertex-Ai-Triton-Redirect": redirect}
    assert ask(vertex("m"), "POST", "/predict", headers=header)[2].decode() == expected
    assert ask(vertex("m"), "GET", "/predict", headers=header)[0] == 405


@pytest.mark.clause("TR-V4")
@pytest.mark.parametrize(
    "redirect",
    [
        "v2/repository/models/m/load",
        "v2/repository/models/m/unload",
        "v2/repository/r/models/m/load",
        "v2/systemsharedmemory/region/r/register",
        "v2/systemsharedmemory/unregister",
        "v2/cudasharedmemory/region/r/unregister",
    ],
)
def test_no_redirect_changes_anything(redirect: str) -> None:
    assert ask(vertex("m"), "POST", "/predict", headers={"X-Vertex-Ai-Triton-Redirect": redirect})[0] == 403


@pytest.mark.clause("TR-V4")
@pytest.mark.parametrize(
    "redirect", ["", "/v2", "v2/", "v2/logging", "v2/trace/setting", "openapi.json", "v2/x"]
)
def test_no_redirect_elsewhere(redirect: str) -> None:
    header = {"X-Vertex-Ai-Triton-Redirect": redirect}
    assert ask(vertex("m"), "POST", "/predict", headers=header)[::2] == (400, b"")

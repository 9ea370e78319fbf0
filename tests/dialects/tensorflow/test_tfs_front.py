"""TensorFlow Serving's routes without sockets: errors, headers, limits, names."""

import asyncio
import gzip
import json
import random
from types import SimpleNamespace
from typing import Any

import pytest
from dialect_tables import http_router

from salver.dialects.tensorflow.rules import TfsRules
from salver.encoding.bodies import HttpReply
from salver.transport.asgi import Front
from salver.transport.calls import RequestContext
from salver.transport.cors import Cors
from salver.words.errors import InvalidInput, NotFound, NotReady
from salver.words.messages import Call, ModelId, Signature, State, TensorSpec, VersionStatus
from salver.words.tensor import DataType

_ROWS = (
    VersionStatus(ModelId("m", "00000003"), State.READY),
    VersionStatus(ModelId("m", "2"), State.FAILED, "broken"),
    VersionStatus(ModelId("org/m", "1"), State.READY, "", "tensorflow"),
    VersionStatus(ModelId("org/m/x", "1"), State.LOADING),
)
_SIGNATURE = Signature((TensorSpec("x", DataType.FP32, (-1,)),), ())


class Plane:
    """Answers with what it was asked."""

    async def infer(self, codec: Any, body: Any, model: str, version: str, call: Call) -> HttpReply:
        assert (body.model, body.version) == (model, version)
        told = [model, version, call.api, call.protocol, call.deadline, len(body.body)]
        return HttpReply(200, json.dumps(told).encode())

    def signature(self, model: str, version: str = "") -> tuple[ModelId, Signature]:
        for row in _ROWS:
            if row.id.name == model and version in ("", row.id.version):
                if row.state is not State.READY:
                    raise NotReady("not now")
                return row.id, _SIGNATURE
        raise NotFound("unknown")


class Control:
    def statuses(self) -> tuple[VersionStatus, ...]:
        return _ROWS

    def versions(self, model: str) -> tuple[VersionStatus, ...]:
        return tuple(row for row in _ROWS if row.id.name == model)

    async def is_ready(self, model: str) -> bool:
        return any(row.state is State.READY for row in self.versions(model))

    def speech(self, name: str) -> Any:
        if name != "m-lora":
            raise NotFound("unknown")
        return SimpleNamespace(model="m", names=(name,))

    def version_of_label(self, model: str, label: str) -> str:
        if label != "stable":
            raise InvalidInput(f"Unrecognized servable version label: {label}")
        return "00000003"


async def ask(
    verb: str,
    path: str,
    body: bytes = b"",
    headers: dict[bytes, bytes] | None = None,
    rules: TfsRules = TfsRules(),  # noqa: B008 - a frozen record
    max_body: int = 64 << 20,
    origins: tuple[str, ...] = (),
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of one exchange with a front."""
    clock = asyncio.get_running_loop().time
    context = RequestContext(clock, lambda: "0" * 16, server_name="me")
    plane: Any = Plane()
    control: Any = Control()
    nothing: Any = None
    app: Any = Front(
        http_router(plane, control, nothing, context, tfs=rules), nothing, context, max_body=max_body
    )
    if origins:
        app = Cors(app, origins)
    sent: list[dict[str, Any]] = []
    incoming = [{"type": "http.request", "body": body}]

    async def receive() -> dict[str, Any]:
        return incoming.pop() if incoming else await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "http_version": "2",
        "method": verb,
        "path": path,
        "raw_path": path.encode(),
        "headers": list((headers or {}).items()),
    }
    await app(scope, receive, send)
    names = [name for name, _ in sent[0]["headers"]]
    assert len(names) == len(set(names))
    return sent[0]["status"], dict(sent[0]["headers"]), sent[1]["body"]


@pytest.mark.clause("TF-R1", "TF-R2", "TF-R3")
@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/models/m:predict", ["m", "", "Predict"]),
        ("/v1/models/m:classify", ["m", "", "Classify"]),
        ("/v1/models/m/versions/3:Regress", ["m", "00000003", "Regress"]),
        ("/v1/models/m/versions/2:predict", ["m", "2", "Predict"]),
        ("/v1/models/m/versions/9:predict", ["m", "9", "Predict"]),
        ("/v1/models/m/labels/stable:predict", ["m", "stable", "Predict"]),
        ("/v1/models/org%2Fm:predict", ["org/m", "", "Predict"]),
        ("/v1/models/org/m:predict", ["org/m", "", "Predict"]),
        ("/v1/models/org/m/versions/1:predict", ["org/m", "1", "Predict"]),
    ],
)
async def test_who_is_asked(path: str, told: list[str]) -> None:
    status, headers, body = await ask("POST", path, b"{}")
    assert status == 200
    assert json.loads(body)[:4] == [*told, "tfs-http"]
    assert headers[b"content-type"] == b"application/json"  # TF-R22


@pytest.mark.parametrize("path", ["/v1/models/org/m:explain", "/v1/models/org%2Fm/versions/1:Explain"])
async def test_a_savedmodel_has_no_such_path(path: str) -> None:
    status, _, body = await ask("POST", path, b"{}")
    assert (status, json.loads(body)) == (400, {"error": f"Malformed request: POST {path}"})


@pytest.mark.parametrize("path", ["", "/versions/3", "/labels/stable"])
async def test_other_models_have_no_explainer_yet(path: str) -> None:
    status, _, body = await ask("POST", f"/v1/models/m{path}:explain", b"{}")
    assert status == 501
    assert json.loads(body)["error"].startswith("model 'm' has no explainer")


@pytest.mark.clause("TF-R21")
@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/v1/models/q:explain", 404, "Servable not found for request: Latest(q)"),
        ("/v1/models/m/versions/9:explain", 404, "Servable not found for request: Specific(m, 9)"),
        ("/v1/models/m/labels/x:explain", 400, "Unrecognized servable version label: x"),
        ("/v1/models/org/q:explain", 400, "Malformed request: POST /v1/models/org/q:explain"),
    ],
)
async def test_who_is_not_there_explains_nothing(path: str, status: int, error: str) -> None:
    told, _, body = await ask("POST", path, b"{}")
    assert (told, json.loads(body)) == (status, {"error": error})


@pytest.mark.clause("TF-R21")
async def test_a_label_that_there_is_not() -> None:
    status, _, body = await ask("POST", "/v1/models/m/labels/x:predict", b"{}")
    assert status == 400
    assert body == b'{\n    "error": "Unrecognized servable version label: x"\n}'


@pytest.mark.clause("TF-R4")
async def test_status_of_a_model_is_an_answer_to_three_kinds_of_clients() -> None:
    status, _, body = await ask("GET", "/v1/models/m")
    assert status == 200
    told = json.loads(body)
    assert [row["version"] for row in told.pop("model_version_status")] == ["2", "3"]
    assert isinstance(told.pop("created"), int)
    assert told == {"name": "m", "ready": True, "id": "m", "object": "model", "owned_by": "me"}
    for part in ("/labels/anything", "/versions/2", "/versions/3"):
        status, _, body = await ask("GET", f"/v1/models/m{part}")
        assert (status, list(json.loads(body))) == (200, ["model_version_status"])
    assert len(json.loads(body)["model_version_status"]) == 1


@pytest.mark.clause("TF-R21")
@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v1/models/m/versions/9", "Could not find version 9 of model m"),
        ("/v1/models/q/labels/x", "Could not find any versions of model q"),
        ("/v1/models/q/metadata", "Servable not found for request: Latest(q)"),
        ("/v1/models/m/versions/9/metadata", "Servable not found for request: Specific(m, 9)"),
        ("/v1/models/m/versions/2/metadata", "Servable not found for request: Specific(m, 2): not now"),
    ],
)
async def test_what_there_is_not(path: str, error: str) -> None:
    status, _, body = await ask("GET", path)
    assert (status, json.loads(body)) == (404, {"error": error})


@pytest.mark.clause("TF-R4")
async def test_a_model_that_there_is_not_has_all_keys() -> None:
    status, _, body = await ask("GET", "/v1/models/q")
    assert status == 404
    assert list(json.loads(body)) == ["error", "code", "type", "message"]


@pytest.mark.clause("TF-R4")
async def test_under_tensorflow_servings_command_line_status_has_no_other_keys() -> None:
    rules = TfsRules(tells_no_more=True)
    status, _, body = await ask("GET", "/v1/models/m", rules=rules)
    told = json.loads(body)
    assert (status, list(told)) == (200, ["model_version_status"])
    assert [list(row) for row in told["model_version_status"]] == [["version", "state", "status"]] * 2
    status, _, body = await ask("GET", "/v1/models/q", rules=rules)
    assert (status, json.loads(body)) == (404, {"error": "Could not find any versions of model q"})


async def test_a_lora_is_told_of_as_its_model() -> None:
    status, _, body = await ask("GET", "/v1/models/m-lora")
    told = json.loads(body)
    assert (status, told["id"], told["ready"], len(told["model_version_status"])) == (200, "m-lora", True, 2)


@pytest.mark.clause("TF-R5")
async def test_metadata() -> None:
    for path in (
        "/v1/models/m/metadata",
        "/v1/models/m/versions/3/metadata",
        "/v1/models/m/labels/stable/metadata",
    ):
        status, _, body = await ask("GET", path)
        assert status == 200
        assert json.loads(body)["model_spec"] == {"name": "m", "signature_name": "", "version": "3"}


@pytest.mark.clause("TF-R6")
async def test_the_list_of_models_is_openais() -> None:
    status, _, body = await ask("GET", "/v1/models")
    told = json.loads(body)
    assert (status, told["object"]) == (200, "list")
    assert [entry["id"] for entry in told["data"]] == ["m", "org/m", "org/m/x"]


@pytest.mark.parametrize(
    ("path", "name"),
    [("/v1/models/org/m", "org/m"), ("/v1/models/org%2Fm", "org/m"), ("/v1/models/org/m/x", "org/m/x")],
)
async def test_names_with_slashes_come_encoded_or_raw(path: str, name: str) -> None:
    status, _, body = await ask("GET", path)
    assert (status, json.loads(body)["id"]) == (200, name)
    status, _, body = await ask("GET", f"{path}/versions/1")
    assert (status, len(json.loads(body)["model_version_status"])) == (200, 1)


@pytest.mark.clause("TF-R7")
@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/v1/models/org/q"),
        ("GET", "/v1/models/org//m"),
        ("GET", "/v1/models/org/"),
        ("POST", "/v1/models/org/:predict"),
        ("GET", "/v1/models/m:predict"),
        ("PATCH", "/v1/x"),
        ("POST", "/v1/models/m"),
        ("POST", "/v1/models/m:explode"),
        ("POST", "/v1/models/foo:bar:predict"),
        ("POST", "/v1/models/foo/version/50:regress"),
        ("POST", "/v1/models/foo/versions/HELLO:regress"),
        ("POST", "/v1/models/foo/label/some_label:regress"),
        ("POST", "/v1/models/foo/versions/50/labels/some_label:regress"),
    ],
)
async def test_malformed(verb: str, path: str) -> None:
    status, headers, body = await ask(verb, path)
    assert status == 400
    assert body == b'{\n    "error": "Malformed request: %b %b"\n}' % (verb.encode(), path.encode())
    assert headers[b"x-request-id"] == b"0" * 16


@pytest.mark.clause("TF-R23")
async def test_gzip_bodies_may_inflate_to_100_mib() -> None:
    async def length(size: int, **more: Any) -> tuple[int, Any]:
        page = bytes(61_440) + random.Random(1).randbytes(4096)  # a file of nothing but zeros is refused
        packed = gzip.compress((page * (size // len(page) + 1))[:size], 1)
        asked = await ask("POST", "/v1/models/m:predict", packed, {b"content-encoding": b"gzip"}, **more)
        return asked[0], json.loads(asked[2])

    status, told = await length(70 << 20)
    assert (status, told[5]) == (200, 70 << 20)
    status, told = await length((100 << 20) + 1)
    assert (status, list(told)) == (400, ["error"])
    status, told = await length(2000, max_body=1000)
    assert (status, list(told)) == (400, ["error"])
    assert (await length(1000, max_body=1000))[1][5] == 1000


@pytest.mark.clause("TF-R24")
async def test_pages_of_any_origin_may_ask() -> None:
    wanted = {
        b"access-control-allow-origin": b"*",
        b"access-control-allow-methods": b"POST, GET",
        b"access-control-allow-headers": b"Content-Type",
    }
    rules = TfsRules(allows_cors=True)
    for verb, path in (
        ("GET", "/v1/models/m"),
        ("GET", "/v1/models/q"),
        ("POST", "/v1/models/m:predict"),
        ("PUT", "/v1/x"),
        ("OPTIONS", "/v1/x"),
    ):
        _, headers, _ = await ask(verb, path, rules=rules)
        assert wanted.items() <= headers.items()
        _, headers, _ = await ask(verb, path)
        assert not wanted.keys() & headers.keys()
        _, headers, _ = await ask(
            verb, path, headers={b"origin": b"https://a.b"}, rules=rules, origins=("*",)
        )
        assert headers[b"access-control-allow-origin"] == b"*"
    _, headers, _ = await ask("GET", "/v2", rules=rules)
    assert not wanted.keys() & headers.keys()


@pytest.mark.clause("TF-R24")
@pytest.mark.parametrize(
    ("origin", "status"),
    [(b"https://a.example", 200), (b"http://localhost:3000", 200), (b"null", 400), (b"", 400), (None, 400)],
)
async def test_options(origin: bytes | None, status: int) -> None:
    headers = {} if origin is None else {b"origin": origin}
    for path in ("/v1/models/m:predict", "/v1/anything", "/V1/models"):
        got, _, body = await ask("OPTIONS", path, headers=headers)
        assert (got, body) == (status, b"")


@pytest.mark.clause("TF-R25")
async def test_a_call_has_as_long_as_its_operator_says() -> None:
    async def deadline(path: str, rules: TfsRules) -> float | None:
        return json.loads((await ask("POST", path, rules=rules))[2])[4]  # type: ignore[no-any-return]

    now = asyncio.get_running_loop().time()
    for method in ("predict", "classify", "regress"):
        assert await deadline(f"/v1/models/m:{method}", TfsRules()) is None
        given = await deadline(f"/v1/models/m:{method}", TfsRules(timeout_s=30.0))
        assert given is not None
        assert now + 30 <= given <= now + 60

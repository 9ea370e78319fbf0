"""Restricted operations, forwarded headers, and what each port lets through; no sockets."""

import asyncio
import json
import struct
from typing import Any

import pytest
import tritonclient.grpc.service_pb2 as pb
from dialect_tables import OPERATIONS, ROUTER, grpc_front, http_router
from servables import Declaring

from salver.encoding.bodies import HttpReply
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.transport.asgi import Front
from salver.transport.calls import HeaderRules, RequestContext, take_traits
from salver.transport.doors import Kind, door
from salver.transport.forward import Forwarding
from salver.transport.restrict import (
    GROUPS,
    GRPC_PREFIX,
    OPENAI_GROUPS,
    Guard,
    Restriction,
    group_of_method,
    parse,
    parse_openai,
)
from salver.words.errors import Forbidden, InvalidInput, Unauthenticated
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature

SERVICE = "/inference.GRPCInferenceService/"
SECRET = {b"admin-key": b"sesame"}


@pytest.mark.clause("TR-R34")
@pytest.mark.parametrize(
    ("path", "group"),
    [
        ("/v2", "metadata"),
        ("/", "metadata"),
        ("/v2/health/live", "health"),
        ("/v2/models/{model}/versions/{version}/ready", "health"),
        ("/v2/models/{model}", "metadata"),
        ("/v1/models", "metadata"),
        ("/v2/models/{model}/config", "model-config"),
        ("/v2/models/{model}/infer", "inference"),
        ("/v2/models/{model}/generate", "inference"),
        ("/v2/models/{model}/versions/{version}/generate_stream", "inference"),
        ("/v1/models/{model}:predict", "inference"),
        ("/v2/models/stats", "statistics"),
        ("/v2/models/{model}/explain/{request}", "statistics"),
        ("/v2/repository/index", "model-repository"),
        ("/v2/repository/models/{model}/unload", "model-repository"),
    ],
)
def test_groups_of_http_operations(path: str, group: str) -> None:
    (name,) = {operation.name for operation in OPERATIONS if operation.path == path}
    found = ROUTER.endpoints[name].group
    guard = Guard([Restriction((group,), "k", "v")])
    assert guard.lacks(found, {}) == "k"
    assert guard.lacks(found, {b"k": b"v"}) == ""
    others = tuple(other for other in GROUPS if other != group)
    assert Guard([Restriction(others, "k", "v")]).lacks(found, {}) == ""


@pytest.mark.clause("TR-R34")
def test_only_the_description_and_the_metrics_belong_to_no_group() -> None:
    guard = Guard([Restriction(GROUPS, "k", "v")])
    assert {o.name for o in OPERATIONS if not guard.lacks(ROUTER.endpoints[o.name].group, {})} == {
        "openapi",
        "metrics",
        "tfs_metrics",
    }


@pytest.mark.clause("TR-G15")
@pytest.mark.parametrize(
    ("method", "group"),
    [
        ("ServerLive", "health"),
        ("ModelReady", "health"),
        ("ServerMetadata", "metadata"),
        ("ModelMetadata", "metadata"),
        ("ModelInfer", "inference"),
        ("ModelStreamInfer", "inference"),
        ("ModelConfig", "model-config"),
        ("ModelStatistics", "statistics"),
        ("RepositoryModelLoad", "model-repository"),
        ("SystemSharedMemoryRegister", "shared-memory"),
        ("CudaSharedMemoryStatus", "shared-memory"),
        ("TraceSetting", "trace"),
        ("LogSettings", "logging"),
    ],
)
def test_groups_of_grpc_methods(method: str, group: str) -> None:
    assert group_of_method(SERVICE + method) == group
    assert group_of_method("/grpc.health.v1.Health/Check") == "health"


@pytest.mark.parametrize(
    ("method", "group"),
    [
        ("PredictionService/Predict", "inference"),
        ("PredictionService/Classify", "inference"),
        ("PredictionService/Regress", "inference"),
        ("PredictionService/MultiInference", "inference"),
        ("PredictionService/GetModelMetadata", "metadata"),
        ("ModelService/GetModelStatus", "metadata"),
        ("ModelService/HandleReloadConfigRequest", "model-repository"),
    ],
)
def test_groups_of_tensorflow_servings_methods(method: str, group: str) -> None:
    assert group_of_method(f"/tensorflow.serving.{method}") == group


def test_the_wrong_secret_is_as_good_as_none_and_names_are_kept_in_the_text() -> None:
    guard = Guard([parse("inference:Admin-Key=sesame", "--flag")])
    assert guard.lacks("inference", {b"admin-key": b"open"}) == "Admin-Key"
    assert guard.lacks("inference", SECRET) == ""


def test_a_group_has_one_secret() -> None:
    with pytest.raises(InvalidInput, match="'health' are restricted twice"):
        Guard([Restriction(("health",), "a", "b"), Restriction(("trace", "health"), "c", "d")])


@pytest.mark.parametrize(
    "text", ["inference", "inference:k", "inference:=v", "inference:k=", "a b:k=v", ":k=v"]
)
def test_what_is_no_restriction(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse(text, "--flag")


@pytest.mark.clause("TR-R32")
def test_a_pattern_is_found_anywhere_and_in_either_case() -> None:
    headers = {b"x-fwd-one": b"1", b"my-x-fwd-two": "é".encode(), b"host": b"h"}
    assert Forwarding("X-Fwd-.*").parameters(headers) == {"x-fwd-one": "1", "my-x-fwd-two": "é"}
    assert Forwarding("^x-fwd-.*$").parameters(headers) == {"x-fwd-one": "1"}
    assert Forwarding("(?-i)X-Fwd-.*").parameters(headers) == {}
    assert Forwarding("(?i)X-FWD-o.*").parameters(headers) == {"x-fwd-one": "1"}
    with pytest.raises(InvalidInput, match="not a valid regular expression"):
        Forwarding("(")


@pytest.mark.clause("TR-G16")
def test_grpc_keeps_its_own_metadata() -> None:
    own = {b"te": b"trailers", b"content-type": b"application/grpc", b"grpc-timeout": b"1S", b"x-bin": b"AA"}
    assert Forwarding(".*", is_grpc=True).parameters({**own, b"x": b"1"}) == {"x": "1"}
    assert len(Forwarding(".*").parameters(own)) == 4


class NoModels:
    def statuses(self) -> tuple[()]:
        return ()


class Plane:
    """A door for inference that answers with the forwarded headers."""

    def foresee(self, codec: Any, model: str, version: str, call: Call) -> None:
        """Refuse none."""

    async def infer(self, codec: Any, body: Any, model: str, version: str, call: Call) -> Any:
        text = json.dumps(call.forwarded)
        return HttpReply(200, text.encode()) if call.protocol == "oip-http" else text.encode()


async def ask(
    rules: HeaderRules, path: str, headers: dict[bytes, bytes], kind: Kind = "all", verb: str = "POST"
) -> tuple[int, dict[bytes, bytes], bytes]:
    """Status, headers and body of one exchange with a front."""
    context = RequestContext(
        asyncio.get_running_loop().time, lambda: "0" * 16, server_name="me", http=rules, grpc=rules
    )
    plane: Any = Plane()
    control: Any = NoModels()
    front = Front(
        http_router(plane, control, control, context),
        grpc_front(plane, control, control, context, max_message=1000),
        context,
        max_body=1000,
    )
    message = pb.ModelInferRequest(model_name="m").SerializeToString() if path.startswith(SERVICE) else b"{}"
    if path.startswith(SERVICE):
        message = struct.pack(">?I", False, len(message)) + message
        headers = {b"content-type": b"application/grpc", **headers}
    sent: list[dict[str, Any]] = []
    incoming = [{"type": "http.request", "body": message}]

    async def receive() -> dict[str, Any]:
        return incoming.pop() if incoming else await asyncio.Event().wait()  # type: ignore[return-value]

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    scope = {
        "type": "http",
        "method": verb,
        "http_version": "2",
        "path": path,
        "raw_path": path.encode(),
        "headers": list(headers.items()),
    }
    await door(front, kind)(scope, receive, send)
    start, body, *trailers = sent
    return start["status"], dict(start["headers"]) | dict(*(t["headers"] for t in trailers)), body["body"]


@pytest.mark.clause("TR-R37")
async def test_http_without_the_secret_is_403_before_anything_else() -> None:
    rules = HeaderRules(Guard([parse("inference:admin-key=sesame", "--flag")]))
    status, _, body = await ask(rules, "/v2/models/m/infer", {})
    assert status == 403
    assert json.loads(body) == {"error": "This API is restricted, expecting header 'admin-key'"}
    assert (await ask(rules, "/v2/models/m/infer", SECRET))[0] == 200
    assert (await ask(rules, "/v2", {}, verb="GET"))[0] == 200


@pytest.mark.clause("TR-G15")
async def test_grpc_without_the_secret_is_unavailable() -> None:
    rules = HeaderRules(Guard([parse("inference:admin-key=sesame", "--flag")], GRPC_PREFIX))
    for headers in ({}, SECRET, {b"triton-grpc-protocol-admin-key": b"open"}):
        _, trailers, _ = await ask(rules, SERVICE + "ModelInfer", headers)
        assert trailers[b"grpc-status"] == b"14"
        text = b"This protocol is restricted, expecting header 'triton-grpc-protocol-admin-key'"
        assert trailers[b"grpc-message"] == text
    _, trailers, _ = await ask(rules, SERVICE + "ModelInfer", {b"triton-grpc-protocol-admin-key": b"sesame"})
    assert trailers[b"grpc-status"] == b"0"
    assert (await ask(rules, SERVICE + "ServerMetadata", {}))[1][b"grpc-status"] == b"0"


async def test_headers_are_forwarded_over_both_protocols_and_only_where_asked() -> None:
    rules = HeaderRules(None, Forwarding("^x-fwd-"))
    given = {b"x-fwd-two": b"1,2", b"host": b"h"}
    assert json.loads((await ask(rules, "/v2/models/m/infer", given))[2]) == {"x-fwd-two": "1,2"}
    assert json.loads((await ask(rules, SERVICE + "ModelInfer", given))[2][5:]) == {"x-fwd-two": "1,2"}
    assert json.loads((await ask(HeaderRules(), "/v2/models/m/infer", given))[2]) is None


class Servable(Declaring):
    signature = Signature((), ())

    def __init__(self) -> None:
        self.parameters: dict[str, object] = {}

    async def infer(self, request: InferRequest, *_: object) -> InferResponse:
        self.parameters = dict(request.parameters)
        return InferResponse("m", "1", ())


class Lessor:
    id = ModelId("m", "1")

    def __init__(self) -> None:
        self.servable = Servable()

    def other(self, name: str, version: str, is_wanted: object) -> None:
        return None

    def acquire(self, name: str, version: str = "") -> "Lessor":
        return self

    def release(self) -> None:
        pass


class Codec(Declaring):
    def decode(self, body: InferRequest, signature: Signature) -> InferRequest:
        return body

    def encode(self, request: InferRequest, response: InferResponse) -> str:
        return "done"

    def fault(self, error: Exception) -> str:
        return str(error)


@pytest.mark.parametrize("way", ["infer", "stream"])
async def test_a_model_sees_headers_beside_the_parameters_which_win(way: str) -> None:
    lessor: Any = Lessor()
    plane: DataPlane[Any, Any] = DataPlane(RequestPath(lessor, Bus(()).emit, lambda: 0.0, lambda: "id"))
    call = Call("oip-http", 0.0, forwarded={"x-a": "1", "k": "header"})
    request = InferRequest("m", (), parameters={"k": "own", "timeout": 5_000_000})
    assert await getattr(plane, way)(Codec(), request, "m", "", call) == "done"
    assert lessor.servable.parameters == {"x-a": "1", "k": "own", "timeout": 5_000_000}


@pytest.mark.clause("TR-R23", "TR-R32")
@pytest.mark.parametrize("way", ["infer", "stream"])
@pytest.mark.parametrize(
    "name", ["triton_final_response", "triton_x", "sequence_id", "timeout", "priority", "binary_data_output"]
)
async def test_a_header_with_a_reserved_name_is_refused(way: str, name: str) -> None:
    lessor: Any = Lessor()
    plane: DataPlane[Any, Any] = DataPlane(RequestPath(lessor, Bus(()).emit, lambda: 0.0, lambda: "id"))
    call = Call("oip-http", 0.0, forwarded={"x-a": "1", name: "1"})
    said = await getattr(plane, way)(Codec(), InferRequest("m", ()), "m", "", call)
    assert f"header '{name}' cannot become a parameter: that name is reserved." in said


@pytest.mark.clause("TR-R32")
@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("(?-i)x-.*", ["x-a", "x-b"]),
        ("(?-i)X", []),
        ("(?i)^X-A$", ["x-a"]),
        ("^x-a$(?-i)|^X-B$", ["x-a"]),
        ("^(x-(?-i)A|X-B|b)$", []),
        ("^(x-(?-i)a|x-b)$", ["x-a", "x-b"]),
        (r"^\Qx-a\E$", ["x-a"]),
        (r"^x[[:punct:]][[:alpha:]]\z", ["x-a", "x-b"]),
        (r"^x[^[:alpha:]-]\d$", ["x_1"]),
        ("(?sU)^x.(?<name>a|b)$", ["x-a", "x-b"]),
        ("(?i-s:X-)A", ["x-a"]),
    ],
)
def test_patterns_are_re2s(pattern: str, found: list[str]) -> None:
    headers = {b"host": b"", b"x-a": b"", b"x-b": b"", b"x_1": b""}
    assert list(Forwarding(pattern).parameters(headers)) == found


@pytest.mark.clause("TR-R32")
@pytest.mark.parametrize("pattern", [r"\pL", "[[:no:]]", "[a", "(?z)x", "(?", "a)", "*", "(?i", "\\"])
def test_what_is_no_pattern(pattern: str) -> None:
    with pytest.raises(InvalidInput, match="is not a valid regular expression"):
        Forwarding(pattern)


@pytest.mark.parametrize(
    ("kind", "verb", "path", "status"),
    [
        ("http", "GET", "/v2", 200),
        ("http", "GET", "/metrics", 404),
        ("http", "POST", SERVICE + "ModelInfer", 404),
        ("grpc", "POST", SERVICE + "ModelInfer", 200),
        ("grpc", "GET", "/v2", 404),
        ("grpc", "GET", "/openapi.json", 404),
        ("metrics", "GET", "/v2", 200),
        ("metrics", "POST", "/metrics", 405),
        ("all", "GET", "/v2", 200),
        ("all", "POST", SERVICE + "ModelInfer", 200),
    ],
)
async def test_what_each_port_lets_through(kind: Kind, verb: str, path: str, status: int) -> None:
    got, headers, body = await ask(HeaderRules(), path, {}, kind, verb)
    assert got == status
    if kind == "metrics" and status == 200:  # another path than its own (TR-R16)
        assert (headers[b"content-type"], body) == (b"text/plain; charset=utf-8", b"")


def test_what_splits_want_to_know_of_headers_is_noted_and_nothing_else() -> None:
    wanted = {b"x-user-id": "header:x-user-id", b"x-region": "header:x-region"}
    call = Call("oip-http", 0.0)
    take_traits(call, {b"x-other": b"1", b"x-region": b"  "}, wanted)
    assert call.traits is None
    take_traits(call, {b"x-user-id": b" ada ", b"x-other": b"1"}, wanted)
    assert call.traits == {"header:x-user-id": "ada"}
    call.traits = {"parameter:user": "bo"}
    take_traits(call, {b"x-user-id": "jörg".encode(), b"x-region": b"\xff" * 300}, wanted)
    assert call.traits is not None
    assert (call.traits["header:x-user-id"], call.traits["parameter:user"]) == ("jörg", "bo")
    assert len(call.traits["header:x-region"]) < 50


def test_names_that_are_no_utf_8_are_told_apart() -> None:
    found = set()
    for value in (b"jos\xe9", b"jos\xe8", "josé".encode(), b"\xff", b"\xfe"):
        call = Call("oip-http", 0.0)
        take_traits(call, {b"x-user-id": value}, {b"x-user-id": "header:x-user-id"})
        assert call.traits is not None
        found.add(call.traits["header:x-user-id"])
    assert found == {"josé", "josè", "ÿ", "þ"}


async def test_the_server_has_the_name_that_it_was_given() -> None:
    assert json.loads((await ask(HeaderRules(), "/v2", {}, verb="GET"))[2])["name"] == "me"
    reply = (await ask(HeaderRules(), SERVICE + "ServerMetadata", {}))[2][5:]
    assert pb.ServerMetadataResponse.FromString(reply).name == "me"


@pytest.mark.clause("TR-V7")
def test_operations_of_the_openai_front_end_have_groups_of_their_own() -> None:
    rules = [parse_openai(group, "key", "secret", "--flag") for group in OPENAI_GROUPS]
    guard = Guard([*rules, Restriction(("inference",), "other", "value")])
    named = {operation for group in OPENAI_GROUPS.values() for operation in group}
    assert named <= {operation.name for operation in OPERATIONS}
    for operation in named - set(OPENAI_GROUPS["inference"]):
        with pytest.raises(Unauthenticated, match="expecting header 'key' with valid value"):
            guard.check(ROUTER.endpoints[operation].group, {b"key": b"wrong"}, operation)
        guard.check(ROUTER.endpoints[operation].group, {b"key": b"secret"}, operation)
    with pytest.raises(Forbidden, match="expecting header 'other'"):
        guard.check("inference", {b"key": b"secret"}, "chat")
    guard.check("inference", {b"key": b"secret", b"other": b"value"}, "chat")
    guard.check("metadata", {}, "model_metadata")
    with pytest.raises(InvalidInput, match="restricted twice"):
        Guard([rules[0], rules[0]])
    assert "chat" in repr(guard)


@pytest.mark.clause("TR-V7")
async def test_a_caller_without_the_secret_gets_openais_error() -> None:
    rules = HeaderRules(Guard([parse_openai("inference,model-management", "key", "s", "--flag")]))
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/audio/transcriptions"):
        status, _, body = await ask(rules, path, {})
        assert status == 401
        assert json.loads(body)["error"]["type"] == "authentication_error"
        assert json.loads(body)["error"]["code"] == "invalid_auth"
    status, _, body = await ask(rules, "/v1/models/m/load", {})
    assert (status, json.loads(body)["error"][:22]) == (401, "This API is restricted")


@pytest.mark.clause("TR-V5")
async def test_the_openai_port_has_openais_routes() -> None:
    for path, verb in (("/v2", "GET"), ("/v2/models/m/infer", "POST"), (f"{SERVICE}/ServerLive", "POST")):
        assert (await ask(HeaderRules(), path, {}, "openai", verb))[0] == 404
    for path, verb in (("/openapi.json", "GET"), ("/v1/nothing", "GET")):
        status, _, body = await ask(HeaderRules(), path, {}, "openai", verb)
        assert (status, b"openapi" in body) == (
            200 if path == "/openapi.json" else 400,
            path == "/openapi.json",
        )

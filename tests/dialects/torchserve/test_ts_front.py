"""TorchServe's routes over HTTP, on sockets, with nothing behind them."""

import asyncio
import json
from collections.abc import Awaitable
from typing import Any

import msgspec
import pytest
from torchserve_fakes import Door, Store, backing, listening, salver
from waiting import PATIENCE_S

from salver.dialects.torchserve.front import TorchServe
from salver.dialects.torchserve.json_layout import TorchServeReply
from salver.dialects.torchserve.operations import Request
from salver.dialects.torchserve.paths import SURFACES
from salver.dialects.torchserve.rules import TokenRules, TorchServeRules
from salver.dialects.torchserve.tokens import TokenKeys
from salver.transport.budget import Budget
from salver.transport.calls import HeaderRules, NoHeaders
from salver.transport.restrict import Guard, Restriction
from salver.words import handlers
from salver.words.errors import HandlerFailed, NotReady, Overloaded
from salver.words.handlers import HandlerReply
from salver.words.messages import InferRequest

STANDARD = {
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


class Reply:
    """As it came over the wire."""

    def __init__(self, raw: bytes) -> None:
        head, _, self.body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        _, status, self.reason = first.split(" ", 2)
        self.status = int(status)
        self.headers = dict(line.split(": ", 1) for line in lines)

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def fault(self) -> tuple[int, str]:
        told = self.json()
        assert told["code"] == self.status
        return self.status, told["type"]


async def ask(port: int, verb: str, path: str, body: bytes = b"", *headers: str) -> Reply:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{verb} {path} HTTP/1.1", "Host: x", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
    reply = Reply(head)
    if "content-length" in reply.headers:
        size = 0 if verb == "HEAD" else int(reply.headers["content-length"])
        rest = await asyncio.wait_for(reader.readexactly(size), PATIENCE_S)
    else:
        writer.write_eof()
        rest = await asyncio.wait_for(reader.read(), PATIENCE_S)
    writer.close()
    return Reply(head + rest)


def seen(request: InferRequest) -> HandlerReply:
    """Answer with the handler's input."""
    form = handlers.form_of(request)
    parts = {part.name: [part.data.tobytes().decode(), part.content_type] for part in form.parts}
    sequence = [request.parameters.get(name) for name in handlers.SEQUENCE]
    told = [request.version, parts, dict(form.headers), request.id, sequence]
    return HandlerReply(json.dumps(told).encode())


def pieces(request: InferRequest) -> list[HandlerReply]:
    return [HandlerReply(b"one\n", content_type="text/x"), HandlerReply(b"two\n"), HandlerReply(b"last\n")]


def port_of(
    kind: str, door: Door, store: Store | None = None, rules: TorchServeRules | None = None
) -> TorchServe:
    backed = backing(door, store or Store(), rules or TorchServeRules(may_change=True))
    return TorchServe(salver, backed, SURFACES[kind])


@pytest.mark.clause("TS-R3", "TS-R16")
async def test_a_prediction_has_the_standard_headers_and_no_content_type() -> None:
    async with listening(port_of("torchserve-inference", Door(m=lambda _: HandlerReply(b"OK")))) as port:
        for verb in ("POST", "PUT", "GET", "DELETE", "PATCH"):
            reply = await ask(port, verb, "/predictions/m", b"x" if verb == "POST" else b"")
            assert (reply.status, reply.reason, reply.body) == (200, "", b"OK")
            request_id = reply.headers.pop("x-request-id")
            assert len(request_id) == 36
            assert reply.headers == {**STANDARD, "content-length": "2", "connection": "keep-alive"}
        head = await ask(port, "HEAD", "/predictions/m")
        assert (head.status, head.headers["content-length"], head.body) == (200, "2", b"")


@pytest.mark.clause("TS-R4", "TS-R5", "TS-R12", "TS-R17")
async def test_what_a_handler_sees_of_a_request() -> None:
    door = Door(m=seen)
    async with listening(port_of("torchserve-inference", door)) as port:
        reply = await ask(
            port, "POST", "/predictions/m?a=1", b"hi", "Content-Type: text/plain", "X-Gold: Zwei"
        )
        version, parts, headers, id, sequence = reply.json()
        assert (version, parts, sequence) == ("", {"body": ["hi", "text/plain"]}, [None, None, None])
        assert headers["X-Gold"] == "Zwei" and headers["Content-Type"] == "text/plain"
        assert (headers["explain"], headers["url_path"]) == ("False", "")
        assert id == reply.headers["x-request-id"]
        reply = await ask(port, "POST", "/predictions/m/1.0/v1/chat/com%20pletions", b"x")
        assert reply.json()[0] == "1.0" and reply.json()[2]["url_path"] == "v1/chat/com pletions"
        reply = await ask(port, "POST", "/explanations/m/1.0", b"x")
        assert (reply.json()[2]["explain"], reply.json()[2]["url_path"]) == ("True", "")
        for path in ("/v1/models/m:predict", "/v2/models/m/infer"):
            headers = (await ask(port, "POST", path, b"x")).json()[2]
            assert headers["explain"] == "False" and "url_path" not in headers
        for path in ("/v1/models/m:explain", "/v2/models/m/explain"):
            assert (await ask(port, "POST", path, b"x")).json()[2]["explain"] == "True"
        reply = await ask(
            port,
            "POST",
            "/predictions/m",
            b"x",
            "TS_Request_Sequence_ID: s",
            "ts_request_sequence_start: true",
        )
        assert reply.json()[4] == ["s", True, False]


async def test_splits_are_told_the_headers_that_they_want() -> None:
    door, splits = Door(m=seen), NoHeaders()
    own = backing(door, Store(), TorchServeRules(), interest=splits)
    async with listening(TorchServe(salver, own, SURFACES["torchserve-inference"])) as port:
        await ask(port, "POST", "/predictions/m", b"x", "X-User-Id: ada")
        splits.headers = {b"x-user-id": "header:x-user-id"}
        await ask(port, "POST", "/predictions/m", b"x", "X-User-Id: ada")
        await ask(port, "POST", "/predictions/m", b"x")
    assert [call.traits for call in door.calls] == [None, {"header:x-user-id": "ada"}, None]


@pytest.mark.clause("TS-R17")
async def test_sequence_headers_have_the_names_that_the_operator_gave() -> None:
    rules = TorchServeRules(sequence_headers=("my_seq", "my_start", "my_end"))
    async with listening(port_of("torchserve-inference", Door(m=seen), rules=rules)) as port:
        reply = await ask(port, "POST", "/predictions/m", b"x", "my_seq: e1", "my_end: true")
        assert reply.json()[4] == ["e1", False, True]


@pytest.mark.clause("TS-R8", "TS-R9")
async def test_older_routes_take_the_query_as_parameters() -> None:
    store = Store()
    async with listening(port_of("torchserve-inference", Door(m=seen), store)) as port:
        reply = await ask(port, "GET", "/m/predict?a=1&b=%41")
        assert reply.json()[1] == {"a": ["1", ""], "b": ["A", ""], "body": ["", ""]}
        assert "explain" not in reply.json()[2]
        assert (await ask(port, "POST", "/m/1.0/predict", b"x")).json()[0] == "1.0"
        assert (await ask(port, "POST", "/models/m/invoke", b"x")).status == 200
        assert (await ask(port, "POST", "/models/m/other", b"x")).fault == (404, "ResourceNotFoundException")
        assert (await ask(port, "POST", "/invocations?model_name=m", b"x")).json()[1]["body"] == ["x", ""]
        assert (await ask(port, "POST", "/invocations", b"x")).status == 200  # the only one there was
        store.started = []
        refused = await ask(port, "POST", "/invocations", b"x")
        assert refused.json()["message"] == "Parameter model_name is required."
        assert (await ask(port, "POST", "/invocations?model_name=", b"x")).json()[
            "message"
        ] == "Model not found: "
        urlencoded = "Content-Type: application/x-www-form-urlencoded"
        assert (await ask(port, "POST", "/invocations", b"model_name=m", urlencoded)).status == 200


@pytest.mark.clause("TS-R21")
async def test_errors_name_what_is_missing_and_close_the_connection() -> None:
    door = Door(
        m=seen, asleep=lambda _: NotReady("no worker"), full=lambda _: Overloaded("full", retry_after=3)
    )
    async with listening(port_of("torchserve-inference", door)) as port:
        reply = await ask(port, "POST", "/predictions/nobody", b"x")
        assert reply.body == (
            b'{\n  "code": 404,\n  "type": "ModelNotFoundException",\n'
            b'  "message": "Model not found: nobody"\n}\n'
        )
        assert (reply.reason, reply.headers["connection"]) == ("Not Found", "close")
        assert reply.headers["content-type"] == "application/json"
        reply = await ask(port, "POST", "/predictions/m/9", b"x")
        assert reply.json()["message"] == "Model version: 9 does not exist for model: m"
        assert (await ask(port, "POST", "/predictions/asleep", b"x")).fault == (
            503,
            "ServiceUnavailableException",
        )
        reply = await ask(port, "POST", "/predictions/full", b"x")
        assert (reply.status, reply.headers["retry-after"]) == (503, "3")
        for path in (
            "/predictions",
            "/predictions/",
            "/explanations",
            "/no/such/route",
            "/models/m",
            "/metrics",
        ):
            assert (await ask(port, "GET", path)).fault == (404, "ResourceNotFoundException")
        assert (await ask(port, "GET", "/")).fault == (405, "MethodNotAllowedException")
        reply = await ask(port, "GET", "/predictions/%zz")
        assert reply.fault == (403, "IllegalArgumentException")


@pytest.mark.clause("TS-R14", "TS-R19")
async def test_a_handler_says_status_phrase_headers_and_errors() -> None:
    door = Door(
        made=lambda _: HandlerReply(b"{}", 201, "Made", headers={"X-Gold": "42"}),
        missing=lambda _: HandlerReply(b"not here", 404),
        failed=lambda _: HandlerReply(b"Prediction failed", 503, is_error=True),
        odd=lambda _: HandlerReply(b"asked", 200, is_error=True),
        empty=lambda _: HandlerReply(b"", 204),
    )
    async with listening(port_of("torchserve-inference", door)) as port:
        made = await ask(port, "POST", "/predictions/made", b"x")
        assert (made.status, made.reason, made.headers["x-gold"]) == (201, "Made", "42")
        missing = await ask(port, "POST", "/predictions/missing", b"x")
        assert (missing.status, missing.reason, missing.body) == (404, "", b"not here")
        assert missing.headers["connection"] == "close"
        assert (await ask(port, "POST", "/predictions/failed", b"x")).fault == (
            503,
            "InternalServerException",
        )
        assert (await ask(port, "POST", "/predictions/odd", b"x")).body == b"error"
        empty = await ask(port, "POST", "/predictions/empty", b"x")
        assert (empty.status, empty.reason, empty.body) == (204, "", b"")


@pytest.mark.clause("TS-R15")
async def test_an_answer_in_pieces_comes_in_chunks() -> None:
    def breaks(request: InferRequest) -> list[HandlerReply]:
        return [HandlerReply(b"one\n"), HandlerReply(b"broke", 503, is_error=True)]

    async with listening(port_of("torchserve-inference", Door(m=pieces, breaks=breaks))) as port:
        reply = await ask(port, "POST", "/predictions/m", b"x")
        assert (reply.headers["ts_stream_next"], reply.headers["transfer-encoding"]) == ("true", "chunked")
        assert (reply.headers["content-type"], reply.headers["pragma"]) == ("text/x", "no-cache")
        assert reply.body == b"4\r\none\n\r\n4\r\ntwo\n\r\n5\r\nlast\n\r\n0\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /predictions/breaks HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        try:
            raw = await asyncio.wait_for(reader.read(), PATIENCE_S)
        except ConnectionResetError:
            raw = b""
        assert not raw.endswith(b"0\r\n\r\n")  # it breaks off, and does not look whole
        writer.close()


async def test_a_caller_who_hangs_up_cancels_the_request() -> None:
    has_begun, was_cancelled = asyncio.Event(), asyncio.Event()

    async def waits() -> HandlerReply:
        has_begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            was_cancelled.set()
        return HandlerReply()

    def slow(request: InferRequest) -> Awaitable[HandlerReply]:
        return waits()

    async with listening(port_of("torchserve-inference", Door(m=slow))) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /predictions/m HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
        await asyncio.wait_for(has_begun.wait(), PATIENCE_S)
        writer.close()
        await asyncio.wait_for(was_cancelled.wait(), PATIENCE_S)


@pytest.mark.clause("TS-R10")
async def test_a_caller_of_a_workflow_who_hangs_up_cancels_it() -> None:
    has_begun, was_cancelled = asyncio.Event(), asyncio.Event()

    async def predict(request: Request) -> TorchServeReply:
        has_begun.set()
        try:
            await asyncio.sleep(30)
        finally:
            was_cancelled.set()
        return TorchServeReply(200, b"")

    rules = TorchServeRules(may_change=True)
    backed = msgspec.structs.replace(backing(Door(), Store(), rules), more={"predict_workflow": predict})
    async with listening(TorchServe(salver, backed)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /wfpredict/w HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
        await asyncio.wait_for(has_begun.wait(), PATIENCE_S)
        assert not was_cancelled.is_set()
        writer.close()
        await asyncio.wait_for(was_cancelled.wait(), PATIENCE_S)


@pytest.mark.clause("TS-R1")
async def test_health_by_any_verb() -> None:
    store = Store()
    async with listening(port_of("torchserve-inference", Door(), store)) as port:
        for verb in ("GET", "POST", "DELETE", "OPTIONS", "HEAD"):
            reply = await ask(port, verb, "/ping")
            assert reply.status == 200 and reply.body in (b"", b'{\n  "status": "Healthy"\n}\n')
        store.healthy = False
        reply = await ask(port, "GET", "/ping")
        assert (reply.status, reply.json()) == (500, {"status": "Unhealthy"})


@pytest.mark.clause("TS-R2", "TS-P2")
async def test_each_port_describes_itself_and_answers_no_other_ports_routes() -> None:
    rows = {
        "torchserve-inference": {"/ping": 200, "/models": 404, "/metrics": 404, "/v1/models/m": 404},
        "torchserve-management": {"/ping": 404, "/models": 200, "/metrics": 404, "/v1/models/m": 200},
        "torchserve-metrics": {"/ping": 404, "/models": 404, "/metrics": 200, "/metrics/all": 200},
        "torchserve-all": {"/ping": 200, "/models": 200, "/metrics": 200, "/models/m/1.0": 200},
    }
    for kind, paths in rows.items():
        async with listening(port_of(kind, Door(m=seen))) as port:
            for path, status in paths.items():
                assert (await ask(port, "GET", path)).status == status, (kind, path)
            described = (await ask(port, "OPTIONS", "/")).json()
            assert described["openapi"] == "3.0.1"
            assert (await ask(port, "GET", "/api-description")).json() == described
    async with listening(port_of("torchserve-inference", Door(m=seen))) as port:
        told = (await ask(port, "OPTIONS", "/predictions/m/2.0")).json()
        assert told["info"]["title"] == "RESTful API for: m"
        assert (await ask(port, "OPTIONS", "/predictions/nobody")).fault == (404, "ModelNotFoundException")
        assert (await ask(port, "OPTIONS", "/predictions/m/9")).fault == (
            404,
            "ModelVersionNotFoundException",
        )


@pytest.mark.clause("TS-R11")
async def test_open_inference_in_its_own_words_where_it_is_wanted() -> None:
    rules = TorchServeRules(speaks_oip=True)
    async with listening(port_of("torchserve-inference", Door(m=seen), rules=rules)) as port:
        assert (await ask(port, "GET", "/v2")).json() == {
            "name": "Torchserve",
            "version": "0.12.0",
            "extenstion": ["kserve", "kubeflow"],
        }
        assert (await ask(port, "GET", "/v2/health/live")).body == b'{\n  "live": true\n}\n'
        assert (await ask(port, "GET", "/v2/health/ready")).json() == {"ready": True}
        for path in ("/v2/models/m/versions/1.0/ready", "/v2/models/m/versions/1.0"):
            reply = await ask(port, "GET", path)
            assert (reply.status, reply.json()) == (501, {"error": "Model versioning is not yet supported."})
        assert (await ask(port, "GET", "/v2/models/m")).status == 404
    async with listening(port_of("torchserve-inference", Door(m=seen))) as port:
        assert (await ask(port, "GET", "/v2")).status == 404


@pytest.mark.clause("TS-P2")
async def test_torchserves_ports_have_no_routes_besides_its_own() -> None:
    async with listening(port_of("torchserve-inference", Door(m=seen))) as port:
        for path in ("/v1/models/tensors:predict", "/v2/models/tensors/infer"):  # its own, of any model
            assert (await ask(port, "POST", path, b"x")).body == b"salver " + path.encode()
    for kind in SURFACES:
        async with listening(port_of(kind, Door(m=seen))) as port:
            for path in (
                *("/v1/models", "/v1/chat/completions", "/v1/completions", "/v1/embeddings"),
                *("/v2/health/ready", "/v2/health/live", "/v2/models/tensors/ready", "/v2/repository/index"),
                *("/v2/models/m/ready", "/v2", "/api/v1/models", "/console/"),
            ):
                for verb in ("GET", "POST"):
                    assert (await ask(port, verb, path, b"x")).fault == (404, "ResourceNotFoundException")
            method = "/inference.GRPCInferenceService/RepositoryIndex"
            reply = await ask(port, "POST", method, b"x", "Content-Type: application/grpc")
            assert reply.fault == (404, "ResourceNotFoundException")


@pytest.mark.parametrize("path", ["/predictions/m", "/invocations"])
async def test_bodies_in_pieces_count_with_all_others(path: str) -> None:
    budget = Budget(1_000)
    own = backing(Door(m=lambda _: HandlerReply(b"%d" % budget.held)), Store(), TorchServeRules())
    context = msgspec.structs.replace(own.context, budget=budget)
    app = TorchServe(salver, msgspec.structs.replace(own, context=context))

    async def sent(held: int, size: int) -> tuple[int, bytes]:
        budget.held = held
        pieces = [{"type": "http.request", "body": b"x" * size, "more_body": left} for left in (True, False)]
        answers: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return pieces.pop(0)

        async def send(message: dict[str, Any]) -> None:
            answers.append(message)

        scope = {
            "type": "http", "method": "POST", "http_version": "2", "path": path, "raw_path": path.encode(),
            "query_string": b"model_name=m", "headers": [(b"host", b"localhost")],
        }  # fmt: skip
        await app(scope, receive, send)
        assert budget.held == held
        return answers[0]["status"], answers[1]["body"]

    assert await sent(0, 600) == (413, b"")
    assert (await sent(500, 300))[0] == 503
    assert await sent(300, 300) == (200, b"900")


async def test_a_body_over_the_limit_is_413_with_nothing_else() -> None:
    rules = TorchServeRules(max_request=10, max_response=4, cors_origin="http://example.org")
    app = port_of("torchserve-inference", Door(m=lambda request: HandlerReply(b"12345")), rules=rules)
    async with listening(app, most=10) as port:
        reply = await ask(port, "POST", "/predictions/m", b"x" * 11)
        assert (reply.status, reply.body) == (413, b"")
        assert reply.headers == {"content-length": "0", "connection": "close"}
        reply = await ask(port, "POST", "/predictions/m", b"x")
        assert reply.fault == (500, "InternalServerException")
    async with listening(app) as port:  # a front that lets larger ones through
        reply = await ask(port, "POST", "/predictions/m", b"x" * 11)
        assert (reply.status, reply.headers) == (413, {"content-length": "0", "connection": "close"})


@pytest.mark.clause("TS-C6")
async def test_every_reply_allows_what_the_operator_allows() -> None:
    rules = TorchServeRules(
        cors_origin="http://example.org", cors_methods="GET, POST", cors_headers="X-Custom"
    )
    allowed = {
        "access-control-allow-origin": "http://example.org",
        "access-control-allow-methods": "GET, POST",
        "access-control-allow-headers": "X-Custom",
    }
    async with listening(port_of("torchserve-all", Door(m=seen), rules=rules)) as port:
        for path in ("/ping", "/predictions/m", "/models", "/metrics", "/nothing/there"):
            reply = await ask(port, "GET", path, b"", "Origin: http://example.org")
            assert allowed.items() <= reply.headers.items()
        asked = ("Origin: http://example.org", "Access-Control-Request-Method: POST")
        for path in ("/ping", "/predictions/m", "/models", "/metrics", "/nothing/there", "/models/m"):
            reply = await ask(port, "OPTIONS", path, b"", *asked)  # a preflight is answered like any request
            plain = await ask(port, "OPTIONS", path)
            assert (reply.status, reply.body) == (plain.status, plain.body)
            assert allowed.items() <= reply.headers.items()
        reply = await ask(port, "OPTIONS", "/predictions/m", b"", *asked)
        assert reply.status == 200 and reply.json()["openapi"]
        assert (await ask(port, "OPTIONS", "/models", b"", *asked)).fault == (
            405,
            "MethodNotAllowedException",
        )


@pytest.mark.clause("TS-M1")
async def test_to_ts_m7_management_asks_the_store() -> None:
    store = Store()
    async with listening(port_of("torchserve-management", Door(m=seen), store)) as port:

        async def said(verb: str, path: str, body: bytes = b"", *headers: str) -> tuple[int, Any]:
            reply = await ask(port, verb, path, body, *headers)
            return reply.status, reply.json().get("status") or reply.json()["type"]

        assert await said("POST", "/models?url=a.mar&model_name=n&batch_size=3&initial_workers=0") == (
            200,
            'Model "n" Version: 1.0 registered with 0 initial workers. '
            "Use scale workers API to add workers for the model.",
        )
        assert (store.orders[-1].url, store.orders[-1].name, store.orders[-1].batch_size) == ("a.mar", "n", 3)
        assert await said("POST", "/models?url=a.mar&synchronous=false") == (
            202,
            "Processing worker updates...",
        )
        json_body = ("Content-Type: application/json",)
        assert await said("POST", "/models", b'{"url": "a.mar"}', *json_body) == (
            200,
            'Model "r" Version: 1.0 registered with 1 initial workers',
        )
        assert await said("POST", "/models", b'{"url": ', *json_body) == (500, "JsonSyntaxException")
        assert await said("POST", "/models") == (400, "BadRequestException")
        assert await said("POST", "/models?url=twice.mar") == (409, "ConflictStatusException")
        assert await said("PUT", "/models/m?min_worker=2") == (202, "Processing worker updates...")
        assert await said("PUT", "/models/m/1.0?min_worker=2&max_worker=3&synchronous=true") == (
            200,
            "Workers scaled to 2 for model: m, version: 1.0",
        )
        assert await said("PUT", "/models/m?min_worker=9&model_version=2.0") == (
            206,
            "Workers scaling in progress...",
        )
        assert await said("PUT", "/models/m?min_worker=many") == (202, "Processing worker updates...")
        assert store.changes == [
            ("scale", "m", "", 2, 2, False),
            ("scale", "m", "1.0", 2, 3, True),
            ("scale", "m", "2.0", 9, 9, False),
            ("scale", "m", "", 1, 1, False),
        ]
        assert await said("PUT", "/models/m/2.0/set-default") == (
            200,
            'Default version successfully updated for model "m" to "2.0"',
        )
        assert await said("PUT", "/models/m/7/set-default") == (404, "ModelVersionNotFoundException")
        assert await said("DELETE", "/models/m/2.0") == (200, 'Model "m" unregistered')
        assert await said("DELETE", "/models/m/1.0") == (403, "InvalidModelVersionException")
        assert await said("DELETE", "/models/asleep") == (408, "RequestTimeoutException")
        for verb, path in (("DELETE", "/models"), ("POST", "/models/m"), ("PATCH", "/models/m/1.0")):
            assert await said(verb, path) == (405, "MethodNotAllowedException")
        assert await said("GET", "/models/m/1.0/more") == (404, "ResourceNotFoundException")
        assert await said("GET", "/token?type=management") == (404, "ResourceNotFoundException")


@pytest.mark.clause("TS-M3", "TS-M4", "TS-M7")
async def test_what_is_told_of_models() -> None:
    async with listening(port_of("torchserve-management", Door(m=seen))) as port:
        page = (await ask(port, "GET", "/models?limit=1")).json()
        assert page == {"nextPageToken": "1", "models": [{"modelName": "asleep", "modelUrl": "asleep.mar"}]}
        (told,) = (await ask(port, "GET", "/models/m")).json()
        assert (
            told["modelVersion"],
            told["workers"][0]["id"],
            told["jobQueueStatus"]["pendingRequests"],
        ) == (
            "1.0",
            "9000",
            3,
        )
        assert len((await ask(port, "GET", "/models/m/all")).json()) == 2
        (told,) = (await ask(port, "GET", "/models/m?customized=true")).json()
        assert told["customizedMetadata"] == {}
        (told,) = (await ask(port, "GET", "/models/m/2.0?customized=TRUE")).json()
        assert told["customizedMetadata"] == {"inputs": 4}
        assert "customizedMetadata" not in (await ask(port, "GET", "/models/m/all?customized=true")).json()[0]
        reply = await ask(port, "GET", "/models/asleep?customized=true")
        assert (reply.status, "to serve describe request" in reply.json()["message"]) == (503, True)
        assert (await ask(port, "GET", "/v1/models/m")).json() == {"name": "m", "ready": True}
        assert (await ask(port, "GET", "/v1/models/asleep")).json() == {"name": "asleep", "ready": False}
        assert (await ask(port, "OPTIONS", "/models/m")).json()["info"]["title"].endswith("for: m")
        assert (await ask(port, "GET", "/models?limit=%zz")).fault == (403, "IllegalArgumentException")


@pytest.mark.clause("TS-M1")
async def test_changes_are_off_by_default() -> None:
    async with listening(port_of("torchserve-all", Door(), rules=TorchServeRules())) as port:
        for verb, path in (("POST", "/models?url=a.mar"), ("DELETE", "/models/m")):
            assert (await ask(port, verb, path)).fault == (405, "MethodNotAllowedException")
        assert (await ask(port, "PUT", "/models/m?min_worker=1")).status == 202


@pytest.mark.clause("TS-M11")
async def test_the_metrics_page_and_names_on_it() -> None:
    async with listening(port_of("torchserve-metrics", Door())) as port:
        reply = await ask(port, "POST", "/metrics/anything", b"x")
        assert reply.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert reply.body == b"# TYPE a gauge\na 1.0\n# TYPE b gauge\nb 2.0\n"
        assert (await ask(port, "GET", "/metrics?name[]=b")).body == b"# TYPE b gauge\nb 2.0\n"
        assert (await ask(port, "GET", "/metrics?name[]=c")).body == b""
    for rules, status in (
        (TorchServeRules(shows_metrics=False), 200),
        (TorchServeRules(has_metrics=False), 404),
    ):
        async with listening(port_of("torchserve-metrics", Door(), rules=rules)) as port:
            reply = await ask(port, "GET", "/metrics")
            assert (reply.status, reply.body == b"") == (status, status == 200)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.clause("TS-M8", "TS-B11")
async def test_keys_open_their_own_ports_and_nothing_else(tmp_path: Any) -> None:
    clock = Clock()
    keys = TokenKeys(TokenRules(str(tmp_path / "key_file.json"), 1), clock)
    keys.write()

    def bearer(of: str) -> str:
        return f"Authorization: Bearer {json.loads((tmp_path / 'key_file.json').read_text())[of]['key']}"

    def served(kind: str) -> TorchServe:
        return TorchServe(salver, backing(Door(m=seen), Store(), TorchServeRules(), keys), SURFACES[kind])

    refused = (400, "InvalidKeyException")
    async with listening(served("torchserve-inference")) as port:
        for path in (
            "/ping",
            "/predictions/m",
            "/predictions/nobody",
            "/nowhere",
            "/v2/health/live",
            "/token",
        ):
            assert (await ask(port, "GET", path)).fault == refused
            assert (await ask(port, "GET", path, b"", bearer("management"))).fault == refused
            assert (await ask(port, "GET", path, b"", bearer("API"))).fault == refused
        assert (await ask(port, "OPTIONS", "/predictions/m")).fault == refused
        assert (await ask(port, "POST", "/v2/models/tensors/infer", b"x")).fault == refused
        assert (await ask(port, "POST", "/x.Y/Z", b"x", "Content-Type: application/grpc")).fault == refused
        assert (await ask(port, "GET", "/ping", b"", bearer("inference"))).status == 200
        assert (await ask(port, "POST", "/predictions/m", b"x", bearer("inference"))).status == 200
        assert (await ask(port, "POST", "/predictions/m", b"x")).fault == refused
        assert (await ask(port, "POST", "/v2/models/tensors/infer", b"x", bearer("inference"))).status == 200
        assert (await ask(port, "OPTIONS", "/")).status == 200
        clock.now = 61
        assert (await ask(port, "GET", "/ping", b"", bearer("inference"))).fault == refused
    async with listening(served("torchserve-management")) as port:
        assert (await ask(port, "GET", "/token?type=management", b"", bearer("inference"))).fault == refused
        reply = await ask(port, "GET", "/token?type=management", b"", bearer("API"))
        assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b"\n", "application/json")
        assert (await ask(port, "GET", "/models", b"", bearer("management"))).status == 200
        assert (await ask(port, "GET", "/models", b"", bearer("inference"))).fault == refused
    async with listening(served("torchserve-all")) as port:
        assert (await ask(port, "GET", "/models", b"", bearer("management"))).status == 200
        assert (await ask(port, "GET", "/ping", b"", bearer("management"))).fault == refused
        assert (await ask(port, "GET", "/nowhere", b"", bearer("management"))).status == 404
        assert (await ask(port, "GET", "/metrics")).status == 200
    async with listening(served("torchserve-metrics")) as port:
        assert (await ask(port, "GET", "/metrics")).status == 200
        assert (await ask(port, "GET", "/nothing")).status == 404


async def test_the_port_for_everything_serves_torchserve_as_well() -> None:
    def common(rules: TorchServeRules, **more: Any) -> TorchServe:
        return TorchServe(salver, backing(Door(m=seen, predictions=seen), Store(), rules, **more))

    async with listening(common(TorchServeRules())) as port:
        for path in ("/ping", "/models", "/models/m", "/predictions/m", "/m/predict", "/m/1.0/predict"):
            reply = await ask(port, "GET", path)
            assert reply.status == 200 and not reply.body.startswith(b"salver")
        reply = await ask(port, "GET", "/predictions/m/predict")  # a reserved first segment
        assert reply.fault == (404, "ModelVersionNotFoundException")
        for path in (
            "/",
            "/metrics",
            "/v2/models/m/infer",
            "/v1/models/m:predict",
            "/v2",
            "/openapi.json",
            "/x",
        ):
            assert (await ask(port, "GET", path)).body == b"salver " + path.encode()
        assert (await ask(port, "GET", "/metrics?name[]=b")).body == b"# TYPE b gauge\nb 2.0\n"
        assert (await ask(port, "OPTIONS", "/v1/models/m")).body == b"salver /v1/models/m"
        assert (await ask(port, "OPTIONS", "/")).json()["info"]["title"] == "TorchServe APIs"
        for verb, path in (
            ("POST", "/models?url=a.mar"),
            ("PUT", "/models/m?min_worker=1"),
            ("PUT", "/models/m/1.0/set-default"),
            ("DELETE", "/models/m"),
        ):
            assert (await ask(port, verb, path)).fault == (405, "MethodNotAllowedException")
    async with listening(common(TorchServeRules(may_change=True))) as port:
        assert (await ask(port, "PUT", "/models/m?min_worker=1")).status == 202
    guard = Guard([Restriction(("inference", "model-repository"), "key", "sesame")])
    async with listening(common(TorchServeRules(), http=HeaderRules(guard))) as port:
        assert (await ask(port, "GET", "/predictions/m")).status == 403
        assert (await ask(port, "GET", "/predictions/m", b"", "key: sesame")).status == 200
        assert (await ask(port, "PUT", "/models/m?min_worker=1")).status == 403
        assert (await ask(port, "GET", "/ping")).status == 200


async def test_a_defect_is_told_by_its_incident_alone(caplog: pytest.LogCaptureFixture) -> None:
    def breaks(request: InferRequest) -> HandlerReply:
        raise ZeroDivisionError("secret")

    store = Store()
    store.is_healthy = breaks  # type: ignore[method-assign,assignment]
    async with listening(port_of("torchserve-inference", Door(m=breaks), store)) as port:
        for path in ("/ping", "/predictions/m"):
            reply = await ask(port, "GET", path)
            assert reply.fault == (500, "InternalServerException")
            assert "incident" in reply.json()["message"] and "secret" not in reply.json()["message"]
    assert isinstance(HandlerFailed("x"), Exception)

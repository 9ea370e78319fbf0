"""TorchServe's REST interfaces of a real server, with handlers in host processes, asked by plain HTTP."""

import ast
import asyncio
import http.client
import itertools
import json
import subprocess
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from programs import program
from waiting import PATIENCE_S

from salver.app import Server
from salver.configuration import ServeConfig
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.registering import HandlerStoreConfig, StartupModel
from salver.dialects.torchserve.rules import TokenRules, TorchServeRules
from salver.transport.server import FrontConfig

HANDLER = """
import json
import time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    out = []
    for index, row in enumerate(data or []):  # without any when it is loaded
        body = row.get("body")
        if body == "fail":
            raise ValueError("as asked")
        if body == "status":
            context.set_response_status(201, "Made", index)
            context.set_response_header(index, "X-Gold", "42")
        if body == "pieces":
            for piece in ("one ", "two "):
                send_intermediate_predict_response([piece], context.request_ids, "", 200, context)
        headers = context.get_all_request_header(index)
        seen = {name: value for name, value in headers.items() if isinstance(value, str)}
        told = {name: repr(value) for name, value in row.items()}
        out.append({"told": told, "headers": seen, "id": context.get_request_id(index)})
    return out
"""


def archive(folder: Path, name: str, version: str = "1.0", source: str = HANDLER) -> None:
    model = {"modelName": name, "handler": "handler.py:handle", "modelVersion": version}
    manifest = {"createdOn": "", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    with zipfile.ZipFile(folder / f"{name}_{version}.mar", "w") as opened:
        opened.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        opened.writestr("handler.py", source)


def ask(
    port: int, verb: str, path: str, body: str = "", **headers: str
) -> tuple[int, str, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(
            verb, path, body or None, {key.replace("_", "-"): value for key, value in headers.items()}
        )
        reply = connection.getresponse()
        return reply.status, reply.reason, dict(reply.getheaders()), reply.read().decode()
    finally:
        connection.close()


KINDS = ("all", "torchserve-inference", "torchserve-management", "torchserve-metrics")


@asynccontextmanager
async def serving(
    store: Path, rules: TorchServeRules, *names: str, **more: Any
) -> AsyncIterator[dict[str, int]]:
    """Ports by their kinds."""
    fronts = [FrontConfig(port=0, serves=kind, grace_seconds=5) for kind in KINDS]  # type: ignore[arg-type]
    handlers = HandlerStoreConfig(
        ArchiveStoreConfig(str(store)),
        at_start=tuple(StartupModel(name) for name in names),
        workers=1,
        **more,
    )
    config = ServeConfig(
        front=fronts[0],
        more=tuple(fronts[1:]),
        control="none",
        tables={"torchserve": {"handlers": handlers, "rules": rules}},
    )
    async with Server(config) as server:
        yield dict(zip(KINDS, server.listeners.ports(), strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    archive(folder, "echo")
    archive(folder, "echo", "2.0")
    return folder


@pytest.mark.clause("TS-R3", "TS-R15", "TS-M1")
async def test_to_ts_m6_a_model_from_registration_to_its_end(store: Path) -> None:
    async with serving(store, TorchServeRules(), is_open=True) as ports:

        async def said(kind: str, verb: str, path: str, body: str = "", **headers: str) -> Any:
            return await asyncio.to_thread(ask, ports[f"torchserve-{kind}"], verb, path, body, **headers)

        status, _, _, text = await said("management", "POST", "/models?url=echo_1.0.mar")
        assert (status, json.loads(text)["status"]) == (
            200,
            'Model "echo" Version: 1.0 registered with 1 initial workers',
        )
        status, reason, headers, text = await said(
            "inference", "POST", "/predictions/echo?a=1", "hi", Content_Type="text/plain", X_Gold_One="eins"
        )
        assert (status, reason) == (200, "")
        told = json.loads(text)
        assert told["told"] == {"body": "'hi'"}
        assert told["headers"]["X-Gold-One"] == "eins" and told["headers"]["url_path"] == ""
        assert told["id"] == headers["x-request-id"]
        assert "content-type" not in headers and headers["connection"] == "keep-alive"

        status, reason, headers, _ = await said(
            "inference", "POST", "/predictions/echo", "status", Content_Type="text/plain"
        )
        assert (status, reason, headers["x-gold"]) == (201, "Made", "42")
        status, _, _, text = await said(
            "inference", "POST", "/predictions/echo", "fail", Content_Type="text/plain"
        )
        assert (status, json.loads(text)["message"]) == (503, "Prediction failed")
        status, _, headers, text = await said(
            "inference", "POST", "/predictions/echo", "pieces", Content_Type="text/plain"
        )
        assert headers["ts_stream_next"] == "true" and text.startswith("one two {")

        assert (await said("management", "POST", "/models?url=echo_2.0.mar"))[0] == 200
        assert (await said("management", "POST", "/models?url=echo_2.0.mar"))[0] == 409
        assert (await said("management", "PUT", "/models/echo/2.0/set-default"))[0] == 200
        (status,) = json.loads((await said("management", "GET", "/models/echo"))[3])
        assert (status["modelVersion"], status["workers"][0]["status"]) == ("2.0", "READY")
        assert (await said("management", "DELETE", "/models/echo"))[0] == 403
        assert (await said("management", "DELETE", "/models/echo/1.0"))[0] == 200
        status, _, _, text = await said("inference", "POST", "/predictions/echo/1.0", "x")
        assert (status, json.loads(text)["type"]) == (404, "ModelVersionNotFoundException")
        assert (await said("management", "DELETE", "/models/echo"))[0] == 200
        assert (await said("inference", "POST", "/predictions/echo", "x"))[0] == 404


async def test_the_common_port_serves_handlers_by_every_protocol(store: Path) -> None:
    async with serving(store, TorchServeRules(), "echo_1.0.mar") as ports:

        async def said(verb: str, path: str, body: str = "", **headers: str) -> Any:
            return await asyncio.to_thread(ask, ports["all"], verb, path, body, **headers)

        assert json.loads((await said("GET", "/ping"))[3]) == {"status": "Healthy"}
        assert json.loads((await said("GET", "/models"))[3])["models"][0]["modelName"] == "echo"
        assert json.loads((await said("POST", "/predictions/echo", "x"))[3])["told"] == {
            "body": "bytearray(b'x')"
        }
        assert (await said("POST", "/models?url=echo_2.0.mar"))[0] == 405

        body = '{"inputs": [{"name": "i", "shape": [1], "datatype": "INT32", "data": [1]}]}'
        for path in ("/v2/models/echo/infer", "/v2/models/echo/versions/1.0/infer"):
            status, _, headers, text = await said("POST", path, body, Content_Type="application/json")
            assert (status, headers["content-type"]) == (200, "application/json")
            assert json.loads(text)["told"] == {"body": repr(json.loads(body))}
            assert json.loads(text)["headers"]["explain"] == "False"
        entry = {"name": "i", "shape": [1], "datatype": "INT32", "parameters": {"binary_data_size": 4}}
        head = json.dumps({"inputs": [entry]})
        binary = {"Inference_Header_Content_Length": str(len(head))}
        status, _, _, text = await said("POST", "/v2/models/echo/infer", head + "\x07\0\0\0", **binary)
        (given,) = ast.literal_eval(json.loads(text)["told"]["body"])["inputs"]
        assert (status, given["data"], given["datatype"]) == (200, [7], "INT32")

        for path in ("/v1/models/echo:predict", "/v1/models/echo:explain", "/v2/models/echo/explain"):
            status, _, _, text = await said(
                "POST", path, '{"instances": [1]}', Content_Type="application/json"
            )
            assert (status, json.loads(text)["headers"]["explain"]) == (200, str("explain" in path).title())
            assert json.loads(text)["told"] == {"body": "{'instances': [1]}"}
        status, _, _, text = await said("POST", "/v1/models/echo:predict", "fail", Content_Type="text/plain")
        assert (status, json.loads(text)) == (
            503,
            {
                "error": "Prediction failed",
                "code": 503,
                "type": "InternalServerException",
                "message": "Prediction failed",
            },
        )
        status, _, _, text = await said("POST", "/v2/models/echo/infer", "fail", Content_Type="text/plain")
        assert (status, json.loads(text)) == (500, {"error": "Prediction failed"})
        assert json.loads((await said("GET", "/v1/models/echo"))[3])["ready"] is True


@pytest.mark.clause("TS-B11", "TS-P2")
async def test_keys_are_asked_for_where_the_operator_wants_them(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    async with serving(store, TorchServeRules(tokens=TokenRules(str(path))), "echo_1.0.mar") as ports:
        keys = {name: f"Bearer {entry['key']}" for name, entry in json.loads(path.read_text()).items()}

        async def status(kind: str, path: str, key: str = "") -> int:
            more = {"Authorization": keys[key]} if key else {}
            return (await asyncio.to_thread(ask, ports[kind], "GET", path, "", **more))[0]

        assert await status("torchserve-inference", "/ping") == 400
        assert await status("torchserve-inference", "/ping", "inference") == 200
        assert await status("torchserve-inference", "/predictions/echo", "management") == 400
        assert await status("torchserve-management", "/models/echo", "management") == 200
        assert await status("torchserve-management", "/ping", "management") == 404
        assert await status("torchserve-metrics", "/metrics") == 200


@pytest.mark.clause("TS-P2")
async def test_ports_for_rest_answer_http2_and_no_grpc(store: Path) -> None:
    async with serving(store, TorchServeRules()) as ports:
        for kind, method in itertools.product(
            ("torchserve-inference", "torchserve-management", "torchserve-metrics"),
            ("inference.GRPCInferenceService/ServerLive", "grpc.health.v1.Health/Check"),
        ):
            async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[kind]}") as channel:
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await channel.unary_unary(f"/{method}")(b"", timeout=PATIENCE_S)
                closed = grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE  # no HTTP/2 at all
                assert raised.value.code() in closed
        url = f"http://127.0.0.1:{ports['torchserve-inference']}/ping"
        command = [program("curl"), "-s", "-m", "10", "--http2-prior-knowledge", "-w", "%{http_version}", url]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
        assert done.stdout == '{\n  "status": "Healthy"\n}\n2'

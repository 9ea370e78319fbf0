"""curl, over HTTP/1.1 and HTTP/2 with prior knowledge."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from curling import HTTP, REQUEST, ROW, curl
from programs import program
from zoo import mlp_answer

from salver.testing.process import ServerProcess


@HTTP
def test_a_request_and_its_answer(server: ServerProcess, flag: str) -> None:
    status, head, body = curl(flag, f"{server.url}/v2/models/mlp/infer", "-d", REQUEST)
    assert status == 200
    assert "content-type: application/json" in head
    assert head.startswith("http/1.1" if flag == "--http1.1" else "http/2")
    (output,) = json.loads(body)["outputs"]
    assert output["shape"] == [1, 3]
    np.testing.assert_allclose(
        output["data"], mlp_answer(np.array(ROW, np.float32)).ravel(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.clause("OIP-3")
@HTTP
def test_health_and_heads(server: ServerProcess, flag: str) -> None:
    assert curl(flag, f"{server.url}/v2/health/live")[0] == 200
    assert curl(flag, f"{server.url}/v2/health/ready")[2] == b'{"ready":true}'
    status, _, body = curl(flag, "-I", f"{server.url}/v2/health/ready")
    assert (status, body) == (200, b"")


@pytest.mark.clause("TR-R18")
@HTTP
def test_unknown_routes_and_verbs(server: ServerProcess, flag: str) -> None:
    status, _, body = curl(flag, f"{server.url}/v3/nothing")
    assert (status, json.loads(body)) == (404, {"error": "Not Found"})
    status, _, body = curl(flag, "-X", "DELETE", f"{server.url}/v2/models/mlp/infer")
    assert status == 405
    assert "Method Not Allowed" in json.loads(body)["error"]


@HTTP
def test_a_binary_request_from_a_file(server: ServerProcess, flag: str, tmp_path: Path) -> None:
    values = np.full((2, 16), 0.25, np.float32)
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 16], "parameters": {"binary_data_size": 128}}
    wanted = [{"name": "y", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": wanted}).encode()
    file = tmp_path / "body"
    file.write_bytes(head + values.tobytes())
    status, reply_head, body = curl(
        flag,
        f"{server.url}/v2/models/mlp/infer",
        "--data-binary",
        f"@{file}",
        "-H",
        f"Inference-Header-Content-Length: {len(head)}",
    )
    assert status == 200
    length = int(reply_head.split("inference-header-content-length: ")[1].split()[0])
    found = np.frombuffer(body[length:], np.float32).reshape(2, 3)
    np.testing.assert_allclose(found, mlp_answer(values), rtol=1e-5, atol=1e-6)


def test_a_chunked_upload(server: ServerProcess) -> None:
    status, _, body = curl(
        "--http1.1", "-H", "Transfer-Encoding: chunked", f"{server.url}/v2/models/mlp/infer", "-d", REQUEST
    )
    assert status == 200
    assert json.loads(body)["model_name"] == "mlp"


def test_a_body_behind_100_continue(server: ServerProcess, tmp_path: Path) -> None:
    rows = 4000
    file = tmp_path / "body"
    tensor = {"name": "x", "datatype": "FP32", "shape": [rows, 16], "data": [0.5] * (rows * 16)}
    file.write_text(json.dumps({"inputs": [tensor]}))
    status, _, body = curl(
        "--http1.1",
        "-H",
        "Expect: 100-continue",
        f"{server.url}/v2/models/mlp/infer",
        "--data-binary",
        f"@{file}",
    )
    assert status == 200
    assert json.loads(body)["outputs"][0]["shape"] == [rows, 3]


def test_two_requests_on_one_connection(server: ServerProcess) -> None:
    url = f"{server.url}/v2/health/ready"
    done = subprocess.run(
        [program("curl"), "-sS", "-v", url, url], capture_output=True, check=True, text=True
    )
    assert done.stdout == '{"ready":true}' * 2
    assert "Re-using existing" in done.stderr or "Reusing existing" in done.stderr

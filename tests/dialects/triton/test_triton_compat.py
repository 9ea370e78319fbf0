"""``salver serve --compat triton`` as a process: ports, secrets, forwarded headers, names, shutdown."""

import http.client
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import mlp_answer, write_mlp

from salver.testing.process import TritonProcess, free_port

ROW = np.linspace(-1, 1, 16, dtype=np.float32)[None]
ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW.ravel().tolist()}]}
SECRET = {"admin-key": "sesame"}
ECHO_CONFIG = """
backend: "python"
input { name: "IN" data_type: TYPE_INT32 dims: 1 }
output { name: "SEEN" data_type: TYPE_STRING dims: 1 }
"""
ECHO = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        seen = [np.array([request.parameters().encode()], object) for request in requests]
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SEEN", text)]) for text in seen]
"""


class Triton(TritonProcess):
    """Asked at its metrics port, too."""

    def page(self, path: str = "/metrics", verb: str = "GET") -> tuple[int, str]:
        """Status and body at the metrics port."""
        connection = http.client.HTTPConnection(self.host, self.metrics_port, timeout=PATIENCE_S)
        connection.request(verb, path)
        reply = connection.getresponse()
        body = reply.read().decode()
        connection.close()
        return reply.status, body


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    folder = tmp_path_factory.mktemp("triton")
    write_mlp(folder / "models" / "mlp", 1)
    write_mlp(folder / "more" / "other", 1)
    (folder / "models" / "echo" / "1").mkdir(parents=True)
    (folder / "models" / "echo" / "config.pbtxt").write_text(ECHO_CONFIG)
    (folder / "models" / "echo" / "1" / "model.py").write_text(ECHO)
    options = [
        "--model-repository",
        str(folder / "more"),
        "--model-control-mode=explicit",
        "--load-model=mlp",
        "--load-model=echo",
        "--id=by-name",
        "--http-restricted-api=model-config,model-repository:admin-key=sesame",
        "--grpc-restricted-protocol=inference,model-config:admin-key=sesame",
        "--http-header-forward-pattern=^x-fwd-",
        "--grpc-header-forward-pattern=^x-fwd-",
        "--http-max-input-size=2000",
        "--metrics-config=summary_latencies=true",
        "--pinned-memory-pool-byte-size=268435456",
    ]
    with Triton([folder / "models"], folder / "log", options) as server:
        yield server.wait_ready()


def given(kind: type) -> list[object]:
    """The input as tritonclient's class of that protocol."""
    found = kind("x", [1, 16], "FP32")
    found.set_data_from_numpy(ROW)
    return [found]


@pytest.mark.clause("TR-R16")
def test_each_port_serves_its_part(triton: Triton) -> None:
    assert triton.get("/metrics")[0] == 404
    status, page = triton.page()
    assert status == 200
    assert "# TYPE nv_inference_request_success counter" in page
    assert triton.page("/metrics/")[1].startswith("# HELP")
    assert triton.page("/other") == (200, "")
    assert triton.page(verb="POST")[0] == 405
    with grpc.insecure_channel(f"{triton.host}:{triton.port}") as channel:
        ask = channel.unary_unary("/inference.GRPCInferenceService/ServerLive")
        with pytest.raises(grpc.RpcError):
            ask(b"", timeout=5)


@pytest.mark.clause("TR-R34")
def test_restricted_over_http(triton: Triton) -> None:
    for path, verb in (("/v2/models/mlp/config", "GET"), ("/v2/repository/index", "POST")):
        for headers in ({}, {"admin-key": "open"}):
            status, body = triton.ask(verb, path, headers=headers)
            assert status == 403
            assert json.loads(body) == {"error": "This API is restricted, expecting header 'admin-key'"}
        assert triton.ask(verb, path, headers=SECRET)[0] == 200
    assert triton.post("/v2/models/mlp/infer", ASK)[0] == 200
    with triton_http.InferenceServerClient(triton.address) as client:
        client.load_model("other", headers=SECRET)
        with pytest.raises(InferenceServerException, match="restricted"):
            client.unload_model("other")
        client.unload_model("other", headers=SECRET)


@pytest.mark.clause("TR-G15")
def test_restricted_over_grpc(triton: Triton) -> None:
    with triton_grpc.InferenceServerClient(f"{triton.host}:{triton.grpc_port}") as client:
        assert client.get_server_metadata().name == "by-name"
        with pytest.raises(InferenceServerException) as caught:
            client.infer("mlp", given(triton_grpc.InferInput), headers=SECRET)
        assert caught.value.status() == "StatusCode.UNAVAILABLE"
        text = "This protocol is restricted, expecting header 'triton-grpc-protocol-admin-key'"
        assert caught.value.message() == text
        headers = {"triton-grpc-protocol-admin-key": "sesame"}
        answer = client.infer("mlp", given(triton_grpc.InferInput), headers=headers)
        np.testing.assert_allclose(answer.as_numpy("y"), mlp_answer(ROW), rtol=1e-5)


@pytest.mark.clause("TR-F1")
def test_its_own_name_over_http(triton: Triton) -> None:
    assert json.loads(triton.get("/v2")[1])["name"] == "by-name"


@pytest.mark.clause("TR-F3")
def test_the_most_bytes_of_a_body(triton: Triton) -> None:
    status, body = triton.ask("POST", "/v2/models/mlp/infer", b" " * 2001)
    assert status == 400
    assert "exceeds the maximum allowed input size of 2000 bytes" in json.loads(body)["error"]
    assert "--http-max-input-size" in json.loads(body)["error"]


@pytest.mark.clause("TR-R32")
def test_a_model_sees_forwarded_headers(triton: Triton) -> None:
    body = {
        "parameters": {"own": 1},
        "inputs": [{"name": "IN", "datatype": "INT32", "shape": [1], "data": [0]}],
    }
    headers = {"X-Fwd-Who": "me", "X-Other": "not"}
    status, reply = triton.ask("POST", "/v2/models/echo/infer", json.dumps(body).encode(), headers)
    assert status == 200, reply
    assert json.loads(json.loads(reply)["outputs"][0]["data"][0]) == {"x-fwd-who": "me", "own": 1}


@pytest.mark.clause("TR-G16")
def test_a_model_sees_forwarded_metadata(triton: Triton) -> None:
    one = triton_grpc.InferInput("IN", [1], "INT32")
    one.set_data_from_numpy(np.zeros(1, np.int32))
    headers = {"triton-grpc-protocol-admin-key": "sesame", "x-fwd-who": "me"}
    with triton_grpc.InferenceServerClient(f"{triton.host}:{triton.grpc_port}") as client:
        seen = client.infer("echo", [one], headers=headers).as_numpy("SEEN")[0]
    assert json.loads(seen) == {"x-fwd-who": "me"}


@pytest.mark.clause("TR-M1")
def test_tritons_numbers_follow_requests(triton: Triton) -> None:
    def count(name: str) -> float:
        lines = triton.page()[1].splitlines()
        return next(float(x.split()[-1]) for x in lines if x.startswith(name + '{model="mlp"'))

    before = count("nv_inference_count")
    triton.post("/v2/models/mlp/infer", ASK)
    assert count("nv_inference_count") == before + 1
    assert count("nv_inference_compute_infer_duration_us") > 0
    assert count("nv_inference_request_summary_us_count") == count("nv_inference_request_success")


def test_the_log_and_the_block_tell_what_is_so(triton: Triton) -> None:
    said = triton.output()
    assert said.count("--pinned-memory-pool-byte-size is accepted and has no effect here") == 1
    assert f"http://127.0.0.1:{triton.metrics_port}/metrics" in said
    assert f"gRPC     127.0.0.1:{triton.grpc_port}" in said
    assert "only this machine can connect" in said


def broken(folder: Path) -> Path:
    """A repository of one model that loads and one that cannot."""
    write_mlp(folder / "models" / "mlp", 1)
    (folder / "models" / "bad" / "1").mkdir(parents=True)
    (folder / "models" / "bad" / "1" / "model.onnx").write_bytes(b"no model")
    return folder / "models"


@pytest.mark.clause("TR-F2")
def test_a_model_that_does_not_load_ends_the_server(tmp_path: Path) -> None:
    with Triton([broken(tmp_path)], tmp_path / "log") as server:
        assert server.wait() == 1
        assert "--exit-on-error=false" in server.output()


@pytest.mark.clause("TR-L5")
def test_or_it_serves_the_others_and_is_ready_when_that_is_enough(tmp_path: Path) -> None:
    options = ["--exit-on-error=false", "--strict-readiness=false"]
    with Triton([broken(tmp_path)], tmp_path / "log", options) as server:
        server.wait_ready()
        assert server.get("/v2/models/bad/ready")[0] == 400
        assert server.post("/v2/models/mlp/infer", ASK)[0] == 200
        assert server.stop() == 0


def test_strictly_it_is_not_ready(tmp_path: Path) -> None:
    options = ["--exit-on-error=false", "--model-control-mode=explicit", "--load-model=*"]
    with Triton([broken(tmp_path)], tmp_path / "log", [*options, "--load-model=none"]) as server:
        server.wait_for("/v2/models/mlp/ready")
        until(lambda: "up, but not ready" in server.output(), server.output)
        assert server.get("/v2/health/ready")[0] == 400


@pytest.mark.clause("TR-F5", "TR-F8")
def test_log_and_traces_go_into_files(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    traces = tmp_path / "traces.json"
    options = [f"--log-file={tmp_path / 'file.log'}", "--trace-config", f"triton,file={traces}"]
    options += ["--trace-config=level=TIMESTAMPS", "--trace-config=rate=1"]
    with Triton([tmp_path / "models"], tmp_path / "log", options) as server:
        server.wait_ready()
        assert server.post("/v2/models/mlp/infer", ASK)[0] == 200
        assert server.stop() == 0
    assert "model ready" in (tmp_path / "file.log").read_text()
    assert "model ready" not in server.output()
    assert "mlp" in {trace.get("model_name") for trace in json.loads(traces.read_text())}


def test_one_port_alone(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    options = ["--allow-grpc=false", "--allow-metrics=false"]
    with Triton([tmp_path / "models"], tmp_path / "log", options) as server:
        server.wait_ready()
        for port in (server.grpc_port, server.metrics_port):
            with pytest.raises(ConnectionRefusedError):
                http.client.HTTPConnection(server.host, port, timeout=5).request("GET", "/")


def test_a_port_that_is_taken_is_told_by_its_flag(triton: Triton, tmp_path: Path) -> None:
    other = Triton([tmp_path], tmp_path / "log")
    other.port, other.grpc_port, other.metrics_port = free_port(), triton.grpc_port, free_port()
    done = subprocess.run(other.command(), capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 1
    assert "--grpc-port" in done.stderr

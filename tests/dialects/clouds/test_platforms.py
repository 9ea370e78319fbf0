"""SageMaker's and Vertex AI's ports of a server process."""

import http.client
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from waiting import PATIENCE_S
from zoo import mlp_answer, write_mlp

from salver.testing.process import TritonProcess, free_port

ROW = np.linspace(-1, 1, 16, dtype=np.float32)[None]
BINARY = "application/vnd.sagemaker-triton.binary+json;json-header-size="
ASK = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": ROW.ravel().tolist()}]}


def at(
    port: int, verb: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)
    try:
        connection.request(verb, path, body or None, dict(headers or {}))
        reply = connection.getresponse()
        return reply.status, reply.msg, reply.read()
    finally:
        connection.close()


def binary(size_key: str = "binary_data_size") -> tuple[bytes, int]:
    """A request with a binary input and output, and the length of its JSON part."""
    head = json.dumps(
        {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [1, 16], "parameters": {size_key: ROW.nbytes}}
            ],
            "outputs": [{"name": "y", "parameters": {"binary_data": True}}],
        }
    ).encode()
    return head + ROW.tobytes(), len(head)


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As SageMaker unpacks them: ``<hash>/model/<name of the model>``."""
    folder = tmp_path_factory.mktemp("opt")
    for archive in ("one", "two"):
        write_mlp(folder / archive / "model" / "mlp", 1)
    (folder / "broken" / "model" / "1").mkdir(parents=True)
    (folder / "broken" / "model" / "1" / "model.onnx").write_bytes(b"no model")
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    options = ["--allow-sagemaker=true", "--http-address=127.0.0.1", "--state-dir="]
    environment = {"SAGEMAKER_MULTI_MODEL": "true", "SAGEMAKER_TRITON_ALLOW_METRICS": "false"}
    log = tmp_path_factory.mktemp("many") / "log"
    with TritonProcess([], log, options, environment) as server:
        yield server.wait_for("/v2/health/live")


@pytest.mark.clause("TR-V2")
def test_models_come_and_go(many: TritonProcess, archives: Path) -> None:
    port = many.ports["sagemaker"]
    assert at(port, "GET", "/ping")[0] == 200

    def load(name: str, archive: str) -> tuple[int, bytes]:
        order = {"model_name": name, "url": str(archives / archive / "model")}
        return at(port, "POST", "/models", json.dumps(order).encode())[::2]

    assert load("h1", "one") == (200, b"")
    assert load("h2", "two") == (200, b"")
    assert load("h1", "one")[0] == 409
    listed = json.loads(at(port, "GET", "/models")[2])["models"]
    assert [entry["modelName"] for entry in listed] == ["h1", "h2"]
    body, length = binary()
    status, headers, reply = at(
        port, "POST", "/models/h2/invoke", body, {"Content-Type": f"{BINARY}{length}"}
    )
    assert status == 200
    assert headers["Content-Type"].startswith(BINARY)
    size = int(headers["Content-Type"].removeprefix(BINARY))
    assert json.loads(reply[:size])["model_name"] == "h2"
    np.testing.assert_allclose(np.frombuffer(reply[size:], np.float32), mlp_answer(ROW).ravel(), rtol=1e-5)
    assert at(port, "DELETE", "/models/h2")[0] == 200
    assert at(port, "POST", "/models/h2/invoke", body)[0] == 404
    shutil.rmtree(archives / "two")  # as SageMaker does then
    assert load("h2", "two")[0] == 400
    assert at(port, "POST", "/models/h1/invoke", json.dumps(ASK).encode())[0] == 200


ENSEMBLE = """
platform: "ensemble"
max_batch_size: 8
input { name: "x" data_type: TYPE_FP32 dims: 16 }
output { name: "y" data_type: TYPE_FP32 dims: 3 }
ensemble_scheduling {
  step { model_name: "mlp" model_version: -1
         input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } }
}
"""


@pytest.mark.clause("TR-V2")
def test_an_ensemble_comes_with_its_members(many: TritonProcess, tmp_path: Path) -> None:
    port = many.ports["sagemaker"]
    write_mlp(tmp_path / "model" / "mlp", 1)
    (tmp_path / "model" / "both" / "1").mkdir(parents=True)
    (tmp_path / "model" / "both" / "config.pbtxt").write_text(ENSEMBLE)
    order = json.dumps({"model_name": "e1", "url": str(tmp_path / "model")}).encode()
    assert at(port, "POST", "/models", order)[::2] == (200, b"")
    status, _, reply = at(port, "POST", "/models/e1/invoke", json.dumps(ASK).encode())
    assert status == 200, reply
    assert json.loads(reply)["model_name"] == "e1"
    assert at(port, "POST", "/models/mlp/invoke", json.dumps(ASK).encode())[0] == 404
    assert at(port, "DELETE", "/models/e1")[0] == 200
    index = json.loads(many.ask("POST", "/v2/repository/index", b'{"ready": true}')[1])
    assert not {"e1", "mlp"} & {row["name"] for row in index}
    assert at(port, "POST", "/models", order)[0] == 200
    assert at(port, "DELETE", "/models/e1")[0] == 200


@pytest.mark.clause("TR-V2")
def test_a_model_that_does_not_load(many: TritonProcess, archives: Path) -> None:
    port = many.ports["sagemaker"]
    order = {"model_name": "bad", "url": str(archives / "broken" / "model")}
    status, _, body = at(port, "POST", "/models", json.dumps(order).encode())
    assert status == 400
    assert "bad" in json.loads(body)["error"]
    assert at(port, "GET", "/models/bad")[0] == 404
    assert at(port, "GET", "/ping")[0] == 200


@pytest.mark.clause("TR-V1")
def test_one_model_that_generates(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    options = ["--allow-sagemaker=true", "--http-address=127.0.0.1", "--state-dir="]
    environment = {"SAGEMAKER_TRITON_INFERENCE_TYPE": "generate"}
    with TritonProcess([tmp_path / "models"], tmp_path / "log", options, environment) as server:
        server.wait_ready()
        port = server.ports["sagemaker"]
        assert at(port, "GET", "/ping")[0] == 200
        status, _, body = at(port, "POST", "/invocations", json.dumps({"x": ROW.ravel().tolist()}).encode())
        assert status == 200, body
        assert json.loads(body)["model_name"] == "mlp"
        assert at(port, "GET", "/invocations")[0] == 405


@pytest.mark.clause("TR-V4")
def test_by_its_environment_alone(tmp_path: Path) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    port = free_port()
    environment = {
        "AIP_MODE": "PREDICTION",
        "AIP_HTTP_PORT": str(port),
        "AIP_PREDICT_ROUTE": "/v1/endpoints/e:predict",
        "AIP_HEALTH_ROUTE": "/alive",
        "AIP_STORAGE_URI": str(tmp_path / "models"),
    }
    options = ["--http-address=127.0.0.1", "--state-dir=", "--allow-http=true"]
    with TritonProcess([], tmp_path / "log", options, environment) as server:
        server.wait_ready()
        assert at(port, "GET", "/alive")[0] == 200
        status, _, body = at(port, "POST", "/v1/endpoints/e:predict", json.dumps(ASK).encode())
        assert status == 200
        assert json.loads(body)["model_name"] == "mlp"
        redirect = {"X-Vertex-Ai-Triton-Redirect": "metrics"}
        status, _, page = at(port, "POST", "/v1/endpoints/e:predict", headers=redirect)
        assert status == 200
        assert b'nv_inference_request_success{model="mlp"' in page

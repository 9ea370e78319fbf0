"""Operator's options of TensorFlow Serving's REST interface: time limit, origins, labels."""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from salver.testing.process import TensorFlowServingProcess

_MODEL = """
import time
from pathlib import Path

class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1])}

    def predict(self, inputs):
        while inputs["x"][0] > 3 and Path("GATE").exists():
            time.sleep(0.005)
        return {"y": inputs["x"] + FACTOR}
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TensorFlowServingProcess]:
    folder: Path = tmp_path_factory.mktemp("operated")
    for version in (1, 2):
        path = folder / "add" / str(version) / "model.py"
        path.parent.mkdir(parents=True)
        path.write_text(_MODEL.replace("FACTOR", str(version)).replace("GATE", str(folder / "gate")))
    models = folder / "models.config"
    models.write_text(
        f"""model_config_list {{ config {{
            name: "add" base_path: "{folder / "add"}" model_platform: "tensorflow"
            model_version_policy {{ all {{ }} }} version_labels {{ key: "stable" value: 1 }}
        }} }}"""
    )
    options = [
        f"--model_config_file={models}",
        "--allow_version_labels_for_unavailable_models=true",
        "--rest_api_timeout_in_ms=3000",
        "--rest_api_enable_cors_support=true",
    ]
    with TensorFlowServingProcess(folder / "log", options) as server:
        yield server.wait_ready()


def ask(
    server: TensorFlowServingProcess, verb: str, path: str, body: str = ""
) -> tuple[int, dict[str, str], str]:
    """Status, headers and body."""
    connection = HTTPConnection(server.host, server.port, timeout=60)
    try:
        connection.request(verb, path, body or None, {"origin": "https://page.example"})
        reply = connection.getresponse()
        return (
            reply.status,
            {name.lower(): value for name, value in reply.getheaders()},
            reply.read().decode(),
        )
    finally:
        connection.close()


@pytest.mark.clause("TF-R1", "TF-R4", "TF-R5")
def test_versions_and_labels(server: TensorFlowServingProcess) -> None:
    for part, value in (("", -8.0), ("/versions/1", -9.0), ("/versions/2", -8.0), ("/labels/stable", -9.0)):
        status, _, text = ask(server, "POST", f"/v1/models/add{part}:predict", '{"instances": [-10]}')
        assert (status, json.loads(text)) == (200, {"predictions": [value]})
    told = json.loads(ask(server, "GET", "/v1/models/add/labels/stable")[2])
    assert [row["version"] for row in told["model_version_status"]] == ["1", "2"]
    told = json.loads(ask(server, "GET", "/v1/models/add/labels/stable/metadata")[2])
    assert told["model_spec"]["version"] == "1"
    status, _, text = ask(server, "POST", "/v1/models/add/labels/canary:predict", '{"instances": [-10]}')
    assert (status, json.loads(text)["error"]) == (400, "Unrecognized servable version label: canary")


@pytest.mark.clause("TF-R25")
def test_a_call_that_takes_too_long(server: TensorFlowServingProcess) -> None:
    gate = Path(server._log).parent / "gate"
    gate.touch()
    status, _, text = ask(server, "POST", "/v1/models/add/versions/1:predict", '{"instances": [4.0]}')
    gate.unlink()  # it was answered while the model was at work
    assert status == 504
    assert list(json.loads(text)) == ["error"]
    status, _, _ = ask(server, "POST", "/v1/models/add/versions/2:predict", '{"instances": [0.1]}')
    assert status == 200


@pytest.mark.clause("TF-R24")
def test_every_answer_is_for_pages_of_every_origin(server: TensorFlowServingProcess) -> None:
    for verb, path, body in (
        ("GET", "/v1/models/add", ""),
        ("POST", "/v1/models/add:predict", '{"instances": [-1]}'),
        ("POST", "/v1/models/add:predict", "{"),
        ("OPTIONS", "/v1/models/add:predict", ""),
        ("DELETE", "/v1/models/add", ""),
    ):
        _, headers, _ = ask(server, verb, path, body)
        assert headers["access-control-allow-origin"] == "*"
        assert headers["access-control-allow-methods"] == "POST, GET"
        assert headers["access-control-allow-headers"] == "Content-Type"
    assert "access-control-allow-origin" not in ask(server, "GET", "/v2")[1]

"""Log and trace settings of a running server, with unmodified tritonclient (TR-R9, TR-R10, TR-G3)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from trace_files import trace_objects
from tritonclient.utils import InferenceServerException
from waiting import until
from zoo import ask_moody, infer_body, write_mlp, write_moody

from salver.testing.process import ServerProcess

TRACE = {
    "trace_level": ["OFF"],
    "trace_rate": "1000",
    "trace_count": "-1",
    "log_frequency": "0",
    "trace_mode": "triton",
}
LOG = {
    "log_file": "",
    "log_info": True,
    "log_warning": True,
    "log_error": True,
    "log_verbose_level": 0,
    "log_format": "default",
}
BACK = {"trace_level": None, "trace_rate": None, "trace_count": None, "log_frequency": None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("settings")


@pytest.fixture(scope="module")
def traced(folder: Path) -> Iterator[ServerProcess]:
    """Has a trace file, and traces nothing yet."""
    root = folder / "repository"
    write_mlp(root / "mlp", 1)
    write_moody(root)
    options = ["--log-format", "json", "--access-log", "all", "--trace-file", str(folder / "trace.json")]
    with ServerProcess([root], folder / "log", options) as server:
        yield server.wait_ready()


def traces(path: Path) -> dict[str, dict[str, int]]:
    """The timestamps by request id."""
    found = trace_objects(path)
    names = {o["id"]: o["request_id"] for o in found if "model_name" in o}
    stamps = {o["id"]: {s["name"]: s["ns"] for s in o["timestamps"]} for o in found if "timestamps" in o}
    return {names[number]: stamps[number] for number in names}


def ask(server: ServerProcess, model: str = "mlp", id: str = "") -> int:
    body = json.dumps(infer_body()).encode()
    headers = {"X-Request-Id": id} if id else {}
    return server.ask("POST", f"/v2/models/{model}/infer", body, headers)[0]


def grpc_values(settings: Any) -> dict[str, Any]:
    shown = {name: list(value.value) for name, value in settings.settings.items()}
    return {name: v if name == "trace_level" else v[0] for name, v in shown.items()}


@pytest.mark.clause("TR-R9")
def test_the_trace_extension_over_http(traced: ServerProcess, folder: Path) -> None:
    start = TRACE | {"trace_file": str(folder / "trace.json")}
    with over_http.InferenceServerClient(traced.address) as client:
        assert {"trace", "logging"} <= set(client.get_server_metadata()["extensions"])
        assert client.get_trace_settings() == client.get_trace_settings("mlp") == start
        changed = client.update_trace_settings("mlp", {"trace_level": ["TIMESTAMPS"], "trace_rate": "5"})
        assert changed == start | {"trace_level": ["TIMESTAMPS"], "trace_rate": "5"}
        assert client.get_trace_settings() == start
        assert client.update_trace_settings(settings={"trace_rate": "7"})["trace_rate"] == "7"
        assert client.get_trace_settings("mlp")["trace_rate"] == "5"
        assert client.get_trace_settings("moody")["trace_rate"] == "7"
        assert client.update_trace_settings("mlp", BACK) == start | {"trace_rate": "7"}
        assert client.update_trace_settings(settings=BACK) == start
        with pytest.raises(InferenceServerException, match="can not be updated through network protocol"):
            client.update_trace_settings(settings={"trace_file": "/tmp/elsewhere.json"})
        with pytest.raises(InferenceServerException, match="Request for unknown model : nosuch"):
            client.get_trace_settings("nosuch")
        with pytest.raises(InferenceServerException, match="'TENSORS' is not supported"):
            client.update_trace_settings(settings={"trace_level": ["TENSORS"]})
        assert client.get_trace_settings() == start


@pytest.mark.clause("TR-G3")
def test_the_trace_extension_over_grpc(traced: ServerProcess, folder: Path) -> None:
    start = TRACE | {"trace_file": str(folder / "trace.json")}
    with over_grpc.InferenceServerClient(traced.address) as client:
        assert grpc_values(client.get_trace_settings()) == start
        changed = client.update_trace_settings("mlp", {"trace_level": ["TIMESTAMPS"], "trace_rate": "5"})
        assert grpc_values(changed) == start | {"trace_level": ["TIMESTAMPS"], "trace_rate": "5"}
        assert grpc_values(client.get_trace_settings("moody")) == start
        assert grpc_values(client.update_trace_settings("mlp", BACK)) == start
        for settings, status in (
            ({"trace_file": "x"}, "StatusCode.UNIMPLEMENTED"),
            ({"trace_rate": "often"}, "StatusCode.INVALID_ARGUMENT"),
        ):
            with pytest.raises(InferenceServerException) as error:
                client.update_trace_settings(settings=settings)
            assert error.value.status() == status


@pytest.mark.clause("TR-O1")
def test_requests_of_both_wires_are_traced(traced: ServerProcess, folder: Path) -> None:
    path = folder / "trace.json"
    with over_http.InferenceServerClient(traced.address) as client:
        assert ask(traced, id="before") == 200
        client.update_trace_settings("mlp", {"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
        assert ask(traced, id="over-http") == 200
        assert ask_moody(traced, "ok")[0] == 200
        with over_grpc.InferenceServerClient(traced.address) as other:
            given = over_grpc.InferInput("x", [1, 16], "FP32")
            given.set_data_from_numpy(np.zeros((1, 16), np.float32))
            other.infer("mlp", [given], headers={"x-request-id": "over-grpc"})
        wrong = json.dumps(infer_body(columns=17)).encode()
        reply = traced.ask("POST", "/v2/models/mlp/infer", wrong, {"X-Request-Id": "refused"})
        assert reply[0] == 400
        client.update_trace_settings("mlp", BACK)
        assert ask(traced, id="after") == 200
    until(lambda: len(traces(path)) == 3, lambda: trace_objects(path))
    found = traces(path)
    assert found.keys() == {"over-http", "over-grpc", "refused"}
    for id in ("over-http", "over-grpc"):
        assert list(found[id]) == [
            "REQUEST_START",
            "QUEUE_START",
            "COMPUTE_START",
            "COMPUTE_INPUT_END",
            "COMPUTE_OUTPUT_START",
            "COMPUTE_END",
            "REQUEST_END",
        ]
        assert list(found[id].values()) == sorted(found[id].values())
        assert found[id]["REQUEST_START"] < found[id]["REQUEST_END"]
    assert list(found["refused"]) == ["REQUEST_START", "REQUEST_END"]
    named = {o["model_name"]: o["model_version"] for o in trace_objects(path) if "model_name" in o}
    assert named == {"mlp": 1}


@pytest.mark.clause("TR-O1")
def test_the_time_in_the_model_stands_between_its_timestamps(traced: ServerProcess, folder: Path) -> None:
    with over_http.InferenceServerClient(traced.address) as client:
        once = {"trace_level": ["TIMESTAMPS"], "trace_rate": "1", "trace_count": "1", "log_frequency": "1"}
        client.update_trace_settings("moody", once)
        assert ask_moody(traced, "sleep 0.3")[0] == 200
        assert ask_moody(traced, "ok")[0] == 200
        assert client.get_trace_settings("moody")["trace_count"] == "0"
        client.update_trace_settings("moody", BACK)
    path = folder / "trace.json.0"
    until(lambda: len(traces(path)) == 1, lambda: trace_objects(path))
    (found,) = traces(path).values()
    assert found["COMPUTE_OUTPUT_START"] - found["COMPUTE_INPUT_END"] >= 290_000_000
    assert not (folder / "trace.json.1").exists()


@pytest.mark.clause("TR-R9")
def test_without_a_file_nothing_can_be_traced(server: ServerProcess) -> None:
    with over_http.InferenceServerClient(server.address) as client:
        with pytest.raises(InferenceServerException, match="trace file name is not given"):
            client.update_trace_settings(settings={"trace_level": ["TIMESTAMPS"], "trace_rate": "1"})
        assert client.get_trace_settings() == TRACE | {"trace_file": ""}


@pytest.mark.clause("TR-R10")
def test_the_logging_extension_over_http(traced: ServerProcess) -> None:
    with over_http.InferenceServerClient(traced.address) as client:
        assert client.get_log_settings() == LOG
        try:
            assert client.update_log_settings({"log_info": False}) == LOG | {"log_info": False}
            assert ask(traced, id="unheard-of") == 200
        finally:
            assert client.update_log_settings({"log_info": True, "log_format": "ISO8601"})["log_info"]
        assert client.update_log_settings({"log_format": "default"}) == LOG
        assert ask(traced, id="heard-of") == 200
        until(lambda: "heard-of" in traced.output().replace("unheard-of", ""), traced.output)
        assert "unheard-of" not in traced.output()
        with pytest.raises(InferenceServerException, match="can not be updated through network protocol"):
            client.update_log_settings({"log_file": "/tmp/elsewhere.log"})
        with pytest.raises(InferenceServerException, match="not 'fancy'"):
            client.update_log_settings({"log_format": "fancy"})


@pytest.mark.clause("TR-G3")
def test_the_logging_extension_over_grpc(traced: ServerProcess) -> None:
    with over_grpc.InferenceServerClient(traced.address) as client:
        assert client.get_log_settings(as_json=True)["settings"]["log_info"] == {"bool_param": True}
        changed = client.update_log_settings({"log_verbose_level": 1, "log_error": False}, as_json=True)
        assert changed["settings"]["log_verbose_level"] == {"uint32_param": 1}
        assert changed["settings"]["log_error"] == {"bool_param": False}
        client.update_log_settings({"log_verbose_level": 0, "log_error": True})
        for settings, status in (
            ({"log_file": "x"}, "StatusCode.UNIMPLEMENTED"),
            ({"log_format": "fancy"}, "StatusCode.INVALID_ARGUMENT"),
        ):
            with pytest.raises(InferenceServerException) as error:
                client.update_log_settings(settings)
            assert error.value.status() == status


@pytest.mark.clause("TR-F5", "TR-F8")
def test_from_the_start(folder: Path) -> None:
    options = ["--log-file", str(folder / "own.log"), "--log-format", "json", "--log-level", "warning"]
    options += ["--trace-file", str(folder / "all.json"), "--trace-level", "timestamps", "--trace-rate", "1"]
    options += ["--trace-count", "3", "--trace-log-frequency", "2"]
    with ServerProcess([folder / "repository" / "mlp"], folder / "log2", options) as server:
        server.wait_ready()
        with over_http.InferenceServerClient(server.address) as client:
            assert client.get_trace_settings() == {
                "trace_level": ["TIMESTAMPS"],
                "trace_rate": "1",
                "trace_count": "3",
                "log_frequency": "2",
                "trace_file": str(folder / "all.json"),
                "trace_mode": "triton",
            }
            shown = client.get_log_settings()
            assert shown == LOG | {"log_file": str(folder / "own.log"), "log_info": False}
        for _ in range(5):
            assert ask(server) == 200
    assert [len(traces(folder / f"all.json.{number}")) for number in (0, 1, 2)] == [2, 1, 0]
    assert (folder / "own.log").exists()

"""A real server with a response cache, asked by tritonclient over both protocols."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from prometheus_client.parser import text_string_to_metric_families
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S
from zoo import mlp_answer, write_mlp

from salver.testing.process import ServerProcess, TritonProcess

COUNTING = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    runs = 0

    def execute(self, requests):
        self.runs += len(requests)
        said = np.array([self.runs], np.int32)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("RUNS", said)]) for _ in requests]
"""
CONFIG = """
backend: "python"
input { name: "IN" data_type: TYPE_STRING dims: -1 }
output { name: "RUNS" data_type: TYPE_INT32 dims: 1 }
response_cache { enable: true }
"""


PIECES = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for number in (1, 2):
                said = pb_utils.Tensor("RUNS", np.array([number], np.int32))
                sender.send(pb_utils.InferenceResponse([said]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
PIECES_CONFIG = """
model_transaction_policy { decoupled: true }
model_metrics { metric_control {
  metric_identifier { family: "nv_inference_first_response_histogram_ms" }
  histogram_options { buckets: 60000 }
} }
"""


def write_python(root: Path, name: str, more: str = "") -> None:
    (root / name / "1").mkdir(parents=True)
    (root / name / "config.pbtxt").write_text(CONFIG + more)
    (root / name / "1" / "model.py").write_text(COUNTING)


@pytest.fixture(scope="module")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("cached")
    root = folder / "models"
    write_mlp(root / "mlp", 1)
    (root / "mlp" / "salver.toml").write_text("response_cache = true\n")
    write_mlp(root / "plain", 1)
    write_python(root, "counting")
    write_python(root, "stream", "model_transaction_policy { decoupled: true }\n")
    write_python(root, "pieces", PIECES_CONFIG)
    (root / "pieces" / "config.pbtxt").write_text(CONFIG.replace("enable: true", "") + PIECES_CONFIG)
    (root / "pieces" / "1" / "model.py").write_text(PIECES)
    options = (
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in ("mlp", "plain", "counting", "pieces")),
        "--metrics-config=histogram_latencies=true",
        "--cache-config=local,size=65536",
        "--metrics-config=summary_latencies=true",
    )
    with TritonProcess([root], folder / "log", options) as server:
        yield server.wait_ready()


def rows(value: float, count: int = 1) -> list[Any]:
    given = triton_http.InferInput("x", [count, 16], "FP32")
    given.set_data_from_numpy(np.full((count, 16), value, np.float32))
    return [given]


def text(kind: Any, *words: str) -> list[Any]:
    given = kind("IN", [len(words)], "BYTES")
    given.set_data_from_numpy(np.array(words, dtype=object))
    return [given]


def page(server: TritonProcess) -> dict[str, float]:
    """``name model`` (or ``name``) to value."""
    import http.client

    connection = http.client.HTTPConnection(server.host, server.metrics_port, timeout=PATIENCE_S)
    connection.request("GET", "/metrics")
    body = connection.getresponse().read().decode()
    connection.close()
    return {
        " ".join([s.name.removesuffix("_total"), *filter(None, [s.labels.get("model")])]): s.value
        for family in text_string_to_metric_families(body)
        for s in family.samples
        if s.name.startswith("nv_") and "quantile" not in s.labels
    }


@pytest.mark.clause("TR-R8")
def test_hits_count_as_successes_and_as_no_inferences(triton: TritonProcess) -> None:
    with triton_http.InferenceServerClient(triton.address) as client:
        for value, count in ((1.0, 1), (2.0, 3), (1.0, 1)):
            answer = client.infer("mlp", rows(value, count))
            expected = mlp_answer(np.full((count, 16), value, np.float32))
            np.testing.assert_allclose(answer.as_numpy("y"), expected, rtol=1e-5)
        (found,) = client.get_inference_statistics("mlp")["model_stats"]
    assert (found["inference_count"], found["execution_count"]) == (4, 2)
    stats = found["inference_stats"]
    counts = {name: duration["count"] for name, duration in stats.items()}
    assert counts == {
        "success": 3,
        "fail": 0,
        "queue": 3,
        "compute_input": 2,
        "compute_infer": 2,
        "compute_output": 2,
        "cache_hit": 1,
        "cache_miss": 2,
    }
    assert stats["cache_hit"]["ns"] > 0
    assert stats["cache_miss"]["ns"] > 0


@pytest.mark.clause("TR-M5")
def test_metrics_of_the_cache(triton: TritonProcess) -> None:
    with triton_http.InferenceServerClient(triton.address) as client:
        client.load_model("mlp")
        before = page(triton)
        for _ in range(3):
            client.infer("mlp", rows(7.0))
        client.infer("plain", rows(7.0))
    after = page(triton)
    grown = {name: after[name] - before.get(name, 0) for name in after if name.startswith("nv_cache")}
    assert grown["nv_cache_num_hits_per_model mlp"] == 2
    assert grown["nv_cache_num_misses_per_model mlp"] == 1
    assert grown["nv_cache_num_lookups"] == 3
    assert grown["nv_cache_num_entries"] == 1
    assert after["nv_cache_hit_duration_per_model mlp"] > 0
    assert after["nv_cache_miss_summary_per_model_count mlp"] == after["nv_cache_num_misses_per_model mlp"]
    assert 0 < after["nv_cache_util"] < 1
    assert "nv_cache_num_hits_per_model plain" not in after


@pytest.mark.clause("TR-M3", "TR-C15")
def test_the_time_to_the_first_response(triton: TritonProcess) -> None:
    body = json.dumps({"IN": ["a"]}).encode()
    status, events = triton.ask("POST", "/v2/models/pieces/generate_stream", body)
    assert (status, events.decode().count('"RUNS":')) == (200, 2)
    name = "nv_inference_first_response_histogram_ms"
    found = page(triton)
    assert found[f"{name}_bucket pieces"] == found[f"{name}_count pieces"] == 1
    assert 0 < found[f"{name}_sum pieces"] < 60_000
    assert f"{name}_count mlp" not in found


@pytest.mark.clause("TR-S10")
def test_a_python_models_answer_is_kept_over_both_protocols(triton: TritonProcess) -> None:
    with (
        triton_http.InferenceServerClient(triton.address) as http,
        triton_grpc.InferenceServerClient(f"{triton.host}:{triton.grpc_port}") as grpc,
    ):
        first = http.infer("counting", text(triton_http.InferInput, "a", "bc"), request_id="one")
        again = grpc.infer("counting", text(triton_grpc.InferInput, "a", "bc"), request_id="two")
        other = grpc.infer("counting", text(triton_grpc.InferInput, "ab", "c"))
        named = grpc.infer("counting", text(triton_grpc.InferInput, "a", "bc"), parameters={"colour": "red"})
        runs = [int(answer.as_numpy("RUNS")[0]) for answer in (first, again, other, named)]
        assert runs == [1, 1, 2, 3]
        assert again.get_response().id == "two"
        stats = grpc.get_inference_statistics("counting", as_json=True)["model_stats"][0]
    assert stats["inference_stats"]["cache_hit"]["count"] == "1"
    assert stats["inference_stats"]["cache_miss"]["count"] == "3"


@pytest.mark.clause("TR-S10")
def test_a_changed_model_has_nothing_in_the_cache(triton: TritonProcess) -> None:
    with triton_http.InferenceServerClient(triton.address) as client:
        client.unload_model("counting")
        client.load_model("counting")
        ask = text(triton_http.InferInput, "a", "bc")
        assert int(client.infer("counting", ask).as_numpy("RUNS")[0]) == 1
        source = Path(triton._paths[0]) / "counting" / "1" / "model.py"
        source.write_text(COUNTING.replace("runs = 0", "runs = 100"))
        client.load_model("counting")
        assert int(client.infer("counting", ask).as_numpy("RUNS")[0]) == 101


@pytest.mark.clause("TR-C14")
def test_a_decoupled_model_is_refused_in_tritons_words(triton: TritonProcess) -> None:
    with triton_http.InferenceServerClient(triton.address) as client:
        words = "Response Cache does not currently support model stream with 'decoupled' transaction policy"
        with pytest.raises(InferenceServerException, match=words):
            client.load_model("stream")


@pytest.mark.clause("TR-C14")
def test_the_configuration_says_so(triton: TritonProcess) -> None:
    status, body = triton.get("/v2/models/counting/config")
    assert status == 200
    assert json.loads(body)["response_cache"] == {"enable": True}


def test_a_server_without_a_cache_says_so_and_runs_every_request(tmp_path: Path) -> None:
    write_python(tmp_path / "models", "counting")
    with ServerProcess([tmp_path / "models"], tmp_path / "log") as server:
        server.wait_ready()
        with triton_http.InferenceServerClient(server.address) as client:
            ask = text(triton_http.InferInput, "a")
            assert [int(client.infer("counting", ask).as_numpy("RUNS")[0]) for _ in range(2)] == [1, 2]
        assert "nv_cache" not in server.get("/metrics")[1].decode()
        assert "wants a response cache, and this server has none" in server.output()


def test_salvers_own_flag_opens_one(tmp_path: Path) -> None:
    write_python(tmp_path / "models", "counting")
    options = ["--response-cache", "local,size=1m"]
    with ServerProcess([tmp_path / "models"], tmp_path / "log", options, env=dict(os.environ)) as server:
        server.wait_ready()
        with triton_http.InferenceServerClient(server.address) as client:
            ask = text(triton_http.InferInput, "a")
            assert [int(client.infer("counting", ask).as_numpy("RUNS")[0]) for _ in range(2)] == [1, 1]
    with ServerProcess([tmp_path / "models"], tmp_path / "log2", ["--response-cache", "disk"]) as server:
        assert server.wait() != 0
        assert "there is no response cache 'disk'" in server.output()

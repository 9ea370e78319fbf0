"""Ensembles of real models on a real server, asked over every protocol, while models come and go."""

import itertools
import json
import queue
import re
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from trace_files import trace_objects
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import infer_body, mlp_answer, write_constant, write_mlp

from salver.testing.process import ServerProcess, TritonProcess

READER = """
import numpy as np
class Model:
    inputs = {"text": ("BYTES", [-1, 1])}
    outputs = {"row": ("FP32", [-1, 16])}
    def predict(self, inputs):
        rows = [np.fromstring(text.decode(), sep=" ", dtype="float32") for text in inputs["text"][:, 0]]
        return {"row": np.stack([np.resize(row, 16) for row in rows])}
"""
NAMER = """
import numpy as np
class Model:
    inputs = {"scores": ("FP32", [-1, 3])}
    outputs = {"name": ("BYTES", [-1, 1])}
    def predict(self, inputs):
        best = inputs["scores"].argmax(axis=1)
        return {"name": np.array([[[b"ant", b"bee", b"cat"][n]] for n in best], dtype=object)}
"""
ENSEMBLE = """
platform: "ensemble" max_batch_size: 8
input [ { name: "TEXT" data_type: TYPE_STRING dims: [ 1 ] } ]
output [ { name: "NAME" data_type: TYPE_STRING dims: [ 1 ] },
         { name: "SCORES" data_type: TYPE_FP32 dims: [ 3 ] label_filename: "labels.txt" } ]
ensemble_scheduling { step [
  { model_name: "reader" model_version: -1
    input_map { key: "text" value: "TEXT" } output_map { key: "row" value: "row" } },
  { model_name: "mlp" model_version: -1
    input_map { key: "x" value: "row" } output_map { key: "y" value: "SCORES" } },
  { model_name: "namer" model_version: -1
    input_map { key: "scores" value: "SCORES" } output_map { key: "name" value: "NAME" } } ] }
"""
COUNTER = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            text = pb_utils.get_input_tensor_by_name(request, "TEXT").as_numpy().ravel()[0].decode()
            for word in text.split():
                if word == "stop":
                    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError("told to stop")))
                    break
                row = np.full((1, 16), len(word), np.float32)
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("ROW", row)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
COUNTER_CONFIG = """
backend: "python" max_batch_size: 8
input { name: "TEXT" data_type: TYPE_STRING dims: [1] }
output { name: "ROW" data_type: TYPE_FP32 dims: [16] }
model_transaction_policy { decoupled: true }
"""
EACH = """
platform: "ensemble" max_batch_size: 8
input { name: "TEXT" data_type: TYPE_STRING dims: [1] }
output { name: "NAME" data_type: TYPE_STRING dims: [1] }
ensemble_scheduling { max_inflight_requests: 4 step [
  { model_name: "counter" input_map { key: "TEXT" value: "TEXT" } output_map { key: "ROW" value: "row" } },
  { model_name: "mlp" input_map { key: "x" value: "row" } output_map { key: "y" value: "scores" } },
  { model_name: "namer"
    input_map { key: "scores" value: "scores" } output_map { key: "name" value: "NAME" } } ] }
"""
SUMS_CONFIG = """
backend: "python" max_batch_size: 2
input { name: "IN" data_type: TYPE_INT32 dims: [1] }
output [ { name: "SUM" data_type: TYPE_INT32 dims: [1] }, { name: "FLAGS" data_type: TYPE_INT32 dims: [3] },
         { name: "WHO" data_type: TYPE_UINT64 dims: [1] } ]
sequence_batching { oldest { max_candidate_sequences: 2 } control_input [
  { name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] },
  { name: "END" control [ { kind: CONTROL_SEQUENCE_END int32_false_true: [ 0, 1 ] } ] },
  { name: "READY" control [ { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } ] },
  { name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] } ] }
"""
TOTAL = """
[[ensemble.steps]]
model = "sums"
inputs = { IN = "number" }
outputs = { SUM = "total" }
"""
NAMES = np.array(["ant", "bee", "cat"])


def put(root: Path, path: str, text: str) -> None:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)


def write(root: Path) -> Path:
    write_mlp(root / "mlp", 1)
    put(root, "reader/1/model.py", READER)
    put(root, "namer/1/model.py", NAMER)
    put(root, "animal/config.pbtxt", ENSEMBLE)
    put(root, "animal/labels.txt", "an ant\na bee\na cat\n")
    put(root, "counter/1/model.py", COUNTER)
    put(root, "counter/config.pbtxt", COUNTER_CONFIG)
    put(root, "each/config.pbtxt", EACH)
    put(root, "sums/config.pbtxt", SUMS_CONFIG)
    put(
        root,
        "sums/1/model.py",
        (Path(__file__).parents[2] / "support" / "models" / "sequence_sum.py").read_text(),
    )
    put(root, "total/salver.toml", TOTAL)
    return root


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    folder = tmp_path_factory.mktemp("ensembles")
    options = (
        "--trace-config=level=TIMESTAMPS",
        "--trace-config=rate=1",
        f"--trace-config=triton,file={folder / 'trace.json'}",
        "--state-dir=",
    )
    with TritonProcess([write(folder / "repository")], folder / "log", options) as server:
        yield server.wait_for("/v2/health/ready")


def expected(*texts: str) -> tuple[np.ndarray, list[str]]:
    rows = np.stack([np.resize(np.fromstring(t, sep=" ", dtype=np.float32), 16) for t in texts])
    scores = mlp_answer(rows)
    return scores, NAMES[scores.argmax(axis=1)].tolist()


TEXTS = ("1 2 3", "-4 0.5", "7")


def given(texts: tuple[str, ...] = TEXTS, kind=triton):
    made = kind.InferInput("TEXT", [len(texts), 1], "BYTES")
    made.set_data_from_numpy(np.array([[t.encode()] for t in texts], dtype=object))
    return made


def text_body(text: str) -> dict:
    return {"inputs": [{"name": "TEXT", "datatype": "BYTES", "shape": [1, 1], "data": [text]}]}


@pytest.mark.clause("TR-S6")
def test_over_http_and_grpc(server: TritonProcess) -> None:
    scores, names = expected(*TEXTS)
    http = triton_http.InferenceServerClient(f"127.0.0.1:{server.port}")
    grpc = triton.InferenceServerClient(f"127.0.0.1:{server.ports['grpc']}")
    for client, kind in ((http, triton_http), (grpc, triton)):
        answer = client.infer(
            "animal", [given(kind=kind)], request_id="7", sequence_id=5, sequence_start=True
        )
        assert [n.decode() for n in answer.as_numpy("NAME").ravel()] == names
        np.testing.assert_allclose(answer.as_numpy("SCORES"), scores, rtol=1e-5, atol=1e-6)
    assert http.get_model_metadata("animal")["platform"] == "ensemble"
    config = http.get_model_config("animal")
    assert [step["model_name"] for step in config["ensemble_scheduling"]["step"]] == [
        "reader",
        "mlp",
        "namer",
    ]
    assert not config["instance_group"]
    body = text_body("1") | {"parameters": {"sequence_id": 5, "sequence_end": True}}
    _, answer = server.post("/v2/models/animal/infer", body)
    assert answer["parameters"] == {"sequence_id": 5, "sequence_start": False, "sequence_end": True}


@pytest.mark.clause("TR-S6")
def test_only_the_steps_that_are_needed_run(server: TritonProcess) -> None:
    http = triton_http.InferenceServerClient(f"127.0.0.1:{server.port}")
    before = successes(server, "namer")
    wanted = [triton_http.InferRequestedOutput("SCORES")]
    answer = http.infer("animal", [given(kind=triton_http)], outputs=wanted)
    assert [output["name"] for output in answer.get_response()["outputs"]] == ["SCORES"]
    assert successes(server, "namer") == before


@pytest.mark.clause("TR-R27")
def test_classes_have_the_ensembles_labels(server: TritonProcess) -> None:
    http = triton_http.InferenceServerClient(f"127.0.0.1:{server.port}")
    wanted = [triton_http.InferRequestedOutput("SCORES", class_count=1)]
    answer = http.infer("animal", [given(kind=triton_http)], outputs=wanted)
    _, names = expected(*TEXTS)
    labels = [best.decode().rpartition(":")[2].split()[-1] for best in answer.as_numpy("SCORES").ravel()]
    assert labels == names


@pytest.mark.clause("TR-S6")
def test_over_kserve_v1_and_generate(server: TritonProcess) -> None:
    scores, names = expected("1 2 3")
    status, answer = server.post("/v1/models/animal:predict", {"instances": [{"TEXT": ["1 2 3"]}]})
    assert status == 200
    (row,) = answer["predictions"]
    assert row["NAME"] in (names[0], names)
    status, answer = server.post("/v2/models/animal/generate", {"TEXT": "1 2 3"})
    assert (status, answer["NAME"]) == (200, names[0])
    np.testing.assert_allclose(answer["SCORES"], scores[0], rtol=1e-5, atol=1e-6)


@pytest.mark.clause("TR-R8")
def test_statistics_of_an_ensemble_and_of_its_models(server: TritonProcess) -> None:
    def stats(model: str) -> dict:
        return json.loads(server.get(f"/v2/models/{model}/stats")[1])["model_stats"][0]

    before = {model: stats(model) for model in ("animal", "mlp")}
    http = triton_http.InferenceServerClient(f"127.0.0.1:{server.port}")
    http.infer("animal", [given(kind=triton_http)])
    for model, was in before.items():
        now = stats(model)
        assert now["inference_count"] == was["inference_count"] + 3
        assert now["execution_count"] == was["execution_count"] + 1
        assert now["inference_stats"]["success"]["count"] == was["inference_stats"]["success"]["count"] + 1

    def spent(model: str) -> int:
        now, was = stats(model)["inference_stats"], before[model]["inference_stats"]
        return now["compute_infer"]["ns"] - was["compute_infer"]["ns"]

    assert spent("animal") >= spent("mlp") > 0


def successes(server: TritonProcess, model: str) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{server.ports['metrics']}/metrics") as page:
        text = page.read().decode()
    found = re.search(rf'^nv_inference_request_success{{model="{model}",version="1"}} (\d+)', text, re.M)
    return float(found[1]) if found else 0.0


@pytest.mark.clause("TR-O1")
def test_the_traces_of_steps_have_a_parent(server: TritonProcess) -> None:
    http = triton_http.InferenceServerClient(f"127.0.0.1:{server.port}")
    http.infer("animal", [given(kind=triton_http)], headers={"x-request-id": "traced"})
    path = Path(server._log).parent / "trace.json"

    def traced() -> list[dict]:
        return [entry for entry in trace_objects(path) if "model_name" in entry]

    def steps() -> set[str]:
        wanted = {"request_id": "traced", "model_name": "animal"}
        wholes = [e["id"] for e in traced() if wanted.items() <= e.items()]
        return {e["model_name"] for e in traced() if e.get("parent_id") in wholes}

    until(lambda: steps() == {"reader", "mlp", "namer"}, traced)


def stream(server: TritonProcess, model: str, texts: list[str]) -> list[str]:
    came: queue.Queue = queue.Queue()
    client = triton.InferenceServerClient(f"127.0.0.1:{server.ports['grpc']}")
    client.start_stream(lambda result, error: came.put((result, error)))
    try:
        said = []
        for text in texts:
            client.async_stream_infer(model, [given((text,))], enable_empty_final_response=True)
            while True:
                result, error = came.get(timeout=PATIENCE_S)
                if error is not None:
                    said.append(f"error: {error.message()}")
                    break
                if result.as_numpy("NAME") is not None:
                    said.append(result.as_numpy("NAME").ravel()[0].decode())
                if result.get_response().parameters["triton_final_response"].bool_param:
                    break
        return said
    finally:
        client.stop_stream()
        client.close()


@pytest.mark.clause("TR-S8")
def test_a_decoupled_model_in_an_ensemble(server: TritonProcess) -> None:
    words = "a bb ccc dddd eeeeeeee"
    names = [expected(str(len(word)))[1][0] for word in words.split()]
    assert stream(server, "each", [words]) == names
    assert stream(server, "each", ["", "a", words]) == [names[0], *names]
    *some, last = stream(server, "each", ["a bb stop ccc"])
    assert some == names[: len(some)]
    assert last == "error: in ensemble 'each', told to stop"
    status, answer = server.post("/v2/models/each/infer", text_body("a"))
    assert (status, "decoupled" in answer["error"]) == (501, True)
    assert server.post("/v2/models/each/generate", {"TEXT": "a"})[1]["NAME"] == names[0]


@pytest.mark.clause("TR-S4")
def test_sequences_go_through_an_ensemble_in_order(server: TritonProcess) -> None:
    came: queue.Queue = queue.Queue()
    client = triton.InferenceServerClient(f"127.0.0.1:{server.ports['grpc']}")
    client.start_stream(lambda result, error: came.put((result, error)))
    for number in range(50):
        made = triton.InferInput("number", [1, 1], "INT32")
        made.set_data_from_numpy(np.array([[number]], np.int32))
        flags = {"sequence_start": number == 0, "sequence_end": number == 49}
        client.async_stream_infer("total", [made], sequence_id=7, **flags)
    answers = [came.get(timeout=PATIENCE_S) for _ in range(50)]
    client.stop_stream()
    client.close()
    assert [error for _, error in answers if error] == []
    assert [int(r.as_numpy("total")[0, 0]) for r, _ in answers] == np.cumsum(range(50)).tolist()


@pytest.mark.clause("TR-S6")
def test_an_error_of_a_step(server: TritonProcess) -> None:
    grpc = triton.InferenceServerClient(f"127.0.0.1:{server.ports['grpc']}")
    with pytest.raises(InferenceServerException, match=r"in ensemble 'animal', .*reader"):
        grpc.infer("animal", [given(("no number",))])


# -- models come and go ------------------------------------------------------------------------

OVER = """
[[ensemble.steps]]
model = "constant"
inputs = { x = "x" }
outputs = { y = "y" }
"""


@pytest.mark.clause("TR-L4")
def test_a_model_is_replaced_under_an_ensemble_without_a_gap(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    write_constant(root, 1)
    put(root, "over/salver.toml", OVER)
    with ServerProcess([root], tmp_path / "log", ["--poll-seconds", "0.1"]) as server:
        server.wait_ready()
        failed, said, stop = [], [], threading.Event()

        def call() -> None:
            while not stop.is_set():
                status, answer = server.post("/v2/models/over/infer", infer_body())
                if status != 200:
                    failed.append(answer)
                else:
                    said.append(answer["outputs"][0]["data"][0])

        callers = [threading.Thread(target=call) for _ in range(3)]
        for caller in callers:
            caller.start()
        try:
            for version in (2, 3):
                write_constant(root, version)
                until(lambda: said and said[-1] == version)  # noqa: B023
        finally:
            stop.set()
            for caller in callers:
                caller.join()
        assert failed == []
        assert {number for number, _ in itertools.groupby(sorted(said))} == {1.0, 2.0, 3.0}
        shutil.rmtree(root / "constant")
        until(lambda: server.post("/v2/models/over/infer", infer_body())[0] != 200)
        status, answer = server.post("/v2/models/over/infer", infer_body())
        assert status == 404
        assert (
            "ensemble over contains models that are not available or ambiguous: constant" in answer["error"]
        )


@pytest.mark.clause("TR-R12", "TR-R13")
def test_by_request(tmp_path: Path) -> None:
    root = tmp_path / "repository"
    write_constant(root, 1)
    put(root, "over/salver.toml", OVER)
    with ServerProcess([root], tmp_path / "log", ["--control", "explicit"]) as server:
        server.wait_for("/v2/health/live")
        client = triton.InferenceServerClient(server.address)
        client.load_model("over")
        assert client.is_model_ready("constant")
        client.unload_model("constant")
        with pytest.raises(InferenceServerException, match="not available or ambiguous: constant"):
            client.infer("over", [row()])
        client.load_model("constant")
        until(lambda: client.is_model_ready("over"))
        assert client.infer("over", [row()]).as_numpy("y").tolist() == [[1.0]]
        client.load_model("over")
        client.unload_model("over", unload_dependents=True)
        until(lambda: not client.is_model_ready("over"))
        assert client.is_model_ready("constant"), "somebody named it"
        client.close()


def row() -> triton.InferInput:
    made = triton.InferInput("x", [1, 16], "FP32")
    made.set_data_from_numpy(np.zeros((1, 16), np.float32))
    return made

"""Unchanged models of Triton's Python backend, with a real server and Triton's client (TR-A2)."""

import concurrent.futures
import json
import queue
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import gauge

from salver.testing.process import ServerProcess

HEAD = """import json
import os
import time
import numpy as np
import triton_python_backend_utils as pb_utils


"""
MODELS = {
    "upper": (
        'input [ { name: "TEXT" data_type: TYPE_STRING dims: [ -1 ] } ]\n'
        'output [ { name: "UPPER" data_type: TYPE_STRING dims: [ -1 ] } ]\n',
        4,
        """class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            x = pb_utils.get_input_tensor_by_name(r, "TEXT").as_numpy()
            y = np.array([v.upper() for v in x.ravel()], dtype=np.object_).reshape(x.shape)
            out.append(pb_utils.InferenceResponse([pb_utils.Tensor("UPPER", y)]))
        return out
""",
    ),
    "optional": (
        'input [ { name: "A" data_type: TYPE_INT32 dims: [ 1 ] },\n'
        '        { name: "B" data_type: TYPE_INT32 dims: [ 1 ] optional: true } ]\n'
        'output [ { name: "C" data_type: TYPE_INT32 dims: [ 1 ] } ]\n',
        0,
        """class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            a = pb_utils.get_input_tensor_by_name(r, "A").as_numpy()
            b = pb_utils.get_input_tensor_by_name(r, "B")
            c = a + (b.as_numpy() if b is not None else 100)
            out.append(pb_utils.InferenceResponse([pb_utils.Tensor("C", c.astype(np.int32))]))
        return out
""",
    ),
    "together": (
        'input [ { name: "CODE" data_type: TYPE_INT32 dims: [ 1 ] } ]\n'
        'output [ { name: "MATES" data_type: TYPE_INT32 dims: [ 1 ] } ]\n'
        "dynamic_batching { priority_levels: 2 default_priority_level: 1 }\n",
        8,
        '''class TritonPythonModel:
    """How many requests ran together; a negative CODE is an error of its own, the code of which it names.

    A CODE of 99 waits for a file.
    """

    def initialize(self, args):
        self.gate = os.path.join(args["model_repository"], "gate")

    def execute(self, requests):
        codes = [pb_utils.get_input_tensor_by_name(r, "CODE").as_numpy()[0, 0] for r in requests]
        while 99 in codes and not os.path.exists(self.gate):
            time.sleep(0.005)
        out = []
        for r in requests:
            x = pb_utils.get_input_tensor_by_name(r, "CODE").as_numpy()
            if x[0, 0] < 0:
                error = pb_utils.TritonError(f"{r.request_id()} asked for {x[0, 0]}", -int(x[0, 0]))
                out.append(pb_utils.InferenceResponse(error=error))
            else:
                y = np.full(x.shape, len(requests), np.int32)
                out.append(pb_utils.InferenceResponse([pb_utils.Tensor("MATES", y)]))
        return out
''',
    ),
    "raiser": (
        'input [ { name: "CODE" data_type: TYPE_INT32 dims: [ 1 ] } ]\n'
        'output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]\n',
        0,
        """class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            code = int(pb_utils.get_input_tensor_by_name(r, "CODE").as_numpy()[0])
            if code == 9:
                raise ValueError("asked to raise")
            out.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(f"code {code}", code)))
        return out
""",
    ),
    "counter": (
        'input [ { name: "IN" data_type: TYPE_INT32 dims: [ 1 ] } ]\n'
        'output [ { name: "RUNS" data_type: TYPE_INT32 dims: [ 1 ] }, '
        '{ name: "ARGS" data_type: TYPE_STRING dims: [ 1 ] } ]\n',
        0,
        '''class TritonPythonModel:
    """How often it ran before, and what it was told."""

    def initialize(self, args):
        self.runs, self.args = 0, args
        pb_utils.Logger.log_warn("ready to count")

    def execute(self, requests):
        args = np.array([json.dumps(self.args)], dtype=np.object_)
        runs = np.array([self.runs], np.int32)
        self.runs += len(requests)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("RUNS", runs), pb_utils.Tensor("ARGS", args)])
                for r in requests]
''',
    ),
    "repeat": (
        'input [ { name: "IN" data_type: TYPE_INT32 dims: [ -1 ] } ]\n'
        'output [ { name: "OUT" data_type: TYPE_INT32 dims: [ 1 ] } ]\n'
        "model_transaction_policy { decoupled: true }\n",
        0,
        '''class TritonPythonModel:
    """One response for each element of IN; a negative one is an error."""

    def execute(self, requests):
        for r in requests:
            sender = r.get_response_sender()
            for value in pb_utils.get_input_tensor_by_name(r, "IN").as_numpy():
                if value < 0:
                    response = pb_utils.InferenceResponse(error=pb_utils.TritonError("negative element"))
                else:
                    response = pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([value]))])
                sender.send(response)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
''',
    ),
    "words": (
        None,
        0,
        """class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "text_input", "data_type": "TYPE_STRING", "dims": [1]})
        config.add_output({"name": "text_output", "data_type": "TYPE_STRING", "dims": [1]})
        config.set_model_transaction_policy({"decoupled": True})
        return config

    def execute(self, requests):
        for r in requests:
            sender = r.get_response_sender()
            for word in r.inputs()[0].as_numpy()[0].split():
                text = pb_utils.Tensor("text_output", np.array([word], dtype=np.object_))
                sender.send(pb_utils.InferenceResponse([text]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
""",
    ),
    "auto": (
        None,
        0,
        """class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.set_max_batch_size(4)
        config.set_dynamic_batching()
        config.add_input({"name": "IN", "data_type": "TYPE_FP32", "dims": [2]})
        config.add_output({"name": "OUT", "data_type": "TYPE_FP32", "dims": [2]})
        return config

    def execute(self, requests):
        x = [pb_utils.get_input_tensor_by_name(r, "IN").as_numpy() for r in requests]
        assert all(len(a) <= 4 for a in x)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUT", a * 2)]) for a in x]
""",
    ),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("triton_python")
    for name, (tensors, most, body) in MODELS.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(HEAD + body)
        if tensors is not None:
            head = f'name: "{name}"\nbackend: "python"\nmax_batch_size: {most}\n'
            (version.parent / "config.pbtxt").write_text(head + tensors)
    with ServerProcess([folder / "models"], folder / "log", ["--control", "none"]) as server:
        yield server.wait_ready()


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Any]:
    with triton_http.InferenceServerClient(server.address) as client:
        yield client


def given(name: str, array: np.ndarray, kind: Any = triton_http) -> Any:
    datatype = {"i": "INT32", "f": "FP32", "O": "BYTES"}[array.dtype.kind]
    tensor = kind.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def number(value: int, *shape: int) -> np.ndarray:
    return np.full(shape or (1,), value, np.int32)


@pytest.mark.clause("TR-R4")
def test_metadata_names_the_backend_and_its_tensors(client: Any) -> None:
    """TR-R4."""
    metadata = client.get_model_metadata("optional")
    assert metadata["platform"] == "python"
    assert [(t["name"], t["shape"]) for t in metadata["inputs"]] == [("A", [1]), ("B", [1])]


@pytest.mark.clause("TR-A2")
def test_texts(client: Any) -> None:
    """TR-A2."""
    x = np.array([[b"abc", b"", "é".encode()]], dtype=object)
    answer = client.infer("upper", [given("TEXT", x)])
    assert answer.as_numpy("UPPER").tolist() == [[b"ABC", b"", "é".encode()]]


@pytest.mark.clause("TR-C4")
def test_an_optional_input_that_is_left_out(client: Any) -> None:
    """TR-C4."""
    a, b = given("A", number(5)), given("B", number(6))
    assert client.infer("optional", [a, b]).as_numpy("C").tolist() == [11]
    assert client.infer("optional", [a]).as_numpy("C").tolist() == [105]


@pytest.mark.clause("TR-A3")
def test_one_requests_error_costs_its_batch_mates_nothing(server: ServerProcess) -> None:
    """TR-A3: error objects inside a batch reach their own callers, with their own codes."""
    gate = Path(server._paths[0]) / "together" / "gate"

    def ask(code: int) -> Any:
        tensor = {"name": "CODE", "shape": [1, 1], "datatype": "INT32", "data": [code]}
        status, reply = server.post("/v2/models/together/infer", {"id": f"q{code}", "inputs": [tensor]})
        return (status, reply["error"]) if status != 200 else reply["outputs"][0]["data"][0]

    with concurrent.futures.ThreadPoolExecutor(7) as pool:
        first = pool.submit(ask, 99)
        until(lambda: gauge(server, "together", "running_batches") == 1)
        others = [pool.submit(ask, code) for code in (1, -3, 2, -2, 3, -5)]
        until(lambda: gauge(server, "together", "queue_depth") == 6)
        gate.touch()
        said = [other.result() for other in others]
    assert first.result() == 1
    assert said[1::2] == [(400, "q-3 asked for -3"), (404, "q-2 asked for -2"), (501, "q-5 asked for -5")]
    assert said[::2] == [6] * 3


@pytest.mark.parametrize(
    ("code", "status", "grpc"),
    [
        (0, "400", "UNKNOWN"),
        (1, "500", "INTERNAL"),
        (2, "404", "NOT_FOUND"),
        (3, "400", "INVALID_ARGUMENT"),
        (4, "503", "UNAVAILABLE"),
        (5, "501", "UNIMPLEMENTED"),
        (6, "400", "ALREADY_EXISTS"),
        (7, "400", "CANCELLED"),
    ],
)
def test_codes_of_error_objects(
    code: int, status: str, grpc: str, server: ServerProcess, client: Any
) -> None:
    """TR-R19, TR-A3."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer("raiser", [given("CODE", number(code))], request_id="q1")
    assert (caught.value.status(), caught.value.message()) == (status, f"code {code}")
    with (
        triton_grpc.InferenceServerClient(server.address) as other,
        pytest.raises(InferenceServerException) as caught,
    ):
        other.infer("raiser", [given("CODE", number(code), triton_grpc)])
    assert (caught.value.status(), caught.value.message()) == (f"StatusCode.{grpc}", f"code {code}")


@pytest.mark.clause("TR-A3")
def test_what_is_raised_is_told_and_logged(server: ServerProcess, client: Any) -> None:
    """TR-A3: the caller reads what, the log also where."""
    with pytest.raises(InferenceServerException) as caught:
        client.infer("raiser", [given("CODE", number(9))])
    said = "Failed to process the request(s) for model 'raiser_0', message: ValueError: asked to raise"
    assert (caught.value.status(), caught.value.message()) == ("500", said)
    assert "raiser/1/model.py" in server.output()


@pytest.mark.clause("TR-A2", "TR-C13")
def test_runs_only_when_asked_and_knows_where(server: ServerProcess, client: Any) -> None:
    """TR-A2, TR-C13: no run before the first request, unless model_warmup wants it."""
    answers = [client.infer("counter", [given("IN", number(0))]) for _ in range(2)]
    assert [a.as_numpy("RUNS").tolist() for a in answers] == [[0], [1]]
    args = json.loads(answers[0].as_numpy("ARGS")[0])
    config = json.loads(args.pop("model_config"))
    repository = Path(args.pop("model_repository"))
    assert repository.name == "counter" and (repository / "1" / "model.py").is_file()
    assert args == {
        "model_instance_kind": "CPU",
        "model_instance_device_id": "0",
        "model_instance_name": "counter_0",
        "model_version": "1",
        "model_name": "counter",
    }
    assert config == client.get_model_config("counter")
    assert "ready to count" in server.output()


@pytest.mark.clause("TR-C16")
def test_a_model_without_a_configuration_completes_it(client: Any) -> None:
    """TR-C16: and what it says holds: no run is larger."""
    config = client.get_model_config("auto")
    assert (config["max_batch_size"], config["backend"]) == (4, "python")
    assert config["dynamic_batching"]["preferred_batch_size"] == [4]
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    assert client.infer("auto", [given("IN", x)]).as_numpy("OUT").tolist() == (x * 2).tolist()


@pytest.mark.clause("TR-S8", "TR-G9")
@pytest.mark.parametrize("elements", [[], [4], [1, -1, 3]])
def test_a_decoupled_model_over_a_grpc_stream(elements: list[int], server: ServerProcess) -> None:
    """TR-S8, TR-G9: as many responses as it sends, errors among them, then the empty last one."""
    replies: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with triton_grpc.InferenceServerClient(server.address) as client:
        client.start_stream(lambda result, error: replies.put((result, error)))
        inputs = [given("IN", np.array(elements, np.int32), triton_grpc)]
        client.async_stream_infer("repeat", inputs, enable_empty_final_response=True)
        said: list[Any] = []
        for _ in [*elements, "last"]:
            result, error = replies.get(timeout=PATIENCE_S)
            if error is not None:
                said.append(error.message())
            elif (out := result.as_numpy("OUT")) is not None:
                said.append(int(out[0]))
            else:
                assert result.get_response().parameters["triton_final_response"].bool_param
        client.stop_stream()
    assert said == ["negative element" if n < 0 else n for n in elements]


@pytest.mark.clause("TR-R31", "TR-S8")
def test_a_decoupled_model_over_plain_http(server: ServerProcess, client: Any) -> None:
    """TR-R31, TR-S8: events for generate_stream, a refusal for infer; the configuration says so, too."""
    reply = server.post("/v2/models/repeat/infer", {"inputs": []})
    assert reply[0] == 501 and "any number of responses" in reply[1]["error"]
    body = json.dumps({"text_input": "one two three"}).encode()
    status, events = server.ask("POST", "/v2/models/words/generate_stream", body)
    assert status == 200
    told = [json.loads(line[6:])["text_output"] for line in events.decode().splitlines() if line]
    assert told == ["one", "two", "three"]
    for name in ("repeat", "words"):
        assert client.get_model_config(name)["model_transaction_policy"] == {"decoupled": True}


@pytest.mark.clause("TR-R12", "TR-A2")
def test_a_model_that_cannot_start_says_why(tmp_path: Path) -> None:
    """TR-R12, TR-A2."""
    version = tmp_path / "models" / "bad" / "1"
    version.mkdir(parents=True)
    body = "    def initialize(self, args):\n        raise RuntimeError('cannot start')\n"
    body = f"class TritonPythonModel:\n{body}\n    def execute(self, requests):\n        return []\n"
    (version / "model.py").write_text(HEAD + body)
    (version.parent / "config.pbtxt").write_text(
        'backend: "python"\n' + MODELS["raiser"][0]  # type: ignore[operator]
    )
    with ServerProcess([tmp_path / "models"], tmp_path / "log", ["--control", "explicit"]) as server:
        server.wait_for("/v2/health/live")
        status, said = server.post("/v2/repository/models/bad/load", {})
        assert status >= 400 and "RuntimeError: cannot start" in said["error"]

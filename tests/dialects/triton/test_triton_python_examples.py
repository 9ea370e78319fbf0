"""Models like the examples of Triton's Python backend, with its own clients (TR-A2, TR-A3)."""

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

from salver.testing.process import TritonProcess

HEAD = """import asyncio
import json

import numpy as np
import triton_python_backend_utils as pb_utils


"""


def tensors(side: str, *names: str, kind: str = "FP32", dims: str = "4") -> str:
    rows = ", ".join(f'{{ name: "{name}" data_type: TYPE_{kind} dims: [ {dims} ] }}' for name in names)
    return f"{side} [ {rows} ]\n"


SUMS = tensors("input", "INPUT0", "INPUT1") + tensors("output", "OUTPUT0", "OUTPUT1")
COUNT = tensors("input", "IN", kind="INT32", dims="1") + tensors("output", "OUT", kind="INT32", dims="1")
DECOUPLED = "model_transaction_policy { decoupled: true }\n"
ITERATIVE = "sequence_batching { iterative_sequence: true }\n"
ADD_SUB = '''class TritonPythonModel:
    """Every model has a class of this name."""

    def initialize(self, args):
        self.model_config = model_config = json.loads(args["model_config"])
        names = ("OUTPUT0", "OUTPUT1")
        configs = [pb_utils.get_output_config_by_name(model_config, name) for name in names]
        self.dtypes = [pb_utils.triton_string_to_numpy(config["data_type"]) for config in configs]

    def execute(self, requests):
        responses = []
        for request in requests:
            in_0 = pb_utils.get_input_tensor_by_name(request, "INPUT0").as_numpy()
            in_1 = pb_utils.get_input_tensor_by_name(request, "INPUT1").as_numpy()
            out_0 = pb_utils.Tensor("OUTPUT0", (in_0 + in_1).astype(self.dtypes[0]))
            out_1 = pb_utils.Tensor("OUTPUT1", (in_0 - in_1).astype(self.dtypes[1]))
            responses.append(pb_utils.InferenceResponse(output_tensors=[out_0, out_1]))
        return responses

    def finalize(self):
        print("Cleaning up...")
'''
SQUARE = """class TritonPythonModel:
    def initialize(self, args):
        config = json.loads(args["model_config"])
        if not pb_utils.using_decoupled_model_transaction_policy(config):
            raise pb_utils.TritonModelException(f"{args['model_name']} must be decoupled")
        self.lock = threading.Lock()
        self.inflight = 0

    def execute(self, requests):
        for request in requests:
            value = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0]
            thread = threading.Thread(target=self.respond, args=(request.get_response_sender(), value))
            thread.daemon = True
            with self.lock:
                self.inflight += 1
            thread.start()
        return None

    def respond(self, sender, value):
        for _ in range(value):
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([value], np.int32))]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        with self.lock:
            self.inflight -= 1

    def finalize(self):
        while self.inflight:
            time.sleep(0.01)
"""
CALLS = """class TritonPythonModel:
    async def execute(self, requests):
        responses = []
        for request in requests:
            in_0 = pb_utils.get_input_tensor_by_name(request, "INPUT0")
            in_1 = pb_utils.get_input_tensor_by_name(request, "INPUT1")
            awaits = []
            for model_name in ("add_sub", "torch_add_sub"):
                inference_request = pb_utils.InferenceRequest(
                    model_name=model_name,
                    requested_output_names=["OUTPUT0", "OUTPUT1"],
                    inputs=[in_0, in_1],
                    preferred_memory=pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU),
                    trace=request.trace(),
                )
                awaits.append(inference_request.async_exec())
            replies = await asyncio.gather(*awaits)
            for reply in replies:
                if reply.has_error():
                    raise pb_utils.TritonModelException(reply.error().message())
            out_0 = pb_utils.get_output_tensor_by_name(replies[0], "OUTPUT0")
            out_1 = pb_utils.get_output_tensor_by_name(replies[1], "OUTPUT1")
            responses.append(pb_utils.InferenceResponse(output_tensors=[out_0, out_1]))
        return responses
"""
TORCH = """import torch
from torch.utils.dlpack import from_dlpack, to_dlpack


class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            in_0 = pb_utils.get_input_tensor_by_name(request, "INPUT0")
            in_1 = pb_utils.get_input_tensor_by_name(request, "INPUT1")
            assert in_0.is_cpu() and in_0.__dlpack_device__() == (1, 0)
            a, b = from_dlpack(in_0.to_dlpack()), torch.from_dlpack(in_1)
            out_0 = pb_utils.Tensor.from_dlpack("OUTPUT0", to_dlpack(a + b))
            out_1 = pb_utils.Tensor.from_dlpack("OUTPUT1", a - b)
            responses.append(pb_utils.InferenceResponse(output_tensors=[out_0, out_1]))
        return responses
"""
PREPROCESSING = """class TritonPythonModel:
    @staticmethod
    def auto_complete_config(auto_complete_model_config):
        inputs = [{"name": "RAW", "data_type": "TYPE_UINT8", "dims": [-1]}]
        outputs = [{"name": "SCALED", "data_type": "TYPE_FP32", "dims": [-1]}]
        config = auto_complete_model_config.as_dict()
        for each in inputs:
            if each["name"] not in [known["name"] for known in config["input"]]:
                auto_complete_model_config.add_input(each)
        for each in outputs:
            auto_complete_model_config.add_output(each)
        auto_complete_model_config.set_max_batch_size(4)
        auto_complete_model_config.set_dynamic_batching()
        return auto_complete_model_config

    def execute(self, requests):
        responses = []
        for request in requests:
            raw = pb_utils.get_input_tensor_by_name(request, "RAW").as_numpy()
            scaled = pb_utils.Tensor("SCALED", raw.astype(np.float32) / 255)
            responses.append(pb_utils.InferenceResponse([scaled], parameters={"rows": len(raw)}))
        return responses
"""
#: Runs as often as the request says, and answers with how often that was.
AGAIN = """class TritonPythonModel:
    def initialize(self, args):
        self.runs = {}

    def execute(self, requests):
        responses = []
        for request in requests:
            wanted = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0]
            runs = self.runs.get(request.request_id(), 0) + 1
            self.runs[request.request_id()] = runs
            if runs < wanted:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
                responses.append(None)
            else:
                del self.runs[request.request_id()]
                out = pb_utils.Tensor("OUT", np.array([runs], np.int32))
                responses.append(pb_utils.InferenceResponse([out]))
        return responses
"""
AGAIN_DECOUPLED = """class TritonPythonModel:
    def initialize(self, args):
        self.left = {}

    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            wanted = int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0])
            left = self.left.pop(request.request_id(), wanted) - 1
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", np.array([left], np.int32))]))
            if left > 0:
                self.left[request.request_id()] = left
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
            else:
                sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None
"""
NOT_NONE = AGAIN.replace("responses.append(None)", "responses.append(pb_utils.InferenceResponse([]))")
MODELS = {
    "add_sub": (SUMS, ADD_SUB),
    "square": (COUNT + DECOUPLED, "import threading\nimport time\n\n\n" + SQUARE),
    "bls_async": (SUMS, CALLS),
    "torch_add_sub": (SUMS, TORCH),
    "preprocess": (None, PREPROCESSING),
    "again": (COUNT + ITERATIVE, AGAIN),
    "again_decoupled": (COUNT + ITERATIVE + DECOUPLED, AGAIN_DECOUPLED),
    "not_none": (COUNT + ITERATIVE, NOT_NONE),
    "not_iterative": (COUNT, AGAIN),
    "not_iterative_decoupled": (COUNT + DECOUPLED, AGAIN_DECOUPLED),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonProcess]:
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("examples")
    for name, (config, body) in MODELS.items():
        version = folder / "models" / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(HEAD + body)
        if config is not None:
            head = f'name: "{name}"\nbackend: "python"\ninstance_group [ {{ kind: KIND_CPU }} ]\n'
            (version.parent / "config.pbtxt").write_text(head + config)
    traces = ["level=TIMESTAMPS", "rate=1", f"triton,file={folder / 'trace.json'}"]
    flags = [f"--trace-config={setting}" for setting in traces]
    with TritonProcess([folder / "models"], folder / "log", flags) as server:
        yield server.wait_ready(120)


@pytest.fixture(scope="module")
def client(server: TritonProcess) -> Iterator[Any]:
    with triton_http.InferenceServerClient(server.address) as client:
        yield client


def given(name: str, array: np.ndarray, kind: Any = triton_http) -> Any:
    datatype = {"float32": "FP32", "int32": "INT32", "uint8": "UINT8"}[array.dtype.name]
    tensor = kind.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def stream(server: TritonProcess, model: str, value: int, id: str) -> list[Any]:
    """All responses to one request, or the error at their end."""
    said: queue.Queue[Any] = queue.Queue()
    found: list[Any] = []
    with triton_grpc.InferenceServerClient(f"{server.host}:{server.ports['grpc']}") as client:
        client.start_stream(lambda result, error: said.put(error or result))
        tensor = given("IN", np.array([value], np.int32), triton_grpc)
        client.async_stream_infer(model, [tensor], request_id=id, enable_empty_final_response=True)
        while True:
            reply = said.get(timeout=PATIENCE_S)
            if isinstance(reply, InferenceServerException):
                return [*found, str(reply)]
            response = reply.get_response()
            if response.outputs:
                found.append(int(reply.as_numpy("OUT")[0]))
            if response.parameters["triton_final_response"].bool_param:
                return found


@pytest.mark.clause("TR-A3")
@pytest.mark.parametrize("model", ["add_sub", "torch_add_sub", "bls_async"])
def test_sums_by_numpy_by_dlpack_and_by_calls(model: str, client: Any) -> None:
    a, b = np.array([1, 2, 3, 4], np.float32), np.array([10, 20, 30, 40], np.float32)
    answer = client.infer(model, [given("INPUT0", a), given("INPUT1", b)])
    assert answer.as_numpy("OUTPUT0").tolist() == [11, 22, 33, 44]
    assert answer.as_numpy("OUTPUT1").tolist() == [-9, -18, -27, -36]


@pytest.mark.clause("TR-O1", "TR-S7")
def test_calls_are_traced_below_the_request_that_they_serve(client: Any, server: TritonProcess) -> None:
    x = np.zeros(4, np.float32)
    client.infer("bls_async", [given("INPUT0", x), given("INPUT1", x)], headers={"x-request-id": "traced"})
    path = Path(server._log).parent / "trace.json"

    def entries() -> list[dict[str, Any]]:
        return [e for e in json.loads(path.read_text()) if "model_name" in e] if path.exists() else []

    def below() -> set[str]:
        wholes = [e["id"] for e in entries() if e.get("request_id") == "traced"]
        return {e["model_name"] for e in entries() if e.get("parent_id") in wholes}

    until(lambda: below() == {"add_sub", "torch_add_sub"}, entries)


@pytest.mark.clause("TR-S8")
def test_as_many_responses_as_the_request_says(server: TritonProcess) -> None:
    assert [stream(server, "square", n, "q") for n in (0, 1, 4)] == [[], [1], [4] * 4]


@pytest.mark.clause("TR-A2")
def test_a_configuration_that_the_model_completes(client: Any) -> None:
    raw = np.array([[0, 255], [51, 102]], np.uint8)
    answer = client.infer("preprocess", [given("RAW", raw)])
    np.testing.assert_allclose(answer.as_numpy("SCALED"), raw / 255, rtol=1e-6)
    assert answer.get_response()["parameters"] == {"rows": 2}
    assert client.get_model_config("preprocess")["max_batch_size"] == 4


@pytest.mark.clause("TR-S5")
def test_a_request_runs_as_often_as_its_model_wants(client: Any) -> None:
    for n in (1, 5):
        answer = client.infer("again", [given("IN", np.array([n], np.int32))], request_id=f"r{n}")
        assert answer.as_numpy("OUT").tolist() == [n]


@pytest.mark.clause("TR-S5")
def test_a_decoupled_model_answers_a_bit_in_each_run(server: TritonProcess) -> None:
    assert stream(server, "again_decoupled", 4, "d") == [3, 2, 1, 0]


@pytest.mark.clause("TR-S5")
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("not_none", "Expected a None object in the execute function return list for reschduled request"),
        ("not_iterative", "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE"),
    ],
)
def test_what_triton_refuses_too(model: str, text: str, client: Any) -> None:
    with pytest.raises(InferenceServerException, match=text):
        client.infer(model, [given("IN", np.array([3], np.int32))], request_id="r")


@pytest.mark.clause("TR-S5")
def test_a_decoupled_model_without_sequences_cannot_go_on(server: TritonProcess) -> None:
    first, error = stream(server, "not_iterative_decoupled", 3, "d")
    assert first == 2
    assert "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE" in error

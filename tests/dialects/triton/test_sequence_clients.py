"""Sequences with Triton's own clients and both kinds of models (TR-S4, TR-C9)."""

import json
import queue
import random
import threading
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from onnx import TensorProto, helper
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until

from salver.testing.process import ServerProcess

FLAGS = "\n".join(
    f'  control_input {{ name: "{kind}" '
    f"control {{ kind: CONTROL_SEQUENCE_{kind} int32_false_true: [0, 1] }} }}"
    for kind in ("START", "END", "READY")
)
ID = '  control_input { name: "CORRID" control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }'
STATE = '  state { input_name: "S_IN" output_name: "S_OUT" data_type: TYPE_INT32 dims: [1] %s }'
FROM_FILE = 'initial_state { name: "begin" data_type: TYPE_INT32 dims: [1] data_file: "hundred" }'
HEAD = 'backend: "%s" max_batch_size: 4\ninput { name: "IN" data_type: TYPE_INT32 dims: [1] }\n'
OUT = 'output { name: "%s" data_type: TYPE_%s dims: [%d] }\n'
SUMS = OUT % ("SUM", "INT32", 1)
TOLD = SUMS + OUT % ("FLAGS", "INT32", 3) + OUT % ("WHO", "UINT64", 1)
IDLE_US = 1_500_000
COUNTED_DOWN = """
import os

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    '''Each request: as many responses as its number, with what was sent so far; a negative one is its end.'''

    def initialize(self, args):
        self.sums = {}

    def execute(self, requests):
        for request in requests:
            value = int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0, 0])
            if value < 0:
                os._exit(3)
            id, sender = request.correlation_id(), request.get_response_sender()
            if request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START:
                self.sums[id] = 0
            for _ in range(value):
                self.sums[id] += 1
                tensor = pb_utils.Tensor("SUM", np.array([[self.sums[id]]], np.int32))
                sender.send(pb_utils.InferenceResponse([tensor]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
ITERATING = """
import numpy as np
import triton_python_backend_utils as pb_utils

AGAIN = pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE


class TritonPythonModel:
    '''Counts each request's number down, one a run, beside others; SUM: how many shared the last run.'''

    def initialize(self, args):
        self.left = {}

    def execute(self, requests):
        return [self.answer(request, len(requests)) for request in requests]

    def answer(self, request, mates):
        id = request.correlation_id()
        number = int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0, 0])
        is_first = bool(request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)
        assert is_first == (id not in self.left)
        left = self.left[id] = self.left.get(id, number) - 1
        if left > 0:
            request.set_release_flags(AGAIN)
            return None
        if number == 0:
            request.set_release_flags(AGAIN)
        del self.left[id]
        return pb_utils.InferenceResponse([pb_utils.Tensor("SUM", np.array([[mates]], np.int32))])
"""
GENERATING = """
import numpy as np
import triton_python_backend_utils as pb_utils

AGAIN = pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    '''From its number down to 0, one response a run.'''

    def initialize(self, args):
        self.left = {}

    def execute(self, requests):
        for request in requests:
            id, sender = request.correlation_id(), request.get_response_sender()
            number = int(pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0, 0])
            left = self.left[id] = self.left.get(id, number) - 1
            response = pb_utils.InferenceResponse([pb_utils.Tensor("SUM", np.array([[left]], np.int32))])
            if left > 0:
                request.set_release_flags(AGAIN)
                sender.send(response)
            else:
                del self.left[id]
                sender.send(response, flags=FINAL)
"""
ASKING = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    '''Sums its numbers up by the sequences of another model.'''

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        numbers = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()[0]
        last = len(numbers) - 1
        for index, number in enumerate(numbers):
            flags = pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START if index == 0 else 0
            flags |= pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END if index == last else 0
            asked = pb_utils.InferenceRequest(
                model_name="own_oldest",
                requested_output_names=["SUM"],
                inputs=[pb_utils.Tensor("IN", np.array([[number]], np.int32))],
                correlation_id=4711,
                flags=flags,
            )
            response = asked.exec()
            if response.has_error():
                return pb_utils.InferenceResponse(error=response.error())
        return response
"""


def accumulator() -> bytes:
    """SUM = S_OUT = S_IN + IN where READY, which each run must have been told."""
    nodes = [
        helper.make_node("Mul", ["IN", "READY"], ["value"]),
        helper.make_node("Add", ["value", "S_IN"], ["SUM"]),
        helper.make_node("Identity", ["SUM"], ["S_OUT"]),
    ]
    sides = [
        [helper.make_tensor_value_info(name, TensorProto.INT32, ["n", 1]) for name in side]
        for side in (("IN", "READY", "S_IN"), ("SUM", "S_OUT"))
    ]
    graph = helper.make_graph(nodes, "g", *sides)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return bytes(made.SerializeToString())


def put(root: Path, name: str, config: str, files: dict[str, bytes]) -> None:
    for path, content in {**files, "config.pbtxt": config.encode()}.items():
        target = root / name / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder: Path = tmp_path_factory.mktemp("sequences")
    root = folder / "repository"
    onnx = {"1/model.onnx": accumulator()}
    ready = next(line for line in FLAGS.splitlines() if "READY" in line)
    told = (Path(__file__).parents[2] / "support" / "models" / "sequence_sum.py").read_bytes()

    def batching(strategy: str, *parts: str, idle: int = IDLE_US) -> str:
        body = "\n".join((f"  {strategy}", f"  max_sequence_idle_microseconds: {idle}", *parts))
        return f"sequence_batching {{\n{body}\n}}\n"

    kept = HEAD % "onnxruntime" + SUMS
    put(root, "kept_direct", kept + batching("direct { }", ready, STATE % ""), onnx)
    put(root, "kept_long", kept + batching("direct { }", ready, STATE % "", idle=60_000_000), onnx)
    oldest = batching("oldest { max_candidate_sequences: 8 }", ready, STATE % FROM_FILE)
    put(root, "kept_oldest", kept + oldest, onnx | {"initial_state/hundred": (100).to_bytes(4, "little")})
    two = "instance_group { count: 2 kind: KIND_CPU }\n"
    own = HEAD % "python" + TOLD + two
    put(root, "own_direct", own + batching("direct { }", FLAGS, ID), {"1/model.py": told})
    own_oldest = own + batching("oldest { max_candidate_sequences: 8 }", FLAGS, ID)
    put(root, "own_oldest", own_oldest, {"1/model.py": told})
    decoupled = HEAD % "python" + SUMS + "model_transaction_policy { decoupled: true }\n"
    many = decoupled + batching("oldest { max_candidate_sequences: 8 }", idle=60_000_000)
    put(root, "down", many, {"1/model.py": COUNTED_DOWN.encode()})
    for name, iterative in (("iterates", "true"), ("does_not", "false")):
        batching_of = batching("oldest { max_candidate_sequences: 8 }", f"iterative_sequence: {iterative}")
        put(root, name, HEAD % "python" + SUMS + batching_of, {"1/model.py": ITERATING.encode()})
    generative = batching("direct { }", "iterative_sequence: true")
    put(root, "generates", decoupled + generative, {"1/model.py": GENERATING.encode()})
    put(root, "asks", HEAD.replace("[1]", "[-1]") % "python" + SUMS, {"1/model.py": ASKING.encode()})
    step = '{ model_name: "kept_direct" model_version: -1 input_map { key: "IN" value: "IN" } '
    step += 'output_map { key: "SUM" value: "SUM" } }'
    chain = HEAD.replace("backend", "platform") % "ensemble" + SUMS
    put(root, "ensemble", chain + f"ensemble_scheduling {{ step [ {step} ] }}\n", {"1/.keep": b""})
    with ServerProcess([root], folder / "log") as server:
        yield server.wait_ready()


@pytest.fixture
def http(server: ServerProcess) -> Iterator[Any]:
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.port}", concurrency=4) as client:
        yield client


@pytest.fixture
def grpc(server: ServerProcess) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        yield client


def inputs(module: Any, value: int) -> list[Any]:
    given = module.InferInput("IN", [1, 1], "INT32")
    given.set_data_from_numpy(np.array([[value]], np.int32))
    return [given]


def ask(client: Any, model: str, id: int | str, value: int, flags: str = "") -> int:
    """The sum; ``flags`` has ``s`` to start and ``e`` to end."""
    module = triton_http if isinstance(client, triton_http.InferenceServerClient) else triton_grpc
    start, end = "s" in flags, "e" in flags
    answer = client.infer(
        model, inputs(module, value), sequence_id=id, sequence_start=start, sequence_end=end
    )
    if model.startswith("own"):
        told = [*answer.as_numpy("FLAGS")[0].tolist(), answer.as_numpy("WHO").item()]
        assert told == [start, end, 1, id]
    return int(answer.as_numpy("SUM").item())


def sequences(server: ServerProcess, model: str) -> dict[str, float]:
    """By place: how many there are."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics", timeout=PATIENCE_S) as reply:
        lines = reply.read().decode().splitlines()
    found = [x for x in lines if x.startswith("salver_sequences{") and f'model="{model}"' in x]
    return {place: float(x.split()[-1]) for x in found for place in ("slot", "backlog") if f'"{place}"' in x}


KINDS = ("kept_direct", "kept_oldest", "own_direct", "own_oldest")


def base(model: str) -> int:
    """What its sums begin with."""
    return 100 if model == "kept_oldest" else 0


@pytest.mark.clause("TR-S4")
@pytest.mark.parametrize("model", KINDS)
def test_sequences_over_http_and_grpc_share_a_model(http: Any, grpc: Any, model: str) -> None:
    began = base(model)
    assert ask(http, model, 1, 5, "s") == began + 5
    assert ask(grpc, model, 2, 50, "s") == began + 50
    assert ask(grpc, model, 1, 6) == began + 11  # the same sequence by another road
    assert ask(http, model, 2, 60, "e") == began + 110
    assert ask(http, model, 1, 7, "e") == began + 18
    text = f"inference request for sequence 1 to model '{model}' must specify the START flag"
    for client in (http, grpc):
        with pytest.raises(InferenceServerException, match=text):
            ask(client, model, 1, 1)


@pytest.mark.clause("TR-R6")
def test_generate_knows_sequences(server: ServerProcess) -> None:
    url = f"http://127.0.0.1:{server.port}/v2/models/own_direct/generate"
    for value, told, total in ((5, {"sequence_start": True}, 5), (6, {"sequence_end": True}, 11)):
        body = json.dumps({"IN": value, "sequence_id": 41, **told}).encode()
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=PATIENCE_S) as reply:
            assert json.load(reply)["SUM"] == total


@pytest.mark.clause("TR-C9")
def test_callers_do_not_see_the_servers_tensors(http: Any, grpc: Any) -> None:
    for model in KINDS:
        metadata = http.get_model_metadata(model)
        assert [tensor["name"] for tensor in metadata["inputs"]] == ["IN"]
        assert "S_OUT" not in [tensor["name"] for tensor in metadata["outputs"]]
    shown = grpc.get_model_config("kept_oldest", as_json=True)["config"]["sequence_batching"]
    assert shown["oldest"] == {"max_candidate_sequences": 8, "preferred_batch_size": [4]}
    assert shown["state"][0]["initial_state"][0]["data_file"] == "hundred"
    assert "sequence" in http.get_server_metadata()["extensions"]


@pytest.mark.clause("TR-S4")
def test_one_row_a_request(http: Any) -> None:
    given = triton_http.InferInput("IN", [2, 1], "INT32")
    given.set_data_from_numpy(np.ones((2, 1), np.int32))
    words = "must specify batch-size 1 due to requirements of sequence batcher"
    with pytest.raises(InferenceServerException, match=words):
        http.infer("own_direct", [given], sequence_id=3, sequence_start=True)


class Stream:
    """A gRPC stream of a caller of its own, with the sums that come back, by request id."""

    def __init__(self, server: ServerProcess) -> None:
        self._client = triton_grpc.InferenceServerClient(f"127.0.0.1:{server.port}")
        self.answers: queue.Queue[Any] = queue.Queue()
        self._client.start_stream(lambda result, error: self.answers.put(error or result))

    def send(self, model: str, id: int, value: int, flags: str = "", name: str = "") -> None:
        self._client.async_stream_infer(
            model,
            inputs(triton_grpc, value),
            request_id=name,
            sequence_id=id,
            sequence_start="s" in flags,
            sequence_end="e" in flags,
        )

    def die(self) -> None:
        self._client.stop_stream(cancel_requests=True)
        self._client.close()


def _on_a_stream(server: ServerProcess, model: str, ids: list[int], chance: random.Random) -> int:
    """Many sequences at once on one stream; perhaps it dies in the middle. How many ended."""
    stream = Stream(server)
    numbers = {id: [chance.randint(1, 99) for _ in range(chance.randint(1, 9))] for id in ids}
    steps = [(step, id) for id in ids for step in range(len(numbers[id]))]
    steps.sort(key=lambda pair: (pair[0], chance.random()))
    dies = chance.random() < 0.4
    if dies:
        steps = steps[: len(steps) // 2]
    for step, id in steps:
        flags = ("s" if step == 0 else "") + ("e" if step == len(numbers[id]) - 1 else "")
        stream.send(model, id, numbers[id][step], flags, f"{id} {step}")
    for _ in range(chance.randint(0, len(steps)) if dies else len(steps)):
        result = stream.answers.get(timeout=60)
        assert not isinstance(result, Exception), result
        id, step = map(int, result.get_response().id.split())
        assert int(result.as_numpy("SUM").item()) == base(model) + sum(numbers[id][: step + 1])
    stream.die()
    return 0 if dies else len(ids)


def _over_http(server: ServerProcess, model: str, ids: list[int], chance: random.Random) -> int:
    """The same one after the other, with leaving in the middle now and then."""
    ended = 0
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        for id in ids:
            numbers = [chance.randint(1, 99) for _ in range(chance.randint(1, 9))]
            stops = chance.randint(1, len(numbers)) if chance.random() < 0.3 else len(numbers)
            total = base(model)
            for step, value in enumerate(numbers[:stops]):
                flags = ("s" if step == 0 else "") + ("e" if step == len(numbers) - 1 else "")
                total += value
                assert ask(client, model, id, value, flags) == total
            ended += stops == len(numbers)
    return ended


@pytest.mark.clause("TR-S4")
@pytest.mark.parametrize("model", KINDS)
def test_many_at_once_and_callers_that_die(server: ServerProcess, model: str) -> None:
    """No sum is another's, and in the end every slot is free."""
    with ThreadPoolExecutor(8) as pool:
        jobs = []
        for worker in range(8):
            ids = list(range(1 + worker * 100, 13 + worker * 100))
            job = _on_a_stream if worker % 2 else _over_http
            jobs.append(pool.submit(job, server, model, ids, random.Random(worker)))
        assert sum(job.result(timeout=120) for job in jobs) > 20
    until(lambda: sequences(server, model) == {"slot": 0, "backlog": 0})


@pytest.mark.clause("TR-C9")
def test_silence_ends_a_sequence(server: ServerProcess, http: Any) -> None:
    assert ask(http, "kept_direct", 900, 5, "s") == 5
    until(lambda: sequences(server, "kept_direct")["slot"] == 0)
    with pytest.raises(InferenceServerException, match="Nothing was heard of it for 1500 ms"):
        ask(http, "kept_direct", 900, 5)


@pytest.mark.clause("TR-S4")
def test_all_slots_taken(server: ServerProcess, http: Any) -> None:
    """The fifth waits until one of the four that a direct model of four rows has is over."""
    for id in (1, 2, 3, 4):
        ask(http, "kept_long", id, 1, "s")
    done: queue.Queue[int] = queue.Queue()

    def fifth() -> None:
        with triton_http.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=60) as client:
            done.put(ask(client, "kept_long", 5, 7, "se"))

    thread = threading.Thread(target=fifth)
    thread.start()
    until(lambda: sequences(server, "kept_long") == {"slot": 4, "backlog": 1} or not done.empty())
    ask(http, "kept_long", 1, 1, "e")
    assert done.get(timeout=PATIENCE_S) == 7
    thread.join()
    for id in (2, 3, 4):
        ask(http, "kept_long", id, 1, "e")


@pytest.mark.clause("TR-S8")
def test_decoupled_sequences(server: ServerProcess) -> None:
    """Each request has its responses in order, and goes on where the one before it stopped."""
    stream = Stream(server)
    for id in (1, 2):
        stream.send("down", id, 2, "s", f"{id}a")
        stream.send("down", id, 3, "e", f"{id}b")
    got: dict[str, list[int]] = {}
    for _ in range(10):
        result = stream.answers.get(timeout=PATIENCE_S)
        assert not isinstance(result, Exception), result
        got.setdefault(result.get_response().id, []).append(int(result.as_numpy("SUM").item()))
    assert got == {"1a": [1, 2], "1b": [3, 4, 5], "2a": [1, 2], "2b": [3, 4, 5]}
    stream.die()
    until(lambda: sequences(server, "down") == {"slot": 0, "backlog": 0})


@pytest.mark.clause("TR-S4")
def test_a_host_that_dies_ends_its_sequences(server: ServerProcess) -> None:
    """Nothing is ever answered from a state that is gone."""
    stream = Stream(server)
    stream.send("down", 11, 1, "s")
    assert stream.answers.get(timeout=PATIENCE_S).as_numpy("SUM").item() == 1
    stream.send("down", 12, -1, "s")
    assert "died" in str(stream.answers.get(timeout=PATIENCE_S))
    stream.send("down", 11, 1)
    said = str(stream.answers.get(timeout=PATIENCE_S))
    assert "sequence 11 to model 'down' must specify the START flag" in said
    assert "The host process that knew it died, which ended it." in said

    def is_back() -> bool:
        stream.send("down", 13, 1, "se")
        return not isinstance(stream.answers.get(timeout=PATIENCE_S), Exception)

    until(is_back)
    stream.die()
    until(lambda: sequences(server, "down") == {"slot": 0, "backlog": 0})


@pytest.mark.clause("TR-S5")
def test_requests_are_run_again_until_the_model_is_done(server: ServerProcess, http: Any) -> None:
    """In-flight batching: short ones leave the runs that long ones go on with."""
    with ThreadPoolExecutor(4) as pool:

        def count_down(number: int) -> int:
            with triton_grpc.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
                answer = client.infer("iterates", inputs(triton_grpc, number))
                return int(answer.as_numpy("SUM").item())

        mates = list(pool.map(count_down, (400, 300, 200, 100)))
    assert all(1 <= n <= 4 for n in mates)
    assert ask(http, "iterates", 77, 3, "s") == 1
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        ask(http, "iterates", 77, 3)
    until(lambda: sequences(server, "iterates") == {"slot": 0, "backlog": 0})


@pytest.mark.clause("TR-S5")
def test_what_a_model_may_not_say(http: Any) -> None:
    with pytest.raises(InferenceServerException, match="Expected a None object in the execute function"):
        ask(http, "iterates", 0, 0)
    text = "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE"
    with pytest.raises(InferenceServerException, match=text):
        ask(http, "does_not", 1, 3, "s")


@pytest.mark.clause("TR-S5")
def test_a_response_a_run(server: ServerProcess) -> None:
    stream = Stream(server)
    stream.send("generates", 0, 4)
    stream.send("generates", 0, 2)
    seen = [int(stream.answers.get(timeout=PATIENCE_S).as_numpy("SUM").item()) for _ in range(6)]
    assert sorted(seen) == [0, 0, 1, 1, 2, 3]
    stream.die()
    body = b'{"IN": 3}'
    url = f"http://127.0.0.1:{server.port}/v2/models/generates/generate_stream"
    with urllib.request.urlopen(urllib.request.Request(url, body), timeout=PATIENCE_S) as reply:
        events = [line for line in reply.read().decode().splitlines() if line]
    assert [line.partition('"SUM":')[2][0] for line in events] == ["2", "1", "0"]
    until(lambda: sequences(server, "generates") == {"slot": 0, "backlog": 0})


@pytest.mark.clause("TR-S7")
def test_a_model_that_asks_by_sequences(http: Any) -> None:
    given = triton_http.InferInput("IN", [1, 4], "INT32")
    given.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.int32))
    assert http.infer("asks", [given]).as_numpy("SUM").item() == 10


@pytest.mark.clause("TR-S6")
def test_an_ensemble_hands_its_sequence_on(http: Any, grpc: Any) -> None:
    assert ask(http, "ensemble", 31, 5, "s") == 5
    assert ask(grpc, "ensemble", 31, 6, "e") == 11
    with pytest.raises(InferenceServerException, match=r"sequence 31 to model 'kept_direct' must specify"):
        ask(http, "ensemble", 31, 1)

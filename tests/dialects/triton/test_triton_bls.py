"""Models that call other models and have metrics, with a real server (TR-S7, TR-M8, TR-A2)."""

import concurrent.futures
import os
import queue
import signal
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

HEAD = """import asyncio
import json
import threading
import time

import numpy as np
import triton_python_backend_utils as pb_utils

"""
TENSORS = (
    'input [ {{ name: "X" data_type: TYPE_INT32 dims: [ -1 ] }} ]\n'
    'output [ {{ name: "Y" data_type: TYPE_INT32 dims: [ -1 ] }} ]\n'
    "instance_group [ {{ count: {count} kind: KIND_CPU }} ]\n"
)
DECOUPLED = "model_transaction_policy { decoupled: true }\n"
CALL = """
def call(model, x, **more):
    x = np.asarray(x, np.int32)
    return pb_utils.InferenceRequest(model_name=model, requested_output_names=["Y"],
                                     inputs=[pb_utils.Tensor("X", x)], **more)


def answer(y):
    return pb_utils.InferenceResponse([pb_utils.Tensor("Y", np.asarray(y, np.int32).ravel())])


def passed_on(reply):
    return pb_utils.InferenceResponse(error=reply.error()) if reply.has_error() else answer(
        pb_utils.get_output_tensor_by_name(reply, "Y").as_numpy())


def x_of(request):
    return pb_utils.get_input_tensor_by_name(request, "X").as_numpy()


"""
#: Name: instances, further configuration, source.
MODELS: dict[str, tuple[int, str, str]] = {
    "double": (
        2,
        "",
        """class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            if x_of(r)[0] < 0:
                error = pb_utils.TritonError("negative", pb_utils.TritonError.NOT_FOUND)
                out.append(pb_utils.InferenceResponse(error=error))
            else:
                out.append(answer(x_of(r) * 2))
        return out
""",
    ),
    "sync": (
        1,
        "",
        """class TritonPythonModel:
    def execute(self, requests):
        return [passed_on(call("double", x_of(r)).exec()) for r in requests]
""",
    ),
    "nested": (
        1,
        "",
        """class TritonPythonModel:
    def initialize(self, args):
        self.ready = pb_utils.is_model_ready("nested")

    def execute(self, requests):
        assert not self.ready and not pb_utils.is_model_ready("none")
        assert pb_utils.is_model_ready("nested", "1")
        return [passed_on(call("sync", x_of(r) + 1).exec()) for r in requests]
""",
    ),
    "gathering": (
        1,
        "",
        """class TritonPythonModel:
    async def execute(self, requests):
        out = []
        for r in requests:
            calls = [call("double", [n]).async_exec() for n in range(x_of(r)[0])]
            replies = await asyncio.gather(*calls)
            out.append(answer([reply.output_tensors()[0].as_numpy()[0] for reply in replies]))
        return out
""",
    ),
    "threading": (
        1,
        DECOUPLED,
        """class TritonPythonModel:
    def execute(self, requests):
        for r in requests:
            sender = r.get_response_sender()
            threads = [threading.Thread(target=self.work, args=(sender, n)) for n in x_of(r)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def work(self, sender, n):
        sender.send(passed_on(call("double", [n]).exec()))
""",
    ),
    "itself": (
        2,
        "",
        """class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            depth = x_of(r)[0]
            out.append(answer([0]) if depth == 0 else passed_on(call("itself", [depth - 1]).exec()))
        return out
""",
    ),
    "repeat": (
        2,
        DECOUPLED,
        """class TritonPythonModel:
    def execute(self, requests):
        for r in requests:
            sender = r.get_response_sender()
            for n in x_of(r):
                if sender.is_cancelled():
                    pb_utils.Logger.log_warn("nobody wants more")
                    break
                error = pb_utils.InferenceResponse(error=pb_utils.TritonError("negative"))
                sender.send(answer([n]) if n >= 0 else error)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
""",
    ),
    "summing": (
        1,
        "",
        '''class TritonPythonModel:
    """How many responses, their sum, how many without outputs, and the same of a second pass."""

    def execute(self, requests):
        out = []
        for r in requests:
            replies = call("repeat", x_of(r)).exec(decoupled=True)
            counts = []
            for _ in range(2):
                tensors = []
                for reply in replies:
                    tensors.append(None if reply.has_error() else reply.output_tensors())
                values = [t[0].as_numpy()[0] for t in tensors if t]
                counts += [len(tensors), sum(values), sum(t == [] for t in tensors)]
            out.append(answer(counts))
        return out
''',
    ),
    "dropping": (
        1,
        "",
        """class TritonPythonModel:
    async def execute(self, requests):
        out = []
        for r in requests:
            replies = await call("repeat", range(100000)).async_exec(decoupled=True)
            first = next(replies).output_tensors()[0].as_numpy()
            if x_of(r)[0]:
                replies.cancel()
            del replies
            out.append(answer(first))
        return out
""",
    ),
    "wrong": (
        1,
        "",
        """class TritonPythonModel:
    def execute(self, requests):
        out = []
        for r in requests:
            kind = x_of(r)[0]
            reply = [
                lambda: call("none", [1]).exec(),
                lambda: call("double", [[1, 2]]).exec(),
                lambda: call("repeat", [1]).exec(),
                lambda: call("double", [-1]).exec(),
                lambda: call("double", [1], model_version=7).exec(),
                lambda: call("napping", [3000], timeout=50_000).exec(),
                lambda: next(call("none", [1]).exec(decoupled=True)),
            ][kind]()
            text = f"{reply.error().code()}: {reply.error().message()}"
            out.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(text)))
        return out
""",
    ),
    "slow": (
        2,
        "",
        """class TritonPythonModel:
    def execute(self, requests):
        for r in requests:
            time.sleep(x_of(r)[0] / 1000)
        return [answer(x_of(r)) for r in requests]
""",
    ),
    "napping": (
        2,
        "",
        """class TritonPythonModel:
    def initialize(self, args):
        self.wakes = args["model_repository"] + "/wakes"

    def execute(self, requests):
        import os
        end = time.monotonic() + x_of(requests[0])[0] / 1000
        while time.monotonic() < end and not os.path.exists(self.wakes):
            time.sleep(0.005)
        return [answer(x_of(r)) for r in requests]
""",
    ),
    "patient": (
        1,
        "",
        """class TritonPythonModel:
    def execute(self, requests):
        end = time.monotonic() + 20
        while not all(r.is_cancelled() for r in requests) and time.monotonic() < end:
            time.sleep(0.01)
            if x_of(requests[0])[0]:
                break
        cancelled = [r.is_cancelled() for r in requests]
        pb_utils.Logger.log_info(f"cancelled: {cancelled}")
        return [answer(cancelled) for r in requests]
""",
    ),
    "waiting": (
        1,
        "",
        """class TritonPythonModel:
    def execute(self, requests):
        import os
        if x_of(requests[0])[0] == 0:
            return [answer([os.getpid()]) for r in requests]
        return [passed_on(call("slow" if x_of(r)[0] < 4000 else "napping", x_of(r)).exec()) for r in requests]
""",
    ),
    "counting": (
        2,
        "",
        """class TritonPythonModel:
    def initialize(self, args):
        kinds = pb_utils.MetricFamily
        self.calls = kinds("my_calls", "Calls of mine.", kinds.COUNTER).Metric(labels={"model": "counting"})
        self.level = kinds("my_level", "A level.", kinds.GAUGE).Metric()
        self.sizes = kinds(name="my_sizes", description="Sizes.", kind=kinds.HISTOGRAM).Metric(
            labels={"model": "counting"}, buckets=[1, 10])

    def execute(self, requests):
        import os
        if x_of(requests[0])[0] < 0:
            os.kill(os.getpid(), 9)
        time.sleep(0.05)
        for r in requests:
            self.calls.increment(1)
            self.sizes.observe(len(x_of(r)))
            self.level.set(float(x_of(r)[0]))
        return [answer([self.calls.value(), self.level.value(), os.getpid()]) for r in requests]
""",
    ),
    "fickle": (
        1,
        "",
        """class TritonPythonModel:
    def is_ready(self):
        return self.well

    def initialize(self, args):
        self.well = True
        pb_utils.Logger.log_verbose("all of it")
        pb_utils.Logger.log_info("some of it")
        pb_utils.Logger.log_error("bad news")

    def execute(self, requests):
        self.well = not self.well
        return [answer(x_of(r)) for r in requests]
""",
    ),
    "tracing": (
        1,
        "",
        """class TritonPythonModel:
    def execute(self, requests):
        for r in requests:
            assert json.loads(r.trace().get_context())["traceparent"].startswith("00-" + "a" * 32)
            memory = pb_utils.PreferredMemory(pb_utils.TRITONSERVER_MEMORY_CPU, 0)
            more = {"trace": r.trace(), "preferred_memory": memory, "request_id": "below"}
            reply = call("double", x_of(r), **more).exec()
        return [passed_on(reply)]
""",
    ),
    "managing": (
        1,
        "",
        """class TritonPythonModel:
    def execute(self, requests):
        try:
            pb_utils.load_model("double")
            pb_utils.unload_model("fickle")
            until = time.monotonic() + 20
            while pb_utils.is_model_ready("fickle") and time.monotonic() < until:
                time.sleep(0.01)
            gone = not pb_utils.is_model_ready("fickle")
            pb_utils.load_model("fickle")
            back = pb_utils.is_model_ready("fickle")
            pb_utils.load_model("nowhere")
        except pb_utils.TritonModelException as error:
            assert "failed to load 'nowhere'" in str(error), error
            return [answer([gone, back, 1]) for r in requests]
""",
    ),
}


def write(folder: Path) -> None:
    for name, (count, more, body) in MODELS.items():
        version = folder / name / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(HEAD + CALL + body)
        head = f'name: "{name}"\nbackend: "python"\nmax_batch_size: 0\n'
        (version.parent / "config.pbtxt").write_text(head + TENSORS.format(count=count) + more)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("bls")
    write(folder / "models")
    options = ["--control", "explicit", "--load", "*", "--access-log", "all"]
    with ServerProcess([folder / "models"], folder / "log", options) as server:
        yield server.wait_ready(120)


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[Any]:
    with triton_http.InferenceServerClient(server.address, concurrency=8, network_timeout=60) as client:
        yield client


def ask(client: Any, model: str, *values: int, **more: Any) -> list[int]:
    tensor = triton_http.InferInput("X", [len(values)], "INT32")
    tensor.set_data_from_numpy(np.array(values, np.int32))
    return client.infer(model, [tensor], **more).as_numpy("Y").tolist()


def ask_apart(server: ServerProcess, model: str, *values: int) -> list[int]:
    """From another thread, for which Triton's client wants another connection."""
    with triton_http.InferenceServerClient(server.address, network_timeout=60) as client:
        return ask(client, model, *values)


def metrics(server: ServerProcess) -> str:
    return server.get("/metrics")[1].decode()


@pytest.mark.clause("TR-S7")
def test_a_call_and_a_call_of_one_that_calls(client: Any) -> None:
    assert ask(client, "sync", 1, 2, 3) == [2, 4, 6]
    assert ask(client, "nested", 1, 2, 3) == [4, 6, 8]


@pytest.mark.clause("TR-S7")
def test_a_hundred_at_once(client: Any) -> None:
    assert ask(client, "gathering", 100) == list(range(0, 200, 2))


@pytest.mark.clause("TR-S7")
def test_calls_of_a_decoupled_models_threads(server: ServerProcess) -> None:
    replies: queue.Queue[Any] = queue.Queue()
    with triton_grpc.InferenceServerClient(server.address) as client:
        client.start_stream(lambda result, error: replies.put(error or result))
        tensor = triton_grpc.InferInput("X", [20], "INT32")
        tensor.set_data_from_numpy(np.arange(20, dtype=np.int32))
        client.async_stream_infer("threading", [tensor])
        found = sorted(replies.get(timeout=PATIENCE_S).as_numpy("Y")[0] for _ in range(20))
        client.stop_stream()
    assert found == list(range(0, 40, 2))


@pytest.mark.clause("TR-S7")
def test_a_model_may_call_itself_while_an_instance_is_free(client: Any) -> None:
    assert ask(client, "itself", 1) == [0]
    with pytest.raises(InferenceServerException, match="'itself' would wait for itself"):
        ask(client, "itself", 2)
    assert ask(client, "itself", 1) == [0]


@pytest.mark.clause("TR-S7")
def test_any_number_of_responses_and_the_empty_one_at_the_end(client: Any) -> None:
    assert ask(client, "summing", 1, 2, 3) == [4, 6, 1] * 2
    assert ask(client, "summing", 1, -1, 3) == [4, 4, 1] * 2
    assert ask(client, "summing", *range(1000)) == [1001, 499500, 1] * 2


@pytest.mark.clause("TR-S7")
@pytest.mark.parametrize("cancels", [0, 1])
def test_who_drops_the_responses_gives_the_request_up(
    cancels: int, client: Any, server: ServerProcess
) -> None:
    before = server.output().count("nobody wants more")
    assert ask(client, "dropping", cancels) == [0]
    until(lambda: server.output().count("nobody wants more") == before + 1)


NOT_READY = "Error when running inference: Failed for execute the inference request. Model '{}' is not ready."


@pytest.mark.clause("TR-S7")
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (0, f"4: Model none - {NOT_READY.format('none')}"),
        (1, "3: Model double - Error when running inference: unexpected shape for input 'X'"),
        (2, "5: Model repeat - Error when running inference: Model repeat is using the decoupled."),
        (3, "2: negative"),
        (4, f"4: Model double - {NOT_READY.format('double')}"),
        (5, "4: Request timeout expired"),
        (6, f"4: Model none - {NOT_READY.format('none')}"),
    ],
)
def test_what_a_call_is_told_when_it_fails(kind: int, text: str, client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        ask(client, "wrong", kind)
    assert text in str(caught.value)


@pytest.mark.clause("TR-S7")
def test_the_callers_deadline_is_that_of_its_calls(client: Any, server: ServerProcess) -> None:
    began = server.output().count('"protocol":"bls"')
    with pytest.raises(InferenceServerException, match="Request timeout expired"):
        ask(client, "waiting", 100_000, timeout=100_000)
    until(lambda: server.output().count('"protocol":"bls"') > began)
    wakes = Path(server._paths[0]) / "napping" / "wakes"
    wakes.touch()  # its model was at work all the time
    assert ask(client, "waiting", 1) == [1]
    until(lambda: gauge(server, "napping", "running_batches") == 0)
    wakes.unlink()


@pytest.mark.clause("TR-S7")
def test_a_host_that_is_killed_amid_a_call_costs_only_its_own(client: Any, server: ServerProcess) -> None:
    (pid,) = ask(client, "waiting", 0)
    in_slow = 'salver_running_batches{model="slow",version="1"} 1.0'
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        dying = pool.submit(ask_apart, server, "waiting", 3000)
        until(lambda: in_slow in metrics(server))
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(InferenceServerException, match="died"):
            dying.result(PATIENCE_S)
    until(lambda: server.get("/v2/models/waiting/ready")[0] == 200 and answers(client, "waiting"))


def answers(client: Any, model: str) -> bool:
    try:
        return bool(ask(client, model, 1))
    except InferenceServerException:
        return False


@pytest.mark.clause("TR-A3", "TR-S11")
def test_a_model_is_told_that_its_caller_has_gone(client: Any, server: ServerProcess) -> None:
    assert ask(client, "patient", 1) == [0]
    with pytest.raises(InferenceServerException, match="Request timeout expired"):
        ask(client, "patient", 0, timeout=200_000)
    until(lambda: "cancelled: [True]" in server.output())
    assert ask(client, "patient", 1) == [0]


@pytest.mark.clause("TR-M8")
def test_numbers_of_all_instances_through_the_death_of_one(client: Any, server: ServerProcess) -> None:
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        said = list(pool.map(lambda n: ask_apart(server, "counting", n, 0), range(20)))
    assert len({pid for _, _, pid in said}) == 2
    assert max(calls for calls, _, _ in said) == 20
    with pytest.raises(InferenceServerException, match="died"):
        ask(client, "counting", -1)
    until(lambda: answers(client, "counting"))
    lines = metrics(server).splitlines()
    (calls,) = [line for line in lines if line.startswith("my_calls")]
    assert float(calls.removeprefix('my_calls{model="counting"} ')) >= 21
    assert "# TYPE my_calls counter" in lines and "# TYPE my_sizes histogram" in lines
    (sizes,) = [line for line in lines if line.startswith('my_sizes_bucket{le="10.0",model="counting"}')]
    assert float(sizes.split()[1]) == float(calls.split()[1])
    assert [line for line in lines if line.startswith("my_level ")]


@pytest.mark.clause("TR-A2")
def test_a_model_has_a_say_in_whether_it_is_ready(client: Any, server: ServerProcess) -> None:
    assert client.is_model_ready("fickle")
    ask(client, "fickle", 1)
    assert not client.is_model_ready("fickle")
    with triton_grpc.InferenceServerClient(server.address) as grpc:
        assert not grpc.is_model_ready("fickle")
        ask(client, "fickle", 1)
        assert grpc.is_model_ready("fickle")
    assert client.is_server_ready()


@pytest.mark.clause("TR-A3")
def test_lines_of_a_model_have_their_own_level(server: ServerProcess) -> None:
    lines = [line for line in server.output().splitlines() if "[fickle:1]" in line]
    assert any('"level":"info"' in line and "some of it" in line for line in lines)
    assert any('"level":"error"' in line and "bad news" in line for line in lines)
    assert not any("all of it" in line for line in lines)


@pytest.mark.clause("TR-S7")
def test_a_call_is_in_the_trace_of_the_request_that_it_serves(client: Any, server: ServerProcess) -> None:
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    assert ask(client, "tracing", 4, headers={"traceparent": trace}) == [8]
    until(lambda: '"request":"below"' in server.output() or '"request_id":"below"' in server.output())
    (line,) = [line for line in server.output().splitlines() if '"below"' in line]
    assert "a" * 32 in line and '"bls"' in line


@pytest.mark.clause("TR-S7")
def test_models_load_and_unload_others(client: Any) -> None:
    assert ask(client, "managing", 1) == [1, 1, 1]

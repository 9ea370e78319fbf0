"""More work than time: who is refused, in which words, who goes first, and is anything ever lost?

The model of these tests ends no run while its gate, a file, is closed. So a queue fills for certain, and a
refusal that comes while the gate is closed came at once. Each answer says in which run of the model it was
made: that is the order in which the server served. No test looks at a clock.
"""

import contextlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from curling import curl
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, until
from zoo import gauge

from salver.testing.process import ServerProcess

SOURCE = (Path(__file__).parent.parent / "support" / "models" / "gated.py").read_text()
#: Of each model: seconds of a run, and what its owner wants. Where a test counts who waits, the gate's run is
#: the first of all: of a model known to be slow, a batch may be made ready, out of the queue, while one runs.
MODELS = {
    "full": (0.0, "[batching]\nmax_rows = 1\nmax_queue = 3\n"),
    "objective": (0.12, 'objective = {latency_p99 = "200ms"}\n[batching]\nmax_rows = 1\n'),
    "deadline": (1.5, '[batching]\npolicy = "half-floor"\nmax_rows = 1\n'),
    "tenants": (0.0, "[batching]\nmax_rows = 1\n"),
    "weights": (0.0, "[batching]\nmax_rows = 1\n[fairness.weights]\npaid = 2\n"),
    "levels": (0.0, "[batching]\nmax_rows = 1\nmax_queue = 12\n[priorities]\nlevels = 2\nmax_passes = 3\n"),
    "classes": (0.0, "[batching]\nmax_rows = 1\n[bulk]\nmax_rows = 4\n"),
    "burst": (0.02, "[batching]\nmax_rows = 2\nmax_queue = 4\n"),
    "promise": (0.02, 'objective = {latency_p99 = "150ms"}\n[batching]\nmax_rows = 1\n'),
}
INSTANCE = '[instances]\nrunner = "thread"\ncount = 1\nthreads = 1\n'
PHASES = ("queue_ms", "formation_ms", "inference_ms", "rest_ms")
CLOCK_ERROR = 1e-3  # two readings of one clock may lie the wrong way round by rounding, in milliseconds
FULL = "Exceeds maximum queue size"
TFS_FULL = "The batch scheduling queue to which this task was submitted is full"
UNAVAILABLE = "StatusCode.UNAVAILABLE"


class Reply(NamedTuple):
    """What one caller got: ``ok`` or the protocol's status, twice its x or the error's text, and the run."""

    status: str
    said: object
    run: int = 0


class Stage:
    """The server, and the gates of its models."""

    def __init__(self, server: ServerProcess, gates: Path) -> None:
        self.server = server
        self._gates = gates
        self._pool = ThreadPoolExecutor(64)

    def ask(self, model: str, x: float = 1.0, **words: str) -> Reply:
        """Over HTTP, with these headers."""
        headers = {name.replace("_", "-"): word for name, word in words.items()}
        status, body = self.server.ask("POST", f"/v2/models/{model}/infer", body_of(x), headers)
        told = json.loads(body)
        if status != 200:
            return Reply(str(status), told["error"])
        outputs = {output["name"]: output["data"][0] for output in told["outputs"]}
        return Reply("ok", outputs["y"], outputs["run"])

    def soon(self, ask: Callable[..., Reply], *args: object, **words: object) -> "Future[Reply]":
        """The same, without waiting for the answer."""
        return self._pool.submit(ask, *args, **words)

    @contextlib.contextmanager
    def closed(self, model: str) -> Iterator["Future[Reply]"]:
        """The gate is closed and a run stands before it; its request's answer comes afterwards."""
        gate = self._gates / model
        gate.touch()
        try:
            first = self.soon(self.ask, model)
            self.until(model, "running_batches", 1)
            yield first
        finally:
            gate.unlink()

    def gauge(self, model: str, name: str) -> float:
        """One of the model's gauges, now."""
        return gauge(self.server, model, name)

    def until(self, model: str, name: str, value: float) -> None:
        """Return when the gauge has that value."""
        until(lambda: gauge(self.server, model, name) == value, lambda: gauge(self.server, model, name))

    def counted(self, model: str) -> Counter[tuple[str, str]]:
        """Requests of a model so far, by protocol and outcome."""
        found: Counter[tuple[str, str]] = Counter()
        for line in self.server.get("/metrics")[1].decode().splitlines():
            if line.startswith(f'salver_requests_total{{model="{model}",'):
                head, value = line.rsplit(" ", 1)
                protocol, outcome = (
                    head.split(f'{key}="')[1].split('"')[0] for key in ("protocol", "outcome")
                )
                found[protocol, outcome] += int(float(value))
        return found

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


def body_of(x: float, **parameters: object) -> bytes:
    given = {"name": "x", "datatype": "FP32", "shape": [1], "data": [x]}
    return json.dumps({"inputs": [given], "parameters": parameters}).encode()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("overload")
    gates = folder / "gates"
    gates.mkdir()
    for name, (seconds, config) in MODELS.items():
        home = folder / "models" / name
        (home / "1").mkdir(parents=True)
        source = SOURCE.replace("PATH", str(gates / name)).replace("SECONDS = 0.0", f"SECONDS = {seconds}")
        (home / "1" / "model.py").write_text(source)
        (home / "salver.toml").write_text(config + INSTANCE)
    with ServerProcess([folder / "models"], folder / "log", ["--state-dir", ""]) as server:
        stage = Stage(server.wait_ready(), gates)
        yield stage
        stage.close()


def given(module: object, x: float = 1.0) -> list[object]:
    tensor = module.InferInput("x", [1], "FP32")  # type: ignore[attr-defined]
    tensor.set_data_from_numpy(np.array([x], np.float32))
    return [tensor]


def reply_of(result: object) -> Reply:
    values = [result.as_numpy(name)[0] for name in ("y", "run")]  # type: ignore[attr-defined]
    return Reply("ok", float(values[0]), int(values[1]))


def over_http(stage: Stage, model: str, x: float = 1.0, **options: object) -> Reply:
    """tritonclient over HTTP."""
    with triton_http.InferenceServerClient(stage.server.address, network_timeout=PATIENCE_S) as client:
        try:
            return reply_of(client.infer(model, given(triton_http, x), **options))
        except InferenceServerException as error:
            return Reply(str(error.status()), error.message())


def over_grpc(stage: Stage, model: str, x: float = 1.0, **options: object) -> Reply:
    """tritonclient over gRPC."""
    with triton_grpc.InferenceServerClient(stage.server.address) as client:
        try:
            return reply_of(client.infer(model, given(triton_grpc, x), **options))
        except InferenceServerException as error:
            return Reply(str(error.status()), error.message())


def over_v1(stage: Stage, model: str, x: float = 1.0, **headers: str) -> Reply:
    """KServe v1."""
    body = json.dumps({"instances": [x]}).encode()
    status, reply = stage.server.ask("POST", f"/v1/models/{model}:predict", body, headers)
    told = json.loads(reply)
    if status != 200:
        return Reply(str(status), told["error"])
    return Reply("ok", told["predictions"][0]["y"], told["predictions"][0]["run"])


def refused_everywhere(stage: Stage, model: str, text: str) -> int:
    """Each protocol refuses in its own form, and says when to come back; how many were refused."""
    bodies = {
        f"/v2/models/{model}/infer": body_of(1.0).decode(),
        f"/v1/models/{model}:predict": '{"instances": [1]}',
    }
    for path, body in bodies.items():
        for flag in ("--http1.1", "--http2-prior-knowledge"):
            status, head, reply = curl(flag, stage.server.url + path, "-d", body)
            fields = dict(line.split(": ", 1) for line in head.split("\r\n")[1:])
            assert (status, fields["content-type"]) == (503, "application/json")
            assert int(fields["retry-after"]) >= 1
            error = json.loads(reply)
            wanted = TFS_FULL if path.startswith("/v1/") and text == FULL else text
            assert list(error) == ["error"] and wanted in error["error"]
    status, said, _ = over_http(stage, model)
    assert status == "503" and text in str(said)
    status, said, _ = over_grpc(stage, model)
    assert status == UNAVAILABLE and text in str(said)
    request = service_pb2.ModelInferRequest(model_name=model)
    tensor = request.inputs.add(name="x", datatype="FP32", shape=[1])
    tensor.contents.fp32_contents.append(1.0)
    with grpc.insecure_channel(stage.server.address) as channel, pytest.raises(grpc.RpcError) as caught:
        service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    trailers = dict(caught.value.trailing_metadata())
    assert int(trailers["grpc-retry-pushback-ms"]) >= 1
    return 7


def recovered(stage: Stage, model: str) -> Reply:
    """The first answer that a patient caller gets."""
    return until(lambda: (reply := stage.ask(model)).status == "ok" and reply, lambda: stage.ask(model))


def test_a_full_queue_refuses_at_once_and_at_no_cost(stage: Stage) -> None:
    with stage.closed("full") as first:
        waiting = [stage.soon(stage.ask, "full", x) for x in (2.0, 3.0, 4.0)]
        stage.until("full", "queue_depth", 3)
        refused_everywhere(stage, "full", FULL)
        assert not any(future.done() for future in [first, *waiting])  # so it was at once
    replies = [future.result(PATIENCE_S) for future in [first, *waiting]]
    assert [reply[:2] for reply in replies] == [("ok", 2.0 * x) for x in (1.0, 2.0, 3.0, 4.0)]
    assert stage.ask("full").run == replies[0].run + 4  # no run for those who were refused


def test_what_would_miss_the_objective_is_refused_at_once_and_the_model_recovers(stage: Stage) -> None:
    with stage.closed("objective") as first:
        waiting = []

        def is_hopeless() -> bool:
            """Two runs of 120 ms ahead miss 200 ms, however few come; one does not."""
            waiting.append(stage.soon(stage.ask, "objective"))
            return stage.gauge("objective", "queue_depth") == 2

        until(is_hopeless)
        refused_everywhere(stage, "objective", "the objective of 200 ms cannot be met")
        assert not first.done()
    replies = [future.result(PATIENCE_S) for future in [first, *waiting]]
    assert {reply.status for reply in replies} <= {"ok", "503"}
    assert replies[0].status == "ok"  # a run that has begun is ended, however late
    assert recovered(stage, "objective").said == 2.0


@pytest.mark.parametrize("form", ["http", "grpc", "grpc deadline"])
def test_a_hopeless_deadline_is_refused_before_it_costs_a_run(stage: Stage, form: str) -> None:
    """A run takes 1.5 s. Whoever has 1.2 s is told so by the server, and not by a clock that ran out."""
    patient = {"timeout": 30_000_000}
    before = over_http(stage, "deadline", **patient).run
    if form == "http":
        status, said, _ = over_http(stage, "deadline", timeout=1_200_000)
    else:
        options = {"timeout": 1_200_000} if form == "grpc" else {"client_timeout": 1.2}
        status, said, _ = over_grpc(stage, "deadline", **options)
    assert status == ("503" if form == "http" else "StatusCode.DEADLINE_EXCEEDED")
    assert "the deadline cannot be met" in str(said)
    assert over_http(stage, "deadline", **patient).run == before + 1


def in_order(futures: dict[str, list["Future[Reply]"]]) -> str:
    """Whose requests were served one after another, by the first letter of their names."""
    replies = [(name, future.result(PATIENCE_S)) for name, mine in futures.items() for future in mine]
    assert all(reply.status == "ok" for _, reply in replies), replies
    return "".join(name[0] for name, reply in sorted(replies, key=lambda pair: pair[1].run))


def test_a_small_tenant_is_answered_beside_one_that_floods(stage: Stage) -> None:
    with stage.closed("tenants"):
        flood = [stage.soon(stage.ask, "tenants", x_tenant="big") for _ in range(40)]
        stage.until("tenants", "queue_depth", 40)
        parameters = {"parameters": {"tenant": "small"}}
        small = [
            stage.soon(over_grpc, stage, "tenants", headers={"x-tenant": "small"}),
            stage.soon(over_grpc, stage, "tenants", **parameters),
            stage.soon(over_http, stage, "tenants", headers={"x-tenant": "small"}),
            stage.soon(over_http, stage, "tenants", **parameters),
            stage.soon(over_v1, stage, "tenants", **{"x-tenant": "small"}),
        ]
        stage.until("tenants", "queue_depth", 45)
    order = in_order({"big": flood, "small": small})
    assert order[: order.rindex("s")].count("b") <= len(small) + 1


def test_weights_are_shares(stage: Stage) -> None:
    with stage.closed("weights"):
        futures = {
            name: [stage.soon(stage.ask, "weights", x_tenant=name) for _ in range(20)]
            for name in ("paid", "free")
        }
        stage.until("weights", "queue_depth", 40)
    order = in_order(futures)
    assert abs(order[:24].count("p") - 16) <= 1


def test_higher_levels_go_first_but_not_for_ever_and_the_lowest_makes_room(stage: Stage) -> None:
    with stage.closed("levels"):
        low = [stage.soon(stage.ask, "levels", x_priority="2") for _ in range(7)]
        stage.until("levels", "queue_depth", 7)
        high = [
            stage.soon(over_http, stage, "levels", priority=1),
            stage.soon(over_grpc, stage, "levels", priority=1),
            stage.soon(over_grpc, stage, "levels", headers={"x-priority": "1"}),
            *(stage.soon(stage.ask, "levels", x_priority="1") for _ in range(2)),
        ]
        stage.until("levels", "queue_depth", 12)
        assert stage.ask("levels", x_priority="2") == Reply(
            "503", f"{FULL}. 12 requests are waiting; retry later."
        )
        high.append(stage.soon(stage.ask, "levels", x_priority="1"))
        evicted = until(lambda: [future for future in low if future.done()])
        assert [future.result() for future in evicted] == [
            Reply("503", f"{FULL}. It made room for others; retry later.")
        ]
    low = [future for future in low if future not in evicted]
    # max_passes is 3: after so many runs that passed over it, the lower level sends one ahead.
    assert in_order({"high": high, "low": low}) == "hhhlhhhlllll"


def test_urgent_work_overtakes_and_bulk_work_yields(stage: Stage) -> None:
    with stage.closed("classes"):
        bulk = [
            stage.soon(stage.ask, "classes", x_service_class="bulk"),
            stage.soon(over_v1, stage, "classes", **{"x-service-class": "bulk"}),
            stage.soon(over_http, stage, "classes", parameters={"service_class": "bulk"}),
            stage.soon(over_grpc, stage, "classes", headers={"x-service-class": "bulk"}),
        ]
        stage.until("classes", "queue_depth", 4)
        normal = [stage.soon(stage.ask, "classes") for _ in range(3)]
        stage.until("classes", "queue_depth", 7)
        urgent = [
            stage.soon(over_grpc, stage, "classes", parameters={"service_class": "urgent"}),
            stage.soon(stage.ask, "classes", x_service_class="urgent"),
        ]
        stage.until("classes", "queue_depth", 9)
    assert in_order({"urgent": urgent, "normal": normal, "bulk": bulk}) == "uunnnbbbb"
    assert len({future.result().run for future in bulk}) == 1  # one large batch, after all others


class Caller(threading.Thread):
    """Asks again and again, whatever the answers, and keeps them by request id."""

    def __init__(self, stage: Stage, number: int, model: str, start: threading.Barrier) -> None:
        super().__init__()
        self.protocol = ("oip-http", "oip-grpc", "tfs-http")[number % 3]
        self._call = (over_http, over_grpc, over_v1)[number % 3]
        self._stage = stage
        self._number = number
        self._model = model
        self._start = start
        self.replies: dict[str, tuple[float, Reply]] = {}

    def run(self) -> None:
        self._start.wait(PATIENCE_S)
        for turn in range(25):
            x = float(self._number * 100 + turn)
            name = f"{self._model}-{x:.0f}"
            headers = {"x-request-id": name}
            if self.protocol == "tfs-http":
                reply = over_v1(self._stage, self._model, x, **headers)
            else:
                reply = self._call(self._stage, self._model, x, headers=headers)
            self.replies[name] = (x, reply)


@pytest.mark.parametrize("model", ["burst", "promise"])
def test_in_a_burst_every_request_gets_exactly_one_answer_and_the_model_is_well_afterwards(
    stage: Stage, model: str
) -> None:
    before = stage.counted(model)
    start = threading.Barrier(18)
    callers = [Caller(stage, number, model, start) for number in range(18)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(PATIENCE_S)
    seen: Counter[tuple[str, str]] = Counter()
    answered = []
    for caller in callers:
        assert len(caller.replies) == 25
        for name, (x, reply) in caller.replies.items():
            if reply.status == "ok":
                assert reply.said == 2 * x  # its own answer
                answered.append(name)
            else:
                assert reply.status in ("503", UNAVAILABLE)
            seen[caller.protocol, "ok" if reply.status == "ok" else "overloaded"] += 1
    assert 0 < len(answered) < 18 * 25

    # The account is kept off the requests' path.
    until(lambda: stage.counted(model) - before == seen, lambda: (stage.counted(model) - before, seen))
    for name in answered:
        told = json.loads(stage.server.get(f"/v2/models/{model}/explain/{name}")[1])
        assert told["outcome"] == "ok"
        assert sum(told[phase] for phase in PHASES) == pytest.approx(told["latency_ms"], abs=1e-5)
        assert min(told[phase] for phase in PHASES) >= -CLOCK_ERROR, told

    assert recovered(stage, model).said == 2.0
    stage.until(model, "queue_depth", 0)
    stage.until(model, "running_batches", 0)
    assert stage.server.get(f"/v2/models/{model}/ready")[0] == 200
    for call in (over_http, over_grpc, over_v1):
        assert call(stage, model, 7.0)[:2] == ("ok", 14.0)

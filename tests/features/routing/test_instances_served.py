"""Four real servers: one answers for three, which are drained, come and go."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from waiting import until
from zoo import write_mlp

from salver.cli import main
from salver.features.routing.operations import InstancesView
from salver.testing.process import ServerProcess

RULES = """
[[rules]]
name = "last"
when = { model = "mlp", header.x-plan = "gold" }
set = { group = "g2" }

[[rules]]
name = "nobody"
when = { model = "mlp", header.x-plan = "lead" }
set = { group = "g9" }
"""


class Cluster:
    """A server in front of three others."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder, self._stack = folder, stack
        write_mlp(folder / "models" / "mlp", 1)
        self.backs = [self._start(f"back{number}") for number in range(3)]
        self.file = folder / "front" / "mlp" / "instances.toml"
        self.file.parent.mkdir(parents=True)
        self.write(self.backs)
        rules = folder / "rules.toml"
        rules.write_text(RULES)
        options = ["--poll-seconds", "0.2", "--rules-file", str(rules)]
        front = ServerProcess([folder / "front"], folder / "front.log", options)
        self.front = stack.enter_context(front).wait_ready()

    def _start(self, name: str, port: int = 0) -> ServerProcess:
        options = ["--port", str(port)] if port else []
        server = ServerProcess([self._folder / "models"], self._folder / f"{name}.log", options)
        return self._stack.enter_context(server).wait_ready()

    def write(self, backs: list[ServerProcess]) -> None:
        tables = ", ".join(f'{{ url = "{back.url}", group = "g{n}" }}' for n, back in enumerate(backs))
        self.file.write_text(f"instances = [{tables}]\nattempt_s = 1.0\ncheck_s = 0.2\n")

    def view(self) -> InstancesView:
        return msgspec.json.decode(self.front.get("/api/v1/models/mlp/instances")[1], type=InstancesView)

    def states(self) -> list[str]:
        return [each.state for each in self.view().instances]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path_factory.mktemp("routed"), stack)


ROWS = np.linspace(-1, 1, 32, dtype=np.float32).reshape(2, 16)


def ask(port: int) -> np.ndarray:
    rows = triton_http.InferInput("x", [2, 16], "FP32")
    rows.set_data_from_numpy(ROWS)
    with triton_http.InferenceServerClient(f"127.0.0.1:{port}") as client:
        answer = client.infer("mlp", [rows]).as_numpy("y")
    assert answer is not None
    return answer


class Callers:
    """Four callers without a pause; ``errors`` has what failed."""

    def __init__(self, port: int) -> None:
        self.errors: list[str] = []
        self.answered = 0
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(port,)) for _ in range(4)]

    def _call(self, port: int) -> None:
        while not self._is_over.is_set():
            try:
                ask(port)
                self.answered += 1
            except Exception as error:
                self.errors.append(repr(error))

    def __enter__(self) -> "Callers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def test_answers_are_those_of_the_instances(cluster: Cluster) -> None:
    expected = ask(cluster.backs[0].port)
    assert np.array_equal(ask(cluster.front.port), expected)
    rows = triton_grpc.InferInput("x", [2, 16], "FP32")
    rows.set_data_from_numpy(ROWS)
    with triton_grpc.InferenceServerClient(f"127.0.0.1:{cluster.front.port}") as client:
        assert client.is_model_ready("mlp")
        assert np.array_equal(client.infer("mlp", [rows]).as_numpy("y"), expected)
    body = {"instances": ROWS.tolist()}
    status, answer = cluster.front.post("/v1/models/mlp:predict", body)
    assert status == 200 and np.allclose(answer["predictions"], expected, atol=1e-6)


def test_a_drained_instance_gets_nothing(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    drained, url = cluster.backs[0].url, cluster.front.url
    assert main(["instances", "drain", "mlp", drained, "--url", url]) == 0
    before = cluster.view().instances[0].answered
    for _ in range(30):
        ask(cluster.front.port)
    assert cluster.view().instances[0].answered == before
    page = cluster.front.get("/metrics")[1].decode()
    assert (
        "salver_instance_retries_total" in page
        and f'instance="{drained}",model="mlp",outcome="failed"' in page
    )
    capsys.readouterr()
    assert main(["instances", "list", "mlp", "--url", url]) == 0
    heading, first, *_, last = capsys.readouterr().out.splitlines()
    assert heading.split()[:3] == ["instance", "state", "weight"]
    assert first.split()[:2] == [drained, "draining"] and last.startswith("measured; 0 retries")
    assert main(["instances", "restore", "mlp", drained, "--url", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["instances"][0]["state"] == "available"
    assert main(["instances", "drain", "mlp", "http://other:1", "--url", url]) == 1
    assert "has no instance 'http://other:1'" in capsys.readouterr().err


def test_a_rule_sends_requests_to_a_group(cluster: Cluster) -> None:
    path, body = "/v1/models/mlp:predict", json.dumps({"instances": ROWS.tolist()}).encode()
    before = [each.answered for each in cluster.view().instances]
    for _ in range(9):
        assert cluster.front.ask("POST", path, body, {"x-plan": "gold"})[0] == 200
    assert [each.answered for each in cluster.view().instances] == [*before[:2], before[2] + 9]
    status, said, *_ = cluster.front.ask("POST", path, body, {"x-plan": "lead"})
    assert status == 404 and b"no instance of group 'g9' of model 'mlp' is there" in said


def test_the_file_is_watched(cluster: Cluster) -> None:
    with Callers(cluster.front.port) as callers:
        cluster.write([cluster.backs[0], cluster.backs[2]])
        until(lambda: len(cluster.view().instances) == 2)
        until(lambda: callers.answered > 20)
    assert callers.errors == []

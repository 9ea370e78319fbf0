"""Three real servers: one sends sequences and streams on to two others."""

import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from waiting import until

from salver.testing.process import ServerProcess

TOTAL = """import numpy as np


class Model:
    inputs = {"x": ("FP32", [-1, 1]), "START": ("INT32", [-1, 1]), "ID": ("UINT64", [-1, 1])}
    outputs = {"total": ("FP32", [-1, 1])}

    def load(self, context):
        self.seen = {}

    def predict(self, inputs):
        found = []
        for x, start, id in zip(*(inputs[name][:, 0].tolist() for name in self.inputs), strict=True):
            self.seen[id] = x if start else self.seen[id] + x
            found.append([self.seen[id]])
        return {"total": np.array(found, np.float32)}
"""
SEQUENCES = """
[sequences]
strategy = "oldest"
candidates = 100
idle_ms = 600_000
controls = [{ name = "START", kind = "start" }, { name = "ID", kind = "corrid", datatype = "UINT64" }]
"""
LETTERS = """import time

import numpy as np


class Model:
    def step(self, slots, tokens):
        time.sleep(0.02)
        return np.log(np.eye(256, dtype=np.float32)[(tokens + 1) % 128] + 1e-9)

    def release(self, slot):
        pass
"""


class Cluster:
    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        models = folder / "models"
        for name, code, config in (
            ("total", TOTAL, SEQUENCES),
            ("letters", LETTERS, "[steps]\nvocabulary = 'bytes'\n"),
        ):
            (models / name).mkdir(parents=True)
            (models / name / "model.py").write_text(code)
            (models / name / "salver.toml").write_text(config)
        self.backs = [
            stack.enter_context(ServerProcess([models], folder / name)).wait_ready() for name in ("a", "b")
        ]
        self._folder = folder
        self.write("letters", self.backs)
        self.write("total", self.backs)
        options = ["--poll-seconds", "0.2"]
        front = ServerProcess([folder / "front"], folder / "log", options)
        self.front = stack.enter_context(front).wait_ready()

    def write(self, model: str, backs: list[ServerProcess]) -> None:
        file = self._folder / "front" / model / "instances.toml"
        file.parent.mkdir(parents=True, exist_ok=True)
        urls = ", ".join(f'"{back.url}"' for back in backs)
        file.write_text(f"instances = [{urls}]\npolicy = 'round-robin'\n")

    def add(self, id: int, x: float, **flags: bool) -> tuple[int, Any]:
        tensor = {"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [x]}
        body = {"inputs": [tensor], "parameters": {"sequence_id": id, **flags}}
        status, answer = self.front.post("/v2/models/total/infer", body)
        return status, answer["outputs"][0]["data"][0] if status == 200 else answer["error"]

    def instances(self) -> list[str]:
        rows = json.loads(self.front.get("/api/v1/models/total/instances")[1])["instances"]
        return [row["url"] for row in rows]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with contextlib.ExitStack() as stack:
        yield Cluster(tmp_path_factory.mktemp("sequences"), stack)


def test_pieces_come_through_and_end_with_the_caller(cluster: Cluster) -> None:
    def stream(server: ServerProcess, most: int) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        body = {"text_input": "a", "max_tokens": most, "temperature": 0}
        connection.request("POST", "/v2/models/letters/generate_stream", json.dumps(body))
        return connection.getresponse()

    short = {"text_input": "a", "max_tokens": 4, "temperature": 0}
    assert cluster.front.post("/v2/models/letters/generate", short)[1]["text_output"] == "bcde"

    def texts(server: ServerProcess) -> list[str]:
        events = stream(server, 4).read().decode()
        return re.findall('"text_output":"(.*?)"', events)

    assert texts(cluster.front) == texts(cluster.backs[0]) == ["b", "c", "d", "e"]

    def running() -> float:
        pattern = r'^salver_running_batches\{.*?model="letters".*?\} (.+)'
        pages = [back.get("/metrics")[1].decode() for back in cluster.backs]
        found = [re.findall(pattern, page, re.M) for page in pages]
        return sum(float(number) for numbers in found for number in numbers)

    endless = stream(cluster.front, 900)
    endless.readline()
    assert until(lambda: running() == 1)
    endless.close()
    assert until(lambda: running() == 0)


def test_sequences_stay_while_the_list_changes_and_end_with_their_instance(cluster: Cluster) -> None:
    for id in range(1, 9):
        assert cluster.add(id, id, sequence_start=True) == (200, id)
    for id in range(1, 9):
        assert cluster.add(id, 1) == (200, id + 1)
    status, error = cluster.add(99, 1)
    assert status == 400 and "must specify the START flag" in error
    first, second = cluster.backs
    cluster.write("total", [second, first])
    until(lambda: cluster.instances() == [second.url, first.url])
    for id in range(1, 9):
        assert cluster.add(id, 1) == (200, id + 2)
    cluster.write("total", [second])
    until(lambda: cluster.instances() == [second.url])
    answers = [cluster.add(id, 1) for id in range(1, 9)]
    assert sorted({status for status, _ in answers}) == [200, 503]
    assert all(f"was at {first.url}, which is gone" in error for status, error in answers if status == 503)

"""A change of the number of instances alone is made in place: the model keeps what it knows (TR-L4)."""

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc
from tritonclient.grpc.aio import InferenceServerClient
from waiting import auntil

from salver.testing.process import ServerProcess

MODEL = """
import os
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args):
        self.runs = 0

    def execute(self, requests):
        self.runs += 1
        said = np.array([[os.getpid(), self.runs]], np.int64)
        return [pb_utils.InferenceResponse([pb_utils.Tensor("SAID", said)]) for _ in requests]
"""
CONFIG = """
backend: "python"
max_batch_size: 1
input [ {{ name: "X" data_type: TYPE_FP32 dims: [ 1 ] }} ]
output [ {{ name: "SAID" data_type: TYPE_INT64 dims: [ 2 ] }} ]
instance_group [ {{ count: {count} kind: KIND_CPU }} ]
{more}
"""


def configure(path: Path, count: int, more: str = "") -> None:
    path.write_text(CONFIG.format(count=count, more=more))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    folder = tmp_path / "repository" / "counter" / "1"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text(MODEL)
    path = folder.parent / "config.pbtxt"
    configure(path, 1)
    return path


@pytest.fixture
def server(config: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    options = ["--poll-seconds", "0.1", "--state-dir", ""]
    with ServerProcess([config.parents[1]], tmp_path / "log", options) as server:
        yield server.wait_ready()


def instances(server: ServerProcess) -> int:
    found = re.search(r"^salver_instances{[^}]*} (\d+)", server.get("/metrics")[1].decode(), re.M)
    assert found is not None
    return int(found[1])


@pytest.mark.clause("TR-L4")
async def test_the_model_goes_on_with_what_it_knows(server: ServerProcess, config: Path) -> None:
    runs: dict[int, int] = {}
    failed: list[Exception] = []
    is_over = False

    async def call(client: InferenceServerClient) -> None:
        while not is_over:
            given = grpc.InferInput("X", [1, 1], "FP32")
            given.set_data_from_numpy(np.zeros((1, 1), np.float32))
            try:
                answer = await client.infer("counter", [given])
            except Exception as error:
                failed.append(error)
                return
            pid, count = answer.as_numpy("SAID")[0]
            assert runs.get(pid, 0) != count
            runs[pid] = max(runs.get(pid, 0), count)
            await asyncio.sleep(0.002)

    async def comes_to(count: int) -> None:
        async def is_so() -> bool:
            return await asyncio.to_thread(instances, server) == count

        await auntil(is_so, server.output)
        seen = sum(runs.values())
        await auntil(lambda: sum(runs.values()) >= seen + 50, lambda: (failed, server.output()))

    async with InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        callers = [asyncio.create_task(call(client)) for _ in range(4)]
        await comes_to(1)
        (first,) = runs
        before = runs[first]
        for count in (3, 2):
            configure(config, count)
            await comes_to(count)
        assert len(runs) == 3 and runs[first] >= before
        assert server.output().count('"event":"model ready"') == 1
        told = await client.get_model_config("counter")
        assert told.config.instance_group[0].count == 2
        configure(config, 2, "dynamic_batching { }")
        # This is another model, and loaded anew.
        await auntil(lambda: server.output().count('"event":"model ready"') == 2, server.output)
        is_over = True
        await asyncio.gather(*callers)
    assert not failed

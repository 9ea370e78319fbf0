"""The same model on each engine: host processes, and a Ray cluster of three nodes that lose one."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
from ray_nodes import PLACE, VARIABLES, RayNodes, ray_nodes
from waiting import until
from zoo import infer_body, mlp_answer, write_mlp

from salver.features.routing.operations import InstancesView, InstanceView
from salver.testing.process import ServerProcess

needs_ray = pytest.mark.skipif(
    not (PLACE / "ray").exists(), reason="make it first: make .envs/ray-2.60/requirements.txt"
)


def write_models(folder: Path, count: int) -> Path:
    write_mlp(folder / "mlp", 1)
    (folder / "mlp" / "salver.toml").write_text(f"[instances]\ncount = {count}\n")
    return folder


def assert_answers(server: ServerProcess) -> None:
    body = infer_body(rows=3)
    status, answer = server.post("/v2/models/mlp/infer", body)
    assert status == 200, answer
    values = np.reshape(body["inputs"][0]["data"], (3, 16)).astype(np.float32)
    np.testing.assert_allclose(
        np.reshape(answer["outputs"][0]["data"], (3, 3)), mlp_answer(values), rtol=1e-5
    )


def test_host_processes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with ServerProcess([write_models(tmp_path / "models", 2)], log, ["--engine", "processes"]) as server:
        assert_answers(server.wait_ready())
        (host, other) = replicas(server)
        os.kill(int(host.url.removeprefix("process://")), signal.SIGKILL)
        for _ in range(20):
            assert_answers(server)
        until(lambda: "a replica is back" in log.read_text())
        assert len(replicas(server)) == 2 and other.url in [each.url for each in replicas(server)]


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    # Paths of sockets may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ray", dir="/tmp") as folder, ray_nodes(Path(folder)) as found:
        yield found


def replicas(server: ServerProcess) -> list[InstanceView]:
    found = server.get("/api/v1/models/mlp/instances")[1]
    return msgspec.json.decode(found, type=InstancesView).instances


def actors(raylet: int) -> list[int]:
    """Process ids of the models on a node."""
    found = []
    for each in psutil.Process(raylet).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that ends
            if "ModelActor" in "".join(each.cmdline()):
                found.append(each.pid)
    return found


@needs_ray
def test_ray_that_loses_a_node(nodes: RayNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServerProcess, "spawn", staticmethod(subprocess.Popen))  # forks have another path
    log = tmp_path / "log"
    options = ["--engine", f"ray://{nodes.address}"]
    with ServerProcess([write_models(tmp_path / "models", 3)], log, options, VARIABLES) as server:
        assert_answers(server.wait_ready())
        assert [len(actors(raylet)) for raylet in nodes.raylets.values()] == [1, 1, 1]
        listening = {
            each.laddr.ip
            for pid in (server.pid, *nodes.raylets.values())
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
            for each in process.net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        }
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}

        lost = list(nodes.raylets.values())[-1]
        with ThreadPoolExecutor(8) as callers:
            loads = [callers.submit(assert_answers, server) for _ in range(400)]
            until(lambda: sum(each.done() for each in loads) > 40)
            os.kill(lost, signal.SIGKILL)
            for each in loads:
                each.result()
        until(lambda: "a replica is back" in log.read_text())
        left = list(nodes.raylets.values())[:-1]
        until(lambda: sum(len(actors(raylet)) for raylet in left) == 3)
        assert_answers(server)
        os.kill(server.pid, signal.SIGKILL)  # nobody tells the actors
        until(lambda: not any(map(actors, left)))

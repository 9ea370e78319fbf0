"""The same model on each engine: host processes, and a Ray cluster of three nodes that lose one."""

import asyncio
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from ray_nodes import PLACE, VARIABLES, RayNodes, ray_nodes
from waiting import PATIENCE_S, auntil, until
from zoo import infer_body, mlp_answer, write_mlp

from salver.client import Client
from salver.client.driving import drive
from salver.client.load import Tally, schedule
from salver.features import ClusterConfig
from salver.features.cluster.building import ClusterEngine
from salver.features.cluster.placement.command import explain
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


def placement(server: ServerProcess) -> Any:
    return msgspec.json.decode(server.get("/api/v1/models/mlp/placement")[1])


def test_host_processes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log"
    with ServerProcess([write_models(tmp_path / "models", 2)], log, ["--engine", "processes"]) as server:
        assert_answers(server.wait_ready())
        (host, other) = replicas(server)
        told = placement(server)
        assert {each["replica"] for each in told["cluster"]["replicas"]} == {host.url, other.url}
        assert (told["node"]["runner"], told["node"]["instances"]) == ("replica", 2)
        explain("mlp", url=server.url)
        assert f"cluster: {host.url} on this machine: a replica is missing" in capsys.readouterr().out
        os.kill(int(host.url.removeprefix("process://")), signal.SIGKILL)
        for _ in range(20):
            assert_answers(server)
        until(lambda: "a replica is back" in log.read_text())
        assert len(replicas(server)) == 2 and other.url in [each.url for each in replicas(server)]


async def test_nodes_that_do_not_come_are_waited_for_for_a_while() -> None:
    times = itertools.count(0.0, 100.0)
    kernel: Any = SimpleNamespace(clock=lambda: next(times))
    await ClusterEngine(kernel, ClusterConfig("processes", nodes=3)).prepare()
    assert next(times) > 120


SLEEPER = """import time
class Model:
    inputs = {"x": ("FP32", [1])}
    outputs = {"y": ("FP32", [1])}
    def predict(self, inputs):
        time.sleep(0.1)
        return {"y": inputs["x"] + %d}
"""


def write_sleeper(folder: Path, version: int) -> Path:
    """Write a model that can answer ten requests a second with each of one to four replicas."""
    new = folder / "sleeper" / f"new{version}"
    new.mkdir(parents=True)
    (new / "model.py").write_text(SLEEPER % version)
    (folder / "sleeper" / "salver.toml").write_text(
        "[instances]\ncount = 1\nmax_count = 4\nscale_down_s = 2\n"
    )
    new.rename(new.with_name(str(version)))
    return folder


class Stepped:
    """Open-loop load that keeps about three replicas of the sleeper busy.

    Attributes:
        versions: Versions that have answered, in order.
        counts: Wanted replicas, whenever they changed.
    """

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.versions: list[int] = []
        self.counts: list[int] = []

    async def wanted(self, count: int) -> None:
        """Wait for a number of wanted replicas of all versions, and for as many that are alive."""

        async def is_so() -> bool:
            page = await asyncio.to_thread(self._server.get, "/metrics")
            lines = re.findall(r"salver_replicas_(\w+)\{.*\} (\d+)", page[1].decode())
            sums = Counter[str]()
            for name, value in lines:
                sums[name] += int(value)
            if sums["wanted"] and self.counts[-1:] != [sums["wanted"]]:
                self.counts.append(sums["wanted"])
            return sums == {"wanted": count, "alive": count}

        await auntil(is_so, lambda: self._server.output()[-2000:])

    @contextlib.asynccontextmanager
    async def load(self) -> AsyncIterator[None]:
        """Ask; nothing may fail."""
        tally = Tally(0)
        async with Client(self._server.url) as client:

            async def send() -> None:
                answer = await client.infer("sleeper", {"x": np.zeros((1,), np.float32)})
                self.versions.append(int(answer["y"][0]))

            due = schedule(28, PATIENCE_S, "constant", 0)
            asked = drive(send, due, PATIENCE_S, 400, tally, clock=time.monotonic, sleep=asyncio.sleep)
            loading = asyncio.ensure_future(asked)
            yield
            loading.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loading
        assert tally.outcome and set(tally.outcome) == {"ok"}


async def test_host_processes_follow_a_step_of_load(tmp_path: Path) -> None:
    models = write_sleeper(tmp_path / "models", 1)
    with ServerProcess([models], tmp_path / "log", ["--engine", "processes"]) as server:
        server.wait_ready()
        step = Stepped(server)
        await step.wanted(1)
        async with step.load():
            await step.wanted(4)
            seen = len(step.versions)
            await auntil(lambda: len(step.versions) > seen + 60)
        await step.wanted(1)
    top = step.counts.index(4)
    assert step.counts[: top + 1] == sorted(step.counts[: top + 1])
    assert step.counts[top:] == sorted(step.counts[top:], reverse=True)


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


@pytest.fixture
def node_loss(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[3] / "benchmarks")
    yield __import__("node_loss")
    for name in ("node_loss", "openloop", "frames"):
        sys.modules.pop(name, None)


@pytest.fixture
def no_forks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ServerProcess, "spawn", staticmethod(subprocess.Popen))  # forks have another path


@needs_ray
@pytest.mark.usefixtures("no_forks")
async def test_ray_follows_a_step_of_load_and_takes_a_new_version(nodes: RayNodes, tmp_path: Path) -> None:
    models = write_sleeper(tmp_path / "models", 1)
    options = ["--engine", f"ray://{nodes.address}", "--poll-seconds", "0.1"]
    with ServerProcess([models], tmp_path / "log", options, VARIABLES) as server:
        server.wait_ready()
        step = Stepped(server)
        await step.wanted(1)
        async with step.load():
            await step.wanted(4)
            assert step.counts == sorted(step.counts)
            write_sleeper(models, 2)
            await auntil(lambda: 2 in step.versions)
            await step.wanted(4)  # both versions together: the first one has ended
            assert "[sleeper:2] has" not in server.output()  # it took over the number
        assert set(step.versions) == {1, 2}
        await step.wanted(1)
        assert max(step.counts) <= 8
        until(lambda: sum(len(actors(raylet)) for raylet in nodes.raylets.values()) == 1)


@needs_ray
@pytest.mark.usefixtures("no_forks")
def test_ray_that_loses_a_node(nodes: RayNodes, tmp_path: Path, node_loss: Any) -> None:
    log = tmp_path / "log"
    options = ["--engine", f"ray://{nodes.address}"]
    with ServerProcess([write_models(tmp_path / "models", 3)], log, options, VARIABLES) as server:
        assert_answers(server.wait_ready())
        assert [len(actors(raylet)) for raylet in nodes.raylets.values()] == [1, 1, 1]
        places = placement(server)["cluster"]["replicas"]
        assert {int(each["replica"].rpartition("/")[2]) for each in places} == {
            pid for raylet in nodes.raylets.values() for pid in actors(raylet)
        }
        names = {node[:12] for node in nodes.raylets}
        assert all({each["node"], *each["others"]} == names for each in places)
        reasons = [why for each in places for why in each["others"].values()]
        assert reasons.count("it has a replica of the model") == 3
        listening = {
            each.laddr.ip
            for pid in (server.pid, *nodes.raylets.values())
            for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True))
            for each in process.net_connections("inet")
            if each.status == psutil.CONN_LISTEN
        }
        assert {ip.removeprefix("::ffff:") for ip in listening} == {"127.0.0.1"}

        loss = node_loss.lose(server, nodes, list(nodes.raylets)[-1], ["mlp"], rate=100, seconds=6)
        assert not loss.failed
        assert (loss.lost, loss.moved) == (1, 0)
        assert "Future exception was never retrieved" not in log.read_text()
        left = list(nodes.raylets.values())[:-1]
        until(lambda: sum(len(actors(raylet)) for raylet in left) == 3)
        assert_answers(server)
        os.kill(server.pid, signal.SIGKILL)  # nobody tells the actors
        until(lambda: not any(map(actors, left)))

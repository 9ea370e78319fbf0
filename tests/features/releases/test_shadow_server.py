"""A real server asks a new version, too: callers notice nothing, and no number of theirs moves."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from splitting_server import SplittingServer
from waiting import PATIENCE_S, auntil

from salver.app import Server
from salver.configuration import ServeConfig
from salver.features.cache import CacheConfig
from salver.features.releases.experiments.assign import assign
from salver.features.releases.experiments.shadows import ShadowReport
from salver.transport.ports import Exposition
from salver.transport.server import FrontConfig
from salver.words.events import Served
from salver.words.releases import Shadow, Split

STABLE = """
class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}
    def predict(self, inputs):
        return {"y": inputs["x"] * 2}
"""
#: Hangs while there is a file; is wrong of large numbers.
CANARY = """
import time
from pathlib import Path
class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}
    def predict(self, inputs):
        while Path("GATE").exists():
            time.sleep(0.01)
        return {"y": inputs["x"] * 2 + (inputs["x"] > 100)}
"""
GRAPH = """
platform: "ensemble" max_batch_size: 0
input { name: "X" data_type: TYPE_FP32 dims: [1, 1] }
output { name: "Y" data_type: TYPE_FP32 dims: [1, 1] }
version_policy { all {} }
ensemble_scheduling { step { model_name: "m" model_version: -1
  input_map { key: "x" value: "X" } output_map { key: "y" value: "Y" } } }
"""
SPLIT = Split(
    "r1",
    "m",
    stable="1",
    canary="2",
    weight=0.0,
    salt="s",
    shadow=Shadow(most_inflight=2),
)


def shut(gate: Path, is_shut: bool) -> None:
    if is_shut:
        gate.touch()
    else:
        gate.unlink(missing_ok=True)


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    return tmp_path / "gate"


@pytest.fixture
async def server(tmp_path: Path, gate: Path) -> AsyncIterator[Server]:
    root = tmp_path / "models"
    for version, code in ((1, STABLE), (2, CANARY.replace("GATE", str(gate)))):
        (root / "m" / str(version)).mkdir(parents=True)
        (root / "m" / str(version) / "model.py").write_text(code)
        (root / "graph" / str(version)).mkdir(parents=True)
    (root / "graph" / "config.pbtxt").write_text(GRAPH)
    (root / "m" / "salver.toml").write_text("response_cache = true\n[versions]\nall = true\n")
    config = ServeConfig(
        paths=(str(root),),
        front=FrontConfig(port=0),
        tables={"cache": CacheConfig("local", {"size": "1000000"})},
    )
    async with SplittingServer(config) as server:
        server.splits.router.replace([SPLIT])
        yield server
        shut(gate, False)


async def ask(server: Server, *values: float) -> list[Any]:
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
        found = []
        for value in values:
            body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [value]}]}
            said = await client.post("/v2/models/m/infer", content=json.dumps(body))
            found.append(
                (said.status_code, said.json()["model_version"], said.json()["outputs"][0]["data"][0])
            )
        return found


async def comes(server: Server, is_so: Callable[[ShadowReport], bool]) -> ShadowReport:
    await auntil(lambda: (report := server.shadows.report("r1")) and is_so(report))
    found = server.shadows.report("r1")
    assert found is not None
    return found


async def test_a_shadow_is_compared_and_leaves_no_trace(server: Server) -> None:
    assert await ask(server, 1.0, 1.0) == [(200, "1", 2.0)] * 2
    report = await comes(server, lambda report: report.asked == 2)
    assert (report.agreed, report.differed) == (2, 0)
    assert await ask(server, 200.0) == [(200, "1", 400.0)]
    report = await comes(server, lambda report: report.asked == 3)
    assert (report.differed, report.examples[0].what) == (1, "'y' differs by 0.0025")
    page = server.kernel.services.need(Exposition).metrics("text/plain")[0].decode()
    assert not [
        line for line in page.splitlines() if line.startswith("salver_requests") and 'version="2"' in line
    ]
    use = server.kernel.state.cache()
    assert use is not None
    assert (use.hits, use.misses) == (1, 2)  # of the stable version's callers


async def test_a_shadow_that_hangs_changes_nothing(server: Server, gate: Path) -> None:
    shut(gate, True)
    assert await ask(server, *range(20)) == [(200, "1", 2.0 * value) for value in range(20)]
    report = await comes(server, lambda report: report.dropped == 18)
    assert report.asked == 0
    shut(gate, False)
    report = await comes(server, lambda report: report.asked == 2)
    assert report.agreed == 2


async def test_what_an_ensemble_asks_for_a_copy_leaves_no_trace_in_its_models(server: Server) -> None:
    of_graph = msgspec.structs.replace(SPLIT, model="graph")
    of_model = msgspec.structs.replace(SPLIT, release="r2", weight=1.0, shadow=None)
    server.splits.router.replace([of_graph, of_model])
    seen = Watch()
    server.kernel.bus.join(seen)
    body = {"inputs": [{"name": "X", "datatype": "FP32", "shape": [1, 1], "data": [3]}]}
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
        said = await client.post("/v2/models/graph/infer", content=json.dumps(body))
    assert said.json()["outputs"][0]["data"] == [6.0]
    assert (await comes(server, lambda report: report.asked == 1)).agreed == 1
    server.kernel.bus.flush()
    assert [(event.model, event.version) for event in seen.served] == [("m", "2"), ("graph", "1")]
    use = server.kernel.state.cache()
    assert use is not None and (use.hits, use.misses) == (0, 1)


async def test_an_answer_that_is_kept_is_given_by_its_own_version(server: Server) -> None:
    split = msgspec.structs.replace(SPLIT, weight=0.5, shadow=None)
    server.splits.router.replace([split])
    body = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [200]}]}
    async with httpx.AsyncClient(base_url=server.url, timeout=PATIENCE_S) as client:
        for _ in range(2):
            for user in map(str, range(8)):
                version = assign(split, {"header:x-user-id": user, "request": ""}).version
                said = await client.post("/v2/models/m/infer", json=body, headers={"x-user-id": user})
                found = said.json()
                assert (found["model_version"], found["outputs"][0]["data"]) == (
                    version,
                    [400.0 if version == "1" else 401.0],
                )
    use = server.kernel.state.cache()
    assert use is not None and (use.hits, use.misses) == (14, 2)


class Watch:
    """An observer that keeps what was served."""

    def __init__(self) -> None:
        self.served: list[Served] = []

    def observe(self, events: Any) -> None:
        self.served += [event for event in events if isinstance(event, Served)]

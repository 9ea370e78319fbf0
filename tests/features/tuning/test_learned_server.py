"""A model with the policy ``learned`` gets its table while it serves, and has it at once after a restart."""

import asyncio
import json
import re
from pathlib import Path

import pytest
from forked_hosts import EXECUTED
from waiting import auntil
from zoo import infer_body

from salver.client.http import Http
from salver.stats import batch_table
from salver.testing.process import ServerProcess

#: Each run costs what a hundred rows do, on whatever machine: there is something to wait for.
MODEL = """
import time

class Model:
    inputs = {"x": ("FP32", [-1, 16])}
    outputs = {"y": ("FP32", [-1, 1])}

    def predict(self, inputs):
        time.sleep(0.002)
        return {"y": inputs["x"].sum(axis=1, keepdims=True)}
"""
CONFIG = """
[instances]
runner = "thread"
[batching]
policy = "learned"
max_rows = 8
[batching.learned]
energy_weight = 1000.0
max_wait_ms = 20.0
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    version = tmp_path / "repository" / "mlp" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(MODEL)
    (version.parent / "salver.toml").write_text(CONFIG)
    return tmp_path / "repository"


def serve(repository: Path, folder: Path, log: str) -> ServerProcess:
    return ServerProcess([repository], folder / log, ["--state-dir", str(folder / "state")], EXECUTED)


async def ask(server: ServerProcess, rounds: int) -> None:
    """Requests of 1, 2, 4 and 8 rows, one after the other; each answer is right."""
    http = Http(server.url)
    for rows in [1, 2, 4, 8] * rounds:
        body = json.dumps(infer_body(rows=rows)).encode()
        reply = await http.send(http.request("POST", "/v2/models/mlp/infer", body))
        assert reply.status == 200, reply.body
        assert json.loads(reply.body)["outputs"][0]["data"] == [8.0] * rows
    await http.close()


def tables(folder: Path) -> list[Path]:
    return sorted((folder / "state" / "tables").glob("*.json"))


def rules(server: ServerProcess) -> list[str]:
    """Those in force, as the metrics tell."""
    return re.findall(r'^salver_batching_rule{.*rule="([^"]*)"', server.get("/metrics")[1].decode(), re.M)


async def test_it_answers_right_before_and_after_the_table_comes_and_a_restart_has_it(
    repository: Path, tmp_path: Path
) -> None:
    with serve(repository, tmp_path, "first") as server:
        server.wait_ready()
        assert await asyncio.to_thread(rules, server) == ["drain"]  # nothing is known yet

        async def is_learned() -> bool:
            await ask(server, 20)
            return bool(tables(tmp_path))

        await auntil(is_learned, server.output)
        await ask(server, 20)
    [kept] = tables(tmp_path)
    table = batch_table.from_bytes(kept.read_bytes())
    assert table.method == "exact"
    assert not table.is_greedy  # energy is dear: it waits
    with serve(repository, tmp_path, "second") as server:
        server.wait_ready()
        assert await asyncio.to_thread(rules, server) == ["learned"]
        await ask(server, 20)
        assert not server.family()[1:]  # nobody has to think
    assert tables(tmp_path) == [kept]

"""A model with the policy ``learned`` gets its table while it serves, and has it at once after a restart."""

import asyncio
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest

from salver.client.http import Http
from salver.stats import batch_table
from salver.testing.process import ServerProcess
from zoo import infer_body, mlp_answer, write_mlp

CONFIG = """
[batching]
policy = "learned"
max_rows = 8
[batching.learned]
energy_weight = 1000.0
max_wait_ms = 20.0
"""


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    write_mlp(tmp_path / "repository" / "mlp", 1)
    (tmp_path / "repository" / "mlp" / "salver.toml").write_text(CONFIG)
    return tmp_path / "repository"


def serve(repository: Path, folder: Path, log: str) -> ServerProcess:
    return ServerProcess([repository], folder / log, ["--state-dir", str(folder / "state")])


async def ask(server: ServerProcess, rounds: int) -> None:
    """Requests of 1, 2, 4 and 8 rows, one after the other; each answer is right."""
    http = Http(server.url)
    want = mlp_answer(np.full((1, 16), 0.5, np.float32))
    for rows in [1, 2, 4, 8] * rounds:
        body = json.dumps(infer_body(rows=rows)).encode()
        reply = await http.send(http.request("POST", "/v2/models/mlp/infer", body))
        assert reply.status == 200, reply.body
        got = np.reshape(json.loads(reply.body)["outputs"][0]["data"], (rows, 3))
        np.testing.assert_allclose(got, want.repeat(rows, 0), rtol=1e-4, atol=1e-5)
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
        until = time.monotonic() + 60
        while not tables(tmp_path):
            assert time.monotonic() < until, server.output()
            await ask(server, 20)
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

"""Changes of a model's settings under constant traffic: they take effect, and no request fails."""

import asyncio
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from waiting import auntil
from zoo import infer_body, mlp_answer, write_mlp

from salver.client.http import Http
from salver.testing.process import ServerProcess

CALLERS = 8
PAUSE_S = 0.05  # of a caller between two requests

#: What is written into ``salver.toml``, and what the metrics then say: instances (None = as is chosen),
#: rule.
SETTINGS = (
    ('objective = { latency_p99 = "20s" }\n', None, "half-floor"),
    ('objective = { latency_p99 = "10s" }\n[instances]\ncount = 2\nthreads = 1\n', 2, "half-floor"),
    ('objective = "throughput"\n[instances]\ncount = 1\nthreads = 1\n', 1, "drain"),
    ("[instances]\ncount = 3\nthreads = 1\n", 3, "drain"),
)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    write_mlp(tmp_path / "repository" / "mlp", 1)
    (tmp_path / "repository" / "mlp" / "salver.toml").write_text("[instances]\ncount = 1\n")
    return tmp_path / "repository" / "mlp"


@pytest.fixture
def server(model: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    options = ["--poll-seconds", "0.1", "--state-dir", str(tmp_path / "state")]
    with ServerProcess([model.parent], tmp_path / "log", options) as server:
        yield server.wait_ready()


def in_force(server: ServerProcess) -> tuple[int, str]:
    """Instances and rule, as the metrics tell."""
    page = server.get("/metrics")[1].decode()
    instances = re.search(r"^salver_instances{[^}]*} (\d+)", page, re.M)
    rule = re.search(r'^salver_batching_rule{.*rule="([^"]*)"', page, re.M)
    assert instances is not None
    assert rule is not None
    return int(instances[1]), rule[1]


def is_ready(server: ServerProcess, times: int) -> bool:
    """The model has become ready so many times."""
    return server.output().count('"event":"model ready"') >= times


async def test_settings_change_under_load_and_no_request_fails(
    server: ServerProcess, model: Path, tmp_path: Path
) -> None:
    http = Http(server.url)
    want = mlp_answer(np.full((1, 16), 0.5, np.float32)).ravel()
    request = http.request("POST", "/v2/models/mlp/infer", json.dumps(infer_body()).encode())
    is_over = False
    answered = 0

    async def call() -> None:
        nonlocal answered
        while not is_over:
            reply = await http.send(request)
            assert reply.status == 200, reply.body
            got = json.loads(reply.body)["outputs"][0]["data"]
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
            answered += 1
            await asyncio.sleep(PAUSE_S)

    def has_answered(count: int) -> bool:
        return answered >= count

    async def change() -> None:
        nonlocal is_over
        for number, (text, instances, rule) in enumerate(SETTINGS, 2):
            part = model / "salver.toml.part"
            part.write_text(text)
            part.rename(model / "salver.toml")
            await auntil(partial(is_ready, server, number), server.output)
            found = await asyncio.to_thread(in_force, server)
            assert found == (instances or found[0], rule)
            await auntil(partial(has_answered, answered + CALLERS))  # it is never out of reach
        is_over = True

    async with asyncio.TaskGroup() as group:
        for _ in range(CALLERS):
            group.create_task(call())
        group.create_task(change())
    await http.close()
    profiles = list((tmp_path / "state" / "profiles").iterdir())
    assert len(profiles) == 3  # each objective was measured by itself

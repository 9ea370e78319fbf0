"""Workflows of a real server, from archives of the unmodified archivers; nodes run in host processes."""

import asyncio
import http.client
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from archivers import run_archiver
from waiting import auntil

from salver.app import Server
from salver.configuration import ServeConfig
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.registering import HandlerStoreConfig
from salver.dialects.torchserve.rules import TorchServeRules
from salver.transport.server import FrontConfig

FUNCTIONS = """
import os
import time
from pathlib import Path

def _texts(data):
    return [bytes(row.get("data") or row.get("body")).decode() for row in data]

def clean(data, context):
    if data is None:
        return None
    return [text.strip().lower() for text in _texts(data)]

def wrap(data, context):
    if data is None:
        return None
    rows = [row["body"] for row in data]
    return [{"wrapped": row if isinstance(row, dict) else bytes(row).decode()} for row in rows]

def left(data, context):
    if data is None:
        return None
    return ["L:" + text for text in _texts(data)]

def right(data, context):
    if data is None:
        return None
    return ["R:" + text for text in _texts(data)]

def join(data, context):
    if data is None:
        return None
    return [{key: bytes(value).decode() for key, value in sorted(row.items())} for row in data]

def breaks(data, context):
    if data is None:
        return None
    raise ValueError("as asked")

def once(data, context):
    if data is None:
        return None
    mark = Path(context.system_properties["model_dir"], "tried")
    if not mark.exists():
        mark.touch()
        raise ValueError("not yet")
    return ["tried again"] * len(data)

def pid(data, context):
    if data is None:
        return None
    if _texts(data)[0].startswith("/") and not Path(_texts(data)[0]).exists():
        Path(_texts(data)[0]).touch()
        time.sleep(60)
    return [str(os.getpid())] * len(data)
"""
COUNTING = """
def handle(data, context):
    if data is None:
        return None
    return [{"words": len(bytes(row.get("body")).decode().split())} for row in data]
"""
HEAD = "models:\n  min-workers: 1\n  max-workers: 1\n  batch-size: 1\n  max-batch-delay: 10\n"
PARALLEL = HEAD + "dag:\n  clean: [left, right]\n  left: [join]\n  right: [join]\n"
SEQUENCE = HEAD + "  count:\n    url: counting.mar\ndag:\n  clean: [count]\n  count: [wrap]\n"
Said = Callable[..., Awaitable[tuple[int, dict[str, str], str]]]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of models and of workflows."""
    pytest.importorskip("workflow_archiver", reason="torch-workflow-archiver is not installed")
    folder = tmp_path_factory.mktemp("stores")
    models, flows, sources = (folder / name for name in ("models", "flows", "sources"))
    for made in (models, flows, sources):
        made.mkdir()
    (sources / "functions.py").write_text(FUNCTIONS)
    (sources / "counting.py").write_text(COUNTING)
    options = ["--model-name", "counting", "--version", "1.0", "--handler", sources / "counting.py"]
    run_archiver("torch-model-archiver", *options, "--export-path", models)
    for name, spec in {
        "parallel": PARALLEL,
        "sequence": SEQUENCE,
        "failing": HEAD + "dag:\n  clean: [breaks]\n",
        "again": HEAD + "dag:\n  clean: [once]\n",
        "cycle": HEAD + "dag:\n  clean: [left]\n  left: [clean]\n",
        "lost": HEAD + "  left:\n    url: no_such.mar\ndag:\n  clean: [left]\n",
        "own": HEAD + "dag:\n  pid: []\n",
    }.items():
        (sources / f"{name}.yaml").write_text(spec)
        options = ["--workflow-name", name, "--spec-file", sources / f"{name}.yaml"]
        handler = ["--handler", sources / "functions.py"]
        run_archiver("torch-workflow-archiver", *options, *handler, "--export-path", flows)
    return folder


def _ask(port: int, verb: str, path: str, body: str = "", kind: str = "application/octet-stream") -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(verb, path, body or None, {"Content-Type": kind} if body else {})
        reply = connection.getresponse()
        headers = {name.lower(): value for name, value in reply.getheaders()}
        return reply.status, headers, reply.read().decode()
    finally:
        connection.close()


@asynccontextmanager
async def serving(stores: Path, *, is_open: bool = True, **rules: int) -> AsyncIterator[tuple[Said, Said]]:
    """Yield functions that call the management port and the inference port."""
    kinds = ("torchserve-management", "torchserve-inference")
    fronts = [FrontConfig(port=0, serves=kind, grace_seconds=5) for kind in kinds]  # type: ignore[arg-type]
    config = ServeConfig(
        front=fronts[0],
        more=tuple(fronts[1:]),
        control="none",
        tables={
            "torchserve": {
                "handlers": HandlerStoreConfig(
                    ArchiveStoreConfig(str(stores / "models")), workers=1, is_open=is_open
                ),
                "workflow_store": str(stores / "flows"),
                "rules": TorchServeRules(**rules),  # type: ignore[arg-type]
            }
        },
    )
    async with Server(config) as server:
        ports = server.listeners.ports()

        async def manage(*asked: str) -> Any:
            return await asyncio.to_thread(_ask, ports[0], *asked)

        async def infer(*asked: str) -> Any:
            return await asyncio.to_thread(_ask, ports[1], *asked)

        yield manage, infer


@pytest.mark.clause("TS-M9", "TS-R10", "TS-A12")
async def test_branches_from_registration_to_the_end(stores: Path) -> None:
    async with serving(stores) as (manage, infer):
        status, headers, text = await manage("POST", "/workflows?url=parallel.war&workflow_name=pair")
        assert (status, json.loads(text)) == (
            200,
            {"status": "Workflow pair has been registered and scaled successfully."},
        )
        status, headers, text = await infer("POST", "/wfpredict/pair", "X")
        assert (status, headers["content-type"]) == (200, "application/json")
        assert text == '{\n  "left": "L:x",\n  "right": "R:x"\n}'
        told = json.loads((await manage("GET", "/workflows/pair"))[2])
        assert told == [
            {
                "workflowName": "pair",
                "workflowUrl": "parallel.war",
                "minWorkers": 1,
                "maxWorkers": 1,
                "batchSize": 1,
                "maxBatchDelay": 10,
                "workflowDag": "{clean=[left, right], left=[join], right=[join]}",
            }
        ]
        assert json.loads((await manage("GET", "/models"))[2]) == {"models": []}
        (node,) = json.loads((await manage("GET", "/models/pair__join"))[2])
        assert (node["modelName"], node["minWorkers"], node["maxBatchDelay"]) == ("pair__join", 1, 0)
        replies = await asyncio.gather(*(infer("POST", "/wfpredict/pair", f"n{n}") for n in range(24)))
        assert [json.loads(text)["left"] for _, _, text in replies] == [f"L:n{n}" for n in range(24)]
        status, _, text = await manage("DELETE", "/workflows/pair")
        assert (status, json.loads(text)) == (200, {"status": 'Workflow "pair" unregistered'})
        assert (await infer("POST", "/wfpredict/pair", "x"))[0] == 404
        assert (await manage("GET", "/models/pair__join"))[0] == 404


@pytest.mark.clause("TS-A12")
async def test_a_sequence_through_a_model(stores: Path) -> None:
    async with serving(stores) as (manage, infer):
        body = json.dumps({"url": "sequence.war", "response_timeout": 60, "startup_timeout": 60})
        assert (await manage("POST", "/workflows", body, "application/json"))[0] == 200
        _, _, text = await infer("POST", "/wfpredict/sequence", " One Two Three ")
        wrapped = json.loads(text)["wrapped"]
        assert (wrapped if isinstance(wrapped, dict) else json.loads(wrapped)) == {"words": 3}
        await manage("POST", "/workflows?url=parallel.war")
        models = json.loads((await manage("GET", "/models"))[2])["models"]  # functions are no models
        assert models == [{"modelName": "sequence__count", "modelUrl": "counting.mar"}]
        page = json.loads((await manage("GET", "/workflows?limit=1"))[2])
        assert page == {
            "nextPageToken": "1",
            "workflows": [{"workflowName": "parallel", "workflowUrl": "parallel.war"}],
        }
        page = json.loads((await manage("GET", "/workflows?next_page_token=1"))[2])
        assert page == {"workflows": [{"workflowName": "sequence", "workflowUrl": "sequence.war"}]}
        status, _, text = await manage("POST", "/workflows?url=sequence.war")
        assert (status, json.loads(text)["message"]) == (409, "Workflow sequence is already registered.")


@pytest.mark.clause("TS-R10")
async def test_an_answer_that_is_too_long_is_an_error(stores: Path) -> None:
    async with serving(stores, max_response=4) as (manage, infer):
        assert (await manage("POST", "/workflows?url=again.war"))[0] == 200
        status, _, text = await infer("POST", "/wfpredict/again", "x")
        assert (status, json.loads(text)["message"]) == (
            500,
            "the answer has 11 bytes, and max_response_size is 4",
        )


@pytest.mark.clause("TS-A12")
async def test_nodes_that_fail(stores: Path) -> None:
    async with serving(stores) as (manage, infer):
        for name in ("failing", "again"):
            assert (await manage("POST", f"/workflows?url={name}.war"))[0] == 200
        status, headers, text = await infer("POST", "/wfpredict/failing", "x")
        assert (status, headers["connection"]) == (500, "close")
        assert json.loads(text) == {
            "code": 500,
            "type": "InternalServerException",
            "message": "Error executing breaks",
        }
        status, _, text = await infer("POST", "/wfpredict/again", "x")
        assert (status, text) == (200, "tried again")


@pytest.mark.clause("TS-M9")
@pytest.mark.parametrize(
    ("asked", "status", "kind", "message"),
    [
        ("POST /workflows?url=cycle.war", 400, "InvalidDAGException", "DAG should have only one start node"),
        (
            "POST /workflows?url=lost.war",
            500,
            "WorkflowException",
            "Workflow lost has failed to register. Failures: [Workflow Node lost__left failed to register. "
            "Details: Model not found at: no_such.mar]",
        ),
        (
            "POST /workflows?url=no_such.war",
            404,
            "WorkflowNotFoundException",
            "Workflow not found in workflow store: no_such.war",
        ),
        ("POST /workflows", 400, "BadRequestException", "Parameter url is required."),
        ("GET /workflows/nobody", 404, "WorkflowNotFoundException", "Workflow not found: nobody"),
        ("DELETE /workflows/nobody", 404, "WorkflowNotFoundException", "Workflow not found: nobody"),
        (
            "DELETE /workflows",
            405,
            "MethodNotAllowedException",
            "Requested method is not allowed, please refer to API document.",
        ),
    ],
)
async def test_what_is_refused(stores: Path, asked: str, status: int, kind: str, message: str) -> None:
    async with serving(stores) as (manage, _):
        got, _, text = await manage(*asked.split())
        assert (got, json.loads(text)) == (status, {"code": status, "type": kind, "message": message})


@pytest.mark.clause("TS-M9")
async def test_workflows_of_the_stores_may_be_registered_while_models_may_not(stores: Path) -> None:
    async with serving(stores, is_open=False) as (manage, infer):
        assert (await manage("POST", "/models?url=counting.mar"))[0] == 405
        assert (await manage("POST", "/workflows?url=sequence.war"))[0] == 200
        assert (await infer("POST", "/wfpredict/sequence", "one"))[0] == 200
        assert (await manage("POST", "/workflows?url=http://127.0.0.1:1/a.war"))[0] == 404


@pytest.mark.clause("TS-A12")
async def test_a_worker_that_is_killed_is_tried_again(stores: Path, tmp_path: Path) -> None:
    async with serving(stores) as (manage, infer):
        await manage("POST", "/workflows?url=own.war")
        first = int((await infer("POST", "/wfpredict/own", "x"))[2])
        begun = tmp_path / "begun"  # whoever finds it does not hang
        running = asyncio.create_task(infer("POST", "/wfpredict/own", str(begun)))  # type: ignore[arg-type]
        await auntil(begun.exists)
        os.kill(first, signal.SIGKILL)
        status, _, text = await running
        assert status == 200
        assert int(text) != first

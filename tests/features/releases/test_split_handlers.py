"""Handlers of TorchServe's in a release: one unit, one version; state stays where it is."""

import json
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import httpx
import msgspec
import pytest
from splitting_server import SplittingServer
from torchserve_stubs import INFERENCE, Stub, inference
from waiting import auntil

from salver.configuration import ServeConfig
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.registering import HandlerStoreConfig, StartupModel
from salver.dialects.torchserve.rules import TorchServeRules
from salver.features.releases.experiments.assign import assign
from salver.transport.server import FrontConfig
from salver.words.events import Responded, Served
from salver.words.releases import Shadow, Split

HANDLER = """
sums = {}

def handle(data, context):
    out = []
    for index, row in enumerate(data or []):
        number = int(bytes(row.get("data") or row.get("body") or b"0"))
        if number == 13 and VERSION == 2:
            context.set_response_status(500, "bad luck", index)
        sequence = context.get_sequence_id(index) if SEQUENCES else ""
        sums[sequence] = sums.get(sequence, 0) + number
        out.append({"version": VERSION, "sum": sums[sequence] if sequence else number})
    return out
"""
KINDS = ("all", "torchserve-inference", "torchserve-management", "torchserve-grpc-inference")
SPLIT = Split("r1", "m", stable="1.0", canary="2.0", weight=0.5, salt="handlers")
USERS = [f"user-{number}" for number in range(6)]


def archive(folder: Path, version: str, is_stateful: bool) -> None:
    model = {
        "modelName": "m",
        "handler": "handler.py:handle",
        "modelVersion": version,
        "configFile": "c.yaml",
    }
    manifest = {"createdOn": "", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    code = HANDLER.replace("VERSION", version[0]).replace("SEQUENCES", str(is_stateful))
    words = "sequenceBatching: true\nmaxNumSequence: 8\n" if is_stateful else "minWorkers: 1\n"
    with zipfile.ZipFile(folder / f"m_{version}.mar", "w") as opened:
        opened.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        opened.writestr("handler.py", code)
        opened.writestr("c.yaml", words)


@pytest.fixture(params=[False, True], ids=["plain", "stateful"])
async def it(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    for version in ("1.0", "2.0"):
        archive(tmp_path, version, request.param)
    fronts = [FrontConfig(port=0, serves=kind, grace_seconds=5) for kind in KINDS]  # type: ignore[arg-type]
    names = tuple(StartupModel(f"m_{version}.mar") for version in ("1.0", "2.0"))
    handlers = HandlerStoreConfig(ArchiveStoreConfig(str(tmp_path)), at_start=names, workers=1, is_open=True)
    rules = TorchServeRules()
    config = ServeConfig(
        front=fronts[0],
        more=tuple(fronts[1:]),
        control="none",
        tables={"torchserve": {"handlers": handlers, "rules": rules}},
    )
    async with SplittingServer(config) as server:
        ports = server.listeners.ports()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{ports[3]}") as channel, httpx.AsyncClient() as http:
            server.splits.router.replace([SPLIT])
            stub = Stub(channel, f"{INFERENCE}.InferenceAPIsService")
            yield SimpleNamespace(server=server, ports=ports, stub=stub, http=http, is_stateful=request.param)


async def by_rest(it: Any, user: str, number: int = 1, port: int = 1, **headers: str) -> dict[str, int]:
    url = f"http://127.0.0.1:{it.ports[port]}/predictions/m"
    said = await it.http.post(url, content=str(number), headers={"x-user-id": user, **headers})
    assert said.status_code == 200, said.text
    found: dict[str, int] = said.json()
    return found


async def by_grpc(it: Any, user: str) -> dict[str, int]:
    asked = inference("PredictionsRequest", model_name="m", input={"data": b"1"})
    said = await it.stub.Predictions(asked, metadata=(("x-user-id", user),))
    found: dict[str, int] = json.loads(said.prediction)
    return found


def expected(user: str) -> int:
    return int(assign(SPLIT, {"header:x-user-id": user, "request": ""}).version[0])


async def test_a_unit_meets_one_version_over_rest_and_grpc(it: Any) -> None:
    for user in USERS:
        said = [await by_rest(it, user), await by_rest(it, user, port=0), await by_grpc(it, user)]
        assert [found["version"] for found in said] == [expected(user)] * 3
    assert {expected(user) for user in USERS} == {1, 2}
    it.server.splits.router.replace([])
    assert (await by_rest(it, USERS[0]))["version"] == 1


async def test_a_tenant_is_a_unit_over_rest_and_grpc(it: Any) -> None:
    split = msgspec.structs.replace(SPLIT, units=("tenant", "request"))
    it.server.splits.router.replace([split])
    url = f"http://127.0.0.1:{it.ports[1]}/predictions/m"
    for user in USERS:
        version = int(assign(split, {"tenant": user, "request": ""}).version[0])
        said = await it.http.post(url, content="1", headers={"x-tenant": user})
        assert said.json()["version"] == version
        asked = inference("PredictionsRequest", model_name="m", input={"data": b"1"})
        replied = await it.stub.Predictions(asked, metadata=(("x-tenant", user),))
        assert json.loads(replied.prediction)["version"] == version


async def test_a_sequence_stays_with_its_state_when_the_weight_moves_and_when_the_release_ends(
    it: Any,
) -> None:
    if not it.is_stateful:
        return
    router = it.server.splits.router
    for weight in (0.0, 1.0):
        name = {"ts_request_sequence_id": f"mine-{weight}"}
        router.replace([msgspec.structs.replace(SPLIT, weight=weight)])
        began = await by_rest(it, "ada", 1, **name)
        router.replace([msgspec.structs.replace(SPLIT, weight=1 - weight)])
        assert await by_rest(it, "ada", 10, **name) == {"version": began["version"], "sum": 11}
        assert (await by_rest(it, "ada", 5))["version"] != began["version"]
        router.replace([])
        last = await by_rest(it, "ada", 100, **name, ts_request_sequence_end="true")
        assert last == {"version": began["version"], "sum": 111}


async def test_a_shadow_compares_the_numbers_of_json(it: Any) -> None:
    split = msgspec.structs.replace(SPLIT, weight=0.0, shadow=Shadow(tolerance=0.4))
    it.server.splits.router.replace([split])
    assert await by_rest(it, "ada") == {"version": 1, "sum": 1}
    report = await auntil(lambda: (report := it.server.shadows.report("r1")) and report.asked and report)
    assert (report.differed, report.examples[0].what) == (1, "'body.numbers' differs by 1")  # 2 for 1
    if it.is_stateful:
        await by_rest(it, "ada", **{"ts_request_sequence_id": "mine"})
        assert it.server.shadows.report("r1").skipped == {"sequence": 1}


async def test_a_status_that_a_handler_sets_is_an_error_of_its_version(it: Any) -> None:
    seen: list[Served] = []
    answers: list[Responded] = []

    class Watch:
        def observe(self, events: Any) -> None:
            seen.extend(event for event in events if isinstance(event, Served))

    it.server.kernel.bus.join(Watch())
    it.server.splits._tell = answers.append
    router = it.server.splits.router
    url = f"http://127.0.0.1:{it.ports[1]}/predictions/m"
    for is_watched in (False, True):
        router.replace([msgspec.structs.replace(SPLIT, weight=1.0, is_watched=is_watched)])
        for number, status in (("1", 200), ("13", 500)):
            said = await it.http.post(url, content=number, headers={"x-user-id": "ada"})
            assert said.status_code == status
        it.server.kernel.bus.flush()
        assert [(event.outcome, event.why) for event in seen] == [("ok", ""), ("ok", "status")]
        assert len(answers) == is_watched  # what has failed is no answer to be looked at
        seen.clear()
        answers.clear()
    router.replace([msgspec.structs.replace(SPLIT, weight=0.0, shadow=Shadow(compare="length", tolerance=1))])
    assert await by_rest(it, "ada", 13) == {"version": 1, "sum": 13}
    report = await auntil(lambda: (report := it.server.shadows.report("r1")) and report.asked and report)
    assert report.notes == {"the status is 500, not 200": 1}

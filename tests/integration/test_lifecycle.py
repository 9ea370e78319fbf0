"""Versions that come, go and fail under a server that has callers."""

import asyncio
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

from salver.client.http import Http
from salver.client.load import Tally, drive, schedule
from salver.testing.process import ServerProcess
from zoo import ask_moody, infer_body, write_constant, write_mlp, write_moody

RATE = 150.0


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    write_constant(root, 1)
    return root


@pytest.fixture
def polling(repository: Path, tmp_path: Path) -> Iterator[ServerProcess]:
    with ServerProcess([repository], tmp_path / "log", ["--poll-seconds", "0.1"]) as server:
        yield server.wait_ready()


def publish(repository: Path, version: int, staging: Path) -> None:
    """Appear whole, by one rename, as careful publishers do."""
    write_constant(staging, version)
    (staging / "constant" / str(version)).rename(repository / "constant" / str(version))


def index(server: ServerProcess) -> dict[tuple[str, str], dict[str, str]]:
    status, rows = server.post("/v2/repository/index", {})
    assert status == 200
    return {(row["name"], row.get("version", "")): row for row in rows}


async def under_load(
    server: ServerProcess, seconds: float, meanwhile: Callable[[], Awaitable[None]], rate: float = RATE
) -> tuple[Tally, list[int]]:
    """Open-loop requests of ``constant`` while something happens; each answer is its version."""
    http = Http(server.url)
    seen: list[int] = []
    body = json.dumps(infer_body()).encode()

    async def send() -> None:
        reply = await http.request("POST", "/v2/models/constant/infer", body)
        document = json.loads(reply.body)
        assert reply.status == 200, document
        seen.append(round(document["outputs"][0]["data"][0]))

    due = schedule(rate, seconds, "poisson", 1)
    tally = Tally(len(due))
    load = drive(send, due, seconds, 16, tally, clock=time.monotonic, sleep=asyncio.sleep)
    await asyncio.gather(load, meanwhile())
    await http.close()
    return tally, seen


async def eventually(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    until = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < until, "it did not come about in time"
        await asyncio.sleep(0.05)


async def test_new_versions_take_over_without_one_failed_request(
    polling: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    async def meanwhile() -> None:
        for version in (2, 3, 4):
            await asyncio.sleep(0.5)
            await asyncio.to_thread(publish, repository, version, tmp_path / "staging")
            await eventually(
                lambda v=str(version): index(polling).get(("constant", v), {}).get("state") == "READY"
            )  # type: ignore[misc]

    tally, seen = await under_load(polling, 6.0, meanwhile)
    assert Counter(tally.outcome) == {"ok": tally.planned}
    assert len(seen) == tally.planned
    assert set(seen) == {1, 2, 3, 4}
    assert seen[-1] == 4
    await eventually(lambda: polling.get("/v2/models/constant/versions/1/ready")[0] == 400)


async def test_a_version_that_fails_leaves_the_old_one_in_place(
    polling: ServerProcess, repository: Path
) -> None:
    def failed() -> bool:
        return index(polling).get(("constant", "2"), {}).get("state") == "UNAVAILABLE"

    async def meanwhile() -> None:
        broken = repository / "constant" / "2"
        good = (repository / "constant" / "1" / "model.onnx").read_bytes()
        broken.mkdir()
        (broken / "model.onnx").write_bytes(good[: len(good) // 2])
        await eventually(failed)

    tally, seen = await under_load(polling, 2.5, meanwhile)
    assert Counter(tally.outcome) == {"ok": tally.planned}
    assert set(seen) == {1}
    reason = index(polling)["constant", "2"]["reason"]
    assert reason
    lines = [json.loads(line) for line in polling.output().splitlines() if line.startswith("{")]
    assert any(line.get("level") == "error" and "constant" in json.dumps(line) for line in lines), (
        "the log tells of the failure"
    )


async def test_a_version_that_is_taken_away_is_unloaded(
    polling: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    publish(repository, 2, tmp_path / "staging")
    await eventually(lambda: polling.get("/v2/models/constant/versions/2/ready")[0] == 200)
    shutil.rmtree(repository / "constant" / "2")
    await eventually(lambda: polling.get("/v2/models/constant/versions/1/ready")[0] == 200)
    status, reply = polling.post("/v2/models/constant/infer", infer_body())
    assert (status, reply["model_version"]) == (200, "1")


@pytest.fixture
def explicit(tmp_path: Path) -> Iterator[ServerProcess]:
    root = tmp_path / "explicit"
    write_mlp(root / "mlp", 1)
    write_moody(root)
    options = ["--control", "explicit", "--load", "mlp"]
    with ServerProcess([root], tmp_path / "explicit-log", options) as server:
        yield server.wait_ready()


def test_load_and_unload_on_request(explicit: ServerProcess) -> None:
    with triton.InferenceServerClient(explicit.address) as client:
        assert client.is_model_ready("mlp")
        assert not client.is_model_ready("moody")
        client.load_model("moody")
        assert client.is_model_ready("moody")
        assert ask_moody(explicit, "ok")[0] == 200
        client.unload_model("moody")
        asyncio.run(eventually(lambda: not client.is_model_ready("moody")))
        status, reply = ask_moody(explicit, "ok")
        assert status in (404, 503), reply
        with pytest.raises(InferenceServerException, match="nobody"):
            client.load_model("nobody")
        assert client.is_model_ready("mlp")


def test_unloading_answers_what_is_in_flight(explicit: ServerProcess) -> None:
    assert explicit.post("/v2/repository/models/moody/load", {})[0] == 200

    async def both() -> tuple[int, object]:
        sleeping = asyncio.create_task(asyncio.to_thread(ask_moody, explicit, "sleep 1"))
        await asyncio.sleep(0.3)
        status, _ = await asyncio.to_thread(explicit.post, "/v2/repository/models/moody/unload", {})
        assert status == 200
        return await sleeping

    status, reply = asyncio.run(both())
    assert status == 200, reply
    family = len(explicit.family())
    asyncio.run(eventually(lambda: len(explicit.family()) <= family))


async def test_sigterm_under_load_loses_nothing_and_exits_0(repository: Path, tmp_path: Path) -> None:
    """Whoever got a connection accepted gets an answer; who comes later is refused at the door."""
    server = ServerProcess([repository], tmp_path / "log")
    server.start()
    server.wait_ready()
    http = Http(server.url)
    body = json.dumps(infer_body()).encode()
    statuses: Counter[int] = Counter()
    refused = 0
    stop = asyncio.Event()

    async def caller() -> None:
        nonlocal refused
        while not stop.is_set():
            try:
                reply = await http.request("POST", "/v2/models/constant/infer", body)
            except Exception as error:
                refused += 1
                assert stop.is_set() or asked, f"before the signal: {error}"
                return
            statuses[reply.status] += 1

    asked = False
    callers = [asyncio.create_task(caller()) for _ in range(8)]
    await asyncio.sleep(1.0)
    asked = True
    server.signal(signal.SIGTERM)
    code = await asyncio.to_thread(server.wait)
    stop.set()
    await asyncio.gather(*callers)
    await http.close()
    assert code == 0, server.output()[-2000:]
    assert statuses[200] > 20
    assert set(statuses) <= {200, 503}


def test_sigterm_waits_for_a_slow_answer(tmp_path: Path) -> None:
    write_moody(tmp_path / "repository")
    server = ServerProcess([tmp_path / "repository"], tmp_path / "log")
    server.start()
    server.wait_ready()

    async def both() -> tuple[int, object, int]:
        sleeping = asyncio.create_task(asyncio.to_thread(ask_moody, server, "sleep 1.5"))
        await asyncio.sleep(0.5)
        server.signal(signal.SIGTERM)
        status, reply = await sleeping
        return status, reply, await asyncio.to_thread(server.wait)

    status, reply, code = asyncio.run(both())
    assert status == 200, reply
    assert code == 0, server.output()[-2000:]


def test_a_second_server_on_the_same_port_says_so(
    polling: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    second = ServerProcess([repository], tmp_path / "second-log")
    second.start(port=polling.port)
    assert second.wait() != 0
    assert str(polling.port) in second.output()
    assert "Traceback" not in second.output()
    assert polling.get("/v2/health/ready")[0] == 200


def test_numbers_survive_a_round_of_versions(
    polling: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    """A version that is asked for by number is the one that answers, as long as it is loaded."""
    with triton.InferenceServerClient(polling.address) as client:
        given = triton.InferInput("x", [1, 16], "FP32")
        given.set_data_from_numpy(np.zeros((1, 16), np.float32))
        assert client.infer("constant", [given], model_version="1").get_response()["model_version"] == "1"
        with pytest.raises(InferenceServerException, match="version 7"):
            client.infer("constant", [given], model_version="7")

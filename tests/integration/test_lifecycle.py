"""Versions that come, go and fail under a server that has callers."""

import asyncio
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as triton
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException

from salver.client.http import Http
from salver.client.load import Tally, drive, schedule
from salver.testing.process import ServerProcess
from zoo import ask_moody, infer_body, write_constant, write_mlp, write_moody

RATE = 150.0
#: What was sent just before an idle connection was closed is unread; callers send it again (RFC 9112, 9.6).
UNREAD_S = 0.002


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
    request = http.request("POST", "/v2/models/constant/infer", json.dumps(infer_body()).encode())

    async def send() -> None:
        reply = await http.send(request)
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


async def test_tr_l4_new_versions_take_over_without_one_failed_request(
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
    assert set(tally.outcome) == {"ok"}
    assert len(seen) == len(tally.outcome) > 0.9 * tally.planned
    assert set(seen) == {1, 2, 3, 4}
    assert seen[-1] == 4
    await eventually(lambda: polling.get("/v2/models/constant/versions/1/ready")[0] == 400)


async def test_tr_l4_a_version_that_fails_leaves_the_old_one_in_place(
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
    assert set(tally.outcome) == {"ok"}
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


@pytest.mark.parametrize("client", [http_aio, grpc_aio], ids=["http", "grpc"])
async def test_tr_r12_tr_r13_load_and_unload_on_request(explicit: ServerProcess, client: ModuleType) -> None:
    async with client.InferenceServerClient(explicit.address) as triton:
        assert await triton.is_model_ready("mlp")
        assert not await triton.is_model_ready("moody")
        await triton.load_model("moody")
        assert await triton.is_model_ready("moody")
        assert (await asyncio.to_thread(ask_moody, explicit, "ok"))[0] == 200
        await triton.unload_model("moody")
        assert not await triton.is_model_ready("moody")
        status, reply = await asyncio.to_thread(ask_moody, explicit, "ok")
        assert status in (404, 503), reply
        with pytest.raises(InferenceServerException, match="nobody"):
            await triton.load_model("nobody")
        assert await triton.is_model_ready("mlp")


def test_tr_r13_unloading_answers_what_is_in_flight(explicit: ServerProcess) -> None:
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


async def test_tr_l6_sigterm_under_load_loses_nothing_and_exits_0(repository: Path, tmp_path: Path) -> None:
    """What was sent before the signal is answered; what comes later may be refused at the door."""
    server = ServerProcess([repository], tmp_path / "log")
    server.start()
    server.wait_ready()
    body = json.dumps(infer_body()).encode()
    head = b"POST /v2/models/constant/infer HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
    statuses: Counter[bytes] = Counter()
    signalled = [float("inf")]
    lost: list[str] = []

    async def caller() -> None:
        reader, writer = await asyncio.open_connection(server.host, server.port)
        while True:
            sent = time.monotonic()
            try:
                writer.write(head + body)
                reply = await reader.readuntil(b"\r\n\r\n")
                length = int(reply.lower().split(b"content-length: ")[1].split()[0])
                await reader.readexactly(length)
            except (OSError, asyncio.IncompleteReadError) as error:
                if sent < signalled[0] - UNREAD_S:
                    lost.append(f"sent {signalled[0] - sent:.4f} s before the signal: {error!r}")
                writer.close()
                return
            statuses[reply.split()[1]] += 1

    callers = [asyncio.create_task(caller()) for _ in range(16)]
    await asyncio.sleep(1.0)
    signalled[0] = time.monotonic()
    server.signal(signal.SIGTERM)
    code = await asyncio.to_thread(server.wait)
    await asyncio.wait_for(asyncio.gather(*callers), 10)
    assert lost == []
    assert code == 0, server.output()[-2000:]
    assert statuses[b"200"] > 100
    assert set(statuses) <= {b"200", b"503"}


def test_tr_l6_sigterm_waits_for_a_slow_answer(tmp_path: Path) -> None:
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

"""Versions that come, go and fail under a server that has callers."""

import asyncio
import contextlib
import json
import shutil
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as triton
import tritonclient.http.aio as http_aio
from tritonclient.utils import InferenceServerException
from waiting import PATIENCE_S, auntil, until
from zoo import ask_moody, at_work, infer_body, write_constant, write_mlp, write_moody

from salver.client.http import Http
from salver.testing.process import ServerProcess

CALLERS = 16
PAUSE_S = 0.05  # of each caller between two requests
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


@contextlib.asynccontextmanager
async def under_load(server: ServerProcess) -> AsyncIterator[list[int]]:
    """Callers of ``constant``, none of whom is refused; each answer is its version, in their order."""
    http = Http(server.url)
    seen: list[int] = []
    is_over = False
    request = http.request("POST", "/v2/models/constant/infer", json.dumps(infer_body()).encode())

    async def call() -> None:
        while not is_over:
            reply = await http.send(request)
            document = json.loads(reply.body)
            assert reply.status == 200, document
            seen.append(round(document["outputs"][0]["data"][0]))
            await asyncio.sleep(PAUSE_S)

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(call())
        try:
            yield seen
        finally:
            is_over = True
    await http.close()


@pytest.mark.clause("TR-L4")
async def test_new_versions_take_over_without_one_failed_request(
    polling: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    async with under_load(polling) as seen:
        for version in (2, 3, 4):
            await auntil(partial(seen.__contains__, version - 1))
            await asyncio.to_thread(publish, repository, version, tmp_path / "staging")
        await auntil(lambda: 4 in seen)
        later = len(seen) + CALLERS  # by then who had asked before has been answered
        await auntil(lambda: len(seen) > later)
        assert set(seen[later:]) == {4}
    assert set(seen) == {1, 2, 3, 4}
    until(lambda: polling.get("/v2/models/constant/versions/1/ready")[0] == 400)


@pytest.mark.clause("TR-L4")
async def test_a_version_that_fails_leaves_the_old_one_in_place(
    polling: ServerProcess, repository: Path
) -> None:
    def failed() -> bool:
        return index(polling).get(("constant", "2"), {}).get("state") == "UNAVAILABLE"

    async with under_load(polling) as seen:
        broken = repository / "constant" / "2"
        good = (repository / "constant" / "1" / "model.onnx").read_bytes()
        broken.mkdir()
        (broken / "model.onnx").write_bytes(good[: len(good) // 2])
        await auntil(lambda: asyncio.to_thread(failed))
        later = len(seen) + CALLERS
        await auntil(lambda: len(seen) > later)
    assert set(seen) == {1}
    reason = index(polling)["constant", "2"]["reason"]
    assert reason
    lines = [json.loads(line) for line in polling.output().splitlines() if line.startswith("{")]
    assert any(line.get("level") == "error" and "constant" in json.dumps(line) for line in lines), (
        "the log tells of the failure"
    )


def test_a_version_that_is_taken_away_is_unloaded(
    polling: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    publish(repository, 2, tmp_path / "staging")
    until(lambda: polling.get("/v2/models/constant/versions/2/ready")[0] == 200)
    shutil.rmtree(repository / "constant" / "2")
    until(lambda: polling.get("/v2/models/constant/versions/1/ready")[0] == 200)
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


@pytest.mark.clause("TR-R12", "TR-R13")
@pytest.mark.parametrize("client", [http_aio, grpc_aio], ids=["http", "grpc"])
async def test_load_and_unload_on_request(explicit: ServerProcess, client: ModuleType) -> None:
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


@pytest.mark.clause("TR-R13")
def test_unloading_answers_what_is_in_flight(explicit: ServerProcess, tmp_path: Path) -> None:
    family = len(explicit.family())
    assert explicit.post("/v2/repository/models/moody/load", {})[0] == 200
    with at_work(explicit, tmp_path / "gate") as answer:
        assert explicit.post("/v2/repository/models/moody/unload", {})[0] == 200
    status, reply = answer.result()
    assert status == 200, reply
    until(lambda: len(explicit.family()) <= family + 1)  # a fork server waits a while for the next host


@pytest.mark.clause("TR-L6")
async def test_sigterm_under_load_loses_nothing_and_exits_0(repository: Path, tmp_path: Path) -> None:
    """What was sent before the signal is answered; what comes later may be refused at the door."""
    server = ServerProcess([repository], tmp_path / "log")
    server.start()
    server.wait_ready()
    body = json.dumps(infer_body()).encode()
    head = b"POST /v2/models/constant/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
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

    callers = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    await auntil(lambda: statuses[b"200"] > 100)
    signalled[0] = time.monotonic()
    server.signal(signal.SIGTERM)
    code = await asyncio.to_thread(server.wait)
    await asyncio.wait_for(asyncio.gather(*callers), PATIENCE_S)
    assert lost == []
    assert code == 0, server.output()[-2000:]
    assert set(statuses) <= {b"200", b"503"}


@pytest.mark.clause("TR-L6")
def test_sigterm_waits_for_a_slow_answer(tmp_path: Path) -> None:
    write_moody(tmp_path / "repository")
    server = ServerProcess([tmp_path / "repository"], tmp_path / "log")
    server.start()
    server.wait_ready()

    with at_work(server, tmp_path / "gate") as answer:
        server.signal(signal.SIGTERM)
        until(lambda: "stopping: no new requests" in server.output(), server.output)
    status, reply = answer.result()
    assert status == 200, reply
    assert server.wait() == 0, server.output()[-2000:]


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


async def test_a_server_stays_in_rotation_while_versions_and_models_come_and_fail(
    polling: ServerProcess, repository: Path, tmp_path: Path
) -> None:
    is_over, refused = False, []

    async def probe() -> None:
        async with grpc_aio.InferenceServerClient(polling.address) as client:
            while not is_over:
                status, body = await asyncio.to_thread(polling.get, "/v2/health/ready")
                if status != 200 or not await client.is_server_ready():
                    refused.append(body)

    probing = asyncio.create_task(probe())
    good = (repository / "constant" / "1" / "model.onnx").read_bytes()
    for name, version in (("constant", "2"), ("other", "1")):
        write_file(repository / name / version / "model.onnx", good[: len(good) // 2])
        await auntil(lambda: index(polling).get((name, version), {}).get("state") == "UNAVAILABLE")  # noqa: B023
    publish(repository, 3, tmp_path / "staging")
    reason = "not among the versions that the model's version policy wants"
    superseded = {"state": "UNAVAILABLE", "reason": reason}
    await auntil(lambda: index(polling)["constant", "1"].items() >= superseded.items())
    is_over = True
    await probing
    assert refused == []
    assert index(polling)["constant", "3"]["state"] == "READY"
    assert polling.get("/v2/models/other/ready")[0] == 400


def write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)

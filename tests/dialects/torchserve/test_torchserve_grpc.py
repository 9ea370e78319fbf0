"""TorchServe's gRPC services of a real server, with handlers in host processes, asked by grpcio."""

import asyncio
import json
import os
import signal
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from torchserve_stubs import (
    INFERENCE,
    MANAGEMENT,
    OPEN_INFERENCE,
    Stub,
    asked,
    management,
    message,
    open_inference,
)
from waiting import auntil

from salver.app import Server
from salver.configuration import ServeConfig
from salver.dialects.torchserve.archive_store import ArchiveStoreConfig
from salver.dialects.torchserve.registering import HandlerStoreConfig, StartupModel
from salver.dialects.torchserve.rules import TokenRules, TorchServeRules
from salver.transport.server import FrontConfig

HANDLER = """
import os
import time
from ts.handler_utils.utils import send_intermediate_predict_response

def handle(data, context):
    out = []
    for row in data or []:  # without any when it is loaded
        body = bytes(row.get("data") or row.get("body") or b"").decode()
        if body == "fail":
            raise ValueError("as asked")
        if body == "die":
            os._exit(3)
        if body.startswith("sleep"):
            time.sleep(float(body[5:]))
        if body.startswith("hang "):
            open(body[5:], "w").close()
            time.sleep(60)
        if body == "pieces":
            for piece in ("one ", "two "):
                send_intermediate_predict_response([piece], context.request_ids, "", 200, context)
            body = "three"
        if body == "pid":
            body = str(os.getpid())
        out.append(body)
    return out
"""
KINDS = ("all", "torchserve-grpc-inference", "torchserve-grpc-management")


def archive(folder: Path, name: str, version: str = "1.0") -> None:
    model = {"modelName": name, "handler": "handler.py:handle", "modelVersion": version}
    manifest = {"createdOn": "", "runtime": "python", "model": model, "archiverVersion": "0.12.0"}
    with zipfile.ZipFile(folder / f"{name}_{version}.mar", "w") as opened:
        opened.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        opened.writestr("handler.py", HANDLER)


@asynccontextmanager
async def serving(
    store: Path, *names: str, rules: TorchServeRules | None = None, **more: Any
) -> AsyncIterator[Any]:
    """Stubs at the common port and at TorchServe's own."""
    fronts = [FrontConfig(port=0, serves=kind, grace_seconds=5) for kind in KINDS]  # type: ignore[arg-type]
    handlers = HandlerStoreConfig(
        ArchiveStoreConfig(str(store)),
        at_start=tuple(StartupModel(name) for name in names),
        workers=1,
        **more,
    )
    config = ServeConfig(
        front=fronts[0],
        more=tuple(fronts[1:]),
        control="none",
        tables={"torchserve": {"handlers": handlers, "rules": rules or TorchServeRules()}},
    )
    async with Server(config) as server:
        ports = server.listeners.ports()
        channels = [grpc.aio.insecure_channel(f"127.0.0.1:{port}") for port in ports]
        try:
            yield SimpleNamespace(
                server=server,
                channels=channels,
                common=Stub(channels[0], f"{INFERENCE}.InferenceAPIsService"),
                inference=Stub(channels[1], f"{INFERENCE}.InferenceAPIsService"),
                management=Stub(channels[2], f"{MANAGEMENT}.ManagementAPIsService"),
                open_inference=Stub(channels[1], f"{OPEN_INFERENCE}.GRPCInferenceService"),
            )
        finally:
            for channel in channels:
                await channel.close()


async def _failure(call: Any) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code().name, raised.value.details()


async def _pieces(call: Any) -> list[bytes]:
    return [reply.prediction async for reply in call]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    archive(folder, "echo")
    archive(folder, "echo", "2.0")
    return folder


@pytest.mark.clause("TS-G1", "TS-G3")
async def test_a_model_from_registration_to_its_end(store: Path) -> None:
    async with serving(store, is_open=True) as it:
        register = it.management.RegisterModel
        sent = management("RegisterModelRequest", url="echo_1.0.mar", initial_workers=1, synchronous=True)
        assert (await register(sent)).msg == 'Model "echo" Version: 1.0 registered with 1 initial workers'
        assert (await _failure(register(sent)))[0] == "ABORTED"
        for stub in (it.common, it.inference):
            assert (await stub.Predictions(asked("echo", b"hi"))).prediction == b"hi"
        assert json.loads((await it.inference.Ping(message("google.protobuf.Empty")())).health) == {
            "status": "Healthy"
        }
        assert await _pieces(it.inference.StreamPredictions(asked("echo", b"pieces"))) == [
            b"one ",
            b"two ",
            b"three",
        ]
        assert await _pieces(it.inference.StreamPredictions(asked("echo", b"alone"))) == [b"alone"]
        assert (await it.inference.Predictions(asked("echo", b"pieces"))).prediction == b"one two three"
        assert (await it.inference.Predictions(asked("echo", b"after"))).prediction == b"after"

        sent = management("RegisterModelRequest", url="echo_2.0.mar", synchronous=True)
        assert (await register(sent)).msg.startswith('Model "echo" Version: 2.0 registered')
        sent = management("SetDefaultRequest", model_name="echo", model_version="2.0")
        assert "successfully updated" in (await it.management.SetDefault(sent)).msg
        told = await it.management.DescribeModel(management("DescribeModelRequest", model_name="echo"))
        (described,) = json.loads(told.msg)
        assert (described["modelVersion"], described["workers"][0]["status"]) == ("2.0", "READY")
        unregister = it.management.UnregisterModel
        got = await _failure(unregister(management("UnregisterModelRequest", model_name="echo")))
        assert got[1].startswith("Cannot remove default version for model echo")
        sent = management("UnregisterModelRequest", model_name="echo", model_version="1.0")
        assert (await unregister(sent)).msg == 'Model "echo" unregistered'
        got = await _failure(it.inference.Predictions(asked("echo", model_version="1.0")))
        assert got == (
            "INTERNAL",
            "Model version: 1.0 does not exist for model: echo\n"
            "org.pytorch.serve.archive.model.ModelVersionNotFoundException",
        )


@pytest.mark.clause("TS-G5")
async def test_what_goes_wrong_in_a_worker(store: Path) -> None:
    async with serving(store, "echo_1.0.mar") as it:
        ask = it.inference.Predictions
        worker = "org.pytorch.serve.http.InternalServerException"
        assert await _failure(ask(asked("echo", b"fail"))) == ("UNAVAILABLE", f"Prediction failed\n{worker}")
        call = it.inference.StreamPredictions(asked("echo", b"fail"))
        assert await _failure(_pieces(call)) == ("UNAVAILABLE", f"Prediction failed\n{worker}")
        assert await _failure(ask(asked("echo", b"die"))) == ("INTERNAL", f"Worker died.\n{worker}")
        assert (await ask(asked("echo", b"on"), timeout=60)).prediction == b"on"
        assert (await _failure(ask(asked("echo", b"sleep9"), timeout=0.5)))[0] == "DEADLINE_EXCEEDED"
        got = await _failure(it.management.RegisterModel(management("RegisterModelRequest", url="x.mar")))
        assert got[0] == "PERMISSION_DENIED"


@pytest.mark.clause("TS-G1")
async def test_a_worker_that_is_killed_costs_its_request_alone(store: Path, tmp_path: Path) -> None:
    async with serving(store, "echo_1.0.mar") as it:
        ask = it.inference.Predictions
        pid = int((await ask(asked("echo", b"pid"))).prediction)
        begun = tmp_path / "begun"
        waiting = [asyncio.ensure_future(ask(asked("echo", f"hang {begun}".encode())))]
        await auntil(begun.exists)
        waiting += [asyncio.ensure_future(ask(asked("echo", b"next"), timeout=60)) for _ in range(5)]
        os.kill(pid, signal.SIGKILL)
        assert (await _failure(waiting[0]))[1].startswith("Worker died.")
        assert [reply.prediction for reply in await asyncio.gather(*waiting[1:])] == [b"next"] * 5


@pytest.mark.clause("TS-B11", "TS-G6")
async def test_one_set_of_keys_for_all_interfaces(store: Path, tmp_path: Path) -> None:
    path = tmp_path / "key_file.json"
    rules = TorchServeRules(tokens=TokenRules(str(path)))
    async with serving(store, "echo_1.0.mar", rules=rules) as it:
        keys = json.loads(path.read_text())
        key = (("authorization", f"Bearer {keys['inference']['key']}"),)
        assert (await it.inference.Predictions(asked("echo"), metadata=key)).prediction == b"x"
        assert (await _failure(it.inference.Predictions(asked("echo"))))[0] == "PERMISSION_DENIED"
        assert (await _failure(it.management.ListModels(management("ListModelsRequest"), metadata=key)))[
            0
        ] == "PERMISSION_DENIED"


@pytest.mark.clause("TS-G4")
async def test_it_is_there_where_it_is_wanted(store: Path) -> None:
    sent = open_inference("ModelReadyRequest", name="echo")
    async with serving(store, "echo_1.0.mar", rules=TorchServeRules(speaks_oip=True)) as it:

        async def is_ready() -> bool:
            return (await it.open_inference.ModelReady(sent)).ready

        await auntil(is_ready)
        told = await it.open_inference.ModelMetadata(open_inference("ModelMetadataRequest", name="echo"))
        assert list(told.versions) == ["1.0"]


async def test_many_callers_at_a_time_have_their_own_answers(store: Path) -> None:
    async with serving(store, "echo_1.0.mar") as it:
        bodies = [f"call {number}".encode() for number in range(64)]
        replies = await asyncio.gather(*(it.inference.Predictions(asked("echo", body)) for body in bodies))
        assert [reply.prediction for reply in replies] == bodies
        streams = await asyncio.gather(
            *(_pieces(it.inference.StreamPredictions(asked("echo", b"pieces"))) for _ in range(16))
        )
        assert streams == [[b"one ", b"two ", b"three"]] * 16

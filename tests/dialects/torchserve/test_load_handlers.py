"""Handlers from the manifest to the answer: loaded, asked by the door, scaled in place, and observed."""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from salver.dialects.torchserve.loading import HandlerLoader, HandlerRules
from salver.kernel.lifecycle import LifecycleConfig, Manager
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.exchange import RequestPath
from salver.kernel.serving.loader import Loader
from salver.kernel.serving.loading import Additions, Terms
from salver.kernel.serving.ports import Codec
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import SalverError
from salver.words.events import BatchRan, Event, Served
from salver.words.handlers import FORMAT, Form, Workers, as_request, part, reply_of
from salver.words.messages import Call, InferRequest, InferResponse, ModelId, Signature

HANDLER = """
import os
from ts.handler_utils.utils import send_intermediate_predict_response as send

def handle(data, context):
    if data is None:
        return None
    said = [row["body"] for row in data]
    if said[0] == "break":
        raise ValueError("as asked")
    if said[0] == "stream":
        send(["first "], context.request_ids, "piece", 200, context)
        return ["last"]
    return [f"{text} of {len(data)} by {os.getpid()}" for text in said]
"""


class _Texts(Codec[str, str]):
    """A codec of texts, told apart from errors by their types."""

    protocol = "texts"

    def decode(self, body: str, signature: Signature) -> InferRequest:
        assert signature.takes_forms
        return as_request("echo", Form((part("body", body.encode(), "text/plain"),)))

    def encode(self, request: InferRequest, response: InferResponse) -> str:
        return reply_of(response.outputs[0].array, response.parameters).body.decode()

    def fault(self, error: SalverError) -> str:
        return f"{getattr(error, 'status', error.code.value)}: {error.message}"


class _World:
    def __init__(self, folder: Path) -> None:
        (folder / "MAR-INF").mkdir()
        about = {"modelName": "echo", "handler": "echo.py", "modelVersion": "1.0"}
        (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": about}))
        (folder / "echo.py").write_text(HANDLER)
        self.folder = folder
        self.events: list[Event] = []
        self.bus = Bus([self])
        terms, clock = Terms(cores=1), time.monotonic
        handlers = HandlerLoader(terms, self.bus.emit, clock, HandlerRules())
        self.loader = Loader({}, self.bus, clock, terms, Additions({"torchserve": handlers}))
        self.manager: Manager[Any] = Manager(
            self.loader, time.monotonic, self.bus.emit, LifecycleConfig(), lambda _: None
        )
        self.door: DataPlane[str, str] = DataPlane(
            RequestPath(self.manager, self.bus.emit, time.monotonic, lambda: "0" * 16)
        )

    def observe(self, events: Any) -> None:
        self.events += events

    async def have(self, workers: Workers, body: str = "a", **options: str) -> None:
        manifest = Manifest(
            ModelId("echo", "1.0"), self.folder, FORMAT, "torchserve",
            ModelConfig(workers=workers, options=options), f"{body}{workers.least}{workers.most}",
        )  # fmt: skip
        self.manager.apply([msgspec.structs.replace(manifest, body=body)])
        await self.manager.settled()

    @property
    def servable(self) -> Any:
        return self.manager.servables()[0]

    async def ask(self, text: str) -> str:
        return await self.door.infer(_Texts(), text, "echo", "", Call("texts", time.monotonic()))


@contextlib.asynccontextmanager
async def world_in(folder: Path) -> AsyncIterator[_World]:
    world = _World(folder)
    try:
        async with asyncio.timeout(60):
            yield world
    finally:
        await world.manager.drain(20)


@pytest.mark.clause("TS-M1", "TS-R3")
async def test_a_handler_is_there_at_once_and_ready_when_a_worker_is(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.have(Workers())
        assert not await world.servable.is_ready()
        assert (await world.ask("x")).startswith("x of 1 by ")
        assert await world.servable.is_ready()
        assert not world.door.is_decoupled("echo")
        assert world.door.signature("echo")[1].takes_forms
        assert await world.ask("break") == "503: Prediction failed"
        world.bus.flush()
        ran = [event for event in world.events if isinstance(event, BatchRan)]
        served = [event for event in world.events if isinstance(event, Served)]
        assert [event.requests for event in ran] == [1, 1]
        assert [event.outcome for event in served] == ["ok", "model_failed"]
        assert served[0].timing.inference > 0


@pytest.mark.clause("TS-R15")
async def test_the_door_writes_pieces_or_joins_them(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.have(Workers())
        assert await world.ask("stream") == "first last"
        pieces: list[str] = []

        async def write(piece: str) -> None:
            pieces.append(piece)

        call = Call("texts", time.monotonic())
        assert await world.door.stream(_Texts(), "stream", "echo", "", call, write) is None
        assert pieces == ["first ", "last"]


@pytest.mark.clause("TS-M2")
async def test_more_workers_are_the_same_version_and_other_settings_another(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.have(Workers())
        await world.ask("x")
        before = world.servable
        await world.have(Workers(least=2, most=3))
        assert world.servable is before
        assert await before.engine.settled() == 2
        ids = [status.id for status in before.engine.workers()]
        assert len(ids) == 2
        await world.have(Workers(batch_size=4, max_batch_delay_ms=50), body="b")
        assert world.servable is not before
        both = await asyncio.gather(*(world.ask(str(n)) for n in range(4)))
        assert all(" of 4 by " in answer for answer in both)
        assert world.servable.engine.workers()[0].id not in ids


@pytest.mark.clause("TS-B8")
async def test_without_workers_it_is_served_and_refuses(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.have(Workers(least=0, most=0))
        assert (await world.ask("x")).startswith("not_ready: model 'echo' has no worker")
        assert world.servable.engine.workers() == ()


@pytest.mark.clause("TS-Y1")
async def test_workers_share_weights_unless_they_shall_not(tmp_path: Path) -> None:
    async with world_in(tmp_path) as world:
        await world.have(Workers(least=2))
        await world.servable.engine.settled()
        assert world.servable.engine._pool._fork_server.pid > 0
        await world.have(Workers(least=2), body="b", share_weights="false")
        await world.servable.engine.settled()
        assert world.servable.engine._pool._fork_server.pid == -1

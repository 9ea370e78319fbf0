"""An engine around the handlers of the tests, and what is asked of it."""

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from waiting import auntil

from salver.backends.protocol import LoadOptions
from salver.dialects.torchserve.engine.engine import HandlerEngine, HandlerTerms
from salver.dialects.torchserve.engine.gpus import Gpus
from salver.dialects.torchserve.engine.worker_pool import WorkerFactory
from salver.kernel.engine.spawn import HostPlan
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import SalverError
from salver.words.events import BatchRan, WorkerReady
from salver.words.handlers import Form, Workers, as_request, part
from salver.words.messages import InferRequest, InferResponse, ModelId

LIMIT_S = 60.0


async def soon(_: float) -> None:
    await asyncio.sleep(0)


class World:
    """An engine and what it told."""

    def __init__(
        self,
        at_start: str = "",
        memory_limit_mb: int = 0,
        shares: bool = False,
        threads: int = 1,
        gpus: Gpus | None = None,
        **settings: Any,
    ) -> None:
        self.ran: list[BatchRan] = []
        self.came: list[int] = []
        self.heard: list[tuple[int, Sequence[str]]] = []
        workers = Workers(**settings)
        options = {"at_start": at_start} if at_start else {}
        manifest = Manifest(
            ModelId("h", "1.0"),
            Path("/no"),
            "torchserve",
            "torchserve",
            config=ModelConfig(options=options),
        )
        plan = HostPlan(
            "handler_backends:Handlers", manifest, LoadOptions(threads), memory_limit_mb, forks=shares
        )
        factory = WorkerFactory(gpus=gpus or Gpus(), sleep=soon)
        terms = HandlerTerms(time.monotonic, self.happened, self.hear, factory)
        self.engine = HandlerEngine(plan, workers, terms)

    def happened(self, event: BatchRan | WorkerReady) -> None:
        if isinstance(event, BatchRan):
            self.ran.append(event)
        else:
            self.came.append(event.worker)

    def hear(self, id: ModelId, worker: int, lines: Sequence[str]) -> None:
        self.heard.append((worker, lines))

    async def ask(self, text: str, **more: Any) -> str:
        return said(await self.engine.infer(asking(text, **more)))

    async def pieces(self, text: str) -> list[str]:
        return [said(piece) async for piece in self.engine.stream(asking(text))]


def asking(text: str, **more: Any) -> InferRequest:
    return as_request("h", Form((part("body", text.encode()),)), **more)


def said(response: InferResponse) -> str:
    return response.outputs[0].array.tobytes().decode()


@contextlib.asynccontextmanager
async def world_of(limit_s: float = LIMIT_S, **settings: Any) -> AsyncIterator[World]:
    world = World(**settings)
    try:
        async with asyncio.timeout(limit_s):
            await world.engine.settled()
            yield world
    finally:
        await world.engine.close()


def kill(pid: int) -> None:
    """SIGKILL to one of our own; -1, which stands for a worker that is not there, would mean everybody."""
    assert pid > 1, pid
    os.kill(pid, signal.SIGKILL)


async def failure(work: Any) -> SalverError:
    with pytest.raises(SalverError) as caught:
        await work
    return caught.value


async def all_there(world: World, *but: int) -> None:
    """Each worker that is wanted can work, and none of them is one of those processes."""
    await auntil(
        lambda: not {-1, *but} & {status.pid for status in world.engine.workers()}, world.engine.workers
    )


@contextlib.asynccontextmanager
async def held(world: World, word: str = "hold", count: int = 1) -> AsyncIterator[list[asyncio.Task[str]]]:
    """Keep requests, ``hold`` or ``who``, running inside this context."""
    with tempfile.NamedTemporaryFile() as gate:
        try:
            asked = [asyncio.create_task(world.ask(f"{word} {gate.name}")) for _ in range(count)]
            await auntil(lambda: world.engine.running >= count)
            yield asked
        finally:
            gate.close()
            await asyncio.gather(*asked, return_exceptions=True)

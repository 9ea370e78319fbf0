"""A Python model in a host process behind an engine."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
from waiting import auntil

from salver.backends.protocol import LoadOptions
from salver.kernel.backoff import Backoff
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.process import ProcessRunner, Recovery
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, InferResponse, ModelId
from salver.words.tensor import tensor

SOURCE = """
import os, pathlib, time
import numpy as np

class Model:
    inputs = {"say": ("BYTES", [-1, 1])}
    outputs = {"heard": ("BYTES", [-1, 1]), "rows": ("INT64", [-1])}

    def load(self, context):
        self.started = context.path.with_suffix(".started")

    def predict(self, inputs):
        said = inputs["say"]
        if b"hold" in said:
            self.started.write_text(str(os.getpid()))
            time.sleep(60)
        if b"bad" in said:
            raise ValueError("a bad word")
        if b"short" in said:
            return {"heard": said[:-1], "rows": np.zeros(len(said), int)}
        return {"heard": said, "rows": np.full(len(said), len(said))}
"""


class HostEngineRig:
    def __init__(self, engine: Engine, runner: ProcessRunner, folder: Path, events: list[BatchRan]) -> None:
        self.engine = engine
        self.runner = runner
        self.started = folder / "model.started"
        self.events = events

    def ask(self, *words: bytes) -> "asyncio.Task[InferResponse]":
        say = np.array([[word] for word in words], dtype=object)
        return asyncio.ensure_future(self.engine.infer(InferRequest("talk", (tensor("say", say),))))

    async def until_held(self) -> int:
        return int(await auntil(lambda: self.started.exists() and self.started.read_text()))

    async def until_alive(self) -> None:
        await auntil(lambda: self.runner.pids)


@asynccontextmanager
async def host_engine(folder: Path, slots: int = 1) -> AsyncIterator[HostEngineRig]:
    path = folder / "model.py"
    path.write_text(SOURCE)
    manifest = Manifest(ModelId("talk", "1"), path, "python", "python")
    runner = await ProcessRunner.start(
        "salver.backends.python:PythonBackend",
        manifest,
        LoadOptions(),
        slots=slots,
        recovery=Recovery(Backoff(first_s=0.0, jitter=0.0)),
    )
    events: list[BatchRan] = []
    clock = asyncio.get_running_loop().time
    engine = Engine(manifest.id, runner, ModelConfig(), clock=clock, emit=events.append)
    try:
        yield HostEngineRig(engine, runner, folder, events)
    finally:
        await engine.close()


def heard(response: InferResponse) -> list[bytes]:
    return [word for (word,) in response.outputs[0].array.tolist()]

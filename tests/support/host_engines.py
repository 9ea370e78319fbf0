"""Python models in host processes behind an engine."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from waiting import auntil

from salver.backends.protocol import LoadOptions
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.process import ProcessRunner, Recovery
from salver.kernel.supervise import Backoff
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, InferResponse, ModelId
from salver.words.tensor import tensor

PLAIN = ModelConfig()
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


PYTHON = ("python", "salver.backends.python:PythonBackend")
TRITON_PYTHON = ("triton_python", "salver.dialects.triton.python_backend.backend:TritonPythonBackend")


class Hosted(NamedTuple):
    """An engine, the runner behind it, and what it has emitted."""

    engine: Any
    runner: Any
    events: list[BatchRan]


@asynccontextmanager
async def hosted(
    folder: Path,
    source: str,
    make: Callable[..., Any],
    config: ModelConfig = PLAIN,
    *,
    backend: tuple[str, str] = PYTHON,
    text: str = "",
    name: str = "m",
    slots: int = 1,
    first_s: float = 0.0,
) -> AsyncIterator[Hosted]:
    """A model of this source in host processes that start again at once, behind an engine.

    Args:
        make: Engine of an id, a runner, a configuration, a clock and a place for events.
        text: The model's own configuration, as its owner wrote it.
    """
    path = folder / "model.py"
    path.write_text(source)
    form, program = backend
    manifest = Manifest(ModelId(name, "1"), path, form, "python", config)
    recovery = Recovery(Backoff(first_s=first_s, jitter=0.0))
    options = LoadOptions(config=text)
    runner = await ProcessRunner.start(program, manifest, options, slots=slots, recovery=recovery)
    events: list[BatchRan] = []
    clock = asyncio.get_running_loop().time
    engine = make(manifest.id, runner, config, clock=clock, emit=events.append)
    try:
        yield Hosted(engine, runner, events)
    finally:
        await engine.close()


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
    async with hosted(folder, SOURCE, Engine, name="talk", slots=slots) as made:
        yield HostEngineRig(made.engine, made.runner, folder, made.events)


def heard(response: InferResponse) -> list[bytes]:
    return [word for (word,) in response.outputs[0].array.tolist()]

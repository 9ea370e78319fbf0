"""Processor time that a pipeline adds to each of its steps: at most 15 µs.

Pipelines of 1, 5, … steps that do nothing, asked through the engine as a server asks it; the slope over the
number of steps is what a step costs above its own time. *light* steps run on the event loop, *heavy* ones on
a thread: one after the other in a unit, or each by itself. ``python benchmarks/pipeline_steps.py``
"""

import asyncio
import contextlib
import time
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, Final
from unittest import mock

import numpy as np

from salver.features.pipelines import planning, served
from salver.features.pipelines.compiling import Runner, compiled
from salver.features.pipelines.document import Document, parse
from salver.features.pipelines.served import PipelineEngine, PipelineLoader
from salver.features.pipelines.steps.step import Step, step_class
from salver.kernel.serving.inner import Inner
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import tensor

COUNTS: Final = (1, 5, 10, 20, 40)
REQUESTS: Final = 300
ROUNDS: Final = 15


class Nothing(Step, frozen=True):
    """Heavy step that does nothing."""

    inputs: ClassVar = {"vector": "FP32[rows,width]"}
    outputs: ClassVar = {"vector": "FP32[rows,width]"}
    is_heavy: ClassVar = True

    def open(self, folder: Path) -> Any:
        """Return what returns its input."""
        return dict


class NoModels(Inner):
    """Models of a server that has none."""

    def hold(self, models: Any) -> Any:
        """Return what is released with the pipeline."""
        return self

    def release(self) -> None:
        """Release nothing."""


def document(steps: int, use: str) -> Document:
    """Return a chain of so many steps."""
    text = '[inputs]\nvector = "FP32[-1,4]"\n'
    text += "".join(f'[steps.s{n}]\nuse = "{use}"\n' for n in range(steps))
    return parse(text.encode(), "pipeline.toml")


async def light(steps: int) -> PipelineEngine:
    """Return a pipeline of light steps."""
    found = planning.plan("p", document(steps, "normalise"), Path(), lambda table: None)
    graph = compiled(found, lambda node: Runner(lambda arrays: arrays))
    inner: Any = NoModels(lambda: None)
    engine = PipelineEngine(
        ModelId("p", "1"), graph, inner, ModelConfig(), time.monotonic, lambda event: None
    )
    engine.ends = contextlib.AsyncExitStack()
    return engine


async def heavy(steps: int, *, joined: bool) -> PipelineEngine:
    """Return a pipeline of heavy steps, in a unit or not."""
    loader = PipelineLoader(NoModels(lambda: None), None, lambda event: None, time.monotonic)
    own = {"nothing": Nothing}
    with (
        mock.patch.object(served, "read_document", lambda folder: document(steps, "nothing")),
        mock.patch.object(planning, "step_class", lambda name: own.get(name) or step_class(name)),
        mock.patch.object(served, "units", served.units if joined else lambda plan: ()),
    ):
        servable = await loader.load(Manifest(ModelId("p", "1"), Path(), "pipeline", "pipeline"))
    return servable.engine


async def seconds(engine: PipelineEngine, request: InferRequest) -> float:
    """Return the processor time of one request."""
    began = time.process_time()
    for _ in range(REQUESTS):
        await engine.infer(request, time.monotonic() + 10)
    return (time.process_time() - began) / REQUESTS


async def main() -> None:
    request = InferRequest("p", (tensor("vector", np.ones((1, 4), "float32")),))
    makers = {
        "light": light,
        "heavy": lambda n: heavy(n, joined=True),
        "heavy, apart": lambda n: heavy(n, joined=False),
    }
    engines = {(kind, steps): await make(steps) for kind, make in makers.items() for steps in COUNTS}
    found: dict[tuple[str, int], list[float]] = {key: [] for key in engines}
    for _ in range(ROUNDS):  # interleaved, so that a busy moment of the machine slows all
        for key, engine in engines.items():
            found[key].append(await seconds(engine, request) * 1e6)
    for kind in makers:
        medians = {steps: median(found[kind, steps]) for steps in COUNTS}
        slope = np.polyfit(list(medians), list(medians.values()), 1)[0]
        row = "  ".join(f"{steps}: {micros:.1f}" for steps, micros in medians.items())
        print(f"{kind:12}  {row}  a step adds {slope:.1f} µs of processor time above its own")
    for engine in engines.values():
        await engine.close()


if __name__ == "__main__":
    asyncio.run(main())

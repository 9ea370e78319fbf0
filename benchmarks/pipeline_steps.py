"""Processor time that a pipeline adds to each of its steps: at most 15 µs.

Pipelines of 1, 5, … steps that do nothing, asked through the engine as a server asks it; the slope over the
number of steps is what a step costs above its own time. ``python benchmarks/pipeline_steps.py``
"""

import asyncio
import time
from pathlib import Path
from statistics import median

import numpy as np

from salver.features.pipelines.compiling import Runner, compiled
from salver.features.pipelines.document import parse
from salver.features.pipelines.planning import plan
from salver.features.pipelines.served import PipelineEngine
from salver.kernel.serving.inner import ALONE
from salver.words.artifacts import ModelConfig
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import tensor

COUNTS = (1, 5, 10, 20, 40)
REQUESTS = 500
ROUNDS = 15


def pipeline(steps: int) -> PipelineEngine:
    text = '[inputs]\nvector = "FP32[-1,4]"\n'
    text += "".join(f'[steps.s{n}]\nuse = "normalise"\n' for n in range(steps))
    found = plan("p", parse(text.encode(), "pipeline.toml"), Path(), lambda table: None)

    def run(arrays):
        return arrays

    graph = compiled(found, lambda node: Runner(run))
    return PipelineEngine(ModelId("p", "1"), graph, ALONE, ModelConfig(), time.monotonic, lambda event: None)


async def seconds(engine: PipelineEngine, request: InferRequest) -> float:
    """Return the processor time of one request."""
    began = time.process_time()
    for _ in range(REQUESTS):
        await engine.infer(request, time.monotonic() + 10)
    return (time.process_time() - began) / REQUESTS


async def main() -> None:
    request = InferRequest("p", (tensor("vector", np.ones((1, 4), "float32")),))
    engines = {steps: pipeline(steps) for steps in COUNTS}
    found: dict[int, list[float]] = {steps: [] for steps in COUNTS}
    for _ in range(ROUNDS):  # interleaved, so that a busy moment of the machine slows all
        for steps, engine in engines.items():
            found[steps].append(await seconds(engine, request) * 1e6)
    medians = {steps: median(times) for steps, times in found.items()}
    for steps, micros in medians.items():
        print(f"{steps:3} steps  {micros:7.1f} µs")
    slope = np.polyfit(list(medians), list(medians.values()), 1)[0]
    print(f"a step adds {slope:.1f} µs of processor time above its own")


if __name__ == "__main__":
    asyncio.run(main())

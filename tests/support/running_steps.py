"""Steps of pipelines that tell how they run, and the loading of pipelines with them in this process."""

import os
import threading
import time
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from salver.features.pipelines.served import PipelineLoader, Surroundings
from salver.features.pipelines.steps.step import Arrays, Run, RunMany, Step
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, SalverError
from salver.words.messages import InferRequest, InferResponse, ModelId
from salver.words.tensor import tensor

#: What each run of a heavy step has got: its name and the values of each request.
RUNS: list[tuple[str, list[list[float]]]] = []
#: Threads that runs of a heavy step had.
THREADS: set[int] = set()


class Add(Step, frozen=True):
    """Heavy step: ``by`` more; ``refused`` is refused, ``broken`` raises, and each run waits for ``GATE``."""

    inputs: ClassVar = {"x": "FP32[rows]"}
    outputs: ClassVar = {"x": "FP32[rows]"}
    is_heavy: ClassVar = True

    by: float = 1
    refused: float = -1
    broken: float = -2
    gate: str = ""

    def open_many(self, folder: Path) -> RunMany:
        """Return what adds."""

        def run_many(many: list[Arrays]) -> list[Arrays | SalverError]:
            RUNS.append((f"+{self.by:g}", [arrays["x"].tolist() for arrays in many]))
            THREADS.add(threading.get_ident())
            if self.gate:
                GATES[self.gate].wait(20)
            if any((arrays["x"] == self.broken).any() for arrays in many):
                raise ValueError("broken")
            return [self._one(arrays["x"]) for arrays in many]

        return run_many  # type: ignore[return-value]

    def _one(self, x: Any) -> Arrays | SalverError:
        if (x == self.refused).any():
            return InvalidInput(f"{self.refused:g} is refused")
        return {"x": (x + np.float32(self.by)).astype(np.float32)}


class Wide(Add, frozen=True):
    """The same on two threads."""

    threads: ClassVar = 2


class Light(Step, frozen=True):
    """Light step: twice as much."""

    inputs: ClassVar = {"x": "FP32[rows]"}
    outputs: ClassVar = {"x": "FP32[rows]"}

    def open(self, folder: Path) -> Run:
        """Return what doubles."""
        return lambda arrays: {"x": arrays["x"] * np.float32(2)}


class Where(Step, frozen=True):
    """Process in which each row of texts is measured; the text ``die`` ends it, ``bad`` is refused."""

    inputs: ClassVar = {"text": "BYTES[rows]"}
    outputs: ClassVar = {"pid": "INT64[rows]", "length": "INT64[rows]"}

    more: int = 0

    def open(self, folder: Path) -> Run:
        """Return what measures."""

        def run(arrays: Arrays) -> Arrays:
            texts = arrays["text"].tolist()
            if b"die" in texts:
                os._exit(3)
            if b"bad" in texts:
                raise InvalidInput("a bad text")
            return {
                "pid": np.full(len(texts), os.getpid(), np.int64),
                "length": np.array([len(text) + self.more for text in texts], np.int64),
            }

        return run


GATES: dict[str, threading.Event] = {}
STEPS: dict[str, type[Step]] = {"add": Add, "wide": Wide, "light": Light, "where": Where}


class NoModels:
    """Models of a server that has none."""

    def hold(self, models: Any) -> "NoModels":
        """Return what is released with the pipeline."""
        return self

    def release(self) -> None:
        """Release nothing."""


async def loaded(folder: Path, text: str, around: Surroundings = Surroundings()) -> Servable:  # noqa: B008
    """Return a pipeline; its steps must be known to the planner."""
    (folder / "pipeline.toml").write_text(text)
    loader = PipelineLoader(NoModels(), None, lambda event: None, time.monotonic, around)  # type: ignore[arg-type]
    return await loader.load(Manifest(ModelId("p", "1"), folder, "pipeline", "pipeline"))


async def answer(servable: Servable, deadline: float | None = None, **inputs: Any) -> InferResponse:
    """Return the answer to inputs by name; numbers are FP32."""
    tensors = []
    for name, values in inputs.items():
        if not values or not isinstance(values[0], bytes):
            values = np.array(values, np.float32)
        tensors.append(tensor(name, values))
    return await servable.infer(InferRequest("p", tuple(tensors)), deadline)


def outputs(response: InferResponse) -> dict[str, list[Any]]:
    """Return the outputs as lists."""
    return {each.name: each.array.tolist() for each in response.outputs}

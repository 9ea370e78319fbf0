"""Heavy steps run together for the requests that wait; errors, deadlines and cancelling are one's own."""

import asyncio
import threading
import time
from typing import ClassVar

import numpy as np
import pytest
from waiting import auntil

from salver.features.pipelines import planning
from salver.features.pipelines.served import PipelineLoader
from salver.features.pipelines.steps.step import Step, step_class
from salver.kernel.serving.inner import Inner
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import DeadlineExceeded, InvalidInput, LoadFailed, ModelFailed, NotReady
from salver.words.messages import InferRequest, ModelId
from salver.words.tensor import tensor


class Held:
    """Models of a server that has none."""

    def release(self):
        self.is_released = True


class NoModels(Inner):
    def __init__(self):
        super().__init__(lambda: None)
        self.held = Held()

    def hold(self, models):
        return self.held


class Gate:
    """Runs of the step: each tells how many requests it has, and waits until it may go on."""

    def __init__(self):
        self.runs = []
        self.open = threading.Event()


GATE = Gate()


class Slow(Step, frozen=True):
    """Twice each value, after waiting; a value below 0 is refused, one above 100 raises."""

    inputs: ClassVar = {"x": "FP32[rows]"}
    outputs: ClassVar = {"y": "FP32[rows]"}
    is_heavy: ClassVar = True

    def open_many(self, folder):
        def run_many(many):
            GATE.runs.append(len(many))
            GATE.open.wait(20)
            return [self.one(arrays["x"]) for arrays in many]

        return run_many

    def one(self, x):
        if (x > 100).any():
            raise ValueError("too much")
        return InvalidInput("x is below 0") if (x < 0).any() else {"y": x * np.float32(2)}


class Wide(Slow, frozen=True):
    """The same on three threads."""

    threads: ClassVar = 3


@pytest.fixture
async def pipeline(tmp_path, monkeypatch):
    GATE.runs, GATE.open = [], threading.Event()
    own = {"slow": Slow, "wide": Wide}
    monkeypatch.setattr(planning, "step_class", lambda name: own.get(name) or step_class(name))
    (tmp_path / "pipeline.toml").write_text(
        '[steps.a]\nuse = "slow"\n[steps.b]\nuse = "threshold"\nleast = 5\n'
    )
    inner = NoModels()
    loader = PipelineLoader(inner, None, lambda event: None, time.monotonic)
    servable = await loader.load(Manifest(ModelId("p", "1"), tmp_path, "pipeline", "pipeline"))
    yield servable
    GATE.open.set()
    await servable.close()
    assert inner.held.is_released


def asked(servable, *values, deadline=None):
    request = InferRequest("p", (tensor("x", np.array(values, np.float32)),))
    return asyncio.create_task(servable.infer(request, deadline))


async def first_run(servable):
    """Return a request that the step has begun with."""
    task = asked(servable, 1)
    await auntil(lambda: GATE.runs == [1])
    return task


async def test_requests_that_wait_run_together_and_one_with_an_error_fails_alone(pipeline) -> None:
    first = await first_run(pipeline)
    others = [asked(pipeline, *values) for values in ((2, 3), (-1,), (4,))]
    await auntil(lambda: pipeline.engine.running == 4)
    GATE.open.set()
    found = await asyncio.gather(first, *others, return_exceptions=True)
    assert GATE.runs == [1, 3]
    assert [list(each.outputs[0].array) for each in found[:2]] == [[False], [False, True]]
    assert isinstance(found[2], InvalidInput) and str(found[2]) == "in pipeline 'p', x is below 0"
    assert list(found[3].outputs[0].array) == [True]


async def test_what_a_step_raises_is_the_models_failure_and_costs_nobody_else(pipeline) -> None:
    GATE.open.set()
    found = await asyncio.gather(asked(pipeline, 200), asked(pipeline, 3), return_exceptions=True)
    assert isinstance(found[0], ModelFailed) and "ValueError: too much" in str(found[0])
    assert list(found[1].outputs[0].array) == [True]


async def test_the_rows_of_a_request_run_on_all_threads_of_a_step(pipeline, tmp_path) -> None:
    (tmp_path / "pipeline.toml").write_text('[steps.a]\nuse = "wide"\n')
    loader = PipelineLoader(NoModels(), None, lambda event: None, time.monotonic)
    servable = await loader.load(Manifest(ModelId("p", "1"), tmp_path, "pipeline", "pipeline"))
    task = asked(servable, 1, 2, 3, 4, 5)
    await auntil(lambda: len(GATE.runs) == 3)
    GATE.open.set()
    assert (await task).outputs[0].array.tolist() == [2, 4, 6, 8, 10]
    await servable.close()


async def test_a_deadline_passes_while_a_request_waits(pipeline) -> None:
    first = await first_run(pipeline)
    late = asked(pipeline, 2, deadline=time.monotonic() + 0.01)
    with pytest.raises(DeadlineExceeded, match="in pipeline 'p'"):
        await late
    GATE.open.set()
    await first
    assert GATE.runs == [1]


async def test_a_caller_that_leaves_frees_its_place(pipeline) -> None:
    first = await first_run(pipeline)
    gone, stays = asked(pipeline, 2), asked(pipeline, 3)
    await auntil(lambda: pipeline.engine.running == 3)
    gone.cancel()
    await auntil(gone.done)
    assert pipeline.engine.running == 2
    GATE.open.set()
    await asyncio.gather(first, stays)
    assert GATE.runs == [1, 1] and pipeline.engine.running == 0


async def test_a_closed_pipeline_takes_nothing(pipeline) -> None:
    GATE.open.set()
    await pipeline.engine.close()
    with pytest.raises(NotReady):
        await asked(pipeline, 1)


async def test_large_inputs_of_a_light_step_leave_the_event_loop(tmp_path) -> None:
    steps = ('a]\nuse = "text-normalise"', 'b]\nuse = "text-split"\nby = "words"', 'c]\nuse = "text-join"')
    (tmp_path / "pipeline.toml").write_text("".join(f"[steps.{step}\n" for step in steps))
    loader = PipelineLoader(NoModels(), None, lambda event: None, time.monotonic)
    servable = await loader.load(Manifest(ModelId("p", "1"), tmp_path, "pipeline", "pipeline"))
    graph = servable.engine.graph
    assert [step.run.most_bytes < 1_000_000 for step in graph.steps] == [True] * 3
    text = b"a  " + b"b" * 1_000_000
    response = await servable.infer(InferRequest("p", (tensor("text", [text]),)))
    assert response.outputs[0].array.tolist() == [text.replace(b"  ", b" ")]
    with pytest.raises(InvalidInput, match=r"step 'b' found 20000 items .* at most 16384"):
        await servable.infer(InferRequest("p", (tensor("text", [b"a " * 20_000]),)))
    with pytest.raises(InvalidInput, match="valid UTF-8"):
        await servable.infer(InferRequest("p", (tensor("text", [b"\xff" * 1_000_000]),)))
    await servable.close()


async def test_options_of_a_models_table_are_refused(tmp_path) -> None:
    inner = NoModels()
    loader = PipelineLoader(inner, None, lambda event: None, time.monotonic)
    config = ModelConfig(options={"threads": "2"})
    with pytest.raises(LoadFailed, match="knows no option 'threads'"):
        await loader.load(Manifest(ModelId("p", "1"), tmp_path, "pipeline", "pipeline", config))
    (tmp_path / "pipeline.toml").write_text('[inputs]\ni = "INT64[-1]"\n[steps.a]\nuse = "labels"\n')
    with pytest.raises(LoadFailed, match="`names` or `file`"):
        await loader.load(Manifest(ModelId("p", "1"), tmp_path, "pipeline", "pipeline"))
    assert inner.held.is_released

"""A model that hangs: its host is killed and comes back; on a thread it is not ready until the run ends."""

import asyncio
import math
import threading
import time
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from waiting import PATIENCE_S, auntil

from salver.backends.protocol import LoadOptions, Traits
from salver.kernel.engine.decoupled import DecoupledEngine
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.process import ProcessRunner, Recovery
from salver.kernel.engine.run_limit import RunLimit
from salver.kernel.engine.stepper import StepEngine
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.engine.transcript import ByteVocabulary
from salver.kernel.supervise import Backoff
from salver.words.artifacts import Instances, Manifest, ModelConfig, Steps
from salver.words.errors import HostDied, NotReady
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, tensor

ID = ModelId("m", "1")
LIMIT_S = 0.3


def test_the_limit_follows_the_runs() -> None:
    limit = RunLimit()
    assert limit.seconds == 600
    for _ in range(63):
        limit.observe(0.1)
    assert limit.seconds == 600, "too few are known"
    limit.observe(0.1)
    assert limit.seconds == 60
    limit.observe(3.0)
    assert limit.seconds == 300
    limit.observe(301.0)
    assert limit.seconds == 300, "what hung, and came back, is no measure"


@pytest.mark.parametrize("fixed", [0.5, math.inf])
def test_the_owners_limit_stays(fixed: float) -> None:
    limit = RunLimit(fixed)
    for _ in range(100):
        limit.observe(0.1)
    assert limit.seconds == fixed


class Gated:
    """Doubles, once its gate is open."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, 1)),), (TensorSpec("y", DataType.FP32, (-1, 1)),), batched=True
    )

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Semaphore(0)

    def run(self, inputs: Any) -> Any:
        self.entered.release()
        assert self.gate.wait(PATIENCE_S)
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        self.gate.set()


def asking(value: float) -> InferRequest:
    return InferRequest("m", (tensor("x", np.full((1, 1), value, "f4")),))


async def answer(engine: Engine, value: float) -> float:
    return float((await engine.infer(asking(value))).outputs[0].array[0, 0])


@pytest.mark.parametrize("slots", [1, 2])
async def test_a_model_on_threads_is_not_ready_until_its_run_ends(slots: int) -> None:
    model = Gated()
    runner = ThreadRunner([model], Traits(concurrent=True), slots=slots, name="m", limit=RunLimit(LIMIT_S))
    engine = Engine(ID, runner, ModelConfig(), clock=time.monotonic, emit=lambda _: None)
    try:
        assert await answer(engine, 1) == 2
        model.gate.clear()
        asked = []
        for _ in range(slots):  # one after the other, so that each has a thread of its own
            asked.append(asyncio.ensure_future(answer(engine, 1)))
            await asyncio.to_thread(model.entered.acquire)
        behind = asyncio.ensure_future(answer(engine, 1))
        for each in (*asked, behind):
            with pytest.raises(NotReady, match=r"a run of model 'm' does not end, for more than 0\.3 s now"):
                await each
        assert runner.hangs
        with pytest.raises(NotReady):  # at once
            await answer(engine, 1)
        model.gate.set()
        await auntil(lambda: not runner.hangs)
        assert await answer(engine, 4) == 8
    finally:
        model.gate.set()
        await engine.close()


async def test_a_thread_that_hangs_leaves_the_others_their_work() -> None:
    models = [Gated(), Gated()]
    runner = ThreadRunner(models, Traits(), slots=2, name="m", limit=RunLimit(LIMIT_S))
    engine = Engine(ID, runner, ModelConfig(), clock=time.monotonic, emit=lambda _: None)
    try:
        for model in models:
            model.gate.clear()
        first = asyncio.ensure_future(answer(engine, 1))
        await auntil(lambda: any(model.entered.acquire(blocking=False) for model in models))
        await auntil(lambda: runner._hanging == 1)
        for model in models:
            model.entered.release()
        with pytest.raises(NotReady):
            await first
        busy = [seat for seat in runner._seats.values() if seat.hung is not None]
        assert len(busy) == 1
        assert not runner.hangs
        for model in models:
            model.gate.set()
        assert await answer(engine, 4) == 8
    finally:
        for model in models:
            model.gate.set()
        await engine.close()


class Letters:
    """A step model that may be held."""

    def __init__(self) -> None:
        self.row = np.full(256, -30, "f4")
        self.row[97] = 1
        self.gate = threading.Event()
        self.gate.set()

    def prefill(self, slot: int, tokens: Any) -> Any:
        return self.row

    def step(self, slots: Any, tokens: Any) -> Any:
        assert self.gate.wait(PATIENCE_S)
        return np.stack([self.row] * len(slots))

    def release(self, slot: int) -> None:
        pass

    def close(self) -> None:
        pass


async def test_a_step_model_is_not_ready_until_its_step_ends() -> None:
    config = ModelConfig(
        steps=Steps(vocabulary="bytes", max_sequences=2, max_context=64),
        instances=Instances(run_timeout_s=LIMIT_S),
    )
    model = Letters()
    engine = StepEngine(ID, model, ByteVocabulary(), config, time.monotonic, lambda _: None)
    await engine.start()

    async def text() -> str:
        request = InferRequest(
            "m", (tensor("text_input", ["ab"]),), parameters={"max_tokens": 3, "temperature": 0.0}
        )
        async with aclosing(engine.stream(request)) as pieces:
            return "".join([piece.outputs[0].array[0].decode() async for piece in pieces])

    try:
        assert await text() == "aaa"
        model.gate.clear()
        for result in await asyncio.gather(text(), text(), text(), return_exceptions=True):
            assert isinstance(result, NotReady)
            assert "a step of model 'm' does not end" in result.message
        assert engine.hangs
        with pytest.raises(NotReady):
            await text()
        model.gate.set()
        await auntil(lambda: not engine.hangs)
        assert await text() == "aaa"
    finally:
        model.gate.set()
        await engine.close()


SOURCE = """
import os, time

class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def predict(self, inputs):
        if (inputs["x"] < 0).any():
            time.sleep(3600)
        return {"y": inputs["x"] * 2}
"""
STREAMS = """
import time
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            count = int(pb_utils.get_input_tensor_by_name(request, "x").as_numpy()[0])
            sender = request.get_response_sender()
            for index in range(abs(count)):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([index]))]))
            if count < 0:
                time.sleep(3600)
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
TOLD = """{"name": "m", "max_batch_size": 0, "model_transaction_policy": {"decoupled": true},
"input": [{"name": "x", "data_type": "TYPE_INT64", "dims": [1]}],
"output": [{"name": "y", "data_type": "TYPE_INT64", "dims": [1]}]}"""


async def hosts(folder: Path, source: str, format: str = "python", told: str = "") -> ProcessRunner:
    path = folder / "model.py"
    path.write_text(source)
    return await ProcessRunner.start(
        "salver.dialects.triton.python_backend.backend:TritonPythonBackend",
        Manifest(ID, path, format, "python"),
        LoadOptions(config=told),
        run_timeout_s=1.0,
        recovery=Recovery(Backoff(first_s=0.0, jitter=0.0)),
    )


async def test_a_host_whose_run_hangs_is_killed_and_comes_back(tmp_path: Path) -> None:
    runner = await hosts(tmp_path, SOURCE)
    engine = Engine(ID, runner, ModelConfig(), clock=time.monotonic, emit=lambda _: None)
    try:
        assert await answer(engine, 1) == 2
        (before,) = runner.pids
        with pytest.raises(HostDied, match="a run did not end within 1 s"):
            await answer(engine, -1)
        await auntil(lambda: not runner.is_lost)
        assert runner.pids != [before]
        assert await answer(engine, 3) == 6
    finally:
        await engine.close()


async def test_a_model_that_sends_pieces_hangs_when_it_says_nothing(tmp_path: Path) -> None:
    runner: Any = await hosts(tmp_path, STREAMS, "triton_python", TOLD)
    config = ModelConfig()
    engine = DecoupledEngine(ID, runner, config, clock=time.monotonic, emit=lambda _: None)

    async def ask(count: int, pause_s: float = 0.0) -> list[int]:
        found = []
        async with aclosing(engine.stream(InferRequest("m", (tensor("x", np.array([count])),)))) as pieces:
            async for piece in pieces:
                found += [int(output.array[0]) for output in piece.outputs]
                await asyncio.sleep(pause_s)
        return found

    try:
        assert await ask(3) == [0, 1, 2]
        assert await ask(3, pause_s=1.2) == [0, 1, 2], "a slow reader is no hang of the model"
        with pytest.raises(HostDied, match="did not end within 1 s"):
            await ask(-2)
        await auntil(lambda: not runner.is_lost)
        assert await ask(1) == [0]
    finally:
        await engine.close()

"""Readers on other threads while every kind of engine works, and threads change all the time.

Threads change each microsecond, and whenever the collector runs, which any allocation may have it do: so what
is not safe shows within seconds, and not once in 10^5 requests. What is safe is listed in
docs/explanation/threads.md.
"""

import asyncio
import gc
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handler_worlds import World
from soaking import size
from waiting import PATIENCE_S

from salver.backends.protocol import LoadOptions, Traits
from salver.kernel.engine.decoupled import DecoupledEngine
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.process import ProcessRunner
from salver.kernel.engine.sequence_engine import SequenceEngine
from salver.kernel.engine.shm import Arena
from salver.kernel.engine.stepper import StepEngine
from salver.kernel.engine.thread import ThreadRunner
from salver.kernel.engine.transcript import ByteVocabulary
from salver.words.artifacts import Batching, Manifest, ModelConfig, Objective, Priorities, Sequences, Steps
from salver.words.messages import InferRequest, ModelId, Signature, Standing, TensorSpec
from salver.words.tensor import DataType, tensor

pytestmark = pytest.mark.soak
ID = ModelId("m", "1")
_WORK_S = size(1.5, 0.5)
_CALLERS = 12


@contextmanager
def restless() -> Iterator[None]:
    """Threads change at every opportunity."""
    before, least = sys.getswitchinterval(), gc.get_threshold()

    def change(phase: str, info: dict[str, int]) -> None:
        if phase == "start" and not info["generation"]:
            time.sleep(0)

    sys.setswitchinterval(1e-6)
    gc.collect()
    gc.freeze()
    gc.set_threshold(1, 1000, 1000)
    gc.callbacks.append(change)
    try:
        yield
    finally:
        gc.callbacks.remove(change)
        gc.set_threshold(*least)
        sys.setswitchinterval(before)


class Readers:
    """Threads that look at an engine as operators do; ``wrong`` is what they met."""

    def __init__(self, engine: Any, count: int = 2) -> None:
        self.looks = 0
        self.wrong: list[BaseException] = []
        self._engine = engine
        self._ends = threading.Event()
        self._threads = [threading.Thread(target=self._look) for _ in range(count)]

    def __enter__(self) -> "Readers":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _look(self) -> None:
        engine = self._engine
        while not self._ends.is_set():
            try:
                assert engine.queued >= 0
                assert engine.running >= 0
                assert engine.insight() is not None
                assert repr(engine)
            except BaseException as error:
                self.wrong.append(error)
                return
            self.looks += 1


async def under_readers(engine: Any, ask: Callable[[int], Awaitable[object]]) -> None:
    """Callers ask, one request after the other, for some seconds."""
    end, done = time.monotonic() + _WORK_S, 0

    async def call(caller: int) -> None:
        nonlocal done
        # At least once, since a busy machine is slow.
        while not (done and (readers.looks or readers.wrong)) or time.monotonic() < end:
            await ask(caller)
            done += 1

    with restless(), Readers(engine) as readers:
        await asyncio.gather(*map(call, range(_CALLERS)))
    assert not readers.wrong, readers.wrong
    assert done
    assert engine.queued == 0


class Doubling:
    """Doubles; releases the interpreter meanwhile, as frameworks do."""

    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, -1)),), (TensorSpec("y", DataType.FP32, (-1, -1)),), batched=True
    )

    def run(self, inputs: Any) -> Any:
        time.sleep(0)
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        pass


def threads_of(slots: int) -> ThreadRunner:
    return ThreadRunner([Doubling()], Traits(concurrent=True), slots=slots, name="m")


CONFIGS = {
    "plain": ModelConfig(batching=Batching(max_rows=8)),
    "levels": ModelConfig(batching=Batching(max_rows=4), priorities=Priorities(levels=3, mode="weighted")),
    "objective": ModelConfig(batching=Batching(max_rows=8), objective=Objective(latency_p99_ms=60_000)),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
async def test_a_batching_engine_may_be_looked_at_from_any_thread(config: ModelConfig) -> None:
    engine = Engine(ID, threads_of(3), config, clock=time.monotonic, emit=lambda _: None)
    sizes = iter(range(1 << 30))

    async def ask(caller: int) -> None:
        width = 1 << next(sizes) % 12  # of free extents: each has a law of its own
        x = tensor("x", np.full((1, width), caller, "f4"))
        said = await engine.infer(
            InferRequest("m", (x,)), standing=Standing(tenant=f"t{caller}", priority=caller % 3 + 1)
        )
        assert (said.outputs[0].array == 2 * caller).all()

    try:
        await under_readers(engine, ask)
    finally:
        await engine.close()


class Letters:
    """A step model whose scores are always the same."""

    def __init__(self) -> None:
        self.row = np.full(256, -30, "f4")
        self.row[97] = 1

    def prefill(self, slot: int, tokens: Any) -> Any:
        return self.row

    def step(self, slots: Any, tokens: Any) -> Any:
        return np.stack([self.row] * len(slots))

    def release(self, slot: int) -> None:
        pass

    def close(self) -> None:
        pass


async def test_a_step_engine_may_be_looked_at_from_any_thread(caplog: pytest.LogCaptureFixture) -> None:
    config = ModelConfig(
        steps=Steps(vocabulary="bytes", max_sequences=2, max_context=64), priorities=Priorities(levels=8)
    )
    engine = StepEngine(ID, Letters(), ByteVocabulary(), config, time.monotonic, lambda _: None)
    await engine.start()

    async def ask(caller: int) -> None:
        request = InferRequest(
            "m", (tensor("text_input", ["ab"]),), parameters={"max_tokens": 2, "temperature": 0.0}
        )
        async with aclosing(engine.stream(request, standing=Standing(priority=caller % 8 + 1))) as pieces:
            said = "".join([piece.outputs[0].array[0].decode() async for piece in pieces])
        assert said == "aa"

    try:
        await under_readers(engine, ask)
    finally:
        await engine.close()
    assert "failed" not in caplog.text


async def test_a_sequence_engine_may_be_looked_at_from_any_thread() -> None:
    config = ModelConfig(batching=Batching(max_rows=4), sequences=Sequences("oldest", candidates=4))
    engine = SequenceEngine(ID, [threads_of(1)] * 2, config, clock=time.monotonic, emit=lambda _: None)
    ids = iter(range(1, 1 << 30))

    async def ask(caller: int) -> None:
        id = next(ids)
        for flags in ({"sequence_start": True}, {}, {"sequence_end": True}):
            x = tensor("x", np.full((1, 1), caller, "f4"))
            request = InferRequest("m", (x,), parameters={"sequence_id": id, **flags})
            said = await engine.infer(request)
            assert (said.outputs[0].array == 2 * caller).all()

    try:
        await under_readers(engine, ask)
    finally:
        await engine.close()


SOURCE = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            for index in range(2):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("y", np.array([index]))]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
TOLD = """{"name": "m", "max_batch_size": 0, "model_transaction_policy": {"decoupled": true},
"input": [{"name": "x", "data_type": "TYPE_INT64", "dims": [1]}],
"output": [{"name": "y", "data_type": "TYPE_INT64", "dims": [1]}]}"""


@asynccontextmanager
async def decoupled(folder: Path) -> AsyncIterator[DecoupledEngine]:
    path = folder / "model.py"
    path.write_text(SOURCE)
    spec = TensorSpec("x", DataType.INT64, (1,))
    config = ModelConfig(
        inputs=(spec,), outputs=(TensorSpec("y", DataType.INT64, (1,)),), batching=Batching(False)
    )
    manifest = Manifest(ID, path, "triton_python", "python", config)
    runner: Any = await ProcessRunner.start(
        "salver.dialects.triton.python_backend.backend:TritonPythonBackend",
        manifest,
        LoadOptions(config=TOLD),
    )
    engine = DecoupledEngine(ID, runner, config, clock=time.monotonic, emit=lambda _: None)
    try:
        yield engine
    finally:
        await engine.close()


async def test_a_decoupled_engine_may_be_looked_at_from_any_thread(tmp_path: Path) -> None:
    async with decoupled(tmp_path) as engine:

        async def ask(caller: int) -> None:
            request = InferRequest("m", (tensor("x", np.array([caller])),))
            async with aclosing(engine.stream(request)) as pieces:
                said = [int(piece.outputs[0].array[0]) async for piece in pieces if piece.outputs]
            assert said == [0, 1]

        await under_readers(engine, ask)


PYTHON = """
class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def predict(self, inputs):
        return {"y": inputs["x"] * 2}
"""


async def test_an_engine_over_host_processes_may_be_looked_at_from_any_thread(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text(PYTHON)
    manifest = Manifest(ID, path, "python", "python")
    runner = await ProcessRunner.start("salver.backends.python:PythonBackend", manifest, LoadOptions())
    engine = Engine(ID, runner, ModelConfig(), clock=time.monotonic, emit=lambda _: None)

    async def ask(caller: int) -> None:
        said = await engine.infer(InferRequest("m", (tensor("x", np.full((1, 1), caller, "f4")),)))
        assert (said.outputs[0].array == 2 * caller).all()

    try:
        await under_readers(engine, ask)
    finally:
        await engine.close()


HANDLERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sequences": {"is_stateful": True, "max_sequences": 100, "sequence_queue": 9},
    "asynchronous": {"at_start": "async", "is_async": True},
}


@pytest.mark.parametrize("settings", HANDLERS.values(), ids=HANDLERS)
async def test_a_handler_engine_may_be_looked_at_from_any_thread(settings: dict[str, Any]) -> None:
    world = World(least=2, most=2, batch_size=2, queue=1000, **settings)
    ids = iter(range(1 << 30))

    async def ask(caller: int) -> None:
        if not settings.get("is_stateful"):
            assert await world.ask("hello")
            return
        name = f"s{next(ids)}"
        for total in (1, 2):
            assert await world.ask("add 1", sequence=(name, False, total == 2)) == str(total)

    try:
        assert await world.engine.settled() == 2
        await under_readers(world.engine, ask)
    finally:
        await world.engine.close()


def test_a_thread_that_lays_tensors_out_never_meets_a_descriptor_of_somebody_else() -> None:
    """An arena is closed on the loop, when its host dies, while a thread still copies into it."""
    errors: list[BaseException] = []

    def lay_out(arena: Arena, ready: threading.Event) -> None:
        ready.set()
        try:
            for size in range(20):
                arena.write({"x": np.zeros(1 << 20 + size % 3, "u1")})
        except (ValueError, OSError) as error:
            errors.append(error)

    with restless():
        for _ in range(40):
            arena, ready = Arena.create("test"), threading.Event()
            thread = threading.Thread(target=lay_out, args=(arena, ready))
            thread.start()
            ready.wait(PATIENCE_S)
            arena.close()
            thread.join(PATIENCE_S)
    assert not [error for error in errors if isinstance(error, OSError)], errors

"""More and fewer instances while a model answers: nobody is lost, and what goes is given back (TR-L4)."""

import asyncio
import threading
from pathlib import Path

import numpy as np
import pytest
from waiting import PATIENCE_S, auntil

from salver.backends.protocol import LoadOptions, Traits
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.process import ProcessRunner
from salver.kernel.engine.thread import ThreadRunner
from salver.words.artifacts import Batching, LearnedPolicy, Manifest, ModelConfig
from salver.words.errors import LoadFailed
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType, tensor

SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 2)),), (TensorSpec("y", DataType.FP32, (-1, 2)),), batched=True
)


class Twice:
    """Doubles; says how many of its kind run at once, and whether it is closed while it runs."""

    signature = SIGNATURE
    lock = threading.Lock()
    now = most = 0
    gate: threading.Event | None = None

    def __init__(self) -> None:
        self.is_closed = False
        self.runs = 0

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        assert not self.is_closed
        with Twice.lock:
            Twice.now += 1
            Twice.most = max(Twice.most, Twice.now)
        self.runs += 1
        if Twice.gate is not None:
            Twice.gate.wait(PATIENCE_S)
        with Twice.lock:
            Twice.now -= 1
        return {"y": inputs["x"] * 2}

    def close(self) -> None:
        assert not self.is_closed
        self.is_closed = True


class Rig:
    """An engine on threads, each with a model of its own unless one is shared."""

    def __init__(self, slots: int, *, shared: bool = False, config: ModelConfig | None = None) -> None:
        Twice.now = Twice.most = 0
        Twice.gate = None
        self.made: list[Twice] = []
        models = [self.make() for _ in range(1 if shared else slots)]
        more = None if shared else self.make
        self.runner = ThreadRunner(models, Traits(concurrent=shared), slots=slots, name="m", more=more)
        config = config or ModelConfig(batching=Batching(max_rows=1))
        clock = asyncio.get_running_loop().time
        self.engine = Engine(ModelId("m", "1"), self.runner, config, clock=clock, emit=lambda _: None)

    def make(self) -> Twice:
        self.made.append(Twice())
        return self.made[-1]

    async def ask(self, value: float) -> float:
        given = tensor("x", np.full((1, 2), value, "f4"))
        answer = await self.engine.infer(InferRequest("m", (given,)))
        return float(answer.outputs[0].array[0, 0])

    async def ask_many(self, count: int) -> None:
        answers = await asyncio.gather(*(self.ask(value) for value in range(count)))
        assert answers == [2 * value for value in range(count)]

    async def until_running(self, count: int) -> None:
        await auntil(lambda: Twice.now >= count)


@pytest.mark.clause("TR-L4")
@pytest.mark.parametrize("shared", [False, True])
async def test_threads_come_and_go(shared: bool) -> None:
    rig = Rig(1, shared=shared)
    await rig.ask_many(5)
    for slots in (3, 2, 4, 1, 2):
        await rig.engine.resize(slots)
        Twice.gate, Twice.most = threading.Event(), 0
        asking = asyncio.create_task(rig.ask_many(10))
        await rig.until_running(slots)
        assert rig.engine.running == slots
        Twice.gate.set()
        await asking
        assert Twice.most == slots
        alive = [model for model in rig.made if not model.is_closed]
        assert len(alive) == (1 if shared else slots)
    await rig.engine.close()
    assert all(model.is_closed for model in rig.made)


@pytest.mark.clause("TR-L4")
async def test_an_instance_that_goes_ends_its_run_first() -> None:
    rig = Rig(3)
    Twice.gate = threading.Event()
    asking = asyncio.create_task(rig.ask_many(9))
    await rig.until_running(3)
    resizing = asyncio.create_task(rig.engine.resize(1))
    await asyncio.sleep(0)
    assert not resizing.done() and not any(model.is_closed for model in rig.made)
    Twice.gate.set()
    await asking
    await resizing
    Twice.most = 0
    await rig.ask_many(6)
    assert Twice.most == 1 and sum(model.is_closed for model in rig.made) == 2
    await rig.engine.close()


@pytest.mark.clause("TR-L4")
async def test_before_the_first_run_nothing_has_begun() -> None:
    rig = Rig(3)
    await rig.engine.resize(1)
    assert sum(model.is_closed for model in rig.made) == 2
    await rig.engine.resize(2)
    await rig.ask_many(4)
    await rig.engine.close()
    assert all(model.is_closed for model in rig.made)


@pytest.mark.clause("TR-L4")
async def test_one_more_that_cannot_be_had_leaves_all_as_it_was() -> None:
    rig = Rig(1)
    loads = iter([Twice()])

    def fail() -> Twice:
        for model in loads:
            rig.made.append(model)
            return model
        raise LoadFailed("no memory")

    rig.runner._more = fail
    with pytest.raises(LoadFailed, match="no memory"):
        await rig.engine.resize(3)
    assert rig.made[1].is_closed and rig.runner.slots == 1
    Twice.most = 0
    await rig.ask_many(5)
    assert Twice.most == 1
    await rig.engine.close()


async def test_a_learned_rule_or_shared_resources_keep_an_engine_from_changing() -> None:
    assert Rig(1).engine.can_resize
    learned = ModelConfig(batching=Batching(policy="learned", learned=LearnedPolicy()))
    assert not Rig(1, config=learned).engine.can_resize


@pytest.mark.clause("TR-L4")
async def test_hosts_come_and_go_and_those_that_stay_are_the_same() -> None:
    manifest = Manifest(ModelId("m", "7"), Path("/nowhere"), "test", "test")
    runner = await ProcessRunner.start("host_backends:Good", manifest, LoadOptions(threads=1), slots=1)
    try:
        engine = Engine(
            manifest.id,
            runner,
            ModelConfig(batching=Batching(max_rows=1)),
            clock=asyncio.get_running_loop().time,
            emit=lambda _: None,
        )

        async def ask(value: float) -> float:
            given = tensor("x", np.full((1, 2), value, "f4"))
            answer = await engine.infer(InferRequest("m", (given,)))
            return float(answer.outputs[0].array[0, 0])

        (first,) = runner.pids
        await engine.resize(3)
        assert runner.pids[0] == first and len(runner.pids) == 3
        values = range(1, 20)
        asking = asyncio.gather(*map(ask, values))
        await asyncio.sleep(0)
        await engine.resize(2)
        assert await asking == [2 * value for value in values]
        assert len(runner.pids) == 2
        before = set(runner.pids)
        await engine.resize(3)
        assert before < set(runner.pids)
        assert sorted(seat.host.plan.options.instance for seat in runner._seats) == [0, 1, 2]
        assert await asyncio.gather(*map(ask, values)) == [2 * value for value in values]
    finally:
        await runner.close()
    assert runner.pids == []


async def test_runs_can_be_limited_and_set_free_again() -> None:
    rig = Rig(1, config=ModelConfig(batching=Batching(max_rows=8)))
    sizes: list[int] = []
    rig.made[0].run = lambda inputs: sizes.append(len(inputs["x"])) or {"y": inputs["x"] * 2}  # type: ignore[method-assign]
    rig.engine.limit_rows(2)
    await rig.ask_many(8)
    given = tensor("x", np.ones((5, 2), "f4"))
    answer = await rig.engine.infer(InferRequest("m", (given,)))  # is split
    assert answer.outputs[0].array.shape == (5, 2)
    assert sum(sizes) == 13 and max(sizes) == 2
    rig.engine.limit_rows(8)
    await rig.engine.infer(InferRequest("m", (given,)))
    assert sizes[-1] == 5
    await rig.engine.close()

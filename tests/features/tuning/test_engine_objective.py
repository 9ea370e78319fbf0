"""The engine keeps an objective: whom it refuses, when, with which words, and what it runs.

The clock and the runner are the test's: time stands still until the test moves it, and a run ends when
the test says so. The model takes b + 4 ms for b rows, and the engine knows it.
"""

import asyncio
from collections.abc import Mapping

import numpy as np
import pytest
from exact_overload import LAW

from salver.kernel.engine.engine import Engine
from salver.kernel.engine.schedule import PriorKnowledge
from salver.stats.batch_law import LiveLaw
from salver.stats.shape_laws import ShapeLaws
from salver.words.artifacts import Batching, Fairness, ModelConfig, Objective, Priorities
from salver.words.errors import DeadlineExceeded, ModelFailed, NotReady, Overloaded, SalverError
from salver.words.events import BatchRan
from salver.words.messages import (
    ANYBODY,
    InferRequest,
    InferResponse,
    ModelId,
    Signature,
    Standing,
    TensorSpec,
)
from salver.words.tensor import Array, DataType, tensor

BATCHED = Signature(
    (TensorSpec("x", DataType.FP32, (-1, 2)),), (TensorSpec("y", DataType.FP32, (-1, 2)),), batched=True
)
ALONE = Signature(
    (TensorSpec("x", DataType.FP32, (2,)),), (TensorSpec("y", DataType.FP32, (2,)),), batched=False
)


class Held:
    """Each run waits until it is let go; answers twice its input."""

    def __init__(self, slots: int, signature: Signature) -> None:
        self.slots = slots
        self.signature = signature
        self.begun: list[np.ndarray] = []
        self.gates: list[asyncio.Future[None]] = []
        self.is_closed = False

    async def run(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.begun.append(inputs["x"])
        self.gates.append(gate)
        await gate
        return {"y": inputs["x"] * 2}, 0.001

    def run_inline(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float] | None:
        return None

    async def run_each(self, inputs: Mapping[str, Array]) -> list[Mapping[str, Array]]:
        return [(await self.run(inputs))[0]]

    async def close(self) -> None:
        self.is_closed = True


class Rig:
    def __init__(self, *, slots: int = 1, signature: Signature = BATCHED, **config: object) -> None:
        self.now = 1000.0
        # Timers go by the same clock: on a busy machine some would fire between two steps of a test.
        asyncio.get_running_loop().time = lambda: self.now  # type: ignore[method-assign]
        self.events: list[BatchRan] = []
        self.runner = Held(slots, signature)
        config.setdefault("batching", Batching(max_rows=32))
        self.law = LiveLaw(LAW)
        self.engine = Engine(
            ModelId("m", "1"),
            self.runner,
            ModelConfig(**config),  # type: ignore[arg-type]
            clock=lambda: self.now,
            emit=self.events.append,
            known=PriorKnowledge(ShapeLaws(self.law)),
        )

    def ask(
        self,
        value: float = 1.0,
        rows: int = 1,
        *,
        within: float | None = None,
        standing: Standing = ANYBODY,
    ) -> "asyncio.Task[InferResponse]":
        shape = (rows, 2) if self.runner.signature.batched else (2,)
        request = InferRequest("m", (tensor("x", np.full(shape, value, "f4")),))
        deadline = None if within is None else self.now + within
        return asyncio.create_task(self.engine.infer(request, deadline, standing=standing))

    async def settle(self) -> None:
        for _ in range(12):
            await asyncio.sleep(0)

    async def finish(self, seconds: float, error: Exception | None = None, which: int = 0) -> None:
        """Let a run under way end, so much later."""
        self.now += seconds
        gate = self.runner.gates.pop(which)
        if error is None:
            gate.set_result(None)
        else:
            gate.set_exception(error)
        await self.settle()

    def served(self) -> list[list[float]]:
        """The first value of each row of each run."""
        return [run.reshape(-1, 2)[:, 0].tolist() for run in self.runner.begun]


async def failure(task: "asyncio.Task[InferResponse]") -> SalverError:
    with pytest.raises(SalverError) as caught:
        await task
    return caught.value


def answer(response: InferResponse) -> float:
    return float(response.outputs[0].array.reshape(-1)[0])


async def test_a_deadline_that_cannot_be_met_is_refused_before_the_model_runs() -> None:
    rig = Rig(objective=Objective(latency_p99_ms=50))
    error = await failure(rig.ask(within=0.004))  # one row takes 5 ms
    assert isinstance(error, DeadlineExceeded)
    assert str(error) == "the deadline cannot be met: 4 ms are left, and 0 requests wait"
    assert rig.runner.begun == []
    assert rig.engine.queued == 0
    fine = rig.ask(within=0.006)
    await rig.settle()
    await rig.finish(0.005)
    assert answer(await fine) == 2.0


async def test_no_batch_is_prepared_for_a_run_that_ended_sooner_than_expected() -> None:
    rig = Rig(signature=ALONE)  # the next batch is prepared 1 ms before the expected end
    tasks = [rig.ask(float(value)) for value in (1, 2, 3)]
    await rig.settle()
    await rig.finish(0.002)
    assert len(rig.runner.begun) == 2
    rig.now += 0.0025
    await rig.settle()
    assert len(rig.runner.begun) == 2  # the second run has just begun
    rig.now += 0.002
    await rig.settle()
    assert len(rig.runner.begun) == 3
    for _ in tasks[1:]:
        await rig.finish(0.0)
    assert [answer(await task) for task in tasks] == [2.0, 4.0, 6.0]


async def test_an_objective_that_cannot_be_met_is_refused_with_the_time_to_come_back() -> None:
    rig = Rig(objective=Objective(latency_p99_ms=30))
    first = rig.ask(rows=24)  # until 28 ms from now
    await rig.settle()
    error = await failure(rig.ask())  # 28 + 5 > 30
    assert isinstance(error, Overloaded)
    assert error.why == "objective"
    assert error.retry_after == pytest.approx(0.036)
    assert str(error) == "the objective of 30 ms cannot be met: 0 requests wait. Retry later."
    rig.now += 0.020
    second = rig.ask()  # 8 ms of the run are left
    await rig.settle()
    assert rig.engine.queued == 1
    await rig.finish(0.008)
    await rig.finish(0.005)
    assert [answer(await task) for task in (first, second)] == [2.0, 2.0]
    assert rig.served() == [[1.0] * 24, [1.0]]


async def test_who_cannot_be_in_time_any_more_is_given_up_before_it_runs() -> None:
    rig = Rig(
        objective=Objective(latency_p99_ms=50), batching=Batching(policy="drop-then-drain", max_rows=32)
    )
    first = rig.ask(0.0, rows=8)
    await rig.settle()
    late = rig.ask(1.0)
    late_by_own = rig.ask(2.0, within=0.05)
    await rig.settle()
    rig.now += 0.035  # the run takes much longer than 12 ms
    fresh = rig.ask(3.0)
    await rig.finish(0.013)
    error = await failure(late)
    assert isinstance(error, Overloaded) and error.why == "objective"
    assert isinstance(await failure(late_by_own), DeadlineExceeded)
    await rig.finish(0.005)
    assert answer(await fresh) == 6.0
    await first
    assert rig.served() == [[0.0] * 8, [3.0]]


async def test_a_failing_batch_leaves_no_ghost_and_teaches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Engine, "_expire", lambda *_: None
    )  # its timer is the real one, and 5 ms pass quickly
    rig = Rig(objective=Objective(latency_p99_ms=50))
    tasks = [rig.ask(value) for value in (1.0, 2.0)]
    await rig.settle()
    for _ in range(3):  # the whole, and each half
        await rig.finish(0.2, ModelFailed("no"))
    for task in tasks:
        assert isinstance(await failure(task), ModelFailed)
    assert [event.ok for event in rig.events] == [False] * 3
    assert (rig.law.runs, rig.law.law().seconds(32), rig.law.error) == (0, LAW.seconds(32), 0.0)
    assert (rig.engine.running, rig.engine.queued) == (0, 0)
    tight = rig.ask(3.0, within=0.0051)  # fits only if nothing is believed to run
    await rig.settle()
    await rig.finish(0.005)
    assert answer(await tight) == 6.0
    assert rig.law.runs == 1


async def test_halves_of_a_failed_batch_are_not_run_for_callers_that_have_gone() -> None:
    rig = Rig(objective=Objective(latency_p99_ms=50))
    tasks = [rig.ask(value) for value in (1.0, 2.0, 3.0, 4.0)]
    await rig.settle()
    await rig.finish(0.008, ModelFailed("no"))
    for gone in tasks[2:]:
        gone.cancel()
    await rig.settle()
    await rig.finish(0.006)
    assert [answer(await task) for task in tasks[:2]] == [2.0, 4.0]
    assert rig.served() == [[1.0, 2.0, 3.0, 4.0], [1.0, 2.0]]
    assert rig.engine.running == 0


async def test_a_request_larger_than_a_batch_is_refused_as_a_whole_before_any_part_runs() -> None:
    rig = Rig(objective=Objective(latency_p99_ms=60))
    error = await failure(rig.ask(rows=160))  # five runs of 36 ms
    assert isinstance(error, Overloaded) and error.why == "objective"
    await rig.settle()
    assert rig.runner.begun == [] and rig.engine.queued == 0


async def test_a_request_larger_than_a_batch_is_answered_in_parts_where_there_is_time() -> None:
    rig = Rig(objective=Objective(latency_p99_ms=200))
    task = rig.ask(rows=80)
    await rig.settle()
    for seconds in (0.036, 0.036, 0.02):
        await rig.finish(seconds)
    response = await task
    assert response.outputs[0].array.shape == (80, 2)
    assert [len(run) for run in rig.runner.begun] == [32, 32, 16]


async def test_many_rows_count_as_many() -> None:
    rig = Rig(objective=Objective(latency_p99_ms=30))
    assert isinstance(await failure(rig.ask(rows=32)), Overloaded)  # 36 ms
    fits = rig.ask(rows=26)
    await rig.settle()
    await rig.finish(0.03)
    assert (await fits).outputs[0].array.shape == (26, 2)


async def test_a_model_without_a_batch_dimension_keeps_an_objective_too() -> None:
    rig = Rig(signature=ALONE, objective=Objective(latency_p99_ms=12))
    tasks = [rig.ask(float(value)) for value in (1, 2)]
    await rig.settle()
    rejected = [rig.ask(), rig.ask()]
    await rig.settle()
    await rig.finish(0.005)
    await rig.finish(0.005)
    assert [answer(await task) for task in tasks] == [2.0, 4.0]
    for task in rejected:  # a third run would end at 15 ms
        assert isinstance(await failure(task), Overloaded)
    assert rig.served() == [[1.0], [2.0]]  # each alone


async def test_several_slots_are_counted_as_several() -> None:
    rig = Rig(slots=2, objective=Objective(latency_p99_ms=30), batching=Batching(max_rows=32))
    first = rig.ask(1.0, rows=24)
    await rig.settle()
    second = rig.ask(2.0)  # would have to wait 28 ms if there were one
    await rig.settle()
    assert (rig.engine.running, rig.served()) == (2, [[1.0] * 24, [2.0]])
    third = rig.ask(3.0)  # the second ends in 5 ms
    await rig.settle()
    assert rig.engine.queued == 1
    await rig.finish(0.005, which=1)
    await rig.finish(0.005, which=1)
    await rig.finish(0.018)
    assert [answer(await task) for task in (first, second, third)] == [2.0, 4.0, 6.0]


async def test_unloading_fails_who_waits_and_ends_what_runs() -> None:
    rig = Rig(objective=Objective(latency_p99_ms=50))
    running = rig.ask(1.0)
    await rig.settle()
    waiting = rig.ask(2.0)
    split = rig.ask(3.0, rows=40, standing=Standing(service="bulk"))
    await rig.settle()
    closing = asyncio.create_task(rig.engine.close())
    await rig.settle()
    assert isinstance(await failure(waiting), NotReady)
    assert isinstance(await failure(split), NotReady)
    assert not closing.done()
    await rig.finish(0.005)
    assert answer(await running) == 2.0
    await closing
    assert rig.runner.is_closed and len(rig.runner.begun) == 1
    assert isinstance(await failure(rig.ask()), NotReady)


async def test_a_default_timeout_does_not_switch_the_default_deadline_off() -> None:
    rig = Rig(objective=Objective(deadline_ms=30), timeout_ms=60_000)
    first = rig.ask(rows=24)
    await rig.settle()
    error = await failure(rig.ask())
    assert isinstance(error, Overloaded) and error.why == "objective"
    own = rig.ask(2.0, within=10.0)  # who brings a deadline is not held to the default one
    await rig.settle()
    await rig.finish(0.028)
    await rig.finish(0.005)
    assert answer(await own) == 4.0
    await first


async def test_priorities_and_services_reach_the_lanes() -> None:
    rig = Rig(
        batching=Batching(max_rows=1),
        priorities=Priorities(levels=3, mode="strict", default=2),
    )
    first = rig.ask(0.0)
    await rig.settle()
    tasks = [
        rig.ask(6.0, standing=Standing(service="bulk")),
        rig.ask(5.0, standing=Standing(priority=3)),
        rig.ask(3.0),
        rig.ask(4.0, standing=Standing(tenant="x")),
        rig.ask(2.0, standing=Standing(priority=1)),
        rig.ask(1.0, standing=Standing(service="urgent")),
    ]
    await rig.settle()
    for _ in range(7):
        await rig.finish(0.005)
    await asyncio.gather(first, *tasks)
    assert [run[0] for run in rig.served()] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


async def test_tenants_share_a_batch_by_weight() -> None:
    rig = Rig(batching=Batching(max_rows=8), fairness=Fairness(weights={"a": 3.0}))
    first = rig.ask(0.0)
    await rig.settle()
    tasks = [rig.ask(1.0, standing=Standing("a")) for _ in range(20)]
    tasks += [rig.ask(2.0, standing=Standing("b")) for _ in range(20)]
    await rig.settle()
    for seconds in [0.005] + [0.012] * 5:
        await rig.finish(seconds)
    await asyncio.gather(first, *tasks)
    assert [sorted(run) for run in rig.served()[1:3]] == [[1.0] * 6 + [2.0] * 2] * 2


async def test_requests_that_cannot_share_a_batch_wait_for_each_other_only() -> None:
    """Two tenants and two shapes: each batch holds one shape, and none blocks the other."""
    signature = Signature(
        (TensorSpec("x", DataType.FP32, (-1, -1)),), (TensorSpec("y", DataType.FP32, (-1, -1)),), batched=True
    )
    rig = Rig(signature=signature)

    def ask(columns: int, tenant: str) -> "asyncio.Task[InferResponse]":
        request = InferRequest("m", (tensor("x", np.ones((1, columns), "f4")),))
        return asyncio.create_task(rig.engine.infer(request, standing=Standing(tenant)))

    tasks = [ask(2, "a")]
    await rig.settle()
    tasks += [ask(columns, tenant) for columns, tenant in ((3, "a"), (4, "b"), (3, "a"), (4, "b"), (5, "c"))]
    await rig.settle()
    for _ in range(4):
        await rig.finish(0.01)
    await asyncio.gather(*tasks)
    assert sorted(run.shape for run in rig.runner.begun[1:]) == [(1, 5), (2, 3), (2, 4)]


async def test_who_makes_room_is_told_so() -> None:
    rig = Rig(batching=Batching(max_rows=1, max_queue=1), priorities=Priorities(levels=2))
    first = rig.ask(0.0)
    await rig.settle()
    low = rig.ask(1.0, standing=Standing(priority=2))
    await rig.settle()
    high = rig.ask(2.0, standing=Standing(priority=1))
    error = await failure(low)
    assert isinstance(error, Overloaded) and error.why == "queue_full"
    assert "It made room" in str(error)
    assert isinstance(await failure(rig.ask(3.0, standing=Standing(priority=2))), Overloaded)
    await rig.finish(0.005)
    await rig.finish(0.005)
    assert answer(await high) == 4.0
    await first


async def test_the_law_follows_the_machine_and_so_do_refusals() -> None:
    rig = Rig(objective=Objective(latency_p99_ms=50))
    for _ in range(200):  # the machine is three times as slow as was known
        task = rig.ask(rows=8)
        await rig.settle()
        await rig.finish(0.036)
        await task
    assert rig.law.law().seconds(8) == pytest.approx(0.036, rel=0.05)
    assert isinstance(await failure(rig.ask(rows=32)), Overloaded)
    assert rig.engine.insight().limit == 0

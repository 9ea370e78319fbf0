"""The thread runner: slots, errors, closing, and who may run on the loop."""

import asyncio
import threading

import numpy as np
import pytest
from waiting import PATIENCE_S

from salver.backends.protocol import Traits
from salver.kernel.engine.pace import Pace
from salver.kernel.engine.placement import Placement, place
from salver.kernel.engine.thread import ThreadRunner
from salver.words.artifacts import Instances
from salver.words.errors import InvalidInput, ModelFailed
from salver.words.messages import Signature, TensorSpec
from salver.words.tensor import DataType

SIGNATURE = Signature(
    (TensorSpec("x", DataType.FP32, (-1,)),), (TensorSpec("x", DataType.FP32, (-1,)),), batched=True
)
X = {"x": np.ones(1, "f4")}


class Model:
    signature = SIGNATURE

    def __init__(self, error=None):
        self.error = error
        self.threads = []
        self.closed = 0
        self.barrier = None

    def run(self, inputs):
        self.threads.append(threading.current_thread().name)
        if self.barrier:
            self.barrier.wait(PATIENCE_S)
        if self.error:
            raise self.error
        return inputs

    def close(self):
        self.closed += 1


async def test_slots_share_one_model_and_run_side_by_side():
    model = Model()
    model.barrier = threading.Barrier(2)
    runner = ThreadRunner([model], Traits(), slots=2, name="m")
    await asyncio.gather(runner.run(X), runner.run(X))
    assert sorted(model.threads) == ["salver-m-0", "salver-m-1"]
    await runner.close()
    assert model.closed == 1


@pytest.mark.clause("TR-C13")
@pytest.mark.parametrize("slots", [1, 3])
async def test_each_thread_is_warmed_up_once(slots):
    models = [Model() for _ in range(slots)]
    runner = ThreadRunner(models, Traits(concurrent=False), slots=slots, name="m")
    for _ in range(2):
        assert len(await runner.run_each(X)) == slots
    assert [model.threads for model in models] == [[f"salver-m-{n}"] * 2 for n in range(slots)]
    models[-1].error = ValueError("no")
    with pytest.raises(ModelFailed, match="no"):
        await runner.run_each(X)
    await runner.close()


async def test_a_model_that_cannot_be_shared_has_a_copy_for_each_slot():
    models = [Model(), Model()]
    barrier = threading.Barrier(2)
    for model in models:
        model.barrier = barrier
    runner = ThreadRunner(models, Traits(concurrent=False), slots=2, name="m")
    await asyncio.gather(runner.run(X), runner.run(X))
    assert [len(m.threads) for m in models] == [1, 1]
    await runner.close()
    assert [m.closed for m in models] == [1, 1]


@pytest.mark.parametrize(
    ("raised", "seen", "text"),
    [
        (ValueError("no"), ModelFailed, "model 'm' raised ValueError: no"),
        (InvalidInput("bad row"), InvalidInput, "bad row"),
        (SystemExit(3), ModelFailed, "SystemExit"),
    ],
)
async def test_what_the_model_raises(raised, seen, text):
    runner = ThreadRunner([Model(raised)], Traits(), slots=1, name="m")
    with pytest.raises(seen, match=text):
        await runner.run(X)
    with pytest.raises(seen):  # the thread is still there
        await runner.run(X)
    await runner.close()


@pytest.mark.parametrize(
    ("raised", "seen"),
    [
        (None, None),
        (ValueError("no"), ModelFailed),
        (InvalidInput("no"), InvalidInput),
        (SystemExit(), ModelFailed),
    ],
)
async def test_a_posted_run_calls_back_on_the_loop_without_a_task(raised, seen):
    runner = ThreadRunner([Model(raised)], Traits(), slots=1, name="m")
    told = asyncio.Event()
    results = []

    def done(result):
        results.append((result, threading.current_thread()))
        told.set()

    tasks = asyncio.all_tasks()
    assert runner.post(X, done, True)
    assert asyncio.all_tasks() == tasks
    await asyncio.wait_for(told.wait(), PATIENCE_S)
    ((result, thread),) = results
    assert thread is threading.main_thread()
    if seen is None:
        assert result[0] is X and result[1] >= 0
    else:
        assert type(result) is seen
    await runner.close()


async def test_only_native_shared_models_run_inline():
    for traits, threads, may in [
        (Traits(native=True), 1, True),
        (Traits(native=False), 1, False),
        (Traits(native=True, concurrent=False), 1, False),
        (Traits(native=True), 2, True),
    ]:
        runner = ThreadRunner([Model()], traits, slots=1, threads=threads, name="m")
        assert runner.run_inline(X) is None  # nothing is known of its time yet
        for _ in range(5):
            await runner.run(X)
        assert (runner.run_inline(X) is not None) == may
        await runner.close()


def test_pace_forgets_a_slow_first_run_and_notices_a_slow_model():
    pace = Pace(budget=100e-6)
    pace.observe(1, 5e-3)
    assert not pace.is_tiny(1)
    for _ in range(12):
        pace.observe(1, 20e-6)
    assert pace.is_tiny(1)
    for _ in range(40):
        pace.observe(1, 1e-3)
    assert not pace.is_tiny(1)


@pytest.mark.parametrize(
    ("traits", "wish", "cores", "placement"),
    [
        (Traits(), Instances(), 4, Placement("thread", 1, 4)),
        (Traits(), Instances(threads=4), 4, Placement("thread", 1, 4)),
        (Traits(), Instances(threads=1), 4, Placement("thread", 4, 1)),
        (Traits(), Instances(threads=3), 4, Placement("thread", 1, 3)),
        (Traits(), Instances(threads=8), 4, Placement("thread", 1, 8)),
        (Traits(), Instances(count=2), 4, Placement("thread", 2, 2)),
        (Traits(), Instances(count=8), 4, Placement("thread", 8, 1)),
        (Traits(concurrent=False), Instances(threads=1), 4, Placement("thread", 1, 1)),
        (Traits(releases_gil=False), Instances(), 4, Placement("thread", 1, 4)),
        (Traits(isolate=True), Instances(), 4, Placement("process", 1, 4)),
        (Traits(isolate=True), Instances(runner="thread", threads=1), 4, Placement("thread", 4, 1)),
        (Traits(), Instances(runner="process", count=2, threads=1), 4, Placement("process", 2, 1)),
        (Traits(), Instances(), 1, Placement("thread", 1, 1)),
    ],
)
def test_placement(traits, wish, cores, placement):
    assert place(traits, wish, cores) == placement

"""The engine answers everybody once: alone, in batches, late, cancelled, or beside a culprit."""

import asyncio
import threading

import numpy as np
import pytest
from doubling import ID, Doubler, request
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.backends.protocol import Traits
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.thread import ThreadRunner
from salver.words.artifacts import Batching, ModelConfig
from salver.words.errors import (
    DeadlineExceeded,
    HostDied,
    InvalidInput,
    InvalidOutput,
    ModelFailed,
    NotReady,
    Overloaded,
)
from salver.words.messages import InferRequest, RequestedOutput, Signature, TensorSpec
from salver.words.tensor import DataType, Tensor, tensor


class Rig:
    """An engine, its model and the events it emitted."""

    def __init__(self, policy=None, *, inline=False, slots=1, model=None):
        self.model = model or Doubler()
        self.events = []
        self.now = 0.0
        runner = ThreadRunner([self.model], Traits(native=inline), slots=slots, name="m")
        self.engine = Engine(
            ID,
            runner,
            ModelConfig(batching=policy or Batching()),
            clock=asyncio.get_running_loop().time,
            emit=self.events.append,
        )

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        if self.model.gate is not None:
            self.model.gate.set()
        await self.engine.close()
        assert self.model.is_closed

    def hold(self):
        self.model.gate = threading.Event()


def outputs(response):
    return {t.name: t.array for t in response.outputs}


async def busy(rig):
    """Occupy the only slot with a request that waits at the gate."""
    rig.hold()
    task = asyncio.create_task(rig.engine.infer(request(0)))
    while not rig.engine.running:
        await asyncio.sleep(0)
    return task


async def test_one_request():
    async with Rig() as rig:
        response = await rig.engine.infer(request(3, id="abc"))
        assert (response.model, response.version, response.id) == ("m", "1", "abc")
        assert outputs(response)["y"].tolist() == [[6, 6]]
        assert response.timing.batch_rows == 1
        assert response.timing.inference > 0
        assert rig.events[0].ok and rig.events[0].requests == 1


async def test_requests_of_one_turn_share_a_batch_and_get_their_own_rows():
    async with Rig() as rig:
        answers = await asyncio.gather(*(rig.engine.infer(request(i, rows=i)) for i in (1, 2, 3)))
        for i, answer in zip((1, 2, 3), answers, strict=True):
            assert outputs(answer)["y"].tolist() == [[2 * i, 2 * i]] * i
            assert answer.timing.batch_rows == 6
        assert rig.model.batches == [6]


async def test_outputs_as_asked_for():
    async with Rig() as rig:
        response = await rig.engine.infer(request(1, outputs=(RequestedOutput("n"),)))
        assert [t.name for t in response.outputs] == ["n"]
        with pytest.raises(InvalidInput, match="unexpected inference output 'z'"):
            await rig.engine.infer(request(1, outputs=(RequestedOutput("z"),)))


async def test_a_tiny_native_model_is_answered_on_the_spot():
    async with Rig(inline=True) as rig:
        for _ in range(20):  # until it is known to be tiny
            await rig.engine.infer(request(1))
        await asyncio.sleep(0.002)  # nobody near
        loop_turns = 0

        def count():
            nonlocal loop_turns
            loop_turns += 1

        asyncio.get_running_loop().call_soon(count)
        response = await rig.engine.infer(request(4))
        assert loop_turns == 0
        assert outputs(response)["y"].tolist() == [[8, 8]]
        answers = await asyncio.gather(*(rig.engine.infer(request(i)) for i in range(5)))
        assert [outputs(a)["y"][0, 0] for a in answers] == [0, 2, 4, 6, 8]
        assert rig.model.batches[-1] > 1  # those that came together were stacked


@pytest.mark.parametrize("inline", [False, True])
async def test_a_culprit_never_costs_its_batch_mates_their_answers(inline):
    async with Rig(inline=inline) as rig:
        for _ in range(20):
            await rig.engine.infer(request(1))
        values = [1, 2, float("nan"), 4, 5, 6, 7]
        answers = await asyncio.gather(
            *(rig.engine.infer(request(v)) for v in values), return_exceptions=True
        )
        for value, answer in zip(values, answers, strict=True):
            if np.isnan(value):
                assert isinstance(answer, ModelFailed)
                assert "model 'm' raised ZeroDivisionError: poison" in str(answer)
            else:
                assert outputs(answer)["y"][0, 0] == 2 * value
        assert outputs(await rig.engine.infer(request(9)))["y"][0, 0] == 18


async def test_an_output_with_the_wrong_rows_is_an_error_not_somebody_elses_answer():
    class Short(Doubler):
        def run(self, inputs):
            return {k: v[:1] for k, v in super().run(inputs).items()}

    async with Rig(model=Short()) as rig:
        with pytest.raises(ModelFailed, match=r"output 'y' of shape \[1, 2\] for 3 rows"):
            await rig.engine.infer(request(1, rows=3))


async def test_a_missing_output_is_an_error():
    class Mute(Doubler):
        def run(self, inputs):
            return {"y": inputs["x"]}

    async with Rig(model=Mute()) as rig:
        with pytest.raises(InvalidOutput, match="gave no output 'n'"):
            await rig.engine.infer(request(1))


async def test_a_dead_host_fails_its_batch_once():
    class Dying(Doubler):
        def run(self, inputs):
            self.batches.append(len(inputs["x"]))
            raise HostDied("the host process of model 'm' died (SIGKILL)")

    async with Rig(model=Dying()) as rig:
        answers = await asyncio.gather(
            rig.engine.infer(request(1)), rig.engine.infer(request(2)), return_exceptions=True
        )
        assert all(isinstance(a, HostDied) for a in answers)
        assert answers[0] is not answers[1]
        assert rig.model.batches == [2]


async def test_expired_while_waiting_is_never_run():
    async with Rig() as rig:
        first = await busy(rig)
        late = rig.engine.infer(request(5), deadline=rig.engine.now() + 0.01)
        with pytest.raises(DeadlineExceeded, match="Request timeout expired"):
            await late
        rig.model.gate.set()
        await first
        assert rig.model.batches == [1]
        assert rig.engine.queued == 0


async def test_expired_on_arrival_is_never_run():
    async with Rig() as rig:
        with pytest.raises(DeadlineExceeded):
            await rig.engine.infer(request(5), deadline=rig.engine.now() - 1)
        assert rig.model.batches == []


async def test_expired_while_running_is_answered_at_the_deadline():
    async with Rig() as rig:
        rig.hold()
        with pytest.raises(DeadlineExceeded):
            await rig.engine.infer(request(5), deadline=rig.engine.now() + 0.01)
        assert not rig.model.gate.is_set()


async def test_cancelled_leaves_the_queue_and_its_mates_alone():
    async with Rig() as rig:
        first = await busy(rig)
        gone = asyncio.create_task(rig.engine.infer(request(5)))
        stays = asyncio.create_task(rig.engine.infer(request(6)))
        await asyncio.sleep(0)
        assert rig.engine.queued == 2
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert rig.engine.queued == 1
        rig.model.gate.set()
        await first
        assert outputs(await stays)["y"][0, 0] == 12
        assert rig.model.batches == [1, 1]


async def test_a_full_queue_refuses_at_once():
    async with Rig(Batching(max_queue=1)) as rig:
        first = await busy(rig)
        second = asyncio.create_task(rig.engine.infer(request(1)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await rig.engine.infer(request(2))
        rig.model.gate.set()
        await asyncio.gather(first, second)


async def test_a_request_larger_than_a_batch_is_cut_and_joined():
    async with Rig(Batching(max_rows=4)) as rig:
        x = np.arange(22, dtype="f4").reshape(11, 2)
        response = await rig.engine.infer(InferRequest("m", (tensor("x", x),)))
        assert outputs(response)["y"].tolist() == (2 * x).tolist()
        assert max(rig.model.batches) == 4


@pytest.mark.clause("TR-S1")
async def test_slots_run_side_by_side():
    async with Rig(Batching(max_rows=1), slots=2) as rig:
        rig.hold()
        tasks = [asyncio.create_task(rig.engine.infer(request(i))) for i in range(3)]
        while rig.engine.running < 2:
            await asyncio.sleep(0)
        assert rig.engine.queued == 1
        rig.model.gate.set()
        await asyncio.gather(*tasks)


async def test_waits_for_a_batch_to_fill_when_told_so():
    async with Rig(Batching(max_rows=2, max_delay_ms=60_000)) as rig:
        tasks = [asyncio.create_task(rig.engine.infer(request(i))) for i in range(2)]
        answers = await asyncio.gather(*tasks)
        assert rig.model.batches == [2]
        assert all(a.timing.queue == 0 for a in answers)
        assert rig.events[0].reason == "full"


async def test_the_delay_ends_the_wait():
    async with Rig(Batching(max_rows=8, max_delay_ms=5)) as rig:
        answer = await rig.engine.infer(request(1))
        assert answer.timing.formation > 0.004
        assert rig.events[0].reason == "time"


async def test_close_refuses_those_who_wait():
    rig = Rig()
    first = await busy(rig)
    waits = asyncio.create_task(rig.engine.infer(request(1)))
    await asyncio.sleep(0)
    closing = asyncio.create_task(rig.engine.close())
    with pytest.raises(NotReady, match="was unloaded"):
        await waits
    rig.model.gate.set()
    await first
    await closing
    with pytest.raises(NotReady):
        await rig.engine.infer(request(1))


async def test_a_model_without_a_batch_dimension_runs_one_at_a_time():
    class Whole(Doubler):
        signature = Signature(
            (TensorSpec("x", DataType.FP32, (3, 2)),), (TensorSpec("y", DataType.FP32, (3, 2)),)
        )

        def run(self, inputs):
            self.batches.append(1)
            return {"y": inputs["x"] + 1}

    async with Rig(model=Whole()) as rig:
        await asyncio.gather(*(rig.engine.infer(request(i, rows=3)) for i in range(4)))
        assert rig.model.batches == [1] * 4


async def test_the_parts_of_a_latency_add_up():
    async with Rig() as rig:
        began = rig.engine.now()
        answers = await asyncio.gather(*(rig.engine.infer(request(i)) for i in range(50)))
        whole = rig.engine.now() - began
        for answer in answers:
            t = answer.timing
            assert min(t.queue, t.formation, t.inference) >= 0
            assert t.queue + t.formation + t.inference <= whole


@settings(max_examples=40)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=12), st.integers(1, 16))
def test_split_after_merge_is_the_identity(rows, max_rows):
    """Whatever the row counts, everybody gets exactly his own rows back."""

    async def check():
        async with Rig(Batching(max_rows=max_rows)) as rig:
            start = 0
            arrays = []
            for count in rows:
                arrays.append(np.arange(start, start + 2 * count, dtype="f4").reshape(count, 2))
                start += 2 * count
            answers = await asyncio.gather(
                *(rig.engine.infer(InferRequest("m", (Tensor("x", DataType.FP32, a),))) for a in arrays)
            )
            for array, answer in zip(arrays, answers, strict=True):
                assert outputs(answer)["y"].tobytes() == (array * 2).tobytes()
            assert sum(rig.model.batches) == sum(rows)

    asyncio.run(check())

"""What waits for a decoupled model goes to it as batches (TR-S8): the engine, with a runner that is told."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest

from salver.backends.protocol import Answer
from salver.kernel.engine.decoupled import DecoupledEngine
from salver.kernel.engine.pieces import ResponseStream
from salver.words.artifacts import Batching, ModelConfig
from salver.words.errors import DeadlineExceeded, ModelFailed, NotReady, Overloaded
from salver.words.messages import InferRequest, ModelId, Signature, TensorSpec
from salver.words.tensor import DataType, tensor


class Runner:
    """Keeps what it is asked; the test answers."""

    signature = Signature(
        (TensorSpec("x", DataType.INT64, (-1, 1)),), (TensorSpec("y", DataType.INT64, (-1, 1)),), batched=True
    )

    def __init__(self, slots: int = 1) -> None:
        self.slots = slots
        self.runs: list[tuple[list[int], list[ResponseStream], Callable[[], None]]] = []
        self.told: list[Any] = []
        self.error: NotReady | None = None
        self.is_closed = False

    async def stream(
        self, requests: Sequence[InferRequest], free: Callable[[], None]
    ) -> list[ResponseStream]:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        found = [ResponseStream(n, self.told.append) for n in range(len(requests))]
        for pieces in found:
            pieces.begin()
        self.runs.append(([int(r.inputs[0].array[0, 0]) for r in requests], found, free))
        return found

    async def close(self) -> None:
        self.is_closed = True

    @property
    def asked(self) -> list[list[int]]:
        return [asked for asked, _, _ in self.runs]

    def answer(self, run: int, *, frees: bool = True) -> None:
        """One response to each of that run, which is what it was asked."""
        asked, found, free = self.runs[run]
        for number, pieces in zip(asked, found, strict=True):
            if not pieces.is_given_up:
                pieces.put(Answer({"y": np.array([[number]])}), True)
            pieces.end()
        if frees:
            free()


class Rig:
    def __init__(self, slots: int = 1, **batching: Any) -> None:
        self.now = 100.0
        self.events: list[Any] = []
        self.runner = Runner(slots)
        config = ModelConfig(batching=Batching(**{"max_rows": 4, "max_queue": 100, **batching}))
        self.engine = DecoupledEngine(
            ModelId("m", "1"),
            self.runner,  # type: ignore[arg-type]
            config,
            clock=lambda: self.now,
            emit=self.events.append,
        )

    async def ask(self, number: int, rows: int = 1, deadline: float | None = None) -> list[int]:
        request = InferRequest("m", (tensor("x", np.full((rows, 1), number)),))
        async with aclosing(self.engine.stream(request, deadline)) as pieces:
            return [int(piece.outputs[0].array[0, 0]) async for piece in pieces]

    def begin(self, *numbers: int, rows: int = 1) -> list["asyncio.Future[list[int]]"]:
        return [asyncio.ensure_future(self.ask(number, rows)) for number in numbers]


async def turns(count: int = 20) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.clause("TR-S8")
async def test_what_comes_at_once_and_what_waits_shares_a_run() -> None:
    rig = Rig()
    asked = rig.begin(1, 2, 3)
    await turns()
    assert rig.runner.asked == [[1, 2, 3]]
    asked += rig.begin(4, 5, 6, 7, 8)
    await turns()
    assert (rig.engine.queued, rig.engine.running) == (5, 3)
    rig.runner.answer(0)
    await turns()
    assert rig.runner.asked == [[1, 2, 3], [4, 5, 6, 7]]
    rig.runner.answer(1)
    await turns()
    rig.runner.answer(2)
    assert await asyncio.gather(*asked) == [[n] for n in range(1, 9)]
    assert [(e.requests, e.rows, e.ok) for e in rig.events] == [(3, 3, True), (4, 4, True), (1, 1, True)]
    assert (rig.engine.queued, rig.engine.running) == (0, 0)


async def test_rows_count_and_the_oldest_is_not_passed_over() -> None:
    rig = Rig()
    asked = rig.begin(1, rows=3) + rig.begin(2, rows=2) + rig.begin(3)
    await turns()
    rig.runner.answer(0)
    await turns()
    rig.runner.answer(1)
    await asyncio.gather(*asked)
    assert rig.runner.asked == [[1], [2, 3]]


@pytest.mark.parametrize("batching", [{"enabled": False}, {"max_rows": 1}])
async def test_one_by_one_where_there_is_no_batching(batching: dict[str, Any]) -> None:
    rig = Rig(slots=2, **batching)
    asked = rig.begin(1, 2, 3)
    await turns()
    assert rig.runner.asked == [[1], [2]]
    rig.runner.answer(0)
    rig.runner.answer(1)
    await turns()
    rig.runner.answer(2)
    assert await asyncio.gather(*asked) == [[1], [2], [3]]


async def test_warm_up_reaches_every_instance() -> None:
    rig = Rig(slots=3)
    warming = asyncio.ensure_future(rig.engine.run_alone({"x": np.array([[7]])}))
    await turns()
    assert rig.runner.asked == [[7], [7], [7]]
    for run in range(3):
        rig.runner.answer(run)
    await warming


async def test_who_leaves_while_it_waits_is_never_asked_and_one_that_runs_is_told() -> None:
    rig = Rig()
    (first,) = rig.begin(1)
    await turns()
    second, third = rig.begin(2, 3)
    await turns()
    second.cancel()
    first.cancel()
    await turns()
    assert rig.engine.queued == 1
    rig.runner.answer(0)
    await turns()
    assert rig.runner.asked == [[1], [3]]
    rig.runner.answer(1)
    assert await third == [3]
    assert [(e.requests, e.ok) for e in rig.events] == [(1, False), (1, True)]
    assert [type(told).__name__ for told in rig.runner.told] == ["GiveUp"]


async def test_who_leaves_in_the_moment_in_which_it_is_asked_is_told_to_the_model() -> None:
    rig = Rig()
    (asked,) = rig.begin(1)
    while not rig.runner.runs:
        await asyncio.sleep(0)
    asked.cancel()
    await turns()
    assert [type(told).__name__ for told in rig.runner.told] == ["GiveUp"]
    rig.runner.answer(0)
    assert (rig.engine.queued, rig.engine.running) == (0, 0)
    assert [(e.requests, e.ok) for e in rig.events] == [(1, False)]


async def test_a_deadline_passes_while_it_waits() -> None:
    rig = Rig()
    rig.begin(1)
    await turns()
    with pytest.raises(DeadlineExceeded):
        await rig.ask(2, deadline=rig.now + 0.01)
    assert rig.engine.queued == 0
    rig.runner.answer(0)
    await turns()
    assert rig.runner.asked == [[1]]


async def test_an_error_of_one_is_nobody_elses() -> None:
    rig = Rig()
    asked = rig.begin(1, 2)
    await turns()
    _, (first, second), free = rig.runner.runs[0]
    first.end(ModelFailed("no"))
    second.end()
    free()
    failed, good = await asyncio.gather(*asked, return_exceptions=True)
    assert (str(failed), good) == ("no", [])
    assert [e.ok for e in rig.events] == [True]


async def test_where_no_instance_lives_all_are_told_and_later_ones_are_asked() -> None:
    rig = Rig()
    rig.runner.error = NotReady("it restarts")
    failed = await asyncio.gather(*rig.begin(1, 2), return_exceptions=True)
    assert [str(error) for error in failed] == ["it restarts"] * 2
    assert failed[0] is not failed[1]
    rig.runner.error = None
    (asked,) = rig.begin(3)
    await turns()
    rig.runner.answer(0)
    assert await asked == [3]


async def test_the_queue_is_bounded_by_what_waits() -> None:
    rig = Rig(max_queue=2)
    asked = rig.begin(1, 2, 3, 4, 5, 6)
    await turns()
    assert rig.runner.asked == [[1, 2]]
    assert rig.engine.queued == 2
    refused = [each for each in asked if each.done()]
    assert len(refused) == 2
    for each in refused:
        with pytest.raises(Overloaded, match="2 requests are waiting"):
            await each


async def test_an_unload_refuses_what_waits() -> None:
    rig = Rig()
    asked = rig.begin(1)
    await turns()
    asked += rig.begin(2)
    await turns()
    await rig.engine.close()
    rig.runner.answer(0)
    for each in asked:
        with pytest.raises(NotReady, match="was unloaded"):
            await each
    assert rig.runner.is_closed

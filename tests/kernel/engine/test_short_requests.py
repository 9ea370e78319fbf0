"""Short requests of models that take them one by one: answered on the event loop, with the errors of each."""

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import numpy as np
import pytest

from salver.backends.protocol import Answer, Traits, run_alone
from salver.kernel.engine.engine import Engine
from salver.kernel.engine.pace import Pace
from salver.kernel.engine.request_thread import SizedThreadRunner
from salver.words.artifacts import Batching, ModelConfig
from salver.words.errors import InvalidInput, ModelFailed, SalverError
from salver.words.events import BatchRan
from salver.words.messages import InferRequest, InferResponse, ModelId, Signature, TensorSpec
from salver.words.tensor import Array, DataType, tensor

SPEC = TensorSpec("x", DataType.INT32, (-1,))


class Sized:
    """Model that answers with how many requests were in its run, and 1 if that was on the event loop."""

    signature = Signature((SPEC,), (TensorSpec("y", DataType.INT32, (-1, 2)),), True)

    def size_of(self, request: InferRequest) -> int:
        return 0 if request.parameters else len(request.inputs[0].array)

    def answer(self, requests: Sequence[InferRequest]) -> Sequence[Answer | SalverError]:
        return [self._answer(request, len(requests)) for request in requests]

    def _answer(self, request: InferRequest, count: int) -> Answer | SalverError:
        numbers = request.inputs[0].array
        if numbers[0] == -1:
            return InvalidInput("minus one")
        if numbers[0] == -2:
            raise ValueError("minus two")
        is_here = threading.current_thread() is threading.main_thread()
        return Answer({"y": np.array([(count, is_here)] * len(numbers), np.int32)})

    def run(self, inputs: dict[str, Array]) -> dict[str, Array]:
        return dict(run_alone(self, inputs))

    def close(self) -> None:
        pass


class Rig:
    def __init__(self, pace: Pace) -> None:
        runner = SizedThreadRunner([Sized()], Traits(), slots=1, name="m")
        runner._pace = pace
        self.events: list[BatchRan] = []
        config = ModelConfig(batching=Batching(max_rows=8))
        self.now = 0.0
        self.engine = Engine(
            ModelId("m", "1"), runner, config, clock=lambda: self.now, emit=self.events.append
        )

    async def ask(self, *numbers: int, **parameters: bool) -> list[int]:
        """Return the requests of the run, and whether it was on the event loop."""
        self.now += 1.0
        return await self.ask_at_once(*numbers, **parameters)

    async def ask_at_once(self, *numbers: int, **parameters: bool) -> list[int]:
        request = InferRequest("m", (tensor("x", np.array(numbers, np.int32)),), parameters=parameters)
        response: InferResponse = await self.engine.infer(request)
        assert len(response.outputs[0].array) == len(numbers)
        found: list[int] = response.outputs[0].array[0].tolist()
        return found


@asynccontextmanager
async def rig(budget: float = 60.0) -> AsyncIterator[Rig]:
    """Yield an engine whose runs are short below so many seconds of processor time."""
    made = Rig(Pace(budget))
    yield made
    await made.engine.close()


async def test_a_request_is_answered_on_the_loop_once_its_time_is_known() -> None:
    async with rig() as one:
        assert [await one.ask(1), await one.ask(1), await one.ask(1, 1)] == [[1, 0], [1, 1], [1, 1]]
        assert [(event.rows, event.requests, event.ok) for event in one.events] == [
            (1, 1, True),
            (1, 1, True),
            (2, 1, True),
        ]


async def test_a_long_one_goes_to_a_thread() -> None:
    async with rig(budget=0.0) as one:
        assert [await one.ask(1), await one.ask(1)] == [[1, 0], [1, 0]]


async def test_one_of_no_size_goes_to_a_thread() -> None:
    async with rig() as one:
        assert [await one.ask(1), await one.ask(1, truncation=True)] == [[1, 0], [1, 0]]


async def test_those_that_come_together_share_a_run_on_the_loop() -> None:
    async with rig() as one:
        await one.ask(1)
        asked = [one.ask_at_once(1) for _ in range(3)]
        assert await asyncio.gather(*asked) == [[1, 1], [2, 1], [2, 1]]


@pytest.mark.parametrize(
    ("number", "kind", "text"), [(-1, InvalidInput, "minus one"), (-2, ModelFailed, "ValueError: minus two")]
)
async def test_an_error_is_its_own_callers_alone(number: int, kind: type[SalverError], text: str) -> None:
    async with rig() as one:
        await one.ask(1)
        with pytest.raises(kind, match=text):
            await one.ask(number)
        assert one.events[-1].ok == (kind is InvalidInput)
        asked = [one.ask(1), one.ask_at_once(number), one.ask_at_once(1)]
        first, second, third = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(first, list) and isinstance(second, kind) and isinstance(third, list)

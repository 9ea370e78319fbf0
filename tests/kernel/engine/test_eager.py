"""Coroutines that begin without a task: who asks is told once, and a cancelled one ends as a task does."""

import asyncio

import pytest
from waiting import auntil

from salver.kernel.engine.eager import begin


class Work:
    """Work that waits so many times, and what came of it."""

    def __init__(self, waits: int, raises: Exception | None = None) -> None:
        self.waits = waits
        self.raises = raises
        self.future = asyncio.get_running_loop().create_future()
        self.told: list[int | Exception] = []
        self.waited = 0
        self.ended: list[str] = []

    async def go(self) -> int:
        try:
            for _ in range(self.waits):
                self.waited += 1
                await self.future
                self.future = asyncio.get_running_loop().create_future()
            if self.raises is not None:
                raise self.raises
            return self.waits
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            await asyncio.sleep(0)  # a task may take a while to end
            self.ended.append("tidied")
            raise

    def tell(self, said: int | Exception, rest: None) -> None:
        self.told.append(said)


@pytest.mark.parametrize("raises", [None, ValueError()])
@pytest.mark.parametrize("waits", [0, 1, 3])
async def test_who_asks_is_told_once(waits: int, raises: Exception | None) -> None:
    work = Work(waits, raises)
    cancel = begin(work.tell, work.go())
    for done in range(waits):
        assert work.told == []
        await auntil(lambda count=done: work.waited == count + 1)
        work.future.set_result(None)
    await auntil(lambda: work.told)
    cancel()  # too late
    assert work.told == [raises or waits] and work.ended == []


async def test_what_does_not_wait_is_told_at_once() -> None:
    work = Work(0)
    begin(work.tell, work.go())
    assert work.told == [0]


async def test_an_error_of_what_it_waits_for_is_its_own() -> None:
    work, error = Work(1), ValueError()
    begin(work.tell, work.go())
    work.future.set_exception(error)
    await auntil(lambda: work.told)
    assert work.told == [error]


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_cancelled_one_ends_and_tells_nobody(turns: int) -> None:
    work = Work(1)
    cancel = begin(work.tell, work.go())
    for _ in range(turns):
        await asyncio.sleep(0)
    cancel()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)
    assert work.told == [] and work.ended == ["cancelled", "tidied"]

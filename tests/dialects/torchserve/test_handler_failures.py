"""Handlers that are killed, hang, leak and do not start, over and over: each request has one answer."""

import asyncio
import collections
import random
from pathlib import Path
from typing import Any

import pytest
from handler_worlds import all_there, failure, kill, world_of
from soaking import size
from waiting import PATIENCE_S, auntil

from salver.words.errors import HandlerFailed, ModelFailed, SalverError

pytestmark = pytest.mark.soak
TIMES = size(100, 20)
LONG_S = 300.0  # a hundred processes may take minutes to start, where others start theirs


class _Load:
    """Callers who ask a model all the time, and what they were told."""

    def __init__(self, world: Any, callers: int) -> None:
        self.told: collections.Counter[str] = collections.Counter()
        self._world = world
        self._asked = 0
        self._is_over = False
        self._callers = [asyncio.ensure_future(self._ask_on(n)) for n in range(callers)]

    async def _ask_on(self, number: int) -> None:
        while not self._is_over:
            self._asked += 1
            text = f"{number} {self._asked}"
            try:
                answer = await self._world.ask(text)
                self.told["ok" if answer == text else "another's"] += 1
            except SalverError as error:
                self.told[f"{getattr(error, 'status', type(error).__name__)} {error.message}"] += 1
            await asyncio.sleep(0.01)

    async def end(self) -> "collections.Counter[str]":
        self._is_over = True
        async with asyncio.timeout(PATIENCE_S):  # nobody is left without an answer
            await asyncio.gather(*self._callers)
        assert sum(self.told.values()) == self._asked
        return self.told


@pytest.mark.clause("TS-B7")
async def test_a_worker_killed_again_and_again_costs_what_it_ran_and_nothing_else() -> None:
    chance = random.Random(7)
    async with world_of(least=2, shares=True, max_retry_s=1e9) as world, world_of() as beside:
        load, other = _Load(world, 6), _Load(beside, 2)
        pids = set()
        for _ in range(TIMES):
            await all_there(world)
            await asyncio.sleep(chance.random() * 0.02)
            victim = chance.choice([status.pid for status in world.engine.workers() if status.pid > 0])
            pids.add(victim)
            kill(victim)
            await auntil(lambda: victim not in [status.pid for status in world.engine.workers()])  # noqa: B023
        told = await load.end()
        assert set(told) <= {"ok", "500 Worker died."}
        assert told["ok"] > told["500 Worker died."]
        assert told["500 Worker died."] <= 2 * TIMES
        assert len(pids) > TIMES // 2
        assert set(await other.end()) == {"ok"}, "the model beside it noticed nothing"
        await all_there(world)
        assert world.engine.queued == world.engine.running == 0


@pytest.mark.clause("TS-B7")
async def test_a_handler_that_ends_its_process_again_and_again_is_always_back() -> None:
    async with world_of(shares=True, max_retry_s=1e9) as world, world_of() as beside:
        other = _Load(beside, 1)
        for n in range(TIMES):
            error, answer = await asyncio.gather(
                failure(world.ask("exit" if n % 2 else "leave")), world.ask("x")
            )
            assert (type(error), error.message) == (HandlerFailed, "Worker died.")
            assert answer == "x", "it waited for the next one"
        assert set(await other.end()) == {"ok"}


@pytest.mark.clause("TS-B7")
@pytest.mark.timeout(LONG_S)
async def test_a_handler_that_hangs_again_and_again_is_killed_each_time() -> None:
    hanging = world_of(LONG_S, least=25, shares=True, queue=TIMES, response_timeout_s=1, max_retry_s=1e9)
    async with hanging as world, world_of() as beside:
        other = _Load(beside, 1)
        errors = await asyncio.gather(*(failure(world.ask("sleep 100")) for _ in range(TIMES)))
        assert len(errors) == TIMES
        assert {error.message for error in errors} == {"Worker died."}
        assert await world.ask("x") == "x"
        assert set(await other.end()) == {"ok"}


@pytest.mark.clause("TS-B7", "TS-R19")
@pytest.mark.timeout(LONG_S)
async def test_a_handler_that_leaks_meets_its_limit_and_not_the_machines() -> None:
    leaking = world_of(LONG_S, memory_limit_mb=1200, max_retry_s=1e9)
    async with leaking as world, world_of(LONG_S) as beside:
        other = _Load(beside, 1)
        told = collections.Counter[str]()
        for _ in range(TIMES):
            try:
                told[await world.ask("hoard 100")] += 1
            except ModelFailed as error:
                told["out of memory" if "out of memory" in error.message else error.message] += 1
        assert told["kept"] >= 1
        assert told["out of memory"] >= 1
        assert set(told) == {"kept", "out of memory"}
        assert set(await other.end()) == {"ok"}


@pytest.mark.clause("TS-B7", "TS-B8")
@pytest.mark.timeout(LONG_S)
async def test_a_handler_that_does_not_start_is_tried_again_and_again_and_then_serves(
    tmp_path: Path,
) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    async with (
        world_of(LONG_S, at_start=f"without:{stop}", max_retry_s=1e9) as world,
        world_of(LONG_S) as beside,
    ):
        other = _Load(beside, 1)
        asked = [asyncio.ensure_future(world.ask("x")) for _ in range(50)]
        starts = set()
        while len(starts) < TIMES:
            starts.add(world.engine.workers()[0].started)
            await asyncio.sleep(0.01)
        assert world.engine.queued == 50
        stop.unlink()
        assert await asyncio.gather(*asked) == ["x"] * 50
        assert set(await other.end()) == {"ok"}

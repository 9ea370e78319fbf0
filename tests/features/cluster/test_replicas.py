"""Batches on replicas, their deaths and replacement, and what happens to requests meanwhile."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from waiting import auntil

from salver.features.cluster.ports import Replica
from salver.features.cluster.replicas import Care, ReplicaRunner
from salver.kernel.supervise import Backoff
from salver.words.errors import HostDied, InvalidInput, LoadFailed, NotReady
from salver.words.messages import ModelId
from salver.words.tensor import Array

ID = ModelId("double", "1")
X: Mapping[str, Array] = {"x": np.ones((1, 1), np.float32)}


class Scripted:
    """A replica that waits with its answers until it is told to give them, and fails as it is told."""

    def __init__(self, number: int) -> None:
        self.url, self.node = f"test://{number}", "n"
        self.loaded = SimpleNamespace(signature="signature")
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.gone: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.is_deaf = False
        self.error: Exception | None = None
        self.calls = self.stopped = 0

    async def call(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], float]:
        self.calls += 1
        await asyncio.wait(
            (asyncio.ensure_future(self.may_answer.wait()), self.gone), return_when=asyncio.FIRST_COMPLETED
        )
        if self.gone.done():
            raise HostDied(self.gone.result())
        if self.error:
            raise self.error
        return {"y": 2 * inputs["x"]}, 0.001

    async def check(self) -> None:
        if self.is_deaf:
            await asyncio.Event().wait()
        if self.gone.done():
            raise HostDied(self.gone.result())

    def abandon(self, why: str) -> None:
        if not self.gone.done():
            self.gone.set_result(why)

    async def stop(self) -> None:
        self.stopped += 1


class World:
    """What starts replicas, and those that it has started."""

    def __init__(self) -> None:
        self.replicas: list[Scripted] = []
        self.fails = False
        self.room = 99
        self.lost: list[str] = []
        self.runner: ReplicaRunner | None = None

    async def __call__(self) -> Replica:
        if self.fails or len(self.replicas) >= self.room:
            raise LoadFailed("no node")
        self.replicas.append(Scripted(len(self.replicas)))
        return self.replicas[-1]  # type: ignore[return-value]  # of its LoadResult only the signature is needed

    async def opened(self, count: int, hoped: int = 0) -> ReplicaRunner:
        care = Care(self.lost.append, 0.01, Backoff(first_s=0.01, most_s=0.02))
        self.runner = await ReplicaRunner.start(ID, self, count, care, hoped)
        return self.runner


@pytest.fixture
async def world() -> AsyncIterator[World]:
    found = World()
    yield found
    if found.runner is not None:
        await found.runner.close()


async def test_each_run_gets_an_idle_replica(world: World) -> None:
    runner = await world.opened(3)
    for replica in world.replicas:
        replica.may_answer.clear()
    runs = [asyncio.ensure_future(runner.run(X)) for _ in range(4)]
    await auntil(lambda: [replica.calls for replica in world.replicas] == [1, 1, 1])
    world.replicas[1].may_answer.set()  # which then runs the fourth
    await auntil(lambda: world.replicas[1].calls == 2)
    for replica in world.replicas:
        replica.may_answer.set()
    assert [outputs["y"].tolist() for outputs, _ in await asyncio.gather(*runs)] == [[[2.0]]] * 4
    assert len(await runner.run_each(X)) == 3


async def test_a_model_that_raises_is_no_dead_replica(world: World) -> None:
    runner = await world.opened(1)
    world.replicas[0].error = InvalidInput("no")
    with pytest.raises(InvalidInput):
        await runner.run(X)
    assert not runner.deaths and not runner.is_lost


def _died(replica: Scripted) -> None:
    replica.abandon("killed")


def _deaf(replica: Scripted) -> None:
    replica.is_deaf = True


@pytest.mark.parametrize("fault", [_died, _deaf])
async def test_a_dead_or_deaf_replica_fails_its_run_and_is_replaced(
    world: World, fault: Callable[[Any], None]
) -> None:
    runner = await world.opened(2)
    for replica in world.replicas:
        replica.may_answer.clear()
    runs = [asyncio.ensure_future(runner.run(X)) for _ in range(2)]
    await auntil(lambda: sum(replica.calls for replica in world.replicas) == 2)
    fault(world.replicas[0])
    await auntil(lambda: len(world.replicas) == 3 and len(runner.router.instances) == 2)
    world.replicas[1].may_answer.set()
    found = await asyncio.gather(*runs, return_exceptions=True)
    assert sorted(type(each).__name__ for each in found) == ["HostDied", "tuple"]
    assert runner.deaths == 1 and world.lost == ["n"]


async def test_without_replicas_runs_fail_until_one_is_back(world: World) -> None:
    runner = await world.opened(1)
    world.fails = True
    world.replicas[0].abandon("killed")
    await auntil(lambda: runner.is_lost)
    with pytest.raises(NotReady, match="'double'"):
        await runner.run(X)
    waiting = asyncio.ensure_future(runner.back(30))
    world.fails = False
    await waiting
    assert not runner.is_lost
    await runner.run(X)


async def test_more_and_fewer(world: World) -> None:
    runner = await world.opened(1)
    await runner.resize(3)
    assert len(runner.router.instances) == runner.slots == 3
    world.replicas[0].may_answer.clear()
    world.replicas[1].may_answer.clear()
    world.replicas[2].may_answer.clear()
    runs = [asyncio.ensure_future(runner.run(X)) for _ in range(3)]
    await auntil(lambda: sum(replica.calls for replica in world.replicas) == 3)
    fewer = asyncio.ensure_future(runner.resize(1))
    await asyncio.sleep(0)
    assert not any(replica.stopped for replica in world.replicas)  # their runs are not over
    for replica in world.replicas:
        replica.may_answer.set()
    await asyncio.gather(fewer, *runs)
    assert sum(replica.stopped for replica in world.replicas) == 2
    assert len(runner.router.instances) == runner.slots == 1
    world.fails = True
    with pytest.raises(LoadFailed):
        await runner.resize(2)
    assert runner.slots == 1


async def test_the_drained_go_first_and_then_the_newest(world: World) -> None:
    runner = await world.opened(4)
    runner.router.instances[1].is_draining = True
    await runner.resize(2)
    assert [replica.stopped for replica in world.replicas] == [0, 1, 0, 1]
    assert [each.url for each in runner.router.instances] == ["test://0", "test://2"]
    await runner.run(X)


async def test_one_that_dies_before_it_may_stop_is_not_replaced(world: World) -> None:
    runner = await world.opened(2)
    for replica in world.replicas:
        replica.may_answer.clear()
    runs = [asyncio.ensure_future(runner.run(X)) for _ in range(2)]
    await auntil(lambda: all(replica.calls for replica in world.replicas))
    fewer = asyncio.ensure_future(runner.resize(1))
    await asyncio.sleep(0)
    world.replicas[1].abandon("killed")
    await fewer
    world.replicas[0].may_answer.set()
    await asyncio.gather(*runs, return_exceptions=True)
    assert len(runner.router.instances) == 1 and len(world.replicas) == 2 and not world.replicas[1].stopped


async def test_replicas_that_start_while_the_model_is_closed_are_stopped(world: World) -> None:
    runner = await world.opened(1)
    more = asyncio.ensure_future(runner.resize(3))
    runner.is_closed = True  # as a model is that is unloaded while replicas load
    await more
    assert [replica.stopped for replica in world.replicas] == [0, 1, 1]


@pytest.mark.parametrize(("hoped", "expected"), [(0, 2), (1, 2), (3, 3), (9, 4)])
async def test_as_many_as_fit_of_those_hoped_for(world: World, hoped: int, expected: int) -> None:
    world.room = 4
    runner = await world.opened(2, hoped)
    assert runner.slots == len(world.replicas) == expected

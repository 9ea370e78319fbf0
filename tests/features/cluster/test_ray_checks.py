"""Health checks on Ray: of a node by a connection, of an actor by a call that may take long."""

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest
from waiting import auntil

from salver.features.cluster import ray_cluster
from salver.features.cluster.ray_cluster import RayReplica
from salver.words.errors import HostDied


class RayError(Exception):
    """Base of Ray's errors."""


class Actor:
    """An actor of which each call for its health ends as its test wants."""

    def __init__(self) -> None:
        self.calls: list[asyncio.Future[None]] = []
        self.check = self

    def options(self, concurrency_group: str) -> "Actor":
        assert concurrency_group == "check"
        return self

    def remote(self) -> Any:
        self.calls.append(asyncio.get_running_loop().create_future())
        return SimpleNamespace(as_future=lambda loop: self.calls[-1])


@pytest.fixture
async def node() -> AsyncIterator[asyncio.Server]:
    async with await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1") as server:
        yield server


@pytest.fixture
def actor() -> Actor:
    return Actor()


@pytest.fixture
async def replica(node: asyncio.Server, actor: Actor) -> RayReplica:
    ray = SimpleNamespace(exceptions=SimpleNamespace(RayError=RayError))
    return RayReplica(ray, actor, "n", node.sockets[0].getsockname(), "ray://n/1")


async def test_a_slow_actor_is_not_asked_again_and_lives(replica: RayReplica, actor: Actor) -> None:
    for _ in range(3):
        await replica.check()
    await auntil(lambda: actor.calls)
    actor.calls[0].set_result(None)
    await auntil(lambda: _checked_again(replica, actor))


async def _checked_again(replica: RayReplica, actor: Actor) -> bool:
    await replica.check()
    return len(actor.calls) == 2


async def test_a_dead_actor_is_noticed(replica: RayReplica, actor: Actor) -> None:
    await replica.check()
    await auntil(lambda: actor.calls)
    actor.calls[0].set_exception(RayError("it was killed"))
    with pytest.raises(HostDied, match="it was killed"):
        await auntil(replica.check)


async def test_a_hanging_actor_is_noticed(
    replica: RayReplica, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_cluster, "_HANGS_S", 0.01)
    with pytest.raises(HostDied, match=r"no answer to a health check in 0\.01 s"):
        await auntil(replica.check)


async def test_a_node_that_refuses_connections_is_gone(replica: RayReplica, node: asyncio.Server) -> None:
    node.close()
    with pytest.raises(HostDied, match="its node is gone"):
        await replica.check()

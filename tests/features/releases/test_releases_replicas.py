"""Two servers on one PostgreSQL, both under load, are in one release: they judge as one."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
from databases import empty_database
from release_load import Callers, bodies, digits, write_digits
from sqlalchemy import Connection, func, select
from waiting import auntil

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import FIRST_EVENT, PART, RELEASE
from salver.features.registry.records import Actor
from salver.features.releases.distinct_units import met
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.judge.replay import replay
from salver.features.releases.release_store import ReleaseStore
from salver.testing.process import ServerProcess
from salver.words.releases import ReleaseState

#: Half-second windows, and gates that some thousand requests pass.
POLICY = Policy(
    stages=(Stage(0.2, 0.05, margin_times=10), Stage(0.5, 0.05, margin_times=10)),
    metrics=(Metric("errors", "errors", "severe", negligible=0.001),),
    warm_up_seconds=1.0,
    bucket_seconds=0.5,
)
USERS = 20_000


class Replicas(NamedTuple):
    servers: tuple[ServerProcess, ServerProcess]
    store: ReleaseStore
    ledger: Ledger


@pytest.fixture
async def replicas(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Replicas]:
    write_digits(tmp_path / "models", 1)
    write_digits(tmp_path / "models", 2, **request.param)
    url = empty_database()
    options = ["--registry", url, "--artifacts", str(tmp_path / "files")]
    async with await Ledger.open(url) as ledger:
        with (
            ServerProcess([tmp_path / "models"], tmp_path / "one.log", options) as one,
            ServerProcess([tmp_path / "models"], tmp_path / "two.log", options) as other,
        ):
            await asyncio.to_thread(one.wait_ready)
            await asyncio.to_thread(other.wait_ready)
            yield Replicas((one, other), ReleaseStore(ledger), ledger)
            for server in (one, other):
                assert "releases stay as they are" not in server.output()
                assert "left out" not in server.output()


async def begin(replicas: Replicas, policy: Policy = POLICY) -> None:
    """Version 2 is released, and some of it is to be met everywhere."""
    await replicas.store.propose(proposed("r1", "digits", ("1", "2"), policy, 1.0), Actor("ada"))
    await auntil(lambda: in_state(replicas, ReleaseState.RUNNING))


async def in_state(replicas: Replicas, *states: ReleaseState) -> Release | None:
    release = await replicas.store.get("r1")
    return release if release.state in states else None


async def answers(server: ServerProcess) -> str:
    """The version that answers some caller."""
    status, reply = await asyncio.to_thread(
        server.post,
        "/v2/models/digits/infer",
        {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": [1.0] * 64}]},
    )
    assert status == 200
    return reply["model_version"]


async def turn(replicas: Replicas, version: str) -> int:
    """How many were asked until on both each had that version: traffic moves after it is written down."""
    asked = 0

    async def is_so() -> bool:
        nonlocal asked
        some = replicas.servers * 50  # without names: each is one more caller, of whichever arm
        asked += len(some)
        return {await answers(server) for server in some} == {version}

    await auntil(is_so)
    return asked


async def check_counts(replicas: Replicas, asked: int) -> None:
    """Every unit counted once, wherever it was met, and every verdict follows from the log."""
    release = await replicas.store.get("r1")
    looks = await replicas.store.looks("r1")
    assert all(step.is_same for step in replay(release.policy, [look.entry for look in looks]))
    buckets = [look.entry.bucket for look in looks]

    def read(connection: Connection) -> tuple[list[int], int]:
        events = connection.scalar(select(func.count()).select_from(FIRST_EVENT))
        return met(connection, "r1").units.tolist(), int(events or 0)

    told, events = await replicas.ledger.read(read)
    units = len(set(told))
    assert units == len(told)
    counted = sum(bucket.exposures.total for bucket in buckets)
    failed = sum(counts.total for bucket in buckets for counts in bucket.events.values())
    assert 0 <= units - counted <= units / 5  # what came with the last bucket of all was told, and not judged
    assert failed <= events
    assert asked / 4 < sum(bucket.requests.total for bucket in buckets) <= asked
    for last, following in itertools.pairwise(buckets):
        assert last.start < following.start and last.start + last.seconds < following.start + 0.001


@pytest.mark.timeout(300)
@pytest.mark.parametrize("replicas", [{"fails": True}], indirect=True, ids=["two percent of its inputs fail"])
async def test_a_worse_version_is_rolled_back_on_both(replicas: Replicas) -> None:
    await begin(replicas)
    one, other = replicas.servers
    some = bodies(digits().pixels)
    async with Callers(one, some, USERS, 2) as callers, Callers(other, some, USERS, 2) as others:
        release = await auntil(lambda: in_state(replicas, ReleaseState.ROLLED_BACK))
    assert "errors" in release.reason
    asked = await turn(replicas, "1")
    async with Callers(one, some, USERS, 2) as later, Callers(other, some, USERS, 2) as latest:
        await auntil(lambda: min(later.answered, latest.answered) > 100)
    for asking in (later, latest):
        assert {tuple(seen) for seen in asking.versions.values()} == {("1",)} and not asking.failed
    await check_counts(replicas, callers.statuses.total() + others.statuses.total() + asked)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("replicas", [{}], indirect=True, ids=["the same again"])
async def test_an_equal_version_gets_everything_on_both(replicas: Replicas) -> None:
    await begin(replicas)
    one, other = replicas.servers
    some = bodies(digits().pixels)
    async with Callers(one, some, USERS, 2) as callers, Callers(other, some, USERS, 2) as others:
        over = partial(in_state, replicas, ReleaseState.PROMOTED, ReleaseState.ROLLED_BACK)
        release = await auntil(over, patience_s=120)
    assert release.state is ReleaseState.PROMOTED
    asked = await turn(replicas, "2")
    assert set(callers.statuses) == set(others.statuses) == {200}
    await check_counts(replicas, callers.answered + others.answered + asked)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("replicas", [{}], indirect=True, ids=["the same again"])
async def test_one_that_is_killed_keeps_the_other_waiting_for_a_moment(replicas: Replicas) -> None:
    await begin(replicas, msgspec.structs.replace(POLICY, stages=(Stage(0.5, 60),)))
    one, other = replicas.servers
    some = bodies(digits().pixels)
    async with Callers(one, some, USERS, 2) as callers, Callers(other, some, USERS, 2) as others:

        async def judged(beyond: int = 4) -> int | None:
            buckets = (await replicas.store.get("r1")).progress.buckets
            return buckets if buckets > beyond else None

        before = await auntil(judged)
        one.signal(9)
        await asyncio.to_thread(one.wait)
        await auntil(lambda: judged(before + 8))
    other.stop()  # it tells, and judges, what it has counted last
    assert "goes on without" in other.output()

    def left(connection: Connection) -> list:
        return list(connection.execute(select(PART.c.number))) + list(
            connection.execute(select(RELEASE.c.id).where(RELEASE.c.ended.is_not(None)))
        )

    assert await replicas.ledger.read(left) == []
    await check_counts(replicas, callers.statuses.total() + others.statuses.total() + 4)

"""Two servers on one PostgreSQL, both under load, are in one release: they judge as one."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import msgspec
import pytest
from databases import empty_database
from release_load import Callers, bodies, digits, write_digits
from replicas import POLICY, USERS, Replicas, begin, check_counts, in_state
from soaking import ONLY
from sqlalchemy import Connection, select
from waiting import auntil

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import PART, RELEASE
from salver.features.releases.judge.policy import Stage
from salver.features.releases.release_store import ReleaseStore
from salver.testing.process import ServerProcess
from salver.words.releases import ReleaseState


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


@ONLY
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
    assert "continues without" in other.output()

    def left(connection: Connection) -> list:
        return list(connection.execute(select(PART.c.number))) + list(
            connection.execute(select(RELEASE.c.id).where(RELEASE.c.ended.is_not(None)))
        )

    assert await replicas.ledger.read(left) == []
    await check_counts(replicas, callers.statuses.total() + others.statuses.total() + 4)

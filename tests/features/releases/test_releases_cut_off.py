"""Two servers on one PostgreSQL are in one release, and one of them is cut off from it for a while."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
import zoo
from databases import empty_database
from pushing import BODY, push
from registries import counted
from relay import DatabaseRelay, Trouble
from release_load import Callers, bodies, digits, write_digits
from replicas import POLICY, USERS, Replicas, begin, check_counts
from soaking import ONLY
from waiting import auntil

from salver.features.ledger.ledger import Ledger
from salver.features.registry.artifacts import Artifacts
from salver.features.registry.names import CHAMPION
from salver.features.registry.records import Actor
from salver.features.registry.registry import ModelRegistry
from salver.features.releases.distinct_units import met
from salver.features.releases.judge.policy import Stage
from salver.features.releases.judge.record import proposed
from salver.features.releases.judge.replay import replay
from salver.features.releases.release_store import ReleaseStore
from salver.testing.process import ServerProcess

ADA = Actor("ada")
#: Half of the units meet the canary, until somebody wishes otherwise.
HALF = msgspec.structs.replace(POLICY, stages=(Stage(0.5, 60),))
(DIGIT,) = bodies(digits().pixels[:1])
PAUSE_S = 0.03  # what is proved is not how many are asked
FRAUD = {"model": "fraud", "body": json.dumps(BODY).encode()}
HASTY = """
from salver.cli import main
from salver.features.releases import releases
releases._DEAF_SECONDS = 3.0
raise SystemExit(main())
"""


class Hasty(ServerProcess):
    """A server to which five minutes are three seconds."""

    def command(self) -> list[str]:
        _, *words = super().command()
        return [sys.executable, "-c", HASTY, *words]


class CutOff(NamedTuple):
    replicas: Replicas
    relay: DatabaseRelay


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[CutOff]:
    """The second server's way to the ledger is the relay."""
    write_digits(tmp_path / "models", 1)
    write_digits(tmp_path / "models", 2)
    kind: type[ServerProcess] = getattr(request, "param", ServerProcess)
    url = empty_database()
    async with DatabaseRelay(url) as relay, await Ledger.open(url) as ledger:
        models, files = [tmp_path / "models"], ["--artifacts", str(tmp_path / "files")]
        with (
            kind(models, tmp_path / "one.log", ["--registry", url, *files]) as one,
            kind(models, tmp_path / "two.log", ["--registry", relay.url, *files]) as other,
        ):
            await asyncio.to_thread(one.wait_ready)
            await asyncio.to_thread(other.wait_ready)
            yield CutOff(Replicas((one, other), ReleaseStore(ledger), ledger), relay)
            for server in (one, other):
                assert "left out" not in server.output()


async def ask(server: ServerProcess, who: str, model: str = "digits", body: bytes = DIGIT) -> str:
    """The version that answers this one."""
    path, header = f"/v2/models/{model}/infer", {"x-user-id": who}
    status, reply = await asyncio.to_thread(server.ask, "POST", path, body, header)
    assert status == 200, reply
    return json.loads(reply)["model_version"]


async def meets(server: ServerProcess, *versions: str, **what: Any) -> int:
    """How many asked until those who ask the server meet these versions, and no others."""
    asked = 0

    async def is_so() -> bool:
        nonlocal asked
        some = [f"one-{asked + number}" for number in range(50)]
        asked += len(some)
        return {await ask(server, who, **what) for who in some} == set(versions)

    await auntil(is_so, server.output)
    return asked


async def shares(server: ServerProcess) -> list[float]:
    """Of units that meet the canary, as Prometheus is told."""
    _, page = await asyncio.to_thread(server.get, "/metrics")
    lines = [line.rpartition(" ") for line in page.decode().splitlines()]
    return [float(value) for name, _, value in lines if name.startswith("salver_release_share{")]


async def says(server: ServerProcess, words: str) -> None:
    await auntil(lambda: words in server.output(), server.output)


@pytest.mark.parametrize(
    "trouble", ["silent", *(pytest.param(other, marks=ONLY) for other in ("refused", "mute", "deaf"))]
)
async def test_one_that_is_cut_off_serves_as_it_knew_and_follows_when_it_is_back(
    world: CutOff, trouble: Trouble
) -> None:
    replicas, relay = world
    one, other = replicas.servers
    await begin(replicas, HALF)
    async with Callers(other, bodies(digits().pixels), USERS, 2, PAUSE_S) as callers:
        await meets(one, "1", "2")
        await meets(other, "1", "2")
        relay.be(trouble)
        await says(one, "continues without")
        await says(other, "releases stay as they are")
        await replicas.store.wish("r1", "abort", ADA, "", 1.0)
        await meets(one, "1")
        await meets(other, "1", "2")
        status, body = await asyncio.to_thread(other.get, "/api/v1/releases")
        assert status == 503 and "the ledger" in json.loads(body)["detail"]
        assert (await asyncio.to_thread(other.get, "/v2/health/ready"))[0] == 200
        relay.be("")
        await meets(other, "1")
        await says(other, "releases go on")
    assert set(callers.statuses) == {200}
    relay.be(trouble)
    assert await asyncio.to_thread(other.stop) == 0


@pytest.mark.parametrize("trouble", ["refused", pytest.param("silent", marks=ONLY)])
async def test_what_one_counts_that_is_cut_off_is_judged_when_it_is_back(
    world: CutOff, trouble: Trouble
) -> None:
    replicas, relay = world
    one, other = replicas.servers
    await begin(replicas, HALF)
    asked = await meets(one, "1", "2") + await meets(other, "1", "2")
    some = bodies(digits().pixels)
    async with (
        Callers(one, some, USERS, 1, PAUSE_S) as callers,
        Callers(other, some, USERS, 1, PAUSE_S) as others,
    ):
        relay.be(trouble)
        await says(one, "continues without")
        assert [each["is_heard"] for each in await auntil(lambda: counting(one, heard=1))].count(False) == 1
        judged = (await replicas.store.get("r1")).progress.buckets
        await auntil(lambda: others.answered > 200)
        relay.be("")
        await auntil(lambda: counting(one, heard=2))
    assert set(callers.statuses) == set(others.statuses) == {200}
    theirs = callers.answered + others.answered

    async def are_counted() -> bool:
        nonlocal asked
        asked += 1
        await ask(one, f"late-{asked}")  # what comes late joins what is counted next
        buckets = [look.entry.bucket for look in await replicas.store.looks("r1")]
        told = await replicas.ledger.read(lambda c: len(met(c, "r1").units))
        is_judged = told - sum(bucket.exposures.total for bucket in buckets) <= told / 5
        return is_judged and sum(bucket.requests.total for bucket in buckets) >= theirs

    await auntil(are_counted)
    await check_counts(replicas, theirs + asked)
    assert (await replicas.store.get("r1")).progress.buckets > judged


async def counting(server: ServerProcess, heard: int) -> list:
    """Who counts the release, as the server tells, once so many of two are heard."""
    _, body = await asyncio.to_thread(server.get, "/api/v1/releases/r1")
    servers = json.loads(body)["servers"]
    is_so = len(servers) == 2 and sum(each["is_heard"] for each in servers) == heard
    return servers if is_so else []


@ONLY
@pytest.mark.parametrize("world", [Hasty], indirect=True, ids=["hasty"])
async def test_one_that_is_cut_off_for_long_sends_nobody_to_the_canary(world: CutOff) -> None:
    replicas, relay = world
    one, other = replicas.servers
    await begin(replicas, HALF)
    for server in replicas.servers:
        await meets(server, "1", "2")
    some = bodies(digits().pixels)
    async with (
        Callers(one, some, USERS, 1, PAUSE_S) as callers,
        Callers(other, some, USERS, 1, PAUSE_S) as others,
    ):
        relay.be("silent")
        await meets(other, "1")
        await says(other, "this server sends no requests to version 2, but all to 1")
        assert await shares(one) == [0.5] and await shares(other) == [0.0]
        await meets(one, "1", "2")
        relay.be("")
        await meets(other, "1", "2")
    assert set(callers.statuses) == set(others.statuses) == {200}
    entries = [look.entry for look in await replicas.store.looks("r1")]
    assert all(step.is_same for step in replay(HALF, entries))
    buckets = [entry.bucket for entry in entries]
    assert {bucket.share for bucket in buckets if bucket.requests.total} == {0.5}


async def test_one_that_is_cut_off_serves_what_it_knew_though_its_files_were_removed(tmp_path: Path) -> None:
    files, more = tmp_path / "files", tmp_path / "more"
    for folder in (files, more):
        folder.mkdir()
    zoo.write_mlp(more / "mlp", 1)  # a folder without a model is an error
    url = empty_database()
    async with DatabaseRelay(url) as relay, await Ledger.open(url) as ledger:
        registry = ModelRegistry(ledger, Artifacts(files), time.time, counted().__next__)
        for alias in (CHAMPION, ""):
            await push(registry, tmp_path / "source", alias)
        with (
            ServerProcess([], tmp_path / "one.log", ["--registry", url, "--artifacts", str(files)]) as one,
            ServerProcess(
                [more], tmp_path / "two.log", ["--registry", relay.url, "--artifacts", str(files)]
            ) as other,
        ):
            servers = await asyncio.to_thread(one.wait_ready), await asyncio.to_thread(other.wait_ready)
            replicas = Replicas(servers, ReleaseStore(ledger), ledger)
            release = proposed("r1", "fraud", ("1", "2"), HALF, time.time(), alias=CHAMPION)
            await replicas.store.propose(release, ADA)
            for server in servers:
                await meets(server, "1", "2", **FRAUD)
            relay.be("refused")
            await replicas.store.wish("r1", "promote", ADA, "", time.time())
            await meets(one, "2", **FRAUD)
            await auntil(lambda: "model gone" in one.output())
            await registry.remove("fraud", 1, ADA)
            zoo.write_constant(more, 1)  # what comes later is seen with what has gone
            await asyncio.to_thread(other.wait_for, "/v2/models/constant/ready")
            await meets(other, "1", "2", **FRAUD)
            relay.be("")
            await meets(other, "2", **FRAUD)
            await says(other, "model gone")

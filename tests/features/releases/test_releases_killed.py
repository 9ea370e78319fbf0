"""Servers in releases are killed again and again, and go on each time where their ledger says."""

import asyncio
import functools
import json
import random
import sqlite3
import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from release_load import Callers
from soaking import ONLY, size
from waiting import auntil
from zoo import write_mlp

from salver.features.ledger.ledger import Ledger
from salver.features.registry.records import Actor
from salver.features.releases.experiments.assign import assign
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.judge.replay import replay
from salver.features.releases.release_store import ReleaseStore
from salver.testing.process import ServerProcess
from salver.words.releases import ReleaseState

RELEASES = [0, *(pytest.param(number, marks=ONLY) for number in range(1, 3))]
KILLS = size(10, 5)
SECONDS = (0.3, 1.1)  # from the moment at which it answers to the kill
ADA = Actor("ada")
#: It lasts for as long as the test does: a kill may come in any stage, between any two steps.
POLICY = Policy(
    stages=(Stage(0.2, 0.02, margin_times=20), Stage(0.4, 0.05, margin_times=20), Stage(0.6, 60)),
    metrics=(Metric("errors", "errors", "severe", negligible=0.05),),
    warm_up_seconds=0.0,
    bucket_seconds=0.2,
)
STABLE = "user-0"  # whom each stage leaves where they are
BODY = json.dumps(
    {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 16], "data": [0.5] * 16}]}
).encode()


class Asking(Callers):
    """Of another model."""

    path = "/v2/models/mlp/infer"


@pytest.mark.soak
@pytest.mark.parametrize("number", RELEASES)
async def test_after_each_kill_state_evidence_and_assignment_are_as_they_were(
    tmp_path: Path, number: int, request: pytest.FixtureRequest
) -> None:
    write_mlp(tmp_path / "models" / "mlp", 1)
    write_mlp(tmp_path / "models" / "mlp", 2)
    (tmp_path / "models" / "mlp" / "salver.toml").write_text("[versions]\nlatest = 2\n")
    file = tmp_path / "registry" / "salver.db"
    server = ServerProcess([tmp_path / "models"], tmp_path / "log", ["--registry", str(file.parent)])
    request.addfinalizer(server.stop)
    chance, sent = random.Random(number), 0
    stages = set()
    for kill in range(KILLS + 1):
        before = await stored(file) if kill else None
        server.start()
        await asyncio.to_thread(server.wait_ready)
        ledger = await Ledger.open(f"sqlite:///{file}")
        store = ReleaseStore(ledger)
        if before is None:
            await store.propose(proposed("r1", "mlp", ("1", "2"), POLICY, time.time()), ADA)
            before = await stored(file)
        await runs(store, before)
        sent += await splits(server)
        async with Asking(server, [BODY], users=3000, connections=1, pause_s=0.002) as callers:
            await asyncio.sleep(chance.uniform(*SECONDS))
            if kill == KILLS - 1 and len(stages) < 2:  # whatever the machine, one finds another stage
                await auntil(functools.partial(has_left, store, stages))
            if kill < KILLS:
                server.signal(9)
        sent += callers.answered + callers.statuses[0] + 1  # one may be under way
        if kill == KILLS:
            await auntil(functools.partial(counted, store, file))
            break
        await ledger.close()
        server.wait()
        after = await stored(file)
        stages.add(after.stage)
        assert is_further(before, after)
        check_assignment(after, callers)
        assert set(callers.statuses) <= {0, 200}
    server.stop()
    release = await store.get("r1")
    looks = await store.looks("r1")
    await ledger.close()
    check_counts(file, looks, sent)
    assert all(step.is_same for step in replay(release.policy, [look.entry for look in looks]))
    assert release.state is ReleaseState.RUNNING and len(stages) > 1


async def runs(store: ReleaseStore, before: Release) -> None:
    """Until it is under way, from what it was."""

    async def begun() -> Release | None:
        release = await store.get("r1")
        return release if release.state is not ReleaseState.PROPOSED else None

    assert is_further(before, await auntil(begun))


async def has_left(store: ReleaseStore, stages: set[int]) -> bool:
    """Whether the release is in a stage that is none of those."""
    return (await store.get("r1")).stage not in stages


async def splits(server: ServerProcess) -> int:
    """Until traffic has moved, which it does after it was written down; how often a user was asked for."""
    asked = 0

    async def moved() -> int | None:
        nonlocal asked
        asked += 1
        headers = {"x-user-id": STABLE, "content-type": "application/json"}
        _, answer = await asyncio.to_thread(server.ask, "POST", Asking.path, BODY, headers)
        return asked if json.loads(answer)["model_version"] == "1" else None

    return await auntil(moved)


async def counted(store: ReleaseStore, file: Path) -> bool | None:
    """Nobody waits any more for windows of the servers that were killed."""
    await asyncio.sleep(1)
    looks = await store.looks("r1")
    return sum(look.entry.bucket.exposures.total for look in looks) == len(units_of(file)) or None


def is_further(before: Release, after: Release) -> bool:
    """Nothing was lost: not a bucket, not a stage."""
    return (
        before.progress.buckets <= after.progress.buckets
        and before.stage <= after.stage
        and (before.progress.buckets < after.progress.buckets or before.evidence == after.evidence)
    )


async def stored(file: Path) -> Release:
    """The release as it lies there, while nobody is alive."""
    async with await Ledger.open(f"sqlite:///{file}") as ledger:
        return await ReleaseStore(ledger).get("r1")


def check_assignment(release: Release, callers: Callers) -> None:
    """Each user met the version that the hash says, for the stage then or before."""
    for user, versions in callers.versions.items():
        meant = set()
        for stage in POLICY.stages[: release.stage + 2]:
            split = msgspec.structs.replace(release, weight=stage.weight, state=ReleaseState.RUNNING).split
            assert split is not None
            meant.add(assign(split, {"header:x-user-id": user, "request": ""}).version)
        assert set(versions) <= {*meant, "1"}, user  # before its first tick a server sends all to the old one


def units_of(file: Path) -> list[int]:
    """All that were told to the ledger."""
    with sqlite3.connect(file) as database:
        told = [units for (units,) in database.execute("SELECT units FROM crowd WHERE stage = -1")]
    return np.frombuffer(b"".join(told), "<i8").tolist()


def check_counts(file: Path, looks: list, requests: int) -> None:
    """No unit was counted twice, and no request."""
    units = units_of(file)
    assert sum(look.entry.bucket.exposures.total for look in looks) == len(units) == len(set(units))
    assert requests / 10 < sum(look.entry.bucket.requests.total for look in looks) <= requests
    assert [look.seq for look in looks] == list(range(len(looks)))

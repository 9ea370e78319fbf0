"""Versions of a real model meet live traffic: worse ones are rolled back, an equal one gets everything."""

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import pytest
from release_load import Callers, bodies, digits, write_digits
from soaking import ONLY
from waiting import auntil

from salver.features.ledger.ledger import Ledger
from salver.features.registry.records import Actor
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.judge.replay import replay
from salver.features.releases.release_store import ReleaseStore
from salver.testing.process import ServerProcess
from salver.words.releases import ReleaseState

ADA = Actor("ada")
#: As the usual one, in seconds for minutes: half-second buckets, and gates that some thousand requests pass.
POLICY = Policy(
    stages=(Stage(0.2, 0.05, margin_times=10), Stage(0.5, 0.05, margin_times=10)),
    metrics=(
        Metric("errors", "errors", "severe", negligible=0.001),
        Metric("latency_p90", "latency", "soft", quantile=0.9, rollback_margin=0.5),
    ),
    warm_up_seconds=1.0,
    bucket_seconds=0.5,
)


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    fault = request.param
    write_digits(tmp_path / "models", 1)
    write_digits(tmp_path / "models", 2, **fault)
    options = ["--registry", str(tmp_path / "registry")]
    with ServerProcess([tmp_path / "models"], tmp_path / "log", options) as server:
        yield server.wait_ready()


class Critics(Callers):
    """They know which digit it was, and say a moment later whether the answer was wrong.

    Attributes:
        verdicts: For each user, their first answer's.
    """

    def __init__(self, server: ServerProcess, bodies: Sequence[bytes], users: int) -> None:
        super().__init__(server, bodies, users)
        self._truth = digits().digits
        self.verdicts: dict[str, bool] = {}
        self._posted = 0
        self._posting = asyncio.create_task(self._post())

    def heard(self, user: str, number: int, answer: dict) -> None:
        guess = int(np.argmax(answer["outputs"][0]["data"]))
        self.verdicts.setdefault(user, guess != self._truth[number % len(self._truth)])

    async def __aexit__(self, *why: object) -> None:
        await super().__aexit__(*why)
        self._posting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._posting

    async def _post(self) -> None:
        while True:
            await asyncio.sleep(0.2)
            fresh = list(self.verdicts.items())[self._posted :][:1000]
            said = [
                {"id": f"of {user}", "name": "wrong", "unit": user, "value": int(wrong)}
                for user, wrong in fresh
            ]
            if said:
                body, kind = json.dumps({"outcomes": said}).encode(), {"content-type": "application/json"}
                ask = partial(self._server.ask, "POST", "/api/v1/outcomes", body, kind)
                status, answer = await asyncio.to_thread(ask)
                assert status == 200 and json.loads(answer)["accepted"] == len(said), answer
                self._posted += len(said)


async def released(
    server: ServerProcess,
    folder: Path,
    seconds: float,
    policy: Policy = POLICY,
    callers: type[Callers] = Callers,
) -> tuple[Release, Callers]:
    """The release of version 2 at its end, under load from before its beginning until after that."""
    who = callers
    ledger = await Ledger.open(f"sqlite:///{folder / 'registry' / 'salver.db'}")
    store = ReleaseStore(ledger)
    new = proposed("r1", "digits", ("1", "2"), policy, time.time())
    await store.propose(new, ADA)

    async def begun() -> Release | None:
        release = await store.get("r1")
        return release if release.state is not ReleaseState.PROPOSED else None

    async def over() -> Release | None:
        release = await store.get("r1")
        return None if release.is_live else release

    await auntil(begun)
    async with who(server, bodies(digits().pixels), 20_000) as callers:
        release = await auntil(over, patience_s=seconds)
        answered = callers.answered
        await auntil(lambda: callers.answered > answered + 1000)
    looks = await store.looks("r1")
    assert all(step.is_same for step in replay(release.policy, [look.entry for look in looks]))
    await ledger.close()
    return release, callers


@pytest.mark.parametrize("served", [{"fails": True}], indirect=True, ids=["two percent of its inputs fail"])
async def test_a_version_that_fails_is_rolled_back(served: ServerProcess, tmp_path: Path) -> None:
    release, callers = await released(served, tmp_path, 60)
    assert release.state is ReleaseState.ROLLED_BACK
    assert "errors" in release.reason
    assert set(callers.statuses) == {200, 500}
    assert {"too hard" in answer for _, answer in callers.failed} == {True}
    assert len(callers.failed) < callers.answered / 100
    assert_sticky(callers, last="1")


@ONLY
@pytest.mark.parametrize("served", [{"seconds": 0.02}], indirect=True, ids=["twenty milliseconds slower"])
async def test_a_version_that_is_slower_is_rolled_back(served: ServerProcess, tmp_path: Path) -> None:
    release, callers = await released(served, tmp_path, 90)
    assert release.state is ReleaseState.ROLLED_BACK
    assert "latency_p90" in release.reason
    assert set(callers.statuses) == {200}
    assert_sticky(callers, last="1")


@pytest.mark.parametrize("served", [{"merge": True}], indirect=True, ids=["nines are fours"])
async def test_a_version_whose_answers_are_others_is_rolled_back(
    served: ServerProcess, tmp_path: Path
) -> None:
    digit = Metric("digit", "output", "severe", take="argmax", promotion_margin=None)
    policy = msgspec.structs.replace(POLICY, metrics=(*POLICY.metrics[:1], digit))
    release, callers = await released(served, tmp_path, 90, policy)
    assert release.state is ReleaseState.ROLLED_BACK
    assert "digit" in release.reason
    assert set(callers.statuses) == {200}
    assert_sticky(callers, last="1")


@pytest.mark.parametrize("served", [{"swap": True}], indirect=True, ids=["fours are nines, and nines fours"])
async def test_a_version_that_is_wrong_more_often_is_rolled_back(
    served: ServerProcess, tmp_path: Path
) -> None:
    wrong = Metric("wrong", "outcome", "severe", promotion_margin=None, matures_minutes=0.05)
    policy = msgspec.structs.replace(POLICY, metrics=(*POLICY.metrics[:1], wrong), stages=(Stage(0.3, 60),))
    release, callers = await released(served, tmp_path, 60, policy, Critics)
    assert release.state is ReleaseState.ROLLED_BACK
    assert "wrong" in release.reason
    assert set(callers.statuses) == {200}
    assert_sticky(callers, last="1")


@pytest.mark.parametrize("served", [{}], indirect=True, ids=["the same again"])
async def test_a_version_that_is_as_good_gets_everything(served: ServerProcess, tmp_path: Path) -> None:
    release, callers = await released(served, tmp_path, 90)
    assert release.state is ReleaseState.PROMOTED
    assert set(callers.statuses) == {200}
    assert_sticky(callers, last="2")


def assert_sticky(callers: Callers, last: str) -> None:
    """Nobody who has met the canary meets the old version again, unless it is rolled back."""
    ways = {("1",), ("2",), ("1", "2"), *({("2", "1"), ("1", "2", "1")} if last == "1" else ())}
    assert {tuple(seen) for seen in callers.versions.values()} <= ways

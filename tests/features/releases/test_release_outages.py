"""Hiccups of host processes roll nothing back; a canary that fails few users is paused, then rolled back."""

import asyncio
import contextlib
import itertools
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from release_load import Callers
from soaking import ONLY, size
from sqlalchemy import select
from waiting import PATIENCE_S, auntil

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import AUDIT
from salver.features.registry.records import Actor
from salver.features.releases.experiments.assign import assign
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.judge.verdict import Decision
from salver.features.releases.release_store import ReleaseStore
from salver.testing.process import ServerProcess
from salver.words.releases import Arm, ReleaseState, Split

pytestmark = pytest.mark.timeout(600)
ADA = Actor("ada")
#: Each of its processes hiccups by itself: for a while it fails all or half of its requests, or stands still.
MODEL = """
import json, os, random, time
from pathlib import Path

import numpy as np

PLAN = json.loads(Path(FOLDER, "plan.json").read_text())


class Model:
    inputs = {"x": ("FP32", [-1, 1])}
    outputs = {"y": ("FP32", [-1, 1])}

    def load(self, context):
        self.chance = random.Random(os.getpid())
        self.next(time.monotonic())

    def next(self, now):
        self.begins = now + self.chance.expovariate(1 / PLAN["every_s"])
        self.kind = self.chance.choice(PLAN["kinds"])

    def predict(self, inputs):
        now = time.monotonic()
        if now > self.begins + PLAN["for_s"]:
            self.next(now)
        elif now >= self.begins:
            if self.kind == "stall":
                time.sleep(self.begins + PLAN["for_s"] - now)
            elif self.kind == "all" or self.chance.random() < 0.5:
                raise RuntimeError("a hiccup")
        if VERSION in PLAN["dear"]:
            until = time.process_time() + 0.02
            while time.process_time() < until:
                pass
        if VERSION in PLAN["broken"]:
            raise RuntimeError("it is broken")
        return {"y": inputs["x"]}
"""
#: The usual metrics, twenty times as fast: a bucket takes half a second, a minute three.
POLICY = Policy(
    stages=(Stage(0.25, 600), Stage(1.0, 0)),
    metrics=(
        Metric("errors", "errors", "severe", negligible=0.001),
        Metric("timeouts", "timeouts", "severe", negligible=0.001),
        Metric("latency_p90", "latency", "soft", quantile=0.9, rollback_margin=0.5),
    ),
    warm_up_seconds=0.0,
    bucket_seconds=0.5,
)
BODY = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.0]}]}).encode()


class World:
    """A real server of models with two versions each, and its ledger."""

    def __init__(self, server: ServerProcess, ledger: Ledger) -> None:
        self.server = server
        self.store = ReleaseStore(ledger)
        self._ledger = ledger

    async def moves(self) -> list[str]:
        """What the audit log says of releases, but for what holds them and lets them go on."""
        query = select(AUDIT.c.action).order_by(AUDIT.c.seq)
        found = await self._ledger.read(lambda connection: list(connection.scalars(query)))
        moves = [action.removeprefix("release.") for action in found if action.startswith("release.")]
        return [move for move in moves if move not in ("proposed", "running", "held")]

    async def start(self, release: str, model: str, policy: Policy = POLICY) -> None:
        await self.store.propose(proposed(release, model, ("1", "2"), policy, time.time()), ADA)

        async def begun() -> bool:
            return (await self.store.get(release)).state is not ReleaseState.PROPOSED

        await auntil(begun, self.server.output)


def write(folder: Path, models: Sequence[str], **plan: object) -> None:
    usual = {"every_s": 1e9, "for_s": 0.0, "kinds": ["all"], "broken": [], "dear": []}
    for name, version in itertools.product(models, (1, 2)):
        place = folder / name / str(version)
        place.mkdir(parents=True)
        code = MODEL.replace("VERSION", str(version)).replace("FOLDER", repr(str(place)))
        (place / "model.py").write_text(code)
        (place / "plan.json").write_text(json.dumps({**usual, **plan}))
        (place.parent / "salver.toml").write_text("[versions]\nlatest = 2\n")


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    plan = dict(request.param)
    write(tmp_path / "models", plan.pop("models"), **plan)
    options = ["--registry", str(tmp_path / "registry")]
    with ServerProcess([tmp_path / "models"], tmp_path / "log", options) as server:
        server.wait_ready()
        ledger = await Ledger.open(f"sqlite:///{tmp_path / 'registry' / 'salver.db'}")
        yield World(server, ledger)
        await ledger.close()


class Users(Callers):
    """Of one model; ``answers`` by version."""

    def __init__(self, server: ServerProcess, model: str, users: int, **more: float) -> None:
        self.path = f"/v2/models/{model}/infer"
        self.answers: Counter[str] = Counter()
        super().__init__(server, [BODY], users, **more)

    def heard(self, user: str, number: int, answer: dict) -> None:
        self.answers[answer["model_version"]] += 1

    async def ask(self, count: int) -> None:
        """Wait for so many more good answers of the old version."""
        before = self.answers["1"]
        await auntil(lambda: self.answers["1"] >= before + count)


def crowd(canary: int) -> int:
    """Number of users of whom so many get the canary of release r0."""
    split = Split("r0", "m0", "1", "2", 0.25, "r0")
    for users in itertools.count(1):
        canary -= assign(split, {"header:x-user-id": f"user-{users - 1}"}).arm is Arm.CANARY
        if not canary:
            return users


@pytest.mark.parametrize("world", [{"models": ["m0"], "broken": [2]}], indirect=True)
async def test_sixteen_users_who_all_fail_are_spared_at_once_and_for_good_when_they_fail_again(
    world: World,
) -> None:
    store = world.store
    await world.start("r0", "m0")

    async def over() -> Release | None:
        release = await store.get("r0")
        return None if release.is_live else release

    async with Users(world.server, "m0", crowd(16)) as users:
        release = await auntil(over, world.server.output, 2 * PATIENCE_S)
        await users.ask(100)  # until the server sends nothing more to it
        failed = len(users.failed)
        await users.ask(100)
        assert len(users.failed) == failed
    assert release.state is ReleaseState.ROLLED_BACK
    assert release.reason == "errors: most requests to the canary have it for the third time in a row"
    assert await world.moves() == ["paused", "resumed", "paused", "resumed", "rolled_back"]
    looks = [look.entry for look in await store.looks("r0")]
    off = [entry.bucket for entry in looks if not entry.bucket.share]
    assert sum(bucket.requests.control for bucket in off) > 0 == sum(bucket.requests.canary for bucket in off)
    pauses = [entry.verdict for entry in looks if entry.verdict.decision is Decision.PAUSE]
    assert [verdict.pause_seconds for verdict in pauses] == [1.5, 3.0]


@ONLY
@pytest.mark.parametrize("world", [{"models": ["m0"], "dear": [2]}], indirect=True)
async def test_a_version_that_needs_more_of_the_processor_is_rolled_back_for_it(world: World) -> None:
    resources = [
        Metric(name, "resource", "soft", rollback_margin=1.0) for name in ("cpu", "run_time", "memory")
    ]
    policy = msgspec.structs.replace(POLICY, metrics=(POLICY.metrics[0], *resources))
    await world.start("r0", "m0", policy)

    async def over() -> Release | None:
        release = await world.store.get("r0")
        return None if release.is_live else release

    async with Users(world.server, "m0", 200, connections=4, pause_s=0.02):
        release = await auntil(over, world.server.output, 4 * PATIENCE_S)
    assert release.state is ReleaseState.ROLLED_BACK
    assert release.reason.startswith(("cpu: the canary needs", "run_time: the canary needs"))
    memory = release.evidence.metrics[3].usage
    assert memory is not None and memory.minutes > 5 and 0.5 < (memory.ratio or 0) < 2


HICCUPS = {
    "models": [f"m{number}" for number in range(size(8, 2))],
    "every_s": size(30.0, 5.0),
    "for_s": 1.5,
    "kinds": ["half", "all", "stall"],
}


@pytest.mark.soak
@pytest.mark.parametrize("world", [HICCUPS], indirect=True)
async def test_equal_versions_whose_processes_hiccup_are_not_rolled_back(world: World) -> None:
    """Each process fails or stands still for half a minute every ten, in releases of 27 minutes."""
    ended: list[Release] = []
    ids = {model: f"{model}-0" for model in HICCUPS["models"]}
    await asyncio.gather(*(world.start(release, model) for model, release in ids.items()))
    async with contextlib.AsyncExitStack() as stack:
        callers = [
            await stack.enter_async_context(Users(world.server, model, 2000, connections=2, pause_s=0.08))
            for model in ids
        ]
        await asyncio.sleep(size(80.0, 16.0))
    assert any(each.failed for each in callers)
    for release in ids.values():
        await world.store.wish(release, "abort", ADA, "it was long enough", time.time())
    for release in ids.values():

        async def over(release: str = release) -> bool:
            return not (await world.store.get(release)).is_live

        await auntil(over, world.server.output, 2 * PATIENCE_S)
        ended.append(await world.store.get(release))
    assert len(ended) == size(8, 2)
    assert {each.reason for each in ended} == {"requested by ada: it was long enough"}

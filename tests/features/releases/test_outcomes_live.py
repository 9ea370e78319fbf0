"""Outcomes posted to a real server, by curl and by the client, reach the judge: each unit once."""

import json
import time
from pathlib import Path

import numpy as np
import pytest
from curling import HTTP, curl
from waiting import PATIENCE_S, auntil

from salver.client import Client, Outcome
from salver.features.ledger.ledger import Ledger
from salver.features.registry.records import Actor
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import proposed
from salver.features.releases.release_store import ReleaseStore
from salver.testing.process import ServerProcess
from salver.words.errors import InvalidInput
from salver.words.releases import Bucket, Counts

MODEL = """
class Model:
    inputs = {"x": ("FP32", [-1])}
    outputs = {"y": ("FP32", [-1])}

    def predict(self, inputs):
        return {"y": inputs["x"] - %d}
"""
#: Sales within nine seconds; answers below zero are counted.
POLICY = Policy(
    stages=(Stage(0.5, 60),),
    metrics=(
        Metric("sale", "outcome", "soft", worse="less", matures_minutes=0.15),
        Metric("negative", "rule", "soft", output="y", least=0),
    ),
    bucket_seconds=0.5,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for version in (1, 2):
        path = tmp_path / "models" / "echo" / str(version)
        path.mkdir(parents=True)
        (path / "model.py").write_text(MODEL % (version - 1))
    (tmp_path / "models" / "echo" / "salver.toml").write_text("[versions]\nlatest = 2\n")
    return tmp_path


async def test_outcomes_by_unit_and_by_request_are_joined_once(folder: Path) -> None:
    options = ["--registry", str(folder / "registry")]
    with ServerProcess([folder / "models"], folder / "log", options) as server:
        for version in (1, 2):  # the server is ready with one of them, and the release means both
            server.wait_for(f"/v2/models/echo/versions/{version}/ready")
        store = ReleaseStore(await Ledger.open(f"sqlite:///{folder / 'registry' / 'salver.db'}"))
        await store.propose(proposed("r1", "echo", ("1", "2"), POLICY, time.time()), Actor("ada"))

        async with Client(server.url) as client:

            async def is_below(user: str, **more: str) -> bool:
                x, names = np.array([0.5], np.float32), {"x-user-id": user, **more}
                return bool((await client.infer("echo", {"x": x}, headers=names))["y"][0] < 0)

            async def moved() -> bool:
                return len({await is_below(f"u{number}") for number in range(20)}) == 2

            began = time.time()  # of what is sold, that a slow machine be not too late for it
            await auntil(moved)
            below = 0
            for number in range(20):
                below += await is_below(f"u{number}", **{"x-request-id": f"q{number}"})
            again = Outcome("o1", "sale", unit="u1", value=1.0, time=began)
            by_request = Outcome("o2", "sale", request="q1", value=1.0, time=began)
            receipt = await client.outcomes([again, again, by_request])
            assert (receipt.accepted, receipt.duplicates) == (2, 1)
            wrong = await client.outcome("sale", 0.0, unit="u2", time=began)
            await client.outcome("sale", 1.0, unit="u2", time=began, supersedes=wrong)
            await client.outcome("sale", 1.0, request="q3", id="mine", time=began)
            with pytest.raises(InvalidInput, match="another value"):
                await client.outcome("sale", 2.0, request="q3", id="mine")
            units = events = Counts()
            buckets: list[Bucket] = []
            number = 0

            async def matured() -> bool:
                nonlocal units, events, buckets, number
                await client.outcomes([Outcome(f"all{(number := number + 1)}", "sale")])
                buckets = [look.entry.bucket for look in await store.looks("r1")]
                found = [found for bucket in buckets for found in bucket.outcomes]
                units = Counts(*map(sum, zip(*[_three(m.units) for m in found], strict=True)))
                events = Counts(*map(sum, zip(*[_three(m.events) for m in found], strict=True)))
                return units.total >= 20

            await auntil(matured, lambda: (units, events, server.output()), 2 * PATIENCE_S)
        assert (units.total, events.total) == (20, 3)
        negative = [bucket.events["negative"] for bucket in buckets if "negative" in bucket.events]
        assert sum(counts.canary for counts in negative) == below > 0
        assert sum(counts.control for counts in negative) == 0
        await store._ledger.close()


def _three(counts: Counts) -> tuple[int, int, int]:
    return counts.canary, counts.baseline, counts.stable


@HTTP
def test_outcomes_by_curl(folder: Path, flag: str) -> None:
    with ServerProcess([folder / "models"], folder / "log", ["--registry", str(folder / "r")]) as server:
        server.wait_ready()
        url, kind = f"{server.url}/api/v1/outcomes", "content-type: application/json"
        sent = json.dumps({"outcomes": [{"id": "o1", "name": "sale", "unit": "ada", "value": 1}]})
        for accepted in (1, 0):
            status, _, body = curl(flag, url, "-H", kind, "-d", sent)
            assert (status, json.loads(body)["accepted"]) == (200, accepted)
        status, _, body = curl(flag, url, "-H", kind, "-d", '{"outcomes": [{"id": 7}]}')
        assert (status, json.loads(body)["field"]) == (400, "body.outcomes[0].id")

"""What the console's tests look at: a registry, a release under way and one that was rolled back.

Not a suite itself. All of it is written by the rooms that write it in earnest, before the server starts.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
from registries import ANN, SIGNATURE, counted
from rollout_releases import POLICY, buckets
from zoo import write_mlp

from salver.features.registry.opening import home_of, open_registry
from salver.features.registry.records import Actor, Description, InspectedModel, NewVersion, Parent
from salver.features.registry.registry import ModelRegistry
from salver.features.releases.judge import procedure
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.judge.replay import Entry
from salver.features.releases.release_rows import Look, Step
from salver.features.releases.release_store import ReleaseStore

#: Under way, and rolled back.
RUNNING, OVER = "fraud-2", "churn-2"
#: As somebody might write it who wants more than to be read.
CARD = "# Fraud\n\n<img src=x onerror=document.title='taken'> [more](javascript:document.title='taken')\n"
PATIENT = msgspec.structs.replace(POLICY, no_data_seconds=86_400.0, hold_minutes=1440.0)


async def prepare(folder: Path) -> None:
    """A registry in that folder."""
    registry = await open_registry(home_of(str(folder)), time.time, counted("made").__next__, makes=True)
    try:
        for model in ("fraud", "churn", "ranker"):
            await push(registry, folder.parent / "sources", model)
        store, now = ReleaseStore(registry.ledger), time.time()
        running = proposed(RUNNING, "fraud", ("1", "2"), PATIENT, now - 500, alias="champion")
        over = proposed(OVER, "churn", ("1", "2"), PATIENT, now - 4000, alias="champion")
        await judge_it(store, running, {}, 40)
        await judge_it(store, over, {"errors": 6.0}, 90)
    finally:
        await registry.ledger.close()


async def push(registry: ModelRegistry, sources: Path, model: str) -> None:
    for number in (1, 2, 3):
        write_mlp(sources / model, number)
        file = sources / model / str(number) / "model.onnx"
        found = InspectedModel({"model.onnx": file}, Description("onnx", "onnx", SIGNATURE))
        said = NewVersion(
            model,
            alias="champion" if number == 1 else "",
            tags={"team": "risk"},
            metrics={"auc": 0.9 + number / 100},
            why=f"retrained, try {number}",
            card=CARD,
            parents=(Parent("data", "transactions of October"),),
        )
        await registry.push(said, found, ANN)


async def judge_it(store: ReleaseStore, release: Release, ratios: Mapping[str, float], most: int) -> None:
    """Let it meet so many buckets of traffic, unless it is over before."""
    release = msgspec.structs.replace(release, by="ann", why="calibrated on last month's data")
    await store.propose(release, Actor("ann"))
    begin = release.created
    after = procedure.started(release, begin, "")
    after = await store.commit(Step(release, after), begin)
    events = {"errors": 8, "slow": 20}
    for bucket in buckets(PATIENT, number=most, begin=begin, requests=400, events=events, ratios=ratios):
        release, end = after, bucket.start + bucket.seconds
        if not release.is_live or release.stage:
            break
        evidence, verdict = judge(release.policy, release.evidence, bucket, release.state)
        look = Look(release.progress.buckets, Entry(bucket, release.state, verdict))
        after = procedure.judged(msgspec.structs.replace(release, evidence=evidence), verdict, end)
        after = await store.commit(Step(release, after, looks=(look,)), end)

"""A release begins with copies: callers meet the new version only once its answers were alike."""

import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from release_load import Callers, bodies, digits, write_digits
from soaking import ONLY
from waiting import auntil

from salver.features.ledger.ledger import Ledger
from salver.features.registry.records import Actor
from salver.features.releases.judge.policy import DEFAULT_METRICS, Metric, Policy, Stage
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.judge.replay import replay
from salver.features.releases.judge.shadowing import Alike
from salver.features.releases.release_store import Look, ReleaseStore
from salver.testing.process import ServerProcess
from salver.words.releases import ReleaseState, Shadow, Traffic

POLICY = Policy(
    stages=(Stage(0.0, 0.02), Stage(0.5, 0.02, margin_times=10)),
    metrics=(Metric("errors", "errors", "severe", negligible=0.01),),
    warm_up_seconds=0.0,
    bucket_seconds=0.5,
    alike=Alike(0.95, rolls_back=True),
    traffic=Traffic(shadow=Shadow()),
)


WORDS = """        words = np.array("zero one two three four five six seven eight nine".split())
        return {"word": words[odds.argmax(axis=1)][:, None].astype(object)}
"""


@pytest.fixture
def served(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    write_digits(tmp_path / "models", 1)
    write_digits(tmp_path / "models", 2, **request.param)
    code = tmp_path / "models" / "digits" / "2" / "model.py"
    code.write_text(code.read_text().replace("pixels", request.param.get("input", "pixels")))
    if "words" in request.param:  # both versions say the digit in a word
        for version in "12":
            code = tmp_path / "models" / "digits" / version / "model.py"
            head, _, _ = code.read_text().partition("        return {")
            head = head.replace('"probabilities": ("FP32", [-1, 10])', '"word": ("BYTES", [-1, 1])')
            code.write_text(head + WORDS)
    options = ["--registry", str(tmp_path / "registry")]
    with ServerProcess([tmp_path / "models"], tmp_path / "log", options) as server:
        yield server.wait_ready()


async def released(
    server: ServerProcess, folder: Path, policy: Policy
) -> tuple[Release, list[Look], Callers]:
    """A release under load, once it is over or held."""
    ledger = await Ledger.open(f"sqlite:///{folder / 'registry' / 'salver.db'}")
    store = ReleaseStore(ledger)
    await store.propose(proposed("r1", "digits", ("1", "2"), policy, time.time()), Actor("ada"))

    async def settled() -> Release | None:
        release = await store.get("r1")
        return release if not release.is_live or release.state is ReleaseState.HELD else None

    async def begun() -> bool | None:
        return True if (await store.get("r1")).state is not ReleaseState.PROPOSED else None

    await auntil(begun)
    async with Callers(server, bodies(digits().pixels), 20_000, pause_s=0.004) as callers:
        release = await auntil(settled)
    looks = list(await store.looks("r1"))
    assert all(step.is_same for step in replay(release.policy, [look.entry for look in looks]))
    await ledger.close()
    return release, looks, callers


@pytest.mark.parametrize("served", [{}], indirect=True, ids=["the same again"])
async def test_one_whose_answers_are_alike_meets_callers_and_gets_everything(
    served: ServerProcess, tmp_path: Path
) -> None:
    release, looks, callers = await released(served, tmp_path, POLICY)
    assert release.state is ReleaseState.PROMOTED
    first = [look.entry.bucket for look in looks if look.entry.bucket.stage == 0]
    assert {bucket.share for bucket in first} == {0.0}
    assert sum(bucket.requests.canary for bucket in first) == 0
    assert sum(bucket.copies.asked for bucket in first) > 50
    assert sum(bucket.copies.differed + bucket.copies.failed for bucket in first) == 0
    assert set(callers.statuses) == {200}


@pytest.mark.parametrize(
    ("served", "rolls_back"),
    [
        pytest.param({"merge": True}, True, id="other, rolls back"),
        pytest.param({"fails": True}, False, id="failing, holds"),
        pytest.param({"merge": True}, False, id="other, holds", marks=ONLY),
        pytest.param({"fails": True}, True, id="failing, rolls back", marks=ONLY),
    ],
    indirect=["served"],
)
async def test_one_whose_answers_are_not_alike_meets_nobody(
    served: ServerProcess, tmp_path: Path, rolls_back: bool
) -> None:
    strict = Alike(0.999, rolls_back)
    release, looks, callers = await released(served, tmp_path, msgspec.structs.replace(POLICY, alike=strict))
    assert release.state is (ReleaseState.ROLLED_BACK if rolls_back else ReleaseState.HELD)
    assert "the copies are not alike enough: of " in release.reason
    assert (release.stage, release.weight) == (0, 0.0)
    assert set(callers.statuses) == {200}
    assert {tuple(seen) for seen in callers.versions.values()} == {("1",)}
    assert {look.entry.bucket.requests.canary for look in looks} == {0}


@pytest.mark.parametrize("served", [{"input": "image"}], indirect=True, ids=["its input is called otherwise"])
async def test_one_that_takes_other_inputs_is_rolled_back(served: ServerProcess, tmp_path: Path) -> None:
    rejected = DEFAULT_METRICS[5]
    policy = Policy(
        stages=(Stage(0.2, 0.1), Stage(0.5, 0.1)),
        metrics=(*POLICY.metrics, rejected),
        warm_up_seconds=0,
        bucket_seconds=0.5,
    )
    release, _, callers = await released(served, tmp_path, policy)
    assert (release.state, release.reason.partition(":")[0]) == (ReleaseState.ROLLED_BACK, "rejected")
    assert set(callers.statuses) == {200, 400}


@pytest.mark.parametrize("served", [{"merge": True, "words": True}], indirect=True, ids=["nines are fours"])
async def test_one_that_says_other_words_is_rolled_back(served: ServerProcess, tmp_path: Path) -> None:
    word = Metric("word", "output", "severe", output="word", promotion_margin=None)
    policy = Policy(
        stages=(Stage(0.2, 5), Stage(0.5, 5)),
        metrics=(*POLICY.metrics, word),
        warm_up_seconds=0,
        bucket_seconds=0.5,
    )
    release, _, callers = await released(served, tmp_path, policy)
    assert (release.state, release.reason.partition(":")[0]) == (ReleaseState.ROLLED_BACK, "word")
    assert len(release.progress.bins["word"]) == 9
    assert set(callers.statuses) == {200}

"""What another Salver wrote keeps no release waiting; a clock that goes back changes no order of releases."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from databases import SQLITE_MOSTLY, migrated_ledger
from releasing import ADA, Clock, World, healthy
from sqlalchemy import update

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import RELEASE
from salver.words.releases import Counts, ReleaseState


@pytest.fixture(params=SQLITE_MOSTLY)
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    async with await Ledger.open(migrated_ledger(request.param, tmp_path)) as opened:
        yield opened


@pytest.fixture
def world(ledger: Ledger) -> World:
    return World(ledger, Clock())


async def spoilt(ledger: Ledger, release: str, **columns: str) -> None:
    await ledger.write(lambda c: c.execute(update(RELEASE).where(RELEASE.c.id == release).values(columns)))


@pytest.mark.parametrize(
    ("columns", "fault"),
    [
        ({"policy": '{"traffic": {"units": ["x-user-id"]}}'}, "x-user-id"),
        ({"policy": '{"horoscope": 1}'}, "horoscope"),
        ({"evidence": '{"metrics": 7}'}, "metrics"),
        ({"progress": '{"buckets": "many"}'}, "buckets"),
    ],
    ids=["policy", "field", "evidence", "progress"],
)
async def test_what_cannot_be_read_is_rolled_back_and_keeps_no_other_waiting(
    world: World, ledger: Ledger, columns: dict[str, str], fault: str
) -> None:
    await world.propose("fraud")
    await world.propose("spam")
    await world.ticks()
    await spoilt(ledger, "r0", **columns)
    wish = await world.store.wish("r0", "resume", ADA, "", world.clock.now)
    await world.ticks()
    bad, other = await world.one("r0"), await world.one("r1")
    assert (bad.state, bad.weight) == (ReleaseState.ROLLED_BACK, 0.0)
    assert "this version of Salver cannot read it" in bad.reason
    assert fault in bad.reason
    assert other.state is ReleaseState.RUNNING
    assert [split.model for split in world.traffic.splits] == ["spam"]
    assert await world.store.answer(wish) != ""
    assert {each.id for each in await world.store.listed()} == {"r0", "r1"}
    (kept,) = await ledger.read(
        lambda c: c.execute(RELEASE.select().where(RELEASE.c.id == "r0")).mappings().all()
    )
    assert {name: kept[name] for name in columns} == columns  # for the version that can read it


async def test_a_defect_of_one_release_keeps_no_other_waiting_nor_a_person(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await world.propose("fraud")
    await world.propose("spam")
    await world.ticks()
    await world.ticks()

    def breaks(*_: object) -> None:
        raise ZeroDivisionError("a defect")

    with monkeypatch.context() as patched:
        patched.setattr("salver.features.releases.releases.judge", breaks)
        await world.saw("r0", healthy(0.05), Counts(0, 0, 1))
    assert (await world.one("r0")).progress.buckets == 0
    assert "a bucket is left out of the evidence: a defect" in caplog.text
    with monkeypatch.context() as patched:
        patched.setattr(world.traffic, "missing", breaks)
        patched.setattr(world.traffic, "knows", lambda model: model == "fraud")
        await world.store.wish("r1", "abort", ADA, "", world.clock.now)
        await world.ticks()
    assert (await world.one("r0")).state is ReleaseState.RUNNING
    assert (await world.one("r1")).state is ReleaseState.ROLLED_BACK
    assert "release r0 is unchanged until the next tick" in caplog.text


async def test_what_has_ended_stays_as_it_is(world: World, ledger: Ledger) -> None:
    await world.propose("fraud")
    await world.ticks()
    for _ in range(2):
        await world.store.wish("r0", "promote", ADA, "", world.clock.now)
        await world.ticks()
    before = await world.one("r0")
    assert before.state is ReleaseState.PROMOTED
    await spoilt(ledger, "r0", policy="{")
    await world.ticks()
    after = await world.one("r0")
    assert (after.state, after.reason, after.revision) == (before.state, before.reason, before.revision)
    late = await world.store.wish("r0", "abort", ADA, "", world.clock.now)
    await world.ticks()
    assert await world.store.answer(late) == ""
    assert (await world.one("r0")).state is ReleaseState.ROLLED_BACK


async def test_a_clock_that_goes_back_does_not_make_an_older_release_the_last(world: World) -> None:
    await world.propose("fraud")
    await world.store.wish("r0", "promote", ADA, "", world.clock.now)
    await world.ticks()
    await world.store.wish("r0", "abort", ADA, "", world.clock.now)
    await world.ticks()
    world.clock.now -= 3600
    await world.propose("fraud")
    first, second = await world.one("r0"), await world.one("r1")
    assert second.created > first.created
    assert [each.id for each in await world.store.listed()] == ["r1", "r0"]

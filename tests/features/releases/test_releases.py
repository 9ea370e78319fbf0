"""Releases on a real ledger, tick by tick, with a clock that the test winds."""

import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from databases import SQLITE_MOSTLY, migrated_ledger
from releasing import ADA, POLICY, Clock, World, address, healthy
from sqlalchemy import Connection, select

from salver.features.ledger.faults import LedgerFailed
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import EXPOSURE, FIRST_EVENT, PREDICTION
from salver.features.registry import aliases
from salver.features.registry.audit import Change, history
from salver.features.registry.records import Actor
from salver.features.releases.experiments.outputs import OutputCheck
from salver.features.releases.judge.policy import Metric, Policy
from salver.features.releases.judge.record import proposed
from salver.features.releases.judge.replay import replay
from salver.features.releases.release_store import ReleaseStore
from salver.words.errors import Conflict, Forbidden, InvalidInput, NotFound
from salver.words.releases import (
    Bucket,
    BucketObservations,
    Counts,
    Exposures,
    Predictions,
    ReleaseState,
    Traffic,
    UnitObservations,
    unit_numbers,
)

SALES = Metric("sales", "outcome", "soft", promotion_margin=None)
SELLING = msgspec.structs.replace(POLICY, metrics=(*POLICY.metrics, SALES))


@pytest.fixture(params=SQLITE_MOSTLY)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    async with await Ledger.open(migrated_ledger(request.param, tmp_path)) as ledger:
        yield World(ledger, Clock())


async def test_a_proposal_starts_when_both_versions_can_answer(world: World) -> None:
    world.traffic.lacks["fraud", "2"] = "version 2 is LOADING"
    await world.propose()
    await world.ticks()
    assert (await world.one()).progress.waits_for == "version 2 is LOADING"
    assert world.traffic.splits == ()
    world.traffic.lacks.clear()
    await world.ticks()
    assert (await world.one()).state is ReleaseState.RUNNING
    (split,) = world.traffic.splits
    assert (split.model, split.stable, split.canary, split.weight) == ("fraud", "1", "2", 0.05)
    assert world.traffic.meant == {"fraud": "1"}


async def test_a_good_version_goes_from_stage_to_stage_and_gets_everything(world: World) -> None:
    await world.propose(alias="champion")
    await world.ticks()
    for _ in range(40):
        release = await world.one()
        if not release.is_live:
            break
        requests = healthy(release.weight)
        errors = Counts(round(requests.canary / 500), round(requests.baseline / 500), 3)
        await world.saw("r0", requests, errors)
    assert (release.state, release.weight) == (ReleaseState.PROMOTED, 1.0)
    assert world.traffic.moved == [("r0", "PROMOTED")]
    assert world.traffic.splits == () and not world.traffic.followed


async def test_a_bad_version_is_rolled_back_at_once_and_stays_so(world: World) -> None:
    await world.propose()
    await world.ticks()
    for number in range(60):
        await world.saw("r0", healthy(0.05), Counts(10, 0, 1), units=[f"{number}-{n}" for n in range(30)])
    release = await world.one()
    assert release.progress.buckets < 48  # minutes
    assert world.traffic.forgotten == ["r0"]
    assert (release.state, release.weight) == (ReleaseState.ROLLED_BACK, 0.0)
    assert "errors" in release.reason
    assert world.traffic.splits == () and world.traffic.moved == []
    await world.ticks()
    assert world.traffic.meant == {"fraud": "1"}
    assert await world.one() == release


async def test_what_people_wish_is_done_on_the_next_tick_and_answered(world: World) -> None:
    await world.propose()
    await world.ticks()
    for what, state in (
        ("pause", "PAUSED"),
        ("resume", "RUNNING"),
        ("promote", "RUNNING"),
        ("abort", "ROLLED_BACK"),
    ):
        wish = await world.store.wish("r0", what, ADA, "", world.clock.now)
        assert await world.store.answer(wish) is None
        await world.ticks()
        assert await world.store.answer(wish) == ""
        assert (await world.one()).state.value == state
    wish = await world.store.wish("r0", "promote", ADA, "", world.clock.now)
    await world.ticks()
    assert "rolled back" in (await world.store.answer(wish) or "")


async def test_a_promotion_can_be_taken_back(world: World) -> None:
    await world.propose(policy=Policy(immediate=True), alias="champion")
    await world.ticks()
    assert world.traffic.moved == [("r0", "PROMOTED")]
    await world.store.wish("r0", "abort", ADA, "users complain", world.clock.now)
    await world.ticks()
    assert (await world.one()).state is ReleaseState.ROLLED_BACK
    assert world.traffic.moved == [("r0", "PROMOTED"), ("r0", "ROLLED_BACK")]


async def test_a_release_that_ended_long_ago_still_answers(world: World) -> None:
    for _ in range(2):
        await world.propose(policy=Policy(immediate=True))
        await world.ticks()
    wish = await world.store.wish("r0", "pause", ADA, "", world.clock.now)
    await world.ticks()
    assert "PROMOTED" in (await world.store.answer(wish) or "")


async def test_a_model_has_one_release_at_a_time(world: World) -> None:
    await world.propose()
    with pytest.raises(Conflict, match="the release r0 of fraud is under way"):
        await world.propose()
    await world.propose(model="other")


async def test_a_canary_that_never_loads_is_rolled_back(world: World) -> None:
    await world.propose()
    world.traffic.lacks["fraud", "2"] = "version 2 is FAILED: no such file"
    await world.ticks()
    await world.ticks(31 * 60)
    release = await world.one()
    assert release.state is ReleaseState.ROLLED_BACK and "no such file" in release.reason


async def test_while_a_version_cannot_answer_nobody_is_sent_there(world: World) -> None:
    await world.propose()
    await world.ticks()
    world.traffic.lacks["fraud", "2"] = "version 2 is LOADING"
    await world.ticks()
    assert world.traffic.splits == () and (await world.one()).weight == 0.05
    world.traffic.lacks.clear()
    await world.ticks()
    assert len(world.traffic.splits) == 1


async def test_that_a_version_cannot_answer_for_long_is_said_until_it_can(world: World) -> None:
    await world.propose()
    await world.ticks()
    world.traffic.lacks["fraud", "2"] = "version 2 is LOADING"
    await world.ticks(0)
    for _ in range(2):
        await world.saw("r0", Counts(), Counts())
        assert (await world.one()).state is ReleaseState.RUNNING
    await world.saw("r0", Counts(), Counts())
    release = await world.one()
    assert (release.state, release.reason) == (ReleaseState.HELD, "no data: version 2 is LOADING")
    await world.saw("r0", healthy(0.05), Counts())  # another server has it
    assert (await world.one()).state is ReleaseState.RUNNING
    await world.saw("r0", Counts(), Counts())
    assert (await world.one()).state is ReleaseState.HELD
    world.traffic.lacks.clear()
    await world.saw("r0", Counts(), Counts())
    assert (await world.one()).state is ReleaseState.RUNNING
    looks = await world.store.looks("r0")
    assert all(step.is_same for step in replay(POLICY, [look.entry for look in looks]))


async def test_that_a_model_is_on_no_server_any_more_is_said(world: World) -> None:
    await world.propose()
    await world.ticks()
    await world.saw("r0", healthy(0.05), Counts())
    world.traffic.unknown.add("fraud")
    lacks = world.traffic.lacks
    lacks["fraud", "1"], lacks["fraud", "2"] = "version 1 is not there", "version 2 is not there"
    for _ in range(8):
        await world.ticks(10)
    release = await world.one()
    assert (release.state, release.weight) == (ReleaseState.HELD, 0.05)
    assert release.reason == "no data: version 1 is not there; version 2 is not there"
    revision = release.revision
    await world.ticks(10)
    assert (await world.one()).revision == revision
    world.traffic.unknown.clear()
    lacks.clear()
    await world.ticks()
    await world.saw("r0", healthy(0.05), Counts())
    assert (await world.one()).state is ReleaseState.RUNNING


async def test_what_is_slow_stays_until_it_is_measured_anew(world: World) -> None:
    await world.propose()
    await world.ticks()
    for found, slow in (
        ({}, {}),
        ({"latency_p99": 0.2},) * 2,
        ({}, {"latency_p99": 0.2}),
        ({"latency_p99": 0.1},) * 2,
    ):
        world.traffic.found = found
        await world.ticks()
        assert (await world.one()).progress.thresholds == world.traffic.slow["r0"] == slow


async def test_bins_of_an_output_are_frozen_once(world: World) -> None:
    metrics = (
        Metric("negative", "rule", "severe", output="p", least=0),
        Metric("score", "output", "soft", output="p", take="max", bins=3),
        Metric("sale", "outcome", "soft", matures_minutes=1),
    )
    await world.propose(policy=msgspec.structs.replace(POLICY, metrics=metrics))
    await world.ticks()
    rule, score = world.traffic.checks["r0"]
    assert rule == OutputCheck("negative", "bounds", "p", least=0)
    assert score == OutputCheck("score", "bins", "p", "max", bins=3)
    assert world.traffic.splits[0].is_watched
    assert world.traffic.keeps_requests and world.traffic.keeps_arms
    world.traffic.found_bins = {"score": (0.1, 0.2)}
    await world.ticks()
    world.traffic.found_bins = {"score": (7.0, 8.0)}
    await world.ticks()
    assert (await world.one()).progress.bins == {"score": (0.1, 0.2)}
    assert world.traffic.checks["r0"][1].bounds == (0.1, 0.2)


async def test_nothing_is_looked_at_where_no_metric_asks(world: World) -> None:
    await world.propose()
    await world.ticks()
    assert not world.traffic.splits[0].is_watched
    assert not world.traffic.keeps_requests and not world.traffic.keeps_arms
    assert world.traffic.checks["r0"] == ()


async def test_another_server_goes_on_where_one_was_killed(world: World) -> None:
    await world.propose()
    await world.ticks()
    await world.saw("r0", healthy(0.05), Counts(1, 1, 3), units=["ada", "bob", "cy"])
    before = await world.one()
    other = World(world.store._ledger, world.clock)
    await other.ticks()
    assert await other.one() == before
    assert other.traffic.splits == world.traffic.splits
    units, events = other.traffic.followed["r0"]
    assert len(units) == 3 and [metric for metric, _ in events] == ["errors"]
    assert threading.get_ident() not in other.traffic.remembers_on  # of millions it takes seconds


async def test_counts_wait_for_a_ledger_that_fails(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.propose()
    await world.ticks()

    async def fails(*_: object) -> None:
        raise LedgerFailed("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr(ReleaseStore, "commit", fails)
        with pytest.raises(LedgerFailed):
            await world.saw("r0", healthy(0.05), Counts(0, 0, 1))
    assert (await world.one()).progress.buckets == 0
    await world.ticks()
    assert (await world.one()).progress.buckets == 1


async def test_every_decision_can_be_computed_again_bit_by_bit(world: World) -> None:
    await world.propose()
    await world.ticks()
    for number in range(12):
        release = await world.one()
        await world.saw(
            "r0", healthy(release.weight), Counts(number % 2, 1, 4), [f"{number}-{n}" for n in range(3)]
        )
    release = await world.one()
    looks = await world.store.looks("r0")
    assert [look.seq for look in looks] == list(range(12))
    *_, last = steps = list(replay(release.policy, [look.entry for look in looks]))
    assert len(steps) == 12 and all(step.is_same for step in steps)
    assert msgspec.json.encode(last.evidence) == msgspec.json.encode(release.evidence)


async def test_unknown_releases_are_told(world: World) -> None:
    with pytest.raises(NotFound, match="no release 'r9'"):
        await world.store.wish("r9", "pause", ADA, "", 1.0)


async def test_the_list_has_the_newest_first(world: World) -> None:
    await world.propose(policy=Policy(immediate=True))
    await world.ticks()
    await world.propose()
    assert [release.id for release in await world.store.listed("fraud")] == ["r1", "r0"]
    assert await world.store.listed("other") == ()


async def test_it_runs_until_it_is_stopped(tmp_path: Path) -> None:
    async with await Ledger.open(address(tmp_path)) as ledger:
        world = World(ledger, Clock())
        await world.propose()
        ticked = 0

        async def sleep(seconds: float) -> None:
            nonlocal ticked
            ticked += 1
            world.clock.now += seconds
            if ticked > 3:
                import asyncio

                await asyncio.Event().wait()

        await world.releases.start(1.0, sleep)
        while ticked <= 3:
            await world.one()
        await world.releases.stop()
        assert (await world.one()).state is ReleaseState.RUNNING


def test_a_policy_in_a_proposal_is_checked() -> None:
    with pytest.raises(InvalidInput):
        proposed("r", "fraud", ("1", "2"), Policy(alpha=2.0), 1.0)
    assert POLICY.metrics[0].name == "errors"


async def test_an_alias_that_is_not_the_default_one_is_asked_by_name_alone(world: World) -> None:
    from sqlalchemy import insert

    from salver.features.ledger.schema import MODEL

    rows = [
        {"name": "fraud", "default_alias": "stable", "last_number": 2, "created": 1.0, "by": ""},
        {"name": "other", "default_alias": "", "last_number": 2, "created": 1.0, "by": ""},
    ]
    await world.store._ledger.write(lambda connection: connection.execute(insert(MODEL), rows) and None)
    await world.propose(alias="champion")
    await world.propose(model="other", alias="champion")
    await world.ticks()
    asked = {split.model: split.asked for split in world.traffic.splits}
    assert asked == {"fraud": ("champion",), "other": ("", "champion")}


async def test_whoever_may_not_move_an_alias_can_stop_its_release_and_no_more(world: World) -> None:
    from sqlalchemy import insert

    from salver.features.ledger.schema import MODEL, PROTECTION

    def protect(connection: Connection) -> None:
        row = {"name": "fraud", "last_number": 2, "created": 1.0, "by": ""}
        connection.execute(insert(MODEL), row)
        connection.execute(insert(PROTECTION), {"model": "fraud", "alias": "champion", "roles": '["owner"]'})

    await world.store._ledger.write(protect)
    new = proposed("r0", "fraud", ("1", "2"), POLICY, world.clock.now, alias="champion")
    with pytest.raises(Forbidden, match="protected"):
        await world.store.propose(new, ADA)
    await world.store.propose(new, Actor("olga", frozenset({"owner"})))
    with pytest.raises(Forbidden, match="protected"):
        await world.store.wish("r0", "promote", ADA, "", world.clock.now)
    await world.store.wish("r0", "abort", ADA, "it hurts", world.clock.now)
    await world.ticks()
    assert (await world.one()).state is ReleaseState.ROLLED_BACK


async def test_nothing_is_counted_of_a_proposal(world: World) -> None:
    world.traffic.lacks["fraud", "2"] = "version 2 is LOADING"
    await world.propose()
    await world.ticks()
    assert world.traffic.followed == {}
    world.traffic.lacks.clear()
    await world.ticks()
    assert list(world.traffic.followed) == ["r0"]


async def test_a_bucket_that_cannot_be_judged_keeps_no_other_waiting(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    await world.propose()
    await world.ticks()
    world.pending.write(BucketObservations("r0", Bucket(world.clock.now, 10, 0, 1.5)))
    await world.saw("r0", healthy(0.05), Counts(0, 0, 1))
    assert (await world.one()).progress.buckets == 1
    assert world.pending.of("r0") == ()
    assert "a bucket is left out of the evidence: the canary's share is 1.5" in caplog.text


async def test_units_of_a_release_that_ended_long_ago_are_forgotten_and_its_decisions_are_not(
    world: World,
) -> None:
    await world.propose()
    await world.ticks()
    await world.saw("r0", healthy(0.05), Counts(1, 0, 1), units=["ada", "bob"])
    await world.store.wish("r0", "abort", ADA, "", world.clock.now)
    await world.ticks()
    await world.ticks(29 * 86_400)
    assert len((await world.store.known_units("r0"))[0].units) == 2
    await world.ticks(2 * 86_400)
    units, events = await world.store.known_units("r0")
    assert (units.units.tolist(), events) == ([], [])
    assert len(await world.store.looks("r0")) == 1


async def test_of_many_releases_only_those_are_read_that_matter_now(world: World) -> None:
    for model in ("fraud", "other"):
        for _ in range(3):
            await world.propose(model, policy=Policy(immediate=True))
            await world.ticks()
    await world.propose("fraud")
    assert [release.id for release in (await world.store.picture()).releases] == ["r2", "r5", "r6"]
    assert len(await world.store.listed()) == 7


async def test_what_another_release_came_after_cannot_take_its_alias_back(world: World) -> None:
    for _ in range(2):
        await world.propose(policy=Policy(immediate=True), alias="champion")
        await world.ticks()
    wish = await world.store.wish("r0", "abort", ADA, "a slip of the hand", world.clock.now)
    await world.ticks()
    assert "another came after it" in (await world.store.answer(wish) or "")
    assert (await world.one("r0")).state is ReleaseState.PROMOTED
    assert world.traffic.moved == [("r0", "PROMOTED"), ("r1", "PROMOTED")]


async def test_where_outcomes_are_posted_what_was_seen_lies_in_the_ledger_row_by_row(world: World) -> None:
    await world.propose(policy=SELLING)
    await world.ticks()
    units, requests, times = unit_numbers(["ada", "bob"]), unit_numbers(["q2", "q1"]), np.array([2.5, 1.5])
    arms = np.array([2, 0], np.uint8)
    one = Counts(0, 0, 1)
    bucket = Bucket(world.clock.now, 10, 1, 0.25, Counts(1, 1, 1), one, {"errors": one}, {"errors": one})
    exposures = Exposures(units, arms, times, np.array([1, 0], np.uint8))
    firsts = {"errors": UnitObservations(units[:1], arms[:1], times[:1])}
    world.pending.write(
        BucketObservations("r0", bucket, exposures, firsts, Predictions(units, arms, times, requests))
    )
    await world.ticks()

    def rows(connection: Connection) -> list[list[tuple[object, ...]]]:
        for table in (EXPOSURE, PREDICTION):
            shares = connection.execute(select(table.c.stage, table.c.propensity).distinct()).all()
            assert [tuple(row) for row in shares] == [(1, 0.25)]
        return [
            [tuple(row) for row in connection.execute(select(*columns).order_by(columns[1]))]
            for columns in (
                (EXPOSURE.c.unit, EXPOSURE.c.time, EXPOSURE.c.arm, EXPOSURE.c.is_first),
                (FIRST_EVENT.c.unit, FIRST_EVENT.c.time, FIRST_EVENT.c.arm, FIRST_EVENT.c.metric),
                (PREDICTION.c.unit, PREDICTION.c.time, PREDICTION.c.arm, PREDICTION.c.request),
            )
        ]

    ada, bob = units.tolist()
    q2, q1 = requests.tolist()
    assert await world.store._ledger.read(rows) == [
        [(bob, 1.5, "canary", 0), (ada, 2.5, "stable", 1)],
        [(ada, 2.5, "stable", "errors")],
        [(bob, 1.5, "canary", q1), (ada, 2.5, "stable", q2)],
    ]
    known, events = await world.store.known_units("r0")
    assert (set(known.units.tolist()), events) == ({ada, bob}, [("errors", ada)])


async def test_who_wants_the_units_of_another_waits_and_keeps_no_rollback_waiting(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    lower, upper = (
        msgspec.structs.replace(POLICY, traffic=Traffic(layer="checkout", slice=part))
        for part in ((0.0, 0.6), (0.5, 1.0))
    )
    await world.propose("fraud", lower)
    await world.propose("score", upper)
    await world.ticks()
    assert [split.release for split in world.traffic.splits] == ["r0"]
    waiting = await world.one("r1")
    assert waiting.state is ReleaseState.PROPOSED
    assert "releases 'r0' and 'r1' claim the same units" in waiting.progress.waits_for
    await world.store.wish("r1", "promote", ADA, "in a hurry", world.clock.now)
    await world.ticks()
    assert (await world.one("r1")).state is ReleaseState.RUNNING
    assert [split.release for split in world.traffic.splits] == ["r0"]
    assert "release r1 receives no traffic: releases 'r0' and 'r1' claim the same units" in caplog.text
    await world.store.wish("r0", "abort", ADA, "", world.clock.now)
    await world.ticks()
    assert [split.release for split in world.traffic.splits] == ["r1"]


async def test_each_move_is_written_into_the_history(world: World) -> None:
    world.traffic.lacks["fraud", "2"] = "version 2 is LOADING"
    await world.propose()
    await world.ticks()
    assert (await world.one()).progress.waits_for == "version 2 is LOADING"
    world.traffic.lacks.clear()
    await world.ticks()
    await world.store.wish("r0", "pause", ADA, "the weekend", world.clock.now)
    await world.ticks()
    await world.saw("r0", healthy(0.05), Counts(20, 0, 0))
    for _ in range(60):
        if (await world.one()).state is ReleaseState.ROLLED_BACK:
            break
        await world.saw("r0", healthy(0.05), Counts(20, 0, 0))
    lines = await world.store._ledger.read(lambda connection: history(connection, "fraud"))
    assert [(line.action, line.actor, line.before, line.after) for line in reversed(lines)] == [
        ("release.proposed", "ada", "1", "2"),
        ("release.running", "release r0", "PROPOSED 0 %", "RUNNING 5 %"),
        ("release.paused", "ada", "RUNNING 5 %", "PAUSED 5 %"),
        ("release.rolled_back", "release r0", "PAUSED 5 %", "ROLLED_BACK 0 %"),
    ]
    assert lines[0].why == (await world.one()).reason != ""
    assert {line.subject for line in lines} == {"r0"}
    assert (await world.one()).waits_for == ""


@pytest.mark.parametrize("means", [3, None])
async def test_a_promotion_is_not_taken_back_once_somebody_has_moved_its_alias(
    world: World, means: int | None
) -> None:
    await world.propose(policy=Policy(immediate=True), alias="champion")
    await world.ticks()

    def meddle(connection: Connection) -> None:
        change = Change(ADA, world.clock.now)
        if means is None:
            aliases.delete_alias(connection, change, "fraud", "champion")
        else:
            aliases.move(connection, change, "fraud", "champion", means)

    await world.store._ledger.write(meddle)
    wish = await world.store.wish("r0", "abort", ADA, "users complain", world.clock.now)
    await world.ticks()
    told = "version 3" if means else "nothing"
    answer = await world.store.answer(wish)
    assert f"the alias fraud@champion means {told} since another caller changed it" in (answer or "")
    assert (await world.one()).state is ReleaseState.PROMOTED
    assert world.traffic.moved == [("r0", "PROMOTED")]


async def test_old_units_go_a_few_at_a_time_so_that_nobody_waits_for_long(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.propose(policy=SELLING)
    await world.ticks()
    await world.saw("r0", healthy(0.05), Counts(1, 0, 1), units=[f"user-{n}" for n in range(25)])
    await world.store.wish("r0", "abort", ADA, "", world.clock.now)
    await world.ticks()
    gone, prune = [], ReleaseStore.prune

    async def some(store: ReleaseStore, now: float) -> int:
        gone.append(await prune(store, now, most=10))
        return gone[-1]

    monkeypatch.setattr(ReleaseStore, "prune", some)
    await world.ticks(31 * 86_400)
    for _ in range(5):
        await world.ticks()
    assert gone == [12, 10, 5, 0]  # of the units together, of each, and of what happened to one

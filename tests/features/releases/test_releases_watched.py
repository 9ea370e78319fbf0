"""A promoted release on a real ledger: what comes late still counts, and it is taken back if it has to be."""

import msgspec
import pytest
from databases import SQLITE_MOSTLY, migrated_ledger
from releasing import ADA, POLICY, Clock, Server

from salver.features.ledger.ledger import Ledger
from salver.features.registry.audit import history
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.record import Release
from salver.features.releases.outcomes import OutcomeStore
from salver.features.releases.releases import Releases
from salver.features.releases.releases import Traffic as Wires
from salver.words.errors import InvalidInput
from salver.words.releases import Bucket, Outcome, ReleaseState, Traffic

HELD = msgspec.structs.replace(POLICY, traffic=Traffic(holdback=0.3))
USERS = [f"u{number}" for number in range(600)]
COMPLAINT = Metric("complaint", "outcome", "severe", promotion_margin=None, matures_minutes=30)


@pytest.fixture(params=SQLITE_MOSTLY)
async def server(request, tmp_path):
    async with await Ledger.open(migrated_ledger(request.param, tmp_path)) as ledger:
        yield Server(ledger, Clock())


async def promoted(server: Server, policy: Policy = HELD) -> Release:
    await server.propose(policy=policy)
    await server.ticks()
    await server.ticks()
    for _ in policy.stages:
        await server.store.wish("r0", "promote", ADA, "", server.clock.now)
        await server.ticks()
    release = await server.one()
    assert release.state is ReleaseState.PROMOTED
    return release


async def test_harm_that_shows_after_the_promotion_is_taken_back(server: Server) -> None:
    release = await promoted(server)
    assert release.is_judged and server.traffic.moved == [("r0", "PROMOTED")]
    failing = set(USERS)
    for number in range(30):
        server.serve(USERS[20 * number : 20 * number + 20], failing)
        await server.ticks(600)
        if (await server.one()).state is not ReleaseState.PROMOTED:
            break
    release = await server.one()
    assert release.state is ReleaseState.ROLLED_BACK
    assert "events where its control has none" in release.reason
    assert server.traffic.moved[-1] == ("r0", "ROLLED_BACK")
    assert server.traffic.splits == ()


async def test_harm_that_a_soft_metric_shows_waits_for_a_person_who_may_take_it_back(server: Server) -> None:
    policy = msgspec.structs.replace(HELD, after_promotion="wait")
    await promoted(server, policy)
    for number in range(30):
        server.serve(USERS[20 * number : 20 * number + 20], set(USERS))
        await server.ticks(600)
    release = await server.one()
    assert (release.state, release.is_judged) == (ReleaseState.PROMOTED, True)
    assert release.reason.endswith("a person has to decide whether to abort it")
    lines = await server.store._ledger.read(lambda connection: history(connection, "fraud"))
    (line,) = [line for line in lines if line.action == "release.harmful"]
    assert (line.subject, line.actor, line.after) == ("r0", "release r0", "PROMOTED 100 %")
    assert line.why == release.reason
    await server.store.wish("r0", "abort", ADA, "they are right", server.clock.now)
    await server.ticks()
    assert (await server.one()).state is ReleaseState.ROLLED_BACK


async def test_a_good_one_goes_on_until_its_days_are_over(server: Server) -> None:
    await promoted(server)
    for number in range(30):
        server.serve(USERS[20 * number : 20 * number + 20])
        await server.ticks(600)
    release = await server.one()
    assert release.evidence.units.control > 50 < release.evidence.units.canary
    assert release.evidence.split_log_e < 1
    await server.ticks(14 * 86_400)
    release = await server.one()
    assert (release.state, release.is_judged, release.split) == (ReleaseState.PROMOTED, False, None)
    assert release.reason.endswith("it is watched no more: 14 days are over")
    assert server.traffic.splits == ()


async def test_a_next_release_ends_the_watch_and_begins(server: Server) -> None:
    await promoted(server)
    await server.propose(policy=POLICY)
    await server.ticks()
    await server.ticks()
    assert "release 'r1' comes after it" in (await server.one()).reason
    assert (await server.one("r1")).state is ReleaseState.RUNNING
    assert [split.release for split in server.traffic.splits] == ["r1"]


async def test_a_version_that_is_gone_for_long_ends_the_watch(server: Server) -> None:
    await promoted(server)
    server.traffic.lacks["fraud", "1"] = "version 1 of 'fraud' is not there"
    await server.ticks()
    assert server.traffic.splits == () and (await server.one()).is_judged
    await server.ticks(1801)
    release = await server.one()
    assert (release.state, release.is_judged) == (ReleaseState.PROMOTED, False)
    assert "version 1 of 'fraud' is not there" in release.reason


def asking_for_outcomes(server: Server, name: str) -> OutcomeStore:
    """Its releases are judged by outcomes, too, from now on."""
    outcomes, told = OutcomeStore(server.store._ledger, server.clock), server.traffic
    wires = Wires(told, server.collector, server.pending, told)
    server.releases = Releases(server.store, wires, told, outcomes, server.clock, name)
    return outcomes


async def test_outcomes_of_the_stages_that_come_late_still_count(server: Server) -> None:
    """Without anybody held back; nothing is written while nothing is new, and it ends when all has come."""
    policy = msgspec.structs.replace(POLICY, metrics=(COMPLAINT,), stages=(Stage(0.5, 1),))
    outcomes = asking_for_outcomes(server, "server o")
    await server.propose(policy=policy)
    await server.ticks()
    await server.ticks()
    canary, cohorts = [user for user in USERS if user in _met(server)], []
    for number in range(6):
        server.serve(USERS[100 * number : 100 * number + 100])
        cohorts.append(server.clock.now)
        await server.ticks(10)
    await server.store.wish("r0", "promote", ADA, "", server.clock.now)
    await server.ticks(10)
    release = await server.one()
    assert release.state is ReleaseState.PROMOTED and release.split is None and release.is_judged
    assert not release.keeps_requests  # of days of them that would be many rows
    looks = len(await server.store.looks("r0"))
    for _ in range(3):
        await server.ticks(600)
    assert len(await server.store.looks("r0")) == looks
    await outcomes.accept(
        [Outcome(user, "complaint", unit=user, value=1.0, time=cohorts[-1]) for user in canary]
    )
    for number, at in enumerate(cohorts):
        await outcomes.accept([Outcome(f"all {number}", "complaint", time=at + 1800)])
        await server.ticks(600)
        await server.ticks(600)
    release = await server.one()
    assert release.state is ReleaseState.ROLLED_BACK
    assert release.reason.startswith("complaint: the canary has events where its control has none")
    assert release.evidence.metrics[0].units.total >= 400
    assert len(await server.store.looks("r0")) <= looks + 6


async def test_outcomes_of_a_bucket_that_cannot_be_judged_count_with_the_next(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused: list[Bucket] = []

    def once(policy, evidence, bucket, *more):
        if bucket.outcomes and not refused:
            refused.append(bucket)
            raise InvalidInput("a defect")
        return judge(policy, evidence, bucket, *more)

    monkeypatch.setattr("salver.features.releases.releases.judge", once)
    policy = msgspec.structs.replace(POLICY, metrics=(COMPLAINT,), stages=(Stage(0.5, 60),))
    outcomes = asking_for_outcomes(server, "server b")
    await server.propose(policy=policy)
    await server.ticks()
    await server.ticks()
    server.serve(USERS)
    await server.ticks(10)
    await server.ticks(10)
    server.clock.now += 1800
    await outcomes.accept([Outcome("all", "complaint", time=server.clock.now)])
    for _ in range(3):
        await server.ticks(10)
    release = await server.one()
    assert len(refused) == 1 and release.evidence.metrics[0].units.total == len(USERS)


def _met(server: Server) -> set[str]:
    """Who meets the canary."""
    from salver.features.releases.experiments.assign import assign
    from salver.words.releases import Arm

    (split,) = server.traffic.splits
    return {
        user for user in USERS if assign(split, {"header:x-user-id": user, "request": "1"}).arm is Arm.CANARY
    }

"""Several servers on one ledger judge as one: each unit once, each window once, whoever stays away."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from databases import POSTGRESQL_MOSTLY, migrated_ledger
from releasing import ADA, POLICY, Clock, Server
from sqlalchemy import Connection, select

from salver.features.ledger.faults import LedgerFailed
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import AUDIT, EXPOSURE, FIRST_EVENT, PART, WITNESS
from salver.features.releases import releases
from salver.features.releases.carriers import told
from salver.features.releases.distinct_units import DistinctUnits, met
from salver.features.releases.experiments.assign import assign
from salver.features.releases.judge.evidence import Evidence
from salver.features.releases.judge.judge import judge
from salver.features.releases.judge.policy import Metric, Policy, Stage
from salver.features.releases.judge.replay import replay
from salver.features.releases.judge.verdict import Decision, Verdict
from salver.features.releases.release_store import ReleaseStore
from salver.words.errors import Conflict
from salver.words.releases import (
    FIRSTS,
    Arm,
    Assignment,
    Bucket,
    Counts,
    Outcome,
    ReleaseState,
    kept_in,
    unit_numbers,
)

#: It stays in its first stage.
LONG = msgspec.structs.replace(POLICY, stages=(Stage(0.5, 1000),), no_data_seconds=1e9)


class Fleet:
    """Servers on one ledger and one clock."""

    def __init__(self, ledgers: tuple[Ledger, Ledger]) -> None:
        self._ledgers = ledgers
        self.clock = Clock()
        self.servers: list[Server] = []

    def start(self) -> Server:
        """One more."""
        server = Server(self._ledgers[len(self.servers) % 2], self.clock)
        self.servers.append(server)
        return server

    async def wait(self, seconds: int, ticking: Callable[[], list[Server]] | None = None) -> None:
        """A tick of each server a second."""
        for _ in range(seconds):
            self.clock.now += 1
            for server in ticking() if ticking else self.servers:
                await server.releases.tick()

    async def rows(self, *columns) -> list:
        def read(connection: Connection) -> list:
            return [tuple(row) for row in connection.execute(select(*columns))]

        return await self._ledgers[0].read(read)

    async def check(self) -> list:
        """Each unit was counted once, and every verdict follows from the log; the buckets."""
        store = self.servers[0].store
        release = await store.get("r0")
        looks = await store.looks("r0")
        assert [look.seq for look in looks] == list(range(release.progress.buckets))
        *_, last = steps = list(replay(release.policy, [look.entry for look in looks]))
        assert all(step.is_same for step in steps)
        assert msgspec.json.encode(last.evidence) == msgspec.json.encode(release.evidence)
        buckets = [look.entry.bucket for look in looks]
        units = sorted((await self._ledgers[0].read(lambda connection: met(connection, "r0"))).units.tolist())
        assert len(set(units)) == len(units)
        firsts = await self.rows(EXPOSURE.c.unit, EXPOSURE.c.is_first)
        if not await self.rows(PART.c.number):
            assert sum(bucket.exposures.total for bucket in buckets if bucket.share) == len(units)
            told = Counter(kept_in(name)[:2] for (name,) in await self.rows(FIRST_EVENT.c.metric))
            for field in FIRSTS:
                firsts_in = [getattr(bucket, field).get("errors", Counts()) for bucket in buckets]
                assert sum(each.total for each in firsts_in) == told["errors", field]
        if release.asks_for_outcomes:
            assert sorted(unit for unit, is_first in firsts if is_first) == units
        else:
            assert firsts == []
        return buckets


@pytest.fixture(params=POSTGRESQL_MOSTLY)
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    url = migrated_ledger(request.param, tmp_path)
    async with await Ledger.open(url) as one, await Ledger.open(url) as other:
        yield Fleet((one, other))


async def two(fleet: Fleet, policy=LONG) -> tuple[Server, Server]:
    """Two that are both in a release, as a window begins."""
    one, other = fleet.start(), fleet.start()
    await one.propose(policy=policy)
    await fleet.wait(10)
    return one, other


async def test_a_window_is_one_bucket_and_a_unit_counts_once_whoever_meets_it(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = await two(fleet)
    users = [f"user-{number}" for number in range(30)]
    for _ in range(2):
        one.serve(users[:20], failing=users)
        other.serve(users[10:], failing=users)
        await fleet.wait(10)
    *_, first, second = await fleet.check()
    assert (first.seconds, first.requests.total, first.exposures.total) == (10, 40, 30)
    assert (second.seconds, second.requests.total, second.exposures.total) == (10, 40, 0)
    failed = len(set(await fleet.rows(FIRST_EVENT.c.unit)))
    assert first.events["errors"].canary == failed < first.raw["errors"].canary
    assert await fleet.rows(PART.c.number) == []
    assert caplog.text == ""


def total(places: tuple[Counts, ...]) -> list[int]:
    return [place.canary for place in places]


async def test_the_blocks_of_time_in_which_a_unit_fails_are_counted_over_all_servers_and_restarts(
    fleet: Fleet,
) -> None:
    # Nothing that it sees pauses it or rolls it back.
    soft = Metric("errors", "errors", "soft", promotion_margin=None)
    one, other = await two(fleet, msgspec.structs.replace(LONG, metrics=(soft,), alpha=1e-300))
    await fleet.wait(int(-fleet.clock.now % 60))
    users = [f"user-{number}" for number in range(40)]
    some = users[:20]
    for server, failing in (
        (one, users), (one, users), (other, users), (one, ()), (other, ()), (one, ()),  # one minute
        (other, some), (one, some), (other, ()), (one, ()), (other, ()), (other, ()),
    ):  # fmt: skip
        server.serve(users, failing=failing)
        await fleet.wait(10)
    fleet.servers.remove(one)
    one = fleet.start()  # it knows no more than the ledger does
    for _ in range(13):
        one.serve(users, failing=users)
        other.serve(users, failing=users)
        await fleet.wait(60)
    found = [total(bucket.blocks.get("errors", ())) for bucket in await fleet.check()]
    all_of_them, part = (
        sum(assign(split, {"header:x-user-id": user}).arm is Arm.CANARY for user in whose)
        for split in one.traffic.splits
        for whose in (users, some)
    )
    first, second, third, *later = [places for places in found if any(places)]
    assert (first, second) == ([all_of_them], [0, part])
    assert third == [0, all_of_them - part, part]
    assert [len(places) for places in later] == [*range(4, 14), 13, 13]
    assert later[-1] == [0] * 12 + [all_of_them]
    [carrier] = await one.store.carriers(await one.one())
    assert (carrier.metric, carrier.units) == ("errors", Counts(all_of_them))
    assert [each.blocks for each in carrier.most] == [15] * 5
    numbers = {f"{number % 2**64:016x}" for number in unit_numbers(some).tolist()}
    assert {each.unit for each in carrier.most} <= numbers
    assert [block.units for block in carrier.blocks] == [Counts(all_of_them)] * 3
    assert sorted(each.failed for each in carrier.servers)[-1] >= 12 * all_of_them
    said = list(told(carrier, lambda at: f"{at:.0f}"))
    assert said[0] == f"errors in this stage: {all_of_them} units of the canary, 0 of its control"
    assert f"{carrier.most[0].unit} (15)" in said[1] and said[1].startswith(
        "  units with the most blocks of 60 s"
    )
    assert f"{carrier.blocks[0].since:.0f} ({all_of_them} and 0 of the control)" in said[2]
    worst = carrier.servers[0]
    assert said[3] == "  servers whose canary had it most often: " + ", ".join(
        f"{each.server} ({each.failed} of {each.requests} requests)" for each in carrier.servers
    )
    assert 0 < worst.failed <= worst.requests


async def test_a_pause_by_the_judge_is_continued_by_any_server(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary gets nothing, then everything again; buckets of that time count for nothing."""
    one, other = await two(fleet)

    def fail(policy: Policy, evidence: Evidence, bucket: Bucket, *more: object) -> tuple[Evidence, Verdict]:
        evidence, verdict = judge(policy, evidence, bucket, *more)
        if bucket.raw.get("errors", Counts()).canary:
            changes = {"decision": Decision.PAUSE, "pause_seconds": 30.0, "reasons": ("it fails",)}
            verdict = msgspec.structs.replace(verdict, **changes)
        return evidence, verdict

    monkeypatch.setattr(releases, "judge", fail)
    users = [f"user-{number}" for number in range(30)]
    one.serve(users, failing=users)
    await fleet.wait(12)
    paused = await one.one()
    assert (paused.state, paused.weight, paused.reason) == (ReleaseState.PAUSED, 0.0, "it fails")
    assert paused.resumes_at is not None and paused.stage == 0
    assert [server.traffic.splits[0].weight for server in (one, other)] == [0.0, 0.0]
    assert {where.arm for where in arms(one, users)} == {Arm.STABLE}
    fleet.servers.remove(one)  # whoever paused it
    for _ in range(2):
        other.serve(users, failing=users)
        await fleet.wait(10)
    stood = (await other.one()).evidence
    await fleet.wait(12)
    resumed = await other.one()
    assert (resumed.state, resumed.weight, resumed.resumes_at) == (ReleaseState.RUNNING, 0.5, None)
    assert stood.units == paused.evidence.units and stood.stage_seconds == paused.evidence.stage_seconds
    other.serve(users)
    await fleet.wait(40)
    assert (await other.one()).state is ReleaseState.RUNNING
    changes = await fleet.rows(AUDIT.c.action, AUDIT.c.after)
    assert [change for change in changes if change[0] in ("release.paused", "release.resumed")] == [
        ("release.paused", "PAUSED 0 %"),
        ("release.resumed", "RUNNING 50 %"),
    ]


def arms(server: Server, users: list[str]) -> list[Assignment]:
    split = server.traffic.splits[0]
    return [assign(split, {"header:x-user-id": user, "request": "1"}) for user in users]


async def test_a_unit_is_met_once_in_each_stage_whoever_meets_it(fleet: Fleet) -> None:
    one, other = await two(fleet, msgspec.structs.replace(LONG, stages=(Stage(0.2, 1000), Stage(0.5, 1000))))
    users = [f"user-{number}" for number in range(30)]
    one.serve(users[:20])
    other.serve(users[10:])
    await fleet.wait(10)
    await one.store.wish("r0", "promote", ADA, "", fleet.clock.now)
    await fleet.wait(10)
    for _ in range(2):
        one.serve(users[:20])
        other.serve(users[5:])
        await fleet.wait(10)
    fleet.servers.remove(one)
    one = fleet.start()
    await fleet.wait(10)
    one.serve([*users, "eve"])
    await fleet.wait(60)
    buckets = await fleet.check()
    met_in = Counter()
    for bucket in buckets:
        met_in[bucket.stage] += bucket.met.total
    assert met_in == {0: 30, 1: 31}
    assert sum(bucket.exposures.total for bucket in buckets) == 31


async def test_a_unit_that_waits_to_be_told_while_another_server_tells_it_counts_once(fleet: Fleet) -> None:
    one, other = await two(fleet)
    other.serve(["ada"])
    one.serve(["bob"])
    fleet.clock.now += 10
    await other.releases.tick()
    # In the next window, before the last one is handed in and the other heard; so many are looked up at once.
    one.serve(["ada", *(f"user-{number}" for number in range(1100))])
    await one.releases.tick()
    await fleet.wait(20)
    buckets = await fleet.check()
    assert sum(bucket.exposures.total for bucket in buckets) == 1102


async def test_who_moves_to_the_canary_on_another_server_was_met_before(fleet: Fleet) -> None:
    sales = Metric("sales", "outcome", "soft", promotion_margin=None)
    stages = (Stage(0.1, 1000), Stage(0.9, 1000))
    grows = msgspec.structs.replace(LONG, stages=stages, metrics=(*LONG.metrics, sales))
    one, other = await two(fleet, grows)
    users = [f"user-{number}" for number in range(40)]
    one.serve(users)
    await one.store.wish("r0", "promote", ADA, "", fleet.clock.now)
    await fleet.wait(10)
    other.serve(users)
    await fleet.wait(10)
    buckets = await fleet.check()
    assert sum(bucket.exposures.total for bucket in buckets) == 40
    moved = await fleet.rows(EXPOSURE.c.arm, EXPOSURE.c.is_first)
    assert 20 < moved.count(("canary", 0)) == len(moved) - 40 - moved.count(("baseline", 0))


async def test_who_moves_to_the_canary_on_the_same_server_was_met_before(fleet: Fleet) -> None:
    sales = Metric("sales", "outcome", "soft", promotion_margin=None)  # for which arms are remembered
    stages = (Stage(0.1, 1000), Stage(0.5, 1000))
    one, _ = await two(fleet, msgspec.structs.replace(LONG, stages=stages, metrics=(*LONG.metrics, sales)))
    users = [f"u{number}" for number in range(200)]
    one.serve(users)
    await fleet.wait(10)
    await one.store.wish("r0", "promote", ADA, "", fleet.clock.now)
    await fleet.wait(10)
    one.serve(users)
    await fleet.wait(11)
    buckets = [bucket for bucket in await fleet.check() if bucket.requests.total]
    assert [bucket.stage for bucket in buckets] == [0, 1]
    assert buckets[0].requests.canary < buckets[1].requests.canary
    assert buckets[1].exposures == Counts()


async def test_a_server_whose_clock_is_wrong_is_named_and_the_release_held(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    fleet.clock.now = 10 * (time.time() // 10) + 5  # by which the database goes, too
    one, other = await two(fleet)
    other.store._clock = lambda: time.time() - 100
    for _ in range(3):
        one.serve(["ada", "bo"])
        other.serve(["cy"])
        await fleet.wait(10)
    looks = await one.store.looks("r0")
    said = looks[-1].entry.facts.clocks
    assert said.startswith("the clock of server ") and said.endswith(" seconds behind")
    assert said.count("server") == 1
    lines = [record.getMessage() for record in caplog.records if "clock" in record.getMessage()]
    assert len(lines) == len(fleet.servers)  # each says it once
    assert all(line.startswith("release r0: the clock of server") for line in lines)
    other.store._clock = None
    await fleet.wait(20)
    assert (await one.store.looks("r0"))[-1].entry.facts.clocks == ""


async def test_a_server_that_dies_is_waited_for_three_windows_and_what_it_told_counts(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = await two(fleet)
    buckets = len(await fleet.check())
    for _ in range(5):
        one.serve(["ada"])
        await fleet.wait(10, lambda: [one])
        buckets_then = len(await fleet.check())
        assert buckets_then - buckets in (0, 3, 4, 5)
    assert buckets_then - buckets == 5
    assert caplog.text.count(f"continues without {other.releases._server}") == 1
    told = {each.server: fleet.clock.now - each.until for each in (await one.store.witnesses(["r0"]))["r0"]}
    assert told[one.releases._server] < 10 < 50 <= told[other.releases._server]


async def test_what_a_server_tells_after_its_window_was_judged_counts_all_the_same(fleet: Fleet) -> None:
    one, other = await two(fleet)
    other.serve(["ada", "bob"])
    for _ in range(5):
        one.serve(["cy"])
        await fleet.wait(10, lambda: [one])
    before = await fleet.check()
    assert sum(bucket.exposures.total for bucket in before) == 1
    for expected in (3, 4):
        other.serve(["dee"])
        one.serve(["cy"])
        await fleet.wait(10)
        after = await fleet.check()
        assert sum(bucket.exposures.total for bucket in after) == expected
    assert all(bucket.seconds == 10 for bucket in after[1:])
    assert len(after) == len(before) + 2


async def test_while_the_ledger_is_away_nobody_is_taken_for_dead(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = await two(fleet)
    before = await fleet.check()

    async def fails(*_: object) -> None:
        raise LedgerFailed("no connection")

    with monkeypatch.context() as patched:
        for name in ("hand_in", "picture"):
            patched.setattr(ReleaseStore, name, fails)
        for window in range(6):
            for number, server in enumerate((one, other)):
                server.serve([f"user-{window}-{number}", "ada"])
            for _ in range(10):
                fleet.clock.now += 1
                for server in (one, other):
                    with pytest.raises(LedgerFailed):
                        await server.releases.tick()
    assert one.traffic.splits  # it goes on serving as before
    await fleet.wait(1)
    after = (await fleet.check())[len(before) :]
    assert [(bucket.seconds, bucket.requests.total) for bucket in after] == [(10, 4)] * 6
    assert sum(bucket.exposures.total for bucket in after) == 13
    assert "continues without" not in caplog.text


async def test_while_the_ledger_hangs_nobody_is_taken_for_dead(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = await two(fleet)
    before = len(await fleet.check())
    hand_in = ReleaseStore.hand_in

    async def hangs(store: ReleaseStore, *what: object) -> DistinctUnits:
        await asyncio.sleep(0)  # all have asked by now
        fleet.clock.now += 20
        return await hand_in(store, *what)

    with monkeypatch.context() as patched:
        patched.setattr(ReleaseStore, "hand_in", hangs)
        other.serve(["ada"])
        fleet.clock.now += 10
        await asyncio.gather(one.releases.tick(), other.releases.tick())
    await fleet.wait(10)
    after = (await fleet.check())[before:]
    assert after[0].requests.total == 1 and sum(bucket.seconds for bucket in after) == 60
    assert "continues without" not in caplog.text


async def test_who_leaves_is_not_waited_for(fleet: Fleet, caplog: pytest.LogCaptureFixture) -> None:
    one, other = await two(fleet)
    one.serve(["ada"])
    other.serve(["ada", "bob"])
    await fleet.wait(4)
    await other.releases.tick(is_last=False)
    other.collector.flush()
    await other.releases.tick(is_last=True)
    await fleet.wait(6, lambda: [one])
    assert (await fleet.check())[-1].exposures.total == 2
    one.serve(["cy"])
    fleet.clock.now += 3
    one.collector.flush()
    await one.releases.tick(is_last=True)  # the last one judges what there is
    last = (await fleet.check())[-1]
    assert (last.seconds, last.exposures.total) == (3, 1)
    assert caplog.text == ""


async def test_a_wish_is_done_once_by_whoever_comes_first(fleet: Fleet) -> None:
    one, other = await two(fleet, POLICY)
    wish = await one.store.wish("r0", "promote", ADA, "", fleet.clock.now)
    stale = await other.store.picture()
    await one.releases.tick()
    (release,) = stale.releases
    after = await other.releases._step(release, stale, fleet.clock.now)
    assert (after.stage, after.state) == (1, ReleaseState.RUNNING)
    assert await one.store.answer(wish) == ""
    await other.releases.tick()
    assert [server.traffic.splits[0].weight for server in (one, other)] == [0.5, 0.5]


async def test_a_wish_that_changes_nothing_is_answered_once(fleet: Fleet) -> None:
    one, other = await two(fleet, POLICY)
    await one.store.wish("r0", "resume", ADA, "", fleet.clock.now)
    stale = await other.store.picture()
    step = await other.releases._next(stale.releases[0], stale, fleet.clock.now)
    await one.releases.tick()
    with pytest.raises(Conflict, match="another server"):
        await other.store.commit(step, fleet.clock.now)


async def test_a_rollback_by_one_server_is_everybodys(fleet: Fleet) -> None:
    one, other = await two(fleet)
    sick = [f"user-{number}" for number in range(500)]
    for window in range(20):
        some = sick[25 * window : 25 * window + 25]
        one.serve(some, failing=sick)
        other.serve(some[:10], failing=sick)
        await fleet.wait(10)
        if not one.traffic.splits:
            break
    await fleet.wait(1)
    release = await one.one()
    assert (release.state, other.traffic.splits) == (ReleaseState.ROLLED_BACK, ())
    assert await fleet.rows(PART.c.number) == await fleet.rows(WITNESS.c.server) == []
    other.serve(["late"])
    await fleet.wait(20)
    assert await one.one() == release
    await fleet.check()


async def test_what_may_have_been_written_is_handed_in_again_and_counts_once(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A connection breaks while it commits: nobody knows whether it did."""
    one, other = await two(fleet)
    hand_in, broken = ReleaseStore.hand_in, []

    async def breaks(store: ReleaseStore, *what: object) -> DistinctUnits:
        others = await hand_in(store, *what)
        if len(broken) < 2:
            broken.append(what)
            raise LedgerFailed("the connection is gone")
        return others

    monkeypatch.setattr(ReleaseStore, "hand_in", breaks)
    one.serve(["ada", "bob"])
    other.serve(["cy"])
    for _ in range(12):
        fleet.clock.now += 1
        for server in (one, other):
            try:
                await server.releases.tick()
            except LedgerFailed:
                server.serve(["dee"])
    assert len(broken) == 2
    await fleet.wait(10)
    *_, first, second = await fleet.check()
    assert (first.requests.total, first.exposures.total) == (3, 3)
    assert (second.requests.total, second.exposures.total) == (2, 1)


@pytest.mark.parametrize("seed", range(3))
async def test_servers_come_and_go_and_nothing_counts_twice(fleet: Fleet, seed: int) -> None:
    chance = random.Random(seed)
    await fleet.start().propose(policy=LONG)
    await fleet.wait(2)
    living, asked = set(fleet.servers), 0
    for _ in range(60):
        fleet.clock.now += chance.choice([1, 3, 5])
        if chance.random() < 0.1 and len(living) > 1:
            living.remove(chance.choice(sorted(living, key=id)))  # killed
        if chance.random() < 0.1 and len(living) < 4:
            living.add(fleet.start())
        for server in living:
            users = [f"user-{chance.randrange(300)}" for _ in range(chance.randrange(20))]
            asked += len(users) if server.traffic.splits else 0
            server.serve(users, failing=[f"user-{number}" for number in range(3)])
        awake = [server for server in living if chance.random() < 0.8]
        await asyncio.gather(*(server.releases.tick() for server in awake))
    await fleet.wait(70, lambda: sorted(living, key=id))
    buckets = await fleet.check()
    assert asked / 2 < sum(bucket.requests.total for bucket in buckets) <= asked
    assert await fleet.rows(PART.c.number) == []
    starts = [bucket.start for bucket in buckets]
    assert starts == sorted(set(starts))
    assert sum(bucket.seconds for bucket in buckets) <= fleet.clock.now - 1_000_000 + 0.1


async def test_a_server_of_other_models_keeps_out_of_it_and_does_what_is_wished(
    fleet: Fleet, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = fleet.start(), fleet.start()
    other.traffic.unknown = {"fraud"}
    other.traffic.lacks["fraud", "2"] = "version 2 of 'fraud' is not there"
    await one.propose(policy=LONG)
    await fleet.wait(10)
    assert (other.traffic.splits, other.collector._followed) == ((), {})
    one.serve(["ada"])
    fleet.clock.now += 10
    await one.releases.tick()
    assert (await fleet.check())[-1].requests.total == 1  # nobody else is waited for
    for _ in range(40):
        await fleet.wait(1)
        fleet.clock.now += 59
    assert (await one.one()).state is ReleaseState.RUNNING
    await one.store.wish("r0", "abort", ADA, "", fleet.clock.now)
    await fleet.wait(1, lambda: [other])
    assert (await one.one()).state is ReleaseState.ROLLED_BACK


async def test_a_model_that_no_server_has_any_more_is_rolled_back(fleet: Fleet) -> None:
    one, other = await two(fleet)
    for server in (one, other):
        server.traffic.unknown = {"fraud"}
        server.traffic.lacks["fraud", "2"] = "version 2 of 'fraud' is not there"
    for _ in range(40):
        await fleet.wait(1)
        fleet.clock.now += 59
    assert (await one.one()).state is ReleaseState.ROLLED_BACK


async def test_a_server_that_has_its_model_again_goes_on_with_what_it_told(fleet: Fleet) -> None:
    other = (await two(fleet))[1]
    other.serve(["ada"])
    await fleet.wait(10)
    other.traffic.unknown = {"fraud"}
    await fleet.wait(5)
    other.traffic.unknown = set()
    await fleet.wait(15)
    other.serve(["ada", "bob"])
    await fleet.wait(50)
    buckets = await fleet.check()
    assert sum(bucket.requests.total for bucket in buckets) == 3


async def test_trouble_with_one_release_keeps_no_rollback_of_another_waiting(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = fleet.start()
    await one.propose("fraud", policy=LONG)
    await fleet.wait(1)
    await one.propose("score", policy=LONG)

    async def fails(*_: object) -> None:
        raise LedgerFailed("the disk is full")

    await one.store.wish("r0", "abort", ADA, "", fleet.clock.now)
    monkeypatch.setattr(ReleaseStore, "attend", fails)
    with pytest.raises(LedgerFailed):
        await one.releases.tick()
    assert one.traffic.splits == ()


async def test_an_outcome_counts_once_whoever_met_its_unit_and_whoever_is_told(fleet: Fleet) -> None:
    sale = Metric("sale", "outcome", "soft", promotion_margin=None, matures_minutes=1)
    one, other = await two(fleet, msgspec.structs.replace(LONG, metrics=(*LONG.metrics, sale)))
    users = [f"user-{number}" for number in range(30)]
    one.serve(users[:20])
    other.serve(users[10:])
    await fleet.wait(10)
    for server, some in ((one, users[:15]), (other, users[5:])):
        await server.outcomes.accept([Outcome(f"of {user}", "sale", unit=user, value=1) for user in some])
    await fleet.wait(80, lambda: [fleet.servers[int(fleet.clock.now) % 2]])  # each is behind by turns
    await one.outcomes.accept([Outcome("all", "sale")])
    await fleet.wait(20)
    matured = [each for bucket in await fleet.check() for each in bucket.outcomes]
    assert sum(each.units.total for each in matured) == sum(each.events.total for each in matured) == 30


async def test_servers_that_wait_for_different_things_do_not_contradict_each_other_for_ever(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = fleet.start(), fleet.start()
    one.traffic.lacks["fraud", "2"] = "version 2 is LOADING"
    other.traffic.lacks["fraud", "2"] = "version 2 is DOWNLOADING"
    await one.propose(policy=LONG)

    async def fails(*_: object) -> None:
        raise LedgerFailed("the disk is full")

    with monkeypatch.context() as patched, pytest.raises(LedgerFailed):
        patched.setattr(ReleaseStore, "commit", fails)
        await one.releases.tick()
    await fleet.wait(10)
    waiting = await one.one()
    assert (waiting.revision, waiting.waits_for) == (2, "version 2 is DOWNLOADING")
    one.traffic.lacks["fraud", "2"] = "version 2 is WARMING"
    await fleet.wait(10)
    assert (await one.one()).waits_for == "version 2 is WARMING"
    one.traffic.lacks.clear()
    await fleet.wait(1)
    assert (await one.one()).state is ReleaseState.RUNNING
    assert (len(one.traffic.splits), other.traffic.splits) == (1, ())

"""Outcomes that come late, twice, in any order, or corrected: a unit counts once, by the last word on it."""

import asyncio
import math
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from databases import SQLITE_MOSTLY, migrated_ledger
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from releasing import Clock, address
from soaking import size
from sqlalchemy import func, insert, select

from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import EXPOSURE, OUTCOME, PREDICTION
from salver.features.registry.records import Actor
from salver.features.releases.judge import procedure
from salver.features.releases.judge.policy import Metric, Policy
from salver.features.releases.judge.record import Release, proposed
from salver.features.releases.outcomes import MOST, OutcomeStore
from salver.features.releases.release_rows import Step
from salver.features.releases.release_store import ReleaseStore
from salver.words.errors import InvalidInput
from salver.words.releases import Counts, Outcome, OutcomeCohort, Receipt, ReleaseState, Sums, unit_number

NEVER = math.inf
#: A sale within a minute of the exposure.
SALE = Metric("sale", "outcome", "soft", worse="less", matures_minutes=1)
ARMS = ("canary", "baseline", "stable")


class Shop:
    """A ledger with one release, and what people do there."""

    def __init__(self, ledger: Ledger, clock: Clock, release: Release) -> None:
        self.ledger, self.clock, self.release = ledger, clock, release
        self.store = OutcomeStore(ledger, clock)

    @classmethod
    async def open(cls, ledger: Ledger, *metrics: Metric) -> "Shop":
        clock = Clock()
        release = proposed("r0", "fraud", ("1", "2"), Policy(metrics=metrics or (SALE,)), clock.now)
        await ReleaseStore(ledger).propose(release, Actor("ada"))
        return cls(ledger, clock, release)

    async def meets(
        self, unit: str, arm: str = "canary", *, ago: float = 0, share: float = 0.25, first: int = 1
    ) -> None:
        row = {"release": "r0", "unit": unit_number(unit), "arm": arm, "stage": 0, "propensity": share}
        row |= {"time": self.clock.now - ago, "is_first": first}
        await self.ledger.write(lambda c: c.execute(insert(EXPOSURE), row) and None)

    async def asks(self, request: str, arm: str = "canary", *, unit: str = "", ago: float = 0) -> None:
        row = {"release": "r0", "request": unit_number(request), "arm": arm, "stage": 0, "propensity": 0.25}
        row |= {"unit": unit_number(unit or request), "time": self.clock.now - ago}
        await self.ledger.write(lambda c: c.execute(insert(PREDICTION), row) and None)

    async def post(self, *outcomes: Outcome) -> Receipt:
        return await self.store.accept(outcomes)

    async def harvest(self, written: float = NEVER) -> tuple[OutcomeCohort, ...]:
        found = await self.store.matured(self.release, self.clock.now, written)
        self.release = procedure.harvested(self.release, found.watermarks)
        return found.outcomes

    async def late(self) -> float:
        return (await self.store.matured(self.release, self.clock.now, NEVER)).late_seconds


@pytest.fixture(params=SQLITE_MOSTLY)
async def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Ledger]:
    async with await Ledger.open(migrated_ledger(request.param, tmp_path)) as ledger:
        yield ledger


@pytest.fixture
async def shop(ledger: Ledger) -> Shop:
    return await Shop.open(ledger)


def sale(id: str, unit: str = "", value: float | None = 1.0, **more: object) -> Outcome:
    return msgspec.convert({"id": id, "name": "sale", "unit": unit, "value": value, **more}, Outcome)


def complete(id: str) -> Outcome:
    """Up to now all has been posted."""
    return Outcome(id, "sale")


async def test_units_count_when_their_time_is_over_in_the_arm_that_they_met_first(shop: Shop) -> None:
    for unit, arm in (("ada", "canary"), ("bo", "baseline"), ("cy", "stable"), ("di", "stable")):
        await shop.meets(unit, arm)
    await shop.meets("bo", "canary", first=0)
    await shop.post(sale("1", "ada"), sale("2", "bo"), sale("3", "di", 0.0))
    assert await shop.harvest() == ()
    shop.clock.now += 60
    await shop.post(complete("all"))
    expected = OutcomeCohort("sale", shop.clock.now - 60, 0.25, Counts(1, 1, 2), Counts(1, 1, 0))
    assert await shop.harvest() == (expected,)
    shop.clock.now += 60
    await shop.post(sale("late", "cy"), complete("all again"))
    assert await shop.harvest() == (), "each once"


async def test_shares_are_kept_apart(shop: Shop) -> None:
    await shop.meets("ada", share=0.1)
    shop.clock.now += 5
    await shop.meets("bo", share=0.5)
    shop.clock.now += 100
    await shop.post(sale("1", "bo", time=shop.clock.now - 90), complete("all"))
    first, second = await shop.harvest()
    assert (first.share, first.exposed, first.units, first.events) == (
        0.1,
        shop.clock.now - 105,
        Counts(1),
        Counts(),
    )
    assert (second.share, second.units, second.events) == (0.5, Counts(1), Counts(1))


async def test_outcomes_find_a_unit_by_the_ids_of_its_requests(shop: Shop) -> None:
    await shop.meets("ada")
    await shop.asks("q1", unit="ada")
    await shop.asks("q2", "stable")
    await shop.asks("q3", "baseline")
    receipt = await shop.post(
        sale("1", request="q1"), sale("2", request="q2"), sale("3", request="q9"), sale("4", "zoe")
    )
    assert receipt == Receipt(4, 0, ("4", "3"), ())
    shop.clock.now += 60
    await shop.post(complete("all"))
    matured = await shop.harvest()
    units = [(m.units, m.events) for m in matured]
    assert units == [(Counts(1, 1, 1), Counts(1, 0, 1))]


async def test_the_time_of_a_unit_is_its_own(shop: Shop) -> None:
    """And not that of whoever was met when its outcome came."""
    await shop.meets("ada")
    await shop.asks("q1", unit="ada")
    shop.clock.now += 200
    await shop.meets("bo")
    await shop.post(sale("1", request="q1"))
    shop.clock.now += 60
    await shop.post(complete("all"))
    assert [(m.units, m.events) for m in await shop.harvest()] == [(Counts(2), Counts())]


async def test_an_outcome_may_come_before_its_unit_is_known(shop: Shop) -> None:
    assert (await shop.post(sale("1", "ada"))).unmatched == ("1",)
    await shop.meets("ada", ago=1)
    shop.clock.now += 60
    await shop.post(complete("all"))
    assert [m.events for m in await shop.harvest()] == [Counts(1)]


async def test_what_happened_too_late_or_before_does_not_count(shop: Shop) -> None:
    await shop.meets("ada")
    await shop.meets("bo")
    now = shop.clock.now
    shop.clock.now += 500
    await shop.post(sale("1", "ada", time=now + 61), sale("2", "bo", time=now - 100), complete("all"))
    assert [m.events for m in await shop.harvest()] == [Counts()]


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [({}, 2), ({"least": 5}, 1), ({"most": 0}, 2), ({"least": 0, "most": 3}, 2), ({"least": 6}, 0)],
)
async def test_which_values_are_events(ledger: Ledger, bounds: dict[str, float], expected: int) -> None:
    shop = await Shop.open(ledger, msgspec.structs.replace(SALE, **bounds))
    for number, value in enumerate((-1.0, 0.0, 3.0, 5.0)):
        await shop.meets(f"u{number}")
        await shop.post(sale(f"{number}", f"u{number}", value))
    shop.clock.now += 60
    await shop.post(complete("all"))
    assert [m.events.canary for m in await shop.harvest()] == [expected]


async def test_nobody_is_counted_of_whom_more_may_be_posted_or_written(shop: Shop) -> None:
    await shop.meets("ada")
    began = shop.clock.now
    shop.clock.now += 70
    assert (await shop.harvest(), await shop.late()) == ((), 10.0)
    await shop.post(sale("1", "bo", time=began + 59))
    assert (await shop.harvest(), await shop.late()) == ((), 10.0)
    await shop.post(sale("2", "bo", time=began + 65))
    assert (await shop.harvest(written=began), await shop.late()) == ((), 5.0)
    assert [m.units for m in await shop.harvest(written=began + 1)] == [Counts(1)]


async def test_a_release_that_nobody_has_met_waits_for_no_outcomes(shop: Shop) -> None:
    shop.clock.now += 10_000
    found = await shop.store.matured(shop.release, shop.clock.now, NEVER)
    assert (found.outcomes, dict(found.watermarks), found.late_seconds) == ((), {}, 0.0)


REVENUE = Metric("sale", "mean", "soft", worse="less", matures_minutes=1, cap=10.0)


async def test_what_units_bring_is_added_up_capped_and_held_beside_their_past(ledger: Ledger) -> None:
    """Of each unit all outcomes of its time, by its name and by its requests, as they were corrected."""
    shop = await Shop.open(ledger, REVENUE)
    day, now = 86_400, shop.clock.now
    for unit, arm in (
        ("ada", "canary"),
        ("bo", "canary"),
        ("cy", "baseline"),
        ("di", "stable"),
        ("ed", "stable"),
    ):
        await shop.meets(unit, arm)
    await shop.meets("cy", "canary", first=0)
    await shop.asks("q1", unit="ada")
    await shop.asks("q2", "stable")
    await shop.asks("q3", "canary")
    shop.clock.now += 60
    await shop.post(
        sale("1", "ada", 3.0, time=now + 5),
        sale("2", request="q1", value=1.5, time=now + 6),
        sale("3", "ada", 100.0, time=now - 20 * day),  # too long ago
        sale("4", "ada", 2.0, time=now - 10 * day),
        sale("5", "bo", 4.0, time=now + 1),
        sale("6", "bo", 8.0, time=now + 2),
        sale("7", "bo", 30.0, time=now - day),
        sale("8", "cy", -50.0, time=now + 1),
        sale("9", "di", 7.0, time=now + 1),
        sale("10", "di", 2.0, time=now + 1, supersedes="9"),
        sale("11", request="q2", value=5.0, time=now + 1),
        sale("12", "ed", 6.0, time=now + 61),  # too late
        complete("all"),
    )
    [matured] = await shop.harvest()
    assert (matured.units, matured.events) == (Counts(3, 1, 3), Counts(2, 1, 2))
    canary, control = matured.sums
    assert canary == Sums(3, 2, 14.5, 4.5**2 + 100, 4.5**3 + 1000, 2.0 + 10, 4.0 + 100, 4.5 * 2 + 100)
    assert control == Sums(4, 3, -10.0 + 2 + 5, 100 + 4 + 25.0, -1000 + 8 + 125.0)


async def test_the_largest_values_that_there_are_add_up(ledger: Ledger) -> None:
    shop = await Shop.open(ledger, REVENUE)
    now = shop.clock.now
    await shop.meets("ada")
    await shop.asks("q", unit="ada")
    shop.clock.now += 60
    for value in (1.7e308, 1e100):
        receipt = await shop.post(
            *(sale(f"{value} {n}", "ada", value, time=now + n) for n in (1, 2)),
            *(sale(f"{value} {n}", request="q", value=-value, time=now + n) for n in (3, 4, 5)),
        )
    assert receipt.accepted == 5
    await shop.post(complete("all"))
    [matured] = await shop.harvest()
    assert matured.sums[0].total == -10.0


async def test_a_mean_keeps_shares_and_cohorts_apart_and_counts_each_once(shop: Shop, ledger: Ledger) -> None:
    shop.release = msgspec.structs.replace(shop.release, policy=Policy(metrics=(REVENUE,)))
    await shop.meets("ada", share=0.1)
    await shop.meets("bo", "stable", share=0.5)
    await shop.post(sale("1", "bo", 2.0), sale("2", "ada", 4.0))
    shop.clock.now += 60
    await shop.post(complete("all"))
    first, second = await shop.harvest()
    assert [(m.share, m.sums[0].total, m.sums[1].total) for m in (first, second)] == [
        (0.1, 4.0, 0.0),
        (0.5, 0.0, 2.0),
    ]
    await shop.meets("cy")
    shop.clock.now += 60
    await shop.post(complete("more"))
    [third] = await shop.harvest()
    assert (third.units, third.sums) == (Counts(1), (Sums(1), Sums()))


async def test_the_same_again_is_a_duplicate_and_something_else_is_not(shop: Shop) -> None:
    first = sale("1", "ada", time=shop.clock.now - 5, source="till")
    assert await shop.post(first, first) == Receipt(1, 1, ("1",))
    shop.clock.now += 100
    untimed = msgspec.structs.replace(first, time=None)
    assert await shop.post(first, untimed, sale("2", "ada")) == Receipt(1, 2, ("2",))
    for change, what in (
        ({"value": 2.0}, "value"),
        ({"unit": "bo"}, "key"),
        ({"name": "click"}, "name"),
        ({"unit": "", "request": "ada"}, "key_kind"),
        ({"time": 5.0}, "event_time"),
        ({"source": "shop"}, "source"),
        ({"supersedes": "2"}, "supersedes"),
    ):
        other = msgspec.structs.replace(first, **change)
        (refused,) = (await shop.post(other)).refused
        assert (refused.id, refused.why.rpartition(" ")[2]) == ("1", what)


async def test_a_correction_takes_the_place_of_what_it_corrects_in_any_order(shop: Shop) -> None:
    for unit in ("ada", "bo", "cy"):
        await shop.meets(unit)
    await shop.post(sale("a1", "ada"), sale("a2", "ada", 0.0, supersedes="a1"))
    await shop.post(sale("b2", "bo", 1.0, supersedes="b1"))
    await shop.post(sale("b1", "bo", 0.0))
    await shop.post(
        sale("c3", "cy", supersedes="c2"), sale("c2", "cy", 0.0, supersedes="c1"), sale("c1", "cy")
    )
    shop.clock.now += 60
    await shop.post(complete("all"))
    assert [m.events for m in await shop.harvest()] == [Counts(2)]


async def test_wrong_corrections_are_refused_by_themselves(shop: Shop) -> None:
    receipt = await shop.post(
        sale("1", "ada"),
        sale("2", "ada", supersedes="1"),
        sale("3", "ada", supersedes="1"),
        sale("4", "bo", supersedes="2"),
        sale("5", "ada", supersedes="5"),
        sale("6", "bo"),
    )
    assert (receipt.accepted, receipt.duplicates) == (3, 0)
    assert {refused.id: refused.why for refused in receipt.refused} == {
        "3": "'1' is corrected by '2' already: correct that one",
        "4": "it corrects '2', which is of another name, request or unit",
        "5": "it corrects itself",
    }
    assert (await shop.post(sale("7", "ada", supersedes="1"))).accepted == 0


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"id": ""}, "no id"),
        ({"name": ""}, "no name"),
        ({"name": "n" * 257}, "more than 256 letters"),
        ({"id": "a\0b"}, "letter 0"),
        ({"request": "q"}, "name one of them"),
        ({"unit": ""}, "neither a request nor a unit"),
        ({"unit": "", "value": None, "supersedes": "0"}, "not corrected"),
        ({"value": None}, "no value"),
        ({"value": math.nan}, "not finite"),
        ({"value": math.inf}, "not finite"),
        ({"value": -1.1e100}, "beyond 1e+100"),
        ({"time": 1_700_000_000_000.0}, "Unix seconds"),
        ({"time": -1.0}, "Unix seconds"),
        ({"time": math.nan}, "Unix seconds"),
    ],
)
async def test_what_is_no_outcome_is_refused_and_its_neighbours_are_not(
    tmp_path: Path, change: dict[str, object], why: str
) -> None:
    async with await Ledger.open(address(tmp_path)) as ledger:
        shop = await Shop.open(ledger)
        wrong = msgspec.structs.replace(sale("1", "ada"), **change)
        receipt = await shop.post(wrong, sale("2", "bo"))
        assert receipt.accepted == 1 and why in receipt.refused[0].why


async def test_a_batch_is_bounded_and_may_be_as_large_as_that(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match=f"Post at most {MOST}"):
        await shop.store.accept([sale("1", "ada")] * (MOST + 1))
    await shop.meets("u17")
    many = [sale(f"o{number}", f"u{number}") for number in range(MOST)]
    receipt = await shop.store.accept(many)
    assert (receipt.accepted, len(receipt.unmatched)) == (MOST, MOST - 1)
    assert (await shop.store.accept(many)).duplicates == MOST


async def test_a_release_that_is_over_is_not_asked_whom_it_met(shop: Shop) -> None:
    await shop.meets("ada")
    over = procedure.rolled_back(shop.release, 1.0, "enough")
    assert over.state is ReleaseState.ROLLED_BACK
    await ReleaseStore(shop.ledger).commit(Step(shop.release, over), 1.0)
    assert (await shop.post(sale("1", "ada"))).unmatched == ("1",)


async def test_one_that_is_promoted_and_watched_is_asked_whom_it_met(shop: Shop) -> None:
    await shop.meets("ada")
    good = procedure.promoted(shop.release, 1.0, "it is good")
    over = procedure.watched(good, 2.0, "enough")
    for before, after, unmatched in ((shop.release, good, ()), (good, over, ("2",))):
        store = ReleaseStore(shop.ledger)
        before = msgspec.structs.replace(before, revision=(await store.get("r0")).revision)
        await store.commit(Step(before, after), 1.0)
        assert (await shop.post(sale(str(1 + bool(unmatched)), "ada"))).unmatched == unmatched


WRITER = """
import asyncio, sys, time
from salver.features.ledger.ledger import Ledger
from salver.words.releases import Outcome
from salver.features.releases.outcomes import OutcomeStore

async def main():
    async with await Ledger.open(sys.argv[1]) as ledger:
        store = OutcomeStore(ledger, time.time)
        number = int(sys.argv[2])
        while True:
            some = [Outcome(str(n), "sale", unit=f"u{n}", value=1.0) for n in range(number, number + 7)]
            receipt = await store.accept(some)
            number += 7
            print(number, receipt.accepted, receipt.duplicates, flush=True)

asyncio.run(main())
"""


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_nothing_that_was_acknowledged_is_lost_when_the_process_is_killed(
    kind: str, tmp_path: Path
) -> None:
    url = migrated_ledger(kind, tmp_path)
    acknowledged = 0
    for round in range(3):
        command = [sys.executable, "-c", WRITER, url, str(max(0, acknowledged - 14))]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:  # noqa: ASYNC220
            assert writer.stdout is not None
            for _ in range(3 + 5 * round):
                acknowledged = max(acknowledged, int(writer.stdout.readline().split()[0]))
            writer.send_signal(signal.SIGKILL)
            for line in writer.stdout:
                acknowledged = max(acknowledged, int((line.split() or ["0"])[0]))
    async with await Ledger.open(url) as ledger:
        ids = set(await ledger.read(lambda c: c.scalars(select(OUTCOME.c.id)).all()))
        count = await ledger.read(lambda c: c.scalar(select(func.count()).select_from(OUTCOME)))
    assert {str(number) for number in range(acknowledged)} <= ids
    assert count == len(ids) and count % 7 == 0, "each once, and batches are whole"


UNITS = st.sampled_from(["ada", "bo", "cy", "di"])
VALUES = st.sampled_from([0.0, 1.0])


class AnyOrder(RuleBasedStateMachine):
    """Against a list of all that was done, looked through from the beginning for each harvest."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.runner = asyncio.Runner()
        self.met: dict[str, tuple[float, str]] = {}
        self.requests: dict[str, tuple[float, str, str]] = {}
        self.posted: dict[str, Outcome] = {}
        self.newest = -math.inf
        self.counted: list[str] = []
        self.through = -math.inf

    @initialize()
    def opens(self) -> None:
        self.ledger = self.runner.run(Ledger.open(address(Path(self.folder.name))))
        self.shop = self.runner.run(Shop.open(self.ledger))

    def teardown(self) -> None:
        self.runner.run(self.ledger.close())
        self.runner.close()
        self.folder.cleanup()

    @rule(unit=UNITS, arm=st.sampled_from(ARMS))
    def meets(self, unit: str, arm: str) -> None:
        if unit not in self.met:
            self.runner.run(self.shop.meets(unit, arm))
            self.met[unit] = self.shop.clock.now, arm

    @rule(unit=st.one_of(st.just(""), UNITS), arm=st.sampled_from(ARMS))
    def asks(self, unit: str, arm: str) -> None:
        if unit and unit not in self.met:
            return
        request = f"q{len(self.requests)}"
        self.runner.run(self.shop.asks(request, arm, unit=unit))
        self.requests[request] = self.shop.clock.now, arm, unit

    @rule(seconds=st.sampled_from([1, 20, 59, 61]))
    def waits(self, seconds: int) -> None:
        self.shop.clock.now += seconds

    def _post(self, outcome: Outcome) -> None:
        outcome = msgspec.structs.replace(outcome, id=f"o{len(self.posted)}")
        assert self.runner.run(self.shop.post(outcome)).accepted == 1
        self.posted[outcome.id] = outcome
        self.newest = max(self.newest, outcome.time or 0)

    @rule(unit=UNITS, value=VALUES, ago=st.sampled_from([0, 30, 90]))
    def is_posted(self, unit: str, value: float, ago: int) -> None:
        self._post(sale("", unit, value, time=self.shop.clock.now - ago))

    @precondition(lambda self: self.requests)
    @rule(data=st.data(), value=VALUES, ago=st.sampled_from([0, 30, 90]))
    def is_posted_of_a_request(self, data: st.DataObject, value: float, ago: int) -> None:
        request = data.draw(st.sampled_from(sorted(self.requests)))
        self._post(sale("", "", value, request=request, time=self.shop.clock.now - ago))

    @rule()
    def all_is_posted(self) -> None:
        self._post(Outcome("", "sale", time=self.shop.clock.now))

    @precondition(lambda self: self._current())
    @rule(data=st.data(), value=VALUES)
    def is_corrected(self, data: st.DataObject, value: float) -> None:
        old = data.draw(st.sampled_from(self._current()))
        self._post(msgspec.structs.replace(old, value=value, supersedes=old.id))

    @precondition(lambda self: self.posted)
    @rule(data=st.data())
    def comes_again(self, data: st.DataObject) -> None:
        old = self.posted[data.draw(st.sampled_from(sorted(self.posted)))]
        receipt = self.runner.run(self.shop.post(old, old))
        assert (receipt.accepted, receipt.duplicates) == (0, 2)

    @rule()
    def is_harvested(self) -> None:
        after, through = self.through, min(self.shop.clock.now, self.newest) - 60
        units, events = dict.fromkeys(ARMS, 0), dict.fromkeys(ARMS, 0)
        alone = {r: (time, arm) for r, (time, arm, unit) in self.requests.items() if not unit}
        for name, (time, arm) in {**self.met, **alone}.items():
            if after < time <= through:
                self.counted.append(name)
                units[arm] += 1
                events[arm] += self._has_sale(name, time)
        self.through = max(after, through)
        expected = [(Counts(*units.values()), Counts(*events.values()))] if any(units.values()) else []
        found = [(m.units, m.events) for m in self.runner.run(self.shop.harvest())]
        assert found == expected
        assert len(set(self.counted)) == len(self.counted)

    def _current(self) -> list[Outcome]:
        old = {outcome.supersedes for outcome in self.posted.values()}
        return [one for id, one in self.posted.items() if id not in old and one.value is not None]

    def _has_sale(self, name: str, since: float) -> bool:
        own = {name, *(request for request, (_, _, unit) in self.requests.items() if unit == name)}
        return any(
            one.value == 1.0 and since - 60 <= (one.time or 0) <= since + 60
            for one in self._current()
            if (one.unit or one.request) in own
        )


TestAnyOrder = pytest.mark.soak(AnyOrder.TestCase)
TestAnyOrder.settings = settings(
    max_examples=size(25, 8), stateful_step_count=30, suppress_health_check=list(HealthCheck)
)

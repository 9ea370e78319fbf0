"""The next step of the budget: tables, and any interleaving of what can happen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from salver.features.memory.policy import next_step
from salver.features.memory.pools import committed, counted
from salver.features.memory.shares import Tenant, taken
from salver.features.memory.snapshot import (
    Admit,
    Demand,
    Evict,
    GrowthDemand,
    Place,
    Refuse,
    Snapshot,
    Step,
    Version,
)
from salver.words.messages import ModelId


def version(name: str, place: Place = "resident", need: int = 10, **more: object) -> Version:
    peak = more.pop("peak", need)
    return Version(ModelId(name, "1"), place, need, peak, **more)  # type: ignore[arg-type]


def step(
    *versions: Version,
    demanded: str = "",
    since: float = 1000.0,
    hoped: str = "",
    used: int = 0,
    budget: int = 100,
) -> Step | None:
    return next_step(
        Snapshot(
            1000.0,
            100,
            20,
            used,
            versions,
            [Demand(ModelId(name, "1"), since) for name in demanded],
            [each for name in hoped for each in versions if each.id.name == name],
            {"s": Tenant(share=40, ceiling=60)},
            [each for each in versions if each.place == "absent" and each.chance],
        )
    )


def admit(name: str) -> Admit:
    return Admit(ModelId(name, "1"))


def evict(name: str, why: str) -> Evict:
    return Evict(ModelId(name, "1"), why)  # type: ignore[arg-type]


A, B = version("a", "absent"), version("b", "absent")
CASES: dict[str, tuple[Step | None, Step | None]] = {
    "nothing to do": (step(version("a")), None),
    "there is room": (step(A, demanded="a"), admit("a")),
    "room is for the peak": (step(version("a", "absent", 10, peak=81), demanded="a"),
                             Refuse(ModelId("a", "1"), 1, [])),
    "measured use counts": (step(A, version("b", need=10), demanded="a", used=95), evict("b", "room")),
    "a load counts with its peak": (step(A, version("b", "loading", 10, peak=75), demanded="a"), None),
    "an estimate is believed of what loads alone": (
        step(version("a", "absent", 60, is_estimated=True), demanded="a"), admit("a")),
    "and beside others four times as much is kept free": (
        step(version("a", "absent", 19, is_estimated=True), version("b", "loading", 5), demanded="a"), None),
    "also by those others": (
        step(version("a", "absent", 5), version("b", "loading", 19, is_estimated=True), demanded="a"), None),
    "a small file may need much memory: a sixteenth of the budget is kept free": (
        step(version("a", "absent", 1, is_estimated=True), version("b", "loading", 75), demanded="a"), None),
    "others make room for it": (
        step(version("a", "absent", 1, is_guess=True), version("b", need=75), demanded="a"),
        evict("b", "room"),
    ),
    "not for one that nobody waits for": (
        step(version("a", "absent", 1, is_guess=True), version("b", need=75), hoped="a"), admit("a")),
    "and where none can, its estimate will do": (
        step(version("a", "absent", 1, is_guess=True), version("b", need=75, is_held=True), demanded="a"),
        admit("a"),
    ),
    "what an earlier version took is believed": (
        step(version("a", "absent", 1, is_estimated=True), version("b", need=75), demanded="a"), admit("a")),
    "not for one that was measured": (
        step(version("a", "absent", 1), version("b", "loading", 75), demanded="a"), admit("a")),
    "where there is much room, loads go side by side": (
        step(version("a", "absent", 5, is_estimated=True), version("b", "loading"), demanded="a"), admit("a"),
    ),
    "eager ones likewise": (
        step(version("a", "absent", 19, is_estimated=True), version("b", "loading", 5), hoped="a"), None),
    "what leaves counts until it is gone": (step(A, version("b", "leaving", 75), demanded="a"), None),
    "the least value makes room": (
        step(version("a", "absent", 30), version("b", need=40, rate=5.0), version("c", need=40, rate=1.0),
             demanded="a"),
        evict("c", "room"),
    ),
    "what takes long to load is worth more": (
        step(version("a", "absent", 30), version("b", need=40, rate=1.0, reload_s=9.0),
             version("c", need=40, rate=1.0), demanded="a"),
        evict("c", "room"),
    ),
    "what is small is worth more": (
        step(version("a", "absent", 30), version("b", need=50, rate=1.0), version("c", need=30, rate=1.0),
             demanded="a"),
        evict("b", "room"),
    ),
    "priority weighs": (
        step(version("a", "absent", 30), version("b", need=40, rate=1.0, priority=9.0),
             version("c", need=40, rate=2.0), demanded="a"),
        evict("c", "room"),
    ),
    "of equal values, the one asked longest ago": (
        step(version("a", "absent", 30), version("b", need=40, last=9.0), version("c", need=40, last=5.0),
             demanded="a"),
        evict("c", "room"),
    ),
    "a held version stays": (
        step(version("a", "absent", 30), version("b", need=60, is_held=True), demanded="a"), None),
    "a young version stays": (
        step(version("a", "absent", 30), version("b", need=60, since=999.5, min_s=1.0), demanded="a"), None),
    "a pinned version stays": (
        step(version("a", "absent", 30), version("b", need=60, is_pinned=True), demanded="a"),
        Refuse(ModelId("a", "1"), 10, [ModelId("b", "1")]),
    ),
    "what fits goes first": (
        step(version("a", "absent", 70), version("b", "absent", 10), version("c", need=20), demanded="ab"),
        admit("b"),
    ),
    "but not for ever": (
        step(version("a", "absent", 70), version("b", "absent", 10), version("c", need=20), demanded="ab",
             since=998.9),
        evict("c", "room"),
    ),
    "what failed to load makes no room": (
        step(version("a", "absent", 30), version("b", need=0), version("c", need=60, rate=9.0), demanded="a"),
        evict("c", "room"),
    ),
    "frameworks that stay behind leave no room": (
        step(A, demanded="a", used=95), Refuse(ModelId("a", "1"), 5, [])),
    "idle for too long": (step(version("a", last=900.0, idle_s=99.0)), evict("a", "idle")),
    "not idle for long enough": (step(version("a", last=900.0, idle_s=101.0)), None),
    "idle and held": (step(version("a", last=900.0, idle_s=99.0, is_held=True)), None),
    "more is used than allowed": (step(version("a", rate=1.0), version("b"), used=101), evict("b", "over")),
    "one thing after another": (step(version("a"), version("b", "leaving"), used=101), None),
    "hope makes no room": (step(version("a", "absent", 30), version("b", need=60), hoped="a"), None),
    "hope is fulfilled where there is room": (step(A, version("b", need=60), hoped="a"), admit("a")),
    "others never push a tenant below its share": (
        step(version("a", "absent", 30), version("b", need=40, tenant="s"), version("c", need=40, rate=9.0),
             demanded="a"),
        evict("c", "room"),
    ),
    "a tenant's own demand may": (
        step(version("a", "absent", 30, tenant="s"), version("b", need=40, tenant="s"),
             version("c", need=40, rate=9.0), demanded="a"),
        evict("b", "room"),
    ),
    "what is beyond the share may go": (
        step(version("a", "absent", 30), version("b", need=40, tenant="s"),
             version("c", need=20, tenant="s", rate=2.0), version("d", need=20, rate=9.0), demanded="a"),
        evict("c", "room"),
    ),
    "a model's own share": (
        step(version("a", "absent", 30), version("b", need=40, share=40), version("c", need=40, rate=9.0),
             demanded="a"),
        evict("c", "room"),
    ),
    "a model that has outgrown its share": (
        step(version("a", "absent", 30), version("b", need=40, share=39), version("c", need=40, rate=9.0),
             demanded="a"),
        evict("b", "room"),
    ),
    "shares that leave no room": (
        step(version("a", "absent", 45), version("b", need=40, tenant="s"), version("c", need=40, rate=9.0),
             demanded="a"),
        Refuse(ModelId("a", "1"), 5, [ModelId("b", "1")]),
    ),
    "a tenant at its ceiling makes room itself": (
        step(version("a", "absent", 20, tenant="s"), version("b", need=50, tenant="s", rate=9.0),
             demanded="a"),
        evict("b", "room"),
    ),
    "a tenant beyond its ceiling": (
        step(version("a", "absent", 30, tenant="s"), version("b", need=35, tenant="s", is_pinned=True),
             demanded="a"),
        Refuse(ModelId("a", "1"), 5, [ModelId("b", "1")], "s"),
    ),
    "a tenant at its ceiling does not keep others waiting": (
        step(version("a", "absent", 20, tenant="s"), version("b", need=50, tenant="s", is_held=True),
             version("c", "absent", 10), demanded="ac", since=0.0),
        admit("c"),
    ),
    "hope ends at the ceiling, too": (
        step(version("a", "absent", 20, tenant="s"), version("b", need=50, tenant="s"), hoped="a"), None),
    "of a leak, those beyond their shares pay first": (
        step(version("b", need=40, tenant="s"), version("c", need=40, rate=9.0), used=101),
        evict("c", "over"),
    ),
    "likely, and there is room": (step(version("a", "absent", chance=0.5)), Admit(ModelId("a", "1"), 0.2)),
    "not likely enough to load it": (step(version("a", "absent", chance=0.2)), None),
    "likelier than what makes room": (
        step(version("a", "absent", 30, chance=0.9), version("b", need=60, chance=0.5)),
        Evict(ModelId("b", "1"), "ahead", 0.5)),
    "not likely enough to make room": (
        step(version("a", "absent", 30, chance=0.9), version("b", need=60, chance=0.75)), None),
    "no load ahead pushes another tenant below its share": (
        step(version("a", "absent", 30, chance=0.9), version("b", need=60, tenant="s")), None),
    "demand before what is likely": (
        step(version("a", "absent", chance=0.9), B, version("c", need=70), demanded="b"), admit("b")),
    "demand before hope": (step(A, B, version("c", need=70), demanded="b", hoped="a"), admit("b")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_next_step(case: str) -> None:
    found, wanted = CASES[case]
    assert found == wanted


BUDGET, BASE = 1000, 100
TENANTS = {"s": Tenant(share=300, ceiling=600), "t": Tenant(ceiling=400)}


class Interleavings(RuleBasedStateMachine):
    """Loads, failures, cancelled demands, evictions, leases, growth and leaks in any order.

    Needs are estimated too high or exactly. A version grows up to what was promised for it; what leaks beyond
    is allowed to exceed the budget until the server has made room.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.versions: dict[ModelId, Version] = {}
        self.true: dict[ModelId, int] = {}  # bytes that a version really takes
        self.loaded: dict[ModelId, int] = {}  # those that it took when it was loaded
        self.room: dict[ModelId, int] = {}  # by which it may grow
        self.demanded: list[ModelId] = []
        self.refused = 0
        self.leaked: dict[ModelId, int] = {}
        self.rest = 0  # bytes that belong to nobody

    @initialize(rest=st.sampled_from([0, 50]))
    def begin(self, rest: int) -> None:
        self.rest = rest

    def used(self) -> int:
        """What is really used, with every load at its peak."""
        total = BASE + self.rest
        for id, each in self.versions.items():
            if each.place == "loading":
                total += each.peak
            elif each.place != "absent":
                total += self.true[id]
        return total

    def measured(self) -> int:
        """What can be measured: loads may not have grown yet."""
        return (
            BASE
            + self.rest
            + sum(
                self.true[id] for id, each in self.versions.items() if each.place in ("resident", "leaving")
            )
        )

    def move(self, id: ModelId, place: Place) -> None:
        self.versions[id] = replace(self.versions[id], place=place, since=self.now, last=self.now)

    @rule(
        need=st.integers(1, 900), slack=st.floats(0, 1), peak=st.floats(1, 2.5), pinned=st.integers(0, 9),
        tenant=st.sampled_from(["", "s", "t"]), share=st.sampled_from([0, 0, 200]), estimated=st.booleans(),
        least=st.sampled_from([1.0, 0.5]),
    )  # fmt: skip
    @precondition(lambda self: len(self.versions) < 8)
    def arrive(
        self, need: int, slack: float, peak: float, pinned: int, tenant: str, share: int, estimated: bool,
        least: float,
    ) -> None:  # fmt: skip
        id = ModelId(f"m{len(self.versions)}", "1")
        self.true[id] = max(1, int(need * (1 - slack)))
        self.room[id] = need - self.true[id]
        self.versions[id] = Version(
            id, "absent", need, int(need * peak), is_pinned=pinned == 0, min_s=5.0, idle_s=60.0,
            tenant=tenant, share=share, chance=slack, is_estimated=estimated, least=max(1, int(need * least)),
        )  # fmt: skip

    @rule(data=st.data())
    @precondition(lambda self: any(each.place == "absent" for each in self.versions.values()))
    def demand(self, data: st.DataObject) -> None:
        absent = [id for id, each in self.versions.items() if each.place == "absent"]
        id = data.draw(st.sampled_from(absent))
        if id not in self.demanded:
            self.demanded.append(id)

    @rule(data=st.data(), outcome=st.sampled_from(["loaded", "failed"]))
    @precondition(lambda self: any(each.place == "loading" for each in self.versions.values()))
    def end_of_load(self, data: st.DataObject, outcome: str) -> None:
        loading = [id for id, each in self.versions.items() if each.place == "loading"]
        id = data.draw(st.sampled_from(loading))
        self.move(id, "resident" if outcome == "loaded" else "absent")
        if outcome == "loaded":  # what is measured, and what it may grow by
            self.loaded[id] = self.true[id]
            need, due = self.true[id] + self.room[id], self.room[id]
            self.versions[id] = replace(self.versions[id], need=need, due=due, is_estimated=False)

    @rule(data=st.data(), share=st.floats(0, 1))
    @precondition(lambda self: any(each.place == "resident" for each in self.versions.values()))
    def grow(self, data: st.DataObject, share: float) -> None:
        id = data.draw(
            st.sampled_from([id for id, each in self.versions.items() if each.place == "resident"])
        )
        size = int(self.versions[id].due * share)
        self.true[id] += size
        self.versions[id] = replace(self.versions[id], due=self.versions[id].due - size)

    @rule(data=st.data(), share=st.floats(0, 1))
    @precondition(lambda self: any(each.place == "resident" for each in self.versions.values()))
    def allow(self, data: st.DataObject, share: float) -> None:
        """Let a version do larger runs, with what is left."""
        up = [each for each in self.versions.values() if each.place == "resident"]
        chosen = data.draw(st.sampled_from(up))
        left = BUDGET - committed(self.snapshot())
        if (ceiling := TENANTS.get(chosen.tenant, Tenant()).ceiling) > 0:
            left = min(left, ceiling - taken(counted(self.snapshot()))[chosen.tenant])
        more = max(0, int(left * share))
        self.versions[chosen.id] = replace(chosen, need=chosen.need + more, due=chosen.due + more)

    @rule(data=st.data(), size=st.integers(1, 300))
    @precondition(lambda self: any(each.place == "resident" for each in self.versions.values()))
    def leak(self, data: st.DataObject, size: int) -> None:
        id = data.draw(
            st.sampled_from([id for id, each in self.versions.items() if each.place == "resident"])
        )
        self.true[id] += size
        beyond = max(0, self.true[id] - self.versions[id].need)
        self.leaked[id] = self.leaked.get(id, 0) + beyond
        need = self.versions[id].need + beyond
        due = min(self.versions[id].due, need - self.true[id])  # the leak has taken some of it
        self.versions[id] = replace(self.versions[id], need=need, due=due)

    @rule(data=st.data())
    @precondition(lambda self: self.demanded)
    def cancel(self, data: st.DataObject) -> None:
        self.demanded.remove(data.draw(st.sampled_from(self.demanded)))

    @rule(data=st.data())
    @precondition(lambda self: any(each.place == "leaving" for each in self.versions.values()))
    def gone(self, data: st.DataObject) -> None:
        leaving = [id for id, each in self.versions.items() if each.place == "leaving"]
        id = data.draw(st.sampled_from(leaving))
        self.move(id, "absent")
        self.leaked.pop(id, None)
        self.true[id] = self.loaded.pop(id)  # what it has grown by and leaked is given back, too
        self.versions[id] = replace(self.versions[id], need=self.true[id] + self.room[id])

    @rule(data=st.data(), held=st.booleans())
    @precondition(lambda self: any(each.place == "resident" for each in self.versions.values()))
    def lease(self, data: st.DataObject, held: bool) -> None:
        resident = [id for id, each in self.versions.items() if each.place == "resident"]
        id = data.draw(st.sampled_from(resident))
        self.versions[id] = replace(self.versions[id], is_held=held, last=self.now)

    @rule(seconds=st.floats(0.1, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    def snapshot(self) -> Snapshot:
        demands = [Demand(id, self.now - 1.0) for id in self.demanded]
        likely = [each for each in self.versions.values() if each.place == "absent"]
        wish = max(
            (GrowthDemand(id, 100) for id, each in self.versions.items() if each.place == "resident"),
            default=None,
        )
        return Snapshot(
            self.now, BUDGET, BASE, self.measured(), list(self.versions.values()), demands,
            tenants=TENANTS, likely=likely, wish=wish,
        )  # fmt: skip

    @rule()
    def advance(self) -> None:
        for _ in range(100):
            match next_step(self.snapshot()):
                case None:
                    return
                case Admit(id, _, is_tight):
                    assert self.versions[id].place == "absent"
                    if is_tight:
                        self.shrink(id)
                    self.demanded = [each for each in self.demanded if each != id]
                    self.move(id, "loading")
                case Evict(id, why):
                    before = self.versions[id]
                    assert before.place == "resident" and not before.is_held and not before.is_pinned
                    if why == "room":
                        self.check_shares(before)
                    self.move(id, "leaving")
                case Refuse(id, short, _):
                    assert short > 0
                    self.demanded.remove(id)
                    self.refused += 1
        raise AssertionError("the steps do not end")

    def shrink(self, id: ModelId) -> None:
        """Load a version for small runs only."""
        least = self.versions[id].least
        self.versions[id] = replace(self.versions[id], need=least, peak=least)
        self.true[id] = min(self.true[id], least)
        self.room[id] = least - self.true[id]

    def held(self, tenant: str) -> int:
        up = [(id, each) for id, each in self.versions.items() if each.tenant == tenant]
        return sum(
            each.peak if each.place == "loading" else self.true[id]
            for id, each in up
            if each.place != "absent"
        )

    def check_shares(self, going: Version) -> None:
        """Nobody else's demand pushes a tenant, or a model with a share, below it."""
        for_whom = {id.name for id in self.demanded}, {self.versions[id].tenant for id in self.demanded}
        assert going.need > going.share or going.id.name in for_whom[0]
        if going.tenant and going.tenant not in for_whom[1]:
            up = [each for each in self.versions.values() if each.tenant == going.tenant]
            left = sum(each.need for each in up if each.place not in ("absent", "leaving")) - going.need
            assert left >= TENANTS[going.tenant].share

    @invariant()
    def the_budget_is_kept(self) -> None:
        assert self.used() - sum(self.leaked.values()) <= BUDGET
        for name, tenant in TENANTS.items():
            leaked = sum(size for id, size in self.leaked.items() if self.versions[id].tenant == name)
            assert self.held(name) - leaked <= tenant.ceiling

    @rule()
    def a_leak_is_mended(self) -> None:
        """Once nothing comes or goes, all that may go has gone, or the server is within its budget."""
        self.advance()
        if any(each.place in ("loading", "leaving") for each in self.versions.values()):
            return
        free = [
            e for e in self.versions.values() if e.place == "resident" and not e.is_pinned and not e.is_held
        ]
        assert self.measured() <= BUDGET or all(not e.need or self.now - e.since < e.min_s for e in free)


TestInterleavings = Interleavings.TestCase


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans()), min_size=1, max_size=6), st.integers(1, 1000))
def test_once_all_is_quiet_each_demand_is_met_or_refused(others: list[tuple[int, bool]], need: int) -> None:
    """Nobody waits for something that cannot come about."""
    wanted = version("w", "absent", need)
    rows = [version(f"v{n}", "resident", size, is_pinned=pinned) for n, (size, pinned) in enumerate(others)]
    while True:
        used = BASE + sum(row.need for row in rows)
        found = next_step(Snapshot(0.0, BUDGET, BASE, used, [*rows, wanted], [Demand(wanted.id, 0.0)]))
        if not isinstance(found, Evict):
            break
        rows = [row for row in rows if row.id != found.id]
    pinned = sum(size for size, is_pinned in others if is_pinned)
    if need + pinned + BASE <= BUDGET or need + used <= BUDGET:
        assert found == Admit(wanted.id)
    else:
        assert isinstance(found, Refuse)

"""The next step of the budget: tables, and any interleaving of what can happen."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

from salver.features.memory.policy import (
    Admit,
    Demand,
    Evict,
    Place,
    Refuse,
    Snapshot,
    Step,
    Version,
    next_step,
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
            [ModelId(name, "1") for name in hoped],
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
    "demand before hope": (step(A, B, version("c", need=70), demanded="b", hoped="a"), admit("b")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_next_step(case: str) -> None:
    found, wanted = CASES[case]
    assert found == wanted


BUDGET, BASE = 1000, 100


class Interleavings(RuleBasedStateMachine):
    """Loads, failures, evictions and leases in any order; needs are estimated too high or exactly."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.versions: dict[ModelId, Version] = {}
        self.true: dict[ModelId, int] = {}  # bytes that a version really takes
        self.demanded: list[ModelId] = []
        self.refused = 0

    def used(self) -> int:
        """What is really used, with every load at its peak."""
        total = BASE
        for id, each in self.versions.items():
            if each.place == "loading":
                total += each.peak
            elif each.place != "absent":
                total += self.true[id]
        return total

    def measured(self) -> int:
        """What can be measured: loads may not have grown yet."""
        return BASE + sum(
            self.true[id] for id, each in self.versions.items() if each.place in ("resident", "leaving")
        )

    def move(self, id: ModelId, place: Place) -> None:
        self.versions[id] = replace(self.versions[id], place=place, since=self.now, last=self.now)

    @rule(need=st.integers(1, 900), slack=st.floats(0, 1), peak=st.floats(1, 2.5), pinned=st.integers(0, 9))
    @precondition(lambda self: len(self.versions) < 8)
    def arrive(self, need: int, slack: float, peak: float, pinned: int) -> None:
        id = ModelId(f"m{len(self.versions)}", "1")
        self.true[id] = max(1, int(need * (1 - slack)))
        self.versions[id] = Version(
            id, "absent", need, int(need * peak), is_pinned=pinned == 0, min_s=5.0, idle_s=60.0
        )

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
        if outcome == "loaded":
            self.versions[id] = replace(self.versions[id], need=self.true[id])

    @rule(data=st.data())
    @precondition(lambda self: any(each.place == "leaving" for each in self.versions.values()))
    def gone(self, data: st.DataObject) -> None:
        leaving = [id for id, each in self.versions.items() if each.place == "leaving"]
        self.move(data.draw(st.sampled_from(leaving)), "absent")

    @rule(data=st.data(), held=st.booleans())
    @precondition(lambda self: any(each.place == "resident" for each in self.versions.values()))
    def lease(self, data: st.DataObject, held: bool) -> None:
        resident = [id for id, each in self.versions.items() if each.place == "resident"]
        id = data.draw(st.sampled_from(resident))
        self.versions[id] = replace(self.versions[id], is_held=held, last=self.now)

    @rule(seconds=st.floats(0.1, 100))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def advance(self) -> None:
        for _ in range(100):
            demands = [Demand(id, self.now - 1.0) for id in self.demanded]
            snapshot = Snapshot(
                self.now, BUDGET, BASE, self.measured(), list(self.versions.values()), demands
            )
            match next_step(snapshot):
                case None:
                    return
                case Admit(id):
                    assert self.versions[id].place == "absent"
                    self.demanded.remove(id)
                    self.move(id, "loading")
                case Evict(id, _):
                    before = self.versions[id]
                    assert before.place == "resident" and not before.is_held and not before.is_pinned
                    self.move(id, "leaving")
                case Refuse(id, short, _):
                    assert short > 0
                    self.demanded.remove(id)
                    self.refused += 1
        raise AssertionError("the steps do not end")

    @invariant()
    def the_budget_is_kept(self) -> None:
        assert self.used() <= BUDGET


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

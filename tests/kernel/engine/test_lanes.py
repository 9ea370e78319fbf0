"""Lanes: nobody is lost, doubled, reordered or starved, and shares are fair to one batch."""

import gc
import math
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.kernel.engine.batcher import Batcher
from salver.kernel.engine.lanes import BatchBuilder, Lane, RoundRobin, Strict, newest
from salver.kernel.engine.rules import Choice, QueueView, Window
from salver.kernel.engine.waiting import BULK, URGENT, Batch, QueuedRequest
from salver.words.artifacts import Batching, Fairness, ModelConfig, Priorities
from salver.words.errors import Overloaded


def waiting(
    payload: object = None,
    rows: int = 1,
    key: str = "a",
    arrived: float = 0.0,
    *,
    tenant: str = "",
    level: int = 1,
    sender: object = None,
    deadline: float | None = None,
) -> QueuedRequest:
    made = QueuedRequest(payload, rows, key, arrived, deadline, sender)
    made.tenant, made.level = tenant, level
    return made


def queue(
    levels: int = 1,
    mode: str = "strict",
    weights: tuple[float, ...] = (),
    max_passes: int = 16,
    *,
    max_rows: int = 8,
    max_queue: int = 1 << 30,
    fairness: Fairness | None = None,
) -> Batcher:
    return Batcher(
        ModelConfig(
            batching=Batching(max_rows=max_rows, max_queue=max_queue),
            priorities=Priorities(levels=levels, mode=mode, weights=weights, max_passes=max_passes),  # type: ignore[arg-type]
            fairness=fairness or Fairness(),
        )
    )


class GivesUp:
    """Drains, and gives up whom it is told to."""

    def __init__(self, policy: Batching) -> None:
        self._window = Window(policy)
        self.due, self.arrived, self.ran = self._window.due, self._window.arrived, self._window.ran
        self.victims: set[int] = set()

    def choose(self, line: QueueView, now: float) -> Choice:
        for victim in [w for w in line.newest() if w.payload in self.victims]:
            line.give_up(victim)
        return self._window.choose(line, now) if line.rows else Choice(0, "drain")


OFFERS = st.tuples(
    st.just("offer"),
    st.integers(1, 6),  # rows
    st.sampled_from("ab"),  # key
    st.sampled_from(["", "x", "y", "z"]),  # tenant
    st.sampled_from([URGENT, 1, 1, 2, 3, BULK]),
    st.sampled_from([None, 1]),  # sender
    st.sampled_from([None, 0.0, 2.0, 50.0]),  # seconds until the deadline
)
STEPS = st.lists(
    st.one_of(
        OFFERS,
        OFFERS,
        st.tuples(st.just("take"), st.floats(0.0, 3.0), st.booleans()),
        st.tuples(st.just("discard"), st.integers(0, 60)),
        st.tuples(st.just("give up"), st.integers(0, 60)),
    ),
    max_size=80,
)
CONFIGS = st.builds(
    ModelConfig,
    batching=st.builds(Batching, max_rows=st.integers(1, 8), max_queue=st.integers(1, 20)),
    priorities=st.builds(
        Priorities,
        levels=st.integers(1, 3),
        mode=st.sampled_from(["strict", "weighted"]),
        max_passes=st.integers(0, 3),
    ),
    fairness=st.builds(
        Fairness,
        enabled=st.booleans(),
        weights=st.sampled_from([{}, {"x": 3.0, "y": 0.3}]),
        max_tenants=st.integers(1, 3),
    ),
)


class Log:
    """Drives a batcher and checks it at every step."""

    def __init__(self, config: ModelConfig) -> None:
        self.config = config
        self.rule = GivesUp(config.batching)
        self.batcher = Batcher(config, self.rule)
        self.now = 0.0
        self.inside: dict[int, QueuedRequest] = {}
        self.made = 0
        self.fates: Counter[int] = Counter()
        self.order: list[QueuedRequest] = []

    def offer(
        self, rows: int, key: str, tenant: str, level: int, sender: object, patience: float | None
    ) -> None:
        deadline = None if patience is None else self.now + patience
        item = waiting(
            self.made, rows, key, self.now, tenant=tenant, level=level, sender=sender, deadline=deadline
        )
        self.made += 1
        lowest = max((w.level for w in self.inside.values()), default=URGENT)
        try:
            evicted = self.batcher.offer(item)
        except Overloaded:
            assert self.batcher.depth == self.config.batching.max_queue
            assert lowest <= item.level  # nobody less important was there to make room
            assert not item.is_live or item.lane is None
            return
        self.inside[item.payload] = item
        if evicted is not None:
            assert evicted.level == max(lowest, item.level)
            self.leave([evicted])

    def take(self, spare: bool) -> None:
        urgent = any(w.level == URGENT for w in self.inside.values())
        normal = any(URGENT < w.level < BULK for w in self.inside.values())
        batch = self.batcher.take(self.now, spare)
        self.check(batch)
        self.leave(batch.members + batch.expired + batch.given_up)
        self.order += batch.members
        services = {min(w.level, 1) if w.level < BULK else BULK for w in batch.members}
        assert len(services) <= 1  # a batch is of one service
        if urgent and services:
            assert services != {BULK} or not normal
        if services == {BULK}:
            assert spare and not normal

    def check(self, batch: Batch) -> None:
        assert batch.rows == sum(w.rows for w in batch.members)
        assert batch.rows <= self.config.batching.max_rows or len(batch.members) == 1
        assert len({w.key for w in batch.members}) <= 1
        assert all(w.deadline is None or w.deadline > self.now for w in batch.members)
        assert all(w.deadline is not None and w.deadline <= self.now for w in batch.expired)
        assert all(w.payload in self.rule.victims for w in batch.given_up)

    def leave(self, gone: list[QueuedRequest]) -> None:
        for item in gone:
            assert not item.is_live
            self.fates[item.payload] += 1
            del self.inside[item.payload]

    def recount(self) -> None:
        inside = self.inside.values()
        batcher = self.batcher
        assert {id(w) for w in batcher} == {id(w) for w in inside}
        assert batcher.depth == len(inside)
        assert batcher.rows_waiting == sum(w.rows for w in inside)
        assert batcher.rows == sum(w.rows for w in inside if URGENT < w.level < BULK)
        assert all(w.is_live for w in inside)
        assert (batcher.due(self.now) is None) == (not inside)
        head = batcher.head()
        normal = [w for w in inside if URGENT < w.level < BULK]
        assert (head is None) == (not normal)
        if head is not None:
            assert head.arrived == min(w.arrived for w in normal)
        assert [w.arrived for w in batcher.newest()] == sorted((w.arrived for w in normal), reverse=True)


@settings(max_examples=250)
@given(CONFIGS, STEPS)
def test_every_request_leaves_exactly_once_in_order_and_is_counted(
    config: ModelConfig,
    steps: list[tuple],  # type: ignore[type-arg]
) -> None:
    log = Log(config)
    for step in steps:
        if step[0] == "offer":
            log.offer(*step[1:])
        elif step[0] == "take":
            log.now += step[1]
            log.take(step[2])
        elif step[0] == "give up":
            log.rule.victims.add(step[1])
        elif step[1] in log.inside:
            item = log.inside[step[1]]
            assert log.batcher.discard(item)
            assert not log.batcher.discard(item)
            log.leave([item])
        log.recount()
    for _ in range(log.made + 1):
        log.take(spare=True)
        log.recount()
    assert not log.inside
    assert set(log.fates.values()) <= {1}
    for tenant in ("", "x", "y", "z"):
        for level in (URGENT, 1, 2, 3, BULK):
            # Levels beyond the last one and tenants beyond the most may share a lane: their order holds too.
            mine = [w for w in log.order if (w.tenant, w.level) == (tenant, level)]
            assert in_order([w for w in mine if w.sender == 1])
            for key in "ab":
                assert in_order([w for w in mine if w.key == key and w.sender is None])


def in_order(items: list[QueuedRequest]) -> bool:
    payloads = [w.payload for w in items]
    return payloads == sorted(payloads)


# -- deficit round robin ----------------------------------------------------------------------------


def round_robin(weights: dict[str, float], most: int = 1 << 30) -> RoundRobin:
    return RoundRobin(lambda name: Lane(), lambda name: weights.get(str(name), 1.0), most)


def put(flow: RoundRobin, item: QueuedRequest) -> None:
    lane = flow.child(item.tenant)
    assert isinstance(lane, Lane)
    lane.add(item)


def fill(flow: RoundRobin | Strict, limit: int) -> list[QueuedRequest]:
    batch = BatchBuilder(0.0, limit)
    flow.fill(batch, math.inf)
    return batch.members


BACKLOGS = st.lists(
    st.lists(st.integers(1, 8), min_size=3, max_size=12), min_size=2, max_size=4
)  # sizes, repeated


@settings(max_examples=40)
@given(BACKLOGS, st.integers(8, 32), st.randoms(use_true_random=False))
def test_who_always_waits_lags_by_one_batch_and_one_quantum_at_most(
    sizes: list[list[int]], limit: int, random: "object"
) -> None:
    """The first tenant always has work; the others come and go as they like."""
    flow = round_robin({})
    for rows in sizes[0] * 100:
        put(flow, waiting(rows=rows, tenant="0"))
    served: Counter[str] = Counter()
    total = 0
    while flow.child("0").depth and total < 600:
        for index, more in enumerate(sizes[1:], 1):
            for _ in range(random.randrange(4) * 4):  # type: ignore[attr-defined]
                put(flow, waiting(rows=more[total % len(more)], tenant=str(index)))
        for member in fill(flow, limit):
            served[member.tenant] += member.rows
            total += member.rows
        assert served["0"] >= total / len(sizes) - (limit + 1)


@settings(max_examples=60)
@given(BACKLOGS, st.lists(st.sampled_from([0.25, 1.0, 2.0, 5.0]), min_size=4, max_size=4), st.integers(8, 32))
def test_shares_are_by_weight_up_to_a_round_and_a_request(
    sizes: list[list[int]], weights: list[float], limit: int
) -> None:
    """|S_f / w_f - S_g / w_g| is bounded whatever the requests' sizes (Shreedhar and Varghese, 1996)."""
    names = {str(i): weights[i] for i in range(len(sizes))}
    flow = round_robin(names)
    for index, rows in enumerate(sizes):
        for size in rows * 30:
            put(flow, waiting(rows=size, tenant=str(index)))
    served: Counter[str] = Counter()
    bound = 2 + max(map(max, sizes)) / min(names.values())
    while all(flow.child(name).depth for name in names):
        for member in fill(flow, limit):
            served[member.tenant] += member.rows
            normalised = [served[name] / weight for name, weight in names.items()]
            if all(served[name] < 30 * sum(rows) for name, rows in zip(names, sizes, strict=True)):
                assert max(normalised) - min(normalised) <= bound


@settings(max_examples=60)
@given(st.lists(st.integers(1, 6), min_size=2, max_size=6), st.integers(1, 40))
def test_nobody_waits_longer_than_the_quanta_of_all_others(quanta: list[int], limit: int) -> None:
    flow = round_robin({str(i): float(weight) for i, weight in enumerate(quanta)})
    for index, quantum in enumerate(quanta):
        for _ in range(40 * quantum):
            put(flow, waiting(tenant=str(index)))
    since = dict.fromkeys(map(str, range(len(quanta))), 0)
    for _ in range(400):
        for member in fill(flow, limit):
            for name in since:
                since[name] += 1
            since[member.tenant] = 0
            if all(flow.child(name).depth for name in since):
                for index, quantum in enumerate(quanta):
                    assert since[str(index)] <= sum(quanta) - quantum


@settings(max_examples=40)
@given(st.integers(2, 4), st.integers(1, 16), st.integers(4, 16))
def test_keys_that_cannot_share_a_batch_share_the_batches(tenants: int, rows: int, limit: int) -> None:
    rows = min(rows, limit)
    flow = round_robin({})
    for index in range(tenants):
        for _ in range(400):
            put(flow, waiting(rows=rows, tenant=str(index), key=str(index)))
    served: Counter[str] = Counter({str(i): 0 for i in range(tenants)})
    while sum(served.values()) < 300 * rows:
        for member in fill(flow, limit):
            served[member.tenant] += member.rows
        assert max(served.values()) - min(served.values()) <= 2 * limit + rows


@pytest.mark.parametrize("weights", [{}, {"a": 2.0}, {"b": 7.0}])
@pytest.mark.parametrize("rows", [1, 3, 8])
def test_tenants_of_a_weighted_level_are_fair_among_themselves_whatever_their_size(
    weights: dict[str, float], rows: int
) -> None:
    """Their level's credit, not their own, decides when one may go: that must pass nobody over."""
    batcher = queue(2, "weighted", (1.0, 1.0), fairness=Fairness(weights=weights))
    for index in range(600):
        for level, tenant, size in ((1, "busy", 1), (1, "busy", 1), (2, "a", rows), (2, "b", rows)):
            batcher.offer(waiting(index, size, tenant=tenant, level=level))
    served: Counter[str] = Counter()
    shares = {name: weights.get(name, 1.0) for name in ("a", "b")}
    while min(served["a"], served["b"]) < 400 and sum(served.values()) < 1200:
        for member in batcher.take(1.0).members:
            served[member.tenant] += member.rows
        ahead = [served[name] / weight for name, weight in shares.items()]
        assert max(ahead) - min(ahead) <= 2 + rows
    assert served["a"] + served["b"] == pytest.approx(served["busy"], abs=2 * rows + 8)


# -- strict levels -------------------------------------------------------------------------------------


LEVELLED = st.lists(
    st.one_of(
        st.tuples(st.integers(1, 4), st.sampled_from("ab"), st.integers(1, 6), st.sampled_from("xy")),
        st.none(),
    ),
    max_size=120,
)


@settings(max_examples=150)
@given(LEVELLED, st.integers(1, 4), st.integers(1, 8))
def test_no_level_is_passed_over_more_often_than_its_bound(
    steps: list[tuple[int, str, int, str] | None], max_passes: int, max_rows: int
) -> None:
    """Also when those above it never pause and its key differs from theirs."""
    batcher = queue(4, max_passes=max_passes, max_rows=max_rows)
    waits: Counter[int] = Counter()
    passes: Counter[int] = Counter()
    for step in steps:
        for level, key, rows, tenant in (
            [step, (1, "a", max_rows, "x")] if step else [(1, "a", max_rows, "x")]
        ):
            batcher.offer(waiting(None, rows, key, tenant=tenant, level=level))
            waits[level] += 1
        members = batcher.take(0.0).members
        got = Counter(w.level for w in members)
        for level in range(1, 5):
            passes[level] = passes[level] + 1 if waits[level] and not got[level] else 0
            assert passes[level] <= max_passes + 4
        waits -= got


@settings(max_examples=150)
@given(LEVELLED, st.integers(1, 8))
def test_without_a_bound_the_higher_level_always_goes_first(
    steps: list[tuple[int, str, int, str] | None], max_rows: int
) -> None:
    batcher = queue(4, max_passes=0, max_rows=max_rows)
    waits: Counter[int] = Counter()
    for step in steps:
        if step is not None:
            level, key, rows, tenant = step
            batcher.offer(waiting(None, rows, key, tenant=tenant, level=level))
            waits[level] += 1
            continue
        highest = min((level for level, count in waits.items() if count), default=None)
        members = batcher.take(0.0).members
        assert (members[0].level if members else None) == highest
        assert [w.level for w in members] == sorted(w.level for w in members)
        waits -= Counter(w.level for w in members)


def test_one_that_was_passed_over_goes_first_and_others_fill_its_batch() -> None:
    batcher = queue(2, max_passes=2, max_rows=4)
    for index in range(20):
        batcher.offer(waiting(index, level=1))
    batcher.offer(waiting("low", level=2))
    batcher.offer(waiting("lower", level=2))
    assert [w.payload for w in batcher.take(0.0).members] == [0, 1, 2, 3]
    assert [w.payload for w in batcher.take(0.0).members] == [4, 5, 6, 7]
    assert [w.payload for w in batcher.take(0.0).members] == ["low", 8, 9, 10]
    assert [w.payload for w in batcher.take(0.0).members] == [11, 12, 13, 14]


def test_a_large_request_that_was_passed_over_goes_whole() -> None:
    batcher = queue(2, max_passes=1, max_rows=4)
    for index in range(9):
        batcher.offer(waiting(index, level=1))
    batcher.offer(waiting("large", 9, level=2, tenant="x"))
    assert [w.payload for w in batcher.take(0.0).members] == [0, 1, 2, 3]
    batch = batcher.take(0.0)
    assert ([w.payload for w in batch.members], batch.rows) == (["large"], 9)


# -- who goes before me? --------------------------------------------------------------------------------


def test_what_goes_before_a_request_is_of_its_tenant_and_what_fairness_lets_pass() -> None:
    batcher = queue()
    for index in range(100):
        batcher.offer(waiting(index, tenant="big"))
    assert batcher.ahead(waiting(tenant="big")) == 100
    assert batcher.ahead(waiting(tenant="small")) == 1
    batcher.offer(waiting(tenant="small"))
    assert batcher.ahead(waiting(tenant="small")) == 3
    assert batcher.ahead(waiting(level=URGENT)) == 0
    assert batcher.ahead(waiting(level=BULK)) == 101


def test_what_goes_before_a_request_is_of_its_level_and_those_above() -> None:
    for mode in ("strict", "weighted"):
        batcher = queue(3, mode)
        for level, count in ((1, 2), (2, 5), (3, 50)):
            for _ in range(count):
                batcher.offer(waiting(level=level, rows=2))
        ahead = [batcher.ahead(waiting(level=level)) for level in (1, 2, 3)]
        if mode == "strict":
            assert ahead == [4, 14, 114]
        else:  # shares 4 : 2 : 1
            assert ahead[0] == pytest.approx(2 * (3 * 7 / 4 - 1))
            assert ahead == sorted(ahead)
            assert ahead[2] == 114


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from("xyz"), st.integers(1, 4)), max_size=60), st.sampled_from("xyz"))
def test_a_request_that_is_told_nothing_goes_before_it_is_in_the_next_batch(
    offers: list[tuple[str, int]], tenant: str
) -> None:
    batcher = queue(max_rows=8)
    for name, rows in offers:
        batcher.offer(waiting(rows=rows, tenant=name))
    mine = waiting("mine", 1, tenant=tenant)
    ahead = batcher.ahead(mine)
    assert 0 <= ahead <= batcher.rows
    batcher.offer(mine)
    rows = 0
    while mine.is_live:
        rows += batcher.take(0.0).rows
    if ahead == 0:
        assert rows <= 8


# -- a full queue -----------------------------------------------------------------------------------------


def test_a_full_queue_makes_room_from_the_lowest_level_and_its_longest_lane() -> None:
    batcher = queue(2, max_queue=6)
    for name, count, level in (("a", 3, 2), ("b", 1, 2), ("c", 2, 1)):
        for index in range(count):
            batcher.offer(waiting(f"{name}{index}", tenant=name, level=level))
    evicted = batcher.offer(waiting("new", tenant="d", level=1))
    assert evicted is not None and evicted.payload == "a2"  # the latest of the longest
    evicted = batcher.offer(waiting("mate", tenant="b", level=1))
    assert evicted is not None and evicted.payload == "a1"
    with pytest.raises(Overloaded):  # a's lane is no longer than one would be that takes its place
        batcher.offer(waiting("none", tenant="e", level=2))
    evicted = batcher.offer(waiting("urgent", level=URGENT))
    assert evicted is not None and evicted.level == 2
    assert batcher.depth == 6


def test_a_tenant_with_a_full_queue_of_its_own_cannot_keep_others_out() -> None:
    batcher = queue(max_queue=8)
    for index in range(8):
        batcher.offer(waiting(index, tenant="big"))
    with pytest.raises(Overloaded):
        batcher.offer(waiting("more", tenant="big"))
    for index in range(4):
        evicted = batcher.offer(waiting(f"s{index}", tenant="small"))
        assert evicted is not None and evicted.tenant == "big"
    with pytest.raises(Overloaded):
        batcher.offer(waiting("s4", tenant="small"))  # it has as much as the other now


def test_bulk_makes_room_for_all_and_gets_none() -> None:
    batcher = queue(max_queue=2)
    batcher.offer(waiting("b0", level=BULK))
    batcher.offer(waiting("b1", level=BULK))
    with pytest.raises(Overloaded):
        batcher.offer(waiting("b2", level=BULK))
    for name in ("n0", "n1"):
        evicted = batcher.offer(waiting(name))
        assert evicted is not None and evicted.level == BULK
    with pytest.raises(Overloaded):
        batcher.offer(waiting("b3", level=BULK))


# -- memory -------------------------------------------------------------------------------------------------


def lanes_alive() -> int:
    gc.collect()
    return sum(isinstance(thing, Lane) for thing in gc.get_objects())


@pytest.mark.parametrize("way", ["taken", "discarded", "refused"])
def test_ten_thousand_tenants_leave_no_lanes_behind(way: str) -> None:
    batcher = queue(max_queue=4 if way == "refused" else 1 << 30, fairness=Fairness(max_tenants=16))
    before = lanes_alive()
    for index in range(10_000):
        item = waiting(index, tenant=f"t{index}", level=1)
        if way == "refused":
            try:
                batcher.offer(item)
            except Overloaded:
                continue
        else:
            batcher.offer(item)
            if way == "taken":
                assert batcher.take(0.0).members == [item]
            else:
                batcher.discard(item)
    assert lanes_alive() - before <= 17


def test_tenants_beyond_the_most_share_one_lane_and_are_served() -> None:
    batcher = queue(fairness=Fairness(max_tenants=2), max_rows=100)
    for index in range(20):
        batcher.offer(waiting(index, tenant=f"t{index % 5}"))
    assert len({id(w.lane) for w in batcher}) == 3
    assert sorted(w.payload for w in batcher.take(0.0).members) == list(range(20))
    batcher.offer(waiting("next", tenant="t4"))
    assert [w.payload for w in batcher.take(0.0).members] == ["next"]


def test_newest_goes_over_all_lanes_by_arrival() -> None:
    flow = round_robin({})
    for at, tenant in enumerate("xyxyz"):
        put(flow, waiting(at, arrived=float(at), tenant=tenant))
    assert [w.payload for w in newest(flow)] == [4, 3, 2, 1, 0]


def test_repr_shows_state() -> None:
    flow = round_robin({})
    make: Callable[[str], QueuedRequest] = lambda tenant: waiting(tenant=tenant)  # noqa: E731
    for tenant in "xxy":
        put(flow, make(tenant))
    strict = Strict(1)
    strict.add_level(flow)
    assert repr(flow) == "<RoundRobin 3 queued in 2>"
    assert repr(strict) == "<Strict 3>"
    assert repr(flow.child("x")) == "<Lane 2 queued>"

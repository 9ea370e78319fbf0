"""Quotas on several servers hold, whatever happens to servers, the ledger and the line between them."""

import contextlib
from collections.abc import Awaitable, Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from salver.features.access.quota_rules import Period, QuotaRule, parse_quota
from salver.features.usage.allowance import (
    ASK_AGAIN_S,
    KeyQuotas,
    Slice,
    SliceGrant,
    SliceRequest,
    granted_of,
)
from salver.words.errors import InvalidInput, QuotaExceeded, QuotaUnsettled, RateLimited

DAY = 86_400.0


class Answer:
    """What is awaited until the ledger has answered; here nobody waits."""

    def __await__(self) -> Generator[Any, None, None]:
        yield None


class Ledger:
    """Grants by quota, period and server, as the rows of the ledger."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str, str], int] = {}

    def take(self, request: SliceRequest, server: str) -> SliceGrant:
        place = (request.rule.name, request.period.name)
        mine = self.rows.get((*place, server), 0)
        others = sum(n for (*at, owner), n in self.rows.items() if tuple(at) == place and owner != server)
        answer = granted_of(request, mine, others, 2)
        self.rows[*place, server] = answer.count
        return answer

    def settle(self, server: str, slice: Slice, used: int) -> None:
        place = (slice.rule.name, slice.period.name)
        if self.rows.pop((*place, server), None) is not None:
            self.rows[*place, ""] = self.rows.get((*place, ""), 0) + used


class Server:
    """One server with the quotas of a key. What it asks is answered when the test says so."""

    def __init__(self, world: "World", name: str, rule: QuotaRule) -> None:
        self.world = world
        self.name = name
        self.asked: list[tuple[SliceRequest, Slice]] = []
        self.quotas = KeyQuotas("k", (rule,), self)

    def now(self) -> float:
        return self.world.now

    def open(self, key: str, rule: QuotaRule, period: Period) -> Slice:
        return Slice(rule, period, [0], 0)

    def close(self, key: str, slice: Slice) -> None:
        self.world.ledger.settle(self.name, slice, slice.used)

    def ask(self, request: SliceRequest, slice: Slice) -> Awaitable[None]:
        self.asked.append((request, slice))
        return Answer()

    def answer(self, fate: str) -> None:
        """End each question: it is answered, or its answer is lost, or it does not arrive."""
        asked, self.asked = self.asked, []
        for request, slice in asked:
            granted = self.world.ledger.take(request, self.name) if fate != "cut" else None
            slice.settle(granted if fate == "heard" else None, self.world.now)

    def run(self, rows: int) -> int:
        """Run a request if it is accepted; return what it counts."""
        refusal = self.quotas.refusal(is_trial=False)
        if refusal is not None:
            return 0
        try:
            if not self.quotas.take(rows):
                _give_up(self.quotas.settle(rows))
                return 0
        except RateLimited:
            return 0
        return rows if self.slice.rule.unit == "rows" else 1

    @property
    def slice(self) -> Slice:
        return self.quotas.slices()[0]


def _give_up(waiting: Any) -> None:
    """Begin to await something, so that it asks, and cancel it then."""
    with contextlib.suppress(StopIteration, RateLimited):
        waiting.send(None)
    waiting.close()


class World:
    def __init__(self, rule: QuotaRule, servers: int) -> None:
        self.now = 10 * DAY
        self.ledger = Ledger()
        self.rule = rule
        self.count = servers
        self.servers = [Server(self, f"s{number}", rule) for number in range(servers)]
        self.used: dict[str, int] = {}

    def begin_again(self, place: int, *, is_remembered: bool) -> None:
        """Replace a server that was killed; its file has what it used, unless the machine failed."""
        old = self.servers[place]
        if is_remembered:
            self.ledger.settle(old.name, old.slice, old.slice.used)
        self.count += 1
        self.servers[place] = Server(self, f"s{self.count}", self.rule)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("run"), st.integers(0, 2), st.integers(1, 30)),
        st.tuples(st.just("answer"), st.integers(0, 2), st.sampled_from(["heard", "lost", "cut"])),
        st.tuples(st.just("kill"), st.integers(0, 2), st.booleans()),
        st.tuples(st.just("stop"), st.integers(0, 2), st.just(0)),
        st.tuples(st.just("wait"), st.just(0), st.sampled_from([1.0, ASK_AGAIN_S, DAY / 3])),
    ),
    max_size=120,
)


@given(most=st.integers(0, 60), unit=st.sampled_from(["requests", "rows"]), steps=STEPS)
def test_no_quota_is_exceeded_by_any_servers_together(most: int, unit: str, steps: list[Any]) -> None:
    world = World(parse_quota(f"{most} {unit}/day"), 3)
    for what, place, how in steps:
        server = world.servers[place]
        match what:
            case "run":
                used = server.run(how)
                day = server.slice.period.name
                world.used[day] = world.used.get(day, 0) + used
            case "answer":
                server.answer(how)
            case "kill":
                world.begin_again(place, is_remembered=how)
            case "stop":
                server.answer("heard")
                world.begin_again(place, is_remembered=True)
            case "wait":
                world.now += how
        assert all(used <= most for used in world.used.values()), world.used
        granted: dict[Any, int] = {}
        for (quota, period, _), count in world.ledger.rows.items():
            granted[quota, period] = granted.get((quota, period), 0) + count
        assert all(count <= most for count in granted.values()), "what is granted never exceeds it either"


@given(most=st.integers(1, 200), servers=st.integers(1, 3), chance=st.randoms(use_true_random=False))
def test_all_of_a_quota_can_be_used(most: int, servers: int, chance: Any) -> None:
    """While the ledger answers and servers stop in peace, exactly as many requests are accepted."""
    world = World(parse_quota(f"{most}/day"), servers)
    accepted = 0
    for turn in range(60 * servers):
        server = chance.choice(world.servers)
        accepted += server.run(1)
        server.answer("heard")
        if not turn % 17:
            world.begin_again(world.servers.index(server), is_remembered=True)
            world.now += ASK_AGAIN_S
    for server in world.servers * 2:  # each uses up its slice, and what is left
        world.now += ASK_AGAIN_S
        refused = 0
        while refused < 3:
            ran = server.run(1)
            accepted += ran
            refused = 0 if ran else refused + 1
            server.answer("heard")
    assert accepted == most


@given(most=st.integers(1, 500), costs=st.lists(st.integers(1, 90), max_size=60))
def test_what_is_known_afterwards_exceeds_by_one_request(most: int, costs: list[int]) -> None:
    world = World(parse_quota(f"{most} tokens/day"), 1)
    (server,) = world.servers
    used = 0
    for cost in costs:
        while isinstance(refusal := server.quotas.refusal(is_trial=False), QuotaUnsettled):
            server.answer("heard")
        if refusal is None:
            assert used < most
            used += cost
            server.quotas.spend(tokens=cost)
        else:
            assert used >= most
        server.answer("heard")
    assert server.slice.used == used


def test_a_quota_is_renewed_with_its_period() -> None:
    world = World(parse_quota("2/day"), 1)
    (server,) = world.servers
    server.run(1)
    server.answer("heard")
    assert [server.run(1), server.run(1)] == [1, 0]
    server.answer("heard")
    assert server.run(1) == 1
    server.answer("heard")
    server.run(1)
    server.answer("heard")
    refusal = server.quotas.refusal(is_trial=False)
    assert isinstance(refusal, QuotaExceeded) and refusal.retry_after == DAY
    assert str(refusal) == (
        "this key has used its quota of 2 requests/day; it is renewed at 1970-01-12T00:00:00Z"
    )
    assert refusal.limit == ("key-requests-day", 2, 86_400, "requests")
    (state,) = server.quotas.states()
    assert (state.left, state.most, state.resets) == (0, 2, 11 * DAY)
    world.now += DAY
    (state,) = server.quotas.states()
    assert (state.left, state.resets) == (2, 12 * DAY)
    assert isinstance(server.quotas.refusal(is_trial=False), QuotaUnsettled)
    assert server.quotas.refusal(is_trial=True) is None, "before the body is read, it may yet be accepted"


def test_without_the_ledger_the_slice_is_used_and_no_more() -> None:
    world = World(parse_quota("160/day"), 1)
    (server,) = world.servers
    server.run(1)
    server.answer("heard")
    slice = server.slice.granted
    accepted = 0
    for _ in range(50):
        accepted += server.run(1)
        server.answer("cut")
    assert accepted == slice == 10
    refusal = server.quotas.refusal(is_trial=False)
    assert (
        refusal is not None and not isinstance(refusal, QuotaExceeded) and refusal.retry_after <= ASK_AGAIN_S
    )
    world.now += ASK_AGAIN_S
    server.run(1)
    server.answer("heard")
    assert server.run(1) == 1


def test_a_lower_quota_holds_at_once() -> None:
    world = World(parse_quota("800/day"), 1)
    (server,) = world.servers
    server.run(1)
    server.answer("heard")
    for _ in range(20):
        server.run(1)
    server.quotas.change((parse_quota("10/day"),))
    server.run(1)
    server.answer("heard")
    assert server.run(1) == 0 and server.slice.used == 20


@settings(max_examples=20)
@given(st.text(max_size=12))
def test_other_texts_are_no_quotas(text: str) -> None:
    try:
        rule = parse_quota(text)
    except InvalidInput:
        return
    assert parse_quota(str(rule)) == rule


@pytest.mark.parametrize(
    "text", ["-1/day", "nan/day", "inf/day", "true/day", "1/week", "1.5/day", "1 cats/day"]
)
def test_wrong_quotas(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"quota|counted"):
        parse_quota(text)

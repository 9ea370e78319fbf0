"""Limits of keys, tenants, models and the server together, under any sequence of requests."""

import random
from collections import defaultdict
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.access.charge import RunCharge
from salver.features.access.key_format import digest_of
from salver.features.access.key_table import Key, KeyTable
from salver.features.access.limit_book import DeclaredLimits, LimitBook
from salver.features.access.limits import LimitRules, Limits, refusal
from salver.features.access.run_plan import RunPlan
from salver.features.access.scopes import Scopes
from salver.transport.faults import grpc_fault, http_fault
from salver.words.errors import InvalidInput, RateLimited
from salver.words.messages import Timing

NS = 1_000_000_000
RATES = st.sampled_from(["", "1/s", "3/s+2", "10/s+5", "7/m+3", "0/s", "1000/s+40"])
RULES = st.builds(LimitRules, RATES, st.sampled_from([0, 0, 1, 2, 5]), RATES, RATES)
SOME = st.none() | RULES.filter(lambda rules: rules != LimitRules())
KEYS, TENANTS, MODELS = ("ada", "bob"), ("acme", "bolt"), ("m1", "m2")
#: A pause, who asks, what for, how many rows, how long it runs, and how many tokens there are in the end.
STEPS = st.tuples(
    st.one_of(st.integers(0, 3), st.integers(0, NS), st.integers(0, 20 * NS)),
    *(st.sampled_from(names) for names in (KEYS, TENANTS, MODELS)),
    st.integers(0, 6),
    st.integers(0, 4),
    st.none() | st.integers(0, 30),
    st.sampled_from(["runs", "runs", "runs", "fails before it is weighed"]),
    st.booleans(),
)


class Ticks:
    now = 0

    def __call__(self) -> int:
        return self.now


class World:
    """A server with limits, beside a plain list of what was charged to which of them."""

    def __init__(self, keys: list[LimitRules | None], declared: DeclaredLimits) -> None:
        self.clock = Ticks()
        self.table = KeyTable(lambda: 0.0, self.clock, b"x-tenant")
        self.table.replace(
            {
                digest_of(name.encode()): Key(
                    name, name, Scopes(("infer",)), limits=Limits(rules) if rules else None, granted=None
                )
                for name, rules in zip(KEYS, keys, strict=True)
            }
        )
        self.table.declare(declared)
        self.charged = defaultdict[tuple[int, str], list[tuple[int, int]]](list)
        self.running = list[tuple[int, RunCharge | RunPlan, tuple[Limits, ...], int | None]]()

    def ask(self, key: str, tenant: str, model: str) -> Any:
        headers = [(b"x-api-key", key.encode()), (b"x-tenant", tenant.encode())]
        return self.table.admit(headers, "infer", model, is_later=False)

    def limits(self, key: str, tenant: str, model: str) -> tuple[Limits, ...]:
        own = self.table.own([(b"x-api-key", key.encode())])
        assert own is not None
        return self.table.book.of(own.limits, tenant, model, self.clock.now)

    def charge(self, limits: tuple[Limits, ...], **units: int) -> None:
        for each in limits:
            for unit, count in units.items():
                self.charged[id(each), unit].append((self.clock.now, count))

    def allows(self, limits: tuple[Limits, ...], rows: int) -> bool:
        """Return whether every window that ends now has room, from the list alone."""
        return all(self._has_room(each, rows) for each in limits)

    def _has_room(self, limits: Limits, rows: int) -> bool:
        if limits.at_once and sum(limits in run[2] for run in self.running) >= limits.at_once:
            return False
        for unit, count in (("requests", 1), ("rows", rows), ("tokens", 1)):
            if not getattr(limits.rules, unit):
                continue
            rate = next(
                cell.rate for cell, name in zip(limits.cells, limits._units, strict=True) if name == unit
            )
            if not rate.count:
                return False
            total, now = count, self.clock.now
            windows = [(now, count)]
            for at, taken in reversed(self.charged[id(limits), unit]):
                total += taken
                windows.append((at, total))
            if any(most > rate.burst + Fraction(now - begin, rate.period_ns) for begin, most in windows):
                return False
        return True

    def state(self) -> list[Any]:
        every = [self.limits(*who) for who in ((k, t, m) for k in KEYS for t in TENANTS for m in MODELS)]
        return [(each.running, [cell.free_at for cell in each.cells]) for some in every for each in some]


@given(
    st.tuples(SOME, SOME),
    st.builds(
        DeclaredLimits,
        SOME,
        # Without limits of tenants, runs share the charge of their plan.
        st.just({})
        | st.dictionaries(st.sampled_from(["acme", "b*", "*"]), RULES.filter(lambda r: r != LimitRules())),
        st.dictionaries(st.sampled_from(["m1", "m*"]), RULES.filter(lambda r: r != LimitRules())),
    ),
    st.lists(STEPS, min_size=10, max_size=60),
)
def test_no_window_of_any_limit_is_exceeded_and_nothing_else_is_refused(
    keys: tuple[LimitRules | None, LimitRules | None], declared: DeclaredLimits, steps: list[Any]
) -> None:
    """Requests, rows and requests at once in no window, tokens in none that ends with an accepted request."""
    world = World(list(keys), declared)
    for pause, key, tenant, model, rows, turns, tokens, how, is_whole in steps:
        world.clock.now += pause
        end_what_is_over(world)
        limits, before = world.limits(key, tenant, model), world.state()
        is_allowed = world.allows(limits, 1)
        try:
            grant = world.ask(key, tenant, model)
        except RateLimited:
            assert not is_allowed and world.state() == before, "a refused request is charged nothing"
            continue
        assert is_allowed
        charge = None if grant is None else grant.enter(model) if is_whole else grant.begin(model)
        if charge is None:
            assert limits == ()
            continue
        if how != "runs":
            world.charge(limits, requests=1, rows=1, tokens=1)
            end(charge, is_weighed=False)
            continue
        is_allowed = world.allows(limits, rows)
        try:
            charge.weigh(rows, tenant)
        except RateLimited:
            end(charge, is_weighed=True)
            assert not is_allowed and world.state() == before
            continue
        assert is_allowed
        world.charge(limits, requests=1, rows=rows, tokens=1)
        world.running.append((turns, charge, limits, tokens))
    while world.running:
        end_what_is_over(world)
    assert {running for running, _ in world.state()} <= {0}


def end(charge: RunCharge | RunPlan, *, is_weighed: bool) -> None:
    """End a run as an exchange does."""
    charge.end("m", 1, Timing(), 0, None, is_weighed)
    if isinstance(charge, RunCharge):
        charge.leave()


def end_what_is_over(world: World) -> None:
    """End the runs whose turns are over; those that nobody counted gave three pieces, or one."""
    still = []
    for turns, charge, limits, tokens in world.running:
        if turns:
            still.append((turns - 1, charge, limits, tokens))
            continue
        if isinstance(charge, RunPlan):
            end(charge, is_weighed=True)
            continue
        for _ in range(3):
            charge.add(None)
        known = 3
        if tokens is not None:
            charge.add((tokens // 2, tokens - tokens // 2))
            charge.add((0, tokens))  # a protocol that counts them again
            known = max(3, tokens)
        world.charge(limits, tokens=known - 1)
        end(charge, is_weighed=True)
    world.running = still


@given(st.lists(RULES.filter(lambda rules: rules != LimitRules()), min_size=1, max_size=4), st.data())
def test_the_order_of_limits_and_of_requests_does_not_matter(several: list[LimitRules], data: Any) -> None:
    shuffled = data.draw(st.permutations(range(len(several))))
    rows = data.draw(st.lists(st.integers(1, 3), max_size=30))

    def accepted(order: Any, counts: list[int]) -> list[bool]:
        limits = [Limits(several[index]) for index in order]
        found = []
        for count in counts:
            found.append(refusal(limits, 5 * NS, count) is None)
            if found[-1]:
                for each in limits:
                    each.take(5 * NS, count)
                    each.running += 1
        return found

    assert accepted(range(len(several)), rows) == accepted(shuffled, rows)
    alike = [rows[0]] * len(rows) if rows else []
    assert sum(accepted(shuffled, alike)) == sum(accepted(range(len(several)), alike[::-1]))


@pytest.mark.parametrize(
    ("rules", "name"),
    [
        ({"key": "1/s", "tenant": "2/s", "model": "2/s", "server": "2/s"}, "key-requests"),
        ({"key": "2/s", "tenant": "1/s", "model": "2/s", "server": "2/s"}, "tenant-requests"),
        ({"key": "9/s", "tenant": "9/s", "model": "1/m", "server": "1/s"}, "model-requests"),
        ({"key": "9/s", "tenant": "9/s", "model": "9/s", "server": "1/h"}, "server-requests"),
        ({"key": "1/s", "tenant": "1/s", "model": "1/s", "server": "1/s"}, "key-requests"),
    ],
)
def test_the_longest_wait_is_named_and_of_equal_ones_the_narrowest(rules: dict[Any, str], name: str) -> None:
    several = [Limits(LimitRules(rate), holder) for holder, rate in rules.items()]
    for each in several:
        each.take(0)
    found = refusal(several, 0)
    assert found is not None and found.limit is not None and found.limit.name == name
    assert found.retry_after == max(each.cells[0].wait(0) for each in several) / NS
    assert str(found) == f"this {name.split('-')[0]} has its limit of {rules[name.split('-')[0]]} requests"


def test_rows_that_never_fit_are_refused_for_good() -> None:
    limits = Limits(LimitRules(rows="100/s+20"), "tenant")
    assert refusal([limits], 0, 20) is None
    found = refusal([limits], 0, 21)
    assert found is not None
    assert str(found) == "a request of this tenant has at most 20 rows"
    headers = dict(http_fault(found).headers)
    assert headers[b"x-should-retry"] == b"false" and b"retry-after" not in headers
    assert headers[b"ratelimit-policy"] == b'"tenant-rows";q=20;qu="rows";w=1'
    assert headers[b"ratelimit"] == b'"tenant-rows";r=0'
    assert grpc_fault(found).pushback_ms == -1
    limits.take(0, 20)
    late = refusal([limits], 0, 20)
    assert late is not None and (late.is_final, late.retry_after) == (False, 0.2)


def test_what_is_known_too_late_is_charged_and_later_requests_wait() -> None:
    world = World([LimitRules(tokens="10/s+5"), None], DeclaredLimits())
    charge = world.ask("ada", "", "m").begin("m")
    charge.weigh(1, "")
    charge.add((40, 15))
    charge.leave()
    with pytest.raises(RateLimited) as caught:
        world.ask("ada", "", "m")
    assert caught.value.limit == ("key-tokens", 5, 1, "tokens")
    assert caught.value.retry_after == pytest.approx(5.1)  # 55 + 1 are 5 + 51
    world.clock.now = int(5.1 * NS) + 1
    assert world.ask("ada", "", "m")


def test_a_tenant_that_parameters_name_is_charged_in_place_of_the_first() -> None:
    world = World([None, None], DeclaredLimits(tenants={"*": LimitRules("1/h", at_once=1)}))
    charge = world.ask("ada", "", "m").begin("m")
    assert charge.weigh(1, "acme")
    assert world.ask("ada", "", "m") is not None
    with pytest.raises(RateLimited):
        world.ask("ada", "acme", "m")
    charge.leave()
    assert [each.running for each in world.limits("ada", "acme", "m")] == [0]
    second = world.ask("ada", "", "m").begin("m")
    with pytest.raises(RateLimited):
        second.weigh(1, "acme")
    second.leave()
    assert [each.running for each in world.limits("ada", "", "m")] == [0]
    assert world.ask("ada", "", "m") is not None


def test_each_name_that_a_pattern_matches_has_its_own_limits_and_an_exact_one_goes_first() -> None:
    book = LimitBook(DeclaredLimits(models={"llm-*": LimitRules("1/s"), "llm-big": LimitRules("2/s")}))
    one, other, big = (book.of(None, "", name, 0) for name in ("llm-1", "llm-2", "llm-big"))
    assert one == book.of(None, "", "llm-1", 0) and one != other
    assert big[0].rules.requests == "2/s"
    assert book.of(None, "", "resnet", 0) == () and book.of(None, "", "", 0) == ()


def test_names_that_callers_make_up_take_no_memory_without_bound() -> None:
    book = LimitBook(DeclaredLimits(tenants={"*": LimitRules("1/s+5")}))
    seen = set()
    for number in range(10_000):
        (limits,) = book.of(None, f"t{number}", "", 0)
        limits.take(0, 5)
        seen.add(id(limits))
    assert len(seen) == 4097, "the rest share one"
    assert len(book._tenants._known) == 4096
    (late,) = book.of(None, "late", "", 60 * NS)
    assert refusal([late], 60 * NS) is None, "those that are idle by now have made room"
    assert len(book._tenants._known) == 1


def test_limits_that_stay_keep_what_is_used_of_them() -> None:
    once = DeclaredLimits(LimitRules("1/h"), {"acme": LimitRules("1/h"), "*": LimitRules("5/s")}, {})
    world = World([None, None], once)
    world.ask("ada", "acme", "m").begin("m").weigh(1, "acme")
    world.table.declare(DeclaredLimits(LimitRules("2/h"), once.tenants, {"m": LimitRules("9/s")}))
    with pytest.raises(RateLimited) as caught:
        world.ask("ada", "acme", "m")
    assert caught.value.limit is not None and caught.value.limit.name == "tenant-requests"
    world.ask("ada", "bolt", "m").begin("m").weigh(1, "bolt")
    world.table.declare(DeclaredLimits())
    assert world.ask("ada", "acme", "m") is None


def test_wrong_limits_are_told_with_their_place() -> None:
    with pytest.raises(InvalidInput, match=r"is no rate.*in limits\.tenants\.acme"):
        LimitBook(DeclaredLimits(tenants={"acme": LimitRules(rows="5/d")}))
    with pytest.raises(InvalidInput, match=r"limit nothing.*in limits\.server"):
        LimitBook(DeclaredLimits(LimitRules()))


def test_ten_thousand_cancelled_requests_leave_nothing_behind() -> None:
    world = World([LimitRules(at_once=3), None], DeclaredLimits(LimitRules(at_once=4)))
    chance = random.Random(7)
    open_ones = list[RunCharge]()
    for _ in range(10_000):
        if open_ones and chance.random() < 0.6:
            open_ones.pop(chance.randrange(len(open_ones))).leave()
        try:
            charge = world.ask("ada", "", "m").begin("m")
        except RateLimited:
            continue
        if chance.random() < 0.5:
            charge.weigh(1, "")
        open_ones.append(charge)
        assert len(open_ones) <= 3
    for charge in open_ones:
        charge.leave()
    assert {running for running, _ in world.state()} == {0}


def test_limits_of_a_file_go_before_those_of_a_ledger() -> None:
    a, b = LimitRules("1/s"), LimitRules("2/s")
    file = DeclaredLimits(None, {"acme": a, "a*": a}, {})
    ledger = DeclaredLimits(b, {"*": b, "acme": b}, {"m": b})
    both = DeclaredLimits(b, {"acme": a, "a*": a, "*": b}, {"m": b})
    table = KeyTable(lambda: 0.0, lambda: 0, b"")
    table.declare(ledger, "ledger")
    assert table.book.declared == ledger
    table.declare(file)
    assert table.book.declared == both and list(table.book.declared.tenants) == ["acme", "a*", "*"]
    table.declare(DeclaredLimits(), "ledger")
    assert table.book.declared == file

"""How often a key may ask: one by one, at once, in streams, and over every protocol."""

import asyncio
import sys
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from salver.features.access.key_format import digest_of
from salver.features.access.key_table import Key, KeyGrant, KeyTable
from salver.features.access.limits import LimitRules, Limits
from salver.features.access.plane import CheckingPlane
from salver.features.access.scopes import Scopes
from salver.kernel.serving.dataplane import DataPlane
from salver.transport.faults import grpc_fault, http_fault
from salver.words.errors import OutOfScope, RateLimited, ReachedLimit, SalverError
from salver.words.messages import Call, Charge, Grant, Timing

NS = 1_000_000_000


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def key_of(rules: LimitRules | None, *scopes: str) -> Key:
    limits = None if rules is None else Limits(rules)
    return Key("k", "k", Scopes(scopes or ("infer",)), limits=limits)


def table_of(clock: Clock, rules: LimitRules | None, *scopes: str) -> KeyTable:
    table = KeyTable(lambda: 0.0, clock, b"x-tenant")
    table.replace({digest_of(b"key"): key_of(rules, *scopes)})
    return table


def grant_of(table: KeyTable, key: str = "key") -> Grant | None:
    return table.admit([(b"x-api-key", key.encode())], "infer", "m", is_later=False)


def test_a_limit_is_asked_before_the_body_and_charged_with_the_run(clock: Clock) -> None:
    table = table_of(clock, LimitRules("1/s+2"))
    for _ in range(5):
        grant = grant_of(table)
    assert grant is not None
    for _ in range(2):
        assert grant.refusal("m") is None
        ran(grant).leave()
    for refusal in (grant.refusal("m"), _raised(lambda: grant_of(table))):
        assert isinstance(refusal, RateLimited)
        assert (refusal.limit, refusal.retry_after) == (("key-requests", 2, 2, "requests"), 1.0)
    clock.now = NS
    assert grant_of(table) is not None


@pytest.mark.parametrize("whole", [False, True])
def test_a_run_that_one_limit_refuses_is_charged_to_none(clock: Clock, whole: bool) -> None:
    """The grant of a known head is asked again and again, without the look that comes before its making."""
    table = table_of(clock, LimitRules("10/s+10", tokens="1/s+1", at_once=5))
    grant = cast(KeyGrant, grant_of(table))
    (limits,) = grant.limits("m", "")
    begin = grant.enter if whole else grant.begin
    assert not isinstance(begin("m"), RateLimited)
    left = [limits.running, *(cell.left(0) for cell in limits.cells)]
    assert left == [1, 9, 0]
    for _ in range(3):
        refused = begin("m")
        assert isinstance(refused, RateLimited) and refused.limit is not None
        assert refused.limit.name == "key-tokens"
    assert [limits.running, *(cell.left(0) for cell in limits.cells)] == left


@pytest.mark.parametrize(("rules", "sure_ns"), [("10/s+1", 5_000_000), ("1000/s+1", 1_000_000)])
def test_a_refusal_is_told_again_as_long_as_it_is_sure(clock: Clock, rules: str, sure_ns: int) -> None:
    """Each request that is refused by it counts; a caller that has room again is not refused."""
    table = table_of(clock, LimitRules(rules))
    grant = grant_of(table)
    assert grant is not None
    ran(grant)
    first = grant.still_refused()
    assert isinstance(first, RateLimited)
    for clock.now in (1, sure_ns - 1):
        assert grant.still_refused() is first
    assert [one.value for family in table.refusals.collect() for one in family.samples] == [3]
    clock.now = sure_ns
    after = grant.still_refused()
    if sure_ns == 1_000_000:
        assert after is None and not grant.was_refused
    else:
        assert isinstance(after, RateLimited) and after is not first and after.retry_after == 0.095


def test_a_refusal_that_may_end_at_any_time_is_decided_each_time(clock: Clock) -> None:
    table = table_of(clock, LimitRules(at_once=1))
    grant = grant_of(table)
    assert grant is not None
    run = ran(grant)
    assert isinstance(first := grant.still_refused(), RateLimited)
    assert grant.still_refused() is not first
    run.leave()
    assert grant.still_refused() is None
    spent = grant_of(table_of(clock, LimitRules("1/h")))
    assert spent is not None
    ran(spent)
    assert spent.still_refused() is not None
    cast(Any, spent)._key.is_alive = False
    assert spent.still_refused() is None, "the task tells that the key has ended"


def ran(grant: Grant | None) -> Charge:
    """Begin a request that runs."""
    charge = grant.begin("m") if grant else None
    assert charge is not None
    charge.weigh(1, "")
    return charge


def _raised(ask: Callable[[], object]) -> SalverError:
    with pytest.raises(SalverError) as caught:
        ask()
    return caught.value


def test_requests_at_once(clock: Clock) -> None:
    grant = grant_of(table_of(clock, LimitRules(at_once=2)))
    assert grant is not None
    first, _ = ran(grant), ran(grant)
    refusal = grant.refusal("m")
    assert isinstance(refusal, RateLimited) and refusal.limit == ("key-concurrent-requests", 2, 0, "requests")
    first.leave()
    assert grant.refusal("m") is None


def test_only_runs_of_models_count(clock: Clock) -> None:
    table = table_of(clock, LimitRules("0/s"), "infer", "read")
    assert table.admit([(b"x-api-key", b"key")], "read", "m", is_later=False) is None
    assert isinstance(_raised(lambda: grant_of(table)), RateLimited)


def test_another_model_is_told_before_the_limit(clock: Clock) -> None:
    table = table_of(clock, LimitRules("0/s"), "infer:m")
    with pytest.raises(OutOfScope):
        table.admit([(b"x-api-key", b"key")], "infer", "other", is_later=False)


def test_a_rotation_gives_no_second_budget(clock: Clock) -> None:
    table = table_of(clock, LimitRules("1/h"))
    grant = grant_of(table)
    ran(grant)
    new = key_of(LimitRules("1/h"))
    table.replace({digest_of(b"key"): new, digest_of(b"new"): new})
    for key in ("key", "new"):
        assert isinstance(_raised(lambda key=key: grant_of(table, key)), RateLimited)
    changed = key_of(LimitRules("2/h"))
    table.replace({digest_of(b"new"): changed})
    assert grant_of(table, "new") is not None, "other limits begin anew"
    table.replace({digest_of(b"new"): key_of(None)})
    free = grant_of(table, "new")
    assert free is not None and not free.checks


class Plane(CheckingPlane[Any, Any]):
    """Counts what reaches the data plane; answers as the test says."""


@pytest.fixture
def reached(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The data plane below, whose answers wait for ``open``."""
    seen = SimpleNamespace(count=0, open=asyncio.Event(), tell=None, given_up=0, posts=True)

    async def infer(
        self: Any, codec: Any, body: Any, model: str, version: str, call: Call, sender: Any
    ) -> str:
        seen.count += 1
        await seen.open.wait()
        return "answer"

    def post(
        self: Any, codec: Any, body: Any, model: Any, version: Any, call: Any, tell: Any, *_: Any
    ) -> Any:
        if not seen.posts:
            return None
        seen.count += 1
        ends = [call.charge.end]

        def end(reply: object) -> bool:
            """End the exchange, once."""
            if not ends:
                return False
            ends.pop()("m", 1, Timing(), call.received, reply, True)
            return True

        def say(reply: Any, write_all: Any) -> None:
            if write_all is None:
                end(reply)
            tell(reply, write_all)

        seen.tell = say
        if seen.open.is_set():
            say(b"answer", None)

        def give_up() -> None:
            seen.given_up += end(None)

        return give_up

    monkeypatch.setattr(DataPlane, "infer", infer)
    monkeypatch.setattr(DataPlane, "post", post)
    return seen


CODEC: Any = SimpleNamespace(fault=lambda error: error)


def a_call(grant: Grant | None) -> Call:
    return Call("test", 0.0, grant=grant)


async def test_the_plane_counts_what_it_runs(clock: Clock, reached: SimpleNamespace) -> None:
    limits = Limits(LimitRules(at_once=1))
    table = KeyTable(lambda: 0.0, clock, b"x-tenant")
    table.replace({digest_of(b"key"): Key("k", "k", Scopes(("infer",)), limits=limits)})
    plane: Plane = Plane(None)  # type: ignore[arg-type]

    def ask(model: str = "m") -> Awaitable[Any]:
        return plane.infer(CODEC, None, model, "", a_call(grant_of(table)))

    first = asyncio.ensure_future(ask())
    await asyncio.sleep(0)
    assert reached.count == 1
    assert isinstance(_raised(lambda: grant_of(table)), RateLimited)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert repr(limits).endswith("0 running>"), "whatever its end is"
    reached.open.set()
    assert await ask() == "answer"
    assert await plane.infer(CODEC, None, "m", "", a_call(None)) == "answer", (
        "calls of the server's own models"
    )


@pytest.mark.parametrize("takes_pieces", [False, True])
def test_a_posted_request_counts_until_its_answer(
    clock: Clock, reached: SimpleNamespace, takes_pieces: bool
) -> None:
    limits = Limits(LimitRules("1/h+10", at_once=1))
    table = KeyTable(lambda: 0.0, clock, b"x-tenant")
    table.replace({digest_of(b"key"): Key("k", "k", Scopes(("infer",)), limits=limits)})
    plane: Plane = Plane(None)  # type: ignore[arg-type]
    grant, told = grant_of(table), list[object]()

    def ask() -> Callable[[], None] | None:
        return plane.post(
            CODEC, None, "m", "", a_call(grant), lambda reply, pieces: told.append(reply), takes_pieces
        )

    def running() -> bool:
        return isinstance(grant.refusal("m"), RateLimited) if grant else False

    give_up = ask()
    assert give_up is not None and running()
    assert ask() is not None
    assert isinstance(told.pop(), RateLimited)
    reached.tell(b"late answer", None)
    assert told == [b"late answer"] and not running()
    give_up()
    assert not running(), "counted once"

    give_up = ask()
    assert give_up is not None and running()
    give_up()
    assert reached.given_up == 1 and not running()

    reached.open.set()  # answered before post returns
    assert ask() is not None and not running()
    reached.posts = False
    left = limits.cells[0].left(0)
    assert ask() is None and not running(), "a request that another way answers is counted there"
    assert limits.cells[0].left(0) == left
    assert reached.count == 3


async def test_an_answer_in_pieces_counts_to_its_last_piece(clock: Clock, reached: SimpleNamespace) -> None:
    grant = grant_of(table_of(clock, LimitRules(at_once=1)))
    assert grant is not None
    plane: Plane = Plane(None)  # type: ignore[arg-type]
    found = list[Any]()
    assert plane.post(CODEC, None, "m", "", a_call(grant), lambda reply, pieces: found.append(pieces), True)

    async def write_all(write: Any) -> None:
        assert grant.refusal("m") is not None
        await write("piece")

    reached.tell(None, write_all)
    assert grant.refusal("m") is not None
    pieces = list[str]()

    async def write(piece: str) -> None:
        pieces.append(piece)

    await found[0](write)
    assert pieces == ["piece"] and grant.refusal("m") is None


def test_what_a_caller_is_told() -> None:
    """Fields of the IETF's draft; whole seconds, rounded up."""
    refusal = RateLimited("much", limit=ReachedLimit("key-requests", 100, 2), retry_after=1.25)
    reply = http_fault(refusal)
    assert reply.status == 429
    assert dict(reply.headers) == {
        b"content-type": b"application/json",
        b"retry-after": b"2",
        b"retry-after-ms": b"1250",
        b"ratelimit-policy": b'"key-requests";q=100;w=2',
        b"ratelimit": b'"key-requests";r=0;t=2',
    }
    at_once = RateLimited("much", limit=ReachedLimit("key-concurrent-requests", 8))
    policy = dict(http_fault(at_once).headers)[b"ratelimit-policy"]
    assert policy == b'"key-concurrent-requests";q=8;qu="concurrent-requests"'
    status = grpc_fault(refusal)
    assert (status.code, status.pushback_ms) == (8, 1250)


@pytest.mark.parametrize("takes_pieces", [False, True])
def test_an_answered_request_leaves_nothing_behind(
    clock: Clock, reached: SimpleNamespace, takes_pieces: bool
) -> None:
    """The collector does not see cycles through a call."""
    plane: Plane = Plane(None)  # type: ignore[arg-type]
    grant = grant_of(table_of(clock, LimitRules("1000/s", at_once=5, tokens="5000/s")))

    def ask(count: int, *, gives_up: bool) -> int:
        before = sys.getallocatedblocks()
        for _ in range(count):
            call = a_call(grant)
            give_up = plane.post(
                CODEC, None, "m", "", call, lambda reply, pieces, call=call: None, takes_pieces
            )
            assert give_up is not None
            if gives_up:
                give_up()
            else:
                reached.tell(b"answer", None)
            call = give_up = reached.tell = None  # type: ignore[assignment]
        return sys.getallocatedblocks() - before

    for gives_up in (False, True):
        ask(10, gives_up=gives_up)
        assert ask(100, gives_up=gives_up) < 100

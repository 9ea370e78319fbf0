"""Whose key is it, and what may it do?"""

import base64
import tracemalloc
from collections.abc import Iterable
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from salver.features.access.credentials import credentials
from salver.features.access.key_format import digest_of, new_key
from salver.features.access.key_table import Identities, Key, KeyGrant, KeyTable
from salver.features.access.run_plan import RunPlan
from salver.features.access.scopes import RIGHTS, Scopes
from salver.transport.access_check import Caller
from salver.transport.http1_head import Head
from salver.words.errors import InvalidInput, OutOfScope, Unidentified

A, B, OLD = "slv_key-of-ada", "slv_key-of-bob", "slv_old-key-of-ada"
Headers = list[tuple[bytes, bytes]]


def bearer(key: str) -> Headers:
    return [(b"authorization", f"Bearer {key}".encode())]


def basic(text: str) -> Headers:
    return [(b"authorization", b"Basic " + base64.b64encode(text.encode()))]


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def ada(*scopes: str, until: float = 2000.0) -> Key:
    return Key("k1", "ada", Scopes(scopes or ("*",)), until)


def keys(*scopes: str) -> dict[bytes, Key]:
    """Ada's key, her key before its rotation, and Bob's."""
    return {
        digest_of(A.encode()): ada(*scopes),
        digest_of(OLD.encode()): ada(*scopes, until=1500.0),
        digest_of(B.encode()): Key("k2", "bob", Scopes(("*",))),
    }


@pytest.fixture
def table(clock: Clock) -> KeyTable:
    table = KeyTable(clock, lambda: int(clock.now * 1e9), b"x-tenant")
    table.replace(keys())
    return table


def outcome(table: KeyTable, headers: Headers) -> str:
    try:
        table.admit(headers, "infer", "m", is_later=False)
    except (Unidentified, InvalidInput, OutOfScope) as error:
        return type(error).__name__
    return "admitted"


@pytest.mark.parametrize(
    "headers",
    [
        bearer(A),
        [(b"authorization", f"BEARER  {A} ".encode())],
        [(b"x-api-key", A.encode())],
        [(b"api-key", A.encode())],
        basic(f"anybody:{A}"),
        basic(f":{A}"),
        [*bearer(A), (b"x-api-key", A.encode())],
        bearer(A) + bearer(A),
        [*bearer(A), (b"x-api-key", OLD.encode())],  # the same caller's
        [*bearer(A), (b"authorization", b"AWS4-HMAC-SHA256 Credential=x")],
    ],
)
def test_places_of_a_key(table: KeyTable, headers: Headers) -> None:
    assert outcome(table, headers) == "admitted"
    assert table.caller(headers) == Caller("key:ada")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [(b"cookie", f"x-api-key={A}".encode())],
        [(b"x_api_key", A.encode())],
        [(b"authorization", A.encode())],
        [(b"authorization", b"AWS4-HMAC-SHA256 Credential=x")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"Bearer ")],
        [(b"authorization", f"Bearer {A} b".encode())],
        [(b"authorization", f"Bearer {A}é".encode("latin-1"))],
        [(b"x-api-key", f"{A}\u200b".encode())],
        [(b"x-api-key", b"")],
        [(b"x-api-key", A.encode() + b" " * 9000)],
        [(b"x-api-key", A.upper().encode())],
        basic(A),
        basic(f"{A}:"),
        [(b"authorization", b"Basic !")],
        bearer("slv_nobodys"),
    ],
)
def test_no_valid_key(table: KeyTable, headers: Headers) -> None:
    assert outcome(table, headers) == "Unidentified"
    assert table.caller(headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        [*bearer(A), (b"x-api-key", B.encode())],
        bearer(A) + bearer(B),
        [*bearer(A), (b"api-key", b"slv_nobodys")],
        [*bearer(A), (b"api-key", b"")],
        [(b"api-key", b"slv_nobodys"), (b"x-api-key", b"slv_of-nobody-else")],
    ],
)
def test_keys_that_do_not_name_one_caller(table: KeyTable, headers: Headers) -> None:
    assert outcome(table, headers) == "InvalidInput"
    assert outcome(table, headers[::-1]) == "InvalidInput"


def test_unknown_expired_and_revoked_keys_are_told_the_same(table: KeyTable, clock: Clock) -> None:
    def text(key: str) -> str:
        with pytest.raises(Unidentified) as caught:
            table.admit(bearer(key), "infer", "m", is_later=False)
        assert caught.value.has_credential
        return str(caught.value)

    clock.now = 1500.0
    texts = {text("slv_nobodys"), text(OLD)}
    table.replace({})
    assert {*texts, text(A)} == {"the key is not valid. Ask for a new one."}


def test_the_old_key_ends_after_the_overlap(table: KeyTable, clock: Clock) -> None:
    clock.now = 1499.9
    assert outcome(table, bearer(OLD)) == "admitted"
    clock.now = 1500.0
    assert outcome(table, bearer(OLD)) == "Unidentified"
    assert outcome(table, bearer(A)) == "admitted"


def test_liveness_asks_for_nothing_and_a_known_caller_needs_no_scope(table: KeyTable) -> None:
    assert table.admit([], "open", is_later=False) is None
    table.replace(keys("outcomes"))
    assert table.admit(bearer(A), "known", is_later=False) is None
    with pytest.raises(OutOfScope):
        table.admit(bearer(A), "infer", "m", is_later=True)


def test_a_model_in_the_body_is_checked_later(table: KeyTable) -> None:
    everything = table.admit(bearer(A), "infer", is_later=True)
    assert everything is not None and not everything.checks  # all models
    table.replace(keys("infer:res*", "infer:b[1]"))
    grant = table.admit(bearer(A), "infer", is_later=True)
    assert grant is not None and grant.checks
    for name in ("resnet", "res", "b[1]"):
        grant.check(name)
        known = table.admit(bearer(A), "infer", name, is_later=False)
        assert known is not None and not known.checks
    for name in ("", "Resnet", "b1", "xres"):
        with pytest.raises(OutOfScope) as caught:
            grant.check(name)
        assert caught.value.scope == "infer"
        with pytest.raises(OutOfScope):
            table.admit(bearer(A), "infer", name, is_later=False)


def test_a_prompt_lasts_as_long_as_its_key(table: KeyTable, clock: Clock) -> None:
    class Exchange:
        head = Head("GET", b"/", b"", "1.1", (), (), 0, True, False, {"x": 1})

    asked: list[object] = []
    exchange = Exchange()
    prompt = table.lasting(lambda each: asked.append(each) is None, bearer(A))
    assert prompt(exchange)  # type: ignore[arg-type]
    assert exchange.head.notes
    table.replace(keys())  # nothing has changed
    assert prompt(exchange)  # type: ignore[arg-type]
    clock.now = 2000.0
    assert not prompt(exchange)  # type: ignore[arg-type]
    clock.now = 1000.0
    table.replace(keys("infer"))  # other scopes
    assert not prompt(exchange)  # type: ignore[arg-type]
    assert not exchange.head.notes, "the next request is decided anew"
    assert len(asked) == 2


def test_a_grant_of_a_key_without_an_end_is_asked_in_place_of_its_prompt(table: KeyTable) -> None:
    def lasting(key: Key) -> tuple[KeyGrant, bool]:
        table.replace({digest_of(b"key"): key})
        headers = [(b"x-api-key", b"key")]
        grant = table.admit(headers, "infer", "m", is_later=False)
        assert isinstance(grant, KeyGrant)
        return grant, table.lasting(_never, headers) is _never

    grant, is_same = lasting(Key("k", "k", Scopes(("infer",))))
    assert is_same and isinstance(grant.enter("m"), RunPlan) and not grant.is_stale
    other, is_same = lasting(Key("k", "k", Scopes(("infer:m",)), until=1e9))
    assert not is_same and isinstance(other.enter("m"), RunPlan)
    assert grant.enter("m") is None and grant.is_stale and grant.still_refused() is None


def _never(exchange: object) -> bool:
    return False


def test_random_keys_cost_no_memory(table: KeyTable) -> None:
    tracemalloc.start()
    try:
        for _ in range(2):
            before = tracemalloc.get_traced_memory()[0]
            for number in range(5000):
                assert outcome(table, bearer(f"slv_{number}")) == "Unidentified"
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


@given(
    st.lists(st.tuples(st.sampled_from([b"authorization", b"x-api-key", b"host"]), st.binary(max_size=40)))
)
def test_any_headers_can_be_read(headers: Iterable[tuple[bytes, bytes]]) -> None:
    for key in credentials(headers):
        assert key.isascii()


def test_reprs_show_no_secret(table: KeyTable) -> None:
    key = new_key()
    found = Key("k", "ada", Scopes(("infer",)))
    table.replace({digest_of(key.encode()): found})
    for shown in (repr(found), repr(table), repr(found.scopes), repr(found.scopes.of("infer"))):
        assert key not in shown and digest_of(key.encode()).hex() not in shown


@pytest.mark.parametrize("texts", [(), ("",), ("drive",), ("infer:",), ("known",), ("open:x",), (":m",)])
def test_wrong_scopes(texts: tuple[str, ...]) -> None:
    with pytest.raises(InvalidInput):
        Scopes(texts)


def test_everything_is_every_right() -> None:
    for right in set(RIGHTS) - {"*"}:
        assert Scopes(["*"]).of(right).has_all  # type: ignore[arg-type]
        assert not Scopes(["*:m"]).of(right).has_all  # type: ignore[arg-type]


def test_identities_close_a_table_that_was_open() -> None:
    keys = KeyTable(lambda: 0.0, lambda: 0, b"")
    keys.replace({}, "ledger", is_open=True)
    assert keys.is_open
    keys.accept(cast(Identities, SimpleNamespace(by_peer=lambda headers: [], by_token=lambda *token: None)))
    keys.replace({}, "ledger", is_open=True)
    with pytest.raises(Unidentified):
        keys.admit([], "read", is_later=False)

"""What is counted and written down of refused requests, and of changes of the keys."""

import logging
from pathlib import Path
from typing import Any

import msgspec
import pytest

from salver.features.access.building import WatchedFile
from salver.features.access.key_format import digest_of
from salver.features.access.key_table import Key, KeyChange, KeyTable
from salver.features.access.keys_file import KeyRecord, hash_of, written
from salver.features.access.limits import LimitRules, Limits
from salver.features.access.refusals import Refusals
from salver.features.access.scopes import Scopes
from salver.transport.access_check import Access, Caller
from salver.words.errors import OutOfScope, RateLimited, SalverError, Unauthenticated, Unidentified

NS = 1_000_000_000
SCOPE = OutOfScope("no", scope="infer")


class Clock:
    now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def audit(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO, "salver.audit")
    return caplog


def lines(audit: pytest.LogCaptureFixture) -> list[Any]:
    found: list[Any] = [record.msg for record in audit.records if record.name == "salver.audit"]
    audit.clear()
    return found


def counts(refusals: Refusals) -> dict[tuple[str, str], float]:
    (family,) = refusals.collect()
    assert family.name == "salver_access_refusals"
    return {(each.labels["reason"], each.labels["key"]): each.value for each in family.samples}


def test_all_are_counted_and_some_are_written_down(clock: Clock, audit: pytest.LogCaptureFixture) -> None:
    refusals = Refusals(clock)
    for _ in range(105):
        refusals.record(SCOPE, "k1", "infer", "m")
    first = {"event": "request refused", "reason": "scope", "key": "k1", "right": "infer", "model": "m"}
    assert lines(audit) == [first] * 5
    refusals.record(SCOPE, "k2", "read", "")
    assert len(lines(audit)) == 1, "others have lines of their own"
    clock.now = 10 * NS
    for _ in range(3):
        refusals.record(SCOPE, "k1", "infer", "m")
    assert lines(audit) == [{**first, "repeated": 100}]
    assert counts(refusals) == {("scope", "k1"): 108, ("scope", "k2"): 1}


def test_names_that_callers_choose_cost_neither_lines_nor_memory(
    clock: Clock, audit: pytest.LogCaptureFixture
) -> None:
    refusals = Refusals(clock)
    for number in range(1000):
        refusals.record(Unidentified("no"), "", "infer", f"{number}" * 1000)
    found = lines(audit)
    assert len(found) == 5 and all(len(line["model"]) == 128 for line in found)
    assert counts(refusals) == {("no_key", ""): 1000}


def test_too_many_keys_share_a_series(clock: Clock) -> None:
    refusals = Refusals(clock)
    for number in [*range(1003), 0]:
        refusals.record(SCOPE, f"k{number}", "infer", "m")
    found = counts(refusals)
    assert len(found) == 1001
    assert (found["scope", "k0"], found["scope", "other"]) == (2, 3)


def a_table(clock: Clock) -> KeyTable:
    table = KeyTable(lambda: clock.now / NS, clock, b"x-tenant")
    scopes = Scopes(("infer:m", "read"))
    table.replace(
        {
            digest_of(b"good"): Key("good", "ada", scopes),
            digest_of(b"old"): Key("old", "old", scopes, until=0.0),
            digest_of(b"zero"): Key("zero", "zero", scopes, limits=Limits(LimitRules("0/s"))),
        }
    )
    return table


@pytest.mark.parametrize(
    ("keys", "model", "label"),
    [
        ([], "m", ("no_key", "")),
        (["unknown"], "m", ("invalid_key", "")),
        (["old"], "m", ("invalid_key", "old")),
        (["good", "old"], "m", ("several_keys", "")),
        (["good"], "other", ("scope", "good")),
        (["zero"], "m", ("limit", "zero")),
    ],
)
def test_reasons(clock: Clock, keys: list[str], model: str, label: tuple[str, str]) -> None:
    table = a_table(clock)
    headers = [(b"x-api-key", key.encode()) for key in keys]
    for is_trial in (True, False):
        if is_trial and label[0] == "limit":  # which may be over when the body comes
            assert table.admit(headers, "infer", model, is_later=False, is_trial=True) is not None
            continue
        with pytest.raises(SalverError):
            table.admit(headers, "infer", model, is_later=False, is_trial=is_trial)
        assert counts(table.refusals) == ({} if is_trial else {label: 1})


def test_what_a_grant_refuses_is_counted_once(clock: Clock) -> None:
    table = a_table(clock)
    grant = table.admit([(b"x-api-key", b"good")], "infer", is_later=True)
    assert grant is not None
    assert isinstance(grant.refusal("other", is_trial=True), OutOfScope)
    assert counts(table.refusals) == {}
    assert isinstance(grant.refusal("other"), OutOfScope)
    with pytest.raises(OutOfScope):
        grant.check("other")
    assert grant.refusal("m") is None
    assert counts(table.refusals) == {("scope", "good"): 2}


def test_a_limit_that_is_reached_after_the_head_is_counted(clock: Clock) -> None:
    table = KeyTable(lambda: 0.0, clock, b"")
    table.replace({digest_of(b"key"): Key("k", "k", Scopes(("*",)), limits=Limits(LimitRules("1/h")))})
    grant = table.admit([(b"x-api-key", b"key")], "infer", "m", is_later=False)
    assert grant is not None
    charge = grant.begin("m")
    assert charge is not None
    charge.weigh(1, "")
    assert isinstance(grant.refusal("m"), RateLimited)
    assert counts(table.refusals) == {("limit", "k"): 1}


@pytest.mark.parametrize(("token", "expected"), [("registry's", {}), ("nobody's", {("invalid_key", ""): 1})])
async def test_a_token_of_the_registry_is_no_refusal(
    clock: Clock, token: str, expected: dict[tuple[str, str], float]
) -> None:
    async def read_token(text: str) -> Caller:
        if text != "registry's":
            raise Unauthenticated("no")
        return Caller("registry")

    table = a_table(clock)
    access = Access("", read_token=read_token, keys=table)
    is_refused = False
    try:
        await access.admit([(b"authorization", f"Bearer {token}".encode())], "read", "")
    except Unidentified:
        is_refused = True
    assert is_refused == bool(expected)
    assert counts(table.refusals) == expected


def test_changes_of_keys(clock: Clock) -> None:
    def key(id: str, *scopes: str, until: float = 9.0) -> Key:
        return Key(id, f"name of {id}", Scopes(scopes or ("infer",)), until)

    table = KeyTable(lambda: 0.0, clock, b"")
    assert table.replace({b"a": key("a"), b"b": key("b")}) == [
        KeyChange("added", "a", "name of a"),
        KeyChange("added", "b", "name of b"),
    ]
    assert table.replace({b"a": key("a"), b"b": key("b")}) == []
    rotated = {b"a": key("a", until=1.0), b"new": key("a"), b"b": key("b")}
    assert table.replace(rotated) == [KeyChange("changed", "a", "name of a")]
    assert table.replace({b"new": key("a", "read"), b"c": key("c")}) == [
        KeyChange("changed", "a", "name of a"),
        KeyChange("revoked", "b", "name of b"),
        KeyChange("added", "c", "name of c"),
    ]


async def test_changes_of_the_file_are_written_down(
    tmp_path: Path, clock: Clock, audit: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "keys.toml"
    ada = KeyRecord("k1", "ada", hash_of("a"), ("infer",))
    path.write_text(written([ada]))
    watched = WatchedFile(path, KeyTable(lambda: 0.0, clock, b""))
    watched.read()
    assert lines(audit) == [], "the keys of the start"
    bob = KeyRecord("k2", "bob", hash_of("b"), ("infer",))
    path.write_text(written([msgspec.structs.replace(ada, scopes=("read",)), bob]))
    await watched.look()
    assert lines(audit) == [
        {"event": "key changed", "key": "k1", "name": "ada"},
        {"event": "key added", "key": "k2", "name": "bob"},
    ]
    many = [KeyRecord(f"n{number:03}", "n", hash_of(f"n{number}"), ("infer",)) for number in range(150)]
    path.write_text(written(many))
    await watched.look()
    found = lines(audit)
    assert found[0] == {"event": "key revoked", "key": "k1", "name": "ada"}
    assert (len(found), found[-1]) == (101, {"event": "more keys changed", "keys": 52})

"""Tenant, level and service class of requests with a key, on every way to a model."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from salver.features.access.key_format import digest_of
from salver.features.access.key_table import Key, KeyTable
from salver.features.access.limits import LimitRules, Limits
from salver.features.access.plane import CheckingPlane
from salver.features.access.scopes import Scopes
from salver.kernel.serving.dataplane import DataPlane
from salver.words.errors import InvalidInput
from salver.words.messages import ANYBODY, Call, Grant, Standing

GRANTED = Standing("acme", 2, "normal")
KEY = (b"x-api-key", b"key")
WISHES = ((b"x-tenant", b"rival"), (b"x-priority", b"1"), (b"x-service-class", b"urgent"))
CODEC: Any = SimpleNamespace(fault=lambda error: error)


def a_table(granted: Standing | None, limits: Limits | None = None) -> KeyTable:
    table = KeyTable(lambda: 0.0, lambda: 0, b"x-tenant")
    table.replace({digest_of(b"key"): Key("k", "k", Scopes(("*",)), limits=limits, granted=granted)})
    return table


def grant_of(table: KeyTable, *headers: tuple[bytes, bytes]) -> Grant:
    grant = table.admit([KEY, *headers], "infer", "m", is_later=False)
    assert grant is not None
    return grant


def test_a_grant_has_what_the_headers_ask_for_within_the_key() -> None:
    table = a_table(GRANTED)
    assert grant_of(table).standing == Standing("acme", 2, "normal", GRANTED)
    assert grant_of(table, *WISHES).standing == Standing("acme", 2, "normal", GRANTED)
    lower = grant_of(table, (b"x-priority", b"3"), (b"x-service-class", b"bulk"))
    assert lower.standing == Standing("acme", 3, "bulk", GRANTED)
    with pytest.raises(InvalidInput, match="x-priority"):
        grant_of(table, (b"x-priority", b"first"))


def test_a_key_without_a_standing_has_the_common_one() -> None:
    table = a_table(ANYBODY)
    assert grant_of(table).standing is ANYBODY
    assert grant_of(table, *WISHES).standing == Standing("", 1, "normal", ANYBODY)
    assert a_table(None).admit([KEY, *WISHES], "infer", "m", is_later=False) is None, "the server's token"


def test_only_runs_of_models_have_a_standing() -> None:
    assert a_table(GRANTED).admit([KEY, *WISHES], "read", "m", is_later=True) is None


def test_another_standing_ends_what_is_known_of_a_key() -> None:
    key = Key("k", "k", Scopes(("*",)), granted=GRANTED)
    assert key.is_like(Key("k", "k", Scopes(("*",)), granted=Standing("acme", 2)))
    assert not key.is_like(Key("k", "k", Scopes(("*",)), granted=Standing("acme", 1)))


def standings(monkeypatch: pytest.MonkeyPatch) -> list[Standing]:
    """Return the standings of the calls that reach the data plane below."""
    seen: list[Standing] = []

    def note(*said: Any, **_: Any) -> None:
        seen.extend(each.standing for each in said if isinstance(each, Call))

    async def answer(*said: Any) -> None:
        note(*said)

    for name, method in (("infer", answer), ("stream", answer), ("post", note), ("foresee", note)):
        monkeypatch.setattr(DataPlane, name, method)
    return seen


@pytest.mark.parametrize("limits", [None, Limits(LimitRules("5/s+9"))])
async def test_every_way_to_a_model_takes_the_keys_standing(
    monkeypatch: pytest.MonkeyPatch, limits: Limits | None
) -> None:
    seen = standings(monkeypatch)
    plane: CheckingPlane[Any, Any] = CheckingPlane(None)  # type: ignore[arg-type]
    grant = grant_of(a_table(GRANTED, limits), *WISHES)

    def a_call() -> Call:
        return Call("test", 0.0, standing=Standing("rival", 1, "urgent"), grant=grant)

    tell: Callable[..., None] = lambda *_: None  # noqa: E731
    await plane.infer(CODEC, None, "m", "", a_call())
    await plane.stream(CODEC, None, "m", "", a_call())
    plane.post(CODEC, None, "m", "", a_call(), tell)
    plane.foresee(CODEC, "m", "", a_call())
    assert seen == [grant.standing] * 4
    assert grant.standing.tenant == "acme"


async def test_calls_of_the_servers_own_models_keep_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = standings(monkeypatch)
    plane: CheckingPlane[Any, Any] = CheckingPlane(None)  # type: ignore[arg-type]
    inner = Standing("acme", 1, "bulk")
    await plane.infer(CODEC, None, "m", "", Call("ensemble", 0.0, standing=inner))
    assert seen == [inner]

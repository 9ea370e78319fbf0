"""Does a token prove who somebody is, and nothing else?"""

import pytest
from registries import ANN, counted
from sqlalchemy import select

from salver.features.ledger.schema import TOKEN
from salver.features.registry.records import Actor
from salver.features.registry.registry import ModelRegistry
from salver.features.registry.tokens import Tokens
from salver.words.errors import Forbidden, InvalidInput, NotFound, Unauthenticated


def tokens(registry: ModelRegistry) -> Tokens:
    drawn = iter(range(1, 100))
    return Tokens(
        registry.ledger, lambda: 1.5, counted("t").__next__, lambda count: bytes([next(drawn)]) * count
    )


async def test_a_token_is_its_owners_and_is_kept_as_a_hash(registry: ModelRegistry) -> None:
    known = tokens(registry)
    token, text = await known.make("bob", ["releaser", "auditor", "releaser"], ANN)
    assert token.roles == ("auditor", "releaser")
    assert await known.actor(text) == Actor("bob", frozenset({"releaser", "auditor"}))
    assert await known.list() == (token,)
    rows = await registry.ledger.read(lambda c: repr(c.execute(select(TOKEN)).all()))
    assert text not in rows
    for wrong in ("", "salver_", text + "x", text.upper()):
        with pytest.raises(Unauthenticated):
            await known.actor(wrong)


async def test_a_revoked_token_proves_nothing(registry: ModelRegistry) -> None:
    known = tokens(registry)
    token, text = await known.make("bob", [], ANN)
    await known.revoke(token.id, ANN)
    with pytest.raises(Unauthenticated):
        await known.actor(text)
    with pytest.raises(NotFound):
        await known.revoke(token.id, ANN)
    told = [(entry.action, entry.subject, entry.actor) for entry in await registry.history()]
    assert told == [("token.revoked", "t1 bob", "ann"), ("token.made", "t1 bob", "ann")]


async def test_once_there_is_an_admin_only_admins_make_tokens(registry: ModelRegistry) -> None:
    known = tokens(registry)
    _, text = await known.make("root", ["admin"], ANN)
    admin = await known.actor(text)
    with pytest.raises(Forbidden, match="ann may not create or revoke tokens"):
        await known.make("eve", ["releaser"], ANN)
    with pytest.raises(Forbidden):
        await known.revoke("t1", ANN)
    token, _ = await known.make("bob", ["releaser"], admin)
    await known.revoke(token.id, admin)


@pytest.mark.parametrize(("name", "role"), [("", "x"), ("a\n", "x"), ("ann", ""), ("ann", "a,b")])
async def test_names_and_roles_are_names(registry: ModelRegistry, name: str, role: str) -> None:
    with pytest.raises(InvalidInput):
        await tokens(registry).make(name, [role], ANN)

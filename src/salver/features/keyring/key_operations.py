"""Management operations on keys."""

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Final, Literal

import msgspec

from salver.features.access.key_table import Key
from salver.features.access.limit_book import DeclaredLimits
from salver.features.access.limits import LimitRules
from salver.features.keyring.key_changes import OVERLAP, Author, KeyEdit, KeyWish, LimitChange, ShownKey
from salver.features.keyring.key_ring import KeyRing, MadeKey
from salver.features.registry.tokens import Tokens
from salver.transport.operations import (
    Answer,
    ApiRequest,
    NoQuery,
    Operation,
    Page,
    PageQuery,
    Why,
    paged,
)
from salver.words.errors import Forbidden

_ONE: Final = "/keys/{key}"
_Run = Callable[[ApiRequest], Awaitable[Answer]]


class Rotation(Why, frozen=True, forbid_unknown_fields=True):
    """Request for a new key in the place of another one.

    Attributes:
        overlap: Time for which the old key stays valid, as ``24h``, up to ``30d``; ``0m`` = it ends now.
    """

    overlap: Annotated[str, msgspec.Meta(max_length=16)] = OVERLAP


class NewLimits(Why, frozen=True, forbid_unknown_fields=True):
    """Limits of a key in the place of those that it has; None = it has no limits."""

    limits: LimitRules | None


class HeldLimits(Why, frozen=True, forbid_unknown_fields=True):
    """Limits of a tenant, a model or the server in the place of those that it has; None = it has none.

    Attributes:
        name: Name, or a pattern in which ``*`` stands for any letters; empty = the server.
    """

    holder: Literal["tenant", "model", "server"]
    limits: LimitRules | None
    name: Annotated[str, msgspec.Meta(max_length=300, pattern=r"^[^\x00]*$")] = ""

    @property
    def change(self) -> LimitChange:
        """Return the change."""
        return LimitChange(self.holder, self.name, self.limits)


def key_operations(ring: KeyRing, apply: Callable[[], Awaitable[None]]) -> list[Operation]:
    """Return the operations.

    Args:
        apply: Lets this server follow a change at once; others see it within a second.
    """

    async def list_keys(asked: ApiRequest) -> Answer:
        return Answer(paged(await ring.list(), asked.query, lambda key: key.id))

    async def show_key(asked: ApiRequest) -> Answer:
        return Answer(await ring.show(asked.names["key"]))

    async def list_limits(asked: ApiRequest) -> Answer:
        return Answer(await ring.declared())

    def changing(work: Callable[[ApiRequest, Author], Awaitable[Any]]) -> _Run:
        async def run(asked: ApiRequest) -> Answer:
            done = await work(asked, _author(asked))
            await apply()
            return Answer(done)

        return run

    create_key = changing(lambda asked, author: ring.create(asked.body, author))
    rotate_key = changing(lambda asked, who: ring.rotate(asked.names["key"], asked.body.overlap, who))
    revoke_key = changing(lambda asked, author: ring.revoke(asked.names["key"], author))
    limit_key = changing(lambda asked, who: ring.limit(asked.names["key"], asked.body.limits, who))
    edit_key = changing(lambda asked, author: ring.edit(asked.names["key"], asked.body, author))
    set_limits = changing(lambda asked, author: ring.declare(asked.body.change, author))
    held, hold = "Limits of tenants, models and the server", "Change limits of one of them"
    edit = "Change scopes, expiry, owner or note of a key"
    create, rotate = "Make a key, which is shown once", "Replace a key, with the old one valid for a while"
    revoke, limit, page = "Revoke a key", "Change the limits of a key", Page[ShownKey]
    table: tuple[tuple[str, Literal["GET", "POST", "PUT", "DELETE"], str, str, _Run, Any, Any, Any], ...] = (
        ("list_keys", "GET", "/keys", "All keys, the oldest first", list_keys, page, None, PageQuery),
        ("create_key", "POST", "/keys", create, create_key, MadeKey, KeyWish, NoQuery),
        ("key", "GET", _ONE, "A key", show_key, ShownKey, None, NoQuery),
        ("rotate_key", "POST", f"{_ONE}/rotate", rotate, rotate_key, MadeKey, Rotation, NoQuery),
        ("revoke_key", "DELETE", _ONE, revoke, revoke_key, ShownKey, Why, NoQuery),
        ("edit_key", "PUT", _ONE, edit, edit_key, ShownKey, KeyEdit, NoQuery),
        ("limit_key", "PUT", f"{_ONE}/limits", limit, limit_key, ShownKey, NewLimits, NoQuery),
        ("limits", "GET", "/limits", held, list_limits, DeclaredLimits, None, NoQuery),
        ("set_limits", "PUT", "/limits", hold, set_limits, DeclaredLimits, HeldLimits, NoQuery),
    )
    return [Operation(*row, changes=row[1] != "GET", right="access") for row in table]


def _author(asked: ApiRequest) -> Author:
    """Return the author of a change. Raises Forbidden."""
    caller, why = asked.caller, asked.body.reason
    if isinstance(asked.own, Key):
        return Author(caller.name, asked.own.scopes, asked.own.id, why)
    if asked.changing != "open" and Tokens.ADMIN not in caller.roles:
        raise Forbidden(
            f"the token of {caller.name} may not change keys",
            field="authorization",
            fix=f"Use a key with the scope access, or a token with the role {Tokens.ADMIN}.",
        )
    return Author(caller.name, why=why)

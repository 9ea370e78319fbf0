"""``salver keys``: make, list, rotate, limit and revoke keys, in a file, in the ledger, or on a server."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar

import msgspec
from cyclopts import App, Parameter

from salver.features.access.limit_book import DeclaredLimits
from salver.features.access.limits import Holder, LimitRules
from salver.features.access.scopes import RIGHTS
from salver.features.keyring.key_changes import (
    NEVER,
    OVERLAP,
    Author,
    KeyEdit,
    KeyWish,
    LimitChange,
    ShownKey,
    moment_of,
)
from salver.terminal.options import DEFAULT_URL, Json, token
from salver.terminal.output import line, listed, moment, record, remark, result
from salver.words.errors import InvalidInput
from salver.words.messages import LimitState, Service

if TYPE_CHECKING:
    from salver.features.keyring.key_ring import KeyRecords, Keys, Left, MadeKey

T = TypeVar("T")
keys = App(
    name="keys",
    help="Keys of callers: in a file (--keys-file, SALVER_KEYS_FILE), in a ledger (--registry, "
    "SALVER_REGISTRY), or on a running server (--url, SALVER_URL; the key for that is in SALVER_TOKEN).",
    default_parameter=Parameter(negative=()),
)
_NONE: Final = "none"


@Parameter(name="*")
@dataclass(frozen=True)
class Place:
    """Place of the keys. An option goes before the variables, and they in the order of the options."""

    keys_file: Annotated[str, Parameter(name="--keys-file", help="File of the keys.")] = ""
    registry: Annotated[
        str,
        Parameter(
            name=("--registry", "--ledger"),
            help="Folder of the registry whose ledger has the keys, or its URL (postgresql://…).",
        ),
    ] = ""
    url: Annotated[str, Parameter(name="--url", help=f"URL of a server (default: {DEFAULT_URL}).")] = ""

    def chosen(self) -> "Place":
        """Return the one place that is meant. Raises InvalidInput."""
        given = [name for name in ("keys_file", "registry", "url") if getattr(self, name)]
        if len(given) > 1:
            raise InvalidInput(
                "keys are in one place at a time", fix="Give one of --keys-file, --registry and --url."
            )
        if given:
            return self
        for name in ("keys_file", "registry", "url"):
            if text := os.environ.get(f"SALVER_{name.upper()}", ""):
                return Place(**{name: text})
        return Place(url=DEFAULT_URL)


_USUAL: Final = Place()
Why = Annotated[str, Parameter(help="Reason, for the audit log.")]


@keys.command
def create(
    name: str,
    /,
    *,
    place: Place = _USUAL,
    scope: Annotated[
        tuple[str, ...],
        Parameter(help="Right, or RIGHT:PATTERN of model names, repeatable. Rights: " + ", ".join(RIGHTS)),
    ] = ("infer",),
    expires: Annotated[str, Parameter(help="Time until it expires, as 90d, 12h or 30m.")] = NEVER,
    limit: Annotated[
        str, Parameter(help="Rate of requests to models, as 50/s, 10/m, or 50/s+100 with another burst.")
    ] = "",
    rows: Annotated[str, Parameter(help="Rate of rows of such requests, in the same form.")] = "",
    tokens: Annotated[str, Parameter(help="Rate of tokens, of prompts and answers together.")] = "",
    at_once: Annotated[int, Parameter(help="Most requests to models that run at a time; 0 = no limit.")] = 0,
    quota: Annotated[
        tuple[str, ...],
        Parameter(
            help="Quota of requests, rows, tokens or seconds in models, repeatable, as 10000/day or "
            "'1e6 tokens/month'."
        ),
    ] = (),
    tenant: Annotated[str, Parameter(help="Tenant of its requests; '*' = the one that each names.")] = "",
    priority: Annotated[int, Parameter(help="Best level of its requests; 0 = the model's default.")] = 0,
    service_class: Annotated[Service, Parameter(help="Best service class of its requests.")] = "normal",
    owner: Annotated[str, Parameter(help="Person or team to ask about it.")] = "",
    note: Annotated[str, Parameter(help="What it is for.")] = "",
    why: Why = "",
    json: Json = False,
) -> None:
    """Make a key and show it once. Only its hash is kept.

    Args:
        name: Name of the caller.
    """
    wish = KeyWish(
        name=name,
        scopes=scope,
        expires=expires,
        limits=LimitRules(limit, at_once, rows, tokens, quota),
        tenant=tenant,
        priority=priority,
        service_class=service_class,
        owner=owner,
        note=note,
        reason=why,
    )
    made = _run(place, lambda found, author: found.create(wish, author), why, makes=True)
    _show_once(made, json=json)
    if made.is_first:
        remark("it is the first key of this ledger: its servers need one for every request from now on")


@keys.command(name="list")
def list_keys(*, place: Place = _USUAL, json: Json = False) -> None:
    """List the keys, the oldest first."""

    def row(each: ShownKey) -> Sequence[str]:
        used = "" if each.last_use is None else moment(each.last_use)
        scopes = " ".join(each.scopes)
        return (each.id, each.name, scopes, each.state, used, each.key, each.tenant, each.owner)

    found = _run(place, lambda found, _: found.list())
    columns = ("id", "name", "scopes", "state", "last use", "key", "tenant", "owner")
    needless = ("owner", "tenant", "key", "last use")
    listed(found, columns, row, json=json, none="there are no keys", needless=needless)


@keys.command
def show(key: str, /, *, place: Place = _USUAL, json: Json = False) -> None:
    """Show a key: its scopes, limits, times, owner and note.

    Args:
        key: Id of the key, or its name.
    """
    _show(_run(place, lambda found, _: found.show(key)), json=json)


@keys.command
def rotate(
    key: str,
    /,
    *,
    place: Place = _USUAL,
    overlap: Annotated[str, Parameter(help="Time for which the old key stays valid, up to 30d.")] = OVERLAP,
    why: Why = "",
    json: Json = False,
) -> None:
    """Replace a key by a new one, which is shown once. Id, scopes, limits and expiry stay.

    Args:
        key: Id of the key, or its name.
    """
    _show_once(_run(place, lambda found, author: found.rotate(key, overlap, author), why), json=json)


@keys.command
def revoke(key: str, /, *, place: Place = _USUAL, why: Why = "", json: Json = False) -> None:
    """Revoke a key, and the one before its last rotation. Servers refuse them within a second.

    Args:
        key: Id of the key, or its name.
    """
    done = _run(place, lambda found, author: found.revoke(key, author), why)
    result({"id": done.id, "done": "revoked"}, f"{done.id} is revoked", json=json)


@keys.command
def limits(
    key: str = "",
    /,
    *,
    tenant: Annotated[str, Parameter(help="Of this tenant in place of a key, or of each by a pattern.")] = "",
    model: Annotated[str, Parameter(help="Of this model, or of each by a pattern, as 'llm-*'.")] = "",
    server: Annotated[bool, Parameter(help="Of the whole server.")] = False,
    place: Place = _USUAL,
    limit: Annotated[
        str | None, Parameter(help="Rate of requests to models, as 50/s or 50/s+100; none = no limit.")
    ] = None,
    rows: Annotated[str | None, Parameter(help="Rate of rows of such requests.")] = None,
    tokens: Annotated[str | None, Parameter(help="Rate of tokens, of prompts and answers together.")] = None,
    at_once: Annotated[
        int | None, Parameter(help="Most requests to models that run at a time; 0 = no limit.")
    ] = None,
    quota: Annotated[
        tuple[str, ...] | None,
        Parameter(help="Quota, in place of all that it has, repeatable; none = no quota."),
    ] = None,
    why: Why = "",
    json: Json = False,
) -> None:
    """Change limits of a key, a tenant, a model or the server; those that are not given stay.

    Without any, show the key, or all limits of tenants, models and the server.

    Args:
        key: Id of the key, or its name.
    """
    named: tuple[tuple[Holder, str], ...] = (("key", key), ("tenant", tenant), ("model", model))
    meant = [(holder, name) for holder, name in named if name]
    if server:
        meant.append(("server", ""))
    if len(meant) > 1:
        raise InvalidInput(
            "limits are changed of one at a time", fix="Give a key, --tenant, --model or --server."
        )
    wanted = {"requests": limit, "rows": rows, "tokens": tokens, "at_once": at_once}
    given: dict[str, Any] = {
        name: "" if value == _NONE else value for name, value in wanted.items() if value is not None
    }
    if quota is not None:
        given["quotas"] = tuple(text for text in quota if text != _NONE)

    if not key:
        _show_limits(_run(place, partial(_declare, meant, given), why), json=json)
        return

    async def change(found: "Keys", author: Author) -> ShownKey:
        before = await found.show(key)
        if not given:
            return before
        rules = msgspec.structs.replace(before.limits or LimitRules(), **given)
        return await found.limit(before.id, None if rules == LimitRules() else rules, author)

    _show(_run(place, change, why), json=json)


@keys.command
def edit(
    key: str,
    /,
    *,
    place: Place = _USUAL,
    scope: Annotated[
        tuple[str, ...] | None, Parameter(help="Scope, in place of all that it has, repeatable.")
    ] = None,
    expires: Annotated[
        str | None, Parameter(help="Time from now on until it expires, as 90d; never.")
    ] = None,
    owner: Annotated[str | None, Parameter(help="Person or team to ask about it.")] = None,
    note: Annotated[str | None, Parameter(help="What it is for.")] = None,
    why: Why = "",
    json: Json = False,
) -> None:
    """Change scopes, expiry, owner or note of a key; what is not given stays.

    Args:
        key: Id of the key, or its name.
    """
    wanted = KeyEdit(scopes=scope, expires=expires, owner=owner, note=note, reason=why)

    async def change(found: "Keys", author: Author) -> ShownKey:
        return await found.edit((await found.show(key)).id, wanted, author)

    _show(_run(place, change, why), json=json)


async def _declare(
    meant: "Sequence[tuple[Holder, str]]", given: Mapping[str, Any], found: "Keys", author: Author
) -> DeclaredLimits:
    """Change limits of a tenant, a model or the server, if any are given; return all of them."""
    before = await found.declared()
    if given and not meant:
        raise InvalidInput("it is not said whose limits", fix="Give a key, --tenant, --model or --server.")
    if not given:
        return before
    ((holder, name),) = meant
    rules = msgspec.structs.replace(before.of(holder, name) or LimitRules(), **given)
    return await found.declare(LimitChange(holder, name, rules), author)


def _run(
    place: Place, work: "Callable[[Keys, Author], Awaitable[T]]", why: str = "", *, makes: bool = False
) -> T:
    """Run work on the keys of a place.

    Args:
        makes: Create the ledger if it does not exist.
    """
    from salver.features.registry.command_options import system_user

    chosen, author = place.chosen(), Author(system_user(), why=why)

    async def main() -> T:
        if chosen.keys_file:
            from salver.features.keyring.file_keys import FileKeys

            file = Path(chosen.keys_file)
            return await work(_ring(FileKeys(file), partial(_left_beside, file)), author)
        if chosen.registry:
            from salver.features.keyring.ledger_keys import LedgerKeys
            from salver.features.registry.command_options import now
            from salver.features.registry.opening import open_ledger
            from salver.features.usage.quota_states import quota_states

            async with await open_ledger(chosen.registry, makes=makes) as ledger:
                return await work(_ring(LedgerKeys(ledger, now), partial(quota_states, ledger, now)), author)

        from salver.client import Client
        from salver.features.keyring.remote_keys import RemoteKeys

        async with Client(chosen.url, token=token()) as client:
            return await work(RemoteKeys(client), author)

    return asyncio.run(main())


async def _left_beside(file: Path, key: str, limits: LimitRules | None) -> tuple[LimitState, ...]:
    """Return what is left of the quotas of a key of a file."""
    if limits is None or not limits.quotas:
        return ()  # spares the imports
    from salver.features.registry.command_options import now
    from salver.features.usage.quota_states import states_beside

    return await states_beside(file, now, key, limits)


def _ring(records: "KeyRecords", left: "Left") -> "Keys":
    from salver.features.keyring.key_ring import KeyRing
    from salver.features.registry.command_options import now

    return KeyRing(records, lambda: moment_of(now()), left=left)


def _show(each: ShownKey, *, json: bool) -> None:
    if json:
        record(each)
        return
    for field, value in msgspec.to_builtins(each).items():
        text = str(value)
        if field == "quotas":
            text = ", ".join(
                f"{left['left']:.15g} left of {left['most']:.15g} ({left['name']})" for left in value
            )
        elif isinstance(value, list | tuple):
            text = " ".join(value)
        elif isinstance(value, dict):
            text = _rules(value)
        elif isinstance(value, float):
            text = moment(value)
        line(f"{field:<14} {text}")


def _show_limits(declared: DeclaredLimits, *, json: bool) -> None:
    if json:
        record(declared)
        return
    rows = [(" ".join(place), _rules(msgspec.to_builtins(rules))) for place, rules in declared.places()]
    listed(rows, ("of", "limits"), lambda row: row, json=False, none="no tenant, model or server has limits")


def _rules(rules: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_rule(rule)}" for name, rule in rules.items())


def _rule(value: Any) -> str:
    return " and ".join(value) if isinstance(value, list | tuple) else str(value)


def _show_once(made: "MadeKey", *, json: bool) -> None:
    if json:
        shown = {"id": made.key.id, "name": made.key.name, "scopes": made.key.scopes, "key": made.secret}
        record(shown)
    else:
        line(made.secret)
        remark(f"the key {made.key.id} of {made.key.name}; it is not shown again")

"""``salver keys``: make, show, rotate and revoke keys of a file."""

import re
import secrets
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from cyclopts import App, Parameter

from salver.features.access.key_format import new_key, shown
from salver.features.access.keys_file import KeyRecord, Previous, editing, hash_of, read
from salver.features.access.limits import LimitRules
from salver.features.access.scopes import RIGHTS, Scopes
from salver.terminal.options import Json
from salver.terminal.output import line, listed, record, remark, result
from salver.words.errors import Conflict, InvalidInput, NotFound
from salver.words.messages import Service

keys = App(
    name="keys",
    help="Keys of callers, in a file that a server reads. Set SALVER_KEYS_FILE for all of these.",
    default_parameter=Parameter(negative=()),
)
KeysFile = Annotated[str, Parameter(name="--keys-file", env_var="SALVER_KEYS_FILE", help="File of the keys.")]
_TIMES: Final = {"m": 1, "h": 60, "d": 24 * 60}
_LONGEST_OVERLAP: Final = timedelta(days=30)
_NEVER: Final = "never"


@keys.command
def create(
    name: str,
    /,
    *,
    keys_file: KeysFile,
    scope: Annotated[
        tuple[str, ...],
        Parameter(help="Right, or RIGHT:PATTERN of model names, repeatable. Rights: " + ", ".join(RIGHTS)),
    ] = ("infer",),
    expires: Annotated[str, Parameter(help="Time until it expires, as 90d, 12h or 30m.")] = _NEVER,
    limit: Annotated[
        str, Parameter(help="Rate of requests to models, as 50/s, 10/m, or 50/s+100 with a burst.")
    ] = "",
    rows: Annotated[str, Parameter(help="Rate of rows of such requests, in the same form.")] = "",
    tokens: Annotated[str, Parameter(help="Rate of tokens, of prompts and answers together.")] = "",
    at_once: Annotated[int, Parameter(help="Most requests to models that run at a time; 0 = no limit.")] = 0,
    tenant: Annotated[str, Parameter(help="Tenant of its requests; '*' = the one that each names.")] = "",
    priority: Annotated[int, Parameter(help="Best level of its requests; 0 = the model's default.")] = 0,
    service_class: Annotated[Service, Parameter(help="Best service class of its requests.")] = "normal",
    owner: Annotated[str, Parameter(help="Person or team to ask about it.")] = "",
    note: Annotated[str, Parameter(help="What it is for.")] = "",
    json: Json = False,
) -> None:
    """Make a key and show it once. The file keeps its hash only.

    Args:
        name: Name of the caller.
    """
    Scopes(scope)
    limits = LimitRules(limit, at_once, rows, tokens)
    now, key = _now(), new_key()
    made = KeyRecord(
        id=f"k{secrets.token_hex(4)}",
        name=name,
        hash=hash_of(key),
        scopes=scope,
        created=now,
        not_after=None if expires == _NEVER else now + _time(expires, "--expires"),
        limits=None if limits == LimitRules() else limits,
        tenant=tenant,
        priority=priority,
        service_class=service_class,
        owner=owner,
        note=note,
        shown=shown(key),
    )
    with editing(Path(keys_file)) as records:
        records.append(made)
    _show_once(made, key, json=json)


@keys.command(name="list")
def list_keys(*, keys_file: KeysFile, json: Json = False) -> None:
    """List the keys."""
    now = _now()

    def row(each: KeyRecord) -> Sequence[str]:
        scopes, state = " ".join(each.scopes), _state(each, now)
        return (each.id, each.name, scopes, state, each.shown, each.tenant, each.owner)

    columns = ("id", "name", "scopes", "state", "key", "tenant", "owner")
    found = read(Path(keys_file))
    if json:
        for each in found:
            record(_public(each, now))
    else:
        listed(found, columns, row, json=False, none="there are no keys", needless=("owner", "tenant", "key"))


@keys.command
def show(id: str, /, *, keys_file: KeysFile, json: Json = False) -> None:
    """Show a key: its scopes, times, owner and note.

    Args:
        id: Id of the key.
    """
    records = read(Path(keys_file))
    seen = _public(records[_place(records, id)], _now())
    if json:
        record(seen)
        return
    for field, value in seen.items():
        text = " ".join(value) if isinstance(value, list | tuple) else str(value)
        line(f"{field:<13} {text}")


@keys.command
def rotate(
    id: str,
    /,
    *,
    keys_file: KeysFile,
    overlap: Annotated[str, Parameter(help="Time for which the old key stays valid, up to 30d.")] = "24h",
    json: Json = False,
) -> None:
    """Replace a key by a new one, which is shown once. Id, scopes and expiry stay.

    Args:
        id: Id of the key.
    """
    rest, now, key = _time(overlap, "--overlap"), _now(), new_key()
    if rest > _LONGEST_OVERLAP:
        raise InvalidInput(f"an old key may stay for 30 days, not for {overlap}", field="--overlap")

    def renewed(old: KeyRecord) -> KeyRecord:
        if _state(old, now) != "valid":
            raise Conflict(f"the key {id} is {_state(old, now)}", fix="Make a new one: salver keys create.")
        previous = Previous(old.hash, now + rest)
        return msgspec.structs.replace(old, hash=hash_of(key), shown=shown(key), previous=previous)

    _show_once(_change(keys_file, id, renewed), key, json=json)


@keys.command
def revoke(id: str, /, *, keys_file: KeysFile, json: Json = False) -> None:
    """Revoke a key, and the one before its last rotation. A server refuses them within a second.

    Args:
        id: Id of the key.
    """
    now = _now()
    _change(keys_file, id, lambda old: msgspec.structs.replace(old, revoked=old.revoked or now))
    result({"id": id, "done": "revoked"}, f"{id} is revoked", json=json)


def _change(keys_file: str, id: str, change: Callable[[KeyRecord], KeyRecord]) -> KeyRecord:
    """Change a key in the file; return it. Raises NotFound."""
    with editing(Path(keys_file)) as records:
        place = _place(records, id)
        records[place] = change(records[place])
    return records[place]


def _place(records: Sequence[KeyRecord], id: str) -> int:
    for place, each in enumerate(records):
        if each.id == id:
            return place
    raise NotFound(f"there is no key {id!r}", fix="salver keys list shows all.")


def _show_once(made: KeyRecord, key: str, *, json: bool) -> None:
    if json:
        record({"id": made.id, "name": made.name, "scopes": made.scopes, "key": key})
    else:
        line(key)
        remark(f"the key {made.id} of {made.name}; it is not shown again")


def _public(each: KeyRecord, now: datetime) -> dict[str, Any]:
    """Return what people may see of a key: everything but its hashes."""
    seen: dict[str, Any] = {"id": each.id, "name": each.name, "state": _state(each, now)}
    seen["scopes"] = list(each.scopes)
    times = {"created": each.created, "expires": each.not_after, "revoked": each.revoked}
    if each.previous is not None:
        times["previous"] = each.previous.not_after
    seen |= {name: at.isoformat(timespec="seconds") for name, at in times.items() if at is not None}
    if each.limits is not None:
        seen |= msgspec.to_builtins(each.limits)
    if each.priority:
        seen["priority"] = each.priority
    if each.service_class != "normal":
        seen["service_class"] = each.service_class
    texts = {"tenant": each.tenant, "key": each.shown, "owner": each.owner, "note": each.note}
    return seen | {name: text for name, text in texts.items() if text}


def _state(each: KeyRecord, now: datetime) -> str:
    if each.revoked is not None:
        return "revoked"
    if each.not_after is not None and each.not_after <= now:
        return "expired"
    return "valid"


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _time(text: str, flag: str) -> timedelta:
    """Return a time such as ``90d``. Raises InvalidInput."""
    found = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    if found is None:
        raise InvalidInput(f"{text!r} is no time", field=flag, fix="Write it as 90d, 12h or 30m.")
    return timedelta(minutes=int(found[1]) * _TIMES[found[2]])

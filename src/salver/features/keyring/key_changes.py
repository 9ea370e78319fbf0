"""Keys that are made, rotated, revoked and limited, and who may do that.

Pure: time and random letters are arguments.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from salver.features.access.key_format import shown
from salver.features.access.keys_file import KeyRecord, Previous, check, hash_of
from salver.features.access.limits import Holder, LimitRules
from salver.features.access.scopes import Scopes
from salver.kernel.serving.standing import MAX_PRIORITY, MAX_TENANT
from salver.words.errors import Conflict, Forbidden, InvalidInput, NotFound
from salver.words.messages import LimitState, Service

State = Literal["valid", "expired", "revoked"]
#: Changes of keys, as the audit log names them.
Deed = Literal["key.made", "key.changed", "key.rotated", "key.revoked"]

NEVER: Final = "never"
OVERLAP: Final = "24h"
_TIMES: Final = {"m": 1, "h": 60, "d": 24 * 60}
_LONGEST_OVERLAP: Final = timedelta(days=30)

_Text = Annotated[str, msgspec.Meta(max_length=1000, pattern=r"^[^\x00]*$")]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=128, pattern=r"^[^\x00]*$")]
_Time = Annotated[str, msgspec.Meta(max_length=16)]
_Scopes = Annotated[
    tuple[Annotated[str, msgspec.Meta(max_length=300)], ...], msgspec.Meta(min_length=1, max_length=64)
]


class KeyWish(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Request for a new key.

    Attributes:
        name: Name of the caller.
        scopes: Scopes, as ``infer:resnet*``.
        expires: Time until it expires, as ``90d``, ``12h`` or ``30m``; ``never``.
        limits, tenant, priority, service_class: See :class:`~salver.features.access.keys_file.KeyRecord`.
        owner: Person or team to ask about it.
        note: What it is for.
        reason: Reason for the change, which is stored.
    """

    name: _Name
    scopes: _Scopes = ("infer",)
    expires: _Time = NEVER
    limits: LimitRules | None = None
    tenant: Annotated[str, msgspec.Meta(max_length=MAX_TENANT)] = ""
    priority: Annotated[int, msgspec.Meta(ge=0, le=MAX_PRIORITY)] = 0
    service_class: Service = "normal"
    owner: _Text = ""
    note: _Text = ""
    reason: _Text = ""


class KeyEdit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Changes of a key; what is None stays as it is.

    Attributes:
        expires: Time from now on until it expires, as ``90d``; ``never``.
        scopes, owner, note: See :class:`KeyWish`.
        reason: Reason for the change, which is stored.
    """

    scopes: _Scopes | None = None
    expires: _Time | None = None
    owner: _Text | None = None
    note: _Text | None = None
    reason: _Text = ""


class LimitChange(NamedTuple):
    """Limits of a tenant, a model or the server in the place of those that it has.

    Attributes:
        name: Name, or pattern of names; empty = the server.
        limits: None = it has none.
    """

    holder: Holder
    name: str
    limits: LimitRules | None


class Stored(msgspec.Struct, frozen=True):
    """A key where it is kept.

    Attributes:
        by: Who made it; empty = unknown.
        last_use: Unix seconds of its last use; None = it is not known to have been used.
    """

    record: KeyRecord
    by: str = ""
    last_use: float | None = None


class ShownKey(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key as it may be seen: everything but its hash.

    Attributes:
        key: Beginning and end of the key, by which people recognise it.
        by: Who made it.
        created, expires, revoked: Unix seconds; None = never, or unknown.
        previous_until: Unix seconds until which the key before the last rotation is valid.
        last_use: Unix seconds of its last use, late by at most a minute; None = none is known.
        limits, tenant, priority, service_class, owner, note: See
            :class:`~salver.features.access.keys_file.KeyRecord`.
        quotas: Its quotas, and what is left of them, where a single key is shown.
    """

    id: str
    name: str
    state: State
    scopes: tuple[str, ...]
    key: str = ""
    created: float | None = None
    by: str = ""
    expires: float | None = None
    revoked: float | None = None
    previous_until: float | None = None
    last_use: float | None = None
    limits: LimitRules | None = None
    tenant: str = ""
    priority: int = 0
    service_class: Service = "normal"
    owner: str = ""
    note: str = ""
    quotas: tuple[LimitState, ...] = ()


class Author(NamedTuple):
    """Author of a change.

    Attributes:
        name: Name of a person or program.
        scopes: Rights of its own key, beyond which it cannot go; None = it may give every right.
        key: Id of its own key; empty = it has none.
        why: Reason of the change.
    """

    name: str
    scopes: Scopes | None = None
    key: str = ""
    why: str = ""

    def check(self, record: KeyRecord, deed: Deed) -> None:
        """Check that the author may make or change a key. Raises Forbidden."""
        if self.scopes is None or self.scopes.covers(("*",)):
            return
        if not self.scopes.covers(record.scopes):
            raise Forbidden(
                f"this key may not change one that has more rights than itself: {' '.join(record.scopes)}",
                field="scopes",
                fix="Use a key that has these rights as well.",
            )
        if deed == "key.changed" and record.id == self.key:
            raise Forbidden("a key may not change its own limits, rights or end", fix="Use another key.")

    def check_limits(self) -> None:
        """Check that the author may change limits of tenants, models and the server. Raises Forbidden."""
        if self.scopes is not None and not self.scopes.covers(("*",)):
            raise Forbidden(
                "limits of tenants, models and the server hold for every key: this one may not change them",
                field="scopes",
                fix="Use a key with the scope *.",
            )


def made(wish: KeyWish, key: str, id: str, now: datetime) -> KeyRecord:
    """Return the record of a new key.

    Args:
        key: Text of the key.

    Raises:
        InvalidInput: something of the wish is not allowed.
    """
    record = KeyRecord(
        id=id,
        name=wish.name,
        hash=hash_of(key),
        scopes=wish.scopes,
        created=now,
        not_after=_end_of(wish.expires, now),
        limits=limits_of(wish.limits),
        tenant=wish.tenant,
        priority=wish.priority,
        service_class=wish.service_class,
        owner=wish.owner,
        note=wish.note,
        shown=shown(key),
    )
    check([record])
    return record


def limits_of(rules: LimitRules | None) -> LimitRules | None:
    """Return rules that limit something; None = they do not."""
    return None if rules == LimitRules() else rules


def rotated(old: KeyRecord, key: str, overlap: str, now: datetime) -> KeyRecord:
    """Return the record of a key that is replaced by a new one; id, scopes, limits and expiry stay.

    Args:
        key: Text of the new key.
        overlap: Time for which the old one stays valid.

    Raises:
        InvalidInput: the time is none, or too long.
        Conflict: the key is not valid any more.
    """
    rest = time_of(overlap, "overlap")
    if rest > _LONGEST_OVERLAP:
        raise InvalidInput(f"an old key may stay for 30 days, not for {overlap}", field="overlap")
    _check_valid(old, now)
    previous = Previous(old.hash, now + rest)
    return msgspec.structs.replace(old, hash=hash_of(key), shown=shown(key), previous=previous)


def revoked(old: KeyRecord, now: datetime) -> KeyRecord:
    """Return the record of a key that is not valid any more, nor is the one before its last rotation."""
    return msgspec.structs.replace(old, revoked=old.revoked or now)


def limited(old: KeyRecord, rules: LimitRules | None, now: datetime) -> KeyRecord:
    """Return the record of a key with other limits; None = without limits.

    Raises:
        InvalidInput: the limits are none.
        Conflict: the key is not valid any more.
    """
    _check_valid(old, now)
    record = msgspec.structs.replace(old, limits=limits_of(rules))
    check([record])
    return record


def edited(old: KeyRecord, edit: KeyEdit, now: datetime) -> KeyRecord:
    """Return the record of a key with other scopes, expiry, owner or note.

    Raises:
        InvalidInput: something of it is not allowed.
        Conflict: the key is not valid any more.
    """
    _check_valid(old, now)
    given = {name: getattr(edit, name) for name in ("scopes", "owner", "note")}
    given = {name: value for name, value in given.items() if value is not None}
    if edit.expires is not None:
        given["not_after"] = _end_of(edit.expires, now)
    record = msgspec.structs.replace(old, **given)
    check([record])
    return record


def _end_of(time: str, now: datetime) -> datetime | None:
    return None if time == NEVER else now + time_of(time, "expires")


def _check_valid(record: KeyRecord, now: datetime) -> None:
    if (state := state_of(record, now)) != "valid":
        raise Conflict(f"the key {record.id} is {state}", fix="Make a new one: salver keys create.")


def find(found: Sequence[Stored], text: str) -> Stored:
    """Return the key of an id, or the only one of a name that is not revoked.

    Raises:
        NotFound: there is none.
        Conflict: several keys have the name.
    """
    for each in found:
        if each.record.id == text:
            return each
    named = [each for each in found if each.record.name == text]
    named = [each for each in named if each.record.revoked is None] or named
    if len(named) > 1:
        ids = ", ".join(each.record.id for each in named[:10])
        raise Conflict(f"several keys have the name {text!r}: {ids}", fix="Name one by its id.")
    if not named:
        raise NotFound(f"there is no key {text!r}", field="key", fix="salver keys list shows all.")
    return named[0]


def seen(stored: Stored, now: datetime) -> ShownKey:
    """Return what may be seen of a key."""
    record = stored.record
    return ShownKey(
        id=record.id,
        name=record.name,
        state=state_of(record, now),
        scopes=record.scopes,
        key=record.shown,
        created=_unix(record.created),
        by=stored.by,
        expires=_unix(record.not_after),
        revoked=_unix(record.revoked),
        previous_until=_unix(None if record.previous is None else record.previous.not_after),
        last_use=stored.last_use,
        limits=record.limits,
        tenant=record.tenant,
        priority=record.priority,
        service_class=record.service_class,
        owner=record.owner,
        note=record.note,
    )


def state_of(record: KeyRecord, now: datetime) -> State:
    """Return whether a key is valid."""
    if record.revoked is not None:
        return "revoked"
    if record.not_after is not None and record.not_after <= now:
        return "expired"
    return "valid"


def time_of(text: str, field: str) -> timedelta:
    """Return a time such as ``90d``. Raises InvalidInput."""
    found = re.fullmatch(r"([0-9]{1,5})([mhd])", text)
    if found is None:
        raise InvalidInput(f"{text!r} is no time", field=field, fix="Write it as 90d, 12h or 30m.")
    return timedelta(minutes=int(found[1]) * _TIMES[found[2]])


def moment_of(seconds: float) -> datetime:
    """Return Unix seconds as a time, without parts of seconds."""
    return datetime.fromtimestamp(int(seconds), UTC)


def _unix(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()

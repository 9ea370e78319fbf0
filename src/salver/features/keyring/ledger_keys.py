"""Records of keys in the ledger.

Each change is one transaction with its line in the audit log, and with the number by which servers see that
there was one. Rows are not removed: who once had keys needs them also after the last one is revoked.
"""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, RowMapping, bindparam, delete, insert, or_, select, update

from salver.features.access.key_table import Key
from salver.features.access.keys_file import KeyRecord, table
from salver.features.access.limit_book import NONE, DeclaredLimits, LimitBook
from salver.features.access.limits import LimitRules
from salver.features.keyring.key_changes import Author, Deed, LimitChange, Stored, find
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import ACCESS_CHANGE, ACCESS_KEY, ACCESS_LIMITS
from salver.features.registry.audit import Change, record
from salver.features.registry.records import Action, Actor
from salver.words.errors import InvalidInput

_LOG: Final = logging.getLogger("salver.access")
_encode: Final = msgspec.json.Encoder().encode
_decode_limits: Final = msgspec.json.Decoder(DeclaredLimits).decode
_decode: Final = msgspec.json.Decoder(KeyRecord).decode


class LedgerKeys:
    """Keys of a ledger: see :class:`~salver.features.keyring.key_ring.KeyRecords`.

    Args:
        clock: Returns Unix seconds.
    """

    def __init__(self, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._ledger = ledger
        self._clock = clock

    def __repr__(self) -> str:
        return f"<LedgerKeys {self._ledger!r}>"

    async def read(self) -> Sequence[Stored]:
        """Return all keys, the oldest first."""
        return await self._ledger.read(lambda c: _stored(c, select(ACCESS_KEY)))

    async def find(self, key: str) -> Stored:
        """Return a key."""
        return await self._ledger.read(lambda c: _find(c, key))

    async def add(self, record: KeyRecord, author: Author) -> bool:
        """Add a key; return whether it is the first."""

        def work(connection: Connection) -> bool:
            is_first = connection.execute(select(ACCESS_KEY.c.id).limit(1)).first() is None
            row = _row(record) | {"id": record.id, "by": author.name}
            connection.execute(insert(ACCESS_KEY), row)
            self._note(connection, author, "key.made", None, record)
            return is_first

        return await self._ledger.write(work)

    async def change(
        self, key: str, deed: Deed, author: Author, work: Callable[[KeyRecord], KeyRecord]
    ) -> Stored:
        """Change a key."""

        def change(connection: Connection) -> Stored:
            found = _find(connection, key)
            new = work(found.record)
            if new != found.record:
                one = ACCESS_KEY.c.id == new.id
                connection.execute(update(ACCESS_KEY).where(one).values(_row(new)))
                self._note(connection, author, deed, found.record, new)
            return msgspec.structs.replace(found, record=new)

        return await self._ledger.write(change)

    async def use(self, last_uses: Mapping[str, float]) -> None:
        """Write when keys were last used, by id, unless other servers know of later uses."""
        rows = [{"key": id, "at": at} for id, at in last_uses.items()]
        is_later = or_(ACCESS_KEY.c.last_use.is_(None), ACCESS_KEY.c.last_use < bindparam("at"))
        later = update(ACCESS_KEY).where(ACCESS_KEY.c.id == bindparam("key"), is_later)

        def work(connection: Connection) -> None:
            connection.execute(later.values(last_use=bindparam("at")), rows)

        if rows:
            await self._ledger.write(work)

    async def declared(self) -> DeclaredLimits:
        """Return the limits of tenants, models and the server."""
        return await self._ledger.read(_declared)

    async def declare(self, change: LimitChange, author: Author) -> DeclaredLimits:
        """Change one of them."""

        def work(connection: Connection) -> DeclaredLimits:
            old = _declared(connection)
            new = old.with_those_of(*change)
            if new != old:
                connection.execute(delete(ACCESS_LIMITS))
                connection.execute(insert(ACCESS_LIMITS), {"id": 1, "body": _encode(new).decode()})
                told = _told(old.of(change.holder, change.name)), _told(change.limits)
                whose = f"{change.holder} {change.name}".rstrip()
                self._tell(connection, author, "limits.changed", whose, *told)
            return new

        return await self._ledger.write(work)

    def _note(
        self, connection: Connection, author: Author, deed: Deed, old: KeyRecord | None, new: KeyRecord
    ) -> None:
        before = "" if old is None else _text(old)
        self._tell(connection, author, deed, f"{new.id} {new.name}", before, _text(new))

    def _tell(
        self, connection: Connection, author: Author, action: Action, subject: str, old: str, new: str
    ) -> None:
        """Record a change, and tell the servers."""
        change = Change(Actor(author.name), self._clock(), author.why)
        record(connection, change, action, "", subject, old, new)
        number = update(ACCESS_CHANGE).values(number=ACCESS_CHANGE.c.number + 1)
        if not connection.execute(number).rowcount:
            connection.execute(insert(ACCESS_CHANGE), {"id": 1, "number": 1})


class KeysFound(NamedTuple):
    """Keys of a ledger, for a server.

    Attributes:
        number: Number of changes so far.
        keys: Valid keys, by digest.
        has_rows: There are keys, valid or not.
        limits: Limits of tenants, models and the server; None = they cannot be read.
    """

    number: int
    keys: dict[bytes, Key]
    has_rows: bool
    limits: DeclaredLimits | None


def newer(connection: Connection, number: int) -> KeysFound | None:
    """Return the keys of a ledger; None = they have not changed since that number of changes."""
    present = connection.scalar(select(ACCESS_CHANGE.c.number)) or 0
    if present == number:
        return None
    rows = connection.execute(select(ACCESS_KEY.c.id, ACCESS_KEY.c.body)).all()
    try:
        keys = table([_decode(body) for _, body in rows])
    except (msgspec.DecodeError, InvalidInput):
        keys = _readable(rows)
    try:
        limits = _declared(connection)
        LimitBook(limits)
    except InvalidInput as error:
        _LOG.error("limits of tenants, models and the server stay as they are: %s", error)
        return KeysFound(present, keys, bool(rows), None)
    return KeysFound(present, keys, bool(rows), limits)


def _declared(connection: Connection) -> DeclaredLimits:
    """Return the limits of tenants, models and the server. Raises InvalidInput."""
    body = connection.scalar(select(ACCESS_LIMITS.c.body))
    try:
        return NONE if body is None else _decode_limits(body)
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"this Salver cannot read the limits in the ledger: {error}",
            fix="Use the version that wrote them.",
        ) from error


def _told(rules: LimitRules | None) -> str:
    return "" if rules is None else _encode(rules).decode()


def _readable(rows: Iterable[Any]) -> dict[bytes, Key]:
    """Return the keys that can be read: a newer server may have written rules that must not be ignored."""
    keys: dict[bytes, Key] = {}
    for id, body in rows:
        try:
            keys |= table([_decode(body)])
        except (msgspec.DecodeError, InvalidInput) as error:
            _LOG.error("the key %s is refused, as this server cannot read it: %s", id, error)
    return keys


def _find(connection: Connection, key: str) -> Stored:
    is_meant = or_(ACCESS_KEY.c.id == key, ACCESS_KEY.c.name == key)
    return find(_stored(connection, select(ACCESS_KEY).where(is_meant)), key)


def _stored(connection: Connection, query: Any) -> list[Stored]:
    found = [_of(row) for row in connection.execute(query).mappings()]
    # Times have no parts of seconds.
    return sorted(found, key=lambda each: (str(each.record.created), each.record.name, each.record.id))


def _of(row: RowMapping) -> Stored:
    try:
        return Stored(_decode(row["body"]), row["by"], row["last_use"])
    except msgspec.DecodeError as error:
        raise InvalidInput(
            f"this Salver cannot read the key {row['id']!r}: {error}", fix="Use the version that wrote it."
        ) from error


def _row(record: KeyRecord) -> dict[str, object]:
    return {"name": record.name, "hash": record.hash, "body": _encode(record).decode()}


def _text(record: KeyRecord) -> str:
    """Return what the audit log says of a key."""
    limits = "" if record.limits is None else _encode(record.limits).decode()
    until = "" if record.not_after is None else f"until {record.not_after:%Y-%m-%dT%H:%M:%SZ}"
    people = ": ".join(filter(None, (record.owner, record.note)))
    state = "" if record.revoked is None else "revoked"
    return " ".join(filter(None, (*record.scopes, limits, until, people, record.shown, state)))

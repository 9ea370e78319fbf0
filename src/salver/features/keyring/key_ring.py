"""Making, showing, rotating, limiting and revoking of keys, wherever they are kept.

Whether in a file, in the ledger, or on a server: :class:`Keys` is what commands and operations use.
"""

import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Protocol

import msgspec

from salver.features.access.key_format import new_key
from salver.features.access.keys_file import KeyRecord
from salver.features.access.limit_book import DeclaredLimits
from salver.features.access.limits import LimitRules
from salver.features.keyring import key_changes
from salver.features.keyring.key_changes import (
    Author,
    Deed,
    KeyEdit,
    KeyWish,
    LimitChange,
    ShownKey,
    Stored,
    edited,
    limited,
    limits_of,
    made,
    revoked,
    rotated,
)
from salver.words.messages import LimitState

#: Returns the quotas of a key with what is left of them, by its id and its limits.
Left = Callable[[str, LimitRules | None], Awaitable[tuple[LimitState, ...]]]


class MadeKey(msgspec.Struct, frozen=True):
    """A new key.

    Attributes:
        secret: The key itself, which is not shown again.
        is_first: It is the first one of its ledger, whose servers need keys from now on.
    """

    key: ShownKey
    secret: str
    is_first: bool = False


class Keys(Protocol):
    """Keys, for commands and operations. Its methods raise SalverError."""

    async def list(self) -> Sequence[ShownKey]:
        """Return all keys, the oldest first."""
        ...

    async def show(self, key: str) -> ShownKey:
        """Return the key of an id, or of a name that no other one has. Raises NotFound, Conflict."""
        ...

    async def create(self, wish: KeyWish, author: Author) -> MadeKey:
        """Make a key. Raises InvalidInput, Forbidden."""
        ...

    async def rotate(self, key: str, overlap: str, author: Author) -> MadeKey:
        """Replace a key by a new one, with the old one valid for a while. Raises NotFound, Conflict."""
        ...

    async def revoke(self, key: str, author: Author) -> ShownKey:
        """Revoke a key, and the one before its last rotation. Raises NotFound, Forbidden."""
        ...

    async def limit(self, key: str, limits: LimitRules | None, author: Author) -> ShownKey:
        """Change the limits of a key. Raises NotFound, Conflict, InvalidInput, Forbidden."""
        ...

    async def edit(self, key: str, edit: KeyEdit, author: Author) -> ShownKey:
        """Change scopes, expiry, owner or note. Raises NotFound, Conflict, InvalidInput, Forbidden."""
        ...

    async def declared(self) -> DeclaredLimits:
        """Return the limits of tenants, models and the server."""
        ...

    async def declare(self, change: LimitChange, author: Author) -> DeclaredLimits:
        """Change one of them. Raises InvalidInput, Forbidden."""
        ...


class KeyRecords(Protocol):
    """Records of keys, where they are kept. Its methods raise SalverError, and then change nothing."""

    async def read(self) -> Sequence[Stored]:
        """Return all of them, the oldest first."""
        ...

    async def find(self, key: str) -> Stored:
        """Return that of an id or a name. Raises NotFound, Conflict."""
        ...

    async def add(self, record: KeyRecord, author: Author) -> bool:
        """Add one; return whether it is the first."""
        ...

    async def change(
        self, key: str, deed: Deed, author: Author, work: Callable[[KeyRecord], KeyRecord]
    ) -> Stored:
        """Change one, unless another call has changed it meanwhile; return it."""
        ...

    async def declared(self) -> DeclaredLimits:
        """Return the limits of tenants, models and the server."""
        ...

    async def declare(self, change: LimitChange, author: Author) -> DeclaredLimits:
        """Change one of them; return all."""
        ...


class KeyRing:
    """Keys of records.

    Args:
        now: Returns the time in whole seconds.
        last_uses: Returns Unix seconds of the last use of keys, which may not be written yet, by id.
        left: Returns the quotas of a key, by its id and limits, with what is left of them.
    """

    def __init__(
        self,
        records: KeyRecords,
        now: Callable[[], datetime],
        last_uses: Callable[[], Mapping[str, float]] = dict,
        left: Left | None = None,
    ) -> None:
        self._records = records
        self._now = now
        self._last_uses = last_uses
        self._left = left

    def __repr__(self) -> str:
        return f"<KeyRing {self._records!r}>"

    async def list(self) -> Sequence[ShownKey]:
        """See :class:`Keys`."""
        now, uses = self._now(), self._last_uses()
        return [_seen(each, now, uses) for each in await self._records.read()]

    async def show(self, key: str) -> ShownKey:
        """See :class:`Keys`."""
        shown = _seen(await self._records.find(key), self._now(), self._last_uses())
        if self._left is None:
            return shown
        return msgspec.structs.replace(shown, quotas=await self._left(shown.id, shown.limits))

    async def create(self, wish: KeyWish, author: Author) -> MadeKey:
        """See :class:`Keys`."""
        now, secret = self._now(), new_key()
        record = made(wish, secret, f"k{secrets.token_hex(4)}", now)
        author.check(record, "key.made")
        is_first = await self._records.add(record, author)
        return MadeKey(key_changes.seen(Stored(record, author.name), now), secret, is_first)

    async def rotate(self, key: str, overlap: str, author: Author) -> MadeKey:
        """See :class:`Keys`."""
        now, secret = self._now(), new_key()
        done = await self._change(key, "key.rotated", author, lambda old: rotated(old, secret, overlap, now))
        return MadeKey(done, secret)

    async def revoke(self, key: str, author: Author) -> ShownKey:
        """See :class:`Keys`."""
        now = self._now()
        return await self._change(key, "key.revoked", author, lambda old: revoked(old, now))

    async def limit(self, key: str, limits: LimitRules | None, author: Author) -> ShownKey:
        """See :class:`Keys`."""
        now = self._now()
        return await self._change(key, "key.changed", author, lambda old: limited(old, limits, now))

    async def edit(self, key: str, edit: KeyEdit, author: Author) -> ShownKey:
        """See :class:`Keys`."""
        now = self._now()
        return await self._change(key, "key.changed", author, lambda old: edited(old, edit, now))

    async def declared(self) -> DeclaredLimits:
        """See :class:`Keys`."""
        return await self._records.declared()

    async def declare(self, change: LimitChange, author: Author) -> DeclaredLimits:
        """See :class:`Keys`."""
        author.check_limits()
        return await self._records.declare(change._replace(limits=limits_of(change.limits)), author)

    async def _change(
        self, key: str, deed: Deed, author: Author, change: Callable[[KeyRecord], KeyRecord]
    ) -> ShownKey:
        def work(old: KeyRecord) -> KeyRecord:
            author.check(old, deed)
            new = change(old)
            author.check(new, deed)
            return new

        changed = await self._records.change(key, deed, author, work)
        return _seen(changed, self._now(), self._last_uses())


def _seen(stored: Stored, now: datetime, uses: Mapping[str, float]) -> ShownKey:
    last = max(stored.last_use or 0.0, uses.get(stored.record.id, 0.0))
    return key_changes.seen(msgspec.structs.replace(stored, last_use=last or None), now)

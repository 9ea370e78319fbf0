"""Records of keys in a plain file, for one server without a ledger."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from salver.features.access.keys_file import KeyRecord, drafting, editing, read, read_whole
from salver.features.access.limit_book import DeclaredLimits
from salver.features.keyring.key_changes import Author, Deed, LimitChange, Stored, find


class FileKeys:
    """Keys of a file: see :class:`~salver.features.keyring.key_ring.KeyRecords`.

    It tells neither who made a key nor when one was used.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def __repr__(self) -> str:
        return f"<FileKeys {self._path}>"

    async def read(self) -> Sequence[Stored]:
        """Return all keys."""
        return list(map(Stored, await asyncio.to_thread(read, self._path)))

    async def find(self, key: str) -> Stored:
        """Return a key."""
        return find(await self.read(), key)

    async def add(self, record: KeyRecord, author: Author) -> bool:
        """Add a key; it is never the first, since a server with a file of none needs keys as well."""

        def work() -> bool:
            with editing(self._path) as records:
                records.append(record)
            return False

        return await asyncio.to_thread(work)

    async def change(
        self, key: str, deed: Deed, author: Author, work: Callable[[KeyRecord], KeyRecord]
    ) -> Stored:
        """Change a key."""

        def change() -> Stored:
            with editing(self._path) as records:
                old = find(list(map(Stored, records)), key).record
                records[records.index(old)] = new = work(old)
            return Stored(new)

        return await asyncio.to_thread(change)

    async def declared(self) -> DeclaredLimits:
        """Return the limits of tenants, models and the server."""
        return (await asyncio.to_thread(read_whole, self._path)).limits

    async def declare(self, change: LimitChange, author: Author) -> DeclaredLimits:
        """Change one of them."""

        def work() -> DeclaredLimits:
            with drafting(self._path) as draft:
                draft.limits = draft.limits.with_those_of(*change)
            return draft.limits

        return await asyncio.to_thread(work)

"""Protocols of response caches."""

from typing import Final, Protocol, runtime_checkable

from salver.kernel.serving.present import CacheFacts

#: Length of a key, and of its prefix, which all keys of one owner (a loaded version) share.
KEY_BYTES: Final = 32
OWNER_BYTES: Final = 16


class ResponseCache(Protocol):
    """Values by key, some of which may have been evicted. Used from one event loop.

    Keys are digests of :data:`KEY_BYTES` bytes. Any exception counts as a miss and is logged.

    Attributes:
        max_bytes: Maximum size of a value; larger ones are not offered.
    """

    max_bytes: int

    async def lookup(self, key: bytes) -> bytes | None:
        """Return the value exactly as inserted, or None."""
        ...

    async def insert(self, key: bytes, value: bytes) -> None:
        """Store a value, replacing the key's old one and possibly evicting others."""
        ...

    async def forget(self, owner: bytes) -> None:
        """Note that the version with this key prefix is unloaded here.

        A cache shared by servers keeps its values for the others until they expire.
        """
        ...

    async def close(self) -> None:
        """Close connections; called once."""
        ...


@runtime_checkable
class MeasuredCache(Protocol):
    """A cache that can report its content without waiting."""

    def facts(self) -> CacheFacts:
        """Return the current figures."""
        ...


@runtime_checkable
class NearCache(ResponseCache, Protocol):
    """A cache in this process, which never waits: hits need no task."""

    def find(self, key: bytes) -> bytes | None:
        """Return the value exactly as inserted, or None."""
        ...

    def keep(self, key: bytes, value: bytes, cost: float = 1.0) -> None:
        """Store a value, if it is worth it.

        Args:
            cost: Seconds of a model that a hit saves, or another measure of what computing it again costs.
        """
        ...

"""What must a place offer that keeps answers?"""

from typing import Final, Protocol, runtime_checkable

from salver.kernel.serving.present import CacheFacts

#: Bytes of a key, and of its beginning, which all keys of one owner (a loaded version) share.
KEY_BYTES: Final = 32
OWNER_BYTES: Final = 16


class ResponseCache(Protocol):
    """Values by key, some of which may have gone. Used from one event loop.

    Keys have :data:`KEY_BYTES` bytes, and are digests. Any exception is taken for a miss, and logged.

    Attributes:
        max_bytes: Of a value; larger ones are not offered.
    """

    max_bytes: int

    async def lookup(self, key: bytes) -> bytes | None:
        """The value, exactly as it was inserted, or None."""
        ...

    async def insert(self, key: bytes, value: bytes) -> None:
        """Keep it, in place of what the key had. Others may have to go."""
        ...

    async def forget(self, owner: bytes) -> None:
        """The version whose keys begin so is not loaded here any more.

        A cache that servers share leaves its values to the others, and lets them go in time.
        """
        ...

    async def close(self) -> None:
        """Let go of connections; called once."""
        ...


@runtime_checkable
class Measured(Protocol):
    """A cache that can say what it holds, at once."""

    def facts(self) -> CacheFacts:
        """Right now."""
        ...

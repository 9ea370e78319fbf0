"""Protocols that the memory budget calls."""

from typing import Protocol

from salver.kernel.lifecycle.ports import Outline
from salver.words.messages import ModelId


class Outlined(Protocol):
    """Loaded version."""

    @property
    def outline(self) -> Outline:
        """Facts for its metadata."""
        ...


class Lifecycle(Protocol):
    """Loading of versions (the kernel's manager)."""

    def leases(self, id: ModelId) -> int:
        """Return how many requests use a version."""
        ...

    def servable(self, id: ModelId) -> Outlined | None:
        """Return a version that answers now; None = it does not."""
        ...

    async def outcome(self, id: ModelId) -> str:
        """Wait until a version answers or has failed; return the reason of the failure, or empty."""
        ...

    async def ended(self, id: ModelId) -> None:
        """Wait until the copies of a version are gone."""
        ...


class Meter(Protocol):
    """Memory of the server and its processes."""

    def read(self, *, is_exact: bool) -> int:
        """Return the bytes that are used. Blocking.

        Args:
            is_exact: False = an older figure will do if hardly anything has changed.
        """
        ...

    def bound(self) -> int:
        """Return an upper bound of the bytes that are used. Takes microseconds."""
        ...

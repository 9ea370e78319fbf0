"""Protocols that the lifecycle calls."""

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeVar

from salver.words.artifacts import Manifest, ModelConfig

ServableT_co = TypeVar("ServableT_co", covariant=True)


class Servable(Protocol):
    """A loaded version that answers requests."""

    @property
    def leave(self) -> Callable[[float], Awaitable[None]] | None:
        """Ends sequences of requests: returns when none is active, and ends those left after so many seconds.

        None = the servable has no sequences.
        """
        ...

    @property
    def bytes(self) -> int:
        """Return the estimated memory use in bytes."""
        ...

    async def warm(self, config: ModelConfig) -> None:
        """Run the warm-up requests; raise what the model raises."""
        ...

    async def adjust(self, manifest: Manifest) -> bool:
        """Change the number of instances; return False if it cannot."""
        ...

    async def close(self) -> None:
        """Release memory, threads and processes. Called once."""
        ...


class Loader(Protocol[ServableT_co]):
    """Loader that turns a manifest into a servable, off the event loop."""

    async def load(self, manifest: Manifest) -> ServableT_co:
        """Load a version. When cancelled, release everything loaded so far.

        Raises:
            LoadFailed: with the reason.
        """
        ...

"""Protocols that the lifecycle calls, and its settings."""

import math
from collections.abc import Awaitable, Callable, Sequence, Set
from functools import partial
from typing import Protocol, Self, TypeVar

import msgspec

from salver.kernel.supervise import Backoff
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import NotResident
from salver.words.messages import ModelId, Signature

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
    def processes(self) -> Sequence[int]:
        """Ids of the host processes in which it runs, and its memory is; empty = it runs in this one."""
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


class Outline(msgspec.Struct, frozen=True):
    """Facts of a version that was loaded once, for its metadata; they hold none of its memory.

    Attributes:
        slots: Concurrent runs.
        is_decoupled: Any number of responses may answer a request.
    """

    manifest: Manifest
    signature: Signature
    slots: int
    is_decoupled: bool


class Residence(Protocol):
    """Decision which of the wanted versions are in memory (features/memory)."""

    def absent(self, chosen: Sequence[Manifest]) -> Set[ModelId]:
        """Return those of the wanted versions that are not to be in memory now."""
        ...

    async def demand(self, id: ModelId) -> None:
        """Bring an absent version into memory, and return when it answers.

        Raises:
            NotReady: there is no room for it.
            LoadFailed: it did not load.
        """
        ...

    def outline(self, id: ModelId) -> Outline | None:
        """Return what was learned of a version when its files were loaded; None = they never were."""
        ...


class Absent(NotResident):
    """Wanted version that is not in memory.

    Attributes:
        outline: What is known of it; None = it was never loaded.
    """

    id: ModelId
    outline: Outline | None = None

    @classmethod
    def of(cls, id: ModelId, residence: Residence) -> Self:
        """Return the error for a version that a residence keeps out of memory."""
        found = cls(f"model '{id.name}' is not in memory", field="model")
        found.id, found.outline = id, residence.outline(id)
        found.arrives = partial(residence.demand, id)
        return found


class LifecycleConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Settings for loading versions.

    Attributes:
        parallel_loads: Maximum number of versions that load or warm up at the same time.
        retries: Number of retries of a version that failed to load, while its files are unchanged.
        backoff_s: Seconds before the first retry.
        backoff_factor: Factor by which the delay grows with each retry.
        sequences_s: Seconds that active sequences have to end when their version is replaced.
    """

    parallel_loads: int = 4
    retries: int = 0
    backoff_s: float = 1.0
    backoff_factor: float = 2.0
    sequences_s: float = 30.0

    @property
    def backoff(self) -> Backoff:
        """Delays of retries."""
        return Backoff(self.backoff_s, math.inf, self.backoff_factor)

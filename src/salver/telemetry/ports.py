"""What does telemetry ask of the rest when somebody scrapes?"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from salver.messages import ModelId, VersionStatus


class Load(msgspec.Struct, frozen=True):
    """How busy one version's engine is now.

    Attributes:
        queued: Requests waiting.
        running: Batches that run.
    """

    id: ModelId
    queued: int
    running: int


class Present(Protocol):
    """The state of the server at this moment; each answers at once."""

    def statuses(self) -> Sequence[VersionStatus]:
        """Every version that the lifecycle knows."""
        ...

    def loads(self) -> Sequence[Load]:
        """One entry for each engine."""
        ...

    def dropped_events(self) -> int:
        """Events that slow observers have missed since the start."""
        ...

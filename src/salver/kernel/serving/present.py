"""What does telemetry ask of the rest when somebody scrapes?"""

from collections.abc import Sequence
from typing import Protocol

import msgspec

from salver.words.messages import Insight, ModelId, VersionStatus


class Load(msgspec.Struct, frozen=True):
    """How busy one version's engine is now.

    Attributes:
        queued: Requests waiting.
        running: Batches that run.
        slots: Batches that may run at the same time; 0 = not known.
        insight: What the engine knows of its load; None where it keeps no account.
        tenants: Those that the model's configuration names; they alone become labels.
        tags: Labels of its own that the model's configuration gives to Triton's metrics.
        is_cached: Its answers are kept.
        first_bounds: Of a model that answers in pieces: milliseconds that bound the histogram of the first.
    """

    id: ModelId
    queued: int
    running: int
    slots: int = 0
    insight: Insight | None = None
    tenants: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    is_cached: bool = False
    first_bounds: tuple[float, ...] = ()


class Losses(msgspec.Struct, frozen=True):
    """What observers have missed since the start.

    Attributes:
        events: Events that slow observers missed.
        spans: Spans that no collector took.
        records: Requests that were to be written down and are not.
    """

    events: int = 0
    spans: int = 0
    records: int = 0


class CacheFacts(msgspec.Struct, frozen=True):
    """What a cache holds now.

    Attributes:
        utilization: Share of its room that is taken, from 0 to 1.
        evictions: Values that had to go for others, since the start.
    """

    entries: int
    utilization: float
    evictions: int


class CacheUse(msgspec.Struct, frozen=True):
    """What a server's cache was asked, since the start.

    Attributes:
        lookup_seconds, insert_seconds: All together.
        facts: What it holds, where it can say.
    """

    hits: int
    misses: int
    lookup_seconds: float
    insert_seconds: float
    facts: CacheFacts | None = None


class Present(Protocol):
    """The state of the server at this moment; each answers at once."""

    def statuses(self) -> Sequence[VersionStatus]:
        """Every version that the lifecycle knows."""
        ...

    def loads(self) -> Sequence[Load]:
        """One entry for each engine."""
        ...

    def losses(self) -> Losses:
        """What observers have missed since the start."""
        ...

    def cache(self) -> CacheUse | None:
        """What the response cache was asked; None where there is none."""

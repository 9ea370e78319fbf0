"""Records and protocol of the server's present state, as the metrics page shows it."""

from collections.abc import Sequence
from typing import Final, Protocol

import msgspec

from salver.words.messages import Insight, ModelId, State, VersionStatus

#: States of versions that are not shown: a repository may have thousands of versions that are not loaded.
ABSENT: Final = (State.NEW, State.GONE)


class Load(msgspec.Struct, frozen=True):
    """Load of one version's engine.

    Attributes:
        queued: Requests waiting.
        running: Running batches.
        slots: Batches that may run at the same time; 0 = unknown.
        insight: The engine's own measurements of its load; None = none.
        tenants: Tenants that the model's configuration names; only they become labels.
        tags: Labels that the model's configuration adds to Triton's metrics.
        is_cached: Its answers go through the response cache.
        first_bounds: Bounds, in milliseconds, of the histogram of first pieces, of a model that streams.
        requests: Requests under way, waiting ones included.
        most_sequences: Most sequences at a time, of a model that answers token by token; 0 = another model.
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
    requests: int = 0
    most_sequences: int = 0


class LossCounts(msgspec.Struct, frozen=True):
    """Data that observers have lost since the start.

    Attributes:
        events: Events that were dropped because observers were slow.
        spans: Spans that no collector took.
        records: Requests that are missing from the prediction log.
    """

    events: int = 0
    spans: int = 0
    records: int = 0


class CacheFacts(msgspec.Struct, frozen=True):
    """Contents of a response cache.

    Attributes:
        utilization: Share of its space that is used, from 0 to 1.
        evictions: Values evicted since the start.
        bytes: Memory of this process that it takes; 0 = it lies elsewhere.
    """

    entries: int
    utilization: float
    evictions: int
    bytes: int = 0


class CacheUse(msgspec.Struct, frozen=True):
    """Use of the response cache since the start.

    Attributes:
        lookup_seconds, insert_seconds: Sums over all calls.
        facts: Contents; None = unknown.
    """

    hits: int
    misses: int
    lookup_seconds: float
    insert_seconds: float
    facts: CacheFacts | None = None


class Present(Protocol):
    """Present state of the server; no method waits."""

    def statuses(self) -> Sequence[VersionStatus]:
        """Return all versions that the lifecycle knows."""
        ...

    def loads(self) -> Sequence[Load]:
        """Return the load of each engine."""
        ...

    def losses(self) -> LossCounts:
        """Return what observers have lost since the start."""
        ...

    def cache(self) -> CacheUse | None:
        """Return the use of the response cache; None = there is none."""

"""Current state of the server, for metrics and load reports."""

from collections.abc import Callable, Sequence
from typing import Final

from salver.kernel.lifecycle.manager import Manager
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.control import ServerControl
from salver.kernel.serving.present import CacheUse, Load, LossCounts
from salver.kernel.serving.servable import Servable
from salver.words.artifacts import Manifest
from salver.words.errors import SalverError
from salver.words.messages import VersionStatus

_NO_TAGS: Final[tuple[tuple[str, str], ...]] = ()
_NO_BOUNDS: Final[tuple[float, ...]] = ()


class ServerState:
    """Loaded versions and their load (:class:`salver.kernel.serving.present.Present`).

    Attributes:
        cache_use: Use of the response cache; set by the feature that has one.
        spans_lost, records_lost: Counters of undelivered data; set by the exporters.
        tags_of: Labels from a model's configuration for its metrics.
        first_bounds_of: Bucket bounds of the histogram of first responses, in milliseconds.
    """

    def __init__(self, manager: Manager[Servable], control: ServerControl, bus: Bus) -> None:
        self._manager = manager
        self._control = control
        self._bus = bus
        self.cache_use: Callable[[], CacheUse | None] = lambda: None
        self.spans_lost: Callable[[], int] = lambda: 0
        self.records_lost: Callable[[], int] = lambda: 0
        self.tags_of: Callable[[Manifest], tuple[tuple[str, str], ...]] = lambda manifest: _NO_TAGS
        self.first_bounds_of: Callable[[Manifest], tuple[float, ...]] = lambda manifest: _NO_BOUNDS

    def __repr__(self) -> str:
        return f"<ServerState of {len(self._manager.servables())} versions>"

    def statuses(self) -> Sequence[VersionStatus]:
        """Return all known versions."""
        return self._control.statuses()

    def loads(self) -> Sequence[Load]:
        """Return the load of each engine."""
        return [
            Load(
                s.manifest.id,
                sum([engine.queued for engine in s.engines]),
                sum([engine.running for engine in s.engines]),
                s.placement.slots,
                s.engine.insight(),
                tuple(s.manifest.config.fairness.weights),
                self.tags_of(s.manifest),
                s.capabilities.uncached is not None,
                self.first_bounds_of(s.manifest) if s.capabilities.stream is not None else (),
                self._manager.leases(s.manifest.id),
                _most_sequences(s.manifest),
            )
            for s in self._manager.servables()
        ]

    def cache(self) -> CacheUse | None:
        """Return the use of the response cache; None = there is none."""
        return self.cache_use()

    def token_room(self, model: str, version: str) -> tuple[int, int, int] | None:
        """Return active sequences, their maximum, and the context length of a step-wise model.

        None for other models, and if it does not respond.
        """
        try:
            lease = self._manager.acquire(model, version)
        except SalverError:
            return None
        try:
            manifest = lease.servable.manifest
            if most := _most_sequences(manifest):
                return (lease.servable.engine.running, most, manifest.config.steps.max_context)
            return None
        finally:
            lease.release()

    def losses(self) -> LossCounts:
        """Return what observers have lost."""
        return LossCounts(self._bus.dropped, self.spans_lost(), self.records_lost())


def _most_sequences(manifest: Manifest) -> int:
    """Return how many sequences a step-wise model takes at a time; 0 for other models."""
    steps = manifest.config.steps
    if steps.vocabulary:
        return steps.max_sequences
    return 0

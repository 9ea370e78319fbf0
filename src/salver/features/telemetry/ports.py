"""Protocols that telemetry calls."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from salver.kernel.serving.present import Load, Present
from salver.lazy import lazy_imports
from salver.words.events import BatchRan, Served

with lazy_imports():
    from prometheus_client import Metric


class VersionCounts(Protocol):
    """Counts of a view for one model version."""

    def served(self, outcome: str, events: Sequence[Served]) -> None:
        """Count requests of one protocol and outcome."""
        ...

    def ran(self, events: Sequence[BatchRan]) -> None:
        """Count runs of the model."""
        ...


CountsT = TypeVar("CountsT", bound=VersionCounts)


class MetricsView(Protocol[CountsT]):
    """The server's counts under another server's names.

    Telemetry decides which versions are counted, and removes those that were unloaded long ago.
    """

    def counts(self, version: tuple[str, str]) -> CountsT:
        """Return zero counts for a new model version."""
        ...

    def note(self, loads: Sequence[Load]) -> None:
        """Update the loaded versions; called after changes."""
        ...

    def families(self, counts: Mapping[tuple[str, str], CountsT], present: Present) -> Iterable[Metric]:
        """Return the metric families of these versions, and of the server's current state."""
        ...

"""Protocols that telemetry calls."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from prometheus_client import Metric

from salver.kernel.serving.present import Load, Present
from salver.words.events import BatchRan, Served


class VersionCounts(Protocol):
    """What a view counts of one model version."""

    def served(self, outcome: str, events: Sequence[Served]) -> None:
        """Count requests of one protocol and outcome."""
        ...

    def ran(self, events: Sequence[BatchRan]) -> None:
        """Count runs of the model."""
        ...


CountsT = TypeVar("CountsT", bound=VersionCounts)


class MetricsView(Protocol[CountsT]):
    """Another server's names for what the server counts.

    Telemetry decides which versions are counted, and forgets those that are long gone.
    """

    def counts(self, version: tuple[str, str]) -> CountsT:
        """Return the counts of a model version that is new, all of them zero."""
        ...

    def note(self, loads: Sequence[Load]) -> None:
        """Learn which versions are loaded; called when that has changed."""
        ...

    def families(self, counts: Mapping[tuple[str, str], CountsT], present: Present) -> Iterable[Metric]:
        """Return the metric families of these versions, and of the server's present state."""
        ...

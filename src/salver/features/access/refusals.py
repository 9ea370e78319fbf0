"""Record of refused requests: counts for the metrics page, and sampled lines of the audit log."""

import logging
from collections.abc import Callable, Iterator
from typing import Final

from salver.features.access.gcra import Cell, Rate
from salver.kernel.logs import present
from salver.lazy import lazy_imports
from salver.transport.restrict import Right
from salver.words.errors import (
    InvalidInput,
    OutOfScope,
    QuotaExceeded,
    RateLimited,
    SalverError,
    Unidentified,
)

with lazy_imports():
    from prometheus_client import Metric
    from prometheus_client.core import CounterMetricFamily


_AUDIT: Final = logging.getLogger("salver.audit")
#: Lines for one key and reason: five at once, then one in ten seconds.
_LINES: Final = Rate(count=1, seconds=10, burst=5)
#: Most keys with counts of their own; the others share one.
_MOST_KEYS: Final = 1000
_OTHERS: Final = "other"
_MOST_LETTERS: Final = 128
_REASONS: Final[dict[type[SalverError], str]] = {
    InvalidInput: "several_keys",
    OutOfScope: "scope",
    QuotaExceeded: "quota",
    RateLimited: "limit",
}


class _Tally:
    """Refusals of one key for one reason."""

    __slots__ = ("cell", "count", "unlogged")

    def __init__(self) -> None:
        self.cell = Cell(_LINES)
        self.count = self.unlogged = 0

    def repeat(self, count: int) -> None:
        """Count so many more, which got copies of an answer."""
        self.count += count
        self.unlogged += count


class Refusals:
    """Refusals of one server.

    Args:
        ticks: Returns monotonic nanoseconds.
    """

    def __init__(self, ticks: Callable[[], int]) -> None:
        self._ticks = ticks
        self._tallies: dict[tuple[str, str], _Tally] = {}
        self._keys: set[str] = set()

    def __repr__(self) -> str:
        return f"<Refusals of {len(self._keys)} keys>"

    def record(self, error: SalverError, key: str, right: Right, model: str) -> None:
        """Record a refusal.

        Args:
            key: Id of the key; empty = the request has none that is known.
            model: Model that the request names; empty = none, or not known yet.
        """
        reason = _reason(error)
        tally = self._tallies.get((reason, key)) or self._tally(reason, key)
        tally.count += 1
        error.repeated = tally.repeat
        now = self._ticks()
        if tally.cell.wait(now):
            tally.unlogged += 1
            return
        tally.cell.take(now)
        repeated, tally.unlogged = tally.unlogged, 0
        fields = present(
            event="request refused", reason=reason, key=key, right=right, model=model[:_MOST_LETTERS]
        )
        _AUDIT.info({**fields, "repeated": repeated} if repeated else fields)

    def collect(self) -> Iterator[Metric]:
        """Return the metric family; called by the Prometheus registry."""
        counts = CounterMetricFamily(
            "salver_access_refusals",
            "Requests refused for their keys, by reason and id of the key.",
            labels=["reason", "key"],
        )
        for labels, tally in list(self._tallies.items()):  # a scrape may run on another thread
            counts.add_metric(labels, tally.count)
        yield counts

    def _tally(self, reason: str, key: str) -> _Tally:
        """Return the tally of a key, or the common one of too many keys."""
        if key and key not in self._keys and len(self._keys) >= _MOST_KEYS:
            key = _OTHERS
        elif key:
            self._keys.add(key)
        return self._tallies.setdefault((reason, key), _Tally())


def _reason(error: SalverError) -> str:
    if isinstance(error, Unidentified):
        return "invalid_key" if error.has_credential else "no_key"
    return _REASONS[type(error)]

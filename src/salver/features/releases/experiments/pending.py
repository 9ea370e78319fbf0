"""Buffer of finished buckets until they are stored.

A sink of the collector that keeps each bucket until its storage is confirmed.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from salver.words.releases import BucketObservations

_LOG: Final = logging.getLogger("salver.experiments")


class Pending:
    """Buckets by release.

    Args:
        most: Maximum buckets of a release; further ones are lost and logged. Usually a day of ten-second
            buckets, as time to repair the ledger.
        most_rows: Maximum rows of units and requests, about twenty bytes each.
    """

    def __init__(self, most: int = 8640, most_rows: int = 5_000_000) -> None:
        self._most = most
        self._most_rows = most_rows
        self._seen: dict[str, list[BucketObservations]] = {}
        self._rows: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Pending {sum(map(len, self._seen.values()))} buckets>"

    def write(self, seen: BucketObservations) -> None:
        """See :class:`salver.features.releases.experiments.ports.Sink`."""
        waiting = self._seen.setdefault(seen.release, [])
        if len(waiting) < self._most and self._rows[seen.release] + seen.rows <= self._most_rows:
            waiting.append(seen)
            self._rows[seen.release] += seen.rows
        else:
            _LOG.error(
                "release %s: a bucket is lost, because earlier ones have not been stored", seen.release
            )

    def of(self, release: str) -> Sequence[BucketObservations]:
        """Return the buckets of a release, in order."""
        return tuple(self._seen.get(release, ()))

    def kept(self, release: str, count: int) -> None:
        """Drop the first buckets of a release, which have been stored."""
        if count:
            waiting = self._seen[release]
            self._rows[release] -= sum(seen.rows for seen in waiting[:count])
            del waiting[:count]

    def forget(self, release: str) -> None:
        """Drop all buckets of a release."""
        self._seen.pop(release, None)
        self._rows.pop(release, None)

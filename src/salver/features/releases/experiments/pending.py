"""Buffer of finished buckets until they are stored.

It keeps each bucket of the collector until its storage is confirmed.
"""

from collections import Counter
from collections.abc import Callable, Sequence

from salver.words.releases import BucketObservations


def quiet(*message: object) -> None:
    """Drop a message."""


class Pending:
    """Buckets by release.

    Args:
        most: Maximum buckets of a release; further ones are lost and logged. Usually a day of ten-second
            buckets, as time to repair the ledger.
        most_rows: Maximum rows of units and requests, about twenty bytes each.
        warn: Receives errors for the operator, as :meth:`logging.Logger.error` does.
    """

    def __init__(
        self, most: int = 8640, most_rows: int = 5_000_000, warn: Callable[..., None] = quiet
    ) -> None:
        self._most = most
        self._most_rows = most_rows
        self._warn = warn
        self._seen: dict[str, list[BucketObservations]] = {}
        self._rows: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Pending {sum(map(len, self._seen.values()))} buckets>"

    def write(self, seen: BucketObservations) -> None:
        """Accept a bucket and return immediately; buckets of a release arrive in order."""
        waiting = self._seen.setdefault(seen.release, [])
        if len(waiting) < self._most and self._rows[seen.release] + seen.rows <= self._most_rows:
            waiting.append(seen)
            self._rows[seen.release] += seen.rows
        else:
            text = "release %s: a bucket is lost, because earlier ones have not been stored"
            self._warn(text, seen.release)

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

"""What was counted, and is not written down yet?

A sink of the collector's that keeps each bucket until somebody says that it is kept elsewhere.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final

from salver.words.releases import Seen

_LOG: Final = logging.getLogger("salver.features.releases.experiments")


class Pending:
    """Buckets by release.

    Args:
        most: Of a release; what comes beyond is lost, which the log tells. A day of ten-second buckets as a
            rule, in which nobody has mended the ledger.
        most_rows: Of units and requests in them, some twenty bytes each.
    """

    def __init__(self, most: int = 8640, most_rows: int = 5_000_000) -> None:
        self._most = most
        self._most_rows = most_rows
        self._seen: dict[str, list[Seen]] = {}
        self._rows: Counter[str] = Counter()

    def __repr__(self) -> str:
        return f"<Pending {sum(map(len, self._seen.values()))} buckets>"

    def write(self, seen: Seen) -> None:
        """See :class:`salver.features.releases.experiments.ports.Sink`."""
        waiting = self._seen.setdefault(seen.release, [])
        if len(waiting) < self._most and self._rows[seen.release] + seen.rows <= self._most_rows:
            waiting.append(seen)
            self._rows[seen.release] += seen.rows
        else:
            _LOG.error(
                "release %s: a bucket is lost, since nobody has written down those before", seen.release
            )

    def of(self, release: str) -> Sequence[Seen]:
        """Those of a release, in their order."""
        return tuple(self._seen.get(release, ()))

    def kept(self, release: str, count: int) -> None:
        """The first so many of a release are kept elsewhere."""
        if count:
            waiting = self._seen[release]
            self._rows[release] -= sum(seen.rows for seen in waiting[:count])
            del waiting[:count]

    def forget(self, release: str) -> None:
        """Nobody wants those of this release."""
        self._seen.pop(release, None)
        self._rows.pop(release, None)

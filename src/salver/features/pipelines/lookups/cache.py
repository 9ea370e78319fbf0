"""Rows that were looked up, for some seconds."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

from salver.features.pipelines.lookups.source import Key, Row, Source

_Kept = tuple[float, Row | None]


class RowCache:
    """Cache in front of a source: bounded, with a lifetime, and one call for all keys that it does not have.

    Threads that miss at the same time wait for one another, and find what the first has fetched.

    Args:
        seconds: Lifetime of a row, and of the knowledge that there is none; 0 = nothing is kept.
        most: Most keys.
        clock: Returns monotonic seconds.

    Attributes:
        counts: Keys by ``hit`` (in the cache), ``miss`` (asked for) and ``absent`` (the source has none).
    """

    def __init__(self, source: Source, seconds: float, most: int, clock: Callable[[], float]) -> None:
        self._source = source
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._rows: OrderedDict[Key, _Kept] = OrderedDict()
        self._lock = threading.Lock()
        self._asking = threading.Lock()
        self.counts = {"hit": 0, "miss": 0, "absent": 0, "timeout": 0, "failed": 0}

    def __repr__(self) -> str:
        return f"<RowCache of {self._source!r}, {len(self._rows)} keys>"

    def known(self, keys: Sequence[Key]) -> dict[Key, Row | None]:
        """Return the rows that are in the cache."""
        if not self._seconds:
            return {}
        now, found = self._clock(), {}
        with self._lock:
            for key in keys:
                kept = self._rows.get(key)
                if kept is not None and kept[0] > now:
                    found[key] = kept[1]
                    self._rows.move_to_end(key)
        return found

    def rows(self, keys: Sequence[Key], seconds: float) -> dict[Key, Row | None]:
        """Return the rows of different keys; None = there is none.

        Raises:
            SourceFailed: the source gave no answer.
        """
        found = self.known(keys)
        if len(found) < len(keys):
            with self._asking:
                found |= self.known([key for key in keys if key not in found])
                missing = [key for key in keys if key not in found]
                self.counts["hit"] += len(found)
                self.counts["miss"] += len(missing)
                if missing:
                    found |= self._fetched(missing, seconds)
        else:
            self.counts["hit"] += len(found)
        self.counts["absent"] += sum(row is None for row in found.values())
        return found

    def _fetched(self, keys: Sequence[Key], seconds: float) -> dict[Key, Row | None]:
        fetched = dict(zip(keys, self._source.rows(keys, seconds), strict=True))
        if self._seconds:
            until = self._clock() + self._seconds
            with self._lock:
                self._rows |= {key: (until, row) for key, row in fetched.items()}
                while len(self._rows) > self._most:
                    self._rows.popitem(last=False)
        return fetched

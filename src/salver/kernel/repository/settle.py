"""Detection of complete changes, as opposed to files that are still being written.

Pure. A change counts once it looks the same in two scans that are far enough apart.
"""

from collections.abc import Mapping

from salver.words.artifacts import Manifest
from salver.words.messages import ModelId

_Mark = tuple[str, str, str] | None


class ChangeFilter:
    """Filter that holds changes back until they have settled.

    Args:
        rest_s: Seconds for which a change must look the same.
    """

    def __init__(self, rest_s: float) -> None:
        self._rest_s = rest_s
        self._taken: dict[ModelId, Manifest] = {}
        self._waiting: dict[ModelId, tuple[_Mark, float]] = {}
        self._is_first = True

    @property
    def is_waiting(self) -> bool:
        """Whether the last scan saw a change that has not settled."""
        return bool(self._waiting)

    def take(
        self, found: Mapping[ModelId, Manifest], now: float, at_once: frozenset[str] = frozenset()
    ) -> dict[ModelId, Manifest]:
        """Return the versions that count now; the first call accepts all.

        Args:
            found: Result of the current scan.
            at_once: Models named by a request, whose changes count at once.
        """
        waiting: dict[ModelId, tuple[_Mark, float]] = {}
        for id in found.keys() | self._taken.keys():
            mark = _mark(found.get(id))
            if mark == _mark(self._taken.get(id)):
                continue
            before, since = self._waiting.get(id, (None, now))
            if id not in self._waiting or before != mark:
                since = now
            is_rested = id in self._waiting and before == mark and now - since >= self._rest_s
            if self._is_first or id.name in at_once or is_rested:
                if id in found:
                    self._taken[id] = found[id]
                else:
                    del self._taken[id]
            else:
                waiting[id] = (mark, since)
        self._waiting = waiting
        self._is_first = False
        return dict(self._taken)


def _mark(manifest: Manifest | None) -> _Mark:
    if manifest is None:
        return None
    return (manifest.fingerprint, manifest.problem, manifest.brought)

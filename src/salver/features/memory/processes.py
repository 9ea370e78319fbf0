"""Memory of this process and of those that it started. Blocking, a few microseconds to 30 ms a process.

The proportional set size (PSS) counts a page that several processes share by its share, so that the sum over
processes is what they use together. Reading it takes time in proportion to the memory; the resident set size,
which is never less, does not (proc(5): ``statm``, ``smaps_rollup``).
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from salver.kernel.lifecycle.memory import resident_bytes, trim_heap

_CHANGE: Final = 0.01


def tree(root: int) -> list[int]:
    """Return the ids of a process and of all that it started, directly or not."""
    found = [root]
    for pid in found:  # the list grows while it is read
        found.extend(_children(pid))
    return found


def _children(pid: int) -> Iterator[int]:
    try:
        for task in os.listdir(f"/proc/{pid}/task"):  # Path takes three times as long  # noqa: PTH208
            with open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as file:  # noqa: PTH123
                yield from map(int, file.read().split())
    except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
        return


def rss(pids: list[int]) -> int:
    """Return the sum of the resident sets, in bytes: an upper bound of :func:`pss`."""
    return sum(resident_bytes(pid) for pid in pids)


def pss(pids: list[int]) -> int:
    """Return the sum of the proportional sets, in bytes."""
    return sum(_pss(pid) for pid in pids)


def _pss(pid: int) -> int:
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    except (FileNotFoundError, ProcessLookupError):
        return 0
    except PermissionError:  # another user's
        return resident_bytes(pid)
    return 0


class ProcessMeter:
    """Proportional set size of this process and its descendants, read anew only where it may have changed."""

    def __init__(self) -> None:
        self._rss = self._pss = 0

    def read(self, *, is_exact: bool) -> int:
        """See :class:`~salver.features.memory.ports.Meter`."""
        if is_exact:
            trim_heap()  # what a load has freed is not in use
        pids = tree(os.getpid())
        now = rss(pids)
        if is_exact or abs(now - self._rss) > _CHANGE * self._rss:
            self._rss, self._pss = now, pss(pids)
        return self._pss

    def bound(self) -> int:
        """See :class:`~salver.features.memory.ports.Meter`."""
        return rss(tree(os.getpid()))

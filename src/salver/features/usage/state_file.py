"""File of what a running server has used of its quotas, which outlives its process.

The file is mapped into memory: to count is to write to memory, and what was written is there when the
process is killed. Only a machine that fails loses it, and then the slices that were granted count as used.
The next server that uses the folder finds files whose process has ended by their locks, which the system
releases.
"""

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from salver.features.usage.allowance import Counts

#: Places of a file; slices beyond these are kept in memory only.
_PLACES: Final = 16_384
#: Bytes of a place: the count, and the name of the quota.
_SIZE: Final = 256
_MOST_NAME: Final = _SIZE - 8
_SUFFIX: Final = ".quotas"
_WORD: Final = 8


class Use(NamedTuple):
    """Use of a quota by a server.

    Attributes:
        quota: Name of the rule, as ``requests/day``.
    """

    key: str
    quota: str
    period: str
    used: int


class StateFile:
    """File of one running server.

    Args:
        path: Its name begins with the id of the server's run.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(self._file, _PLACES * _SIZE)  # sparse: places that are not used take no room
        self._map = mmap.mmap(self._file, _PLACES * _SIZE)
        self._counts = memoryview(self._map).cast("q")
        self._free = list(range(_PLACES - 1, -1, -1))

    def __repr__(self) -> str:
        return f"<StateFile {self._path.name}, {_PLACES - len(self._free)} places used>"

    def open(self, key: str, quota: str, period: str) -> tuple[Counts, int]:
        """Return memory for the count of a quota, and the place in it; the count begins at 0."""
        name = "\0".join((key, quota, period)).encode()
        if not self._free or len(name) > _MOST_NAME:
            return [0], 0
        place = self._free.pop()
        start = place * _SIZE
        self._map[start : start + _SIZE] = bytes(_WORD) + name.ljust(_MOST_NAME, b"\0")
        return self._counts, place * _SIZE // _WORD

    def close(self, memory: Counts, at: int) -> None:
        """Release the place of a quota that was settled."""
        if memory is self._counts:
            place = at * _WORD // _SIZE
            self._map[place * _SIZE : (place + 1) * _SIZE] = bytes(_SIZE)
            self._free.append(place)

    def leave(self, *, is_settled: bool) -> None:
        """Close the file; delete it if everything in it is settled."""
        if is_settled:
            self._path.unlink(missing_ok=True)
        self._counts.release()
        self._map.close()
        os.close(self._file)


@contextlib.contextmanager
def orphan(path: Path) -> Iterator[Sequence[Use] | None]:
    """Yield what is in the file of a server that has ended, and delete it then; None = the server runs."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield None
        return
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        yield list(_uses(path.read_bytes()))
        path.unlink(missing_ok=True)
    finally:
        os.close(file)


def _uses(data: bytes) -> Iterator[Use]:
    for start in range(0, len(data) - _SIZE + 1, _SIZE):
        name = data[start + _WORD : start + _SIZE].rstrip(b"\0").decode("utf-8", "replace")
        if name.count("\0") == 2:
            key, quota, period = name.split("\0")
            yield Use(key, quota, period, int.from_bytes(data[start : start + _WORD], "little"))


def path_of(folder: Path, run: str) -> Path:
    """Return the path of the file of a server's run."""
    return folder / f"{run}{_SUFFIX}"


def runs_in(folder: Path) -> list[str]:
    """Return the ids of all runs that have a file in a folder."""
    return sorted(path.name.removesuffix(_SUFFIX) for path in folder.glob(f"*{_SUFFIX}"))

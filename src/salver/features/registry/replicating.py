"""Copies of a registry's files in another place, such as another region's. Blocking.

Versions never change, so what is there already stays as it is. A copy that was interrupted goes on within the
file where it ended. Digests are checked before a version appears.
"""

import contextlib
import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Final

import msgspec

from salver.features.access.gcra import Cell, Rate
from salver.features.registry.artifacts import Artifacts, ArtifactsFailed, disk_errors, pieces
from salver.features.registry.records import FileEntry
from salver.words.errors import Conflict, SalverError

_UNIT: Final = 1024  # bytes
_BURST: Final = 1024  # units
_NS: Final = 1e9


class Bandwidth:
    """Limit of the bytes a second, with a burst of a MiB.

    Args:
        rate: Bytes a second, at least 1024.
        clock: Monotonic nanoseconds.
        sleep: Waits that many seconds.
    """

    def __init__(
        self,
        rate: int,
        clock: Callable[[], int] = time.monotonic_ns,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._cell = Cell(Rate(rate // _UNIT, 1, _BURST))
        self._clock = clock
        self._sleep = sleep

    def __repr__(self) -> str:
        return f"<Bandwidth {self._cell.rate.count} KiB/s>"

    def __call__(self, size: int) -> None:
        """Count bytes that were read, and wait until they are within the limit."""
        now = self._clock()
        self._cell.take(now, -(-size // _UNIT))
        self._sleep(self._cell.wait(now, 0) / _NS)


def unlimited(size: int) -> None:
    """Wait for nothing (a :class:`Bandwidth` without a limit)."""


class Copied(msgspec.Struct, frozen=True):
    """A version that was not in the other place.

    Attributes:
        problem: Why it still is not there; empty = it is.
    """

    model: str
    number: int
    bytes: int
    problem: str = ""


def copy_versions(
    source: Artifacts,
    target: Artifacts,
    versions: Mapping[tuple[str, int], tuple[FileEntry, ...]],
    pace: Callable[[int], None] = unlimited,
) -> list[Copied]:
    """Copy the versions that another place lacks, and return them.

    Args:
        versions: Files of each version, as pushed.
        pace: Called with the size of each piece that was read; may wait.

    Raises:
        Conflict: another copy to this place is running on this machine.
        ArtifactsFailed: the other place cannot be read.
    """
    copied = []
    with _alone(target), target.held():
        for (model, number), files in versions.items():
            if target.names(model, number) == {file.path for file in files}:
                continue
            size = sum(file.size for file in files)
            try:
                _copy_version(source, target, (model, number), files, pace)
                copied.append(Copied(model, number, size))
            except SalverError as error:
                copied.append(Copied(model, number, size, error.message))
    return copied


@contextlib.contextmanager
def _alone(target: Artifacts) -> Iterator[None]:
    path = target.folder / "copy.lock"
    with disk_errors(path):
        target.folder.mkdir(parents=True, exist_ok=True)
        lock = path.open("ab")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another copy to {target.where} is running", fix="Try again later.") from error
        yield


def _copy_version(
    source: Artifacts,
    target: Artifacts,
    version: tuple[str, int],
    files: tuple[FileEntry, ...],
    pace: Callable[[int], None],
) -> None:
    id = f"copy-{version[0]}-{version[1]}"  # the same for the next try, which goes on there
    aside = Artifacts(target.aside(id))
    for file in files:
        path = aside.path_of(*version) / file.path
        with disk_errors(path), source.open(*version, file.path) as read:
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = _copy_rest(read, path, pace)
        if digest != file.sha256:
            path.unlink()
            told = f"{source.where}: {file.path} of {version[0]}/{version[1]} differs from what was pushed"
            raise ArtifactsFailed(told, fix="See: salver registry verify.")
    target.adopt(aside, *version)
    target.drop(id)


def _copy_rest(read: IO[bytes], path: Path, pace: Callable[[int], None]) -> str:
    """Copy what a file lacks, and return the SHA-256 of the whole."""
    found = hashlib.sha256()
    with path.open("a+b") as write:
        write.seek(0)
        for piece in pieces(write):
            found.update(piece)
        read.seek(write.tell())
        for piece in pieces(read):
            pace(len(piece))
            found.update(piece)
            write.write(piece)
        write.flush()
        os.fsync(write.fileno())
    return found.hexdigest()

"""Folder of environments, shared by servers.

Each environment has a folder named by its digest and a lock beside it. The lock is exclusive while it is made
or removed, and shared while it is used, so that a process that is killed leaves nothing locked. Installers
hold the lock as well: one that outlives its server writes into the folder until it ends, and nobody else may.
The record in the folder is written last: without it, the folder is a partial one, and is made anew.
"""

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from salver.words.errors import LoadFailed

_RECORD: Final = "salver.json"
_LOOK_S: Final = 0.1


class _Record(msgspec.Struct, frozen=True):
    """Record of a whole environment, kept in its folder."""

    origin: str
    python: str
    bytes: int
    made: float


class Entry(NamedTuple):
    """An environment of the cache.

    Attributes:
        origin: File that it was made of.
        made, used: Unix time in seconds.
        is_used: A server uses it.
    """

    digest: str
    origin: str
    python: str
    bytes: int
    made: float
    used: float
    is_used: bool


class EnvironmentLease(NamedTuple):
    """Use of an environment, which is not removed meanwhile."""

    folder: Path
    fd: int

    def release(self) -> None:
        """Let it go."""
        os.close(self.fd)


_read: Final = msgspec.json.Decoder(_Record).decode


class EnvironmentCache:
    """Environments by digest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __repr__(self) -> str:
        return f"<EnvironmentCache {self._folder}>"

    def hold(
        self, digest: str, origin: str, python: str, make: Callable[[Path, int], None], stop: threading.Event
    ) -> EnvironmentLease:
        """Return an environment, made if it is missing. Blocking: waits for another process that makes it.

        Args:
            origin, python: What is shown of it.
            make: Fills the empty folder, given the lock's descriptor for its installers. Raises LoadFailed.
            stop: Set to cancel.

        Raises:
            LoadFailed: it could not be made, or not be written.
        """
        folder = self._folder / digest
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            fd = self._open(digest)
            try:
                _share(fd, stop)
                while not _is_whole(folder):
                    if not _takes(fd, fcntl.LOCK_EX):
                        fcntl.flock(fd, fcntl.LOCK_UN)  # for whoever wants to make it, too
                        _wait(stop)
                    elif not _is_whole(folder):  # else another process was faster
                        _fill(folder, fd, origin, python, make)
                    _share(fd, stop)
                os.utime(folder / _RECORD)
            except BaseException:
                os.close(fd)
                raise
        except OSError as error:
            raise LoadFailed(
                f"no environment can be kept in {self._folder}: {error.strerror or error}",
                fix="Set XDG_DATA_HOME to a folder that the server may write.",
            ) from error
        return EnvironmentLease(folder, fd)

    def entries(self) -> list[Entry]:
        """Return all whole environments, that which was not used for the longest time first."""
        found = []
        for path in self._folder.glob(f"*/{_RECORD}"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                record, used = _read(path.read_bytes()), path.stat().st_mtime
                with self._alone(path.parent.name) as is_free:
                    entry = (record.origin, record.python, record.bytes, record.made, used, not is_free)
                found.append(Entry(path.parent.name, *entry))
        return sorted(found, key=lambda entry: entry.used)

    def prune(self, most_bytes: int) -> list[Entry]:
        """Remove environments that no server uses until the rest has at most so many bytes; return them.

        Partial ones that nobody is making are removed, too.
        """
        removed, entries = [], self.entries()
        total = sum(entry.bytes for entry in entries)
        for entry in entries:
            if total > most_bytes and self._remove(entry.digest):
                removed.append(entry)
                total -= entry.bytes
        for folder in self._folder.glob("*/"):
            if not (folder / _RECORD).exists():
                self._remove(folder.name)
        return removed

    def _remove(self, digest: str) -> bool:
        with self._alone(digest) as is_free:
            if is_free:
                (self._folder / digest / _RECORD).unlink(missing_ok=True)  # first: what is left is partial
                shutil.rmtree(self._folder / digest, ignore_errors=True)
            return is_free

    def _open(self, digest: str) -> int:
        # Lock files stay: one that was removed while it is opened would lock nothing.
        return os.open(self._folder / f"{digest}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextlib.contextmanager
    def _alone(self, digest: str) -> Iterator[bool]:
        """Lock an environment if nobody holds it; yield whether nobody does."""
        fd = self._open(digest)
        try:
            yield _takes(fd, fcntl.LOCK_EX)
        finally:
            os.close(fd)


def _share(fd: int, stop: threading.Event) -> None:
    while not _takes(fd, fcntl.LOCK_SH):
        _wait(stop)


def _takes(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(stop: threading.Event) -> None:
    if stop.wait(_LOOK_S):
        raise LoadFailed("it was cancelled")


def _is_whole(folder: Path) -> bool:
    python = folder / "bin" / "python"
    is_there = python.exists() or not python.is_symlink()  # its interpreter may have been uninstalled
    return (folder / _RECORD).exists() and is_there


def _fill(folder: Path, fd: int, origin: str, python: str, make: Callable[[Path, int], None]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        make(folder, fd)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    size = sum(os.lstat(Path(at, name)).st_size for at, _, names in os.walk(folder) for name in names)
    partial = folder / f".{_RECORD}"
    partial.write_bytes(msgspec.json.encode(_Record(origin, python, size, time.time())))
    partial.replace(folder / _RECORD)

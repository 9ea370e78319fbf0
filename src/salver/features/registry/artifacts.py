"""Where do the files of versions lie, and are they what was pushed?

``models/NAME/NUMBER/``, as every model repository has them, so that whoever leaves takes the folder along. A
version is made aside, in ``incoming/``, and renamed, so that it is whole or not there. Blocking. It knows no
ledger.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from salver.features.registry.names import is_text
from salver.features.registry.records import FileEntry
from salver.words.errors import Conflict, InvalidInput, NotReady

_PIECE: Final = 1 << 20
_MOST_FILES: Final = 20_000
_READABLE: Final = 0o444
#: What lies aside and has not changed for so long was left by somebody who was killed.
LEFT_SECONDS: Final = 86_400.0
OF_NO_PUSH: Final = "Say --hours 24, or more: what has not changed for a day is of no push."


class ArtifactsFailed(NotReady):
    """The folder of the registry's files cannot be read or written; the message is the system's reason."""


def digest_of(files: Sequence[FileEntry]) -> str:
    """Of a version: over its files' paths and contents, in the order of the paths.

    >>> digest_of([FileEntry("b", 1, "0" * 64), FileEntry("a", 1, "f" * 64)])[:20]
    'sha256:2c84e9fd04684'
    """
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(f"{file.path}\0{file.sha256}\n".encode())
    return f"sha256:{whole.hexdigest()}"


class Artifacts:
    """The files of a registry.

    Args:
        folder: Has ``models/`` and ``incoming/``; is made when the first version comes.
    """

    #: They lie elsewhere, and are brought onto this machine to be served.
    is_distant = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self._incoming = folder / "incoming"
        self._lock = folder / "push.lock"

    def __repr__(self) -> str:
        return f"<Artifacts {self.folder}>"

    @property
    def where(self) -> str:
        """For messages."""
        return str(self.folder)

    def path_of(self, model: str, number: int) -> Path:
        """The folder of a version."""
        return self.models / model / str(number)

    def aside(self, id: str) -> Path:
        """A folder for what is not there yet, on the same file system."""
        return self._incoming / id

    def held(self) -> contextlib.AbstractContextManager[Any]:
        """Meanwhile nothing that has no row yet is swept, however young; waits for who sweeps now.

        Raises:
            ArtifactsFailed: the folder cannot be written.
        """
        with _told(self._lock):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.fdopen(os.open(self._lock, os.O_RDONLY | os.O_CREAT, 0o644), "rb")
            with contextlib.suppress(OSError):  # a disk that locks nothing is not swept so early, either
                fcntl.flock(lock, fcntl.LOCK_SH)
            return lock

    def alone(self) -> contextlib.AbstractContextManager[Any]:
        """Meanwhile nobody pushes.

        Raises:
            Conflict: somebody does, or nobody knows.
            ArtifactsFailed: the folder cannot be locked.
        """
        with _told(self._lock):
            lock = os.fdopen(os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644), "rb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.close()
                raise Conflict("a push is under way", fix=f"Wait for its end. {OF_NO_PUSH}") from error
            return lock

    def take_in(self, files: Mapping[str, Path], id: str, stop: threading.Event) -> tuple[FileEntry, ...]:
        """Copy files aside, whole and onto the disk; what they are. What killed pushes left there goes.

        Args:
            files: By the path that each is to have in its version.
            id: Of the attempt; names the folder that :meth:`place` takes.
            stop: Set to give up; nothing stays then.

        Raises:
            InvalidInput: a path leads out of the version, or there are too many files, or none.
            ArtifactsFailed: one cannot be read or written, or ``stop`` was set.
        """
        if not files or len(files) > _MOST_FILES:
            raise InvalidInput(f"a version has 1 to {_MOST_FILES} files, not {len(files)}", fix="Pack them.")
        aside = self._incoming / id
        with contextlib.suppress(ArtifactsFailed):  # of another user, for instance: no reason not to push
            self.sweep_aside(time.time() - LEFT_SECONDS)
        with _told(aside):
            aside.mkdir(parents=True)
        try:
            entries = tuple(_copy(source, aside, path, stop) for path, source in sorted(files.items()))
            with _told(aside):
                for folder in (*filter(Path.is_dir, aside.rglob("*")), aside):
                    onto_disk(folder)
            _check_wanted(stop)
            return entries
        except BaseException:
            self.drop(id)
            raise

    def place(self, id: str, model: str, number: int) -> None:
        """Give what was taken in its place, which must be free.

        Raises:
            ArtifactsFailed: it cannot be renamed.
        """
        aside, home = self._incoming / id, self.path_of(model, number)
        with _told(home):
            home.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(home)
            for folder in (home.parent, self.models, self._incoming):
                onto_disk(folder)

    def adopt(self, unpacked: "Artifacts", model: str, number: int) -> None:
        """Take a version over from a folder below :meth:`aside`.

        Raises:
            ArtifactsFailed: it cannot be renamed.
        """
        home, source = self.path_of(model, number), unpacked.path_of(model, number)
        self.finish(source)
        with _told(home):
            home.parent.mkdir(parents=True, exist_ok=True)
            source.rename(home)
            onto_disk(home.parent)

    def bring(self, model: str, number: int, files: Sequence[FileEntry]) -> None:
        """A version's folder is on this machine from now on, whole.

        Raises:
            ArtifactsFailed: it cannot be had, or is not what was pushed.
        """

    def brought(self) -> frozenset[tuple[str, int]]:
        """What :meth:`bring` has brought, before the last restart, too."""
        return frozenset()

    def forget(self, model: str, number: int) -> None:
        """What was brought onto this machine is not needed any more."""

    def open(self, model: str, number: int, path: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """A file of a version, to be read. Raises OSError, ArtifactsFailed."""
        return (self.path_of(model, number) / path).open("rb")

    @staticmethod
    def finish(folder: Path) -> None:
        """What was not copied by :meth:`take_in`: onto the disk, for all to read.

        Raises:
            ArtifactsFailed: it cannot be.
        """
        with _told(folder):
            for path in folder.rglob("*"):
                if path.is_file():
                    path.chmod(_READABLE)
                onto_disk(path)
            onto_disk(folder)

    def drop(self, id: str) -> None:
        """What was taken in is not needed."""
        shutil.rmtree(self._incoming / id, ignore_errors=True)

    def remove(self, model: str, number: int, id: str) -> None:
        """The files of a version go, all at once, after its row says so. Nothing there is fine.

        Raises:
            ArtifactsFailed: they cannot be renamed.
        """
        home = self.path_of(model, number)
        with _told(home):
            if home.exists():
                self._incoming.mkdir(parents=True, exist_ok=True)
                home.rename(self._incoming / id)
                onto_disk(home.parent)
        self.drop(id)

    def entries(self, model: str, number: int) -> tuple[FileEntry, ...]:
        """What lies there now, read anew; of a file that cannot be read the SHA-256 is empty.

        Raises:
            ArtifactsFailed: the folder cannot be read.
        """
        return self.entries_in(self.path_of(model, number))

    @staticmethod
    def entries_in(home: Path) -> tuple[FileEntry, ...]:
        """The same of any folder."""
        with _told(home):
            paths = sorted(path for path in home.rglob("*") if not path.is_dir())
            return tuple(_entry(path, path.relative_to(home).as_posix()) for path in paths)

    def sweep(self, known: Collection[tuple[str, int]], before: float) -> tuple[str, ...]:
        """Remove what lies aside or in the place of no known version, and has not changed since then."""
        unknown = [self.path_of(*version) for version in self.numbers() if version not in known]
        return (*self.sweep_aside(before), *self._swept(unknown, before))

    def sweep_aside(self, before: float) -> tuple[str, ...]:
        """Only what lies aside."""
        with _told(self._incoming):
            return self._swept(list(self._incoming.iterdir()) if self._incoming.exists() else [], before)

    def _swept(self, paths: Sequence[Path], before: float) -> tuple[str, ...]:
        gone = []
        for path in paths:
            with _told(self.folder), contextlib.suppress(FileNotFoundError):  # others push and sweep, too
                if max(each.lstat().st_mtime for each in (path, *path.rglob("*"))) < before:
                    shutil.rmtree(path)
                    gone.append(path.relative_to(self.folder).as_posix())
        return tuple(gone)

    def numbers(self) -> Iterator[tuple[str, int]]:
        """Every folder of a version that there is, whether the ledger knows it or not."""
        with _told(self.models), contextlib.suppress(FileNotFoundError):
            for home in sorted(self.models.glob("*/*")):
                if home.is_dir() and home.name.isdecimal():
                    yield home.parent.name, int(home.name)


def _check_wanted(stop: threading.Event) -> None:
    if stop.is_set():
        raise ArtifactsFailed("the push was given up")


def _copy(source: Path, aside: Path, path: str, stop: threading.Event) -> FileEntry:
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path:
        raise InvalidInput(f"{path!r} leads out of the version", fix="Name files by relative paths.")
    if not is_text(path) or any(each < " " for each in path):
        raise InvalidInput(
            f"no file of a version can be called {path!r}", fix="Use UTF-8, and no control codes."
        )
    target = aside / pure
    found, size = hashlib.sha256(), 0
    with _told(source):
        if not stat.S_ISREG(source.stat().st_mode):  # a pipe would never end, nor a device
            raise InvalidInput(f"{source} is no file", fix="Leave it out of the model's folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as read, target.open("xb") as write:
            for piece in _pieces(read):
                _check_wanted(stop)
                found.update(piece)
                write.write(piece)
                size += len(piece)
            write.flush()
            os.fsync(write.fileno())
        target.chmod(_READABLE)
    return FileEntry(path, size, found.hexdigest())


def _entry(path: Path, name: str) -> FileEntry:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # a link, too, since nobody pushed one
            return FileEntry(name, 0, "")
        with path.open("rb") as read:
            return entry_of(read, name)
    except OSError:
        return FileEntry(name, 0, "")


def entry_of(file: IO[bytes], name: str) -> FileEntry:
    """What a file of that name is, read to its end."""
    found, size = hashlib.sha256(), 0
    for piece in _pieces(file):
        found.update(piece)
        size += len(piece)
    return FileEntry(name, size, found.hexdigest())


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece


def onto_disk(path: Path) -> None:
    """What was written, or renamed in it, stays so if the power goes."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise ArtifactsFailed(
            f"{where}: {error.strerror or error}",
            fix="Is there room, and may this user write there?",
        ) from error

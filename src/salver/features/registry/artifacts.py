"""Files of versions in a folder, and checks of their digests.

``models/NAME/NUMBER/``, the layout of every model repository, so that the folder can be used without the
registry. A version is prepared in ``incoming/`` and renamed, so that it is complete or absent. Blocking. It
knows no ledger.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from salver.features.registry.names import is_text
from salver.features.registry.records import FileEntry
from salver.words.errors import Conflict, InvalidInput, NotReady

_PIECE: Final = 1 << 20
_MOST_FILES: Final = 20_000
_READABLE: Final = 0o444
#: Age in seconds from which unchanged files in ``incoming/`` count as left by a killed push.
LEFT_SECONDS: Final = 86_400.0
OF_NO_PUSH: Final = "Say --hours 24, or more: what has not changed for a day is of no push."


class ArtifactsFailed(NotReady):
    """Folder of the registry that cannot be read or written; the message is the system's reason."""


def digest_of(files: Sequence[FileEntry]) -> str:
    """Return the digest of a version: over its files' paths and contents, in order of the paths.

    >>> digest_of([FileEntry("b", 1, "0" * 64), FileEntry("a", 1, "f" * 64)])[:20]
    'sha256:2c84e9fd04684'
    """
    whole = hashlib.sha256()
    for file in sorted(files):
        whole.update(f"{file.path}\0{file.sha256}\n".encode())
    return f"sha256:{whole.hexdigest()}"


class Artifacts:
    """Files of a registry in a folder.

    Args:
        folder: Contains ``models/`` and ``incoming/``; created with the first version.

    Attributes:
        notices: Decisions about files, for the output of a push.
    """

    #: True if files are stored elsewhere and fetched to this machine for serving.
    is_distant = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notices: list[str] = []
        self.models = folder / "models"
        self._incoming = folder / "incoming"
        self._lock = folder / "push.lock"

    def __repr__(self) -> str:
        return f"<Artifacts {self.folder}>"

    @property
    def where(self) -> str:
        """Return the location, for messages."""
        return str(self.folder)

    def path_of(self, model: str, number: int) -> Path:
        """Return the folder of a version."""
        return self.models / model / str(number)

    def aside(self, id: str) -> Path:
        """Return a folder for unfinished files, on the same file system."""
        return self._incoming / id

    def held(self) -> contextlib.AbstractContextManager[Any]:
        """Prevent sweeping of files without a row in the meantime; wait for a running sweep.

        Raises:
            ArtifactsFailed: the folder cannot be written.
        """
        with disk_errors(self._lock):
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = os.fdopen(os.open(self._lock, os.O_RDONLY | os.O_CREAT, 0o644), "rb")
            with contextlib.suppress(OSError):  # without file locks such young files are not swept either
                fcntl.flock(lock, fcntl.LOCK_SH)
            return lock

    def alone(self) -> contextlib.AbstractContextManager[Any]:
        """Prevent pushes in the meantime.

        Raises:
            Conflict: a push is running, or cannot be excluded.
            ArtifactsFailed: the folder cannot be locked.
        """
        with disk_errors(self._lock):
            lock = os.fdopen(os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644), "rb")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                lock.close()
                raise Conflict("a push is running", fix=f"Wait until it ends. {OF_NO_PUSH}") from error
            return lock

    def take_in(self, files: Mapping[str, Path], id: str, stop: threading.Event) -> tuple[FileEntry, ...]:
        """Copy files to ``incoming/`` and return their entries; remove leftovers of killed pushes.

        Args:
            files: Source files by their path in the version.
            id: Id of the attempt; names the folder that :meth:`place` renames.
            stop: Set to cancel; everything is removed then.

        Raises:
            InvalidInput: a path leaves the version's folder, or there are too many files, or none.
            ArtifactsFailed: one cannot be read or written, or ``stop`` was set.
        """
        if not files or len(files) > _MOST_FILES:
            raise InvalidInput(
                f"a version has 1 to {_MOST_FILES} files, not {len(files)}", fix="Pack them into an archive."
            )
        aside = self._incoming / id
        with contextlib.suppress(ArtifactsFailed):  # for example files of another user: no reason not to push
            self.sweep_aside(time.time() - LEFT_SECONDS)
        with disk_errors(aside):
            aside.mkdir(parents=True)
        try:
            entries = tuple(_copy(source, aside, path, stop) for path, source in sorted(files.items()))
            with disk_errors(aside):
                for folder in (*filter(Path.is_dir, aside.rglob("*")), aside):
                    onto_disk(folder)
            _check_wanted(stop)
            return entries
        except BaseException:
            self.drop(id)
            raise

    def compress(self) -> None:
        """Compress files of further versions, where they are then fetched faster.

        Raises:
            InvalidInput: they are used where they lie, and never fetched.
        """
        raise InvalidInput(
            f"the files in {self.where} are loaded where they lie, and compressed ones could not be",
            field="--compress",
            fix="Leave it out, or keep the files in an object store: --artifacts s3://bucket/path.",
        )

    def place(self, id: str, model: str, number: int) -> None:
        """Rename a prepared version to its final folder, which must not exist.

        Raises:
            ArtifactsFailed: it cannot be renamed.
        """
        aside, home = self._incoming / id, self.path_of(model, number)
        with disk_errors(home):
            home.parent.mkdir(parents=True, exist_ok=True)
            aside.rename(home)
            for folder in (home.parent, self.models, self._incoming):
                onto_disk(folder)

    def adopt(self, unpacked: "Artifacts", model: str, number: int) -> None:
        """Move a version from a folder below :meth:`aside`.

        Raises:
            ArtifactsFailed: it cannot be renamed.
        """
        home, source = self.path_of(model, number), unpacked.path_of(model, number)
        self.finish(source)
        with disk_errors(home):
            home.parent.mkdir(parents=True, exist_ok=True)
            source.rename(home)
            onto_disk(home.parent)

    def bring(self, model: str, number: int, files: Sequence[FileEntry]) -> None:
        """Make a version's folder available on this machine, complete.

        Raises:
            ArtifactsFailed: it cannot be fetched, or differs from what was pushed.
        """

    def brought(self) -> frozenset[tuple[str, int]]:
        """Return the versions that :meth:`bring` has fetched, including those before the last restart."""
        return frozenset()

    def forget(self, model: str, number: int) -> None:
        """Release the local copy of a version."""

    def open(self, model: str, number: int, path: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Open a file of a version for reading. Raises OSError, ArtifactsFailed."""
        return (self.path_of(model, number) / path).open("rb")

    @staticmethod
    def finish(folder: Path) -> None:
        """Sync files that :meth:`take_in` did not copy, and make them readable for all.

        Raises:
            ArtifactsFailed: that fails.
        """
        with disk_errors(folder):
            for path in folder.rglob("*"):
                if path.is_file():
                    path.chmod(_READABLE)
                onto_disk(path)
            onto_disk(folder)

    def drop(self, id: str) -> None:
        """Remove a prepared version."""
        shutil.rmtree(self._incoming / id, ignore_errors=True)

    def remove(self, model: str, number: int, id: str) -> None:
        """Remove the files of a version atomically, after its row says so. Missing files are fine.

        Raises:
            ArtifactsFailed: they cannot be renamed.
        """
        home = self.path_of(model, number)
        with disk_errors(home):
            if home.exists():
                self._incoming.mkdir(parents=True, exist_ok=True)
                home.rename(self._incoming / id)
                onto_disk(home.parent)
        self.drop(id)

    def entries(self, model: str, number: int) -> tuple[FileEntry, ...]:
        """Return the current entries, read again; the SHA-256 of an unreadable file is empty.

        Raises:
            ArtifactsFailed: the folder cannot be read.
        """
        return self.entries_in(self.path_of(model, number))

    def names(self, model: str, number: int) -> frozenset[str]:
        """Return the paths of the files that are there, without reading them.

        Raises:
            ArtifactsFailed: the folder cannot be read.
        """
        home = self.path_of(model, number)
        with disk_errors(home):
            paths = [path for path in home.rglob("*") if not path.is_dir()]
        return frozenset(path.relative_to(home).as_posix() for path in paths)

    @staticmethod
    def entries_in(home: Path) -> tuple[FileEntry, ...]:
        """Return the entries of any folder."""
        with disk_errors(home):
            paths = [path for path in home.rglob("*") if not path.is_dir()]
            return tuple(sorted(_entry(path, path.relative_to(home).as_posix()) for path in paths))

    def sweep(self, known: Collection[tuple[str, int]], before: float) -> tuple[str, ...]:
        """Remove unfinished files and folders of unknown versions that have not changed since then."""
        unknown = [self.path_of(*version) for version in self.numbers() if version not in known]
        return (*self.sweep_aside(before), *self._swept(unknown, before))

    def sweep_aside(self, before: float) -> tuple[str, ...]:
        """Remove only unfinished files."""
        with disk_errors(self._incoming):
            return self._swept(list(self._incoming.iterdir()) if self._incoming.exists() else [], before)

    def _swept(self, paths: Sequence[Path], before: float) -> tuple[str, ...]:
        gone = []
        for path in paths:
            with (
                disk_errors(self.folder),
                contextlib.suppress(FileNotFoundError),
            ):  # concurrent pushes and sweeps
                if max(each.lstat().st_mtime for each in (path, *path.rglob("*"))) < before:
                    shutil.rmtree(path)
                    gone.append(path.relative_to(self.folder).as_posix())
        return tuple(gone)

    def numbers(self) -> Iterator[tuple[str, int]]:
        """Return all version folders, whether or not the ledger knows them."""
        with disk_errors(self.models), contextlib.suppress(FileNotFoundError):
            for home in sorted(self.models.glob("*/*")):
                if home.is_dir() and home.name.isdecimal():
                    yield home.parent.name, int(home.name)


def _check_wanted(stop: threading.Event) -> None:
    if stop.is_set():
        raise ArtifactsFailed("the push was cancelled")


def _copy(source: Path, aside: Path, path: str, stop: threading.Event) -> FileEntry:
    target = aside / check_path(path)
    with disk_errors(source):
        if not stat.S_ISREG(source.stat().st_mode):  # a pipe or device would never end
            raise InvalidInput(f"{source} is not a file", fix="Leave it out of the model's folder.")
        target.parent.mkdir(parents=True, exist_ok=True)
        with source.open("rb") as read:
            entry = copy_hashed(read, target, path, lambda: _check_wanted(stop))
        target.chmod(_READABLE)
    return entry


def check_path(path: str) -> PurePosixPath:
    """Return the path of a file in a version.

    Raises:
        InvalidInput: it leaves the version's folder, or has control characters.
    """
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path:
        raise InvalidInput(f"{path!r} leaves the folder of the version", fix="Name files by relative paths.")
    if not is_text(path) or any(each < " " for each in path):
        raise InvalidInput(
            f"{path!r} is not allowed as a file name", fix="Use UTF-8 without control characters."
        )
    return pure


def copy_hashed(
    read: IO[bytes], target: Path, name: str, check: Callable[[], None] = lambda: None
) -> FileEntry:
    """Copy a file to a new one, on the disk when it returns, and return its entry.

    Args:
        check: Called for each piece; may raise to end the copy.

    Raises:
        OSError: it cannot be read or written.
    """
    found, size = hashlib.sha256(), 0
    # readable by others only when it is complete, and no secret
    with os.fdopen(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as write:
        for piece in pieces(read):
            check()
            found.update(piece)
            write.write(piece)
            size += len(piece)
        write.flush()
        os.fsync(write.fileno())
    return FileEntry(name, size, found.hexdigest())


def _entry(path: Path, name: str) -> FileEntry:
    try:
        if not stat.S_ISREG(path.lstat().st_mode):  # also for links, because none were pushed
            return FileEntry(name, 0, "")
        with path.open("rb") as read:
            return entry_of(read, name)
    except OSError:
        return FileEntry(name, 0, "")


def entry_of(file: IO[bytes], name: str) -> FileEntry:
    """Return the entry of a file, after reading it to its end."""
    found, size = hashlib.sha256(), 0
    for piece in pieces(file):
        found.update(piece)
        size += len(piece)
    return FileEntry(name, size, found.hexdigest())


def pieces(file: IO[bytes]) -> Iterator[bytes]:
    """Yield what is left of a file."""
    while piece := file.read(_PIECE):
        yield piece


def onto_disk(path: Path) -> None:
    """Sync a file or folder to disk, so that it survives a power failure."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Translate errors of the file system, naming the path where they do not name another."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise ArtifactsFailed(
            f"{where}: {error.strerror or error}",
            fix="Check free space and write permission.",
        ) from error

"""Folder of backups: a manifest for each, and every content once, named by its SHA-256. Blocking.

``manifests/ID.json`` and ``blobs/ab/abcd…``. A content that is there is not written again, so a backup costs
what has changed since the last one. The manifest is written last: an interrupted backup does not exist.
"""

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Final

from salver.backends.loading import read_bounded
from salver.features.backup.manifest import Manifest, decode, encode
from salver.features.registry.artifacts import ArtifactsFailed, copy_hashed, disk_errors, entry_of, onto_disk
from salver.features.registry.records import FileEntry
from salver.words.errors import Conflict, InvalidInput, NotFound

_MANIFEST_BYTES: Final = 1 << 30
_PART: Final = ".part"


class BackupFolder:
    """Backups of servers in a folder, which only their owner can read: they contain secrets."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs"
        self._manifests = folder / "manifests"

    def __repr__(self) -> str:
        return f"<BackupFolder {self.folder}>"

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder for one writer, and remove what killed ones have left.

        Raises:
            Conflict: another backup is being written.
            ArtifactsFailed: the folder cannot be written.
        """
        with disk_errors(self.folder):
            for folder in (self._blobs, self._manifests):
                folder.mkdir(0o700, parents=True, exist_ok=True)
            lock = (self.folder / "lock").open("ab")
        with lock:
            with disk_errors(self.folder):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    told = f"another backup is being written to {self.folder}"
                    raise Conflict(told, fix="Try again later.") from error
                for left in self._blobs.glob(f"*{_PART}*"):
                    left.unlink(missing_ok=True)
            yield

    @contextlib.contextmanager
    def aside(self) -> Iterator[Path]:
        """Return the path for a temporary database, which is removed at the end with its journals."""
        path = self._blobs / f"{secrets.token_hex(8)}{_PART}"
        try:
            yield path
        finally:
            for left in self._blobs.glob(f"{path.name}*"):
                left.unlink(missing_ok=True)

    def has(self, entry: FileEntry) -> bool:
        """Return whether the content is there, by digest and size."""
        try:
            return self._blob(entry).stat().st_size == entry.size
        except OSError:
            return False

    def add(self, file: IO[bytes], name: str, wanted: FileEntry | None = None) -> FileEntry:
        """Store a content and return its entry.

        Args:
            wanted: Entry that it must have.

        Raises:
            ArtifactsFailed: it cannot be read or written, or is another content.
        """
        with self.aside() as aside, disk_errors(aside):
            entry = copy_hashed(file, aside, name)
            if wanted is not None and entry != wanted:
                raise ArtifactsFailed(
                    f"{name} differs from what was pushed; nothing was backed up",
                    fix="Restore it from an older backup, or remove the version: salver registry remove.",
                )
            blob = self._blob(entry)
            if not self.has(entry):
                blob.parent.mkdir(0o700, exist_ok=True)
                aside.replace(blob)
                onto_disk(blob.parent)
        return entry

    def extract(self, entry: FileEntry, target: Path) -> None:
        """Copy a content to a new file.

        Raises:
            InvalidInput: the backup's content is missing or damaged.
            ArtifactsFailed: it cannot be written.
        """
        if problem := self._missing(entry):
            raise InvalidInput(problem, fix="Use another backup.")
        with disk_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with self._blob(entry).open("rb") as file:
                found = copy_hashed(file, target, entry.path)
        if found.sha256 != entry.sha256:
            raise InvalidInput(f"the backup's content of {entry.path} is damaged", fix="Use another backup.")

    def problem(self, entry: FileEntry) -> str:
        """Return what is wrong with a content after reading it; empty = nothing."""
        if problem := self._missing(entry):
            return problem
        try:
            with self._blob(entry).open("rb") as file:
                is_whole = entry_of(file, "").sha256 == entry.sha256
        except OSError as error:
            return f"{entry.path} cannot be read: {error.strerror}"
        if not is_whole:
            return f"{entry.path} is damaged"
        return ""

    def ids(self) -> list[str]:
        """Return the ids of the backups, the oldest first.

        Raises:
            NotFound: there is none.
        """
        found = sorted(path.stem for path in self._manifests.glob("*.json"))
        if not found:
            raise NotFound(
                f"there is no backup in {self.folder}", fix="Name the folder of salver backup create."
            )
        return found

    def read(self, id: str) -> Manifest:
        """Read the manifest of a backup. Raises SalverError."""
        if id not in self.ids():
            raise NotFound(f"there is no backup {id} in {self.folder}", fix="See: salver backup verify.")
        return decode(id, read_bounded(self._manifest(id), _MANIFEST_BYTES))

    def write(self, manifest: Manifest) -> str:
        """Write the manifest of a backup whose contents are there, and return its id."""
        id, content = encode(manifest)
        with self.aside() as aside, disk_errors(aside):
            aside.touch(0o600)
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._manifest(id))
            onto_disk(self._manifests)
        return id

    def prune(self, keep: int) -> list[str]:
        """Remove all but the newest backups, and contents that none of these has; return the removed ids.

        Raises:
            SalverError: the manifest of one that stays cannot be read; nothing was removed.
        """
        ids = self.ids()
        old = ids[:-keep]
        wanted = {entry.sha256 for id in ids[-keep:] for entry in self.read(id).entries()}
        with disk_errors(self.folder):
            for id in old:
                self._manifest(id).unlink()
            for blob in self._blobs.glob("??/*"):
                if blob.name not in wanted:
                    blob.unlink()
        return old

    def _missing(self, entry: FileEntry) -> str:
        if not self.has(entry):
            return f"the backup lacks the content of {entry.path}"
        return ""

    def _blob(self, entry: FileEntry) -> Path:
        return self._blobs / entry.sha256[:2] / entry.sha256

    def _manifest(self, id: str) -> Path:
        return self._manifests / f"{id}.json"

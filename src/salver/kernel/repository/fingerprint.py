"""Fingerprints of a version's files, by names, sizes, times and inodes, and digests of their contents."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from salver.kernel.repository.names import is_visible
from salver.stores import Store, StoreFailed

_MAX_FILES: Final = 20_000
_MAX_DEPTH: Final = 16
_MAX_BYTES: Final = 4 << 30  # of a version whose contents are read
_CHUNK: Final = 1 << 20


class Fingerprint:
    """Digest and size of the files that a version consists of."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._hash = hashlib.blake2b(digest_size=16)
        self._files = 0
        self.bytes = 0

    def digest(self) -> str:
        """Return the digest of all that was added so far."""
        return self._hash.hexdigest()

    def add_text(self, text: str) -> None:
        """Add a text, such as a configuration given by request."""
        self._hash.update(f"{len(text)}:{text}\0".encode())

    def add(self, path: str) -> None:
        """Add a file, or a folder with all below it; linked folders below it are not entered.

        Raises:
            StoreFailed: too many files or folders too deep, or unreadable.
        """
        entry = self._store.stat(path)
        if entry is None:
            self.add_text(f"{path} missing")
        elif not entry.is_folder:
            self._add_file(path, entry.size, entry.stamp)
        else:
            self._add_folder(path, 0)

    def _add_folder(self, path: str, depth: int) -> None:
        if depth > _MAX_DEPTH:
            raise StoreFailed(f"{path} is more than {_MAX_DEPTH} folders deep", fix="Flatten the artefact")
        for entry in self._store.entries(path):
            below = entry.name
            if path:
                below = f"{path}/{entry.name}"
            if not entry.is_folder:
                self._add_file(below, entry.size, entry.stamp)
            elif entry.is_link:
                self.add_text(f"{below} linked")
            elif entry.name != "__pycache__":  # written by loading
                self._add_folder(below, depth + 1)

    def _add_file(self, path: str, size: int, stamp: str) -> None:
        self._files += 1
        if self._files > _MAX_FILES:
            raise StoreFailed(f"{path}: more than {_MAX_FILES} files in one version", fix="Pack the artefact")
        self.add_text(f"{path} {stamp}")
        self.bytes += size


def digest(path: Path) -> str:
    """Return the digest of a file, or of all visible files in a folder; empty if too large or unreadable."""
    found = hashlib.blake2b(digest_size=16)
    left = _MAX_BYTES
    try:
        for file in sorted(_visible(path)) if path.is_dir() else [path]:
            left -= file.stat().st_size
            if left < 0:
                return ""
            found.update(f"{file.relative_to(path)}\0{file.stat().st_size}\0".encode())
            with file.open("rb") as stream:
                while chunk := stream.read(_CHUNK):
                    found.update(chunk)
    except (OSError, ValueError):
        return ""
    return found.hexdigest()


def _visible(folder: Path) -> Iterator[Path]:
    """Yield all files below a folder, without those that Python and editors leave there."""
    for path in folder.iterdir():
        if is_visible(path.name):
            if path.is_dir() and not path.is_symlink():  # which could lead round in a circle
                yield from _visible(path)
            elif path.is_file():
                yield path

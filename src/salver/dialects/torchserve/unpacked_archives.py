"""Unpacked archives in a private temporary folder.

Each is named by its content, unpacked once for all its users, and removed with the last of them. What killed
servers have left is removed by the next one.
"""

import contextlib
import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from salver.dialects.torchserve.archive_files import unpack_archive
from salver.stores.shared_folders import SharedFolder, SharedFolders
from salver.words.errors import BadArchive

_PREFIX: Final = "salver-handlers-"
_DIGEST: Final = 16


class UnpackedArchives:
    """Cache of unpacked archives. Any thread may call.

    Args:
        cache: Folder below which the private one is made when the first archive comes.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache or Path(tempfile.gettempdir())
        self._place: Path | None = None
        self._holdings = SharedFolders()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<UnpackedArchives, {len(self._holdings)} unpacked>"

    def hold(self, archive: Path, prepare: Callable[[Path], None] | None = None) -> SharedFolder:
        """Unpack an archive, or copy a folder; to be released once. Blocking.

        Args:
            prepare: Called once with the model's folder before anybody has it; prepared and unprepared
                copies are kept apart.

        Raises:
            BadArchive: it cannot be read, or is none that may be unpacked.
        """
        reason = "read"
        try:
            key = _digest(archive) + ("-prepared" if prepare else "")
            reason = "unpacked"
            return self._holdings.hold(key, self._parent, lambda held: _fill(held, archive, prepare))
        except OSError as error:
            raise BadArchive(f"{archive.name} cannot be {reason}: {error.strerror or error}") from error

    def release(self, held: SharedFolder) -> None:
        """Give up one hold. Blocking."""
        self._holdings.release(held)

    def close(self) -> None:
        """Remove everything from the disk. Blocking."""
        with self._lock:
            place, self._place = self._place, None
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)

    def _parent(self) -> Path:
        with self._lock:
            if self._place is None:
                _sweep(self._cache)
                self._place = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=self._cache))
            return self._place


def _digest(archive: Path) -> str:
    """Return a digest of a file's content, or of a folder's path."""
    if archive.is_dir():
        return hashlib.blake2b(os.fsencode(archive.resolve()), digest_size=_DIGEST).hexdigest()
    with archive.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST)).hexdigest()


def _fill(held: SharedFolder, archive: Path, prepare: Callable[[Path], None] | None) -> None:
    held.folder.mkdir(mode=0o700)
    if archive.is_dir():
        held.root = Path(shutil.copytree(archive, held.folder / "model"))
    else:
        held.root = unpack_archive(archive, held.folder)
    if prepare is not None:
        prepare(held.root)


def _sweep(cache: Path) -> None:
    """Remove the folders of servers that were killed."""
    for folder in cache.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            is_ours = folder.stat().st_uid == os.getuid() and not folder.is_symlink()
            if pid.isdecimal() and is_ours and not _lives(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

"""Where do unpacked archives lie, and when do they go again?

In a private temporary folder, named by their content, once for all who use them; removed with the last one.
What servers that were killed have left is removed by the next. It knows no model.
"""

import contextlib
import hashlib
import itertools
import os
import shutil
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

from salver.errors import BadArchive
from salver.repository.mar import unpack_archive

_PREFIX: Final = "salver-handlers-"
_DIGEST: Final = 16


class Unpacked:
    """An archive, as long as somebody holds it.

    Attributes:
        root: The folder that is the model's.
    """

    def __init__(self, key: str, folder: Path) -> None:
        self.key = key
        self.folder = folder
        self.root = folder
        self.holders = 0
        self.is_whole = False
        self.turn = threading.Lock()

    def __repr__(self) -> str:
        return f"<Unpacked {self.root}, {self.holders} holders>"


class Archives:
    """Unpacks archives. Any thread may call.

    Args:
        cache: Where; made below it when the first one comes.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache or Path(tempfile.gettempdir())
        self._place: Path | None = None
        self._held: dict[str, Unpacked] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Archives, {len(self._held)} unpacked>"

    def hold(self, archive: Path, prepare: Callable[[Path], None] | None = None) -> Unpacked:
        """Unpacked, or, if it is a folder, copied; to be released once. Blocking.

        Args:
            prepare: Called once with the model's folder before anybody has it; who has it prepared shares it
                with nobody who has not.

        Raises:
            BadArchive: it cannot be read, or is none that may be unpacked.
        """
        try:
            held = self._entered(_digest(archive) + ("-prepared" if prepare else ""))
        except OSError as error:
            raise BadArchive(f"{archive.name} cannot be read: {error.strerror or error}") from error
        try:
            with held.turn:  # one unpacks, the others wait for it
                if not held.is_whole:
                    shutil.rmtree(held.folder, ignore_errors=True)  # of one who waited here, and failed
                    held.folder.mkdir(mode=0o700)
                    held.root = _filled(archive, held.folder)
                    if prepare is not None:
                        prepare(held.root)
                    held.is_whole = True
        except BaseException as error:
            self.release(held)
            if isinstance(error, OSError):
                reason = error.strerror or error
                raise BadArchive(f"{archive.name} cannot be unpacked: {reason}") from error
            raise
        return held

    def release(self, held: Unpacked) -> None:
        """The holder lets go. Blocking."""
        with self._lock:
            held.holders -= 1
            if held.holders:
                return
            del self._held[held.key]
        shutil.rmtree(held.folder, ignore_errors=True)

    def close(self) -> None:
        """Nothing is left on the disk. Blocking."""
        with self._lock:
            place, self._place = self._place, None
        if place is not None:
            shutil.rmtree(place, ignore_errors=True)

    def _entered(self, digest: str) -> Unpacked:
        with self._lock:
            held = self._held.get(digest)
            if held is None:
                if self._place is None:
                    _sweep(self._cache)
                    self._place = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=self._cache))
                # one that is about to be removed may have the name already
                folder = self._place / f"{digest}-{next(self._numbers)}"
                held = self._held[digest] = Unpacked(digest, folder)
            held.holders += 1
            return held


def _digest(archive: Path) -> str:
    """Equal for equal content; of a folder, for the same one."""
    if archive.is_dir():
        return hashlib.blake2b(os.fsencode(archive.resolve()), digest_size=_DIGEST).hexdigest()
    with archive.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_DIGEST)).hexdigest()


def _filled(archive: Path, folder: Path) -> Path:
    if archive.is_dir():
        return Path(shutil.copytree(archive, folder / "model"))
    return unpack_archive(archive, folder)


def _sweep(cache: Path) -> None:
    """Remove what servers that were killed have left."""
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

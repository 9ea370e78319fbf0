"""Local copies of versions in object stores.

The files of a version are copied for its first holder and removed after its last. A copy is complete or does
not exist: it is written to a temporary name, compared with the store again, and renamed.
"""

import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Final

from salver.stores.address import SCHEMES
from salver.stores.distant import PARALLEL, ObjectStore
from salver.stores.protocol import Entry
from salver.stores.shared_folders import SharedFolder, SharedFolders
from salver.words.errors import LoadFailed
from salver.words.sizes import told_bytes

_LOG = logging.getLogger("salver.stores")
_PIECE: Final = 8 << 20
_TOLD_FROM: Final = 64 << 20  # a copy of so many bytes logs its progress
_SPARE: Final = 256 << 20  # left free on the disk


class Copies:
    """Local copies of versions that lie in object stores. Any thread may call."""

    def __init__(self) -> None:
        self._stores: list[ObjectStore] = []
        self._holdings = SharedFolders()

    def __repr__(self) -> str:
        return f"<Copies of {len(self._holdings)} versions>"

    def add(self, store: ObjectStore) -> None:
        """Add a store; from now on paths of its outline can be held."""
        self._stores.append(store)

    def store_of(self, artefact: Path) -> ObjectStore | None:
        """Return the store whose outline has the path; None for a file of this machine."""
        return next((s for s in self._stores if artefact.is_relative_to(s.local_path(""))), None)

    def hold(
        self, store: ObjectStore, artefact: Path, home: Path, stop: threading.Event
    ) -> tuple[SharedFolder, Path]:
        """Copy an artefact and the files beside it; return its path on this machine. Blocking.

        Args:
            artefact, home: Paths of a manifest, both in the outline.
            stop: Set to cancel.

        Raises:
            StoreFailed: the store cannot be read.
            LoadFailed: the disk has no room, the files changed meanwhile, or ``stop`` was set.
        """
        path, base = store.path_of(artefact), store.path_of(home)
        is_bare = path == base and not artefact.is_dir()
        place = base
        if is_bare:
            place = base.rpartition("/")[0]
        files = wanted(store.listed(place), base, path)
        if not any(name == path or name.startswith(path and f"{path}/") for name in files):
            raise _changed(store.url_of(path))

        def fill(held: SharedFolder) -> None:
            aside = held.folder.with_name(f"{held.folder.name}.part")
            try:
                _copy(store, files, aside / store.address.root, stop)
                if wanted(store.listed(place), base, path) != files:
                    raise _changed(store.url_of(path))
                aside.rename(held.folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            held.root = held.folder / store.address.root  # where the store's own root would be

        key = key_of(store.address.url, files)
        held = self._holdings.hold(key, lambda: store.folder / "copies", fill)
        return held, held.root / path

    def release(self, held: SharedFolder) -> None:
        """Give up one hold. Blocking."""
        self._holdings.release(held)

    def close(self) -> None:
        """Remove everything from this machine. Blocking."""
        for store in self._stores:
            store.close()


def wanted(files: Mapping[str, Entry], home: str, artefact: str) -> dict[str, Entry]:
    """Return those of the files around a model that a version needs.

    In a model's folder these are all but other versions; for an artefact without a folder, the files that are
    named after it (``m.onnx`` with ``m.onnx.data``, ``m.xml`` with ``m.bin``).
    """
    if home != artefact:
        prefix = home and f"{home}/"
        tops = {path: path.removeprefix(prefix).partition("/") for path in files}
        mine = artefact.removeprefix(prefix).partition("/")[0]
        others = {top for top, is_folder, _ in tops.values() if is_folder and top.isdecimal() and top != mine}
        return {path: entry for path, entry in files.items() if tops[path][0] not in others}
    if not artefact:
        return dict(files)
    stem = artefact.removesuffix(PurePosixPath(artefact).suffix)
    return {
        path: entry
        for path, entry in files.items()
        if path.startswith(f"{artefact}/") or (path.startswith((artefact, f"{stem}.")) and artefact in files)
    }


def key_of(url: str, files: Mapping[str, Entry]) -> str:
    """Return a key that is equal for equal contents of one place."""
    digest = hashlib.blake2b(url.encode(), digest_size=16)
    for path, entry in sorted(files.items()):
        digest.update(f"{len(path)}:{path} {entry.stamp}\0".encode())
    return digest.hexdigest()


def _changed(url: str) -> LoadFailed:
    return LoadFailed(f"{url} changed while it was copied", fix="The next look sees what is there then.")


def _copy(store: ObjectStore, files: Mapping[str, Entry], root: Path, stop: threading.Event) -> None:
    """Copy in pieces, several at a time; the first error ends it."""
    size = sum(entry.size for entry in files.values())
    free = shutil.disk_usage(store.folder).free
    if size + _SPARE > free:
        variable = SCHEMES[store.address.scheme].mount
        raise LoadFailed(
            f"{store.address.url}: {size} bytes are to be copied, and {store.folder} has {free} free",
            fix=f"Make room there, or name another folder by {variable}.",
        )
    progress = _Progress(store.url_of(_common(files)), size)
    try:
        for path, entry in files.items():
            local = root / path
            if entry.is_folder:
                local.mkdir(parents=True, exist_ok=True)
            else:
                local.parent.mkdir(parents=True, exist_ok=True)
                with local.open("wb") as file:
                    file.truncate(entry.size)
    except OSError as error:
        raise LoadFailed(f"{store.address.url} cannot be copied to {root}: {error}") from error

    def piece(path: str, start: int, end: int) -> None:
        if stop.is_set():
            raise LoadFailed(f"the copy of {store.url_of(path)} was given up")
        content = store.fetch(path, start, end)
        with (root / path).open("r+b") as file:
            file.seek(start)
            file.write(content)
        progress.add(len(content))

    pieces = [
        (path, start, min(start + _PIECE, entry.size))
        for path, entry in files.items()
        for start in range(0, entry.size, _PIECE)
    ]
    with ThreadPoolExecutor(PARALLEL, "copy") as pool:
        futures = [pool.submit(piece, *each) for each in pieces]
        try:
            for future in futures:
                future.result()
        except BaseException as error:
            for future in futures:
                future.cancel()
            if isinstance(error, OSError):
                raise LoadFailed(f"{store.address.url} cannot be copied to {root}: {error}") from error
            raise
    progress.end()


def _common(files: Mapping[str, Entry]) -> str:
    if len(files) > 1:
        return os.path.commonpath(files)
    return next(iter(files))


class _Progress:
    """Log lines about the progress of long copies."""

    def __init__(self, url: str, size: int) -> None:
        self._url = url
        self._size = size
        self._done = 0
        self._told = 0
        self._lock = threading.Lock()

    def add(self, size: int) -> None:
        """Count further bytes."""
        with self._lock:
            self._done += size
            tenth = self._done * 10 // self._size
            if self._size < _TOLD_FROM or tenth <= self._told:
                return
            self._told = tenth
        _LOG.info("copying %s: %d %% of %s", self._url, tenth * 10, told_bytes(self._size))

    def end(self) -> None:
        """Log the end of the copy."""
        _LOG.info("copied %s: %s", self._url, told_bytes(self._size))

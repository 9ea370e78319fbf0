"""Models from object stores: a folder, one object, or an archive of a folder, which is unpacked."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Final

from salver.stores import Copies, Entry, ObjectStore, StoreFailed, open_store
from salver.stores.copies import key_of
from salver.stores.sources.archives import card_of, is_archive, unpacked
from salver.stores.sources.fetched import FetchedModel, Progress
from salver.stores.unpack import room_in
from salver.words.errors import InvalidInput, LoadFailed

_PIECE: Final = 8 << 20
_MOST_FILES: Final = 20_000


class BucketSource:
    """A :class:`~salver.stores.sources.Source` over one place of an object store, which is
    closed after it was read.
    """

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def __repr__(self) -> str:
        return f"<BucketSource {self._store.address.url}>"

    def fetch(self, folder: Path, progress: Progress) -> FetchedModel:
        """See the protocol."""
        url = self._store.address.url
        try:
            files = self._store.listed("")
            path = self._copy(files, folder / "files", progress)
            if self._store.listed("") != files:
                raise StoreFailed(f"{url} changed while it was read", fix="Try again.")
        finally:
            self._store.close()
        if path.is_file() and is_archive(path.name):
            path = unpacked(path, folder / "unpacked")
        return FetchedModel(
            path, f"{url}#listing={key_of(url, files)}", card_of(path) if path.is_dir() else ""
        )

    def _copy(self, files: Mapping[str, Entry], root: Path, progress: Progress) -> Path:
        url = self._store.address.url
        plain = {path: entry for path, entry in files.items() if not entry.is_folder}
        size = sum(entry.size for entry in plain.values())
        if not 0 < len(plain) <= _MOST_FILES:
            raise InvalidInput(f"{url} holds {len(plain)} files", fix="Name the model alone.")
        root.mkdir()
        if size > room_in(root):
            raise LoadFailed(f"{url} has {size} bytes, and there is room for {room_in(root)}")
        done = 0
        for path, entry in plain.items():
            target = root / (path or PurePosixPath(self._store.address.root).name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as file:
                for start in range(0, entry.size, _PIECE):
                    file.write(self._store.fetch(path, start, min(start + _PIECE, entry.size)))
                    done += min(_PIECE, entry.size - start)
                    progress(url, done, size)
        return target if "" in plain else root


def open_bucket(url: str, environment: Mapping[str, str] = os.environ) -> ObjectStore:
    """Open the store of a URL with the environment's settings.

    Raises:
        InvalidInput, MissingExtra: as :func:`salver.stores.open_store`.
    """
    store = open_store(url, Copies(), environment)
    assert isinstance(store, ObjectStore)
    return store

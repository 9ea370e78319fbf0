"""Files of versions in an object store, for servers that share a registry without a common disk.

Stored as ``models/NAME/NUMBER/`` below a URL. A version is copied and hashed on this machine, then uploaded;
it exists once its row is in the ledger, which is written last. Servers download versions to a local folder,
completely, and verify their digest. It knows no cloud: ``fsspec`` does.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final, TypeVar

from salver.features.registry.artifacts import LEFT_SECONDS, OF_NO_PUSH, Artifacts, ArtifactsFailed, entry_of
from salver.features.registry.records import FileEntry
from salver.stores.address import Address
from salver.words.errors import Conflict, SalverError

T = TypeVar("T")
_PARALLEL: Final = 8


class BucketArtifacts(Artifacts):
    """Files of a registry in an object store.

    Args:
        address: URL above ``models/``.
        cache: Local folder for versions being served or pushed.
        open_files: Opens the store with ``fsspec``.
    """

    is_distant = True

    def __init__(self, address: Address, cache: Path, open_files: Callable[[], Any]) -> None:
        super().__init__(cache)
        self._address = address
        self._open_files = open_files
        self._opened: Any = None

    def __repr__(self) -> str:
        return f"<BucketArtifacts {self._address.url}>"

    @property
    def where(self) -> str:
        """See :attr:`Artifacts.where`."""
        return self._address.url

    def held(self) -> contextlib.AbstractContextManager[Any]:
        """See :meth:`Artifacts.held`; there are no locks, so this has no effect."""
        return contextlib.nullcontext()

    def alone(self) -> contextlib.AbstractContextManager[Any]:
        """See :meth:`Artifacts.alone`."""
        raise Conflict(f"running pushes to {self.where} cannot be detected", fix=OF_NO_PUSH)

    def place(self, id: str, model: str, number: int) -> None:
        """See :meth:`Artifacts.place`."""
        aside, home = self.aside(id), self._home(model, number)
        if self._listed(home):
            raise ArtifactsFailed(
                f"{self._url(home)} already exists", fix="Check whether another registry uses this location."
            )
        try:
            self._send(aside, home)
        except ArtifactsFailed:
            with contextlib.suppress(ArtifactsFailed):  # a sweep will find it
                self.remove(model, number, id)
            raise
        self.drop(id)

    def adopt(self, unpacked: Artifacts, model: str, number: int) -> None:
        """See :meth:`Artifacts.adopt`."""
        self._send(unpacked.path_of(model, number), self._home(model, number))

    def remove(self, model: str, number: int, id: str) -> None:
        """See :meth:`Artifacts.remove`."""
        with self._asking(home := self._home(model, number)) as files, contextlib.suppress(FileNotFoundError):
            files.rm(home, recursive=True)

    def entries(self, model: str, number: int) -> tuple[FileEntry, ...]:
        """See :meth:`Artifacts.entries`."""
        home = self._home(model, number)
        names = sorted(key.removeprefix(f"{home}/") for key in self._listed(home))
        return tuple(self._each(lambda name: self._entry(f"{home}/{name}", name), names))

    @contextlib.contextmanager
    def open(self, model: str, number: int, path: str) -> Iterator[IO[bytes]]:
        """See :meth:`Artifacts.open`; errors while reading are translated too."""
        key = f"{self._home(model, number)}/{path}"
        with self._asking(key) as files, files.open(key, "rb") as opened:
            yield opened

    def numbers(self) -> Iterator[tuple[str, int]]:
        """See :meth:`Artifacts.numbers`."""
        home = f"{self._home()}/"
        found = (key.removeprefix(home).split("/") for key in self._listed(self._home()))
        yield from sorted({(each[0], int(each[1])) for each in found if each[1:] and each[1].isdecimal()})

    def sweep(self, known: Collection[tuple[str, int]], before: float) -> tuple[str, ...]:
        """See :meth:`Artifacts.sweep`; applies to the local folder and the store."""
        gone = list(self.sweep_aside(before))
        for model, number in self.numbers():
            home = self._home(model, number)
            if (model, number) not in known and self._changed(home) < before:
                self.remove(model, number, "")
                gone.append(f"models/{model}/{number}")
        return tuple(gone)

    def bring(self, model: str, number: int, files: Sequence[FileEntry]) -> None:
        """See :meth:`Artifacts.bring`."""
        wanted = tuple(sorted(files))
        if super().entries(model, number) == wanted:
            return
        id, home = secrets.token_hex(8), self._home(model, number)
        self.forget(model, number)
        try:
            with self._asking(home) as distant:

                def get(entry: FileEntry) -> None:
                    target = self.aside(id) / entry.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    distant.get_file(f"{home}/{entry.path}", str(target))

                self._each(get, wanted)
            self.finish(self.aside(id))
            if self.entries_in(self.aside(id)) != wanted:
                raise ArtifactsFailed(
                    f"{self._url(home)} differs from what was pushed", fix="See: salver registry verify."
                )
            super().place(id, model, number)
        finally:
            self.drop(id)

    def brought(self) -> frozenset[tuple[str, int]]:
        """See :meth:`Artifacts.brought`; also removes partial downloads of a killed server."""
        self.sweep_aside(time.time() - LEFT_SECONDS)
        return frozenset(super().numbers())

    def forget(self, model: str, number: int) -> None:
        """See :meth:`Artifacts.forget`."""
        super().remove(model, number, secrets.token_hex(8))

    def _send(self, folder: Path, home: str) -> None:
        def put(path: Path) -> None:
            key = f"{home}/{path.relative_to(folder).as_posix()}"
            files.put_file(str(path), key)
            if (size := files.info(key)["size"]) != path.stat().st_size:
                raise ArtifactsFailed(f"{self._url(key)} has {size} bytes after the upload", fix="Try again.")

        with self._asking(home) as files:
            self._each(put, [path for path in sorted(folder.rglob("*")) if path.is_file()])

    def _entry(self, key: str, name: str) -> FileEntry:
        with self._asking(key) as files, files.open(key, "rb") as read:
            return entry_of(read, name)

    def _each(self, work: Callable[[Any], T], some: Sequence[Any]) -> list[T]:
        with ThreadPoolExecutor(_PARALLEL, "bucket") as pool:
            return list(pool.map(work, some))

    def _home(self, model: str = "", number: int = 0) -> str:
        home = f"{self._address.root}/models"
        if not model:
            return home
        return f"{home}/{model}/{number}"

    def _url(self, key: str) -> str:
        return f"{self._address.url}{key.removeprefix(self._address.root)}"

    def _listed(self, home: str) -> Mapping[str, Any]:
        with self._asking(home) as files:
            try:
                found: Mapping[str, Any] = files.find(home, detail=True)
            except FileNotFoundError:
                return {}
            return {key: info for key, info in found.items() if key.startswith(f"{home}/")}

    def _changed(self, home: str) -> float:
        """Return when the last of its files was written, in Unix seconds."""
        with self._asking(home) as files:
            return max(float(files.modified(key).timestamp()) for key in self._listed(home))

    @contextlib.contextmanager
    def _asking(self, key: str) -> Iterator[Any]:
        """Translate all exceptions of the cloud's libraries into one kind of error."""
        try:
            if self._opened is None:
                self._opened = self._open_files()
            yield self._opened
        except SalverError:
            raise
        except Exception as error:
            self._opened = None
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise ArtifactsFailed(
                f"{self._url(key)}: {reason}",
                fix="Check that it exists and that this user may read and write it.",
            ) from error

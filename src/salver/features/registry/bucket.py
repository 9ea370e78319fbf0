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
from typing import IO, Any, Final, TypeVar, cast

from salver.features.registry import compression
from salver.features.registry.artifacts import LEFT_SECONDS, OF_NO_PUSH, Artifacts, ArtifactsFailed, entry_of
from salver.features.registry.records import FileEntry
from salver.stores.address import Address
from salver.stores.tars import open_zstd, zstd
from salver.stores.unpack import honest_bytes, write_new
from salver.words.errors import Conflict, LoadFailed, SalverError

T = TypeVar("T")
_PARALLEL: Final = 8
#: Folder of a version's compressed files; a version has no hidden folders of its own.
_COMPRESSED: Final = ".zst/"


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
        self._compresses = False

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

    def compress(self) -> None:
        """See :meth:`Artifacts.compress`; raises MissingExtra without zstd."""
        zstd()
        self._compresses = True

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
        names = sorted(self.names(model, number))
        return tuple(self._each(lambda name: self._entry(model, number, name), names))

    def names(self, model: str, number: int) -> frozenset[str]:
        """See :meth:`Artifacts.names`."""
        home = self._home(model, number)
        keys = self._listed(home)
        return frozenset(key.removeprefix(f"{home}/").removeprefix(_COMPRESSED) for key in keys)

    @contextlib.contextmanager
    def open(self, model: str, number: int, path: str) -> Iterator[IO[bytes]]:
        """See :meth:`Artifacts.open`; errors while reading are translated too."""
        home = self._home(model, number)
        key = f"{home}/{path}"
        with self._asking(key) as files:
            if not files.exists(packed := f"{home}/{_COMPRESSED}{path}"):
                with files.open(key, "rb") as opened:
                    yield opened
                return
            most = honest_bytes(files.info(packed)["size"])
            with files.open(packed, "rb") as opened:
                yield cast(IO[bytes], open_zstd(opened, most, self._url(packed)))

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
        there = self._listed(home)
        self.forget(model, number)
        try:
            with self._asking(home) as distant:

                def get(entry: FileEntry) -> None:
                    target = self.aside(id) / entry.path
                    target.parent.mkdir(parents=True, exist_ok=True)
                    packed = f"{home}/{_COMPRESSED}{entry.path}"
                    if packed in there:
                        self._unpack(distant, packed, target, entry.size)
                    else:
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

        def put_smaller(path: Path) -> None:
            """Replace a file that is there by a compressed one, if that is fetched faster."""
            name = path.relative_to(folder).as_posix()
            key, size = f"{home}/{name}", path.stat().st_size
            found = compression.measure(lambda start, end: files.cat_file(key, start=start, end=end), size)
            if not found.is_faster:
                self.notices.append(f"{name} is stored as it is: compressed, it takes {found.told}")
                return
            packed = folder / _COMPRESSED / name
            packed.parent.mkdir(parents=True, exist_ok=True)
            compression.compress(path, packed)
            put(packed)
            files.rm_file(key)
            self.notices.append(f"{name} is stored compressed: it takes {found.told}")

        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        with self._asking(home) as files:
            self._each(put, paths)
            if self._compresses:  # one by one, so that each is measured alone
                for path in paths:
                    if path.stat().st_size >= compression.LEAST_BYTES:
                        put_smaller(path)

    def _unpack(self, distant: Any, key: str, target: Path, size: int) -> None:
        """Fetch a compressed file and unpack it meanwhile."""

        def fetch(start: int, end: int) -> bytes:
            found: bytes = distant.cat_file(key, start=start, end=end)
            return found

        with contextlib.closing(compression.ReadAhead(fetch, distant.info(key)["size"])) as packed:
            write_new(cast(IO[bytes], open_zstd(packed, size, self._url(key))), target, size)

    def _entry(self, model: str, number: int, name: str) -> FileEntry:
        with self.open(model, number, name) as read:
            try:
                return entry_of(read, name)
            except (EOFError, LoadFailed):  # a compressed file that is damaged
                return FileEntry(name, 0, "")

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

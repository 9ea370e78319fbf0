"""Object stores as trees of files.

Listing a bucket is cheap, reading it is not. Each look makes one listing, with names, sizes and stamps (the
objects' ETags). The beginning and end of files that can be artefacts are fetched once into an outline on the
local disk, by which formats are recognised. ``copies`` fetches whole files, and ``fsspec`` knows the clouds.
"""

import logging
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol

from salver.stores.address import Address
from salver.stores.protocol import MAX_ENTRIES, Entry, StoreFailed, checked

_LOG = logging.getLogger("salver.stores")
#: Most objects below one URL.
MOST_OBJECTS: Final = 50_000
#: Concurrent requests to one store.
PARALLEL: Final = 8
_WHOLE: Final = 256 << 10  # files up to this size are whole in the outline
_END: Final = 64 << 10  # bytes of the beginning and end of larger ones
_COMPRESSED: Final = 1 << 20  # for compressed ones: some decoders need a whole block
_DIRECTORY: Final = 4 << 20  # bytes of a zip archive's directory
_DEPTH: Final = 4  # model/version/folder/file: artefacts lie no deeper
_LONGEST: Final = 255  # bytes of a name
_STAMPS: Final = (
    "ETag",
    "etag",
    "md5Hash",
    "content_md5",
    "generation",
    "LastModified",
    "last_modified",
    "mtime",
)
_MAGIC: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"]\0\0", b"x\x01", b"x\x5e", b"x\x9c", b"x\xda")


class ObjectClient(Protocol):
    """The part of ``fsspec`` that is used here; calls block, from any thread."""

    def find(self, path: str, *, withdirs: bool, detail: bool) -> dict[str, dict[str, Any]]:
        """Return every object and folder below a path, by key."""
        ...

    def cat_file(self, path: str, *, start: int, end: int) -> bytes:
        """Return a part of an object."""
        ...


class ObjectStore:
    """A :class:`~salver.stores.protocol.DistantStore` over a bucket, or a part of one.

    Args:
        open_objects: Called at the first look, and again after a failed one.
        mount: Folder for local files; None = the system's folder for temporary files.
    """

    def __init__(
        self, address: Address, open_objects: Callable[[], ObjectClient], mount: Path | None = None
    ) -> None:
        self.address = address
        self._open_objects = open_objects
        self._objects: ObjectClient | None = None
        self._mount = mount
        self._place: tempfile.TemporaryDirectory[str] | None = None
        self._files: dict[str, Entry] = {}  # and folders that are marked as such
        self._folders: dict[str, dict[str, Entry]] = {}
        self._passed_over: frozenset[str] = frozenset()
        self._problems: frozenset[str] = frozenset()
        self._was_read = False

    def __repr__(self) -> str:
        return f"<ObjectStore {self.address.url}, {len(self._files)} objects>"

    @property
    def folder(self) -> Path:
        """Return the folder for local files."""
        if self._place is None:
            prefix = f"salver-{self.address.scheme}-"
            self._place = tempfile.TemporaryDirectory(
                prefix=prefix, dir=self._mount, ignore_cleanup_errors=True
            )
        return Path(self._place.name).resolve()

    def close(self) -> None:
        """Remove everything from this machine. Blocking."""
        if self._place is not None:
            self._place.cleanup()
            self._place = None

    # -- what a store offers ---------------------------------------------------------------------

    def refresh(self) -> None:
        """See :class:`~salver.stores.protocol.DistantStore`."""
        files = self.listed("")
        if not self._was_read:
            self.local_path("").parent.mkdir(parents=True, exist_ok=True)
        changed = [path for path, entry in files.items() if self._files.get(path) != entry]
        for path in self._files.keys() - files.keys():
            self._forget(path)
        for path in changed:
            self._forget(path)
        try:
            with ThreadPoolExecutor(PARALLEL, "outline") as pool:
                problems = list(pool.map(lambda path: self._outlined(path, files[path]), changed))
        except OSError as error:
            raise StoreFailed(f"{self.address.url} cannot be outlined in {self.folder}: {error}") from error
        if changed and all(problems) and not self._was_read:
            raise StoreFailed(problems[0])
        for path, problem in zip(changed, problems, strict=True):
            if problem:  # tried again at the next look
                self._forget(path)
                del files[path]
        self._tell(frozenset(filter(None, problems)))
        self._files, self._folders, self._was_read = files, _tree(files), True
        for folder in self._folders:
            self.local_path(folder).mkdir(parents=True, exist_ok=True)

    def told(self, text: str) -> str:
        """See :class:`~salver.stores.protocol.DistantStore`."""
        return text.replace(str(self.local_path("")), self.address.url)

    def stat(self, path: str) -> Entry | None:
        """See the protocol."""
        self._look_once()
        name = PurePosixPath(checked(path) or self.address.root).name
        if path in self._folders:
            return Entry(name, True)
        return self._files.get(path)

    def entries(self, path: str) -> tuple[Entry, ...]:
        """See the protocol."""
        self._look_once()
        found = self._folders.get(checked(path))
        if found is None:
            raise StoreFailed(f"{self.url_of(path)} is not a folder")
        if len(found) > MAX_ENTRIES:
            raise StoreFailed(
                f"{self.url_of(path)} holds more than {MAX_ENTRIES} entries", fix="Split the folder"
            )
        return tuple(found[name] for name in sorted(found))

    def read(self, path: str, limit: int) -> bytes:
        """See the protocol."""
        self._look_once()
        entry = self._files.get(checked(path))
        if entry is None or entry.is_folder:
            raise StoreFailed(f"{self.url_of(path)} is not a file")
        if entry.size > limit:
            raise StoreFailed(
                f"{self.url_of(path)} is larger than the {limit} bytes that are read of such a file"
            )
        if entry.size <= _WHOLE and _is_outlined(path):
            return self.local_path(path).read_bytes()
        return self.fetch(path, 0, entry.size)

    def local_path(self, path: str) -> Path:
        """Return a path in the outline; see :class:`~salver.stores.protocol.DistantStore`."""
        root = self.folder / "outline" / self.address.root
        return root / checked(path) if path else root

    # -- what copies are made of -----------------------------------------------------------------

    def url_of(self, path: str) -> str:
        """Return the URL of a path, for messages."""
        if not path:
            return self.address.url
        return f"{self.address.url}/{path}"

    def path_of(self, local: Path) -> str:
        """Return the path in the store of a path in the outline."""
        relative = local.relative_to(self.local_path("")).as_posix()
        return "" if relative == "." else relative

    def listed(self, path: str) -> dict[str, Entry]:
        """Return the files and folders at or below a path as they are now, by path from the root.

        Raises:
            StoreFailed: the place cannot be read, or holds too many.
        """
        key = self._key(path)
        with self._asking(path):
            try:
                found = self._opened().find(key, withdirs=True, detail=True)
            except FileNotFoundError:
                found = {}
        if len(found) > MOST_OBJECTS:
            raise StoreFailed(
                f"{self.url_of(path)} holds more than {MOST_OBJECTS} objects", fix="Name a part of it"
            )
        files, odd = {}, set()
        for name, info in found.items():
            is_folder = name.endswith("/") or info.get("type") == "directory"
            below = name.rstrip("/").removeprefix(self.address.root)
            if (below and not below.startswith("/")) or not _is_fine(below[1:]):
                odd.add(name)
            elif not is_folder:
                files[below[1:]] = _entry(PurePosixPath(name).name, info)
            elif below[1:] not in files:
                files[below[1:]] = Entry(PurePosixPath(name).name, True)
        plain = {path for path, entry in files.items() if not entry.is_folder}
        for path in [path for path in files if plain & set(map(str, PurePosixPath(path).parents))]:
            odd.add(self._key(path))  # what lies below a file
            del files[path]
        if odd - self._passed_over:
            _LOG.warning(
                "%s: %d objects are passed over, since no file can be called so: %s",
                self.address.url,
                len(odd),
                ", ".join(repr(name[:_LONGEST]) for name in sorted(odd)[:5]),
            )
        self._passed_over |= odd
        return files

    def fetch(self, path: str, start: int, end: int) -> bytes:
        """Return parts of a file; empty parts are not requested.

        Raises:
            StoreFailed: it cannot be read, or has fewer.
        """
        if start == end:
            return b""
        with self._asking(path):
            content = self._opened().cat_file(self._key(path), start=start, end=end)
        if len(content) != end - start:
            raise StoreFailed(f"{self.url_of(path)} has changed while it was read")
        return content

    # -- inside ----------------------------------------------------------------------------------

    def _opened(self) -> ObjectClient:
        if self._objects is None:
            self._objects = self._open_objects()
        return self._objects

    @contextmanager
    def _asking(self, path: str) -> Iterator[None]:
        """Turn the errors of the cloud's libraries into StoreFailed."""
        try:
            yield
        except StoreFailed:
            raise
        except Exception as error:
            self._objects = None
            reason = str(error).strip() or "no reason given"
            raise StoreFailed(
                f"{self.url_of(path)} cannot be read: {type(error).__name__}: {reason[:300]}"
            ) from error

    def _key(self, path: str) -> str:
        if not path:
            return self.address.root
        return f"{self.address.root}/{path}"

    def _look_once(self) -> None:
        if not self._was_read:
            self.refresh()

    def _forget(self, path: str) -> None:
        local = self.local_path(path)
        if local.is_dir():  # a folder now has the name that a file had
            shutil.rmtree(local, ignore_errors=True)
        else:
            local.unlink(missing_ok=True)

    def _tell(self, problems: frozenset[str]) -> None:
        """Log new reasons why files are left out."""
        for problem in sorted(problems - self._problems)[:5]:
            _LOG.warning("%s; it is passed over", problem)
        self._problems = problems

    def _outlined(self, path: str, entry: Entry) -> str:
        """Fetch the outline of a file; return why it failed, or nothing."""
        try:
            self._outline(path, entry)
        except StoreFailed as error:
            return str(error)
        return ""

    def _outline(self, path: str, entry: Entry) -> None:
        local = self.local_path(path)
        if entry.is_folder:
            local.mkdir(parents=True, exist_ok=True)
            return
        local.parent.mkdir(parents=True, exist_ok=True)
        with local.open("wb") as file:
            file.truncate(entry.size)  # sparse
            if not _is_outlined(path):
                return
            begin = self.fetch(path, 0, entry.size if entry.size <= _WHOLE else _END)
            if entry.size > _WHOLE and begin.startswith(_MAGIC):
                begin = self.fetch(path, 0, min(entry.size, _COMPRESSED))
            file.write(begin)
            if len(begin) == entry.size:
                return
            at = max(len(begin), entry.size - _END)
            end = self.fetch(path, at, entry.size)
            file.seek(at)
            file.write(end)
            if begin.startswith(b"PK"):
                start, stop = _directory(end, at)
                file.seek(start)
                file.write(self.fetch(path, start, stop))


def _directory(end: bytes, at: int) -> tuple[int, int]:
    """Return the range of a zip's directory before its last bytes, which begin ``at``."""
    mark = end.rfind(b"PK\5\6")
    if mark < 0 or len(end) < mark + 20:
        return 0, 0
    size, start = struct.unpack_from("<II", end, mark + 12)
    if start < at <= start + min(size, _DIRECTORY):
        return (start, at)
    return (0, 0)


def _is_outlined(path: str) -> bool:
    return path.count("/") < _DEPTH


def _is_fine(path: str) -> bool:
    """Return whether a file with this name stays below its folder."""
    try:
        checked(path)
        parts = path.split("/") if path else []
        return path.isprintable() and all(0 < len(p.encode()) <= _LONGEST and p != "." for p in parts)
    except (StoreFailed, UnicodeEncodeError):
        return False


def _entry(name: str, info: Mapping[str, Any]) -> Entry:
    size = int(info.get("size") or 0)
    stamp = next((str(info[key]) for key in _STAMPS if info.get(key)), "")
    return Entry(name, False, size, f"{size}-{stamp}")


def _tree(files: Mapping[str, Entry]) -> dict[str, dict[str, Entry]]:
    """Return the content of each folder, by name."""
    folders: dict[str, dict[str, Entry]] = {}
    for path, entry in files.items():
        below = entry
        if entry.is_folder:
            folders.setdefault(path, {})
        while path:
            folder, _, name = path.rpartition("/")
            is_known = folder in folders
            folders.setdefault(folder, {})[name] = below
            if is_known:
                break
            path, below = folder, Entry(PurePosixPath(folder).name, True)
    return folders

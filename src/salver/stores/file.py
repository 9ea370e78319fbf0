"""Store in a folder or file of the local file system.

Links are followed wherever they lead, so users with write access to the tree decide what is served.
"""

import itertools
import os
import stat
from pathlib import Path

from salver.stores.protocol import MAX_ENTRIES, Entry, StoreFailed, checked


class FileStore:
    """A :class:`~salver.stores.protocol.Store` over the filesystem.

    Attributes:
        seen: Entries and listings that were read since it was emptied, by path; None = they are not kept.
    """

    def __init__(self, root: Path, seen: dict[tuple[Path, bool], object] | None = None) -> None:
        self._root = root
        self.seen = seen

    def __repr__(self) -> str:
        return f"<FileStore {self._root}>"

    def stat(self, path: str) -> Entry | None:
        """See the protocol."""
        full = self.local_path(path)
        found = _stat(full)
        if self.seen is not None:
            self.seen[full, False] = found
        return found

    def entries(self, path: str) -> tuple[Entry, ...]:
        """See the protocol."""
        full = self.local_path(path)
        found = _entries(full)
        if self.seen is not None:
            self.seen[full, True] = found
        return found

    def is_unchanged(self) -> bool:
        """Return whether all that was seen is still so. Contents count by size, time and inode."""
        try:
            return all(
                (_entries(full) if is_listing else _stat(full)) == before
                for (full, is_listing), before in (self.seen or {}).items()
            )
        except StoreFailed:
            return False

    def above(self) -> "FileStore":
        """Return the store of the folder that holds this one, with the same memory."""
        return FileStore(self._root.parent, self.seen)

    def read(self, path: str, limit: int) -> bytes:
        """See the protocol."""
        full = self.local_path(path)
        if self.seen is not None:
            self.stat(path)
        try:
            if not full.is_file():  # a pipe or a device would block
                raise StoreFailed(f"{full} is not a file")
            with full.open("rb") as file:
                content = file.read(limit + 1)
        except OSError as error:
            raise _failed(full, error) from error
        if len(content) > limit:
            raise StoreFailed(f"{full} is larger than the {limit} bytes that are read of such a file")
        return content

    def local_path(self, path: str) -> Path:
        """See the protocol."""
        if not path:
            return self._root
        return self._root / checked(path)


def _stat(full: Path) -> Entry | None:
    try:
        info = full.lstat()
        is_link = stat.S_ISLNK(info.st_mode)
        return _entry(full.name, is_link, full.stat() if is_link else info)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _failed(full, error) from error


def _entries(full: Path) -> tuple[Entry, ...]:
    found: list[Entry] = []
    try:
        with os.scandir(full) as listing:
            for item in itertools.islice(listing, MAX_ENTRIES + 1):
                try:
                    found.append(_entry(item.name, item.is_symlink(), item.stat()))
                except OSError:  # removed meanwhile, or a dangling or circular link
                    continue
    except OSError as error:
        raise _failed(full, error) from error
    if len(found) > MAX_ENTRIES:
        raise StoreFailed(f"{full} holds more than {MAX_ENTRIES} entries", fix="Split the folder")
    return tuple(sorted(found, key=lambda entry: entry.name))


def _entry(name: str, is_link: bool, info: os.stat_result) -> Entry:
    if stat.S_ISDIR(info.st_mode):
        return Entry(name, True, is_link=is_link)
    return Entry(name, False, info.st_size, f"{info.st_size}-{info.st_mtime_ns}-{info.st_ino}", is_link)


def _failed(path: Path, error: OSError) -> StoreFailed:
    return StoreFailed(f"{path} cannot be read: {error.strerror or error}")

"""A store in memory, for tests and as the shortest example of a store."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

from salver.stores.protocol import MAX_ENTRIES, Entry, StoreFailed, checked


class MemoryStore:
    """A :class:`~salver.stores.protocol.Store` over a mapping of paths to contents.

    Args:
        files: Content by path; folders exist where a path passes through them.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = dict(files)

    def __repr__(self) -> str:
        return f"<MemoryStore {len(self.files)} files>"

    def stat(self, path: str) -> Entry | None:
        """See the protocol."""
        name = checked(path).rsplit("/", 1)[-1]
        content = self.files.get(path)
        if content is not None:
            return Entry(name, False, len(content), hashlib.sha256(content).hexdigest())
        is_folder = path == "" or any(key.startswith(f"{path}/") for key in self.files)
        if not is_folder:
            return None
        return Entry(name, True)

    def entries(self, path: str) -> tuple[Entry, ...]:
        """See the protocol."""
        entry = self.stat(path)
        if entry is None or not entry.is_folder:
            raise StoreFailed(f"memory:{path} is not a folder")
        prefix = path and f"{path}/"
        names = {key[len(prefix) :].split("/", 1)[0] for key in self.files if key.startswith(prefix)}
        if len(names) > MAX_ENTRIES:
            raise StoreFailed(f"memory:{path} holds more than {MAX_ENTRIES} entries", fix="Split the folder")
        found = (self.stat(prefix + name) for name in sorted(names))
        return tuple(item for item in found if item is not None)

    def read(self, path: str, limit: int) -> bytes:
        """See the protocol."""
        content = self.files.get(checked(path))
        if content is None:
            raise StoreFailed(f"memory:{path} is not a file")
        if len(content) > limit:
            raise StoreFailed(f"memory:{path} is larger than the {limit} bytes that are read of such a file")
        return content

    def local_path(self, path: str) -> Path:
        """Return a path that names the file; there is nothing to open."""
        if path:
            return Path("/memory") / checked(path)
        return Path("/memory")

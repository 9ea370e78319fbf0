"""Recognition of TorchServe's archives by content, packed or not.

A member ``MAR-INF/MANIFEST.json`` of a zip file, a compressed tar file or a folder. Nothing is unpacked,
imported or run, and only the necessary part of a file is read.
"""

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from salver.backends.content import head, zip_members

#: Path inside every archive.
MANIFEST: Final = "MAR-INF/MANIFEST.json"
_BLOCK = 512
_READ = 1 << 18
_MOST = 1 << 29  # uncompressed; the archiver writes the manifest last
_MEMBERS = 100_000


def is_archive(path: Path) -> bool:
    """Return whether a path is an archive. Never raises."""
    try:
        if path.is_dir():
            return (path / MANIFEST).is_file()
    except (OSError, ValueError):
        return False
    start = head(path, 4)
    if start[:2] == b"PK":
        return MANIFEST in zip_members(path)
    return start[:3] == b"\x1f\x8b\x08" and _is_in_tar(path)


def _is_in_tar(path: Path) -> bool:
    """Return whether a tar file has the manifest, in its top folder or beside it."""
    try:
        with path.open("rb") as file:
            content = _Unzipped(file.read)
            # Read by hand, since tarfile has no limit on decompressed bytes.
            for _ in range(_MEMBERS):
                block = content.take(_BLOCK)
                if len(block) < _BLOCK or block[257:262] != b"ustar":
                    return False
                name = block[:100].rstrip(b"\0").decode("utf-8", "replace").removeprefix("./")
                if name == MANIFEST or name.partition("/")[2] == MANIFEST:
                    return True
                size = int(block[124:136].rstrip(b" \0") or b"0", 8)
                content.skip(-(-size // _BLOCK) * _BLOCK)
    except (OSError, ValueError, zlib.error, EOFError):
        pass
    return False


class _Unzipped:
    """Stream of the content of a gzip file; raises EOFError beyond the limit."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._unzip = zlib.decompressobj(31)
        self._held = b""
        self._left = _MOST

    def take(self, size: int) -> bytes:
        """Return the next bytes; fewer at the end."""
        while len(self._held) < size and (more := self._more()):
            self._held += more
        taken, self._held = self._held[:size], self._held[size:]
        return taken

    def skip(self, size: int) -> None:
        """Skip bytes."""
        while size > len(self._held):
            size -= len(self._held)
            self._held = self._more()
            if not self._held:
                return
        self._held = self._held[size:]

    def _more(self) -> bytes:
        while not self._unzip.eof:
            data = self._unzip.unconsumed_tail or self._read(_READ)
            if not data:
                break
            piece = self._unzip.decompress(data, _READ)
            self._left -= len(piece)
            if self._left < 0:
                raise EOFError
            if piece:
                return piece
        return b""

"""How is a tar file from outside read, compressed or not, so that it takes no more than it may have?

What of it may be read at once is bounded, too: a header that says how long a name is would otherwise be read
into memory, whatever it says. It knows no folder.
"""

import bz2
import contextlib
import gzip
import importlib
import lzma
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from salver.errors import LoadFailed, MissingExtra

_MOST_AT_ONCE: Final = 16 << 20
_GZIP: Final = b"\x1f\x8b"
_BZIP2: Final = b"BZh"
_XZ: Final = b"\xfd7zXZ\0"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


@contextlib.contextmanager
def open_tar(path: Path, most: int, what: str) -> Iterator[tuple[tarfile.TarFile, "Bounded"]]:
    """Its members, and where in it one is. By its first bytes: gzip, bzip2, xz, zstd, or plain.

    Args:
        most: Bytes that it may have, unpacked, with its headers.
        what: It is called so in messages.

    Raises:
        LoadFailed: it is larger, or not honest; also while its members are read.
        MissingExtra: it is compressed by zstd, and nothing here reads that.
        BROKEN (``unpack.py``): it is no tar file, or a broken one.
    """
    with path.open("rb") as file:
        plain, broken = _plain(file)
        bounded = Bounded(plain, most, what, broken)
        with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
            yield tar, bounded


def _plain(file: IO[bytes]) -> tuple[Any, type[Exception]]:
    """What it is, unpacked; and an error that says so where it is broken, beside those of other kinds."""
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file), EOFError
    if magic.startswith(_BZIP2):
        return bz2.BZ2File(file), EOFError
    if magic == _XZ:
        return lzma.LZMAFile(file), EOFError
    if magic.startswith(_ZSTD):
        zstd = _zstd()
        return zstd.ZstdFile(file), zstd.ZstdError
    return file, EOFError


def _zstd() -> Any:
    """Python's own module from 3.14 on, or the same for older ones."""
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise MissingExtra("zstd", "registry", "backports.zstd")


class Bounded:
    """A file of which no more is read than it may have; what tar asks of one."""

    def __init__(self, file: IO[bytes], most: int, what: str, broken: type[Exception]) -> None:
        self._file = file
        self._broken = broken
        self._most = most
        self._what = what

    def read(self, size: int = -1) -> bytes:
        """Raises LoadFailed where that is too much."""
        if not 0 <= size <= _MOST_AT_ONCE:
            raise LoadFailed(f"{self._what} has a header of {size} bytes; no honest archive does")
        try:
            found = self._file.read(size)
        except self._broken as error:
            raise EOFError(str(error)) from error
        if self._file.tell() > self._most:
            raise LoadFailed(
                f"{self._what} is larger, unpacked, than an honest archive, or than there is room"
            )
        return found

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        """Raises LoadFailed where that is beyond what it may have."""
        if whence == os.SEEK_SET and to > self._most:
            raise LoadFailed(f"{self._what} says that it is larger than {self._most} bytes, unpacked")
        try:
            return self._file.seek(to, whence)
        except self._broken as error:
            raise EOFError(str(error)) from error

    def tell(self) -> int:
        """Where one is in it, unpacked."""
        return self._file.tell()

"""Reading of untrusted tar files, compressed or not, within bounds.

A single read is bounded, too: otherwise a header could make a name of any length be read into memory.
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

from salver.words.errors import LoadFailed, MissingExtra

_MOST_AT_ONCE: Final = 16 << 20
_WINDOW_LOG: Final = 27
#: Largest window of a decoder, in bytes; archives may ask for up to 4 GiB.
_MOST_WINDOW: Final = 1 << _WINDOW_LOG
_PIECE: Final = 1 << 16
_GZIP: Final = b"\x1f\x8b"
_BZIP2: Final = b"BZh"
_XZ: Final = b"\xfd7zXZ\0"
_ZSTD: Final = b"\x28\xb5\x2f\xfd"


@contextlib.contextmanager
def open_tar(path: Path, most: int, what: str) -> Iterator[tuple[tarfile.TarFile, "BoundedReader"]]:
    """Open a tar file, and the reader that counts its bytes. Compression is told by the first bytes.

    Args:
        most: Most bytes, unpacked, with headers.
        what: Its name in messages.

    Raises:
        LoadFailed: it is larger or needs too much memory; also while its members are read.
        MissingExtra: it is compressed by zstd, and nothing here reads that.
        BROKEN (``unpack.py``): it is no tar file, or a broken one.
    """
    with path.open("rb") as file:
        plain, broken = _plain(file)
        bounded = BoundedReader(plain, most, what, broken)
        with tarfile.open(fileobj=bounded, mode="r:") as tar:  # type: ignore[call-overload]
            yield tar, bounded


def _plain(file: IO[bytes]) -> tuple[Any, type[Exception]]:
    """Return the unpacked stream, and the error that its decoder raises for broken data."""
    magic = file.read(6)
    file.seek(0)
    if magic.startswith(_GZIP):
        return gzip.GzipFile(fileobj=file), EOFError
    if magic.startswith(_BZIP2):
        return bz2.BZ2File(file), EOFError
    if magic == _XZ:
        return _Xz(file), lzma.LZMAError
    if magic.startswith(_ZSTD):
        return _unpacked(file)
    return file, EOFError


def _unpacked(file: Any) -> tuple[Any, type[Exception]]:
    library = zstd()
    bound = {library.DecompressionParameter.window_log_max: _WINDOW_LOG}
    return library.ZstdFile(file, options=bound), library.ZstdError


def open_zstd(file: Any, most: int, what: str) -> "BoundedReader":
    """Return a reader of what a file compressed by zstd contains; raises as :func:`open_tar`.

    Args:
        file: Needs ``read(size)`` only.
    """
    plain, broken = _unpacked(file)
    return BoundedReader(plain, most, what, broken)


def zstd() -> Any:
    """Return Python's own module from 3.14 on, or its backport.

    Raises:
        MissingExtra: there is none.
    """
    for name in ("compression.zstd", "backports.zstd"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise MissingExtra("zstd", "registry", "backports.zstd")


class _Xz:
    """Reader of xz files with bounded memory; Python's own takes as much as the file demands."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._begin()

    def _begin(self) -> None:
        self._file.seek(0)
        self._at = 0
        self._stream = self._new()

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_WINDOW)

    def tell(self) -> int:
        return self._at

    def seek(self, to: int, whence: int) -> int:
        if to < self._at:
            self._begin()
        while self._at < to and self.read(min(to - self._at, _PIECE)):
            pass
        return self._at

    def read(self, size: int) -> bytes:
        found = bytearray()
        while len(found) < size and not (self._stream.eof and not self._goes_on()):
            packed = b""
            if self._stream.needs_input and not (packed := self._file.read(_PIECE)):
                raise EOFError("it ends too soon")
            found += self._stream.decompress(packed, size - len(found))
        self._at += len(found)
        return bytes(found)

    def _goes_on(self) -> bool:
        """Return whether another stream follows the one that ended and its padding."""
        left = self._stream.unused_data
        while not (left := left.lstrip(b"\0")) and (left := self._file.read(_PIECE)):
            pass
        if left:
            self._file.seek(-len(left), os.SEEK_CUR)
            self._stream = self._new()
        return bool(left)


class BoundedReader:
    """File for ``tarfile`` of which only a bounded number of bytes is read."""

    def __init__(self, file: IO[bytes], most: int, what: str, broken: type[Exception]) -> None:
        self._file = file
        self._broken = broken
        self._most = most
        self._what = what

    def read(self, size: int = -1) -> bytes:
        """Read; raises LoadFailed beyond the bound."""
        if not 0 <= size <= _MOST_AT_ONCE:
            raise LoadFailed(f"{self._what} has a header of {size} bytes; no honest archive does")
        with self._unpacking():
            found = self._file.read(size)
        if self._file.tell() > self._most:
            raise LoadFailed(
                f"{self._what} is larger, unpacked, than an honest archive, or than there is room"
            )
        return found

    def seek(self, to: int, whence: int = os.SEEK_SET) -> int:
        """Seek; raises LoadFailed beyond the bound."""
        if whence == os.SEEK_SET and to > self._most:
            raise LoadFailed(f"{self._what} says that it is larger than {self._most} bytes, unpacked")
        with self._unpacking():
            return self._file.seek(to, whence)

    def tell(self) -> int:
        """Return the position in the unpacked stream."""
        return self._file.tell()

    @contextlib.contextmanager
    def _unpacking(self) -> Iterator[None]:
        try:
            yield
        except self._broken as error:
            if "memory" not in str(error).lower():
                raise EOFError(str(error)) from error
            raise LoadFailed(
                f"{self._what} takes more than {_MOST_WINDOW >> 20} MiB of memory to be unpacked",
                fix="Pack it with a smaller window: xz -9 at most, zstd without --long.",
            ) from error

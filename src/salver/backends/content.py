"""Recognition of file contents from a bounded number of bytes.

Never raises for unreadable files: such a file is not recognised by anything. Knows no framework.
"""

import bz2
import lzma
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

_MAX_DIRECTORY = 64 << 20  # maximum size of a zip's central directory; real artefacts stay far below
_EOCD = b"PK\x05\x06"
_COMPRESSED = 1 << 20  # bzip2 returns nothing before it has a whole block of up to 900 kB
_MEMORY = 128 << 20  # maximum dictionary of an xz file; its highest preset needs half


def is_file(path: Path) -> bool:
    """Return whether it is a regular file; reading a pipe or a device could block forever."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError):
        return False


def head(path: Path, size: int) -> bytes:
    """Return the first bytes, or empty."""
    if not is_file(path):
        return b""
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""


def uncompressed_head(path: Path, size: int) -> bytes:
    """Return the first bytes of a file compressed with zlib, gzip, bzip2, xz or lzma; empty for others."""
    start = head(path, 6)
    decoder: zlib._Decompress | bz2.BZ2Decompressor | lzma.LZMADecompressor
    if start[:2] in (b"x\x01", b"x\x5e", b"x\x9c", b"x\xda", b"\x1f\x8b"):
        decoder = zlib.decompressobj(47)  # 32 + 15: zlib detects the header itself
    elif start[:3] == b"BZh":
        decoder = bz2.BZ2Decompressor()
    elif start == b"\xfd7zXZ\0" or start[:3] == b"]\0\0":
        decoder = lzma.LZMADecompressor(memlimit=_MEMORY)
    else:
        return b""
    try:
        return decoder.decompress(head(path, _COMPRESSED), size)
    except (zlib.error, OSError, lzma.LZMAError, ValueError, EOFError):
        return b""


def tail(path: Path, size: int) -> bytes:
    """Return the last bytes, or empty."""
    if not is_file(path):
        return b""
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, 2) - size))
            return file.read(size)
    except OSError:
        return b""


def zip_members(path: Path) -> tuple[str, ...]:
    """Return the names of a zip archive's members, or empty if it is not a complete archive."""
    if not head(path, 4).startswith(b"PK"):
        return ()
    end = tail(path, 65_557)
    at = end.rfind(_EOCD)
    if at < 0 or len(end) < at + 22:
        return ()
    (size,) = struct.unpack_from("<I", end, at + 12)
    if _MAX_DIRECTORY < size < 0xFFFFFFFF:
        return ()
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, struct.error):
        return ()


def inner_names(members: tuple[str, ...]) -> frozenset[str]:
    """Return member names below the archive's single top folder (PyTorch has one)."""
    return frozenset(name.partition("/")[2] for name in members)


def protobuf_fields(path: Path, most: int = 64) -> list[tuple[int, int, bytes]]:
    """Return field number, wire type and first bytes of a message's top-level fields."""
    if not is_file(path):
        return []
    found: list[tuple[int, int, bytes]] = []
    try:
        with path.open("rb") as file:
            while len(found) < most and (key := _varint(file)) is not None:
                number, kind = key >> 3, key & 7
                if kind == 0:
                    if (value := _varint(file)) is None:
                        break
                    found.append((number, kind, value.to_bytes(8, "little")))
                elif kind == 2:
                    if (size := _varint(file)) is None:
                        break
                    start = file.tell()
                    found.append((number, kind, file.read(min(size, 16))))
                    file.seek(start + size)
                else:
                    break
    except (OSError, OverflowError, ValueError):
        pass
    return found


def _varint(file: BinaryIO) -> int | None:
    value = 0
    for shift in range(0, 63, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return None

"""Unpacking of untrusted zip files into a folder.

Members that would leave the folder, links, devices, and encrypted or inconsistent members are refused, as are
archives whose unpacked size exceeds the free space or is implausible.
"""

import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Final

from salver.stores.unpack import MOST_MEMBERS, MOST_PATH, honest_bytes, room_in
from salver.words.errors import BadArchive, LoadFailed

_PIECE: Final = 1 << 20
_ENCRYPTED: Final = 0x1
#: Python unpacks other methods in pieces of a megabyte, whose result may fill the memory.
_KINDS: Final = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}
_BROKEN: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    RuntimeError,
    NotImplementedError,
    ValueError,
)


def is_zip(path: Path) -> bool:
    """Return whether a file has a zip's directory. Blocking."""
    return zipfile.is_zipfile(path)


def read_member(archive: Path, name: str, most: int) -> bytes | None:
    """Return a member's content; None if there is no such member. Blocking.

    Raises:
        BadArchive: it is larger, or cannot be read.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            try:
                member = opened.getinfo(name)
            except KeyError:
                return None
            _check_kind(member, archive)
            with opened.open(member) as content:
                found = content.read(most + 1)
    except LoadFailed as error:
        raise BadArchive(error.message) from error
    except _BROKEN as error:
        raise BadArchive(f"{archive.name}: '{name}' cannot be read: {error}") from error
    if len(found) > most:
        raise BadArchive(f"{archive.name}: '{name}' is larger than {most >> 20} MiB")
    return found


def check(archive: Path) -> None:
    """Check by a zip's directory whether its members may be unpacked. Blocking.

    Raises:
        LoadFailed: one may not; the message names it.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
    except _BROKEN as error:
        raise LoadFailed(f"{archive.name} cannot be read: {error}") from error
    _check_size(members, archive)
    for member in members:
        _check_kind(member, archive)
        _inside(member.filename, archive)


def unzip(archive: Path, folder: Path) -> None:
    """Unpack into an empty folder. Blocking.

    Raises:
        LoadFailed: it is no zip, is harmful or too large, or cannot be written; the message names the member.
            The folder is as it may be.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            whole, room = _check_size(members, archive), room_in(folder)
            if whole > room:
                raise LoadFailed(
                    f"{archive.name} has {whole} bytes, unpacked, and there is room for {room} on the disk"
                )
            seen: set[str] = set()
            for member in members:
                _place(opened, member, folder, archive, seen)
    except _BROKEN as error:
        raise LoadFailed(f"{archive.name} cannot be unpacked: {error}") from error


def _check_size(members: list[zipfile.ZipInfo], archive: Path) -> int:
    """Return the unpacked size by the directory; more is not written later."""
    packed = archive.stat().st_size
    whole = sum(member.file_size for member in members)
    if len(members) > MOST_MEMBERS:
        raise LoadFailed(f"{archive.name} has {len(members)} members; at most {MOST_MEMBERS} are unpacked")
    if whole > honest_bytes(packed):
        largest = max(members, key=lambda member: member.file_size)
        raise LoadFailed(
            f"{archive.name} has {packed} bytes and says that it has {whole}, unpacked, of which "
            f"{largest.file_size} are in '{largest.filename}'; no honest archive does",
            fix="Store large files uncompressed in it: torch-model-archiver --archive-format zip-store.",
        )
    return whole


def _place(
    opened: zipfile.ZipFile, member: zipfile.ZipInfo, folder: Path, archive: Path, seen: set[str]
) -> None:
    _check_kind(member, archive)
    target = folder / _inside(member.filename, archive)
    if member.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        return
    if member.filename in seen:
        raise LoadFailed(f"{archive.name}: it has '{member.filename}' twice")
    seen.add(member.filename)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with opened.open(member) as content:
            _write(content, target, member.file_size, archive)
    except _BROKEN as error:
        raise LoadFailed(f"{archive.name}: '{member.filename}' cannot be unpacked: {error}") from error


def _check_kind(member: zipfile.ZipInfo, archive: Path) -> None:
    mode = member.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        what = "no file or folder"
        if kind == stat.S_IFLNK:
            what = "a link"
        raise LoadFailed(f"{archive.name}: '{member.filename}' is {what}")
    if member.flag_bits & _ENCRYPTED:
        raise LoadFailed(
            f"{archive.name}: '{member.filename}' is encrypted", fix="Pack it without a password."
        )
    if member.compress_type not in _KINDS:
        names: dict[int, str] = zipfile.compressor_names  # type: ignore[attr-defined]
        method = names.get(member.compress_type, f"method {member.compress_type}")
        raise LoadFailed(
            f"{archive.name}: '{member.filename}' is packed by {method}, and not by deflate",
            fix="Pack it with zip's defaults: only deflated or stored members are unpacked.",
        )


def _inside(name: str, archive: Path) -> Path:
    """Return a member's path below the folder."""
    path = PurePosixPath(name.replace("\\", "/"))
    is_fine = not path.is_absolute() and ".." not in path.parts and ":" not in (path.parts or ("",))[0]
    if not is_fine or not name.isprintable() or len(name) > MOST_PATH or not path.parts:
        raise LoadFailed(f"{archive.name}: '{name[:MOST_PATH]}' is outside of it")
    return Path(path)


def _write(content: IO[bytes], target: Path, size: int, archive: Path) -> None:
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(fd, "wb") as file:
        while piece := content.read(_PIECE):
            size -= len(piece)
            if size < 0:
                raise LoadFailed(f"{archive.name}: '{target.name}' is larger than it says")
            file.write(piece)
    if size:
        raise EOFError("it ends too soon")

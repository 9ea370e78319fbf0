"""Unpacking of untrusted tar files into a folder.

Members that would leave the folder, members that are no file, folder or link, and archives that are larger
than the free space are refused.
"""

import contextlib
import lzma
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Final

from salver.stores.tars import open_tar
from salver.words.errors import LoadFailed

MOST_MEMBERS: Final = 500_000
MOST_BYTES: Final = 64 << 30
MOST_PATH: Final = 1024  # letters
_SPARE: Final = 1 << 30  # bytes that stay free on the disk, of a small one a part
_SPARE_PART: Final = 16
#: Unpacked bytes that an archive of any size may have: weights may be all zeros.
_FREE: Final = 2 << 30
_MOST_RATIO: Final = 100  # factor by which larger archives may grow
MOST_HEADERS: Final = 1 << 30  # of all members, beside their contents
_PIECE: Final = 1 << 20
#: Errors that reading a broken tar file raises.
BROKEN: Final = (tarfile.TarError, EOFError, OSError, ValueError, zlib.error, lzma.LZMAError)


def room_in(folder: Path) -> int:
    """Return how many bytes may be written into a folder."""
    free = shutil.disk_usage(folder).free
    return free - min(_SPARE, free // _SPARE_PART)


def honest_bytes(packed: int) -> int:
    """Return how many bytes an archive of this size may have, unpacked.

    >>> honest_bytes(1_000) >> 30, honest_bytes(1 << 30) >> 30
    (2, 64)
    """
    return min(MOST_BYTES, max(_FREE, packed * _MOST_RATIO))


def unpack(archive: Path, folder: Path, *, takes_links: bool = True, most: int = 0) -> None:
    """Unpack a tar file, compressed or not, into an empty folder. Blocking.

    Symbolic links must stay inside, except interpreters in ``bin``, which environments have.

    Args:
        takes_links: False = archives with links are refused.
        most: Most bytes, unpacked; 0 = the general limit.

    Raises:
        LoadFailed: it is none, is harmful or too large, or cannot be written; the folder is as it may be.
    """
    room = min(most or MOST_BYTES, room_in(folder))
    root = Path(os.path.realpath(folder))
    with _opened(archive, room) as tar:
        for member in _checked(tar, archive, room, takes_links=takes_links):
            _place(tar, member, root, archive)


def check(archive: Path, most: int) -> None:
    """Check whether a tar file without links may be unpacked. Blocking; reads all of it.

    Raises:
        LoadFailed: it may not; as :func:`unpack`.
    """
    with _opened(archive, most) as tar:
        for _ in _checked(tar, archive, most, takes_links=False):
            pass


@contextlib.contextmanager
def _opened(archive: Path, room: int) -> Iterator[tarfile.TarFile]:
    try:
        with open_tar(archive, room + MOST_HEADERS, archive.name) as (tar, _):
            yield tar
    except BROKEN as error:
        raise LoadFailed(f"{archive} cannot be unpacked: {error}") from error


def _checked(
    tar: tarfile.TarFile, archive: Path, room: int, *, takes_links: bool
) -> Iterator[tarfile.TarInfo]:
    """Yield the members, each checked as far as is possible without a folder."""
    for count, member in enumerate(tar, 1):
        room -= member.size if member.isreg() else 0
        if room < 0 or count > MOST_MEMBERS:
            raise LoadFailed(f"{archive} is larger, unpacked, than there is room for")
        if not takes_links and (member.issym() or member.islnk()):
            raise LoadFailed(f"{archive.name}: '{member.name}' is a link")
        if not (member.isdir() or member.isreg() or member.issym() or member.islnk()):
            raise LoadFailed(f"{archive}: '{member.name}' is not a file, folder or link")
        _inside(member.name, archive)
        yield member


def _place(tar: tarfile.TarFile, member: tarfile.TarInfo, root: Path, archive: Path) -> None:
    target = root / _inside(member.name, archive)
    target.parent.mkdir(parents=True, exist_ok=True)
    if Path(os.path.realpath(target.parent)) != target.parent:
        raise LoadFailed(f"{archive}: '{member.name}' would be written through a link")
    if member.isdir():
        target.mkdir(exist_ok=True)
        return
    if target.is_symlink() or target.exists():
        target.unlink()
    if member.issym():
        _check_link(member, root, target, archive)
        target.symlink_to(member.linkname)
    elif member.islnk():
        source = root / _inside(member.linkname, archive)
        if not source.is_file() or Path(os.path.realpath(source)) != source:
            raise LoadFailed(
                f"{archive}: '{member.name}' is a link to '{member.linkname}', which is not a file"
            )
        os.link(source, target)
    else:
        content = tar.extractfile(member)
        assert content is not None
        write_new(content, target, member.size, 0o700 if member.mode & 0o100 else 0o600)


def _inside(name: str, archive: Path) -> Path:
    """Return a member's path below the folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\0" in name or len(name) > MOST_PATH:
        raise LoadFailed(f"{archive}: '{name[:MOST_PATH]}' is outside of it, or too long")
    return Path(path)


def _check_link(member: tarfile.TarInfo, root: Path, target: Path, archive: Path) -> None:
    to = os.path.normpath(target.parent / member.linkname)
    is_inside = Path(to).is_relative_to(root) and not Path(member.linkname).is_absolute()
    is_interpreter = (
        target.parent == root / "bin"
        and target.name.startswith("python")
        and Path(to).name.startswith("python")
        and os.access(to, os.X_OK)
    )
    if not is_inside and not is_interpreter:
        raise LoadFailed(f"{archive}: the link '{member.name}' leads out of it, to '{member.linkname}'")


def write_new(content: IO[bytes], target: Path, size: int, mode: int = 0o600) -> None:
    """Write so many bytes into a new file. Raises OSError; EOFError if there are fewer."""
    fd = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as file:
        while size > 0 and (piece := content.read(min(size, _PIECE))):
            size -= len(piece)
            file.write(piece)
    if size:
        raise EOFError("it ends too soon")

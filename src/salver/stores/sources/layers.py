"""Unpacking of an image's layers.

Layers are applied in order by the OCI image specification: later ones replace and, by whiteouts, remove
files of earlier ones. They are untrusted: links become files, nothing is written outside of the folder, and
their size is bounded.
"""

import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import Final

from salver.stores.tars import open_tar
from salver.stores.unpack import BROKEN, MOST_MEMBERS, MOST_PATH, room_in, write_new
from salver.words.errors import LoadFailed

_WHITEOUT: Final = ".wh."
_OPAQUE: Final = ".wh..wh..opq"


class Layers:
    """Writer of layers into a folder, the lowest first. Blocking.

    Args:
        most: Most bytes of all layers, unpacked.
        prefix: Only paths below it are taken, without the prefix.
    """

    def __init__(self, folder: Path, most: int, prefix: str = "") -> None:
        self._folder = folder
        self._most = most
        self._prefix = PurePosixPath(prefix).parts
        self._members = 0

    def __repr__(self) -> str:
        return f"<Layers in {self._folder}, {self._members} members>"

    def add(self, layer: Path, what: str) -> None:
        """Apply a tar file, compressed or not.

        Args:
            what: Its name in messages.

        Raises:
            LoadFailed: it is none, is harmful or too large, or cannot be written.
        """
        mine: set[Path] = set()
        try:
            with open_tar(layer, min(self._most, room_in(self._folder)), what) as (tar, plain):
                for member in _members(tar):
                    self._members += 1
                    if self._members > MOST_MEMBERS:
                        raise LoadFailed(f"{what} has more than {MOST_MEMBERS} members")
                    if (path := self._below(member.name, what)) is not None:
                        self._place(tar, member, path, mine, what)
                    elif self._hides(member.name):
                        self._forget_lower(self._folder, mine)
                self._most -= plain.tell()
        except (*BROKEN, RecursionError) as error:
            raise LoadFailed(f"{what} cannot be unpacked: {error}") from error

    def add_file(self, file: Path, name: str, what: str) -> None:
        """Move a file to a path."""
        path = self._below(name, what)
        if path is None or not path.parts:
            raise LoadFailed(f"{what}: {name!r} cannot be the path of a file")
        target = self._folder / path
        try:
            self._make_way(target)
            file.rename(target)
        except OSError as error:
            raise LoadFailed(f"{what} cannot be called {name[:200]!r}: {error.strerror}") from error

    def _below(self, name: str, what: str) -> PurePosixPath | None:
        """Return a member's path in the folder; None if it is outside of the prefix."""
        path = PurePosixPath(name.removeprefix("/") if self._prefix else name)
        if path.parts[: len(self._prefix)] != self._prefix:
            return None  # other parts of an image have names of every kind
        if path.is_absolute() or ".." in path.parts or not name.isprintable() or "\\" in name:
            raise LoadFailed(f"{what}: {name[:200]!r} is outside of it")
        if len(name) > MOST_PATH:
            raise LoadFailed(f"{what}: the path {name[:200]!r}… has no end")
        return PurePosixPath(*path.parts[len(self._prefix) :])

    def _hides(self, name: str) -> bool:
        """Return whether a whiteout hides the prefix itself."""
        path = PurePosixPath(name.removeprefix("/"))
        above = path.parts[:-1]
        if len(above) >= len(self._prefix) or self._prefix[: len(above)] != above:
            return False
        return path.name in (_OPAQUE, f"{_WHITEOUT}{self._prefix[len(above)]}")

    def _place(
        self, tar: tarfile.TarFile, member: tarfile.TarInfo, path: PurePosixPath, mine: set[Path], what: str
    ) -> None:
        target = self._folder / path
        if path.name.startswith(_WHITEOUT):
            self._white_out(target, mine, what)
        elif member.isdir():
            self._make_folders(path)
        elif member.isreg() and not member.issparse() and path.parts:
            self._make_way(target)
            content = tar.extractfile(member)
            assert content is not None
            write_new(content, target, member.size)
        elif member.islnk() and path.parts:
            self._link(member, target, what)
        else:
            kind = "no file or folder"
            if member.issym():
                kind = "a link"
            raise LoadFailed(f"{what}: {member.name!r} is {kind}")
        while target != self._folder and target not in mine:
            mine.add(target)
            target = target.parent

    def _white_out(self, target: Path, mine: set[Path], what: str) -> None:
        """Remove files of lower layers; files of this one stay, whatever the order of its members."""
        name = target.name.removeprefix(_WHITEOUT)
        if target.name == _OPAQUE:
            gone = list(target.parent.iterdir()) if target.parent.is_dir() else []
        elif name in ("", ".", ".."):
            raise LoadFailed(f"{what}: {target.name!r} removes nothing that could be there")
        else:
            gone = [target.with_name(name)]
        for path in gone:
            if path in mine:
                self._forget_lower(path, mine)
            else:
                _remove(path)

    def _forget_lower(self, path: Path, mine: set[Path]) -> None:
        for below in list(path.iterdir()) if path.is_dir() else []:
            if below in mine:
                self._forget_lower(below, mine)
            else:
                _remove(below)

    def _link(self, member: tarfile.TarInfo, target: Path, what: str) -> None:
        """Copy the target of a hard link into a file of its own."""
        source = self._below(member.linkname, what)
        there = None if source is None else self._folder / source
        if there is None or not there.is_file():
            to = member.linkname[:200]
            raise LoadFailed(f"{what}: {member.name!r} is a link to {to!r}, which is not a file")
        self._make_way(target)
        os.link(there, target)

    def _make_way(self, target: Path) -> None:
        """Make the parent folders, and remove a file of the same name."""
        self._make_folders(target.relative_to(self._folder).parent)
        _remove(target)

    def _make_folders(self, path: PurePath) -> None:
        for folder in (*reversed(path.parents), path):
            here = self._folder / folder
            if here.is_file():
                here.unlink()
            here.mkdir(exist_ok=True)


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    """Yield each member; some builders (umoci) leave out the padding after the last one."""
    while True:
        try:
            member = tar.next()
        except tarfile.ReadError as error:
            if not tar.offset or "unexpected end" not in str(error):
                raise
            return
        if member is None:
            return
        yield member


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

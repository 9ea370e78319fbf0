"""Protocols that stores of artefacts implement."""

from pathlib import Path
from typing import Final, Protocol, runtime_checkable

import msgspec

from salver.words.errors import LoadFailed

#: Most entries of one folder; more is refused rather than read in part.
MAX_ENTRIES: Final = 10_000


class StoreFailed(LoadFailed):
    """A store could not be read; the message names it and the reason."""


class Entry(msgspec.Struct, frozen=True):
    """A file or a folder; links are followed.

    Attributes:
        name: Last part of its path.
        stamp: Changes when the content is replaced or rewritten; "" for a folder.
    """

    name: str
    is_folder: bool
    size: int = 0
    stamp: str = ""
    is_link: bool = False


class Store(Protocol):
    """A tree of files. Paths are relative, with ``/``; ``""`` is the root, which may be a file.

    Every method raises StoreFailed where the place cannot be read, and for a path that would
    leave the tree by ``..`` or by being absolute.
    """

    def stat(self, path: str) -> Entry | None:
        """Return the entry at a path, or None."""
        ...

    def entries(self, path: str) -> tuple[Entry, ...]:
        """Return the entries of a folder, by name; dangling links are left out.

        Raises:
            StoreFailed: also when it is no folder, or holds more than ``MAX_ENTRIES``.
        """
        ...

    def read(self, path: str, limit: int) -> bytes:
        """Return a file's content.

        Raises:
            StoreFailed: also when there is no such file, or it is larger than ``limit`` bytes.
        """
        ...

    def local_path(self, path: str) -> Path:
        """Return where a framework can open a file or folder on this machine."""
        ...


@runtime_checkable
class DistantStore(Store, Protocol):
    """A store whose files come to this machine only when they are needed.

    ``local_path`` names an outline of it: a tree with every name and size, and the beginnings and ends of the
    files that can be artefacts, enough to recognise them.
    """

    def refresh(self) -> None:
        """List the place again; until the next call all methods describe that moment.

        Raises:
            StoreFailed: the place cannot be read; what was known of it stays.
        """
        ...

    def told(self, text: str) -> str:
        """Return a text with the URL in place of local paths."""
        ...


def checked(path: str) -> str:
    """Return the path.

    Raises:
        StoreFailed: if it would leave the tree.
    """
    if path.startswith("/") or "\\" in path or "\0" in path or ".." in path.split("/"):
        raise StoreFailed(
            f"{path!r} leads out of the store", fix="Name files by relative paths, without '..'"
        )
    return path

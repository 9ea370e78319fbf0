"""What does a source bring, and what does it tell meanwhile?"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec

_NOTHING: Final[Mapping[str, Any]] = {}

#: Told what is being fetched, how many bytes of it have come, and of how many (0 = nobody knows).
Progress = Callable[[str, int, int], None]


class Fetched(msgspec.Struct, frozen=True):
    """A model that was brought onto this machine.

    Attributes:
        path: A file, or the folder of one model.
        source: Where it came from, by a pointer that does not move: a digest, a commit, a version's number.
        card: Its README; empty = it has none.
        parents: What it was made from, as ``(kind, reference)``.
    """

    path: Path
    source: str
    card: str = ""
    tags: Mapping[str, str] = _NOTHING
    metrics: Mapping[str, float] = _NOTHING
    parents: tuple[tuple[Literal["data", "run"], str], ...] = ()


class Source(Protocol):
    """A place that holds one model."""

    def fetch(self, folder: Path, progress: Progress) -> Fetched:
        """Bring it into an empty folder. Blocking.

        Raises:
            InvalidInput: there is no model that its address names, or it is not what it says.
            StoreFailed: the place cannot be read, or what came is not what its digest says.
            LoadFailed: there is no room for it, or an archive is harmful.
        """
        ...


def silent(what: str, done: int, whole: int) -> None:
    """Nobody is told."""

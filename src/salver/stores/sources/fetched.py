"""Protocol of sources, and the record of a fetched model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import msgspec

_NOTHING: Final[Mapping[str, Any]] = {}

#: Called with what is being fetched, the bytes so far, and the total (0 = unknown).
Progress = Callable[[str, int, int], None]


class FetchedModel(msgspec.Struct, frozen=True):
    """A model that was fetched onto this machine.

    Attributes:
        path: File, or folder of one model.
        source: Immutable pointer to its origin: a digest, a commit, a version's number.
        card: README; empty = none.
        parents: Origins as ``(kind, reference)``.
    """

    path: Path
    source: str
    card: str = ""
    tags: Mapping[str, str] = _NOTHING
    metrics: Mapping[str, float] = _NOTHING
    parents: tuple[tuple[Literal["data", "run"], str], ...] = ()


class Source(Protocol):
    """A place that holds one model."""

    def fetch(self, folder: Path, progress: Progress) -> FetchedModel:
        """Fetch the model into an empty folder. Blocking.

        Raises:
            InvalidInput: there is no model at the address, or it is not what it claims to be.
            StoreFailed: the place cannot be read, or the content does not match its digest.
            LoadFailed: there is no room for it, or an archive is harmful.
        """
        ...


def silent(what: str, done: int, whole: int) -> None:
    """Ignore progress."""

"""Models from snapshots of Hugging Face on this machine.

They are read from the cache of ``huggingface_hub`` (``models--org--name`` with ``refs``, ``blobs``, and
``snapshots`` of links into the blobs), by name and revision or by folder. The commit identifies the content.
Nothing is downloaded.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from salver.stores.sources.archives import card_of
from salver.stores.sources.fetched import FetchedModel, Progress
from salver.stores.sources.staging import stage
from salver.words.errors import InvalidInput

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}(?:/[A-Za-z0-9][A-Za-z0-9._-]{0,95})?", re.ASCII)
_REVISION: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}", re.ASCII)
_COMMIT: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_PREFIX: Final = "models--"


class SnapshotSource:
    """A :class:`~salver.stores.sources.Source` over a repository of the cache.

    Args:
        repository: Folder ``models--org--name``.
        revision: A branch, a tag, or a commit.

    Raises:
        InvalidInput: there is no such revision on this machine.
    """

    def __init__(self, repository: Path, revision: str = "main") -> None:
        self._repository = repository
        self._commit = _resolved(repository, revision)

    def __repr__(self) -> str:
        return f"<SnapshotSource {self._repository.name} {self._commit}>"

    def fetch(self, folder: Path, progress: Progress) -> FetchedModel:
        """See the protocol."""
        path = folder / "model"
        stage(self._repository / "snapshots" / self._commit, path, self._repository)
        name = self._repository.name.removeprefix(_PREFIX).replace("--", "/")
        return FetchedModel(path, f"hf://{name}@{self._commit}", card_of(path))


def cache_of(environment: Mapping[str, str]) -> Path:
    """Return the cache's folder by the variables of ``huggingface_hub``."""
    if folder := environment.get("HF_HUB_CACHE", ""):
        return Path(folder).expanduser()
    home = environment.get("HF_HOME") or f"{environment.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(home).expanduser() / "hub"


def by_name(text: str, cache: Path) -> SnapshotSource:
    """Return the source of ``org/name@revision``.

    Raises:
        InvalidInput: the name has another form, or is not on this machine.
    """
    name, _, revision = text.partition("@")
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise InvalidInput(f"hf://{text[:200]} names no repository", fix="Write hf://org/name@revision.")
    repository = cache / f"{_PREFIX}{name.replace('/', '--')}"
    if not repository.is_dir():
        raise InvalidInput(
            f"{name} is not in {cache}, and nothing is downloaded", fix=f"Fetch it first: hf download {name}"
        )
    return SnapshotSource(repository, revision or "main")


def of_folder(folder: Path) -> SnapshotSource | None:
    """Return the source of a repository or snapshot folder of the cache; None for other folders."""
    if folder.name.startswith(_PREFIX) and (folder / "snapshots").is_dir():
        return SnapshotSource(folder)
    above = folder.parent
    if above.name == "snapshots" and above.parent.name.startswith(_PREFIX):
        return SnapshotSource(above.parent, folder.name)
    return None


def _resolved(repository: Path, revision: str) -> str:
    """Return the commit of a revision."""
    said = ""
    if _COMMIT.fullmatch(revision):
        said = revision
    elif _REVISION.fullmatch(revision) and ".." not in revision:
        reference = repository / "refs" / revision
        if reference.is_file() and reference.stat().st_size <= 128:
            said = reference.read_text(encoding="ascii", errors="replace").strip()
    if not _COMMIT.fullmatch(said) or not (repository / "snapshots" / said).is_dir():
        raise InvalidInput(f"{repository} has no snapshot of the revision {revision[:128]!r}")
    return said

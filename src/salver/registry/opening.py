"""Where is a registry, and how is it opened?

A folder, with the ledger ``salver.db`` and the files in ``models/``; or the URL of a ledger, with the folder
of the files beside it.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from salver.errors import InvalidInput, NotFound
from salver.ledger import Ledger
from salver.ledger.databases import address_of, path_of
from salver.registry.artifacts import Artifacts, ArtifactsFailed
from salver.registry.registry import ModelRegistry

FILE: Final = "salver.db"


class Home(msgspec.Struct, frozen=True):
    """Where a registry is.

    Attributes:
        url: Of the ledger.
        folder: Of the files.
    """

    url: str
    folder: Path


def default_folder() -> str:
    """``$XDG_DATA_HOME/salver/registry``, by default ``~/.local/share/salver/registry``."""
    base = os.environ.get("XDG_DATA_HOME", "")
    if not Path(base).is_absolute():  # the specification has relative paths ignored
        base = str(Path.home() / ".local" / "share")
    return str(Path(base) / "salver" / "registry")


def home_of(registry: str, artifacts: str = "") -> Home:
    """Where it is, as somebody says.

    Args:
        registry: A folder, or the URL of a ledger.
        artifacts: Folder of the files; empty = beside the ledger, where that is a file.

    Raises:
        InvalidInput: it is neither, or the files' folder is not said.
    """
    if "://" not in registry:
        folder = Path(registry).absolute()
        return Home(f"sqlite:///{folder / FILE}", Path(artifacts).absolute() if artifacts else folder)
    beside = path_of(address_of(registry))
    if beside is None and not artifacts:
        raise InvalidInput("a registry in PostgreSQL has its files in a folder", fix="Say --artifacts DIR.")
    assert beside is not None or artifacts
    return Home(registry, Path(artifacts).absolute() if artifacts else beside.absolute().parent)  # type: ignore[union-attr]


async def open_registry(
    home: Home, clock: Callable[[], float], new_id: Callable[[], str], *, makes: bool = False
) -> ModelRegistry:
    """Open a registry; whoever does closes its ledger.

    Args:
        makes: Make it, where there is none.

    Raises:
        NotFound: there is none.
        SalverError: as :meth:`Ledger.open` does.
    """
    _prepare(home, makes=makes)
    return ModelRegistry(await Ledger.open(home.url), Artifacts(home.folder), clock, new_id)


def _prepare(home: Home, *, makes: bool) -> None:
    file = path_of(address_of(home.url))
    if file is not None and not file.exists() and not makes:
        raise NotFound(f"there is no registry in {file.parent}", fix="Push a model into it, or name another.")
    try:
        for folder in (home.folder, *([file.parent] if file else ())):
            folder.mkdir(parents=True, exist_ok=True)
        if file is not None:
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))  # secrets of webhooks are in it
    except OSError as error:
        where, reason = error.filename or home.folder, error.strerror
        raise ArtifactsFailed(f"{where}: {reason}", fix="May this user write there?") from error

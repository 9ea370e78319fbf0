"""Location and opening of a registry.

A folder with the ledger ``salver.db`` and the files in ``models/``; or the URL of a ledger, with a folder of
files beside it or an object store.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from salver.features.ledger.databases import address_of, path_of
from salver.features.ledger.ledger import Ledger
from salver.features.registry.artifacts import Artifacts, ArtifactsFailed
from salver.features.registry.bucket import BucketArtifacts
from salver.features.registry.registry import ModelRegistry
from salver.stores.address import SCHEMES, is_address, mount_of, parse_address
from salver.stores.opening import open_files
from salver.stores.user_folders import user_folder
from salver.words.errors import InvalidInput, NotFound

FILE: Final = "salver.db"


class RegistryLocation(msgspec.Struct, frozen=True):
    """Location of a registry.

    Attributes:
        url: URL of the ledger.
        folder: Folder of the files; with a bucket, of the local copies.
        bucket: URL of an object store; empty = the files are in the folder.
    """

    url: str
    folder: Path
    bucket: str = ""


def default_folder() -> str:
    """Return ``$XDG_DATA_HOME/salver/registry``, by default ``~/.local/share/salver/registry``."""
    return str(user_folder("XDG_DATA_HOME", ".local/share") / "registry")


def home_of(registry: str, artifacts: str = "") -> RegistryLocation:
    """Return the location for the given options.

    Args:
        registry: A folder, or the URL of a ledger.
        artifacts: Folder of the files, or URL of an object store; empty = beside the ledger, if that is a
            file.

    Raises:
        InvalidInput: it is neither, or the folder of the files is missing.
    """
    if "://" not in registry:
        return _with_files(ledger_url(registry), artifacts or str(Path(registry).absolute()))
    if registry.partition("://")[0] in SCHEMES:
        raise InvalidInput(
            f"{registry} can hold a registry's files, and its rows need a database",
            fix=f"Say: --registry postgresql://user@host/database --artifacts {registry}",
        )
    beside = path_of(address_of(registry))
    if beside is None and not artifacts:
        raise InvalidInput(
            "a registry in PostgreSQL has its files elsewhere",
            fix="Say --artifacts DIR, or s3://bucket/path.",
        )
    return _with_files(registry, artifacts or str(beside and beside.absolute().parent))


def ledger_url(registry: str) -> str:
    """Return the URL of the ledger of a registry, which is a folder or that URL."""
    if "://" in registry:
        return registry
    return f"sqlite:///{Path(registry).absolute() / FILE}"


async def open_ledger(registry: str, *, makes: bool = False) -> Ledger:
    """Open the ledger of a registry without its files; the caller closes it.

    Args:
        registry: A folder, or the URL of a ledger.
        makes: Create it if it does not exist.

    Raises:
        NotFound: there is none.
        SalverError: as :meth:`Ledger.open` does.
    """
    url = ledger_url(registry)
    file = path_of(address_of(url))
    _prepare(RegistryLocation(url, file.absolute().parent if file else Path()), makes=makes)
    return await Ledger.open(url)


def _with_files(url: str, artifacts: str) -> RegistryLocation:
    if not is_address(artifacts):
        return RegistryLocation(url, Path(artifacts).absolute())
    address = parse_address(artifacts)
    mark = hashlib.sha256(address.url.encode()).hexdigest()[:16]
    return RegistryLocation(
        url,
        (mount_of(address, os.environ) or user_folder("XDG_CACHE_HOME", ".cache")) / f"registry-{mark}",
        address.url,
    )


async def open_registry(
    home: RegistryLocation, clock: Callable[[], float], new_id: Callable[[], str], *, makes: bool = False
) -> ModelRegistry:
    """Open a registry; the caller closes its ledger.

    Args:
        makes: Create it if it does not exist.

    Raises:
        NotFound: there is none.
        SalverError: as :meth:`Ledger.open` does.
    """
    _prepare(home, makes=makes)
    artifacts = artifacts_of(home)
    return ModelRegistry(await Ledger.open(home.url), artifacts, clock, new_id)


def artifacts_of(home: RegistryLocation) -> Artifacts:
    """Return the files of a registry, without its ledger.

    Raises:
        InvalidInput, MissingExtra: its object store cannot be opened.
    """
    if not home.bucket:
        return Artifacts(home.folder)
    address = parse_address(home.bucket)
    open_files(address)  # fails early
    return BucketArtifacts(address, home.folder, lambda: open_files(address))


def _prepare(home: RegistryLocation, *, makes: bool) -> None:
    file = path_of(address_of(home.url))
    if file is not None and not file.exists() and not makes:
        raise NotFound(
            f"there is no registry in {file.parent}", fix="Push a model to it, or name another registry."
        )
    try:
        for folder in (home.folder, *([file.parent] if file else ())):
            folder.mkdir(parents=True, exist_ok=True)
        if file is not None:
            os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))  # it contains secrets of webhooks
    except OSError as error:
        where, reason = error.filename or home.folder, error.strerror
        raise ArtifactsFailed(f"{where}: {reason}", fix="Check write permission.") from error

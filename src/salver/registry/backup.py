"""How does a whole registry go into one file, and come back from it?

A tar archive: the ledger as one state of it, then every file of the versions that this state knows. It is
made while others push, and comes back into either kind of ledger, with every digest looked at on the way.
"""

import asyncio
import os
import shutil
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec
from sqlalchemy import Connection

from salver.errors import Conflict, InvalidInput
from salver.ledger import Ledger
from salver.ledger.copying import copy_in, copy_out
from salver.ledger.schema import NEWEST
from salver.registry import rows
from salver.registry.artifacts import Artifacts, ArtifactsFailed
from salver.registry.records import FileEntry
from salver.registry.registry import ModelRegistry

_LEDGER: Final = "salver.db"
_ABOUT: Final = "backup.json"
_TRIES: Final = 3  # where versions are removed while they are copied

_Versions = Mapping[tuple[str, int], tuple[FileEntry, ...]]


class Backup(msgspec.Struct, frozen=True):
    """What a backup holds.

    Attributes:
        schema: Version of the ledger's schema.
        created: Unix seconds.
        bytes: Of all files.
    """

    schema: int
    created: float
    versions: int
    files: int
    bytes: int


async def back_up(registry: ModelRegistry, file: Path, now: float) -> Backup:
    """Write a registry into a file, in place of what it held; all of it, or nothing.

    Raises:
        ArtifactsFailed: a file cannot be read or written, or is gone.
        LedgerFailed: the ledger cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="salver-backup-") as folder:
        for number in range(_TRIES):
            copy = Path(folder) / f"{number}.db"
            await copy_out(registry.ledger, copy)
            versions = await _versions_of(copy)
            try:
                return await asyncio.to_thread(_write, registry.artifacts, copy, versions, file, now)
            except ArtifactsFailed:
                is_last = number == _TRIES - 1
                if is_last or await registry.ledger.read(_versions) == versions:
                    raise
        raise AssertionError("unreachable")


async def restore(file: Path, registry: ModelRegistry, id: str) -> Backup:
    """Fill an empty registry from a backup.

    Args:
        id: Names the folder in which it is unpacked.

    Raises:
        InvalidInput: the file is no backup, or not whole.
        Conflict: the registry is not empty, or a newer Salver wrote the backup.
        ArtifactsFailed, LedgerFailed: it cannot be written.
    """
    if await registry.models():
        raise Conflict(f"{registry!r} is not empty", fix="Restore into a new one: --registry DIR.")
    aside = registry.artifacts.folder / "incoming" / id
    try:
        about = await asyncio.to_thread(_unpack, file, aside)
        versions = await _versions_of(aside / _LEDGER)
        await asyncio.to_thread(_take, registry.artifacts, Artifacts(aside), versions)
        await copy_in(aside / _LEDGER, registry.ledger)
        return about
    finally:
        await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)


def _versions(connection: Connection) -> _Versions:
    return {
        (version.model, version.number): version.files
        for model in rows.models(connection)
        for version in rows.versions(connection, model.name)
        if version.removed is None
    }


async def _versions_of(copy: Path) -> _Versions:
    async with await Ledger.open(f"sqlite:///{copy}") as ledger:
        return await ledger.read(_versions)


def _write(artifacts: Artifacts, copy: Path, versions: _Versions, file: Path, now: float) -> Backup:
    files = [entry for entries in versions.values() for entry in entries]
    about = Backup(NEWEST, now, len(versions), len(files), sum(entry.size for entry in files))
    note = copy.with_suffix(".json")
    part = file.with_name(f".{file.name}.part")
    try:
        note.write_bytes(msgspec.json.encode(about))
        with part.open("wb") as stream:
            part.chmod(0o600)  # secrets of webhooks are in it
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                archive.add(note, _ABOUT)
                archive.add(copy, _LEDGER)
                for (model, number), entries in versions.items():
                    for entry in entries:
                        source = artifacts.path_of(model, number) / entry.path
                        archive.add(source, f"models/{model}/{number}/{entry.path}", recursive=False)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    except OSError as error:
        where = error.filename or file
        raise ArtifactsFailed(f"{where}: {error.strerror or error}", fix="Is there room for it?") from error
    finally:
        part.unlink(missing_ok=True)
    return about


def _unpack(file: Path, aside: Path) -> Backup:
    try:
        with tarfile.open(file) as archive:
            archive.extractall(aside, filter="data")
        about = msgspec.json.decode((aside / _ABOUT).read_bytes(), type=Backup)
    except (tarfile.TarError, EOFError, FileNotFoundError, msgspec.MsgspecError) as error:
        raise InvalidInput(
            f"{file} is no whole backup of a registry: {error}", fix="Name another."
        ) from error
    except OSError as error:
        where = error.filename or aside
        raise ArtifactsFailed(f"{where}: {error.strerror or error}", fix="Is there room for it?") from error
    return about


def _take(artifacts: Artifacts, unpacked: Artifacts, versions: _Versions) -> None:
    """Rename each version into its place, after a look at what it holds."""
    for (model, number), files in versions.items():
        if unpacked.entries(model, number) != tuple(sorted(files)):
            raise InvalidInput(f"the backup's files of {model}/{number} are not what was pushed")
    for (model, number), files in versions.items():
        home = artifacts.path_of(model, number)
        if home.exists() and artifacts.entries(model, number) == tuple(sorted(files)):
            continue  # of a restore that ended before its last step
        if home.exists():
            raise Conflict(f"{home} is there already", fix="Restore into an empty folder: --registry DIR.")
        unpacked.move_to(home, model, number)

"""Creation and verification of backups, while the server runs and others push."""

import asyncio
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import msgspec

from salver import __version__
from salver.features.backup.folder import BackupFolder
from salver.features.backup.manifest import (
    FORMAT,
    Manifest,
    StartCommand,
    StoredFile,
    StoredVersion,
    Versions,
)
from salver.features.ledger.copying import copy_out
from salver.features.ledger.integrity import check_whole
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import NEWEST
from salver.features.registry import rows
from salver.features.registry.artifacts import Artifacts, ArtifactsFailed, disk_errors, entry_of
from salver.features.registry.records import FileEntry
from salver.features.registry.registry import ModelRegistry
from salver.words.errors import SalverError

_TRIES: Final = 3  # if versions are removed during the copy
_LEDGER: Final = "the ledger"


class Source(msgspec.Struct, frozen=True):
    """Server to back up.

    Attributes:
        paths: Files, and folders with all their files; links are followed.
        registry, artifacts: Location of the registry, as for ``--registry`` and ``--artifacts``.
    """

    start: StartCommand
    paths: Sequence[Path] = ()
    registry: str = ""
    artifacts: str = ""


class Verified(msgspec.Struct, frozen=True):
    """Result of verifying a backup."""

    id: str
    created: float
    files: int
    versions: int
    bytes: int
    problems: tuple[str, ...]


async def create(
    folder: BackupFolder, source: Source, registry: ModelRegistry | None, now: float, keep: int = 0
) -> str:
    """Back up a server, and return the id of the backup.

    Args:
        keep: Backups to keep, older ones are removed; 0 = all.

    Raises:
        ArtifactsFailed: a file cannot be read or written, or differs from what was pushed.
        LedgerFailed: the ledger cannot be read, or is damaged.
        Conflict: another backup is being written there.
    """
    with folder.writing():
        apart = [folder.folder.resolve()]
        if registry is not None:
            apart.append(registry.artifacts.folder.resolve())
        manifest = Manifest(
            format=FORMAT,
            salver=__version__,
            created=now,
            start=source.start,
            files=await asyncio.to_thread(_add_files, folder, source.paths, apart),
            registry=source.registry,
            artifacts=source.artifacts,
        )
        if registry is not None:
            manifest = await _with_registry(manifest, folder, registry)
        id = await asyncio.to_thread(folder.write, manifest)
        if keep > 0:
            await asyncio.to_thread(folder.prune, keep)
        return id


async def verify(folder: BackupFolder, id: str) -> Verified:
    """Read everything in a backup and check it against its digests, the ledger also by SQLite's own check."""
    try:
        manifest = await asyncio.to_thread(folder.read, id)
    except SalverError as error:
        return Verified(id, 0.0, 0, 0, 0, (error.message,))
    entries = list(manifest.entries())
    contents = {entry.sha256: entry for entry in entries}
    problems = await asyncio.to_thread(lambda: [*filter(None, map(folder.problem, contents.values()))])
    if manifest.ledger is not None and not problems:
        try:
            with TemporaryDirectory() as aside:
                copy = Path(aside) / "salver.db"
                await asyncio.to_thread(folder.extract, manifest.ledger, copy)
                if await versions_in(copy) != manifest.by_version():
                    problems.append("the ledger has other versions than the backup")
        except SalverError as error:
            problems.append(error.message)
    size = sum(entry.size for entry in contents.values())
    return Verified(id, manifest.created, len(entries), len(manifest.versions), size, tuple(problems))


async def versions_in(copy: Path) -> Versions:
    """Check the copy of a ledger, migrate it to the newest schema, and return the versions in it.

    Raises:
        LedgerFailed: it is damaged.
        Conflict: a newer Salver wrote it.
    """
    async with await Ledger.open(f"sqlite:///{copy}") as ledger:
        await check_whole(ledger)
        found = await ledger.read(rows.files)
    return {version: tuple(sorted(files)) for version, files in found.items()}


async def _with_registry(manifest: Manifest, folder: BackupFolder, registry: ModelRegistry) -> Manifest:
    for attempt in range(1, _TRIES + 1):
        with folder.aside() as copy:
            await copy_out(registry.ledger, copy)
            versions = await versions_in(copy)
            try:
                await asyncio.to_thread(_add_versions, folder, registry.artifacts, versions)
            except ArtifactsFailed:
                now = await registry.ledger.read(rows.files)
                if attempt == _TRIES or versions.keys() <= now.keys():
                    raise
                continue
            ledger = await asyncio.to_thread(_add, folder, copy, _LEDGER)
        stored = tuple(StoredVersion(model, number, files) for (model, number), files in versions.items())
        return msgspec.structs.replace(manifest, schema=NEWEST, ledger=ledger, versions=stored)
    raise AssertionError("unreachable")


def _add(folder: BackupFolder, path: Path, name: str) -> FileEntry:
    with disk_errors(path), path.open("rb") as file:
        entry = entry_of(file, name)
        if not folder.has(entry):
            file.seek(0)
            entry = folder.add(file, name)
        return entry


def _add_versions(folder: BackupFolder, artifacts: Artifacts, versions: Versions) -> None:
    for (model, number), files in versions.items():
        for entry in files:
            if folder.has(entry):
                continue
            name = f"models/{model}/{number}/{entry.path}"
            with disk_errors(Path(name)), artifacts.open(model, number, entry.path) as file:
                folder.add(file, name, FileEntry(name, entry.size, entry.sha256))


def _add_files(
    folder: BackupFolder, paths: Sequence[Path], apart: Collection[Path]
) -> tuple[StoredFile, ...]:
    found = {}
    for path in paths:
        for file in _files_of(path.absolute(), apart):
            entry = _add(folder, file, str(file))
            found[file] = StoredFile(str(file), entry.size, entry.sha256, file.stat().st_mode & 0o777)
    return tuple(found.values())


def _files_of(path: Path, apart: Collection[Path]) -> Iterator[Path]:
    """Yield a file, or the files of a folder without the folders that are backed up in another way."""
    if not path.is_dir():
        yield path
        return
    for name, folders, files in os.walk(path, followlinks=True):
        here = Path(name)
        above = {here.resolve(), *here.resolve().parents, *apart}
        folders[:] = sorted(each for each in folders if (here / each).resolve() not in above)  # no loops
        yield from (here / file for file in sorted(files) if (here / file).is_file())

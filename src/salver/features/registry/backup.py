"""Backup of a whole registry in one file, and its restoration.

A tar archive: one state of the ledger, then all files of the versions in it. It can be made during pushes,
and restored into either kind of database; every digest is verified.
"""

import asyncio
import contextlib
import glob
import hashlib
import lzma
import os
import secrets
import shutil
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Final

import msgspec
from sqlalchemy import Connection, select

from salver.features.ledger.copying import copy_in, copy_out
from salver.features.ledger.ledger import Ledger
from salver.features.ledger.schema import AUDIT, MODEL, NEWEST
from salver.features.registry import rows
from salver.features.registry.artifacts import LEFT_SECONDS, Artifacts, ArtifactsFailed, onto_disk
from salver.features.registry.records import FileEntry
from salver.features.registry.registry import ModelRegistry
from salver.stores.tars import open_tar
from salver.stores.unpack import MOST_HEADERS, room_in
from salver.words.errors import Conflict, InvalidInput, LoadFailed

_LEDGER: Final = "salver.db"
_ABOUT: Final = "backup.json"
_PART: Final = ".part"
_BROKEN: Final = (
    tarfile.TarError,
    EOFError,
    FileNotFoundError,
    zlib.error,
    lzma.LZMAError,
    msgspec.MsgspecError,
)
_TRIES: Final = 3  # attempts if versions are removed during the copy

_Versions = Mapping[tuple[str, int], tuple[FileEntry, ...]]


class Backup(msgspec.Struct, frozen=True):
    """Content of a backup.

    Attributes:
        schema: Version of the ledger's schema.
        created: Unix seconds.
        bytes: Size of all files.
    """

    schema: int
    created: float
    versions: int
    files: int
    bytes: int


_read_about: Final = msgspec.json.Decoder(Backup).decode


async def back_up(registry: ModelRegistry, file: Path, now: float) -> Backup:
    """Write a registry to a file, replacing it atomically.

    Raises:
        ArtifactsFailed: a file cannot be read or written, or is missing.
        LedgerFailed: the ledger cannot be read.
    """
    aside = file.with_name(f".{file.name}.{secrets.token_hex(8)}{_PART}")
    await asyncio.to_thread(_prepare, aside, file, now)
    try:
        for number in range(_TRIES):
            copy = aside / f"{number}.db"
            await copy_out(registry.ledger, copy)
            versions = await _versions_of(copy)
            try:
                about = await asyncio.to_thread(_write, registry.artifacts, copy, versions, now)
                await asyncio.to_thread(_replace, copy.with_suffix(".tar"), file)
                return about
            except ArtifactsFailed:
                is_last = number == _TRIES - 1
                if is_last or await registry.ledger.read(_versions) == versions:
                    raise
        raise AssertionError("unreachable")
    finally:
        await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)


async def restore(file: Path, registry: ModelRegistry, id: str) -> Backup:
    """Restore a backup into an empty registry.

    Args:
        id: Name of the folder in which it is unpacked.

    Raises:
        InvalidInput: the file is not a complete backup.
        Conflict: the registry is not empty, or a newer Salver wrote the backup.
        ArtifactsFailed, LedgerFailed: it cannot be written.
    """
    if await registry.ledger.read(_is_used):
        raise Conflict(
            f"the registry {registry.artifacts.where} is not empty",
            fix="Restore into a new one: --registry DIR.",
        )
    aside = registry.artifacts.aside(id)
    with await asyncio.to_thread(registry.artifacts.held):
        try:
            about = await asyncio.to_thread(_unpack, file, aside)
            versions = await _versions_of(aside / _LEDGER)
            await asyncio.to_thread(_take, registry.artifacts, Artifacts(aside), versions)
            await copy_in(aside / _LEDGER, registry.ledger)
            return about
        finally:
            await asyncio.to_thread(shutil.rmtree, aside, ignore_errors=True)


def _is_used(connection: Connection) -> bool:
    """Return whether the registry has been changed, or a change has begun."""
    return any(connection.execute(select(table).limit(1)).first() for table in (MODEL, AUDIT))


def _versions(connection: Connection) -> _Versions:
    return rows.files(connection)


async def _versions_of(copy: Path) -> _Versions:
    async with await Ledger.open(f"sqlite:///{copy}") as ledger:
        return await ledger.read(_versions)


def _prepare(aside: Path, file: Path, now: float) -> None:
    """Return a folder beside the file for unfinished data, after removing those of killed backups."""
    if not file.parent.is_dir():
        raise ArtifactsFailed(f"there is no folder {file.parent}", fix="Create it first.")
    with _told(file):
        aside.mkdir(0o700)
        for left in file.parent.glob(f".{glob.escape(file.name)}.*{_PART}"):
            if left.stat().st_mtime < now - LEFT_SECONDS:
                shutil.rmtree(left)


def _write(artifacts: Artifacts, copy: Path, versions: _Versions, now: float) -> Backup:
    files = [entry for entries in versions.values() for entry in entries]
    about = Backup(NEWEST, now, len(versions), len(files), sum(entry.size for entry in files))
    note, tar = copy.with_suffix(".json"), copy.with_suffix(".tar")
    with _told(tar):
        note.write_bytes(msgspec.json.encode(about))
        with tar.open("xb") as stream:
            tar.chmod(0o600)  # it contains secrets of webhooks
            with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
                archive.add(note, _ABOUT)
                archive.add(copy, _LEDGER)
                for (model, number), entries in versions.items():
                    for entry in entries:
                        _add(archive, artifacts, model, number, entry)
            stream.flush()
            os.fsync(stream.fileno())
    return about


def _replace(tar: Path, file: Path) -> None:
    with _told(file):
        tar.replace(file)
        onto_disk(file.parent)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        where = error.filename or path
        raise ArtifactsFailed(f"{where}: {error.strerror or error}", fix="Check free space.") from error


def _add(archive: tarfile.TarFile, artifacts: Artifacts, model: str, number: int, entry: FileEntry) -> None:
    """Add a file, hashing it on the way: a backup with a damaged file could not be restored."""
    about = tarfile.TarInfo(f"models/{model}/{number}/{entry.path}")
    about.size, about.mode = entry.size, 0o444
    try:
        with artifacts.open(model, number, entry.path) as file:
            is_whole = _is_added(archive, about, file, entry.sha256)
    except FileNotFoundError:
        is_whole = False
    if not is_whole:
        raise ArtifactsFailed(
            f"{about.name} differs from what was pushed; nothing was backed up",
            fix=f"Restore the file from an older backup, or remove {model}/{number}.",
        )


def _is_added(archive: tarfile.TarFile, about: tarfile.TarInfo, file: IO[bytes], sha256: str) -> bool:
    """Add a file; return whether size and hash were as expected."""
    hashed = _HashedFile(file)
    try:
        # otherwise an error of our disk would look like one of the archive
        with _told(Path(str(archive.name))):
            archive.addfile(about, hashed)
    except EOFError:
        return False
    return not file.read(1) and hashed.sha256.hexdigest() == sha256


class _HashedFile:
    """File that is hashed while it is read, with exact reads."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes. Raises EOFError if there are fewer."""
        piece = self._file.read(size)
        if len(piece) < size:
            raise EOFError
        self.sha256.update(piece)
        return piece


def _unpack(file: Path, aside: Path) -> Backup:
    with _told(aside):
        return _unpacked(file, aside)


def _unpacked(file: Path, aside: Path) -> Backup:
    try:
        aside.mkdir(0o700, parents=True)  # it contains secrets of webhooks
        room = room_in(aside)
        with open_tar(file, room + MOST_HEADERS, file.name) as (archive, _):
            for member in archive:
                room -= member.size
                if not member.isreg() or room < 0:
                    what = "there is no room for it"
                    if not member.isreg():
                        what = f"{member.name!r} is no file"
                    raise InvalidInput(f"{file} cannot be unpacked as a backup of a registry: {what}")
                archive.extract(member, aside, filter="data")
        return _read_about((aside / _ABOUT).read_bytes())
    except (*_BROKEN, LoadFailed) as error:
        raise InvalidInput(
            f"{file} is not a complete backup of a registry: {error}", fix="Name another."
        ) from error


def _take(artifacts: Artifacts, unpacked: Artifacts, versions: _Versions) -> None:
    """Move each version to its place after verifying it."""
    for (model, number), files in versions.items():
        if unpacked.entries(model, number) != tuple(sorted(files)):
            raise InvalidInput(f"the backup's files of {model}/{number} are not what was pushed")
    for (model, number), files in versions.items():
        there = artifacts.entries(model, number)
        if there and there != tuple(sorted(files)):
            raise Conflict(
                f"{artifacts.where} has another {model}/{number}",
                fix="Restore into an empty registry.",
            )
        if not there:  # otherwise of a restore that was interrupted before its last step
            artifacts.adopt(unpacked, model, number)

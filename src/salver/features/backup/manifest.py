"""Manifest of a backup: the content of a server at one moment, by digest. Pure."""

import hashlib
import shlex
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Final, Literal

import msgspec

from salver.features.registry.artifacts import check_path
from salver.features.registry.names import check_model
from salver.features.registry.records import FileEntry
from salver.words.errors import Conflict, InvalidInput

#: Version of the manifest that this Salver writes.
FORMAT: Final = 1

Part = Literal["settings", "ledger", "artifacts"]
Versions = Mapping[tuple[str, int], tuple[FileEntry, ...]]


class StoredFile(FileEntry, frozen=True, order=True):
    """A file outside the registry; ``path`` is absolute, ``mode`` its permissions."""

    mode: int


class StoredVersion(msgspec.Struct, frozen=True):
    """A version of the registry."""

    model: str
    number: int
    files: tuple[FileEntry, ...]


class StartCommand(msgspec.Struct, frozen=True):
    """Command line that starts the server.

    Attributes:
        folder: Working directory.
        words: Arguments of ``salver serve``.
        environment: Variables that set options.
    """

    folder: str
    words: tuple[str, ...] = ()
    environment: Mapping[str, str] = {}

    def __str__(self) -> str:
        """Return the command line.

        >>> str(StartCommand("/srv", ("models",), {"SALVER_REGISTRY": "my registry"}))
        "cd /srv && SALVER_REGISTRY='my registry' salver serve models"
        """
        variables = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join(
            (f"cd {shlex.quote(self.folder)} &&", *variables, shlex.join(("salver", "serve", *self.words)))
        )


class Manifest(msgspec.Struct, frozen=True):
    """Content of a backup.

    Attributes:
        salver: Version of Salver that wrote it.
        created: Unix seconds.
        files: Settings, and models outside the registry.
        registry, artifacts: Location of the registry, as in ``--registry`` and ``--artifacts``; empty = none.
        schema: Version of the ledger's schema.
        ledger: The ledger as an SQLite file, whatever its database was.
    """

    format: int
    salver: str
    created: float
    start: StartCommand
    files: tuple[StoredFile, ...] = ()
    registry: str = ""
    artifacts: str = ""
    schema: int = 0
    ledger: FileEntry | None = None
    versions: tuple[StoredVersion, ...] = ()

    def entries(self) -> Iterator[FileEntry]:
        """Yield everything in it, with paths for messages."""
        yield from self.files
        if self.ledger is not None:
            yield self.ledger
        for version in self.versions:
            for file in version.files:
                yield FileEntry(
                    f"models/{version.model}/{version.number}/{file.path}", file.size, file.sha256
                )

    def by_version(self) -> Versions:
        """Return the files of each version, sorted."""
        return {(each.model, each.number): tuple(sorted(each.files)) for each in self.versions}


class _Format(msgspec.Struct):
    format: int


_read_format: Final = msgspec.json.Decoder(_Format).decode
_read_manifest: Final = msgspec.json.Decoder(Manifest).decode


def encode(manifest: Manifest) -> tuple[str, bytes]:
    """Return the id of a backup and its content: the id ends with the digest of the content."""
    content = msgspec.json.encode(manifest)
    moment = datetime.fromtimestamp(manifest.created, UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"{moment}-{_digest(content)}", content


def decode(id: str, content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        InvalidInput: it is damaged, or names files where they may not be.
        Conflict: a newer Salver wrote it.
    """
    if id.rpartition("-")[2] != _digest(content):
        raise InvalidInput(f"the manifest of backup {id} is damaged", fix="Use another backup.")
    try:
        written = _read_format(content).format
        if written > FORMAT:
            raise Conflict(
                f"backup {id} has format {written}, but this Salver reads at most {FORMAT}",
                fix="Use the version of Salver that wrote it, or a newer one.",
            )
        manifest = _read_manifest(content)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"the manifest of backup {id} cannot be read: {error}") from error
    for file in manifest.files:
        path = PurePosixPath(file.path)
        if not path.is_absolute() or ".." in path.parts:
            raise InvalidInput(f"backup {id} has a file at {file.path!r}, which is no absolute path")
    for version in manifest.versions:
        check_model(version.model)
        for entry in version.files:
            check_path(entry.path)
    for entry in manifest.entries():
        if len(entry.sha256) != 64 or not entry.sha256.isalnum():
            raise InvalidInput(f"backup {id} has no SHA-256 for {entry.path}")
    return manifest


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]

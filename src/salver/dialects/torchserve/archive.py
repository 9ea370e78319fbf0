"""Archives of handlers by their manifest and ``model-config.yaml``, for a scan of a repository.

Nothing is unpacked, and an archive that has not changed is not read again.
"""

import functools
from pathlib import Path
from typing import Final

import msgspec

from salver.dialects.torchserve.archive_files import HandlerArchive, check_members, read_archive, read_text
from salver.dialects.torchserve.model_yaml import ModelYaml, WorkerSettings, parse, workers_of
from salver.words.artifacts import Manifest
from salver.words.errors import BadArchive, SalverError
from salver.words.handlers import Workers

_USUAL: Final = Workers()
_NOTHING: Final = WorkerSettings()
_MOST_KNOWN: Final = 1024
_BLOCK: Final = 512  # unit of st_blocks, in bytes


class ArchiveDescription(msgspec.Struct, frozen=True):
    """Manifest and configuration of an archive.

    Attributes:
        yaml: Content of ``model-config.yaml``; None = it has none.
        is_whole: Whether it lies on this machine completely, not only as an outline.
    """

    archive: HandlerArchive = HandlerArchive()
    yaml: ModelYaml | None = None
    is_whole: bool = True

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about keys of ``model-config.yaml``."""
        return self.yaml.notices if self.yaml else ()


def describe(path: Path) -> ArchiveDescription:
    """Return the description of an archive or folder. Blocking.

    Raises:
        BadArchive: it is none, or incomplete.
        MissingExtra: no package is installed that reads its ``model-config.yaml``.
    """
    if path.is_dir():
        return _describe(path)
    try:
        stat = path.stat()
    except OSError as error:
        raise BadArchive(f"{path.name} cannot be read: {error.strerror or error}") from error
    return _described(path, stat.st_mtime_ns, stat.st_size, stat.st_ino)


class HandlerArchiveFormat:
    """Archives of handlers as a repository reads them."""

    def identify(self, path: Path, name: str) -> tuple[str, str]:
        """Return name and version.

        Args:
            name: Where the archive does not say one.

        Raises:
            BadArchive: it is none.
        """
        archive = describe(path).archive
        return archive.name or name, archive.version

    def complete(self, manifest: Manifest) -> Manifest:
        """See :func:`with_archive`."""
        return with_archive(manifest)


def with_archive(manifest: Manifest) -> Manifest:
    """Return a manifest completed by its archive where the owner's configuration has no settings."""
    try:
        description = describe(manifest.path)
    except SalverError as error:
        return msgspec.structs.replace(manifest, problem=str(error))
    config = manifest.config
    if config.workers is None and description.is_whole:
        workers = workers_of(_USUAL, _NOTHING, description.yaml, _NOTHING)
        config = msgspec.structs.replace(config, workers=workers)
    return msgspec.structs.replace(manifest, config=config, notices=manifest.notices + description.notices)


@functools.lru_cache(_MOST_KNOWN)
def _described(path: Path, changed: int, size: int, inode: int) -> ArchiveDescription:
    try:
        return _describe(path)
    except BadArchive:
        if path.stat().st_blocks * _BLOCK < size:  # of an object store; read again when it is loaded
            return ArchiveDescription(is_whole=False)
        raise


def _describe(path: Path) -> ArchiveDescription:
    archive = read_archive(path)
    check_members(path)
    if not archive.config_file:
        return ArchiveDescription(archive)
    content = read_text(path, archive.config_file)
    if content is None:
        raise BadArchive(f"{path.name} has no '{archive.config_file}', the configFile of its manifest")
    return ArchiveDescription(archive, parse(content, f"{path.name}: {archive.config_file}"))

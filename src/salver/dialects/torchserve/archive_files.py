"""Archives of handlers: their manifest, and unpacking them (TS-A1).

An archive is a zip (``.mar``), a compressed tar, or a folder with ``MAR-INF/MANIFEST.json``, which names
the model and its program. Archives are untrusted: manifests are checked, and members are unpacked into an
empty folder or not at all. Nothing is loaded.
"""

import contextlib
import os
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import msgspec

from salver.stores import unpack, unzip
from salver.stores.tars import open_tar
from salver.stores.unpack import BROKEN, honest_bytes
from salver.stores.unzip import is_zip, read_member
from salver.words.errors import BadArchive, LoadFailed

#: Path in an archive, or in its only folder.
MANIFEST: Final = "MAR-INF/MANIFEST.json"
RUNTIMES: Final = ("python", "python3", "LSP")
#: TorchServe's text, also for files that are no archive.
_NO_NAME: Final = "Model name is not defined."
_USUAL_VERSION: Final = "1.0"  # TorchServe's default
_MOST_BYTES: Final = 1 << 20
_MOST_NAME: Final = 255
_MOST_LOOKED_AT: Final = 100_000  # members of a tar before its manifest
_SIZE_OF_TEXT: Final = 4 << 20


class HandlerArchive(msgspec.Struct, frozen=True):
    """Content of an archive's manifest.

    Attributes:
        name: Name of the model; empty = not given.
        handler: ``file.py``, ``file.py:entry``, or the name of a built-in handler.
        serialized_file, model_file, requirements_file, config_file: Paths inside; empty = none.
        envelope: How requests are wrapped; empty = the server's default.
        runtime: One of :data:`RUNTIMES`.
    """

    name: str = ""
    version: str = _USUAL_VERSION
    handler: str = ""
    serialized_file: str = ""
    model_file: str = ""
    envelope: str = ""
    requirements_file: str = ""
    config_file: str = ""
    extra_files: tuple[str, ...] = ()
    runtime: str = "python"


def parse(content: bytes, where: str) -> HandlerArchive:
    """Parse a manifest.

    Args:
        where: Name of the archive, for messages.

    Raises:
        BadArchive: it is malformed; the message names the key.
    """
    try:
        whole = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadArchive(f"{where}: {MANIFEST} is no JSON: {error}") from error
    if not isinstance(whole, dict) or not isinstance(whole.get("model"), dict):
        raise BadArchive("Missing Model entry in manifest file.", fix=f"Add it to {MANIFEST} of {where}.")
    model = _Section(whole["model"], where)
    archive = HandlerArchive(
        name=_checked_name(model.text("modelName"), "modelName", where),
        version=_checked_name(model.text("modelVersion") or _USUAL_VERSION, "modelVersion", where),
        handler=model.text("handler"),
        serialized_file=model.path("serializedFile"),
        model_file=model.path("modelFile"),
        envelope=model.text("envelope"),
        requirements_file=model.path("requirementsFile"),
        config_file=model.path("configFile"),
        extra_files=model.paths("extraFiles") or model.paths("extensions"),
        runtime=_Section(whole, where).text("runtime") or RUNTIMES[0],
    )
    if not is_inside(archive.handler.partition(":")[0]):
        raise BadArchive(f"{where}: 'handler' of {MANIFEST} lies outside of it: '{archive.handler}'")
    if archive.runtime not in RUNTIMES:
        raise BadArchive(f"Invalid RuntimeType value: {archive.runtime}", fix=f"{where} names it.")
    return archive


def read_archive(path: Path) -> HandlerArchive:
    """Return the manifest of an archive or folder. Blocking; nothing is unpacked.

    Raises:
        BadArchive: it is no archive, or cannot be read. Without a manifest it has no name.
    """
    content = _manifest_of(path)
    if content is None:
        return HandlerArchive()
    return parse(content, path.name)


def read_text(path: Path, name: str) -> bytes | None:
    """Return a small file of an archive or folder; None if there is none. Blocking.

    Raises:
        BadArchive: it is too large, or cannot be read.
    """
    try:
        return _read(path, name, _SIZE_OF_TEXT)
    except BROKEN as error:
        raise BadArchive(f"{path.name}: '{name}' cannot be read: {error}") from error


def check_members(path: Path) -> None:
    """Check by its members whether an archive may be unpacked. Blocking; nothing is unpacked.

    Raises:
        BadArchive: a member is not allowed, or the unpacked size is implausible.
    """
    if not path.is_file():
        return
    try:
        if is_zip(path):
            unzip.check(path)
        else:
            unpack.check(path, honest_bytes(path.stat().st_size))
    except LoadFailed as error:
        raise BadArchive(error.message, field=error.field, fix=error.fix) from error


def unpack_archive(archive: Path, folder: Path) -> Path:
    """Unpack an archive into an empty folder; return the model's folder, which may lie below. Blocking.

    Raises:
        BadArchive: it is harmful, too large or broken, or cannot be written; the folder may be incomplete.
    """
    try:
        if is_zip(archive):
            unzip.unzip(archive, folder)
        else:
            unpack.unpack(archive, folder, takes_links=False, most=honest_bytes(archive.stat().st_size))
    except LoadFailed as error:
        raise BadArchive(error.message, field=error.field, fix=error.fix) from error
    return root_of(folder)


def root_of(folder: Path) -> Path:
    """Return the folder of ``MAR-INF``: this one, or the only one in it (the archiver's ``tgz``)."""
    below = [entry for entry in os.scandir(folder) if not entry.is_symlink()]
    if len(below) == 1 and below[0].is_dir() and Path(below[0].path, MANIFEST).is_file():
        return Path(below[0].path)
    return folder


def is_inside(name: str) -> bool:
    """Return whether a path stays in an archive's folder.

    >>> [is_inside(name) for name in ("a/b.py", "/a", "../a", "a\\\\..\\\\b")]
    [True, False, False, False]
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return ".." not in parts and not name.startswith(("/", "\\")) and name.isprintable()


class _Section:
    """Typed access to a part of a manifest."""

    def __init__(self, values: dict[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        if value is not None and not isinstance(value, str):
            raise BadArchive(f"{self._where}: '{key}' of {MANIFEST} is no text")
        return (value or "").strip()

    def path(self, key: str) -> str:
        path = self.text(key)
        if not is_inside(path):
            raise BadArchive(f"{self._where}: '{key}' of {MANIFEST} lies outside of it: '{path}'")
        return path

    def paths(self, key: str) -> tuple[str, ...]:
        """Return a list, or a text with commas, as the archiver's option has it."""
        texts = self._values.get(key) or []
        if isinstance(texts, str):
            texts = texts.split(",")
        if not isinstance(texts, list):
            raise BadArchive(f"{self._where}: '{key}' of {MANIFEST} is no list of files")
        return tuple(filter(None, (str(text).strip() for text in texts)))


def _checked_name(name: str, key: str, where: str) -> str:
    if len(name) > _MOST_NAME or not name.isprintable():
        raise BadArchive(
            f"{where}: '{key}' of {MANIFEST} is {name[:_MOST_NAME]!r}, which is not allowed",
            fix=f"Use at most {_MOST_NAME} printable characters.",
        )
    return name


def _manifest_of(path: Path) -> bytes | None:
    try:
        if not path.is_dir() and not path.is_file():
            raise BadArchive(f"{path.name} is no file or folder")
        return _read(path, MANIFEST, _MOST_BYTES)
    except (*BROKEN, zipfile.BadZipFile) as error:
        raise BadArchive(_NO_NAME, fix=f"{path.name} is no archive of a model: {error}.") from error


def _read(path: Path, name: str, most: int) -> bytes | None:
    """Return a file of a folder, of a zip or of a compressed tar; None if there is none."""
    if path.is_dir():
        file = path / name
        if not file.is_file():
            return None
        with file.open("rb") as opened:
            return _checked_size(opened.read(most + 1), most, file.name)
    if is_zip(path):
        return read_member(path, name, most)
    return _of_tar(path, name, most)


@contextlib.contextmanager
def _opened(path: Path, room: int) -> Iterator[tarfile.TarFile]:
    try:
        with open_tar(path, room, path.name) as (tar, _):
            yield tar
    except LoadFailed as error:
        raise BadArchive(error.message) from error


def _of_tar(path: Path, name: str, most: int) -> bytes | None:
    """Return a member, which may lie below the archive's only folder."""
    room = honest_bytes(path.stat().st_size)
    with _opened(path, room) as tar:
        for count, member in enumerate(tar):
            room -= member.size
            # Archives made with tar may have a top folder, or begin with "./".
            inner = PurePosixPath(member.name)
            is_it = str(inner) == name or str(PurePosixPath(*inner.parts[1:])) == name
            if is_it and member.isreg():
                content = tar.extractfile(member)
                assert content is not None
                return _checked_size(content.read(most + 1), most, name)
            if count > _MOST_LOOKED_AT or room < 0:
                raise BadArchive(f"{path.name} is implausibly large when unpacked, at member '{member.name}'")
    return None


def _checked_size(content: bytes, most: int, name: str) -> bytes:
    if len(content) > most:
        raise BadArchive(f"'{name}' is larger than {most >> 20} MiB")
    return content

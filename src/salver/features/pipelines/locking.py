"""Digests of what a pipeline consists of, and its ``pipeline.lock``."""

import contextlib
import hashlib
import importlib.metadata
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from salver.backends.discovery import backends, recogniser
from salver.features.pipelines.document import FILE
from salver.features.pipelines.locks import (
    LOCK,
    UNKNOWN,
    Fingerprint,
    Lock,
    differences,
    fingerprint,
    read,
    step_print,
    written,
)
from salver.features.pipelines.planning import Node, Plan
from salver.features.pipelines.statistics import Summary
from salver.features.pipelines.steps.step import provider
from salver.kernel.repository.names import is_visible
from salver.words.errors import LoadFailed

#: What happens where a pipeline is not the one that was locked.
Skew = Literal["refuse", "warn"]
_LOG: Final = logging.getLogger("salver.pipelines")
_MOST: Final = 16 << 20  # bytes of a lock file
_MOST_FILES: Final = 20_000
#: Files of a folder that decide no answer.
_ASIDE: Final = frozenset((LOCK, "salver.toml", "readme.md", "license", "license.txt", "notice"))
#: Packages whose module has another name.
_PACKAGES: Final = {"sklearn": "scikit-learn", "PIL": "pillow"}


def fingerprint_of(plan: Plan, folder: Path, models: Mapping[str, Path]) -> Fingerprint:
    """Return the fingerprint of a folder's pipeline.

    Args:
        models: Paths of the steps' models by the names of the steps, as far as they are known.

    Raises:
        LoadFailed: a file cannot be read.
    """
    files: dict[str, str] = {}
    digests: dict[str, str] = {}
    libraries: dict[str, str] = {}
    for node in plan.nodes:
        if node.step is None:
            path = models.get(node.name)
            digests[node.table.model] = UNKNOWN if path is None else digest_of(path)
            libraries.update(_versions(_modules(path)))
            continue
        for path in node.step.files(folder):
            files[path.relative_to(folder).as_posix()] = digest_of(path)
        libraries.update(_versions(node.step.libraries))
        package, version = provider(node.table.use)
        if package:
            libraries[package] = _short(version)
    return fingerprint(plan, files, digests, libraries)


def content_of(node: Node, folder: Path) -> str:
    """Return the digest of what decides the results of a step for given inputs.

    Raises:
        LoadFailed: a file cannot be read.
    """
    step = node.step
    assert step is not None, "models have digests of their files"
    told = step_print(node)
    libraries = [*_versions(step.libraries), *provider(node.table.use)]
    files = [(path.relative_to(folder).as_posix(), digest_of(path)) for path in step.files(folder)]
    facts = (told.use, told.revision, told.options, libraries, files)
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def digest_of(path: Path) -> str:
    """Return SHA-256 of a file, or of all files in a folder with their names.

    Raises:
        LoadFailed: it cannot be read, or the folder has too many files.
    """
    found = hashlib.sha256()
    try:
        if path.is_file():
            with path.open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        for count, file in enumerate(sorted(_files(path))):
            if count == _MOST_FILES:
                raise LoadFailed(f"{path} has more than {_MOST_FILES} files")
            found.update(f"{file.relative_to(path).as_posix()}\0{digest_of(file)}\0".encode())
    except OSError as error:
        raise LoadFailed(f"{path} cannot be read: {error.strerror or error}") from error
    return found.hexdigest()


def _files(folder: Path) -> Iterator[Path]:
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if is_visible(name)]
        for name in names:
            if is_visible(name) and name.lower() not in _ASIDE:
                yield Path(place, name)


def _modules(path: Path | None) -> tuple[str, ...]:
    kind = None if path is None else recogniser(backends())(path)
    return () if kind is None else tuple(backends()[kind.backend].modules)


def _versions(modules: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the versions of packages that are installed."""
    for module in modules:
        package = _PACKAGES.get(module, module)
        try:
            yield package, _short(importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            version = getattr(sys.modules.get(module), "__version__", "")
            if version:
                yield package, _short(version)


def _short(version: str) -> str:
    """Return the first two numbers of a version: the rest are repairs.

    >>> _short("13.0.1"), _short("3")
    ('13.0', '3')
    """
    return ".".join(version.split(".")[:2])


def read_lock(folder: Path) -> Lock | None:
    """Return the content of a folder's lock file; None = there is none.

    Raises:
        LoadFailed: it cannot be read.
    """
    path = folder / LOCK
    try:
        with path.open("rb") as file:
            content = file.read(_MOST + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise LoadFailed(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > _MOST:
        raise LoadFailed(f"{path} is larger than {_MOST} bytes")
    return read(content, str(path))


def write_lock(folder: Path, found: Fingerprint, statistics: Mapping[str, Summary] | None = None) -> Lock:
    """Write a folder's lock file, all of it or nothing; return its content.

    Args:
        statistics: None = those of the old one, if it can be read.

    Raises:
        LoadFailed: it cannot be written.
    """
    if statistics is None:
        statistics = {}
        with contextlib.suppress(LoadFailed):
            old = read_lock(folder)
            statistics = old.statistics if old is not None else {}
    lock = Lock(found.digest, found, statistics)
    path = folder / LOCK
    part = path.with_name(f"{LOCK}.part")
    try:
        part.write_bytes(written(lock))
        part.replace(path)
    except OSError as error:
        raise LoadFailed(f"{path} cannot be written: {error.strerror or error}") from error
    return lock


def skew_of(told: str) -> Skew:
    """Return the choice of an option. Raises LoadFailed."""
    choices = get_args(Skew)
    if told not in choices:
        raise LoadFailed(f"skew must be one of {', '.join(choices)}, not {told!r}", field="options.skew")
    return told  # type: ignore[return-value]  # one of the choices


class Checked(NamedTuple):
    """A pipeline that was compared with its lock file.

    Attributes:
        digest: Empty = it has none.
        statistics: Those of its edges in training.
    """

    digest: str = ""
    statistics: Mapping[str, Summary] = {}


def check_lock(plan: Plan, folder: Path, models: Mapping[str, Path], skew: Skew) -> Checked:
    """Compare a pipeline with its lock file, if it has one.

    Raises:
        LoadFailed: they differ, and that is refused; names what differs.
    """
    lock = read_lock(folder)
    if lock is None:
        return Checked()
    own = fingerprint_of(plan, folder, models)
    found = differences(lock.pipeline, own)
    if not found:
        return Checked(own.digest, lock.statistics)
    text = f"{folder / FILE} is not the pipeline of its {LOCK}: {'; '.join(found)}"
    if skew == "warn":
        _LOG.warning("%s", text)
        return Checked(own.digest, lock.statistics)
    fix = f'If that is meant: salver pipelines lock {folder}, or skew = "warn" below [options] in salver.toml'
    raise LoadFailed(text, field=LOCK, fix=fix)

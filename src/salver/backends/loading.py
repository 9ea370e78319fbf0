"""Common steps of loading in all backends, and of reading files that are watched.

Reject unknown options, import the framework, override the artefact's signature with configuration, and turn
every exception of a framework into ``LoadFailed``. Knows no framework.
"""

import functools
import importlib
import importlib.metadata
import re
import sys
import threading
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from salver.backends.protocol import Backend
from salver.machine import importing, mapping_weights, usable_cores
from salver.words.artifacts import Manifest, ModelConfig
from salver.words.errors import LoadFailed, MissingExtra, SalverError
from salver.words.messages import TensorSpec
from salver.words.tensor import DataType


def read_bounded(path: Path, most: int) -> bytes:
    """Return the content of a file.

    Raises:
        LoadFailed: it cannot be read, or has more than so many bytes.
    """
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise LoadFailed(f"{path} cannot be read: {error.strerror or error}") from error
    if len(content) > most:
        raise LoadFailed(f"{path} is larger than {most} bytes")
    return content


def state_of(path: Path) -> object:
    """Return what differs once a file is changed or replaced; None = it cannot be reached."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def gpu_limit(manifest: Manifest) -> int:
    """Return the bytes that a framework may take on a GPU; 0 = no limit."""
    return int(manifest.config.memory.gpu_max_mb * (1 << 20))


def no_gpu(framework: str, gpu: int, why: str, fix: str) -> LoadFailed:
    """Return the error of a framework that cannot use the GPU of a model."""
    return LoadFailed(
        f"{framework} cannot use GPU {gpu}: {why}",
        field="instances.gpus",
        fix=f"{fix}, or leave instances.gpus out.",
    )


def options_of(manifest: Manifest, known: Collection[str]) -> dict[str, str]:
    """Return the configured options for the backend.

    Raises:
        LoadFailed: one of them is unknown.
    """
    options = manifest.config.options
    for key in options:
        if key not in known:
            choice = "It has none; remove it."
            if known:
                choice = f"It knows: {', '.join(sorted(known))}."
            raise LoadFailed(
                f"the {manifest.backend} backend knows no option {key!r}", field=f"options.{key}", fix=choice
            )
    return options


def choice_of(options: dict[str, str], key: str, choices: Sequence[str]) -> str:
    """Return the value of an option with a few choices; the first is the default.

    Raises:
        LoadFailed: the value is not among them.
    """
    value = options.get(key, choices[0])
    if value not in choices:
        known = ", ".join(repr(c) for c in choices)
        raise LoadFailed(f"option {key} = {value!r} is unknown", field=f"options.{key}", fix=f"Use {known}.")
    return value


def count_of(options: dict[str, str], key: str, default: int, *, least: int = 1) -> int:
    """Return the value of an option that is a number of threads, at most 64 per core.

    Raises:
        LoadFailed: it is not a number, or too large for this machine.
    """
    value = options.get(key, str(default))
    most = 64 * usable_cores()
    is_number = value.isascii() and value.isdigit() and len(value) <= 9
    if not (is_number and least <= int(value) <= most):
        raise LoadFailed(
            f"option {key} = {value[:40]!r} is not a number from {least} to {most}",
            field=f"options.{key}",
            fix=f"Use {least} to {most}, or leave it out.",
        )
    return int(value)


@functools.cache
def is_at_least(package: str, least: tuple[int, int]) -> bool:
    """Return whether the package is installed in this version or a newer one, without importing it."""
    try:
        found = re.match(r"(\d+)\.(\d+)", importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False
    return found is not None and (int(found[1]), int(found[2])) >= least


#: Models load concurrently, but few frameworks support imports by several threads at once.
_IMPORTING = threading.Lock()


def framework(backend: Backend, module: str, without: Sequence[str] = ()) -> Any:
    """Import a framework's module.

    Args:
        without: Modules that it tries to import, and does not need: they are told to be missing.

    Raises:
        MissingExtra: it is not installed.
        LoadFailed: it is installed but cannot be imported.
    """
    try:
        with _IMPORTING:
            if module in sys.modules:
                return importlib.import_module(module)  # to wait for it, if another thread imports it
            with _missing(without), importing():
                return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == module.partition(".")[0]:
            raise MissingExtra(backend.name, backend.extra, module) from error
        raise LoadFailed(f"{module} is installed but cannot be imported: {error}") from error
    except Exception as error:
        raise LoadFailed(f"{module} is installed but cannot be imported: {error}") from error


@contextmanager
def _missing(names: Sequence[str]) -> Iterator[None]:
    kept = {name: sys.modules[name] for name in names if name in sys.modules}
    sys.modules.update(dict.fromkeys(names))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in names:
            del sys.modules[name]
        sys.modules.update(kept)


@contextmanager
def loading(manifest: Manifest) -> Iterator[None]:
    """Have weights mapped, and translate all exceptions of a framework, of any type for a broken file."""
    try:
        with mapping_weights():
            yield
    except SalverError:
        raise
    except MemoryError as error:
        raise LoadFailed(f"not enough memory to load {manifest.path}") from error
    except Exception as error:
        said = (str(error).strip() or "no reason given")[:500]
        raise LoadFailed(
            f"{manifest.path} could not be loaded as {manifest.format or manifest.backend}: "
            f"{type(error).__name__}: {said}"
        ) from error


def override(
    said: tuple[TensorSpec, ...],
    wished: tuple[TensorSpec, ...],
    field: str,
    castable: Collection[DataType] = (),
) -> tuple[TensorSpec, ...]:
    """Return the artefact's tensor specifications with configured shapes and labels.

    Args:
        field: ``inputs`` or ``outputs``, for messages.
        castable: Datatypes that may replace one another, because the model accepts all of them.

    Raises:
        LoadFailed: the configuration names a missing tensor, another datatype or another rank.
    """
    by_name = {spec.name: spec for spec in said}
    for wish in wished:
        spec = by_name.get(wish.name)
        where = f"{field}.{wish.name}"
        if spec is None:
            raise LoadFailed(
                f"the model has no {wish.name!r} among its {field}",
                field=where,
                fix=f"It has: {', '.join(by_name) or 'none'}.",
            )
        if wish.datatype is not spec.datatype and not {wish.datatype, spec.datatype} <= set(castable):
            raise LoadFailed(
                f"{wish.name!r} is {spec.datatype.name} in the model and {wish.datatype.name} in its "
                "configuration",
                field=where,
                fix=f"Write {spec.datatype.name}, or leave it out.",
            )
        if not fits(wish.shape, spec.shape):
            raise LoadFailed(
                f"{wish.name!r} has shape {list(spec.shape)} in the model and {list(wish.shape)} in its "
                "configuration",
                field=where,
                fix="Use -1 for a free extent and count the batch dimension.",
            )
        by_name[wish.name] = msgspec.structs.replace(
            wish, optional=wish.optional or spec.optional, tensor=spec.tensor, column=spec.column
        )
    return tuple(by_name.values())


def fits(one: Sequence[int], other: Sequence[int]) -> bool:
    """Return whether ranks are equal and no two fixed extents differ.

    >>> fits((-1, 3), (8, 3)), fits((8, 3), (8, 4)), fits((3,), (3, 1))
    (True, False, False)
    """
    return len(one) == len(other) and all(a == b or a < 0 or b < 0 for a, b in zip(one, other, strict=True))


def is_batched(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], config: ModelConfig) -> bool:
    """Return whether axis 0 is free in every tensor and not configured to be no batch dimension."""
    is_free = all(spec.shape[:1] == (-1,) for spec in (*inputs, *outputs))
    return config.batching.has_rows and is_free and bool(inputs) and bool(outputs)

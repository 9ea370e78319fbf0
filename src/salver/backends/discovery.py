"""Discovery of backends by the entry-point group ``salver.backends``, the built-in ones too.

Finding them imports no framework.
"""

import logging
import stat
from collections.abc import Iterator, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path

from salver.backends.protocol import ArtifactKind, Backend, Recogniser, TouchesMachine
from salver.lazy import installed

GROUP = "salver.backends"
_MOST_KNOWN = 4096
_LOG = logging.getLogger("salver.plugins")


class _Backends(Mapping[str, Backend]):
    """Backends by name. Salver's own are imported when somebody looks at them."""

    def __init__(self, found: dict[str, Backend | EntryPoint]) -> None:
        self._found = found

    def __getitem__(self, name: str) -> Backend:
        backend = self._found[name]
        if isinstance(backend, EntryPoint):
            backend = self._found[name] = _load(backend)
        return backend

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


def _load(entry: EntryPoint) -> Backend:
    kind = entry.load()
    backend: Backend = kind() if isinstance(kind, type) else kind
    return backend


def _is_there(module: str) -> bool:
    """Return whether a module of Salver's is installed, without importing what is above it."""
    place = Path(__file__).parents[1].joinpath(*module.split(".")[1:])
    return place.is_dir() or place.with_suffix(".py").is_file()


def backends() -> Mapping[str, Backend]:
    """Return every backend that can be imported, by name; a broken one is logged and left out.

    One whose class extends that of another of the same name takes its place, if its entry point sorts later.
    An entry point of Salver's own is called as its backend is, or ``NAME.EXTENSION`` if it takes its place.
    """
    found: dict[str, Backend | EntryPoint] = {}
    known = _Backends(found)
    for entry in sorted(installed(GROUP), key=lambda e: e.name):
        try:
            if entry.value.startswith("salver."):
                if not _is_there(entry.module):
                    raise ModuleNotFoundError(f"No module named {entry.module!r}", name=entry.module)
                found[entry.name.partition(".")[0]] = entry
                continue
            backend = _load(entry)
        except Exception as error:
            _LOG.warning("the backend %r of %s cannot be imported: %s", entry.name, entry.value, error)
            continue
        other = known.get(backend.name)
        extends = isinstance(backend, type(other)) and type(backend) is not type(other)
        if other is not None and not extends:
            _LOG.warning("two backends have the name %r; %s is ignored", backend.name, entry.value)
            continue
        found[backend.name] = backend
    return known


def recogniser(found: Mapping[str, Backend]) -> Recogniser:
    """Return a recogniser that asks each backend in turn; the first that knows a path has it.

    A file that has not changed is not read again: repositories are looked at every few seconds.
    """
    known: dict[Path, tuple[tuple[int, ...], ArtifactKind | None]] = {}

    def recognise(path: Path) -> ArtifactKind | None:
        mark = _mark(path)
        before = known.get(path)
        if before is not None and before[0] == mark:
            return before[1]
        kind = _recognised(found, path)
        if mark:
            if len(known) >= _MOST_KNOWN:
                known.clear()
            known[path] = mark, kind
        return kind

    return recognise


def _recognised(found: Mapping[str, Backend], path: Path) -> ArtifactKind | None:
    for backend in found.values():
        form = backend.recognise(path)
        if form is not None:
            return ArtifactKind(backend.name, form)
    return None


def _mark(path: Path) -> tuple[int, ...]:
    """Return what changes with a file's content; empty for folders, whose files change by themselves."""
    try:
        told = path.stat()
    except (OSError, ValueError):
        return ()
    if not stat.S_ISREG(told.st_mode):
        return ()
    return told.st_ino, told.st_size, told.st_mtime_ns, told.st_ctime_ns


def touches_machine(found: Mapping[str, Backend]) -> TouchesMachine:
    """Return a function that tells whether artefacts of a format can touch the machine; unknown ones can."""

    def touches(backend: str, form: str) -> bool:
        known = found.get(backend)
        return known is None or known.traits.touches_machine(form)

    return touches

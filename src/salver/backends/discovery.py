"""Discovery of backends by the entry-point group ``salver.backends``, the built-in ones too.

Finding them imports their modules, never a framework.
"""

import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from salver.backends.protocol import ArtifactKind, Backend, Recogniser, TouchesMachine

GROUP = "salver.backends"
_LOG = logging.getLogger("salver.plugins")


def backends() -> dict[str, Backend]:
    """Return every backend that can be imported, by name; a broken one is logged and left out.

    One whose class extends that of another of the same name takes its place, if its entry point sorts later.
    """
    found: dict[str, Backend] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            kind = entry.load()
            backend: Backend = kind() if isinstance(kind, type) else kind
        except Exception as error:
            _LOG.warning("the backend %r of %s cannot be imported: %s", entry.name, entry.value, error)
            continue
        known = found.get(backend.name)
        extends = isinstance(backend, type(known)) and type(backend) is not type(known)
        if known is not None and not extends:
            _LOG.warning("two backends have the name %r; %s is ignored", backend.name, entry.value)
            continue
        found[backend.name] = backend
    return found


def recogniser(found: Mapping[str, Backend]) -> Recogniser:
    """Return a recogniser that asks each backend in turn; the first that knows a path has it."""

    def recognise(path: Path) -> ArtifactKind | None:
        for backend in found.values():
            form = backend.recognise(path)
            if form is not None:
                return ArtifactKind(backend.name, form)
        return None

    return recognise


def touches_machine(found: Mapping[str, Backend]) -> TouchesMachine:
    """Return a function that tells whether artefacts of a format can touch the machine; unknown ones can."""

    def touches(backend: str, form: str) -> bool:
        known = found.get(backend)
        return known is None or known.traits.touches_machine(form)

    return touches

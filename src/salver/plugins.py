"""Which backends are there?

Built-in ones and those of other packages come by the same road: the entry-point group
``salver.backends``. Finding them imports their modules, never a framework.
"""

import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from salver.backends.protocol import Backend
from salver.repository.ports import Recognise, Recognised

GROUP = "salver.backends"
_LOG = logging.getLogger("salver.plugins")


def backends() -> dict[str, Backend]:
    """Every backend that could be imported, by name; a broken one is logged and left out."""
    found: dict[str, Backend] = {}
    for entry in sorted(entry_points(group=GROUP), key=lambda e: e.name):
        try:
            kind = entry.load()
            backend: Backend = kind() if isinstance(kind, type) else kind
        except Exception as error:
            _LOG.warning("the backend %r of %s cannot be imported: %s", entry.name, entry.value, error)
            continue
        if backend.name in found:
            _LOG.warning("two backends are called %r; %s is left out", backend.name, entry.value)
            continue
        found[backend.name] = backend
    return found


def recogniser(found: Mapping[str, Backend]) -> Recognise:
    """Asks each backend in turn what a path is; the first that knows it has it."""

    def recognise(path: Path) -> Recognised | None:
        for backend in found.values():
            form = backend.recognise(path)
            if form is not None:
                return Recognised(backend.name, form)
        return None

    return recognise

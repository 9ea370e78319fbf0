"""Which backends and which response caches are there?

Built-in ones and those of other packages come by the same road: the entry-point groups
``salver.backends`` and ``salver.response_caches``. Finding them imports their modules, never a framework.
"""

import logging
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path

from salver.backends.protocol import Backend
from salver.features.cache import CacheConfig, ResponseCache
from salver.kernel.repository.ports import Recognise, Recognised, Touches
from salver.words.errors import InvalidInput

GROUP = "salver.backends"
CACHES = "salver.response_caches"
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


def response_cache(config: CacheConfig) -> ResponseCache | None:
    """The cache that the configuration names, opened; None where it names none.

    An entry point is something that makes one of its options (a mapping of texts), and refuses what it
    does not know.

    Raises:
        InvalidInput: there is no such cache, or its options are wrong.
        SalverError: as opening it does.
    """
    if not config.name:
        return None
    entries = {entry.name: entry for entry in entry_points(group=CACHES)}
    if config.name not in entries:
        raise InvalidInput(
            f"there is no response cache {config.name!r}", fix=f"There are: {', '.join(sorted(entries))}."
        )
    cache: ResponseCache = entries[config.name].load()(config.options)
    return cache


def recogniser(found: Mapping[str, Backend]) -> Recognise:
    """Asks each backend in turn what a path is; the first that knows it has it."""

    def recognise(path: Path) -> Recognised | None:
        for backend in found.values():
            form = backend.recognise(path)
            if form is not None:
                return Recognised(backend.name, form)
        return None

    return recognise


def judge(found: Mapping[str, Backend]) -> Touches:
    """Asks the backend of a format whether its artefacts can touch the machine; unknown backends' can."""

    def touches(backend: str, form: str) -> bool:
        known = found.get(backend)
        return known is None or known.traits.touches_machine(form)

    return touches

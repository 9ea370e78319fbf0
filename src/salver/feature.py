"""Contract between a server and a feature: configuration in, parts out.

A feature is a package named in the entry-point group ``salver.features``. Its entry point is a
:class:`Feature`, whose module imports little: the function that builds its parts is named by a string, and
imported only if the configuration uses the feature. Dialects are features that bring a protocol. Salver's own
features are found in the same way.
"""

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any, Final

import msgspec

from salver.lazy import installed
from salver.words.errors import InvalidInput

GROUP: Final = "salver.features"
_LOG = logging.getLogger("salver.features")


def _always(config: object) -> bool:
    return True


class Feature(msgspec.Struct, frozen=True):
    """Description of a feature, read without importing its code.

    Attributes:
        name: Name of its table in ``salver.toml`` and of its entry point.
        build: ``package.module:function``, an async function of a :class:`~salver.parts.Kernel` and the
            configuration that returns :class:`~salver.parts.Parts`.
        config: Frozen record of its table; None = no table.
        table: Name of its table; empty = the name of the feature.
        has_table: Whether ``[server]`` of ``salver.toml`` may hold the table; otherwise only options set it.
        is_used: Decides by the configuration whether the feature is built.
        formats: ``package.module:NAME`` of its :class:`~salver.kernel.repository.Formats`.
        commands: ``package.module:function`` by the name of the command.
        after: Features that are built before it, so that it can use their services.
    """

    name: str
    build: str = ""
    config: type[msgspec.Struct] | None = None
    table: str = ""
    has_table: bool = True
    is_used: Callable[[Any], bool] = _always
    formats: str = ""
    commands: Mapping[str, str] = {}
    after: Sequence[str] = ()


def load(reference: str) -> Any:
    """Import the object that ``package.module:name`` names.

    Raises:
        InvalidInput: the module or the name does not exist.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"there is no {reference!r}: {error}", field="salver.features") from error


def discover(entries: Iterable[EntryPoint] | None = None) -> tuple[Feature, ...]:
    """Return all installed features, each after those that it names in ``after``.

    A feature that cannot be imported is logged and left out: the server runs without it.

    Args:
        entries: Entry points of the group; None = of all installed packages.
    """
    found: dict[str, Feature] = {}
    for entry in sorted(installed(GROUP) if entries is None else entries, key=lambda e: e.name):
        try:
            feature = entry.load()
        except Exception as error:
            _LOG.warning("the feature %r of %s cannot be imported: %s", entry.name, entry.value, error)
            continue
        if not isinstance(feature, Feature):
            _LOG.warning("the entry point %r of %s is no salver.feature.Feature", entry.name, entry.value)
        elif feature.name in found:
            _LOG.warning("two features are called %r; %s is left out", feature.name, entry.value)
        else:
            found[feature.name] = feature
    return _ordered(found)


def _ordered(features: Mapping[str, Feature]) -> tuple[Feature, ...]:
    """Sort features topologically, depth first; a cycle is broken where it closes."""
    out: dict[str, Feature] = {}
    entered: set[str] = set()

    def visit(feature: Feature) -> None:
        if feature.name in entered:
            return
        entered.add(feature.name)
        for name in feature.after:
            if name in features:
                visit(features[name])
        out[feature.name] = feature

    for feature in features.values():
        visit(feature)
    return tuple(out.values())

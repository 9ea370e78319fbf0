"""Contract between a server and a feature: configuration in, parts out.

A feature is a package that the entry-point group ``salver.features`` names. Its entry point is a
:class:`Feature`, whose
module imports little: the function that builds its parts is named by a string, and imported only where the
configuration uses the feature. Salver's own features come by the same road.
"""

import importlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final, TypeVar

import msgspec
from prometheus_client.registry import Collector

from salver.kernel.lifecycle.manager import Manager
from salver.kernel.serving.control import ServerControl
from salver.kernel.serving.controlplane import ControlPlane
from salver.kernel.serving.inner import Inner
from salver.kernel.serving.ports import Observer
from salver.kernel.serving.servable import Servable
from salver.transport.operations import Operation
from salver.transport.pages import Pages
from salver.words.errors import InvalidInput

GROUP: Final = "salver.features"
_LOG = logging.getLogger("salver.features")
_Service = TypeVar("_Service")


async def _nothing() -> None:
    pass


def _always(config: object) -> bool:
    return True


class Tick(msgspec.Struct, frozen=True):
    """Work that is done again and again while the server runs.

    Attributes:
        seconds: Between the end of one call and the begin of the next.
        run: Does it; an exception is logged, and the next call comes all the same.
    """

    name: str
    seconds: float
    run: Callable[[], Awaitable[None]]


class Parts(msgspec.Struct, frozen=True):
    """What a feature adds to one server.

    Attributes:
        observers: Hear of every event, off the request's path.
        collectors: Numbers for the metrics page.
        operations: Of the management interface, below ``/api/v1``; the description follows by itself.
        pages: Static files for browsers, each set below its own root.
        ticks: Periodic work, from the end of ``start`` to the begin of ``stop``.
        start: Called when the kernel is there, before the first model loads; features in their order.
        stop: Called when the last request is answered; features in the opposite order.
    """

    observers: Sequence[Observer] = ()
    collectors: Sequence[Collector] = ()
    operations: Sequence[Operation] = ()
    pages: Sequence[Pages] = ()
    ticks: Sequence[Tick] = ()
    start: Callable[[], Awaitable[None]] = _nothing
    stop: Callable[[], Awaitable[None]] = _nothing


class Services:
    """Services that features offer to those above them, by the type that a caller states in its
    ``ports.py``.
    """

    def __init__(self) -> None:
        self._by_type: dict[type, object] = {}

    def __repr__(self) -> str:
        return f"<Services {', '.join(sorted(kind.__name__ for kind in self._by_type))}>"

    def offer(self, kind: type[_Service], service: _Service) -> None:
        """Offer a service to the features that are built later.

        Raises:
            ValueError: another one of this type is offered already.
        """
        if kind in self._by_type:
            raise ValueError(f"two services of type {kind.__name__}")
        self._by_type[kind] = service

    def find(self, kind: type[_Service]) -> _Service | None:
        """Return the service of this type; None where no feature offers it."""
        return self._by_type.get(kind)  # type: ignore[return-value]  # offer() keeps the types together


class Kernel:
    """What a feature may use of the server that it is built into.

    Args:
        clock: Monotonic seconds.
        new_id: Makes ids of 16 hexadecimal digits.
        version: Of Salver.

    Attributes:
        services: Of the features that were built before.
        models: Hands out leases on loaded versions; there from ``start`` on, as all below.
        plane: Loads and unloads models as its repositories and requests say.
        control: What transports see and change of what is served.
        inner: Asks the server's own models.
    """

    models: Manager[Servable]
    plane: ControlPlane
    control: ServerControl
    inner: Inner

    def __init__(self, clock: Callable[[], float], new_id: Callable[[], str], version: str) -> None:
        self.clock = clock
        self.new_id = new_id
        self.version = version
        self.services = Services()

    def __repr__(self) -> str:
        return f"<Kernel {self.services!r}>"


class Feature(msgspec.Struct, frozen=True):
    """What Salver has to know of a feature before it is used.

    Attributes:
        name: Of its table in ``salver.toml``, and of its entry point.
        build: ``package.module:function``: an async function of a :class:`Kernel` and the configuration that
            returns :class:`Parts`.
        config: Frozen record of its table; None = it has none.
        is_used: Tells by its configuration whether it is built.
        commands: ``package.module:function`` by the name of the command.
        after: Features that are built before it, so that it can use their services.
    """

    name: str
    build: str = ""
    config: type[msgspec.Struct] | None = None
    is_used: Callable[[Any], bool] = _always
    commands: Mapping[str, str] = {}
    after: Sequence[str] = ()


async def build(
    features: Iterable[Feature],
    kernel: Kernel,
    table: Callable[[str, type[msgspec.Struct]], msgspec.Struct],
) -> list[Parts]:
    """Build every feature that the configuration uses, in the order given.

    Args:
        table: Returns a feature's table of the server's configuration as its record.
    """
    built = []
    for feature in features:
        config = table(feature.name, feature.config) if feature.config else None
        if feature.build and feature.is_used(config):
            built.append(await load(feature.build)(kernel, config))
    return built


def load(reference: str) -> Any:
    """Import what ``package.module:name`` names.

    Raises:
        InvalidInput: it is not there.
    """
    module, _, name = reference.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InvalidInput(f"there is no {reference!r}: {error}", field="salver.features") from error


def discover(entries: Iterable[EntryPoint] | None = None) -> tuple[Feature, ...]:
    """Return every feature that is installed, each after those that it names in ``after``.

    One that cannot be imported is logged and left out: the server serves without it.

    Args:
        entries: Those of the group; None = of all installed packages.
    """
    found: dict[str, Feature] = {}
    for entry in sorted(entry_points(group=GROUP) if entries is None else entries, key=lambda e: e.name):
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
    """Depth first: what a feature names comes before it. A cycle is broken where it closes."""
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

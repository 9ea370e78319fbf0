"""What a feature gets from a server, and what it adds to it.

:mod:`salver.feature` says how features are found; their ``building`` modules use what is here.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from salver.backends.protocol import Recogniser, TouchesMachine
from salver.configuration import ServeConfig
from salver.feature import Feature, discover, load
from salver.kernel.lifecycle.manager import Manager
from salver.kernel.repository import Formats
from salver.kernel.serving.bus import Bus
from salver.kernel.serving.control import ServerControl
from salver.kernel.serving.controlplane import Changes, ControlPlane
from salver.kernel.serving.dataplane import DataPlane
from salver.kernel.serving.fetching import Loads
from salver.kernel.serving.loading import Additions, Terms
from salver.kernel.serving.ports import Observer
from salver.kernel.serving.servable import Servable
from salver.kernel.serving.stages import Stage
from salver.kernel.serving.state import ServerState
from salver.lazy import lazy_imports
from salver.transport.access_check import Access, Caller, Changing
from salver.transport.calls import RequestContext
from salver.transport.doors import App, Kind
from salver.transport.ports import NO_EXPOSITION, Exposition
from salver.transport.routes import HttpTable
from salver.transport.server import ExactPorts, FrontConfig
from salver.words.artifacts import Manifest
from salver.words.errors import InvalidInput, Unsupported

with lazy_imports():
    from prometheus_client.registry import Collector

    from salver.kernel.serving.inner import Inner
    from salver.kernel.serving.model_callbacks import ModelCallbacks
    from salver.transport.grpc_table import GrpcTable
    from salver.transport.operations import Operation
    from salver.transport.pages import Site


_LOG = logging.getLogger("salver.features")
_Service = TypeVar("_Service")


async def _nothing() -> None:
    pass


class Tick(msgspec.Struct, frozen=True):
    """Work that is done again and again while the server runs.

    Attributes:
        seconds: Between the end of one call and the begin of the next.
        run: Does it; an exception is logged, and the next call comes all the same.
    """

    name: str
    seconds: float
    run: Callable[[], Awaitable[None]]


class PortView:
    """How ports show themselves: a feature overrides what it changes."""

    #: Bytes of the largest request body that a route of this feature takes; 0 = as everybody's.
    max_request = 0

    def access(self, config: FrontConfig) -> Access | None:
        """Return who may change something at a port that is the feature's own; None = it is not."""
        return None

    def closed(self, kind: Kind) -> frozenset[str]:
        """Return paths of gRPC methods that a port of that kind does not have."""
        return frozenset()

    def shown(self, app: App, config: FrontConfig) -> App:
        """Return the application with the feature's own routes, behind the checks of other origins."""
        return app

    def enclosed(self, app: App, config: FrontConfig, access: Access) -> App:
        """Return what a port serves in front of everything else; the first feature's is outermost."""
        return app

    def changing(self, config: FrontConfig) -> Changing | None:
        """Return who may change something there, for the start-up report; None = as the access says."""
        return None

    def exact(self) -> ExactPorts | None:
        """Return the ports that have a server of their own; None = there are none."""
        return None


class MetricsPage(Protocol):
    """The page that collectors are shown on (features/telemetry)."""

    def join(self, more: Collector) -> None:
        """Show the numbers of a collector, too."""
        ...

    def add_view(self, view: Any) -> None:
        """Show what is counted under another server's names (features/telemetry/ports.py: MetricsView)."""
        ...

    def add_rewrite(self, rewrite: Callable[[bytes], bytes]) -> None:
        """Change the page with this function, where it is OpenMetrics."""
        ...


class Parts(msgspec.Struct, frozen=True):
    """What a feature adds to one server.

    Attributes:
        observers: Hear of every event, off the request's path.
        collectors: Numbers for the metrics page.
        http, grpc: Operations and methods of a protocol. Of several tables that know a path, the first lays
            out its errors; features come in their order.
        operations: Of the management interface, below ``/api/v1``; the description follows by itself.
        pages: Static files for browsers, each set below its own root.
        ports: Changes what ports show.
        additions: To the loading of models.
        wrap_loader: Puts something in front of the loader of versions.
        checks: Called with each version before it is loaded; they raise LoadFailed.
        stage: A place on the path of every request; one feature has it.
        changes: To the list of models that the repository gives; one feature has them.
        ticks: Periodic work, from the end of ``start`` to the begin of ``stop``.
        prepare: Called before the first look at the models; features in their order.
        start: Called after it.
        look: Looks again at what the operator may have changed (SIGHUP).
        leave: Called when the server is told to stop, before it stops listening.
        stop: Called when the last request is answered; features in the opposite order.
        close: Called when the models are gone.
        is_well: Tells whether nothing of the feature failed at the start.
    """

    observers: Sequence[Observer] = ()
    collectors: Sequence[Collector] = ()
    http: Sequence[HttpTable] = ()
    grpc: Sequence[GrpcTable] = ()
    operations: Sequence[Operation] = ()
    pages: Sequence[Site] = ()
    ports: PortView | None = None
    additions: Additions | None = None
    wrap_loader: Callable[[Loads], Loads] | None = None
    checks: Sequence[Callable[[Manifest], None]] = ()
    stage: Stage | None = None
    changes: Changes | None = None
    ticks: Sequence[Tick] = ()
    prepare: Callable[[], Awaitable[None]] = _nothing
    start: Callable[[], Awaitable[None]] = _nothing
    look: Callable[[], Awaitable[None]] = _nothing
    leave: Callable[[], Awaitable[None]] = _nothing
    stop: Callable[[], Awaitable[None]] = _nothing
    close: Callable[[], Awaitable[None]] = _nothing
    is_well: Callable[[], bool] = lambda: True


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

    def need(self, kind: type[_Service]) -> _Service:
        """Return the service of this type.

        Raises:
            Unsupported: no feature offers it.
        """
        found = self.find(kind)
        if found is None:
            raise Unsupported(f"this server has no feature that offers {kind.__name__}")
        return found

    def find(self, kind: type[_Service]) -> _Service | None:
        """Return the service of this type; None where no feature offers it."""
        return self._by_type.get(kind)  # type: ignore[return-value]  # offer() keeps the types together


class Kernel(msgspec.Struct, eq=False):
    """The server that a feature is built into. Nothing of it runs while features are built.

    Attributes:
        clock: Monotonic seconds.
        new_id: Makes ids of 16 hexadecimal digits.
        version: Of Salver.
        bus: Takes events.
        terms: Limits and defaults of all models.
        callbacks: Answers what models ask of the server.
        models: Hands out leases on loaded versions.
        plane: Loads and unloads models as its repositories and requests say.
        control: What transports see and change of what is served.
        state: What is loaded, and how busy it is.
        inner: Asks the server's own models.
        door: The path of requests.
        context: What every request is received with.
        services: Of the features that were built before.
        parts: Of the features that were built before.
        token: Digest of the management interface's token; empty = there is none.
        caller: Finds out who makes a change; None = the management interface's token decides.
    """

    config: ServeConfig
    clock: Callable[[], float]
    new_id: Callable[[], str]
    version: str
    bus: Bus
    terms: Terms
    callbacks: ModelCallbacks
    models: Manager[Servable]
    plane: ControlPlane
    control: ServerControl
    state: ServerState
    inner: Inner
    door: DataPlane[Any, Any]
    context: RequestContext
    services: Services = msgspec.field(default_factory=Services)
    parts: list[Parts] = msgspec.field(default_factory=list)
    token: bytes = b""
    caller: Callable[[str], Awaitable[Caller]] | None = None

    @property
    def exposition(self) -> Exposition:
        """What telemetry has counted; nothing where that feature is missing."""
        return self.services.find(Exposition) or NO_EXPOSITION

    @property
    def ports(self) -> list[PortView]:
        """How the features change what ports show, in their order."""
        return [part.ports for part in self.parts if part.ports is not None]


async def build(features: Iterable[Feature], kernel: Kernel) -> None:
    """Build every feature that the configuration uses, in the order given, into ``kernel.parts``."""
    for feature in features:
        config = kernel.config.table(feature.name, feature.config) if feature.config else None
        if feature.build and feature.is_used(config):
            try:
                builder = load(feature.build)
            except InvalidInput as error:
                _LOG.warning("the feature %r is left out: %s", feature.name, error)
                continue
            kernel.parts.append(await builder(kernel, config))


def formats(recognise: Recogniser, touches_machine: TouchesMachine | None = None) -> Formats:
    """Return the formats of files that the features bring, for every reader of a repository.

    Args:
        recognise: Tells the formats of artefacts apart.
        touches_machine: Tells which formats requests may bring; None = none.
    """
    found = Formats(recognise) if touches_machine is None else Formats(recognise, touches_machine)
    for feature in discover():
        if feature.formats:
            with contextlib.suppress(InvalidInput):  # its server's own warning says so
                found = found.joined(load(feature.formats))
    return found

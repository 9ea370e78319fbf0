"""Kernel that a feature is built into, and the parts that a feature adds to a server.

:mod:`salver.feature` describes how features are found; their ``building`` modules use these records.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from salver.backends.protocol import Recogniser, TouchesMachine
from salver.configuration import ServeConfig
from salver.feature import Feature, discover, load
from salver.kernel.lifecycle.manager import Manager
from salver.kernel.lifecycle.ports import Residence
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
from salver.transport.access_check import Access, Caller, CallerKeys, Changing
from salver.transport.calls import RequestContext
from salver.transport.doors import App, Kind
from salver.transport.ports import NO_EXPOSITION, Exposition
from salver.transport.routes import HttpTable
from salver.transport.server import ExactPorts, FrontConfig
from salver.transport.terms import PeerFacts
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


async def _ignore(ports: Sequence[int]) -> None:
    pass


def _unchanged(apps: Sequence[App]) -> Sequence[App]:
    return apps


class Tick(msgspec.Struct, frozen=True):
    """Periodic work of a running server.

    Attributes:
        seconds: Pause between the end of one call and the start of the next.
        run: Function to call; an exception is logged and does not stop the following calls.
    """

    name: str
    seconds: float
    run: Callable[[], Awaitable[None]]


class PortView:
    """Changes of a feature to what ports serve; subclasses override the methods that they need."""

    #: Bytes of the largest request body of this feature's routes; 0 = the server's limit.
    max_request = 0

    def access(self, config: FrontConfig) -> Access | None:
        """Return the access checks of a port that belongs to the feature; None = it does not."""
        return None

    def closed(self, kind: Kind) -> frozenset[str]:
        """Return the paths of gRPC methods that ports of a kind do not offer."""
        return frozenset()

    def shown(self, app: App, config: FrontConfig) -> App:
        """Return the application with the feature's own routes, behind the origin checks."""
        return app

    def enclosed(self, app: App, config: FrontConfig, access: Access) -> App:
        """Wrap the whole application of a port; the first feature's wrapper is the outermost."""
        return app

    def changing(self, config: FrontConfig) -> Changing | None:
        """Return who may change something at a port, for the start-up report; None = by its access checks."""
        return None

    def exact(self) -> ExactPorts | None:
        """Return the feature's ports that read whole bodies first; None = there are none."""
        return None


class MetricsPage(Protocol):
    """Metrics page (features/telemetry)."""

    def join(self, more: Collector) -> None:
        """Add the metrics of a collector."""
        ...

    def add_view(self, view: Any) -> None:
        """Add a view with another server's metric names (features/telemetry/ports.py: MetricsView)."""
        ...

    def add_rewrite(self, rewrite: Callable[[bytes], bytes]) -> None:
        """Add a function that rewrites the page in OpenMetrics form."""
        ...


class ServerPlace(msgspec.Struct, frozen=True):
    """Server that others can ask.

    Attributes:
        zone: Where it is; empty = it does not say.
    """

    url: str
    zone: str = ""


class ServerList(Protocol):
    """Servers that have announced themselves in this server's ledger (features/registry)."""

    async def serving(self, model: str) -> Sequence[ServerPlace]:
        """Return the servers that run a model. Raises SalverError if the ledger cannot be read."""
        ...


class Parts(msgspec.Struct, frozen=True):
    """Parts that a feature adds to one server.

    Attributes:
        observers: Receivers of every event, off the request's path.
        collectors: Collectors for the metrics page.
        http, grpc: Operations and methods of a protocol. If several tables have a path, the first one formats
            its errors, in the order of the features.
        operations: Operations of the management interface, below ``/api/v1``; its description includes them.
        pages: Static files for browsers, each set below its own root.
        ports: Changes to what ports serve.
        additions: Extensions of the loader.
        wrap_loader: Wraps the loader of versions.
        checks: Called with each version before it is loaded; they raise LoadFailed.
        stage: Stage on the path of every request; one feature at most has one.
        changes: Changes to the list of models from the repository; one feature at most has them.
        residence: Decides which wanted versions are in memory; one feature at most does.
        enclose: Wraps the applications of all ports, outside everything else; in the order of their
            configurations.
        opened: Called with the ports when they accept connections.
        optional: Work that may be left out under load, by name; each is called with False to stop it, and
            with True to do it again.
        ticks: Periodic work, from the end of ``start`` to the beginning of ``stop``.
        prepare: Called before the first scan of the models, in the order of the features.
        start: Called after the first scan.
        look: Reads again what the operator may have changed (SIGHUP).
        leave: Called when the server is told to stop, before it stops listening.
        parted: Called when the server accepts no more connections, while earlier requests are answered.
        stop: Called after the last request is answered, in reverse order of the features.
        close: Called after the models are unloaded.
        is_well: Returns whether nothing of the feature failed at the start.
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
    residence: Residence | None = None
    enclose: Callable[[Sequence[App]], Sequence[App]] = _unchanged
    opened: Callable[[Sequence[int]], Awaitable[None]] = _ignore
    optional: Mapping[str, Callable[[bool], None]] = {}
    ticks: Sequence[Tick] = ()
    prepare: Callable[[], Awaitable[None]] = _nothing
    start: Callable[[], Awaitable[None]] = _nothing
    look: Callable[[], Awaitable[None]] = _nothing
    leave: Callable[[], Awaitable[None]] = _nothing
    parted: Callable[[], Awaitable[None]] = _nothing
    stop: Callable[[], Awaitable[None]] = _nothing
    close: Callable[[], Awaitable[None]] = _nothing
    is_well: Callable[[], bool] = lambda: True


class Services:
    """Services that features offer to later features, by the protocol in the caller's ``ports.py``."""

    def __init__(self) -> None:
        self._by_type: dict[type, object] = {}

    def __repr__(self) -> str:
        return f"<Services {', '.join(sorted(kind.__name__ for kind in self._by_type))}>"

    def offer(self, kind: type[_Service], service: _Service) -> None:
        """Offer a service to the features that are built later.

        Raises:
            ValueError: a service of this type is already offered.
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
        """Return the service of this type; None = no feature offers it."""
        return self._by_type.get(kind)  # type: ignore[return-value]  # offer() keeps the types together


class Kernel(msgspec.Struct, eq=False):
    """Kernel of the server that a feature is built into. Nothing runs while features are built.

    Attributes:
        clock: Monotonic seconds.
        new_id: Makes ids of 16 hexadecimal digits.
        version: Version of Salver.
        bus: Event bus.
        terms: Limits and defaults of all models.
        callbacks: Answers the calls of models to the server.
        models: Lifecycle manager, which gives leases on loaded versions.
        plane: Control plane.
        control: Facade of control plane and lifecycle for transports.
        state: Loaded versions and their load.
        inner: Client of the server's own models.
        door: Data plane.
        context: Settings and collaborators shared by all requests.
        services: Services of the features built before.
        parts: Parts of the features built before.
        token: Digest of the management interface's token; empty = no token.
        caller: Identifies the caller of a change; None = the management interface's token decides.
        keys: Keys that every request needs; None = there are none.
        peers: Tells about the other end of a connection; None = nothing is told.
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
    keys: CallerKeys | None = None
    peers: PeerFacts | None = None

    @property
    def exposition(self) -> Exposition:
        """Exposition of telemetry; an empty one without that feature."""
        return self.services.find(Exposition) or NO_EXPOSITION

    @property
    def ports(self) -> list[PortView]:
        """Changes of the features to what ports serve, in order."""
        return [part.ports for part in self.parts if part.ports is not None]


async def build(features: Iterable[Feature], kernel: Kernel) -> None:
    """Build every feature that the configuration uses, in the order given, into ``kernel.parts``.

    Raises:
        InvalidInput: a feature that the configuration asks for cannot be imported; others are left out.
    """
    for feature in features:
        config, table = None, feature.table or feature.name
        if feature.config:
            config = kernel.config.table(table, feature.config)
        if feature.build and feature.is_used(config):
            try:
                builder = load(feature.build)
            except InvalidInput as error:
                if table in kernel.config.tables:
                    raise
                _LOG.warning("the feature %r is left out: %s", feature.name, error)
                continue
            kernel.parts.append(await builder(kernel, config))


def formats(recognise: Recogniser, touches_machine: TouchesMachine | None = None) -> Formats:
    """Return the formats of files that the features bring, for every reader of a repository.

    Args:
        recognise: Recognises the formats of artefacts.
        touches_machine: Returns whether a format can touch the machine, and requests may not bring it; None =
            every format can.
    """
    found = Formats(recognise) if touches_machine is None else Formats(recognise, touches_machine)
    for feature in discover():
        if feature.formats:
            with contextlib.suppress(InvalidInput):  # the server has logged a warning
                found = found.joined(load(feature.formats))
    return found
